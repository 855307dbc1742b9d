"""What goes wrong with OpenSearch and Elasticsearch is told in one line; the stand-in refuses what they refuse."""

import base64
import json
import socket

import numpy as np
import pytest
from engine_contract import digests_by_id, schema_of, small_table
from opensearch_stand_in import HTML, StandIn, basic, said, serving

from modeling_mmfusion.errors import DataError
from training.scale import opensearch_rest
from training.scale.engine import open_engine
from training.scale.opensearch_rest import TOKEN

ENGINES = ["opensearch", "elasticsearch"]


@pytest.fixture(params=ENGINES)
def name(request):
    return request.param


@pytest.fixture
def server(name, monkeypatch):
    monkeypatch.setattr(opensearch_rest, "PAUSE", 0.0)
    monkeypatch.delenv(TOKEN, raising=False)
    with serving(StandIn(name == "elasticsearch")) as server:
        yield server


@pytest.fixture
def engine(name, server):
    with open_engine(f"{name}:{server.url}") as engine:
        yield engine


# Servers that are busy, refuse, or are none


def test_products_that_came_too_fast_are_sent_again(engine, server):
    table = small_table(title=["x", "y", "z"])
    server.busy = {"b": 3, "c": 1}
    assert engine.load([table], schema_of(table)) == 3
    assert engine.digests() == digests_by_id(table)
    server.busy = {"c": 100}
    with pytest.raises(DataError, match="search is too busy for product 'c' and 0 others; try again later") as error:
        engine.upsert(table)
    assert "\n" not in str(error.value)


def test_requests_that_came_too_fast_are_made_again(engine, server):
    engine.load([small_table()], schema_of(small_table()))
    busy = json.dumps({"error": {"type": "circuit_breaking_exception", "reason": "data too large"}, "status": 429})
    said(server, (429, "application/json", busy), (503, "text/html", "<html>"), (429, "application/json", busy))
    assert engine.count() == 3
    said(server, *[(429, "application/json", busy)] * opensearch_rest.TRIES)
    with pytest.raises(DataError, match="search answers 429: data too large$"):
        engine.count()


def test_a_product_that_is_not_taken_is_named(engine, server):
    engine.load([small_table()], schema_of(small_table()))
    error = {"type": "document_parsing_exception", "reason": "failed to parse", "caused_by": {"reason": "too\nlong"}}
    items = [{"index": {"_id": "a", "status": 201}}, {"index": {"_id": "b", "status": 400, "error": error}}]
    [index] = server.indices.values()
    found = json.dumps({next(iter(server.indices)): {"mappings": index.mappings}})
    said(server, (200, "application/json", found), (200, "application/json", json.dumps({"items": items})))
    with pytest.raises(DataError, match="product 'b' was not taken: failed to parse: too long$"):
        engine.upsert(small_table(_id=["a", "b"], vectors=np.eye(2, 4)))


ANSWERS = [
    (200, "text/html", HTML, "answers 200 and what is no {name}'s JSON: '<html> <body> Sign in"),
    (502, "text/html", HTML, "answers 502 and what is no {name}'s JSON"),
    (200, "application/json", '{"products_mmfusion_1": {"mapp', "answers 200 and what is no {name}'s JSON"),
    (200, "application/json", "", "answers 200 and what is no {name}'s JSON: ''"),
    (200, "application/json", "[1]", "answers 200 and what is no {name}'s JSON"),
    (200, "application/json", "null", "answers 200 and what is no {name}'s JSON"),
    (200, "application/json", '{"products_mmfusion_1": 3}', "answers as no {name} does, without 'mappings'"),
    (
        200,
        "application/json",
        '{"products_mmfusion_1": {"mappings": []}}',
        "the index 'products_mmfusion_1' was not loaded",
    ),
    (301, "text/plain", "moved", "answers 301 and what is no"),
    (500, "application/json", '{"error": "it\\nbroke"}', "{name} answers 500: it broke$"),
    (400, "application/json", '{"error": {"root_cause": [], "reason": "no"}}', "{name} answers 400: no$"),
    (401, "text/plain", "Unauthorized", r"{name} refuses access \(401\); give user:password@ or key@ in the address"),
    (403, "application/json", '{"error": {"reason": "index is read-only"}}', r"access \(403, index is read-only\)"),
    (404, "text/html", HTML, "answers 404 and what is no"),
]


@pytest.mark.parametrize(("status", "kind", "body", "message"), ANSWERS)
def test_wrong_answers_are_one_line(engine, server, name, status, kind, body, message):
    said(server, (status, kind, body))
    with pytest.raises(DataError, match=message.format(name=name)) as error:
        engine.read_schema()
    assert "\n" not in str(error.value) and server.url in str(error.value)


def test_half_an_answer_and_answers_without_what_is_asked_for(engine, server, name):
    engine.load([small_table()], schema_of(small_table()))
    [(index, facts)] = server.indices.items()
    found = (200, "application/json", json.dumps({index: {"mappings": facts.mappings}}))
    for body in ('{"took": 1}', '{"responses": [{"hits": {}}]}', '{"responses": [{"hits": {"hits": [{}]}}]}'):
        said(server, found, (200, "application/json", body))
        with pytest.raises(DataError, match=f"answers as no {name} does, without"):
            engine.search(np.eye(1, 4))
    for answer in ('{"count": "many"}', '{"count": null}', "{}"):
        said(server, found, (200, "application/json", answer))
        with pytest.raises(DataError, match=f"answers as no {name} does"):
            engine.count()
    failed = {"responses": [{"error": {"type": "search_phase_execution_exception", "reason": "boom"}, "status": 400}]}
    said(server, found, (200, "application/json", json.dumps(failed)))
    with pytest.raises(DataError, match=f"{name} answers 400: boom$"):
        engine.search(np.eye(1, 4))


