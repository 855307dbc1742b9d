"""The one path from products and queries to vectors; training, evaluation, index building and search all use it.

The encoders are by far the dearest part and often frozen, so what they say is kept (`cache.py`); the fusion
network turns cached features into vectors in no time. Catalogues of any size go through `embed_windows`, which keeps
nothing: pictures are read by threads while the tower computes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from modeling_mmfusion import MMFusionModel, MMFusionProcessor, MMFusionStates
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import digest_of, encoder_fingerprint, model_fingerprint
from modeling_mmfusion.index_graph import UNIT
from modeling_mmfusion.model_folder import load_model, prepare_for_inference, reading, try_processor
from modeling_mmfusion.pictures_mmfusion import load_picture, pictures_of
from training.catalogue.layout import RetrievalSplit, rows_of
from training.features.cache import Found, cached_features

BATCH_SIZE = 16  # on a CPU the fastest of 4, 8, 16, 32 and 64: a larger batch's feature maps leave the cache
HEAD_BATCH_SIZE = 1024


@dataclass
class TowerStates:
    """What the frozen towers say about N queries or products.

    Attributes:
        arrays (`dict[str, np.ndarray]`): the fields of [`MMFusionStates`], each with N rows and padded with zeros;
            features are float32, the states of image cells float16.
    """

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def states(self, rows, device: torch.device | str = "cpu") -> MMFusionStates:
        """The states of some rows (a slice or an array of indices)."""
        found = {name: torch.from_numpy(array[rows]).to(device) for name, array in self.arrays.items()}
        return MMFusionStates(**{name: to_model_dtype(tensor) for name, tensor in found.items()})


def to_model_dtype(tensor: torch.Tensor) -> torch.Tensor:
    """Float16, in which states are kept, to float32; anything else as it is."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class Encoder:
    """A model and its processor, and what its frozen encoders said of products and queries, which is kept.

    Args:
        model (`MMFusionModel`): in eval mode.
        processor (`MMFusionProcessor`): the model's.
    """

    def __init__(self, model: MMFusionModel, processor: MMFusionProcessor):
        self.model = model
        self.processor = processor

    @classmethod
    def load(cls, name: str | os.PathLike, device: str | None = None, truncate_dim: int | None = None) -> "Encoder":
        """That of a model folder or Hub id; see [`load_model`]."""
        return cls(*load_model(name, device, truncate_dim))

    @classmethod
    def of_dual_encoder(cls, name: str | os.PathLike) -> "Encoder":
        """That of a model which starts from an aligned dual encoder, and so says what the dual encoder says.

        Raises:
            DataError: if there is no such dual encoder, or it lacks a tokenizer or an image processor.
        """
        with reading(f"{name}: can't load the dual encoder"):
            model = MMFusionModel.from_towers(aligned=name)
            processor = try_processor(MMFusionProcessor.from_towers(aligned=name))
        return cls(prepare_for_inference(model), processor)

    @property
    def fingerprint(self) -> str:
        """See [`model_fingerprint`]."""
        return model_fingerprint(self.model, self.processor)

    def embed_products(self, split: RetrievalSplit, view: str = "fused") -> np.ndarray:
        """Vectors `(N, embedding_dim)` of a split's products, float32."""
        return embed_products(self.model, self.product_states(split), view)

    def embed_queries(self, texts: list[str], cache: bool = True) -> np.ndarray:
        """Vectors `(N, embedding_dim)` of queries, float32."""
        return embed_queries(self.model, self.query_states(texts, cache))[0]

    def product_states(
        self,
        split: RetrievalSplit,
        batch_size: int = BATCH_SIZE,
        keep_texts: bool = True,
        keep_pictures: bool = True,
    ) -> TowerStates:
        """Runs the product tower's encoders over a catalogue's split, or takes what an earlier run kept.

        An unreadable picture is counted in `split.problems` and its product embedded from its other pictures and text.

        Args:
            split (`RetrievalSplit`): the catalogue.
            batch_size (`int`, *optional*, defaults to 16): products a batch.
            keep_texts (`bool`, *optional*, defaults to `True`): keep the texts' features below `cache_folder()`.
            keep_pictures (`bool`, *optional*, defaults to `True`): keep the pictures' features there.
        """
        texts = self.text_states(self.product_texts(split), batch_size, keep_texts)
        pictures = self.picture_states(split, batch_size, keep_pictures)
        return TowerStates({**texts.arrays, **pictures.arrays})

    def product_texts(self, split: RetrievalSplit) -> list[str]:
        """Each product of a split as text."""
        columns = [name for name in split.corpus.column_names if name != "image"]
        return [self.processor.product_text(product) for product in rows_of(split.corpus, columns)]

    def text_states(
        self,
        texts: list[str],
        batch_size: int = BATCH_SIZE,
        cache: bool = True,
    ) -> TowerStates:
        """The part of products' states that comes from their texts; variants that share a text are encoded once."""

        def compute() -> Found:
            places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            distinct = list(places)

            def encode(rows: list[int]) -> MMFusionStates:
                inputs = self.processor.process_products([{"text": distinct[row]} for row in rows]).to(
                    self.model.device
                )
                return self.model.encode_products(**inputs)

            found = _run_encoder(encode, distinct, batch_size, "text encoder")
            rows = [places[text] for text in texts]
            return {name: array[rows] for name, array in found.items() if not name.startswith("image_")}, []

        key = digest_of(encoder_fingerprint(self.model, self.processor, "text"), *texts)
        arrays, _ = cached_features(key, compute) if cache else compute()
        return _with_lexical(
            self.model, arrays, texts, lambda some: self.processor.process_products([{"text": t} for t in some])
        )

    def picture_states(
        self,
        split: RetrievalSplit,
        batch_size: int = BATCH_SIZE,
        cache: bool = True,
    ) -> TowerStates:
        """The part of products' states that comes from their pictures; unreadable ones go to `split.problems`."""
        if "image" not in split.corpus.column_names:
            with torch.inference_mode():
                one = _to_arrays(
                    self.model.encode_products(**self.processor.process_products([{}]).to(self.model.device))
                )
            shapes = {name: array for name, array in one.items() if name.startswith("image_")}
            count = len(split.product_ids)
            return TowerStates({name: np.zeros((count, *a.shape[1:]), dtype=a.dtype) for name, a in shapes.items()})

        def compute() -> Found:
            bad_rows, side = [], self.processor.min_side

            def encode(rows: list[int]) -> MMFusionStates:
                found = [split.corpus[row].get("image") for row in rows]
                read = (read_pictures(some, row, bad_rows, side) for some, row in zip(found, rows, strict=True))
                inputs = self.processor.process_products([{"image": pictures} for pictures in read]).to(
                    self.model.device
                )
                return self.model.encode_products(**inputs)

            found = _run_encoder(encode, [""] * len(split.product_ids), batch_size, f"image encoder: {split.name}")
            return {name: array for name, array in found.items() if name.startswith("image_")}, sorted(bad_rows)

        key = (
            digest_of(encoder_fingerprint(self.model, self.processor, "picture"), *split.picture_digests)
            if cache
            else ""
        )
        arrays, bad_rows = cached_features(key, compute) if cache else compute()
        for row, reason in bad_rows if not split.has_told_pictures else ():
            split.problems.add("unreadable image (embedded without it)", f"{split.where(row, 'image')}: {reason}")
        split.has_told_pictures = True  # each picture is counted once, however often its split is embedded
        if self.model.config.fusion_type != "experts":  # the baselines share the cache, and see no cells
            arrays = {name: array for name, array in arrays.items() if name != "image_states"}
        return TowerStates(arrays)

    def query_states(self, texts: list[str], cache: bool = True, batch_size: int = 64) -> TowerStates:
        """Runs the query tower's encoder over texts, or takes what an earlier run kept."""
        texts = [self.processor.query_text(text) for text in texts]

        def compute() -> Found:
            def encode(rows: list[int]) -> MMFusionStates:
                return self.model.encode_queries(
                    **self.processor.process_queries([texts[row] for row in rows]).to(self.model.device)
                )

            return _run_encoder(encode, texts, batch_size, "query tower"), []

        key = digest_of(encoder_fingerprint(self.model, self.processor, "query"), *texts) if cache else ""
        arrays, _ = cached_features(key, compute) if cache else compute()
        return _with_lexical(self.model, arrays, texts, self.processor.process_queries)


