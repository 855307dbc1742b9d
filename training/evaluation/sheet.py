"""Draws what the fused, text-only and image-only views find for a few queries, as one picture.

    python -m training.evaluation.sheet --model runs/quickstart/model --data data/demo_shop --output results.png

A green frame marks products that are judged relevant.
"""

from training.common.cli import run
from training.evaluation.options import SheetArguments

if __name__ == "__main__":
    run("training.evaluation.sheet", SheetArguments, __doc__)

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.pictures_mmfusion import load_picture, pictures_of
from modeling_mmfusion.text_mmfusion import VIEWS
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.files import beside, check_output_file, new_file
from training.evaluation.measuring import search_exact
from training.features.encoder import Encoder, TowerStates, embed_products, embed_queries

RELEVANT, OTHER = "#2e9e5b", "#dddddd"


def draw_sheet(
    model: MMFusionModel, split: RetrievalSplit, products: TowerStates, queries: TowerStates, count: int, k: int
) -> Figure:
    """A figure with a row a query and, side by side, the results of each view.

    Args:
        model (`MMFusionModel`): in eval mode.
        split (`RetrievalSplit`): corpus, queries and judgments.
        products (`TowerStates`): of the split's corpus.
        queries (`TowerStates`): of the split's queries.
        count (`int`): queries to show.
        k (`int`): results to show.
    """
    vectors, _ = embed_queries(model, queries)
    found = {view: search_exact(vectors, embed_products(model, products, view), k) for view in VIEWS}
    gains = {view: np.array([_gain(split, *item) for item in enumerate(rows)]) for view, rows in found.items()}
    shown = np.argsort(-(gains["fused"] - np.maximum(gains["text"], gains["image"])), kind="stable")[:count]
    figure = plt.figure(figsize=(1.05 * k * len(VIEWS), 1.35 * count), layout="constrained")
    for query, line in zip(shown, figure.subfigures(len(shown), 1, squeeze=False)[:, 0], strict=True):
        line.suptitle(f"“{split.queries[query]['text']}”", fontsize=12)
        for view, part in zip(VIEWS, line.subfigures(1, len(VIEWS)), strict=True):
            part.supylabel(view if query == shown[0] else " ", fontsize=10)
            for axis, product in zip(part.subplots(1, k, squeeze=False)[0], found[view][query], strict=False):
                _draw_product(axis, split, query, product)
    return figure


def _is_relevant(split: RetrievalSplit, query: int, row: int) -> bool:
    return split.qrels[split.queries[query]["_id"]].get(split.product_ids[row], 0) > 0


def _gain(split: RetrievalSplit, query: int, rows: np.ndarray) -> float:
    return sum(_is_relevant(split, query, row) / np.log2(rank + 2) for rank, row in enumerate(rows))


def _draw_product(axis, split: RetrievalSplit, query: int, row: int) -> None:
    relevant = _is_relevant(split, query, row)
    try:
        axis.imshow(load_picture(pictures_of(split.corpus[int(row)].get("image"))[0]))
    except (ValueError, IndexError):  # unreadable or missing
        axis.text(0.5, 0.5, "no picture", ha="center", va="center", transform=axis.transAxes, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_edgecolor(RELEVANT if relevant else OTHER)
        spine.set_linewidth(4 if relevant else 1)


def main(arguments: SheetArguments) -> Path:
    """Draws, writes the picture and returns its path."""
    output = check_output_file(arguments.output or beside(arguments.model, "results.png"))
    encoder = Encoder.load(arguments.model)
    split = load_split(arguments.data, arguments.split)
    products, queries = encoder.product_states(split), encoder.query_states(split.query_texts)
    figure = draw_sheet(encoder.model, split, products, queries, arguments.queries, arguments.k)
    with new_file(output) as partial:
        figure.savefig(partial, dpi=110, facecolor="white")
    plt.close(figure)
    split.problems.report()
    print(f"picture: {output}", flush=True)
    return output
