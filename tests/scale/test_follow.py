"""A stream of events is applied, once each, to an index or an engine."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import ROOT, Killed, make_model, picture, shop_rows, write_products

from modeling_mmfusion import MMFusionProcessor, Searcher
from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.index import ProductIndex
from training import embed, follow
from training.features.embedder import ProductEmbedder, inputs_of
from training.features.options import EmbedArguments
from training.features.shards import read_vectors
from training.scale import targets
from training.scale.engine import Engine, ProductSchema, conform, open_engine, stored_columns

MUG = {
    "_id": "mug-red",
    "title": "plain mug",
    "description": "the soft mug",
    "category": "",
    "brand": "",
    "price": 9.9,
}


@pytest.fixture(scope="module")
def made(towers, tmp_path_factory) -> Path:
    """A run with model, vectors and an index of a shop whose prices are numbers."""
    folder = tmp_path_factory.mktemp("made") / "run"
    make_model(towers).save_pretrained(folder / "model")
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(folder / "model")
    embed.main(
        embed.EmbedArguments(str(folder / "model"), str(write_products(folder.parent / "shop", shop_rows()[0])))
    )
    vectors, table = read_vectors(folder / "vectors")
    table = table.drop_columns(["hash", "price"]).append_column("price", pa.array([9.9] * len(table)))
    table = table.append_column("currency", pa.nulls(len(table), pa.string()))
    table = table.append_column("in_stock", pa.array([True] * len(table)))
    embedder = ProductEmbedder(EmbedArguments(str(folder / "model")))
    blocks = embedder.model.config.truncated_dims(embedder.dim)
    ProductIndex.build(vectors.astype(np.float16), table, embedder.fingerprint, "i8", blocks, True).save(
        folder / "index"
    )
    return folder


@pytest.fixture
def run_folder(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def upsert(**fields) -> dict:
    return {"type": "upsert", "product": fields}


def write_events(file: Path, *events) -> Path:
    with open(file, "a", encoding="utf-8") as opened:
        opened.writelines(f"{event if isinstance(event, str) else json.dumps(event)}\n" for event in events)
    return file


def apply(run_folder: Path, *events, **options) -> dict:
    """Follows a stream with some more events to its end."""
    source = write_events(run_folder.parent / "events.jsonl", *events)
    return follow.main(follow.FollowArguments(str(source), str(run_folder), once=True, **options))


def products(run_folder: Path) -> dict[str, dict]:
    rows = ProductIndex.load(run_folder / "index").products.to_pylist()
    return {row["_id"]: {name: value for name, value in row.items() if name != "image"} for row in rows}


def vector(run_folder: Path, product_id: str) -> np.ndarray:
    found = ProductIndex.load(run_folder / "index")
    return found.graph.stored(np.array([found.catalogue.rows[product_id]]))[0]


def embedded_alone(run_folder: Path, product: dict) -> np.ndarray:
    embedder = ProductEmbedder(EmbedArguments(str(run_folder / "model")))
    return embedder.embed([inputs_of(embedder.processor, product)])[0][0]


def test_events_of_all_types_count_in_their_order(run_folder):
    before = vector(run_folder, "bowl-red")
    done = apply(
        run_folder,
        {"type": "price", "_id": "mug-red", "price": 12.5, "currency": "EUR"},
        {"type": "stock", "_id": "mug-red", "in_stock": False},
        {"type": "price", "_id": "mug-red", "price": 13},
        {"type": "delete", "_id": "lamp-red"},
        upsert(_id="lamp-red", title="big lamp"),
        {"type": "price", "_id": "lamp-red", "price": 3},
        upsert(_id="ü-1", title="small striped shirt", attributes={"size": "M"}),
        {"type": "delete", "_id": "ü-1"},
        {"type": "delete", "_id": "lamp-blue"},
        {"type": "update", "_id": "bowl-red", "price": None, "in_stock": None},
        upsert(_id="ü-2", title="old"),
        upsert(_id="ü-2", title="cotton bowl"),
    )
    found = products(run_folder)
    assert found["mug-red"] == MUG | {"price": 13.0, "currency": "EUR", "in_stock": False}
    assert found["lamp-red"] == dict.fromkeys(MUG) | {
        "_id": "lamp-red",
        "title": "big lamp",
        "price": 3.0,
        "currency": None,
        "in_stock": None,
    }
    assert {"lamp-blue", "ü-1"}.isdisjoint(found) and found["ü-2"]["title"] == "cotton bowl"
    assert (vector(run_folder, "bowl-red") == before).all() and found["bowl-red"]["price"] is None
    np.testing.assert_allclose(
        vector(run_folder, "ü-2"), embedded_alone(run_folder, {"title": "cotton bowl"}), atol=1e-3
    )
    assert (done["events"], done["left out"], done["embedded"], done["products"]) == (12, 0, 2, 12)


def test_what_was_saved_is_found_by_its_words_and_by_a_service(run_folder):
    searcher = Searcher(run_folder)
    apply(run_folder, upsert(_id="new", title="xk-4711 bowl"), {"type": "delete", "_id": "mug-red"})
    assert searcher.index.refresh()
    assert searcher.search("xk-4711", k=1)[0][0].product_id == "new"
    assert "mug-red" not in searcher.index


def test_bad_lines_are_named_and_the_rest_is_applied(run_folder, capsys):
    (run_folder.parent / "events.jsonl").write_bytes(
        b'\xef\xbb\xbf{"type": "stock", "_id": "mug-red", "in_stock": false}\r\n'
    )
    bad = [
        "nonsense",
        "\0",
        '{"type": "gift", "_id": "a"}',
        {"type": "delete", "_id": "nobody"},
        {"type": "price", "_id": "nobody", "price": 1},
    ]
    bad += [{"type": "price", "_id": "mug-red", "price": "1"}, {"type": "update", "_id": "mug-red", "title": "big"}]
    bad += [
        upsert(title="nobody's"),
        upsert(_id="mug-red", price="9,90"),
        {"type": "update", "_id": "mug-red", "shelf": 1},
    ]
    done = apply(run_folder, *bad, {"type": "price", "_id": "mug-red", "price": 1, "time": "now"})
    assert (done["events"], done["left out"]) == (2, len(bad))
    assert products(run_folder)["mug-red"] == MUG | {"price": 1.0, "currency": None, "in_stock": False}
    left_out = [json.loads(line) for line in (run_folder / "follow/index/left_out.jsonl").read_text().splitlines()]
    assert {line["where"].rsplit("/")[-1] for line in left_out} == {
        f"events.jsonl line {n}" for n in range(2, 2 + len(bad))
    }
    told = capsys.readouterr().out
    for why in (
        "no JSON",
        "delete of a product that there is not",
        "price that is no number",
        "title, of which the vector is made",
        "without an _id",
        "price: value that a column of double can't hold",
        "field 'time'",
    ):
        assert why in told, why


def test_a_price_and_what_is_sent_again_unchanged_are_not_embedded(run_folder):
    red = base64.b64encode(picture("red")).decode()
    events = [upsert(**MUG, image=f"data:image/png;base64,{red}"), {"type": "price", "_id": "mug-red", "price": 2}]
    assert apply(run_folder, *events)["embedded"] == 0  # training.embed knew its picture
    assert products(run_folder)["mug-red"]["price"] == 2
    assert apply(run_folder, upsert(**MUG))["embedded"] == 1  # without its picture
    assert (
        apply(run_folder, upsert(**MUG | {"price": 5}), {"type": "stock", "_id": "mug-red", "in_stock": True})[
            "embedded"
        ]
        == 0
    )
    assert products(run_folder)["mug-red"]["price"] == 5
    (run_folder / "follow/index/contents.arrow").write_bytes(b"damaged")
    assert apply(run_folder, upsert(**MUG))["embedded"] == 1
    np.testing.assert_allclose(vector(run_folder, "mug-red"), embedded_alone(run_folder, MUG), atol=1e-3)


def test_contents_of_a_save_that_was_lost_are_not_believed(run_folder):
    """The content of a newer version is known, and the index, of before, still has the older one's vector."""
    shutil.copytree(run_folder / "index", run_folder / "older")
    apply(run_folder, upsert(**MUG | {"title": "big striped lamp"}))
    shutil.rmtree(run_folder / "index")
    (run_folder / "older").rename(run_folder / "index")
    assert apply(run_folder)["embedded"] == 1
    expected = embedded_alone(run_folder, MUG | {"title": "big striped lamp"})
    np.testing.assert_allclose(vector(run_folder, "mug-red"), expected, atol=1e-3)