@torch.inference_mode()
def embed_products(model: MMFusionModel, products: TowerStates, view: str = "fused") -> np.ndarray:
    """Vectors of products from what the towers say: float32 of shape `(N, embedding_dim)`."""
    outputs = []
    for start in range(0, len(products), HEAD_BATCH_SIZE):
        states = products.states(slice(start, start + HEAD_BATCH_SIZE), model.device)
        outputs.append(model.get_product_features(states=states, view=view).pooler_output.float().cpu().numpy())
    return check_vectors(np.concatenate(outputs), "product", model.name_or_path)


@torch.inference_mode()
def aligned_pictures(model: MMFusionModel, products: TowerStates) -> np.ndarray:
    """Products' pictures in the space of the dual encoder that a model started from, less the centre: float32 of shape
    `(N, aligned_hidden_size)`, 0 where there is no picture."""
    outputs = []
    for start in range(0, len(products), HEAD_BATCH_SIZE):
        rows = slice(start, start + HEAD_BATCH_SIZE)  # of these two alone: the cells are many times as large
        features, mask = (torch.from_numpy(products.arrays[f"image_{name}"][rows]) for name in ("features", "mask"))
        found = model.alignment.images(features.to(model.device), mask.to(model.device))
        outputs.append(found.float().cpu().numpy())
    return np.concatenate(outputs)


