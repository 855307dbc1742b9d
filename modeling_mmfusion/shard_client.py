"""`RemoteShard`: a shard of an index on another host, asked over HTTP; `service_shard.py` is the other end."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import local
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from .errors import DataError, ProductIndexError, one_line
from .index import SearchResult
from .index_filters import Reading, Readings, UnknownValue
from .index_shards import Candidates, Found, Shard, ShardFacts
from .json_files import parse_json

SECONDS = 30.0  # to wait for an answer
START = "python -m modeling_mmfusion.serve --shard FOLDER"


class ShardChanged(ProductIndexError):
    """A shard was saved anew between two questions."""


class RemoteShard:
    """A shard that a service holds; see [`ShardedIndex`]. Connections stay open, one for each thread.

    Args:
        address (`str`): such as `http://host:8001`; with `user:password@` for a proxy that asks for it.
        seconds (`float`, *optional*, defaults to 30): to wait for an answer.

    Attributes:
        name (`str`): the address without password.
        facts (`ShardFacts`): what it tells of itself.

    Raises:
        DataError: if the address is none, nothing answers there, or what does is no shard.
    """

    def __init__(self, address: str, seconds: float = SECONDS):
        self.address, self.seconds = address, seconds
        parts = split_address(address)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = f":{parts.port}" if parts.port else ""
        self.name = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
        self._path, self._host, self._port = parts.path.rstrip("/"), parts.hostname, parts.port
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._headers = {"content-type": "application/json"}
        if parts.username is not None:
            words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = "Basic " + base64.b64encode(words.encode()).decode()
        self._open = local()
        self.facts = self.read_facts()

    def read_facts(self) -> ShardFacts:
        """What the shard tells of itself now."""
        facts = self._ask("GET", "/shard")
        try:
            shard = facts.pop("shard")
            return ShardFacts(shard and Shard(**shard), **facts)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self.name}: answers, but is no shard of this version; start it with {START}") from error

    def newest(self) -> "RemoteShard":
        """The shard as it is now; itself if nothing changed."""
        return self if self.read_facts() == self.facts else RemoteShard(self.address, self.seconds)

    def search_shard(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Any],
        texts: Sequence[str] | None,
        readings: Readings,
    ) -> list[Candidates]:
        """See [`ProductIndex.search_shard`]; more queries than a request may have go in several."""
        found: list[Candidates] = []
        for start in range(0, len(queries), MAX_QUERIES):
            some = slice(start, start + MAX_QUERIES)
            asked = {
                "queries": as_base64(queries[some]),
                "k": k,
                "texts": None if texts is None else list(texts[some]),
            }
            answers = self._post("candidates", asked | as_filter(where, readings))
            found += [read_candidates(one) for one in answers]
        return found

    def results(self, queries: np.ndarray, found: Sequence[Found]) -> list[list[SearchResult]]:
        """See [`ProductIndex.results`]."""
        results: list[list[SearchResult]] = []
        for start in range(0, len(queries), MAX_QUERIES):
            some = slice(start, start + MAX_QUERIES)
            parts = [[None if part is None else part.tolist() for part in one] for one in found[some]]
            answers = self._post("results", {"queries": as_base64(queries[some]), "found": parts})
            results += [[SearchResult(**one) for one in answer] for answer in answers]
        return results

    def readings(self, where: Mapping[str, Any]) -> Readings:
        """See [`ProductIndex.readings`]."""
        return read_readings(self._post("readings", as_filter(where, {})))

    def unknown(self, where: Mapping[str, Any], readings: Readings) -> dict[tuple[str, int], UnknownValue]:
        """See [`ProductIndex.unknown`]."""
        answers = self._post("unknown", as_filter(where, readings))
        return {(name, place): read_unknown(facts) for name, place, facts in answers}

    def _post(self, what: str, asked: dict[str, Any]) -> Any:
        return self._ask("POST", f"/shard/{what}", asked | {"state": self.facts.state})["answer"]

    def _ask(self, method: str, path: str, asked: dict[str, Any] | None = None) -> Any:
        body = None if asked is None else json.dumps(asked, default=plain_value).encode()
        try:
            status, content = self._send(method, self._path + path, body)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
            raise DataError(f"{self.name}: the shard does not answer ({reason}); is its service running?") from error
        try:
            answer = parse_json(content)
            problem = answer.get("error")
        except (ValueError, AttributeError):
            answer, problem = None, None
        if status == 200 and answer is not None:
            return answer
        message = problem.get("message") if isinstance(problem, dict) else None
        if status == 409:
            raise ShardChanged(f"{self.name}: {message}")
        if status == 400 and message:
            raise ProductIndexError(message)
        if status == 404 or answer is None:
            raise DataError(f"{self.name}: answers (status {status}), but is no shard; start it with {START}")
        raise DataError(f"{self.name}: the shard failed (status {status}: {one_line(message)})")

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and content of an answer; sent again once where the service had ended a connection that was idle."""
        for is_last in (False, True):
            connection = getattr(self._open, "connection", None)
            is_new = connection is None
            if is_new:
                connection = self._open.connection = self._connect(self._host, self._port, timeout=self.seconds)
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, HTTPException) as error:
                connection.close()
                self._open.connection = None
                if is_last or is_new or isinstance(error, TimeoutError):
                    raise
        raise AssertionError("unreachable")


