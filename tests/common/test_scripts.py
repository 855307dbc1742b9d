"""Every script as a person runs it: `--help` teaches, and a mistake is one line."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from helpers import ROOT, commands, make_model, shop_rows, write_shop
from PIL import Image, ImageColor

from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.index import ProductIndex
from training import embed, evaluate, index, search
from training.common.cli import parse
from training.evaluation import sheet
from training.evaluation.sheet import SheetArguments
from training.features.shards import read_vectors
from training.learning.options import TrainArguments
from training.quickstart import QuickstartArguments


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script as `python -m` does, in this process; returns its exit status, output and errors."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", commands())
def test_help_teaches(run_script, name):
    status, help_text, _ = run_script(name, "--help")
    command = "accelerate launch training/train.py" if name == "training.train" else f"    python -m {name}"
    assert not status and command in help_text and "default:" in help_text


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", commands())
def test_an_option_that_there_is_not_is_one_line(run_script, name):
    status, _, errors = run_script(name, "--no-such-option", "1")
    assert status == 2 and "Traceback" not in errors and errors.splitlines()[-1].startswith("error: ")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    "words, message",
    [
        (["training.evaluate", "--model", "./nowhere"], "./nowhere: no such model folder"),
        (["training.evaluate", "--views", "fused,both"], "unknown view 'both'"),
        (["training.search", "mug", "--run", "nowhere"], "nowhere/model: no such model folder"),
        (["training.train", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["training.train", "--fuse.epochs", "many"], "fuse.epochs"),
        (["training.train", "--fuse.batch_size", "0"], "fuse.batch_size"),
        (["training.train", "--fuse.topical_share", "1.5"], "fuse.topical_share"),
        (["training.evaluate", "--missing-images", "2"], "missing_images"),
        (["training.scale.planning", "--products", "0"], "products"),
        (["training.embed", "--shard-size", "0"], "shard_size"),
        (["training.search", "mug", "--k", "0"], 'Parser key "k"'),
        (["training.convert", "--source", "esci", "--input", ".", "--output", "out", "--queries", "0"], "queries"),
        (["training.index", "--vectors", "nowhere"], "nowhere/manifest.json: no such file"),
        (["training.quickstart", "--data", "./nowhere"], "./nowhere: no such folder"),
        (["training.quickstart", "--data", str(ROOT / "space")], "space: is no catalogue"),
        (["training.train", "--model.config", "{wide: 3}"], "MMFusionConfig has no field wide"),
        (["training.demo.shop", "--output", "/proc/shop"], "/proc/shop"),
        (["training.export", "--formats", "onnx,tflite"], "unknown format 'tflite'; use some of onnx, openvino"),
        (["training.export", "--formats", "openvino", "--quantize-query", "int8"], "goes with --formats onnx"),
        (["training.demo.shop", "--products", "3"], "at least 40 products"),
        (["training.convert", "--source", "esci", "--input", "nowhere", "--output", "x"], "nowhere: no such folder"),
        (["training.convert", "--source", "wands", "--input", "nowhere", "--output", "x"], "marqo-fashion"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run_script, words, message):
    status, _, errors = run_script(*words)
    assert status == 2 and "Traceback" not in errors
    (error,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert message in error


def test_a_recipe_that_is_an_option_of_its_own_is_kept():
    words = ["--recipe", "mine.yaml", "--output", "runs/mine"]
    assert parse(QuickstartArguments, "", words).recipe == "mine.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("script", [[str(ROOT / "training" / "train.py")], ["-m", "training.train"]])
def test_train_runs_by_its_path_and_as_a_module_from_any_folder(tmp_path, script):
    words = [*script, "--data.path", "./nowhere", "--output", str(tmp_path / "run")]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *words]
    ran = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=300)
    before, error, _ = ran.stderr.partition("error: ./nowhere: no such folder")
    assert error and "Traceback" not in before, ran.stderr[-2000:]


def test_command_line_overrides_recipe_overrides_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("fuse: {epochs: 3, batch_size: 7}\nmodel: {config: {image_dim: 9}}\n")
    words = ["--recipe", str(recipe), "--fuse.batch-size", "8", "--model.config.cross_dim=5"]
    arguments = parse(TrainArguments, "", words, recipe=True)
    assert (arguments.fuse.epochs, arguments.fuse.batch_size, arguments.fuse.warmup) == (3, 8, 0.05)
    assert arguments.model.config == {"image_dim": 9, "cross_dim": 5}
    assert yaml.safe_load(yaml.safe_dump(asdict(arguments)))["fuse"]["batch_size"] == 8  # as config.yaml is written


@pytest.fixture
def run_folder(model, processor, shop, tmp_path):
    """A run with a model, vectors and an index of the tiny shop."""
    run = tmp_path / "run"
    model.save_pretrained(run / "model")
    processor.save_pretrained(run / "model")
    embed.main(embed.EmbedArguments(str(run / "model"), str(shop), "test", str(run / "vectors")))
    index.main(index.IndexArguments(str(run / "vectors"), str(run / "index")))
    return run


def test_search_prints_what_exact_scoring_finds(run_folder, model, processor, shop, capsys):
    import torch

    from training.catalogue.layout import load_split

    capsys.readouterr()
    search.main(search.SearchArguments("red mug", str(run_folder), k=4, json=True, hybrid=False))
    answer = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        query = model.get_query_features(**processor.process_queries(["red mug"]))
        products = model.get_product_features(**processor.process_products(list(load_split(shop, "test").corpus)))
    scores = (query.pooler_output @ products.pooler_output.T)[0]
    expected = [load_split(shop, "test").product_ids[row] for row in scores.argsort(descending=True)[:4]]
    assert [found["product_id"] for found in answer["results"]] == expected
    assert answer["results"][0]["score"] == pytest.approx(scores.max().item(), abs=5e-4)
    assert sum(answer["results"][0]["contributions"].values()) == pytest.approx(
        answer["results"][0]["score"], abs=1e-5
    )
    assert answer["results"][0]["product"]["price"] == "9.90"
    assert sum(answer["shares"].values()) == pytest.approx(1, abs=1e-5)
    search.main(search.SearchArguments("red mug", str(run_folder), k=2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and expected[0] in lines[1] and "text" in lines[0]


def test_evaluation_goes_on_past_bad_rows_and_tells_them(run_folder, tmp_path, capsys):
    corpus, queries, qrels = shop_rows()
    corpus[3]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    corpus.append(dict(corpus[0]))
    qrels.append({"query-id": "q-mug-red", "corpus-id": "spoon", "score": 1})
    shop = write_shop(tmp_path / "odd", corpus, queries, qrels)
    report = evaluate.main(
        evaluate.EvaluateArguments(str(run_folder / "model"), str(shop), report=str(tmp_path / "r"))
    )
    out = capsys.readouterr().out
    assert report["n_products"] == 12 and json.loads((tmp_path / "r").read_text())["problems"] == report["problems"]
    for kind in ("unreadable image", "duplicate product id", "judgment of an unknown product"):
        assert re.search(rf"warning: 1 x {kind}.*; first: .*test/\w+\.parquet row \d+, field", out), kind


@pytest.mark.slow
def test_the_result_sheet_frames_relevant_products(run_folder, shop, tmp_path):
    arguments = SheetArguments(str(run_folder / "model"), str(shop), "test", str(tmp_path / "sheet.png"), k=12)
    page = Image.open(sheet.main(arguments)).convert("RGB")
    frame = ImageColor.getrgb(sheet.RELEVANT)
    framed = (np.asarray(page) == frame).all(axis=-1)
    assert framed.sum() > 1000, "each query's relevant product is among the twelve, in each view"


def test_search_refuses_an_index_of_another_model(run_folder, towers):
    make_model(towers, text_pooling="cls").save_pretrained(run_folder / "model")
    with pytest.raises(ProductIndexError, match="index: was built with another model"):
        search.Searcher(run_folder)


def test_search_refuses_nothing(run_folder):
    with pytest.raises(DataError):
        search.main(search.SearchArguments("  ", str(run_folder)))


def test_an_index_of_products_that_come_twice_is_refused(run_folder):
    import pyarrow as pa

    vectors, products = read_vectors(run_folder / "vectors")
    with pytest.raises(ProductIndexError):
        ProductIndex.build(vectors[[0, 0]], pa.concat_tables([products.slice(0, 1)] * 2))
