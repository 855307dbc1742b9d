"""Qdrant does what every engine must, embedded and, against a stand-in, as a server."""

import fcntl
import json
import subprocess
import sys

import engine_contract
import numpy as np
import pytest
from engine_contract import EngineContract, schema_of, small_table
from helpers import ROOT
from qdrant_standin import stand_in

from modeling_mmfusion.errors import DataError
from training.scale.engine import open_engine
from training.scale.qdrant import QdrantEngine
from training.scale.qdrant_points import keywords

pytest.importorskip("qdrant_client")


class QdrantContract(EngineContract):
    @pytest.mark.slow
    def test_filters_find_what_comparing_all_vectors_finds(self, shop, monkeypatch):
        """Of two queries: an embedded Qdrant looks at each product with each."""
        draw = engine_contract.unit_vectors
        monkeypatch.setattr(engine_contract, "unit_vectors", lambda rows, seed: draw(2 if rows == 20 else rows, seed))
        super().test_filters_find_what_comparing_all_vectors_finds(shop)


class TestEmbedded(QdrantContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("qdrant")
        return lambda name: f"qdrant:{folder}/{name}#{name}"  # one process at a time has a folder

    def somebody_elses(self, address):
        from qdrant_client import QdrantClient, models

        folder, name = address.removeprefix("qdrant:").split("#")
        client = QdrantClient(path=folder)
        client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
        client.upsert(name, [models.PointStruct(id=1, vector=[1, 0, 0, 0], payload={"mine": True})])
        client.close()

        def state():
            client = QdrantClient(path=folder)
            found = client.get_collections(), client.get_aliases(), client.scroll(name, with_vectors=True)
            client.close()
            return str(found)

        return state


class TestServer(QdrantContract):
    """The server's path, against a stand-in in front of an embedded Qdrant; no real server was run."""

    @pytest.fixture(scope="class")
    def server(self):
        with stand_in() as (address, client, _):
            yield address, client

    @pytest.fixture(scope="class")
    def address_of(self, server):
        return lambda name: f"qdrant:{server[0]}#{name}"

    @pytest.fixture(scope="class")
    def client(self, server):
        return server[1]

    @pytest.fixture(autouse=True)
    def _keep(self, client):
        self.client = client

    def somebody_elses(self, address):
        from qdrant_client import models

        name = address.split("#")[1]
        self.client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
        return lambda: str((self.client.get_collections(), self.client.get_aliases(), self.client.scroll(name)))


@pytest.fixture
def folder(tmp_path):
    """An embedded Qdrant with three products."""
    with open_engine(f"qdrant:{tmp_path}/shop") as engine:
        table = small_table(brand=["x", "y", "z"])
        engine.load([table], schema_of(table))
    return tmp_path / "shop"


def test_nothing_is_written_where_nothing_is_loaded(tmp_path):
    with open_engine(f"qdrant:{tmp_path}/no/shop") as engine:
        assert engine.read_schema() is None
        engine.drop()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", [{"photo.jpg": b"x"}, {"meta.json": b'{"mine": 1}'}, {"meta.json": b"[1"}, None])
def test_a_folder_of_somebody_elses_is_refused_and_stays(content, tmp_path):
    place = tmp_path / "theirs"
    if content is None:
        place.write_bytes(b"a file")
    else:
        place.mkdir()
        for name, data in content.items():
            (place / name).write_bytes(data)
    before = sorted((one, one.is_file() and one.read_bytes()) for one in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="theirs") as error:
        open_engine(f"qdrant:{place}")
    assert "\n" not in str(error.value)
    assert sorted((one, one.is_file() and one.read_bytes()) for one in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 9000])
@pytest.mark.parametrize("name", ["meta.json", "storage.sqlite"])
def test_a_file_that_was_cut_is_one_line(name, kept, folder):
    [file] = folder.rglob(name)
    content = file.read_bytes()
    if kept >= len(content):
        pytest.skip("it is shorter")
    file.write_bytes(content[:kept])
    with pytest.raises(DataError, match=f"{folder.name}.*(damaged|empty|malformed)") as error:
        open_engine(f"qdrant:{folder}").close()
    assert "\n" not in str(error.value)
    file.write_bytes(content)
    with open_engine(f"qdrant:{folder}") as engine:
        assert engine.count() == 3, "what failed left the folder open"


def test_one_process_at_a_time_has_a_folder_and_all_its_engines_share_it(folder):
    with open_engine(f"qdrant:{folder}") as first, open_engine(f"qdrant:{folder}#other") as second:
        assert second.read_schema() is None
        first.close()
        code = f"from training.scale.engine import *\ntry: open_engine('qdrant:{folder}')\n"
        code += "except DataError as error: print(error)"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
        assert told == f"{folder}: is open in another process; one at a time can\n"
    with open(folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_collection_of_a_leftovers_name_that_is_somebody_elses_stays(tmp_path):
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "shop"))
    client.create_collection("products_mmfusion_1", models.VectorParams(size=2, distance=models.Distance.DOT))
    client.close()
    with open_engine(f"qdrant:{tmp_path}/shop") as engine:
        with pytest.raises(DataError, match="'products_mmfusion_1' was not loaded by"):
            engine.load([small_table()], schema_of(small_table()))
        engine.drop()
        assert engine.client.collection_exists("products_mmfusion_1")


