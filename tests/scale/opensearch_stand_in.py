"""Servers that stand in for OpenSearch and Elasticsearch, of which none could be had: no test has run on a real one.

[`StandIn`] knows the requests that `training/scale/opensearch.py` makes, and refuses with status 400 all that the
published interfaces don't take: unknown parameters and keys, the other engine's queries, wrong types, reserved names,
vectors of another width, lines without an end. What was written is found after a refresh, as there. It compares all
vectors, so what it finds is exact; scores are made by the published formulas.
"""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from opensearch_stand_in_search import Index, Refused, Search, error_of, expect, is_a, only, parsed

FIELDS = 1000  # of an index
HTML = "<html>\n<body>\nSign in at the gateway, please</body></html>"
RESERVED = {
    "_id",
    "_source",
    "_index",
    "_routing",
    "_field_names",
    "_ignored",
    "_seq_no",
    "_version",
    "_type",
    "_tier",
}
PARAMETERS = {
    "keyword": set(),
    "long": set(),
    "integer": set(),
    "double": set(),
    "boolean": set(),
    "object": {"enabled", "properties"},
    "text": {"analyzer", "index_options"},
    "knn_vector": {"dimension", "method"},
    "dense_vector": {"dims", "index", "similarity", "index_options"},
}


class StandIn:
    """A server at `url`.

    Args:
        elastic (`bool`): speak as Elasticsearch, or as OpenSearch.
        authorization (`str`, *optional*): the header that is wanted.

    Attributes:
        indices, aliases: what there is.
        asked (`list[tuple[str, str]]`): methods and paths of all requests.
        says (`list[tuple[int, str, bytes]]`): answers to the next requests in place of true ones.
        busy (`dict[str, int]`): how often products are refused as too many, by id.
    """

    def __init__(self, elastic: bool, authorization: str | None = None):
        self.elastic, self.authorization = elastic, authorization
        self.indices: dict[str, Index] = {}
        self.aliases: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.says: list[tuple[int, str, bytes]] = []
        self.busy: dict[str, int] = {}
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, method: str, path: str, kind: str | None, key: str | None, content: bytes) -> tuple[int, Any]:
        if self.authorization and key != self.authorization:
            return 401, {"error": error_of("security_exception", "missing authentication credentials"), "status": 401}
        parts = urlsplit(path)
        names = [unquote(one) for one in parts.path.strip("/").split("/")]
        parameters = {
            name: values[0] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
        try:
            lines = names[-1] in ("_bulk", "_msearch")
            wanted = ("application/x-ndjson", "application/json") if lines else ("application/json",)
            expect(not content or kind in wanted, f"Content-Type header [{kind}] is not supported", status=406)
            expect(set(parameters) <= ({"require_alias"} if names[-1] == "_bulk" else set()), f"unrecognized {path}")
            if lines:
                return 200, self.lines(names, parameters, content)
            return 200, self.one(method, names, parsed(content) if content else None)
        except Refused as refused:
            return refused.status, refused.body

    def one(self, method: str, names: list[str], body: Any) -> Any:
        match method, *names:
            case "POST", "_aliases":
                return self.change_aliases(only(body, "actions")["actions"])
            case "PUT", name:
                return self.create(name, only(body, "settings", "mappings"))
            case "DELETE", name:
                expect(name not in self.aliases, f"The provided expression [{name}] matches an alias")
                expect(name in self.indices, f"no such index [{name}]", "index_not_found_exception", 404)
                self.remove(name)
                return {"acknowledged": True}
            case "GET", name, "_mapping":
                index = self.index(name)
                return {self.aliases.get(name, name): {"mappings": index.mappings}}
            case "PUT", name, "_mapping":
                self.index(name).mappings |= {"_meta": only(body, "_meta")["_meta"]}
                return {"acknowledged": True}
            case "PUT", name, "_settings":
                self.index(name).settings |= only(only(body, "index")["index"], "refresh_interval")
                return {"acknowledged": True}
            case "POST", name, "_refresh":
                expect(body is None, "request body is not supported")
                self.index(name).refresh()
                return {"_shards": {"total": 2, "successful": 1, "failed": 0}}
            case "POST", name, "_count":
                mask = Search(self.elastic, self.index(name)).passing(only(body, "query")["query"])
                return {"count": int(mask.sum()), "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0}}
            case "POST", name, "_search":
                return Search(self.elastic, self.index(name)).run(body)
        raise Refused(400, "illegal_argument_exception", f"no handler found for uri {names} and method [{method}]")

    def index(self, name: str) -> Index:
        name = self.aliases.get(name, name)
        expect(name in self.indices, f"no such index [{name}]", "index_not_found_exception", 404)
        return self.indices[name]

    def remove(self, name: str) -> None:
        del self.indices[name]
        self.aliases = {alias: index for alias, index in self.aliases.items() if index != name}

    def create(self, name: str, body: dict) -> dict:
        kind = "invalid_index_name_exception"
        expect(re.fullmatch(r'[^A-Z\\/*?"<>| ,#:_+-][^A-Z\\/*?"<>| ,#:]*', name), f"Invalid index name [{name}]", kind)
        expect(len(name.encode()) <= 255, "index name is too long", kind)
        expect(name not in self.indices, f"index [{name}] already exists", "resource_already_exists_exception")
        expect(name not in self.aliases, f"already exists as alias [{name}]", kind)
        settings = only(only(body.get("settings", {}), "index").get("index", {}), "refresh_interval", "knn")
        expect("knn" not in settings or not self.elastic, "unknown setting [index.knn]")
        mappings = only(body.get("mappings", {}), "dynamic", "_meta", "properties")
        count = self.check_fields(mappings.get("properties", {}), settings, root=True)
        expect(count <= FIELDS, f"Limit of total fields [{FIELDS}] has been exceeded")
        self.indices[name] = Index(settings, mappings)
        self.indices[name].refresh()
        return {"acknowledged": True, "shards_acknowledged": True, "index": name}

    def check_fields(self, fields: dict, settings: dict, root: bool = False) -> int:
        """The number of fields, all of which are as a mapping may have them."""
        count, kind = 0, "mapper_parsing_exception"
        for name, facts in fields.items():
            expect(all(part.strip() for part in name.split(".")), f"field name cannot be blank: [{name}]", kind)
            expect("." not in name, "a dot makes an object of a field")
            expect(not root or name not in RESERVED, f"Field [{name}] is a metadata field", kind)
            facts = dict(facts)
            of = facts.pop("type", "object")
            expect(of in PARAMETERS, f"No handler for type [{of}] declared on field [{name}]", kind)
            expect(not set(facts) - PARAMETERS[of], f"unknown parameter {set(facts)} on mapper [{name}]", kind)
            expect(of != ("knn_vector" if self.elastic else "dense_vector"), f"No handler for type [{of}]", kind)
            if of == "knn_vector":
                self.check_knn_vector(facts, settings)
            if of == "dense_vector":
                self.check_dense_vector(facts)
            count += 1 + self.check_fields(facts.get("properties", {}), settings)
        return count

    def check_knn_vector(self, facts: dict, settings: dict) -> None:
        expect(settings.get("knn") is True, "index.knn must be true for a knn_vector with a method")
        expect(1 <= facts["dimension"] <= 16_000, "Dimension value must be from 1 to 16000")
        method = only(facts["method"], "name", "engine", "space_type", "parameters")
        expect((method["name"], method["engine"]) in {("hnsw", "faiss"), ("hnsw", "lucene")}, "no such method")
        expect(method["space_type"] in ("innerproduct", "cosinesimil", "l2"), "no such space")
        only(method["parameters"], "m", "ef_construction")

    def check_dense_vector(self, facts: dict) -> None:
        expect(1 <= facts["dims"] <= 4096, "The number of dimensions should be in the range [1, 4096]")
        expect(facts["similarity"] in ("max_inner_product", "dot_product", "cosine", "l2_norm"), "no such similarity")
        options = only(facts["index_options"], "type", "m", "ef_construction")
        expect(options["type"] in ("hnsw", "int8_hnsw"), "Unknown vector index options type")

    def change_aliases(self, actions: list) -> dict:
        """All of the actions, or none."""
        indices, aliases = dict(self.indices), dict(self.aliases)
        try:
            for action in actions:
                [(kind, facts)] = only(action, "add", "remove_index").items()
                name = only(facts, "index", "alias")["index"]
                expect(name in self.indices, f"no such index [{name}]", "index_not_found_exception", 404)
                if kind == "remove_index":
                    expect("alias" not in facts, "[alias] can't be set on [remove_index]")
                    self.remove(name)
                else:
                    expect(facts["alias"] not in self.indices, "an index exists with the same name as the alias")
                    self.aliases[facts["alias"]] = name
        except Refused:
            self.indices, self.aliases = indices, aliases
            raise
        return {"acknowledged": True, "errors": False}

    def lines(self, names: list[str], parameters: dict, content: bytes) -> dict:
        expect(content.endswith(b"\n"), "The bulk request must be terminated by a newline [\\n]")
        lines = [parsed(one) for one in content[:-1].split(b"\n")]
        expect(len(names) == 2, "no handler")
        if names[1] == "_msearch":
            expect(len(lines) % 2 == 0, "a header and a body are expected")
            return {
                "took": 1,
                "responses": [self.safely(names[0], *lines[at : at + 2]) for at in range(0, len(lines), 2)],
            }
        if parameters.get("require_alias") == "true" and names[0] not in self.aliases:
            reason = f"no such index [{names[0]}] and [require_alias] request flag is [true]"
            raise Refused(404, "index_not_found_exception", reason)
        index, items, lines = self.index(names[0]), [], iter(lines)  # a real one would make the index
        for action in lines:
            [(kind, facts)] = only(action, "index", "delete").items()
            product = only(facts, "_id")["_id"]
            document = next(lines) if kind == "index" else None
            items.append({kind: {"_index": names[0], "_id": product, **self.write(index, product, document)}})
        errors = any("error" in item for one in items for item in one.values())
        return {"took": 1, "errors": errors, "items": items}

    def safely(self, name: str, header: dict, body: dict) -> dict:
        try:
            only(header, "index", "search_type")
            return {**Search(self.elastic, self.index(name)).run(body), "status": 200}
        except Refused as refused:
            return refused.body

    def write(self, index: Index, product: str, document: dict | None) -> dict:
        if self.busy.get(product, 0):
            self.busy[product] -= 1
            return {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "queue is full"}}
        try:
            expect(product, "if _id is specified it must not be empty")
            expect(len(product.encode()) <= 512, "id is too long, must be no longer than 512 bytes")
            if document is None:
                gone = index.written.pop(product, None)
                return {"status": 200 if gone else 404, "result": "deleted" if gone else "not_found"}
            self.check_document(document, index.mappings["properties"])
        except Refused as refused:
            return {"status": 400, "error": refused.body["error"]}
        status = 200 if product in index.written else 201
        index.written[product] = document
        return {"status": status, "result": "created" if status == 201 else "updated"}

    def check_document(self, document: dict, fields: dict) -> None:
        for name, value in document.items():
            facts = fields.get(name)
            expect(facts, f"introduction of [{name}] is not allowed", "strict_dynamic_mapping_exception")
            kind = facts.get("type", "object")
            if kind == "object" and facts.get("enabled", True):
                self.check_document(value, facts["properties"])
            elif value is not None and kind != "object":
                values = value if isinstance(value, list) and kind == "keyword" else [value]
                good = all(is_a(kind, one, facts) for one in values)
                expect(good, f"failed to parse field [{name}] of type [{kind}]", "document_parsing_exception")


@contextmanager
def serving(server: StandIn):
    """Serves on a port of this machine; `server.url` tells where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def handle_one(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with server.lock:
                server.asked.append((self.command, self.path))
                if server.says:
                    status, kind, body = server.says.pop(0)
                else:
                    headers = self.headers["Content-Type"], self.headers["Authorization"]
                    status, answer = server.answer(self.command, self.path, *headers, content)
                    kind, body = "application/json", json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if server.elastic:
                self.send_header("X-Elastic-Product", "Elasticsearch")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = handle_one

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        yield server
        http.shutdown()


def basic(user: str, password: str) -> str:
    """The header of a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def said(server: StandIn, *answers: tuple[int, str, str]) -> None:
    """Sets the answers to the next requests: status, content type and body."""
    server.says[:] = [(status, kind, body.encode()) for status, kind, body in answers]
