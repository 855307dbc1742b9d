"""BM25 at its best: k1, b and stemming chosen on a catalogue's dev queries."""

import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.text_mmfusion import PRODUCT_FIELDS
from training.catalogue.layout import load_split, split_names
from training.evaluation.product_retrieval.metrics import per_query
from training.evaluation.rankers import PLAIN_BM25, WordRanker

METRIC, DEPTH = "ndcg@10", 10
DEV_SPLITS = ("dev", "validation")
GRID = [
    {"k1": k1, "b": b, "stemmed": stemmed}
    for stemmed, k1, b in product((False, True), (0.4, 0.8, 1.5, 2.5), (0.25, 0.5, 0.75, 1.0))
]


def tune_bm25(data: str, measured: str, fields: Sequence[str] = PRODUCT_FIELDS) -> dict:
    """The settings of [`ProductWords.build`] with the highest nDCG@10 on the queries of `dev`, or of `validation`.

    Nothing is drawn, and ties go to the library's own settings, then to those that come first in [`GRID`]. Where
    there is neither split, that is said and the library's settings stay.

    Args:
        data (`str`): the catalogue.
        measured (`str`): the split that is going to be measured.
        fields (`list[str]`, *optional*): of the products, in their order.

    Raises:
        DataError: if the measured split is the one that settings would be chosen on.
    """
    split_name = next((name for name in DEV_SPLITS if name in split_names(data)), None)
    if split_name is None:
        print(f"warning: {data} has no split dev to tune BM25 on; its default stays", file=sys.stderr, flush=True)
        return dict(PLAIN_BM25)
    if split_name == measured:
        raise DataError(f"--model bm25-tuned is tuned on the split {measured}; measure another one, or bm25")
    split, values = load_split(data, split_name), []
    queries = [query["_id"] for query in split.queries]
    settings = [PLAIN_BM25, *GRID]
    for one in tqdm(settings, desc=f"BM25 on {split_name}", leave=False):
        rows = zip(queries, WordRanker(fields, one).rank(split, DEPTH), strict=True)
        rankings = {query: [split.product_ids[row] for row in found] for query, found in rows}
        values.append(float(per_query(rankings, split.qrels, (METRIC,))[METRIC].mean()))
    best = settings[int(np.argmax(np.round(values, 6)))]
    said = f"k1 {best['k1']}, b {best['b']}, {'stems' if best['stemmed'] else 'words as they stand'}"
    print(f"bm25: {said}; {METRIC} {max(values):.3f} on {split_name}, the default's is {values[0]:.3f}", flush=True)
    return dict(best)
