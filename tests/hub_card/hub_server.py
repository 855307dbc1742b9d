"""A stand-in for the Hub on loopback: what huggingface_hub's uploads and downloads need, with faults on demand.

It shows that our calls are well formed for the installed client, not that the real Hub would accept them. Repositories
live in memory: a commit is a dict of path to content. Files that are binary or larger than 100 kB go through LFS.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "test" * 8
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin", ".onnx")
LFS_SIZE = 100_000
KINDS = "models|datasets|spaces"


@dataclass
class Fault:
    """What goes wrong with requests whose method and path fit a pattern.

    Attributes:
        pattern (`str`): regular expression of `METHOD /path`.
        status (`int`): the status to answer; 0 cuts the connection after the request's headers.
        times (`int`): how many requests it strikes.
        headers (`dict`): headers of the answer.
        after (`bool`): do what is asked first, then fail: an answer that is lost.
        count (`int`): how often it has struck.
    """

    pattern: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    count: int = 0


@dataclass
class Repo:
    """One repository: its commits, newest last, and the names of some of them."""

    kind: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, bytes]) -> str:
        """Adds a commit and points a branch or pull request at it."""
        oid = hashlib.sha1(f"{ref} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        return oid

    def oid(self, revision: str) -> str | None:
        """The commit that a branch, tag, pull request or commit names."""
        found = self.refs.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


class HubServer(ThreadingHTTPServer):
    """The server; see [`hub_server`]."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}  # by path such as datasets/me/shop
        self.objects: dict[str, bytes] = {}  # LFS
        self.collections: dict[str, dict] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Connections that a client or a fault cut are no news."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `ROUTES` names the method for each path."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *words):
        """Keeps quiet."""

    def do_GET(self):
        self.answer_request()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer_request(self) -> None:
        """Reads the body, strikes a fault if there is one, else calls the route."""
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        line = f"{self.command} {path}"
        with self.server.lock:
            self.server.requests.append(line)
            fault = next((f for f in self.server.faults if f.count < f.times and re.search(f.pattern, line)), None)
            if fault:
                fault.count += 1
        if fault and fault.status == 0 and not fault.after:
            return self.cut()
        self.body = self.read_body()
        if fault and not fault.after:
            return self.send(fault.status, {"error": "a fault"}, fault.headers)
        for pattern, route in ROUTES:
            if found := re.fullmatch(pattern, line):
                if fault:
                    self.send = lambda *_: self.cut()  # the answer is lost
                with self.server.lock:
                    answer = route(self, *found.groups())
                return self.send(*answer)
        return self.send(404, {"error": f"no route {line}"})

    def cut(self) -> None:
        """Closes the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(2)

    def read_body(self) -> bytes:
        """The whole body, chunked or not."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, content: dict | list | bytes = b"", headers: dict | None = None) -> None:
        """Sends an answer; dicts and lists as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def is_known(self) -> bool:
        """True with the token."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"


def json_body(handler: Handler) -> dict:
    return json.loads(handler.body or b"{}")


def missing(code: str) -> tuple[int, dict, dict]:
    return 404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": f"{code}: not found"}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE


def entry(path: str, content: bytes) -> dict:
    """A file as the tree lists it."""
    found = {"type": "file", "path": path, "oid": git_oid(content), "size": len(content)}
    if is_lfs(path, len(content)):
        sha = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
    return found


def at(handler: Handler, kind: str, name: str, revision: str = "main"):
    """Repository, commit and files; or the answer that says what is missing."""
    repo = handler.server.repos.get(f"{kind}/{name}")
    if repo is None or (repo.private and not handler.is_known):
        return None, None, missing("RepoNotFound")
    oid = repo.oid(revision)
    return (repo, oid, None) if oid else (None, None, missing("RevisionNotFound"))


def whoami(handler: Handler):
    return (200, {"type": "user", "name": "me", "orgs": []}) if handler.is_known else (401, {"error": "Invalid token"})


def create_repo(handler: Handler):
    if not handler.is_known:
        return 401, {"error": "Invalid username or password."}
    asked = json_body(handler)
    name, kind = f"{asked.get('organization') or 'me'}/{asked['name']}", f"{asked.get('type', 'model')}s"
    prefix = "" if kind == "models" else f"{kind}/"
    answer = {"url": f"{handler.server.url}/{prefix}{name}", "id": "1", "name": name}
    if f"{kind}/{name}" in handler.server.repos:
        return 409, answer | {"error": "You already created this repo"}
    assert kind != "spaces" or asked["sdk"] in ("gradio", "static"), asked
    private = asked.get("private") or asked.get("visibility") == "private"
    handler.server.repos[f"{kind}/{name}"] = repo = Repo(kind, bool(private))
    repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return 200, answer


