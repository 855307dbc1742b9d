"""Why a product was found, and why text alone misses it, in words: what a query says and the listing doesn't."""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from catalogue import Catalogue, Found, Hit, Query

LISTING = ("title", "description", "category", "brand")
LITTLE = set("a an and are at by for from in is it of on or the this to with without der die das und mit für".split())
EXAMPLES = 6
EXAMPLE_WORDS = 5
TRIED = 80  # judged queries that are looked at for examples
LISTED = 8
FALLBACK = ("green striped mug", "navy wool scarf", "floral cushion", "red dotted dress")


@dataclass(frozen=True)
class Example:
    """A query to try.

    Attributes:
        text (`str`): the query.
        why (`str`): what makes it hard, such as: listing never says “navy”; may be empty.
    """

    text: str
    why: str = ""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, each once, without little ones."""
    return list(dict.fromkeys(word for word in re.findall(r"\w+", text.lower()) if word not in LITTLE))


def is_said(word: str, listing: list[str]) -> bool:
    """True if a listing has the word, or one that only ends differently."""
    stem = word[:-1] if word.endswith("s") and len(word) > 3 else word
    return any(other == word or (len(stem) > 2 and other.startswith(stem)) for other in listing)


def unsaid(text: str, product: dict) -> list[str]:
    """The words of a query that a product's listing does not say."""
    listing = words_of(" ".join(str(product.get(name) or "") for name in LISTING))
    return [word for word in words_of(text) if not is_said(word, listing)]


def quoted(words: list[str], join: str = "and") -> str:
    """Words in quotes, as a list in a sentence."""
    marked = [f"“{word}”" for word in words]
    return f" {join} ".join([", ".join(marked[:-1]), marked[-1]]) if len(marked) > 1 else "".join(marked)


def missed(catalogue: Catalogue, query: Query, found: dict[str, Found]) -> str:
    """One sentence on what text alone misses of the fused results; empty where there are not both lists."""
    if not {"fused", "text"} <= set(found) or not found["fused"].hits:
        return ""
    listed = {hit.row for hit in found["text"].hits}
    rows = [hit.row for hit in found["fused"].hits if hit.row not in listed]
    if not rows:
        return "Text alone finds the same products."
    sentence = f"Text alone misses {len(rows)} of these {len(found['fused'].hits)}"
    counts = Counter(word for row in rows for word in unsaid(query.text, catalogue.products[row]))
    word, count = counts.most_common(1)[0] if counts else ("", 0)
    if 2 * count <= len(rows):
        return f"{sentence}."
    whose = "the listing" if len(rows) == 1 else "their listings" if count == len(rows) else "most of their listings"
    return f"{sentence}: {whose} never {'says' if len(rows) == 1 else 'say'} “{word}”."


def sentence(catalogue: Catalogue, query: Query, hit: Hit) -> str:
    """Why a product was found, in one sentence: by what its listing says, by what its picture shows, or by both."""
    product, by_picture = catalogue.products[hit.row], hit.ranks["image"] < hit.ranks["text"]
    pictured = bool(catalogue.pictured[hit.row])
    if query.like is not None or query.picture is not None:
        source = "that product" if query.like is not None else "your picture"
        how = f"its picture is like that of {source}" if query.like is not None else "its picture is like yours"
        if not pictured or not by_picture:
            how = f"its listing fits {source}"
        return f"Found because {how}{' and by your words' if query.text else ''}."
    absent = unsaid(query.text, product)
    said = [word for word in words_of(query.text) if word not in absent]
    if pictured and by_picture and absent:
        more = f" It does say {quoted(said)}." if said else ""
        return f"Found by its picture: the listing never says {quoted(absent, 'or')}.{more}"
    if said and absent:
        return f"Found by its listing, which says {quoted(said)}, but never {quoted(absent, 'or')}."
    if said:
        more = ", and its picture fits even better" if pictured and by_picture else ""
        return f"Found by its listing, which says {quoted(said)}{more}."
    return "The listing has none of these words; it is found by their meaning."


def examples(catalogue: Catalogue, values: dict[str, np.ndarray] | None) -> list[Example]:
    """Short queries where fusion gains most over either modality, with why, first those whose reason is in the words.

    Args:
        catalogue (`Catalogue`): with judged queries or without; then there are general examples.
        values (`dict[str, np.ndarray]` or `None`): each view's nDCG@10 of the judged queries `(Q,)`.

    Of queries that end in the same word one is taken.
    """
    if values is None:
        return [Example(text) for text in FALLBACK]
    gains = np.round(values["fused"] - np.maximum(values["text"], values["image"]), 6)
    texts = catalogue.judged_texts
    rows = [row for row in np.argsort(-gains, kind="stable") if len(texts[row].split()) <= EXAMPLE_WORDS][:TRIED]
    plain: dict[str, Example] = {}
    clear: dict[str, Example] = {}
    for row in rows:
        text = " ".join(texts[row].split())
        plain.setdefault(text.split()[-1], Example(text))
        if len(clear) < EXAMPLES and (why := _unsaid_by_the_found(catalogue, text, catalogue.judged_vectors[row])):
            clear.setdefault(text.split()[-1], Example(text, why))
    return list((clear | {end: one for end, one in plain.items() if end not in clear}).values())[:EXAMPLES] or [
        Example(text) for text in FALLBACK
    ]


def _unsaid_by_the_found(catalogue: Catalogue, text: str, vector: np.ndarray) -> str:
    """What the listings never say of those right products that fusion lists and text alone does not."""
    found = catalogue.search(catalogue.encoder.query_from(vector, text=text), k=LISTED, views=("fused",))["fused"]
    hits = [hit for hit in found.hits if (hit.grade or 0) >= catalogue.right and hit.ranks["text"] > LISTED]
    common = [set(unsaid(text, catalogue.products[hit.row])) for hit in hits]
    words = [word for word in words_of(text) if common and all(word in absent for absent in common)]
    if not words:
        return ""
    return f"listing{'s' if len(hits) > 1 else ''} never say{'s' if len(hits) == 1 else ''} “{words[0]}”"
