"""README and results files say the same, and README's code runs."""

import json
import re

import pytest
from conftest import ROOT, picture

from training.ablate import format_results
from training.data import DataError
from training.results import ABLATION_END, ABLATION_START, END, START, insert_tables, markdown

README = (ROOT / "README.md").read_text()


def test_numbers_in_the_readme_are_those_of_the_results_files():
    names = ("quickstart", "hm", "fusion_ablation", "fusion_fashion")
    *reports, first, second = [
        json.loads((ROOT / "hub_card" / "results" / f"{name}.json").read_text()) for name in names
    ]
    assert insert_tables(README, [markdown(report) for report in reports]) == README
    assert (
        insert_tables(README, [format_results(first), format_results(second)], ABLATION_START, ABLATION_END) == README
    )
    with pytest.raises(DataError, match="the README lacks the lines"):
        insert_tables("no markers", [])


def test_tables_replace_what_is_between_the_markers():
    report = {"data": "shop", "split": "test", "n_queries": 1, "n_products": 2, "slices": {}}
    report["views"] = {"fused": {"ndcg@10": {"mean": 0.5, "ci95": [0.4, 0.6]}}}
    text = insert_tables(f"a\n\n{START}\n\nold\n\n{END}\n\nb\n", [markdown(report)])
    assert "old" not in text and "| fused | 0.500 [0.400, 0.600] |" in text
    assert (
        text.startswith("a\n\n<!--")
        and text.endswith("-->\n\nb\n")
        and insert_tables(text, [markdown(report)]) == text
    )


def test_the_readmes_code_runs(model, processor, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    model.save_pretrained(tmp_path / "runs/quickstart/model")
    processor.save_pretrained(tmp_path / "runs/quickstart/model")
    (tmp_path / "tee.jpg").write_bytes(picture(format="JPEG"))
    monkeypatch.chdir(tmp_path)
    for code in blocks:
        exec(code, {})
        assert "tensor" in capsys.readouterr().out and len(code.strip().splitlines()) <= 12
    assert len(blocks) == 2


def test_files_that_the_readme_names_are_there():
    named = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named += [name for name in re.findall(r"`((?:training|hub_card|space|tests|modeling_mmfusion)/[^`*]*)`", README)]
    assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
