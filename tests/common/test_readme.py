"""README and results files say the same, and README's code runs."""

import re

import pytest
from helpers import ROOT, write_shop

from modeling_mmfusion.errors import DataError
from training.benchmarks.results import ResultsArguments, insert_tables, markdown, markers, tables_of

README = (ROOT / "README.md").read_text()


def test_numbers_in_the_readme_are_those_of_the_results_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    for kind, tables in tables_of(ResultsArguments()).items():
        assert insert_tables(README, kind, tables) == README
    with pytest.raises(DataError, match="the README lacks the lines"):
        insert_tables("no markers", "results", [])


def test_tables_replace_what_is_between_the_markers():
    report = {"data": "shop", "split": "test", "n_queries": 1, "n_products": 2, "slices": {}}
    report["views"] = {"fused": {"ndcg@10": {"mean": 0.5, "ci95": [0.4, 0.6]}}}
    start, end = markers("results")
    text = insert_tables(f"a\n\n{start}\n\nold\n\n{end}\n\nb\n", "results", [markdown(report)])
    assert "old" not in text and "| fused | 0.500 [0.400, 0.600] |" in text
    assert text.startswith("a\n\n<!--") and text.endswith("-->\n\nb\n")
    assert insert_tables(text, "results", [markdown(report)]) == text


def test_the_readmes_code_runs(model, processor, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    model.save_pretrained(tmp_path / "runs/quickstart/model")
    processor.save_pretrained(tmp_path / "runs/quickstart/model")
    write_shop(tmp_path / "data/demo_shop")
    monkeypatch.chdir(tmp_path)
    for code in blocks:
        exec(code, {})
        assert "tensor" in capsys.readouterr().out and len(code.strip().splitlines()) <= 15
    assert len(blocks) == 2


def test_files_that_the_readme_names_are_there():
    named = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named += [name for name in re.findall(r"`((?:training|hub_card|space|tests|modeling_mmfusion)/[^`*]*)`", README)]
    assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
