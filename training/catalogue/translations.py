"""Queries in German, French and Spanish, by a table of the field's words: kinds, colours, patterns and materials.

`translations.csv` has a row a term. Words of one meaning are separated by `|`; a noun's gender and number are in
brackets (`fp` is feminine plural), and the masculine and feminine form of an adjective are separated by `/`.
"""

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from training.catalogue.word_forms import singular

LANGUAGES = ("german", "french", "spanish")
FILE = Path(__file__).with_name("translations.csv")
PARTS = ("kind", "looks", "material", "person")  # in the order of a query: `robe noire en coton femme`
MADE_OF = {"german": "", "french": "en ", "spanish": "de "}
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
SKIPPED = frozenset("a an the for with in of from made looking i need where can find".split())
AFTER = ("a ", "con ", "d'", "de ", "en ", "für ", "mit ", "sans ", "sin ", "à ")  # `rojo a rayas`, not `a rayas rojo`
LONGEST = 3  # words of a term


class Term(NamedTuple):
    """A row of the table: what part of a query it is, and how each language calls it."""

    part: str
    words: dict[str, str]


@cache
def terms() -> dict[tuple[str, ...], Term]:
    """The terms by their English words, in the singular and without hyphens."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {
        tuple(map(singular, english.split())): Term(row["part"], {name: row[name] for name in LANGUAGES})
        for row in rows
        for english in row["english"].split("|")
    }


def translate(query: str, language: str) -> str | None:
    """An English query in another language.

    Shops' queries name the kind first there: `kleid schwarz baumwolle damen`, `robe noire en coton femme`, `vestido
    negro de algodón mujer`. Nouns are in the singular; French and Spanish adjectives agree with the kind.

    Args:
        query (`str`): in English.
        language (`str`): one of `LANGUAGES`.

    Returns:
        `str`: or `None` if a word of the query is not in the table, or not exactly one of its terms is a kind.
    """
    found = _terms_of(query)
    kinds = [term for term in found or () if term.part == "kind"]
    if found is None or len(kinds) != 1:
        return None
    noun, _, gender = kinds[0].words[language].removesuffix(")").partition(" (")
    words = []
    for part in PARTS:
        said = [term.words[language] for term in found if term.part == part]
        if part == "kind":
            words.append(noun)
        elif part == "material":
            words += [MADE_OF[language] + word for word in said]
        else:
            words += [_agree(word, gender) for word in sorted(said, key=lambda word: word.startswith(AFTER))]
    return " ".join(words)


def _terms_of(query: str) -> list[Term] | None:
    """The terms of a query, each as long as possible; `None` if a word is in no term."""
    words, found = [word for word in WORD.findall(query.lower()) if word not in SKIPPED], []
    while words:
        for length in range(min(LONGEST, len(words)), 0, -1):
            if term := terms().get(tuple(map(singular, words[:length]))):
                break
        else:
            return None
        found.append(term)
        words = words[length:]
    return found


def _agree(adjective: str, gender: str) -> str:
    masculine, _, feminine = adjective.partition("/")
    if not feminine or gender in ("", "m"):
        return masculine
    return f"{feminine}s" if gender == "fp" else feminine
