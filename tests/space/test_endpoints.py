"""The Space's endpoints, through `gradio_client` and a running server with a tiny model."""

import asyncio
import io
import json
import os
import random
import re
import shutil
import stat
import struct
import threading
import time
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from file_names import title_of_file
from gradio_client import Client, handle_file
from helpers import ROOT, picture, write_shop
from page import Page
from pictures import read_picture
from PIL import ExifTags, Image, ImageOps
from prepared import MARK
from prices import numbers_of_prices
from reasons import Example
from safetensors.torch import load_file, save
from sent_files import delete_old, folder_for_files
from space_shop import HOSTILE_TITLE, make_zip, space_rows
from text_files import TextFile
from tradeoff import stored
from upload import FIELDS, MAX_PRODUCTS, MAX_ROWS, SAMPLE, Upload, preview, read_upload
from workers import Workers

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
    asking = {"/search", "/compare", "/similar", "/explain", "/tradeoff"}
    assert named == asking | {"/upload", "/preview", "/sample", "/clear"}
    for text in (app.API_HELP, (ROOT / "space" / "README.md").read_text(encoding="utf-8")):
        assert named <= set(re.findall(r"`(/\w+)`", text))


MISTAKES = {
    "a path as picture": ("search", {"picture": "shirt.jpg"}, r"Give picture as handle_file\('shirt.jpg'\)"),
    "a path to explain": (
        "explain",
        {"query": "a", "product_id": "mug-red", "picture": "a.png"},
        "Give picture as handle",
    ),
    "a path as file": ("upload", {"file": "products.csv"}, r"Give file as handle_file\('products.csv'\)"),
    "a path without the mark of a file": (
        "search",
        {"picture": {"path": "/etc/passwd"}},
        "Give picture as handle_file",
    ),
    "a list as picture": ("search", {"picture": ["a.png"]}, "Give picture as handle_file"),
    "no file": ("upload", {"file": None}, "Give a CSV or a ZIP"),
    "letters as k": ("search", {"query": "red", "k": "abc"}, "k is a whole number from 1 to 50, not 'abc'"),
    "k below": ("search", {"query": "red", "k": -3}, "k is a whole number from 1 to 50, not -3"),
    "k above": ("compare", {"query": "red", "k": 51}, "k is a whole number from 1 to 50, not 51"),
    "half a k": ("similar", {"product_id": "mug-red", "k": 2.5}, "k is a whole number from 1 to 50, not 2.5"),
    "k as list": ("search", {"query": "red", "k": [1]}, r"k is a whole number from 1 to 50, not \[1\]"),
    "k as truth": ("search", {"query": "red", "k": True}, "k is a whole number from 1 to 50, not True"),
    "price as word": (
        "search",
        {"query": "red", "price_from": "cheap"},
        "price_from is a number, such as 12.5, not 'cheap'",
    ),
    "price as list": ("search", {"query": "red", "price_to": [5]}, r"price_to is a number, such as 12.5, not \[5\]"),
    "prices crossed": ("search", {"query": "red", "price_from": 9, "price_to": 3}, "price_from is at most price_to"),
    "category as text": ("search", {"query": "red", "categories": "Kitchen"}, r"such as \['Kitchen'\], not 'Kitchen'"),
    "brand as number": ("search", {"query": "red", "brands": 5}, "brands is a list of texts"),
    "brands of lists": ("search", {"query": "red", "brands": [["a"]]}, "brands is a list of texts"),
    "query as number": ("search", {"query": 5}, "query is a text, not 5"),
    "query as list": ("compare", {"query": ["red"]}, r"query is a text, not \['red'\]"),
    "view as list": ("search", {"query": "red", "view": ["text"]}, "view is one of fused, text, image"),
    "presence as list": ("search", {"query": "red", "presence": ["any"]}, "presence is a text"),
    "where as list": ("search", {"query": "red", "where": ["shop"]}, "where is a text"),
    "weight above": ("search", {"query": "red", "picture_weight": 7}, "picture_weight is a number from 0 to 1, not 7"),
    "weight as word": (
        "similar",
        {"product_id": "mug-red", "weight": "much"},
        "weight is a number from 0 to 1, not 'much'",
    ),
    "id as list": ("similar", {"product_id": ["mug-red"]}, "product_id is the id of a product"),
    "no id": ("explain", {"query": "red", "product_id": ""}, "product_id is the id of a product"),
    "text as number": ("similar", {"product_id": "mug-red", "text": 5}, "text is a text, not 5"),
    "dim as word": ("tradeoff", {"dim": "long"}, "dim is a whole number"),
    "storage as list": ("tradeoff", {"storage": ["f32"]}, "storage is a text"),
    "a long value": ("search", {"query": "red", "k": "x" * 10_000}, r"not 'x{56}\.\.\.\.$"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(client, case):
    name, given, words = MISTAKES[case]
    with pytest.raises(Exception, match=words) as error:
        client.predict(**given, api_name=f"/{name}")
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_arguments_that_are_left_out_have_defaults(client):
    nothing = dict.fromkeys(("k", "categories", "brands", "price_from", "presence", "view", "picture_weight", "where"))
    assert (
        client.predict(query="red mug", **nothing, api_name="/search")["results"]
        == (client.predict(query="red mug", api_name="/search")["results"])
    )
    assert len(client.predict(query="red mug", k=4.0, api_name="/search")["results"]) == 4


def plain_call(url: str, name: str, *values) -> str:
    """What an endpoint answers to plain HTTP with some of its arguments."""
    address, headers = f"{url}gradio_api/call/{name}", {"Content-Type": "application/json"}
    event = json.load(urlopen(Request(address, json.dumps({"data": values}).encode(), headers)))["event_id"]
    return urlopen(f"{address}/{event}").read().decode()


def test_plain_http_needs_no_more_arguments_than_the_caller_has(url, client):
    found = plain_call(url, "search", "red mug")
    results = json.loads(found.rsplit("data: ", 1)[1])[0]["results"]
    assert results == client.predict(query="red mug", api_name="/search")["results"]
    assert "product_id is the id of a product, as /search gives it, not None." in plain_call(url, "similar")
    gone = {"path": "/nowhere/a.csv", "meta": {"_type": "gradio.FileData"}}
    assert "was not uploaded by a user" in plain_call(url, "upload", gone)


def test_what_is_taken_and_given_has_names_and_types(client):
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    types = {one["parameter_name"]: one["python_type"]["type"] for one in described["/search"]["parameters"]}
    assert "filepath" in types["picture"] and "list[str]" in types["categories"] and types["k"] == "int"
    assert types["view"] == "Literal['fused', 'text', 'image']"
    assert not any(one["parameter_has_default"] for one in described["/upload"]["parameters"][:1])
    for name, endpoint in described.items():
        (answer,) = endpoint["returns"]
        assert answer["label"] == "answer" and answer["python_type"]["type"].startswith("dict("), name
    answer = client.predict(query="red mug", k=1, api_name="/search")
    given = described["/search"]["returns"][0]["type"]["properties"]
    assert set(given) == set(answer) and set(given["results"]["items"]["properties"]) == set(answer["results"][0])


def test_the_page_tells_its_own_address(url):
    (event,) = [one for one in json.load(urlopen(f"{url}config"))["dependencies"] if one["targets"][0][1] == "load"]
    body = json.dumps({"data": [], "fn_index": event["id"], "session_hash": "me"}).encode()
    for headers, address in (
        ({}, url.rstrip("/")),
        ({"X-Forwarded-Proto": "https", "Host": "my.shop"}, "https://my.shop"),
    ):
        headers = {"Content-Type": "application/json", **headers}
        urlopen(Request(f"{url}gradio_api/queue/join", body, headers)).read()
        for line in urlopen(f"{url}gradio_api/queue/data?session_hash=me"):
            if b"process_completed" in line:
                assert f'Client(\\"{address}\\")'.encode() in line
                break


# Load ----------------------------------------------------------------------------------------------------------------


def posted_upload(url: str, content: bytes) -> str:
    """Sends a file and asks `/upload` to read it, without waiting; returns the address of the answer."""
    form = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n' + content + b"\r\n--b--\r\n"
    )
    sent = Request(f"{url}gradio_api/upload", form, {"Content-Type": "multipart/form-data; boundary=b"})
    (path,) = json.load(urlopen(sent))
    body = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    asked = Request(f"{url}gradio_api/call/upload", body, {"Content-Type": "application/json"})
    return f"{url}gradio_api/call/upload/{json.load(urlopen(asked))['event_id']}"


def test_uploads_that_wait_never_keep_a_search_waiting(url, client, shop, monkeypatch):
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(*_, **__):
        begun.release()
        go.wait(timeout=60)
        raise VisitorError("It was my turn.")

    monkeypatch.setattr(ShopEncoder, "products", slow)
    try:
        answers = [posted_upload(url, b"title\nred mug\n") for _ in range(230)]
        assert begun.acquire(timeout=60)
        assert client.submit(query="red mug", k=1, api_name="/search").result(timeout=30)["results"]
        late = urlopen(answers[-1]).read().decode()
        assert "event: error" in late and "Too many are waiting for this now; try again in a minute." in late
    finally:
        go.set()
    assert "It was my turn." in urlopen(answers[199]).read().decode()


def test_workers_run_so_many_at_once_and_turn_others_away():
    workers, go, now, most = Workers(2, 3), threading.Event(), [], []

    def work(number: int) -> int:
        now.append(number)
        most.append(len(now))
        go.wait(timeout=10)
        now.remove(number)
        return number

    async def all_of_them():
        tasks = [asyncio.create_task(workers.run(work, number)) for number in range(5)]
        await asyncio.sleep(0.1)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(all_of_them())
    assert found[:3] == [0, 1, 2] and max(most) == 2 and workers.present == 0
    assert ["Too many are waiting" in str(error) for error in found[3:]] == [True, True]


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    sizes, now = [], []

    def reduced(image):
        now.append(1)
        sizes.append(len(now))
        time.sleep(0.02)
        now.pop()
        return image

    monkeypatch.setattr("pictures._reduced", reduced)
    content = huge_png(2_100, 2_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_picture, [content] * 8))
    assert sizes == [1] * 8


