"""What shorter and coarser product vectors cost in quality and save in memory and time; all of it measured here.

The judged queries of the catalogue search its fused vectors, cut and stored as chosen, with usearch's exact kernels.
"""

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from catalogue import CUTOFF, Catalogue, VisitorError, ndcg
from usearch.index import MetricKind, search

STORAGE = {"f32": 32, "f16": 16, "i8": 8, "b1": 1}  # bits a dimension
SHORTEST = 16  # vectors are cut to a sixteenth at most
TIMED_PRODUCTS = 20_000
TIMED_QUERIES = 21
MAX_QUERIES = 300


@dataclass
class Tradeoff:
    """What one choice costs and saves.

    Attributes:
        storage (`str`): `f32`, `f16`, `i8` (steps of 1/127) or `b1` (signs alone, by Hamming distance).
        dim (`int`): length of the vectors.
        ndcg (`float` or `None`): mean nDCG@10 of the judged queries; `None` if the catalogue has none.
        queries (`int`): how many these are.
        overlap (`float`): share of the best ten products of full float32 vectors that are still among the best ten.
        bytes_per_product (`int`): memory of a vector.
        milliseconds (`float`): median time of one exact search on one thread over 20,000 products, which are this
            catalogue's repeated.
    """

    storage: str
    dim: int
    ndcg: float | None
    queries: int
    overlap: float
    bytes_per_product: int
    milliseconds: float


class Tradeoffs:
    """Measures choices for one catalogue, each once.

    Args:
        catalogue (`Catalogue`): with judged queries, or else its own products' texts stand in for queries.
    """

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue
        judged = catalogue.judged_vectors
        self.judged = judged is not None and len(judged) > 0
        self.queries = (judged if self.judged else catalogue.vectors["text"])[:MAX_QUERIES]
        self.measure = lru_cache(maxsize=None)(self._measure)

    @property
    def whole(self) -> int:
        """Length of the vectors that are not cut."""
        return self.catalogue.encoder.dim

    def _measure(self, storage: str, dim: int) -> Tradeoff:
        """Measures one choice; `measure` is the same and remembers.

        Raises:
            VisitorError: if there is no such choice.
        """
        least = -(-self.whole // SHORTEST)
        if storage not in STORAGE or not least <= dim <= self.whole:
            raise VisitorError(f"Choose one of {', '.join(STORAGE)} and from {least} to {self.whole} dimensions.")
        whole = self._stored("f32", self.whole)
        products, queries, metric = self._stored(storage, dim)
        found = search(products, queries, CUTOFF, metric, exact=True, threads=1).keys.reshape(len(queries), -1)
        best = search(whole[0], whole[1], CUTOFF, whole[2], exact=True, threads=1).keys.reshape(len(queries), -1)
        kept = [len(set(left) & set(right)) / len(right) for left, right in zip(found, best, strict=True)]
        size, time_taken = -(-STORAGE[storage] * dim // 8), timed(products, queries, metric)
        return Tradeoff(storage, dim, self._ndcg(found), len(queries), float(np.mean(kept)), size, time_taken)

    def _stored(self, storage: str, dim: int) -> tuple[np.ndarray, np.ndarray, MetricKind]:
        """Products, queries and metric for a choice."""
        encoder, products = self.catalogue.encoder, self.catalogue.vectors["fused"]
        products = encoder.truncated(products[self.catalogue.measured] if self.judged else products, dim)
        queries = encoder.truncated(self.queries, dim)
        metric = MetricKind.Hamming if storage == "b1" else MetricKind.IP
        return stored(products, storage), stored(queries, storage), metric

    def _ndcg(self, found: np.ndarray) -> float | None:
        if not self.judged:
            return None
        ids = [product["_id"] for product in self.catalogue.products]
        grades = list(self.catalogue.judged.values())[: len(found)]
        values = [
            ndcg([judged.get(ids[row], 0) for row in rows.tolist()], list(judged.values()))
            for rows, judged in zip(found, grades, strict=True)
        ]
        return float(np.mean(values))


def stored(vectors: np.ndarray, storage: str) -> np.ndarray:
    """Vectors `(N, dim)` as an index keeps them; `b1` packs eight signs in a byte."""
    if storage == "f16":
        return vectors.astype(np.float16)
    if storage == "i8":
        return np.round(vectors * 127).clip(-127, 127).astype(np.int8)
    return np.packbits(vectors > 0, axis=1) if storage == "b1" else vectors


def timed(products: np.ndarray, queries: np.ndarray, metric: MetricKind) -> float:
    """Median milliseconds of one search over 20,000 products, on one thread."""
    many = np.resize(products, (TIMED_PRODUCTS, products.shape[1]))
    times = []
    for number in range(TIMED_QUERIES):
        begin = time.perf_counter()
        search(many, queries[number % len(queries)], CUTOFF, metric, exact=True, threads=1)
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times))