def test_pictures_are_of_their_folder_or_in_the_event(run_folder, capsys):
    (run_folder.parent / "green.png").write_bytes(picture("green"))
    (run_folder.parent / "images").mkdir()
    (run_folder.parent / "images" / "green.png").write_bytes(picture("green"))
    (run_folder.parent / "broken.png").write_bytes(b"no picture")
    (run_folder.parent / "empty.png").touch()
    os.mkfifo(run_folder.parent / "pipe")
    data = f"data:image/png;base64,{base64.b64encode(picture('green')).decode()}"
    bad = [
        "broken.png",
        "empty.png",
        "nowhere.png",
        "pipe",
        "images",
        "/etc/passwd",
        "../../x",
        "https://a/b.png",
        "data:,",
        7,
        "\0",
    ]
    apply(
        run_folder,
        *(
            upsert(_id=f"g{n}", title="mug", image=one)
            for n, one in enumerate(["green.png", data, ["green.png"], ["nowhere.png", data]])
        ),
        *(upsert(_id=f"b{n}", title="mug", image=one) for n, one in enumerate(bad)),
    )
    with_picture = embedded_alone(run_folder, {"title": "mug", "image": picture("green")})
    for n in range(4):
        np.testing.assert_allclose(vector(run_folder, f"g{n}"), with_picture, atol=1e-3)
    rows = ProductIndex.load(run_folder / "index").products.to_pylist()
    names = {row["_id"]: row["image"] for row in rows}
    assert [names[f"g{n}"] for n in range(4)] == ["green.png", None, "green.png", "nowhere.png"]
    assert names["b8"] is None and names["b9"] is None and names["b0"] == "broken.png"
    without = embedded_alone(run_folder, {"title": "mug"})
    assert np.abs(without - with_picture).max() > 0.01
    for n in range(len(bad)):
        np.testing.assert_allclose(vector(run_folder, f"b{n}"), without, atol=1e-3)
    assert f"{len(bad) + 1} x unreadable image" in capsys.readouterr().out
    done = apply(
        run_folder, upsert(_id="g0", title="mug", image="green.png"), images=str(run_folder.parent / "images")
    )
    assert done["embedded"] == 0


