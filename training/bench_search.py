"""Search at a million products: speed, recall and memory of our index beside faiss and hnswlib, and end to end.

    python -m training.bench_search --count 20000      # a few minutes, to see what it does
    python -m training.bench_search                    # the million; wants a machine that has nothing else to do

The vectors are those of real products and their jittered copies: to a copy the difference of two other products is
added, shortened to under a third of what products are apart, so copies differ in ways in which products do. (White
noise would be spread over hundreds of dimensions that products hardly use, and graphs find less there.) The queries
are real ones; all are of one model, cut to 384 dimensions. Every contestant gets the same vectors (float16 values),
builds on one thread and then, in a process of its own, loads and searches on one thread. Our graph is built with a
wider search than theirs, since its vectors are smaller: theirs take longer to build all the same. Each figure is
printed and kept as it comes; the same command goes on where it was stopped. Wants `pip install -e '.[bench]'`.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm.auto import tqdm

from modeling_mmfusion import graph_mmfusion
from modeling_mmfusion.graph_mmfusion import CANDIDATES, EXPANSION
from modeling_mmfusion.index_mmfusion import ProductIndex
from training.arguments import run
from training.data import DataError, load_products, load_split
from training.embedding import embed_products, embed_queries, load_model, product_features, query_features
from training.evaluate import measure_rankings
from training.feature_cache import model_fingerprint
from training.files import read_json, write_json
from training.run_folder import environment

matplotlib.use("Agg")

SPLITS = ("train", "dev", "test")
JITTER = 0.4  # length of what is added to a unit vector: copies have a cosine of about 0.93 to it
BLOCK = 8192
K = 10
EXPANSIONS = (32, 64, 100, 150, 200, 256, 288, 320, 352, 384, 450, 512, 600, 800)
GRAPH = {"M": 16, "ef_construction": 256}  # with which they take longer to build than ours does
FAST = 32  # width of a build after which a graph finds less
CONTESTANTS = ("ours i8", "ours b1", "ours bf16", "hnswlib", "faiss", "ours f32")
CURVE = (10_000, 30_000, 100_000, 300_000)
RECALLS = (0.95, 0.99)
Search = Callable[[np.ndarray, int], list[np.ndarray]]


@dataclass
class SearchBenchArguments:
    """What to search in.

    Args:
        count: Vectors.
        model: Model folder.
        data: Catalogues that the vectors are of, with commas between; all their splits are taken.
        judged: Catalogue whose test split the loss by compression is measured on.
        dim: Length of the vectors.
        queries: Queries, at most.
        contestants: Some of the contestants, with commas between.
        work: Folder for vectors and indexes; some 10 GB at a million.
        output: JSON file for the figures.
        plot: Picture of the cost of a query by the number of products.
        seed: Seed of the noise.
        task: Do this alone, in this process; used by the benchmark itself.
    """

    count: PositiveInt = 1_000_000
    model: str = "runs/multishop/model"
    data: str = "../shared/data/hm,../shared/data/fashion,../shared/data/amazon,../shared/data/ikea"
    judged: str = "../shared/data/hm"
    dim: PositiveInt = 384
    queries: PositiveInt = 2000
    contestants: str = ",".join(CONTESTANTS)
    work: str = "runs/bench_search"
    output: str = "hub_card/results/bench_search.json"
    plot: str = "hub_card/results/bench_search.png"
    seed: NonNegativeInt = 0
    task: str | None = None


def main(arguments: SearchBenchArguments) -> dict:
    """Runs all tasks that have no figures yet, and prints and writes the figures and ratios."""
    if arguments.task:
        figures = TASKS[arguments.task.split(" ")[0]](arguments)
        write_json(Path(arguments.work, "figures.json"), figures)
        return figures
    names = [name.strip() for name in arguments.contestants.split(",")]
    if unknown := set(names) - set(CONTESTANTS):
        raise DataError(f"unknown contestant {unknown.pop()!r}; use some of {', '.join(CONTESTANTS)}")
    names += [f"curve {count}" for count in CURVE if count < arguments.count]
    searched = [task for name in names for task in (f"build {name}", f"search {name}")]
    report = read_report(arguments)
    for task in tqdm(["prepare", "quality", *searched, "end to end"], desc="tasks"):
        if task not in report["figures"]:
            started = time.monotonic()
            report["figures"][task] = in_a_process(arguments, task)
            report["figures"][task]["task seconds"] = round(time.monotonic() - started, 1)
            write_report(arguments, report)
        tqdm.write(format_task(task, report["figures"][task]))
    report |= {"summary": summarise(report["figures"], arguments), "environment": environment()}
    write_report(arguments, report)
    plot(report["figures"], arguments)
    print(json.dumps(report["summary"], indent=2), flush=True)
    return report


def read_report(arguments: SearchBenchArguments) -> dict:
    """The figures that an earlier run with the same options left, or none."""
    options = asdict(arguments)
    for name in ("contestants", "output", "plot", "task"):
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
    words = [sys.executable, "-m", "training.bench_search", "--task", task]
    for name, value in asdict(arguments).items():
        if name != "task":
            words += [f"--{name}", str(value)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if subprocess.run(words, env=variables).returncode:
        raise DataError(f"{task}: failed, see above; the same command goes on from here")
    return read_json(Path(arguments.work, "figures.json"))


def prepare(arguments: SearchBenchArguments) -> dict:
    """Writes the model cut to `dim`, vectors, queries and the exact neighbours."""
    work = Path(arguments.work)
    model, processor = load_model(arguments.model, device="cpu", truncate_dim=arguments.dim)
    model.save_pretrained(work / "run" / "model")
    processor.save_pretrained(work / "run" / "model")
    real, found, texts = [], [], []
    for data in arguments.data.split(","):
        for split in SPLITS:
            if Path(data, split).is_dir() or not Path(data).is_dir():
                products = load_products(data, split)
                real.append(embed_products(model, product_features(model, processor, products)))
        test = load_split(data, "test")
        texts += test.query_texts
        found.append(embed_queries(model, query_features(model, processor, test.query_texts))[0])
    rng = np.random.default_rng(arguments.seed)
    chosen = rng.permutation(len(texts))[: arguments.queries]
    queries = np.concatenate(found)[chosen]
    real = rng.permutation(np.unique(np.concatenate(real), axis=0))
    vectors = jitter(real, arguments.count, work / "vectors.npy", rng)
    np.save(work / "queries.npy", queries)
    np.save(work / "truth.npy", exact_neighbours(vectors, queries))
    write_json(work / "texts.json", [texts[place] for place in chosen])
    facts = {"blocks": dict(zip(model.config.blocks, model.output_dims, strict=True))}
    write_json(work / "model.json", facts | {"fingerprint": model_fingerprint(model, processor)})
    return {"vectors": len(vectors), "dim": vectors.shape[1], "of real products": len(real), "queries": len(queries)}


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


def exact_neighbours(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The scores of the best 10 of all vectors for each query, `(queries, 10)`, best first."""
    best = np.full((len(queries), K), -np.inf, dtype=np.float32)
    for start in tqdm(range(0, len(vectors), BLOCK), desc="exact", leave=False):
        scores = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        both = np.concatenate([best, -np.partition(-scores, K - 1, axis=1)[:, :K]], axis=1)
        best = -np.sort(-both, axis=1)[:, :K]
    return best


