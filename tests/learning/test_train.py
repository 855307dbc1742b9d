import json
import os
import subprocess
import sys
from dataclasses import asdict

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import ROOT, TINY_DIMS, make_dual_encoder, shop_rows, write_shop
from torch.nn import functional as F

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import TOWERS
from modeling_mmfusion.model_folder import load_model
from training import train
from training.catalogue.layout import load_split
from training.catalogue.writing import CORPUS_FEATURES, write_split
from training.common.cli import parse, run
from training.features.encoder import Encoder, TowerStates
from training.learning import calibration, stage, stages, starting
from training.learning.options import DataArguments, LoraArguments, ModelArguments, StageArguments, TrainArguments
from training.learning.sampling import Judgments
from training.learning.training_set import positives_of


def recipe(towers, shop, output, **stage):
    model = ModelArguments(str(towers["text"]), str(towers["vision"]), config=dict(TINY_DIMS))
    stage = {"epochs": 60, "batch_size": 12, "learning_rate": 1e-2} | stage
    return TrainArguments(DataArguments(str(shop).split(",")), model, fuse=StageArguments(**stage), output=str(output))


def test_training_learns_what_only_pictures_tell_and_writes_a_run_folder(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run")
    folder = train.main(arguments)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(61))
    best = max(line["dev"]["fused"]["ndcg@10"] for line in lines)
    assert best > 0.9 > lines[0]["dev"]["fused"]["ndcg@10"], "colour is in the picture, kind in the text"
    assert lines[-1]["dev"]["text"]["ndcg@10"] < 0.8
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["fuse"]["epochs"] == 60
    words = [f"--recipe={tmp_path / 'run' / 'config.yaml'}"]
    assert parse(TrainArguments, "", words, recipe=True) == arguments, "the written configuration is a recipe"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    model, processor = load_model(folder)
    assert processor.correction("red plian shrit") == "red plain shirt", "it has learned how the shop spells"
    assert processor.correction("gren shirt") == "green shirt", "and which words it is asked for"
    started, _ = starting.new_model(arguments.model)
    for name, value in model.state_dict().items():
        same = torch.equal(value, started.state_dict()[name])
        assert same if name.startswith(TOWERS) else True, f"a frozen tower changed: {name}"
    assert not torch.equal(model.text_head.residual.fc2.weight, started.text_head.residual.fc2.weight)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".mmfusion.json",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "model",
        "training.png",
    ]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(towers, shop, tmp_path):
    states = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        arguments = recipe(towers, shop, tmp_path / name, epochs=2)
        arguments.seed = seed
        states.append(load_model(train.main(arguments))[0].state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_the_best_epoch_is_kept(towers, shop, tmp_path, monkeypatch):
    scores, states = iter([0.1, 0.5, 0.3]), []

    def measure(trainer):
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        score = next(scores)
        return {view: {"ndcg@10": score} for view in ("fused", "text", "image")}

    monkeypatch.setattr(stage._Trainer, "_measure", measure)
    model, _ = load_model(train.main(recipe(towers, shop, tmp_path / "run", epochs=2)))
    fitted_later = ("router.", ".familiarity.")
    kept = {
        name: value for name, value in model.state_dict().items() if not any(part in name for part in fitted_later)
    }
    assert all(torch.equal(value, states[1][name]) for name, value in kept.items())


def test_a_loss_that_is_no_number_stops_with_advice_and_leaves_no_model(towers, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "alignment_loss", lambda vectors, *rest: vectors["query"].sum() * float("nan"))
    with pytest.raises(DataError, match="loss of epoch 1, step 1 is not a number; lower --fuse.learning_rate"):
        train.main(recipe(towers, shop, tmp_path / "run", epochs=1))
    assert not (tmp_path / "run" / "model").exists()


def test_wrong_towers_and_fields_are_named_in_one_line(towers, shop, tmp_path):
    for change in (
        {"text": str(tmp_path)},
        {"config": {"cross_dim": 0}},
        {"config": {"cross_dim": "wide"}},
        {"processor": {"prefix": ""}},
    ):
        arguments = recipe(towers, shop, tmp_path / "run")
        vars(arguments.model).update(change)
        with pytest.raises(DataError, match="can't build a model") as caught:
            train.main(arguments)
        assert "\n" not in str(caught.value)


def test_several_catalogues_are_trained_on_together(towers, shop, tmp_path):
    other = write_shop(tmp_path / "other")
    arguments = recipe(towers, f"{shop},{other}", tmp_path / "run", epochs=1)
    train.main(arguments)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[1]["dev"]["fused"]["recall@100"] == 1


def test_catalogues_with_one_picture_and_with_lists_are_mixed(towers, shop, tmp_path):
    other, corpus = write_shop(tmp_path / "other"), shop_rows()[0]
    red = corpus[0]["image"]
    for row, product in enumerate(corpus):
        product["image"] = [product["image"], red][: 1 + row % 2]
    features = datasets.Features({**CORPUS_FEATURES, "image": datasets.List(datasets.Image())})
    rows = pa.Table.from_pylist(corpus, schema=features.arrow_schema)
    for split in ("train", "dev"):
        pq.write_table(rows, other / split / "corpus.parquet")
    arguments = recipe(towers, f"{shop},{other}", tmp_path / "run", epochs=1, vision="full", chunk_size=6)
    arguments.data.mixed = True
    load_model(train.main(arguments))


@pytest.mark.slow
def test_a_share_of_the_trained_weights_lies_between_start_and_end(towers, shop, tmp_path):
    states = []
    for share in (0.0, 0.25, 1.0):
        arguments = recipe(towers, shop, tmp_path / str(share), epochs=3, trained_share=share)
        states.append(load_model(train.main(arguments))[0].state_dict())
    started = starting.new_model(arguments.model)[0].state_dict()
    name = "product_heads.image_head.fc1.weight"
    assert torch.equal(states[0][name], states[0][name].clone()) and not torch.equal(states[0][name], states[2][name])
    torch.testing.assert_close(states[1][name], torch.lerp(states[0][name], states[2][name], 0.25))
    assert started[name].shape == states[1][name].shape


def test_another_fusion_type_starts_from_fine_tuned_encoders(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run", epochs=2, text="full")
    tuned = load_model(train.main(arguments))[0].state_dict()
    arguments.model.encoders = str(tmp_path / "run" / "model")
    arguments.model.config |= {"fusion_type": "sum"}
    started = starting.new_model(arguments.model)[0]
    assert started.config.fusion_type == "sum"
    towers_of = {name: value for name, value in started.state_dict().items() if name.startswith(TOWERS)}
    assert all(torch.equal(value, tuned[name]) for name, value in towers_of.items())
    pretrained = starting.new_model(ModelArguments(arguments.model.text, arguments.model.vision))[0].state_dict()
    name = next(name for name in tuned if name.startswith("text_model.") and name.endswith("query.weight"))
    assert not torch.equal(started.state_dict()[name], pretrained[name]), "the encoder was fine-tuned"

    arguments.model.text = str(towers["query"])
    with pytest.raises(DataError, match=r"--model.encoders .*: has other encoders than --model.text"):
        starting.new_model(arguments.model)


def dev_data(model, processor, shop):
    split = load_split(shop, "dev")
    queries = Encoder(model, processor).query_states(split.query_texts)
    return Judgments(positives_of(split)), queries, Encoder(model, processor).product_states(split)


def test_the_text_block_starts_at_the_principal_axes_strongest_first(towers, processor, shop):
    model = MMFusionModel.from_towers(towers["text"], towers["vision"], **TINY_DIMS)
    _, *states = dev_data(model, processor, shop)
    calibration.start_text_head(model, states)
    texts = calibration.joined_texts(states)
    with torch.no_grad():
        base = model.text_head.base.weight
        torch.testing.assert_close(base @ base.T, torch.eye(16), atol=1e-5, rtol=0)
        turned = texts @ base.T
    torch.testing.assert_close(turned @ turned.T, texts @ texts.T)
    moments = turned.T @ turned
    assert (moments - moments.diag().diag()).abs().max() < 1e-4 and (moments.diag().diff() < 1e-4).all()


def test_calibration_moves_the_routers_alone_and_in_few_directions(model, processor, shop):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = judgments, queries, products = dev_data(model, processor, shop)

    def loss():
        with torch.no_grad():
            output = model(query_states=queries.states(slice(None)), product_states=products.states(slice(None)))
        return calibration.info_nce(output.logits_per_query, 2 * torch.eye(12)).mean().item()

    started = loss()
    calibration.calibrate_routers(model, [data], StageArguments(batch_size=12), seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    names = {f"{side}_heads.router.{part}" for side in ("query", "product") for part in ("weight", "bias")}
    assert changed == names and loss() < started
    for side in ("query", "product"):
        name = f"{side}_heads.router.weight"
        ratios = (model.state_dict()[name] / before[name])[before[name] != 0]
        torch.testing.assert_close(ratios, ratios[:1].expand(len(ratios)), msg="weights are scaled as a whole")
    calibration.learn_familiar_texts(model, [queries], [products])
    with torch.no_grad():
        known = model.query_heads.familiarity(torch.from_numpy(np.array(queries.arrays["text_features"])))
    assert (known > 0.5).float().mean() > 0.9
    calibration.forget_familiar_texts(model)
    with torch.no_grad():
        assert (model.query_heads.familiarity(torch.zeros(1, 16)) == 1).all()


def test_familiarity_is_loosened_as_little_as_dev_splits_need(tmp_path):
    aligned = make_dual_encoder(tmp_path, "clip")
    model = MMFusionModel.from_towers(aligned=aligned, **TINY_DIMS | {"num_prototypes": 40})
    width = model.query_heads.familiarity.prototypes.weight.shape[1]
    kinds = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).repeat(10, 1)
    texts = F.normalize(kinds + 0.5 * torch.randn(kinds.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    queries, products = ([TowerStates({"text_features": part.numpy()})] for part in texts.split(40))
    parts = [heads.familiarity for heads in (model.query_heads, model.product_heads)]
    calibration.learn_familiar_texts(model, queries, products)
    strict = [part.threshold.weight.item() for part in parts]
    noise = np.random.default_rng(0).normal(size=200)

    def gains(gain):
        """What each of 200 queries gains by looser thresholds, beside noise that all of them share."""
        return lambda: noise + gain * (strict[0] - parts[0].threshold.weight.item())

    assert calibration.loosen_familiar_texts(model, queries, products, gains(0.0)) == 0.0
    assert [part.threshold.weight.item() for part in parts] == pytest.approx(strict)
    assert calibration.loosen_familiar_texts(model, queries, products, gains(1.0)) == 1.0
    assert all(part.threshold.weight.item() < old - 0.05 for part, old in zip(parts, strict, strict=True))
    seen = iter([0.5, 0.9, 1.0, 0.99, 0.98])
    draws = np.random.default_rng(1)
    assert (
        calibration.loosen_familiar_texts(
            model, queries, products, lambda: next(seen) + draws.normal(scale=0.02, size=200)
        )
        == 0.5
    ), "0.9 is worse by more than the error of the difference"


def test_the_query_router_learns_from_whole_dev_corpora_and_only_it(model, processor, shop):
    judgments, queries, products = dev_data(model, processor, shop)
    calibration.learn_familiar_texts(model, [queries], [products])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    relevance = torch.zeros(len(queries), len(products))
    for query, found in enumerate(judgments.positives):
        relevance[query, list(found)] = torch.tensor(list(found.values()), dtype=torch.float32)

    def loss():
        with torch.no_grad():
            output = model(query_states=queries.states(slice(None)), product_states=products.states(slice(None)))
        return calibration.info_nce(output.logits_per_query, relevance).mean().item()

    started = loss()
    scores, inputs, found, _ = calibration._dev_scores(model, judgments, queries, products, seed=0)
    with torch.no_grad():
        output = model(query_states=queries.states(slice(None)), product_states=products.states(slice(None)))
        logits = torch.einsum("qpb,qb->qp", scores, model.query_heads.router(*inputs))
    torch.testing.assert_close(logits, output.logits_per_query, msg="it sees the model's own logits")
    torch.testing.assert_close(found, relevance)
    calibration.calibrate_query_router(model, [(judgments, queries, products)], seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"query_heads.router.weight", "query_heads.router.bias"} and loss() < started
    turned = model.query_heads.router.weight.detach() - before["query_heads.router.weight"]
    assert torch.linalg.matrix_rank(turned, rtol=1e-4) <= calibration.DIRECTIONS


@pytest.mark.slow
def test_several_processes_on_a_cpu_train_one_model(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run", epochs=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asdict(arguments)))
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", str(ROOT / "training" / "accelerate" / "multi_cpu.yaml"), "--main_process_port", "0"]
    words += [str(ROOT / "training" / "train.py"), "--recipe", str(tmp_path / "recipe.yaml")]
    variables = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    variables |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("model: ") == 1, "each process trained for itself"
    load_model(tmp_path / "run" / "model")


BOUNDS = {
    **{f"fuse.{name}": ["-1"] for name in ("epochs", "negatives_per_query", "patience")},
    **{f"fuse.{name}": ["0", "-1", "1.5", str(2**31)] for name in ("positives_per_query", "chunk_size")},
    **{f"fuse.{name}": ["-0.1", "1.1", "nan"] for name in ("topical_share", "warmup", "ema", "trained_share")},
    **{f"fuse.{name}": ["-1", "nan", "inf", "1e300"] for name in ("learning_rate", "tower_learning_rate")},
    **{f"fuse.{name}_weight": ["-1", "nan", "inf"] for name in ("fused", "text_view", "image_view", "title_image")},
    **{f"fuse.{name}": ["-1", "nan", "inf"] for name in ("matryoshka_weight", "distillation_weight", "weight_decay")},
    "fuse.score_margin": ["-1", "nan", "inf"],
    "fuse.max_grad_norm": ["0", "-1", "nan"],
    "fuse.batch_size": ["1", "0", "-1", str(2**31)],
    "lora.rank": ["0", "-1", "100000"],
    "lora.alpha": ["0", "-1"],
    "lora.dropout": ["-0.1", "1.1"],
    "seed": ["-1", str(2**32)],
    "workers": ["-1", "100000"],
    "checkpoint_minutes": ["-1", "nan"],
}


@pytest.mark.parametrize("option, values", BOUNDS.items())
def test_a_number_out_of_bounds_is_refused_by_the_name_of_its_option(option, values, monkeypatch, capsys):
    for value in values:
        monkeypatch.setattr(sys, "argv", ["train", f"--{option}={value}"])
        with pytest.raises(SystemExit) as caught:
            run(pytest.fail, TrainArguments, "", recipe=True)
        said = capsys.readouterr().err
        assert caught.value.code == 2 and said.startswith("error: ") and option in said and said.count("\n") == 1


def test_a_batch_has_negatives_and_a_pair_for_each_process(towers, shop, tmp_path):
    with pytest.raises(DataError, match="--fuse.batch_size 1: a pair alone has no negatives; give at least 2"):
        train.main(recipe(towers, shop, tmp_path / "run", epochs=1, batch_size=1))
    arguments = recipe(towers, shop, tmp_path / "run", epochs=1, batch_size=3)
    stages.check_batches(arguments, processes=3)
    with pytest.raises(DataError, match="--fuse.batch_size 3: there are 4 processes; give at least 4"):
        stages.check_batches(arguments, processes=4)
    arguments.fuse.epochs = 0
    stages.check_batches(arguments, processes=4)


def test_a_pattern_of_layers_that_is_none_is_one_line(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run", epochs=1, text="lora")
    arguments.lora.targets = "("
    with pytest.raises(DataError, match="--lora.targets"):
        train.main(arguments)


def test_processes_that_do_not_see_each_other_are_refused(towers, shop, tmp_path, monkeypatch):
    Accelerator()  # is of one process, as on a device that accelerate does not share between several
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="2 processes don't see each other: set ACCELERATE_USE_CPU=true"):
        train.main(recipe(towers, shop, tmp_path / "run"))


def test_a_tracker_that_is_not_installed_is_named_and_one_that_is_gets_each_epoch(towers, shop, tmp_path, monkeypatch):
    arguments = recipe(towers, shop, tmp_path / "run", epochs=2)
    arguments.tracker = "wandb"
    with pytest.raises(DataError, match="--tracker wandb: is not installed; pip install wandb"):
        train.main(arguments)
    arguments.tracker, logged = None, []
    monkeypatch.setattr(Accelerator, "log", lambda accelerator, values, step: logged.append((step, values)))
    train.main(arguments)
    assert [step for step, _ in logged] == [1, 2]
    assert {"fuse/loss", "fuse/dev/fused", "fuse/learning_rate"} <= set(logged[0][1])


@pytest.mark.parametrize("cross_attention", [True, False])
def test_training_in_half_precision(towers, shop, tmp_path, monkeypatch, cross_attention):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    arguments = recipe(towers, shop, tmp_path / "run", epochs=12, text="full", gradient_cache=True)
    arguments.model.config["cross_attention"] = cross_attention
    try:
        folder = train.main(arguments)
    finally:
        AcceleratorState._reset_state(True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[1]["loss"]
    assert load_model(folder)[0].dtype == torch.float32, "only the arithmetic is in half precision"


def unjudged_shop(folder, gone):
    """The tiny shop without any judgment of the products of some rows."""
    corpus, queries, qrels = shop_rows()
    names = {corpus[row]["_id"] for row in gone}
    return write_shop(folder, corpus, queries, [found for found in qrels if found["corpus-id"] not in names])


@pytest.mark.parametrize("gone", [[11], [0], [8, 9, 10, 11], list(range(1, 12))])
def test_products_that_nobody_judged_are_trained_and_calibrated_with(towers, tmp_path, gone):
    shop = unjudged_shop(tmp_path / "shop", gone)
    stage = {"epochs": 1, "negatives_per_query": 2, "logq": True, "title_image_weight": 0.1}
    load_model(train.main(recipe(towers, f"{shop},{shop}", tmp_path / "run", **stage)))


@pytest.mark.slow
@pytest.mark.parametrize("text, fault", [("frozen", "calibrate_stage"), ("lora", "draw_training")])
def test_a_fault_behind_the_last_epoch_costs_no_training(towers, shop, tmp_path, monkeypatch, capfd, text, fault):
    def arguments(name):
        made = recipe(towers, shop, tmp_path / name, epochs=2, text=text, patience=1)
        made.lora = LoraArguments(rank=2, alpha=4)
        return made

    expected = load_model(train.main(arguments("whole")))[0].state_dict()
    right = getattr(stages, fault)
    monkeypatch.setattr(stages, fault, lambda *words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main(arguments("broken"))
    saved = load_model(tmp_path / "broken" / "model")[0].state_dict()
    fitted = {name for name, value in expected.items() if not torch.equal(value, saved[name])}
    assert all("router." in name or ".familiarity." in name for name in fitted) and len(fitted) > 4
    monkeypatch.setattr(stages, fault, right)
    monkeypatch.setattr(stage._Trainer, "_run_epoch", lambda trainer, number: 1 / 0)
    capfd.readouterr()
    found = load_model(train.main(arguments("broken")))[0].state_dict()
    assert "its epochs are done" in "".join(capfd.readouterr())
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not list((tmp_path / "broken").glob("*checkpoint*"))


def test_without_a_dev_split_all_epochs_are_trained_and_it_is_said(towers, tmp_path, monkeypatch, capfd):
    shop = write_shop(tmp_path / "shop", splits=("train", "test"))
    calibrated = []
    for name in ("calibrate_routers", "calibrate_query_router"):
        monkeypatch.setattr(stage, name, lambda *words: calibrated.append(words))
    folder = train.main(recipe(towers, shop, tmp_path / "run", epochs=4, patience=1))
    told = "".join(capfd.readouterr())
    assert told.count("training without a dev split: the last epoch is kept") == 1 and "Unknown split 'dev'" in told
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["dev"]) for line in lines] == [(number, {}) for number in range(5)]
    assert not calibrated and (tmp_path / "run" / "training.png").stat().st_size > 1000
    model = load_model(folder)[0]
    known = model.query_heads.familiarity.width.weight
    assert (known > 0).all(), "which texts are familiar is learned from the training's"


def test_a_dev_split_without_judged_queries_is_none(towers, tmp_path, capfd):
    shop = write_shop(tmp_path / "shop")
    corpus, queries, qrels = shop_rows()
    write_split(shop, "dev", corpus, [], [])
    train.main(recipe(towers, shop, tmp_path / "empty", epochs=1))
    write_split(shop, "dev", corpus, queries, [{**row, "score": 0} for row in qrels])
    train.main(recipe(towers, shop, tmp_path / "nothing_relevant", epochs=1))
    assert "".join(capfd.readouterr()).count("training without a dev split") == 2


@pytest.mark.parametrize("judged", [1, 2, 3])
def test_a_dev_split_of_few_queries_does_not_turn_the_router_upside_down(towers, tmp_path, judged):
    """They differ in fewer directions than are fitted to, and along the others there is nothing to learn."""
    shop = write_shop(tmp_path / "shop")
    corpus, queries, qrels = shop_rows()
    write_split(shop, "dev", corpus, queries[:judged], qrels[:judged])
    model, _ = load_model(train.main(recipe(towers, shop, tmp_path / "run", epochs=2)))
    assert all(parameter.abs().max() < 10 for parameter in model.query_heads.router.parameters())


def test_of_several_catalogues_those_with_a_dev_split_are_measured(towers, shop, tmp_path, capfd):
    other = write_shop(tmp_path / "other", splits=("train", "test"))
    train.main(recipe(towers, f"{other},{shop}", tmp_path / "run", epochs=1))
    told = "".join(capfd.readouterr())
    assert f"warning: nothing to choose the best epoch on: {other}" in told and "without a dev split" not in told
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["dev"]["fused"]["ndcg@10"] > 0 for line in lines)


def test_a_dev_split_that_was_named_must_be_there(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run")
    arguments.data.dev_split = "devel"
    with pytest.raises(DataError, match="Unknown split 'devel'"):
        train.main(arguments)
    arguments.data.train_split, arguments.data.dev_split = "nowhere", None
    with pytest.raises(DataError, match="Unknown split 'nowhere'"):
        train.main(arguments)
