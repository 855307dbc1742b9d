"""Pictures from the addresses that a shop's table names: fetched within bounds, checked, and kept between runs.

Addresses in a table are other people's input. Only http and https are taken, and no host that has an address which
isn't public: the check is where a connection is made, to the very address that was checked, so neither a redirect nor
a second answer of the name server leads into the own network. Proxies of the environment aren't used.
"""

import hashlib
import ipaddress
import re
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Container, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpcore2
from PIL import Image
from tqdm.auto import tqdm

from modeling_mmfusion.pictures_mmfusion import load_picture
from training.common.files import cannot_write, claim_folder, only_process, write_bytes

WRITER = "downloaded pictures"
USER_AGENT = b"mmfusion (pictures for training.prepare --download)"
REDIRECTS = 5
MAX_WAIT = 60.0  # seconds that a Retry-After is heeded
AGAIN = (408, 425, 429, 500, 502, 503, 504)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}  # of the others it is the format's name


@dataclass
class Limits:
    """Bounds of a download.

    Attributes:
        workers (`int`): pictures that are fetched at a time, and of these `per_host` from one host.
        size (`int`): bytes of a picture.
        timeout (`float`): seconds without an answer.
        seconds (`float`): seconds for a picture as a whole.
        attempts (`int`): tries of a picture, where another one may help: after a timeout, a broken connection and the
            statuses 408, 425, 429 and 5xx.
        pause (`float`): seconds before the second try, doubled before each further one. `Retry-After` goes before, up
            to a minute.
    """

    workers: int = 16
    per_host: int = 4
    size: int = 20_000_000
    timeout: float = 15.0
    seconds: float = 60.0
    attempts: int = 3
    pause: float = 1.0


@dataclass
class Fetched:
    """What a download came to.

    Attributes:
        paths (`dict[str, Path]`): the file of each address that was fetched, now or in an earlier run.
        failed (`dict[str, str]`): why each of the others wasn't: `HTTP 404`, `too large`, `no picture`,
            `refused address`, `timeout` and others.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line a kind of failure, such as `12 x HTTP 404; first: https://shop.example/a.jpg`."""
        first = {kind: url for url, kind in reversed(self.failed.items())}
        return [f"{n:,} x {kind}; first: {first[kind]}" for kind, n in Counter(self.failed.values()).most_common()]


class FetchError(Exception):
    """Why a picture wasn't fetched.

    Args:
        kind (`str`): a few words.
        again (`bool`, *optional*): whether another try may help.
        wait (`float`, *optional*): seconds for which the server asks to be left alone.
    """

    def __init__(self, kind: str, again: bool = False, wait: float | None = None):
        super().__init__(kind)
        self.kind, self.again, self.wait = kind, again, wait


def download(
    urls: Iterable[str], folder: str | Path, limits: Limits | None = None, allowed: Container[str] = ()
) -> Fetched:
    """Fetches pictures that aren't there yet.

    Each is a file that is named by the sha256 of its address, whole or not at all, so a run that was stopped is gone
    on with by the same call. What failed is tried again by the next one.

    Args:
        urls (`Iterable[str]`): addresses, `http`, `https` or with `//` at the start, which is taken for `https`.
        folder (`str` or `Path`): where the files are kept; made if it isn't there.
        limits (`Limits`, *optional*): bounds.
        allowed (`Container[str]`, *optional*): IP addresses that are taken although they aren't public; for tests.

    Raises:
        DataError: if the folder is somebody else's, is in use by another run or can't be written.
    """
    folder, limits, fetched = claim_folder(folder, WRITER, option="--download"), limits or Limits(), Fetched()
    with only_process(folder), cannot_write(folder):
        there = {path.stem: path for path in folder.glob("[0-9a-f][0-9a-f]/*.*") if not path.name.startswith(".")}
        wanted = dict.fromkeys(urls)
        fetched.paths = {url: there[name] for url in wanted if (name := name_of(url)) in there}
        missing = [url for url in wanted if url not in fetched.paths]
        if missing:
            with tqdm(total=len(missing), desc="download", unit=" pictures") as bar:
                _fetch_all(missing, folder, limits, _CheckedBackend(allowed), fetched, bar)
    for found in (fetched.paths, fetched.failed):  # in the order in which they were given
        order = [(url, found.pop(url)) for url in wanted if url in found]
        found.update(order)
    return fetched


def name_of(url: str) -> str:
    """The name of an address's file, without its ending."""
    return hashlib.sha256(url.encode("utf-8", "backslashreplace")).hexdigest()


