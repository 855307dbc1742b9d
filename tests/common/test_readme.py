"""README and results files say the same, and README's code runs."""

import re

import pytest
from helpers import ROOT, write_shop

from modeling_mmfusion.errors import DataError
from training import embed, index
from training.benchmarks.results import MARKERS, ResultsArguments, insert_tables, markdown, tables_of
from training.features.options import EmbedArguments

FOLDERS = ("", "training/", "hub_card/", "hub_card/results/", "space/")
READMES = {f"{folder}README.md": (ROOT / folder / "README.md").read_text() for folder in FOLDERS}
README = READMES["README.md"]


def test_numbers_in_the_readmes_are_those_of_the_results_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    for kind, tables in tables_of(ResultsArguments()).items():
        (text,) = (text for text in READMES.values() if MARKERS[kind][0] in text)
        assert insert_tables(text, kind, tables) == text
    with pytest.raises(DataError, match="the README lacks the lines"):
        insert_tables("no markers", "results", [])


def test_tables_replace_what_is_between_the_markers():
    report = {"data": "../elsewhere/data/shop", "split": "test", "n_queries": 1, "n_products": 2, "slices": {}}
    report["comparisons"] = {}
    report["views"] = {"fused": {"ndcg@10": {"mean": 0.5, "ci95": [0.4, 0.6]}}}
    start, end = MARKERS["results"]
    text = insert_tables(f"a\n\n{start}\n\nold\n\n{end}\n\nb\n", "results", [markdown(report)])
    assert "old" not in text and "\n\nshop, test: 1 queries" in text and "| fused | 0.500 [0.400, 0.600] |" in text
    assert text.startswith("a\n\n<!--") and text.endswith("-->\n\nb\n")
    assert insert_tables(text, "results", [markdown(report)]) == text


def test_the_readmes_code_runs(model, processor, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    run = tmp_path / "runs/quickstart"
    model.save_pretrained(run / "model")
    processor.save_pretrained(run / "model")
    shop = write_shop(tmp_path / "data/demo_shop")
    embed.main(EmbedArguments(str(run / "model"), str(shop)))
    index.main(index.IndexArguments(str(run / "vectors")))
    monkeypatch.chdir(tmp_path)
    for code, printed in zip(blocks, ("tensor", "tensor", "'cross'"), strict=True):
        capsys.readouterr()
        exec(code, {})
        assert printed in capsys.readouterr().out and len(code.strip().splitlines()) <= 15


def test_the_readme_is_read_to_its_end():
    assert len(README.splitlines()) <= 200 and len(README.encode()) <= 15_000
    assert not [name for name, text in READMES.items() if "../shared" in text]


@pytest.mark.parametrize("name", READMES)
def test_files_that_a_readme_names_are_there(name):
    folder, text = (ROOT / name).parent, READMES[name]
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    named = re.findall(r"`((?:training|hub_card|space|tests|modeling_mmfusion)/[^`*]*)`", text)
    missing = [link for link in links if not (folder / link).exists()]
    missing += [file for file in named if not (ROOT / file).exists()]
    assert not missing and (links or named or name == "space/README.md")


def test_the_map_of_the_rooms_names_every_module():
    text = READMES["training/README.md"].split("## Rooms")[1]
    rooms = dict(re.findall(r"^\| `(\w+)/` \| (.+) \|$", text, re.MULTILINE))
    folders = {file.parent.name: set() for file in ROOT.glob("training/*/__init__.py")}
    assert rooms.keys() == folders.keys()
    for room, named in rooms.items():
        modules = {file.stem for file in ROOT.glob(f"training/{room}/*.py")} - {"__init__"}
        assert set(re.findall(r"`(\w+)`", named)) - {"evaluate"} == modules, room
