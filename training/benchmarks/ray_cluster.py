"""Embeds a catalogue on a real Ray cluster whose machines fail, and compares the files with those of one process.

    python -m training.benchmarks.ray_cluster

A head without room for work and three workers run on this machine, each of them its own `ray start` processes. Midway
the driver is killed and the same command is run again; then a worker with all that runs on it is killed, and later
another one joins. Products, pictures and a small random model are generated. It needs the extra `ray`.
"""

from training.benchmarks.options import RayBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.ray_cluster", RayBenchArguments, __doc__)


import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from training.benchmarks.embedding import save_small_model, write_shop
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.shards import read_vectors_manifest

PICTURES = 64  # different ones
LOOK_SECONDS = 0.2
MEMORY_SECONDS = 3.0
STORE_BYTES = 80 * 2**20  # of each machine's object store; Ray wants 75 MB at least
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
KINDS = ("mug", "shirt", "lamp", "bowl", "chair", "scarf", "clock", "basket")


def main(arguments: RayBenchArguments) -> dict[str, Any]:
    """Embeds in one process and on the cluster, compares, writes the report and returns it."""
    check_output_file(arguments.output, ".json")
    if find_spec("ray") is None:
        raise DataError("ray is not installed; run: pip install -e '.[ray]'")
    if arguments.machines < 2:
        raise DataError("--machines is less than 2; one is killed")
    with tempfile.TemporaryDirectory(prefix="mmfusion-ray-") as scratch:
        folder = Path(scratch)
        save_small_model(folder / "model", folder)
        rows = tqdm(drawn_products(arguments.products), desc="draw", total=arguments.products, leave=False)
        write_shop(folder / "shop", rows)
        words = ["--model", folder / "model", "--data", folder / "shop", "--shard_size", arguments.shard_size]
        words = list(map(str, words))
        started = time.perf_counter()
        wait_for_end(start("training.embed", words, folder / "one"), folder / "one")
        report: dict[str, Any] = {"products": arguments.products, "shard_size": arguments.shard_size}
        report["one_process_seconds"] = round(time.perf_counter() - started, 1)
        report |= embed_on_cluster(arguments, words, folder)
        report["same_files"] = files_of(folder / "ray") == files_of(folder / "one")
    write_json(Path(arguments.output), report | {"environment": environment()})
    print(format_ray(report), flush=True)
    return report


