"""Exported towers give the model's vectors, whatever a batch looks like; a tower that does not is refused."""

import json
import os
import shutil
import subprocess
import sys
from textwrap import dedent

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import ROOT, make_model, picture, shop_rows, write_shop
from PIL import Image
from torch._dynamo.testing import CompileCounter
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.exported import OnnxTowers, OpenVinoTowers
from modeling_mmfusion.fingerprint import model_fingerprint
from modeling_mmfusion.model_folder import load_model
from training import embed, export
from training.features import exporting, picture_graph
from training.features.exporting import Tower, axes_of, product_samples, query_samples, sample_picture
from training.features.options import ExportArguments
from training.features.picture_graph import add_picture_graph
from training.features.shards import read_vectors, read_vectors_manifest
from training.learning.options import ModelArguments
from training.learning.starting import new_model

ENGINES = [OnnxTowers, OpenVinoTowers]
PRODUCTS = {
    "mixed": [
        {"title": "red mug", "image": picture("red")},
        {"title": "big blue striped cotton shirt", "description": "soft and big", "image": None},
        {"image": [picture("green"), picture("blue"), picture("red")]},
        {},
    ],
    "one": [{"title": "lamp", "image": picture("blue")}],
    "without pictures": [{"title": "red mug"}, {"title": "the lamp of clay"}, {}],
    "without text": [{"image": picture("red")}, {"image": picture("green")}],
}


