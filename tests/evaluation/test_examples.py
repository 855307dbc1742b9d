import re

import numpy as np
import pytest
from helpers import picture, shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import evaluate
from training.catalogue.layout import load_split
from training.evaluation.examples import gains_of_fusion, write_examples
from training.evaluation.options import EvaluateArguments


def test_the_page_shows_wins_before_losses_and_text_as_text(tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus[0]["title"] = "<script>alert('mug')</script>"
    corpus[1]["image"], corpus[2]["image"] = None, {"bytes": picture()[:50], "path": "torn.png"}
    queries[0]["text"] = "<b>red</b> mug"
    split = load_split(write_shop(tmp_path / "shop", corpus, queries, qrels), "test")
    values = {"fused": np.full(12, 0.5), "text": np.full(12, 0.5), "image": np.zeros(12)}
    values["fused"][[0, 3]], values["text"][5] = [1.0, 0.2], 1.0
    assert gains_of_fusion(values)[[0, 3, 5]].tolist() == pytest.approx([0.5, -0.3, -0.5])
    rankings = {view: [np.arange(12)] * 12 for view in values}
    shares = {"text": np.full(12, 0.75), "image": np.full(12, 0.25)}
    write_examples(tmp_path / "page.html", split, values, rankings, shares, "ours & theirs", results=3)
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["&lt;b&gt;red&lt;/b&gt; mug", "blue shirt", "red shirt"]
    assert "<script>" not in page and "ours &amp; theirs" in page and "http" not in page
    assert "better than either single view for 1, worse than the better one for 2" in page
    assert "width:75.0%" in page and "text 75%" in page and page.count("class='relevant'") == 3
    assert page.count("no picture") == page.count("unreadable") == 9 and "data:image/jpeg;base64," in page


def test_the_page_of_harm_shows_what_text_alone_finds_better(tmp_path):
    split = load_split(write_shop(tmp_path / "shop"), "test")
    values = {"fused": np.full(12, 0.5), "text": np.full(12, 0.5), "image": np.ones(12)}
    values["text"][[3, 5, 7]] = [0.9, 0.6, 0.1]
    rankings = {view: [np.arange(12)] * 12 for view in values}
    page = tmp_path / "page.html"
    for count, shown in ((2, ["red shirt", "blue shirt"]), (1, ["red shirt"])):
        write_examples(page, split, values, rankings, {"text": np.ones(12)}, "ours", by="harm", queries=count)
        assert re.findall(r"<h3>(.*?)</h3>", page.read_text()) == shown
    assert "Fusion harms most" in page.read_text() and "wins" not in page.read_text()
    assert "12 queries: fused is worse than text for 2, better for 1" in page.read_text()


def test_examples_come_with_an_evaluation(model, processor, shop, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    file = tmp_path / "examples.html"
    evaluate.main(EvaluateArguments(str(tmp_path / "model"), str(shop), examples=str(file)))
    assert "lexical" in file.read_text() or "is better" in file.read_text()
    options = {"examples": str(file), "examples_by": "harm", "examples_count": 40}
    evaluate.main(EvaluateArguments(str(tmp_path / "model"), str(shop), **options))
    assert "Fusion harms most" in file.read_text()
    with pytest.raises(DataError, match="--examples compares the fused view with others"):
        evaluate.main(EvaluateArguments("bm25", str(shop), views=["bm25"], examples=str(file)))