def products_of(count: int) -> pa.Table:
    """What an index shows of made products."""
    numbers = np.arange(count)
    columns = {"_id": [f"product-{number}" for number in numbers], "category": (numbers % 50).astype(str)}
    return pa.table(columns | {"price": np.round(5 + numbers % 997 / 7, 2), "in_stock": numbers % 5 > 0})


def build(arguments: SearchBenchArguments) -> dict:
    """Builds and saves one contestant's index."""
    work, (name, count) = Path(arguments.work), contestant_of(arguments)
    vectors = np.load(work / "vectors.npy", mmap_mode="r")[:count]
    started = time.perf_counter()
    if name in PEERS:
        files = PEERS[name][0](vectors, work)
    else:
        files = build_ours(vectors, work, name.split()[-1])
    return {"products": count, "seconds": round(time.perf_counter() - started, 1), "bytes on disk": files}


def search(arguments: SearchBenchArguments) -> dict:
    """One contestant's memory, and recall, queries a second and latency at several widths of the search."""
    work, (name, count) = Path(arguments.work), contestant_of(arguments)
    queries, vectors = np.load(work / "queries.npy"), np.load(work / "vectors.npy", mmap_mode="r")[:count]
    truth = np.load(work / "truth.npy") if count == arguments.count else exact_neighbours(vectors, queries)
    before = resident_bytes()
    ask = PEERS[name][1](work, queries.shape[1]) if name in PEERS else load_ours(work, name.split()[-1], count)
    ask(queries[:10], EXPANSIONS[0])
    figures = {"products": count, "bytes in memory": resident_bytes() - before, "settings": []}
    for expansion in EXPANSIONS:
        ask(queries, expansion)
        started = time.perf_counter()
        rows = ask(queries, expansion)
        seconds = time.perf_counter() - started
        times = []
        for query in queries[:1000]:
            begun = time.perf_counter()
            ask(query[None], expansion)
            times.append(1000 * (time.perf_counter() - begun))
        figures["settings"].append(
            {
                "expansion": expansion,
                "recall@10": round(recall(rows, queries, truth, vectors), 4),
                "queries/s": round(len(queries) / seconds, 1),
                "p50 ms": round(float(np.percentile(times, 50)), 3),
                "p99 ms": round(float(np.percentile(times, 99)), 3),
            }
        )
    return figures


