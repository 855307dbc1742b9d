"""What the service's requests and answers look like."""

import base64
import json
from typing import Any, Literal

import numpy as np
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from .errors import DataError
from .index_filters import both, bound_of, parse_where

MAX_CHARACTERS = 100_000  # of one text; the towers read less by far
MAX_RESULTS = 1000
BOUNDS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class EmbeddingsRequest(BaseModel):
    """What `POST /v1/embeddings` takes: OpenAI's fields, and `input_type`."""

    model_config = ConfigDict(extra="forbid")

    input: str | dict[str, Any] | list[str | dict[str, Any]] = Field(
        description="A text, a picture as a data URL, or an object; or a list of them. A query has `text` and "
        "`image`; a product `text` or title, brand, category, description, attributes and so on, and `image`. An "
        "`image` is base64 or a data URL; a product may have a list of them.",
        examples=["green striped mug", [{"title": "Breton tee", "image": "data:image/png;base64,iVBORw0KGgo..."}]],
    )
    input_type: Literal["query", "document"] = Field(
        "query", description="The tower: `query` for what a shopper types or shows, `document` for products."
    )
    dimensions: int | None = Field(None, ge=1, description="Length of the vectors; the model's if not given.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of little-endian float32."
    )
    model: str | None = Field(None, description="Not read; there is one.")
    user: str | None = Field(None, description="Not read.")


class Embedding(BaseModel):
    """One vector of [`EmbeddingsResponse`]."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of text that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """What `POST /v1/embeddings` answers."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class SearchRequest(BaseModel):
    """What `POST /search` takes."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field("", description="What a shopper types; may be empty if there is an image.")
    image: str | None = Field(None, description='A picture ("like this"), base64 or a data URL.')
    image_weight: float = Field(0.5, ge=0, le=1, description="Share of the picture where there is a text too.")
    k: int = Field(10, ge=1, le=MAX_RESULTS, description="How many products.")
    where: dict[str, Any] | str | None = Field(
        None,
        description="Conditions by column, all of which must hold: a value, a list of values, or bounds of a number; "
        "or as they are typed, `price<20; category=mugs|cups`.",
        examples=[{"category": ["mugs", "cups"], "price": {"gte": 5, "lte": 20}, "in_stock": True}],
    )
    hybrid: bool = Field(True, description="Let matching words (BM25) count too, if the index has words.")


class Found(BaseModel):
    """One product of [`SearchResponse`]."""

    product_id: str
    score: float
    product: dict[str, Any]
    contributions: dict[str, float]


class SearchResponse(BaseModel):
    """What `POST /search` answers: products, best first, the share of each block in the query's vector, where nothing
    was found what `where` asks for that no product has, and the query as it was read if its spelling was corrected."""

    results: list[Found]
    shares: dict[str, float]
    notes: list[str]
    read_as: str | None = None


class Problem(BaseModel):
    """What is wrong, in one sentence."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """What every failed request is answered, in OpenAI's form."""

    error: Problem


def as_fields(given: str | dict) -> dict:
    """An input as an object; a text that is a data URL is a picture."""
    if not isinstance(given, str):
        return given
    return {"image": given} if given.startswith("data:image/") else {"text": given}


def check_characters(fields: dict, where: str) -> None:
    """Refuses texts that are far longer than any that is read.

    Raises:
        DataError: naming the field.
    """
    for name, value in fields.items():
        if name != "image" and len(value if isinstance(value, str) else json.dumps(value)) > MAX_CHARACTERS:
            raise DataError(f"{where}: {name} has more than {MAX_CHARACTERS:,} characters")


def conditions_of(where: dict[str, Any] | str | None) -> dict[str, Any]:
    """A request's conditions as [`ProductIndex.search`] takes them.

    Raises:
        DataError: if one can't be understood.
    """
    if isinstance(where, str):
        return parse_where(where)
    return {name: bounds(name, wanted) for name, wanted in (where or {}).items()}


def bounds(name: str, wanted: Any) -> Any:
    """A condition of a request: `{"gte": 5, "lte": 20}` as a pair of bounds.

    Raises:
        DataError: if an object holds other names, or what is no number.
    """
    if not isinstance(wanted, dict):
        return wanted
    is_number = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in wanted.values())
    if not wanted or set(wanted) - set(BOUNDS) or not is_number:
        raise DataError(f"where: {name}: bounds are numbers by the names {', '.join(BOUNDS)}")
    pair: tuple[float | None, float | None] = (None, None)
    for sign, number in wanted.items():
        pair = both(pair, bound_of(BOUNDS[sign], number), name)
    return pair


def encoded(vector: np.ndarray, form: str) -> list[float] | str:
    """A vector as a list of numbers or as base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


def as_json(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer. What is no finite number becomes null, as JSON has none such; dates and such become strings."""
    try:
        text = json.dumps(answer, default=str, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(without_nan(answer), default=str, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), status, headers, "application/json")


def without_nan(value: Any) -> Any:
    """The same with `None` for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def failure(status: int, message: str, **rest: str) -> Response:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    problem = {"message": message, "type": kind, "param": None, "code": None} | rest
    return as_json({"error": problem}, status, {"Retry-After": "1"} if status == 503 else None)


def sentence_of(error: RequestValidationError) -> dict[str, str]:
    """What is wrong with a request: the `message`, one sentence, and the field as `param`."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return {"message": f"the body is no JSON: {first['ctx']['error']}", "param": "body"}
    place = [str(part) for part in first["loc"] if part != "body"] or ["body"]
    message = f"{'.'.join(place)}: {first['msg']}"
    if place[0] == "input" and first["type"] != "missing":
        message = "input: is a string, an object or a list of them; ids of tokens are not taken"
    elif first["type"] == "extra_forbidden":
        message = f"{place[0]}: there is no such field; GET /docs tells of all"
    return {"message": message, "param": place[0]}
