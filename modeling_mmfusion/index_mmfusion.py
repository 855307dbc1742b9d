"""`ProductIndex`: product vectors in a usearch index, with their ids and what a result list shows of them.

The model files never import this one, so a model loads where usearch and pyarrow are not installed.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from usearch.index import Index

FORMAT = 1


class ProductIndexError(ValueError):
    """A folder that is no index of ours, or vectors that don't fit. The message is one line."""


@dataclass
class SearchResult:
    """One product that was found.

    Attributes:
        product_id (`str`): the catalogue's `_id`.
        score (`float`): inner product of the query's and the product's vector; 1 is the most.
        product (`dict`): the other columns that were stored with it, such as title and price.
    """

    product_id: str
    score: float
    product: dict


class ProductIndex:
    """Approximate nearest-neighbour search over product vectors by inner product.

    Args:
        index (`usearch.index.Index`): keys are row numbers of `products`.
        products (`pyarrow.Table`): a row a vector, with `_id` and any columns to show.
        model (`str`): fingerprint of the model that made the vectors; queries of another one don't fit.

    Example:

    ```python
    >>> index = ProductIndex.build(vectors, pa.table({"_id": ids, "title": titles}))
    >>> index.save("runs/myshop/index")
    >>> ProductIndex.load("runs/myshop/index").search(query_vectors, k=3)[0][0].product["title"]
    ```
    """

    def __init__(self, index: Index, products: pa.Table, model: str = ""):
        self.index = index
        self.products = products
        self.model = model

    def __len__(self) -> int:
        return len(self.index)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.index.ndim

    @classmethod
    def build(cls, vectors: np.ndarray, products: pa.Table, model: str = "", dtype: str = "f32") -> "ProductIndex":
        """Indexes vectors.

        Args:
            vectors (`np.ndarray` of shape `(N, dim)`): unit vectors, float32.
            products (`pyarrow.Table`): N rows with the column `_id`; ids must differ.
            model (`str`, *optional*): fingerprint of the model that made the vectors.
            dtype (`str`, *optional*, defaults to `"f32"`): how vectors are stored: f32, bf16, f16 or i8.

        Raises:
            ProductIndexError: if there is nothing to index, the numbers of rows differ or an id comes twice.
        """
        ids = products.column("_id").to_pylist()
        if not ids or len(ids) != len(vectors):
            raise ProductIndexError(
                f"an index needs as many products as vectors and at least one: {len(ids)}, {len(vectors)}"
            )
        if len(set(ids)) < len(ids):
            raise ProductIndexError("an index needs products with different _id values")
        index = Index(ndim=vectors.shape[1], metric="ip", dtype=dtype)
        index.add(np.arange(len(vectors)), vectors, threads=1)  # with more threads, builds differ
        return cls(index, products, model)

    def search(self, queries: np.ndarray, k: int = 10) -> list[list[SearchResult]]:
        """The best products for each query, best first.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): query vectors, float32.
            k (`int`, *optional*, defaults to 10): products a query; fewer if the index holds fewer.

        Raises:
            ProductIndexError: if the vectors' width is not the index's.
        """
        if queries.shape[1] != self.index.ndim:
            raise ProductIndexError(f"queries have {queries.shape[1]} dimensions, the index has {self.index.ndim}")
        matches = self.index.search(queries, min(k, len(self)), threads=1)
        keys, distances = np.atleast_2d(matches.keys), np.atleast_2d(matches.distances)
        return [self._results(*row) for row in zip(keys, distances, strict=True)]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `index.usearch`, `products.parquet` and `index.json`; the folder appears whole or not at all."""
        folder = Path(folder)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
        try:
            self.index.save(str(partial / "index.usearch"))
            pq.write_table(self.products, partial / "products.parquet")
            facts = {"format": FORMAT, "count": len(self), "dim": self.index.ndim, "model": self.model}
            (partial / "index.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "ProductIndex":
        """Reads a folder that `save` wrote.

        Raises:
            ProductIndexError: if it is none, or its files don't belong together.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise ProductIndexError(f"{folder}: is no index (index.json is missing); build one with training.index")
        try:
            facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            index = Index.restore(str(folder / "index.usearch"))
            products = pq.read_table(folder / "products.parquet")
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise ProductIndexError(f"{folder}: the index is damaged: {reason}") from error
        if index is None or facts.get("format") != FORMAT or not len(index) == products.num_rows == facts["count"]:
            raise ProductIndexError(
                f"{folder}: its files don't belong together; build the index again with training.index"
            )
        return cls(index, products, facts["model"])

    def _results(self, keys: np.ndarray, distances: np.ndarray) -> list[SearchResult]:
        rows = self.products.take(keys.tolist()).to_pylist()
        return [
            SearchResult(row.pop("_id"), float(1.0 - distance), row)
            for row, distance in zip(rows, distances, strict=True)
        ]


__all__ = ["ProductIndexError", "ProductIndex", "SearchResult"]