def contestant_of(arguments: SearchBenchArguments) -> tuple[str, int]:
    """The contestant of a task such as `build ours i8` or `search curve 10000`, and its number of products."""
    name = arguments.task.split(" ", 1)[1]
    return ("ours i8", int(name.split()[1])) if name.startswith("curve") else (name, arguments.count)


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


def build_ours(vectors: np.ndarray, work: Path, dtype: str) -> dict[str, int]:
    """Builds and saves our index; its files' sizes. That of f32, which only memory is compared with, is built fast."""
    if dtype == "f32":
        graph_mmfusion.EXPANSION_ADD = FAST
    facts = read_json(work / "model.json")
    exact = vectors.astype(np.float32) if dtype == "f32" else np.array(vectors)
    options = {"model": facts["fingerprint"], "dtype": dtype, "blocks": facts["blocks"], "progress": True}
    index = ProductIndex.build(exact, products_of(len(vectors)), **options)
    index.save(work / "run" / f"index_{dtype}_{len(vectors)}")
    return {part: file.stat().st_size for part, file in index.files.items()}


def load_ours(work: Path, dtype: str, count: int) -> Search:
    """A search of our index: queries and the width of the search to rows."""
    index = ProductIndex.load(work / "run" / f"index_{dtype}_{count}")

    def ask(queries: np.ndarray, expansion: int) -> list[np.ndarray]:
        index.graph.index.expansion_search = expansion
        if dtype == "b1":  # signs order candidates so badly that all want to be scored exactly
            index.graph.candidates = expansion
        return [rows for rows, _ in index.search_rows(queries, K)]

    return ask


