"""Times searches of one index and of the same products in shards, in this process and in processes of their own.

    python -m training.benchmarks.shard_speed

Vectors in clusters and titles are generated. One client asks a query at a time, so figures are of latency. Shards in
processes share the cores of this machine, which hosts of their own do not: it shows what HTTP and the merge cost, not
what more machines gain. Recall@10 is against exact search.
"""

from training.benchmarks.options import ShardBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.shard_speed", ShardBenchArguments, __doc__)


import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_graph import unit
from modeling_mmfusion.sharded import ShardedIndex, open_index
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.shards import vector_column, write_shard, write_vectors_manifest
from training.index import IndexArguments
from training.index import main as build_index

K = 10
PART = 10_000  # products of a file of vectors
WORDS = 20_000  # of the titles' language, of which some are far more frequent than others
SECONDS = 120  # to wait for a service


def main(arguments: ShardBenchArguments) -> dict[str, Any]:
    """Builds, times, writes the report and returns it."""
    check_output_file(arguments.output, ".json")
    rng = np.random.default_rng(0)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mmfusion-shards-") as scratch:
        folder = Path(scratch)
        vectors, titles = write_products(folder / "vectors", arguments.products, arguments.dim, rng)
        some = rng.choice(len(vectors), arguments.queries)
        queries = unit(vectors[some] + 0.7 * unit(rng.standard_normal((len(some), arguments.dim)))).astype(np.float32)
        texts = [" ".join(titles[row].split()[:2]) for row in some]
        truth = exact(vectors, queries)
        build_index(IndexArguments(str(folder / "vectors"), str(folder / "index")))
        figures.append(
            {"where": "one index, this process"} | timed(open_index(folder / "index"), queries, texts, truth)
        )
        for count in tqdm(arguments.shards, desc="shards"):
            place = folder / f"index-{count}"
            build_index(IndexArguments(str(folder / "vectors"), str(place), shards=count))
            here = timed(ShardedIndex.open(place), queries, texts, truth)
            figures.append({"where": f"{count} shards, this process"} | here)
            with served(sorted(place.iterdir(), key=lambda one: int(one.name.split("-")[1]))) as addresses:
                there = timed(ShardedIndex.open(",".join(addresses)), queries, texts, truth)
            figures.append({"where": f"{count} shards, a process each"} | there)
    facts = {name: getattr(arguments, name) for name in ("products", "dim", "queries")}
    report = facts | {"figures": figures, "environment": environment()}
    write_json(Path(arguments.output), report)
    print(format_shards(report), flush=True)
    return report


def write_products(folder: Path, count: int, dim: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Writes a folder of vectors as training.embed does; the vectors and titles."""
    (folder / "shards").mkdir(parents=True)
    centres = unit(rng.standard_normal((max(count // 100, 1), dim)))
    vectors = unit(centres[rng.integers(0, len(centres), count)] + 0.7 * unit(rng.standard_normal((count, dim))))
    vectors = vectors.astype(np.float16)
    words = rng.zipf(1.3, (count, 8)) % WORDS
    titles = [" ".join(f"w{word}" for word in row) for row in words.tolist()]
    parts = []
    for number, start in enumerate(range(0, count, PART)):
        rows = range(start, min(start + PART, count))
        columns: dict[str, Any] = {"_id": [f"sku-{row:07d}" for row in rows], "hash": ["0"] * len(rows)}
        columns |= {"vector": vector_column(vectors[rows.start : rows.stop]), "title": titles[rows.start : rows.stop]}
        parts.append(write_shard(folder, number, "generated", pa.table(columns), {}))
    facts = {"model": "generated", "data": "generated", "split": "all", "count": count, "dim": dim}
    write_vectors_manifest(folder, facts | {"blocks": {"text": dim}, "fields": ["title"], "queries": None}, parts)
    return vectors.astype(np.float32), titles


def exact(vectors: np.ndarray, queries: np.ndarray) -> list[set[str]]:
    """The ids of the best ten products of each query."""
    return [{f"sku-{row:07d}" for row in np.argpartition(-(vectors @ query), K)[:K]} for query in queries]


def timed(
    index: ProductIndex | ShardedIndex, queries: np.ndarray, texts: list[str], truth: list[set[str]]
) -> dict[str, float]:
    """Milliseconds of searches by vectors and of hybrid ones, one at a time, and what the former find."""
    index.search(queries[:8], K, None, texts[:8])
    figures, found = {}, []
    for kind in ("vectors", "hybrid"):
        seconds = []
        for row in range(len(queries)):
            started = time.perf_counter()
            [results] = index.search(
                queries[row : row + 1], K, None, texts[row : row + 1] if kind == "hybrid" else None
            )
            seconds.append(time.perf_counter() - started)
            if kind == "vectors":
                found.append(len(truth[row] & {one.product_id for one in results}) / K)
        figures |= {f"{kind}_p{share}_ms": round(1000 * float(np.percentile(seconds, share)), 2) for share in (50, 99)}
    return figures | {"recall": round(float(np.mean(found)), 4)}


@contextmanager
def served(folders: list[Path]) -> Iterator[list[str]]:
    """The addresses of services of some shards, which are ended afterwards."""
    ports = [free_port() for _ in folders]
    command = [sys.executable, "-m", "modeling_mmfusion.serve", "--shard"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ}
    both = list(zip(folders, ports, strict=True))
    processes = [subprocess.Popen([*command, str(folder), "--port", str(port)], **quiet) for folder, port in both]
    try:
        for port in ports:
            wait_for(f"http://127.0.0.1:{port}/health")
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def wait_for(address: str) -> None:
    """Waits until a service answers.

    Raises:
        DataError: if it does not for two minutes.
    """
    for _ in range(10 * SECONDS):
        try:
            urlopen(address, timeout=SECONDS).read()
            return
        except OSError:
            time.sleep(0.1)
    raise DataError(f"{address}: the service does not answer")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def format_shards(report: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| where | vectors: p50, p99 ms | hybrid: p50, p99 ms | recall@10 |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {one['where']} | {one['vectors_p50_ms']:.2f}, {one['vectors_p99_ms']:.2f} | {one['hybrid_p50_ms']:.2f}, "
        f"{one['hybrid_p99_ms']:.2f} | {one['recall']:.1%} |"
        for one in report["figures"]
    ]
    return "\n".join(lines)
