"""Lines of a stream of events to changes of products: read, checked, embedded where they have to be, and written."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.processing_mmfusion import pictures_of
from modeling_mmfusion.service_towers import MAX_PICTURES, read_address
from training.catalogue.event_files import Line
from training.catalogue.events import Event, Unusable, as_stored, read_event
from training.catalogue.pictures import path_inside
from training.common.errors import Problems
from training.features.contents import KnownContents
from training.features.embedder import UNREADABLE, ProductEmbedder, content_hash
from training.features.product_columns import picture_name
from training.features.windows import ProductInputs
from training.scale.targets import Change, EngineTarget, IndexTarget

PICTURES = "image"
CHANGING = ("price", "currency", "in_stock")  # whatever a product's text is made of
PICTURE_BYTES = 2**26


@dataclass
class Draft:
    """A product while the events of a batch are applied to it.

    Attributes:
        row (`dict`, *optional*): its columns; `None` once it is deleted.
        product (`dict`, *optional*): all fields of the newest upsert, pictures included; `None` if there is none.
        where (`str`): file and line of the last event.
    """

    row: dict[str, Any] | None
    product: dict[str, Any] | None
    where: str


class ChangeApplier:
    """Applies events to a target, batch by batch.

    Events of a product count in their order: the last upsert, and what came after it. A product is embedded where its
    text or pictures are others than those that its vector was made of; see [`KnownContents`].

    Args:
        embedder (`ProductEmbedder`): of the model that made the target's vectors.
        target (`IndexTarget` or `EngineTarget`): where to apply them.
        contents (`KnownContents`): what the vectors were made of.
        images (`Path`): folder that pictures' paths are relative to; others are not read.

    Attributes:
        counts (`Counter`): events that were applied, by type.
        embedded (`int`): products that were embedded.
        left_out (`list[tuple[str, str]]`): place and reason of each event that was not applied; whoever has kept them
            empties it.
        problems (`Problems`): the same, counted, and what else is odd.
    """

    def __init__(
        self,
        embedder: ProductEmbedder,
        target: IndexTarget | EngineTarget,
        contents: KnownContents,
        images: Path,
        problems: Problems,
    ):
        self.embedder, self.target, self.contents = embedder, target, contents
        self.images = str(images.resolve())
        self.counts: Counter[str] = Counter()
        self.embedded = 0
        self.left_out: list[tuple[str, str]] = []
        self.problems = problems
        fields = embedder.processor.product_fields
        self.of_vector = {"text", PICTURES, *fields}.difference(CHANGING)

    def apply(self, lines: Iterable[Line], position: str) -> None:
        """Applies the events of some lines, and writes the position behind them.

        Raises:
            DataError: if the target can't be written, or the model is damaged.
        """
        events: list[Event] = []
        for line in lines:
            with self._leaving_out(line.where):
                events.append(read_event(line.content, line.where))
        before = self.target.read(list(dict.fromkeys(event.product_id for event in events)))
        drafts: dict[str, Draft] = {}
        for event in events:
            with self._leaving_out(event.where):
                self._draft(event, drafts, before)
                self.counts[event.type] += 1
        gone = [one for one, draft in drafts.items() if draft.row is None and one in before]
        changes = self._changes({one: draft for one, draft in drafts.items() if draft.row is not None}, before)
        self.target.write(gone, changes, position, self.problems)
        self.contents.forget(gone)

    @contextmanager
    def _leaving_out(self, where: str) -> Iterator[None]:
        """Counts an event that can't be used."""
        try:
            yield
        except Unusable as fault:
            self.left_out.append((where, str(fault)))
            self.problems.add(f"{fault} (left out)", where)

    def _draft(self, event: Event, drafts: dict[str, Draft], before: dict[str, dict]) -> None:
        """Applies an event to its product's draft."""
        one, found = event.product_id, drafts.get(event.product_id)
        row = before.get(one) if found is None else found.row
        if event.type == "upsert":
            row = dict.fromkeys(self.target.columns) | {"_id": one} | self._stored(event)
            drafts[one] = Draft(row, event.columns, event.where)
        elif row is None:
            raise Unusable(f"{event.type} of a product that there is not")
        elif event.type == "delete":
            drafts[one] = Draft(None, None, event.where)
        else:
            if made_of := sorted(self.of_vector.intersection(event.columns)):
                raise Unusable(f"{event.type} of {made_of[0]}, of which the vector is made: send an upsert")
            if not (changed := self._stored(event)):
                raise Unusable(f"{event.type} of columns that the products don't have")
            drafts[one] = Draft({**row, **changed}, found and found.product, event.where)

    def _stored(self, event: Event) -> dict[str, Any]:
        """The columns of an event that products have, as they are stored."""
        stored = {}
        for name, value in event.columns.items():
            if name not in self.target.columns or name == "_id":
                if name != PICTURES:
                    self.problems.add(f"field {name[:40]!r} that products have no column for (not kept)", event.where)
                continue
            if name == PICTURES:  # a name, and never the picture itself
                value = picture_name(value)
            try:
                stored[name] = as_stored(value, self.target.columns[name])
            except Unusable as fault:
                raise Unusable(f"{name}: {fault}") from None
        return stored

    def _changes(self, drafts: dict[str, Draft], before: dict[str, dict]) -> list[Change]:
        """The products that are not as they were, with the vectors of those whose content is another."""
        inputs = {one: self._inputs(draft) for one, draft in drafts.items() if draft.product is not None}
        hashes = {one: content_hash(product) for one, product in inputs.items()}
        known = [one for one in inputs if one in before]
        stored = dict(zip(known, self.target.vectors(known), strict=True))
        new = [one for one in inputs if one not in stored or (one, hashes[one], stored[one]) not in self.contents]
        vectors, unreadable = self.embedder.embed([inputs[one] for one in new])
        for place, reason in sorted(unreadable.items()):
            self.problems.add(UNREADABLE, f"{drafts[new[place]].where}: {reason}")
        self.embedded += len(new)
        made = dict(zip(new, vectors, strict=True))
        for one, vector in made.items():
            self.contents.add(one, hashes[one], vector)
        made = {one: vector for one, vector in made.items() if one not in stored or (vector != stored[one]).any()}
        changes = [Change(draft.row, made.get(one), before.get(one), draft.where) for one, draft in drafts.items()]
        return [change for change in changes if change.vector is not None or change.row != change.before]

    def _inputs(self, draft: Draft) -> ProductInputs:
        """A product as the tower takes it; pictures that can't be read are counted."""
        kept = {
            name: draft.row[name]
            for name, value in draft.product.items()
            if name in draft.row and not isinstance(value, list | dict)
        }
        text = self.embedder.processor.product_text(draft.product | kept)
        addresses, pictures = pictures_of(draft.product.get(PICTURES)), []
        if len(addresses) > MAX_PICTURES:
            self.problems.add(f"product with more than {MAX_PICTURES} pictures (the first are used)", draft.where)
        for address in addresses[:MAX_PICTURES]:
            try:
                pictures.append(self._picture(address))
            except (DataError, OSError, ValueError) as error:
                self.problems.add(UNREADABLE, f"{draft.where}: {error}")
        return ProductInputs(text, pictures)

    def _picture(self, address: Any) -> bytes:
        """The bytes of a picture that an event names or brings."""
        if isinstance(address, str) and address.startswith("data:"):
            return read_address(address)
        if not isinstance(address, str) or "://" in address[:16]:
            raise DataError(f"a picture is a path or a data URL, not {str(address)[:80]}")
        if (path := path_inside(self.images, address)) is None:
            raise DataError(f"{address[:200]}: is not in {self.images}, where pictures are")
        if not os.path.isfile(path) or not 0 < os.path.getsize(path) <= PICTURE_BYTES:
            raise DataError(f"{address[:200]}: no such file, or it is empty or has more than {PICTURE_BYTES >> 20} MB")
        return Path(path).read_bytes()
