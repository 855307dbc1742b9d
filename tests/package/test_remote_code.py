"""A saved folder loads where the package is not installed, and the package asks for little."""

import re

import pytest
import torch
from helpers import ROOT, TINY_DIMS, WITHOUT_PACKAGE, make_dual_encoder, picture, run_python

from modeling_mmfusion import MMFusionModel, MMFusionProcessor

LOAD = """
import torch
from transformers import AutoModel, AutoProcessor
from safetensors.torch import save_file
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
products = [{"title": "red mug", "image": folder + "/mug.png"}, {"title": "big lamp"}]
with torch.no_grad():
    found = {
        "queries": model.get_query_features(**processor.process_queries(["red mug", "lamp"])).pooler_output,
        "products": model.get_product_features(**processor.process_products(products)).pooler_output,
    }
save_file(found, folder + "/found.safetensors")
model.save_pretrained(folder + "/again")
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["two encoders", "siglip2", "altclip", "vision_text"])
def test_a_saved_folder_loads_without_the_package(model, processor, tmp_path, start):
    from safetensors.torch import load_file

    if start != "two encoders":
        dual = make_dual_encoder(tmp_path / "dual", start)
        model = MMFusionModel.from_towers(aligned=dual, **TINY_DIMS)
        processor = MMFusionProcessor.from_towers(aligned=dual)
    (tmp_path / "mug.png").write_bytes(picture("red"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ran = run_python(WITHOUT_PACKAGE + LOAD, tmp_path, ROOT, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = load_file(tmp_path / "found.safetensors")
    products = [{"title": "red mug", "image": tmp_path / "mug.png"}, {"title": "big lamp"}]
    with torch.no_grad():
        queries = model.get_query_features(**processor.process_queries(["red mug", "lamp"])).pooler_output
        vectors = model.get_product_features(**processor.process_products(products)).pooler_output
    torch.testing.assert_close(found["queries"], queries, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["products"], vectors, atol=1e-6, rtol=0)
    assert (tmp_path / "again" / "modeling_mmfusion.py").is_file(), "code is not saved again with a loaded model"


def test_a_saved_model_carries_these_files_and_no_others(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    names = {
        "baselines",
        "configuration",
        "encoders",
        "fusion",
        "modeling",
        "pictures",
        "processing",
        "queries",
        "sentence_transformers",
        "spelling",
        "text",
    }
    assert {file.name for file in tmp_path.glob("*.py")} == {f"{name}_mmfusion.py" for name in names}


@pytest.mark.slow
def test_search_comes_from_the_package_when_it_is_asked_for():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import modeling_mmfusion
assert not {"usearch", "pyarrow", "onnxruntime"} & set(sys.modules)
for name in modeling_mmfusion.__all__:
    getattr(modeling_mmfusion, name)
from modeling_mmfusion import ProductIndex, Searcher
assert "usearch" in sys.modules and not hasattr(modeling_mmfusion, "Nothing")
"""
    ran = run_python(code, ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_importing_the_package_needs_neither_timm_nor_torchvision_nor_usearch():
    code = """
import sys
optional = "timm torchvision usearch pyarrow datasets accelerate peft evaluate sentence_transformers"
for name in optional.split():
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import modeling_mmfusion
"""
    ran = run_python(code, ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_the_package_is_flat_and_imports_only_what_the_remote_code_loader_follows():
    package = ROOT / "modeling_mmfusion"
    assert not [entry for entry in package.iterdir() if entry.is_dir() and entry.name != "__pycache__"]
    for file in package.glob("*_mmfusion.py"):
        text = file.read_text()
        assert not re.search(r"^\s*from \.\S+\.\S+ import|^\s*from \. import|import modeling_mmfusion", text, re.M), (
            file
        )
        assert "from __future__ import annotations" not in text, file
