"""Requests to OpenSearch and Elasticsearch: addresses, keys, answers that are none, servers that are busy."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2

from modeling_mmfusion.errors import DataError, one_line

TOKEN = "MMFUSION_ENGINE_TOKEN"
TIMEOUT = 120.0  # seconds
TRIES, PAUSE = 6, 1.0  # of a server that is busy; seconds before the second try, twice as many before each next one
BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
REQUEST_BYTES = 5_000_000  # of many products or queries in one request; servers take 100 MB
PRODUCT_HEADER = "x-elastic-product"  # in each answer of Elasticsearch since 7.14, in none of OpenSearch

Lines = list[bytes]  # of newline-delimited JSON that belong together: what to do, and with what


class RestClient:
    """A server that is asked by HTTP and answers in JSON.

    Args:
        place (`str`): its address, such as `https://user:password@host:9200` or `https://key@host:9200`. Without a
            user there, the environment variable MMFUSION_ENGINE_TOKEN is taken: `user:password` or a key.
        engine (`str`): `"opensearch"` or `"elasticsearch"`.
        scheme (`str`): how a key is announced, `ApiKey` or `Bearer`.

    Attributes:
        address (`str`): the address without user and key, for messages.

    Raises:
        DataError: if the address is none.
    """

    def __init__(self, place: str, engine: str, scheme: str):
        self.engine = engine
        self.address, user = split_address(place, engine)
        token = user or os.environ.get(TOKEN, "").strip()
        headers, auth = {}, None
        if ":" in token:
            auth = httpx2.BasicAuth(*token.split(":", 1))
        elif token:
            if not (token.isascii() and token.isprintable()):
                raise DataError(f"{self.address}: the key for it holds what is no ASCII; look at {TOKEN}")
            headers["Authorization"] = f"{scheme} {token}"
        self.http = httpx2.Client(headers=headers, auth=auth, timeout=TIMEOUT, follow_redirects=False)

    def ask(self, method: str, path: str, body: dict | None = None) -> Any:
        """What the server answers.

        Raises:
            DataError: if it can't be reached, refuses, or answers what is no JSON.
        """
        return self._ask(method, path, encoded(body) if body is not None else b"", "application/json")

    def look(self, path: str) -> Any:
        """The same of something that may not be there: then `None`."""
        return self._ask("GET", path, b"", "application/json", missing_is_none=True)

    def ask_lines(self, path: str, lines: Iterable[Lines]) -> list[Any]:
        """What the server answers to requests of several lines each, some thousand of them at a time."""
        kind = "application/x-ndjson"
        return [self._ask("POST", path, b"".join(sum(chunk, [])), kind) for chunk in chunks(lines)]

    def bulk(self, path: str, actions: Iterable[Lines]) -> None:
        """Writes or deletes products; those for which the server was too busy are sent again.

        Raises:
            DataError: naming the first product that was not taken.
        """
        for chunk in chunks(actions):
            self._bulk(path, chunk)

    def part(self, answer: Any, *names: Any) -> Any:
        """What an answer holds under these names or numbers.

        Raises:
            DataError: if it doesn't.
        """
        for name in names:
            try:
                answer = answer[name]
            except (LookupError, TypeError) as error:
                raise DataError(f"{self.address}: answers as no {self.engine} does, without {name!r}") from error
        return answer

    def number(self, answer: Any, *names: Any) -> Any:
        """The number that an answer holds there."""
        if not isinstance(found := self.part(answer, *names), (int, float)):
            raise DataError(f"{self.address}: answers as no {self.engine} does, with {names[-1]!r} {found!r:.40}")
        return found

    def rows(self, answer: Any, *names: Any) -> list:
        """The list that an answer holds there."""
        if not isinstance(found := self.part(answer, *names), list):
            raise DataError(f"{self.address}: answers as no {self.engine} does, with {names[-1]!r} {found!r:.40}")
        return found

    def check(self, answer: Any) -> None:
        """Looks at one of several answers in one.

        Raises:
            DataError: if it is an error.
        """
        if isinstance(answer, dict) and "error" in answer:
            raise DataError(f"{self.address}: {self.engine} answers {answer.get('status')}: {reason_of(answer)}")

    def close(self) -> None:
        """Ends the connections."""
        self.http.close()

    def _bulk(self, path: str, left: list[Lines]) -> None:
        for attempt in range(TRIES):
            answer = self._ask("POST", path, b"".join(sum(left, [])), "application/x-ndjson")
            busy = []
            for number, lines in enumerate(left):
                item = self.part(answer, "items", number)
                [result] = item.values() if isinstance(item, dict) and len(item) == 1 else [item]
                status = self.part(result, "status")
                if status in BUSY:
                    busy.append(lines)
                elif status >= 400 and "error" in result:
                    reason = reason_of(result)
                    raise DataError(f"{self.address}: product {result.get('_id')!r} was not taken: {reason}")
            if not busy:
                return
            left = busy
            if attempt < TRIES - 1:
                time.sleep(PAUSE * 2**attempt)
        first = json.loads(left[0][0])
        [action] = first.values()
        raise DataError(
            f"{self.address}: {self.engine} is too busy for product {action['_id']!r} and {len(left) - 1:,} others; "
            "try again later"
        )

    def _ask(self, method: str, path: str, content: bytes, kind: str, missing_is_none: bool = False) -> Any:
        headers = {"Content-Type": kind} if content else {}
        for attempt in range(TRIES):
            try:
                response = self.http.request(method, self.address + path, content=content, headers=headers)
            except httpx2.HTTPError as error:
                told = one_line(error, 200) or type(error).__name__
                hint = "; name your authority's certificates in SSL_CERT_FILE" if "CERTIFICATE" in told else ""
                raise DataError(f"{self.address}: {self.engine} can't be reached ({told}){hint}") from error
            if response.status_code not in BUSY or attempt == TRIES - 1:
                break
            time.sleep(PAUSE * 2**attempt)
        return self._answer(response, missing_is_none)

    def _answer(self, response: httpx2.Response, missing_is_none: bool) -> Any:
        status = response.status_code
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if status in REFUSED:
            reason = f", {reason_of(answer)}" if answer else ""
            raise DataError(
                f"{self.address}: {self.engine} refuses access ({status}{reason}); "
                f"give user:password@ or key@ in the address, or {TOKEN}"
            )
        if not isinstance(answer, dict):
            told = one_line(response.text, 80)
            raise DataError(f"{self.address}: answers {status} and what is no {self.engine}'s JSON: {told!r}")
        if status == HTTPStatus.NOT_FOUND and missing_is_none:
            self._check_product(response)
            return None
        if not response.is_success:
            raise DataError(f"{self.address}: {self.engine} answers {status}: {reason_of(answer)}")
        self._check_product(response)
        return answer

    def _check_product(self, response: httpx2.Response) -> None:
        other = {"opensearch": "elasticsearch", "elasticsearch": "opensearch"}[self.engine]
        if (PRODUCT_HEADER in response.headers) != (self.engine == "elasticsearch"):
            raise DataError(f"{self.address}: is no {self.engine}; is it {other}:{self.address} that you mean?")


def split_address(place: str, engine: str) -> tuple[str, str]:
    """An address without its user, and `user:password` or the key that stood in it; `""` if none.

    >>> split_address("https://me:s%40cret@host:9200/", "opensearch")
    ('https://host:9200', 'me:s@cret')

    Raises:
        DataError: if it is none; the message tells no password.
    """
    try:
        parts = urlsplit(place)
        port = parts.port
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or port == 0
    except ValueError:
        wrong = True
    if wrong or any(sign.isspace() for sign in place):
        raise DataError(
            f"{engine}: the address is none; write {engine}:https://host:9200#products, in a password %23 for # and "
            "%2F for /"
        )
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), unquote(user)


def encoded(body: dict) -> bytes:
    """A body as JSON.

    Raises:
        ValueError: if it holds what is no finite number.
    """
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def line(body: dict) -> bytes:
    """A body as a line of JSON."""
    return encoded(body) + b"\n"


def chunks(lines: Iterable[Lines]) -> Iterator[list[Lines]]:
    """Lines for requests of REQUEST_BYTES at most, or of one product or query that is longer."""
    chunk, size = [], 0
    for one in lines:
        length = sum(map(len, one))
        if chunk and size + length > REQUEST_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += length
    if chunk:
        yield chunk


def reason_of(answer: Any) -> str:
    """The reason that an error gives, on one line."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        causes = error.get("root_cause") or [error]
        cause = error.get("caused_by") or (causes[0] if isinstance(causes, list) else error)
        told = [error.get("reason"), cause.get("reason") if isinstance(cause, dict) else None]
        error = ": ".join(dict.fromkeys(str(one) for one in told if one)) or error.get("type", "")
    return one_line(error, 300)
