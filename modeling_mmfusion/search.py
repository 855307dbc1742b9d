"""`Searcher`: a query tower and the index of products that belongs to it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .checksums import check_model_name, check_whole
from .errors import ProductIndexError
from .exported import ExportedQueryReader, OnnxTowers, exported_query_reader
from .index import ProductIndex, SearchResult
from .queries_mmfusion import MMFusionQueryReader
from .sharded import ShardedIndex, open_index

if TYPE_CHECKING:
    from .modeling_mmfusion import MMFusionModel
    from .processing_mmfusion import MMFusionProcessor
    from .query_mmfusion import MMFusionQueryModel

BATCH_SIZE = 64  # queries that are embedded and searched together
AWAY = 0.6  # of the way from a query to itself with what it does not want, and in the other direction


class ProductSearch(Protocol):
    """What [`Searcher`] searches: [`ProductIndex`], or products that are kept in another way."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    @property
    def blocks(self) -> Mapping[str, int]:
        """Widths of the vectors' blocks by name, in their order; empty if not known."""

    @property
    def model(self) -> str:
        """Fingerprint of the model that made the vectors."""

    @property
    def hybrid(self) -> bool:
        """Whether searches take `texts`."""

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[SearchResult]]:
        """The best products for each query; see [`ProductIndex.search`]."""