@pytest.fixture(scope="module")
def saved(towers, tmp_path_factory):
    """The tiny model's folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model(towers).save_pretrained(folder)
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(saved):
    """The same folder with onnx/ and openvino/, and what the export reports."""
    return saved, export.main(ExportArguments(str(saved), str(saved), quantize_query="int8", pictures=True))


def towers_of(folder, engine, **options):
    return engine(folder / ("onnx" if engine is OnnxTowers else "openvino"), **options)


@torch.inference_mode()
def product_vectors(model: MMFusionModel, inputs) -> np.ndarray:
    return model.get_product_features(**inputs).pooler_output.numpy()


@torch.inference_mode()
def query_vectors(model: MMFusionModel, inputs) -> np.ndarray:
    return model.get_query_features(**inputs).pooler_output.numpy()


@pytest.mark.slow
def test_exported_towers_name_no_source_file_of_the_machine(exported):
    files = [file for name in ("onnx", "openvino") for file in (exported[0] / name).glob("*_tower*")]
    assert len(files) >= 6
    for file in files:
        assert b"modeling_mmfusion.py" not in file.read_bytes() and str(ROOT).encode() not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("products", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_exported_products_are_those_of_the_model(exported, engine, products):
    model, processor = load_model(exported[0], device="cpu")
    inputs = processor.process_products(products)
    found = towers_of(exported[0], engine).product_vectors(inputs)
    np.testing.assert_allclose(found, product_vectors(model, inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("queries", [["mug"], ["red mug", "big soft blue striped cotton shirt"], ["lamp"] * 7])
def test_exported_queries_are_those_of_the_model(exported, engine, queries):
    model, processor = load_model(exported[0], device="cpu")
    inputs = processor.process_queries(queries)
    found = towers_of(exported[0], engine).query_vectors(inputs)
    np.testing.assert_allclose(found, query_vectors(model, inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_mask_hides_has_no_effect(exported, engine):
    model, processor = load_model(exported[0], device="cpu")
    inputs = processor.process_products([{"title": "red mug", "image": picture()}, {"title": "lamp"}])
    hidden = inputs | {"image_mask": torch.zeros_like(inputs["image_mask"])}
    towers = towers_of(exported[0], engine)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "text_mask")}
    np.testing.assert_allclose(towers.product_vectors(hidden), product_vectors(model, text), atol=1e-5, rtol=0)
    hidden = inputs | {"text_mask": torch.zeros_like(inputs["text_mask"])}
    pictures = {name: inputs[name] for name in ("pixel_values", "image_mask")}
    np.testing.assert_allclose(towers.product_vectors(hidden), product_vectors(model, pictures), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_report_says_what_goes_in_and_how_well_it_agrees(exported):
    folder, reports = exported
    for name, report in reports.items():
        assert json.loads((folder / name / "export.json").read_text()) == report
        assert report["model"] == model_fingerprint(*load_model(folder, device="cpu"))
        assert report["inputs"]["query"]["input_ids"] == {"dtype": "int64", "shape": ["batch", "tokens"]}
        inputs = report["inputs"]["product"]
        assert inputs["pixel_values"] == {"dtype": "float32", "shape": ["batch", "images", 3, 32, 32]}
        assert inputs["text_mask"] == {"dtype": "bool", "shape": ["batch"]}
        assert report["environment"]["packages"]["openvino"]
        for tower in ("query_tower", "product_tower"):
            assert report["measured"][tower]["max_difference"] <= 1e-4
            assert report["measured"][tower]["ms"] > 0 and report["measured"][tower]["ms_torch"] > 0
    measured = dict(reports["onnx"]["measured"])
    assert measured.pop("picture")["min_cosine"] > 0.99
    assert set(measured) == {"query_tower", "product_tower", "query_tower_int8"}
    assert [measured[tower]["batch"] for tower in measured] == [1, 8, 1], "one query, eight products"


@pytest.mark.slow
def test_towers_that_disagree_are_refused_and_the_old_ones_stay(exported, saved, tmp_path, monkeypatch):
    other = shutil.copytree(saved, tmp_path / "model")
    model, _ = load_model(other, device="cpu")
    with torch.no_grad():
        model.product_heads.image_head.fc2.bias.add_(0.01)
    model.save_pretrained(other)
    monkeypatch.setattr(export, "export_onnx", lambda case, file: shutil.copy(saved / "onnx" / file.name, file))
    before = (other / "onnx" / "export.json").read_text()
    for name in ("onnx", "openvino"):
        with pytest.raises(DataError, match=rf"^{name}/product_tower: vectors differ .* more than 1e-04") as caught:
            export.main(ExportArguments(str(other), str(other), [name]))
        assert "\n" not in str(caught.value)
    assert (other / "onnx" / "export.json").read_text() == before
    assert not list(other.glob(".*.partial"))


@pytest.mark.slow
def test_a_tower_that_8_bits_change_too_much_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "export_onnx", lambda case, file: shutil.copy(exported[0] / "onnx" / file.name, file))
    monkeypatch.setattr(exporting, "MIN_INT8_COSINE", 1.01)
    with pytest.raises(DataError, match="^onnx/query_tower_int8: the cosine of a vector .* less than 1.01"):
        export.main(ExportArguments(str(exported[0]), str(tmp_path), ["onnx"], "int8"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_encoder_that_looks_at_its_data_is_refused_in_one_line(saved, tmp_path, monkeypatch):
    class PeekingTower(export.Tower):
        def forward(self, **inputs):
            vectors = super().forward(**inputs)
            return vectors if inputs["attention_mask"].sum() > 3 else -vectors

    monkeypatch.setattr(export, "Tower", PeekingTower)
    with pytest.raises(DataError, match="^query_tower: its encoders can't be exported: .*data-dependent") as caught:
        export.main(ExportArguments(str(saved), str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_tower_that_runs_only_as_traced_is_refused_in_one_line():
    def only_two(batch):
        raise RuntimeError("index 9 is out of\nbounds")

    case = exporting.Case(None, [None], [np.zeros((1, 2))], 1.0)
    with pytest.raises(DataError, match="^onnx/product_tower: does not run on all inputs: index 9 is out of bounds$"):
        exporting.measure_tower("onnx/product_tower", only_two, case)


@pytest.mark.slow
def test_missing_packages_and_folders_are_named(exported, monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"export.json: no such file; give a folder that training.export wrote"):
        OnnxTowers(tmp_path)
    with pytest.raises(DataError, match=r"query_tower_int8.xml: no such file; give a tower"):
        towers_of(exported[0], OpenVinoTowers, query="query_tower_int8").query_vectors({})
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(DataError, match=r"^onnxscript is not installed; run: pip install -e '\.\[export\]'"):
        export.main(ExportArguments(str(exported[0]), str(tmp_path)))


@pytest.mark.slow
def test_signals_are_handled_when_openvino_towers_are_gone(exported):
    """In a process of its own, for where they are not it dies."""
    code = """
        import gc, os, signal, sys, torch
        from modeling_mmfusion.exported import OpenVinoTowers
        came = []
        signal.signal(signal.SIGUSR1, lambda *words: came.append(words))
        for rounds in range(2):
            first, second = OpenVinoTowers(sys.argv[1]), OpenVinoTowers(sys.argv[1])
            for towers in (first, second):
                towers.query_vectors(dict.fromkeys(towers.inputs["query"], torch.ones((1, 3), dtype=torch.int64)))
            del first, towers
            gc.collect()
            del second
            gc.collect()
            os.kill(os.getpid(), signal.SIGUSR1)
        assert len(came) == 2
    """
    words = [sys.executable, "-c", dedent(code), exported[0] / "openvino"]
    assert subprocess.run(words, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_openvino_reports_to_nobody(tmp_path):
    code = "from modeling_mmfusion.exported import import_openvino; import_openvino()"
    variables = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, check=True)
    assert not (tmp_path / "intel").exists(), "its telemetry keeps its files there"


@pytest.mark.slow
def test_the_wheels_towers_survive_export_and_8_bits(tmp_path):
    model, processor = new_model(ModelArguments())
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    measured = export.main(ExportArguments(str(tmp_path / "model"), str(tmp_path), ["onnx"], "int8"))["onnx"][
        "measured"
    ]
    assert max(measured[tower]["max_difference"] for tower in ("query_tower", "product_tower")) < 1e-5
    assert measured["query_tower_int8"]["min_cosine"] > 0.97
    whole, small = (tmp_path / "onnx" / f"{name}.onnx" for name in ("query_tower", "query_tower_int8"))
    assert small.stat().st_size < 0.3 * whole.stat().st_size
    inputs = processor.process_queries(["warm winter coat", "a jacket for cold weather", "ceramic mug"])
    vectors = OnnxTowers(tmp_path / "onnx", query="query_tower_int8").query_vectors(inputs)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


@pytest.mark.parametrize("name, samples", [("query", query_samples), ("product", product_samples)])
def test_towers_are_traced_at_the_first_attempt(model, processor, name, samples):
    inputs = dict(samples(processor)[0])
    shapes = {"inputs": {key: dict.fromkeys(range(len(axes_of(key))), torch.export.Dim.DYNAMIC) for key in inputs}}
    program = torch.export.export(Tower(model, name), (), inputs, dynamic_shapes=shapes, strict=False)
    assert all("s" in str(node.meta["val"].shape[0]) for node in program.graph.nodes if node.name in inputs)


@pytest.mark.parametrize("products", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_towers_compile_without_graph_breaks(model, processor, products):
    torch._dynamo.reset()
    inputs = processor.process_products(products)
    with torch.no_grad():
        found = torch.compile(model.get_product_features, fullgraph=True, backend="eager")(**inputs)
        torch.testing.assert_close(found.pooler_output, model.get_product_features(**inputs).pooler_output)


def test_one_compiled_query_tower_serves_all_lengths_and_batches(model, processor):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model.get_query_features, fullgraph=True, backend=counter, dynamic=True)
    with torch.no_grad():
        for queries in (["red mug", "lamp"], ["big soft blue striped cotton shirt"] * 3, ["the lamp of clay"] * 5):
            inputs = processor.process_queries(queries)
            found = compiled(**inputs).pooler_output
            torch.testing.assert_close(found, model.get_query_features(**inputs).pooler_output)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_a_catalogue_is_embedded_by_each_backend_alike(exported, tmp_path):
    folder, _ = exported
    corpus, _, _ = shop_rows()
    corpus[3]["image"], corpus[5]["image"] = None, {"bytes": b"no picture", "path": ""}
    write_shop(tmp_path / "shop", corpus, [], [], splits=("test",))
    dims, found = load_model(folder)[0].config.truncated_dims(24), {}
    for backend in ("torch", "onnx", "openvino", "auto"):
        for dim in (None, 24):
            output = tmp_path / f"{backend}-{dim}"
            embed.main(
                embed.EmbedArguments(
                    str(folder), str(tmp_path / "shop"), "test", str(output), truncate_dim=dim, backend=backend
                )
            )
            found[backend, dim], _ = read_vectors(output)
            expected = found["torch", dim]
            np.testing.assert_allclose(found[backend, dim], expected, atol=1e-3)
            assert expected.shape == (12, dim or 44)
    manifest = read_vectors_manifest(tmp_path / "auto-24")
    assert manifest["backend"] == "openvino" and list(manifest["blocks"].items()) == list(dims.items())


@pytest.mark.slow
def test_towers_of_another_model_are_not_taken(exported, towers, tmp_path, monkeypatch):
    folder, _ = exported
    other = make_model(towers)
    with torch.no_grad():
        other.product_heads.missing_image.weight.add_(1)
    other.save_pretrained(tmp_path / "model")
    load_model(folder)[1].save_pretrained(tmp_path / "model")
    write_shop(tmp_path / "shop")
    options = {"model": str(tmp_path / "model"), "data": str(tmp_path / "shop"), "output": str(tmp_path / "out")}
    with pytest.raises(DataError, match="onnx/export.json: no such file; give a folder that training.export wrote"):
        embed.main(embed.EmbedArguments(**options, backend="onnx"))
    with pytest.raises(DataError, match="openvino: was exported from another model; run training.export again"):
        embed.main(embed.EmbedArguments(**options, backend="openvino", exported=str(folder)))
    embed.main(embed.EmbedArguments(**options, exported=str(folder)))
    assert read_vectors_manifest(tmp_path / "out")["backend"] == "torch"
    monkeypatch.setattr("training.features.backends.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"onnxruntime is not installed; run: pip install -e '.\[export\]'"):
        embed.main(embed.EmbedArguments(**options, backend="onnx", exported=str(folder)))


PROCESSORS = [
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=3),
    CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=2),
    SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=3),
    ViTImageProcessorPil(size={"height": 32, "width": 32}),
]


@pytest.mark.parametrize("image_processor", PROCESSORS, ids=lambda one: f"{type(one).__name__}-{one.resample}")
def test_the_picture_graph_makes_the_processors_pixels(image_processor, processor, model, tmp_path):
    processor.image_processor = image_processor
    found = add_picture_graph(tmp_path, processor, Tower(model, "product"), [sample_picture(0), sample_picture(1)])
    assert found["mean_difference"] < 0.5 and found["min_cosine"] > 0.999
    session = onnxruntime.InferenceSession(tmp_path / "picture.onnx")
    flat = np.full((70, 50, 3), (250, 20, 130), np.uint8)
    expected = image_processor(images=[Image.fromarray(flat)], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(session.run(None, {"picture": flat})[0], expected, atol=1e-5)


def test_an_image_processor_that_does_more_is_refused_in_one_line(processor, model, tmp_path, monkeypatch):
    pictures = [sample_picture(0)]
    processor.image_processor = CLIPImageProcessorPil(size={"longest_edge": 32}, do_center_crop=False)
    with pytest.raises(DataError, match="export without --pictures"):
        add_picture_graph(tmp_path, processor, Tower(model, "product"), pictures)
    processor.image_processor = PROCESSORS[0]
    monkeypatch.setattr(picture_graph, "MIN_COSINE", 1.1)
    with pytest.raises(DataError, match="less than 1.1; export without --pictures"):
        add_picture_graph(tmp_path, processor, Tower(model, "product"), pictures)
    with pytest.raises(DataError, match="--pictures goes with --formats onnx"):
        export.main(ExportArguments(str(tmp_path), formats=["openvino"], pictures=True))
