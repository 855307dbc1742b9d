"""An index in shards finds what one index finds, to the last product; in this process and over HTTP."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from shutil import copytree, rmtree
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from helpers import ROOT
from test_search import write_run

from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_filters import parse_where
from modeling_mmfusion.index_shards import Candidates, Shard, merge, shard_of
from modeling_mmfusion.index_words import ProductWords, WordCounts
from modeling_mmfusion.search import Searcher
from modeling_mmfusion.service_shard import create_shard_app
from modeling_mmfusion.service_towers import ServedModel
from modeling_mmfusion.shard_client import MAX_QUERIES, RemoteShard
from modeling_mmfusion.sharded import ShardedIndex, open_index
from training import index, search
from training.common.cli import parse
from training.features.shards import vector_column, write_shard, write_vectors_manifest

WORDS = ["mug", "mugs", "red", "blue", "teapot", "Teller", "X100", "500ml", "café", "striped", "strawberry"]
NAMES = ["sku", "größe", "商品", 'A,"b']
PRICES = ["9.90", "12,50 EUR", "1.299", "5-20", "-3", "7", None]
CATEGORIES = ["a", "a > b", "5-20", "c", "", None]
FILTERS = [
    "",
    "price=5..20",
    "price=5-20",
    "price<1000",
    "category=5-20|a",
    "category=1-3",
    "stars=2..4; category=a",
    "in_stock=true",
    "stars=1-3|7",
    "category=nowhere",
]


def drawn_products(seed, count=150, dim=16):
    """Vectors with copies and zeros, and products of few words, odd ids and prices in several forms."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[20:60], vectors[80:90], vectors[100:105] = vectors[3], 0, vectors[7]
    numbers = rng.permutation(count)
    table = pa.table(
        {
            "_id": [f"{NAMES[number % 4]}-{number}" for number in numbers],
            "title": [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(count)],
            "price": [PRICES[one] for one in rng.integers(0, len(PRICES), count)],
            "category": [CATEGORIES[one] for one in rng.integers(0, len(CATEGORIES), count)],
            "stars": rng.integers(0, 9, count),
            "in_stock": rng.integers(0, 2, count).astype(bool),
        }
    )
    return vectors, table


