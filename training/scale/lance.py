"""Lance: products in a folder, searched as [`ProductIndex`] is, exactly, without a server.

A write is a new version of the dataset, which appears whole or not at all, whenever the process dies; who searches
goes on with the older version until then. Many processes may search and several may write. Old versions are removed by
the next writes, ten minutes after they were made at the earliest.

LanceDB opens the same folder: for `lance:runs/myshop/products.lance` by
`lancedb.connect("runs/myshop").open_table("products")`, tried by hand with lancedb 0.40, which is no dependency.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_mmfusion.checksums import MARK, mark_of
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import SearchResult
from training.common.files import claim_folder
from training.scale.engine import (
    COLLECTION,
    DIGEST,
    ENGINES_INSTALL,
    Engine,
    ProductSchema,
    parts_of_ids,
    product_table,
    stored_products,
)
from training.scale.filters import Condition, bounds_expression, is_text, passing_texts

WRITER = "training.scale.lance"
SCHEMA, NOTE = "mmfusion", "mmfusion.note."  # keys of the dataset's metadata
TAKEN = {"_distance", "_score", "_rowid", "_rowaddr", "_rowoffset", "vector", DIGEST}
IDS_TOGETHER = 10_000
KEPT = timedelta(minutes=10)
MANY_FRAGMENTS = 100


class LanceEngine(Engine):
    """Products in a Lance dataset: all vectors are compared, so what is found is exact, with and without filters.

    Args:
        place (`str`): the dataset's folder. One that something else wrote is refused.
        collection (`str`, *optional*, defaults to `"products"`): no other name is taken; another collection is another
            folder.

    Raises:
        DataError: if `pylance` is not installed, or another name is given.
    """

    def __init__(self, place: str, collection: str = COLLECTION):
        super().__init__(place, collection)
        if collection != COLLECTION:
            raise DataError(f"{place}#{collection}: a Lance dataset has no collections; give each a folder of its own")
        self.lance, self.folder = import_lance(), Path(place).expanduser()
        self._opened: Any = None
        self._mark: tuple[int, int] | None = None  # of the folder when it was opened
        self._texts: dict[str, pa.ChunkedArray] = {}
        self._texts_of: tuple | None = None

    def read_schema(self) -> ProductSchema | None:
        if (dataset := self._latest()) is None:
            return None
        return ProductSchema.loads(dataset.schema.metadata[SCHEMA.encode()].decode())

    def check(self, schema: ProductSchema) -> None:
        for name in schema.columns:
            if name in TAKEN or {".", "`"} & set(name):
                raise DataError(f"column {name!r}: Lance takes no such name; rename it")
        folded = {}
        for name in schema.columns:
            if (other := folded.setdefault(name.lower(), name)) != name:
                raise DataError(f"columns {other!r} and {name!r}: Lance takes no two that differ in case alone")

    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        self.check(schema)
        older, faults, ids = self._latest(), [], set()

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for table in chain([first], tables):
                    ready = stored_products(table, schema)
                    _note_ids(ready, ids)
                    yield from ready.cast(stored).to_batches()
            except Exception as error:  # Lance makes a text of it, traceback and all
                faults.append(error)
                raise

        tables = iter(tables)
        if (first := next(tables, None)) is None:
            raise DataError("there are no products to load")
        stored = stored_products(first, schema).schema.with_metadata({SCHEMA: schema.dumps()})
        claim_folder(self.folder, WRITER, option="--to")
        shutil.rmtree(self._dropped, ignore_errors=True)
        mode = "create" if older is None else "overwrite"
        try:
            with self._errors():
                self.lance.write_dataset(batches(), str(self.folder), schema=stored, mode=mode)
        except DataError as error:
            raise (faults[0] if faults else error) from None
        self._tidy()
        return len(ids)

    def upsert(self, table: pa.Table) -> None:
        table = stored_products(table, self.schema)
        if not len(table):
            return
        with self._errors():
            merge = self._there().merge_insert("_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(table)
        self._tidy()

    def delete(self, product_ids: Sequence[str]) -> None:
        dataset = self._there()
        for start in range(0, len(product_ids), IDS_TOGETHER):
            some = ", ".join(map(_literal, product_ids[start : start + IDS_TOGETHER]))
            with self._errors():
                dataset.delete(f"_id in ({some})")
        self._tidy()

    def read(self, product_ids: Sequence[str]) -> pa.Table:
        schema, dataset = self.schema, self._there()
        found = [product_table([], [], schema)]
        with self._errors():
            for some in parts_of_ids(product_ids, IDS_TOGETHER):
                passing = f"_id in ({', '.join(map(_literal, some))})"
                found.append(dataset.to_table(found[0].column_names, filter=passing).cast(found[0].schema))
        return pa.concat_tables(found)

    def count(self) -> int:
        with self._errors():
            return self._there().count_rows()

    def digests(self) -> dict[str, int]:
        with self._errors():
            table = self._there().to_table(["_id", DIGEST])
        return dict(zip(table.column("_id").to_pylist(), table.column(DIGEST).to_pylist(), strict=True))

    def read_note(self, name: str) -> str | None:
        if (dataset := self._latest()) is None:
            return None
        text = dataset.schema.metadata.get(f"{NOTE}{name}".encode())
        return None if text is None else text.decode()

    def write_note(self, name: str, text: str) -> None:
        with self._errors():
            self._there().update_schema_metadata({f"{NOTE}{name}": text})
        self._tidy()

    def drop(self) -> None:
        if self._latest() is None and not _is_ours(self.folder):
            return
        strange = [path.name for path in self.folder.iterdir() if path.name != "data" and path.name[0] not in "._"]
        if strange:
            raise DataError(f"{self.folder}: holds {strange[0]}, which mmfusion did not write; move it away first")
        with self._errors():
            shutil.rmtree(self._dropped, ignore_errors=True)
            self.folder.rename(self._dropped)
            shutil.rmtree(self._dropped)
        self._opened = None

    def close(self) -> None:
        self._opened = None

    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        with self._errors():
            dataset, columns = self._there(), self.schema.columns
            for name in wanted:
                if is_text(columns[name]):
                    wanted[name] = _texts_of(self._distinct(dataset, name), wanted[name])
            passing = " and ".join(_expression(name, condition) for name, condition in wanted.items()) or None
            k = min(k, max(1, dataset.count_rows()))
            return [self._nearest(dataset, [*columns, "_distance"], query, k, passing) for query in queries]

    def _nearest(
        self, dataset: Any, columns: list[str], query: np.ndarray, k: int, passing: str | None
    ) -> list[SearchResult]:
        nearest = {"column": "vector", "q": query, "k": k, "metric": "dot", "use_index": False}
        found = dataset.to_table(columns, filter=passing, nearest=nearest, prefilter=True).to_pylist()
        return [SearchResult(row.pop("_id"), 1 - row.pop("_distance"), row) for row in found]

    def _distinct(self, dataset: Any, name: str) -> pa.ChunkedArray:
        """The texts of a column, each once; read when it is first filtered by, and again after a change."""
        if self._texts_of != (self._mark, dataset.version):
            self._texts_of, self._texts = (self._mark, dataset.version), {}
        if name not in self._texts:
            self._texts[name] = pa.chunked_array([dataset.to_table([name]).column(0).unique()])
        return self._texts[name]

    def _latest(self) -> Any:
        """The dataset as it is now; `None` if there is none.

        Raises:
            DataError: if something else is there.
        """
        if not (self.folder / "_versions").is_dir():
            self._opened = None
            if self.folder.exists() and not _is_ours(self.folder):
                raise self._strange()
            return None
        mark = self.folder / MARK
        facts = (mark.stat().st_ino, mark.stat().st_mtime_ns) if mark.is_file() else None
        with self._errors():
            if self._opened is None or facts != self._mark:  # dropped meanwhile, and made anew
                self._opened, self._mark = self.lance.dataset(str(self.folder)), facts
            else:
                self._opened.checkout_latest()
        if SCHEMA.encode() not in (self._opened.schema.metadata or {}):
            raise self._strange()
        return self._opened

    def _there(self) -> Any:
        """The dataset as it is now.

        Raises:
            DataError: if there is none.
        """
        if (dataset := self._latest()) is None:
            raise self._nothing()
        return dataset

    def _strange(self) -> DataError:
        return DataError(
            f"{self.folder}: was not loaded by training.scale.engines, or by an older version, and is left as it is; "
            "give another --to"
        )

    def _tidy(self) -> None:
        """Joins many small pieces, and removes versions that nobody reads any more."""
        with self._errors():
            dataset = self._there()
            if len(dataset.get_fragments()) > MANY_FRAGMENTS:
                dataset.optimize.compact_files()
            dataset.cleanup_old_versions(KEPT)

    @property
    def _dropped(self) -> Path:
        """Where a dataset goes before it is deleted."""
        return self.folder.with_name(f".{self.folder.name}.mmfusion-old")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of Lance as one line."""
        try:
            yield
        except DataError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # Arrow's are among them
            raise DataError(f"{self.folder}: lance: {one_line(error)}") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or was begun by [`LanceEngine`]."""
    return folder.is_dir() and (mark_of(folder).get("writer") == WRITER or not any(folder.iterdir()))


def _texts_of(texts: pa.ChunkedArray, wanted: Condition) -> Condition:
    """Those of a column's texts that pass."""
    values = [one for one in wanted if not isinstance(one, tuple)]
    bounds = [one for one in wanted if isinstance(one, tuple)]
    return list(dict.fromkeys(chain(*(passing_texts(texts, one) for one in [values, *bounds]))))


def _note_ids(table: pa.Table, ids: set[bytes]) -> None:
    """Keeps the ids of products that were seen.

    Raises:
        DataError: if one was seen before.
    """
    for one in table.column("_id").to_pylist():
        if one in ids:
            raise DataError(f"product {one[:40]!r} comes twice; an id is one product's")
        ids.add(one)


def _expression(name: str, wanted: Condition) -> str:
    """A condition in Lance's SQL."""
    values = [_literal(one) for one in wanted if not isinstance(one, tuple)]
    parts = [f"`{name}` in ({', '.join(values)})"] if values else []
    parts += [bounds_expression(f"`{name}`", *one) for one in wanted if isinstance(one, tuple)]
    return f"({' or '.join(parts)})" if parts else "false"


def _literal(value: str | bool | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def import_lance() -> Any:
    """The module `lance`.

    Raises:
        DataError: if `pylance` is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise DataError(f"lance is not installed; run: {ENGINES_INSTALL}") from error
    return lance
