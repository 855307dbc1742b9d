"""The model over HTTP: vectors and results as in Python, many clients at once, one sentence for each mistake."""

import asyncio
import base64
import json
import re
import sys
import threading
import tomllib
from pathlib import Path
from shutil import copytree

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from helpers import make_model, picture, write_shop
from test_search import write_run

from modeling_mmfusion import MMFusionProcessor, serve, service
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.model_folder import load_model
from modeling_mmfusion.search import Searcher
from modeling_mmfusion.service import create_app
from modeling_mmfusion.service_towers import ServedModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(towers, tmp_path_factory):
    """A run of the tiny shop; a test that changes it makes a copy."""
    folder = tmp_path_factory.mktemp("served")
    processor = MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"])
    return write_run(folder / "run", make_model(towers), processor, write_shop(folder / "shop"), words=True)


@pytest.fixture(scope="module")
def client(run):
    with TestClient(create_app(ServedModel(run), "shop"), raise_server_exceptions=False) as client:
        yield client


def encoded(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def vectors_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], dtype=np.float32)


def message_of(answer: httpx.Response) -> str:
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


def ask(client, given, **options):
    return client.post("/v1/embeddings", json={"input": given, **options})


@torch.no_grad()
def test_vectors_are_those_of_the_class(client, run):
    model, processor = load_model(run / "model", device="cpu")
    queries = ["red mug", "a small striped lamp with a very long name"]
    found = vectors_of(ask(client, queries, model="any", user="me"))
    expected = model.get_query_features(**processor.process_queries(queries)).pooler_output
    np.testing.assert_allclose(found, expected, atol=1e-5)

    red, blue = picture("red"), picture("blue", (200, 60), "JPEG")
    products = [
        {"title": "Red mug", "brand": "Acme", "attributes": {"size": "M"}, "image": red},
        {"description": "no picture", "price": 9.9},
        {"image": [blue, red]},
        {"text": "one string", "image": None},
    ]
    sent = [{**one, **({"image": sendable(one["image"])} if one.get("image") else {})} for one in products]
    found = vectors_of(ask(client, sent, input_type="document"))
    expected = model.get_product_features(**processor.process_products(products)).pooler_output
    np.testing.assert_allclose(found, expected, atol=1e-5)


def sendable(image):
    return [encoded(one) for one in image] if isinstance(image, list) else base64.b64encode(image).decode()


def test_queries_of_pictures_and_texts_in_one_request(client, run):
    red = picture("red")
    found = vectors_of(ask(client, ["blue lamp", encoded(red), {"text": "red mug", "image": encoded(red)}]))
    expected = Searcher(run).embed(["blue lamp", "", "red mug"], [None, red, red])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_dimensions_and_base64(client, run):
    short, processor = load_model(run / "model", device="cpu", truncate_dim=24)
    expected = short.get_query_features(**processor.process_queries(["red mug"])).pooler_output
    answer = ask(client, "red mug", dimensions=24, encoding_format="base64").json()
    found = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    tokens = int(processor.process_queries(["red mug"])["attention_mask"].sum())
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens} and answer["model"] == "shop"
    assert answer["object"] == "list" and answer["data"][0]["object"] == "embedding"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"query": "red mug", "k": 3}, {"query": "red mug", "k": 3}),
        ({"query": "lamp", "hybrid": False}, {"query": "lamp", "hybrid": False}),
        (
            {"query": "mug", "where": {"price": {"gte": 5, "lte": 9.9}}},
            {"query": "mug", "where": {"price": (5, 9.9)}},
        ),
        (
            {"query": "mug", "where": {"_id": ["mug-red", "lamp-blue", "bowl-green"]}, "k": 2},
            {"query": "mug", "where": {"_id": ["mug-red", "lamp-blue", "bowl-green"]}, "k": 2},
        ),
        ({"image": encoded(picture("blue"))}, {"query": "", "image": picture("blue")}),
        (
            {"query": "mug", "image": encoded(picture("blue")), "image_weight": 0.2},
            {"query": "mug", "image": picture("blue"), "image_weight": 0.2},
        ),
    ],
)
def test_results_are_those_of_the_searcher(client, run, asked, expected):
    answer = client.post("/search", json=asked)
    assert answer.status_code == 200, answer.text
    results, shares = Searcher(run).search(**expected)
    found = answer.json()
    assert [one["product_id"] for one in found["results"]] == [one.product_id for one in results]
    assert found["results"][0]["contributions"] == pytest.approx(results[0].contributions, abs=1e-5)
    by_words = bool(expected["query"]) and expected.get("hybrid", True)
    assert found["results"][0]["contributions"].keys() - shares.keys() == ({"words"} if by_words else set())
    np.testing.assert_allclose([one["score"] for one in found["results"]], [one.score for one in results], atol=1e-5)
    np.testing.assert_allclose(list(found["shares"].values()), list(shares.values()), atol=1e-5)


