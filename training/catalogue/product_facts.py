"""What is known of each product of a split: its kind, and the values of its attributes.

A catalogue's corpus often lacks the attributes by which its queries were judged. Judgments tell them: a query that
asks for `{"type": "Dress", "color": "Blue"}` says so of each product of its highest score. Besides them count the
corpus' own columns, and its column `attributes`.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass

from training.catalogue.layout import RetrievalSplit, rows_of
from training.catalogue.units import MEASURE
from training.catalogue.word_forms import singular

KIND = "type"  # what queries' `attributes` call a product's kind
ATTRIBUTES = {"color": "colour", "colour": "colour", "pattern": "pattern", "material": "material", "brand": "brand"}
LEVELS = re.compile(r"\s*[>|]\s*")


@dataclass
class ProductFacts:
    """What is known of products, by their row.

    Attributes:
        kinds (`list[str]`): each product's kind in lower case, `""` if nothing tells it.
        values (`list[dict[str, set[str]]]`): attribute (`colour`, `pattern`, `material`, `brand`) to its values.
        near (`list[dict[str, set[str]]]`): the same for values that it has nearly, such as a neighbouring shade.
    """

    kinds: list[str]
    values: list[dict[str, set[str]]]
    near: list[dict[str, set[str]]]


def product_facts(split: RetrievalSplit) -> ProductFacts:
    """What the judgments and columns of a split tell of its products.

    A product's kind is what its judgments say, else, in catalogues whose judgments tell kinds, the one that its title
    ends with, and in others the last level of its category.
    """
    row_of = {product: row for row, product in enumerate(split.product_ids)}
    facts = ProductFacts([""] * len(row_of), [defaultdict(set) for _ in row_of], [defaultdict(set) for _ in row_of])
    for query in split.queries:
        asked, judged = asked_attributes(query.get("attributes")), split.qrels[query["_id"]]
        best = max(judged.values())
        for row, score in ((row_of[product], score) for product, score in judged.items() if score):
            if score == best and KIND in asked:
                facts.kinds[row] = plain(asked[KIND])
            _note(facts.values[row] if score == best else facts.near[row], asked)
    _add_columns(split, facts)
    return facts


def asked_attributes(text: str | None) -> dict[str, str]:
    """A cell of attributes in JSON as a mapping; empty if it is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def plain(text: str) -> str:
    """A kind or value in lower case, without punctuation but for hyphens and apostrophes: `hair alice band`."""
    return " ".join(re.findall(r"[\w'&-]+", text.casefold()))


def title_kind(title: str, kinds: dict[tuple[str, ...], str]) -> str:
    """The longest of some kinds, by their [`stems`], that a title ends with but for sizes and numbers; else `""`."""
    words = stems(MEASURE.sub(" ", title))
    while words and not words[-1].isalpha():
        words = words[:-1]
    return next((kinds[words[start:]] for start in range(len(words)) if words[start:] in kinds), "")


def stems(text: str) -> tuple[str, ...]:
    """The words of a text in the singular, without hyphens: `T-shirts` is `tshirt`."""
    return tuple(singular(word.replace("-", "")) for word in plain(text).split())


def _note(values: dict[str, set[str]], found: dict[str, str]) -> None:
    for name, value in found.items():
        if (attribute := ATTRIBUTES.get(name.casefold())) and plain(value):
            values[attribute].add(plain(value))


def _add_columns(split: RetrievalSplit, facts: ProductFacts) -> None:
    """Adds what the corpus' columns tell, but for columns that contradict a judgment: those tell something else."""
    named = [name for name in split.corpus.column_names if name.casefold() in ATTRIBUTES]
    others = [name for name in ("title", "category", "attributes") if name in split.corpus.column_names]
    products = list(rows_of(split.corpus, [*named, *others])) if named or others else []
    for name in named:
        found = [{name: str(product[name] or "")} for product in products]
        if not any(_contradicts(values, cell) for values, cell in zip(facts.values, found, strict=True)):
            for values, cell in zip(facts.values, found, strict=True):
                _note(values, cell)
    known = {stems(kind): kind for kind in facts.kinds if kind}
    for row, product in enumerate(products):
        _note(facts.values[row], asked_attributes(product.get("attributes")))
        if not facts.kinds[row] and known:
            facts.kinds[row] = title_kind(str(product.get("title") or ""), known)
        elif not facts.kinds[row]:
            facts.kinds[row] = plain(LEVELS.split(str(product.get("category") or ""))[-1])


def _contradicts(values: dict[str, set[str]], cell: dict[str, str]) -> bool:
    ((name, value),) = cell.items()
    judged = values.get(ATTRIBUTES[name.casefold()])
    return bool(judged and plain(value) and plain(value) not in judged)
