"""Measures a model's views of a catalogue: exact or approximate rankings, and their metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import modeling_mmfusion
from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import digest_of
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.search import turn_away
from modeling_mmfusion.text_mmfusion import VIEWS
from training.catalogue.layout import RetrievalSplit
from training.evaluation.bm25_tuning import tune_bm25
from training.evaluation.options import EvaluateArguments
from training.evaluation.product_retrieval.metrics import (
    DEFAULT_METRICS,
    measure_of,
    per_query,
)
from training.evaluation.rankers import (
    HybridRanker,
    MixRanker,
    Ranker,
    RankFusion,
    SparseRanker,
    TextRanker,
    WordRanker,
    best_rows,
    is_dual_encoder_name,
    is_other_encoder,
    is_sparse_encoder,
    judged_rows,
    listing_texts,
)
from training.features.cache import cached_features
from training.features.encoder import (
    Encoder,
    TowerStates,
    aligned_pictures,
    embed_picture_queries,
    embed_products,
    embed_queries,
)

SCHEMA = 1
QUERY_BATCH = 256
MEASURED_QUERIES = 1000
RANDOM_ORDERS = 100
BM25 = ("bm25", "bm25-tuned")  # in place of a model
WORD_VIEWS = ("bm25", "rrf", "hybrid")
OTHER_VIEWS = (*WORD_VIEWS, "oracle")
DUAL_VIEWS = {"sum": 0.5, "sum_9_1": 0.9, "text": 1.0, "image": 0.0}  # of a dual encoder: the text's weight


@dataclass
class MeasuredViews:
    """What was found and how good it is.

    Attributes:
        rankings (`dict[str, list[np.ndarray]]`): view to the rows of the best products for each query.
        values (`dict[str, dict[str, np.ndarray]]`): view to metric to values of shape `(queries,)`.
        dim (`int` or `None`): length of our vectors.
        shares (`dict[str, np.ndarray]`): share of each of our blocks in each query, `(queries,)`.
        bm25 (`dict`): the settings that bm25-tuned chose.
    """

    rankings: dict[str, list[np.ndarray]]
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    dim: int | None = None
    shares: dict[str, np.ndarray] = field(default_factory=dict)
    bm25: dict[str, Any] = field(default_factory=dict)


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
    vectors, depth = embed_queries(model, queries)[0], depth_of(metrics)
    rankings = {view: ViewRanker(model, products, vectors, view).rank(split, depth) for view in views}
    return {view: measure_rankings(split, found, metrics) for view, found in rankings.items()}


def depth_of(metrics: tuple[str, ...]) -> int:
    """How many products a query needs for some metrics."""
    return max(measure_of(name).params["cutoff"] for name in metrics)


class ViewRanker:
    """One of our views: products' vectors by inner product to the queries'.

    Args:
        model (`MMFusionModel`): in eval mode.
        products (`TowerStates`): of the split's corpus.
        queries (`np.ndarray` of shape `(Q, dim)`): the queries' vectors.
        view (`str`): `fused`, `text` or `image`.
        quantization (`str`, *optional*, defaults to `"f32"`): how products' vectors are stored; see [`quantize`].
        ann (`bool`, *optional*, defaults to `False`): search by the approximate index; then `among` is not heeded.
        embed (`Callable`, *optional*, defaults to `embed_products`): gives the view's vectors.
    """

    def __init__(
        self,
        model: MMFusionModel,
        products: TowerStates,
        queries: np.ndarray,
        view: str,
        quantization: str = "f32",
        ann: bool = False,
        embed: Callable[[MMFusionModel, TowerStates, str], np.ndarray] = embed_products,
    ):
        self.queries = queries
        self.vectors = lambda: quantize(embed(model, products, view), quantization)
        self.ann = ann

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`]."""
        if self.ann:
            return search_index(self.queries, self.vectors(), depth)
        return search_exact(self.queries, self.vectors(), depth, among)