def _fetch_all(
    urls: list[str], folder: Path, limits: Limits, backend: "_CheckedBackend", fetched: Fetched, bar: tqdm
) -> None:
    queue = _Queue(urls, limits)

    def work(pool: httpcore2.ConnectionPool) -> None:
        while job := queue.take():
            problem = None
            try:
                backend.start(limits.seconds)
                content, ending = fetch(job.url, pool, limits)
                path = folder / name_of(job.url)[:2] / (name_of(job.url) + ending)
                write_bytes(path, content)
                fetched.paths[job.url] = path
            except FetchError as error:
                problem = error
            if queue.done(job, problem):
                bar.update()
                if problem:
                    fetched.failed[job.url] = problem.kind

    pool = httpcore2.ConnectionPool(max_connections=limits.workers, network_backend=backend)
    with pool, ThreadPoolExecutor(limits.workers) as executor:
        tasks = [executor.submit(work, pool) for _ in range(min(limits.workers, len(urls)))]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            queue.stop()
            backend.is_stopped = True
        for task in tasks:
            task.result()


def fetch(url: str, pool: httpcore2.ConnectionPool, limits: Limits) -> tuple[bytes, str]:
    """A picture's bytes and the ending of its format.

    Raises:
        FetchError: if it isn't fetched.
    """
    try:
        content = _follow(f"https:{url}" if url.startswith("//") else url, pool, limits)
    except httpcore2.TimeoutException:
        raise FetchError("timeout", again=True) from None
    except httpcore2.LocalProtocolError:
        raise FetchError("no http or https address") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError):
        raise FetchError("connection failed or broke off", again=True) from None
    try:
        load_picture(content)  # to its end, for a header tells nothing of what is cut off
        form = Image.open(BytesIO(content)).format.lower()
    except Exception:  # Pillow raises many kinds for damaged files
        raise FetchError("no picture") from None
    return content, ENDINGS.get(form.upper(), f".{form}")