def test_files_that_are_sent_leave_nothing_behind(url, client, folders, tmp_path):
    def kept() -> set[str]:
        walked = os.walk(folders / "uploads")
        return {str(Path(folder, name)) for folder, names, files in walked for name in names + files}

    before = kept()
    (tmp_path / "mine.csv").write_text("title\nred mug\n")
    (tmp_path / "bad.csv").write_bytes(b"")
    (tmp_path / "lamp.png").write_bytes(picture("red"))
    for name in ("mine.csv", "bad.csv"):
        for api_name in ("/upload", "/preview"):
            with suppress(Exception):
                client.predict(file=handle_file(str(tmp_path / name)), api_name=api_name)
    client.predict(picture=handle_file(str(tmp_path / "lamp.png")), api_name="/search")
    with suppress(Exception):
        client.predict(picture=handle_file(str(tmp_path / "bad.csv")), query="red", k=-1, api_name="/search")
    deadline = time.monotonic() + 10
    while kept() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not kept() - before


def test_equal_files_of_several_visitors_are_each_their_own(url, tmp_path):
    (tmp_path / "mine.csv").write_text("title\nred mug\n")
    with ThreadPoolExecutor(6) as pool:
        clients = list(pool.map(lambda _: Client(url, verbose=False), range(6)))
        file = handle_file(str(tmp_path / "mine.csv"))
        found = list(pool.map(lambda one: one.predict(file=file, api_name="/upload")["products"], clients))
    assert found == [1] * 6


