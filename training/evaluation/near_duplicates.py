"""Products of a measured split that are nearly alike in another one, by what encoders say of titles and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.text_mmfusion import PRODUCT_FIELDS
from training.catalogue.layout import NothingToMeasure, RetrievalSplit
from training.common.files import read_json
from training.evaluation.rankers import listing_texts
from training.features.encoder import Encoder

ROWS = 256  # of the split, that are compared at a time


@dataclass
class NearDuplicates:
    """What a split has nearly alike in another one.

    Attributes:
        pairs (`int`): products of the two that are near duplicates.
        by_text_alone (`int`): those of them of which one has no picture.
        by_picture_alone (`int`): those of which one has no text.
        nearest (`dict[int, tuple[int, float, float]]`): row of the split to the row of its nearest pair, and the
            cosines of text and picture, 0 where one of the two has none.
    """

    pairs: int = 0
    by_text_alone: int = 0
    by_picture_alone: int = 0
    nearest: dict[int, tuple[int, float, float]] = field(default_factory=dict)


def encoder_features(encoder: Encoder, split: RetrievalSplit) -> tuple[np.ndarray, np.ndarray]:
    """What an encoder says of each product's title (all its fields in a split without titles) and first picture: unit
    vectors `(N, dim)` of each, 0 where there is none."""
    fields = ("title",) if "title" in split.corpus.column_names else PRODUCT_FIELDS
    texts = encoder.text_states(listing_texts(split, fields)).arrays
    pictures = encoder.picture_states(split).arrays
    width = encoder.model.product_heads.image_norm.sizes[0]  # of the pooled output; other levels come behind it
    first, there = pictures["image_features"][:, 0, :width], pictures["image_mask"][:, 0]
    return unit_rows(texts["text_features"], texts["text_mask"]), unit_rows(first, there)


def unit_rows(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Features `(N, dim)` as unit vectors, 0 where `mask` `(N,)` is False."""
    return mask[:, None] * features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def find_near_duplicates(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], threshold: float) -> NearDuplicates:
    """The pairs of products of two splits whose texts and pictures both have a cosine of at least `threshold`.

    Where one of a pair has no text or no picture the other modality decides alone; where nothing can be compared it is
    no pair.

    Args:
        ours (`tuple[np.ndarray, np.ndarray]`): texts and pictures of one split, see [`encoder_features`].
        theirs (`tuple[np.ndarray, np.ndarray]`): of the other.
        threshold (`float`): least cosine.
    """
    found = NearDuplicates()
    for start in tqdm(range(0, len(ours[0]), ROWS), desc="near duplicates", leave=False):
        some = [rows[start : start + ROWS] for rows in ours]
        cosines = [rows @ others.T for rows, others in zip(some, theirs, strict=True)]
        both = [np.outer(rows.any(axis=1), others.any(axis=1)) for rows, others in zip(some, theirs, strict=True)]
        alike = [there & (cosine >= threshold) for there, cosine in zip(both, cosines, strict=True)]
        by_text, by_picture = alike[0] & ~both[1], alike[1] & ~both[0]
        pairs = (alike[0] & alike[1]) | by_text | by_picture
        found.pairs += int(pairs.sum())
        found.by_text_alone += int(by_text.sum())
        found.by_picture_alone += int(by_picture.sum())
        nearest = np.where(pairs, cosines[0] + cosines[1], -1).argmax(axis=1)
        for row in np.flatnonzero(pairs.any(axis=1)).tolist():
            text, picture = (round(float(cosine[row, nearest[row]]), 4) for cosine in cosines)
            found.nearest[start + row] = int(nearest[row]), text, picture
    return found


def read_excluded(file: str) -> set[str]:
    """The ids of the near duplicates in a file of `training.audit`.

    Raises:
        DataError: if it is no such file.
    """
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; give one that training.audit wrote")
    found = read_json(Path(file))
    if not isinstance(found, dict) or "near_duplicates" not in found:
        raise DataError(f"{file}: is no report of training.audit; give one that it wrote")
    return {pair["product"] for pair in found["near_duplicates"]}


def without_products(split: RetrievalSplit, excluded: set[str]) -> RetrievalSplit:
    """A split without some products, their judgments, and the queries that have no relevant product left.

    Raises:
        DataError: if a product is none of the split's, so that the ids are of another one.
        NothingToMeasure: if no query is left.
    """
    if not excluded:
        return split
    if strange := excluded - set(split.product_ids):
        raise DataError(f"{split.name}: has no product {min(strange)!r}, which is to be left out; audit this split")
    kept = split.take([row for row, product in enumerate(split.product_ids) if product not in excluded])
    qrels = {
        query: {product: score for product, score in scores.items() if product not in excluded}
        for query, scores in split.qrels.items()
    }
    rows = [row for row, query in enumerate(split.queries) if any(s > 0 for s in qrels[query["_id"]].values())]
    if not rows:
        raise NothingToMeasure(f"{split.name}: no query has a relevant product that is no near duplicate")
    pictures = split.query_pictures and split.query_pictures.take(rows)
    kept = replace(kept, queries=[split.queries[row] for row in rows], qrels=qrels, problems=split.problems)
    return replace(kept, query_pictures=pictures)