@pytest.mark.parametrize(("bounds", "count"), [({"gt": 9.9}, 0), ({"gte": 9.9}, 12), ({"lt": 9.9, "gte": 1}, 0)])
def test_bounds_that_are_not_included(client, bounds, count):
    found = client.post("/search", json={"query": "mug", "k": 100, "where": {"price": bounds}})
    assert len(found.json()["results"]) == count


def test_what_is_typed_and_what_no_product_has(client):
    found = client.post("/search", json={"query": "mug", "k": 100, "where": "price<=9.9; title=Plain  MUG"}).json()
    assert [one["product"]["title"] for one in found["results"]] == ["plain mug"] * 3 and found["notes"] == []
    found = client.post("/search", json={"query": "mug", "where": {"title": "plain mugs"}}).json()
    assert found["results"] == [] and found["notes"][0].startswith("no product has title 'plain mugs'; nearest")


def test_queries_are_turned_away_from_what_they_do_not_want(client):
    texts = ["shirt", "red shirt", "shirt without red"]
    answer = client.post("/v1/embeddings", json={"input": texts}).json()
    shirt, red, found = (np.array(one["embedding"]) for one in answer["data"])
    expected = 1.6 * shirt - 0.6 * red
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_corrected_query_is_told(client):
    found, meant = (client.post("/search", json={"query": text}).json() for text in ("plian shrit", "plain shirt"))
    assert found["read_as"] == "plain shirt" and "read_as" not in meant
    assert [one["product_id"] for one in found["results"]] == [one["product_id"] for one in meant["results"]]