def test_numbers_that_are_not_finite_are_null_and_counted(tmp_path):
    table = small_table(price=[1.0, float("nan"), float("inf")])
    with open_engine(f"qdrant:{tmp_path}/shop") as engine:
        engine.load([table], schema_of(table))
        found = {one.product_id: one.product["price"] for one in engine.search(np.eye(1, 4), 3)[0]}
        assert found == {"a": 1.0, "b": None, "c": None}
        assert engine.problems.lines() == [
            "2 x number that is not finite (stored as null); first: product b, column price"
        ]


def test_a_category_finds_what_is_below_it_however_long_or_deep_it_is(tmp_path):
    long, deep = "Very " * 60 + "long", " > ".join(map(str, range(300)))
    texts = [f"{long} > mugs", deep, "<p>" * 5000]
    table = small_table(category=texts)
    with open_engine(f"qdrant:{tmp_path}/shop") as engine:
        engine.load([table], schema_of(table))
        for wanted, expected in (
            (long, ["a"]),
            (texts[0], ["a"]),
            ("0 > 1", ["b"]),
            (" > ".join(map(str, range(100))), ["b"]),
            (deep, ["b"]),
            (texts[2], ["c"]),
            ("very", []),
        ):
            found = engine.search(np.eye(1, 4), 3, {"category": wanted})[0]
            assert [one.product_id for one in found] == expected
    assert sum(map(len, keywords(">" * 50_000))) < 10_000


def test_requests_are_of_a_size_that_servers_take():
    with stand_in() as (address, _, requests), open_engine(f"qdrant:{address}") as engine:
        table = small_table(_id=[f"{number}" for number in range(60)], title=["x" * 100_000] * 60, vectors=np.eye(60))
        engine.load([table], schema_of(table))
        sizes = [len(json.dumps(body)) for method, path, body in requests if "/points?wait=true" in path]
        assert engine.count() == 60 and len(sizes) > 2 and max(sizes) < 8_000_000
        indexes = {body["field_name"]: body["field_schema"] for _, path, body in requests if "/index" in path}
        assert indexes == dict.fromkeys(["plain._id", "plain.title"], "keyword") | dict.fromkeys(
            ["number._id", "number.title"], "float"
        )
        engine.search(np.eye(1, 60), 10**30)
        assert requests[-1][2]["searches"][0]["limit"] == 60


SECRET = "s3cret-k3y"


@pytest.mark.parametrize("user", ["s3cret-k3y@", "api:s3cret-k3y@", ""])
def test_a_key_is_sent_and_never_shown(user, monkeypatch, capfd):
    monkeypatch.setenv("MMFUSION_ENGINE_TOKEN", "" if user else SECRET)
    with stand_in(key=SECRET) as (address, _, _):
        address = address.replace("//", f"//{user}")
        with open_engine(f"qdrant:{address}") as engine:
            assert engine.read_schema() is None and SECRET not in engine.place
            with pytest.raises(DataError, match="there is no collection") as error:
                engine.count()
            assert SECRET not in str(error.value)
        monkeypatch.setenv("MMFUSION_ENGINE_TOKEN", "")
        with pytest.raises(DataError, match="refuses the key, or there is none; put it into MMFUSION_ENGINE_TOKEN"):
            open_engine(f"qdrant:{address.replace(SECRET, 'wrong')}")
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "place",
    [
        "http://s3cret-k3y@127.0.0.1:1",
        "http://s3cret-k3y@nowhere.invalid:6333",
        "http://s3cret-k3y@host:port",
        "http://s3cret-k3y@[::1",
        "grpc://s3cret-k3y@host:6334",
        "http://",
        "http://s3cret-k3y%0A@127.0.0.1:1",
        "http://s3cret-k3y%C3%BC@127.0.0.1:1",
    ],
)
def test_a_wrong_address_is_one_line_without_the_key(place):
    with pytest.raises(DataError) as error:
        QdrantEngine(place)
    assert "\n" not in str(error.value) and SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fails": 500}, "answers 500: disk is full"),
        ({"fails": 503}, "answers 503: disk is full"),
        ({"says": b"<html>hello</html>"}, "answers what no Qdrant server does"),
        ({"says": b'{"name": "Elasticsearch"}'}, "answers what no Qdrant server does"),
        ({"metadata": False}, "keeps no metadata of collections; it takes Qdrant 1.16 or newer"),
    ],
)
def test_what_a_server_can_not_do_is_one_line_and_leaves_nothing(options, message):
    with stand_in(**options) as (address, client, _):
        with pytest.raises(DataError, match=message) as error, open_engine(f"qdrant:{address}") as engine:
            engine.load([small_table()], schema_of(small_table()))
        assert "\n" not in str(error.value) and not client.get_collections().collections


@pytest.mark.parametrize("name", [".", "..", "a/b", "a b", "ü" * 101, "a:b", "a\n", "'"])
def test_a_name_that_is_none_is_refused(name, tmp_path):
    with pytest.raises(DataError, match="^collection .*: give letters") as error:
        QdrantEngine(str(tmp_path / "shop"), name)
    assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]
