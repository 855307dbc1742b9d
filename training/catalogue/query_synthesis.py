"""Words queries from titles and brands, for shops without a search log; no model is needed.

A query is made of words that a product's own text holds, in the order in which shoppers put them: kind alone, brand
and kind, a word or two of the title and kind, or category and brand. Every product of the split whose text holds all
of a query's words is relevant to it (score 1), the one that it was made of most (score 2). Such queries teach what
products are called, not what shoppers want; none is made for a test split.
"""

import hashlib
import random
import re
from collections import defaultdict

WORD = re.compile(r"[^\W\d_][\w'-]*")
# what follows these is no kind: `mug with lid`, `dress for girls`, `shirt in cotton`
CUT = re.compile(r"[,;:|(/]|\s[-–—]\s|\b(?:with|for|in|of|and|by|from|mit|für|avec|pour|con|para)\b", re.IGNORECASE)
MOST_RELEVANT = 100  # a query that fits more products than this says nothing


def synthesise(products: list[dict], per_product: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Words queries for the products of one split.

    Args:
        products (`list[dict]`): corpus rows.
        per_product (`int`): most queries of a product.
        seed (`int`): seed of the choice.

    Returns:
        Rows of `queries` and of `qrels`, in the retrieval layout.
    """
    texts = [_words(" ".join(str(row.get(name) or "") for name in ("title", "brand", "category"))) for row in products]
    holders = defaultdict(set)
    for number, words in enumerate(texts):
        for word in words:
            holders[word].add(number)
    made: dict[tuple[str, ...], list[int]] = defaultdict(list)
    spelled: dict[tuple[str, ...], str] = {}
    for number, row in enumerate(products):
        candidates = list(dict.fromkeys(_wordings(row)))
        random.Random(f"{seed} {row['_id']}").shuffle(candidates)
        for query in candidates[:per_product]:
            key = tuple(sorted(_words(query)))
            if key and 0 < len(set.intersection(*(holders[word] for word in key))) <= MOST_RELEVANT:
                made[key].append(number)
                spelled.setdefault(key, query)
    queries, qrels = [], []
    for key, sources in sorted(made.items()):
        query_id = f"synthetic-{hashlib.sha256(' '.join(key).encode()).hexdigest()[:16]}"
        queries.append({"_id": query_id, "text": spelled[key], "slice": "", "novel": False, "attributes": ""})
        for number in sorted(set.intersection(*(holders[word] for word in key))):
            score = 2 if number in sources else 1
            qrels.append({"query-id": query_id, "corpus-id": products[number]["_id"], "score": score})
    return queries, qrels


def _words(text: str) -> set[str]:
    return {word.casefold() for word in WORD.findall(text)}


def _wordings(row: dict) -> list[str]:
    """Queries that a shopper who looks for the product might type."""
    title, brand, category = (str(row.get(name) or "").strip() for name in ("title", "brand", "category"))
    words = WORD.findall(CUT.split(title, maxsplit=1)[0]) or WORD.findall(title)
    words = [word for word in words if word.casefold() not in _words(brand)]
    if not words:
        return [text for text in (f"{brand} {category}".strip().lower(),) if text]
    kind, rest = words[-1], words[:-1]
    found = [" ".join(words), kind]
    found += [f"{word} {kind}" for word in rest]
    if len(words) > 2:
        found += [" ".join(words[-2:]), f"{words[0]} {' '.join(words[-2:])}"]
    if brand:
        found += [f"{brand} {kind}", f"{kind} {brand}"] + [f"{brand} {word} {kind}" for word in rest[:1]]
        found += [f"{brand} {category}"] if category else []
    return [" ".join(query.lower().split()) for query in found]