def validate_yaml(handler: Handler):
    return 200, {"errors": [], "warnings": []}


def preupload(handler: Handler, kind: str, name: str, revision: str):
    repo, oid, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    files = []
    for file in json_body(handler)["files"]:
        mode, content = "lfs" if is_lfs(file["path"], file["size"]) else "regular", repo.commits[oid].get(file["path"])
        stored = None
        if content is not None:
            stored = hashlib.sha256(content).hexdigest() if mode == "lfs" else git_oid(content)
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": stored})
    return 200, {"files": files}


def lfs_batch(handler: Handler, name: str):
    objects = []
    for item in json_body(handler)["objects"]:
        if item["oid"] not in handler.server.objects:
            place = f"{handler.server.url}/lfs/{item['oid']}"
            item |= {"actions": {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}}
        objects.append(item)
    return 200, {"transfer": "basic", "objects": objects}


def lfs_put(handler: Handler, oid: str):
    if hashlib.sha256(handler.body).hexdigest() != oid:
        return 400, {"error": "the content is another one"}
    handler.server.objects[oid] = handler.body
    return 200, {}


def lfs_verify(handler: Handler, oid: str):
    return (200, {}) if oid in handler.server.objects else (404, {"error": "never uploaded"})


def commit(handler: Handler, kind: str, name: str, revision: str):
    if not handler.is_known:
        return 401, {"error": "Invalid username or password."}
    repo, oid, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    files = dict(repo.commits[oid])
    for line in handler.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header" and value.get("parentCommit", oid) != oid:
            return 412, {"error": "the branch has moved"}
        if item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            files[value["path"]] = handler.server.objects[value["oid"]]
        elif item["key"] == "deletedFile":
            del files[value["path"]]
    answer, ref = {}, revision
    if "create_pr" in handler.query:
        ref = f"refs/pr/{1 + sum(name.startswith('refs/pr') for name in repo.refs)}"
        prefix = "" if kind == "models" else f"{kind}/"
        answer["pullRequestUrl"] = f"{handler.server.url}/{prefix}{name}/discussions/{ref.split('/')[-1]}"
    new = repo.commit(ref, files)
    return 200, answer | {"commitOid": new, "commitUrl": f"{handler.server.url}/{kind}/{name}/commit/{new}"}


def info(handler: Handler, kind: str, name: str, revision: str | None = None):
    repo, oid, wrong = at(handler, kind, name, revision or "main")
    if wrong:
        return wrong
    files = [{"rfilename": path} for path in repo.commits[oid]]
    known = {"id": name, "sha": oid, "siblings": files, "private": repo.private, "gated": False, "tags": []}
    return 200, known | {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}


def tree(handler: Handler, kind: str, name: str, rest: str):
    repo = handler.server.repos.get(f"{kind}/{name}")
    if repo is None or (repo.private and not handler.is_known):
        return missing("RepoNotFound")
    revision, _, folder = rest.partition("/")
    if rest.startswith("refs/pr/"):
        revision, folder = "/".join(rest.split("/")[:3]), "/".join(rest.split("/")[3:])
    oid = repo.oid(revision)
    if oid is None:
        return missing("RevisionNotFound")
    prefix = f"{folder}/" if folder else ""
    below = {path: content for path, content in repo.commits[oid].items() if path.startswith(prefix)}
    if folder and not below:
        return missing("EntryNotFound")
    recursive = handler.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    found, folders = [], {}
    for path, content in below.items():
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            folders[name] = {"type": "directory", "path": name, "oid": git_oid(name.encode()), "size": 0}
        if recursive or len(parts) == 1:
            found.append(entry(path, content))
    return 200, [*folders.values(), *found]


def paths_info(handler: Handler, kind: str, name: str, revision: str):
    repo, oid, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    asked = json_body(handler).get("paths") or parse_qs(handler.body.decode()).get("paths", [])
    return 200, [entry(path, repo.commits[oid][path]) for path in asked if path in repo.commits[oid]]


def refs(handler: Handler, kind: str, name: str):
    repo, _, wrong = at(handler, kind, name)
    if wrong:
        return wrong
    branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.refs["main"]}]
    tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
    return 200, {"branches": branches, "converts": [], "tags": tags}