def write_vectors(folder, vectors, table, model="model-1"):
    """A folder as training.embed writes it, in two files whose columns differ."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    facts, half = [], len(vectors) // 2
    for number, rows in enumerate((slice(0, half), slice(half, len(vectors)))):
        part = table.slice(rows.start, rows.stop - rows.start)
        columns = {"hash": pa.array(["0"] * len(part)), "vector": vector_column(vectors[rows])}
        part = pa.table({"_id": part.column("_id"), **columns} | {n: part.column(n) for n in part.column_names[1:]})
        facts.append(
            write_shard(folder, number, "key", part if number else part.append_column("x", pa.nulls(half)), {})
        )
    manifest = {"model": model, "data": "shop", "split": "test", "count": len(vectors), "dim": vectors.shape[1]}
    manifest |= {"blocks": {"text": 10, "image": 6}, "fields": ["title"], "queries": None}
    write_vectors_manifest(folder, manifest, facts)
    return folder


def build(folder, output, **options):
    index.main(index.IndexArguments(str(folder), str(output), **options))
    return output


def widened(opened):
    """Searched so widely that graphs of so few products find all that there is."""
    opened.width = 768
    return opened


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return write_vectors(tmp_path_factory.mktemp("sharded") / "vectors", *drawn_products(0))


@pytest.fixture(scope="module")
def one(vectors):
    return widened(open_index(build(vectors, vectors.parent / "one", dtype="f32")))


@pytest.fixture(scope="module")
def two(vectors):
    return build(vectors, vectors.parent / "two", dtype="f32", shards=2)


def drawn_search(number, dim=16):
    """The options of a search, with `k` from 1 to more than there is."""
    rng = np.random.default_rng(number)
    queries = rng.standard_normal((2, dim)).astype(np.float32) * rng.uniform(0.1, 5)
    if number % 3 == 0:
        queries[0] = drawn_products(0)[0][3]  # whose copies tie
    texts = [" ".join(rng.choice([*WORDS, "nope", "5-20"], rng.integers(0, 4))) for _ in range(2)]
    k = int(rng.choice([1, 5, 30, 149, 150, 10_000]))
    options = {"k": k, "where": parse_where(FILTERS[number % len(FILTERS)]) or None}
    return queries, options | ({"texts": texts} if number % 4 else {})


def expect_equal(found, expected, searches=200):
    for number in range(searches):
        queries, options = drawn_search(number)
        assert found.search(queries, **options) == expected.search(queries, **options), (number, options)
    for typed in ("category=nowhere|a; price>1000000", "stars=99", "price=10000000..", "category=5-21", "title=straw"):
        assert found.unknown_values(parse_where(typed)) == expected.unknown_values(parse_where(typed)), typed


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_find_what_one_index_finds(vectors, one, tmp_path, shards):
    found = widened(open_index(build(vectors, tmp_path / "index", dtype="f32", shards=shards)))
    assert isinstance(found, ShardedIndex) and len(found.shards) == shards and len(found) == len(one) == 150
    assert (found.dim, found.blocks, found.model, found.hybrid) == (16, one.blocks, "model-1", True)
    expect_equal(found, one)


def test_compressed_shards_are_as_exact(vectors, tmp_path):
    expected = widened(open_index(build(vectors, tmp_path / "one", dtype="i8")))
    expect_equal(widened(open_index(build(vectors, tmp_path / "shards", shards=3))), expected, searches=40)


def test_shards_of_few_products_may_be_empty(tmp_path):
    made = write_vectors(tmp_path / "vectors", *(part[:4] for part in drawn_products(1)))
    found = open_index(build(made, tmp_path / "index", shards=9))
    assert len(found) == 4 and 0 in [len(shard) for shard in found.shards]
    expect_equal(found, open_index(build(made, tmp_path / "one")), searches=40)
    build(made, tmp_path / "index", sync=True)
    assert not open_index(tmp_path / "index").refresh()


def test_ties_go_to_the_id_that_sorts_first_whatever_the_order_of_rows(tmp_path):
    vectors, table = drawn_products(0)
    turned = write_vectors(tmp_path / "vectors", vectors[::-1], table.take(np.arange(len(table))[::-1]))
    vectors = write_vectors(tmp_path / "same", vectors, table)
    expected = widened(open_index(build(vectors, tmp_path / "one", dtype="f32")))
    expect_equal(widened(open_index(build(turned, tmp_path / "turned", dtype="f32"))), expected, searches=60)
    found = [one.product_id for one in expected.search(drawn_products(0)[0][3:4], 41)[0]]
    assert found == sorted(found)


def test_a_sync_of_all_shards_is_as_an_index_that_is_built_of_what_there_is(tmp_path):
    vectors, table = drawn_products(0)
    made = write_vectors(tmp_path / "vectors", vectors, table)
    for name, options in (("one", {}), ("shards", {"shards": 3})):
        build(made, tmp_path / name, dtype="f32", **options)
    opened = open_index(tmp_path / "shards")
    others, more = drawn_products(5, count=120)
    kept = np.r_[0:70, 90:150]
    columns = pa.concat_tables(
        [table.take(kept), more.set_column(0, "_id", pa.array([f"new-{n}" for n in range(120)]))]
    )
    titles = ["changed strawberry" if row < 9 else title for row, title in enumerate(columns["title"].to_pylist())]
    columns = columns.set_column(1, "title", pa.array(titles))
    write_vectors(made, np.concatenate([vectors[kept], others]), columns)
    fresh = widened(open_index(build(made, tmp_path / "fresh", dtype="f32")))
    for name in ("one", "shards"):
        build(made, tmp_path / name, sync=True)
    assert opened.refresh() and not opened.refresh() and len(opened) == 250
    expect_equal(widened(opened), fresh, searches=80)
    for queries, options in map(drawn_search, range(1, 40)):  # rows that are free count in no mean
        assert widened(open_index(tmp_path / "one")).search(queries, **options) == fresh.search(queries, **options)
    build(made, tmp_path / "shards", compact=True)
    expect_equal(widened(open_index(tmp_path / "shards")), fresh, searches=40)


def test_a_sync_that_ended_halfway_is_told_and_mended(vectors, two, tmp_path):
    copytree(two, tmp_path / "index")
    made = write_vectors(tmp_path / "vectors", *(part[:140] for part in drawn_products(0)))
    opened = ShardedIndex.open(tmp_path / "index")
    build(made, tmp_path / "index", sync=True, shard="1/2")
    with pytest.raises(ProductIndexError, match="shard-1-of-2: is of another catalogue .* --sync"):
        opened.refresh()
    assert len(opened) == 150 and opened.search(np.ones((1, 16)), 500)
    build(made, tmp_path / "index", sync=True)
    assert opened.refresh() and len(opened) == 140


@pytest.mark.parametrize(
    "fault, words",
    [
        ("missing", r"shard-1-of-2 is missing; build it with training.index --shard 1/2"),
        ("other number", r"holds shards of 2 and of 3"),
        ("other model", r"shard-1-of-2: was built with another model \(model-2\)"),
        ("other catalogue", r"shard-1-of-2: is of another catalogue"),
        ("changed by itself", r"shard-1-of-2: is of another catalogue"),
        ("swapped", r"shard-1-of-2: is shard 0 of 2, where shard 1 of 2 is wanted"),
        ("one piece", r"shard-1-of-2: is an index of its own and no shard"),
        ("no words", r"shard-1-of-2: is of another catalogue"),
        ("damaged", r"index.json: the index is damaged"),
    ],
)
def test_what_does_not_belong_together_is_refused(vectors, two, tmp_path, fault, words):
    folder = tmp_path / "index"
    copytree(two, folder)
    last = folder / "shard-1-of-2"
    if fault == "other number":
        copytree(last, folder / "shard-1-of-3")
    elif fault == "changed by itself":
        changed = ProductIndex.load(last)
        changed.update([{"_id": changed.products["_id"][0].as_py(), "price": "1"}])
        changed.save(last)
    elif fault == "damaged":
        (last / "index.json").write_text("{}")
    else:
        rmtree(last)
    if fault in ("other model", "other catalogue"):
        number = 1 if fault == "other model" else 2
        made = write_vectors(tmp_path / "vectors", *drawn_products(number), model=f"model-{3 - number}")
        build(made, folder, dtype="f32", shard="1/2")
    elif fault == "swapped":
        copytree(folder / "shard-0-of-2", last)
    elif fault == "one piece":
        build(vectors, last, dtype="f32")
    elif fault == "no words":
        build(vectors, folder, dtype="f32", shard="1/2", words=False)
    with pytest.raises(DataError, match=words) as error:
        open_index(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"shard": "2/2"}, "--shard is '2/2'"),
        ({"shard": "-1/2"}, "--shard is '-1/2'"),
        ({"shard": "0"}, "--shard is '0'"),
        ({"shard": "0/2", "shards": 2}, "give one of the two"),
        ({"shards": 3}, "holds 2 shards, not 3"),
        ({"shard": "0/3", "sync": True}, "holds 2 shards, not 3"),
        ({}, "holds 2 shards; give --shards 2"),
        ({"output": "one", "shards": 2}, "is an index in one piece"),
        ({"output": "one", "shards": 2, "sync": True}, "is an index in one piece"),
        ({"output": "nowhere", "shards": 2, "sync": True}, "holds no shards"),
        ({"output": "nowhere", "shards": 2000}, "more than 1,024"),
        ({"output": "vectors", "shards": 2}, "holds other files"),
    ],
)
def test_options_that_do_not_go_together(vectors, one, two, options, words):
    options = {"output": "two"} | options
    output = vectors.parent / options.pop("output")
    with pytest.raises(DataError, match=words):
        build(vectors, output, **options)
    assert len(open_index(two)) == 150


def test_counts_of_parts_sum_up_to_those_of_the_whole():
    texts = drawn_products(3)[1]["title"].to_pylist()
    whole = WordCounts.of(texts)
    assert sum((WordCounts.of(texts[start::4]) for start in range(4)), WordCounts.of([])) == whole
    expected = ProductWords.build(texts)
    for start in range(4):
        part = ProductWords.build(texts[start::4], counts=whole)
        assert part.spelling == expected.spelling and part.counts.frequencies == whole.frequencies
        for text in ("red mugs", "500 ml X100 nope", "", "striped striped café"):
            assert np.array_equal(part.matches(text), expected.matches(text)[start::4])


def test_a_product_stays_in_its_shard():
    assert [shard_of(one, 7) for one in ("sku-1", "größe", "")] == [5, 0, 0]


def test_a_run_in_shards_is_searched_as_any(model, processor, shop, tmp_path, capsys):
    run = write_run(tmp_path / "run", model, processor, shop)
    copytree(run, tmp_path / "other")
    rmtree(tmp_path / "other" / "index")
    build(run / "vectors", tmp_path / "other" / "index", shards=3)
    found, expected = Searcher(tmp_path / "other"), Searcher(run)
    for query in ("soft mug", "plian lamp", "bowl"):
        assert found.search(query) == expected.search(query)
        assert found.processor.correction(query) == expected.processor.correction(query)
    printed, _ = [], capsys.readouterr()
    for folder in (run, tmp_path / "other"):
        words = [
            "--run",
            str(folder),
            "--width",
            "200",
            "--json=true",
            "--query",
            "plian mug",
            "--where",
            "title=mgu",
        ]
        search.main(parse(search.SearchArguments, "", words))
        answer = capsys.readouterr()
        printed.append((answer.out, answer.err.rpartition("warning: ")[2].splitlines()[0]))
    assert printed[0] == printed[1] and "read_as" in printed[0][0] and "nearest are" in printed[0][1]
    served = ServedModel(tmp_path / "other")
    served.refresh()
    assert len(served.index) == 12
    with pytest.raises(ProductIndexError, match="another model"):
        ShardedIndex.open(tmp_path / "other" / "index").check_model("another")


# over HTTP


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def served(folders):
    """Each shard in a process of its own; their addresses and processes."""
    ports = [free_port() for _ in folders]
    command = [sys.executable, "-m", "modeling_mmfusion.serve", "--shard"]
    processes = [
        subprocess.Popen([*command, str(folder), "--port", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL)
        for folder, port in zip(folders, ports, strict=True)
    ]
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        for address, process in zip(addresses, processes, strict=True):
            wait_for(address, process)
        yield addresses, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(address, process):
    for _ in range(1200):
        assert process.poll() is None, "the service has ended"
        try:
            return urlopen(f"{address}/health").read()
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the service does not answer")


@pytest.fixture(scope="module")
def hosts(vectors, two, tmp_path_factory):
    """Two shards in processes, and the folders that they serve."""
    folder = tmp_path_factory.mktemp("hosts") / "index"
    copytree(two, folder)
    for place in sorted(folder.iterdir()):
        shard = ProductIndex.load(place)
        shard.measured = replace(shard.measured, width=768)  # as `widened` does; kept on the disk
        shard.save(place)
    with served([folder / "shard-0-of-2", folder / "shard-1-of-2"]) as (addresses, processes):
        yield addresses, processes, folder


@pytest.mark.slow
def test_shards_on_hosts_find_what_one_index_finds(vectors, one, hosts, tmp_path):
    addresses, processes, folder = hosts
    found = open_index(",".join(addresses))
    expect_equal(found, one, searches=120)
    many = np.random.default_rng(0).standard_normal((MAX_QUERIES + 3, 16)).astype(np.float32)
    assert found.search(many, 3) == one.search(many, 3) and found.search(many[:0], 3) == []
    odd = {"stars": np.int64(3), "in_stock": np.True_, "category": {"a", "c"}, "price": (np.float32(1), None)}
    assert found.search(many[:2], 9, odd) == one.search(many[:2], 9, odd)
    for where in ({"nowhere": 1}, {"stars": "many"}, "stars"):
        with pytest.raises(ProductIndexError) as told:
            one.search(many[:1], 3, where)
        with pytest.raises(ProductIndexError) as error:
            found.search(many[:1], 3, where)
        assert str(error.value) == str(told.value)
    with pytest.raises(ProductIndexError, match="k: .*10000"):
        found.search(many[:1], 10_001)
    mixed = ShardedIndex.open(f"{folder}/shard-0-of-2,{addresses[1]}")
    assert mixed.search(many[:9], 5, None, ["red mug"] * 9) == one.search(many[:9], 5, None, ["red mug"] * 9)
    with pytest.raises(ProductIndexError, match=f"{addresses[1]}: width"):
        mixed.width = 3
    with pytest.raises(ProductIndexError, match="is shard 1 of 2, where shard 0 of 2"):
        ShardedIndex.open(",".join(addresses[::-1]))

    made = write_vectors(tmp_path / "vectors", *(part[:140] for part in drawn_products(0)))  # the catalogue changes
    build(made, folder, sync=True)
    fresh = widened(open_index(build(made, tmp_path / "fresh", dtype="f32")))
    for _ in range(300):
        try:
            if len(found.search(many[:1], 500)[0]) == 140:
                break
        except ProductIndexError as error:  # one host has it, the other not yet
            assert "another state" in str(error) or "saved anew" in str(error)
        time.sleep(0.1)
    expect_equal(found, fresh, searches=20)

    processes[1].kill()
    processes[1].wait()
    with pytest.raises(DataError, match=f"{addresses[1]}: the shard does not answer") as error:
        found.search(many[:1], 3)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="does not answer"):
        ShardedIndex.open(",".join(addresses))


@pytest.mark.parametrize(
    "address, words",
    [
        ("http://shop:secret@127.0.0.1:9", r"^http://127.0.0.1:9: the shard does not answer \(Connection refused\)"),
        ("http://shop:secret@no.such.host.invalid", "^http://no.such.host.invalid: the shard does not answer"),
        ("http://shop:secret@127.0.0.1:port", "^'127.0.0.1:port' is no address of a shard"),
        ("http://", "is no address of a shard"),
        ("http://shop:secret@127.0.0.1:8001/?a=b", "is no address of a shard"),
        ("HTTP://[::1]:9/path/", r"^http://\[::1\]:9/path: the shard does not answer"),
    ],
)
def test_wrong_addresses_are_told_in_one_line_without_passwords(address, words):
    with pytest.raises(DataError, match=words) as error:
        open_index(address)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


class Other(BaseHTTPRequestHandler):
    """Answers what no shard does."""

    answers = {"/html/shard": (200, b"<html>"), "/list/shard": (200, b"[1]"), "/more/shard": (200, b'{"dim": 3}')}

    def do_GET(self):
        status, content = self.answers.get(self.path, (404, b"nothing"))
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given):
        pass


@pytest.mark.parametrize("path", ["", "html", "list", "more"])
def test_other_services_are_no_shards(path):
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match="answers.*but is no shard.*serve --shard"):
            RemoteShard(f"http://127.0.0.1:{server.server_port}/{path}")
        server.shutdown()


def test_what_the_service_of_a_shard_refuses(two):
    opened = ProductIndex.load(two / "shard-0-of-2", view=True)
    asked = {"state": opened.facts.state, "queries": "", "k": 3}
    with TestClient(create_shard_app(opened)) as client:
        assert client.post("/shard/candidates", json=asked).json() == {"answer": []}
        assert client.get("/health").json()["shard"] == "shard 0 of 2"
        assert b"mmfusion_index_products" in client.get("/metrics").content
        nan = "AADAfw==" * 1
        for changed, status, words in (
            ({"queries": "%"}, 400, "no base64 of vectors of 16"),
            ({"queries": nan}, 400, "no base64 of vectors of 16"),
            ({"queries": "A" * 64 * 4 * 100 * 4}, 400, "more than 256"),
            ({"k": 0}, 400, "k: "),
            ({"k": 10_001}, 400, "k: "),
            ({"texts": ["a"]}, 400, "one string for each of the 0 queries"),
            ({"where": {"nope": 1}}, 400, "no column 'nope'"),
            ({"readings": {"price": {"odd": 1}}}, 400, "readings"),
            ({"where": {"price": {"gte": 1}}}, 400, "where"),
            ({"state": "9-"}, 409, "saved anew"),
            ({"more": 1}, 400, "no such field"),
        ):
            answer = client.post("/shard/candidates", json=asked | changed)
            assert answer.status_code == status and words in answer.json()["error"]["message"], (
                changed,
                answer.json(),
            )
        some = {"state": opened.facts.state, "queries": "AACAPw==" * 0}
        for found, words in (([[[0], [1.0], None]], "not one for each"),):
            answer = client.post("/shard/results", json=some | {"found": found})
            assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        query = "AAAA" * 21 + "AA=="  # 64 bytes
        assert len(query) == 88
        for found in ([[[-1], [1.0], None]], [[[10_000], [1.0], None]]):
            answer = client.post("/shard/results", json=some | {"queries": query, "found": found})
            assert answer.status_code == 400, answer.json()
        assert json.loads(client.get("/shard").content)["shard"]["of"] == 2


def test_shards_that_are_given_have_to_be_some():
    with pytest.raises(ProductIndexError, match="at least"):
        ShardedIndex([])
    with pytest.raises(DataError, match="empty"):
        open_index("http://127.0.0.1:9,,")
    assert str(Shard(0, 2)) == "shard 0 of 2"


def test_only_candidates_of_the_whole_catalogue_are_ranked():
    def answer(product, score, words, is_near, is_matching):
        return Candidates(
            *map(np.array, ([0], np.float32([score]), np.float32([words]), [is_near], [is_matching])), [product]
        )

    answers = [
        answer("a", 0.9, 0, True, False),
        answer("b", 0.8, 0.5, True, False),
        answer("c", 0.1, 0.6, False, True),
    ]
    owners, found = merge(answers, k=3, depth=1)  # "b" is second by vectors, and so no candidate of one index
    assert list(found.ids) == ["a", "c"] and owners.tolist() == [0, 2]
    assert list(merge(answers, k=3, depth=2)[1].ids) == ["b", "a", "c"]