def test_old_files_and_folders_are_deleted_and_new_ones_kept(tmp_path):
    hour_ago = time.time() - 3_700
    for name in ("old/a.png", "old/deep/b.png", "new/c.png", "loose.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "empty").mkdir()
    for name in ("old/a.png", "old/deep/b.png", "loose.tmp", "empty", "old/deep", "old"):
        os.utime(tmp_path / name, (hour_ago, hour_ago))
    delete_old(tmp_path)
    delete_old(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left - {"old", "old/deep"} == {"new", "new/c.png"}, "folders were changed when their files went"


def test_files_have_a_folder_of_this_process_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "anothers.png").write_bytes(b"1")
    with folder_for_files() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder) and folder.parent == tmp_path
        (folder / "mine.png").write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["anothers.png"]


def test_visitors_whose_products_went_are_told_and_can_have_them_forgotten(url, shop, tmp_path, monkeypatch):
    monkeypatch.setattr("visitors.MAX_PRODUCTS", 5)
    (tmp_path / "mine.csv").write_text("title\nred mug\nblue bowl\n")
    file, visitors = handle_file(str(tmp_path / "mine.csv")), [Client(url, verbose=False) for _ in range(3)]
    for visitor in visitors:
        assert visitor.predict(file=file, api_name="/upload")["products"] == 2
    for visitor in visitors[1:]:
        assert visitor.predict(query="mug", where="yours", api_name="/search")["results"]
    with pytest.raises(Exception, match="are not here: they are kept for an hour, and shorter when many visit"):
        visitors[0].predict(query="mug", where="yours", api_name="/search")
    assert visitors[1].predict(api_name="/clear") == {"forgotten": 2}
    with pytest.raises(Exception, match="uploaded no products yet"):
        visitors[1].predict(query="mug", where="yours", api_name="/search")
    assert visitors[0].predict(api_name="/clear") == {"forgotten": 0}


