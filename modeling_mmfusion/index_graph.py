"""Vectors in a usearch graph, and the exact ones beside it that have the last word on the graph's candidates.

The graph holds float32 vectors, or compressed ones: bfloat16, float16, 8 bits or 1 bit (the signs) a dimension; of
many vectors 8 bits for each of their main directions. Beside compressed ones the exact vectors lie in a memory-mapped
file as float16. Rows are the graph's keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numkong
import numpy as np
from tqdm.auto import tqdm
from usearch.index import BatchMatches, Index, Matches

from .errors import ProductIndexError, one_line
from .index_codes import RowCodes
from .index_vectors import BLOCK, RowVectors, times

CANDIDATES = {"f32": 0, "bf16": 24, "f16": 24, "i8": 64, "b1": 400}  # scored exactly, of a width that allows it
EXPANSION = 384  # width of the search of a graph whose recall was not measured: more finds more and takes longer
EXPANSION_ADD = 400  # width of the search for a new vector's neighbours: a better graph, built more slowly
DIRECTIONS = 192  # of the vectors, that a graph of 8 bits holds
MANY = 20_000  # vectors, from which on it pays to look for their main directions
ENOUGH = 0.9  # share of the vectors' squared length that has to lie in them
REACHABLE = 96  # width of the searches that tell whether a way in the graph leads to a row at all
MEND_ROUNDS = 3
QUICK_LOOK = 16  # expansion of the searches that most rows are found by
COPIES = 1e-2  # vectors whose scores differ by less may stand for each other: 8 bits can't tell them apart
EQUAL = 1e-5  # by which the scores of copies may differ
CROWD = 1e-3  # by which those may that crowd others out of a search
HALVES = np.array([1, 2**-11], dtype=np.float32)  # weights of a query's two float16 vectors
UNIT = 0.01  # by which a vector's length may differ from 1
WIDTHS = (24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)  # of which the least that finds enough is chosen
MEASURED = 10  # results that recall is measured of
PSEUDO_QUERIES = 200  # of each kind
SAMPLED = 1024  # products that they are made of
Places = Callable[[np.ndarray], np.ndarray]  # the place of each of some rows among them
MOST_TIED = 10_000  # candidates among which the first of those that tie are looked for
SAMPLE = 32_768  # rows that the main directions are taken from
SKELETON = 0.05  # share of the vectors that are added before those in order
ORDERED_BY = 32  # main directions that tell which vectors are alike
LEAF = 32  # vectors whose order doesn't matter


@dataclass
class SearchWidth:
    """How widely a graph is searched, and what that finds.

    Attributes:
        width (`int`, *optional*, defaults to 384): rows that the search keeps in view, the "ef" of HNSW.
        candidates (`int`, *optional*): of them scored exactly, at least.
        recall (`float`, *optional*): recall@10 that was measured with it; `None` where none was.
        wanted (`float`, *optional*, defaults to 0.99): recall@10 that it was chosen for.
        changed (`int`, *optional*, defaults to 0): vectors that were added, replaced or removed since.
    """

    width: int = EXPANSION
    candidates: int = 0
    recall: float | None = None
    wanted: float = 0.99
    changed: int = 0


def halves_of(queries: np.ndarray) -> np.ndarray:
    """Float32 queries `(Q, dim)` of length 1 as two float16 vectors each, `(Q, 2, dim)`, that sum to them with the
    weights `HALVES`.

    Inner products with float16 vectors are exact so, and four times as fast as with these as float32. The second half
    is kept 2,048 times as large, for numbers so small that float16 has no exponent for them take long to be made.
    """
    both = np.empty((len(queries), 2, queries.shape[1]), dtype=np.float16)
    both[:, 0] = queries
    both[:, 1] = (queries - both[:, 0]) / HALVES[1]
    return both


def inner_products(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Inner products `(N, M)` of vectors `(N, dim)` with others `(M, dim)` of the same precision, each by itself."""
    return np.asarray(numkong.cdist(vectors, others, "dot"))


