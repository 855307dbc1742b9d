"""A full disk is one line that says so, whatever library writes, and leaves what was there before."""

import json
import os
import subprocess
import sys

import pytest
from helpers import NO_BYTECODE, ROOT, make_model, write_shop

from modeling_mmfusion import MMFusionProcessor
from training import embed, index
from training.features.options import EmbedArguments

# A process whose files can't grow beyond 2,000 bytes: what writes gets an error of the system, as on a full disk.
LIMITED = """
import contextlib, io, json, resource, runpy, sys
import datasets, pyarrow, torch, transformers  # whose imports may write caches of their own
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for name, words in json.loads(sys.argv[1]).items():
    sys.argv, errors, status = words, io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_module(words[0], run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ") or "Traceback" in line]
    print(json.dumps([name, status, lines]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(towers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    make_model(towers).save_pretrained(folder / "model")
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(folder / "model")
    write_shop(folder / "shop")
    (folder / "products.csv").write_text(
        "id,title\n" + "".join(f"p{n},{'striped mug ' * 40}{n}\n" for n in range(300))
    )
    embed.main(EmbedArguments(str(folder / "model"), str(folder / "shop")))
    index.main(index.IndexArguments(str(folder / "vectors")))
    return folder


COMMANDS = {
    "index": ["training.index", "--vectors", "vectors"],
    "parquet": ["training.scale.engines", "--vectors", "vectors"],
    "lance": ["training.scale.engines", "--vectors", "vectors", "--to", "lance:products.lance"],
    "embed": ["training.embed", "--model", "model", "--data", "shop", "--output", "others"],
    "prepare": ["training.prepare", "--products", "products.csv", "--output", "data", "--synthesise", "1"],
    "demo shop": ["training.demo.shop", "--products", "40", "--queries", "20", "--output", "demo"],
    "mine": ["training.mine", "--model", "model", "--data", "shop", "--output", "negatives.parquet"],
    "report": ["training.evaluate", "--model", "model", "--data", "shop", "--report", "report.json"],
    "train": ["training.train", "--data.path", "shop", "--model.start", "model", "--fuse.epochs", "1"],
    "hub": ["hub_card.build", "--what", "metric", "--repo-id", "me/product_retrieval"],
    "tower": ["training.train", "--data.path", "shop", "--fuse.epochs", "1"],
}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(folder, tmp_path):
    before = contents(folder)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MMFUSION_CACHE": str(tmp_path)}
    variables |= NO_BYTECODE
    words = [sys.executable, "-c", LIMITED, json.dumps(COMMANDS)]
    done = subprocess.run(words, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in told] == list(COMMANDS), done.stderr[-3000:]
    for name, status, lines in told:
        assert status == 2 and len(lines) == 1, (name, status, lines)
        assert "too large" in lines[0] or "disk full" in lines[0], (name, lines)
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in set(after) - set(before) if "partial" in path]