def test_a_server_that_is_away_breaks_off_or_speaks_no_tls(name, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secure = server.url.replace("http:", "https:")
    for address in (f"http://127.0.0.1:{port}", secure, "http://host.invalid:9200"):
        with pytest.raises(DataError, match=rf"{address}: {name} can't be reached \(.+\)$") as error:
            open_engine(f"{name}:{address.replace('://', '://me:secret@')}")
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "place",
    ["host:9200", "ftp://me:secret@host", "https://", "https://me:se/secret@host", "https://me:secret@host:port",
     "https://host?x=secret", "https://me:secret@ho st", "https://[me:secret@host", "https://me:secret@host:0"],
)  # fmt: skip
def test_addresses_that_are_none_are_refused_and_tell_no_password(name, place):
    with pytest.raises(DataError, match="the address is none; write") as error:
        open_engine(f"{name}:{place}")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_the_other_engine_is_told_apart(name, server):
    [other] = set(ENGINES) - {name}
    with pytest.raises(DataError, match=f"is no {other}; is it {name}:{server.url} that you mean"):
        open_engine(f"{other}:{server.url}")


@pytest.mark.parametrize(
    ("user", "token", "wanted"),
    [
        ("me:s%40c%23ret@", "", basic("me", "s@c#ret")),
        ("me:p:w@", "other:one", basic("me", "p:w")),
        ("", "me:secret", basic("me", "secret")),
        ("", " a2V5 ", "KEY a2V5"),
        ("a2V5%3D%3D@", "", "KEY a2V5=="),
        ("me:sécret@", "", "Basic " + base64.b64encode("me:sécret".encode()).decode()),
    ],
)
def test_users_and_keys_are_sent_and_never_told(name, server, monkeypatch, user, token, wanted):
    server.authorization = wanted.replace("KEY", "ApiKey" if name == "elasticsearch" else "Bearer")
    monkeypatch.setenv(TOKEN, token)
    with open_engine(f"{name}:{server.url.replace('://', f'://{user}')}") as engine:
        engine.create(schema_of(small_table()))
        assert engine.place == server.url
    server.authorization = "another"
    with pytest.raises(DataError, match=r"refuses access \(401, missing authentication credentials\)") as error:
        open_engine(f"{name}:{server.url.replace('://', f'://{user}')}")
    assert not any(secret in str(error.value) for secret in ("cret", "a2V5", "p:w", "me:"))


def test_a_key_that_no_header_has_is_refused(name, server, monkeypatch):
    monkeypatch.setenv(TOKEN, "kéy\nsecret")
    with pytest.raises(
        DataError, match="the key for it holds what is no ASCII; look at MMFUSION_ENGINE_TOKEN"
    ) as error:
        open_engine(f"{name}:{server.url}")
    assert "secret" not in str(error.value)


# The stand-in refuses what real ones refuse


VECTOR = {
    "type": "dense_vector",
    "dims": 2,
    "index": True,
    "similarity": "dot_product",
    "index_options": {"type": "hnsw"},
}
WRONG = [
    (True, "PUT", "/Upper", {}, "Invalid index name"),
    (True, "PUT", "/i", {"mapping": {}}, "unknown key"),
    (True, "PUT", "/i", {"settings": {"index": {"knn": True}}}, "index.knn"),
    (True, "PUT", "/i", {"mappings": {"properties": {"_id": {"type": "keyword"}}}}, "metadata field"),
    (True, "PUT", "/i", {"mappings": {"properties": {"a.b": {"type": "keyword"}}}}, "a dot makes"),
    (True, "PUT", "/i", {"mappings": {"properties": {"v": {"type": "knn_vector"}}}}, "No handler for type"),
    (False, "PUT", "/i", {"mappings": {"properties": {"v": VECTOR}}}, "No handler for type"),
    (True, "PUT", "/i", {"mappings": {"properties": {"v": {**VECTOR, "dims": 4097}}}}, "number of dimensions"),
    (True, "GET", "/i/_count?q=x", None, "unrecognized"),
    (True, "POST", "/a/_search", {"size": 10_001}, "Result window"),
    (False, "POST", "/a/_search", {"knn": {}}, "unknown key"),
    (True, "POST", "/a/_search", {"query": {"knn": {"vector": {"vector": [1.0], "k": 1}}}}, "requires"),
    (True, "POST", "/a/_search", {"query": {"terms": {"id": ["x"] * 65_537}}}, "more than"),
    (True, "POST", "/a/_search", {"query": {"match": {"id": "x"}}}, "unknown query"),
    (True, "DELETE", "/a", None, "matches an alias"),
]


@pytest.mark.parametrize(("elastic", "method", "path", "body", "reason"), WRONG)
def test_the_stand_in_refuses(elastic, method, path, body, reason):
    server = StandIn(elastic)
    server.create("real", {"mappings": {"properties": {"id": {"type": "keyword"}}}})
    server.aliases["a"] = "real"
    content = json.dumps(body).encode() if body is not None else b""
    status, answer = server.answer(method, path, "application/json" if content else None, None, content)
    assert status == 400 and reason in answer["error"]["reason"]


@pytest.mark.parametrize("last", [b'{"id":"x"}', b'{"id":NaN}\n', b'{"id":"x"}\n\n'])
def test_the_stand_in_refuses_lines(last):
    server = StandIn(True)
    server.create("real", {"mappings": {"properties": {"id": {"type": "keyword"}}}})
    status, _ = server.answer("POST", "/real/_bulk", "application/x-ndjson", None, b'{"index":{"_id":"1"}}\n' + last)
    assert status == 400
