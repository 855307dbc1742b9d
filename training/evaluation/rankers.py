"""Rankings by what a model is to be compared with: words (BM25), other encoders, and several rankings as one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoConfig

from modeling_mmfusion.encoders_mmfusion import is_dual_encoder
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_words import ProductWords, best_rows, words_weight
from modeling_mmfusion.model_folder import reading
from modeling_mmfusion.text_mmfusion import PRODUCT_FIELDS, join_fields
from training.catalogue.layout import RetrievalSplit

PLAIN_BM25 = {"k1": 1.5, "b": 0.75, "stemmed": False}
RRF_K = 60  # of the paper
TEXT_MODELS_INSTALL = "pip install sentence-transformers"


def listing_texts(split: RetrievalSplit, fields: Sequence[str] = PRODUCT_FIELDS) -> list[str]:
    """Each product of a split as the text of some fields, by default those that our models read."""
    columns = [name for name in split.corpus.column_names if name != "image"]
    return [join_fields(product, fields) for product in split.corpus.select_columns(columns)]


def judged_rows(split: RetrievalSplit) -> list[np.ndarray]:
    """The rows of each query's judged products, in ascending order."""
    row_of = {product: row for row, product in enumerate(split.product_ids)}
    return [np.array(sorted(row_of[product] for product in split.qrels[query["_id"]])) for query in split.queries]


class Ranker(Protocol):
    """Anything that ranks a split's products for its queries: our views, and all that they are compared with."""

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """Rows of the corpus for each query, best first.

        Args:
            split (`RetrievalSplit`): corpus and queries.
            depth (`int`): products a query.
            among (`list[np.ndarray]`, *optional*): rows to rank for each query; the whole corpus if not given.
        """


class WordRanker:
    """BM25 over the products' texts.

    Ranks only products that share a word with the query, unless `among` says which to rank.

    Args:
        fields (`list[str]`, *optional*): of the products, in their order; those of `processor.product_fields`.
        settings (`dict`, *optional*): `k1`, `b` and `stemmed` of [`ProductWords.build`]; by default BM25 as most
            libraries have it: k1 1.5, b 0.75, words as they stand.

    References:
        The library bm25s, https://huggingface.co/papers/2407.03618.
    """

    def __init__(self, fields: Sequence[str] = PRODUCT_FIELDS, settings: Mapping[str, Any] = PLAIN_BM25):
        self.fields = fields
        self.settings = dict(settings)

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`]."""
        words = ProductWords.build(listing_texts(split, self.fields), **self.settings)
        rankings = []
        for number, text in enumerate(tqdm(split.query_texts, desc="BM25", unit="query", leave=False)):
            if among:
                rankings.append(best_rows(words.scores(text), depth, among[number]))
            else:
                rankings.append(words.best(text, depth))
        return rankings


class TextRanker:
    """The products' texts by cosine to the query, with any text model of sentence-transformers.

    Args:
        name (`str`): its folder or Hub id; models with code of their own are not run.
        batch_size (`int`, *optional*, defaults to 32): texts at a time.
    """

    def __init__(self, name: str, batch_size: int = 32):
        self.name = name
        self.batch_size = batch_size

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`].

        Raises:
            DataError: if the model can't be loaded.
        """
        encoder = load_text_model(self.name, "SentenceTransformer")
        options = {"batch_size": self.batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        products = encoder.encode_document(listing_texts(split), **options)
        queries = encoder.encode_query(split.query_texts, **options)
        return [
            best_rows(products @ query, depth, rows)
            for query, rows in zip(queries, among or [None] * len(queries), strict=True)
        ]


class SparseRanker:
    """The products' texts by a sparse encoder of sentence-transformers, such as SPLADE: by the similarity that the
    model asks for, by default the inner product, of weights over a vocabulary.

    Args:
        name (`str`): its folder; models with code of their own are not run.
        batch_size (`int`, *optional*, defaults to 32): texts at a time.

    References:
        Formal et al., SPLADE v2, https://huggingface.co/papers/2109.10086.
    """

    def __init__(self, name: str, batch_size: int = 32):
        self.name = name
        self.batch_size = batch_size

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`].

        Raises:
            DataError: if the model can't be loaded.
        """
        encoder = load_text_model(self.name, "SparseEncoder")
        options = {"batch_size": self.batch_size, "show_progress_bar": False}
        products, rankings = encoder.encode_document(listing_texts(split), **options), []
        rows_of = iter(among or [None] * len(split.queries))
        for start in range(0, len(split.queries), self.batch_size):
            queries = encoder.encode_query(split.query_texts[start : start + self.batch_size], **options)
            scores = encoder.similarity(queries, products).float().cpu().numpy()
            rankings += [best_rows(row, depth, next(rows_of)) for row in scores]
        return rankings


