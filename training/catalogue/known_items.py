"""Titles of a split's products, to word queries for known items: which words fit one product alone."""

from collections import defaultdict
from collections.abc import Iterator
from random import Random

from training.catalogue.layout import RetrievalSplit
from training.catalogue.product_facts import plain

FEW, MOST = 2, 8  # words of a query


class Titles:
    """The titles of a split's products; those that differ in letter case and punctuation alone are the same.

    Attributes:
        ids (`list[str]`): each product's id.
        texts (`list[str]`): each product's title in lower case.
    """

    def __init__(self, split: RetrievalSplit):
        titles = split.corpus["title"][:] if "title" in split.corpus.column_names else []
        self.ids = split.product_ids
        self.texts = [" ".join((title or "").casefold().split()) for title in titles]
        self._having: dict[str, set[int]] = defaultdict(set)
        self._copies: dict[str, set[int]] = defaultdict(set)
        for row, text in enumerate(map(plain, self.texts)):
            self._copies[text].add(row)
            for word in text.split():
                self._having[word].add(row)

    def shuffled(self, rng: Random) -> Iterator[tuple[int, str]]:
        """Rows and titles in a random order, each title once."""
        seen = set()
        for row in rng.sample(range(len(self.texts)), len(self.texts)):
            if (text := plain(self.texts[row])) not in seen:
                seen.add(text)
                yield row, self.texts[row]

    def fits_alone(self, text: str, row: int) -> bool:
        """Whether no other title than a row's has all words of a text."""
        words = plain(text).split()
        if not words:
            return False
        return set.intersection(*(self._having[word] for word in words)) == self._copies[plain(self.texts[row])]

    def judgments(self, row: int) -> dict[str, int]:
        """Score 1 for a product and those of the same title."""
        return {self.ids[copy]: 1 for copy in sorted(self._copies[plain(self.texts[row])])}


def some_words(title: str, rng: Random) -> str:
    """Two thirds of a title's words, from two to eight, in another order; `""` if it has but one word."""
    words = plain(title).split()
    if len(words) < FEW:
        return ""
    return " ".join(rng.sample(words, min(MOST, max(FEW, round(len(words) * 2 / 3)))))
