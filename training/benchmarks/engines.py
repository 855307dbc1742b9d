"""Compares engines with our own index on the same generated products: what they find, how fast, how fast they load.

    python -m training.benchmarks.engines      # the embedded ones, and a PostgreSQL if there is one with pgvector
    python -m training.benchmarks.engines --engines "lance:shop.lance,postgresql://me@host/shop#bench"

Each engine gets a collection of its own, which is loaded anew and dropped at the end; one of other products by that
name is never touched. Vectors have two blocks of unequal length, as ours have. Queries are asked one at a time, each
with no filter, with one that a fifth of the products pass and with one that a hundredth pass. Recall@10 is against
exact search over float32; whether filters are equal compares ids with those of our index where that is exact too.
A server's figures hold the way to it; embedded engines share this process.

A second table tells what engines' quantisation would do to such vectors, in numpy: 16 bits a number (pgvector's
halfvec), 8 bits of one scale for all numbers, as Qdrant's scalar kind (its range leaves out the largest and smallest
half per cent) and much alike Elasticsearch's int8, and one bit, the sign (pgvector's binary_quantize, Qdrant's binary
kind); each alone and with its best hundred scored again exactly.
"""

from training.benchmarks.options import EngineBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.engines", EngineBenchArguments, __doc__)

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_graph import unit
from training.benchmarks.postgres_server import postgres_server, programs
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.scale.engine import Engine, ProductSchema, open_engine, shown, stored_columns

K = 10
PART = 1000  # products that are loaded together
BLOCKS = (0.8, 0.2)  # shares of the vectors' squared length
EMBEDDED = {"lance": "shop.lance", "milvus": "shop.db#bench", "qdrant": "qdrant#bench"}
RESCORED = 10 * K
SHARES = {"one block": 1.0, "two alike": 0.5, "80 and 20%": 0.8, "97 and 3%": 0.97}  # of the first block
QUANTILE = 0.005  # that Qdrant leaves out on either side, with a quantile of 0.99
MEMORY = "maintenance_work_mem=512MB"  # of PostgreSQL while it builds its graph
FILTERS: dict[str, dict[str, Any]] = {"no filter": {}, "1 in 5": {"group": "g1"}, "1 in 100": {"number": (0, 0)}}


def main(arguments: EngineBenchArguments) -> dict[str, Any]:
    """Measures, prints the table, writes the report and returns it."""
    check_output_file(arguments.output, ".json")
    table, queries, schema = generated(arguments.products, arguments.dim, arguments.queries)
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, arguments.dim)
    index = ProductIndex.build(vectors, table.drop_columns("vector"), schema.model, "i8", schema.blocks)
    truth = {name: exact(vectors, table, queries, where) for name, where in FILTERS.items()}
    figures = {"our index": timed(index, queries, truth)}
    with own_engines() if not arguments.engines else nullcontext(arguments.engines) as places:
        for url in tqdm(places, desc="engines"):
            name = shown(url).split(":")[0]
            try:
                with open_engine(url) as engine:
                    figures[name] = measured(engine, table, schema, queries, truth)
            except DataError as error:
                figures[name] = {"error": one_line(error, 300)}
    facts = {name: getattr(arguments, name) for name in ("products", "dim", "queries")}
    report = facts | {"figures": figures, "quantised": quantised(arguments), "environment": environment()}
    write_json(Path(arguments.output), report)
    print(format_engines(report), flush=True)
    return report


