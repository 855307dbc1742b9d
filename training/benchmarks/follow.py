"""Kills the follower of a stream again and again, and measures how fast it is.

    python -m training.benchmarks.follow
    python -m training.benchmarks.follow --events 2000 --products 500 --kills 5 --output runs/bench_follow.json

1. A stream of drawn events (new products and texts, prices, stock, deletes, lines that are none) comes bit by bit into
   a folder of files, cut in the middle of lines. The process that follows it is killed (SIGKILL) at random moments
   while it reads, embeds, changes and saves. What it leaves at the end must be what an index is that is built of the
   final products: the same ids and columns, the same vectors, bit by bit, the same words and results of exact search.
2. Such a stream without a kill, one of prices and stock and one of upserts alone: events a second, and how long a save
   takes.

The model is a small random one, so what is measured is all but the encoders. In the first part each product is
embedded by itself. Works where processes can be forked (not on Windows).
"""

from training.benchmarks.options import FollowBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.follow", FollowBenchArguments, __doc__)


import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from training import follow
from training.benchmarks.embedding import save_small_model
from training.benchmarks.faults import _fork, _wait, kill_at_random, quietly
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.embedder import ProductEmbedder, inputs_of
from training.features.options import EmbedArguments

SHARES = {"price": 0.5, "stock": 0.24, "upsert": 0.15, "delete": 0.05, "update": 0.03, "nonsense": 0.03}
NONSENSE = [
    '{"type": "price", "_id": "sku-1", "price": "much"}',
    "no event",
    '{"type": "delete", "_id": "nobody"}',
    "[1]",
]
NONSENSE += ['{"type": "upsert", "product": {"title": "of nobody"}}', '{"type": "gift", "_id": "sku-2"}', "\0\0\0"]
WORDS = (
    "red green blue plain striped dotted mug shirt lamp bowl scarf dress cotton clay soft big small tall wide old new"
)
ALONE = {"batch_tokens": 1, "batch_pictures": 1}  # so that a vector does not depend on what else is embedded
LINES_OF_A_FILE = 10_000
Products = dict[str, dict]


def drawn_product(product_id: str, rng: np.random.Generator) -> dict:
    """A product of a few words."""
    words = rng.choice(WORDS.split(), 5).tolist()
    product = {"_id": product_id, "title": f"{' '.join(words[:3])} {rng.integers(1000)}", "brand": words[3]}
    return product | {"price": float(rng.integers(1, 10_000)) / 100, "in_stock": bool(rng.random() < 0.9)}


def stored_product(product: dict) -> dict:
    """A product with all columns of the index."""
    return dict.fromkeys(("_id", "title", "description", "brand", "price", "currency", "in_stock", "shelf")) | product


def first_products(count: int, seed: int) -> Products:
    """What the index holds before any event."""
    rng = np.random.default_rng(seed)
    return {f"sku-{number}": stored_product(drawn_product(f"sku-{number}", rng)) for number in range(count)}


def drawn_lines(products: Products, count: int, seed: int, shares: dict[str, float]) -> Iterator[str]:
    """A stream of events as lines; the products become what they are after it."""
    rng, ids, new = np.random.default_rng([seed, 1]), list(products), 0
    for kind in rng.choice(list(shares), count, p=list(shares.values())):
        place = int(rng.integers(len(ids)))
        one = ids[place]
        if kind == "nonsense":
            yield NONSENSE[int(rng.integers(len(NONSENSE)))]
        elif kind == "delete" and len(ids) > 10:
            ids[place] = ids[-1]
            ids.pop()
            del products[one]
            yield json.dumps({"type": "delete", "_id": one})
        elif kind in ("upsert", "delete"):
            if rng.random() < 0.4:
                one, new = f"new-{new}", new + 1
                ids.append(one)
            product = drawn_product(one, rng)
            if one in products and rng.random() < 0.3:  # sent again with the same text
                product |= {name: products[one][name] for name in ("title", "brand")}
            products[one] = stored_product(product)
            yield json.dumps({"type": "upsert", "product": product})
        else:
            changes = {"price": {"price": float(rng.integers(1, 10_000)) / 100, "currency": "EUR"}}
            changes |= {"stock": {"in_stock": bool(rng.random() < 0.5)}, "update": {"shelf": str(rng.integers(100))}}
            products[one] = products[one] | changes[str(kind)]
            yield json.dumps({"type": str(kind), "_id": one} | changes[str(kind)])