def build_hnswlib(vectors: np.ndarray, work: Path) -> dict[str, int]:
    """Builds and saves an hnswlib index."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), **GRAPH)
    index.set_num_threads(1)
    for start in tqdm(range(0, len(vectors), BLOCK), desc="hnswlib", leave=False):
        part = vectors[start : start + BLOCK].astype(np.float32)
        index.add_items(part, np.arange(start, start + len(part)))
    index.save_index(str(work / "hnswlib.bin"))
    return {"graph": (work / "hnswlib.bin").stat().st_size}


def load_hnswlib(work: Path, dim: int) -> Search:
    """A search of it."""
    import hnswlib

    index = hnswlib.Index("ip", dim)
    index.load_index(str(work / "hnswlib.bin"))
    index.set_num_threads(1)

    def ask(queries: np.ndarray, expansion: int) -> list[np.ndarray]:
        index.set_ef(expansion)
        return list(index.knn_query(queries, K)[0].astype(np.int64))

    return ask


def build_faiss(vectors: np.ndarray, work: Path) -> dict[str, int]:
    """Builds and saves a faiss index."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH["M"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = GRAPH["ef_construction"]
    for start in tqdm(range(0, len(vectors), BLOCK), desc="faiss", leave=False):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(work / "faiss.bin"))
    return {"graph": (work / "faiss.bin").stat().st_size}


def load_faiss(work: Path, dim: int) -> Search:
    """A search of it."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(work / "faiss.bin"))

    def ask(queries: np.ndarray, expansion: int) -> list[np.ndarray]:
        index.hnsw.efSearch = expansion
        return list(index.search(queries, K)[1])

    return ask


def end_to_end(arguments: SearchBenchArguments) -> dict:
    """Milliseconds from a query's text to ids and what is shown, with the 8-bit query tower on one thread."""
    from training import export
    from training.search import Searcher

    work = Path(arguments.work)
    model = str(work / "run" / "model")
    export.main(export.ExportArguments(model, model, "onnx", "int8"))
    index, built = work / "run" / "index", work / "run" / f"index_i8_{arguments.count}"
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
    model, processor = load_model(arguments.model, device="cpu")
    split = load_split(arguments.judged, "test")
    vectors = embed_products(model, product_features(model, processor, split))
    queries = embed_queries(model, query_features(model, processor, split.query_texts))[0]
    figures = {"products": len(vectors), "dim": vectors.shape[1]}
    graph_mmfusion.MANY = len(vectors)
    for name in ("f32", "bf16", "i8", "b1", "b1, 50 candidates"):
        index = ProductIndex.build(vectors, pa.table({"_id": split.product_ids}), dtype=name.split(",")[0])
        if "candidates" in name:
            index.graph.candidates = int(name.split()[1])
        found = [rows for rows, _ in index.search_rows(queries, K)]
        value = float(measure_rankings(split, found, ("ndcg@10",))["ndcg@10"].mean())
        figures[name] = {"ndcg@10": round(value, 5)}
        figures[name]["of f32"] = round(value / figures["f32"]["ndcg@10"], 4)
    return figures


PEERS = {"hnswlib": (build_hnswlib, load_hnswlib), "faiss": (build_faiss, load_faiss)}
TASKS = {"prepare": prepare, "build": build, "search": search, "end": end_to_end, "quality": quality}


def at_recall(figures: dict, wanted: float) -> dict | None:
    """The fastest setting with at least some recall."""
    enough = [setting for setting in figures["settings"] if setting["recall@10"] >= wanted]
    return max(enough, key=lambda setting: setting["queries/s"], default=None)


def summarise(figures: dict, arguments: SearchBenchArguments) -> dict:
    """What the issue of scale asks for: memory, latency, and speed at equal recall."""
    found = {name: figures[f"search {name}"] for name in CONTESTANTS if f"search {name}" in figures}
    ours = [name for name in found if name.startswith("ours")]
    summary = {"products": arguments.count, "usual width": EXPANSION}
    if {"ours i8", "ours f32"} <= set(found):
        ratio = found["ours i8"]["bytes in memory"] / found["ours f32"]["bytes in memory"]
        summary["memory of i8 / f32"] = round(ratio, 3)
    if "ours i8" in found:
        summary["i8 at its usual width"] = usual(found["ours i8"], EXPANSION)
    for wanted in RECALLS:
        at = {name: at_recall(one, wanted) for name, one in found.items()}
        summary[f"queries/s at recall {wanted}"] = {name: one and one["queries/s"] for name, one in at.items()}
        best = max((at[name]["queries/s"] for name in ours if at[name]), default=None)
        for peer in PEERS:
            if best and at.get(peer):
                summary[f"best of ours / {peer} at recall {wanted}"] = round(best / at[peer]["queries/s"], 2)
    summary["build seconds"] = {name: figures[f"build {name}"]["seconds"] for name in found}
    summary["curve, p50 ms"] = dict(curve_of(figures, EXPANSION))
    return summary


