"""Embeds a catalogue on the machines of a Ray cluster: training.embed with an actor for each device.

    ray start --head                  # on one machine, and on the others: ray start --address=ADDRESS
    python -m training.scale.embed_ray --model MODEL --data data/myshop --output /mnt/shared/vectors --actors 8

All machines must see model, catalogue and output folder under the same paths. Each actor is given a shard at a time.
The shard of an actor that dies, or whose machine does, goes to another one; an actor takes its place as soon as a
machine has room, also one that comes later. The same command goes on where a run was interrupted, as training.embed
does: both write the same folders. Without a cluster it starts one on this machine. Ray is in the extra `ray`.
"""

from training.common.cli import run
from training.scale.options import EmbedRayArguments

if __name__ == "__main__":
    run("training.scale.embed_ray", EmbedRayArguments, __doc__)


import os
import socket
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError, one_line
from training.common.files import claim_folder, only_process
from training.features.embedder import WRITER, CatalogueEmbedder, output_of
from training.features.options import EmbedArguments

MOST_DEATHS = 5  # of actors over one shard, or one after the other before any had loaded the model
SECONDS = 5.0  # between looks at the cluster


class ShardActor:
    """Loads the model once and embeds shards.

    Args:
        options (`dict`): of [`EmbedArguments`].
    """

    def __init__(self, options: dict[str, Any]):
        self.options = options

    def load(self) -> None:
        """Loads the model; not when the actor is made, as Ray does not tell what went wrong there."""
        self.embedder = CatalogueEmbedder(EmbedArguments(**self.options))

    def embed(self, shard: int) -> list[dict[str, Any]]:
        """Embeds and writes a shard; what `CatalogueEmbedder.run` tells of it."""
        found = list(self.embedder.run([shard]))
        self.embedder.problems.report()
        return found


def main(arguments: EmbedRayArguments) -> Path:
    """Embeds on the cluster, writes the folder and returns it."""
    if find_spec("ray") is None:
        raise DataError("ray is not installed; run: pip install -e '.[ray]'")
    claim_folder(output_of(arguments), WRITER, arguments.data)
    names = {option.name for option in fields(EmbedArguments)}
    options = {name: value for name, value in asdict(arguments).items() if name in names}
    embedder = CatalogueEmbedder(EmbedArguments(**options), device="cpu")  # refuses what is wrong before actors start
    gpus = float(torch.cuda.is_available()) if arguments.gpus is None else arguments.gpus
    with only_process(embedder.output):
        started = time.perf_counter()
        is_ours = connect(arguments.address)
        try:
            crew = Crew(options, {"num_cpus": arguments.cpus, "num_gpus": gpus}, arguments.patience)
            embedder.finish(crew.embed(embedder.shards, arguments.actors), time.perf_counter() - started)
        finally:
            if is_ours:
                disconnect()
    return embedder.output


def connect(address: str | None) -> bool:
    """Joins a cluster, unless this process is in one already; whether it was joined.

    Raises:
        DataError: if none is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send what it is used for to its makers
    import ray

    if ray.is_initialized():
        return False
    check_address(address or os.environ.get("RAY_ADDRESS") or "")
    try:
        ray.init(address=address)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError and TimeoutError among them
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise DataError(f"{place}: no Ray cluster answers there ({one_line(error, 200)}); see ray status") from error
    return True


def check_address(address: str) -> None:
    """Refuses an address where nothing listens, for which Ray would wait for minutes; names such as `auto` pass.

    Raises:
        DataError: if nothing answers within five seconds.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise DataError(f"{address}: no Ray cluster answers there ({one_line(error, 200)}); see ray status") from error


def disconnect() -> None:
    """Leaves the cluster, and ends it if it was started by [`connect`]."""
    import ray

    ray.shutdown()


