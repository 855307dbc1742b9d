"""A model and its index over HTTP: embeddings in OpenAI's form, and search.

    python -m modeling_mmfusion.serve --run runs/quickstart

| path | what |
|---|---|
| `POST /v1/embeddings` | vectors of queries and products, of texts and pictures |
| `POST /search` | products of the index, with filters and words |
| `GET /v1/models` | what is served |
| `GET /health` | that it answers, and how much is in the index |
| `GET /metrics` | counts and times for Prometheus |
| `GET /docs` | all of this, to read and to try |

Requests of many clients are embedded together. Pictures come with the request; nothing is fetched. An index that
another process saves is taken over. It needs the extra `serve`.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import DataError, one_line
from .search import block_shares
from .service_forms import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    ErrorResponse,
    SearchRequest,
    SearchResponse,
    as_fields,
    as_json,
    check_characters,
    conditions_of,
    encoded,
    failure,
    sentence_of,
)
from .service_lanes import Lane
from .service_towers import Embedded, Input, ServedModel

MAX_INPUTS = 256  # of one request
MAX_BODY_BYTES = 32 * 2**20
MAX_OPEN = 10_000  # inputs of all requests that are not answered yet
TEXTS_TOGETHER, PICTURES_TOGETHER = 32, 4
REFRESH_SECONDS = 2.0


class Busy(Exception):
    """More inputs wait than may."""


class TooLarge(HTTPException):
    """A request's body is longer than may be."""

    def __init__(self) -> None:
        super().__init__(413, f"the request is longer than {MAX_BODY_BYTES / 2**20:.0f} MB")


class Metrics:
    """Counts and times for Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("mmfusion_requests", "Requests", ["path", "status"], registry=registry)
        self.seconds = Histogram("mmfusion_request_seconds", "Seconds of a request", ["path"], registry=registry)
        self.batches = Histogram(
            "mmfusion_batch_inputs",
            "Texts, pictures and products that were embedded together",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.inputs = Gauge("mmfusion_open_inputs", "Inputs that wait or are computed", registry=registry)
        self.products = Gauge("mmfusion_index_products", "Products in the index", registry=registry)

    def lane(self, kind: str, function: Callable[[list], list], most: int, workers: ThreadPoolExecutor) -> Lane:
        """A lane whose batches are counted."""
        return Lane(function, most, workers, self.batches.labels(kind).observe)


class Service:
    """The endpoints.

    Args:
        served (`ServedModel`): the towers and the index.
        name (`str`): the model's name in answers.
        threads (`int`): batches of products that are computed at once, and pictures that are read.
    """

    def __init__(self, served: ServedModel, name: str, threads: int):
        self.served = served
        self.name = name
        self.metrics = Metrics()
        self.reading, texts = ThreadPoolExecutor(threads, "pictures"), ThreadPoolExecutor(1, "texts")
        products = ThreadPoolExecutor(threads, "products")
        self.pools = [self.reading, texts, products]
        lane = self.metrics.lane
        self.texts = lane("query", served.embed_texts, TEXTS_TOGETHER, texts)
        self.picture_queries = lane("picture_query", served.embed_picture_queries, PICTURES_TOGETHER, products)
        self.products = lane("document", served.embed_products, PICTURES_TOGETHER, products)
        self.open_inputs = 0
        self.metrics.inputs.set_function(lambda: self.open_inputs)
        self.metrics.products.set_function(lambda: 0 if served.index is None else len(served.index))

    async def embed(self, items: list[dict], input_type: str, image_weight: float = 0.5) -> list[Embedded]:
        """Vectors of a request's inputs, in their order.

        Raises:
            DataError: if one can't be read; the message says which.
            Busy: if too many wait.
        """
        if self.open_inputs + len(items) > MAX_OPEN:
            raise Busy
        self.open_inputs += len(items)
        try:
            prepared = (self._prepare(number, one, input_type, image_weight) for number, one in enumerate(items))
            inputs = await asyncio.gather(*prepared)
            return await asyncio.gather(*(self._lane(one, input_type)(one) for one in inputs))
        finally:
            self.open_inputs -= len(items)

    def _lane(self, one: Input, input_type: str) -> Lane:
        if input_type == "document":
            return self.products
        return self.picture_queries if one.pictures else self.texts

    async def _prepare(self, number: int, fields: dict, input_type: str, image_weight: float) -> Input:
        prepare = partial(self.served.prepare, fields, input_type, image_weight)
        try:
            if "image" not in fields:
                return prepare()
            return await asyncio.get_running_loop().run_in_executor(self.reading, prepare)
        except DataError as error:
            raise DataError(f"input {number}: {error}") from error

    async def embeddings(self, request: EmbeddingsRequest) -> Response:
        """Vectors of queries (`input_type` `query`) or products (`document`), of texts and pictures."""
        given = request.input if isinstance(request.input, list) else [request.input]
        if not 1 <= len(given) <= MAX_INPUTS:
            raise DataError(f"{len(given)} inputs; a request has 1 to {MAX_INPUTS}")
        items = [as_fields(one) for one in given]
        for number, one in enumerate(items):
            check_characters(one, f"input {number}")
        self.served.truncate(np.zeros((1, self.served.dim), np.float32), request.dimensions or self.served.dim)
        found = await self.embed(items, request.input_type)
        vectors = np.stack([one.vector for one in found])
        vectors = self.served.truncate(vectors, request.dimensions or self.served.dim)
        tokens = sum(one.tokens for one in found)
        data = [
            {"object": "embedding", "index": number, "embedding": encoded(vector, request.encoding_format)}
            for number, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return as_json({"object": "list", "data": data, "model": self.name, "usage": usage})

    async def search(self, request: SearchRequest) -> Response:
        """The index's best products for a query of words, a picture or both."""
        index = self.served.index
        if index is None:
            raise HTTPException(404, "this service has no index; start it with a run folder that holds index/")
        check_characters({"query": request.query}, "request")
        fields = {"text": request.query} | ({} if request.image is None else {"image": request.image})
        where = conditions_of(request.where)
        [embedded] = await self.embed([fields], "query", request.image_weight)
        vectors = self.served.truncate(embedded.vector[None], index.dim)
        is_hybrid = request.hybrid and request.query and index.hybrid
        texts = [self.served.processor.query_text(request.query)] if is_hybrid else None
        results = (await run_in_threadpool(index.search, vectors, request.k, where, texts))[0]
        notes = [] if results or not where else await run_in_threadpool(index.unknown_values, where)
        answer = {"results": [vars(one) for one in results], "shares": block_shares(vectors[0], index.blocks)}
        read_as = self.served.processor.correction(request.query)
        return as_json(answer | {"notes": notes} | ({"read_as": read_as} if read_as else {}))

    async def models(self) -> Response:
        """The one model that is served."""
        facts = {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "mmfusion",
            "dimensions": self.served.dim,
            "fingerprint": self.served.fingerprint,
        }
        return as_json({"object": "list", "data": [facts]})

    async def health(self) -> Response:
        """That the service answers; it does once model and index are loaded."""
        index = self.served.index
        products = None if index is None else len(index)
        return as_json({"status": "ok", "model": self.name, "products": products})

    async def prometheus(self) -> Response:
        """Counts and times in Prometheus' text format."""
        return as_prometheus(self.metrics)

    def close(self) -> None:
        """Ends the threads."""
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)


