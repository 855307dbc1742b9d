"""`ProductIndex`: product vectors in a usearch graph, with their ids and what a result list shows of them.

The model files never import this one, so a model loads where usearch, pyarrow and bm25s are not installed.

| file | what |
|---|---|
| `index_files.py` | files on disk: atomic saves, checksums |
| `index_products.py` | products by row, changes |
| `index_filters.py` | conditions, and which rows pass |
| `index_graph.py` | the graph, and exact vectors that have the last word on its candidates |
| `index_vectors.py`, `index_codes.py` | vectors by row, and short ones that searches with filters look at first |
| `index_words.py` | BM25, and how much matching words add to a score |
| `index_shards.py` | parts of an index, and how what they find becomes one answer; `sharded.py` is the whole |
| `index_locks.py` | searches and changes of several threads |
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import ProductIndexError, one_line
from .index_codes import RowCodes
from .index_files import (
    FORMAT,
    check_file,
    describe,
    last_generation,
    part_file,
    read_manifest,
    remove_older,
    saving,
    write_manifest,
    writing,
)
from .index_filters import NO_READINGS, Readings, UnknownValue
from .index_graph import (
    CANDIDATES,
    SAMPLED,
    SearchWidth,
    VectorGraph,
    check_vectors,
    pseudo_queries,
    unit,
)
from .index_locks import SearchLock
from .index_products import ProductRows, map_table, write_table
from .index_shards import Candidates, Found, Shard, ShardFacts
from .index_vectors import RowVectors
from .index_words import ProductWords, WordCounts, best_rows, words_weight
from .queries_mmfusion import MMFusionQueryReader
from .spelling_mmfusion import join_words
from .text_mmfusion import PRODUCT_FIELDS

EXACT_ROWS = 10_000  # that pass a filter: as many or fewer are all scored, or with codes those
EXACT_WITH_CODES = 2000  # after which codes tell which ones are
GRAPH_IS_CHEAPER = 200  # from as many rows to score by codes for each that the graph is asked for
MOST_ASKED = 10_000  # candidates that the graph is asked for before all that pass are scored
HYBRID_DEPTH = 100  # products by vectors and by words that are scored by both
PARTS = ("graph", "products", "vectors", "basis", "heads", "tails", "axes", "words", "spelling")
MANY_FREE = 4096  # rows, from which on it pays to build the index anew
CHANGED_TOGETHER = 256  # products that searches wait for
NO_WORDS = "the index has no words for hybrid search; build it with words, as training.index does"


@dataclass
class SearchResult:
    """One product that was found.

    Attributes:
        product_id (`str`): the catalogue's `_id`.
        score (`float`): inner product of the query's and the product's vector, of which 1 is the most; a hybrid search
            adds up to 0.9 for matching words.
        product (`dict`): the other columns that were stored with it, such as title and price.
        contributions (`dict[str, float]`): what each block of the vectors adds to the score, if the index knows the
            blocks, and in a hybrid search `words`; they sum to it.
    """

    product_id: str
    score: float
    product: dict
    contributions: dict[str, float] = field(default_factory=dict)


class ProductIndex:
    """Approximate nearest-neighbour search over product vectors by inner product.

    The graph holds vectors in the precision of its `dtype`; but for f32 its best candidates are scored again with
    float16 vectors that lie beside it in a memory-mapped file. Scores are the exact inner products with those.

    Searches of several threads run side by side; changes wait for them and are seen by the next search. What was
    changed is on disk after [`~ProductIndex.save`]. See [`~ProductIndex.build`] and [`~ProductIndex.load`].

    Args:
        graph (`VectorGraph`): the vectors by row.
        catalogue (`ProductRows`): the products by row.
        model (`str`): fingerprint of the model that made the vectors; queries of another one don't fit.
        blocks (`dict[str, int]`): widths of the vectors' blocks by name, in their order; empty if not known.
        fields (`list[str]`, *optional*): the columns that make a product's text for BM25, in order: those of the
            model's `processor.product_fields`.

    Attributes:
        notes (`dict[str, str]`): texts that are saved with the products, in the same generation, such as how far a
            stream of changes was applied; empty at first.

    Example:

    ```python
    >>> index = ProductIndex.build(vectors, pa.table({"_id": ids, "title": titles, "price": prices}), dtype="i8")
    >>> index.save("runs/myshop/index")
    >>> index = ProductIndex.load("runs/myshop/index", view=True)
    >>> index.search(query_vectors, k=3, where={"price": (5, 20)})[0][0].product["title"]
    ```
    """

    def __init__(
        self,
        graph: VectorGraph,
        catalogue: ProductRows,
        model: str = "",
        blocks: Mapping[str, int] | None = None,
        fields: Sequence[str] = PRODUCT_FIELDS,
    ):
        self.graph = graph
        self.measured = SearchWidth(graph.width, graph.candidates)
        self.catalogue = catalogue
        self.words: ProductWords | None = None
        self.shard: Shard | None = None  # which part of a catalogue this is
        self.model = model
        self.blocks = dict(blocks or {})
        self.fields = list(fields)
        self.notes: dict[str, str] = {}
        self.generation = 0
        self.folder: Path | None = None  # that it was loaded from or saved to
        self.is_view = False
        self._files: dict[str, dict] = {}
        self._unsaved = set(PARTS)
        self._rows_without_words: set[int] = set()  # whose texts are newer than the words
        self._own_width: dict[str, int] = {}  # what was set by hand
        self._lock = SearchLock()
        self._one_change = RLock()

    def __len__(self) -> int:
        return len(self.catalogue)

    def __contains__(self, product_id: str) -> bool:
        return product_id in self.catalogue.rows

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.graph.dim

    @property
    def hybrid(self) -> bool:
        """Whether the index has words, so that searches take `texts`."""
        return self.words is not None

    @property
    def width(self) -> int:
        """Rows that a search keeps in view: more finds more and takes longer. It was chosen when the index was built,
        see [`~ProductIndex.choose_width`]; one that is set holds until the index is opened again, and sets
        `candidates` along."""
        return self.graph.width

    @width.setter
    def width(self, width: int) -> None:
        with self._one_change, self._lock.changing():
            self.graph.width = check_at_least(width, "width", 1)
            self._own_width = {"width": self.graph.width}

    @property
    def candidates(self) -> int:
        """Of these rows scored exactly, at least; may be set too, after `width`."""
        return self.graph.candidates

    @candidates.setter
    def candidates(self, candidates: int) -> None:
        with self._one_change, self._lock.changing():
            self.graph.candidates = check_at_least(candidates, "candidates", 1)
            self._own_width["candidates"] = self.graph.candidates

    def choose_width(self, recall: float = 0.99, queries: np.ndarray | None = None, threads: int = 1) -> SearchWidth:
        """Measures recall@10 against exact search with ever wider searches, and takes the first that finds enough.

        Args:
            recall (`float`, *optional*, defaults to 0.99): share of the best ten to find; above 0, up to 1.
            queries (`np.ndarray` of shape `(Q, dim)`, *optional*): some hundred real ones. Without them products that
                were made to be found as hard as queries are stand for them; see [`pseudo_queries`].
            threads (`int`, *optional*, defaults to 1): threads to search with.

        Returns:
            What was chosen and measured, also as `measured`; its `recall` is less than was wanted if no width is
            enough. The same products and queries give the same.

        Raises:
            ProductIndexError: if `recall` is no such share, or the queries don't fit.
        """
        check_recall(recall)
        check_threads(threads)
        with self._one_change:
            rows = np.flatnonzero(self.catalogue.passing({})[: self.catalogue.size])
            if queries is None:
                some = np.random.default_rng(0).permutation(rows)[:SAMPLED]
                vectors = self.graph.stored(some).astype(np.float32)
                queries = pseudo_queries(vectors, list(self.blocks.values())) if len(rows) else vectors
            else:
                queries = check_measured_queries(queries, self.dim)
            with self._lock.changing():
                if len(rows):
                    self.measured = self.graph.choose_width(recall, rows, queries, threads)
                self._use_own_width()
            return self.measured

    def _use_own_width(self) -> None:
        for name, value in self._own_width.items():
            setattr(self.graph, name, value)

    @property
    def products(self) -> pa.Table:
        """All products, with `_id` and the columns to show."""
        table = self.catalogue.merged()
        return table.filter(table.column("_id").is_valid()) if self.catalogue.free else table

    @property
    def files(self) -> dict[str, Path]:
        """The files of the folder that hold this generation, by part; empty before the first save."""
        return {part: self.folder / facts["name"] for part, facts in self._files.items()}

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        products: pa.Table | list[dict],
        model: str = "",
        dtype: str = "f32",
        blocks: Mapping[str, int] | None = None,
        words: bool = False,
        threads: int = 1,
        progress: bool = False,
        recall: float = 0.99,
        queries: np.ndarray | None = None,
        fields: Sequence[str] = PRODUCT_FIELDS,
        shard: Shard | None = None,
        counts: WordCounts | None = None,
    ) -> "ProductIndex":
        """Indexes vectors, and chooses how widely the graph is searched; see [`~ProductIndex.choose_width`].

        Args:
            vectors (`np.ndarray` of shape `(N, dim)`): unit vectors, float32 or float16, or zeros for a product that
                nothing is known of; float16 ones are kept and not copied.
            products (`pyarrow.Table` or `list[dict]`): N products with `_id`, a string; ids must differ.
            model (`str`, *optional*): fingerprint of the model that made the vectors.
            dtype (`str`, *optional*, defaults to `"f32"`): how the graph stores vectors: f32, bf16, f16, i8 or b1.
                Of 20,000 vectors or more that nearly lie in 192 directions, i8 stores their parts along these.
            blocks (`Mapping[str, int]`, *optional*): widths of the vectors' blocks, for `SearchResult.contributions`.
            words (`bool`, *optional*, defaults to `False`): index the products' words too, for hybrid search.
            threads (`int`, *optional*, defaults to 1): threads to build with, 0 for one a core. With more than one,
                builds differ a little. Each product is searched for, and added again if it is not found.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.
            recall (`float`, *optional*, defaults to 0.99): share of the best ten products that searches shall find.
            queries (`np.ndarray` of shape `(Q, dim)`, *optional*): real ones to measure that with.
            fields (`list[str]`, *optional*): the columns whose words are indexed, in order: those of the model's
                `processor.product_fields`.
            shard (`Shard`, *optional*): which part of a catalogue this is; it may have no products then.
            counts (`WordCounts`, *optional*): of the whole catalogue's words, of a shard.

        Raises:
            ProductIndexError: if there is nothing to index, the numbers of rows differ, an id is missing, no string
                or comes twice, a vector is not of length 1 or the dtype is unknown.
        """
        if dtype not in list(CANDIDATES):
            raise ProductIndexError(f"unknown dtype {dtype!r}; use one of {', '.join(CANDIDATES)}")
        check_threads(threads)
        check_recall(recall)
        vectors, products = check_vectors(vectors), table_of(products)
        if not (len(products) or shard) or len(products) != len(vectors):
            raise ProductIndexError(
                f"an index needs as many products as vectors and at least one: {len(products)}, {len(vectors)}"
            )
        if blocks and (sum(blocks.values()) != vectors.shape[1] or min(blocks.values()) < 1):
            raise ProductIndexError(f"the blocks {dict(blocks)} don't make vectors of {vectors.shape[1]} dimensions")
        if queries is not None:
            check_measured_queries(queries, vectors.shape[1])
        index = cls(VectorGraph.build(vectors, dtype, threads, progress), ProductRows(products), model, blocks, fields)
        index.shard = shard
        if words:
            index.index_words(counts)
        index.choose_width(recall, queries, threads)
        index.graph.mend(np.arange(len(vectors)), threads)
        return index

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
        threads: int = 1,
    ) -> list[list[SearchResult]]:
        """The best products for each query, best first.

        With `where` the graph is asked for more, in the hope that enough pass; if they don't, or if few products pass
        at all, all that pass are scored. So there are always `k` results if `k` products pass.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): query vectors of any length, float32.
            k (`int`, *optional*, defaults to 10): products a query; fewer if the index holds fewer.
            where (`Mapping[str, Any]`, *optional*): conditions by column, all of which must hold: a value, a list of
                values, or a tuple `(low, high)` of numbers with both ends included, `None` for no bound; for example
                `{"category": ["mugs", "cups"], "price": (5, 20), "in_stock": True}`. Texts are compared without regard
                to letter case, and a category finds those below it (`Home > Kitchen`); those that are numbers or
                prices (`12,50 EUR`) can be compared with numbers. A missing value fulfils no condition, and nothing
                is equal to `None` or NaN. [`~ProductIndex.unknown_values`] tells what no product has.
            texts (`Sequence[str]`, *optional*): the queries as texts, for hybrid search: the 100 best by vectors and
                the 100 best by words (BM25) are ranked by the sum of both; see [`ProductWords.matches`] and
                [`words_weight`].
            threads (`int`, *optional*, defaults to 1): threads for many queries, 0 for one a core.

        Raises:
            ProductIndexError: if the vectors' width is not the index's or a vector is not finite, `k` is below 1, a
                column is unknown or compared with what it does not hold, or `texts` are not one for each query or are
                given where the index was built without words.
        """
        with self._lock:
            queries = check_queries(queries, self.dim)
            found = self._find(queries, k, where, texts, threads)
            return [self._results(query, *one) for query, one in zip(queries, found, strict=True)]

    def search_shard(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
        readings: Readings = NO_READINGS,
    ) -> list[Candidates]:
        """What a shard adds to a search of all of them: for each query the best `k` products, or of a hybrid search
        the best 100 or `k` by vectors and as many by words. [`ShardedIndex`] calls it.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): unit vectors, float32, as [`unit_queries`] makes them.
            k (`int`): products.
            where (`Mapping[str, Any]`, *optional*): see [`~ProductIndex.search`].
            texts (`Sequence[str]`, *optional*): see [`~ProductIndex.search`].
            readings (`Mapping[str, Reading]`, *optional*): how the whole catalogue's columns are read for `where`.
        """
        with self._lock:
            self._check_search(len(queries), k, where, texts)
            found = self._candidates(queries, k, where, texts, readings=readings)
            return [replace(one, ids=self.catalogue.ids(one.rows).to_pylist()) for one in found]

    def results(self, queries: np.ndarray, found: Sequence[Found]) -> list[list[SearchResult]]:
        """The products of some rows for each of `queries` `(Q, dim)`, with what makes up their scores.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): as they were searched for.
            found (`Sequence[tuple]`): for each the rows, their scores and the words' part of them, or `None`.
        """
        with self._lock:
            return [self._results(query, *one) for query, one in zip(queries, found, strict=True)]

    @property
    def facts(self) -> ShardFacts:
        """What a shard tells of itself."""
        spelling = "" if self.words is None else self.words.spelling
        facts = (self.shard, self.model, self.dim, self.blocks, len(self), self.generation, self.hybrid, spelling)
        return ShardFacts(*facts)

    def readings(self, where: Mapping[str, Any]) -> Readings:
        """How a shard's columns are read for a filter; those of all shards sum up. See [`column_readings`]."""
        with self._lock:
            return self.catalogue.readings(where)

    def unknown(
        self, where: Mapping[str, Any], readings: Readings = NO_READINGS
    ) -> dict[tuple[str, int], UnknownValue]:
        """Each value of a filter that no product of a shard has, by column and its place there."""
        with self._lock:
            return self.catalogue.unknown_values(where, readings)

    def unknown_values(self, where: Mapping[str, Any]) -> list[str]:
        """A sentence for each value of a filter that no product has, with the nearest that there are.

        Args:
            where (`Mapping[str, Any]`): conditions; see [`~ProductIndex.search`].

        Raises:
            ProductIndexError: if a column is unknown or compared with what it does not hold.
        """
        return list(map(str, self.unknown(where).values()))

    def search_rows(self, queries: np.ndarray, k: int = 10, **options) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows and scores, best first, that [`~ProductIndex.search`] makes results of.

        Rows are numbers from 0 in the order of [`~ProductIndex.build`]; later changes give rows that became free to
        other products, and [`~ProductIndex.compact`], which a save may call, numbers them anew.
        """
        with self._lock:
            found = self._find(check_queries(queries, self.dim), k, **options)
            return [(rows, scores) for rows, scores, _ in found]

    def check_model(
        self, model: str, blocks: Mapping[str, int] | None = None, name: str | os.PathLike = "the queries'"
    ) -> None:
        """Refuses a model whose queries don't fit.

        Args:
            model (`str`): the model's fingerprint.
            blocks (`Mapping[str, int]`, *optional*): widths of the blocks of its vectors.
            name (`str`, *optional*): what to call it in the message, such as its folder.

        Raises:
            ProductIndexError: if the vectors are another model's, or cut to another length.
        """
        where = self.folder or "the index"
        if model != self.model:
            raise ProductIndexError(
                f"{where}: was built with another model ({self.model or 'unknown'}) than {name} ({model}); "
                "embed the products with this model and index them again"
            )
        if blocks is not None and self.blocks and list(blocks.items()) != list(self.blocks.items()):
            raise ProductIndexError(f"{where}: its vectors have the blocks {self.blocks}, the queries' {dict(blocks)}")

    def add(self, vectors: np.ndarray, products: pa.Table | list[dict], threads: int = 1) -> None:
        """Adds new products, all of them or, after an error, none.

        Args:
            vectors (`np.ndarray` of shape `(N, dim)`): unit vectors, float32 or float16.
            products (`pyarrow.Table` or `list[dict]`): N products with `_id` and some of the index's columns.
            threads (`int`, *optional*, defaults to 1): threads to add with.

        Raises:
            ProductIndexError: if an id is known already or comes twice, a column is not the index's, or the vectors
                don't fit.
        """
        with self._one_change:
            table, checked = self._check_change(products, vectors, threads)
            if known := [one for one in table.column("_id").to_pylist() if one in self]:
                raise ProductIndexError(f"product {known[0]!r} is in the index already; update it")
            for start in range(0, len(table), CHANGED_TOGETHER):
                part = self.catalogue.conform(table.slice(start, CHANGED_TOGETHER)).to_pylist()
                rows = np.array(self.catalogue.next_rows(len(part)))
                self._rows_without_words.update(rows.tolist())
                self._store(rows, part, checked[start : start + CHANGED_TOGETHER], threads)

    def update(self, products: pa.Table | list[dict], vectors: np.ndarray | None = None, threads: int = 1) -> None:
        """Changes products, all of them or, after an error, none. Columns that are not given keep their values.

        Args:
            products (`pyarrow.Table` or `list[dict]`): N products with `_id` and the columns that changed, the same
                ones of each.
            vectors (`np.ndarray` of shape `(N, dim)`, *optional*): their new vectors; the old ones if not given,
                which is much faster: so for prices and stock.
            threads (`int`, *optional*, defaults to 1): threads to add with.

        Raises:
            ProductIndexError: if an id is unknown or comes twice, a column is not the index's, or the vectors don't
                fit.
        """
        with self._one_change:
            if not isinstance(products, pa.Table) and len({frozenset(product) for product in products}) > 1:
                raise ProductIndexError("products to update need the same columns, all of them; update others apart")
            table, vectors = self._check_change(products, vectors, threads)
            self._check_known(table)
            names = table.column_names
            for start in range(0, len(table), CHANGED_TOGETHER):
                changes = self.catalogue.conform(table.slice(start, CHANGED_TOGETHER)).select(names).to_pylist()
                rows = np.array([self.catalogue.rows[change["_id"]] for change in changes])
                if {"text", *self.fields} & set(names):
                    self._rows_without_words.update(rows.tolist())
                whole = [{**a, **b} for a, b in zip(self.catalogue.take(rows), changes, strict=True)]
                part = None if vectors is None else vectors[start : start + CHANGED_TOGETHER]
                self._store(rows, whole, part, threads)

    def remove(self, product_ids: Iterable[str]) -> None:
        """Removes products, all of them or, after an error, none.

        Raises:
            ProductIndexError: if an id is unknown or comes twice.
        """
        if isinstance(product_ids, str):
            raise ProductIndexError(f"remove wants a list of ids, not the string {product_ids!r}")
        with self._one_change:
            table, _ = self._check_change([{"_id": product_id} for product_id in product_ids])
            self._check_known(table)
            ids = table.column("_id").to_pylist()
            if ids:
                self._changes()
            for start in range(0, len(ids), CHANGED_TOGETHER):
                with self._lock.changing():
                    rows = [self.catalogue.remove(one) for one in ids[start : start + CHANGED_TOGETHER]]
                    self.graph.remove(np.array(rows))
                self.measured.changed += len(rows)
            self._unsaved |= {"graph", "products"}

    def compact(self, threads: int = 1, progress: bool = False) -> None:
        """Builds the graph anew, of the products that there are, and drops the rows of those that were removed.

        Afterwards searches find what an index that is built of these products finds, rows are numbered anew, and
        `save` writes smaller files. Searches go on while it builds, other changes wait; both graphs are in memory.

        Args:
            threads (`int`, *optional*, defaults to 1): threads to build with, 0 for one a core.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.

        Raises:
            ProductIndexError: if the index was opened with `view=True`.
        """
        self._check_changeable()
        check_threads(threads)
        with self._one_change:
            if not self.catalogue.free:
                return
            rows = np.flatnonzero(self.catalogue.passing({})[: self.catalogue.size])
            graph = VectorGraph.build(self.graph.stored(rows), self.graph.dtype, threads, progress)
            newest = ProductIndex(graph, ProductRows(self.products), self.model, self.blocks, self.fields)
            newest.shard = self.shard
            if self.words is not None:
                is_told = self.shard is not None and not self._rows_without_words
                newest.index_words(self.words.counts if is_told else None)
            newest.choose_width(self.measured.wanted, threads=threads)
            newest._own_width = self._own_width
            newest._use_own_width()
            kept = ("notes", "generation", "folder", "_files", "_lock", "_one_change")
            with self._lock.changing():
                self.__dict__.update(newest.__dict__ | {name: self.__dict__[name] for name in kept})

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the index as the folder's next generation; a kill at any moment leaves the old one or the new one.

        Searches go on meanwhile, and so do processes that have the older generation open; they see the new one after
        [`~ProductIndex.refresh`]. Parts that did not change are not written again. Where more than half of the rows
        are of products that were removed, and 4,096 or more, the index is compacted first, which takes as long as
        building it.

        Raises:
            ProductIndexError: if another process has saved since this index was loaded from the folder, the folder
                is no index and holds other files, or can't be written, as when the disk is full. The old generation
                is then untouched.
        """
        folder = Path(folder).resolve()
        with self._one_change, saving(folder):
            if MANY_FREE <= len(self.catalogue.free) > self.catalogue.size / 2 and not self.is_view:
                self.compact()
            if self.words and self._rows_without_words:
                self.index_words()
            kept = self._files_to_keep(folder)
            generation = last_generation(folder) + 1
            with writing(folder, generation):
                files = {**kept, **self._write_parts(folder, generation, set(kept))}
                manifest: dict[str, Any] = {
                    "format": FORMAT,
                    "generation": generation,
                    "count": len(self),
                    "dim": self.dim,
                }
                manifest |= {"dtype": self.graph.dtype, "model": self.model, "blocks": self.blocks}
                manifest |= {
                    "fields": self.fields,
                    "search": asdict(self.measured),
                    "unreachable": self.graph.unreachable.tolist(),
                    "stemmed": self.words is not None and self.words.stemmed,
                    "notes": dict(self.notes),
                    "files": files,
                }
                if self.shard is not None:
                    manifest["shard"] = asdict(self.shard)
                write_manifest(folder, manifest)
            remove_older(folder, manifest)
            with self._lock.changing():
                self._use_files(folder, manifest)

    @classmethod
    def load(cls, folder: str | os.PathLike, view: bool = False, verify: bool = True) -> "ProductIndex":
        """Opens the newest generation that [`~ProductIndex.save`] wrote.

        Args:
            folder (`str`): the index's folder.
            view (`bool`, *optional*, defaults to `False`): map the graph into memory in place of reading it: it opens
                at once, its memory is shared by all processes and can be reclaimed. It can't be changed then.
            verify (`bool`, *optional*, defaults to `True`): check the files' sha256, for which they are all read.
                Without it a damaged file may end the process.

        Raises:
            ProductIndexError: if it is no index, or a file is missing or damaged.
        """
        folder = Path(folder).resolve()
        while True:
            manifest = read_manifest(folder)
            try:
                return cls._open(folder, manifest, view, verify)
            except (ProductIndexError, OSError) as error:
                if read_manifest(folder)["generation"] != manifest["generation"]:
                    continue  # saved anew meanwhile
                if isinstance(error, FileNotFoundError):
                    name = Path(error.filename).name
                    raise ProductIndexError(f"{folder}: the index is damaged: {name} is missing") from error
                if isinstance(error, OSError):
                    raise ProductIndexError(f"{folder}: can't be read: {error}") from error
                raise

    def newest(self) -> "ProductIndex":
        """The folder's newest generation, opened as this one was; this index if it is that.

        Raises:
            ProductIndexError: if the new generation is damaged.
        """
        if self.folder is None or read_manifest(self.folder)["generation"] == self.generation:
            return self
        return ProductIndex.load(self.folder, self.is_view)

    def refresh(self) -> bool:
        """Opens the folder's newest generation if another process has saved one since; whether there was one.

        A `width` that was set by hand is kept, else the new generation's is taken.

        Raises:
            ProductIndexError: if this index has changes that were not saved, or the new generation is damaged.
        """
        with self._one_change:
            if self.folder is None or read_manifest(self.folder)["generation"] == self.generation:
                return False
            if self._unsaved:
                raise ProductIndexError(f"{self.folder}: was saved by another process, and changes here are not saved")
            newest = ProductIndex.load(self.folder, self.is_view)
            newest._own_width = self._own_width
            newest._use_own_width()
            with self._lock.changing():
                self.__dict__.update(newest.__dict__ | {"_lock": self._lock, "_one_change": self._one_change})
            return True

    def _find(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
        threads: int = 1,
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Rows and scores of the best products for each query, and with `texts` the words' part of the scores.

        Graphs of few bits hold what is no longer than 1, so queries are scaled to that, and scores back.
        """
        check_threads(threads)
        self._check_search(len(queries), k, where, texts)
        queries, lengths = unit_queries(queries)
        found = map(self._best, self._candidates(queries, k, where, texts, threads), [k] * len(queries))
        return [
            (one.rows, one.sums * length, None if one.words is None else one.words * length)
            for one, length in zip(found, lengths, strict=True)
        ]

    def _check_search(
        self, queries: int, k: int, where: Mapping[str, Any] | None, texts: Sequence[str] | None
    ) -> None:
        check_at_least(k, "k", 1)
        check_where(where)
        if texts is not None and self.words is None:
            raise ProductIndexError(NO_WORDS)
        check_texts(texts, queries)

    def _candidates(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Any] | None,
        texts: Sequence[str] | None,
        threads: int = 1,
        readings: Readings = NO_READINGS,
    ) -> list[Candidates]:
        """What is to be ranked for each of `queries` of length 1; without `texts` it is ranked already."""
        depth = k if texts is None else max(k, HYBRID_DEPTH)
        if where:
            self.catalogue.passing(where, readings)  # says what is wrong with a filter where there is no query too
            found = [self._nearest_passing(query, depth, where, readings) for query in queries]
        else:
            found = self._nearest(queries, depth, threads)
        if texts is None:
            return [Candidates(rows, scores) for rows, scores in found]
        mask = self.catalogue.passing(where or {}, readings).copy()
        mask[list(self._rows_without_words)] = False
        both = zip(queries, texts, found, strict=True)
        return [self._with_words(query, text, nearest, mask, depth) for query, text, (nearest, _) in both]

    def _with_words(
        self, query: np.ndarray, text: str, nearest: np.ndarray, mask: np.ndarray, depth: int
    ) -> Candidates:
        """The nearest rows and those whose words match most, with both scores.

        Only words of rows where `mask` is True count; others pass no filter, or have no words yet.
        """
        matches = np.zeros(len(mask), dtype=np.float32)
        known = self.words.matches(text)
        matches[: len(known)] = words_weight(query, self.blocks) * known
        matches[~mask] = 0
        matching = np.flatnonzero(matches)
        if len(matching):
            matching = best_rows(matches, depth, matching, self.catalogue.places)
        rows = np.union1d(nearest, matching)
        is_near, is_matching = np.isin(rows, nearest), np.isin(rows, matching)
        return Candidates(rows, self.graph.scores(query, rows), matches[rows], is_near, is_matching)

    def _best(self, found: Candidates, k: int) -> Candidates:
        """The best `k` candidates of this index alone, best first."""
        if found.words is None or not len(found.rows):
            return found
        return found.take(best_rows(found.sums, k, places=lambda places: self.catalogue.places(found.rows[places])))

    def _nearest(self, queries: np.ndarray, k: int, threads: int) -> list[tuple[np.ndarray, np.ndarray]]:
        found = self.graph.best(queries, k, threads, self.catalogue.places)
        for place, (rows, _) in enumerate(found):
            if len(rows) < min(k, len(self)):  # the graph lost its way
                rows = np.flatnonzero(self.catalogue.passing({}))
                found[place] = self.graph.ranked(queries[place], rows, k, self.catalogue.places)
        return found

    def _nearest_passing(
        self, query: np.ndarray, k: int, where: Mapping[str, Any], readings: Readings
    ) -> tuple[np.ndarray, np.ndarray]:
        mask = self.catalogue.passing(where, readings)
        passing = int(np.count_nonzero(mask))
        if self.graph.codes is not None and EXACT_WITH_CODES < passing < self._most_by_codes(k):
            rows = self.graph.codes.likely(query, self.catalogue.passing_rows(where, readings), 4 * k)
            return self.graph.ranked(query, rows, k, self.catalogue.places)
        if passing > EXACT_ROWS:
            enough = min(k if self.graph.exact is None else 4 * k, passing)
            wide = max(self.graph.count_for(k), self.graph.width, enough)
            count = min(int(wide * len(self) / passing), MOST_ASKED)
            while count <= MOST_ASKED:
                rows = self.graph.nearest(query[None], count)[0]
                rows = rows[mask[rows]]
                if len(rows) >= enough:
                    return self.graph.ranked(query, rows, k, self.catalogue.places)
                count *= 4
        return self.graph.ranked(query, self.catalogue.passing_rows(where, readings), k, self.catalogue.places)

    def _most_by_codes(self, k: int) -> float:
        """How many rows may pass for it to be cheaper to score them by their codes than to ask the graph for so many
        that enough of them pass."""
        return (GRAPH_IS_CHEAPER * max(self.graph.count_for(k), self.graph.width) * len(self)) ** 0.5

    def _results(
        self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray, words: np.ndarray | None
    ) -> list[SearchResult]:
        parts: list[dict[str, float]] = [{}] * len(rows)
        if self.blocks and len(rows):
            starts = np.cumsum([0, *self.blocks.values()])[:-1]
            sums = np.add.reduceat(self.graph.stored(rows).astype(np.float32) * query, starts, axis=1).tolist()
            parts = [dict(zip(self.blocks, values, strict=True)) for values in sums]
            if words is not None:
                parts = [{**part, "words": word} for part, word in zip(parts, words.tolist(), strict=True)]
        products = self.catalogue.take(rows)
        found = zip(products, scores.tolist(), parts, strict=True)
        return [SearchResult(product.pop("_id"), score, product, part) for product, score, part in found]

    def teach(self, processor: MMFusionQueryReader) -> None:
        """Tells a processor how the products' texts spell their words, if the index has words; see
        [`MMFusionQueryReader.learn_words`]."""
        if self.words is not None:
            processor.spelling_words = join_words(self.words.spelling, processor.spelling_words)

    def index_words(self, counts: WordCounts | None = None) -> None:
        """Indexes the words of all products as they are now.

        Args:
            counts (`WordCounts`, *optional*): of the whole catalogue, of a shard; these products' own if not given.
        """
        with self._one_change:
            words = ProductWords.build(self.texts(), counts=counts)
            with self._lock.changing():
                self.words, self._rows_without_words = words, set()
                self._unsaved |= {"words", "spelling"}

    def texts(self) -> Iterable[str]:
        """Each row's text, whose words are indexed; `""` for rows that are free."""
        return self.catalogue.texts(self.fields)

    def _check_change(
        self, products: pa.Table | list[dict], vectors: np.ndarray | None = None, threads: int = 1
    ) -> tuple[pa.Table, np.ndarray | None]:
        """The products as a table and the vectors as an array, if they may be stored."""
        self._check_changeable()
        check_threads(threads)
        table = table_of(products) if len(products) else self.catalogue.table.slice(0, 0)
        self.catalogue.conform(table)
        if vectors is not None:
            if len(vectors) != len(table):
                raise ProductIndexError(f"there are {len(table)} products and {len(vectors)} vectors")
            vectors = check_vectors(vectors, self.dim)
        return table, vectors

    def _check_changeable(self) -> None:
        if self.is_view:
            raise ProductIndexError("the index was opened with view=True and can't be changed; load it without")

    def _check_known(self, table: pa.Table) -> None:
        if unknown := [one for one in table.column("_id").to_pylist() if one not in self]:
            raise ProductIndexError(f"product {unknown[0]!r} is not in the index; add it")

    def _changes(self) -> None:
        """Notes that a shard is no longer as the others know it."""
        self.shard = self.shard and replace(self.shard, catalogue="")

    def _store(self, rows: np.ndarray, products: list[dict], vectors: np.ndarray | None, threads: int) -> None:
        """Stores whole products in their rows, or in the next new ones."""
        self._changes()
        with self._lock.changing():
            if vectors is not None:
                self.graph.put(rows, vectors, threads)
            for row, product in zip(rows.tolist(), products, strict=True):
                self.catalogue.put(row, product)
        self._unsaved |= {"products"} if vectors is None else {"graph", "products", "vectors", "heads", "tails"}
        self.measured.changed += 0 if vectors is None else len(rows)

    def _files_to_keep(self, folder: Path) -> dict[str, dict]:
        """The files of a folder that already hold what this index would write there."""
        if self.folder != folder:
            return {}
        if read_manifest(folder)["generation"] != self.generation:
            raise ProductIndexError(
                f"{folder}: another process has saved since this index was loaded; load it and do the changes again"
            )
        return {part: facts for part, facts in self._files.items() if part.split("_")[0] not in self._unsaved}

    def _write_parts(self, folder: Path, generation: int, kept: set[str]) -> dict[str, dict]:
        """Writes the parts whose files are not kept, and gives what `index.json` says of them."""
        files = {part: part_file(folder, part, generation) for part in ("graph", "products")}
        if "graph" not in kept:
            self.graph.save(files["graph"])
        if "products" not in kept:
            write_table(self.catalogue.merged(), files["products"])
        if self.graph.exact is not None:
            files["vectors"] = part_file(folder, "vectors", generation)
            if "vectors" not in kept:
                self.graph.exact.save(files["vectors"])
        if self.graph.basis is not None:
            files["basis"] = part_file(folder, "basis", generation)
            if "basis" not in kept:
                self.graph.save_basis(files["basis"])
        if (codes := self.graph.codes) is not None:
            for part, stored in (("heads", codes.heads), ("tails", codes.tails), ("axes", RowVectors(codes.axes))):
                files[part] = part_file(folder, part, generation)
                if part not in kept:
                    stored.save(files[part])
        if self.words is not None and "words_data" not in kept:
            files |= self.words.save(folder, generation)
        return {part: describe(file) for part, file in files.items() if part not in kept}

    def _use_files(self, folder: Path, manifest: dict) -> None:
        """Takes the files that were just saved in place of what is held in memory."""
        self._mark_saved(folder, manifest)
        self._rows_without_words = set()
        self.catalogue.rebase(map_table(self.files["products"]))
        if self.graph.exact is not None:
            self.graph.exact = RowVectors.map(self.files["vectors"])
        self.graph.codes = RowCodes.open(self.files)
        if self.words is not None:
            self.words = ProductWords.load(self.files, self.words.stemmed)

    def _mark_saved(self, folder: Path, manifest: dict) -> None:
        self.folder, self.generation, self._files = folder, manifest["generation"], manifest["files"]
        self._unsaved = set()

    @classmethod
    def _open(cls, folder: Path, manifest: dict, view: bool, verify: bool) -> "ProductIndex":
        files = {part: check_file(folder, facts, verify) for part, facts in manifest["files"].items()}
        try:
            unreachable = manifest.get("unreachable", manifest.get("strays", ()))  # as versions before 0.1 wrote it
            graph = VectorGraph.open(files, manifest["dim"], unreachable, view)
            catalogue = ProductRows(map_table(files["products"]))
            fields = manifest.get("fields", PRODUCT_FIELDS)  # not in indexes of before
            index = cls(graph, catalogue, manifest["model"], manifest["blocks"], fields)
            index.shard = Shard(**manifest["shard"]) if "shard" in manifest else None
            stemmed = manifest.get("stemmed", False)
            index.words = ProductWords.load(files, stemmed) if "words_data" in files else None
        except (pa.ArrowException, KeyError) as error:
            raise ProductIndexError(f"{folder}: can't be read: {one_line(error)}") from error
        if not len(graph) == len(catalogue) == manifest["count"]:
            raise ProductIndexError(
                f"{folder}: its files don't belong together; build the index again with training.index"
            )
        if "search" in manifest:  # not in indexes of before
            index.measured = SearchWidth(**manifest["search"])
            index.graph.width, index.graph.candidates = index.measured.width, index.measured.candidates
        index.notes = manifest.get("notes", {})  # not in indexes of before
        index.is_view = view
        index._mark_saved(folder, manifest)
        return index


def table_of(products: pa.Table | list[dict]) -> pa.Table:
    """Products as a table; what some lack of the others' columns is null.

    Raises:
        ProductIndexError: if a column holds things that don't go together, or an id is missing, no string or twice.
    """
    if not isinstance(products, pa.Table):
        try:
            names = list(dict.fromkeys(name for product in products for name in product))
            products = pa.table({name: [product.get(name) for product in products] for name in names})
        except (pa.ArrowException, TypeError, AttributeError) as error:
            reason = one_line(error)
            raise ProductIndexError(f"the products make no table ({reason}); give a list of dicts") from error
    names = products.column_names
    if len(set(names)) < len(names):
        raise ProductIndexError(f"the products have two columns of the same name; they have {', '.join(names)}")
    ids = products.column("_id").to_pylist() if "_id" in names else []
    if len(set(ids)) < len(products) or not all(isinstance(product_id, str) for product_id in ids):
        raise ProductIndexError("an index needs products with different _id values, strings, none of them missing")
    return products


def check_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    """Queries `(Q, dim)` as float32.

    Raises:
        ProductIndexError: if they have another shape or hold no real numbers.
    """
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.dtype.kind not in "fiu":
        raise ProductIndexError(
            f"queries are {queries.dtype} of the shape {queries.shape}; the index wants (queries, {dim})"
        )
    if queries.shape[1] != dim:
        raise ProductIndexError(f"queries have {queries.shape[1]} dimensions, the index has {dim}")
    return np.ascontiguousarray(queries, dtype=np.float32)


def unit_queries(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries `(Q, dim)` scaled to length 1, as graphs of few bits hold nothing longer, and their lengths `(Q,)`, by
    which scores are scaled back; zeros stay and have the length 1.

    Raises:
        ProductIndexError: if one is not finite.
    """
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))  # squares of float32 overflow
    if not np.isfinite(lengths).all():
        raise ProductIndexError(f"query {int(np.argmin(np.isfinite(lengths)))} holds what is no finite number")
    lengths[lengths == 0] = 1
    return (queries / lengths[:, None]).astype(np.float32), lengths.astype(np.float32)


def check_where(where: Any) -> None:
    """Refuses conditions that are none.

    Raises:
        ProductIndexError: if they are no mapping.
    """
    if where is not None and not isinstance(where, Mapping):
        raise ProductIndexError(f"where is {where!r}; give conditions by column, such as {{'price': (5, 20)}}")


def check_texts(texts: Any, queries: int) -> None:
    """Refuses texts that are not one for each of some queries.

    Raises:
        ProductIndexError: if they are none such.
    """
    if texts is None:
        return
    if isinstance(texts, str) or len(texts) != queries or not all(isinstance(text, str) for text in texts):
        raise ProductIndexError(f"texts must be a list of one string for each of the {queries} queries")


def check_measured_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    """Queries to measure recall with, `(1, Q, dim)`, scaled to length 1; see [`VectorGraph.choose_width`].

    Raises:
        ProductIndexError: as [`check_queries`], and if there is none or one is not finite.
    """
    queries = unit(check_queries(queries, dim))[None]
    if not queries.size or not np.isfinite(queries).all():
        raise ProductIndexError("the queries to measure with are none, or hold what is no finite number")
    return queries


def check_at_least(value: int, name: str, least: int) -> int:
    """A whole number that is large enough.

    Raises:
        ProductIndexError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ProductIndexError(f"{name} is {value!r}; give a whole number of at least {least}")
    return int(value)


def check_recall(recall: float) -> None:
    """Refuses what is no share that a search can find."""
    if isinstance(recall, bool) or not isinstance(recall, Real) or not 0 < recall <= 1:
        raise ProductIndexError(f"recall is {recall!r}; give a share above 0 and up to 1, such as 0.99")


def check_threads(threads: int) -> None:
    """Refuses what is no number of threads."""
    check_at_least(threads, "threads", 0)


__all__ = ["ProductIndexError", "ProductIndex", "SearchResult"]