def load_text_model(name: str, kind: str, **options):
    """A model of sentence-transformers.

    Args:
        name (`str`): its folder or Hub id.
        kind (`str`): the class that it is of, such as `"SentenceTransformer"`, which takes the `options`.

    Raises:
        DataError: if the library is not installed or the model can't be loaded.
    """
    try:
        import sentence_transformers
    except ImportError as error:
        raise DataError(f"sentence-transformers is not installed; run: {TEXT_MODELS_INSTALL}") from error
    with reading(f"{name}: can't load it as a sentence-transformers model"):
        return getattr(sentence_transformers, kind)(str(name), **options)


class HybridRanker:
    """Products by what [`ProductIndex.search`] with `texts` scores: the vectors' inner product and matching words.

    Args:
        queries (`np.ndarray` of shape `(Q, dim)`): unit vectors.
        vectors (`Callable`): gives the products' `(N, dim)`.
        blocks (`Mapping[str, int]`): widths of the vectors' blocks.
        fields (`list[str]`, *optional*): of the products, in their order; those of `processor.product_fields`.
    """

    def __init__(
        self,
        queries: np.ndarray,
        vectors: Callable[[], np.ndarray],
        blocks: Mapping[str, int],
        fields: Sequence[str] = PRODUCT_FIELDS,
    ):
        self.queries = queries
        self.vectors = vectors
        self.blocks = blocks
        self.fields = fields

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`]."""
        words, products = ProductWords.build(listing_texts(split, self.fields)), self.vectors()
        rows_of = among or [None] * len(self.queries)
        return [
            best_rows(products @ query + words_weight(query, self.blocks) * words.matches(text), depth, rows)
            for query, text, rows in zip(self.queries, split.query_texts, rows_of, strict=True)
        ]


class MixRanker:
    """Products by a weighted sum of cosines, those of their texts and those of their pictures to the query, as dual
    encoders are used without a training.

    Args:
        queries (`np.ndarray` of shape `(Q, dim)`): unit vectors.
        texts (`np.ndarray` of shape `(N, dim)`): the products', 0 where there is none.
        images (`np.ndarray` of shape `(N, dim)`): likewise.
        text_weight (`float`): of the texts; the pictures have the rest. As in GCL the sum is made a unit vector.

    References:
        CLIP_SF of UniIR, https://huggingface.co/papers/2311.17136, with equal weights; Marqo's GCL,
        https://huggingface.co/papers/2404.08535, with .9 and .1.
    """

    def __init__(self, queries: np.ndarray, texts: np.ndarray, images: np.ndarray, text_weight: float):
        mixed = text_weight * texts + (1 - text_weight) * images
        self.products = mixed / np.linalg.norm(mixed, axis=1, keepdims=True).clip(min=1e-12)
        self.queries = queries

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`]."""
        rows_of = among or [None] * len(self.queries)
        return [
            best_rows(self.products @ query, depth, rows) for query, rows in zip(self.queries, rows_of, strict=True)
        ]


def fuse_rankings(rankings: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Reciprocal rank fusion of one query's rankings by several systems: the sum of `1 / (60 + rank)`.

    Args:
        rankings (`Sequence[np.ndarray]`): of each system the rows, best first.
        depth (`int`): rows to give; ties go to the lower row.

    References:
        Cormack et al., Reciprocal Rank Fusion outperforms Condorcet (SIGIR 2009).
    """
    scores: dict[int, float] = {}
    for rows in rankings:
        for rank, row in enumerate(rows.tolist(), start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (RRF_K + rank)
    order = sorted(scores, key=lambda row: (-round(scores[row], 9), row))
    return np.array(order[:depth], dtype=np.int64)


class RankFusion:
    """Reciprocal rank fusion of several rankings of the same corpus: the sum of `1 / (60 + rank)`.

    Args:
        rankings (`list[list[np.ndarray]]`): of each system the rows for each query, best first.

    References:
        Cormack et al., Reciprocal Rank Fusion outperforms Condorcet (SIGIR 2009).
    """

    def __init__(self, rankings: list[list[np.ndarray]]):
        self.rankings = rankings

    def rank(self, split: RetrievalSplit, depth: int, among: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """See [`Ranker`]; `among` has been heeded by the rankings."""
        return [fuse_rankings(rows_of_systems, depth) for rows_of_systems in zip(*self.rankings, strict=True)]


def is_dual_encoder_name(name: str) -> bool:
    """Whether a folder or Hub id is that of a dual encoder of transformers and not of one of our models."""
    try:
        with reading(name):
            return is_dual_encoder(AutoConfig.from_pretrained(name))
    except DataError:  # whoever loads the model tells of it
        return False


def is_other_encoder(name: str) -> bool:
    """Whether a local folder holds a sentence-transformers model that is none of ours."""
    folder = Path(name)
    config = folder / "config.json"
    ours = config.is_file() and '"mmfusion"' in config.read_text(encoding="utf-8", errors="replace")
    return (folder / "modules.json").is_file() and not ours


def is_sparse_encoder(name: str) -> bool:
    """Whether a local folder holds a sparse encoder of sentence-transformers."""
    modules = Path(name) / "modules.json"
    return modules.is_file() and ".sparse_encoder." in modules.read_text(encoding="utf-8", errors="replace")