@contextmanager
def own_engines() -> Iterator[list[str]]:
    """Addresses of the engines that can be had on this machine: the embedded ones in a folder that is deleted at the
    end, and a PostgreSQL of its own where one with pgvector is installed."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mmfusion-engines-"))
        places = [f"{name}:{scratch}/{place}" for name, place in EMBEDDED.items()]
        if programs():
            places.append(stack.enter_context(postgres_server(MEMORY)) + "#bench")
        yield places


def generated_vectors(
    count: int, dim: int, asked: int, shares: tuple[float, float] = BLOCKS
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors `(count, dim)` of two blocks with these shares of the squared length, and queries
    `(asked, dim)`."""
    rng = np.random.default_rng(0)
    first = dim // 2
    parts = []
    for width, share in zip((first, dim - first), shares, strict=True):
        centres = unit(rng.standard_normal((max(count // 100, 1), width)))
        part = unit(centres[rng.integers(0, len(centres), count)] + 0.7 * unit(rng.standard_normal((count, width))))
        parts.append(part * share**0.5)
    vectors = np.concatenate(parts, axis=1).astype(np.float16).astype(np.float32)
    some = rng.integers(0, count, asked)
    return vectors, unit(vectors[some] + 0.5 * unit(rng.standard_normal((asked, dim)))).astype(np.float32)


def generated(count: int, dim: int, asked: int) -> tuple[pa.Table, np.ndarray, ProductSchema]:
    """Products as [`bulk_tables`] gives them, queries `(asked, dim)` and the products' schema; seeded."""
    vectors, queries = generated_vectors(count, dim, asked)
    rng, first = np.random.default_rng(1), dim // 2
    columns = {
        "_id": pa.array([f"sku-{row:07d}" for row in range(count)], pa.large_string()),
        "title": pa.array([f"Product {row} of the shop" for row in range(count)], pa.large_string()),
        "group": pa.array([f"G{row % 5}" for row in rng.integers(0, 5, count)], pa.large_string()),
        "number": pa.array(rng.integers(0, 100, count), pa.int64()),
    }
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    table = pa.table(columns | {"vector": flat})
    schema = ProductSchema(dim, stored_columns(table.schema), "generated", {"text": first, "image": dim - first})
    return table, queries, schema


def exact(vectors: np.ndarray, table: pa.Table, queries: np.ndarray, where: dict[str, Any]) -> list[set[str]]:
    """The ids of the best ten products of each query that pass."""
    mask = np.ones(len(vectors), dtype=bool)
    if "group" in where:
        mask &= np.array([group == "G1" for group in table.column("group").to_pylist()])
    if "number" in where:
        mask &= table.column("number").to_numpy() == 0
    rows = np.flatnonzero(mask)
    ids = table.column("_id").to_pylist()
    best = (rows[np.argsort(-(vectors[rows] @ query), kind="stable")[:K]] for query in queries)
    return [{ids[row] for row in one} for one in best]


def measured(
    engine: Engine, table: pa.Table, schema: ProductSchema, queries: np.ndarray, truth: dict[str, list[set[str]]]
) -> dict[str, Any]:
    """Loads an engine, times it and drops what was loaded."""
    if engine.read_schema() is not None:
        raise DataError(f"{engine.place}: there is a collection {engine.collection!r} already; give another name")
    parts = (table.slice(start, PART) for start in range(0, len(table), PART))
    started = time.perf_counter()
    try:
        engine.load(parts, schema)
        seconds = time.perf_counter() - started
        figures = {"products a second": round(len(table) / seconds, 1)} | timed(engine, queries, truth)
    finally:
        engine.drop()
    return figures | {"hybrid": engine.hybrid}


def timed(index: ProductIndex | Engine, queries: np.ndarray, truth: dict[str, list[set[str]]]) -> dict[str, Any]:
    """Milliseconds of single searches by filter, and what share of the best ten they find."""
    figures: dict[str, Any] = {}
    for name, where in FILTERS.items():
        index.search(queries[:1], K, where)
        seconds, shares = [], []
        for row, wanted in enumerate(truth[name]):
            started = time.perf_counter()
            [results] = index.search(queries[row : row + 1], K, where)
            seconds.append(time.perf_counter() - started)
            shares.append(len(wanted & {one.product_id for one in results}) / len(wanted) if wanted else 1.0)
        figures[name] = {f"p{share} ms": round(1000 * float(np.percentile(seconds, share)), 2) for share in (50, 99)}
        figures[name]["recall"] = round(float(np.mean(shares)), 4)
    return figures


def quantised(arguments: EngineBenchArguments) -> dict[str, dict[str, dict[str, float]]]:
    """Recall@10 of quantised vectors, alone and with the best hundred scored again, by the blocks' shares and kind."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, share in SHARES.items():
        shares = (share, 1 - share)
        vectors, queries = generated_vectors(arguments.products, arguments.dim, arguments.queries, shares)
        truth = vectors @ queries.T
        bound = -np.partition(-truth, K - 1, axis=0)[K - 1]
        kinds = {"16 bits": vectors.astype(np.float16).astype(np.float32), "8 bits": eight_bits(vectors)}
        scores = {kind: some @ queries.T for kind, some in kinds.items()}
        scores["1 bit"] = np.sign(vectors) @ np.sign(queries).T
        found[name] = {kind: recalls(some, truth, bound) for kind, some in scores.items()}
    return found


def eight_bits(vectors: np.ndarray) -> np.ndarray:
    """Vectors after they were kept as 8 bits with one scale for all numbers."""
    low, high = np.quantile(vectors, (QUANTILE, 1 - QUANTILE))
    step = (high - low) / 255
    return (np.rint((vectors.clip(low, high) - low) / step) * step + low).astype(np.float32)


def recalls(scores: np.ndarray, truth: np.ndarray, bound: np.ndarray) -> dict[str, float]:
    """The share of the best ten by exact scores `(products, queries)`, those that reach `bound`, among the best by
    others."""
    best = np.argsort(-scores, axis=0, kind="stable")[:RESCORED]
    is_right = np.take_along_axis(truth, best, axis=0) >= bound
    alone, rescored = is_right[:K].mean(), is_right.sum(axis=0).clip(max=K).mean() / K
    return {"alone": round(float(alone), 3), "scored again": round(float(rescored), 3)}


def format_engines(report: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    lines = [
        f"{report['products']:,} products of {report['dim']} dimensions, {report['queries']} queries one at a time."
    ]
    names = [f"{name}: recall, p50, p99 ms" for name in FILTERS]
    lines += ["", f"| engine | products loaded/s | {' | '.join(names)} | hybrid |", f"|{' --- |' * (len(names) + 3)}"]
    for engine, found in report["figures"].items():
        if "error" in found:
            lines.append(f"| {engine} | {found['error']} |{'  |' * (len(names) + 1)}")
            continue
        cells = [f"{found[name]['recall']:.3f}, {found[name]['p50 ms']}, {found[name]['p99 ms']}" for name in FILTERS]
        rate, hybrid = found.get("products a second", ""), {True: "yes", False: "no"}.get(found.get("hybrid"), "yes")
        lines.append(f"| {engine} | {rate} | {' | '.join(cells)} | {hybrid} |")
    first = next(iter(report["quantised"].values()))
    lines += [
        "",
        "Recall@10 of quantised vectors, alone and with the best hundred scored again, by shares of two blocks:",
    ]
    lines += ["", f"| blocks | {' | '.join(first)} |", f"|{' --- |' * (len(first) + 1)}"]
    for name, kinds in report["quantised"].items():
        cells = [f"{one['alone']:.2f}, {one['scored again']:.2f}" for one in kinds.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
