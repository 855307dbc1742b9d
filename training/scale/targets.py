"""Where a stream of changes is applied: the index of a run, or an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import ProductIndex
from training.common.errors import Problems
from training.index import MEASURED_AGAIN
from training.scale.engine import Engine, shown, vectors_of

NOTE = "follow"


@dataclass
class Change:
    """A product's newest state.

    Attributes:
        row (`dict`): all its columns.
        vector (`np.ndarray` of shape `(dim,)`, *optional*): float16; `None` where it is as it was.
        before (`dict`, *optional*): its columns before; `None` if it is new.
        where (`str`): file and line of the last event, for messages.
    """

    row: dict[str, Any]
    vector: np.ndarray | None
    before: dict[str, Any] | None
    where: str


class IndexTarget:
    """The index of a run. What was written is on disk after [`~IndexTarget.save`], together with the position.

    Args:
        folder (`Path`): the index's folder.

    Raises:
        ProductIndexError: if it is no index, or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.index = ProductIndex.load(folder)
        self.columns = {field.name: field.type for field in self.index.catalogue.table.schema}
        self.dim = self.index.dim

    def check_model(self, fingerprint: str, blocks: dict[str, int], name: str) -> None:
        """Refuses a model that did not make the vectors."""
        self.index.check_model(fingerprint, blocks, name)

    @property
    def position(self) -> str | None:
        """The position that was written last."""
        return self.index.notes.get(NOTE)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, product_ids: Sequence[str]) -> dict[str, dict]:
        """The columns of those products that there are, by id."""
        known = [one for one in product_ids if one in self.index]
        return {product["_id"]: product for product in self.index.catalogue.take(self._rows(known))}

    def vectors(self, product_ids: Sequence[str]) -> np.ndarray:
        """The vectors `(N, dim)` of products that [`~IndexTarget.read`] found."""
        return self.index.graph.stored(self._rows(product_ids))

    def write(self, gone: list[str], changes: list[Change], position: str, problems: Problems) -> None:
        """Removes products, and adds or changes others; the position is that behind all these events."""
        new = [change for change in changes if change.before is None]
        moved = [change for change in changes if change.before is not None and change.vector is not None]
        others = [change for change in changes if change.before is not None and change.vector is None]
        texts = {"text", *self.index.fields}
        worded = [
            change
            for change in others
            if any(change.row[name] != change.before[name] for name in texts & set(self.columns))
        ]
        shown_anew = [change for change in others if change not in worded]
        self.index.remove(gone)
        if new:
            self.index.add(np.stack([change.vector for change in new]), self._table(new))
        if moved:
            self.index.update(self._table(moved), np.stack([change.vector for change in moved]))
        if worded:
            self.index.update(self._table(worded))
        if shown_anew:  # without the columns that words are of, so that these are not indexed anew
            names = [name for name in self.columns if name not in texts]
            self.index.update(self._table(shown_anew).select(names))
        self.index.notes[NOTE] = position

    def save(self) -> None:
        """Writes all that was applied, and the position, as the index's next generation; how widely it is searched is
        measured again where more than a fifth of the products changed."""
        if self.index.measured.changed > MEASURED_AGAIN * len(self.index):
            self.index.choose_width(self.index.measured.wanted)
        self.index.save(self.folder)

    def close(self) -> None:
        """Nothing to do."""

    def _rows(self, product_ids: Sequence[str]) -> np.ndarray:
        return np.array([self.index.catalogue.rows[one] for one in product_ids], dtype=np.int64)

    def _table(self, changes: list[Change]) -> pa.Table:
        schema = self.index.catalogue.table.schema
        return pa.Table.from_pylist([change.row for change in changes], schema=schema)


class EngineTarget:
    """An engine. All events set what a product is and none counts from what it was, so events that are applied again
    give the same: the position is written after what it stands for, and what a crash came between is applied twice.
    Until it is, a product may be seen as it was some events before. A price or a delete whose product a later event of
    the same batch deleted is then one of an unknown product, and is counted as such.

    Args:
        engine (`Engine`): with a collection.

    Raises:
        DataError: if there is no collection.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.schema = engine.schema
        self.columns, self.dim = self.schema.columns, self.schema.dim
        self._vectors: dict[str, np.ndarray] = {}

    def check_model(self, fingerprint: str, blocks: dict[str, int], name: str) -> None:
        """Refuses a model that did not make the vectors."""
        if self.schema.model != fingerprint or (self.schema.blocks and self.schema.blocks != dict(blocks)):
            raise DataError(
                f"{shown(self.engine.place)}: was loaded with another model ({self.schema.model or 'unknown'}) than "
                f"{name} ({fingerprint}); load its vectors with training.scale.engines"
            )

    @property
    def position(self) -> str | None:
        """The position that was written last."""
        return self.engine.read_note(NOTE)

    def __len__(self) -> int:
        return self.engine.count()

    def read(self, product_ids: Sequence[str]) -> dict[str, dict]:
        """The columns of those products that there are, by id."""
        table = self.engine.read(product_ids)
        rows = table.select(list(self.columns)).to_pylist()
        self._vectors = dict(zip((row["_id"] for row in rows), vectors_of(table), strict=True)) if rows else {}
        return {row["_id"]: row for row in rows}

    def vectors(self, product_ids: Sequence[str]) -> np.ndarray:
        """The vectors `(N, dim)` of products that the last [`~EngineTarget.read`] found."""
        found = [self._vectors[one] for one in product_ids]
        return np.stack(found) if found else np.zeros((0, self.dim), dtype=np.float32)

    def write(self, gone: list[str], changes: list[Change], position: str, problems: Problems) -> None:
        """Deletes products and writes others, then the position, which is that behind all these events. Products that
        the engine refuses go to `problems`."""
        if gone:
            self.engine.delete(gone)
        self._upsert(changes, problems)
        self.engine.write_note(NOTE, position)

    def save(self) -> None:
        """Nothing to do: what was written is there."""

    def close(self) -> None:
        """Tells what the engine had to cut, and ends the connection."""
        self.engine.problems.report()
        self.engine.close()

    def _upsert(self, changes: list[Change], problems: Problems) -> None:
        """Writes products; of those that are refused as a whole halves are tried, down to the one that is to blame."""
        if not changes:
            return
        try:
            self.engine.upsert(self._table(changes))
        except DataError as error:
            self.engine.count()  # raises, if it is the engine that is gone
            if len(changes) == 1:
                problems.add("product that the engine refuses (left out)", f"{changes[0].where}: {one_line(error)}")
                return
            for half in (changes[: len(changes) // 2], changes[len(changes) // 2 :]):
                self._upsert(half, problems)

    def _table(self, changes: list[Change]) -> pa.Table:
        table = pa.Table.from_pylist([change.row for change in changes], schema=pa.schema(self.columns))
        vectors = [self._vectors[change.row["_id"]] if change.vector is None else change.vector for change in changes]
        flat = pa.array(np.stack(vectors).astype(np.float32).ravel())
        return table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, self.dim))
