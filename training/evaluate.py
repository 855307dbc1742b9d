"""Measures a model on a catalogue: nDCG, recall and MRR of its fused, text-only and image-only views.

    python -m training.evaluate --model runs/quickstart/model --data data/demo_shop --split test --report report.json

Search is exact. Scores are compared to six decimals and ties go to the product that comes first in the corpus.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.configuration_mmfusion import VIEWS
from training.arguments import run
from training.data import DataError, RetrievalSplit, load_split
from training.embedding import (
    TowerStates,
    embed_products,
    embed_queries,
    load_model,
    product_features,
    query_features,
)
from training.metrics.product_retrieval.product_retrieval import (
    DEFAULT_METRICS,
    compare,
    measure_of,
    per_query,
    summarise,
)
from training.run_folder import environment, write_json

SCHEMA = 1
QUERY_BATCH = 256


@dataclass
class EvaluateArguments:
    """Which model to measure on what.

    Args:
        model: Folder of a trained model, or its Hub id.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Split to measure; queries search in this split's corpus.
        report: JSON file to write the report to; null only prints it.
        views: Views to measure, with commas between: fused (text and pictures), text, image.
        metrics: Metrics, with commas between, such as ndcg@10, recall@100, mrr@10, map@10, precision@10, success@10.
        batch_size: Products that go through the towers at a time.
        truncate_dim: Length of the vectors, each block's first dimensions in proportion; null for all.
        missing_images: Share of the products whose pictures are hidden, drawn at random.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    report: str | None = None
    views: str = ",".join(VIEWS)
    metrics: str = ",".join(DEFAULT_METRICS)
    batch_size: int = 16
    truncate_dim: int | None = None
    missing_images: float = 0.0


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
    depth = max(measure_of(name).params["cutoff"] for name in metrics)
    query_vectors, _ = embed_queries(model, queries)
    values = {}
    for view in views:
        found = search_exact(query_vectors, embed_products(model, products, view), depth)
        rankings = {
            query["_id"]: [split.product_ids[row] for row in rows]
            for query, rows in zip(split.queries, found, strict=True)
        }
        values[view] = per_query(rankings, split.qrels, metrics)
    return values


def search_exact(queries: np.ndarray, products: np.ndarray, k: int) -> list[np.ndarray]:
    """The best `k` rows of `products` `(N, dim)` by inner product for each of `queries` `(Q, dim)`, best first.

    Scores are rounded to six decimals, so that rounding in the last place decides nothing; ties go to the lower row.
    Memory does not grow with the number of queries beyond the results.
    """
    k = min(k, len(products))
    results = []
    for start in range(0, len(queries), QUERY_BATCH):
        for scores in np.round(queries[start : start + QUERY_BATCH] @ products.T, 6):
            worst = np.partition(scores, -k)[-k]
            rows = np.flatnonzero(scores >= worst)
            results.append(rows[np.argsort(-scores[rows], kind="stable")][:k])
    return results


def without_pictures(products: TowerStates, share: float, seed: int = 0) -> TowerStates:
    """The products with the pictures of a share of them hidden, drawn with `seed`."""
    hidden = np.random.default_rng(seed).random(len(products)) < share
    return TowerStates({**products.arrays, "image_mask": products.arrays["image_mask"] & ~hidden[:, None]})


def slice_masks(split: RetrievalSplit) -> dict[str, np.ndarray]:
    """Which queries belong to each slice: the values of `slice`, and `novel` and `seen` from the column `novel`."""
    names = [query.get("slice") for query in split.queries]
    masks = {name: np.array([other == name for other in names]) for name in sorted(set(filter(None, names)))}
    novel = [query.get("novel") for query in split.queries]
    for name, value in (("novel", True), ("seen", False)):
        if value in novel:
            masks[name] = np.array([other is value for other in novel])
    return masks


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
    return f"{report['data']}, {report['split']}: {sizes}\n{table}"


def main(arguments: EvaluateArguments) -> dict:
    """Measures, prints the table, writes the report and returns it."""
    started = time.perf_counter()
    views, metrics = tuple(arguments.views.split(",")), tuple(arguments.metrics.split(","))
    check_names(views, metrics)
    model, processor = load_model(arguments.model, truncate_dim=arguments.truncate_dim)
    split = load_split(arguments.data, arguments.split)
    products = product_features(model, processor, split, arguments.batch_size)
    if arguments.missing_images:
        products = without_pictures(products, arguments.missing_images)
    queries = query_features(model, processor, split.query_texts)
    values = evaluate(model, split, products, queries, views, metrics)
    report = {"schema": SCHEMA, "model": arguments.model, "data": arguments.data, "split": arguments.split}
    report |= {"dim": model.config.projection_dim, "missing_images": arguments.missing_images}
    report |= make_report(values, split)
    report |= {"problems": split.problems.lines(), "environment": environment()}
    report["seconds"] = round(time.perf_counter() - started, 2)
    print(format_report(report), flush=True)
    split.problems.report()
    if arguments.report:
        write_json(Path(arguments.report), report)
    return report


def check_names(views: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Refuses views and metrics that don't exist before anything is computed.

    Raises:
        DataError: naming the view or metric and what there is.
    """
    for view in views:
        if view not in VIEWS:
            raise DataError(f"unknown view {view!r}; use some of {', '.join(VIEWS)}")
    for name in metrics:
        try:
            measure_of(name)
        except ValueError as error:
            raise DataError(str(error)) from error


if __name__ == "__main__":
    run(main, EvaluateArguments, __doc__)
