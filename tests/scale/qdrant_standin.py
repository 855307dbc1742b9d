"""A stand-in for a Qdrant server: it takes the requests that [`QdrantEngine`] sends, in the forms that Qdrant's REST
interface documents, and answers from an embedded Qdrant in memory. No real server was run."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit


def answer(client, method: str, path: str, body: dict):
    """What a request gives.

    Raises:
        ValueError: as Qdrant says it.
        LookupError: if there is no such path.
    """
    from qdrant_client import models

    if (method, path) == ("GET", "/aliases"):
        return client.get_aliases().model_dump()
    if (method, path) == ("POST", "/collections/aliases"):
        kinds = {"create_alias": models.CreateAliasOperation, "delete_alias": models.DeleteAliasOperation}
        return client.update_collection_aliases([kinds[[*one][0]](**one) for one in body["actions"]])
    found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
    name, call = unquote(found[1]), f"{method} {found[2] or ''}".strip()
    if call == "GET":
        return client.get_collection(name).model_dump()
    if call == "PUT":
        assert body["hnsw_config"] == {"m": 16, "ef_construct": 128} and body["vectors"]["distance"] == "Dot"
        return client.create_collection(name, models.VectorParams(**body["vectors"]), metadata=body["metadata"])
    if call == "DELETE":
        return client.delete_collection(name)
    if call == "PATCH":
        return client.update_collection(name, metadata=body["metadata"])
    if call == "PUT /index":
        assert body["field_schema"] in ("keyword", "bool", "integer", "float")
        assert re.fullmatch(r"(plain|number)\.[A-Za-z0-9_-]+", body["field_name"])
        return {"operation_id": 0, "status": "completed"}
    if call == "PUT /points":
        return client.upsert(name, [models.PointStruct(**one) for one in body["points"]]).model_dump()
    if call == "POST /points":
        found = client.retrieve(name, body["ids"], body["with_payload"], with_vectors=body["with_vector"])
        return [one.model_dump() for one in found]
    if call == "POST /points/delete":
        return client.delete(name, models.PointIdsList(**body)).model_dump()
    if call == "POST /points/count":
        assert body["exact"] is True
        return client.count(name).model_dump()
    if call == "POST /points/scroll":
        request = models.ScrollRequest(**body)
        points, offset = client.scroll(
            name, request.filter, request.limit, offset=request.offset, with_payload=request.with_payload
        )
        return {"points": [one.model_dump() for one in points], "next_page_offset": offset}
    if call == "POST /points/query/batch":
        assert all(one["params"]["hnsw_ef"] >= 128 for one in body["searches"])
        requests = [models.QueryRequest(**one | {"params": None}) for one in body["searches"]]
        return [one.model_dump() for one in client.query_batch_points(name, requests)]
    raise LookupError(call)


@contextmanager
def stand_in(key: str | None = None, fails: int = 0, says: bytes = b"", metadata: bool = True) -> Iterator[tuple]:
    """A server that listens; gives its address, the client in memory, and the requests that came.

    Args:
        key (`str`, *optional*): the API key without which nothing is answered.
        fails (`int`, *optional*): a status that answers each request but that for aliases.
        says (`bytes`, *optional*): what every answer is.
        metadata (`bool`, *optional*): whether collections keep metadata, which they do from Qdrant 1.16 on.
    """
    from qdrant_client import QdrantClient

    client, lock, requests = QdrantClient(":memory:"), Lock(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            requests.append((self.command, self.path, body))
            try:
                if key and self.headers.get("api-key") != key:
                    return self.reply(401, b"Must provide an API key or an Authorization bearer token")
                if says:
                    return self.reply(200, says)
                if fails and path != "/aliases":
                    return self.reply(fails, json.dumps({"status": {"error": "disk\nis full"}}).encode())
                if not metadata:
                    body.pop("metadata", None)
                    body |= {"metadata": None} if self.command == "PUT" else {}
                with lock:
                    result = answer(client, self.command, path, body)
                self.reply(200, json.dumps({"result": result, "status": "ok", "time": 0}, default=str).encode())
            except ValueError as error:
                said = {"status": {"error": f"Not found: {error}"}}
                self.reply(404 if "not found" in str(error) else 400, json.dumps(said).encode())
            except (AssertionError, LookupError, TypeError, AttributeError) as error:
                self.reply(500, json.dumps({"status": {"error": f"the stand-in: {error!r}"}}).encode())

        do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", client, requests
    finally:
        server.shutdown()
        server.server_close()
