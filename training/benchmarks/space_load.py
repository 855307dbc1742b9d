"""Measures the Space with many visitors at once: errors, latency, throughput, memory, and how long it takes to start.

    python -m training.benchmarks.space_load --run runs/quickstart --data data/demo_shop

The Space runs in a process of its own on loopback. Each client asks its queries one after the other, all clients at
once; then more queries are asked to see whether memory grows. No two queries are alike. A client is a session of its
own, as a browser's tab, and speaks plain HTTP over one connection: gradio_client opens one for every request, which
would take more of this machine than the Space does.
"""

from training.benchmarks.options import BenchSpaceArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.space_load", BenchSpaceArguments, __doc__)

import json
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import load_split
from training.common.environment import environment
from training.common.files import check_output_file, write_json

APP = Path(__file__).resolve().parents[2] / "space" / "app.py"
START_SECONDS = 900


def main(arguments: BenchSpaceArguments) -> dict:
    """Starts the Space, loads it, stops it; prints and returns what was measured."""
    if arguments.output:
        check_output_file(arguments.output, ".json")
    before = os.getloadavg()[0]
    process, address, seconds, prepared = start_space(arguments)
    start_cpu = cpu_seconds(process.pid)
    try:
        texts = queries(arguments)
        clients = [Visitor(address) for _ in range(arguments.clients)]
        watch_memory(clients[:8], texts, 200, process.pid)  # so that lazy imports and caches are there
        cpu = cpu_seconds(process.pid)
        load = ask_all(clients, texts, arguments.queries)
        load["cpu_ms_per_query"] = round(1000 * (cpu_seconds(process.pid) - cpu) / load["queries"], 1)
        memory = watch_memory(clients[:8], texts, arguments.memory_queries, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)
    report = {"arguments": asdict(arguments), "start_seconds": round(seconds, 1), "start_was_prepared": prepared}
    report |= {
        "start_cpu_seconds": round(start_cpu, 1),
        "load": load,
        "memory": memory,
        "load_average_before": round(before, 2),
        "environment": environment(),
    }
    if arguments.output:
        write_json(Path(arguments.output), report)
    print(format_load(report), flush=True)
    return report


def start_space(arguments: BenchSpaceArguments) -> tuple[subprocess.Popen, str, float, bool]:
    """The Space's process, its address, the seconds until it answered, and whether its vectors were prepared.

    Raises:
        DataError: if it ends or does not answer; its last lines are named.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MMFUSION_RUN": arguments.run, "MMFUSION_DATA": arguments.data, "GRADIO_SERVER_PORT": str(port)}
    begin, address = time.perf_counter(), f"http://127.0.0.1:{port}"
    words = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, str(APP)], env={**os.environ, **settings}, **words)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "Running on" in line:
            seconds = time.perf_counter() - begin
            ThreadPoolExecutor(1).submit(process.stdout.read)  # or the pipe fills up
            return process, address, seconds, not any("embedding" in found for found in seen)
        if time.perf_counter() - begin > START_SECONDS:
            process.kill()
    raise DataError(f"the Space did not start: {' '.join(''.join(seen[-3:]).split())[-300:]}")


def queries(arguments: BenchSpaceArguments, seed: int = 0) -> list[str]:
    """As many different queries as are asked in all: judged queries with words of products' titles."""
    split, rng = load_split(arguments.data, "test"), random.Random(seed)
    words = sorted({word for title in split.corpus["title"] for word in str(title).lower().split()})
    wanted = arguments.clients * arguments.queries + arguments.memory_queries + 200
    found: dict[str, None] = {}
    while len(found) < wanted:
        found[f"{rng.choice(split.queries)['text']} {' '.join(rng.sample(words, 2))}"] = None
    return list(found)


class Visitor:
    """A session with the endpoint `/search`.

    Args:
        address (`str`): the Space's.
    """

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=f"{address}/gradio_api/", timeout=120)
        self.session = uuid.uuid4().hex
        endpoint = self.http.get("info").raise_for_status().json()["named_endpoints"]["/search"]
        self.rest = [parameter["parameter_default"] for parameter in endpoint["parameters"]][1:]

    def search(self, text: str) -> list[dict]:
        """The results for a query.

        Raises:
            httpx.HTTPError, LookupError, ValueError: if the answer is an error.
        """
        body = {"data": [text, *self.rest], "session_hash": self.session}
        event = self.http.post("call/search", json=body).raise_for_status().json()["event_id"]
        answer = self.http.get(f"call/search/{event}").raise_for_status().text
        return json.loads(answer.rsplit("data: ", 1)[1])[0]["results"]


def ask(client: Visitor, texts: list[str], count: int) -> tuple[list[float], int]:
    """Milliseconds of `count` queries, taken from the end of `texts`, and how many of them failed."""
    times, errors = [], 0
    for _ in range(count):
        begin = time.perf_counter()
        try:
            errors += not client.search(texts.pop())
        except (httpx.HTTPError, LookupError, ValueError, TypeError):
            errors += 1
        times.append(1000 * (time.perf_counter() - begin))
    return times, errors


def ask_all(clients: list[Visitor], texts: list[str], count: int) -> dict:
    """Latency, throughput and errors of all clients at once, `count` queries each."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        found = list(pool.map(lambda client: ask(client, texts, count), clients))
    seconds = time.perf_counter() - begin
    times = np.concatenate([times for times, _ in found])
    percentiles = {f"p{share}_ms": round(float(np.percentile(times, share)), 1) for share in (50, 95, 99)}
    totals = {"queries": len(times), "errors": sum(errors for _, errors in found), "clients": len(clients)}
    return totals | percentiles | {"queries_per_second": round(len(times) / seconds, 1)}


def watch_memory(clients: list[Visitor], texts: list[str], count: int, pid: int) -> dict:
    """The Space's memory in MB after each tenth of `count` queries, and their errors."""
    megabytes, errors = [resident_megabytes(pid)], 0
    for _ in range(10):
        errors += ask_all(clients, texts, count // 10 // len(clients))["errors"]
        megabytes.append(resident_megabytes(pid))
    return {"queries": count // 10 // len(clients) * len(clients) * 10, "errors": errors, "megabytes": megabytes}


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, by Linux' /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process has used, by Linux' /proc; busy neighbours don't change it much."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def format_load(report: dict) -> str:
    """The results as a Markdown table."""
    load, memory = report["load"], report["memory"]
    megabytes, embedded = memory["megabytes"], "" if report["start_was_prepared"] else " (embedding the catalogue)"
    cells = {
        "clients x queries": f"{load['clients']} x {load['queries'] // load['clients']}",
        "errors": str(load["errors"] + memory["errors"]),
        "p50": f"{load['p50_ms'] / 1000:.2f} s",
        "p95": f"{load['p95_ms'] / 1000:.2f} s",
        "queries/s": f"{load['queries_per_second']:.1f}",
        "CPU a query": f"{load['cpu_ms_per_query']:.0f} ms",
        f"memory over {memory['queries']:,} queries": f"{megabytes[0]:,.0f} to {megabytes[-1]:,.0f} MB",
        "start": f"{report['start_seconds']:.0f} s, {report['start_cpu_seconds']:.0f} s of CPU{embedded}",
        "machine's load before": f"{report['load_average_before']:.1f}",
    }
    rows = (cells, ["---"] * len(cells), cells.values())
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
