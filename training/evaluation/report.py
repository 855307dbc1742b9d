"""Reports of rankings: means, intervals, slices, and files for other tools."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.catalogue.layout import RetrievalSplit
from training.common.files import new_file
from training.evaluation.product_retrieval.metrics import of_quality
from training.evaluation.statistics import SIGNIFICANT, paired_difference, summarise, with_holm
from training.evaluation.styles import STYLE, as_asked, format_harm, format_styles, style_masks, styles_and_harm

PER_QUERY = {"query-id": "_id"} | {name: name for name in ("text", "slice", "novel", "style", "source")}
LEGEND = "`*` differs from fused: p < .05, paired randomisation test, Holm's correction over a column's views."


def slice_masks(split: RetrievalSplit) -> dict[str, np.ndarray]:
    """Which queries belong to each slice.

    Slices are the values of the column `slice`; `novel` and `seen` by column `novel`; `head`, `torso` and `tail` by
    column `frequency`, each with a third of all searches; `picture missing`, where a relevant product has none; and
    the values of the column `style`, each after the word style.
    """
    names = [query.get("slice") for query in split.queries]
    masks = {name: np.array([other == name for other in names]) for name in sorted(set(filter(None, names)))}
    novel = [query.get("novel") for query in split.queries]
    for name, value in (("novel", True), ("seen", False)):
        if value in novel:
            masks[name] = np.array([other is value for other in novel])
    missing = queries_that_miss_pictures(split)
    found = masks | frequency_slices(split) | {"picture missing": missing}
    found |= {f"{STYLE} {name}": mask for name, mask in style_masks(split.queries).items()}
    return {name: mask for name, mask in found.items() if mask.any() and (name in masks or not mask.all())}


def frequency_slices(split: RetrievalSplit) -> dict[str, np.ndarray]:
    """The most frequent queries that make up a third of all searches, the next ones, and the rest; or nothing if the
    queries don't tell how often they are asked; those of other styles than as asked are in none."""
    counts = np.array([query.get("frequency") or 0 for query in split.queries])
    if not counts[as_asked(split)].all():
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
    """Means with 95% intervals in each view and slice, and the fused view against each other one.

    The p-values of a metric's comparisons are corrected as one family, see [`holm`].
    """
    masks = slice_masks(split)
    slices = {
        name: {view: _summarise_all(metrics, mask) for view, metrics in values.items()} for name, mask in masks.items()
    }
    comparisons = {
        f"fused_vs_{view}": {
            metric: paired_difference(values["fused"][metric], metrics[metric]) for metric in of_quality(metrics)
        }
        for view, metrics in values.items()
        if view != "fused" and "fused" in values
    }
    return {
        "n_queries": len(split.queries),
        "n_products": len(split.product_ids),
        "views": {view: _summarise_all(metrics) for view, metrics in values.items()},
        "slices": slices,
        "slice_sizes": {name: int(mask.sum()) for name, mask in masks.items()},
        "comparisons": corrected(comparisons),
        **styles_and_harm(values, split, masks),
    }


def corrected(comparisons: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict]]:
    """Comparisons, each with its tests by metric, with `p_holm` over those of a metric."""
    metrics = list(next(iter(comparisons.values()), {}))
    families = {name: with_holm({pair: tests[name] for pair, tests in comparisons.items()}) for name in metrics}
    return {pair: {name: families[name][pair] for name in metrics} for pair in comparisons}


def _summarise_all(metrics: dict[str, np.ndarray], mask: np.ndarray | slice = slice(None)) -> dict[str, dict]:
    return {name: summarise(found[mask]) for name, found in metrics.items()}


def format_mean(found: dict) -> str:
    """A mean with its interval, and the range over seeds if there are several: `0.853 [0.841, 0.864]`."""
    low, high = found["ci95"]
    seeds = found.get("seeds", [])
    between = f" ({min(seeds):.3f} to {max(seeds):.3f})" if len(set(seeds)) > 1 else ""
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]{between}"


def format_report(report: dict) -> str:
    """The report as a Markdown table: a row a view, a column a metric, then the first metric a slice.

    Behind the views' means stands a mark where they differ from the fused view's, and what it means is said below; so
    are how often fusion harms, and a table of the styles.
    """
    metrics = list(next(iter(report["views"].values())))
    slices = [name for name in report["slices"] if not name.startswith(STYLE)]
    comparisons = corrected(report["comparisons"])  # of old reports too
    head = ["view", *metrics, *(f"{metrics[0]} {name}" for name in slices)]
    rows = [head, ["---"] * len(head)]
    for view, found in report["views"].items():
        tests = comparisons.get(f"fused_vs_{view}", {})
        differs = {name for name, test in tests.items() if test["p_holm"] < SIGNIFICANT}
        cells = [format_mean(mean) + "*" * (name in differs) for name, mean in found.items()]
        cells += [f"{report['slices'][name][view][metrics[0]]['mean']:.3f}" for name in slices]
        rows.append([view, *cells])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    sizes = f"{report['n_queries']:,} queries, {report['n_products']:,} products"
    if report.get("judged_only"):
        sizes += "; each query's judged products alone"
    if report.get("excluded"):
        sizes += f"; without {report['excluded']:,} near duplicates"
    lines = [f"{report['data']}, {report['split']}: {sizes}", table] + ([f"\n{LEGEND}"] if comparisons else [])
    if harm := report.get("harm"):
        told = ", ".join(f"{name} {format_harm(harm[name])}" for name in ("all", *slices))
        lines.append(f"\nfused worse than text in {metrics[0]}, share of the queries (mean loss on them): {told}")
    if "styles" in report:
        lines.append(f"\n{format_styles(report)}")
    return "\n".join(lines)


def write_per_query(file: Path, split: RetrievalSplit, rankings: dict, values: dict) -> None:
    """Writes a row a query: id, text, slice, each view's metrics and the ids of its best ten products."""
    columns = {name: [query.get(key) for query in split.queries] for name, key in PER_QUERY.items()}
    for view, metrics in values.items():
        columns |= {f"{view} {name}": found for name, found in metrics.items()}
    for view, found in rankings.items():
        columns[f"{view} top 10"] = [[split.product_ids[row] for row in rows[:10]] for rows in found]
    with new_file(file) as partial:
        pq.write_table(pa.table(columns), partial)
