import importlib.util

import pytest
from conftest import ROOT, picture, shop_rows, write_shop

from training import embed, index


@pytest.fixture
def app(monkeypatch):
    """The Space's module; gradio must not phone home."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    spec = importlib.util.spec_from_file_location("space_app", ROOT / "space" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_answers_a_query(app, model, processor, shop, tmp_path):
    from gradio_client import Client

    model.save_pretrained(tmp_path / "run" / "model")
    processor.save_pretrained(tmp_path / "run" / "model")
    embed.main(embed.EmbedArguments(str(tmp_path / "run/model"), str(shop), "test", str(tmp_path / "vectors")))
    index.main(index.IndexArguments(str(tmp_path / "vectors"), str(tmp_path / "run/index")))
    page = app.build(app.Shop(tmp_path / "run", str(shop), "test"))
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False)
        pictures, shares = client.predict("red mug", 4, api_name="/search")
        assert len(pictures) == 4 and all("plain" in item["caption"] for item in pictures)
        assert "weighs text" in shares and "lexical" in shares
        with pytest.raises(Exception, match="Type what you are looking for"):
            client.predict("  ", 4, api_name="/search")
    finally:
        page.close()
    corpus, queries, qrels = shop_rows()
    corpus[0]["image"] = {"bytes": picture("yellow"), "path": "mug-red.png"}
    write_shop(shop, corpus, queries, qrels)
    again = app.Shop(tmp_path / "run", str(shop), "test").picture("mug-red")
    assert again.getpixel((0, 0)) == (255, 255, 0), "a catalogue that was written again shows its old pictures"
