"""Search at a million products: speed, recall and memory of our index beside faiss and hnswlib, and end to end.

    python -m training.benchmarks.search_speed --count 20000      # a few minutes, to see what it does
    python -m training.benchmarks.search_speed --model null --smaller 100000 --contestants "ours i8,hnswlib,faiss"
    python -m training.benchmarks.search_speed          # the million; wants a machine that has nothing else to do
    python -m training.benchmarks.search_speed --model null --count 10000000 --dim 256 --contestants "ours i8 128" \\
        --threads 2 --mapped true --work runs/bench_ten_million --output runs/ten_million.json --plot runs/ten.png

The vectors are those of real products and their jittered copies: to a copy the difference of two other products is
added, shortened to under a third of what products are apart, so copies differ in ways in which products do. (White
noise would be spread over hundreds of dimensions that products hardly use, and graphs find less there.) The queries
are real ones; all are of one model, cut to 384 dimensions. Every contestant gets the same vectors (float16 values),
builds on one thread and then, in a process of its own, loads and searches on one thread. Our graph is built with a
wider search than theirs, since its vectors are smaller: theirs take longer to build all the same. Each figure is
printed and kept as it comes; the same command goes on where it was stopped. Wants `pip install -e '.[bench]'`.
`ours i8 256` is built as widely as theirs, and `ours i8 128` less so. Ours is also asked with a filter that one
product in a hundred passes.

Every second query chooses the width of ours when it is built, for a recall of 0.99; the other half is asked, in one
batch and each alone: of our index as it was built, and of all with each of a ladder of widths. With --model null the
vectors are generated: 1,000 clusters, and queries that lie apart from them; this wants neither model nor catalogue.
"""

from training.benchmarks.options import SearchBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.search_speed", SearchBenchArguments, __doc__)

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_mmfusion import index_graph
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_graph import unit
from training.benchmarks.options import CONTESTANTS
from training.catalogue.layout import load_products, load_split
from training.common.environment import environment
from training.common.files import check_output_file, claim_folder, read_json, write_json
from training.evaluation.measuring import measure_rankings
from training.features.encoder import Encoder

matplotlib.use("Agg")
SPLITS = ("train", "dev", "test")
JITTER = 0.4  # length of what is added to a unit vector: copies have a cosine of about 0.93 to it
BLOCK = 8192
K = 10
EXPANSIONS = (16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768)
ROUNDS = 3  # of a batch, of which the fastest counts: other jobs only ever slow it down
GRAPH = {"M": 16, "ef_construction": 256}  # with which they take longer to build than ours does
FAST = 32  # width of a build after which a graph finds less
CURVE = (10_000, 30_000, 100_000, 300_000)
CLUSTERS = 1000  # of generated vectors
SPREAD = 0.7  # length of what tells a generated product from its cluster's centre, of length 1
RECALLS = (0.95, 0.99)
SHELVES = 100
ON_SHELF = {"shelf": (0, 0)}
Search = Callable[[np.ndarray, int | None], list[np.ndarray]]


def main(arguments: SearchBenchArguments) -> dict:
    """Runs all tasks that have no figures yet, and prints and writes the figures and ratios."""
    if arguments.task:
        figures = TASKS[arguments.task.split(" ")[0]](arguments)
        write_json(Path(arguments.work, "figures.json"), figures)
        return figures
    names = arguments.contestants
    if unknown := set(names) - set(CONTESTANTS):
        raise DataError(f"unknown contestant {unknown.pop()!r}; use some of {', '.join(CONTESTANTS)}")
    check_output_file(arguments.output, ".json")
    claim_folder(arguments.work, "training.benchmarks.search_speed")
    report = read_report(arguments)
    for task in tqdm(tasks_of(arguments, names), desc="tasks"):
        if task not in report["figures"]:
            started = time.monotonic()
            report["figures"][task] = in_a_process(arguments, task)
            report["figures"][task]["task seconds"] = round(time.monotonic() - started, 1)
            write_report(arguments, report)
        tqdm.write(format_task(task, report["figures"][task]))
    report |= {"summary": summarise_contestants(report["figures"], arguments), "environment": environment()}
    write_report(arguments, report)
    plot(report, arguments)
    print(json.dumps(report["summary"], indent=2), flush=True)
    return report


