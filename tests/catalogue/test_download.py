"""`download`: pictures from addresses, against a server on this machine; whatever it does, nothing half is kept."""

import hashlib
import io
import os
import signal
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from PIL import Image

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.processing_mmfusion import load_picture
from training.catalogue import download as module
from training.catalogue.download import Limits, download, is_public

LOOPBACK = ("127.0.0.1",)
QUICK = Limits(timeout=0.5, seconds=1.0, pause=0.02, size=50_000)


def picture(colour=(200, 30, 30), form="PNG", size=(40, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, content=b"", status=200, kind="image/png", told=None, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if told is None else told))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        state = self.server.state
        with state["lock"]:
            state["asked"].append(self.path)
            state["first"].setdefault(self.path, time.monotonic())
            state["agents"].add(self.headers["User-Agent"])
            state["hosts"].add(self.headers["Host"])
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
            times = Counter(state["asked"])[self.path]
        try:
            getattr(self, self.path.split("?")[0].strip("/").split("/")[0], self.ok)(times)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with state["lock"]:
                state["now"] -= 1

    def ok(self, times):
        self.answer(picture())

    def wait(self, times):
        time.sleep(0.05)
        self.ok(times)

    def missing(self, times):
        self.answer(b"not there", 404, "text/plain")

    def page(self, times):
        self.answer(b"<html>Please log in</html>", kind="image/png")

    def form(self, times):
        name = self.path.rpartition("/")[2]
        self.answer(picture(form=name), kind="application/octet-stream")

    def cut(self, times):  # fewer bytes than it tells
        self.answer(picture()[:60], told=len(picture()))
        self.close_connection = True

    def short(self, times):  # whole by its length, but the file is not
        content = picture((1, 2, 3), "JPEG", (200, 200))
        self.answer(content[: len(content) // 2])

    def told(self, times):
        self.answer(b"", told=10**12)

    def endless(self, times):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    def silent(self, times):
        time.sleep(1.0)

    def drip(self, times):
        content = picture()
        self.trickle(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content), content)

    def drip_head(self, times):
        content = picture()
        self.trickle(b"HTTP/1.1 200 OK\r\n", b"Content-Length: %d\r\n\r\n" % len(content) + content)

    def trickle(self, start, rest):
        """Sends the rest in pieces, no two of them half a second apart, and two seconds in all."""
        self.wfile.write(start)
        size = len(rest) // 20 + 1
        for place in range(0, len(rest), size):
            time.sleep(0.1)
            self.wfile.write(rest[place : place + size])

    def busy(self, times):
        self.answer(b"", 429, Retry_After="0.2") if times == 1 else self.ok(times)

    def later(self, times):
        self.answer(b"", 503, Retry_After="1") if times == 1 else self.ok(times)

    def flaky(self, times):
        self.answer(b"", 500) if times < 3 else self.ok(times)

    def broken(self, times):
        self.answer(b"", 502)

    def moved(self, times):
        self.answer(b"", 302, Location="/found/%C3%A9.png")

    def loop(self, times):
        self.answer(b"", 301, Location=self.path)

    def to(self, times):
        self.answer(b"", 302, Location=unquote(self.path.partition("?")[2]))

    def nowhere(self, times):
        self.answer(b"", 302)


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 64


@pytest.fixture
def server():
    """A server; what it was asked is in `state`, and its address in `url`."""
    server = Server(("127.0.0.1", 0), Handler)
    state = {"asked": [], "first": {}, "agents": set(), "hosts": set(), "now": 0, "most": 0, "lock": threading.Lock()}
    server.state, server.url = state, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def names(monkeypatch):
    """What the name server answers: the addresses of each host, a list that is used up but for its last; an error
    in it is raised. `asked` are the hosts that it was asked for, `connected` the addresses that were connected to."""
    answers, resolve, connect = {"asked": [], "connected": []}, socket.getaddrinfo, socket.create_connection

    def answer(host, port, *rest, **options):
        if host not in answers:
            return resolve(host, port, *rest, **options)
        answers["asked"].append(host)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found.split()]

    def connected(address, *rest, **options):
        answers["connected"].append(address[0])
        return connect(address, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(socket, "create_connection", connected)
    return answers


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".mmfusion.json")


