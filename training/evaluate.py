"""Measures a model on a catalogue: nDCG, recall and MRR of its fused, text-only and image-only views.

    python -m training.evaluate --model runs/quickstart/model --data data/demo_shop --split test --report report.json
    python -m training.evaluate --model bm25 --data data/demo_shop
    python -m training.evaluate --model runs/quickstart/model --views fused,text,image,bm25,rrf,oracle
    python -m training.evaluate --model runs/esci/model --data data/esci --judged-only --metrics ndcg@1000

Search is exact unless --ann is given. Scores are compared to six decimals and ties go to the product that comes first
in the corpus.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

import modeling_mmfusion
from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.configuration_mmfusion import VIEWS
from modeling_mmfusion.index_mmfusion import ProductIndex
from training.arguments import run
from training.data import DataError, RetrievalSplit, load_split
from training.embedding import (
    TowerStates,
    check_model_name,
    embed_products,
    embed_queries,
    load_model,
    product_features,
    product_texts,
    query_features,
)
from training.examples import write_examples
from training.feature_cache import cache_key, cached_features, model_fingerprint
from training.files import check_output_file, new_file, write_json, write_text
from training.metrics.product_retrieval.product_retrieval import (
    DEFAULT_METRICS,
    compare,
    measure_of,
    per_query,
    summarise,
)
from training.rankers import (
    best_rows,
    is_other_encoder,
    judged_rows,
    rank_by_encoder,
    rank_by_ranks,
    rank_by_words,
)
from training.run_folder import environment

SCHEMA = 1
QUERY_BATCH = 256
MEASURED_QUERIES = 1000
RANDOM_ORDERS = 100
OTHER_VIEWS = ("bm25", "rrf", "oracle")
PER_QUERY = {"query-id": "_id", "text": "text", "slice": "slice", "novel": "novel"}


@dataclass
class EvaluateArguments:
    """Which model to measure on what.

    Args:
        model: Folder or Hub id of a trained model, folder of any text model of sentence-transformers, or bm25.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Split to measure; queries search in this split's corpus.
        report: JSON file to write the report to; null only prints it.
        views: Views to measure, with commas between: fused (text and pictures), text, image; besides them bm25, rrf
            (reciprocal rank fusion of bm25, text and image) and oracle (each query's better one of text and image).
        metrics: Metrics, with commas between, such as ndcg@10, recall@100, mrr@10, map@10, precision@10, success@10.
        batch_size: Products that go through the towers at a time.
        truncate_dim: Length of the vectors, each block's first dimensions in proportion; null for all.
        missing_images: Share of the products whose pictures are hidden, drawn at random.
        quantization: How products' vectors are stored: f32, f16, i8 (steps of 1/127) or b1 (signs alone).
        ann: Search by the approximate index instead of exactly.
        judged_only: Rank each query's judged products alone, as ESCI is measured; ndcg@1000 takes whole lists. Any
            order of such a list scores high, so the view random, the mean of 100 random orders, is measured beside.
        run_file: File to write the rankings of the first view to, in TREC's format.
        per_query: Parquet file to write each query's metrics and best ten products in each view to.
        examples: HTML page to write with the queries that fusion wins and loses most, with the catalogue's pictures.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    report: str | None = None
    views: str = ",".join(VIEWS)
    metrics: str = ",".join(DEFAULT_METRICS)
    batch_size: PositiveInt = 16
    truncate_dim: PositiveInt | None = None
    missing_images: ClosedUnitInterval = 0.0
    quantization: Literal["f32", "f16", "i8", "b1"] = "f32"
    ann: bool = False
    judged_only: bool = False
    run_file: str | None = None
    per_query: str | None = None
    examples: str | None = None


@dataclass
class Measured:
    """What was found and how good it is.

    Attributes:
        rankings (`dict[str, list[np.ndarray]]`): view to the rows of the best products for each query.
        values (`dict[str, dict[str, np.ndarray]]`): view to metric to values of shape `(queries,)`.
        dim (`int` or `None`): length of our vectors.
        shares (`dict[str, np.ndarray]`): share of each of our blocks in each query, `(queries,)`.
    """

    rankings: dict[str, list[np.ndarray]]
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    dim: int | None = None
    shares: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate(
    model: MMFusionModel,
    split: RetrievalSplit,
    products: TowerStates,
    queries: TowerStates,
    views: tuple[str, ...] = VIEWS,
    metrics: tuple[str, ...] = DEFAULT_METRICS,
) -> dict[str, dict[str, np.ndarray]]:
    """Each query's metrics in each view.

    Args:
        model (`MMFusionModel`): in eval mode.
        split (`RetrievalSplit`): corpus, queries and judgments.
        products (`TowerStates`): of the split's corpus.
        queries (`TowerStates`): of the split's queries.
        views (`tuple[str, ...]`): some of `fused`, `text`, `image`.
        metrics (`tuple[str, ...]`): such as `("ndcg@10",)`.

    Returns:
        `dict`: view to metric to values of shape `(queries,)`.
    """
    rankings = rank(model, products, queries, views, depth_of(metrics))
    return {view: measure_rankings(split, found, metrics) for view, found in rankings.items()}


def depth_of(metrics: tuple[str, ...]) -> int:
    """How many products a query needs for some metrics."""
    return max(measure_of(name).params["cutoff"] for name in metrics)


def rank(
    model: MMFusionModel,
    products: TowerStates,
    queries: TowerStates,
    views: tuple[str, ...],
    depth: int,
    quantization: str = "f32",
    ann: bool = False,
    among: list[np.ndarray] | None = None,
    embed: Callable[[MMFusionModel, TowerStates, str], np.ndarray] = embed_products,
) -> dict[str, list[np.ndarray]]:
    """Rows of the best products for each query in each view; see [`EvaluateArguments`].

    Exact search ranks the rows `among` alone, for each query, if they are given. `embed` gives a view's vectors.
    """
    vectors, _ = embed_queries(model, queries)
    rankings = {}
    for view in (view for view in views if view in VIEWS):
        found = quantize(embed(model, products, view), quantization)
        rankings[view] = search_index(vectors, found, depth) if ann else search_exact(vectors, found, depth, among)
    return rankings


def kept_vectors(
    model: MMFusionModel, processor: MMFusionProcessor, split: RetrievalSplit
) -> Callable[[MMFusionModel, TowerStates, str], np.ndarray]:
    """[`embed_products`] for a whole split, which takes the vectors that an earlier evaluation kept below
    `cache_folder()` of the same model, data and code of ours."""
    sources = sorted(Path(modeling_mmfusion.__file__).parent.glob("*_mmfusion.py"))
    facts = [model_fingerprint(model, processor), str(model.output_dims), *(file.read_text() for file in sources)]
    key = cache_key(*facts, *product_texts(processor, split), *split.picture_digests)

    def embed(model: MMFusionModel, products: TowerStates, view: str) -> np.ndarray:
        arrays, _ = cached_features(
            cache_key(key, view), lambda: ({"vectors": embed_products(model, products, view)}, [])
        )
        return arrays["vectors"]

    return embed


def search_exact(
    queries: np.ndarray, products: np.ndarray, k: int, among: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """The best `k` rows of `products` `(N, dim)` by inner product for each of `queries` `(Q, dim)`, best first.

    Only the rows `among`, for each query, are ranked if they are given. Scores are rounded to six decimals, so that
    rounding in the last place decides nothing; ties go to the lower row. Memory does not grow with the number of
    queries beyond the results.
    """
    batches = (queries[start : start + QUERY_BATCH] @ products.T for start in range(0, len(queries), QUERY_BATCH))
    rows_of = iter(among or [None] * len(queries))
    return [best_rows(scores, k, next(rows_of)) for batch in batches for scores in batch]


def search_index(queries: np.ndarray, products: np.ndarray, k: int) -> list[np.ndarray]:
    """The same by the approximate index."""
    ids = [str(row) for row in range(len(products))]
    index = ProductIndex.build(products, pa.table({"_id": ids}))
    return [np.array([int(result.product_id) for result in results]) for results in index.search(queries, k)]


def quantize(vectors: np.ndarray, how: str) -> np.ndarray:
    """Vectors `(N, dim)` as float32, with what is lost when they are stored as `f16`, `i8` or `b1`."""
    if how == "f16":
        return vectors.astype(np.float16).astype(np.float32)
    if how == "i8":
        return np.round(vectors * 127).clip(-127, 127).astype(np.float32) / 127
    return np.where(vectors > 0, 1, -1).astype(np.float32) if how == "b1" else vectors


def measure_rankings(
    split: RetrievalSplit, found: list[np.ndarray], metrics: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Each query's metrics of some rankings, in a memory that does not grow with their number."""
    values = {name: [] for name in metrics}
    for start in range(0, len(found), MEASURED_QUERIES):
        some = slice(start, start + MEASURED_QUERIES)
        rankings = {
            query["_id"]: [split.product_ids[row] for row in rows]
            for query, rows in zip(split.queries[some], found[some], strict=True)
        }
        for name, part in per_query(rankings, split.qrels, metrics).items():
            values[name].append(part)
    return {name: np.concatenate(parts) for name, parts in values.items()}


def random_floor(split: RetrievalSplit, metrics: tuple[str, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """What a model that knows nothing gets where each query's judged products are ranked alone.

    Args:
        split (`RetrievalSplit`): queries and judgments.
        metrics (`tuple[str, ...]`): such as `("ndcg@1000",)`.
        seed (`int`, *optional*, defaults to 0): seed of the orders.

    Returns:
        `dict[str, np.ndarray]`: metric to values of shape `(queries,)`, each the mean over 100 random orders.
    """
    rng, judged = np.random.default_rng(seed), judged_rows(split)
    floor = {name: np.zeros(len(split.queries)) for name in metrics}
    for _ in range(RANDOM_ORDERS):
        for name, found in measure_rankings(split, [rng.permutation(rows) for rows in judged], metrics).items():
            floor[name] += found / RANDOM_ORDERS
    return floor


def measure_views(
    arguments: EvaluateArguments, split: RetrievalSplit, views: tuple[str, ...], metrics: tuple[str, ...]
) -> Measured:
    """Rankings and metrics of the views that were asked for, of any kind of model."""
    depth, found = depth_of(metrics), Measured({})
    rankings, among = found.rankings, judged_rows(split) if arguments.judged_only else None
    if arguments.model == "bm25":
        rankings["bm25"] = rank_by_words(split, depth, among)
    elif is_other_encoder(arguments.model):
        rankings["text"] = rank_by_encoder(arguments.model, split, depth, arguments.batch_size, among)
    else:
        needed = [view for view in VIEWS if view in views or {"rrf", "oracle"} & set(views) and view != "fused"]
        model, processor = load_model(arguments.model, truncate_dim=arguments.truncate_dim)
        products = product_features(model, processor, split, arguments.batch_size)
        embed = kept_vectors(model, processor, split)
        if arguments.missing_images:
            products, embed = without_pictures(products, arguments.missing_images), embed_products
        queries = query_features(model, processor, split.query_texts)
        _, weights = embed_queries(model, queries)
        found.dim, found.shares = (
            model.config.projection_dim,
            dict(zip(model.config.blocks, weights.T**2, strict=True)),
        )
        how = {"quantization": arguments.quantization, "ann": arguments.ann, "among": among, "embed": embed}
        rankings |= rank(model, products, queries, tuple(needed), depth, **how)
        if {"bm25", "rrf"} & set(views):
            rankings["bm25"] = rank_by_words(split, depth, among)
        if "rrf" in views:
            rankings["rrf"] = rank_by_ranks([rankings[name] for name in ("bm25", "text", "image")], depth)
    values = {view: measure_rankings(split, rows, metrics) for view, rows in rankings.items()}
    if "oracle" in views and "image" in values:
        values["oracle"] = {name: np.maximum(values["text"][name], values["image"][name]) for name in metrics}
    shown = [view for view in views if view in values] or list(values)
    found.values = {view: values[view] for view in shown}
    if arguments.judged_only:
        found.values["random"] = random_floor(split, metrics)
    return found


def without_pictures(products: TowerStates, share: float, seed: int = 0) -> TowerStates:
    """The products with the pictures of a share of them hidden, drawn with `seed`."""
    hidden = np.random.default_rng(seed).random(len(products)) < share
    return TowerStates({**products.arrays, "image_mask": products.arrays["image_mask"] & ~hidden[:, None]})


def slice_masks(split: RetrievalSplit) -> dict[str, np.ndarray]:
    """Which queries belong to each slice.

    Slices are the values of the column `slice`; `novel` and `seen` by column `novel`; `head`, `torso` and `tail` by
    column `frequency`, each with a third of all searches; `picture missing`, where a relevant product has none.
    """
    names = [query.get("slice") for query in split.queries]
    masks = {name: np.array([other == name for other in names]) for name in sorted(set(filter(None, names)))}
    novel = [query.get("novel") for query in split.queries]
    for name, value in (("novel", True), ("seen", False)):
        if value in novel:
            masks[name] = np.array([other is value for other in novel])
    missing = queries_that_miss_pictures(split)
    found = masks | frequency_slices(split) | {"picture missing": missing}
    return {name: mask for name, mask in found.items() if mask.any() and (name in masks or not mask.all())}


def frequency_slices(split: RetrievalSplit) -> dict[str, np.ndarray]:
    """The most frequent queries that make up a third of all searches, the next ones, and the rest; or nothing if the
    queries don't tell how often they are asked."""
    counts = np.array([query.get("frequency") or 0 for query in split.queries])
    if not counts.all():
        return {}
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.zeros(len(counts), dtype=np.int64)
    third[order] = 3 * before // counts.sum()
    return {name: third == number for number, name in enumerate(("head", "torso", "tail"))}


def queries_that_miss_pictures(split: RetrievalSplit) -> np.ndarray:
    """The queries `(queries,)` for which some relevant product has no picture."""
    if "image" not in split.corpus.column_names:
        return np.ones(len(split.queries), dtype=bool)
    without = {name for name, digest in zip(split.product_ids, split.picture_digests, strict=True) if not digest}
    relevant = (split.qrels[query["_id"]].items() for query in split.queries)
    return np.array([any(score > 0 and product in without for product, score in found) for found in relevant])


def make_report(values: dict[str, dict[str, np.ndarray]], split: RetrievalSplit) -> dict:
    """Means with 95% intervals in each view and slice, and the fused view against each other one."""
    masks = slice_masks(split)
    slices = {
        name: {view: _summarise_all(metrics, mask) for view, metrics in values.items()} for name, mask in masks.items()
    }
    comparisons = {
        f"fused_vs_{view}": {metric: compare(values["fused"][metric], found) for metric, found in metrics.items()}
        for view, metrics in values.items()
        if view != "fused" and "fused" in values
    }
    return {
        "n_queries": len(split.queries),
        "n_products": len(split.product_ids),
        "views": {view: _summarise_all(metrics) for view, metrics in values.items()},
        "slices": slices,
        "slice_sizes": {name: int(mask.sum()) for name, mask in masks.items()},
        "comparisons": comparisons,
    }


def _summarise_all(metrics: dict[str, np.ndarray], mask: np.ndarray | slice = slice(None)) -> dict[str, dict]:
    return {name: summarise(found[mask]) for name, found in metrics.items()}


def format_report(report: dict) -> str:
    """The report as a Markdown table: a row a view, a column a metric, then the first metric a slice."""
    metrics = list(next(iter(report["views"].values())))
    slices = list(report["slices"])
    head = ["view", *metrics, *(f"{metrics[0]} {name}" for name in slices)]
    rows = [head, ["---"] * len(head)]
    for view, found in report["views"].items():
        cells = [f"{m['mean']:.3f} [{m['ci95'][0]:.3f}, {m['ci95'][1]:.3f}]" for m in found.values()]
        cells += [f"{report['slices'][name][view][metrics[0]]['mean']:.3f}" for name in slices]
        rows.append([view, *cells])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    sizes = f"{report['n_queries']:,} queries, {report['n_products']:,} products"
    if report.get("judged_only"):
        sizes += "; each query's judged products alone"
    return f"{report['data']}, {report['split']}: {sizes}\n{table}"


def main(arguments: EvaluateArguments) -> dict:
    """Measures, prints the table, writes the report and returns it."""
    started = time.perf_counter()
    views, metrics = tuple(arguments.views.split(",")), tuple(arguments.metrics.split(","))
    check_names(views, metrics)
    if arguments.examples and not {"fused", "text"} <= set(views):
        raise DataError("--examples compares the fused view with others: add fused, text and image to --views")
    if arguments.judged_only and arguments.ann:
        raise DataError("--judged-only: ranks exactly; leave out --ann")
    check_baseline(arguments, views)
    if arguments.model != "bm25":
        check_model_name(arguments.model)
    for file, suffix in (
        (arguments.report, ".json"),
        (arguments.per_query, ".parquet"),
        (arguments.examples, ".html"),
    ):
        if file:
            check_output_file(file, suffix)
    split = load_split(arguments.data, arguments.split)
    found = measure_views(arguments, split, views, metrics)
    report = {"schema": SCHEMA, "model": arguments.model, "data": arguments.data, "split": arguments.split}
    report |= {"dim": found.dim, "missing_images": arguments.missing_images, "quantization": arguments.quantization}
    report |= {"judged_only": arguments.judged_only} | make_report(found.values, split)
    report |= {"problems": split.problems.lines(), "environment": environment()}
    report["seconds"] = round(time.perf_counter() - started, 2)
    print(format_report(report), flush=True)
    split.problems.report()
    if arguments.report:
        write_json(Path(arguments.report), report)
    if arguments.run_file:
        write_run(Path(arguments.run_file), split, next(iter(found.rankings.values())))
    if arguments.per_query:
        write_per_query(Path(arguments.per_query), split, found.rankings, found.values)
    if arguments.examples:
        shown = {view: values[metrics[0]] for view, values in found.values.items() if view in VIEWS}
        title = f"{arguments.model} on {arguments.data}, {arguments.split}: {metrics[0]}"
        write_examples(Path(arguments.examples), split, shown, found.rankings, found.shares, title)
    return report


def views_of(model: str) -> tuple[str, ...]:
    """The views that a model may be measured in: one of words or of text alone has one."""
    if model == "bm25":
        return ("bm25",)
    return ("text",) if is_other_encoder(model) else (*VIEWS, *OTHER_VIEWS)


def check_baseline(arguments: EvaluateArguments, views: tuple[str, ...]) -> None:
    """Refuses options that only our models know, so that none is silently ignored for bm25 or a text model.

    Raises:
        DataError: naming the option.
    """
    known = views_of(arguments.model)
    if len(known) > 1:
        return
    defaults = EvaluateArguments()
    names = ("truncate_dim", "missing_images", "quantization", "ann", "examples")
    given = [name for name in names if getattr(arguments, name) != getattr(defaults, name)]
    given += ["views"] if arguments.views != defaults.views and not set(views) <= set(known) else []
    if given:
        option = given[0].replace("_", "-")
        raise DataError(f"--{option}: {arguments.model} has only the view {known[0]}; leave out --{option}")


def write_run(file: Path, split: RetrievalSplit, found: list[np.ndarray]) -> None:
    """Writes rankings in TREC's format: query id, `Q0`, product id, rank from 1, a score that falls, `mmfusion`."""
    lines = []
    for query, rows in zip(split.queries, found, strict=True):
        for rank_, row in enumerate(rows.tolist(), start=1):
            lines.append(f"{query['_id']} Q0 {split.product_ids[row]} {rank_} {1 / rank_:.6f} mmfusion\n")
    write_text(file, "".join(lines))


def write_per_query(file: Path, split: RetrievalSplit, rankings: dict, values: dict) -> None:
    """Writes a row a query: id, text, slice, each view's metrics and the ids of its best ten products."""
    columns = {name: [query.get(key) for query in split.queries] for name, key in PER_QUERY.items()}
    for view, metrics in values.items():
        columns |= {f"{view} {name}": found for name, found in metrics.items()}
    for view, found in rankings.items():
        columns[f"{view} top 10"] = [[split.product_ids[row] for row in rows[:10]] for rows in found]
    with new_file(file) as partial:
        pq.write_table(pa.table(columns), partial)


def check_names(views: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Refuses views and metrics that don't exist before anything is computed.

    Raises:
        DataError: naming the view or metric and what there is.
    """
    for view in views:
        if view not in (*VIEWS, *OTHER_VIEWS):
            raise DataError(f"unknown view {view!r}; use some of {', '.join((*VIEWS, *OTHER_VIEWS))}")
    for name in metrics:
        try:
            measure_of(name)
        except ValueError as error:
            raise DataError(str(error)) from error


if __name__ == "__main__":
    run(main, EvaluateArguments, __doc__)
