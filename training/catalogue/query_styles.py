"""Queries in further styles than those of a split: known items, short heads, typing errors, negations and others.

| style | what it is | judged by |
|---|---|---|
| `title` | words of a product's title in another order, some left out | the product, and those of the same title |
| `head` | a kind alone | the kind of the products |
| `typo 1`, `typo 2` | a word or more misspelled by one or two edits | its source |
| `joined`, `split` | a space lost, a space inside a word | its source |
| `plural` | the kind's noun in the other number | its source |
| `units` | sizes and amounts in another spelling | its source |
| `negation` | a kind, but not with a value of an attribute | the products' attributes |
| `german`, `french`, `spanish` | by the table of `translations.py` | its source |

Each query's source is one of the split's, or one that is made with it and judged alike: `negation, positive part` is
the kind without what it shall not be, and `units, as listed` words of a title as they stand, in shops of whose queries
none has a size or an amount.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import NamedTuple

from training.catalogue.layout import RetrievalSplit
from training.catalogue.product_facts import ProductFacts, plain, product_facts, stems
from training.catalogue.translations import LANGUAGES, translate
from training.catalogue.typos import join_words, misspell, split_word
from training.catalogue.units import respell
from training.catalogue.word_forms import other_number, singular

AS_ASKED, LISTED, POSITIVE = "as asked", "units, as listed", "negation, positive part"
FEW, MOST = 2, 8  # words of a known item's query
LEAST = 2  # products of a kind, and of those with and without what a negation names
NOUNS = {  # of patterns, to say `without stripes`
    "checked": "checks",
    "dotted": "dots",
    "embroidered": "embroidery",
    "floral": "flowers",
    "hearts": "hearts",
    "lace": "lace",
    "polka dot": "polka dots",
    "stars": "stars",
    "striped": "stripes",
    "zigzag": "zigzags",
}
NEGATIONS = {
    "colour": ("{} not {}", "{} but not {}", "{} no {}"),
    "pattern": ("{} without {}", "{} with no {}", "{} no {}"),
    "material": ("{} without {}", "{} not made of {}", "{} no {}"),
    "brand": ("{} not by {}", "{} but not {}"),
}


class Styled(NamedTuple):
    """A query of a style.

    Attributes:
        style (`str`): the style's name.
        text (`str`): what is searched for.
        judgments (`dict[str, int]`): product id to score.
        source (`str`): the `_id` of the query that it was made of, `""` if there is none.
        id (`str`): its own `_id`.
    """

    style: str
    text: str
    judgments: dict[str, int]
    source: str
    id: str


def styled_queries(split: RetrievalSplit, count: int, seed: int) -> list[Styled]:
    """Queries of each style for a split, as many as there can be up to `count` a style.

    Args:
        split (`RetrievalSplit`): products, queries and judgments.
        count (`int`): most queries of a style.
        seed (`int`): the same seed makes the same queries; those with a source have the same sources in all styles
            as far as these can be had.
    """
    facts = product_facts(split)
    nouns = {words[-1] for kind in facts.kinds if (words := stems(kind))}
    changes: dict[str, Callable[[str, Random], str | None]] = {
        "typo 1": lambda text, rng: misspell(text, 1, rng),
        "typo 2": lambda text, rng: misspell(text, 2, rng),
        "joined": join_words,
        "split": split_word,
        "plural": lambda text, rng: change_number(text, nouns),
        "units": respell,
    }
    changes |= {name: partial(_translated, language=name) for name in LANGUAGES}
    found = title_queries(split, count, seed) + head_queries(split, facts, count)
    for style, change in changes.items():
        found += changed_queries(split, style, change, count, seed)
    if not any(query.style == "units" for query in found):
        found += unit_queries(split, count, seed)
    return found + negations(split, facts, count, seed)


def changed_queries(
    split: RetrievalSplit, style: str, change: Callable[[str, Random], str | None], count: int, seed: int
) -> list[Styled]:
    """The split's queries that a change leaves not as they are, with their judgments."""
    found: list[Styled] = []
    for query in Random(f"{seed} sources").sample(split.queries, len(split.queries)):
        text = change(query["text"], Random(f"{seed} {style} {query['_id']}"))
        if text and text.casefold() != query["text"].casefold() and len(found) < count:
            found.append(Styled(style, text, split.qrels[query["_id"]], query["_id"], _id_of(style, len(found))))
    return found


def change_number(text: str, nouns: set[str]) -> str:
    """A query with the last word that is one of some `nouns` (singular, without hyphens) in the other number."""
    words = text.split(" ")
    for at in range(len(words) - 1, -1, -1):
        if singular(words[at].casefold().replace("-", "")) in nouns:
            words[at] = other_number(words[at].casefold())
            break
    return " ".join(words)


def title_queries(split: RetrievalSplit, count: int, seed: int) -> list[Styled]:
    """Known items: words of a title that no other title has all of."""
    titles = _Titles(split)
    return [
        Styled("title", text, titles.judgments(row), "", _id_of("title", number))
        for number, (row, text) in zip(range(count), titles.worded(Random(f"{seed} title")), strict=False)
    ]


