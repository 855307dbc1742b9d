"""What a style of query costs, and how often fusion harms.

Styles are those of `training.styles`, by the queries' column `style`. A style's queries are compared with those that
they were made of, which have the same judgments.
"""

import numpy as np

from training.catalogue.layout import RetrievalSplit
from training.evaluation.statistics import bootstrap_interval, ratio_interval

AS_ASKED = "as asked"  # the style of a catalogue's own queries
STYLE = "style"  # stands before a style's name among slices, some of which are called alike
LEAST = 1e-9  # difference of a query's values that counts


def style_masks(queries: list[dict]) -> dict[str, np.ndarray]:
    """Which queries `(queries,)` are of each style, in their order; nothing if they tell no style."""
    names = [query.get("style") for query in queries]
    return {name: np.array([other == name for other in names]) for name in dict.fromkeys(names) if name}


def as_asked(split: RetrievalSplit) -> np.ndarray:
    """Which queries `(queries,)` are a catalogue's own."""
    return np.array([query.get("style") in (None, AS_ASKED) for query in split.queries])


def styles_and_harm(
    values: dict[str, dict[str, np.ndarray]], split: RetrievalSplit, masks: dict[str, np.ndarray]
) -> dict[str, dict]:
    """What a report tells of styles and of harm by the first metric: `styles` ([`style_costs`]) where queries have
    styles, and `harm` ([`harm_rates`]) where both the fused and the text view are measured."""
    found, metric = {}, next(iter(next(iter(values.values()))))
    if style_masks(split.queries):
        found["styles"] = style_costs({view: of[metric] for view, of in values.items()}, split.queries)
    if {"fused", "text"} <= values.keys():
        found["harm"] = harm_rates(values["fused"][metric], values["text"][metric], masks)
    return found


def style_costs(values: dict[str, np.ndarray], queries: list[dict]) -> dict[str, dict[str, dict]]:
    """What each style costs beside the queries that it was made of.

    Args:
        values (`dict[str, np.ndarray]`): view, or system, to a metric's values of shape `(queries,)`.
        queries (`list[dict]`): each with `_id`, `style` and `source`.

    Returns:
        `dict`: style to view to `n` (queries), `mean` and `ci95` (by bootstrap over them), and of those with a source
        `n_pairs`, `source_mean`, and `cost`, the mean over the sources' less one, with `cost_ci95` (by bootstrap over
        pairs): -0.2 is a fifth lost. Without sources, or if these find nothing, both are `None`.
    """
    row_of = {query["_id"]: row for row, query in enumerate(queries)}
    sources = np.array([row_of.get(query.get("source"), -1) for query in queries])
    found = {}
    for style, mask in style_masks(queries).items():
        made = np.flatnonzero(mask & (sources >= 0))
        found[style] = {view: _cost(of[mask], of[made], of[sources[made]]) for view, of in values.items()}
    return found


def _cost(own: np.ndarray, made: np.ndarray, source: np.ndarray) -> dict:
    before = float(source.mean()) if len(source) else None
    cost = float(made.mean()) / before - 1 if before else None
    interval = [ratio - 1 for ratio in ratio_interval(made, source)] if before else None
    found = {"n": len(own), "mean": float(own.mean()), "ci95": list(bootstrap_interval(own)), "n_pairs": len(made)}
    return found | {"source_mean": before, "cost": cost, "cost_ci95": interval}


def harm_rates(fused: np.ndarray, text: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, dict]:
    """How often the fused view is worse than text alone, and how often better.

    Args:
        fused (`np.ndarray` of shape `(queries,)`): a metric's values of the fused view.
        text (`np.ndarray` of shape `(queries,)`): of the text view.
        masks (`dict[str, np.ndarray]`): the queries of each slice and style.

    Returns:
        `dict`: `all` and each slice to `share` (of the queries that are worse) and `loss` (their mean loss, 0 if
        there are none), and to `better` and `gain`, the same of those that are better.
    """
    gains = fused - text
    everything = {"all": np.ones(len(gains), dtype=bool)}
    return {name: _harm(gains[mask]) for name, mask in (everything | masks).items()}


def _harm(gains: np.ndarray) -> dict[str, float]:
    worse, better = -gains[gains < -LEAST], gains[gains > LEAST]
    found = {"share": len(worse) / len(gains), "loss": float(worse.mean()) if len(worse) else 0.0}
    return found | {"better": len(better) / len(gains), "gain": float(better.mean()) if len(better) else 0.0}


def format_styles(report: dict) -> str:
    """A Markdown table with a row a style: the first metric and its cost in each view, and how often fusion harms."""
    views, harm = list(report["views"]), report.get("harm", {})
    metric = next(iter(report["views"][views[0]]))
    head = [f"style, {metric}", "queries", *(f"{view} (cost)" for view in views)]
    head += ["fused worse than text (by)"] if harm else []
    rows = [head, ["---"] * len(head)]
    for style, found in report["styles"].items():
        cells = [f"{found[views[0]]['n']:,}"]
        cells += [format_cost(found[view]) for view in views]
        rows.append([style, *cells] + ([format_harm(harm[f"{STYLE} {style}"])] if harm else []))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def format_cost(found: dict) -> str:
    """A style's mean and, if it has one, its cost, such as `0.489 (-43%)`."""
    return f"{found['mean']:.3f}" + ("" if found["cost"] is None else f" ({found['cost']:+.0%})")


def format_harm(harm: dict[str, float]) -> str:
    """Such as `12% (.083)`."""
    return f"{harm['share']:.0%} ({harm['loss']:.3f})"
