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
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from training.catalogue.known_items import MOST, Titles, some_words
from training.catalogue.layout import RetrievalSplit
from training.catalogue.product_facts import ProductFacts, product_facts, stems
from training.catalogue.translations import LANGUAGES, translate
from training.catalogue.typos import join_words, misspell, split_word
from training.catalogue.units import respell
from training.catalogue.word_forms import other_number, singular

LISTED, POSITIVE = "units, as listed", "negation, positive part"
LEAST = 2  # products of a kind, and of those with and without what a negation names
SHARE = 0.1  # of a negation's judged products that have what it names: of fewer the best ten have none anyway
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
            as far as these can be had, and the same words are misspelled by one edit and by two.
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
        text = change(query["text"], Random(f"{seed} {query['_id']}"))
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
    titles, rng = Titles(split), Random(f"{seed} title")
    found: list[Styled] = []
    for row, title in titles.shuffled(rng):
        text = some_words(title, rng)
        if len(found) < count and titles.fits_alone(text, row):
            found.append(Styled("title", text, titles.judgments(row), "", _id_of("title", len(found))))
    return found


def unit_queries(split: RetrievalSplit, count: int, seed: int) -> list[Styled]:
    """Known items of titles with sizes and amounts: their first words as listed, and with other spellings of these."""
    titles, rng = Titles(split), Random(f"{seed} units")
    found: list[Styled] = []
    for row, title in titles.shuffled(rng):
        text = " ".join(title.split()[:MOST])
        other = respell(text, rng)
        if len(found) < 2 * count and other != text and titles.fits_alone(text, row):
            found += _pair(LISTED, text, "units", other, titles.judgments(row), len(found) // 2)
    return found


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
        is_told = min(len(having), len(others)) >= LEAST and len(having) >= SHARE * (len(having) + len(others))
        if is_told and len(found) < 2 * count:
            judged = {split.product_ids[row]: 1 for row in others} | {split.product_ids[row]: 0 for row in having}
            found += _pair(POSITIVE, kind, "negation", negated(kind, name, value, rng), judged, len(found) // 2)
    return found


def negated(kind: str, name: str, value: str, rng: Random) -> str:
    """A query for a kind without a value of an attribute, such as `dress without stripes` or `mug not black`."""
    if name == "pattern" and value not in NOUNS:
        return f"{kind} not {value}"
    return rng.choice(NEGATIONS[name]).format(kind, NOUNS.get(value, value) if name == "pattern" else value)


def _is_other(facts: ProductFacts, row: int, name: str, value: str) -> bool:
    known = facts.values[row].get(name, set())
    doubtful = known | facts.near[row].get(name, set())
    return bool(known) and not any(_words(value) & _words(other) for other in doubtful)


def _words(value: str) -> set[str]:
    return set(value.replace("-", " ").split())


def _rows_by_kind(facts: ProductFacts) -> dict[str, list[int]]:
    found = defaultdict(list)
    for row, kind in enumerate(facts.kinds):
        if kind:
            found[kind].append(row)
    return found


def _translated(text: str, rng: Random, language: str) -> str | None:
    return translate(text, language)


def _pair(style: str, text: str, other: str, changed: str, judgments: dict[str, int], number: int) -> list[Styled]:
    """A query that is made, and its change."""
    source = _id_of(style, number)
    return [
        Styled(style, text, judgments, "", source),
        Styled(other, changed, judgments, source, _id_of(other, number)),
    ]


def _id_of(style: str, number: int) -> str:
    return f"styled-{style.replace(', ', '-').replace(' ', '-')}-{number:04d}"