def tasks_of(arguments: SearchBenchArguments, names: list[str]) -> list[str]:
    """All tasks in their order; those of a smaller number of vectors end in ` at 100000`."""
    at = [f"{name} at {count}" for count in counts_of(arguments)[:-1] for name in names]
    curve = [f"ours i8 at {count}" for count in CURVE if count < arguments.count]
    searched = [f"{what} {name}" for name in dict.fromkeys([*at, *names, *curve]) for what in ("build", "search")]
    if arguments.model is None:
        return ["prepare", *searched]
    return ["prepare", "quality", *searched, "end to end"]


def read_report(arguments: SearchBenchArguments) -> dict:
    """The figures that an earlier run with the same options left, or none."""
    options = asdict(arguments)
    for name in ("contestants", "smaller", "output", "plot", "task"):
        del options[name]
    file = Path(arguments.work, "report.json")
    report = read_json(file) if file.is_file() else {}
    return report if report.get("options") == options else {"options": options, "figures": {}}


def write_report(arguments: SearchBenchArguments, report: dict) -> None:
    """Keeps the figures for the next call, and puts them into the results file."""
    write_json(Path(arguments.work, "report.json"), report)
    write_json(Path(arguments.output), report)


def in_a_process(arguments: SearchBenchArguments, task: str) -> dict:
    """A task's figures."""
    words = [sys.executable, "-m", "training.benchmarks.search_speed", "--task", task]
    for name, value in asdict(arguments).items():
        if name != "task":
            words += [f"--{name}", "null" if value is None else str(value)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if subprocess.run(words, env=variables).returncode:
        raise DataError(f"{task}: failed, see above; the same command goes on from here")
    return read_json(Path(arguments.work, "figures.json"))


def prepare(arguments: SearchBenchArguments) -> dict:
    """Writes vectors, queries and exact neighbours; of products the model, cut to `dim`, and the queries' texts."""
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)
    make = prepare_generated if arguments.model is None else prepare_products
    vectors, queries, facts = make(arguments, work, rng)
    np.save(work / "queries.npy", queries)
    for file in work.glob("truth_*.npy"):
        file.unlink()
    truth_of(work, vectors, queries)
    return {"vectors": len(vectors), "dim": vectors.shape[1], "queries": len(queries)} | facts


def prepare_products(
    arguments: SearchBenchArguments, work: Path, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Vectors of products and their jittered copies, and of real queries."""
    encoder = Encoder.load(arguments.model, device="cpu", truncate_dim=arguments.dim)
    encoder.model.save_pretrained(work / "run" / "model")
    encoder.processor.save_pretrained(work / "run" / "model")
    real, found, texts = [], [], []
    for data in arguments.data:
        for split in SPLITS:
            if Path(data, split).is_dir() or not Path(data).is_dir():
                products = load_products(data, split)
                real.append(encoder.embed_products(products))
        test = load_split(data, "test")
        texts += test.query_texts
        found.append(encoder.embed_queries(test.query_texts))
    chosen = rng.permutation(len(texts))[: arguments.queries]
    real = rng.permutation(np.unique(np.concatenate(real), axis=0))
    vectors = jitter(real, arguments.count, work / "vectors.npy", rng)
    write_json(work / "texts.json", [texts[place] for place in chosen])
    facts = {"blocks": encoder.model.output_dims}
    write_json(work / "model.json", facts | {"fingerprint": encoder.fingerprint})
    return vectors, np.concatenate(found)[chosen], {"of real products": len(real)}


def prepare_generated(
    arguments: SearchBenchArguments, work: Path, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Unit vectors around `CLUSTERS` centres, and queries around the same, of which each lies off in a way of its own.

    The dimensions' variance falls as `(1 + j / 32)**-2`, as that of embeddings does.
    """
    scales = (1 / (1 + np.arange(arguments.dim) / 32)).astype(np.float32)

    def directions(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, arguments.dim), dtype=np.float32) * scales)

    def around(centres: np.ndarray, count: int) -> np.ndarray:
        return unit(centres[rng.integers(len(centres), size=count)] + SPREAD * directions(count))

    centres = directions(CLUSTERS)
    vectors = np.lib.format.open_memmap(work / "vectors.npy", "w+", np.float16, (arguments.count, arguments.dim))
    for start in tqdm(range(0, arguments.count, BLOCK), desc="vectors", leave=False):
        vectors[start : start + BLOCK] = around(centres, len(vectors[start : start + BLOCK]))
    off = unit(centres + 0.5 * directions(len(centres)))  # queries say less, and the same of all of a cluster
    write_json(work / "model.json", {"blocks": {}, "fingerprint": ""})
    return vectors, around(off, arguments.queries), {"clusters": CLUSTERS}


