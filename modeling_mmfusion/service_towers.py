"""What the service computes: vectors of texts, pictures and products, and searches."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .auto import MMFusionConfig, MMFusionModel
from .checksums import check_whole
from .errors import DataError
from .exported import OnnxTowers
from .fingerprint import stored_fingerprint
from .fusion_mmfusion import truncate_vectors
from .index import ProductIndex
from .model_folder import check_model_name, load_model
from .pictures_mmfusion import load_picture, pictures_of
from .search import load_query_tower, turn_away
from .sharded import ShardedIndex, open_index
from .text_mmfusion import field_text

QUERY_FIELDS = ("text", "image")
MAX_PICTURES = 16  # of one product


@dataclass
class Input:
    """One text, picture or product of a request.

    Attributes:
        fields (`dict`): what the processor reads of it, but for pictures.
        pictures (`list[Mapping[str, torch.Tensor]]`): what the image processor made of each picture.
        image_weight (`float`): share of the picture in a query that has a text too.
    """

    fields: dict[str, Any]
    pictures: list[Mapping[str, torch.Tensor]] = field(default_factory=list)
    image_weight: float = 0.5


@dataclass
class Embedded:
    """One vector.

    Attributes:
        vector (`np.ndarray` of shape `(embedding_dim,)`): a unit vector, float32, not truncated.
        tokens (`int`): how many tokens of text were read.
    """

    vector: np.ndarray
    tokens: int


class ServedModel:
    """The towers of a model folder and, where there is one, the index beside it.

    Args:
        run (`str` or `Path`): run folder with `model/`, and `index/` if products are to be searched; or a model's
            folder.
        tower (`str`, *optional*, defaults to `"torch"`): the query tower: `torch`, or `onnx` or `int8` that
            `training.export` wrote.
        queries_only (`bool`, *optional*, defaults to `False`): load the query tower alone. Products and pictures are
            then refused.
        index (`str` or `Path`, *optional*): another index than the run's, or where its shards are; see [`open_index`].

    Raises:
        DataError: if the model is missing or damaged, or the index is, or was built with another model.
    """

    def __init__(
        self, run: str | Path, tower: str = "torch", queries_only: bool = False, index: str | Path | None = None
    ):
        run = Path(run)
        self.folder = run / "model" if (run / "model").is_dir() else run
        check_model_name(self.folder)
        self.index: ProductIndex | ShardedIndex | None = None
        if index or (run / "index").is_dir():
            self.index = open_index(index or run / "index")
        self.model: MMFusionModel | None = None
        self.query_tower: MMFusionModel | OnnxTowers
        if not queries_only:
            self.model, self.processor = load_model(self.folder, device="cpu")
        if tower == "torch" and self.model is not None:
            self.query_tower, self.fingerprint = self.model, stored_fingerprint(self.folder, self.processor)
        else:
            check_whole(self.folder)
            self.processor, self.query_tower, self.fingerprint = load_query_tower(self.folder, tower)
        self.config = MMFusionConfig.from_pretrained(self.folder)
        self.dim = self.config.projection_dim
        if self.index is not None:
            self.index.check_model(self.fingerprint)
            self.index.teach(self.processor)

    def refresh(self) -> None:
        """Opens the index that another process has saved since, if there is one.

        Raises:
            DataError: if it is damaged or another model's; the one that is open stays.
        """
        newest = None if self.index is None else self.index.newest()
        if newest is None or newest is self.index:
            return
        newest.check_model(self.fingerprint)
        newest.teach(self.processor)
        self.index = newest

    def prepare(self, fields: Mapping[str, Any], input_type: str, image_weight: float = 0.5) -> Input:
        """One input of a request, with its pictures read and processed.

        Args:
            fields (`Mapping[str, Any]`): a product's fields; of a query `text` and `image` alone. `image` is base64 or
                a data URL, or a list of them.
            input_type (`str`): `query` or `document`.
            image_weight (`float`, *optional*, defaults to 0.5): see [`Input`].

        Raises:
            DataError: if there is nothing in it, or it holds what this model does not read.
        """
        known = list(QUERY_FIELDS)
        if input_type == "document":  # a price is a product's, whether or not the model reads it
            known = list(dict.fromkeys(["text", *self.processor.product_fields, "price", "image"]))
        if unknown := [name for name in fields if name not in known]:
            hint = '; products are embedded with "input_type": "document"' if input_type == "query" else ""
            raise DataError(f"{unknown[0]!r} is no field of a {input_type}, which has {', '.join(known)}{hint}")
        texts = {name: value for name, value in fields.items() if name != "image" and field_text(name, value)}
        addresses = pictures_of(fields.get("image"))
        if input_type == "query" and not isinstance(texts.get("text", ""), str):
            raise DataError(f"text is {type(texts['text']).__name__}, and must be a string")
        if not texts and not addresses:
            raise DataError(f"the {input_type} is empty; give some of {', '.join(known)}")
        if addresses and self.model is None:
            raise DataError("this service embeds queries of words alone; start it without --queries-only")
        if len(addresses) > (most := 1 if input_type == "query" else MAX_PICTURES):
            raise DataError(f"{len(addresses)} pictures are too many; a {input_type} has at most {most}")
        return Input(texts, [self._picture(one) for one in addresses], image_weight)

    def _picture(self, address: Any) -> Mapping[str, torch.Tensor]:
        try:
            picture = load_picture(read_address(address), self.processor.min_side)
        except ValueError as error:
            raise DataError(f"image: {error}") from error
        return self.processor.image_processor(images=[picture], return_tensors="pt")

    @torch.inference_mode()
    def embed_texts(self, inputs: list[Input]) -> list[Embedded]:
        """Queries of words."""
        texts = [one.fields["text"] for one in inputs]
        tokens = self.processor.process_queries(texts)
        vectors = turn_away(self._query_vectors(tokens), texts, self.processor, self._vectors_of_texts)
        return as_embedded(vectors, tokens)

    def _vectors_of_texts(self, texts: list[str]) -> np.ndarray:
        return self._query_vectors(self.processor.process_queries(texts))

    def _query_vectors(self, tokens: Mapping[str, torch.Tensor]) -> np.ndarray:
        if isinstance(self.query_tower, OnnxTowers):
            return self.query_tower.query_vectors(tokens)
        return self.query_tower.get_query_features(**tokens).pooler_output.float().numpy()

    @torch.inference_mode()
    def embed_picture_queries(self, inputs: list[Input]) -> list[Embedded]:
        """Queries of a picture, or of words and a picture."""
        found = []
        for one in inputs:
            tokens = dict(self.processor.process_queries([one.fields["text"]])) if one.fields else {}
            pictures = self._pictures([one])
            output = self._whole().get_query_features(**tokens, **pictures, image_weight=one.image_weight)
            found += as_embedded(output.pooler_output.float().numpy(), tokens)
        return found

    @torch.inference_mode()
    def embed_products(self, inputs: list[Input]) -> list[Embedded]:
        """Products."""
        tokens = self.processor.process_products([one.fields for one in inputs])
        output = self._whole().get_product_features(**tokens, **self._pictures(inputs))
        return as_embedded(output.pooler_output.float().numpy(), tokens)

    def _pictures(self, inputs: list[Input]) -> dict[str, torch.Tensor]:
        flat = [picture for one in inputs for picture in one.pictures]
        if not flat:
            return {}
        processed = {name: torch.cat([picture[name] for picture in flat]) for name in flat[0]}
        return self.processor.arrange_pictures(processed, [len(one.pictures) for one in inputs])

    def _whole(self) -> MMFusionModel:
        if self.model is None:
            raise DataError("this service embeds queries alone; start it without --queries-only")
        return self.model

    def truncate(self, vectors: np.ndarray, dim: int) -> np.ndarray:
        """Vectors `(batch, projection_dim)` cut to `(batch, dim)`, as the model does with `truncate_dim`.

        Raises:
            DataError: if they can't be cut so.
        """
        if dim == vectors.shape[1]:
            return vectors
        if not 1 <= dim <= vectors.shape[1]:
            raise DataError(f"dimensions is {dim}; this model has vectors of 1 to {vectors.shape[1]}")
        try:
            return truncate_vectors(torch.from_numpy(vectors), self.config, dim).numpy()
        except ValueError as error:
            raise DataError(f"dimensions: {error}") from error


def as_embedded(vectors: np.ndarray, tokens: Mapping[str, torch.Tensor]) -> list[Embedded]:
    """Vectors and what was read for each."""
    counts = tokens["attention_mask"].sum(dim=1).tolist() if tokens else [0] * len(vectors)
    return [Embedded(vector, count) for vector, count in zip(vectors, counts, strict=True)]


def read_address(address: Any) -> bytes:
    """The bytes of a picture that a request brings as base64 or as a data URL.

    Raises:
        DataError: if it is neither. Addresses are refused: the service fetches nothing.
    """
    if not isinstance(address, str):
        raise DataError(f"a picture is base64 or a data URL, not {type(address).__name__}")
    head, comma, content = address.partition(",")
    if address.startswith("data:") and not (comma and head.endswith(";base64")):
        raise DataError("a picture's data URL begins with data:image/...;base64,")
    if "://" in address[:16]:
        raise DataError(f"{address[:80]}: pictures come with the request, as base64 or a data URL; nothing is fetched")
    try:
        return base64.b64decode(content if address.startswith("data:") else address, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("a picture is neither a data URL nor base64") from error
