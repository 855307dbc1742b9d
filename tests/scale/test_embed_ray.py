"""Two workers of a local Ray cluster, one of which is killed, write what one process writes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import big_shop, embed_arguments, embed_words, run_module

from modeling_mmfusion.errors import DataError
from training import embed
from training.features.shards import read_vectors, read_vectors_manifest
from training.scale import embed_ray

pytestmark = pytest.mark.usefixtures("small_windows")

pytest.importorskip("ray", reason="ray is not installed; it is in the extra `ray`")

CLUSTER = """
import sys, threading, time
from pathlib import Path
import psutil, ray
from training.scale import embed_ray
from training.common.cli import parse

arguments = parse(embed_ray.EmbedRayArguments, "", sys.argv[1:])
ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)

def kill_a_worker():
    while not list(Path(arguments.output).glob("shards/*-*.parquet")):
        time.sleep(0.01)
    workers = [p for p in psutil.process_iter() if p.name().startswith("ray::ShardActor")]
    workers[0].kill()
    print("killed one of", len(workers), flush=True)

threading.Thread(target=kill_a_worker, daemon=True).start()
embed_ray.main(arguments)
"""


def test_two_ray_workers_one_of_which_dies_write_what_one_process_writes(saved, tmp_path):
    shop = big_shop(tmp_path / "shop")
    embed.main(embed_arguments(saved, shop, tmp_path / "one", shard_size=2))
    words = [*embed_words(saved, shop, tmp_path / "two"), "--shard_size", "2", "--actors", "2", "--gpus", "0"]
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}
    variables |= {"RAY_worker_niceness": "0"}  # 15 if not given, and beside busy processes the workers would starve
    done = run_module("-c", CLUSTER, *words, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed one of 2" in done.stdout and "4 x unreadable image" in done.stdout
    (found, products), (expected, others) = read_vectors(tmp_path / "two"), read_vectors(tmp_path / "one")
    assert products.equals(others) and len(found) == 48
    np.testing.assert_allclose(found, expected, atol=1e-3)
    names = [shard["file"] for shard in read_vectors_manifest(tmp_path / "one")["shards"]]
    assert [shard["file"] for shard in read_vectors_manifest(tmp_path / "two")["shards"]] == names


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no.such.host.invalid:6379", "127.0.0.1:99999"]
)
def test_an_address_where_no_cluster_is_is_told_in_one_line(address):
    with pytest.raises(DataError, match=f"^{address}: no Ray cluster answers there") as error:
        embed_ray.connect(address)
    assert "\n" not in str(error.value)


class Died(Exception):
    pass


class FakeRay:
    """A cluster without processes: what becomes of each task is told beforehand."""

    class exceptions:
        RayError, RayTaskError = Died, KeyError

    def __init__(self, fates, machines=({"CPU": 1.0},)):
        self.fates, self.alive = iter(fates), [{"Alive": True, "Resources": one} for one in machines]
        self.killed = 0

    def nodes(self):
        return self.alive

    def remote(self, **room):
        return lambda kind: SimpleNamespace(remote=lambda options: self)

    def actor(self, shard=None):
        return shard, next(self.fates), object()

    def wait(self, tasks, timeout):
        return [task for task in tasks if task[1] != "waits"][:1], []

    def get(self, task):
        if task[1] == "dies":
            raise Died("out of memory")
        return [task[0]]

    def kill(self, actor):
        self.killed += 1

    @property
    def load(self):
        return SimpleNamespace(remote=self.actor)

    embed = load


def crew_of(monkeypatch, fates, patience=1e-6, **options):
    ray = FakeRay(fates, **options)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return embed_ray.Crew({}, {"num_cpus": 1, "num_gpus": 0}, patience), ray


def test_shards_of_actors_that_die_are_done_by_others(monkeypatch):
    fates = ["loads", "dies", "dies", "loads", "done", "done", "dies", "loads", "done"]
    assert sorted(crew_of(monkeypatch, fates)[0].embed(3, 1)) == [0, 1, 2]


def test_a_shard_that_kills_its_actors_ends_the_run(monkeypatch):
    with pytest.raises(DataError, match=r"the actor of shard 0 died 5 times .*out of memory.*too little memory"):
        crew_of(monkeypatch, ["loads", "dies"] * 9)[0].embed(3, 1)
    with pytest.raises(DataError, match="that loaded the model died 5 times"):
        crew_of(monkeypatch, ["dies"] * 9)[0].embed(3, 1)


def test_a_cluster_without_room_ends_the_run(monkeypatch):
    with pytest.raises(DataError, match=r"no machine of the cluster has 1 CPU .* there are 1 machines \(0 CPU"):
        crew_of(monkeypatch, [], machines=[{}])
    crew, ray = crew_of(monkeypatch, ["waits"])
    ray.alive.clear()
    with pytest.raises(DataError, match="for 1e-06 minutes no machine .* run the same command again"):
        crew.embed(3, 1)