def counts_of(arguments: SearchBenchArguments) -> list[int]:
    """The numbers of vectors that the contestants are compared at, in ascending order.

    Raises:
        DataError: if one is no number below `count`.
    """
    if wrong := [one for one in arguments.smaller if one >= arguments.count]:
        raise DataError(f"--smaller {wrong[0]}: write numbers below --count {arguments.count}, with commas between")
    return [*sorted(set(arguments.smaller)), arguments.count]


def jitter(real: np.ndarray, count: int, file: Path, rng: np.random.Generator) -> np.ndarray:
    """Writes `count` vectors, float16: the real ones and then unit vectors near them, in random order.

    A copy is `v + JITTER * (a - b) / |a - b|` of random products `a` and `b`, scaled to unit length.
    """
    vectors = np.lib.format.open_memmap(file, "w+", np.float16, (count, real.shape[1]))
    places = rng.permutation(count)
    for start in tqdm(range(0, count, BLOCK), desc="jitter", leave=False):
        numbers = np.arange(start, min(start + BLOCK, count))
        block = real[numbers % len(real)].copy()
        first, second = rng.integers(len(real), size=(2, len(numbers)))
        change = real[first] - real[second]
        change *= JITTER / np.maximum(np.linalg.norm(change, axis=1, keepdims=True), 1e-6)
        block += change * (numbers >= len(real))[:, None]
        vectors[places[numbers]] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def truth_of(work: Path, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[`exact_neighbours`], kept for the next contestant."""
    file = work / f"truth_{len(vectors)}.npy"
    if not file.is_file():
        np.save(file, exact_neighbours(vectors, queries))
    return np.load(file)


def exact_neighbours(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The scores of the best 10 of all vectors for each query, `(queries, 10)`, best first."""
    best = np.full((len(queries), K), -np.inf, dtype=np.float32)
    for start in tqdm(range(0, len(vectors), BLOCK), desc="exact", leave=False):
        scores = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        both = np.concatenate([best, -np.partition(-scores, K - 1, axis=1)[:, :K]], axis=1)
        best = -np.sort(-both, axis=1)[:, :K]
    return best


def products_of(count: int) -> pa.Table:
    """What an index shows of made products; one in a hundred is on shelf 0."""
    numbers = np.arange(count)
    columns = {"_id": [f"product-{number}" for number in numbers], "category": (numbers % 50).astype(str)}
    columns |= {"price": np.round(5 + numbers % 997 / 7, 2), "in_stock": numbers % 5 > 0}
    return pa.table(columns | {"shelf": numbers % SHELVES})


def build(arguments: SearchBenchArguments) -> dict:
    """Builds and saves one contestant's index."""
    work, (name, count) = Path(arguments.work), contestant_of(arguments)
    vectors = np.load(work / "vectors.npy", mmap_mode="r")[:count]
    started = time.perf_counter()
    if name in BASELINES:
        files = BASELINES[name][0](vectors, work, arguments.threads)
    else:
        files = build_ours(vectors, work, name, arguments.threads)
    return {"products": count, "seconds": round(time.perf_counter() - started, 1), "bytes on disk": files}


def search(arguments: SearchBenchArguments) -> dict:
    """One contestant's memory, and its recall and speed at several widths of the search, and as it was built."""
    work, (name, count) = Path(arguments.work), contestant_of(arguments)
    queries, vectors = np.load(work / "queries.npy"), np.load(work / "vectors.npy", mmap_mode="r")[:count]
    truth = truth_of(work, vectors, queries)[1::2]
    queries = queries[1::2]  # the others chose the width of ours
    before = resident_bytes()
    if name in BASELINES:
        ask, usual = BASELINES[name][1](work, queries.shape[1], count), None
    else:
        ask, ask_shelf, usual = load_ours(work, name, count, arguments.mapped)
    ask(queries[:10], EXPANSIONS[0])
    figures = {"products": count, "bytes in memory": resident_bytes() - before}

    def measured(expansion: int | None) -> dict:
        found, times = timed(ask, queries, expansion)
        return {"expansion": expansion or usual, "recall@10": round(recall(found, queries, truth, vectors), 4)} | times

    figures["settings"] = [measured(expansion) for expansion in EXPANSIONS]
    if not usual:
        return figures
    figures["as built"] = measured(None)
    if count >= K * SHELVES:
        found, times = timed(ask_shelf, queries, None)
        best = exact_neighbours(vectors[::SHELVES], queries)
        figures["of a shelf"] = {"recall@10": round(recall(found, queries, best, vectors), 4)} | times
    return figures


def timed(ask: Search, queries: np.ndarray, expansion: int | None) -> tuple[list[np.ndarray], dict]:
    """What is found for the queries, and the speed of all in one call and of each alone."""
    batches, times = [], []
    for _ in range(1 + ROUNDS):  # the first warms up
        begun = time.perf_counter()
        rows = ask(queries, expansion)
        batches.append(time.perf_counter() - begun)
    for query in queries[:1000]:
        begun = time.perf_counter()
        ask(query[None], expansion)
        times.append(1000 * (time.perf_counter() - begun))
    p50, p99 = np.percentile(times, (50, 99))
    speed = round(len(queries) / min(batches[1:]), 1)
    return rows, {"queries/s": speed, "p50 ms": round(float(p50), 3), "p99 ms": round(float(p99), 3)}


def contestant_of(arguments: SearchBenchArguments) -> tuple[str, int]:
    """The contestant of a task such as `build ours i8` or `search faiss at 10000`, and its number of vectors."""
    name, _, count = arguments.task.split(" ", 1)[1].partition(" at ")
    return name, int(count or arguments.count)


def recall(rows: list[np.ndarray], queries: np.ndarray, truth: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the found rows that score at least as much as the tenth of all."""
    hits = 0
    for found, query, best in zip(rows, queries, truth, strict=True):
        hits += np.count_nonzero(vectors[np.sort(found[:K])].astype(np.float32) @ query >= best[-1] - 1e-6)
    return hits / (K * len(queries))


def resident_bytes() -> int:
    """Memory of this process that is not of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def build_ours(vectors: np.ndarray, work: Path, name: str, threads: int) -> dict[str, int]:
    """Builds and saves our index; its files' sizes. That of f32, which only memory is compared with, is built fast.

    Its width is chosen by every second query; the others are asked later.

    Args:
        vectors (`np.ndarray` of shape `(N, dim)`): float16.
        work (`Path`): the benchmark's folder.
        name (`str`): `ours`, the dtype and perhaps the width of the build.
        threads (`int`): threads to build with.
    """
    dtype, *width = name.split()[1:]
    if dtype == "f32" or width:
        index_graph.EXPANSION_ADD = int(width[0]) if width else FAST
    facts = read_json(work / "model.json")
    exact = vectors.astype(np.float32) if dtype == "f32" else np.array(vectors)
    options = {"model": facts["fingerprint"], "dtype": dtype, "blocks": facts["blocks"], "progress": True}
    options |= {"queries": np.load(work / "queries.npy")[::2], "threads": threads}
    index = ProductIndex.build(exact, products_of(len(vectors)), **options)
    index.save(folder_of(work, name, len(vectors)))
    return {part: file.stat().st_size for part, file in index.files.items()}


def folder_of(work: Path, name: str, count: int) -> Path:
    """The folder of an index of ours, of a contestant's name such as `ours i8 256`."""
    return work / "run" / "_".join(["index", *name.split()[1:], str(count)])


def load_ours(work: Path, name: str, count: int, mapped: bool) -> tuple[Search, Search, int]:
    """Searches of our index, queries and the width of the search to rows: of all products, and of those on shelf 0;
    and the width that it was built for."""
    index = ProductIndex.load(folder_of(work, name, count), view=mapped)
    measured = index.measured

    def ask(queries: np.ndarray, expansion: int | None, where: dict | None = None) -> list[np.ndarray]:
        if (width := expansion or measured.width) != index.width:
            index.width = width
        return [rows for rows, _ in index.search_rows(queries, K, where=where)]

    return ask, partial(ask, where=ON_SHELF), measured.width


def build_hnswlib(vectors: np.ndarray, work: Path, threads: int) -> dict[str, int]:
    """Builds and saves an hnswlib index."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), **GRAPH)
    index.set_num_threads(threads)
    for start in tqdm(range(0, len(vectors), BLOCK), desc="hnswlib", leave=False):
        part = vectors[start : start + BLOCK].astype(np.float32)
        index.add_items(part, np.arange(start, start + len(part)))
    index.save_index(str(work / f"hnswlib_{len(vectors)}.bin"))
    return {"graph": (work / f"hnswlib_{len(vectors)}.bin").stat().st_size}


def load_hnswlib(work: Path, dim: int, count: int) -> Search:
    """A search of it."""
    import hnswlib

    index = hnswlib.Index("ip", dim)
    index.load_index(str(work / f"hnswlib_{count}.bin"))
    index.set_num_threads(1)

    def ask(queries: np.ndarray, expansion: int) -> list[np.ndarray]:
        index.set_ef(expansion)
        return list(index.knn_query(queries, K)[0].astype(np.int64))

    return ask


def build_faiss(vectors: np.ndarray, work: Path, threads: int) -> dict[str, int]:
    """Builds and saves a faiss index."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH["M"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = GRAPH["ef_construction"]
    for start in tqdm(range(0, len(vectors), BLOCK), desc="faiss", leave=False):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(work / f"faiss_{len(vectors)}.bin"))
    return {"graph": (work / f"faiss_{len(vectors)}.bin").stat().st_size}


def load_faiss(work: Path, dim: int, count: int) -> Search:
    """A search of it."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(work / f"faiss_{count}.bin"))

    def ask(queries: np.ndarray, expansion: int) -> list[np.ndarray]:
        index.hnsw.efSearch = expansion
        return list(index.search(queries, K)[1])

    return ask


def end_to_end(arguments: SearchBenchArguments) -> dict:
    """Milliseconds from a query's text to ids and what is shown, with the 8-bit query tower on one thread."""
    from modeling_mmfusion.search import Searcher
    from training import export

    work = Path(arguments.work)
    model = str(work / "run" / "model")
    export.main(export.ExportArguments(model, model, ["onnx"], "int8"))
    index, built = work / "run" / "index", folder_of(work, "ours i8", arguments.count)
    index.unlink(missing_ok=True)
    index.symlink_to(built.resolve())
    texts = read_json(work / "texts.json")[:1000]
    figures = {}
    for tower in ("int8", "onnx", "torch"):
        started = time.perf_counter()
        searcher = Searcher(work / "run", tower)
        figures[f"{tower} ready s"] = round(time.perf_counter() - started, 2)
        for kind, where in (("", None), (" with filter", {"price": (20, 60), "in_stock": True})):
            searcher.search(texts[0], K, where)
            times = []
            for text in texts:
                begun = time.perf_counter()
                searcher.search(text, K, where)
                times.append(1000 * (time.perf_counter() - begun))
            for percentile in (50, 99):
                figures[f"{tower}{kind} p{percentile} ms"] = round(float(np.percentile(times, percentile)), 2)
    return figures


def quality(arguments: SearchBenchArguments) -> dict:
    """nDCG@10 of whole vectors on the judged catalogue, searched in each storage, and the ratio to float32.

    The 8-bit graph holds main directions alone, as it does of a large catalogue.
    """
    encoder, split = Encoder.load(arguments.model, device="cpu"), load_split(arguments.judged, "test")
    vectors, queries = encoder.embed_products(split), encoder.embed_queries(split.query_texts)
    figures = {"products": len(vectors), "dim": vectors.shape[1]}
    index_graph.MANY = len(vectors)
    for name in ("f32", "bf16", "i8", "b1", "b1, 50 candidates"):
        index = ProductIndex.build(vectors, pa.table({"_id": split.product_ids}), dtype=name.split(",")[0])
        if "candidates" in name:
            index.graph.candidates = int(name.split()[1])
        found = [rows for rows, _ in index.search_rows(queries, K)]
        value = float(measure_rankings(split, found, ("ndcg@10",))["ndcg@10"].mean())
        figures[name] = {"ndcg@10": round(value, 5)}
        figures[name]["of f32"] = round(value / figures["f32"]["ndcg@10"], 4)
    return figures


BASELINES = {"hnswlib": (build_hnswlib, load_hnswlib), "faiss": (build_faiss, load_faiss)}
TASKS = {"prepare": prepare, "build": build, "search": search, "end": end_to_end, "quality": quality}


def at_recall(figures: dict, wanted: float, by: str = "queries/s") -> dict | None:
    """The fastest setting with at least some recall, in batches or by `p50 ms`."""
    enough = [setting for setting in figures["settings"] if setting["recall@10"] >= wanted]
    fastest = min if by.endswith("ms") else max
    return fastest(enough, key=lambda setting: setting[by], default=None)


def summarise_contestants(figures: dict, arguments: SearchBenchArguments) -> dict:
    """What the issue of scale asks for: memory, latency, and speed at equal recall."""
    found = contestants_of(figures)
    summary = {"products": arguments.count, "i8 as built": found.get("ours i8", {}).get("as built")}
    summary["of a shelf / of all, p50 ms"] = {
        name: round(one["of a shelf"]["p50 ms"] / one["as built"]["p50 ms"], 2)
        for name, one in found.items()
        if "of a shelf" in one
    }
    if {"ours i8", "ours f32"} <= set(found):
        ratio = found["ours i8"]["bytes in memory"] / found["ours f32"]["bytes in memory"]
        summary["memory of i8 / f32"] = round(ratio, 3)
    summary |= compare_contestants(found)
    summary["build seconds"] = {name: figures[f"build {name}"]["seconds"] for name in found}
    curve = [one for name, one in figures.items() if re.fullmatch("search ours i8( at .*)?", name)]
    curve.sort(key=lambda one: one["products"])
    summary["curve, p50 ms"] = {str(one["products"]): one["as built"]["p50 ms"] for one in curve}
    for count in counts_of(arguments)[:-1]:
        summary[f"of {count} products"] = compare_contestants(contestants_of(figures, f" at {count}"))
    return summary


def contestants_of(figures: dict, at: str = "") -> dict[str, dict]:
    """What was measured of each contestant, with all vectors or of those of a task that ends so."""
    return {name: figures[f"search {name}{at}"] for name in CONTESTANTS if f"search {name}{at}" in figures}


def compare_contestants(found: dict[str, dict]) -> dict:
    """Speeds at equal recall, in batches and with each query alone, and ours compared with the baselines'."""
    summary = {}
    for wanted in RECALLS:
        for kind, by in (("in batches", "queries/s"), ("alone", "p50 ms")):
            at = {name: at_recall(one, wanted, by) for name, one in found.items()}
            values = {name: one and one[by] for name, one in at.items()}
            summary[f"{by} {kind} at recall {wanted}"] = values
            for baseline in BASELINES:
                ratios = [
                    values[baseline] / value if by.endswith("ms") else value / values[baseline]
                    for name, value in values.items()
                    if name.startswith("ours") and value and values.get(baseline)
                ]
                if ratios:
                    summary[f"ours / {baseline} {kind} at recall {wanted}"] = round(max(ratios), 2)
    return summary


def plot(report: dict, arguments: SearchBenchArguments) -> None:
    """Milliseconds a query by the number of products, on a logarithmic axis: a straight line is log n."""
    from matplotlib import pyplot

    curve = {int(count): milliseconds for count, milliseconds in report["summary"]["curve, p50 ms"].items()}
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(list(curve), list(curve.values()), marker="o")
    axes.set(xscale="log", ylim=(0, None), xlabel="products", ylabel="ms a query (p50, one thread)")
    axes.set_title("i8, as wide as was chosen for recall@10 of 0.99")
    figure.tight_layout()
    Path(arguments.plot).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.plot, dpi=120)