def check_vectors(vectors: np.ndarray, what: str, model: str) -> np.ndarray:
    """Vectors `(N, dim)` that may be stored or compared.

    Args:
        vectors (`np.ndarray` of shape `(N, dim)`): of length 1, or 0 where nothing is known.
        what (`str`): of what they are, `product` or `query`, for messages.
        model (`str`): whose they are, for messages.

    Raises:
        DataError: if one holds what is no finite number or is of another length.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    right = (np.abs(lengths - 1) < UNIT) | (lengths == 0)  # never of what is no number
    if not right.all():
        row = int(np.argmin(right))
        why = f"{lengths[row]:.4g} long" if np.isfinite(lengths[row]) else "no finite number"
        raise DataError(
            f"{model or 'the model'}: the vectors of {np.count_nonzero(~right):,} of {len(vectors):,} are none, first "
            f"of {what} {row}: {why}; is the model damaged?"
        )
    return vectors


@torch.inference_mode()
def embed_queries(model: MMFusionModel, queries: TowerStates) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(N, embedding_dim)` and block weights `(N, blocks)` of queries; both float32."""
    output = model.get_query_features(states=queries.states(slice(None), model.device))
    vectors = check_vectors(output.pooler_output.float().cpu().numpy(), "query", model.name_or_path)
    return vectors, output.block_weights.float().cpu().numpy()


@torch.inference_mode()
def embed_picture_queries(model: MMFusionModel, pictures: TowerStates) -> tuple[np.ndarray, np.ndarray]:
    """The same of queries that are pictures, each as the query tower takes it: a product of which only the picture is
    known."""
    vectors, weights = [], []
    for start in range(0, len(pictures), HEAD_BATCH_SIZE):
        states = pictures.states(slice(start, start + HEAD_BATCH_SIZE), model.device)
        output = model.get_product_features(states=states, view="image")
        vectors.append(output.pooler_output.float().cpu().numpy())
        weights.append(output.block_weights.float().cpu().numpy())
    return check_vectors(np.concatenate(vectors), "query", model.name_or_path), np.concatenate(weights)


@torch.inference_mode()
def _with_lexical(model, arrays, texts, tokenize) -> TowerStates:
    """Adds the lexical features, which are cheap and not kept: models of other widths share a cache."""
    head, parts = model.lexical_head, []
    if head is None:
        return TowerStates({**arrays, "lexical_features": np.zeros((len(texts), 0), dtype=np.float32)})
    for start in range(0, len(texts), HEAD_BATCH_SIZE):
        inputs = tokenize(texts[start : start + HEAD_BATCH_SIZE])
        tokens, places = inputs["input_ids"].unique(return_inverse=True)  # each token's code is made once
        weights = head.weights(inputs["input_ids"], inputs["attention_mask"])
        summed = F.embedding_bag(places, head.codes(tokens), per_sample_weights=weights, mode="sum")
        parts.append(F.normalize(summed, dim=-1).numpy())
    return TowerStates({**arrays, "lexical_features": np.concatenate(parts)})


@torch.inference_mode()
def _run_encoder(
    encode: Callable[[list[int]], MMFusionStates], texts: list[str], batch_size: int, what: str
) -> dict[str, np.ndarray]:
    """What `encode` says of all rows, in batches of texts of like length."""
    outputs, order = [], []
    with tqdm(total=len(texts), desc=what, leave=False) as progress:
        for rows in _batches_by_length(texts, batch_size):
            outputs.append(_to_arrays(encode(rows)))
            order.extend(rows)
            progress.update(len(rows))
    return _join_batches(outputs, order)


def read_pictures(pictures, row: int, bad_rows: list[tuple[int, str]], min_side: int | None = None) -> list:
    """Those of a product's pictures (one or a list) that can be read; the others' reasons go to `bad_rows`.

    `min_side` is the processor's, see `load_picture`.
    """
    readable = []
    for picture in pictures_of(pictures):
        try:
            readable.append(load_picture(picture, min_side))
        except ValueError as error:
            bad_rows.append((row, str(error)))
    return readable


def _to_arrays(states: MMFusionStates) -> dict[str, np.ndarray]:
    """A batch's states on their way to the cache; what belongs to no picture is set to 0."""
    arrays = {}
    for name, tensor in states.items():
        if name == "lexical_features":
            continue
        if name.startswith("image_") and name != "image_mask":
            mask = states.image_mask.reshape(states.image_mask.shape + (1,) * (tensor.ndim - 2))
            tensor = tensor.masked_fill(~mask, 0)
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16 if name.endswith("_states") else torch.float32)
        arrays[name] = tensor.cpu().numpy()
    return arrays


def _join_batches(outputs: list[dict[str, np.ndarray]], order: list[int]) -> dict[str, np.ndarray]:
    """Batches as one, in the order of the rows, each array padded to its longest batch; the batches are used up."""
    arrays = {}
    for name in list(outputs[0]):
        parts = [output.pop(name) for output in outputs]
        shape = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
        arrays[name] = np.zeros((len(order), *shape), dtype=parts[0].dtype)
        start = 0
        for part in parts:
            rows = order[start : start + len(part)]
            arrays[name][(rows, *map(slice, part.shape[1:]))] = part
            start += len(part)
    return arrays


def _batches_by_length(texts: list[str], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of texts of like length, so that little is padded; the longest come first."""
    order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
