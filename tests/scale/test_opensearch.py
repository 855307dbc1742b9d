"""OpenSearch and Elasticsearch keep the contract of engines, on stand-ins that check what they are asked."""

import json

import numpy as np
import pyarrow as pa
import pytest
from engine_contract import (
    EngineContract,
    brute_force,
    digests_by_id,
    schema_of,
    small_table,
    unit_vectors,
    with_vectors,
    worded,
)
from opensearch_stand_in import HTML, StandIn, said, serving
from opensearch_stand_in_search import Index, Search

from modeling_mmfusion.errors import DataError
from training.scale import opensearch, opensearch_rest
from training.scale.engine import ProductSchema, open_engine
from training.scale.opensearch import inner_product
from training.scale.opensearch_documents import column_name, field_name
from training.scale.opensearch_rest import TOKEN

ENGINES = ["opensearch", "elasticsearch"]


class OnStandIn(EngineContract):
    elastic = False

    @pytest.fixture(scope="class")
    def server(self):
        with serving(StandIn(self.elastic)) as server:
            yield server

    @pytest.fixture(scope="class")
    def address_of(self, server):
        name = "elasticsearch" if self.elastic else "opensearch"
        return lambda collection: f"{name}:{server.url}#{collection}"

    @pytest.fixture(autouse=True)
    def _at(self, server):
        self.server = server

    def somebody_elses(self, address):
        name = address.partition("#")[2]
        self.server.create(name, {"mappings": {"properties": {"title": {"type": "text"}}}})
        return lambda: (self.server.indices[name].mappings, dict(self.server.indices[name].written))


class TestOpenSearch(OnStandIn):
    pass


class TestElasticsearch(OnStandIn):
    elastic = True


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


# Hybrid search


@pytest.mark.parametrize("word", ["zebra", "z" * 300])  # their tokenizer cuts words at 255
def test_hybrid_search_finds_what_no_vector_finds(engine, word):
    """Of 300 products the one with the word is the farthest from the query."""
    table = worded(300)
    vectors = np.eye(2, 16, dtype=np.float32)[[0] * 299 + [1]]
    vectors[299] *= -1
    table = with_vectors({"_id": table.column("_id"), "title": ["mug"] * 299 + [word]}, vectors)
    engine.load([table], schema_of(table))
    [best, *_] = engine.search(np.eye(1, 16), 10, texts=[word])[0]
    assert best.product_id == "p000"  # what all are nearest to still weighs more than a word of a far one
    [best, *_] = engine.search(np.eye(2, 16)[1:], 10, texts=[word])[0]
    assert best.product_id != "p299"
    [best, *_] = engine.search(np.eye(3, 16)[2:], 10, texts=[word])[0]
    assert best.product_id == "p299" and best.score > 0.3


def test_long_and_many_words_are_searched(engine):
    table = small_table(title=["x" * 300, " ".join(f"w{number}" for number in range(3000)), "other"])
    table = with_vectors({name: table.column(name) for name in ("_id", "title")}, np.eye(1, 4).repeat(3, 0))
    engine.load([table], schema_of(table))
    query = np.eye(1, 4)
    assert engine.search(query, 1, texts=["other"])[0][0].product_id == "c"
    assert engine.search(query, 1, texts=["x" * 300])[0][0].product_id == "a"
    assert engine.search(query, 1, texts=[" ".join(f"w{number}" for number in range(2500))])[0][0].product_id == "b"


# Filters and columns


LONG = "ü" * 20_000


def test_texts_of_any_length_are_filtered_exactly(engine):
    """A keyword of theirs has 32,766 bytes at most; these differ in what is behind them."""
    columns = {"_id": ["1", "2", "3", "4"], "note": [LONG + "a", LONG + "b", f"{LONG} > deep > mugs", "short"]}
    table = with_vectors(columns, np.eye(4))
    engine.load([table], schema_of(table))
    for wanted, ids in [
        (LONG + "a", ["1"]),
        (LONG.upper() + " A".strip(), ["1"]),
        (LONG + "b", ["2"]),
        (LONG, ["3"]),
        (f"{LONG} > deep", ["3"]),
        (f"{LONG} > de", []),
        ("short", ["4"]),
        (["short", LONG + "b"], ["2", "4"]),
    ]:
        found = engine.search(np.eye(1, 4), 10, {"note": wanted})[0]
        assert sorted(one.product_id for one in found) == ids, wanted[-9:]
    assert engine.search(np.eye(1, 4), 1)[0][0].product == {"note": LONG + "a"}, "what is shown is not cut"


