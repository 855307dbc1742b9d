"""The Space's endpoints, through `gradio_client` and a running server with a tiny model."""

import io
import json
import os
import re
import stat
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import app
import markup
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import start
import torch
from batching import Batched
from catalogue import Filters, ShopEncoder, VisitorError
from gradio_client import Client, handle_file
from helpers import ROOT, picture, write_shop
from page import Page
from PIL import Image
from prices import numbers_of_prices
from reasons import Example
from space_shop import HOSTILE_TITLE, make_zip, space_rows
from tradeoff import stored
from upload import Upload, read_upload

from training.catalogue.layout import load_split
from training.catalogue.writing import write_card, write_split
from training.evaluation.measuring import evaluate
from training.evaluation.measuring import quantize as evaluated_as
from training.features import encoder as trained


@pytest.fixture(scope="module")
def client(url):
    """A program."""
    return Client(url, verbose=False)


def ids(answer: dict) -> list[str]:
    return [result["id"] for result in answer["results"]]


# Endpoints -----------------------------------------------------------------------------------------------------------


def test_search_gives_what_the_model_ranks_first(client, shop):
    answer = client.predict(query="red mug", k=5, api_name="/search")
    encoder = shop.encoder
    products = encoder.products([shop.product_inputs(row) for row in range(len(shop))])["fused"]
    scores = products @ encoder.texts(["red mug"])[0]
    assert ids(answer) == [shop.products[row]["_id"] for row in np.argsort(-scores)[:5]]
    first = answer["results"][0]
    assert (
        first["score"] == pytest.approx(scores.max(), abs=1e-5) == pytest.approx(sum(first["contributions"].values()))
    )
    assert sum(answer["query_weights"].values()) == pytest.approx(1) and answer["encode_ms"] >= 0


def test_compare_measures_as_the_evaluation_does(client, shop, folders):
    split, model, processor = load_split(folders / "shop", "test"), shop.encoder.model, shop.encoder.processor
    products, queries = (
        trained.Encoder(model, processor).product_states(split),
        trained.Encoder(model, processor).query_states(split.query_texts),
    )
    values = evaluate(model, split, products, queries, metrics=("ndcg@10",))
    for row, query in enumerate(split.queries):
        answer = client.predict(query=f" {query['text']}  ", k=3, api_name="/compare")
        found = {view: of["ndcg@10"] for view, of in answer["views"].items()}
        assert found == pytest.approx({view: of["ndcg@10"][row] for view, of in values.items()}, abs=1e-6)
    page = Page(app.Endpoints(shop))
    assert page.means == pytest.approx({view: of["ndcg@10"].mean() for view, of in values.items()})
    assert {example.text for example in page.examples} <= set(split.query_texts)
    assert client.predict(query="no judged query", api_name="/compare")["views"]["fused"]["ndcg@10"] is None


def test_filters(client):
    def found(**filters):
        return client.predict(query="red mug", k=50, api_name="/search", **filters)["results"]

    assert len(found()) == 12
    assert {result["brand"] for result in found(brands=["blue"])} == {"blue"}
    assert {result["category"] for result in found(categories=["shirt", "lamp"])} == {"shirt", "lamp"}
    assert {result["price"] for result in found(price_from=3, price_to=5)} == {"3.50", "4.50"}
    assert len(found(price_from=0, price_to=1000)) == 12, "bounds that no price crosses filter nothing"
    assert [result["id"] for result in found(presence="without picture")] == ["mug-green"]
    assert "mug-green" not in {result["id"] for result in found(presence="with picture")}
    for filters, words in (
        ({"brands": ["../etc"]}, "No product has the brand"),
        ({"price_from": 1000}, "No product passes"),
        ({"presence": "perhaps"}, "picture filter is one of"),
        ({"view": "sound"}, "view is one of"),
        ({"where": "elsewhere"}, "Search in one of"),
    ):
        with pytest.raises(Exception, match=words):
            found(**filters)