def test_pictures_are_fetched_once_and_named_by_their_address(server, tmp_path):
    urls = [f"{server.url}/a.png", f"{server.url}/a.png?v=2", f"{server.url}/b c/ü%20%.png?w=1&amp;h=[2]"]
    urls.append(urls[0])
    first = download(iter(urls), tmp_path / "kept", QUICK, LOOPBACK)
    assert not first.failed and set(first.paths) == set(urls)
    assert sorted(server.state["asked"]) == ["/a.png", "/a.png?v=2", "/b%20c/%C3%BC%20%25.png?w=1&h=%5B2%5D"]
    assert {path.stem for path in first.paths.values()} == {hashlib.sha256(url.encode()).hexdigest() for url in urls}
    assert all(path.read_bytes() == picture() for path in first.paths.values())
    assert [agent.split()[0] for agent in server.state["agents"]] == ["mmfusion"]
    assert download(urls, tmp_path / "kept", QUICK, LOOPBACK) == first and len(server.state["asked"]) == 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_each_format_is_kept_with_its_own_ending_whatever_the_server_calls_it(form, server, tmp_path):
    url = f"{server.url}/form/{form}"
    path = download([url], tmp_path / "kept", QUICK, LOOPBACK).paths[url]
    assert path.suffix == {"JPEG": ".jpg", "TIFF": ".tif"}.get(form, f".{form.lower()}")
    assert load_picture(path).size == (40, 20)


FAILURES = {
    "missing": "HTTP 404",
    "page": "no picture",
    "short": "no picture",
    "cut": "connection failed or broke off",
    "told": "too large",
    "endless": "too large",
    "silent": "timeout",
    "drip": "timeout",
    "drip_head": "timeout",
    "broken": "HTTP 502",
    "loop": "too many redirects",
    "nowhere": "HTTP 302",
    "to?ftp://127.0.0.1/a.png": "no http or https address",
    "to?file:///etc/passwd": "no http or https address",
    "to?http://[": "no http or https address",
    "to?http://169.254.169.254/latest/meta-data": "refused address",
    "to?http://127.0.0.2/a.png": "refused address",
    "to?//[::1]/a.png": "refused address",
}


def test_what_fails_is_told_by_its_kind_and_nothing_of_it_is_kept(server, tmp_path):
    urls = {f"{server.url}/{path}": kind for path, kind in FAILURES.items()}
    limits = Limits(**{**vars(QUICK), "attempts": 2, "workers": 32, "per_host": 32})
    found = download(urls, tmp_path / "kept", limits, LOOPBACK)
    assert found.failed == urls and list(found.failed) == list(urls) and not found.paths
    assert files_of(tmp_path / "kept") == []
    asked = Counter(path.strip("/") for path in server.state["asked"])
    again = {path for path, count in asked.items() if count == 2}
    assert again == {"cut", "silent", "drip", "drip_head", "broken"} and asked["loop"] == module.REDIRECTS + 1
    assert f"2 x no picture; first: {server.url}/page" in found.lines()


def test_an_address_without_a_scheme_is_taken_for_https(server, tmp_path):
    url = server.url.removeprefix("http:") + "/a.png"
    assert download([url], tmp_path / "kept", QUICK, LOOPBACK).failed == {url: "connection failed or broke off"}


def test_what_passes_is_asked_again(server, tmp_path):
    urls = [f"{server.url}/{path}" for path in ("busy", "flaky", "moved")]
    found = download(urls, tmp_path / "kept", QUICK, LOOPBACK)
    assert set(found.paths) == set(urls)
    assert Counter(server.state["asked"]) == {"/busy": 2, "/flaky": 3, "/moved": 1, "/found/%C3%A9.png": 1}


def test_a_host_is_left_alone_for_as_long_as_it_asks_and_others_go_on(server, names, tmp_path):
    names |= {"busy.example": ["127.0.0.1"], "free.example": ["127.0.0.1"]}
    one, port = Limits(**{**vars(QUICK), "per_host": 1}), server.server_port
    urls = [f"http://busy.example:{port}/later", f"http://busy.example:{port}/a", f"http://free.example:{port}/b"]
    assert set(download(urls, tmp_path / "kept", one, LOOPBACK).paths) == set(urls)
    first = server.state["first"]
    assert first["/a"] - first["/later"] > 0.9 > first["/b"] - first["/later"]
    assert server.state["hosts"] == {f"busy.example:{port}", f"free.example:{port}"}


