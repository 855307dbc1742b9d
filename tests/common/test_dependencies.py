"""What a folder imports is among the packages that it asks for, and does not only come along with another one."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from helpers import ROOT

from hub_card.dependencies import requirements
from modeling_mmfusion import OnnxTowers
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.exported import MANIFEST, import_openvino
from modeling_mmfusion.model_folder import load_model
from training.catalogue.layout import load_split
from training.evaluation.rankers import TextRanker

SPACE = (ROOT / "space" / "requirements.txt").read_text().splitlines()
FOLDERS = {
    "modeling_mmfusion": requirements(extras=("index", "export", "serve")),
    "training": requirements(),
    "hub_card": [*requirements(extras=("hub", "train", "index")), "sentence-transformers"],  # looked for, not needed
    "space": [*SPACE, "gradio"],  # which comes by the sdk_version in its README
}


def names_of(lines: list[str]) -> set[str]:
    """The names of packages, normalised, in lines of requirements."""
    names = (re.split(r"[\[<>=~! ]", line)[0] for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-") for name in names}


def imported_by(folder: str) -> set[str]:
    """The modules that a folder's files import, anywhere in them, but for Python's own and ours."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    ours = {*FOLDERS, *(file.stem for file in (ROOT / folder).rglob("*.py"))}
    return found - ours - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_imported_is_asked_for(folder):
    packages, asked = packages_distributions(), names_of(FOLDERS[folder])
    missing = {
        module
        for module in imported_by(folder)
        if not asked & {name.lower().replace("_", "-") for name in packages.get(module, [module])}
    }
    assert not missing


def test_the_space_asks_for_what_its_extra_does():
    extra = names_of(requirements(extras=("space", "index", "timm"))) - {"mmfusion", "gradio"}
    assert names_of(SPACE) <= extra


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "sentence_transformers"])
def test_an_optional_package_that_is_not_there_is_one_line(package, shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / MANIFEST).write_text('{"inputs": {"query": {}, "product": {}}, "model": ""}')
    (tmp_path / "query_tower.onnx").write_bytes(b"")
    uses = {
        "onnxruntime": lambda: OnnxTowers(tmp_path).query_vectors({"input_ids": []}),
        "openvino": import_openvino,
        "sentence_transformers": lambda: TextRanker("minilm").rank(load_split(shop, "test"), 1),
    }
    with pytest.raises(DataError, match="is not installed; run: pip install") as caught:
        uses[package]()
    assert "\n" not in str(caught.value)


def test_an_encoder_whose_package_is_not_there_is_one_line(saved, monkeypatch):
    def without(*words, **options):
        raise ImportError("TimmWrapperModel requires the timm library\nbut it was not found")

    monkeypatch.setattr("modeling_mmfusion.encoders_mmfusion.AutoModelForTextEncoding.from_config", without)
    with pytest.raises(DataError, match="can't load the model: TimmWrapperModel requires the timm library but"):
        load_model(saved)