def test_a_picture_is_a_query_and_so_are_both(client, shop, tmp_path):
    (tmp_path / "lamp.png").write_bytes(shop.picture(7))
    image = handle_file(str(tmp_path / "lamp.png"))
    alone = client.predict(picture=image, view="image", k=1, api_name="/search")
    assert alone["results"][0]["score"] == pytest.approx(1, abs=0.02), "the picture of a product finds this product"
    both = client.predict(query="red", picture=image, picture_weight=0.25, k=1, api_name="/search")
    words = client.predict(query="red", k=1, api_name="/search")
    assert both["query_weights"] != words["query_weights"] != alone["query_weights"]


def test_similar_leaves_the_product_out_and_mixes_as_the_model_does(client, shop):
    similar = client.predict(product_id="lamp-red", k=50, api_name="/similar")
    assert len(ids(similar)) == 11 and "lamp-red" not in ids(similar)
    text, row = "green bowl", shop.row("lamp-red")
    mixed = client.predict(product_id="lamp-red", text=text, k=50, weight=0.3, api_name="/similar")
    model, encoder = shop.encoder.model, shop.encoder
    with torch.no_grad():
        vector = model.get_query_features(**encoder.inputs(text, shop.picture(row), 0.3)).pooler_output[0].numpy()
    scores = {
        shop.products[other]["_id"]: shop.vectors["fused"][other] @ vector for other in range(12) if other != row
    }
    assert ids(mixed) == sorted(scores, key=lambda name: -scores[name])
    with pytest.raises(Exception, match="no product with the id '../../etc/passwd'"):
        client.predict(product_id="../../etc/passwd", api_name="/similar")


def test_explain_agrees_with_the_model(client, shop):
    answer = client.predict(query="red shirt", product_id="shirt-blue", api_name="/explain")
    encoder, row = shop.encoder, shop.row("shirt-blue")
    inputs = dict(encoder.processor.process_products([shop.product_inputs(row)]))
    expected = encoder.model.explain(dict(encoder.processor.process_queries(["red shirt"])), inputs)
    assert list(answer["contributions"].values()) == pytest.approx(expected.contributions[0].tolist(), abs=1e-5)
    assert list(answer["query_weights"].values()) == pytest.approx(expected.query_weights.tolist(), abs=1e-5)
    assert np.abs(np.array(answer["picture_map"]) - expected.image_maps[0, 0].numpy()).max() < 1e-3
    assert client.predict(query="red", product_id="mug-green", api_name="/explain")["picture_map"] is None


