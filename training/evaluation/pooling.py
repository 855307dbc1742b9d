"""Which products are judged for which queries: the best of several systems, in an order that tells no rank.

What no system of the pool found stays unjudged, so a pool of few or of like systems favours those over later ones
(Zobel, How reliable are the results of large-scale information retrieval experiments?, SIGIR 1998).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import digest_of
from modeling_mmfusion.json_files import ANY, COUNT, TEXT, fault_of, parse_json
from modeling_mmfusion.model_folder import check_model_name
from training.catalogue.layout import RetrievalSplit
from training.common.files import write_text
from training.evaluation.measuring import measure_views, views_of
from training.evaluation.options import EvaluateArguments
from training.evaluation.trec import read_run
from training.features.pretrained import resolve_tower

FEWEST_SYSTEMS = 5
RUN_DEPTH = 100  # products of a model's ranking, of which the pool takes the first
HEAD = {"data": TEXT, "split": TEXT, "depth": COUNT, "systems": [TEXT]}
LINE = {"query-id": TEXT, "text": TEXT, "products": [{"corpus-id": TEXT, "found": {ANY: COUNT}}]}
REMEDY = "run training.judge pool again"
Runs = dict[str, dict[str, list[str]]]


@dataclass
class PooledQuery:
    """A query and the products to judge.

    Attributes:
        id (`str`): the query's `_id`.
        text (`str`): what the shopper typed.
        found (`dict[str, dict[str, int]]`): product id to the rank, from 1, in each system that found it, in the order
            in which products are shown.
    """

    id: str
    text: str
    found: dict[str, dict[str, int]]


@dataclass
class Pool:
    """What is judged; a JSONL file with a first line about the pool and then a line a query.

    Attributes:
        data (`str`): the catalogue.
        split (`str`): its split.
        depth (`int`): how many products of each system's ranking are in the pool.
        systems (`list[str]`): the systems' names.
        queries (`list[PooledQuery]`): in an order that was drawn, so that the first ones are a random sample.
    """

    data: str
    split: str
    depth: int
    systems: list[str]
    queries: list[PooledQuery]

    @cached_property
    def digest(self) -> str:
        """A digest of the queries and products and their order: grades of one pool are none of another."""
        return digest_of(*(part for query in self.queries for part in ("query", query.id, query.text, *query.found)))

    @property
    def pairs(self) -> int:
        """How many pairs of query and product there are to judge."""
        return sum(len(query.found) for query in self.queries)

    def rankings(self, system: str) -> dict[str, list[str]]:
        """Query id to the first `depth` products of a system, best first."""
        ranks = {query.id: {p: found[system] for p, found in query.found.items() if system in found} for query in self}
        return {query: sorted(products, key=products.__getitem__) for query, products in ranks.items()}

    def __iter__(self):
        return iter(self.queries)


def draw_queries(split: RetrievalSplit, count: int, seed: int) -> list[dict]:
    """Some of a split's queries, of each `slice` in proportion (largest remainders), in an order that is drawn too.

    Args:
        split (`RetrievalSplit`): with queries.
        count (`int`): how many; all if there are not as many.
        seed (`int`): of the drawing.
    """
    rng = np.random.default_rng(seed)
    slices: dict[str, list[dict]] = {}
    for query in split.queries:
        slices.setdefault(str(query.get("slice")), []).append(query)
    shares = {name: min(count / len(split.queries), 1.0) * len(found) for name, found in slices.items()}
    sizes = {name: int(share) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: sizes[name] - shares[name]):
        sizes[name] += sum(sizes.values()) < min(count, len(split.queries))
    drawn = [found[row] for name, found in slices.items() for row in rng.choice(len(found), sizes[name], False)]
    return [drawn[row] for row in rng.permutation(len(drawn))]


def runs_of(systems: Sequence[str], data: str, split: RetrievalSplit, name: str) -> Runs:
    """The rankings of some systems for a split's queries.

    Args:
        systems (`list[str]`): files of rankings in TREC's format, or models as [`training.evaluate`] takes them, of
            which each view is a system.
        data (`str`): the catalogue's folder or Hub id.
        split (`RetrievalSplit`): its products, and the queries to rank them for.
        name (`str`): the split's name.

    Returns:
        `dict`: system's name to query id to product ids, best first. Products and queries of a file that the catalogue
        doesn't have are counted in `split.problems`.
    """
    runs: Runs = {}
    for system in systems:
        found = _read(system, split) if Path(system).is_file() else _measure(system, data, split, name)
        if twice := found.keys() & runs.keys():
            raise DataError(f"--systems: {twice.pop()} is given twice; leave one out")
        runs |= found
    return runs


def _read(file: str, split: RetrievalSplit) -> Runs:
    """The rankings in a file, of the products that there are."""
    ids, rankings = set(split.product_ids), read_run(file)
    if not any(query["_id"] in rankings for query in split.queries):
        raise DataError(f"{file}: ranks none of the queries of {split.name}; is it of another catalogue or split?")
    found = {}
    for query in split.queries:
        if query["_id"] not in rankings:
            split.problems.add("query that a system has no ranking for", f"{file}, query {query['_id']}")
        ranked = rankings.get(query["_id"], [])
        found[query["_id"]] = [product for product in ranked if product in ids]
        if unknown := [product for product in ranked if product not in ids]:
            where = f"{file}, query {query['_id']}: {unknown[0]}"
            split.problems.add("ranked product that the catalogue doesn't have (left out)", where, len(unknown))
    return {file: found}


def _measure(model: str, data: str, split: RetrievalSplit, name: str) -> Runs:
    """The rankings of each view of a model."""
    if model != "bm25":
        check_model_name(resolve_tower(model))
    arguments = EvaluateArguments(resolve_tower(model), data, name)
    views = views_of(arguments.model)
    views = views[:3] if "fused" in views else views  # its others are systems of their own, or none
    rankings = measure_views(arguments, split, views, (f"recall@{RUN_DEPTH}",)).rankings
    ids = [query["_id"] for query in split.queries]
    return {
        model if len(views) == 1 else f"{model}:{view}": {
            query: [split.product_ids[row] for row in rows] for query, rows in zip(ids, found, strict=True)
        }
        for view, found in rankings.items()
    }


def make_pool(data: str, name: str, split: RetrievalSplit, runs: Runs, depth: int, seed: int) -> Pool:
    """Joins the first `depth` products of each run for each query, each query's in an order drawn with `seed`."""
    rng, queries = np.random.default_rng(seed), []
    for query in split.queries:
        found: dict[str, dict[str, int]] = {}
        for system, rankings in runs.items():
            for rank, product in enumerate(rankings[query["_id"]][:depth], start=1):
                found.setdefault(product, {})[system] = rank
        shuffled = rng.permutation(sorted(found)).tolist()
        queries.append(PooledQuery(query["_id"], query["text"], {product: found[product] for product in shuffled}))
    return Pool(data, name, depth, list(runs), queries)