def embed_on_cluster(arguments: RayBenchArguments, words: list[str], folder: Path) -> dict[str, Any]:
    """Embeds while driver and machines are killed, and tells when and what it took."""
    events: list[dict[str, Any]] = []
    shards = -(-arguments.products // arguments.shard_size)
    with cluster(arguments.machines) as (address, machines, add):
        words = [*words, "--address", address, "--actors", str(arguments.machines), "--gpus", "0"]
        started, peak = time.perf_counter(), 0.0

        def note(what: str) -> None:
            second = round(time.perf_counter() - started, 1)
            events.append({"second": second, "shards": written(folder / "ray"), "what": what})

        def until(share: float, process: subprocess.Popen) -> None:
            nonlocal peak
            looks = 0
            while written(folder / "ray") < share * shards and process.poll() is None:
                if looks % round(MEMORY_SECONDS / LOOK_SECONDS) == 0:
                    peak = max(peak, memory_of([os.getpid()]))  # driver and cluster are started by this one
                looks += 1
                time.sleep(LOOK_SECONDS)
            if process.returncode:
                wait_for_end(process, folder / "ray")

        driver = start("training.scale.embed_ray", words, folder / "ray")
        until(0.2, driver)
        driver.kill()
        driver.wait()
        note("the driver is killed, and started again")
        driver = start("training.scale.embed_ray", words, folder / "ray")
        until(0.45, driver)
        machines.pop(0).kill()
        note("a machine with all that runs on it is killed")
        until(0.7, driver)
        add()
        note("a machine joins")
        until(2.0, driver)
        log = wait_for_end(driver, folder / "ray")
        note("done")
    replaced = log.count("another one takes its place")
    return {"machines": arguments.machines, "events": events, "actors_replaced": replaced, "peak_mb": round(peak)}


@dataclass
class Machine:
    """A worker of the cluster.

    Attributes:
        pids (`list[int]`): of the processes that it is; what they started is found by them.
    """

    pids: list[int]

    def kill(self) -> None:
        """Ends the machine as a power cut does."""
        processes = [psutil.Process(pid) for pid in self.pids if psutil.pid_exists(pid)]
        for process in [*processes, *(child for one in processes for child in one.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


@contextmanager
def cluster(machines: int) -> Iterator[tuple[str, list[Machine], Callable[[], None]]]:
    """The address of a new cluster, its workers, and what adds one; all of it is ended afterwards."""
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    sizes = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **sizes})
    workers: list[Machine] = []

    def add() -> None:
        node = made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        workers.append(Machine([one.process.pid for group in node.all_processes.values() for one in group]))

    try:
        for _ in range(machines):
            add()
        yield made.address, workers, add
    finally:
        for one in workers:
            one.kill()
        with suppress(Exception):  # of machines that are gone
            made.shutdown()


def drawn_products(count: int) -> Iterator[dict[str, Any]]:
    """Products with a title of their own, and one of 64 pictures or none."""
    rng = np.random.default_rng(0)
    pictures = [picture_of(colour) for colour in rng.integers(0, 256, (PICTURES, 3))]
    for number in range(count):
        kind, words = KINDS[number % len(KINDS)], rng.integers(0, 10_000, rng.integers(1, 12))
        picture = {"bytes": pictures[number % PICTURES], "path": f"{number % PICTURES}.png"}
        yield {
            "_id": f"sku-{number:06d}",
            "title": f"{kind} {number}",
            "description": " ".join(f"w{word}" for word in words),
            "image": picture if number % 5 else None,
        }


def picture_of(colour: np.ndarray) -> bytes:
    """A picture of one colour as the bytes of a PNG file."""
    stream = BytesIO()
    Image.new("RGB", (32, 32), tuple(colour.tolist())).save(stream, "PNG")
    return stream.getvalue()


def start(module: str, words: list[str], output: Path) -> subprocess.Popen:
    """Starts a command that writes to a folder; its log lies beside the folder."""
    with open(output.with_suffix(".log"), "w", encoding="utf-8") as log:
        command = [sys.executable, "-m", module, *words, "--output", str(output)]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUIET})


def wait_for_end(process: subprocess.Popen, output: Path) -> str:
    """The log of a command that has ended well.

    Raises:
        DataError: if it has not.
    """
    process.wait()
    log = output.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise DataError(f"the command that writes {output} failed: {' '.join(log.split())[-600:]}")
    return log


def written(folder: Path) -> int:
    """How many shards lie in a folder of vectors."""
    return len(list(folder.glob("shards/[0-9]*.parquet")))


def files_of(folder: Path) -> list[dict[str, Any]]:
    """The shards of a folder by name, with their sha256."""
    return read_vectors_manifest(folder)["shards"]


def memory_of(pids: list[int]) -> float:
    """Memory in MB of some processes and what they started; pages that several share count once."""
    used: dict[int, int] = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    used[one.pid] = one.memory_full_info().pss
    return sum(used.values()) / 2**20


def format_ray(report: dict[str, Any]) -> str:
    """What happened when, in Markdown."""
    lines = ["| second | shards written | what |", "| --- | --- | --- |"]
    lines += [f"| {one['second']:,.0f} | {one['shards']} | {one['what']} |" for one in report["events"]]
    same = "the same, byte by byte" if report["same_files"] else "NOT the same"
    lines += ["", f"{report['products']:,} products: the files are {same} as those of one process, which took "]
    lines[-1] += f"{report['one_process_seconds']:,.0f} s; {report['actors_replaced']} actors were replaced."
    return "\n".join(lines)