def test_what_json_has_no_word_for():
    """A price that is no number and a date; both are valid in a catalogue."""
    answer = service.as_json({"price": float("nan"), "seen": np.datetime64("2026-01-01"), "title": "Mug"})
    assert answer.body == b'{"price":null,"seen":"2026-01-01","title":"Mug"}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": []}, "0 inputs"),
        ({"input": "mug", "input_types": "query"}, "input_types: there is no such field"),
        ({"input": ["mug", " "]}, "input 1: the query is empty"),
        ({"input": [12, 55]}, "ids of tokens are not taken"),
        ({"model": "shop"}, "input: Field required"),
        ({"input": "mug", "dimensions": 100000}, "dimensions is 100000"),
        ({"input": "mug", "dimensions": 1}, "dimensions: can't truncate"),
        ({"input": "mug", "input_type": "passage"}, "input_type"),
        ({"input": "mug", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x" * 200_000}, "more than 100,000 characters"),
        ({"input": ["mug"] * 1000}, "1000 inputs"),
        ({"input": [{"title": "Mug"}]}, '"input_type": "document"'),
        ({"input": [{"titel": "Mug"}], "input_type": "document"}, "'titel' is no field of a document"),
        ({"input": [{"text": 7}]}, "text is int"),
        ({"input": {"image": "http://127.0.0.1/x.png"}}, "nothing is fetched"),
        ({"input": {"image": "file:///etc/passwd"}}, "nothing is fetched"),
        ({"input": {"image": "/etc/passwd"}}, "image: "),
        ({"input": {"image": "?"}}, "neither a data URL nor base64"),
        ({"input": {"image": "data:image/png,abc"}}, "begins with data:image/"),
        ({"input": {"image": {"path": "/etc/passwd"}}}, "base64 or a data URL, not dict"),
        ({"input": {"image": base64.b64encode(b"no picture").decode()}}, "unreadable picture"),
        ({"input": {"image": encoded(picture()[:80])}}, "unreadable picture"),
        ({"input": [{"image": [encoded(picture())] * 2}]}, "2 pictures are too many"),
        ({"input": [{"image": [encoded(picture())] * 17}], "input_type": "document"}, "17 pictures are too many"),
    ],
)
def test_mistakes_in_embeddings_are_one_sentence(client, body, words):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 400 and words in message_of(answer), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "the query is empty"),
        ({"query": "mug", "k": 0}, "k: "),
        ({"query": "mug", "k": "many"}, "k: "),
        ({"query": "mug", "where": {"colour": "red"}}, "no column 'colour'"),
        ({"query": "mug", "where": {"price": {"from": 3}}}, "bounds are numbers by the names gt, gte, lt, lte"),
        ({"query": "mug", "where": {"price": {"lte": "cheap"}}}, "bounds are numbers"),
        ({"query": "mug", "where": {"price": {}}}, "bounds are numbers"),
        ({"query": "mug", "where": [1]}, "where"),
        ({"query": "mug", "where": "price under 5"}, "write column=value"),
        ({"query": "mug", "image": "no picture"}, "neither a data URL nor base64"),
        ({"query": "mug", "image_weight": 7}, "image_weight"),
    ],
)
def test_mistakes_in_searches_are_one_sentence(client, body, words):
    answer = client.post("/search", json=body)
    assert answer.status_code == 400 and words in message_of(answer), answer.text