class Searcher:
    """A query tower and an index that belong together. With an exported tower neither torch nor transformers is
    imported before a picture is searched for.

    Misspelled words of queries are corrected to those of the products, if the index has words; see
    [`MMFusionSpeller`].

    Args:
        run (`str` or `Path`): run folder with `model/` and `index/`, which may be in shards. The index is mapped into
            memory; `searcher.index.refresh()` opens a newer one.
        tower (`str`, *optional*, defaults to `"torch"`): `torch`, `onnx` or `int8`; see [`SearchArguments`].
        spelling (`bool`, *optional*, defaults to `True`): whether misspelled words are corrected;
            `processor.correction` tells to what.
        index (`ProductSearch`, *optional*): what is searched in place of `run/index`, such as an engine; the run then
            needs only `model/`. `SearchResult.contributions` come from [`ProductIndex`] alone.

    Raises:
        DataError: if the model is missing or damaged.
        ProductIndexError: if the index is missing or damaged, or was built with another model.
    """

    def __init__(
        self, run: str | Path, tower: str = "torch", spelling: bool = True, index: ProductSearch | None = None
    ):
        self.folder = Path(run) / "model"
        check_model_name(self.folder)
        self.processor: MMFusionProcessor | ExportedQueryReader
        self.index = open_index(Path(run) / "index") if index is None else index
        self.processor, self.tower, fingerprint = load_query_side(self.folder, tower)
        check_same_model(self.index, fingerprint, self.folder)
        if spelling and isinstance(self.index, ProductIndex | ShardedIndex):
            self.index.teach(self.processor)
        elif not spelling:
            self.processor.spelling_words = ""
        if tower == "torch":
            self.tower.config.truncate_dim = self.index.dim

    @cached_property
    def whole_model(self) -> "tuple[MMFusionModel, MMFusionProcessor]":
        """The model with its image encoder and its processor, loaded when a picture is first searched for."""
        from .model_folder import load_model

        model, processor = load_model(self.folder, device="cpu", truncate_dim=self.index.dim)
        processor.spelling_words = self.processor.spelling_words
        return model, processor

    def embed(self, texts: list[str], images: list | None = None, image_weight: float = 0.5) -> np.ndarray:
        """Vectors `(queries, dim)` of texts, pictures ("like this") or both ("like this, but red").

        Args:
            texts (`list[str]`): the queries; empty ones have only a picture.
            images (`list`, *optional*): each query's picture in a form that `processor.process_products` takes, or
                `None`.
            image_weight (`float`, *optional*, defaults to 0.5): share of the picture where there is a text too.
        """
        if images is None:
            return turn_away(self._embed_texts(texts), texts, self.processor, self._embed_texts)
        import torch

        model, processor = self.whole_model
        vectors = []
        for text, image in zip(texts, images, strict=True):
            inputs = dict(processor.process_queries([text])) if text.strip() else {}
            if image is not None:
                pictures = processor.process_products([{"image": image}])
                inputs |= {name: pictures[name] for name in ("pixel_values", "image_mask")}
            with torch.inference_mode():
                output = model.get_query_features(**inputs, image_weight=image_weight)
            vectors.append(output.pooler_output.float().numpy())
        return np.concatenate(vectors)

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        inputs = self.processor.process_queries(texts)
        if isinstance(self.tower, OnnxTowers):
            return self.tower.query_vectors(inputs)
        import torch

        with torch.inference_mode():
            return self.tower.get_query_features(**inputs).pooler_output.float().numpy()

    def search(
        self,
        query: str,
        k: int = 10,
        where: dict[str, Any] | None = None,
        hybrid: bool = True,
        image: Any = None,
        image_weight: float = 0.5,
    ) -> tuple[list[SearchResult], dict[str, float]]:
        """The best `k` products for a query, and the share of each block in its vector (they sum to 1).

        Args:
            query (`str`): a text; may be empty if there is a picture.
            k (`int`, *optional*, defaults to 10): products.
            where (`dict`, *optional*): conditions; see [`ProductIndex.search`].
            hybrid (`bool`, *optional*, defaults to `True`): let matching words count too, if the index has words; see
                [`ProductIndex.search`].
            image (*optional*): a picture: path, bytes or PIL image.
            image_weight (`float`, *optional*, defaults to 0.5): share of the picture where there is a text too.
        """
        vectors = self.embed([query], None if image is None else [image], image_weight)
        results = self.index.search(vectors, k, where, self._texts([query], hybrid))[0]
        return results, self.shares(vectors[0])

    def search_many(
        self, queries: list[str], k: int = 10, where: dict[str, Any] | None = None, hybrid: bool = True
    ) -> Iterator[tuple[list[SearchResult], dict[str, float]]]:
        """What [`~Searcher.search`] says of each of many texts."""
        for start in range(0, len(queries), BATCH_SIZE):
            texts = queries[start : start + BATCH_SIZE]
            vectors = self.embed(texts)
            found = self.index.search(vectors, k, where, self._texts(texts, hybrid))
            yield from ((results, self.shares(vector)) for results, vector in zip(found, vectors, strict=True))

    def _texts(self, texts: list[str], hybrid: bool) -> list[str] | None:
        if not hybrid or not any(texts) or not self.index.hybrid:
            return None
        return [self.processor.query_text(text) for text in texts]

    def shares(self, vector: np.ndarray) -> dict[str, float]:
        """The share of each block in a query's vector."""
        return block_shares(vector, self.index.blocks)


def check_same_model(index: ProductSearch, model: str, name: Path) -> None:
    """Refuses a model whose queries don't fit.

    Args:
        index (`ProductSearch`): what is searched.
        model (`str`): the model's fingerprint.
        name (`Path`): the model's folder.

    Raises:
        ProductIndexError: if the vectors are another model's.
    """
    if isinstance(index, ProductIndex):
        index.check_model(model, name=name)
    elif index.model != model:
        raise ProductIndexError(
            f"the products that are searched have vectors of another model ({index.model or 'unknown'}) than {name} "
            f"({model}); embed them with this model and load them again"
        )


