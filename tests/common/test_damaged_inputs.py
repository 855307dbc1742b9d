"""Every command on files that are damaged in any way: the right answer, or one line that names the file.

A few ways a file are tried; `MMFUSION_DAMAGES=200 pytest tests/common/test_damaged_inputs.py` tries 200.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import pytest
from damaged_runs import FAULTS, make_world, prepare_case, run_cases, targets
from helpers import ROOT

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.json_files import ANY, COUNT, TEXT, fault_of, read_form
from modeling_mmfusion.model_folder import load_model, reading
from training.common.files import write_json
from training.features.shards import read_vectors_manifest

WAYS = int(os.environ.get("MMFUSION_DAMAGES", 4))
# what a run of 200 ways a file found, a case a kind: command, file, way
FOUND = [
    ("embed, no mark", "bare/model/model.safetensors", 112),  # vectors that are no finite number, by finite weights
    ("evaluate, no mark", "bare/model/model.safetensors", 112),
    ("mine", "bare/model/model.safetensors", 174),  # vectors of another length
    ("search, no mark", "bare/model/processor_config.json", 95),
    ("train, towers", "towers/vision/preprocessor_config.json", 149),  # a list for a picture's size
    ("train, towers", "towers/text/tokenizer_config.json", 93),  # half a character
    ("embed, catalogue", "shop/test/corpus.parquet", 58),  # a column twice
    ("evaluate, catalogue", "shop/test/queries.parquet", 60),  # lists for numbers
    ("evaluate, catalogue", "shop/README.md", 28),  # a file's name of two lines
    ("train", "recipe.yaml", 170),  # a number for a stage
    ("train", "recipe.yaml", 153),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """See [`make_world`]."""
    return make_world(tmp_path_factory.mktemp("damaged") / "world")


@pytest.mark.slow
def test_a_damaged_file_gives_the_right_answer_or_one_line_that_names_it(world):
    cases = [
        {"target": name, "file": file, "number": number}
        for name, target in targets(world).items()
        for file in target.files
        for number in range(WAYS)
    ]
    cases += [{"target": name, "file": file, "number": number} for name, file, number in FOUND]
    found = run_cases(world, world.with_name("scratch"), cases)
    faults = [one for one in found if one["how"] in FAULTS]
    counts = Counter(one["how"] for one in found)
    print(f"{len(found):,} damaged inputs: {dict(counts)}")
    assert counts["right"] and counts["refused"] > len(found) / 2
    assert not faults, "\n".join(json.dumps(fault) for fault in faults)


@pytest.mark.parametrize(
    "words, file, content",
    [
        (["training.search", "mug", "--run", "bare"], "bare/model/model.safetensors", b""),
        (["training.search", "mug", "--run", "bare"], "bare/model/config.json", None),
        (
            ["training.index", "--vectors", "run/vectors", "--output", "out"],
            "run/vectors/manifest.json",
            b'{"format": 2}',
        ),
    ],
)
def test_a_command_ends_with_status_2_and_one_line(world, tmp_path, monkeypatch, words, file, content):
    monkeypatch.chdir(tmp_path)
    prepare_case(world, tmp_path / "case", targets(world)["search, no mark" if "bare" in words else "index"])
    (tmp_path / "case" / file).unlink()
    if content is not None:
        (tmp_path / "case" / file).write_bytes(content)
    ran = subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path / "case",
        capture_output=True,
        text=True,
    )
    lines = ran.stderr.strip().splitlines()
    assert ran.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert Path(file).parent.as_posix() in lines[0]


@pytest.mark.parametrize(
    "change",
    [{"dim": 10**12}, {"dim": None}, {"count": 3}, {"shards": []}, {"blocks": {"text": 44}}, {"checksum": 1}],
)
def test_a_manifest_of_vectors_knows_what_was_written(world, tmp_path, change):
    manifest = json.loads((world / "run" / "vectors" / "manifest.json").read_text())
    write_json(tmp_path / "manifest.json", manifest | change)
    with pytest.raises(DataError, match=r"manifest.json: is not as it was written .*; run training.embed again"):
        read_vectors_manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {name: value for name, value in manifest.items() if name not in change})
    with pytest.raises(DataError, match="manifest.json: is not (as it was written|of format 2)"):
        read_vectors_manifest(tmp_path)


def test_a_fault_of_our_own_is_no_damaged_file(saved, monkeypatch):
    with pytest.raises(DataError, match="a/model: can't load: 'nothing'"), reading("a/model: can't load"):
        ConfigParser()["nothing"]  # a `KeyError` that a library raises
    code = {"__name__": "modeling_mmfusion.some_file"}
    exec("def broken(*_, **__): raise KeyError('a fault of ours')", code)
    monkeypatch.setattr(MMFusionModel, "__init__", code["broken"])
    with pytest.raises(KeyError, match="a fault of ours"):
        load_model(saved)


def test_what_is_wrong_with_a_json_file_is_told_by_its_field(tmp_path):
    form = {"model": TEXT, "sizes": {ANY: [COUNT]}}
    for value, fault in (
        ({"model": "a", "sizes": {"x": [1, 2]}, "more": None}, ""),
        ({"model": "a"}, "field sizes is missing"),
        ({"model": None, "sizes": {}}, "field model is no text: null"),
        ({"model": "a", "sizes": {"x": [1, True]}}, "field sizes.x[1] is no whole number above 0: true"),
        ({"model": "a", "sizes": {"x": 3}}, "field sizes.x is no list: 3"),
        ([], r"what it holds is no object: []"),
    ):
        assert fault_of(value, form) == fault
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="a.json: is damaged .is nested too deeply.; write it again"):
        read_form(tmp_path / "a.json", form, "write it again")