def in_order(rows: np.ndarray, scores: np.ndarray, k: int, places: Places | None = None) -> np.ndarray:
    """The order of the best `k` of some rows by their `scores` `(N,)`, best first.

    Args:
        rows (`np.ndarray` of shape `(N,)`): ties go to the lower one,
        places (`Callable`, *optional*): or to the one with the lower place among rows, which it is only asked for
            where there are ties.
    """
    order = np.argsort(-scores)
    ranked = scores[order]
    if not (ranked[1 : k + 1] == ranked[:-1][:k]).any():
        return order[:k]
    order = order[: np.searchsorted(-ranked, -ranked[min(k, len(ranked)) - 1], side="right")]
    tied = rows[order] if places is None else places(rows[order])
    return order[np.lexsort((tied, -scores[order]))][:k]


class VectorGraph:
    """Nearest rows by inner product: candidates from the graph, ranked by their exact scores.

    Args:
        index (`usearch.index.Index`): the graph.
        exact (`RowVectors` or `None`): exact vectors by row; `None` if the graph holds float32.
        dim (`int`): length of the vectors.
        basis (`np.ndarray` of shape `(dim, directions)`, *optional*): float32; vectors times it, rounded to 8 bits,
            are what the graph holds. See [`main_directions`].
        unreachable (`list[int]`, *optional*): rows that no way in the graph leads to, and so
            candidates of every search.
        codes (`RowCodes`, *optional*): what is looked at first of the rows that pass a filter.
    """

    def __init__(
        self,
        index: Index,
        exact: RowVectors | None,
        dim: int,
        basis: np.ndarray | None = None,
        unreachable: Sequence[int] = (),
        codes: RowCodes | None = None,
    ):
        self.index = index
        self.exact = exact
        self.dim = dim
        self.basis = basis
        self.unreachable = np.array(unreachable, dtype=np.int64)
        self.codes = codes
        self.dtype = index.dtype.name.lower()
        self.candidates = CANDIDATES[self.dtype]
        index.expansion_search, index.expansion_add = EXPANSION, EXPANSION_ADD

    @property
    def width(self) -> int:
        """Rows that a search keeps in view; the candidates that go with it are set along."""
        return self.index.expansion_search

    @width.setter
    def width(self, width: int) -> None:
        self.index.expansion_search = width
        usual = {"b1": width, "i8": max(CANDIDATES["i8"], width // 2)}.get(self.dtype, CANDIDATES[self.dtype])
        self.candidates = min(width, usual)

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def build(cls, vectors: np.ndarray, dtype: str, threads: int = 1, progress: bool = False) -> "VectorGraph":
        """A graph of vectors `(N, dim)`, keyed by their place; see [`ProductIndex.build`]."""
        vectors = check_vectors(vectors)
        dim = vectors.shape[1]
        basis, codes, order = None, None, np.random.default_rng(0).permutation(len(vectors))
        if len(vectors) >= MANY:
            axes, shares = principal_axes(vectors)
            if dtype == "i8" and dim > DIRECTIONS:
                basis, codes = main_directions(vectors, axes, shares), RowCodes.build(vectors, axes)
            order = neighbourly_order(times(vectors, axes[:, :ORDERED_BY]))
        bits = {"ndim": -(-dim // 8) * 8, "metric": "hamming", "dtype": "b1"}
        whole = {"ndim": dim if basis is None else basis.shape[1], "metric": "ip", "dtype": dtype}
        exact = None if dtype == "f32" else RowVectors(vectors.astype(np.float16, copy=False))
        graph = cls(Index(**(bits if dtype == "b1" else whole)), exact, dim, basis, codes=codes)
        with tqdm(total=len(vectors), desc="graph", unit="product", disable=not progress, leave=False) as bar:
            for start in range(0, len(vectors), BLOCK):
                rows = order[start : start + BLOCK]
                graph.index.add(rows, graph._encode(vectors[rows]), threads=threads)
                bar.update(len(rows))
        if threads != 1:
            graph.width = REACHABLE
            graph.mend(np.arange(len(vectors)), threads)
            graph.width = EXPANSION
        return graph

    @classmethod
    def open(cls, files: dict[str, Path], dim: int, unreachable: Sequence[int], view: bool) -> "VectorGraph":
        """Reads or maps the files of an index, as far as it has them: `graph`, `vectors`, `basis` and those of codes.

        Raises:
            ProductIndexError: if they are none, or don't belong together.
        """
        file = files["graph"]
        try:
            graph = Index.restore(str(file), view=view)
            exact = RowVectors.map(files["vectors"]) if "vectors" in files else None
            basis = np.load(files["basis"], allow_pickle=False) if "basis" in files else None
            codes = RowCodes.open(files)
        except (ValueError, RuntimeError, EOFError) as error:
            raise ProductIndexError(f"{file}: can't be read: {one_line(error)}") from error
        if graph is None or (exact is None) != (graph.dtype.name == "F32"):
            raise ProductIndexError(f"{file}: is no graph that goes with its vectors")
        if basis is not None and basis.shape != (dim, graph.ndim):
            raise ProductIndexError(f"{file}: is no graph that goes with its directions")
        return cls(graph, exact, dim, basis, unreachable, codes)

    def save(self, file: Path) -> None:
        """Writes the graph."""
        self.index.save(str(file))
        if file.stat().st_size != self.index.serialized_length:
            raise OSError(f"{file.name} was cut short")

    def save_basis(self, file: Path) -> None:
        """Writes the directions whose parts the graph holds, as a `.npy` file."""
        np.save(file, np.asarray(self.basis), allow_pickle=False)

    def best(
        self, queries: np.ndarray, k: int, threads: int = 1, places: Places | None = None, count: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best `k` rows and their scores for each of `queries` `(Q, dim)`, best first; fewer where the graph finds
        fewer.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): unit vectors, float32.
            k (`int`): rows.
            threads (`int`, *optional*, defaults to 1): to search with.
            places (`Callable`, *optional*): how ties are ordered, see [`in_order`]. The graph is asked for more where
                all of its last candidates tie with the last of the best, as copies of one product do.
            count (`int`, *optional*): candidates; [`~VectorGraph.count_for`] says how many if not given.
        """
        count = min(count or max(self.count_for(k), k + (places is not None)), len(self))
        wants_more = places is not None and count < min(len(self), MOST_TIED)
        best = []
        found = self.nearest(queries, count, threads)
        for query, parts, rows in zip(queries, self._parts_of(queries), found, strict=True):
            scores = self._scores(parts, rows)
            order = in_order(rows, scores, k, places)
            best.append((rows[order], scores[order]))
            reached = scores[: len(scores) - len(self.unreachable)]
            if wants_more and len(reached) and scores[order[-1]] <= reached.min():  # perhaps in the midst of ties
                best[-1] = self.best(query[None], k, threads, places, 4 * count)[0]
        return best

    def nearest(self, queries: np.ndarray, count: int, threads: int = 1) -> list[np.ndarray]:
        """The candidates for each of `queries` `(Q, dim)`: `count` rows that the graph finds, and then the
        unreachable."""
        if not len(self) or not len(queries):
            return [np.zeros(0, dtype=np.int64)] * len(queries)
        matches = self.index.search(self._encode(queries), min(count, len(self)), threads=threads)
        rows = np.atleast_2d(matches.keys).astype(np.int64)
        found = [some[:count] for some, count in zip(rows, counts_of(matches, rows), strict=True)]
        return list(map(self._with_unreachable, found)) if len(self.unreachable) else found

    def _with_unreachable(self, found: np.ndarray) -> np.ndarray:
        known = set(self.unreachable.tolist())
        if not known.isdisjoint(found.tolist()):  # a search may come upon one, if not from everywhere
            found = found[~np.isin(found, self.unreachable)]
        return np.concatenate([found, self.unreachable])

    def count_for(self, k: int) -> int:
        """How many candidates to ask the graph for, for `k` results.

        Of more than ten results each gets as wide a search as each of ten, up to 384 in all.
        """
        wide = min(self.width * k // MEASURED, EXPANSION) if k > MEASURED else 0
        return max(k if self.exact is None else 2 * k, self.candidates, wide)

    def choose_width(self, wanted: float, rows: np.ndarray, queries: np.ndarray, threads: int = 1) -> SearchWidth:
        """Takes the least of `WIDTHS` with which a search finds enough of the best ten rows, or the widest.

        Args:
            wanted (`float`): recall@10 of each kind of queries.
            rows (`np.ndarray` of shape `(N,)`): all rows that there are.
            queries (`np.ndarray` of shape `(kinds, Q, dim)`): unit vectors; see [`pseudo_queries`].
        """
        flat = queries.reshape(-1, self.dim)
        least = self._tenth_best(flat, rows) - 1e-5
        for width in WIDTHS:
            self.width = width
            found = [
                np.count_nonzero(scores >= bound)
                for (_, scores), bound in zip(self.best(flat, MEASURED, threads), least, strict=True)
            ]
            recall = np.reshape(found, queries.shape[:2]).mean(axis=1).min() / min(MEASURED, len(rows))
            if recall >= wanted:
                break
        return SearchWidth(width, self.candidates, round(float(recall), 4), wanted)

    def _tenth_best(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The exact score of the tenth best of some rows, or of the last of fewer, for each of queries `(Q, dim)`."""
        best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            scores = queries @ self.stored(rows[start : start + BLOCK]).astype(np.float32).T
            last = max(scores.shape[1] - MEASURED, 0)
            best = np.concatenate([best, np.partition(scores, last, axis=1)[:, last:]], axis=1)
            best = np.sort(best, axis=1)[:, -MEASURED:]
        return best[:, 0]

    def ranked(
        self, query: np.ndarray, rows: np.ndarray, k: int, places: Places | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` of some rows and their scores, best first; ties as [`in_order`] has them."""
        scores = self.scores(query, rows)
        order = in_order(rows, scores, k, places)
        return rows[order], scores[order]

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The exact inner products of a query `(dim,)` with some rows, float32; a row's is the same to the last bit,
        whichever others there are."""
        [parts] = self._parts_of(query[None])
        if len(rows) <= BLOCK:
            return self._scores(parts, rows)
        starts = range(0, len(rows), BLOCK)
        return np.concatenate([self._scores(parts, rows[start : start + BLOCK]) for start in starts])

    def _parts_of(self, queries: np.ndarray) -> np.ndarray:
        """What [`~VectorGraph._scores`] takes of queries `(Q, dim)`: themselves, or where vectors are of float16 their
        halves."""
        return queries[:, None] if self.exact is None else halves_of(queries)

    def _scores(self, parts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products of a query, as `parts` `(1 or 2, dim)` of it, with some rows, at most `BLOCK`."""
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        return (inner_products(self.stored(rows), parts) @ HALVES[: len(parts)]).astype(np.float32)

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
        if self.codes is not None:
            self.codes.put(rows, vectors)
        self.mend(rows, threads)

    def remove(self, rows: np.ndarray) -> None:
        """Removes rows."""
        if len(rows):
            self.index.remove(rows)
            self.unreachable = np.setdiff1d(self.unreachable, rows)

    def mend(self, rows: np.ndarray, threads: int = 1) -> int:
        """Sees to it that a search for the vector of each of some rows finds it; how many were lost.

        Adding with several threads loses up to a twentieth of the rows, thousands of changes some. Where hundreds of
        rows are copies of a vector, a search that comes upon them sees nothing else, with any number of threads. Lost
        rows are added again; those that stay lost become unreachable.
        """
        lost = first = self.lost(rows, threads)
        for _ in range(MEND_ROUNDS):
            if not len(lost):
                break
            vectors = self._encode(self.stored(lost))
            self.remove(lost)
            self.index.add(lost, vectors, threads=1)
            lost = self.lost(rows, threads)
        self.unreachable = np.union1d(self.unreachable, lost)
        return len(first)

    def lost(self, rows: np.ndarray, threads: int = 1) -> np.ndarray:
        """Those of some rows that a search for their own vector does not find, nor copies enough to stand for them:
        ten, or nothing but near ones.

        Most are found by a quick look; only the others are searched for as [`~VectorGraph.best`] does. What that does
        not find either is lost if copies of another vector crowd it out, or if a wide search does not find it: the
        rest is what a search of this width may miss.
        """
        usual = self.index.expansion_search
        try:
            self.index.expansion_search = QUICK_LOOK
            unsure = [row for row, best in self._own_searches(rows, 1, threads) if row not in best]
        finally:
            self.index.expansion_search = usual
        lost: list[int] = []
        missed: list[int] = []
        count = self.width if self.exact is None else self.count_for(1)
        for row, best, apart in self._missed(unsure, count, threads):
            crowded = 2 * np.count_nonzero(np.abs(apart - np.median(apart)) < CROWD) > len(best)
            (lost if crowded else missed).append(row)
        lost += [row for row, _, _ in self._missed(missed, max(count, REACHABLE), threads)]
        return np.array(sorted(lost), dtype=np.int64)

    def _missed(self, rows: list[int], count: int, threads: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each of some rows that is not among the `count` that are found for its vector, nor copies enough; these
        rows, and by how much they score less than it."""
        for row, best in self._own_searches(np.array(rows, dtype=np.int64), count, threads):
            vector = self.stored(np.array([row]))[0].astype(np.float32)
            apart = vector @ vector - self.scores(vector, best)
            copies = np.count_nonzero(apart < EQUAL) >= MEASURED or np.count_nonzero(apart < COPIES) >= count
            if row not in best and not copies:
                yield row, best, apart

    def _own_searches(self, rows: np.ndarray, count: int, threads: int) -> Iterator[tuple[int, np.ndarray]]:
        """Each of some rows with the rows that a search for its vector finds."""
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            found = self.nearest(self.stored(part).astype(np.float32), count, threads)
            yield from zip(part.tolist(), found, strict=True)

    def _encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors in the form that the graph takes: float32, their signs as bits, or their parts along the basis."""
        if self.dtype == "b1":
            return np.packbits(vectors > 0, axis=1)
        if self.basis is not None:
            return np.rint(times(vectors, self.basis)).clip(-127, 127).astype(np.int8)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The orthogonal directions `(dim, dim)` that hold most of the vectors `(N, dim)`, in columns, the first one most,
    and each one's share of their squared length `(dim,)`; of a sample where there are many."""
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE])
    some = vectors[rows].astype(np.float32)
    lengths, axes = np.linalg.eigh(some.T @ some)
    return axes[:, ::-1], lengths[::-1] / max(lengths.sum(), 1e-12)


def main_directions(vectors: np.ndarray, axes: np.ndarray, shares: np.ndarray) -> np.ndarray | None:
    """A basis `(dim, 192)` of the part of space that holds most of the vectors `(N, dim)`, scaled so that their parts
    along it fit into 8 bits.

    `None` where it would not pay: where vectors are short, or point everywhere. Graphs are searched faster
    with fewer dimensions, for waiting for memory is what takes the time: at a million vectors of 384 dimensions 1.4
    times as many queries a second at equal recall. The basis is turned at random, so that no direction of it holds
    more than others do. (As the random rotation of RaBitQ, Gao and Long, arXiv 2405.12497, after a projection to the
    principal axes.)

    Args:
        vectors (`np.ndarray` of shape `(N, dim)`): to be indexed.
        axes (`np.ndarray` of shape `(dim, dim)`): [`principal_axes`].
        shares (`np.ndarray` of shape `(dim,)`): how much of the vectors is along each.
    """
    if vectors.shape[1] <= DIRECTIONS or shares[:DIRECTIONS].sum() < ENOUGH:
        return None
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((DIRECTIONS, DIRECTIONS)))[0].astype(np.float32)
    basis = axes[:, :DIRECTIONS] @ turn
    parts = times(vectors[np.sort(rng.permutation(len(vectors))[:BLOCK])], basis)
    return basis * (127 / np.quantile(np.abs(parts), 0.9999))


def pseudo_queries(vectors: np.ndarray, blocks: Sequence[int] = (), seed: int = 0) -> np.ndarray:
    """Unit vectors that stand for queries where none are known, by kind, `(3 or 4, 200, dim)`.

    Queries of a two-tower model lie apart from the products, where graphs find less (Jaiswal et al., OOD-DiskANN,
    arXiv 2211.12850), and weigh the blocks otherwise. So they are random products as they are, moved by 0.7 of the
    direction in which two others differ, mixed with half of another one, or, of several blocks, weighed anew and moved
    by 0.5. Widths with which these are answered well were measured to be enough, and seldom more than double of that,
    for real queries in vectors of four shops' texts, for those with a second block, and for generated clusters.

    Args:
        vectors (`np.ndarray` of shape `(N, dim)`): of products, a random sample in random order.
        blocks (`Sequence[int]`, *optional*): widths of the vectors' blocks.
        seed (`int`, *optional*, defaults to 0): of the blocks' weights.
    """
    one, two, three = (vectors[(np.arange(PSEUDO_QUERIES) + shift) % len(vectors)] for shift in (0, 331, 727))
    apart = unit(two - three)
    kinds = [one, one + 0.7 * apart, one + 0.5 * two]
    if len(blocks) > 1:
        weights = np.random.default_rng(seed).exponential(size=(PSEUDO_QUERIES, len(blocks))).astype(np.float32)
        kinds.append(unit(one * np.repeat(weights, list(blocks), axis=1)) + 0.5 * apart)
    return unit(np.stack(kinds))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(..., dim)` scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def neighbourly_order(points: np.ndarray) -> np.ndarray:
    """The rows of points `(N, n)` in an order in which like ones follow each other, but for some at the beginning.

    The graph keeps vectors in memory as they come, and a search that finds the next ones near the last ones waits less
    for them: at a million vectors it answered 1.2 times as many queries a second at equal recall. Those at the
    beginning are random ones, which the rest of the graph can be reached by. (Of reordering for caches: Coleman et
    al., arXiv 2104.03221.)

    The points are halved along their principal axis, the halves along theirs, and so on.
    """
    rng = np.random.default_rng(0)
    first, rest = np.split(rng.permutation(len(points)), [int(SKELETON * len(points))])
    parts = [np.sort(rest)]
    while max(map(len, parts)) > LEAF:
        parts = [half for part in parts for half in halves(points, part, rng)]
    return np.concatenate([first, *parts])


def halves(points: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of points in two halves, between which the points' principal axis leads."""
    some = points[rng.choice(rows, min(len(rows), 1024), replace=False)]
    some = some - some.mean(axis=0)
    axis = np.linalg.eigh(some.T @ some)[1][:, -1]
    middle = len(rows) // 2
    order = np.argpartition(points[rows] @ axis, middle)
    return rows[order[:middle]], rows[order[middle:]]


def counts_of(matches: Matches | BatchMatches, rows: np.ndarray) -> Sequence[int]:
    """How many of the rows of each query were found; for a single query usearch gives no more than were."""
    return matches.counts if isinstance(matches, BatchMatches) else [rows.shape[1]]


def check_vectors(vectors: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Vectors that can be stored, as an array: of length 1, or zeros for a product that nothing is known of.

    Args:
        vectors (`np.ndarray` of shape `(N, dim)`): real numbers of any precision.
        dim (`int`, *optional*): what each must have; any number if not given.

    Raises:
        ProductIndexError: if they have another shape, hold what is no number or are not of unit length within 1%.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != (dim or vectors.shape[1]) or not vectors.shape[1]:
        wanted = dim or "dimensions"
        raise ProductIndexError(f"the vectors have the shape {vectors.shape}; the index wants (products, {wanted})")
    if vectors.dtype.kind not in "fiu":
        raise ProductIndexError(f"the vectors hold {vectors.dtype}; the index wants float32 or float16")
    for start in range(0, len(vectors), BLOCK):
        lengths = np.linalg.norm(vectors[start : start + BLOCK].astype(np.float32), axis=1)
        wrong = ~((np.abs(lengths - 1) <= UNIT) | (lengths == 0))
        if wrong.any():
            row, length = start + int(np.argmax(wrong)), float(lengths[np.argmax(wrong)])
            if not np.isfinite(length):
                raise ProductIndexError(f"vector {row} of {len(vectors)} holds what is no finite number")
            raise ProductIndexError(
                f"vector {row} of {len(vectors)} has the length {length:.4g}; normalise the vectors to length 1"
            )
    return vectors