def usual(figures: dict, width: int) -> dict:
    """The setting of one width of the search."""
    return next(setting for setting in figures["settings"] if setting["expansion"] == width)


def curve_of(figures: dict, width: int) -> list[tuple[int, float]]:
    """Numbers of products and milliseconds a query, at one width."""
    names = [name for name in figures if name.startswith("search curve") or name == "search ours i8"]
    return sorted((figures[name]["products"], usual(figures[name], width)["p50 ms"]) for name in names)


def plot(figures: dict, arguments: SearchBenchArguments) -> None:
    """Milliseconds a query by the number of products, on a logarithmic axis: a straight line is log n."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(*zip(*curve_of(figures, EXPANSION), strict=True), marker="o")
    axes.set(xscale="log", ylim=(0, None), xlabel="products", ylabel="ms a query (p50, one thread)")
    axes.set_title(f"i8, search width {EXPANSION}, best {CANDIDATES['i8']} scored exactly")
    figure.tight_layout()
    Path(arguments.plot).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.plot, dpi=120)


def format_search(report: dict) -> str:
    """README's table: each contestant at the least recall of 0.99."""
    figures, products = report["figures"], report["summary"]["products"]
    lines = [
        f"{products:,} vectors of {figures['prepare']['dim']} dimensions, one thread, recall@10 of at least 0.99",
        "",
        "| index | queries/s | p50 ms | p99 ms | build s | bytes a product in memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in CONTESTANTS:
        if found := figures.get(f"search {name}"):
            one = at_recall(found, 0.99) or dict.fromkeys(("queries/s", "p50 ms", "p99 ms"), "-")
            size = f"{found['bytes in memory'] / products:,.0f}"
            seconds = f"{figures[f'build {name}']['seconds']:,.0f}"
            lines.append(f"| {name} | {one['queries/s']} | {one['p50 ms']} | {one['p99 ms']} | {seconds} | {size} |")
    width, whole, kept = report["summary"]["usual width"], figures["end to end"], figures["quality"]
    usually = usual(figures["search ours i8"], width)
    curve = ", ".join(f"{milliseconds} ms at {count:,}" for count, milliseconds in curve_of(figures, width))
    lines += [
        "",
        f"The default index (i8, width {width}): recall@10 {usually['recall@10']}, {usually['p50 ms']} ms (p50), "
        f"{usually['p99 ms']} ms (p99) a query; p50 by the number of products: {curve}. From a query's text to "
        f"results with the 8-bit query tower: {whole['int8 p50 ms']} ms (p50), {whole['int8 p99 ms']} ms (p99). "
        f"nDCG@10 on {report['options']['judged']} of that of f32: {kept['i8']['of f32']} with i8, "
        f"{kept['b1']['of f32']} with b1.",
    ]
    return "\n".join(lines)


def format_task(task: str, figures: dict) -> str:
    """A task's figures, a line for each setting."""
    if "settings" not in figures:
        return f"{task}: {json.dumps(figures)}"
    lines = [f"{task}: {figures['bytes in memory'] / figures['products']:,.0f} bytes a product in memory"]
    lines += ["    " + ", ".join(f"{name} {value}" for name, value in one.items()) for one in figures["settings"]]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, SearchBenchArguments, __doc__)