class Stream:
    """A folder of files that a stream is written to bit by bit.

    Args:
        folder (`Path`): made.
        lines (`list[str]`): the stream.
    """

    def __init__(self, folder: Path, lines: list[str]):
        folder.mkdir()
        self.folder, self.written = folder, 0
        texts = [
            "".join(f"{line}\n" for line in lines[start : start + LINES_OF_A_FILE])
            for start in range(0, len(lines), LINES_OF_A_FILE)
        ]
        self.files = [(folder / f"events-{number:04d}.jsonl", text.encode()) for number, text in enumerate(texts)]
        self.size = sum(len(content) for _, content in self.files)

    def write_until(self, byte: int) -> None:
        """Appends what is missing of the stream's first bytes."""
        start = 0
        for file, content in self.files:
            part = content[max(0, self.written - start) : max(0, byte - start)]
            if part:
                with open(file, "ab") as opened:
                    opened.write(part)
            start += len(content)
        self.written = max(self.written, min(byte, self.size))


def build_index(run_folder: Path, products: Products, **batching: int) -> ProductIndex:
    """An index of some products, embedded anew."""
    embedder = ProductEmbedder(EmbedArguments(str(run_folder / "model"), **batching))
    table = pa.Table.from_pylist(list(products.values()), schema=SCHEMA)
    vectors, _ = embedder.embed([inputs_of(embedder.processor, product) for product in products.values()])
    blocks = embedder.model.config.truncated_dims(embedder.dim)
    fields = embedder.processor.product_fields
    return ProductIndex.build(vectors, table, embedder.fingerprint, "i8", blocks, words=True, fields=fields)


SCHEMA = pa.schema([(name, pa.large_string()) for name in ("_id", "title", "description", "brand")])
SCHEMA = SCHEMA.append(pa.field("price", pa.float64())).append(pa.field("currency", pa.large_string()))
SCHEMA = SCHEMA.append(pa.field("in_stock", pa.bool_())).append(pa.field("shelf", pa.large_string()))


def follow_once(run_folder: Path, source: Path, save_seconds: float, **options) -> dict:
    """Follows a stream to its end, without a word."""
    options |= {"once": True, "save_seconds": save_seconds}
    found: list[dict] = []
    quietly(lambda: found.append(follow.main(follow.FollowArguments(str(source), str(run_folder), **options))))
    return found[0]


def kill_follower(run_folder: Path, stream: Stream, kills: int, seed: int, save_seconds: float) -> dict[str, int]:
    """Kills the process that follows a stream while it comes, then lets one follow it to its end.

    Returns:
        How often it was killed, how often it had ended before, and in how many different states the index was found.
    """
    torch.set_num_threads(1)  # a fork has no threads of its parent's, and would wait for them for ever
    rng, states, part = np.random.default_rng(seed), set(), 1 / (kills + 1)
    seen = Counter(dict.fromkeys(("killed", "ended before"), 0))
    stream.write_until(int(part * stream.size))
    started = time.monotonic()
    _wait(_fork(lambda: follow_once(run_folder, stream.folder, save_seconds, **ALONE)))
    longest = time.monotonic() - started
    while seen["killed"] < kills:
        part += (1 - part) * rng.uniform(0.5, 1.5) / (kills + 1)
        stream.write_until(int(part * stream.size))
        child = _fork(lambda: follow_once(run_folder, stream.folder, save_seconds, **ALONE))
        was_killed, longest = kill_at_random(child, longest, rng)
        seen["killed" if was_killed else "ended before"] += 1
        states.add(ProductIndex.load(run_folder / "index", view=True).notes.get("follow"))
    stream.write_until(stream.size)
    _wait(_fork(lambda: follow_once(run_folder, stream.folder, save_seconds, **ALONE)))
    return dict(seen) | {"states that were found": len(states)}