def unit_queries(split: RetrievalSplit, count: int, seed: int) -> list[Styled]:
    """Known items of titles with sizes and amounts: as they are listed, and in another spelling."""
    titles, rng, found = _Titles(split), Random(f"{seed} units"), []
    for row in rng.sample(range(len(titles.texts)), len(titles.texts)):
        listed = " ".join(titles.texts[row].split()[:MOST])
        if (other := respell(listed, rng)) != listed and len(found) < 2 * count and titles.fits_alone(listed, row):
            source = _id_of(LISTED, len(found) // 2)
            found.append(Styled(LISTED, listed, titles.judgments(row), "", source))
            found.append(Styled("units", other, titles.judgments(row), source, _id_of("units", len(found) // 2)))
    return found


class _Titles:
    """The titles of a split's products, and which of them have a word."""

    def __init__(self, split: RetrievalSplit):
        has_titles = "title" in split.corpus.column_names
        self.ids = split.product_ids
        self.texts = (
            [" ".join((title or "").casefold().split()) for title in split.corpus["title"][:]] if has_titles else []
        )
        self.rows_of: dict[str, set[int]] = defaultdict(set)
        for row, text in enumerate(self.texts):
            for word in plain(text).split():
                self.rows_of[word].add(row)

    def worded(self, rng: Random) -> Iterator[tuple[int, str]]:
        """Rows of products in a random order, and some of their titles' words: two thirds, from two to eight."""
        seen = set()
        for row in rng.sample(range(len(self.texts)), len(self.texts)):
            words = plain(self.texts[row]).split()
            text = " ".join(rng.sample(words, min(MOST, max(FEW, round(len(words) * 2 / 3)), len(words))))
            if len(words) >= FEW and self.texts[row] not in seen and self.fits_alone(text, row):
                seen.add(self.texts[row])
                yield row, text

    def copies(self, row: int) -> set[int]:
        """The products of the same title."""
        words = plain(self.texts[row]).split()
        return {other for other in set.intersection(*(self.rows_of[word] for word in words)) if self._same(row, other)}

    def fits_alone(self, text: str, row: int) -> bool:
        """Whether no product but those of the same title has all words of a text in its own."""
        words = plain(text).split()
        return bool(words) and set.intersection(*(self.rows_of[word] for word in words)) == self.copies(row)

    def judgments(self, row: int) -> dict[str, int]:
        """The product and its copies."""
        return {self.ids[copy]: 1 for copy in sorted(self.copies(row))}

    def _same(self, row: int, other: int) -> bool:
        return self.texts[row] == self.texts[other]


def head_queries(split: RetrievalSplit, facts: ProductFacts, count: int) -> list[Styled]:
    """Kinds alone, those of most products first."""
    rows = _rows_by_kind(facts)
    kinds = sorted((kind for kind in rows if len(rows[kind]) >= LEAST), key=lambda kind: -len(rows[kind]))
    return [
        Styled("head", kind, {split.product_ids[row]: 1 for row in rows[kind]}, "", _id_of("head", number))
        for number, kind in enumerate(kinds[:count])
    ]


def negations(split: RetrievalSplit, facts: ProductFacts, count: int, seed: int) -> list[Styled]:
    """Kinds without a value, and beside each the kind alone.

    Relevant are products of the kind that are known to have another value; those with the value score 0. Products
    whose value nobody knows, is nearly the one or shares a word with it (`dark blue`, `blue`) are not judged.
    """
    rng, choices = Random(f"{seed} negation"), []
    for kind, rows in sorted(_rows_by_kind(facts).items()):
        for name in NEGATIONS:
            values = sorted(set().union(*(facts.values[row].get(name, set()) for row in rows)))
            choices += [(kind, rows, name, value) for value in values]
    found: list[Styled] = []
    for kind, rows, name, value in rng.sample(choices, len(choices)):
        having = [row for row in rows if value in facts.values[row].get(name, ())]
        others = [row for row in rows if _is_other(facts, row, name, value)]
        if len(having) >= LEAST and len(others) >= LEAST and len(found) < 2 * count:
            judged = {split.product_ids[row]: 1 for row in others} | {split.product_ids[row]: 0 for row in having}
            source, number = _id_of(POSITIVE, len(found) // 2), len(found) // 2
            found.append(Styled(POSITIVE, kind, judged, "", source))
            found.append(
                Styled("negation", negated(kind, name, value, rng), judged, source, _id_of("negation", number))
            )
    return found


def negated(kind: str, name: str, value: str, rng: Random) -> str:
    """A query for a kind without a value of an attribute, such as `dress without stripes` or `mug not black`."""
    if name == "pattern" and value not in NOUNS:
        return f"{kind} not {value}"
    return rng.choice(NEGATIONS[name]).format(kind, NOUNS.get(value, value) if name == "pattern" else value)


def _is_other(facts: ProductFacts, row: int, name: str, value: str) -> bool:
    known = facts.values[row].get(name, set())
    doubtful = known | facts.near[row].get(name, set())
    return bool(known) and not any(set(value.split()) & set(other.replace("-", " ").split()) for other in doubtful)


def _rows_by_kind(facts: ProductFacts) -> dict[str, list[int]]:
    found = defaultdict(list)
    for row, kind in enumerate(facts.kinds):
        if kind:
            found[kind].append(row)
    return found


def _translated(text: str, rng: Random, language: str) -> str | None:
    return translate(text, language)


def _id_of(style: str, number: int) -> str:
    return f"styled-{style.replace(', ', '-').replace(' ', '-')}-{number:04d}"