@pytest.mark.parametrize("told, seconds", [("7", 7), ("86400", 60), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", 3)])
def test_retry_after_is_heeded_within_bounds(told, seconds):
    assert module._retry_after({b"retry-after": told}, 3) == seconds


def test_few_are_fetched_from_one_host_at_a_time(server, tmp_path):
    urls = [f"{server.url}/wait/{number}" for number in range(12)]
    limits = Limits(**{**vars(QUICK), "per_host": 3})
    assert len(download(urls, tmp_path / "kept", limits, LOOPBACK).paths) == 12
    assert server.state["most"] == 3


@pytest.mark.parametrize(
    "host",
    "127.0.0.1 localhost 0 0.0.0.0 2130706433 0x7f000001 0177.0.0.1 127.1 10.0.0.1 172.16.0.1 192.168.1.1 "
    "169.254.169.254 100.64.0.1 224.0.0.1 240.0.0.1 255.255.255.255 [::1] [::] [fe80::1] [fc00::1] [fec0::1] "
    "[ff02::1] [::ffff:127.0.0.1] [::ffff:a00:1] [::127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::] "
    "[2001:db8::1]".split(),
)
def test_addresses_that_are_not_public_are_refused_in_every_form(host, server, tmp_path):
    url = f"http://{host}:{server.server_port}/a.png"
    assert download([url], tmp_path / "kept", QUICK).failed == {url: "refused address"}
    assert server.state["asked"] == []


def test_public_addresses_are_taken():
    for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address)


def test_a_host_with_one_private_address_is_refused_and_its_name_is_resolved_once(server, names, tmp_path):
    names["good.example"] = ["127.0.0.1", "169.254.169.254"]  # the second answer of a rebinding name
    names["mixed.example"] = ["127.0.0.1 10.0.0.1"]
    good, mixed = (f"http://{host}.example:{server.server_port}/a.png" for host in ("good", "mixed"))
    found = download([good, mixed], tmp_path / "kept", QUICK, LOOPBACK)
    assert set(found.paths) == {good} and found.failed == {mixed: "refused address"}
    assert sorted(names["asked"]) == ["good.example", "mixed.example"] and names["connected"] == ["127.0.0.1"]


def test_another_address_of_a_host_is_tried_where_one_does_not_answer(server, names, tmp_path):
    names["two.example"] = ["127.0.0.3 127.0.0.1"]  # nobody listens at the first
    url = f"http://two.example:{server.server_port}/a.png"
    assert set(download([url], tmp_path / "kept", QUICK, ("127.0.0.1", "127.0.0.3")).paths) == {url}
    assert names["connected"] == ["127.0.0.3", "127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    ["ftp://shop.example/a", "http://", "http:///a.png", "http://a:b@8.8.8.8/a", "http://8.8.8.8:99999/", "a.png", "",
     "http://[1/", "http://" + "a" * 70 + ".example/", "http://\ud800.example/", "javascript:alert(1)"],
)  # fmt: skip
def test_what_is_no_address_is_counted_and_not_a_traceback(url, tmp_path):
    assert download([url], tmp_path / "kept", QUICK).failed == {url: "no http or https address"}


def test_hosts_that_are_not_there_are_counted(names, tmp_path):
    names["none.example"] = [socket.gaierror(socket.EAI_NONAME, "Name or service not known")]
    names["down.example"] = ["127.0.0.1"]
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        urls = ["http://none.example/a.png", f"http://down.example:{closed.getsockname()[1]}/a.png"]
        found = download(urls, tmp_path / "kept", QUICK, LOOPBACK)
    assert [found.failed[url] for url in urls] == ["unknown host", "connection failed or broke off"]


def test_a_killed_download_is_gone_on_with(server, tmp_path):
    urls = [f"{server.url}/wait/{number}" for number in range(40)]
    process = os.fork()
    if not process:
        download(urls, tmp_path / "kept", Limits(workers=2), LOOPBACK)
        os._exit(0)
    while len(server.state["asked"]) < 10:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    kept = [path for path in files_of(tmp_path / "kept") if not path.name.startswith(".")]
    assert 0 < len(kept) < 40 and all(path.read_bytes() == picture() for path in kept)
    asked = len(server.state["asked"])
    assert set(download(urls, tmp_path / "kept", QUICK, LOOPBACK).paths) == set(urls)
    assert len(server.state["asked"]) - asked == 40 - len(kept)
    assert len(files_of(tmp_path / "kept")) == 40


def test_a_folder_of_somebody_else_s_is_refused_and_so_is_one_in_use(server, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="letter.txt, which mmfusion did not write"):
        download([], tmp_path / "mine", QUICK)
    download([], tmp_path / "kept", QUICK)
    with module.only_process(tmp_path / "kept"), pytest.raises(DataError, match="another run writes it"):
        download([], tmp_path / "kept", QUICK)


def test_a_full_disk_is_one_line_at_once(server, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_bytes", full)
    urls, start = [f"{server.url}/drip", *(f"{server.url}/{number}" for number in range(30))], time.monotonic()
    with pytest.raises(DataError, match="No space left on device"):
        download(urls, tmp_path / "kept", Limits(), LOOPBACK)
    assert time.monotonic() - start < 2 and len(server.state["asked"]) < 20  # and no further one is begun
