"""Shards of an index: which product is in which, what a shard answers, and how answers become one.

Each query's candidates of all shards are merged to those that one index of all products would have looked at, so what
is found is the same to the last product; see [`merge`]. Ties go to the id that sorts first, in one index as in shards.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ProductIndexError
from .index_graph import in_order
from .index_words import best_rows

FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")
MOST_SHARDS = 1024
Found = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # rows, their scores and the words' part of them


@dataclass(frozen=True)
class Shard:
    """Which part of a catalogue an index holds.

    Attributes:
        number (`int`): from 0.
        of (`int`): how many shards there are.
        catalogue (`str`): digest of the vectors' folder that it was brought up to date with; `""` after other changes,
            from which the other shards know nothing.
    """

    number: int
    of: int
    catalogue: str = ""

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"

    @property
    def folder(self) -> str:
        """The name of its folder, such as `shard-0-of-3`."""
        return f"shard-{self.number}-of-{self.of}"


@dataclass
class Candidates:
    """What an index says of a query: the best products by vectors and, in a hybrid search, by words.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): in the index.
        scores (`np.ndarray` of shape `(n,)`): inner products with the unit query, float32.
        words (`np.ndarray` of shape `(n,)`, *optional*): what matching words add; `None` if the search is not hybrid.
        is_near (`np.ndarray` of shape `(n,)`, *optional*): whether each is one of the best by vectors,
        is_matching (`np.ndarray` of shape `(n,)`, *optional*): or by words.
        ids (`Sequence[str]`, *optional*): the products'; empty within one index, which orders ties by itself.
    """

    rows: np.ndarray
    scores: np.ndarray
    words: np.ndarray | None = None
    is_near: np.ndarray | None = None
    is_matching: np.ndarray | None = None
    ids: Sequence[str] = ()

    def take(self, places: np.ndarray) -> "Candidates":
        """Some of them."""
        parts = (self.words, self.is_near, self.is_matching)
        words, is_near, is_matching = (None if part is None else part[places] for part in parts)
        ids = [self.ids[place] for place in places.tolist()] if self.ids else ()
        return Candidates(self.rows[places], self.scores[places], words, is_near, is_matching, ids)

    @property
    def sums(self) -> np.ndarray:
        """The scores with what words add."""
        return self.scores if self.words is None else self.scores + self.words


@dataclass(frozen=True)
class ShardFacts:
    """What a shard tells of itself.

    Attributes:
        shard (`Shard` or `None`): which it is; `None` of an index of its own.
        model (`str`): fingerprint of the model that made the vectors.
        dim (`int`): length of the vectors.
        blocks (`Mapping[str, int]`): widths of their blocks by name, in order.
        count (`int`): products.
        generation (`int`): of its files.
        hybrid (`bool`): whether its words are indexed.
        spelling (`str`): the catalogue's words, the most frequent first.
    """

    shard: Shard | None
    model: str
    dim: int
    blocks: Mapping[str, int]
    count: int
    generation: int
    hybrid: bool
    spelling: str = field(repr=False)

    @property
    def state(self) -> str:
        """What a question is about: its generation and catalogue."""
        return f"{self.generation}-{self.shard.catalogue if self.shard else ''}"


def merge(answers: Sequence[Candidates], k: int, depth: int) -> tuple[np.ndarray, Candidates]:
    """The best `k` products of all shards for one query, best first.

    Of a hybrid search the best `depth` by vectors and by words of all shards are ranked by the sum of both.

    Args:
        answers (`Sequence[Candidates]`): of each shard, the best `k`, or of a hybrid search the best `depth` by each.
        k (`int`): products.
        depth (`int`): candidates of a hybrid search.

    Returns:
        The shard of each, `(n,)`, and the candidates.
    """
    shards = np.repeat(np.arange(len(answers)), [len(one.rows) for one in answers])
    everything = joined(answers)
    order = np.array(sorted(range(len(shards)), key=everything.ids.__getitem__), dtype=np.int64)
    everything, shards, places = everything.take(order), shards[order], np.arange(len(order))  # by id, as ties go
    if everything.words is None or everything.is_near is None or everything.is_matching is None:
        best = in_order(places, everything.scores, k)
        return shards[best], everything.take(best)
    near, matching = np.flatnonzero(everything.is_near), np.flatnonzero(everything.is_matching)
    near = near[in_order(near, everything.scores[near], depth)]
    matching = best_rows(everything.words, depth, matching) if len(matching) else matching
    both = np.union1d(near, matching)
    best = both[best_rows(everything.sums[both], k)] if len(both) else both
    return shards[best], everything.take(best)


def joined(answers: Sequence[Candidates]) -> Candidates:
    """The candidates of all shards, one after the other."""

    def part(name: str) -> Any:
        values = [getattr(answer, name) for answer in answers]
        return None if values[0] is None else np.concatenate(values)

    ids = [one for answer in answers for one in answer.ids]
    return Candidates(part("rows"), part("scores"), part("words"), part("is_near"), part("is_matching"), ids)


def shard_of(product_id: str, shards: int) -> int:
    """The shard of a product: by its id alone, so that it stays where it is whatever else changes."""
    return int.from_bytes(hashlib.blake2b(product_id.encode(), digest_size=8).digest(), "big") % shards


def check_count(shard: Shard) -> Shard:
    """Refuses more shards than are searched together.

    Raises:
        ProductIndexError: if there are more than 1,024.
    """
    if shard.of > MOST_SHARDS:
        raise ProductIndexError(f"{shard.of} shards are more than {MOST_SHARDS:,}; give fewer")
    return shard


def check_only_shards(folder: Path) -> None:
    """Refuses a folder for shards that holds anything else.

    Raises:
        ProductIndexError: naming the first.
    """
    if not folder.is_dir():
        raise ProductIndexError(f"{folder}: is a file; give a folder for the shards")
    if foreign := sorted(one.name for one in folder.iterdir() if not FOLDER.fullmatch(one.name)):
        raise ProductIndexError(f"{folder}: holds other files ({foreign[0]}); give a folder of its own for the shards")


def shard_names(folder: Path) -> list[Shard]:
    """The shards that a folder holds by the names of its folders, in order; none if it is no sharded index.

    Raises:
        ProductIndexError: if there are those of several numbers of shards.
    """
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    found = [Shard(int(match[1]), int(match[2])) for match in map(FOLDER.fullmatch, names) if match]
    found = sorted(found, key=lambda shard: shard.number)
    counts = sorted({shard.of for shard in found})
    if len(counts) > 1:
        raise ProductIndexError(
            f"{folder}: holds shards of {counts[0]} and of {counts[1]}; delete those of one of them"
        )
    return found


def shard_folders(folder: Path) -> list[Path]:
    """The folders of a sharded index's shards, in order; none if it is no sharded index.

    Raises:
        ProductIndexError: if one is missing, or there are those of several numbers of shards.
    """
    found = shard_names(folder)
    numbers = {shard.number for shard in found}
    if missing := [number for number in range(found[0].of if found else 0) if number not in numbers]:
        shard = Shard(missing[0], found[0].of)
        raise ProductIndexError(
            f"{folder}: {shard.folder} is missing; build it with training.index --shard {shard.number}/{shard.of}"
        )
    return [folder / shard.folder for shard in found]


def check_together(names: Sequence[str], facts: Sequence[ShardFacts]) -> None:
    """Refuses shards that are not all parts of one catalogue in one state.

    Args:
        names (`Sequence[str]`): what to call each in messages.
        facts (`Sequence[ShardFacts]`): what each tells, in order of their numbers.

    Raises:
        ProductIndexError: naming the first that does not fit.
    """
    first = facts[0]
    for number, (name, one) in enumerate(zip(names, facts, strict=True)):
        if one.shard is None:
            raise ProductIndexError(f"{name}: is an index of its own and no shard; build shards with training.index")
        if one.shard.of != len(facts) or one.shard.number != number:
            raise ProductIndexError(f"{name}: is {one.shard}, where shard {number} of {len(facts)} is wanted")
        if one.model != first.model:
            raise ProductIndexError(
                f"{name}: was built with another model ({one.model}) than {names[0]} ({first.model})"
            )
        same = (first.shard and first.shard.catalogue, first.dim, dict(first.blocks), first.hybrid)
        if not one.shard.catalogue or (one.shard.catalogue, one.dim, dict(one.blocks), one.hybrid) != same:
            raise ProductIndexError(
                f"{name}: is of another catalogue than the other shards, or another state of it; bring all shards up "
                "to date with training.index --sync"
            )


__all__ = ["Shard"]