def with_queries(split: RetrievalSplit, queries: list[dict]) -> RetrievalSplit:
    """A split with some of its queries alone."""
    return replace(split, queries=queries, qrels={query["_id"]: split.qrels[query["_id"]] for query in queries})


def write_pool(file: Path, pool: Pool) -> None:
    """Writes a pool, whole or not at all."""
    lines: list[dict] = [{"data": pool.data, "split": pool.split, "depth": pool.depth, "systems": pool.systems}]
    for query in pool:
        products = [{"corpus-id": product, "found": found} for product, found in query.found.items()]
        lines.append({"query-id": query.id, "text": query.text, "products": products})
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_pool(file: Path) -> Pool:
    """Reads what [`write_pool`] wrote.

    Raises:
        DataError: naming the line and the field, if the file is missing or damaged.
    """
    lines = existing_file(file, "the pool that training.judge pool writes").read_bytes().splitlines()
    head, *rows = [_line(file, number, line) for number, line in enumerate(lines or [b""])]
    queries = [
        PooledQuery(row["query-id"], row["text"], {item["corpus-id"]: item["found"] for item in row["products"]})
        for row in rows
    ]
    return Pool(head["data"], head["split"], head["depth"], head["systems"], queries)


def _line(file: Path, number: int, line: bytes) -> dict:
    """A line of the file, from 0, if it has its form."""
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{file} line {number + 1}: is damaged ({error}); {REMEDY}") from error
    if fault := fault_of(value, LINE if number else HEAD):
        raise DataError(f"{file} line {number + 1}: {fault}; {REMEDY}")
    return value
