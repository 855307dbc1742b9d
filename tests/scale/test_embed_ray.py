"""Two workers of a local Ray cluster, one of which is killed, write what one process writes."""

import numpy as np
import pytest
from helpers import big_shop, embed_arguments, embed_words, run_module

from training import embed
from training.features.shards import read_vectors, read_vectors_manifest

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
