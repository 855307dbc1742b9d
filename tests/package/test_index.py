import json
import os
import resource
import sys
from decimal import Decimal
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest
from helpers import drawn_catalogue

from modeling_mmfusion import index as index_module
from modeling_mmfusion import index_files, index_graph
from modeling_mmfusion.errors import ProductIndexError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_graph import EXPANSION, SKELETON, WIDTHS, VectorGraph, neighbourly_order
from modeling_mmfusion.index_words import ProductWords


def test_every_product_finds_itself_and_scores_are_inner_products(tmp_path):
    vectors, products = drawn_catalogue()
    ProductIndex.build(vectors, products, model="abc").save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index")
    assert (len(index), index.model) == (300, "abc")
    results = index.search(0.5 * vectors, k=3)
    assert [row[0].product_id for row in results] == products.column("_id").to_pylist()
    assert results[7][0].product == {"title": "Product 7"} and results[7][0].score == pytest.approx(0.5, abs=1e-5)
    second = results[7][1]
    assert second.score == pytest.approx(0.5 * vectors[7] @ vectors[int(second.product_id[4:])], abs=1e-5)
    assert [found.score for found in results[7]] == sorted((found.score for found in results[7]), reverse=True)


def test_more_results_than_products():
    vectors, products = drawn_catalogue(count=2)
    assert len(ProductIndex.build(vectors, products).search(vectors[:1], k=10)[0]) == 2


def test_saving_again_replaces_the_whole_folder(tmp_path):
    for count in (20, 10):
        ProductIndex.build(*drawn_catalogue(count)).save(tmp_path / "index")
    assert len(ProductIndex.load(tmp_path / "index")) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "a partial folder is left"


def test_what_does_not_fit_is_refused():
    vectors, products = drawn_catalogue(4)
    for wrong in (vectors[:3], vectors[:0]):
        with pytest.raises(ProductIndexError):
            ProductIndex.build(wrong, products)
    with pytest.raises(ProductIndexError, match="different _id"):
        ProductIndex.build(vectors, pa.table({"_id": ["a", "b", "c", "a"]}))
    with pytest.raises(ProductIndexError, match="8 dimensions, the index has 16"):
        ProductIndex.build(vectors, products).search(np.zeros((1, 8), np.float32))


def test_vectors_that_are_not_of_length_1_are_refused_and_zeros_are_not():
    vectors, products = drawn_catalogue(40)
    for vector, message in [
        (50 * vectors[7], "vector 7 of 40 has the length 50; normalise"),
        (0.98 * vectors[7], "vector 7 of 40 has the length 0.98; normalise"),
        (np.full(16, np.inf), "vector 7 of 40 holds what is no finite number"),
    ]:
        wrong = vectors.copy()
        wrong[7] = vector
        with pytest.raises(ProductIndexError, match=message):
            ProductIndex.build(wrong, products)
        index = ProductIndex.build(vectors, products)
        for change in (
            lambda: index.add(wrong[7:8], [{"_id": "new"}]),  # noqa: B023
            lambda: index.update([{"_id": "sku-007"}], wrong[7:8]),  # noqa: B023
        ):
            with pytest.raises(ProductIndexError, match=message.replace("7 of 40", "0 of 1")):
                change()
        assert len(index) == 40 and index.search(vectors[7:8], 1)[0][0].score == pytest.approx(1, abs=1e-5)
    for wrong in (vectors[0], vectors[:, :0], np.array([["a"] * 16] * 40), vectors.astype(complex)):
        with pytest.raises(ProductIndexError, match="the index wants"):
            ProductIndex.build(wrong, products)
    vectors[3] = 0
    for some in (vectors, vectors.astype(np.float16), vectors.tolist()):
        assert len(ProductIndex.build(some, products, dtype="i8")) == 40


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("length", [1e-30, 1e-6, 1e5, 1e15, 1e30])
def test_queries_of_any_length_find_the_same(dtype, length):
    vectors, products = drawn_catalogue(2000, dim=32)
    index = ProductIndex.build(vectors, products, dtype=dtype)
    for (rows, scores), (same, longer) in zip(
        index.search_rows(vectors[:20]), index.search_rows(vectors[:20] * np.float32(length)), strict=True
    ):
        assert rows.tolist() == same.tolist() and longer / length == pytest.approx(scores, rel=1e-4, abs=1e-5)


def test_arguments_that_mean_nothing_are_refused():
    vectors, products = drawn_catalogue(40)
    index = ProductIndex.build(vectors, products, words=True)
    query = vectors[:2]
    nan = np.where(np.arange(2)[:, None] == 1, np.nan, query)
    for arguments, message in [
        (dict(k=-1), "k is -1; give a whole number of at least 1"),
        (dict(k=0), "k is 0"),
        (dict(k=2.5), "k is 2.5"),
        (dict(k=True), "k is True"),
        (dict(k="3"), "k is '3'"),
        (dict(threads=-2), "threads is -2; give a whole number of at least 0"),
        (dict(threads=None), "threads is None"),
        (dict(queries=nan), "query 1 holds what is no finite number"),
        (dict(queries=np.full((1, 16), 1e300)), "query 0 holds what is no finite number"),
        (dict(queries=query[0]), r"queries are float32 of the shape \(16,\); the index wants \(queries, 16\)"),
        (dict(queries=query[None]), "the index wants"),
        (dict(queries=[["a"] * 16]), "the index wants"),
        (dict(texts=["one"]), "one string for each of the 2 queries"),
        (dict(texts="ab"), "one string for each of the 2 queries"),
        (dict(texts=["a", None]), "one string for each of the 2 queries"),
        (dict(where=["title"]), "where is .*give conditions by column"),
    ]:
        for search in (index.search, index.search_rows):
            with np.errstate(over="ignore"), pytest.raises(ProductIndexError, match=message):
                search(**{"queries": query, **arguments})
    assert len(index.search(query, np.int64(3))[0]) == 3
    for wrong, message in [
        (lambda: ProductIndex.build(vectors, products, threads=-1), "threads is -1"),
        (lambda: ProductIndex.build(vectors, products, dtype="f64"), "unknown dtype 'f64'"),
        (lambda: ProductIndex.build(vectors, products, blocks={"a": 16, "b": 0}), "don't make vectors of 16"),
        (lambda: ProductIndex.build(vectors, products.drop_columns("_id")), "different _id values, strings"),
        (lambda: ProductIndex.build(vectors[:2], [{"_id": 1}, {"_id": 2}]), "different _id values, strings"),
        (lambda: ProductIndex.build(vectors[:2], [{"_id": "a"}, "b"]), "give a list of dicts"),
        (lambda: index.add(vectors[:1], [{"_id": "new"}], threads=-1), "threads is -1"),
        (lambda: index.add(vectors[:1], []), "0 products and 1 vectors"),
        (lambda: index.update([{"_id": "sku-001", "title": "x"}, {"_id": "sku-002"}]), "the same columns"),
        (lambda: index.remove("sku-001"), "a list of ids, not the string 'sku-001'"),
    ]:
        with pytest.raises(ProductIndexError, match=message):
            wrong()
    index.add(vectors[:2], [{"_id": "no title"}, {"_id": "titled", "title": "x"}])
    assert [row["title"] for row in index.products.to_pylist()[-2:]] == [None, "x"], "a later row's column is lost"


