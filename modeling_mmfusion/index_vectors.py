"""Vectors by row: `RowVectors`, in memory or in a mapped file, and their product with a matrix."""

from pathlib import Path

import numpy as np

BLOCK = 16_384  # rows that are looked at together where all are


class RowVectors:
    """Vectors by row, in the precision that they come in: float16, or 8 bits.

    Args:
        base (`np.ndarray` of shape `(rows, dim)`): the vectors. Rows that are put again are changed in it, so give one
            that may be: of a file, one that was mapped with `mmap_mode="c"`, which leaves the file as it is.
    """

    def __init__(self, base: np.ndarray):
        self.base = base.view(np.ndarray)  # a memmap takes longer to be taken from
        self.added = np.empty((0, base.shape[1]), dtype=base.dtype)
        self.size = len(base)

    @classmethod
    def map(cls, file: Path) -> "RowVectors":
        """A file that [`~RowVectors.save`] wrote, mapped into memory; changes stay in memory."""
        return cls(np.load(file, mmap_mode="c", allow_pickle=False))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, of shape `(len(rows), dim)`."""
        if self.size == len(self.base):
            return self.base.take(rows, axis=0)
        is_old, found = rows < len(self.base), np.empty((len(rows), self.base.shape[1]), dtype=self.base.dtype)
        found[is_old] = self.base[rows[is_old]]
        found[~is_old] = self.added[rows[~is_old] - len(self.base)]
        return found

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Stores vectors in rows, those that are there or new ones that follow on."""
        known, last = len(self.base), int(rows.max()) + 1
        if last - known > len(self.added):
            room = np.zeros((last - known + self.size // 8, self.base.shape[1]), dtype=self.base.dtype)
            room[: len(self.added)] = self.added
            self.added = room
        self.base[rows[rows < known]] = vectors[rows < known]
        self.added[rows[rows >= known] - known] = vectors[rows >= known]
        self.size = max(self.size, last)

    def save(self, file: Path) -> None:
        """Writes all rows as a `.npy` file."""
        shape = (self.size, self.base.shape[1])
        header = {"descr": np.lib.format.dtype_to_descr(self.base.dtype), "fortran_order": False, "shape": shape}
        with open(file, "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, self.size, BLOCK):
                self.take(np.arange(start, min(start + BLOCK, self.size))).tofile(stream)


def times(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Vectors `(N, dim)` of any precision times a matrix `(dim, n)`, float32."""
    if len(vectors) <= BLOCK:
        return vectors.astype(np.float32, copy=False) @ matrix
    product = np.empty((len(vectors), matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        np.matmul(vectors[start : start + BLOCK].astype(np.float32), matrix, out=product[start : start + BLOCK])
    return product
