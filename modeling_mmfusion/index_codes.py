"""`RowCodes`: what a search among the few rows that pass a filter looks at before it looks at exact vectors.

A graph can't be asked for few rows among many: it would have to be searched as much more widely as fewer pass. So the
rows that pass are scored one by one, and what takes the time then is to fetch their vectors from memory. These are
smaller: a vector's parts along the 64 directions that hold most of all vectors, in 8 bits and so in one line of the
processor's cache, and apart from them its parts along the next 128.
"""

from pathlib import Path

import numkong
import numpy as np

from .index_vectors import RowVectors, times

DIRECTIONS = 192
HEAD = 64  # of them, that are looked at first
SCALE_OF = 16_384  # rows that the scale is taken from
MANY_ROWS = 8192  # from which on the heads are looked at alone
HEADS_KEPT = 1 / 16  # of the rows, whose tails are looked at too
LEAST_KEPT = 4096
KEPT = 512  # rows whose exact vectors are looked at, at least


class RowCodes:
    """Vectors by row in 8 bits along their main directions.

    Args:
        heads (`RowVectors`): int8 of shape `(rows, 64)`: the parts along the first directions.
        tails (`RowVectors`): int8 of shape `(rows, up to 128)`: those along the next ones.
        axes (`np.ndarray` of shape `(dim, up to 192)`): the directions, scaled so that parts fit into 8 bits.
    """

    def __init__(self, heads: RowVectors, tails: RowVectors, axes: np.ndarray):
        self.heads, self.tails, self.axes = heads, tails, axes

    @classmethod
    def build(cls, vectors: np.ndarray, axes: np.ndarray) -> "RowCodes":
        """Codes of vectors `(N, dim)`.

        Args:
            vectors (`np.ndarray` of shape `(N, dim)`): the vectors by row.
            axes (`np.ndarray` of shape `(dim, dim)`): their principal axes in columns, the first one first.
        """
        axes = axes[:, :DIRECTIONS]
        rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SCALE_OF])
        largest = np.quantile(np.abs(times(vectors[rows], axes)), 0.9999)
        axes = (axes * (127 / max(largest, 1e-6))).astype(np.float32)
        heads, tails = (np.empty((0, part.shape[1]), dtype=np.int8) for part in (axes[:, :HEAD], axes[:, HEAD:]))
        codes = cls(RowVectors(heads), RowVectors(tails), axes)
        codes.put(np.arange(len(vectors)), vectors)
        return codes

    @classmethod
    def open(cls, files: dict[str, Path]) -> "RowCodes | None":
        """Maps the files `heads`, `tails` and `axes` of an index into memory; `None` if it has none."""
        if "heads" not in files:
            return None
        axes = np.load(files["axes"], allow_pickle=False)
        return cls(RowVectors.map(files["heads"]), RowVectors.map(files["tails"]), axes)

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Stores the codes of vectors in rows, those that are there or new ones that follow on."""
        parts = _rounded(times(vectors, self.axes))
        self.heads.put(rows, parts[:, :HEAD])
        self.tails.put(rows, parts[:, HEAD:])

    def likely(self, query: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """Those of some rows that are likely to score best.

        Args:
            query (`np.ndarray` of shape `(dim,)`): a vector of any length, float32.
            rows (`np.ndarray` of shape `(N,)`): rows.
            count (`int`): how many are wanted, at least.
        """
        count = max(count, KEPT)
        parts = query @ self.axes
        parts = _rounded(parts * (127 / max(float(np.abs(parts).max()), 1e-6)))[None]
        head, tail = np.ascontiguousarray(parts[:, :HEAD]), np.ascontiguousarray(parts[:, HEAD:])
        scores = _products(self.heads.take(rows), head)
        if len(rows) > MANY_ROWS:
            best = _largest(scores, max(int(len(rows) * HEADS_KEPT), LEAST_KEPT, count))
            rows, scores = rows[best], scores[best]
        if tail.shape[1]:
            scores = scores + _products(self.tails.take(rows), tail)
        return rows[_largest(scores, count)]


def _rounded(parts: np.ndarray) -> np.ndarray:
    return np.rint(parts).clip(-127, 127).astype(np.int8)


def _products(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    return np.asarray(numkong.cdist(codes, query, "dot")).ravel()


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` largest scores, in no order."""
    return np.argpartition(scores, len(scores) - count)[-count:] if count < len(scores) else np.arange(len(scores))