def test_a_folder_of_other_files_is_not_saved_into(tmp_path):
    index = ProductIndex.build(*drawn_catalogue(20), dtype="i8")
    for number, files in enumerate(
        [["index.json"], ["notes.txt"], ["graph-000001.json"], ["graph-000001.usearch", "index.json", "notes.txt"]]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in files:
            (folder / name).write_text('{"pages": []}')
        with pytest.raises(ProductIndexError, match=f"is no index and holds other files .{files[-1]}"):
            index.save(folder)
        assert sorted(file.name for file in folder.iterdir()) == files
        assert {file.read_text() for file in folder.iterdir()} == {'{"pages": []}'}
    with pytest.raises(ProductIndexError, match="is a file"):
        index.save(tmp_path / "0" / "index.json")


def test_our_folders_are_saved_into_and_other_files_in_them_stay(tmp_path):
    index = ProductIndex.build(*drawn_catalogue(20), dtype="i8")
    index.save(tmp_path)
    foreign = {"notes.txt", "graph-000001.json", "words_data-000001.usearch", "vectors-000001.npy.bak"}
    for name in foreign:
        (tmp_path / name).write_text("mine")
    index.remove(["sku-001"])
    index.save(tmp_path)
    assert {name for name in foreign if (tmp_path / name).read_text() == "mine"} == foreign
    assert len(list(tmp_path.glob("*.usearch"))) == 2, "the older graph is left"
    for name in foreign:
        (tmp_path / name).unlink()
    (tmp_path / "index.json").write_text("torn")
    index = ProductIndex.build(*drawn_catalogue(10), dtype="i8")
    index.save(tmp_path)  # as the message on opening it says
    assert len(ProductIndex.load(tmp_path)) == 10
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / ".index.json.partial").write_text("{")
    (killed / "products-000001.arrow").write_text("torn")
    index.save(killed)
    assert len(ProductIndex.load(killed)) == 10
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index.json").write_text('{"format": 1, "count": 1, "dim": 16, "model": ""}')
    index.save(tmp_path / "old")