def commits(handler: Handler, kind: str, name: str, revision: str):
    repo, _, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    known = {"title": "A commit", "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
    return 200, [{"id": oid} | known for oid in reversed(repo.commits)]


def tag(handler: Handler, kind: str, name: str, revision: str):
    repo, oid, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    asked = json_body(handler)["tag"]
    if asked in repo.tags:
        return 409, {"error": "Tag reference exists already"}
    repo.tags[asked] = oid
    return 200, {}


def variables(handler: Handler, name: str):
    asked = json_body(handler)
    handler.server.repos[f"spaces/{name}"].variables[asked["key"]] = asked["value"]
    return 200, {asked["key"]: {"value": asked["value"], "description": None, "updatedAt": None}}


def create_collection(handler: Handler):
    asked = json_body(handler)
    slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
    if slug in handler.server.collections:
        return 409, {"error": "exists", "slug": slug}
    handler.server.collections[slug] = {
        "slug": slug,
        "title": asked["title"],
        "owner": {"name": asked["namespace"]},
        "items": [],
        "lastUpdated": "2026-01-01T00:00:00.000Z",
        "position": 0,
        "private": asked["private"],
        "theme": "indigo",
        "upvotes": 0,
    }
    return 200, handler.server.collections[slug]


def get_collection(handler: Handler, slug: str):
    return 200, handler.server.collections[slug]


def add_item(handler: Handler, slug: str):
    items, asked = handler.server.collections[slug]["items"], json_body(handler)["item"]
    if any(item["id"] == asked["id"] and item["type"] == asked["type"] for item in items):
        return 409, {"error": "already there"}
    repo_type = {"model": "model", "dataset": "dataset", "space": "space"}[asked["type"]]
    items.append({"_id": str(len(items)), "id": asked["id"], "type": repo_type, "position": len(items)})
    return 200, handler.server.collections[slug]


def resolve(handler: Handler, prefix: str | None, name: str, rest: str):
    kind = (prefix or "models/").rstrip("/")
    depth = 3 if rest.startswith("refs/pr/") else 1
    revision, path = "/".join(rest.split("/")[:depth]), "/".join(rest.split("/")[depth:])
    repo, oid, wrong = at(handler, kind, name, revision)
    if wrong:
        return wrong
    content = repo.commits[oid].get(path)
    if content is None:
        status, body, headers = missing("EntryNotFound")
        return status, body, headers | {"X-Repo-Commit": oid}
    listed = entry(path, content)
    headers = {"X-Repo-Commit": oid, "ETag": f'"{listed["oid"]}"', "Accept-Ranges": "bytes"}
    if "lfs" in listed:
        headers |= {"X-Linked-Etag": f'"{listed["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
        headers["ETag"] = headers["X-Linked-Etag"]
    if handler.command == "HEAD":
        return 200, b"", headers | {"Content-Length": str(len(content))}
    if found := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", "")):
        start, end = int(found[1]), int(found[2] or len(content) - 1) + 1
        whole = f"bytes {start}-{end - 1}/{len(content)}"
        return 206, content[start:end], headers | {"Content-Range": whole}
    return 200, content, headers


ID = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, Callable]] = [
    (r"GET /api/whoami-v2", whoami),
    (r"POST /api/repos/create", create_repo),
    (r"POST /api/validate-yaml", validate_yaml),
    (rf"POST /api/({KINDS})/{ID}/preupload/(.+)", preupload),
    (rf"POST /(?:datasets/|spaces/)?{ID}\.git/info/lfs/objects/batch", lfs_batch),
    (r"PUT /lfs/(\w+)", lfs_put),
    (r"POST /lfs/(\w+)/verify", lfs_verify),
    (rf"POST /api/({KINDS})/{ID}/commit/(.+)", commit),
    (rf"(?:GET|HEAD) /api/({KINDS})/{ID}", info),
    (rf"(?:GET|HEAD) /api/({KINDS})/{ID}/revision/(.+)", info),
    (rf"GET /api/({KINDS})/{ID}/tree/(.+)", tree),
    (rf"POST /api/({KINDS})/{ID}/paths-info/(.+)", paths_info),
    (rf"GET /api/({KINDS})/{ID}/refs", refs),
    (rf"GET /api/({KINDS})/{ID}/commits/(.+)", commits),
    (rf"POST /api/({KINDS})/{ID}/tag/(.+)", tag),
    (rf"POST /api/spaces/{ID}/variables", variables),
    (r"POST /api/collections", create_collection),
    (r"GET /api/collections/(.+)", get_collection),
    (r"POST /api/collections/(.+)/items", add_item),
    (rf"(?:GET|HEAD) /(datasets/|spaces/)?{ID}/resolve/(.+)", resolve),
]


@contextmanager
def hub_server():
    """Runs a server in a thread until the block ends."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        time.sleep(0)
