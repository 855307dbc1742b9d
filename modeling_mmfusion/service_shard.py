"""A shard of an index over HTTP, for the `ShardedIndex` of another host: no model, no pictures, vectors alone.

    python -m modeling_mmfusion.serve --shard runs/myshop/index/shard-0-of-3 --port 8001

| path | what |
|---|---|
| `GET /shard` | which shard it is, of which model, how many products; the catalogue's words |
| `POST /shard/candidates` | the best products for up to 256 vectors and 10,000 products each, with their scores |
| `POST /shard/results` | products by row, with what makes up their scores |
| `POST /shard/readings`, `POST /shard/unknown` | what filters have to know of all products |
| `GET /health`, `GET /metrics`, `GET /docs` | as of the whole service |

Vectors are unit vectors, base64 of little-endian float32. A request names the `state` of the shard that it is about;
of another one it is answered with status 409. It needs the extra `serve`.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from .errors import DataError
from .index import ProductIndex
from .index_shards import Found
from .service import Limits, Metrics, answer_errors, as_prometheus, follow
from .service_forms import as_json
from .shard_client import MAX_QUERIES, read_filter, write_candidates

MAX_K = 10_000
JSON = dict[str, Any]


class AboutShard(BaseModel):
    """What every question has."""

    model_config = ConfigDict(extra="forbid")

    state: str = Field(description="Of the shard that it is about, as GET /shard tells it.")


class AboutFilter(AboutShard):
    """What `POST /shard/readings` and `POST /shard/unknown` take."""

    where: JSON = Field({}, description='Conditions by column: a value, a list, or {"between": [low, high]}.')
    readings: dict[str, JSON] = Field({}, description="How the whole catalogue's columns are read.")


class CandidatesRequest(AboutFilter):
    """What `POST /shard/candidates` takes."""

    queries: str = Field(description="Unit vectors, base64 of little-endian float32, row by row.")
    k: int = Field(ge=1, le=MAX_K)
    texts: list[str] | None = Field(None, description="The queries as texts, for a hybrid search.")


class ResultsRequest(AboutShard):
    """What `POST /shard/results` takes."""

    queries: str = Field(description="Vectors as they were searched for.")
    found: list[tuple[list[int], list[float], list[float] | None]] = Field(
        description="For each query rows, their scores and the words' part of them."
    )


class ShardService:
    """The endpoints.

    Args:
        index (`ProductIndex`): the shard, opened with `view=True`.
    """

    def __init__(self, index: ProductIndex):
        self.index = index
        self.metrics = Metrics()
        self.metrics.products.set_function(lambda: len(self.index))

    def refresh(self) -> None:
        """Opens what another process has saved of the shard since."""
        self.index = self.index.newest()

    async def facts(self) -> Response:
        """Which shard this is."""
        return as_json(asdict(self.index.facts))

    async def candidates(self, request: CandidatesRequest) -> Response:
        """The best products by vectors and, with `texts`, by words, for each query."""
        index = self._index(request)
        where, readings = read_filter(request.where, request.readings)
        queries = self._vectors(request.queries)
        found = await run_in_threadpool(index.search_shard, queries, request.k, where, request.texts, readings)
        return as_json({"answer": [write_candidates(one) for one in found]})

    async def results(self, request: ResultsRequest) -> Response:
        """Products by row."""
        index, queries = self._index(request), self._vectors(request.queries)
        found: list[Found] = [
            (np.array(rows, np.int64), np.array(scores, "f4"), None if words is None else np.array(words, "f4"))
            for rows, scores, words in request.found
        ]
        if len(found) != len(queries) or any(min(rows, default=0) < 0 for rows, _, _ in request.found):
            raise DataError(f"found: is not one for each of the {len(queries)} queries, or has a row below 0")
        size = index.catalogue.size
        if any(max(rows, default=0) >= max(size, 1) for rows, _, _ in request.found):
            raise DataError(f"found: has a row beyond the {size} that there are")
        results = await run_in_threadpool(index.results, queries, found)
        return as_json({"answer": [list(map(vars, some)) for some in results]})

    async def readings(self, request: AboutFilter) -> Response:
        """How this shard's columns are read for a filter."""
        where, _ = read_filter(request.where, {})
        found = await run_in_threadpool(self._index(request).readings, where)
        return as_json({"answer": {name: asdict(one) for name, one in found.items()}})

    async def unknown(self, request: AboutFilter) -> Response:
        """What a filter asks for that no product of this shard has."""
        where, readings = read_filter(request.where, request.readings)
        found = await run_in_threadpool(self._index(request).unknown, where, readings)
        return as_json({"answer": [[*key, asdict(one)] for key, one in found.items()]})

    async def health(self) -> Response:
        """That the service answers."""
        shard = self.index.shard and str(self.index.shard)
        return as_json({"status": "ok", "shard": shard, "products": len(self.index)})

    async def prometheus(self) -> Response:
        """Counts and times in Prometheus' text format."""
        return as_prometheus(self.metrics)

    def _index(self, request: AboutShard) -> ProductIndex:
        index = self.index
        if request.state != index.facts.state:
            raise HTTPException(409, f"the shard was saved anew: it is {index.facts.state}, not {request.state}")
        return index

    def _vectors(self, text: str) -> np.ndarray:
        try:
            numbers = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
            vectors = numbers.reshape(-1, self.index.dim)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"queries: are no base64 of vectors of {self.index.dim} float32 numbers") from error
        if len(vectors) > MAX_QUERIES or not np.isfinite(vectors).all():
            raise DataError(f"queries: are more than {MAX_QUERIES}, or hold what is no finite number")
        return vectors


def create_shard_app(index: ProductIndex) -> FastAPI:
    """The service of a shard as an ASGI application.

    Args:
        index (`ProductIndex`): the shard.
    """
    service = ShardService(index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(follow(service.refresh))
        yield
        following.cancel()

    app = FastAPI(title="mmfusion shard", description="A shard of a product index.", lifespan=lifespan)
    app.add_middleware(Limits, metrics=service.metrics)
    reads: dict[str, Callable] = {"/shard": service.facts, "/health": service.health}
    for path, function in reads.items():
        app.get(path)(function)
    app.get("/metrics", include_in_schema=False)(service.prometheus)
    for function in (service.candidates, service.results, service.readings, service.unknown):
        app.post(f"/shard/{function.__name__}")(function)
    answer_errors(app)
    return app