def test_all_products_may_go_and_others_come(run_folder):
    apply(run_folder, *({"type": "delete", "_id": one} for one in products(run_folder)))
    assert not products(run_folder)
    apply(run_folder, upsert(_id="a", title="mug"))
    assert Searcher(run_folder).search("mug")[0][0].product_id == "a"


@pytest.mark.parametrize("after", range(4))
def test_a_crash_between_saves_is_as_if_there_was_none(run_folder, monkeypatch, after):
    """The process ends after some saves, and the next one goes on where the last save was."""
    events = [upsert(_id=f"n{n % 5}", title=f"mug {n}", price=n) for n in range(12)]
    events += [
        {"type": "price", "_id": "n1", "price": 7},
        {"type": "delete", "_id": "n2"},
        {"type": "delete", "_id": "mug-red"},
    ]
    saves, save = [], targets.IndexTarget.save

    def dying(target):
        if len(saves) == after:
            raise Killed
        saves.append(save(target))

    with monkeypatch.context() as patched:
        patched.setattr(targets.IndexTarget, "save", dying)
        with pytest.raises(Killed):
            apply(run_folder, *events, batch=4, save_seconds=0)
    done = apply(run_folder, batch=4)
    assert done["events"] == len(events) - 4 * after and done["left out"] == 0
    found = products(run_folder)
    assert {one: found[one]["title"] for one in found if one[0] == "n"} == {
        "n0": "mug 10",
        "n1": "mug 11",
        "n3": "mug 8",
        "n4": "mug 9",
    }
    assert found["n1"]["price"] == 7 and "mug-red" not in found
    assert apply(run_folder)["events"] == 0


def test_a_file_that_was_replaced_ends_the_command_and_keeps_what_was_applied(run_folder):
    apply(run_folder, {"type": "price", "_id": "mug-red", "price": 1})
    (run_folder.parent / "events.jsonl").write_text("")
    with pytest.raises(DataError, match="events.jsonl: was truncated or replaced"):
        apply(run_folder, {"type": "price", "_id": "mug-red", "price": 2})
    assert products(run_folder)["mug-red"]["price"] == 1


def test_one_follower_at_a_time_and_only_what_belongs_together(run_folder, tmp_path):
    source = str(write_events(tmp_path / "other.jsonl"))
    folder = run_folder / "follow" / "index"
    apply(run_folder)
    with follow.only_process(folder), pytest.raises(DataError, match="one follower at a time"):
        apply(run_folder)
    for name, wrong in (
        ("no such file of events", {"source": str(tmp_path / "nowhere"), "run": str(run_folder)}),
        ("holds no model", {"source": source, "run": str(tmp_path)}),
        ("no such folder of pictures", {"source": source, "run": str(run_folder), "images": "nowhere"}),
        ("names no engine", {"source": source, "run": str(run_folder), "engine": "nowhere:here"}),
    ):
        with pytest.raises(DataError, match=name):
            follow.main(follow.FollowArguments(once=True, **wrong))
    (run_folder / "index").rename(run_folder / "index-away")
    with pytest.raises(ProductIndexError, match="is no index"):
        apply(run_folder)