def format_search(report: dict) -> str:
    """README's table: each contestant at the least recall of 0.99, and ours as it is built."""
    figures, summary = report["figures"], report["summary"]
    counts = sorted({one["products"] for name, one in figures.items() if is_compared(name)})
    threads = report["options"].get("threads", 1)
    built = ", built with one" if threads == 1 else f", built with {threads}"
    lines = [
        f"Vectors of {figures['prepare']['dim']} dimensions, searched with one thread{built}, recall@10 of at least "
        "0.99; milliseconds a query of many in one call, and of one alone",
        "",
        "| vectors | index | width | recall@10 | ms in batches | ms alone, p50 | p99 | build s | bytes a product |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in counts:
        at = "" if count == summary["products"] else f" at {count}"
        for name, found in contestants_of(figures, at).items():
            settings = {name: at_recall(found, 0.99), f"{name}, as built": found.get("as built")}
            settings[f"{name}, 1% pass"] = found.get("of a shelf")
            seconds = figures[f"build {name}{at}"]["seconds"]
            lines += [format_row(row, one, found, seconds) for row, one in settings.items() if one or row == name]
    curve = ", ".join(f"{value} ms at {int(count):,}" for count, value in summary["curve, p50 ms"].items())
    lines += ["", f"Our i8 index by the number of products, each query alone (p50): {curve}."] if curve else []
    if "end to end" in figures:
        whole, kept = figures["end to end"], figures["quality"]
        lines[-1] += (
            f" From a query's text to results with the 8-bit query tower: {whole['int8 p50 ms']} ms (p50), "
            f"{whole['int8 p99 ms']} ms (p99). nDCG@10 on {report['options']['judged']} of that of f32: "
            f"{kept['i8']['of f32']} with i8, {kept['b1']['of f32']} with b1."
        )
    return "\n".join(lines)


def is_compared(task: str) -> bool:
    """Whether a task searched a baseline, of whose number of products all are shown, or ours with all products."""
    return task.startswith("search ") and (" at " not in task or any(baseline in task for baseline in BASELINES))


def format_row(name: str, setting: dict | None, found: dict, seconds: float) -> str:
    """A contestant's line of the table, or dashes where it never finds enough."""
    size, one = f"{found['bytes in memory'] / found['products']:,.0f}", setting or {}
    values = [one.get(key, "-") for key in ("expansion", "recall@10", "queries/s", "p50 ms", "p99 ms")]
    values[2] = values[2] if values[2] == "-" else f"{1000 / values[2]:.3f}"
    return f"| {found['products']:,} | {name} | {' | '.join(map(str, values))} | {seconds:,.0f} | {size} |"


def format_task(task: str, figures: dict) -> str:
    """A task's figures, a line for each setting."""
    if "settings" not in figures:
        return f"{task}: {json.dumps(figures)}"
    lines = [f"{task}: {figures['bytes in memory'] / figures['products']:,.0f} bytes a product in memory"]
    settings = [*figures["settings"], *([figures["as built"]] if "as built" in figures else [])]
    lines += ["    " + ", ".join(f"{name} {value}" for name, value in one.items()) for one in settings]
    return "\n".join(lines)