def kept_vectors(encoder: Encoder, split: RetrievalSplit) -> Callable[[MMFusionModel, TowerStates, str], np.ndarray]:
    """[`embed_products`] for a whole split, which takes the vectors that an earlier evaluation kept below
    `cache_folder()` of the same model, data and code of ours."""
    sources = sorted(Path(modeling_mmfusion.__file__).parent.glob("*.py"))
    facts = [encoder.fingerprint, str(encoder.model.output_dims), *(file.read_text() for file in sources)]
    key = digest_of(*facts, *encoder.product_texts(split), *split.picture_digests)

    def embed(model: MMFusionModel, products: TowerStates, view: str) -> np.ndarray:
        arrays, _ = cached_features(
            digest_of(key, view), lambda: ({"vectors": embed_products(model, products, view)}, [])
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
        qrels = {query: split.qrels[query] for query in rankings}
        for name, part in per_query(rankings, qrels, metrics).items():
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
) -> MeasuredViews:
    """Rankings and metrics of the views that were asked for, of any kind of model."""
    depth, found = depth_of(metrics), MeasuredViews({})
    rankings, among = found.rankings, judged_rows(split) if arguments.judged_only else None
    for view, ranker in rankers_of(arguments, split, views, found).items():
        rankings[view] = ranker.rank(split, depth, among)
    if "rrf" in views:
        parts = [rankings[name] for name in ("bm25", "text", "image")]
        rankings["rrf"] = RankFusion(parts).rank(split, depth, among)
    values = {view: measure_rankings(split, rows, metrics) for view, rows in rankings.items()}
    if "oracle" in views and "image" in values:
        values["oracle"] = {name: np.maximum(values["text"][name], values["image"][name]) for name in metrics}
    shown = [view for view in views if view in values] or list(values)
    found.values = {view: values[view] for view in shown}
    if arguments.judged_only:
        found.values["random"] = random_floor(split, metrics)
    return found


def rankers_of(
    arguments: EvaluateArguments, split: RetrievalSplit, views: tuple[str, ...], found: MeasuredViews
) -> dict[str, Ranker]:
    """A ranker for each view of a model but those that are made of others' rankings; of ours `found` learns the
    vectors' length and the queries' shares."""
    if split.query_pictures:
        check_reads_pictures(arguments, views)
    if arguments.model == "bm25-tuned":
        found.bm25 = tune_bm25(arguments.tune_on or arguments.data, arguments.split)
        return {"bm25": WordRanker(settings=found.bm25)}
    if arguments.model == "bm25":
        return {"bm25": WordRanker()}
    if is_other_encoder(arguments.model):
        ranker = SparseRanker if is_sparse_encoder(arguments.model) else TextRanker
        return {"text": ranker(arguments.model, arguments.batch_size)}
    if is_dual_encoder_name(arguments.model):
        return dual_encoder_rankers(arguments, split, views)
    encoder = Encoder.load(arguments.model, truncate_dim=arguments.truncate_dim)
    learn_spelling(encoder, split, arguments.spelling)
    products, embed = encoder.product_states(split, arguments.batch_size), kept_vectors(encoder, split)
    if arguments.missing_images:
        products, embed = without_pictures(products, arguments.missing_images), embed_products
    model = encoder.model
    if split.query_pictures:
        queries, weights = embed_picture_queries(model, encoder.product_states(split.query_pictures))
    else:
        queries, weights = embed_queries(model, encoder.query_states(split.query_texts))
        queries = turn_away(queries, split.query_texts, encoder.processor, encoder.embed_queries)
    found.dim = model.config.projection_dim
    found.shares = dict(zip(model.config.blocks, weights.T**2, strict=True))
    parts = {"fused": {"hybrid"}, "text": {"rrf", "oracle"}, "image": {"rrf", "oracle"}}
    needed = [view for view in VIEWS if {view, *parts[view]} & set(views)]
    how = {"quantization": arguments.quantization, "ann": arguments.ann, "embed": embed}
    ours = {view: ViewRanker(model, products, queries, view, **how) for view in needed}
    rankers: dict[str, Ranker] = {**ours}
    if "hybrid" in views:
        rankers["hybrid"] = HybridRanker(
            queries, ours["fused"].vectors, model.config.truncated_dims(found.dim), encoder.processor.product_fields
        )
    if {"bm25", "rrf"} & set(views):
        rankers["bm25"] = WordRanker(encoder.processor.product_fields)
    return rankers


def learn_spelling(encoder: Encoder, split: RetrievalSplit, spelling: bool) -> None:
    """Tells the processor the words of the corpus, as a search in it does, or lets it correct nothing."""
    if spelling:
        encoder.processor.learn_words(listing_texts(split, encoder.processor.product_fields))
    else:
        encoder.processor.spelling_words = ""