def test_a_text_of_a_thousand_levels_makes_no_huge_document(engine, server):
    text = " > ".join(f"level {number}" for number in range(1000))
    table = small_table(category=[text, None, "level 0"])
    engine.load([table], schema_of(table))
    [index] = server.indices.values()
    assert len(json.dumps(index.found["a"]["text"])) < 100_000
    half = " > ".join(f"level {number}" for number in range(500))
    found = engine.search(np.eye(1, 4), 10, {"category": half})[0]
    assert [one.product_id for one in found] == ["a"]


def test_numbers_that_json_has_not_and_both_zeros(engine):
    numbers = [np.nan, np.inf, -np.inf, -0.0, 0.0, 2.5]
    table = with_vectors({"_id": list("abcdef"), "price": numbers}, np.eye(6))
    engine.load([table], schema_of(table))
    found = {one.product_id: one.product["price"] for one in engine.search(np.eye(1, 6), 10)[0]}
    assert found == {"a": None, "b": None, "c": None, "d": 0.0, "e": 0.0, "f": 2.5}
    for where in (0, -0.0):
        assert len(engine.search(np.eye(1, 6), 10, {"price": where})[0]) == 2, "either zero is zero"
    for where in ((0, None), (-0.0, 0.0), (None, -1), (3, None), (None, None)):
        expected = {one for one, _, _ in brute_force(table, np.eye(1, 6), 10, {"price": where})[0]}
        results = engine.search(np.eye(1, 6), 10, {"price": where})[0]
        assert {one.product_id for one in results} == expected, where
    assert engine.digests() == digests_by_id(table)


def test_many_values_are_asked_for_in_parts(engine, monkeypatch):
    table = small_table(pages=[1, 2, 3])
    engine.load([table], schema_of(table))
    wanted = list(range(3, 70_000))
    assert [one.product_id for one in engine.search(np.eye(1, 4), 10, {"pages": wanted})[0]] == ["c"]


@pytest.mark.parametrize(
    "column", ["a.b", ".", "..", "", " ", "_id", "_source", "column_", "column_61", "Größe", "a" * 400]
)
def test_fields_names_are_theirs_and_lead_back(column):
    field = field_name(column)
    assert column_name(field) == column
    assert field.strip() and "." not in field and not field.startswith("_")


def test_a_thousand_fields_are_refused_before_anything_is_written(engine, server):
    tables = [with_vectors({"_id": ["a"], **{f"c{at}": ["x"] for at in range(n)}}, np.eye(1, 4)) for n in (490, 500)]
    fits, many = [schema_of(table) for table in tables]
    engine.check(fits)
    assert engine.load(tables[:1], fits) == 1
    server.asked.clear()
    for use in (lambda: engine.check(many), lambda: engine.load(tables[1:], many)):
        with pytest.raises(DataError, match=r"501 columns make 1,\d\d\d fields .*an index takes 1,000; name those"):
            use()
    assert {method for method, _ in server.asked} <= {"GET"} and engine.count() == 1


@pytest.mark.parametrize("dim", [0, 4097, 16_001])
def test_vectors_that_are_too_wide_are_refused(engine, dim, name):
    schema = ProductSchema(dim, {"_id": pa.large_string()})
    if dim == 4097 and name == "opensearch":
        return engine.check(schema)
    with pytest.raises(DataError, match=f"{name} takes vectors of 1 to .* numbers, not {dim:,}"):
        engine.check(schema)


def test_an_empty_id_is_refused(engine):
    table = small_table(_id=["a", ""], vectors=np.eye(2, 4))
    with pytest.raises(DataError, match="a product has an empty _id"):
        engine.load([table], schema_of(table))
    assert engine.read_schema() is None


@pytest.mark.parametrize(
    "collection", ["Products", "_p", "-p", "a b", "a/b", "a*", "a,b", "größe", "x" * 201, ".", "a#b"]
)
def test_names_that_no_alias_has_are_refused(collection, server, name):
    with pytest.raises(DataError, match="give lower-case letters, digits"):
        open_engine(f"{name}:{server.url}#{collection}")
    assert not server.asked


# Limits of one search