def test_other_mistakes(client, monkeypatch):
    answer = client.post("/search", content=b"{query", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "no JSON" in message_of(answer)
    assert client.get("/nothing").status_code == 404 and message_of(client.get("/nothing"))
    assert client.get("/search").status_code == 405
    monkeypatch.setattr(service, "MAX_BODY_BYTES", 1000)
    answer = client.post("/search", json={"query": "x" * 2000})
    assert answer.status_code == 413 and message_of(answer)

    def fail(*given):
        raise RuntimeError("secret path")

    monkeypatch.setattr(ProductIndex, "search", fail)
    answer = client.post("/search", json={"query": "mug"})
    assert answer.status_code == 500 and "secret" not in answer.text and message_of(answer)


def test_too_many_inputs_at_once_are_told_to_come_again(client, monkeypatch):
    monkeypatch.setattr(service, "MAX_OPEN", 3)
    answer = ask(client, ["mug"] * 4)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1" and message_of(answer)
    assert ask(client, ["mug"] * 3).status_code == 200


def test_without_index_and_without_product_tower(run):
    with TestClient(create_app(ServedModel(run / "model", queries_only=True))) as client:
        assert vectors_of(ask(client, "red mug")).shape[0] == 1
        for given in ({"text": "mug", "image": encoded(picture())}, {"image": encoded(picture())}):
            answer = ask(client, given)
            assert answer.status_code == 400 and "--queries-only" in message_of(answer)
        answer = ask(client, "a mug", input_type="document")
        assert answer.status_code == 400 and "--queries-only" in message_of(answer)
        answer = client.post("/search", json={"query": "mug"})
        assert answer.status_code == 404 and "index/" in message_of(answer)
        assert client.get("/health").json() == {"status": "ok", "model": "mmfusion", "products": None}


def test_a_newer_index_is_taken_over_but_not_another_models(run, tmp_path):
    served = ServedModel(copytree(run, tmp_path / "run"))
    held = ProductIndex.load(tmp_path / "run" / "index")
    held.remove(["mug-red"])
    held.save(tmp_path / "run" / "index")
    served.refresh()
    assert "mug-red" not in served.index and served.index.generation == held.generation
    before = served.index
    held.model = "another"
    held.remove(["mug-blue"])
    held.save(tmp_path / "run" / "index")
    with pytest.raises(DataError, match="another model"):
        served.refresh()
    assert served.index is before and "mug-blue" in served.index


def test_metrics_health_and_what_is_documented(run):
    with TestClient(create_app(ServedModel(run), "shop")) as client:
        expect_metrics(client)


def expect_metrics(client):
    ask(client, ["red mug", "lamp"])
    ask(client, {"titel": "x"})
    client.post("/search", json={"query": "mug"})
    text = client.get("/metrics").text
    assert 'mmfusion_requests_total{path="/v1/embeddings",status="200"} 1.0' in text
    assert 'mmfusion_requests_total{path="/v1/embeddings",status="400"} 1.0' in text
    assert 'mmfusion_batch_inputs_sum{kind="query"} 3.0' in text and "mmfusion_open_inputs 0.0" in text
    assert 'mmfusion_request_seconds_count{path="/search"} 1.0' in text
    assert client.get("/health").json()["products"] > 0
    assert client.get("/v1/models").json()["data"][0]["id"] == "shop"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/embeddings", "/search", "/health"} <= paths.keys()
    assert client.get("/docs").status_code == 200


def test_two_hundred_clients_at_once(run):
    """Each gets its own answer, and queries of several are embedded together; one bad picture is nobody else's."""
    served = ServedModel(run)
    sizes = []
    embed_texts = served.embed_texts
    served.embed_texts = lambda inputs: sizes.append(len(inputs)) or embed_texts(inputs)
    server = uvicorn.Server(uvicorn.Config(create_app(served), port=0, log_level="error", timeout_keep_alive=75))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    words = ["red", "blue", "small", "striped", "mug", "lamp", "green"]
    texts = [f"{words[number % 7]} {words[number // 7 % 7]} {words[number // 49]}" for number in range(200)]

    async def ask_all():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:

            async def one(number):
                if number % 20 == 7:
                    bad = await client.post("/v1/embeddings", json={"input": {"image": "AAAA"}})
                    assert bad.status_code == 400
                answer = await client.post("/v1/embeddings", json={"input": texts[number]})
                search = await client.post("/search", json={"query": texts[number], "k": 1})
                assert search.status_code == 200
                return vectors_of(answer)[0]

            return await asyncio.gather(*map(one, range(200)))

    try:
        found = asyncio.run(ask_all())
    finally:
        server.should_exit = True
        thread.join()
    np.testing.assert_allclose(np.stack(found), Searcher(run).embed(texts), atol=1e-5)
    assert max(sizes) > 4


def test_the_command_says_what_is_wrong(run, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--run", str(tmp_path / "nothing")])
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--run", str(run), "--tower", "int8"])
    assert "training.export" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--run", str(run)])
    assert capsys.readouterr().err == "error: uvicorn is not installed; run: pip install 'mmfusion[serve]'\n"


def test_the_images_recipe_starts_the_command_with_files_that_there_are(monkeypatch):
    recipe = (ROOT / "training" / "scale" / "Dockerfile").read_text()
    for names in re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE):
        assert all((ROOT / name).exists() for name in names.split())
    words = json.loads(re.search(r"^ENTRYPOINT (.+)$", recipe, re.MULTILINE)[1])
    assert words[:3] == ["python", "-m", serve.__name__]
    given = {}
    monkeypatch.setattr(serve, "serve", lambda **options: given.update(options))
    serve.main(words[3:])
    assert given["host"] == "0.0.0.0" and f"{given['port']}/health" in recipe
    extras = re.search(r"\.\[(\w+)\]", recipe)[1]
    assert extras in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
