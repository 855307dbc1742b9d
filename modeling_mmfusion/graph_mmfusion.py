"""Vectors in a usearch graph, and the exact ones beside it that have the last word on the graph's candidates.

The graph holds float32 vectors, or compressed ones: bfloat16, float16, 8 bits or 1 bit (the signs) a dimension. Beside
compressed ones the exact vectors lie in a memory-mapped file as float16. Rows are the graph's keys.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numkong
import numpy as np
from tqdm.auto import tqdm
from usearch.index import BatchMatches, Index, Matches

from .generations_mmfusion import ProductIndexError

CANDIDATES = {"f32": 0, "bf16": 24, "f16": 24, "i8": 32, "b1": 400}  # scored exactly, at least
EXPANSION = 512  # width of the graph's search: more finds more and takes longer
EXPANSION_ADD = 256  # width of the search for a new vector's neighbours: a better graph, built more slowly
COPIES_LOOKED_AT = 100
MEND_ROUNDS = 3
QUICK_LOOK = 16  # expansion of the searches that most rows are found by
COPIES = 1e-2  # vectors whose scores differ by less may stand for each other: 8 bits can't tell them apart
BLOCK = 16_384  # rows that are looked at together where all are
CLUSTER, MOST_CLUSTERS = 1024, 4096  # vectors of a cluster, on average, where there are not too many of them
SKELETON = 0.05  # share of the vectors that are added before those of the clusters


class RowVectors:
    """Vectors by row, stored in half precision.

    Args:
        base (`np.ndarray` of shape `(rows, dim)`): float16. Rows that are put again are changed in it, so give one
            that may be: of a file, one that was mapped with `mmap_mode="c"`, which leaves the file as it is.
    """

    def __init__(self, base: np.ndarray):
        self.base = base.view(np.ndarray)  # a memmap takes longer to be taken from
        self.added = np.empty((0, base.shape[1]), dtype=np.float16)
        self.size = len(base)

    @classmethod
    def map(cls, file: Path) -> "RowVectors":
        """A file that [`~RowVectors.save`] wrote, mapped into memory; changes stay in memory."""
        return cls(np.load(file, mmap_mode="c", allow_pickle=False))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float16 of shape `(len(rows), dim)`."""
        if self.size == len(self.base):
            return self.base.take(rows, axis=0)
        is_old, found = rows < len(self.base), np.empty((len(rows), self.base.shape[1]), dtype=np.float16)
        found[is_old] = self.base[rows[is_old]]
        found[~is_old] = self.added[rows[~is_old] - len(self.base)]
        return found

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Stores vectors in rows, those that are there or new ones that follow on."""
        known, last = len(self.base), int(rows.max()) + 1
        if last - known > len(self.added):
            room = np.zeros((last - known + self.size // 8, self.base.shape[1]), dtype=np.float16)
            room[: len(self.added)] = self.added
            self.added = room
        self.base[rows[rows < known]] = vectors[rows < known]
        self.added[rows[rows >= known] - known] = vectors[rows >= known]
        self.size = max(self.size, last)

    def save(self, file: Path) -> None:
        """Writes all rows as a `.npy` file."""
        header = {"descr": "<f2", "fortran_order": False, "shape": (self.size, self.base.shape[1])}
        with open(file, "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, self.size, BLOCK):
                self.take(np.arange(start, min(start + BLOCK, self.size))).tofile(stream)


def halves_of(queries: np.ndarray) -> np.ndarray:
    """Float32 queries `(Q, dim)` as sums of two float16 vectors, `(Q, 2, dim)`.

    Inner products with float16 vectors are exact so, and four times as fast as with these as float32.
    """
    high = queries.astype(np.float16)
    return np.stack([high, (queries - high).astype(np.float16)], axis=1)


def inner_products(vectors: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Inner products `(N, 2)`, to be summed, of float16 vectors `(N, dim)` with a query's halves `(2, dim)`."""
    return np.asarray(numkong.cdist(vectors, halves, "dot"))