def test_the_index_of_another_model_is_refused(run_folder, towers):
    make_model(towers, vector_dim=16).save_pretrained(run_folder / "model")
    with pytest.raises((DataError, ProductIndexError), match="another model|blocks"):
        apply(run_folder, {"type": "delete", "_id": "mug-red"})
    assert "mug-red" in products(run_folder)


def test_a_folder_of_somebody_elses_is_refused_and_stays_as_it_is(run_folder):
    (run_folder / "follow" / "index").mkdir(parents=True)
    (run_folder / "follow" / "index" / "follow.jsonl").write_text("mine")
    with pytest.raises(DataError, match="which mmfusion did not write"):
        apply(run_folder, {"type": "delete", "_id": "mug-red"})
    assert (run_folder / "follow/index/follow.jsonl").read_text() == "mine" and "mug-red" in products(run_folder)


def test_facts_are_appended_on_lines_of_their_own(tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text('{"cut')
    follow.append_lines(file, [{"a": 1}])
    follow.append_lines(file, [{"a": "ü"}, {"b": 2}])
    assert file.read_text(encoding="utf-8") == '{"cut\n{"a": 1}\n{"a": "ü"}\n{"b": 2}\n'


def test_sigterm_ends_the_batch_and_saves(run_folder):
    source = write_events(run_folder.parent / "events.jsonl", {"type": "delete", "_id": "mug-red"})
    words = [
        "-m",
        "training.follow",
        "--run",
        run_folder,
        "--source",
        source,
        "--seconds",
        "0.1",
        "--save_seconds",
        "0",
    ]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *map(str, words)], env=variables, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("follow: events 1") for line in lines)
    with open(source, "a") as opened:
        opened.write('{"type": "delete", "_id": "mug-blue"}\n{"type": "del')
    assert any(line.startswith("follow: events 2") for line in lines)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "stopped by SIGTERM" in told and "half a line" in told
    assert {"mug-red", "mug-blue"}.isdisjoint(products(run_folder))


class MemoryEngine(Engine):
    """Products in memory, which outlive the process that a test ends in the call `dies_in` that writes."""

    def __init__(self, table: pa.Table, schema: ProductSchema):
        super().__init__("memory")
        self.rows = {row["_id"]: row for row in table.to_pylist()}
        self.known, self.notes, self.dies_in = schema, {}, None

    def read_schema(self):
        return self.known

    def upsert(self, table):
        for row in conform(table, self.known.columns).to_pylist():
            if row["_id"] == "too long":
                raise DataError("its _id is too long")
            self.rows[row["_id"]] = row
            self._may_die()  # with some products written and others not

    def _may_die(self):
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                raise Killed

    def delete(self, product_ids):
        self._may_die()
        for one in product_ids:
            self.rows.pop(one, None)

    def read(self, product_ids):
        rows = [self.rows[one] for one in product_ids if one in self.rows]
        fields = [*self.known.columns.items(), ("vector", pa.list_(pa.float32(), self.known.dim))]
        return pa.Table.from_pylist(rows, schema=pa.schema(fields))

    def write_note(self, name, text):
        self._may_die()
        self.notes[name] = text

    def read_note(self, name):
        return self.notes.get(name)

    def count(self):
        return len(self.rows)

    def check(self, schema): ...

    def load(self, tables, schema): ...

    def digests(self): ...

    def drop(self): ...

    def close(self): ...

    def find(self, queries, k, wanted, texts): ...


@pytest.fixture
def engine(run_folder, monkeypatch) -> MemoryEngine:
    """An engine with the products of the index."""
    held = ProductIndex.load(run_folder / "index")
    vectors = held.graph.stored(np.arange(len(held))).astype(np.float32)
    table = held.products.append_column(
        "vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), held.dim)
    )
    columns = {field.name: field.type for field in held.products.schema}
    made = MemoryEngine(table, ProductSchema(held.dim, columns, held.model, held.blocks))
    monkeypatch.setattr(follow, "open_engine", lambda url: made)
    return made