def test_tradeoff_stores_vectors_as_the_model_and_the_evaluation_do(client, shop):
    full = client.predict(api_name="/tradeoff")
    assert full["overlap"] == 1 and full["bytes_per_product"] == 4 * full["dim"]
    assert full["ndcg"] == pytest.approx(shop.judged_values()["fused"].mean(), abs=1e-6)
    half = full["dim"] // 2
    signs = client.predict(storage="b1", dim=half, api_name="/tradeoff")
    assert signs["bytes_per_product"] == -(-half // 8) and signs["overlap"] < 1
    encoder, vectors = shop.encoder, shop.vectors["fused"]
    encoder.model.config.truncate_dim = half
    shorter = encoder.products([shop.product_inputs(row) for row in range(12)])["fused"]
    encoder.model.config.truncate_dim = None
    assert np.abs(encoder.truncated(vectors, half) - shorter).max() < 1e-5
    assert np.allclose(stored(vectors, "i8") / 127, evaluated_as(vectors, "i8"))
    with pytest.raises(Exception, match="Choose one of f32"):
        client.predict(storage="f8", api_name="/tradeoff")
    with pytest.raises(Exception, match="Choose one of f32"):
        client.predict(dim=100_000, api_name="/tradeoff")


def test_what_a_visitor_uploads_is_theirs_alone_and_leaves_no_file(url, folders, tmp_path):
    table = "SKU;Name;Brand;Price;Photo\n a1;Red lamp;Ours;=1+1;pictures/lamp.png\na2;Blue bowl;Ours;5;gone.png\n\n"
    file = make_zip(tmp_path / "mine.zip", {"list.csv": table, "pictures/lamp.png": picture("red")})
    visitor, other = Client(url, verbose=False), Client(url, verbose=False)
    report = visitor.predict(file=handle_file(file), api_name="/upload")
    assert (report["products"], report["with_picture"]) == (2, 1)
    assert report["problems"] == ["picture not found in the ZIP"]
    found = visitor.predict(query="lamp", where="yours", api_name="/search")["results"]
    assert {result["id"]: result["price"] for result in found} == {"a1": "=1+1", "a2": "5"}
    assert visitor.predict(product_id="a1", where="yours", api_name="/similar")["results"][0]["id"] == "a2"
    assert visitor.predict(query="lamp", product_id="a1", where="yours", api_name="/explain")["picture_map"]
    with pytest.raises(Exception, match="uploaded no products yet"):
        other.predict(query="lamp", where="yours", api_name="/search")
    assert not list(folders.glob("uploads/**/mine.zip")), "the visitor's file is still there"


def test_every_endpoint_is_documented(client):
    named = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert named == {"/search", "/compare", "/similar", "/explain", "/tradeoff", "/upload"}
    for text in (app.API_HELP, (ROOT / "space" / "README.md").read_text(encoding="utf-8")):
        assert named <= set(re.findall(r"`(/\w+)`", text))


# Hostile input -------------------------------------------------------------------------------------------------------


def huge_png(width: int, height: int) -> bytes:
    """A PNG of any size in a few kilobytes, without drawing it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\1\0\0\0\0"
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + -(-width // 8))) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def raw_search(url: str, **arguments) -> str:
    """What `/search` answers to a request that no client of gradio would make."""
    address, headers = f"{url}gradio_api/call/v2/search", {"Content-Type": "application/json"}
    event = json.load(urlopen(Request(address, json.dumps(arguments).encode(), headers)))["event_id"]
    return urlopen(f"{address}/{event}").read().decode()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
BAD_PICTURES = {
    "200 megapixels": ("big.png", lambda: huge_png(20_000, 10_000), "pixels; at most 40 million|too many pixels"),
    "50 megapixels": ("big.png", lambda: huge_png(10_000, 5_000), "10,000 x 5,000 pixels; at most 40 million"),
    "cut off": ("cut.jpg", lambda: picture(size=(400, 400), format="JPEG")[:600], "damaged or cut off"),
    "SVG": ("drawing.svg", lambda: SVG, "no picture that can be read"),
    "HTML": ("page.html", lambda: b"<html><script>alert(1)</script></html>", "no picture that can be read"),
    "HTML named as a picture": ("page.png", lambda: b"<html><script>alert(1)</script></html>", "no picture that can"),
    "nothing": ("empty.png", lambda: b"", "no picture that can be read"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_pictures_get_a_polite_answer(client, url, tmp_path, case):
    name, content, words = BAD_PICTURES[case]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(Exception, match=words):
        client.predict(picture=handle_file(str(tmp_path / name)), api_name="/search")
    assert client.predict(query="red mug", k=1, api_name="/search")["results"], "the app is down"


def test_a_path_of_the_server_is_not_read(url, folders, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture("red"))
    assert "event: complete" in raw_search(url, query="red mug", k=1)
    for payload in (
        {"path": "/etc/passwd"},
        {"path": str(tmp_path / "secret.png")},
        {"path": f"{folders}/uploads/../../secret.png"},
        {"path": "x", "url": "data:image/png;base64,AAAA"},
    ):
        answer = raw_search(url, k=1, picture={**payload, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer and "results" not in answer
    for address in ("file=/etc/passwd", f"file={tmp_path}/secret.png", "file=../../../../etc/passwd"):
        with pytest.raises(Exception, match="HTTP Error 40"):
            urlopen(f"{url}gradio_api/{address}")


def test_a_query_of_ten_megabytes(client):
    with pytest.raises(Exception, match="at most 500 characters"):
        client.predict(query="red mug " * 1_250_000, api_name="/search")
    with pytest.raises(Exception, match="Type what you are looking for"):
        client.predict(query=" " * 10_000_000, api_name="/search")
    with pytest.raises(Exception, match="no product with the id"):
        client.predict(product_id="x" * 10_000_000, api_name="/similar")
    assert client.predict(query="red\0mug \U0001f600 \u202e ${1} {{2}}", k=1, api_name="/search")["results"]


def bad_zips(folder) -> dict[str, tuple[str, str]]:
    """Name to the path of a bad upload and what the visitor is told."""
    table = b"title\nred mug\n"
    bomb = make_zip(folder / "bomb.zip", {"list.csv": b"title\n" + b"0" * 200_000_000})
    inner = make_zip(folder / "member.zip", {"list.csv": b"title\n" + b"0" * 20_000_000})
    cut = folder / "cut.zip"
    cut.write_bytes(open(make_zip(folder / "whole.zip", {"list.csv": table}), "rb").read()[:60])
    many = make_zip(folder / "many.zip", {f"{number}.csv": b"" for number in range(2_001)})
    lying = folder / "lying.zip"  # says that it unpacks to ten bytes
    content = open(make_zip(folder / "honest.zip", {"list.csv": b"title\n" + b"0" * 90_000_000}), "rb").read()
    lying.write_bytes(content.replace((90_000_006).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    (folder / "page.csv").write_bytes(b"<html><body>no table</body></html>")
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 40)
    (folder / "empty.csv").write_bytes(b"")
    (folder / "sizes.csv").write_bytes(b"id,size\n1,S\n")
    return {
        "bomb": (bomb, "unpacks to 200 MB; at most 80 MB"),
        "large member": (inner, "unpacks to more than 15 MB"),
        "lying bomb": (str(lying), "damaged or encrypted|No product was found"),
        "cut off": (str(cut), "damaged or encrypted"),
        "many files": (many, "holds 2,001 files; at most 2,000"),
        "no table": (str(folder / "page.csv"), "is a web page .HTML.*; give a CSV in UTF-8, or a ZIP"),
        "no title": (str(folder / "sizes.csv"), "no column title, description or image"),
        "noise": (str(folder / "noise.csv"), "is neither UTF-8 nor western text"),
        "empty": (str(folder / "empty.csv"), "is empty"),
        "pictures of no kind": (
            make_zip(folder / "svg.zip", {"a.png": SVG, "b.svg": SVG}),
            "no picture that can be read",
        ),
    }


def test_bad_uploads_get_a_polite_answer(client, tmp_path):
    for case, (file, words) in bad_zips(tmp_path).items():
        with pytest.raises(Exception, match=words):
            client.predict(file=handle_file(file), api_name="/upload")
            pytest.fail(case)
    assert client.predict(query="red mug", k=1, api_name="/search")["results"], "the app is down"


def test_nothing_outside_a_zip_is_read_or_written(client, tmp_path):
    names = {"../../escaped.png": "red", "/tmp/absolute.png": "red", "..\\windows.png": "red", "good.png": "blue"}
    table = "title,image\nred mug,../../escaped.png\nred lamp,/etc/passwd\nred bowl,link.png\nblue mug,good.png\n"
    file = make_zip(tmp_path / "slip.zip", {"list.csv": table, **{name: picture(of) for name, of in names.items()}})
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    report = client.predict(file=handle_file(file), api_name="/upload")
    assert (report["products"], report["with_picture"]) == (4, 1)
    assert "4 x file of the ZIP ignored, since its name leads out of it" in report["problems"]
    assert not list(tmp_path.parent.glob("**/escaped.png")) and not os.path.exists("/tmp/absolute.png")


def test_bad_rows_are_counted_and_the_rest_kept(tmp_path):
    rows = ["_id,title,image", '1,=HYPERLINK("x"),http://host/a.png', "1,again,", "2,,", f"3,{'long ' * 900},"]
    rows += [f"n{number},mug," for number in range(400)]
    (tmp_path / "rows.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    read: Upload = read_upload(str(tmp_path / "rows.csv"))
    assert len(read.products) == 300 and read.products[0]["title"] == '=HYPERLINK("x")'
    assert len(read.products[1]["title"]) == 2_000
    told = " ".join(read.lines())
    for words in (
        "not fetched",
        "id came before",
        "without title",
        "cut to 2,000",
        "102 x product beyond the first 300",
    ):
        assert words in told
    (tmp_path / "western.csv").write_bytes("title\ncaf\xe9 mug".encode("cp1252"))
    assert read_upload(str(tmp_path / "western.csv")).products[0]["title"] == "caf\xe9 mug"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("above, separator", [("sep=;\n", ";"), ("Products of the shop\n\n", "|"), ("", "\t")])
def test_tables_of_any_dialect_are_read(tmp_path, encoding, above, separator):
    text = f"{above}ID#Title#Price\n1#caf\xe9 mug, blue#9,90\n2#lost\n3#one#two#three\n".replace("#", separator)
    (tmp_path / "rows.csv").write_bytes(text.encode(encoding))
    read = read_upload(str(tmp_path / "rows.csv"))
    assert [product["title"] for product in read.products] == ["caf\xe9 mug, blue", "lost"]
    told = " ".join(read.lines())
    assert "more or fewer cells than the header left out" in told and "row with fewer cells" in told
    assert ("reads as 'caf\xe9' in CP1252" in told) == (encoding == "cp1252")


@pytest.mark.parametrize("name", ["delimited.py", "text_files.py"])
def test_the_space_reads_tables_as_training_does(name):
    root = Path(__file__).parents[2]
    assert (root / "space" / name).read_text() == (root / "training" / "catalogue" / name).read_text()


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_quote_that_is_not_closed_swallows_no_product(tmp_path, delimiter):
    rows = ["_id|title", '1|"Vintage" mug', '2|"Bowl', "3|plain", '4|12" pan', '5|"open']
    (tmp_path / "rows.csv").write_text("\n".join(rows).replace("|", delimiter))
    read = read_upload(str(tmp_path / "rows.csv"))
    assert [f"{product['_id']}|{product['title']}" for product in read.products] == rows[1:]
    assert read.lines() == ["3 x quote that doesn't follow the rule for tables (kept as it stands)"]


def test_titles_are_text_whatever_they_hold(shop):
    query = shop.encoder.query("red mug")
    found = shop.search(query, k=12)
    html = app.markup.board(shop, query, found, 1.0)
    html += app.markup.drawer(shop, query, 0, shop.hit(query, 0), None)
    html += app.markup.search_tab(shop, [Example(HOSTILE_TITLE, HOSTILE_TITLE)], "", app.markup.choices(shop))
    html += app.markup.problem_board(HOSTILE_TITLE) + app.markup.upload_report(1, 1, [HOSTILE_TITLE])
    assert "&lt;img src=x" in html and "<img src=x" not in html
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html))


# Start ---------------------------------------------------------------------------------------------------------------


def test_a_second_start_embeds_nothing_and_a_changed_catalogue_is_seen(shop, folders, monkeypatch):
    embedded = []
    embed = ShopEncoder.products
    monkeypatch.setattr(ShopEncoder, "products", lambda *args: embedded.append(1) or embed(*args))
    again = start.start()
    assert not embedded and np.array_equal(again.vectors["fused"], shop.vectors["fused"])
    corpus, queries, qrels = space_rows()
    corpus[3]["image"] = {"bytes": picture("yellow"), "path": "other.png"}
    write_shop(folders / "shop", corpus, queries, qrels)
    changed = start.start()
    assert embedded and not np.allclose(changed.vectors["fused"][3], shop.vectors["fused"][3])
    assert Image.open(io.BytesIO(changed.picture(3))).getpixel((0, 0)) == (255, 255, 0)
    assert len(list((folders / "prepared").glob("*.npz"))) == 1, "vectors of another catalogue are kept"
    write_shop(folders / "shop", *space_rows())


def test_all_splits_are_shown_and_queries_measured_among_the_products_they_are_judged_for(shop, tmp_path, monkeypatch):
    corpus, queries, qrels = space_rows()
    more = [{**row, "_id": f"more-{row['_id']}"} for row in corpus] + corpus[:2]  # two are in both splits
    write_split(tmp_path / "shop", "train", more, queries, [{**row, "score": 0} for row in qrels])
    write_split(tmp_path / "shop", "test", corpus, queries, qrels)
    write_card(tmp_path / "shop", "Shop", "apache-2.0", ["train", "test"], "")
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path / "prepared"))
    both = start.load_catalogue(str(tmp_path / "shop"), None, shop.encoder)
    alone = start.load_catalogue(str(tmp_path / "shop"), "test", shop.encoder)
    assert (len(both), len(alone), int(both.measured.sum())) == (24, 12, 12)
    values, expected = both.judged_values(), alone.judged_values()
    assert all(np.array_equal(values[view], expected[view]) for view in expected)
    text = queries[0]["text"]
    query = both.encoder.query_from(both.encoder.texts([text])[0], text=text)
    for view, found in both.search(query, k=24).items():
        assert found.ndcg == alone.search(query)[view].ndcg
        assert {hit.row: hit.grade for hit in found.hits}[12] is None, "nobody judged it"
    means = dict.fromkeys(expected, 0.5)
    assert "among the 12 products" in markup.intro(both, means, means)


def test_what_others_keep_in_the_prepared_folder_stays(shop, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path))
    for name in ("mine.npz", "vectors-mine.npz"):
        (tmp_path / name).write_bytes(b"mine")
    older = tmp_path / f"vectors-{'0' * 32}.npz"
    older.write_bytes(b"of another catalogue")
    start.start()
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 3 and {"mine.npz", "vectors-mine.npz"} < names and older.name not in names


def test_unreadable_pictures_of_a_catalogue_are_counted(shop, folders, tmp_path, monkeypatch, capsys):
    corpus, queries, qrels = space_rows()
    corpus[2]["image"] = {"bytes": SVG, "path": "drawing.png"}
    write_shop(tmp_path / "shop", corpus, queries, qrels)
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path / "prepared"))
    catalogue = start.load_catalogue(str(tmp_path / "shop"), "test", shop.encoder)
    assert "1 pictures can't be read" in capsys.readouterr().out and len(catalogue) == 12
    assert catalogue.thumbnail(2) is None and catalogue.thumbnail(3)


def test_errors_of_the_set_up_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_RUN", str(tmp_path))
    with pytest.raises(start.SetupError, match="run: make quickstart"):
        start.start()
    monkeypatch.setenv("MMFUSION_MODEL", str(tmp_path))
    with pytest.raises(start.SetupError, match="can't be read"):
        start.start()
    monkeypatch.delenv("MMFUSION_MODEL")
    monkeypatch.delenv("MMFUSION_RUN")
    monkeypatch.setattr(start, "CHECKOUT", tmp_path)
    with pytest.raises(start.SetupError, match="MMFUSION_MODEL"):
        start.start()
    assert "MMFUSION_MODEL" in str(app.setup_page("Set MMFUSION_MODEL").config["components"])


def test_without_model_and_run_the_quickstart_is_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MMFUSION_RUN", raising=False)
    monkeypatch.setattr(start, "CHECKOUT", tmp_path)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()  # or a checkout that is on the path goes before
    (tmp_path / "training" / "quickstart.py").write_text("raise SystemExit(3)")
    with pytest.raises(start.SetupError, match="quickstart failed"):
        start.model_name()
    (tmp_path / "training" / "quickstart.py").write_text("print('trained')")
    assert start.model_name() == str(tmp_path / "runs" / "quickstart" / "model")


def test_prices_are_read_as_the_index_reads_them():
    texts = {"9.90": 9.9, "1,299.00 EUR": 1299, "$ 5": 5, "1,299": 1299}
    assert numbers_of_prices(texts) == pytest.approx(list(texts.values()))
    assert np.isnan(numbers_of_prices(["on request", None, "1.2.3"])).all()
    assert (ROOT / "space" / "prices.py").read_text() == (ROOT / "modeling_mmfusion" / "prices.py").read_text()


def test_the_embedded_shop_is_whole(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path))
    monkeypatch.delenv("MMFUSION_DATA")
    assert start.data_name() == str(start.SHOP)
    name, cache = start.data_name(), start.cache_of(start.data_name())
    judged, corpus = start.load_judged(name, "test", cache), start.load_table(name, "corpus", "test", cache)
    known = set(corpus["_id"])
    assert len(known) == 200 and len(judged) == 120
    assert all(set(grades) <= known and max(grades.values()) == 2 for grades in judged.values())


def test_queries_without_a_text_are_not_looked_up(tmp_path):
    corpus, queries, qrels = space_rows()
    queries[0]["text"] = None  # as those that are pictures
    folder = str(write_shop(tmp_path / "shop", corpus, queries, qrels, splits=("test",)))
    judged = start.load_judged(folder, "test", str(tmp_path / "cache"))
    assert set(judged) == {query["text"] for query in queries[1:]}


def test_a_catalogue_is_not_taken_for_another_of_its_name_nor_for_what_it_was(shop, tmp_path):
    first, second = write_shop(tmp_path / "a" / "shop"), write_shop(tmp_path / "b" / "shop", splits=("dev", "test"))
    file = second / "test" / "corpus.parquet"
    table = pq.read_table(file).drop_columns(["brand"]).replace_schema_metadata(None)
    pq.write_table(table.append_column("rating", pa.array([1.5] * len(table))), file)
    (second / "dev" / "corpus.parquet").write_bytes(file.read_bytes())
    for folder, columns in ((first, {"brand"}), (second, {"rating"})):
        cache = start.cache_of(str(folder))
        found = start.load_table(str(folder), "corpus", "test", cache)
        assert {"brand", "rating"} & set(found.column_names) == columns
    loaded = start.load_catalogue(str(second), None, shop.encoder)
    assert len(loaded) == 12 and len(loaded.judged) == 12
    for split in ("dev", "test"):
        pq.write_table(table.drop_columns(["category"]), second / split / "corpus.parquet")
    assert "category" not in start.load_table(str(second), "corpus", "test", start.cache_of(str(second))).column_names


def test_queries_that_come_together_are_embedded_together_and_errors_reach_their_threads():
    sizes, begun, go = [], threading.Event(), threading.Event()

    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        begun.set()
        go.wait(timeout=10)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]

    batched = Batched(double)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(batched, 0)
        begun.wait(timeout=10)
        rest = [pool.submit(batched, number) for number in range(1, 20)]
        while len(batched.waiting) < 19:
            time.sleep(0.01)
        go.set()
        assert first.result(timeout=10) == 0
        assert [result.result(timeout=10) for result in rest] == list(range(2, 40, 2))
    assert sizes == [1, 19]
    with pytest.raises(ValueError, match="minus one"):
        batched(-1)
    assert batched(5) == 10, "an error is remembered"


def test_filters_without_a_match_complain(shop):
    with pytest.raises(VisitorError, match="takes? a filter away|take a filter away"):
        shop.mask(Filters(categories=["mug"], price_from=10))