def turn_away(
    vectors: np.ndarray,
    texts: Sequence[str],
    processor: MMFusionQueryReader,
    embed: Callable[[list[str]], np.ndarray],
) -> np.ndarray:
    """Turns queries away from what they say that they do not want.

    `dress without stripes` is embedded as `dress`, and goes 0.6 of the way from `stripes dress` to `dress` farther.

    Args:
        vectors (`np.ndarray` of shape `(queries, dim)`): the queries' unit vectors, without what they do not want.
        texts (`Sequence[str]`): as typed.
        processor (`MMFusionQueryReader`): the model's; see [`~MMFusionQueryReader.unwanted_text`].
        embed (`Callable`): makes unit vectors of texts.

    Returns:
        `np.ndarray` of shape `(queries, dim)`: unit vectors; the same where nothing is excluded.
    """
    unwanted = {row: text for row, query in enumerate(texts) if (text := processor.unwanted_text(query))}
    if not unwanted:
        return vectors
    rows, turned = list(unwanted), vectors.copy()
    turned[rows] += AWAY * (vectors[rows] - embed(list(unwanted.values())))
    turned[rows] /= np.linalg.norm(turned[rows], axis=1, keepdims=True)
    return turned


def load_query_side(
    folder: Path, tower: str = "torch"
) -> "tuple[MMFusionProcessor | ExportedQueryReader, MMFusionQueryModel | OnnxTowers, str]":
    """What a search needs of a model: what reads queries, the query tower and the model's fingerprint. Of the files
    those that it reads are checked.

    Args:
        folder (`Path`): a model folder.
        tower (`str`, *optional*, defaults to `"torch"`): see [`Searcher`].

    Raises:
        DataError: if the tower is missing or damaged.
    """
    if tower != "torch":
        exported = exported_tower(folder, tower, threads_asked_for())
        if (reader := exported_query_reader(folder)) is not None:
            return reader, exported, exported.model
    check_whole(folder)
    return load_query_tower(folder, tower)


def threads_asked_for() -> int:
    """Threads by the environment's `OMP_NUM_THREADS`, which torch heeds and ONNX Runtime does not; 0 without it."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for threads within threads
    return int(asked) if asked.isdecimal() else 0


def load_query_tower(
    folder: Path, tower: str = "torch"
) -> "tuple[MMFusionProcessor, MMFusionQueryModel | OnnxTowers, str]":
    """The processor, the query tower and the model's fingerprint.

    Args:
        folder (`Path`): a model folder.
        tower (`str`, *optional*, defaults to `"torch"`): see [`Searcher`].

    Raises:
        DataError: if the tower is missing or damaged.
    """
    import torch

    from .auto import MMFusionProcessor
    from .fingerprint import stored_fingerprint
    from .model_folder import load_weights, reading, try_processor
    from .query_mmfusion import MMFusionQueryModel

    with reading(f"{folder}: can't load the query tower"):
        processor = try_processor(MMFusionProcessor.from_pretrained(folder))
        if tower == "torch":
            model = load_weights(MMFusionQueryModel, folder).eval()
            return processor, model, stored_fingerprint(folder, processor)
        exported = exported_tower(folder, tower, torch.get_num_threads())
        return processor, exported, exported.model


def exported_tower(folder: Path, tower: str, threads: int = 0) -> OnnxTowers:
    """The query tower that `training.export` wrote to a model folder.

    Args:
        folder (`Path`): a model folder.
        tower (`str`): `onnx` or `int8`.
        threads (`int`, *optional*, defaults to 0): threads to run on; 0 for one a core.

    Raises:
        DataError: if it is missing or damaged.
    """
    name = "query_tower_int8" if tower == "int8" else "query_tower"
    return OnnxTowers(folder / "onnx", name, threads, queries_only=True)


def block_shares(vector: np.ndarray, blocks: Mapping[str, int]) -> dict[str, float]:
    """The share of each block in a query's vector; they sum to 1. Empty if the blocks are not known.

    Args:
        vector (`np.ndarray` of shape `(dim,)`): a unit vector.
        blocks (`Mapping[str, int]`): widths of the blocks by name, in their order.
    """
    if not blocks:
        return {}
    starts = np.cumsum([0, *blocks.values()])[:-1]
    return dict(zip(blocks, np.add.reduceat(vector**2, starts).tolist(), strict=True))