STREAM = [
    {"type": "price", "_id": "mug-red", "price": 1},
    {"type": "price", "_id": "lamp-red", "price": 2},
    {"type": "delete", "_id": "lamp-red"},
    upsert(_id="a", title="big mug", price=3),
    {"type": "delete", "_id": "a"},
    {"type": "price", "_id": "a", "price": 4},
    upsert(_id="a", title="small mug"),
    {"type": "stock", "_id": "a", "in_stock": True},
    upsert(_id="b", title="lamp"),
    {"type": "delete", "_id": "b"},
]


@pytest.mark.parametrize("dies_in", [*range(9), None])
@pytest.mark.parametrize("batch", [3, 100])
def test_an_engine_holds_the_same_also_where_a_batch_is_applied_twice(run_folder, engine, dies_in, batch):
    apply(run_folder)  # the index is not touched, and is what the engine's products are compared with
    engine.dies_in = dies_in
    options = {"engine": "memory:", "batch": batch}
    try:
        apply(run_folder, *STREAM, **options)
    except Killed:
        engine.dies_in = None
        apply(run_folder, **options)
    price_of_red_mug = engine.rows["mug-red"].pop("price")
    assert price_of_red_mug == 1 and set(engine.rows) == set(products(run_folder)) - {"lamp-red"} | {"a"}
    row = engine.rows["a"]
    assert (row["title"], row["price"], row["in_stock"]) == ("small mug", None, True)
    np.testing.assert_allclose(row["vector"], embedded_alone(run_folder, {"title": "small mug"}), atol=1e-3)
    assert apply(run_folder, **options)["events"] == 0


def test_a_product_that_the_engine_refuses_is_left_out_alone(run_folder, engine, capsys):
    apply(run_folder, *(upsert(_id=one, title="mug") for one in ("x", "too long", "y", "z")), engine="memory:")
    assert {"x", "y", "z"} < set(engine.rows) and "too long" not in engine.rows
    assert "engine refuses (left out); first: " in capsys.readouterr().out


def test_an_engine_of_another_model_is_refused(run_folder, engine):
    engine.known.model = "other"
    with pytest.raises(DataError, match="was loaded with another model"):
        apply(run_folder, {"type": "delete", "_id": "mug-red"}, engine="memory:")


def test_a_lance_dataset_is_followed(run_folder):
    pytest.importorskip("lance")
    held, address = ProductIndex.load(run_folder / "index"), f"lance:{run_folder.parent}/products.lance"
    vectors = held.graph.stored(np.arange(len(held))).astype(np.float32).ravel()
    table = held.products.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors), held.dim))
    ids, schema = held.products.column("_id").to_pylist(), stored_columns(held.products.schema)
    with open_engine(address) as engine:
        engine.load([table], ProductSchema(held.dim, schema, held.model, held.blocks))
        before = engine.digests()
    done = apply(
        run_folder,
        upsert(_id="new", title="cotton bowl", price=2),
        {"type": "price", "_id": "mug-red", "price": 12.5},
        {"type": "price", "_id": "bowl-red", "price": 9.9},  # as it was
        {"type": "delete", "_id": "lamp-red"},
        {"type": "delete", "_id": "nobody"},
        engine=address,
    )
    assert (done["events"], done["left out"], done["embedded"], done["products"]) == (4, 1, 1, len(ids))
    with open_engine(address) as engine:
        after, found = engine.digests(), {row["_id"]: row for row in engine.read([*ids, "new"]).to_pylist()}
    changed = {"new", "mug-red", "lamp-red"}
    assert {one for one in {*before, *after} if before.get(one) != after.get(one)} == changed
    assert found.keys() == {*ids, "new"} - {"lamp-red"} and found["new"]["price"] == 2
    old = next(row for row in table.to_pylist() if row["_id"] == "mug-red")
    assert found["mug-red"] == old | {"price": 12.5}
    expected = embedded_alone(run_folder, {"title": "cotton bowl"})
    np.testing.assert_allclose(found["new"]["vector"], expected, atol=1e-3)
    assert apply(run_folder, engine=address)["events"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
@pytest.mark.slow
def test_killed_followers_leave_what_a_new_index_has(made, tmp_path):
    code = "import sys; from pathlib import Path; from training.benchmarks.follow import *; "
    code += "found = survive_kills(Path(sys.argv[1]), FollowBenchArguments(200, 600, 3), 0.0); print(found)"
    (tmp_path / "model").symlink_to(made / "model")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'killed': 3" in done.stdout