def test_a_file_is_previewed_with_its_columns(client, tmp_path):
    sample = client.predict(api_name="/sample")
    (tmp_path / sample["name"]).write_text(sample["content"])
    seen = client.predict(file=handle_file(str(tmp_path / sample["name"])), api_name="/preview")
    assert seen["fields"]["title"] == "title" and [one["title"] for one in seen["products"]][0] == "Mug"
    (tmp_path / "mine.csv").write_text("Nr;Was\n7;rote Tasse\n8;\n")
    file, columns = handle_file(str(tmp_path / "mine.csv")), {"id": "Nr", "title": "Was"}
    assert client.predict(file=file, columns=columns, api_name="/preview")["columns"] == ["Nr", "Was"]
    answer = client.predict(file=file, columns=columns, api_name="/upload")
    assert answer["products"] == 1 and answer["fields"] == columns and "separator ;" in answer["read_as"]
    assert answer["report"] == [{"problem": "row without title, description and picture left out", "count": 1}]
    with pytest.raises(Exception, match="columns names a column for a field"):
        client.predict(file=file, columns=["Was"], api_name="/upload")


def test_fast_vectors_are_nearly_the_models_and_each_product_has_its_own(shop):
    rows = [shop.product_inputs(row % len(shop)) for row in range(40)]
    exact, fast = shop.encoder.products(rows), shop.encoder.products(rows, fast=True)
    for view, vectors in exact.items():
        assert np.allclose(vectors[:12], shop.vectors[view], atol=1e-5) and np.allclose(
            vectors[28], vectors[4], atol=1e-5
        )
        assert (vectors * fast[view]).sum(1).min() > 0.98 and fast[view].dtype == np.float32
        assert np.allclose(np.linalg.norm(fast[view], axis=1), 1, atol=1e-5)


def test_progress_is_told_as_one(shop, tmp_path):
    (tmp_path / "mine.csv").write_text("title\n" + "red mug\n" * 40)
    told = []
    app.Endpoints(shop).upload(str(tmp_path / "mine.csv"), progress=told.append)
    assert told == sorted(told) and told[-1] == 1 and len(told) > 40 and not (tmp_path / "mine.csv").exists()


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
    "30 megapixels": ("big.png", lambda: huge_png(6_000, 5_000), "million are read of a JPEG, 24 million of others"),
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


def with_exif(orientation: int, format: str = "JPEG") -> bytes:
    """A picture of 24 x 16 pixels, the left half red, with an orientation and a resolution in its EXIF."""
    drawn, stream, exif = Image.new("RGB", (24, 16), "blue"), io.BytesIO(), Image.Exif()
    drawn.paste("red", (0, 0, 12, 16))
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution] = orientation, 72.0
    drawn.save(stream, format, exif=exif, quality=95)
    return stream.getvalue()


def test_a_damaged_exif_leaves_the_picture_and_its_orientation():
    for format in ("JPEG", "WEBP", "PNG", "TIFF"):
        for orientation in range(1, 9):
            content = with_exif(orientation, format)
            expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
            assert np.array_equal(read_picture(content), expected), (format, orientation)
    whole = with_exif(6)
    damaged = whole.replace(b"\x01\x1a\x00\x05", b"\x01\x0a\x00\x05")  # the resolution's tag is another's
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(damaged)))
    assert damaged != whole and np.array_equal(read_picture(damaged), read_picture(whole))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_pictures_are_read_or_told_in_one_sentence(format):
    content, rng, told = picture(size=(90, 70), format=format), random.Random(0), Counter()
    for place in [*rng.sample(range(len(content)), min(len(content), 60)), *range(0, min(len(content), 400), 3)]:
        damaged = bytearray(content)
        damaged[place : place + rng.choice([1, 8])] = rng.randbytes(rng.choice([0, 1, 8]))
        try:
            read_picture(bytes(damaged))
        except ValueError as error:
            told[str(error)[:20]] += 1
            assert str(error).endswith(".") and "\n" not in str(error)
    assert told