def _follow(url: str, pool: httpcore2.ConnectionPool, limits: Limits) -> bytes:
    """The body behind an address and at most five redirects."""
    url = url.replace("&amp;", "&")  # tables that were made of web pages have it so
    times = dict.fromkeys(("connect", "read", "write", "pool"), limits.timeout)
    for _ in range(REDIRECTS + 1):
        address, host = _request(url)
        headers = [
            (b"Host", host),
            (b"User-Agent", USER_AGENT),
            (b"Accept", b"image/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        with pool.stream("GET", address, headers=headers, extensions={"timeout": times}) as response:
            answer = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers}
            if response.status == 200:
                return _body(response, answer, limits.size)
            if response.status not in (301, 302, 303, 307, 308) or b"location" not in answer:
                crowded = limits.pause if response.status in (429, 503) else None
                raise FetchError(f"HTTP {response.status}", response.status in AGAIN, _retry_after(answer, crowded))
        try:
            url = urljoin(url, answer[b"location"])
        except ValueError:
            raise FetchError("no http or https address") from None
    raise FetchError("too many redirects")


def _request(url: str) -> tuple[httpcore2.URL, bytes]:
    """An address as it is sent, and the host to name."""
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme.lower(), parts.hostname, parts.port
        host = name.encode("ascii" if ":" in name else "idna")
        path = quote(re.sub("%(?![0-9a-fA-F]{2})", "%25", parts.path) or "/", safe="/%:@!$&'()*+,;=~")
        query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
    except (ValueError, AttributeError):  # no number, or no host
        raise FetchError("no http or https address") from None
    if scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise FetchError("no http or https address")
    shown = b"[%b]" % host if b":" in host else host
    shown = shown if port is None else b"%b:%d" % (shown, port)
    return httpcore2.URL(scheme=scheme.encode(), host=host, port=port, target=(path + query).encode()), shown


def _body(response: httpcore2.Response, answer: dict[bytes, str], size: int) -> bytes:
    """A response's body, given up as soon as it is too large."""
    content, told = bytearray(), answer.get(b"content-length", "")
    if told.isdecimal() and int(told) > size:
        raise FetchError("too large")
    for part in response.iter_stream():
        content += part
        if len(content) > size:
            raise FetchError("too large")
    return bytes(content)


def _retry_after(answer: dict[bytes, str], default: float | None) -> float | None:
    """Seconds until a server wants to be asked again, at most a minute."""
    told = answer.get(b"retry-after", "").strip()
    try:
        seconds = float(told) if told.isdecimal() else parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return default
    return min(max(seconds, 0.0), MAX_WAIT)


@dataclass
class _Job:
    url: str
    host: str
    attempt: int = 1
    start: float = 0.0


class _Queue:
    """Addresses to fetch, host by host in turn, a few of a host at a time."""

    def __init__(self, urls: list[str], limits: Limits):
        self.limits, self.changed, self.left = limits, threading.Condition(), len(urls)
        self.waiting: dict[str, deque[_Job]] = defaultdict(deque)
        self.active, self.paused = Counter[str](), defaultdict[str, float](float)
        for url in urls:
            host = re.split(r"[/?#\\]", url.partition("//")[2], maxsplit=1)[0].lower()
            self.waiting[host].append(_Job(url, host))
        self.hosts = deque(self.waiting)

    def take(self) -> _Job | None:
        """The next address, as soon as its host may be asked; `None` if nothing is left."""
        with self.changed:
            while self.left:
                now = time.monotonic()
                for _ in range(len(self.hosts)):
                    host = self.hosts.popleft()
                    if self.waiting[host] or self.active[host]:
                        self.hosts.append(host)
                    if self.active[host] < self.limits.per_host and self._ready(host) <= now:
                        self.active[host] += 1
                        return self.waiting[host].popleft()
                free = [self._ready(host) for host in self.hosts if self.active[host] < self.limits.per_host]
                soonest = min(free, default=float("inf"))
                self.changed.wait(None if soonest == float("inf") else max(soonest - now, 0.001))
        return None

    def _ready(self, host: str) -> float:
        jobs = self.waiting[host]
        return max(self.paused[host], jobs[0].start) if jobs else float("inf")

    def done(self, job: _Job, problem: FetchError | None) -> bool:
        """Tells how an address went; whether it is done with, for some are tried again."""
        with self.changed:
            self.active[job.host] -= 1
            is_over = problem is None or not problem.again or job.attempt >= self.limits.attempts
            if problem and not is_over:
                pause = self.limits.pause * 2 ** (job.attempt - 1)
                if problem.wait is not None:
                    self.paused[job.host] = time.monotonic() + problem.wait
                start = time.monotonic() + (pause if problem.wait is None else problem.wait)
                self.waiting[job.host].append(_Job(job.url, job.host, job.attempt + 1, start))
            self.left -= is_over
            self.changed.notify_all()
        return is_over

    def stop(self) -> None:
        """Has all workers end after what they are at."""
        with self.changed:
            self.left = 0
            self.changed.notify_all()


class _CheckedBackend(httpcore2.SyncBackend):
    """Makes connections to public addresses alone, and lets no picture take longer than its time."""

    def __init__(self, allowed: Container[str]):
        self.allowed, self.clock, self.is_stopped = allowed, threading.local(), False

    def start(self, seconds: float) -> None:
        """Sets the time of the picture that this thread fetches next."""
        self.clock.end = time.monotonic() + seconds

    def remaining(self, timeout: float | None) -> float:
        """The seconds that may still be waited."""
        left = self.clock.end - time.monotonic()
        if left <= 0 or self.is_stopped:
            raise httpcore2.ReadTimeout("the picture took too long")
        return left if timeout is None else min(left, timeout)

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        """As of `SyncBackend`, but to an address that was checked."""
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self.addresses(host, port):
            try:
                stream = super().connect_tcp(address, port, self.remaining(timeout), local_address, socket_options)
                return _TimedStream(stream, self)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failure:
                error = failure
        raise error

    def addresses(self, host: str, port: int) -> list[str]:
        """A host's addresses.

        Raises:
            FetchError: if there are none, or one of them isn't public.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise FetchError("unknown host", again=error.errno == socket.EAI_AGAIN) from None
        except (OSError, UnicodeError, OverflowError):
            raise FetchError("no http or https address") from None
        addresses = [str(place[0]) for *_, place in found]
        if not all(address in self.allowed or is_public(address) for address in addresses):
            raise FetchError("refused address")
        return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's on the internet, and not of an own network, one machine or many at a time.
    Of IPv6 addresses that hold one of IPv4, that one has to be public too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False))


class _TimedStream(httpcore2.NetworkStream):
    """A connection on which no wait is longer than what is left of the picture's time."""

    def __init__(self, stream: httpcore2.NetworkStream, backend: _CheckedBackend):
        self.stream, self.backend = stream, backend

    def read(self, max_bytes, timeout=None):
        return self.stream.read(max_bytes, self.backend.remaining(timeout))

    def write(self, buffer, timeout=None):
        self.stream.write(buffer, self.backend.remaining(timeout))

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        stream = self.stream.start_tls(ssl_context, server_hostname, self.backend.remaining(timeout))
        return _TimedStream(stream, self.backend)

    def close(self):
        self.stream.close()

    def get_extra_info(self, info):
        return self.stream.get_extra_info(info)