def save_with_room_for(size, index, folder, answers):
    """Saves in a process whose files can't grow beyond some bytes."""
    if not (child := os.fork()):
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            index.save(folder)
        except ProductIndexError as error:
            os.write(answers, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_a_full_disk_is_one_line_and_leaves_the_older_generation(tmp_path):
    vectors, products = drawn_catalogue(3000, dim=64)
    index = ProductIndex.build(vectors[:30], products.slice(0, 30), dtype="i8", words=True)
    index.save(tmp_path / "index")
    before = sorted(file.name for file in (tmp_path / "index").iterdir())
    index.add(vectors[30:], products.slice(30))
    index.save(tmp_path / "large")
    sizes = {file.stat().st_size for file in index.files.values()}
    for size in [1000, *(size - 1 for size in sizes if size > 20_000)]:
        answer, answers = os.pipe()
        save_with_room_for(size, index, tmp_path / "index", answers)
        os.close(answers)
        with open(answer) as stream:
            line = stream.read()
        assert "can't be written (" in line and line.endswith("is the disk full?") and "\n" not in line
        assert sorted(file.name for file in (tmp_path / "index").iterdir()) == before
        assert len(ProductIndex.load(tmp_path / "index")) == 30


def test_a_folder_that_is_no_index_is_refused_by_name(tmp_path):
    with pytest.raises(ProductIndexError, match="nowhere: is no index"):
        ProductIndex.load(tmp_path / "nowhere")
    folder, other = tmp_path / "index", tmp_path / "other"
    index = ProductIndex.build(*drawn_catalogue(20), dtype="i8")
    index.save(folder)
    ProductIndex.build(*drawn_catalogue(20), dtype="i8", model="other").save(other)
    for part, file in index.files.items():
        kept = file.read_bytes()
        for wrong in (b"torn", kept[:-1], kept + b" ", kept[:-1] + bytes([kept[-1] ^ 1])):
            file.write_bytes(wrong)
            with pytest.raises(ProductIndexError, match=f"{part}-0000.*: the index is damaged"):
                ProductIndex.load(folder, view=True)
        file.unlink()
        with pytest.raises(ProductIndexError, match=f"damaged: {part}-000001.* is missing"):
            ProductIndex.load(folder)
        file.write_bytes(kept)
    assert len(ProductIndex.load(folder)) == 20
    manifest = (folder / "index.json").read_text()
    for wrong in ("torn", "[]", "{}", manifest.replace('"model": ""', '"model": "x"')):
        (folder / "index.json").write_text(wrong)
        with pytest.raises(ProductIndexError, match="index.json: the index is damaged"):
            ProductIndex.load(folder)
    (folder / "index.json").write_text(json.dumps({"format": 1, "count": 20, "dim": 16, "model": ""}))
    with pytest.raises(ProductIndexError, match="older format"):
        ProductIndex.load(folder)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i8", "b1"])
def test_scores_are_exact_in_any_storage_and_a_view_finds_the_same(tmp_path, dtype):
    vectors, products = drawn_catalogue(2000, dim=64)
    index = ProductIndex.build(vectors, products, dtype=dtype)
    queries = vectors[:50]
    expected = np.sort(queries @ vectors.astype("f4" if dtype == "f32" else "f2").astype("f4").T, axis=1)[:, ::-1][
        :, :10
    ]
    found = index.search(queries, 10)
    scores = np.array([[one.score for one in results] for results in found])
    recall = (scores > expected[:, -1:] - 1e-6).mean()
    assert recall > (0.6 if dtype == "b1" else 0.98)  # signs of random vectors say little
    for query, results in zip(queries, found, strict=True):
        for one in results:
            exact = vectors[int(one.product_id[4:])].astype(np.float32 if dtype == "f32" else np.float16)
            assert one.score == pytest.approx(float(exact.astype(np.float32) @ query), abs=1e-6)
    index.save(tmp_path / "index")
    for view in (True, False):
        again = ProductIndex.load(tmp_path / "index", view=view).search(queries, 10)
        assert [[one.product_id for one in r] for r in again] == [[one.product_id for one in r] for r in found]


def test_contributions_of_the_blocks_sum_to_the_score():
    vectors, products = drawn_catalogue()
    blocks = {"text": 10, "image": 6}
    results = ProductIndex.build(vectors, products, dtype="i8", blocks=blocks).search(vectors[:3], 5)
    for query, found in zip(vectors, results, strict=False):
        product = vectors[int(found[1].product_id[4:])]
        assert found[1].contributions["image"] == pytest.approx(query[10:] @ product[10:], abs=1e-3)
        assert sum(found[1].contributions.values()) == pytest.approx(found[1].score, abs=1e-6)
    with pytest.raises(ProductIndexError, match="don't make vectors of 16"):
        ProductIndex.build(vectors, products, blocks={"text": 10})


def test_queries_of_another_model_are_refused():
    index = ProductIndex.build(*drawn_catalogue(10), model="abc", blocks={"text": 10, "image": 6})
    index.check_model("abc", {"text": 10, "image": 6})
    with pytest.raises(ProductIndexError, match=r"another model \(abc\) than the queries' \(xyz\)"):
        index.check_model("xyz")
    with pytest.raises(ProductIndexError, match="has|have the blocks"):
        index.check_model("abc", {"image": 6, "text": 10})


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_products_are_added_updated_and_removed_by_id(tmp_path, dtype):
    vectors, products = drawn_catalogue(40)
    index = ProductIndex.build(vectors[:30], products.slice(0, 30), dtype=dtype)
    index.save(tmp_path / "index")
    index.add(vectors[30:], products.slice(30))
    index.remove(["sku-003", "sku-004"])
    index.update([{"_id": "sku-005", "title": "New title"}])
    index.update([{"_id": "sku-006"}], -vectors[6:7])
    index.add(vectors[3:4], [{"_id": "again"}])
    with pytest.raises(ProductIndexError, match="'sku-003' is not in the index"):
        index.update([{"_id": "sku-003"}])
    index.save(tmp_path / "index")
    for opened in (index, ProductIndex.load(tmp_path / "index"), ProductIndex.load(tmp_path / "index", view=True)):
        assert len(opened) == 39 and opened.products.num_rows == 39
        assert "sku-003" not in opened and "again" in opened and "sku-035" in opened
        best = [found[0] for found in opened.search(np.concatenate([vectors[3:6], -vectors[6:7], vectors[35:36]]), 1)]
        assert [one.product_id for one in best][0::2] == ["again", "sku-005", "sku-035"]
        assert best[0].product == {"title": None} and best[2].product == {"title": "New title"}
        assert best[3].product_id == "sku-006" and best[3].product == {"title": "Product 6"}
        assert best[1].product_id != "sku-004"
        assert all(one.product_id != "sku-004" for one in opened.search(vectors[4:5], 50)[0])
    assert len(list((tmp_path / "index").iterdir())) == (3 if dtype == "f32" else 4), "older files are left"


def test_a_change_that_can_not_be_made_changes_nothing():
    vectors, products = drawn_catalogue(30)
    index = ProductIndex.build(vectors[:20], products.slice(0, 20))
    before = index.products
    new = products.slice(20, 2)
    nan = np.full((2, 16), np.nan, dtype=np.float32)
    for change, message in [
        (lambda: index.add(vectors[18:22], products.slice(18, 4)), "'sku-018' is in the index already"),
        (lambda: index.add(vectors[:2], pa.table({"_id": ["x", "x"]})), "different _id"),
        (lambda: index.add(vectors[:1], [{"title": "no id"}]), "different _id"),
        (lambda: index.add(vectors[:1], new), "2 products and 1 vectors"),
        (lambda: index.add(nan, new), "no finite number"),
        (lambda: index.add(vectors[:2, :8], new), r"\(2, 8\); the index wants \(products, 16\)"),
        (lambda: index.add(vectors[:1], [{"_id": "x", "colour": "red"}]), "no column 'colour'; it has _id, title"),
        (lambda: index.update([{"_id": "sku-001"}, {"_id": "x"}]), "'x' is not in the index"),
        (lambda: index.remove(["sku-001", "x"]), "'x' is not in the index"),
        (lambda: index.remove(["sku-001", "sku-001"]), "different _id"),
    ]:
        with pytest.raises(ProductIndexError, match=message):
            change()
        assert index.products.equals(before) and len(index) == 20


def test_a_view_is_not_changed_and_sees_what_others_save(tmp_path):
    vectors, products = drawn_catalogue(40)
    index = ProductIndex.build(vectors[:30], products.slice(0, 30), dtype="i8")
    index.save(tmp_path / "index")
    view = ProductIndex.load(tmp_path / "index", view=True)
    for change in (lambda: view.add(vectors[30:], products.slice(30)), lambda: view.remove(["sku-001"])):
        with pytest.raises(ProductIndexError, match="view=True"):
            change()
    other = ProductIndex.load(tmp_path / "index")
    index.add(vectors[30:], products.slice(30))
    index.save(tmp_path / "index")
    assert view.search(vectors[35:36], 1)[0][0].product_id != "sku-035", "the older generation is read on"
    assert view.refresh() and not view.refresh()
    assert view.search(vectors[35:36], 1)[0][0].product_id == "sku-035"
    other.remove(["sku-001"])
    for late in (lambda: other.save(tmp_path / "index"), other.refresh):
        with pytest.raises(ProductIndexError, match="another process"):
            late()


def test_searches_wait_until_a_change_is_whole(monkeypatch):
    vectors, products = drawn_catalogue(30)
    index = ProductIndex.build(vectors, products, dtype="i8")
    put, found = index.graph.put, []
    reader = Thread(target=lambda: found.append(index.search(-vectors[3:4], 1)[0][0].product["title"]))

    def put_slowly(*words):
        put(*words)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive(), "a search sees the new vector with the old columns"

    monkeypatch.setattr(index.graph, "put", put_slowly)
    index.update([{"_id": "sku-003", "title": "New title"}], -vectors[3:4])
    reader.join()
    assert found == ["New title"]


def test_an_index_that_is_saved_while_it_is_opened_is_opened_anew(tmp_path, monkeypatch):
    index, check_file = ProductIndex.build(*drawn_catalogue(30), dtype="i8"), index_module.check_file
    index.save(tmp_path / "index")

    def check_late(*words):
        if index.generation == 1:
            index.remove(["sku-001"])
            index.save(tmp_path / "index")
        return check_file(*words)

    monkeypatch.setattr(index_module, "check_file", check_late)
    assert len(ProductIndex.load(tmp_path / "index")) == 29


def test_a_save_writes_only_the_parts_that_changed(tmp_path):
    index = ProductIndex.build(*drawn_catalogue(30), dtype="i8", words=True)
    index.save(tmp_path / "index")
    graph, table = index.files["graph"], index.files["products"]
    index.update([{"_id": "sku-001", "title": "Other"}])
    index.save(tmp_path / "index")
    assert index.files["graph"] == graph and index.files["products"] != table
    assert (
        ProductIndex.load(tmp_path / "index").search(drawn_catalogue(30)[0][1:2], 1)[0][0].product["title"] == "Other"
    )


def test_parallel_builds_are_mended_so_that_each_product_finds_itself():
    vectors, products = drawn_catalogue(3000)
    index = ProductIndex.build(vectors, products, dtype="i8", threads=4)
    rows = np.arange(3000)
    index.graph.remove(rows[::50])  # as if they had been lost: present as rows, unknown to the graph
    assert index.graph.lost(rows).tolist() == rows[::50].tolist()
    assert index.graph.mend(rows) == 60 and not len(index.graph.lost(rows)) and not len(index.graph.unreachable)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8", "b1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_hundreds_of_copies_hide_no_product(threads, dtype):
    vectors, products = drawn_catalogue(400, 64)
    vectors[100:] = vectors[100]
    index = ProductIndex.build(vectors, products, dtype=dtype, threads=threads)
    assert not len(index.graph.lost(np.arange(400)))
    assert [r[0].product_id for r in index.search(vectors[:100], 1)] == products.column("_id").to_pylist()[:100]
    assert len(index.search(vectors[100:101], 300)[0]) == 300


def test_what_a_narrow_search_may_miss_costs_the_other_searches_nothing():
    vectors, products = drawn_catalogue(12_000, 256)
    index = ProductIndex.build(vectors, products, dtype="i8", recall=0.3, threads=2)
    assert index.width == WIDTHS[0] and len(index.graph.unreachable) < 8


def test_products_that_the_graph_can_not_find_are_listed(tmp_path, monkeypatch):
    vectors, products = drawn_catalogue(100)
    index = ProductIndex.build(vectors, products, dtype="i8")
    monkeypatch.setattr(index.graph, "lost", lambda rows, threads: np.array([3, 7]))
    index.graph.mend(np.arange(100))
    index.graph.index.remove(np.array([3]))
    index.graph.index.add(3, np.zeros(16, dtype=np.float32), threads=1)  # as if it could not be found
    index.save(tmp_path / "index")
    for opened in (index, ProductIndex.load(tmp_path / "index", view=True)):
        opened.graph.candidates = 1
        assert opened.search(vectors[3:4], 1)[0][0].product_id == "sku-003"
    index.remove(["sku-003"])
    assert index.graph.unreachable.tolist() == [7]


def clustered(count, dim=32, seed=0):
    """Products in clusters, and queries that lie apart from them."""
    rng = np.random.default_rng(seed)

    def unit(vectors):
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    centres = unit(rng.standard_normal((20, dim)))
    vectors = unit(centres[rng.integers(20, size=count)] + 0.7 * unit(rng.standard_normal((count, dim))))
    apart = unit(centres + 0.5 * unit(rng.standard_normal((20, dim))))
    queries = unit(apart[rng.integers(20, size=200)] + 0.7 * unit(rng.standard_normal((200, dim))))
    return vectors, pa.table({"_id": [f"sku-{number}" for number in range(count)]}), queries


def recall_of(index, vectors, queries):
    tenth = np.sort(queries @ vectors.T, axis=1)[:, -10]
    found = index.search_rows(queries)
    return np.mean([(scores >= least - 1e-3).mean() for (_, scores), least in zip(found, tenth, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "i8", "b1"])
def test_the_search_is_as_wide_as_the_wanted_recall_needs(dtype):
    vectors, products, queries = clustered(4000)
    indexes = [ProductIndex.build(vectors, products, dtype=dtype, recall=recall) for recall in (0.5, 0.95, 0.99)]
    widths = [index.width for index in indexes]
    assert widths == sorted(widths) and widths[0] < EXPANSION
    assert indexes[0].candidates <= widths[0] and (dtype != "b1" or indexes[0].candidates == widths[0])
    for index, wanted in zip(indexes, (0.5, 0.95, 0.99), strict=True):
        assert index.measured.recall >= wanted or index.width == WIDTHS[-1]
        assert recall_of(index, vectors, queries) >= min(wanted, index.measured.recall), "of queries that lie apart"
        assert index.choose_width(wanted) == index.measured, "the same again"
    measured = indexes[0].choose_width(0.99, queries)
    assert measured.recall == pytest.approx(recall_of(indexes[0], vectors, queries), abs=3e-3)


def test_the_width_is_saved_and_may_be_set(tmp_path, monkeypatch):
    vectors, products, _ = clustered(1000)
    index = ProductIndex.build(vectors, products, dtype="i8", recall=0.9)
    index.save(tmp_path)
    view = ProductIndex.load(tmp_path, view=True)
    assert (view.width, view.candidates, view.measured) == (index.width, index.candidates, index.measured)
    assert index.measured.wanted == 0.9 and index.measured.recall >= 0.9
    follows = ProductIndex.load(tmp_path, view=True)
    view.width = 100
    assert (view.width, view.candidates) == (100, 64)
    index.remove(["sku-1", "sku-2"])
    index.update([{"_id": "sku-3"}], vectors[4:5])
    assert index.measured.changed == 3
    index.width = 48
    index.measured = index.measured.__class__(200, 70, 0.95, 0.9, 3)
    index.save(tmp_path)
    assert view.refresh() and view.width == 100 and view.candidates == 64, "what was set is kept"
    assert follows.refresh() and (follows.width, follows.candidates) == (200, 70)
    assert ProductIndex.load(tmp_path).measured.changed == 3
    for wrong in (0, -1, 2.5, "64", True, None):
        with pytest.raises(ProductIndexError, match="width is .*; give a whole number of at least 1"):
            index.width = wrong
        with pytest.raises(ProductIndexError, match="candidates is .*; give a whole number of at least 1"):
            index.candidates = wrong
    for wrong in (0, 1.5, "all", True):
        with pytest.raises(ProductIndexError, match="recall is .*; give a share above 0 and up to 1"):
            ProductIndex.build(vectors, products, recall=wrong)
    with monkeypatch.context() as patch:
        patch.setattr(VectorGraph, "build", lambda *_: pytest.fail("is refused when all is built"))
        with pytest.raises(ProductIndexError, match="queries have 8 dimensions, the index has 32"):
            ProductIndex.build(vectors, products, queries=vectors[:, :8])
        for wrong in (vectors[:0], np.full((1, 32), np.nan)):
            with pytest.raises(ProductIndexError, match="to measure with are none, or hold"):
                ProductIndex.build(vectors, products, queries=wrong)
    assert index.width == 48 and ProductIndex.load(tmp_path).width == 200


def test_an_index_of_before_is_searched_as_before(tmp_path):
    vectors, products, _ = clustered(1000)
    ProductIndex.build(vectors, products, dtype="i8").save(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_text())
    del manifest["search"], manifest["checksum"]
    index_files.write_manifest(tmp_path, manifest)
    index = ProductIndex.load(tmp_path)
    assert (index.width, index.candidates, index.measured.recall) == (384, 64, None)
    index.save(tmp_path)
    assert ProductIndex.load(tmp_path).candidates == 64


@pytest.mark.parametrize("dtype", ["f32", "i8", "b1"])
def test_a_compacted_index_is_as_one_built_of_what_is_left(tmp_path, dtype):
    vectors, products = drawn_catalogue(1000, dim=32)
    vectors = vectors.astype(np.float16)
    index = ProductIndex.build(vectors, products, "abc", dtype, {"text": 20, "image": 12}, words=True)
    index.update([{"_id": "sku-999", "title": "Product changed"}])
    index.save(tmp_path / "index")
    reader = ProductIndex.load(tmp_path / "index", view=True)
    before = {part: file.stat().st_size for part, file in index.files.items()}
    index.remove([f"sku-{number:03d}" for number in range(1000) if number % 10])
    queries = drawn_catalogue(20, dim=32)[0]
    index.compact()
    titles = [f"Product {number}" for number in range(0, 1000, 10)]
    fresh = ProductIndex.build(
        vectors[::10], products.take(np.arange(0, 1000, 10)), "abc", dtype, {"text": 20, "image": 12}, words=True
    )
    index.save(tmp_path / "index")
    for one in (index, ProductIndex.load(tmp_path / "index")):
        assert one.catalogue.size == len(one) == 100 and one.products.equals(fresh.products)
        for options in ({}, {"where": {"title": titles[:30]}}, {"texts": ["980"] * 20}):
            assert one.search(queries, 5, **options) == fresh.search(queries, 5, **options), options
        assert one.measured == fresh.measured and one.model == "abc"
    assert "sku-010" in index and "sku-011" not in index
    assert all(file.stat().st_size < before[part] / 2 for part, file in index.files.items() if part in PARTS)
    assert len(reader) == 1000 and reader.search(vectors[11:12].astype("f4"), 1)[0][0].product_id == "sku-011"
    index.add(vectors[11:12], [{"_id": "sku-011", "title": "again"}])
    assert reader.refresh() and len(reader) == 100
    with pytest.raises(ProductIndexError, match="view=True"):
        reader.compact()


PARTS = ("graph", "vectors", "products", "words_data")


def test_a_save_compacts_where_most_rows_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "MANY_FREE", 100)
    index = ProductIndex.build(*drawn_catalogue(300), dtype="i8")
    index.width = 77
    for removed, rows in ((range(150), 300), (range(150, 151), 149), (range(151, 260), 40)):
        index.remove([f"sku-{number:03d}" for number in removed])
        index.save(tmp_path)
        assert index.catalogue.size == rows and ProductIndex.load(tmp_path).catalogue.size == rows
        assert index.width == 77, "what was set is kept"


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_an_emptied_index_is_compacted_and_fills_again(tmp_path, dtype):
    vectors, products = drawn_catalogue(30)
    index = ProductIndex.build(vectors, products, dtype=dtype, words=True)
    index.remove(products.column("_id").to_pylist())
    index.compact()
    index.save(tmp_path)
    for view in (True, False):
        index = ProductIndex.load(tmp_path, view=view)
        assert index.search(vectors[:2], texts=["product", "7"]) == [[], []] and index.catalogue.size == 0
    index.add(vectors, products)
    index.save(tmp_path)
    assert [r[0].product_id for r in index.search(vectors, 1)] == products.column("_id").to_pylist()
    assert index.search(vectors[:1], 1, texts=["29"])[0][0].product_id in ("sku-000", "sku-029")


def test_searches_go_on_while_an_index_is_compacted_and_a_kill_leaves_the_older(tmp_path, monkeypatch):
    vectors, products = drawn_catalogue(60)
    index = ProductIndex.build(vectors, products, dtype="i8")
    index.save(tmp_path)
    index.remove([f"sku-{number:03d}" for number in range(40)])
    build, seen = VectorGraph.build, []

    def build_slowly(*words):
        reader = Thread(target=lambda: seen.append(index.search(vectors[50:51], 1)[0][0].product_id))
        reader.start()
        reader.join(10)
        return build(*words)

    monkeypatch.setattr(VectorGraph, "build", build_slowly)
    index.compact()
    assert seen == ["sku-050"], "a search waits for a compaction"
    if not (child := os.fork()):
        index_module.write_manifest = lambda *_: os._exit(9)
        index.save(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(ProductIndex.load(tmp_path)) == 60
    index.save(tmp_path)
    assert len(ProductIndex.load(tmp_path)) == 20 and len(list(tmp_path.glob("graph-*"))) == 1


FILTERED = pa.table(
    {
        "_id": [f"sku-{number}" for number in range(1000)],
        "category": [["mugs", "lamps", None, "bowls"][number % 4] for number in range(1000)],
        "price": [str(number / 10) if number % 10 else "on request" for number in range(1000)],
        "in_stock": [number % 3 == 0 for number in range(1000)],
        "rating": [number % 5 + 0.5 for number in range(1000)],
    }
)


@pytest.mark.parametrize("exact_rows", [10_000, 20], ids=["all that pass are scored", "the graph is asked for more"])
@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_filters_give_the_best_that_pass(monkeypatch, exact_rows, dtype):
    monkeypatch.setattr(index_module, "EXACT_ROWS", exact_rows)
    monkeypatch.setattr(index_module, "MOST_ASKED", 10_000)
    vectors = drawn_catalogue(1000)[0]
    index = ProductIndex.build(vectors, FILTERED, dtype=dtype)
    rows = FILTERED.to_pylist()
    for where, passes in [
        ({"category": "mugs"}, lambda row: row["category"] == "mugs"),
        (
            {"category": ["lamps", "bowls"], "in_stock": True},
            lambda r: r["category"] in ("lamps", "bowls") and r["in_stock"],
        ),
        ({"price": (5, 20)}, lambda r: r["price"][0].isdigit() and 5 <= float(r["price"]) <= 20),
        ({"price": (None, 0.4), "rating": (4.5, None)}, lambda r: r["_id"] == "sku-4"),
        ({"rating": 1.5, "category": {"mugs"}}, lambda r: r["rating"] == 1.5 and r["category"] == "mugs"),
    ]:
        right = np.array([number for number, row in enumerate(rows) if passes(row)])
        for query in vectors[:20]:
            found = index.search(query[None], 10, where=where)[0]
            best = right[np.argsort(-vectors[right] @ query)][:10]
            assert len(found) == len(best) > 0
            recall = len({one.product_id for one in found} & {f"sku-{number}" for number in best}) / len(best)
            assert recall >= 0.8 and all(int(one.product_id[4:]) in right for one in found)
    assert index.search(vectors[:1], where={"category": "shoes"}) == [[]]


def test_filters_see_changes_and_refuse_what_can_not_be_compared():
    vectors = drawn_catalogue(1000)[0]
    index = ProductIndex.build(vectors, FILTERED, dtype="i8")
    where = {"category": "shoes"}
    assert index.search(vectors[:1], where=where) == [[]]
    index.update([{"_id": "sku-7", "category": "shoes"}, {"_id": "sku-8", "category": "shoes"}])
    index.add(vectors[:1], [{"_id": "new", "category": "shoes"}])
    index.remove(["sku-8"])
    assert {one.product_id for one in index.search(vectors[:1], where=where)[0]} == {"sku-7", "new"}
    fresh = {"category": ["shoes"]}
    assert {one.product_id for one in index.search(vectors[:1], where=fresh)[0]} == {"sku-7", "new"}
    with pytest.raises(ProductIndexError, match="no column 'colour' to filter by; there are _id, category, price"):
        index.search(vectors[:1], where={"colour": "red"})
    for wrong in (
        {"rating": "good"},
        {"in_stock": "perhaps"},
        {"rating": (1,)},
        {"rating": (1, 2, 3)},
        {"rating": ("low", 5)},
        {"rating": True},
        {"rating": np.arange(3)},
    ):
        with pytest.raises(ProductIndexError, match=f"can't filter column '{next(iter(wrong))}'"):
            index.search(vectors[:1], where=wrong)


def test_missing_values_fulfil_no_condition_and_numbers_may_come_as_strings():
    table = pa.table(
        {
            "_id": ["a", "b", "c", "d"],
            "brand": ["x", None, "42", "y"],
            "size": pa.array([42, None, 7, 42], pa.int16()),
            "rating": pa.array([1.1, float("nan"), None, 3], pa.float32()),
            "price": pa.array([Decimal("5.50"), None, Decimal("7.00"), Decimal("5.50")], pa.decimal128(6, 2)),
            "colour": pa.nulls(4),
        }
    )
    vectors = drawn_catalogue(4)[0]
    index = ProductIndex.build(vectors, table)
    nan = float("nan")
    for where, expected in [
        ({"brand": None}, ""),
        ({"brand": [None, "x"]}, "a"),
        ({"brand": []}, ""),
        ({"brand": {None, "42"}}, "c"),
        ({"rating": nan}, ""),
        ({"rating": [nan, None, 3]}, "d"),
        ({"rating": (None, None)}, "ad"),
        ({"rating": "1.1"}, "a"),
        ({"rating": 1.1}, "a"),
        ({"size": None}, ""),
        ({"size": "42"}, "ad"),
        ({"size": ["42.0", " 7 "]}, "acd"),
        ({"size": [42.5, "7"]}, "c"),
        ({"size": 100_000}, ""),
        ({"size": ("40", None)}, "ad"),
        ({"price": "5.5"}, "ad"),
        ({"price": [7]}, "c"),
        ({"price": Decimal("5.50")}, "ad"),
        ({"colour": "red"}, ""),
        ({"colour": None}, ""),
    ]:
        found = index.search(vectors[:1], where=where)[0]
        assert "".join(sorted(one.product_id for one in found)) == expected, where


def test_hybrid_search_finds_model_numbers_and_passes_filters(tmp_path):
    vectors, products = drawn_catalogue(300, 64)
    titles = [f"lamp {'X' if number % 2 else 'Y'}-{number:04d}" for number in range(300)]
    products = products.set_column(1, "title", [titles])
    index = ProductIndex.build(vectors, products, dtype="i8", words=True)
    index.save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index")

    query = np.random.default_rng(5).standard_normal((1, vectors.shape[1])).astype(np.float32)
    query *= 3 / np.linalg.norm(query)

    def best(text, **options):
        return [one.product_id for one in index.search(query, 3, texts=[text], **options)[0]]

    assert best("x-0251")[0] == "sku-251" and "sku-251" not in [r.product_id for r in index.search(query, 3)[0]]
    assert best("nothing of that") == [one.product_id for one in index.search(query, 3)[0]]
    assert "sku-251" not in best("0251", where={"title": titles[:200]})
    index.remove(["sku-251"])
    index.add(vectors[251:252], [{"_id": "reused row", "title": "vase Z-9999"}])
    assert not {"sku-251", "reused row"} & set(best("0251")), "the words of a product that was removed"
    index.save(tmp_path / "index")
    assert "reused row" in [
        r.product_id for r in ProductIndex.load(tmp_path / "index").search(query, 3, texts=["9999"])[0]
    ]
    with pytest.raises(ProductIndexError, match="has no words"):
        ProductIndex.build(vectors, products).search(vectors[:1], texts=["lamp"])


def test_a_hybrid_score_is_the_sum_of_vectors_and_words(tmp_path):
    vectors, products = drawn_catalogue(300, 64)
    titles = [f"{'two' if number % 3 else 'green'} vases {number}" for number in range(300)]
    products, blocks = products.set_column(1, "title", [titles]), {"text": 48, "image": 16}
    index = ProductIndex.build(vectors, products, dtype="i8", blocks=blocks, words=True)
    index.save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index")
    query = np.random.default_rng(5).standard_normal(vectors.shape[1]).astype(np.float32)
    query /= np.linalg.norm(query)
    number = int(np.argsort(-vectors @ query)[30])
    text, weight = f"vase {number}", 0.9 * float(np.sum(query[:48] ** 2)) ** 2
    scores = vectors @ query + weight * index.words.matches(text)
    (found,) = index.search(2 * query[None], 10, texts=[text])
    expected = np.argsort(-scores, kind="stable")[:10]
    assert [one.product_id for one in found] == products.column("_id").take(expected).to_pylist()
    np.testing.assert_allclose([one.score for one in found], 2 * scores[expected], atol=2e-3)
    for one in found:
        assert list(one.contributions) == ["text", "image", "words"]
        assert sum(one.contributions.values()) == pytest.approx(one.score, abs=1e-5)
    assert max(one.contributions["words"] for one in found) > 0.1
    index.update([{"_id": f"sku-{number:03d}", "title": "red bowl"}])
    assert index.search(query[None], 300, texts=[str(number)])[0][0].contributions["words"] == 0, (
        "its words are not known yet"
    )
    picture = np.concatenate([np.zeros(48), query[48:]]).astype(np.float32)
    assert not any(one.contributions["words"] for one in index.search(picture[None], texts=["green vase"])[0])


def test_how_much_of_a_query_a_text_has():
    texts = ["Green MUGS 500ml", "green vase", "a lamp", "", "green mug green mug green mug"]
    words = ProductWords.build([*texts, *["other"] * 40])
    found = words.matches("green mug")
    assert found[1] < 0.1 * found[0] and not found[2:4].any(), "half of the words is far less than half of the score"
    assert found[0] < found[4] < 1, "however often they come"
    assert words.matches("green mug quux")[0] < 0.3 * found[0], "a word that nothing has counts as the rarest"
    np.testing.assert_allclose(words.matches("500 ml mug"), words.matches("MUGS, 500ml!"), atol=1e-6)
    assert words.matches("500ml")[0] > 0 and not words.matches(" ?").any() and not words.matches("mu").any()
    plain = ProductWords.build(texts, 1.5, 0.75, stemmed=False)
    assert (
        not plain.scores("mug")[0] and plain.scores("mugs")[0] and plain.index.vocab_dict.keys() >= {"mugs", "500ml"}
    )


def test_an_index_of_before_goes_on_with_its_words_as_they_stand(tmp_path):
    vectors, products = drawn_catalogue(30)
    index = ProductIndex.build(vectors, products.set_column(1, "title", [["mugs"] * 30]))
    index.words = ProductWords.build(["mugs"] * 30, stemmed=False)
    index.save(tmp_path / "index")
    manifest = index_files.read_manifest(tmp_path / "index")
    assert manifest.pop("stemmed") is False and manifest.pop("checksum", True)
    index_files.write_manifest(tmp_path / "index", manifest)
    words = ProductIndex.load(tmp_path / "index").words
    assert words.scores("mugs").all() and not words.scores("mug").any()


def test_an_emptied_index_finds_nothing_and_fills_again(tmp_path):
    vectors, products = drawn_catalogue(30)
    index = ProductIndex.build(vectors, products, dtype="i8", words=True)
    index.remove(products.column("_id").to_pylist())
    index.save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index")
    assert index.search(vectors[:2], texts=["product", "7"]) == [[], []] and len(index) == 0
    index.add(vectors, products)
    assert [r[0].product_id for r in index.search(vectors, 1)] == products.column("_id").to_pylist()


def test_like_vectors_are_added_together_and_every_one_once():
    rng = np.random.default_rng(0)
    groups = rng.integers(4, size=8192)
    points = (np.eye(8)[groups] + 0.05 * rng.standard_normal((8192, 8))).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    order = neighbourly_order(points)
    assert sorted(order.tolist()) == list(range(8192)) and neighbourly_order(points).tolist() == order.tolist()
    changes = np.count_nonzero(np.diff(groups[order]))
    assert changes < 8192 * SKELETON + 200 < np.count_nonzero(np.diff(groups)) / 9
    points[5000, 3] = np.nan
    with pytest.raises(ProductIndexError, match="vector 5000 of 8192 holds what is no finite number"):
        VectorGraph.build(points, "i8")


def flat_catalogue(many, dim=256):
    """More vectors than `MANY`, of which the most lies in a few of the dimensions' directions."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((many, 32)) @ rng.standard_normal((32, dim)) / 32
    vectors += 0.01 * rng.standard_normal((many, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors, pa.table({"_id": [f"sku-{number}" for number in range(many)]})


def test_the_graph_of_many_vectors_holds_their_main_directions_and_scores_stay_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(index_graph, "MANY", 3000)
    vectors, products = flat_catalogue(3000)
    index = ProductIndex.build(vectors, products, dtype="i8")
    assert index.graph.index.ndim == 192 and index.dim == 256
    exact = ProductIndex.build(vectors, products, dtype="f32")
    assert exact.graph.index.ndim == 256
    queries = vectors[:50] + 0.02
    for found, best in zip(index.search(queries, 5), exact.search(queries, 5), strict=True):
        assert [one.product_id for one in found] == [one.product_id for one in best]
        assert np.allclose([one.score for one in found], [one.score for one in best], atol=1e-3)
    index.save(tmp_path / "index")
    opened = ProductIndex.load(tmp_path / "index")
    new = -vectors[:1]
    opened.add(new, [{"_id": "new"}])
    opened.save(tmp_path / "index")
    assert opened.files["basis"].name == "basis-000001.npy"  # not written again
    assert ProductIndex.load(tmp_path / "index", view=True).search(new, 1)[0][0].product_id == "new"
    np.save(opened.files["basis"], np.zeros((256, 64), dtype=np.float32))
    with pytest.raises(ProductIndexError, match="basis-000001.npy: the index is damaged"):
        ProductIndex.load(tmp_path / "index")
    with pytest.raises(ProductIndexError, match="is no graph that goes with its directions"):
        VectorGraph.open(opened.files, 256, [], view=False)


def test_vectors_that_point_everywhere_are_kept_whole(monkeypatch):
    monkeypatch.setattr(index_graph, "MANY", 1000)
    vectors = np.random.default_rng(0).standard_normal((1000, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert VectorGraph.build(vectors, "i8").index.ndim == 256


def test_notes_are_of_the_generation_of_their_products(tmp_path):
    index = ProductIndex.build(*drawn_catalogue(30), dtype="i8", words=True)
    index.save(tmp_path / "index")
    reader = ProductIndex.load(tmp_path / "index", view=True)
    index.remove(["sku-001"])
    index.notes["stream"] = "ü 1"
    assert not reader.refresh() and reader.notes == {}
    index.save(tmp_path / "index")
    assert reader.refresh() and reader.notes == {"stream": "ü 1"}
    index.compact()
    index.save(tmp_path / "index")
    assert ProductIndex.load(tmp_path / "index").notes == {"stream": "ü 1"}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_save_writes_the_words_that_queries_are_corrected_to_anew(tmp_path, compacted):
    index = ProductIndex.build(*drawn_catalogue(30), words=True)
    index.save(tmp_path / "index")
    index.update([{"_id": "sku-001", "title": "Breton"}])
    index.remove(["sku-002"])
    if compacted:
        index.compact()
    index.save(tmp_path / "index")
    assert "breton" in ProductIndex.load(tmp_path / "index").words.spelling.split()


def test_saves_that_change_no_file_are_generations_too(tmp_path):
    index = ProductIndex.build(*drawn_catalogue(20))
    index.save(tmp_path)
    for generation in (2, 3):
        reader = ProductIndex.load(tmp_path, view=True)
        index.save(tmp_path)
        assert index.generation == generation and reader.refresh() and not reader.refresh()
    reader = ProductIndex.load(tmp_path, view=True)
    index.remove(["sku-003"])
    index.save(tmp_path)
    assert reader.refresh() and len(reader) == 19