class VectorGraph:
    """Nearest rows by inner product: candidates from the graph, ranked by their exact scores.

    Args:
        index (`usearch.index.Index`): the graph.
        exact (`RowVectors` or `None`): exact vectors by row; `None` if the graph holds float32.
        dim (`int`): length of the vectors.
        strays (`list[int]`, *optional*): rows that no way in the graph leads to; they are candidates of every search.
    """

    def __init__(self, index: Index, exact: RowVectors | None, dim: int, strays: Sequence[int] = ()):
        self.index = index
        self.exact = exact
        self.dim = dim
        self.strays = np.array(strays, dtype=np.int64)
        self.dtype = index.dtype.name.lower()
        self.candidates = CANDIDATES[self.dtype]
        index.expansion_search, index.expansion_add = EXPANSION, EXPANSION_ADD

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def build(cls, vectors: np.ndarray, dtype: str, threads: int = 1, progress: bool = False) -> "VectorGraph":
        """A graph of vectors `(N, dim)`, keyed by their place; see [`ProductIndex.build`]."""
        dim = vectors.shape[1]
        bits = {"ndim": -(-dim // 8) * 8, "metric": "hamming", "dtype": "b1"}
        index = Index(**bits) if dtype == "b1" else Index(ndim=dim, metric="ip", dtype=dtype)
        graph = cls(index, None if dtype == "f32" else RowVectors(vectors.astype(np.float16, copy=False)), dim)
        with tqdm(total=len(vectors), desc="graph", unit="product", disable=not progress, leave=False) as bar:
            order = neighbourly_order(check_vectors(vectors, dim))
            for start in range(0, len(vectors), BLOCK):
                rows = order[start : start + BLOCK]
                index.add(rows, graph._encode(vectors[rows]), threads=threads)
                bar.update(len(rows))
        if threads != 1:
            graph.mend(np.arange(len(vectors)), threads)
        return graph

    @classmethod
    def open(cls, index: Path, vectors: Path | None, dim: int, strays: Sequence[int], view: bool) -> "VectorGraph":
        """Reads or maps the files that [`~VectorGraph.save`] and [`RowVectors.save`] wrote.

        Raises:
            ProductIndexError: if they are none, or don't belong together.
        """
        try:
            graph = Index.restore(str(index), view=view)
            exact = None if vectors is None else RowVectors.map(vectors)
        except (ValueError, RuntimeError, EOFError) as error:
            raise ProductIndexError(f"{index}: can't be read: {' '.join(str(error).split())[:200]}") from error
        if graph is None or (exact is None) != (graph.dtype.name == "F32"):
            raise ProductIndexError(f"{index}: is no graph that goes with its vectors")
        return cls(graph, exact, dim, strays)

    def save(self, file: Path) -> None:
        """Writes the graph."""
        self.index.save(str(file))

    def best(self, queries: np.ndarray, k: int, threads: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best `k` rows and their scores for each of `queries` `(Q, dim)`, best first; ties go to the lower row.

        Fewer where the graph finds fewer.
        """
        count = min(self.count_for(k), len(self))
        if not count or not len(queries):
            return [self.ranked(query, np.zeros(0, dtype=np.int64), k) for query in queries]
        matches = self.index.search(self._encode(queries), count, threads=threads)
        rows = np.atleast_2d(matches.keys).astype(np.int64)
        if len(self.strays) or rows.shape[1] < count or np.min(counts_of(matches, rows)) < count:
            found = self._with_strays(matches, rows)
            return [self.ranked(query, some, k) for query, some in zip(queries, found, strict=True)]
        if self.exact is None:
            scores = 1 - np.atleast_2d(matches.distances)
        else:
            parts = np.empty((*rows.shape, 2), dtype=np.float32)
            for part, some, halves in zip(parts, rows, halves_of(queries), strict=True):
                part[:] = inner_products(self.exact.take(some), halves)
            scores = parts.sum(axis=2)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return list(zip(rows, scores, strict=True))

    def nearest(self, queries: np.ndarray, count: int, threads: int = 1) -> list[np.ndarray]:
        """The candidates for each of `queries` `(Q, dim)`: `count` rows that the graph finds, and the strays."""
        if not len(self) or not len(queries):
            return [np.zeros(0, dtype=np.int64)] * len(queries)
        matches = self.index.search(self._encode(queries), min(count, len(self)), threads=threads)
        return self._with_strays(matches, np.atleast_2d(matches.keys).astype(np.int64))

    def _with_strays(self, matches: Matches | BatchMatches, rows: np.ndarray) -> list[np.ndarray]:
        found = [some[:count] for some, count in zip(rows, counts_of(matches, rows), strict=True)]
        return [np.union1d(some, self.strays) for some in found] if len(self.strays) else found

    def count_for(self, k: int) -> int:
        """How many candidates to ask the graph for, for `k` results."""
        return k if self.exact is None else max(self.candidates, 2 * k)

    def ranked(self, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` of some rows and their scores, best first; ties go to the lower row."""
        scores = self.scores(query, rows)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The exact inner products of a query `(dim,)` with some rows, float32."""
        parts, halves = [np.zeros(0, dtype=np.float32)], halves_of(query[None])[0]
        for start in range(0, len(rows), BLOCK):
            vectors = self.stored(rows[start : start + BLOCK])
            found = vectors @ query if self.exact is None else inner_products(vectors, halves).sum(axis=1)
            parts.append(found.astype(np.float32))
        return np.concatenate(parts)

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """The exact vectors of some rows `(len(rows), dim)`: float32 from the graph, or float16."""
        if self.exact is not None:
            return self.exact.take(rows)
        return np.stack(self.index.get(rows)) if len(rows) else np.zeros((0, self.dim), dtype=np.float32)

    def put(self, rows: np.ndarray, vectors: np.ndarray, threads: int = 1) -> None:
        """Stores vectors in rows, those that are there or new ones that follow on, so that each finds itself."""
        self.remove(rows[self.index.contains(rows)])
        self.index.add(rows, self._encode(vectors), threads=threads)
        if self.exact is not None:
            self.exact.put(rows, vectors)
        self.mend(rows, threads)

    def remove(self, rows: np.ndarray) -> None:
        """Removes rows."""
        if len(rows):
            self.index.remove(rows)
            self.strays = np.setdiff1d(self.strays, rows)

    def mend(self, rows: np.ndarray, threads: int = 1) -> int:
        """Sees to it that a search for the vector of each of some rows finds it; how many were lost.

        Adding with several threads loses up to a twentieth of the rows, hundreds of copies of a vector or thousands of
        changes some. They are added again; those that stay lost become strays.
        """
        lost = first = self.lost(rows, threads)
        for _ in range(MEND_ROUNDS):
            if not len(lost):
                break
            vectors = self._encode(self.stored(lost))
            self.remove(lost)
            self.index.add(lost, vectors, threads=1)
            lost = self.lost(lost, threads)
        self.strays = np.union1d(self.strays, lost)
        return len(first)

    def lost(self, rows: np.ndarray, threads: int = 1) -> np.ndarray:
        """Those of some rows that a search for their own vector does not find, nor enough copies of them.

        Most are found by a quick look; only the others are searched for thoroughly.
        """
        usual = self.index.expansion_search
        try:
            self.index.expansion_search = QUICK_LOOK
            unsure = [row for row, best in self._own_searches(rows, 1, threads) if row not in best]
        finally:
            self.index.expansion_search = usual
        count, lost = max(COPIES_LOOKED_AT, self.candidates), []
        for row, best in self._own_searches(np.array(unsure, dtype=np.int64), count, threads):
            vector = self.stored(np.array([row]))[0].astype(np.float32)
            copies = np.count_nonzero(self.scores(vector, best) > vector @ vector - COPIES)
            if row not in best and copies < count:
                lost.append(row)
        return np.array(lost, dtype=np.int64)

    def _own_searches(self, rows: np.ndarray, count: int, threads: int) -> Iterator[tuple[int, np.ndarray]]:
        """Each of some rows with the rows that a search for its vector finds."""
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            found = self.nearest(self.stored(part).astype(np.float32), count, threads)
            yield from zip(part.tolist(), found, strict=True)

    def _encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors in the form that the graph takes: float32, or their signs as bits."""
        if self.dtype == "b1":
            return np.packbits(vectors > 0, axis=1)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def neighbourly_order(vectors: np.ndarray) -> np.ndarray:
    """The rows of vectors `(N, dim)` in an order in which like ones follow each other, but for some at the beginning.

    The graph keeps vectors in memory as they come, and a search that finds the next ones near the last ones waits less
    for them: at a million vectors it answered 1.2 times as many queries a second at equal recall. Those at the
    beginning are random ones, which the rest of the graph can be reached by. (Of reordering for caches: Coleman et
    al., arXiv 2104.03221.)

    Clusters are the vectors nearest to random ones, of some thousand each, along their first principal axis.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(vectors))
    if len(vectors) < 2 * CLUSTER:
        return order
    first, rest = np.split(order, [int(SKELETON * len(vectors))])
    rest = np.sort(rest)
    count = min(len(vectors) // CLUSTER, MOST_CLUSTERS)
    centres = vectors[np.sort(rng.choice(len(vectors), count, replace=False))].astype(np.float32)
    axis = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)[2][0]
    centres = centres[np.argsort(centres @ axis)]
    nearest = [
        np.argmax(vectors[rest[start : start + BLOCK]].astype(np.float32) @ centres.T, axis=1)
        for start in range(0, len(rest), BLOCK)
    ]
    return np.concatenate([first, rest[np.argsort(np.concatenate(nearest), kind="stable")]])


def counts_of(matches: Matches | BatchMatches, rows: np.ndarray) -> Sequence[int]:
    """How many of the rows of each query were found; for a single query usearch gives no more than were."""
    return matches.counts if isinstance(matches, BatchMatches) else [rows.shape[1]]


def check_vectors(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Vectors that can be stored.

    Raises:
        ProductIndexError: if they have another length or hold what is no number.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ProductIndexError(f"the vectors have the shape {vectors.shape}; the index wants (products, {dim})")
    for start in range(0, len(vectors), BLOCK):
        if not (finite := np.isfinite(vectors[start : start + BLOCK]).all(axis=1)).all():
            row = start + int(np.argmin(finite))
            raise ProductIndexError(f"vector {row} of {len(vectors)} holds what is no finite number")
    return vectors