def test_more_products_than_one_answer_has(engine, monkeypatch):
    monkeypatch.setattr(opensearch, "MAX_RESULTS", 2)
    table = small_table(_id=list("abcde"), vectors=np.eye(5, 4))
    engine.load([table], schema_of(table))
    assert engine.digests() == digests_by_id(table), "page by page"
    assert len(engine.search(np.eye(1, 4), 2)[0]) == 2
    with pytest.raises(DataError, match="k is 3; of 5 products (open|elastic)search finds 2 at most"):
        engine.search(np.eye(1, 4), 3)
    engine.delete(["a", "b", "c"])
    assert len(engine.search(np.eye(1, 4), 1000)[0]) == 2


def test_many_products_and_queries_go_in_several_requests(engine, server, monkeypatch):
    monkeypatch.setattr(opensearch_rest, "REQUEST_BYTES", 2000)
    table = worded(50)
    engine.load([table], schema_of(table))
    assert engine.count() == 50 and sum(path.endswith("_bulk") for _, path in server.asked) > 5
    server.asked.clear()
    found = engine.search(unit_vectors(40, 7, 16), 3)
    assert sum(path.endswith("_msearch") for _, path in server.asked) > 5
    best = brute_force(table, unit_vectors(40, 7, 16), 3, None)
    assert [[one.product_id for one in results] for results in found] == [[one for one, *_ in row] for row in best]
    engine.delete([f"p{number:03d}" for number in range(49)])
    assert engine.digests().keys() == {"p049"}


@pytest.mark.parametrize("product", [-1.0, -0.25, -1e-6, 0.0, 1e-6, 0.5, 1.0])
def test_scores_become_inner_products_again(product):
    index = Index({}, {"properties": {"vector": {"type": "dense_vector", "dims": 2}}})
    index.written = {"a": {"vector": [product, 0.0], "words": ""}}
    index.refresh()
    _, [score] = Search(True, index).nearest("vector", [1.0, 0.0], 1, None)
    assert inner_product(float(score)) == pytest.approx(product, abs=3e-7)


# What is not ours


@pytest.mark.parametrize("theirs", ["products_mmfusion_1", "products_mmfusion_2"])
def test_an_index_that_has_our_name_and_is_not_ours_stays(engine, server, theirs):
    table = small_table()
    server.create("products_mmfusion_1" if theirs.endswith("2") else "unrelated", {})
    server.create(theirs, {"mappings": {"_meta": {"writer": "somebody"}, "properties": {}}})
    if theirs.endswith("2"):
        server.remove("products_mmfusion_1")
        engine.load([table], schema_of(table))
    before = dict(server.indices)
    for use in (lambda: engine.load([table], schema_of(table)), engine.drop):
        with pytest.raises(DataError, match=f"the index '{theirs}' was not loaded by training.scale.engines"):
            use()
        assert server.indices[theirs] is before[theirs] and "unrelated" not in before.keys() - server.indices.keys()


def test_an_alias_of_somebody_elses_and_one_of_several_stay(engine, server):
    server.create("theirs", {})
    server.aliases["products"] = "theirs"
    for use in (engine.read_schema, engine.drop, lambda: engine.load([small_table()], schema_of(small_table()))):
        with pytest.raises(DataError, match="the index 'theirs' was not loaded by training.scale.engines"):
            use()
    assert set(server.indices) == {"theirs"} and server.aliases == {"products": "theirs"}


def test_an_upsert_makes_no_index_of_one_that_is_gone(engine, server):
    engine.load([small_table()], schema_of(small_table()))
    [(name, index)] = server.indices.items()
    found = json.dumps({name: {"mappings": index.mappings}})
    server.remove(name)
    said(server, (200, "application/json", found))
    with pytest.raises(DataError, match="answers 404: no such index .*require_alias"):
        engine.upsert(small_table())
    assert not server.indices


def test_a_load_that_can_not_clean_up_tells_its_own_error(engine, server):
    def tables():
        yield small_table()
        said(server, (500, "text/html", HTML))
        raise DataError("shard 2 is damaged")

    with pytest.raises(DataError, match="^shard 2 is damaged$"):
        engine.load(tables(), schema_of(small_table()))
    assert len(server.indices) == 1 and engine.read_schema() is None
    assert engine.load([small_table()], schema_of(small_table())) == 3 and len(server.indices) == 1