class Crew:
    """Actors that embed the shards of a catalogue; those that die are replaced.

    Args:
        options (`dict`): of [`EmbedArguments`].
        room (`dict`): `num_cpus` and `num_gpus` of an actor.
        patience (`float`): minutes to wait where no actor has room.

    Raises:
        DataError: if no machine of the cluster is large enough for an actor.
    """

    def __init__(self, options: dict[str, Any], room: dict[str, float], patience: float):
        import ray

        self.ray, self.options, self.room, self.patience = ray, options, room, patience
        self.remote = ray.remote(max_restarts=0, max_task_retries=0, **room)(ShardActor)
        self.todo: deque[int] = deque()
        self.idle: list[Any] = []
        self.tasks: dict[Any, tuple[Any, int | None]] = {}  # of each the actor, and the shard or None where it loads
        self.deaths: Counter[int | None] = Counter()
        if not self.has_room():
            raise DataError(f"no machine of the cluster has {self.needed()}; there are {self.machines()}")

    def embed(self, shards: int, actors: int) -> list[dict[str, Any]]:
        """Embeds all shards on at most some actors; what `CatalogueEmbedder.run` tells of them.

        Raises:
            DataError: if an actor says what is wrong with model or catalogue, dies again and again, or for too long no
                machine has room for one.
        """
        found: list[dict[str, Any]] = []
        self.todo = deque(range(shards))
        for _ in range(min(actors, shards)):
            self._hire()
        last = time.monotonic()
        with tqdm(total=shards, desc="embed", unit="shard") as bar:
            while self.tasks:
                ready, _ = self.ray.wait(list(self.tasks), timeout=SECONDS)
                for task in ready:
                    done = self._finish(task)
                    if done is not None:
                        found += done
                        bar.update()
                self._hand_out()
                if ready or any(shard is not None for _, shard in self.tasks.values()) or self.has_room():
                    last = time.monotonic()
                elif time.monotonic() - last > 60 * self.patience:
                    raise DataError(
                        f"for {self.patience:g} minutes no machine of the cluster has had {self.needed()}; there are "
                        f"{self.machines()}. Start more and run the same command again: it goes on from here"
                    )
        for actor in self.idle:
            self.ray.kill(actor)
        return found

    def has_room(self) -> bool:
        """Whether a machine that is there is large enough for an actor, whatever runs on it now."""
        return any(
            machine["Alive"]
            and machine["Resources"].get("CPU", 0) >= self.room["num_cpus"]
            and machine["Resources"].get("GPU", 0) >= self.room["num_gpus"]
            for machine in self.ray.nodes()
        )

    def needed(self) -> str:
        """What an actor needs, in words."""
        return f"{self.room['num_cpus']:g} CPU and {self.room['num_gpus']:g} GPU for an actor (--cpus, --gpus)"

    def machines(self) -> str:
        """The machines that are there, in words."""
        alive = [machine["Resources"] for machine in self.ray.nodes() if machine["Alive"]]
        sizes = [f"{one.get('CPU', 0):g} CPU and {one.get('GPU', 0):g} GPU" for one in alive]
        return f"{len(alive)} machines ({', '.join(sizes[:8])})"

    def _hire(self) -> None:
        actor = self.remote.remote(self.options)
        self.tasks[actor.load.remote()] = actor, None

    def _hand_out(self) -> None:
        while self.todo and self.idle:
            actor, shard = self.idle.pop(), self.todo.popleft()
            self.tasks[actor.embed.remote(shard)] = actor, shard

    def _finish(self, task: Any) -> list[dict[str, Any]] | None:
        """What a task tells of its shard; `None` if it was none, or its actor died."""
        actor, shard = self.tasks.pop(task)
        try:
            facts = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:  # of our own code
            cause = error.cause
            raise DataError(one_line(cause) if isinstance(cause, DataError) else one_line(error, 2000)) from error
        except self.ray.exceptions.RayError as error:
            self._replace(actor, shard, error)
            return None
        self.idle.append(actor)
        self.deaths.pop(shard, None)
        return None if shard is None else facts

    def _replace(self, actor: Any, shard: int | None, error: Exception) -> None:
        """Gives the shard of an actor that died back, and hires another one."""
        self.deaths[shard] += 1
        what = "an actor that loaded the model" if shard is None else f"the actor of shard {shard}"
        if self.deaths[shard] >= MOST_DEATHS:
            raise DataError(
                f"{what} died {MOST_DEATHS} times in a row ({one_line(error, 300)}); has it too little memory?"
            )
        print(f"warning: {what} died; another one takes its place", flush=True)
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(actor)
        if shard is not None:
            self.todo.appendleft(shard)
        self._hire()