MAX_QUERIES = 256  # of one request; a search has them in several


def is_address(place: str) -> bool:
    """Whether a place is a service's, and no folder."""
    return place.strip().lower().startswith(("http://", "https://"))


def split_address(address: str) -> Any:
    """The parts of an address.

    Raises:
        DataError: if it is none; the message does not repeat what may be a password.
    """
    try:
        parts = urlsplit(address.strip())
        if not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
            raise ValueError
    except ValueError as error:
        shown = address.rsplit("@", 1)[-1]
        raise DataError(f"{shown!r} is no address of a shard; give one such as http://host:8001") from error
    return parts


def as_base64(vectors: np.ndarray) -> str:
    """Vectors as base64 of little-endian float32, row by row."""
    return base64.b64encode(np.ascontiguousarray(vectors, dtype="<f4").tobytes()).decode()


def as_filter(where: Mapping[str, Any], readings: Readings) -> dict[str, Any]:
    """A filter and how columns are read for it, as JSON has them; bounds are `{"between": [low, high]}`."""
    conditions = {
        name: {"between": list(wanted)} if isinstance(wanted, tuple) else wanted for name, wanted in where.items()
    }
    return {"where": conditions, "readings": {name: asdict(one) for name, one in readings.items()}}


def read_filter(where: Mapping[str, Any], readings: Mapping[str, Any]) -> tuple[dict[str, Any], Readings]:
    """The other way round.

    Raises:
        DataError: if they have another form.
    """
    try:
        conditions = {name: tuple(one["between"]) if isinstance(one, dict) else one for name, one in where.items()}
        return conditions, read_readings(readings)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"where or readings: are not as a shard takes them ({one_line(error)})") from error


def read_readings(readings: Mapping[str, dict[str, Any]]) -> Readings:
    """Readings of JSON."""
    return {name: Reading(**one | {"ranges": tuple(one["ranges"])}) for name, one in readings.items()}


def read_unknown(facts: dict[str, Any]) -> UnknownValue:
    """An unknown value of JSON."""
    extent = facts["extent"] and tuple(facts["extent"])
    return UnknownValue(**facts | {"near": tuple(facts["near"]), "extent": extent})


def write_candidates(found: Candidates) -> dict[str, Any]:
    """Candidates as JSON has them; a float32 is the same after it was written and read."""
    parts = {name: None if part is None else part.tolist() for name, part in vars(found).items() if name != "ids"}
    return parts | {"ids": list(found.ids)}


def read_candidates(facts: dict[str, Any]) -> Candidates:
    """The other way round."""
    kinds = {"rows": np.int64, "scores": np.float32, "words": np.float32, "is_near": bool, "is_matching": bool}
    parts: dict[str, Any] = {
        name: None if facts[name] is None else np.array(facts[name], dtype=kind) for name, kind in kinds.items()
    }
    return Candidates(**parts, ids=facts["ids"])


def plain_value(value: Any) -> Any:
    """A value of a filter that JSON does not have: NumPy's numbers as Python's, sets as lists, others as text."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, (set, frozenset)) else str(value)


__all__ = ["RemoteShard"]
