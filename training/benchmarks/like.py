"""Measures queries of a picture and words, "like this, but in red": is the first product of the right kind and colour?

    python -m training.benchmarks.like      # the quickstart's model on the demo shop
    python -m training.benchmarks.like --model runs/hm/model --data data/hm --output runs/like_hm.json

Triples are drawn from the catalogue's own judged queries, whose `attributes` tell what they ask for. Of those that ask
for a kind and one attribute ("red mug"), one is drawn; the source is a product with a picture that is relevant to a
query for the same kind with another value ("blue mug"); the words are the value alone, worded in one of some ways; the
right answers are what is highly relevant to the query that was drawn. The source itself is left out of the results.

`composed` is `model.compose_queries`, `mean` the plain weighted mean of both vectors, `words` the words without the
picture and `query` the whole query in words. The first half of the triples may choose settings; the second tells how
good they are.
"""

from training.benchmarks.options import LikeBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.like", LikeBenchArguments, __doc__)

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_words import best_rows
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.encoder import Encoder

KIND = "type"
WAYS = ("{}", "in {}", "but {}", "but in {}")
DEPTH = 4
HALVES = ("first half", "second half")


@dataclass
class Triple:
    """A product, what should be different, and what is right.

    Attributes:
        source (`int`): the product's row in the corpus.
        words (`str`): such as "but in red".
        query (`str`): the whole query in words, such as "red mug".
        right (`set[int]`): rows of the right answers; at least one.
    """

    source: int
    words: str
    query: str
    right: set[int]


def main(arguments: LikeBenchArguments) -> dict[str, Any]:
    """Measures, prints the table, writes the report and returns it."""
    check_output_file(arguments.output, ".json")
    split = load_split(arguments.data, arguments.split)
    triples = drawn(split, arguments.attributes, arguments.triples, arguments.seed)
    encoder = Encoder.load(arguments.model)
    vectors, pictures = (encoder.embed_products(split, view) for view in ("fused", "image"))
    like, figures = pictures[[triple.source for triple in triples]], {}
    for name, queries in systems(encoder, triples, like, arguments.weights).items():
        hits = np.array(measured(triples, queries, vectors))
        figures[name] = {"rank 1": shares(hits == 0), "top 4": shares(hits < DEPTH)}
    split.problems.report()
    facts = {"model": arguments.model, "data": split.name, "products": len(vectors), "triples": len(triples)}
    facts |= {"queries": len({triple.query for triple in triples})}
    report = facts | {"figures": figures, "environment": environment()}
    write_json(Path(arguments.output), report)
    print(format_like(report), flush=True)
    return report


def drawn(split: RetrievalSplit, attributes: list[str], count: int, seed: int) -> list[Triple]:
    """Triples of a split; see the module.

    Raises:
        DataError: if no two queries ask for one kind with two values of one of the attributes.
    """
    row_of = {product: row for row, product in enumerate(split.product_ids)}
    pictured = {row for row, digest in enumerate(split.picture_digests) if digest}
    asked: dict[tuple[str, str], dict[str, tuple[str, set[int]]]] = {}
    for query in split.queries:
        told = json.loads(query.get("attributes") or "{}")
        names = [name for name in told if name in attributes]
        grades = split.qrels[query["_id"]]
        right = {row_of[product] for product, grade in grades.items() if grade >= max(2, max(grades.values()))}
        if right and names and set(told) == {KIND, names[0]}:
            asked.setdefault((told[KIND], names[0]), {})[told[names[0]]] = (query["text"], right)
    found = []
    for values in asked.values():
        for value, (text, right) in values.items():
            others = set().union(*(rows for other, (_, rows) in values.items() if other != value)) - right
            found += [(value, text, right, sorted(others & pictured))] if others & pictured else []
    if not found:
        raise DataError(
            f"{split.name}: no two queries ask for one {KIND} with different values of {' or '.join(attributes)}, of "
            "which triples are drawn"
        )
    rng = random.Random(f"{seed}-like")
    triples = []
    for value, text, right, sources in rng.choices(found, k=count):
        words = rng.choice(WAYS).format(value.lower())
        triples.append(Triple(rng.choice(sources), words, text, right))
    return triples


@torch.inference_mode()
def systems(encoder: Encoder, triples: list[Triple], like: np.ndarray, weights: list[float]) -> dict[str, np.ndarray]:
    """Vectors of the triples' queries by each system, `(triples, dim)`; `like` are those of the sources' pictures."""
    model, sources = encoder.model, torch.from_numpy(like)
    words = [triple.words for triple in triples]
    states = encoder.query_states(words, cache=False).states(slice(None))
    alone = encoder.embed_queries(words, cache=False)
    found = {"query": encoder.embed_queries([triple.query for triple in triples], cache=False), "words": alone}
    found |= {f"mean {weight}": (1 - weight) * alone + weight * like for weight in weights}
    for weight in weights:
        composed = model.compose_queries(states, sources.to(model.device), weight)
        found[f"composed {weight}"] = composed.pooler_output.float().cpu().numpy()
    return found


def measured(triples: list[Triple], queries: np.ndarray, vectors: np.ndarray) -> list[int]:
    """The place of the first right answer of each triple, from 0; `DEPTH` if it is below."""
    places = []
    for triple, scores in zip(triples, queries @ vectors.T, strict=True):
        scores[triple.source] = -np.inf
        rows = best_rows(scores, DEPTH).tolist()
        places.append(next((place for place, row in enumerate(rows) if row in triple.right), DEPTH))
    return places


def shares(hits: np.ndarray) -> dict[str, float]:
    """The share of hits `(triples,)` in each half."""
    return {name: round(float(half.mean()), 4) for name, half in zip(HALVES, np.array_split(hits, 2), strict=True)}


def format_like(report: dict[str, Any]) -> str:
    """The table, as Markdown."""
    lines = [f"{report['triples']} triples of {report['queries']} queries, {report['products']:,} products"]
    heads = [f"{what}, {half}" for half in HALVES for what in ("rank 1", "top 4")]
    lines += ["", f"| query | {' | '.join(heads)} |", f"|{' --- |' * (len(heads) + 1)}"]
    for name, found in report["figures"].items():
        cells = [f"{found[what][half]:.0%}" for half in HALVES for what in ("rank 1", "top 4")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