def as_prometheus(metrics: Metrics) -> Response:
    """Counts and times in Prometheus' text format."""
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def follow(refresh: Callable[[], None]) -> None:
    """Takes over what other processes save of the index; one that is another model's or damaged is not taken."""
    said = ""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            await run_in_threadpool(refresh)
            said = ""
        except DataError as error:
            if str(error) != said:
                print(f"warning: the index in memory stays: {error}", file=sys.stderr, flush=True)
            said = str(error)


class Limits:
    """Counts and times requests, and refuses bodies that are too long before they are read.

    Args:
        app (`ASGIApp`): what comes behind.
        metrics (`Metrics`): gets the counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, length, status = time.perf_counter(), 0, 500

        async def counted() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > MAX_BODY_BYTES:
                raise TooLarge
            return message

        async def told(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, counted, told)
        finally:
            path = route.path if (route := scope.get("route")) is not None else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)


def create_app(served: ServedModel, name: str = "mmfusion", threads: int = 2) -> FastAPI:
    """The service as an ASGI application.

    Args:
        served (`ServedModel`): the towers and the index.
        name (`str`, *optional*, defaults to `"mmfusion"`): the model's name in answers.
        threads (`int`, *optional*, defaults to 2): batches of products that are computed at once.
    """
    service = Service(served, name, threads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(follow(served.refresh))
        yield
        following.cancel()
        service.close()

    app = FastAPI(title="mmfusion", description="Multimodal product search.", lifespan=lifespan)
    app.add_middleware(Limits, metrics=service.metrics)
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorResponse} for status in (400, 413, 503)}
    app.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=errors)(service.embeddings)
    app.post("/search", response_model=SearchResponse, responses={**errors, 404: {"model": ErrorResponse}})(
        service.search
    )
    for path, function in (("/v1/models", service.models), ("/health", service.health)):
        app.get(path)(function)
    app.get("/metrics", include_in_schema=False)(service.prometheus)

    answer_errors(app)
    return app


def answer_errors(app: FastAPI) -> None:
    """Makes one sentence in OpenAI's form of whatever goes wrong."""

    def answered(error: type[Exception], answer: Callable[[Any], Response]) -> None:
        async def handler(request: Request, raised: Exception) -> Response:
            return answer(raised)

        app.add_exception_handler(error, handler)

    answered(DataError, lambda error: failure(400, one_line(error)))
    answered(Busy, lambda error: failure(503, f"more than {MAX_OPEN:,} inputs wait; try again", code="busy"))
    answered(HTTPException, lambda error: failure(error.status_code, str(error.detail)))
    answered(RequestValidationError, lambda error: failure(400, **sentence_of(error)))
    answered(Exception, lambda error: failure(500, "the service failed; its log says how"))