def test_large_pictures_are_made_smaller_and_keep_their_colours():
    for mode, colour in (("RGB", (200, 30, 40)), ("RGBA", (200, 30, 40, 255)), ("L", 99), ("1", 1), ("P", 1)):
        stream, drawn = io.BytesIO(), Image.new(mode, (3000, 2000), colour)
        if mode == "P":
            drawn.putpalette([0, 0, 0, 200, 30, 40])
        drawn.save(stream, "PNG")
        found = read_picture(stream.getvalue())
        assert found.size == (1000, 667) and found.getpixel((5, 5)) == drawn.convert("RGB").getpixel((5, 5))
    clear = io.BytesIO()
    Image.new("RGBA", (3000, 2000), (0, 0, 0, 0)).save(clear, "PNG")
    assert read_picture(clear.getvalue()).getpixel((500, 300)) == (255, 255, 255)


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
    many = make_zip(folder / "many.zip", {f"{number}.csv": b"" for number in range(4_001)})
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
        "many files": (many, "holds 4,001 files; at most 4,000"),
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
    rows += [f"n{number},mug," for number in range(2_100)]
    (tmp_path / "rows.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    read: Upload = read_upload(str(tmp_path / "rows.csv"))
    assert len(read.products) == 2_000 and read.products[0]["title"] == '=HYPERLINK("x")'
    assert len(read.products[1]["title"]) == 2_000
    told = " ".join(read.lines())
    for words in (
        "not fetched",
        "id came before",
        "without title",
        "cut to 2,000",
        "102 x product beyond the first 2,000",
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


COPIES = {name: name for name in ("delimited.py", "text_files.py", "cells.py", "feed_formats.py", "feed_products.py")}
COPIES |= {name: name for name in ("feeds.py", "html_text.py", "meant_rows.py", "missing.py", "picture_names.py")}
COPIES |= {name: name for name in ("woocommerce_names.py", "xml_feed.py")} | {"errors.py": "errors.py"}


@pytest.mark.parametrize("name", COPIES)
def test_the_space_reads_tables_as_training_does(name):
    """But for the folders of what is imported, and so the order of the imports."""
    origin = ROOT / ("modeling_mmfusion" if name == "errors.py" else "training/catalogue") / name
    flat = re.sub(r"^from (training\.catalogue|modeling_mmfusion)\.", "from ", origin.read_text(), flags=re.MULTILINE)
    assert sorted((ROOT / "space" / name).read_text().splitlines()) == sorted(flat.splitlines())


SHOPIFY = """Handle,Title,Body (HTML),Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Price,Image Src,Status
mug,Mug,<p>Of <b>stoneware</b></p>,Northwind,Size,S,m-s,"12,50",https://cdn.example/mug.jpg?v=1,active
mug,,,,,L,m-l,"9,90",https://cdn.example/mug-2.jpg,active
lamp,Lamp,,Halden,Title,Default Title,,39,lamp.png,active
old,Old lamp,,Halden,Title,Default Title,,39,,draft
"""
GOOGLE = """<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>
<item><g:id>1</g:id><title>Mug</title><g:description>Of &lt;b&gt;clay&lt;/b&gt;</g:description>
<g:price>12.50 EUR</g:price><g:image_link>https://cdn.example/mug.jpg</g:image_link><g:color>red</g:color></item>
<item><g:id>2</g:id><title>Lamp</title><g:price>39 EUR</g:price></item></channel></rss>"""


def test_exports_of_shops_are_read_as_training_reads_them(tmp_path):
    pictures = {"img/mug.jpg": picture("red", format="JPEG"), "lamp.png": picture("blue")}
    read = read_upload(make_zip(tmp_path / "shopify.zip", {"products.csv": SHOPIFY.encode("utf-16"), **pictures}))
    mug, lamp = read.products
    assert (mug["_id"], mug["title"], mug["description"], mug["price"]) == ("mug", "Mug", "Of stoneware", "9,90")
    assert mug["attributes"] == {"Size": "S, L"} and mug["brand"] == "Northwind"
    assert mug["pictured"] and lamp["pictured"] and read.form == "shopify" and "UTF-16" in read.dialect
    assert read.lines() == ["product with status draft (left out)"]
    (tmp_path / "feed.xml").write_text(GOOGLE)
    read = read_upload(str(tmp_path / "feed.xml"))
    assert [(one["_id"], one["title"], one["price"]) for one in read.products] == [
        ("1", "Mug", "12.50 EUR"),
        ("2", "Lamp", "39 EUR"),
    ]
    assert read.products[0]["description"] == "Of clay" and read.products[0]["attributes"] == {"color": "red"}
    assert read.form == "google" and numbers_of_prices([one["price"] for one in read.products]) == [12.5, 39]
    (tmp_path / "bomb.xml").write_text('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><rss><item/></rss>')
    with pytest.raises(VisitorError, match="DOCTYPE"):
        read_upload(str(tmp_path / "bomb.xml"))
    (tmp_path / "cut.xml").write_text(GOOGLE[:-60])
    with pytest.raises(VisitorError, match="damaged XML on line"):
        read_upload(str(tmp_path / "cut.xml"))


def test_columns_of_any_name_are_mapped_and_previewed(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("Nr;Was;Farbe;Kostet\n7;Tasse;rot;9,90\n8;Lampe;blau;39\n9;Schale;;5\n10;Hemd;;20\n")
    with pytest.raises(VisitorError, match="no column title, .* has: Nr, Was, Farbe, Kostet; name yours"):
        read_upload(str(file))
    columns = {"id": "Nr", "title": "Was", "price": "Kostet"}
    seen = preview(str(file), columns)
    assert seen.columns == ["Nr", "Was", "Farbe", "Kostet"] and seen.fields == columns and len(seen.products) == 3
    assert seen.rows[0] == {"Nr": "7", "Was": "Tasse", "Farbe": "rot", "Kostet": "9,90"}
    read = read_upload(str(file), columns)
    assert [one["title"] for one in read.products] == ["Tasse", "Lampe", "Schale", "Hemd"]
    assert [one["_id"] for one in read.products] == ["7", "8", "9", "10"] and read.products[0]["price"] == "9,90"
    for wrong, words in (({"titel": "Was"}, "no field 'titel'"), ({"title": "was"}, "no column 'was' for title")):
        with pytest.raises(VisitorError, match=words):
            read_upload(str(file), wrong)
    (tmp_path / "sample.csv").write_text(SAMPLE)
    assert set(read_upload(str(tmp_path / "sample.csv")).fields) == set(FIELDS)


def test_reading_stops_at_the_bound(tmp_path, monkeypatch):
    lines = []
    read_lines = TextFile.__iter__
    monkeypatch.setattr(TextFile, "__iter__", lambda text: (lines.append(1) or line for line in read_lines(text)))
    for row, bound, told in (
        ("mug {},", MAX_PRODUCTS, "product beyond the first 2,000"),
        (" ,{}", MAX_ROWS, "row beyond"),
    ):
        lines.clear()
        (tmp_path / "rows.csv").write_text("title,price\n" + "".join(f"{row}\n".format(n) for n in range(60_000)))
        if bound == MAX_PRODUCTS:
            read = read_upload(str(tmp_path / "rows.csv"))
            assert len(read.products) == bound and f"58,000 x {told}" in read.lines()[0]
        else:
            with pytest.raises(VisitorError, match=r"40,00\d x row beyond the first 20,000 not read"):
                read_upload(str(tmp_path / "rows.csv"))
        assert len(lines) < bound + 5_000, "the file is read on"


NO_WORDS = """IMG_0001.jpg DSC_1234.JPG 20240101_120000.jpg PXL_20240101_120000123.jpg P1010001.JPG DSCF1234.jpg
12345.png d41d8cd98f00b204e9800998ecf8427e.png 3f2504e0-beef-11d3-cafe-0305e82c3301.png 1699999999999.webp
B07XJ8C8F5.jpg
61Qh3yQ2TEL._AC_SL1500_.jpg IMG-20240101-WA0003.jpg _MG_4321.jpg image1.png scan0001.tif Untitled-1.png GOPR0042.jpg
deadbeef.jpg SKU-12345-front.jpg product_12.jpg QxRtYaZb.jpg aGVsbG8gd29ybGQ.jpg a/b/0001_front.jpg""".split()
NO_WORDS += ["WhatsApp Image 2024-01-01 at 12.00.00.jpeg", "photo (1).jpg", "Image (12) copy.png", "Bild 7.png"]
WORDS = {"red-mug_02.jpg": "red mug 02", "IMG_0001 red mug.png": "red mug", "RedMug.jpg": "Red Mug", "MUG.JPG": "MUG"}
WORDS |= {"shop/rote_Tasse.webp": "rote Tasse", "blue lamp 500ml.png": "blue lamp 500ml", "mug2.png": "mug 2"}
WORDS |= {"чашка.jpg": "чашка", "caf\xe9-cr\xe8me.jpg": "caf\xe9 cr\xe8me", "kettle_a1b2c3d4.jpg": "kettle"}


def test_names_of_pictures_are_titles_if_they_are_words(tmp_path):
    assert [title_of_file(name) for name in NO_WORDS] == [""] * len(NO_WORDS)
    assert {name: title_of_file(name) for name in WORDS} == WORDS
    read = read_upload(make_zip(tmp_path / "mine.zip", dict.fromkeys([*NO_WORDS, *WORDS], picture("red"))))
    assert [one.get("title", "") for one in read.products] == [*[""] * len(NO_WORDS), *WORDS.values()]
    assert [one["_id"] for one in read.products] == [*NO_WORDS, *WORDS], "a product has no name"
    table = "title,image\nIMG_1.jpg,IMG_1.jpg\nred mug,IMG_1.jpg\nIMG_1,IMG_1.jpg\n"
    read = read_upload(make_zip(tmp_path / "table.zip", {"a.csv": table, "IMG_1.jpg": picture("red")}))
    assert [one.get("title") for one in read.products] == [None, "red mug", None], "a file's name is a title"


def spoilt(method: int, how: str, tmp_path) -> str:
    """A ZIP with a table of three pictures, one of which is damaged or encrypted."""
    file, noise = tmp_path / "mine.zip", random.Random(0).randbytes(3_000)
    drawn = Image.frombytes("RGB", (40, 25), noise)
    stream = io.BytesIO()
    drawn.save(stream, "PNG")
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.csv", "title,image\nred mug,a.png\nblue mug,b.png\ngreen mug,c.png\n")
        for name in ("a.png", "b.png", "c.png"):
            archive.writestr(name, stream.getvalue())
        at = archive.getinfo("b.png").header_offset
        central = archive.start_dir
    content = bytearray(file.read_bytes())
    place = content.index(b"b.png", central) - 46
    if how == "bytes":
        content[at + 50 : at + 90] = bytes(40)
    elif how == "checksum":
        content[place + 16] ^= 255
    elif how == "encrypted":
        content[place + 8] |= 1
    elif how == "method":
        content[place + 10] = 77
    else:
        content[place + 24 : place + 28] = (10).to_bytes(4, "little")  # says that it is ten bytes long
    file.write_bytes(content)
    return str(file)


@pytest.mark.parametrize("how", ["bytes", "checksum", "encrypted", "method", "length"])
@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_one_bad_picture_never_refuses_a_zip(tmp_path, method, how):
    read = read_upload(spoilt(getattr(zipfile, f"ZIP_{method}"), how, tmp_path))
    assert [one["title"] for one in read.products] == ["red mug", "blue mug", "green mug"]
    assert [one["pictured"] for one in read.products] == [True, False, True]
    assert len(read.lines()) == 1 and re.search("damaged|encrypted", read.lines()[0])


def test_a_picture_that_is_too_large_never_refuses_a_zip(tmp_path):
    members = {"red mug.png": picture("red"), "bomb.png": huge_png(20_000, 10_000), "big.png": bytes(16_000_000)}
    read = read_upload(make_zip(tmp_path / "mine.zip", members))
    assert [one["title"] for one in read.products] == ["red mug"]
    assert re.search("pixels", str(read.lines())) and re.search("more than 15 MB", str(read.lines()))


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
    monkeypatch.setattr(ShopEncoder, "products", lambda *args, **kwargs: embedded.append(1) or embed(*args, **kwargs))
    again = start.start()
    assert not embedded and np.array_equal(again.vectors["fused"], shop.vectors["fused"])
    corpus, queries, qrels = space_rows()
    corpus[3]["image"] = {"bytes": picture("yellow"), "path": "other.png"}
    write_shop(folders / "shop", corpus, queries, qrels)
    changed = start.start()
    assert embedded and not np.allclose(changed.vectors["fused"][3], shop.vectors["fused"][3])
    assert Image.open(io.BytesIO(changed.picture(3))).getpixel((0, 0)) == (255, 255, 0)
    assert len(list((folders / "prepared").glob("*.npz"))) == 1, "vectors of the catalogue as it was are kept"
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
    names = {"mine.npz", "vectors-mine.npz", f"vectors-{'0' * 32}.npz", f"vectors-{'0' * 8}-{'0' * 32}.npz"}
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    start.start()
    (ours,) = {path.name for path in tmp_path.glob("*.npz")} - names
    corpus, queries, qrels = space_rows()
    other = write_shop(tmp_path / "other", corpus[:11], queries, qrels)
    start.load_catalogue(str(other), None, shop.encoder)
    found = {path.name for path in tmp_path.glob("*.npz")}
    assert len(found) == 6 and names < found and ours in found, "another catalogue's vectors were removed"
    write_shop(tmp_path / "other", corpus[:10], queries, qrels)
    start.load_catalogue(str(other), None, shop.encoder)
    assert len(set(tmp_path.glob("*.npz"))) == 6, "the vectors of the catalogue as it was are still there"


def test_a_folder_of_another_command_is_let_be(shop, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path))
    (tmp_path / MARK).write_text('{"writer": "training.embed", "files": {"a.npz": "0"}}')
    assert len(start.start()) == 12 and os.listdir(tmp_path) == [MARK]
    assert "can't be kept" in capsys.readouterr().out


def rewrite(file: Path, **changes) -> None:
    """Writes a file of arrays anew with some changed, as a program would that knows numpy alone."""
    arrays = {**np.load(file), **changes}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def flip(file: Path, place: float) -> None:
    """Flips one bit."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


DAMAGE = {
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-900]),
    "empty": lambda file: file.write_bytes(b""),
    "a bit of a vector": lambda file: flip(file, 0.3),
    "a bit of the file's list": lambda file: flip(file, 0.99),
    "shape": lambda file: rewrite(file, fused=np.zeros((3, 5), np.float32)),
    "no view": lambda file: rewrite(file, image=None),
    "no number": lambda file: rewrite(file, text=np.full_like(np.load(file)["text"], np.nan)),
    "another's numbers": lambda file: rewrite(file, text=np.load(file)["fused"]),
    "no mark": lambda file: (file.parent / MARK).unlink(),
    "a damaged mark": lambda file: (file.parent / MARK).write_bytes(b'{"writer": "the Space", "files": ["a"]}'),
    "a folder": lambda file: file.unlink() or file.mkdir(),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_vectors_are_made_again(shop, folders, tmp_path, monkeypatch, capsys, case):
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path))
    start.start()
    (file,) = tmp_path.glob("*.npz")
    DAMAGE[case](file)
    capsys.readouterr()
    again = start.start()
    said = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert str(file) in said[0] and len(said) == 1 + (case == "a folder")
    assert all(np.array_equal(again.vectors[view], shop.vectors[view]) for view in again.vectors)
    start.start()
    assert ("made again" in capsys.readouterr().out) == (case == "a folder"), "what was mended is damaged"


def test_damaged_weights_are_told_in_one_sentence(folders, tmp_path, monkeypatch):
    weights = folders / "run" / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.startswith("query_heads"))
    model = tmp_path / "model"
    monkeypatch.setenv("MMFUSION_MODEL", str(model))
    for content in (
        weights.read_bytes()[:-100],
        b"",
        b"\xff" * 500,
        save({other: tensor for other, tensor in tensors.items() if other != name}, {"format": "pt"}),
        save(tensors | {name: torch.full_like(tensors[name], torch.nan)}, {"format": "pt"}),
        save(tensors | {name: torch.zeros(3)}, {"format": "pt"}),
    ):
        shutil.copytree(weights.parent, model, dirs_exist_ok=True)
        (model / weights.name).write_bytes(content)
        with pytest.raises(start.SetupError, match="model can't be read: ") as error:
            start.start()
        assert "\n" not in str(error.value)
    shutil.copytree(weights.parent, model, dirs_exist_ok=True)
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(start.SetupError, match="model can't be read: "):
        start.start()


def test_unreadable_pictures_of_a_catalogue_are_counted(shop, folders, tmp_path, monkeypatch, capsys):
    corpus, queries, qrels = space_rows()
    damaged = bytearray(picture(format="AVIF"))
    damaged[100:140] = bytes(40)
    for row, content in ((2, SVG), (4, bytes(damaged)), (5, picture(format="WEBP")[:40])):
        corpus[row]["image"] = {"bytes": content, "path": "drawing.png"}
    write_shop(tmp_path / "shop", corpus, queries, qrels)
    monkeypatch.setenv("MMFUSION_PREPARED", str(tmp_path / "prepared"))
    catalogue = start.load_catalogue(str(tmp_path / "shop"), "test", shop.encoder)
    assert "3 pictures can't be read" in capsys.readouterr().out and len(catalogue) == 12
    again = start.load_catalogue(str(tmp_path / "shop"), "test", shop.encoder)
    for one in (catalogue, again):
        assert [one.thumbnail(row) is None for row in range(6)] == [False, True, True, False, True, True]
        assert one.pictured.tolist()[:6] == [True, False, False, True, False, False]
        query = one.encoder.query("red mug")
        assert one.encoder.picture_map(query, one.product_inputs(2)) is None


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