def check_equal(found: ProductIndex, expected: ProductIndex) -> dict[str, int]:
    """Compares an index with one that was built anew: ids, columns, vectors bit by bit, words, and results of exact
    search. Rows and graphs may differ. The found one is compacted, so that words are of the same rows.

    Returns:
        How many products, queries and words of queries were compared.

    Raises:
        DataError: naming the first difference.
    """
    found.compact()
    rows = [index.catalogue.rows for index in (found, expected)]
    ids = sorted(rows[1])
    if sorted(rows[0]) != ids:
        raise DataError(f"the products differ: {sorted(set(ids) ^ set(rows[0]))[:3]}")
    places = [np.array([some[one] for one in ids]) for some in rows]
    for mine, theirs in zip(
        *(index.catalogue.take(order) for index, order in zip((found, expected), places, strict=True)), strict=True
    ):
        if mine != theirs:
            raise DataError(f"the columns differ: {mine} {theirs}")
    vectors = [index.graph.stored(order) for index, order in zip((found, expected), places, strict=True)]
    if not np.array_equal(*vectors):
        raise DataError(f"the vectors of {np.count_nonzero((vectors[0] != vectors[1]).any(axis=1)):,} products differ")
    if found.words.spelling != expected.words.spelling:
        raise DataError("the words that queries are corrected to differ")
    queries = [*WORDS.split(), "red striped mug", "soft cotton dress 7"]
    for query in queries:
        matches = [index.words.matches(query)[order] for index, order in zip((found, expected), places, strict=True)]
        if not np.array_equal(*matches):
            raise DataError(f"the words of {query!r} match otherwise")
    drawn = vectors[1][np.random.default_rng(0).permutation(len(ids))[:100]].astype(np.float32)
    for query in drawn:  # filters that few pass are answered exactly; products with the same vector come in any order
        where = {"_id": ids[:5000]}
        results = [index.search(query[None], 10, where)[0] for index in (found, expected)]
        if not np.allclose(*([one.score for one in some] for some in results), atol=1e-6):
            raise DataError("exact search finds other products")
    return {"products compared": len(ids), "queries compared": len(drawn), "words compared": len(queries)}


def survive_kills(folder: Path, arguments: FollowBenchArguments, save_seconds: float = 4.0) -> dict:
    """The first part; see the module."""
    products = first_products(arguments.products, arguments.seed)
    build_index(folder, products, **ALONE).save(folder / "index")
    lines = list(drawn_lines(products, arguments.events, arguments.seed, SHARES))
    stream = Stream(folder / "events", lines)
    seen = kill_follower(folder, stream, arguments.kills, arguments.seed, save_seconds)
    return {
        "events": len(lines),
        **seen,
        **check_equal(ProductIndex.load(folder / "index"), build_index(folder, products, **ALONE)),
    }


def measure_speed(folder: Path, arguments: FollowBenchArguments, shares: dict[str, float]) -> dict:
    """Follows a stream of some kinds of events with one save at the end."""
    products = first_products(arguments.products, arguments.seed)
    build_index(folder, products).save(folder / "index")
    source, count = folder / "events.jsonl", max(1, arguments.events // 5)
    source.write_text("".join(f"{line}\n" for line in drawn_lines(products, count, arguments.seed, shares)))
    found = follow_once(folder, source, 1e9)
    facts = json.loads((folder / "follow" / "index" / follow.FACTS).read_text().splitlines()[-1])
    applied = facts["seconds"] - facts["seconds to save"]
    return {
        "events": found["events"],
        "seconds": round(applied, 1),
        "events a second": round(found["events"] / applied, 1),
        "embedded": found["embedded"],
        "products": found["products"],
        "seconds to save": facts["seconds to save"],
    }


def main(arguments: FollowBenchArguments) -> dict:
    """Does all, prints and writes what came of it."""
    check_output_file(arguments.output, ".json")
    torch.set_num_threads(1)
    results = {}
    works = {
        "kills": lambda folder: survive_kills(folder, arguments),
        "prices and stock": lambda folder: measure_speed(folder, arguments, {"price": 0.7, "stock": 0.3}),
        "upserts": lambda folder: measure_speed(folder, arguments, {"upsert": 1.0}),
        "all kinds": lambda folder: measure_speed(folder, arguments, SHARES),
    }
    for name, work in works.items():
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if arguments.model:
                (folder / "model").symlink_to(Path(arguments.model).resolve())
            else:
                save_small_model(folder / "model", folder)
            results[name] = work(folder)
        results[name]["seconds in all"] = round(time.monotonic() - started, 1)
        print(f"{name}: {', '.join(f'{what} {count:,}' for what, count in results[name].items())}", flush=True)
        write_json(Path(arguments.output), results | {"environment": environment()})
    return results


def format_follow(report: dict) -> str:
    """What the kills left, and the speed by kind of stream, in Markdown."""
    kills = report["kills"]
    lines = [
        f"{kills['events']:,} events, the follower killed {kills['killed']:,} times, the index found in "
        f"{kills['states that were found']:,} different states: in the end {kills['products compared']:,} products, "
        f"{kills['queries compared']:,} searches and what {kills['words compared']:,} queries' words match are those "
        "of an index that is built anew.",
        "",
        "| stream | events/s | of them embedded | products in the end | seconds to save |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in report.items():
        if "events a second" in found:
            cells = (f"{found['events a second']:,.0f}", f"{found['embedded']:,} of {found['events']:,}")
            lines.append(f"| {name} | {' | '.join(cells)} | {found['products']:,} | {found['seconds to save']:.2f} |")
    return "\n".join(lines)
