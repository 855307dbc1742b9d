"""`ShardedIndex`: one index in several parts, which lie in this process or on other hosts.

    python -m training.index --vectors runs/myshop/vectors --shards 4
    python -m modeling_mmfusion.serve --shard runs/myshop/index/shard-0-of-4 --port 8001     # and so on, on any host

A search asks all shards at the same time for their candidates, merges them and fetches the products that are left
from the shards that have them. What it finds is what one index of all products would have found, as far as graphs find
all that there is: filters are read, and words counted, as the whole catalogue has it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import DataError, ProductIndexError
from .index import (
    HYBRID_DEPTH,
    NO_WORDS,
    ProductIndex,
    SearchResult,
    check_at_least,
    check_queries,
    check_texts,
    check_where,
    unit_queries,
)
from .index_filters import NO_READINGS, Readings
from .index_shards import Candidates, ShardFacts, check_together, merge, shard_folders
from .queries_mmfusion import MMFusionQueryReader
from .shard_client import RemoteShard, ShardChanged, is_address
from .spelling_mmfusion import join_words

ATTEMPTS = 3  # of a search during which shards are saved anew
T = TypeVar("T")


class ShardedIndex:
    """One index in several shards; searched as [`ProductIndex`] is. It is a view: `training.index --sync` changes it.

    A shard that does not answer, or is of another state of the catalogue than the others, fails the search; there are
    no answers with a part of the products.

    Args:
        shards (`Sequence[ProductIndex | RemoteShard]`): all of them, in order of their numbers.
        folder (`Path`, *optional*): that they lie in.

    Raises:
        ProductIndexError: if they are not all shards of one catalogue in one state.

    Example:

    ```python
    >>> index = ShardedIndex.open("http://one:8001,http://two:8001")
    >>> Searcher("runs/myshop", index=index).search("green striped mug", k=3)
    ```
    """

    def __init__(self, shards: Sequence[ProductIndex | RemoteShard], folder: Path | None = None):
        if not shards:
            raise ProductIndexError("a sharded index needs a shard at least")
        self.shards = list(shards)
        self.folder = folder
        self.facts = check_shards(self.shards)
        self._threads = ThreadPoolExecutor(len(self.shards), "shards") if self.has_hosts else None
        self._readings: dict[str, Readings] = {}

    @classmethod
    def open(cls, place: str | os.PathLike) -> "ShardedIndex":
        """Opens a folder of shards, or shards by the addresses of their services or their folders.

        Args:
            place (`str`): such as `runs/myshop/index` or `http://one:8001,http://two:8001`, in order of their numbers.

        Raises:
            DataError: if one is missing or can't be reached, or they don't belong together.
        """
        places = str(place).split(",")
        if len(places) == 1 and not is_address(places[0]):
            if not (folders := shard_folders(Path(place))):
                raise ProductIndexError(f"{place}: holds no shards; build them with training.index --shards")
            return cls([ProductIndex.load(one, view=True) for one in folders], Path(place).resolve())
        if not all(map(str.strip, places)):
            raise DataError(f"an address of {len(places)} shards is empty; give all of them with a comma between")
        return cls([open_shard(one.strip()) for one in places])

    def __len__(self) -> int:
        return sum(one.count for one in self.facts)

    @property
    def has_hosts(self) -> bool:
        """Whether a shard is asked over HTTP."""
        return any(isinstance(one, RemoteShard) for one in self.shards)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.facts[0].dim

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the vectors' blocks by name, in their order."""
        return dict(self.facts[0].blocks)

    @property
    def model(self) -> str:
        """Fingerprint of the model that made the vectors."""
        return self.facts[0].model

    @property
    def hybrid(self) -> bool:
        """Whether searches take `texts`."""
        return self.facts[0].hybrid

    @property
    def width(self) -> int:
        """The widest of the shards' searches; one that is set holds for each. See [`ProductIndex.width`]."""
        return max(shard.width for shard in self._local("width"))

    @width.setter
    def width(self, width: int) -> None:
        for shard in self._local("width"):
            shard.width = width

    def _local(self, what: str) -> list[ProductIndex]:
        if hosts := [name_of(one) for one in self.shards if isinstance(one, RemoteShard)]:
            raise ProductIndexError(f"{hosts[0]}: {what} of a shard on a host is that which its index was built with")
        return [one for one in self.shards if isinstance(one, ProductIndex)]

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
        threads: int = 1,
    ) -> list[list[SearchResult]]:
        """The best products for each query, best first; see [`ProductIndex.search`].

        Raises:
            DataError: as there, and if a shard does not answer.
        """
        queries = check_queries(queries, self.dim)
        check_at_least(k, "k", 1)
        check_where(where)
        if texts is not None and not self.hybrid:
            raise ProductIndexError(NO_WORDS)
        check_texts(texts, len(queries))
        unit, lengths = unit_queries(queries)
        return (
            self._settled(lambda: self._search(queries, unit, lengths, k, where or {}, texts)) if len(queries) else []
        )

    def _search(
        self,
        queries: np.ndarray,
        unit: np.ndarray,
        lengths: np.ndarray,
        k: int,
        where: Mapping[str, Any],
        texts: Sequence[str] | None,
    ) -> list[list[SearchResult]]:
        shards, readings = self.shards, self._read(where)
        answers = self._each(shards, lambda shard, _: shard.search_shard(unit, k, where, texts, readings))
        merged = [merge(answer, k, max(k, HYBRID_DEPTH)) for answer in zip(*answers, strict=True)]

        def fetch(shard: ProductIndex | RemoteShard, number: int) -> list[list[SearchResult]]:
            found = [
                found_of(one.take(np.flatnonzero(owners == number)), length)
                for (owners, one), length in zip(merged, lengths, strict=True)
            ]
            return shard.results(queries, found) if any(len(rows) for rows, _, _ in found) else [[]] * len(found)

        fetched = self._each(shards, fetch)
        parts = [[iter(one) for one in parts] for parts in zip(*fetched, strict=True)]
        return [[next(part[owner]) for owner in owners] for part, (owners, _) in zip(parts, merged, strict=True)]

    def unknown_values(self, where: Mapping[str, Any]) -> list[str]:
        """A sentence for each value of a filter that no product of any shard has; see
        [`ProductIndex.unknown_values`]."""
        return self._settled(lambda: self._unknown_values(where))

    def _unknown_values(self, where: Mapping[str, Any]) -> list[str]:
        readings = self._read(where)
        unknown = self._each(self.shards, lambda shard, _: shard.unknown(where, readings))
        everywhere = [key for key in unknown[0] if all(key in one for one in unknown)]
        return [str(reduce(add, (one[key] for one in unknown))) for key in everywhere]

    def _read(self, where: Mapping[str, Any]) -> Readings:
        """How the whole catalogue's columns are read for a filter; kept, as it takes a look at all products."""
        if not where:
            return NO_READINGS
        key = repr(sorted(where.items(), key=str))
        if key not in self._readings:
            parts = self._each(self.shards, lambda shard, _: shard.readings(where))
            if len(self._readings) >= MOST_READINGS:
                self._readings.clear()
            self._readings[key] = {name: reduce(add, (part[name] for part in parts)) for name in parts[0]}
        return self._readings[key]

    def _each(
        self, shards: Sequence[ProductIndex | RemoteShard], ask: Callable[[ProductIndex | RemoteShard, int], T]
    ) -> list[T]:
        """What each shard says; hosts are asked at the same time."""
        numbers = range(len(shards))
        return list(self._threads.map(ask, shards, numbers) if self._threads else map(ask, shards, numbers))

    def _settled(self, ask: Callable[[], T]) -> T:
        """What shards say that all are of one state; they are asked again where one was saved anew meanwhile."""
        for _ in range(ATTEMPTS):
            try:
                return ask()
            except ShardChanged as error:
                changed = error
                self.refresh()
        raise changed

    def teach(self, processor: MMFusionQueryReader) -> None:
        """Tells a processor how all products' texts spell their words; see [`ProductIndex.teach`]."""
        if self.hybrid:
            processor.spelling_words = join_words(self.facts[0].spelling, processor.spelling_words)

    def check_model(
        self, model: str, blocks: Mapping[str, int] | None = None, name: str | os.PathLike = "the queries'"
    ) -> None:
        """Refuses a model whose queries don't fit; see [`ProductIndex.check_model`]."""
        where = self.folder or name_of(self.shards[0])
        if model != self.model:
            raise ProductIndexError(
                f"{where}: was built with another model ({self.model or 'unknown'}) than {name} ({model}); "
                "embed the products with this model and index them again"
            )
        if blocks is not None and self.blocks and list(blocks.items()) != list(self.blocks.items()):
            raise ProductIndexError(f"{where}: its vectors have the blocks {self.blocks}, the queries' {dict(blocks)}")

    def newest(self) -> "ShardedIndex":
        """The shards as they are now, opened as these were; this index if none is newer.

        Raises:
            DataError: if one can't be reached or is damaged, or they are of several states, as while they are saved.
        """
        shards = [shard.newest() for shard in self.shards]
        if all(new is old for new, old in zip(shards, self.shards, strict=True)):
            return self
        return ShardedIndex(shards, self.folder)

    def refresh(self) -> bool:
        """Takes over what was saved of the shards since; whether there was anything.

        Raises:
            DataError: as [`~ShardedIndex.newest`]; the ones that are open stay.
        """
        newest = self.newest()
        if newest is self:
            return False
        self.__dict__.update(newest.__dict__)
        return True


