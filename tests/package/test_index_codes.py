"""Filters that few products pass: short codes choose rows, and what is found is what exact vectors say."""

import numpy as np
import pyarrow as pa
import pytest

from modeling_mmfusion import index as index_module
from modeling_mmfusion import index_codes, index_graph
from modeling_mmfusion.errors import ProductIndexError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_codes import RowCodes
from modeling_mmfusion.index_graph import principal_axes, unit

COUNT, DIM = 3000, 256


def drawn_vectors(count: int, seed: int, decay: float = 0.5) -> np.ndarray:
    """Unit vectors that lie mostly along some directions, as products do."""
    scales = np.arange(1, DIM + 1, dtype=np.float32) ** -decay
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32) * scales)


@pytest.fixture
def few(monkeypatch):
    """Thousands of products are many."""
    monkeypatch.setattr(index_graph, "MANY", 1000)
    monkeypatch.setattr(index_module, "EXACT_WITH_CODES", 100)
    monkeypatch.setattr(index_module, "GRAPH_IS_CHEAPER", 1e9)
    monkeypatch.setattr(index_codes, "MANY_ROWS", 800)
    monkeypatch.setattr(index_codes, "LEAST_KEPT", 700)
    monkeypatch.setattr(index_codes, "KEPT", 128)


@pytest.fixture
def asked(monkeypatch):
    """How many rows codes were asked for, a search."""
    counts, likely = [], RowCodes.likely
    monkeypatch.setattr(
        RowCodes,
        "likely",
        lambda self, query, rows, count: counts.append(len(rows)) or likely(self, query, rows, count),
    )
    return counts


def build(vectors: np.ndarray) -> ProductIndex:
    table = pa.table({"_id": [f"p{row}" for row in range(len(vectors))], "group": np.arange(len(vectors)) % 3})
    return ProductIndex.build(vectors.astype(np.float16), table, dtype="i8")


def exact(vectors: dict[str, np.ndarray], query: np.ndarray, k: int) -> list[str]:
    names = list(vectors)
    scores = np.stack([vectors[name].astype(np.float16).astype(np.float32) for name in names]) @ query
    return [names[place] for place in np.argsort(-scores, kind="stable")[:k]]


def found(index: ProductIndex, query: np.ndarray, k: int, where: dict) -> list[str]:
    return [one.product_id for one in index.search(query[None], k, where)[0]]


def recall(index: ProductIndex, vectors: dict[str, np.ndarray], groups, k: int = 10) -> float:
    passing = {name: vector for name, vector in vectors.items() if int(name[1:]) % 3 in groups}
    shares = []
    for query in drawn_vectors(20, 9):
        wanted = exact(passing, query, k)
        got = found(index, query, k, {"group": list(groups)})
        assert set(got) <= set(passing) and len(got) == k
        shares.append(len(set(wanted) & set(got)) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("decay", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("groups", [(0,), (0, 2), (0, 1, 2)])
def test_filters_find_what_exact_vectors_find(decay, groups, few, asked):
    vectors = drawn_vectors(COUNT, 0, decay)
    index = build(vectors)
    by_id = {f"p{row}": vector for row, vector in enumerate(vectors)}
    assert recall(index, by_id, groups) >= (0.95 if decay == 0.1 else 0.995)
    assert recall(index, by_id, groups, 100) >= (0.95 if decay == 0.1 else 0.995)
    assert asked == [COUNT // 3 * len(groups)] * 40


def test_codes_follow_changes_and_saves(few, asked, tmp_path):
    vectors = drawn_vectors(COUNT, 0)
    index = build(vectors)
    by_id = {f"p{row}": vector for row, vector in enumerate(vectors)}
    index.save(tmp_path / "index")
    first = sorted(file.name for file in (tmp_path / "index").glob("*.npy"))
    index = ProductIndex.load(tmp_path / "index")

    changed = dict(zip([f"p{row}" for row in range(0, 600, 3)], drawn_vectors(200, 3), strict=True))
    index.update([{"_id": name} for name in changed], np.stack(list(changed.values())))
    added = dict(zip([f"p{row}" for row in range(3000, 3300, 3)], drawn_vectors(100, 4), strict=True))
    index.add(np.stack(list(added.values())), [{"_id": name, "group": 0} for name in added])
    gone = [f"p{row}" for row in range(1200, 1500)]
    index.remove(gone)
    by_id = {name: vector for name, vector in (by_id | changed | added).items() if name not in gone}
    assert recall(index, by_id, (0,)) >= 0.995
    for view in (False, True):
        index.save(tmp_path / "index")
        index = ProductIndex.load(tmp_path / "index", view=view)
        assert recall(index, by_id, (0,)) >= 0.995
        for name, vector in [*list(changed.items())[:5], *list(added.items())[:5]]:
            assert found(index, vector, 1, {"group": 0}) == [name]
    assert len(asked) == 80
    names = sorted(file.name for file in (tmp_path / "index").glob("*.npy"))
    assert [name for name in names if name.startswith("axes")] == [name for name in first if name.startswith("axes")]


def test_an_index_of_before_has_no_codes_and_finds_the_same(few, asked, tmp_path, monkeypatch):
    vectors = drawn_vectors(COUNT, 0)
    monkeypatch.setattr(index_graph.RowCodes, "build", classmethod(lambda cls, vectors, axes: None))
    build(vectors).save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index", view=True)
    assert recall(index, {f"p{row}": vector for row, vector in enumerate(vectors)}, (1,)) == 1 and not asked


@pytest.mark.parametrize("part", ["heads", "tails", "axes"])
def test_codes_that_are_damaged_are_told(part, few, tmp_path):
    build(drawn_vectors(COUNT, 0)).save(tmp_path / "index")
    [file] = (tmp_path / "index").glob(f"{part}-*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ProductIndexError, match=f"{part}.*damaged|damaged.*{part}"):
        ProductIndex.load(tmp_path / "index")
    file.unlink()
    with pytest.raises(ProductIndexError, match=part):
        ProductIndex.load(tmp_path / "index")


def test_likely_rows_of_a_query_of_any_length():
    vectors = drawn_vectors(2000, 0)
    codes = RowCodes.build(vectors, principal_axes(vectors)[0])
    rows, query = np.arange(0, 2000, 2), drawn_vectors(1, 5)[0]
    expected = sorted(codes.likely(query, rows, 10).tolist())
    assert len(expected) == index_codes.KEPT and set(expected) <= set(rows.tolist())
    assert sorted(codes.likely(query * 1e-4, rows, 10).tolist()) == expected
    assert sorted(codes.likely(query * 1e4, rows, 10).tolist()) == expected
    assert len(codes.likely(query * 0, rows[:5], 10)) == 5
    assert len(codes.likely(query, rows, 900)) == 900
