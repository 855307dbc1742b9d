"""Queries and products to vectors, on Hugging Face Inference Endpoints, which run a model repository's `handler.py`.

    {"inputs": "navy striped t-shirt"}
    {"inputs": ["red mug", {"text": "like this, but red", "image": "iVBORw0..."}], "parameters": {"dimensions": 256}}
    {"inputs": {"title": "Breton tee", "image": "data:image/png;base64,..."}, "parameters": {"input_type": "document"}}

The answer is a list of vectors, one for each input in their order, also where there is one input alone. Pictures come
as base64 or as a `data:` address of it; nothing is fetched and no file is read.
"""

import base64
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

BATCH = 32  # inputs that are embedded together
INPUT_TYPES = ("query", "document")
PARAMETERS = ("input_type", "dimensions")
QUERY_FIELDS = ("text", "image")


class EndpointHandler:
    """What an endpoint makes once and calls for each request.

    Args:
        path (`str`): the repository's folder, which carries the model's code.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).eval().to(device)
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    @torch.inference_mode()
    def __call__(self, data: Mapping[str, Any]) -> list[list[float]]:
        """Vectors of a request's inputs.

        Args:
            data (`Mapping`): the request. `inputs` is a text, a mapping or a list of these. A query's mapping has
                `text`, `image` or both; a product's has any of its fields. `image` may be a list. `parameters` may
                have `input_type`, `query` (the default) or `document`, and `dimensions`, for shorter vectors.

        Raises:
            ValueError: if a request is none such or a picture can't be read; one sentence.
        """
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, Mapping) or (unknown := sorted(set(parameters) - set(PARAMETERS))):
            what = "not a mapping" if not isinstance(parameters, Mapping) else f"has {', '.join(map(str, unknown))}"
            raise ValueError(f"parameters: {what}; give {' or '.join(PARAMETERS)}")
        kind, dimensions = parameters.get("input_type", "query"), parameters.get("dimensions")
        if kind not in INPUT_TYPES:
            raise ValueError(f"parameters: input_type is {kind!r}; give {' or '.join(INPUT_TYPES)}")
        width = sum(self.model.output_dims.values())
        if dimensions is not None and (type(dimensions) is not int or not 0 < dimensions <= width):
            raise ValueError(f"parameters: dimensions is {dimensions!r}; give a whole number up to {width}")
        inputs = data.get("inputs")
        inputs = inputs if isinstance(inputs, list) else [inputs]
        if not inputs:
            raise ValueError("inputs: an empty list; give at least one")
        fields = QUERY_FIELDS if kind == "query" else (*QUERY_FIELDS, *self.processor.product_fields, "price")
        rows = [read_row(row, f"inputs {number}", fields) for number, row in enumerate(inputs)]
        embed = self.queries if kind == "query" else self.products
        vectors = torch.cat([embed(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)])
        if dimensions is not None:
            vectors = self.model.truncate(vectors, dimensions)
        return vectors.tolist()

    def products(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Vectors `(batch, dim)` of products."""
        return self.model.get_product_features(
            **self._moved(self.processor.process_products(rows))
        ).pooler_output.float()

    def queries(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Vectors `(batch, dim)` of queries: texts, pictures, or both."""
        kinds, vectors = defaultdict(list), {}
        for place, row in enumerate(rows):
            kinds["text" in row, "image" in row].append(place)
        for (has_text, has_image), places in kinds.items():
            inputs = {}
            if has_text:
                inputs |= self.processor.process_queries([rows[place]["text"] for place in places])
            if has_image:
                pictures = self.processor.process_products([rows[place] | {"text": None} for place in places])
                inputs |= {name: pictures[name] for name in ("pixel_values", "image_mask")}
            found = self.model.get_query_features(**self._moved(inputs)).pooler_output.float()
            vectors |= dict(zip(places, found, strict=True))
        return torch.stack([vectors[place] for place in range(len(rows))])

    def _moved(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}


def read_row(row: Any, place: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """One input as the processor takes it, without fields that are null.

    Args:
        row: the input.
        place (`str`): where it stands, for messages.
        fields (`tuple[str]`): those that it may have.

    Raises:
        ValueError: if it is no text and no mapping of such fields, or has none of them.
    """
    row = {"text": row} if isinstance(row, str) else row
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: is {type(row).__name__}; give a text, or a mapping of {', '.join(fields)}")
    if unknown := sorted(set(row) - set(fields)):
        raise ValueError(f"{place}: has {', '.join(unknown)}; give some of {', '.join(fields)}")
    found = {name: value for name, value in row.items() if value is not None}
    for name, value in found.items():
        allowed = {"image": (str, list), "attributes": (str, dict)}.get(name, (str, int, float))
        if not isinstance(value, allowed) or (name == "text" and not isinstance(value, str)):
            raise ValueError(f"{place}: {name} is {type(value).__name__}; give {allowed[0].__name__}")
    if "image" in found:
        pictures = found["image"] if isinstance(found["image"], list) else [found["image"]]
        found["image"] = [read_picture(picture, place) for picture in pictures]
        if not pictures:
            del found["image"]
    if not found:
        raise ValueError(f"{place}: has nothing; give some of {', '.join(fields)}")
    return found | {"_id": place}


def read_picture(picture: Any, place: str) -> bytes:
    """The bytes of a picture that comes as base64 or as a `data:` address of it.

    Raises:
        ValueError: if it is anything else, such as the address of a page, which is not fetched.
    """
    try:
        head, _, content = picture.rpartition(",")
        if head and not (head.startswith("data:") and head.endswith(";base64")):
            raise ValueError
        if decoded := base64.b64decode(content, validate=True):
            return decoded
        raise ValueError
    except (AttributeError, ValueError):  # binascii.Error is one
        raise ValueError(
            f"{place}: image is no base64; send the picture itself, as base64 or a data: address"
        ) from None