MOST_READINGS = 256  # filters


def found_of(some: Candidates, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, and scores with a query of its own length."""
    return some.rows, some.sums * length, None if some.words is None else some.words * length


def open_index(place: str | os.PathLike) -> ProductIndex | ShardedIndex:
    """An index as it lies there: in one folder, in shards in a folder, or in shards on hosts.

    Args:
        place (`str`): a folder; or addresses or folders of all shards with commas between.

    Raises:
        DataError: if it is none, or can't be opened.
    """
    is_one = "," not in str(place) and not is_address(str(place))
    if is_one and not shard_folders(Path(place)):
        return ProductIndex.load(place, view=True)
    return ShardedIndex.open(place)


def open_shard(place: str) -> ProductIndex | RemoteShard:
    """A shard by its address or folder.

    Raises:
        DataError: if it can't be opened.
    """
    return RemoteShard(place) if is_address(place) else ProductIndex.load(place, view=True)


def name_of(shard: ProductIndex | RemoteShard) -> str:
    """What to call a shard in messages."""
    if isinstance(shard, RemoteShard):
        return shard.name
    return str(shard.folder or shard.shard or "an index")


def check_shards(shards: Sequence[ProductIndex | RemoteShard]) -> list[ShardFacts]:
    """What each shard tells of itself, if they are all of one catalogue in one state; see [`check_together`]."""
    facts = [shard.facts for shard in shards]
    check_together([name_of(shard) for shard in shards], facts)
    return facts


__all__ = ["ShardedIndex", "open_index"]