def dual_encoder_rankers(
    arguments: EvaluateArguments, split: RetrievalSplit, views: tuple[str, ...]
) -> dict[str, Ranker]:
    """A ranker for each view of a dual encoder as it is: text, image and two fixed mixes of both."""
    encoder = Encoder.of_dual_encoder(arguments.model)
    products = encoder.product_states(split, arguments.batch_size)
    if split.query_pictures:
        queries = aligned_pictures(encoder.model, encoder.picture_states(split.query_pictures))
    else:
        queries = encoder.query_states(split.query_texts).arrays["aligned_features"]
    images = aligned_pictures(encoder.model, products)
    texts = products.arrays["aligned_features"] * products.arrays["text_mask"][:, None]
    return {view: MixRanker(queries, texts, images, DUAL_VIEWS[view]) for view in views if view in DUAL_VIEWS}


def check_reads_pictures(arguments: EvaluateArguments, views: tuple[str, ...]) -> None:
    """Refuses what compares words where the queries are pictures.

    Raises:
        DataError: naming the model, the view or the option.
    """
    if not views_for_pictures(arguments.model):
        raise DataError(f"{arguments.data}: its queries are pictures, which {arguments.model} can't take")
    if words := [view for view in views if view in WORD_VIEWS]:
        raise DataError(f"{arguments.data}: its queries are pictures; leave {words[0]} out of --views")
    if arguments.examples:
        raise DataError(f"{arguments.data}: its queries are pictures, which --examples can't show; leave it out")


def without_pictures(products: TowerStates, share: float, seed: int = 0) -> TowerStates:
    """The products with the pictures of a share of them hidden, drawn with `seed`."""
    hidden = np.random.default_rng(seed).random(len(products)) < share
    return TowerStates({**products.arrays, "image_mask": products.arrays["image_mask"] & ~hidden[:, None]})


def views_of(model: str) -> tuple[str, ...]:
    """The views that a model may be measured in: one of words or of text alone has one."""
    if model in BM25:
        return ("bm25",)
    if is_other_encoder(model):
        return ("text",)
    return tuple(DUAL_VIEWS) if is_dual_encoder_name(model) else (*VIEWS, *OTHER_VIEWS)


def views_for_pictures(model: str) -> tuple[str, ...]:
    """Those of [`views_of`] that queries which are pictures may be measured in: none of a model of texts alone."""
    known = views_of(model)
    return tuple(view for view in known if view not in WORD_VIEWS) if "image" in known else ()


def check_baseline(arguments: EvaluateArguments, views: tuple[str, ...]) -> None:
    """Refuses options that only our models know, so that none is silently ignored for bm25 or a text model.

    Raises:
        DataError: naming the option.
    """
    known = views_of(arguments.model)
    if arguments.tune_on and arguments.model != "bm25-tuned":
        raise DataError(f"--tune-on: only bm25-tuned is tuned, {arguments.model} is not; leave it out")
    if "fused" in known:
        return
    defaults = EvaluateArguments()
    names = ("truncate_dim", "missing_images", "quantization", "ann", "examples", "spelling")
    given = [name for name in names if getattr(arguments, name) != getattr(defaults, name)]
    given += ["views"] if arguments.views != defaults.views and not set(views) <= set(known) else []
    if given:
        option = given[0].replace("_", "-")
        only = f"the view {known[0]}" if len(known) == 1 else f"the views {', '.join(known)}"
        raise DataError(f"--{option}: {arguments.model} has only {only}; leave out --{option}")


def check_names(views: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Refuses views and metrics that don't exist before anything is computed.

    Raises:
        DataError: naming the view or metric and what there is.
    """
    for view in views:
        if view not in (known := dict.fromkeys((*VIEWS, *OTHER_VIEWS, *DUAL_VIEWS))):
            raise DataError(f"unknown view {view!r}; use some of {', '.join(known)}")
    if not views or not metrics:
        option = "--metrics" if views else "--views"
        raise DataError(f"{option}: names nothing to measure; leave it out for the default")
    for name in metrics:
        try:
            measure_of(name)
        except ValueError as error:
            raise DataError(str(error)) from error
