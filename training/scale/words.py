"""How much of a query's words a product has, for hybrid search in engines that count words: the formula of
[`ProductWords.matches`], of stems that we make and engines keep."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from modeling_mmfusion.index_words import K1, B, split_words

WORD_LETTERS = 100  # of a word; engines cut or refuse longer ones


def words_of(text: str) -> list[str]:
    """The stems of a text's words, as [`ProductWords`] takes them, without what is behind 100 letters."""
    return [word[:WORD_LETTERS] for word in split_words(text, stemmed=True)]


def idf_of(having: int, count: int) -> float:
    """The weight of a word that `having` of `count` products with words have."""
    return math.log1p((count - having + 0.5) / (having + 0.5))


def matches(words: Sequence[str], product: Sequence[str], idf: Mapping[str, float], length: float) -> float:
    """How much of a query's words a product has, from 0 to below 1.

    Args:
        words (`Sequence[str]`): the query's,
        product (`Sequence[str]`): and the product's; see [`words_of`].
        idf (`Mapping[str, float]`): [`idf_of`] each word of the query.
        length (`float`): the mean number of a product's words.
    """
    counts, norm = Counter(product), K1 * (1 - B + B * len(product) / length)
    total = sum(idf[word] for word in words)
    shared = [word for word in words if counts[word]]
    score = sum(idf[word] * counts[word] / (norm + counts[word]) for word in shared)
    return score * sum(idf[word] for word in shared) ** 3 / max(total, 1e-9) ** 4
