"""Measures the service with many clients at once, beside other servers with OpenAI's form of embeddings.

    python -m training.benchmarks.service_load --run runs/quickstart
    python -m training.benchmarks.service_load --others '{infinity-emb: http://127.0.0.1:7997/embeddings}'

The service runs in a process of its own on loopback. Each client asks its queries one after the other, all clients at
once; no two queries are alike. Other servers are started by hand, one at a time: what runs beside takes the processor.
Clients and server share this machine, so that all are slower than where the clients are elsewhere, and alike.
"""

from training.benchmarks.options import BenchServiceArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.service_load", BenchServiceArguments, __doc__)

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np

from modeling_mmfusion.errors import DataError
from training.benchmarks.space_load import BenchSpaceArguments, cpu_seconds, queries, resident_megabytes
from training.common.environment import environment
from training.common.files import check_output_file, write_json

START_SECONDS = 120


def main(arguments: BenchServiceArguments) -> dict:
    """Loads one server after the other; prints and returns what was measured."""
    if arguments.output:
        check_output_file(arguments.output, ".json")
    wanted = BenchSpaceArguments(data=arguments.data, clients=arguments.clients, queries=arguments.requests)
    texts, rows = queries(wanted)[: arguments.clients * arguments.requests], []
    for tower in arguments.towers:
        with served(arguments.run, tower) as (address, pid):
            for path, body in (("/v1/embeddings", embeddings_body), ("/search", search_body)):
                before = cpu_seconds(pid)
                row = {"server": f"mmfusion, {tower}", "path": path, **load(address + path, body, texts, arguments)}
                row["cpu_ms"] = round(1000 * (cpu_seconds(pid) - before) / row["requests"], 1)
                rows.append(row | {"megabytes": resident_megabytes(pid)})
    for name, address in arguments.others.items():
        row = {"server": name, "path": httpx.URL(address).path, **load(address, embeddings_body, texts, arguments)}
        rows.append(row)
    report = {"arguments": asdict(arguments), "rows": rows, "environment": environment()}
    if arguments.output:
        write_json(Path(arguments.output), report)
    print(format_service(report), flush=True)
    return report


@contextmanager
def served(run_folder: str, tower: str) -> Iterator[tuple[str, int]]:
    """The service's address and process while it runs.

    Raises:
        DataError: if it does not start; its last line is named.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "modeling_mmfusion.serve", "--run", run_folder, "--tower", tower, "--port", str(port)]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    address, began = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while not answers(address):
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                process.kill()
                raise DataError(f"the service did not start: {process.stderr.read().strip().splitlines()[-1:]}")
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stderr.close()


def answers(address: str) -> bool:
    """Whether the service is there."""
    try:
        return httpx.get(f"{address}/health").is_success
    except httpx.TransportError:
        return False


def load(address: str, body: Callable[[str], dict], texts: list[str], arguments: BenchServiceArguments) -> dict:
    """Errors, latency and throughput of all clients at once.

    Args:
        address (`str`): where to post to.
        body (`Callable[[str], dict]`): a request of a text.
        texts (`list[str]`): a text for each request.
        arguments (`BenchServiceArguments`): how many clients and requests.
    """
    times: list[float] = []
    failed: list[str] = []

    async def client(http: httpx.AsyncClient, own: list[str]) -> None:
        for text in own:
            began = time.perf_counter()
            try:
                answer = await http.post(address, json=body(text))
                answer.raise_for_status()
            except httpx.HTTPError as error:
                failed.append(str(error))
            times.append(1000 * (time.perf_counter() - began))

    async def all_clients() -> None:
        limits = httpx.Limits(max_connections=arguments.clients, max_keepalive_connections=arguments.clients)
        async with httpx.AsyncClient(timeout=120, limits=limits) as http:
            await client(http, texts[:20])  # what is loaded at the first request is there then
            times.clear()
            parts = [texts[number :: arguments.clients] for number in range(arguments.clients)]
            await asyncio.gather(*(client(http, part) for part in parts))

    began = time.perf_counter()
    asyncio.run(all_clients())
    seconds = time.perf_counter() - began
    p50, p95 = np.percentile(times, (50, 95)).round(1).tolist()
    return {
        "clients": arguments.clients,
        "requests": len(times),
        "errors": len(failed),
        "p50_ms": p50,
        "p95_ms": p95,
        "requests_per_second": round(len(times) / seconds, 1),
        "first_errors": failed[:3],
    }


def embeddings_body(text: str) -> dict:
    """A request of OpenAI's form; some servers want a model's name."""
    return {"input": text, "model": "default"}


def search_body(text: str) -> dict:
    """A request of our search."""
    return {"query": text}


def format_service(report: dict) -> str:
    """The results as a Markdown table."""
    lines = ["| server | path | clients | requests | errors | p50 ms | p95 ms | requests/s | CPU ms | MB |"]
    lines.append("| --- " * 10 + "|")
    for row in report["rows"]:
        names = ("server", "path", "clients", "requests", "errors", "p50_ms", "p95_ms", "requests_per_second")
        cells = [*(row[name] for name in names), row.get("cpu_ms", ""), row.get("megabytes", "")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
