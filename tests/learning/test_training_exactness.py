"""Gradients and weights that must be the same however a training is cut up: chunks, processes, interruptions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import IMPORTED, Killed, make_model, recipe
from peft import PeftModel
from PIL import Image

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.fingerprint import TOWERS
from modeling_mmfusion.model_folder import load_model
from training import train
from training.catalogue.layout import load_split
from training.common.distributed import Share
from training.features.encoder import Encoder
from training.learning import stage, stages, starting
from training.learning.checkpoints import Checkpoints
from training.learning.gradient_cache import forward_backward
from training.learning.losses import alignment_loss
from training.learning.options import ModelArguments, StageArguments
from training.learning.sampling import Judgments, PairSampler
from training.learning.stage import choose_trained
from training.learning.training_set import BatchInputs, TrainingSet, query_set

pytestmark = pytest.mark.usefixtures("short_endings")


def gradients(model, processor, shop, options: StageArguments, seed=5, accelerator=None):
    """Loss and gradients of one batch of all pairs of the tiny shop, by name."""
    accelerator = accelerator or Accelerator()
    split = load_split(shop, "train")
    choose_trained(model, options)
    data = query_set(Encoder(model, processor), split, options)
    sampler = PairSampler(data.judgments, 1, 12, seed=0)
    share = Share(accelerator.process_index, accelerator.num_processes)
    pairs = [(number, number) for number in range(11)]  # not a multiple of anything
    _, batch, chunks = BatchInputs([data], [sampler], [(0, pairs)], processor, options, share)[0]
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    wrapped = accelerator.prepare(model)
    loss = forward_backward(
        accelerator,
        wrapped,
        chunks,
        (len(batch.queries), len(batch.products)),
        lambda vectors: alignment_loss(vectors, batch, options, model.config, share),
        replay=options.gradient_cache,
    )
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    accelerator.free_memory()
    return loss.item(), found


def same(first: dict, second: dict, **tolerance):
    assert first.keys() == second.keys() and len(first) > 20
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def without_dropout(towers) -> MMFusionModel:
    model = make_model(towers, fusion_dropout=0.0, modality_dropout=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
@pytest.mark.parametrize("encoders", [{}, {"text": "full"}, {"text": "full", "vision": "full"}])
def test_chunks_and_replay_change_no_gradient(towers, processor, shop, encoders, loss):
    options = {"loss": loss, "score_margin": 0.05, **encoders}
    whole = gradients(without_dropout(towers), processor, shop, StageArguments(**options, chunk_size=99))
    for replay in (False, True):
        cut = StageArguments(**options, chunk_size=4, gradient_cache=replay)
        found = gradients(without_dropout(towers), processor, shop, cut)
        assert found[0] == pytest.approx(whole[0], rel=1e-5)
        same(whole[1], found[1], rtol=1e-3, atol=1e-6)
    trained = {name.partition(".")[0] for name in whole[1]}
    assert ("text_model" in trained, "vision_model" in trained) == ("text" in encoders, "vision" in encoders)


@pytest.mark.slow
def test_a_replay_draws_the_same_random_numbers(towers, processor, shop):
    model = make_model(towers)  # with dropout and modality dropout
    options = {"text": "full", "chunk_size": 4}
    kept = gradients(model, processor, shop, StageArguments(**options))
    replayed = gradients(model, processor, shop, StageArguments(**options, gradient_cache=True))
    other = gradients(model, processor, shop, StageArguments(**options, gradient_cache=True), seed=6)
    same(kept[1], replayed[1], rtol=1e-4, atol=1e-6)
    name = "product_heads.image_head.fc1.weight"
    assert not torch.allclose(kept[1][name], other[1][name])


def two_processes(towers, shop, folder: str) -> None:
    """Runs in each of two processes: the gradients of one batch, as DDP gives them, and a short training."""
    torch.set_num_threads(1)
    accelerator = stages.start_accelerator(recipe(towers, shop, folder))
    processor = MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"])
    for number, options in enumerate(PARALLEL_STAGES):
        model = without_dropout(towers)
        found = gradients(model, processor, shop, StageArguments(**options), accelerator=accelerator)
        if accelerator.is_main_process:
            torch.save(found, Path(folder, f"{number}.pt"))
    rank = accelerator.process_index
    data = TrainingSet(None, None, Judgments([], query_features=np.full((2, 3), rank, np.float32)), [])
    stages.share_topics(accelerator, [data])
    assert not data.judgments.query_features.any(), "the second process has features of its own"
    arguments = recipe(towers, shop, folder + "/run", fuse={"epochs": 2, "text": "lora"})
    train.main(arguments)


PARALLEL_STAGES = (
    {},
    {"text": "full", "chunk_size": 2},
    {"text": "full", "chunk_size": 2, "gradient_cache": True, "score_margin": 0.05},
    {"loss": "sigmoid", "logq": True},
)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(towers, processor, shop, tmp_path):
    # not forked: a process whose autograd has run can't be
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    variables = {
        **os.environ,
        "PYTHONPATH": IMPORTED,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    words += [str(towers["text"]), str(towers["vision"]), str(shop), str(tmp_path)]
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for number, options in enumerate(PARALLEL_STAGES):
        found = torch.load(tmp_path / f"{number}.pt")
        whole = gradients(without_dropout(towers), processor, shop, StageArguments(**options))
        assert found[0] == pytest.approx(whole[0], rel=1e-5), "the loss"
        same(whole[1], found[1], rtol=1e-3, atol=1e-6)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    load_model(tmp_path / "run" / "model")


STAGES = {
    "domain": {"epochs": 1, "text": "lora"},
    "align": {"epochs": 2, "vision": "full", "ema": 0.5},
    "fuse": {"epochs": 2, "text": "lora", "negatives_per_query": 2, "gradient_cache": True},
}


@pytest.mark.slow
def test_an_interrupted_training_ends_bitwise_like_one_that_was_not(towers, shop, tmp_path, monkeypatch):
    def stages():
        return {name: {**options, "fused_weight": float(name == "fuse")} for name, options in STAGES.items()}

    expected = load_model(train.main(recipe(towers, shop, tmp_path / "whole", **stages())))[0].state_dict()
    arguments = recipe(towers, shop, tmp_path / "broken", **stages())
    arguments.checkpoint_minutes = 0
    save, saves = Checkpoints.save, []

    def save_and_die(checkpoints, *words):
        save(checkpoints, *words)
        saves.append(words)
        if len(saves) in (1, 4, 7):
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    for _ in range(3):
        with pytest.raises(Killed):
            train.main(arguments)
        assert not (tmp_path / "broken" / "model").exists()
    found = load_model(train.main(arguments))[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "broken")]
    for whole, broken in zip(*(map(json.loads, some) for some in lines), strict=True):
        assert {**whole, "pairs_per_second": 0} == {**broken, "pairs_per_second": 0}
    assert not list((tmp_path / "broken").glob("*checkpoint*"))


def test_a_checkpoint_that_is_half_written_or_of_another_recipe_is_not_used(
    towers, shop, tmp_path, monkeypatch, capfd
):
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 2})
    arguments.checkpoint_minutes = 0
    save_state, saves = Accelerator.save_state, []

    def die_while_saving(accelerator, folder):
        saves.append(folder)
        save_state(accelerator, folder)
        if len(saves) == 3:
            for file in Path(folder).iterdir():
                file.write_bytes(file.read_bytes()[:100])
            raise Killed

    monkeypatch.setattr(Accelerator, "save_state", die_while_saving)
    with pytest.raises(Killed):
        train.main(arguments)
    names = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*"))
    assert names == [".checkpoint.partial", "checkpoint-2"]
    arguments.fuse.learning_rate = 2e-3
    train.main(arguments)
    assert "going on" not in "".join(capfd.readouterr())
    assert not list((tmp_path / "run").glob("*checkpoint*"))


@pytest.mark.slow
def test_stages_chain_in_one_command_or_one_by_one(towers, shop, tmp_path):
    stages = {"align": {"epochs": 1, "fused_weight": 0.0, "text": "full"}, "fuse": {"epochs": 1}}
    together = load_model(train.main(recipe(towers, shop, tmp_path / "run", **stages)))[0].state_dict()
    train.main(recipe(towers, shop, tmp_path / "first", align=stages["align"]))
    second = recipe(towers, shop, tmp_path / "second", fuse=stages["fuse"])
    second.model = ModelArguments(start=str(tmp_path / "run" / "align"))
    apart = load_model(train.main(second))[0].state_dict()
    first = load_model(tmp_path / "first" / "model")[0].state_dict()
    aligned = load_model(tmp_path / "run" / "align")[0].state_dict()
    assert all(torch.equal(value, first[name]) for name, value in aligned.items())
    for name, value in together.items():
        assert value.shape == apart[name].shape
        if name.startswith(TOWERS):
            assert torch.equal(value, apart[name]), "frozen in the second stage"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, vision", [("frozen", "full"), ("full", "frozen"), ("lora", "frozen"), ("lora", "lora")]
)
def test_only_what_a_stage_trains_changes(towers, shop, tmp_path, monkeypatch, text, vision):
    monkeypatch.setattr(stage, "SELECTION_NOISE", 1.0)  # keep the last epoch
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 1, "text": text, "vision": vision})
    started = starting.new_model(arguments.model)[0].state_dict()
    found = load_model(train.main(arguments))[0].state_dict()
    for prefix, way in (("text_model.", text), ("vision_model.", vision), ("product_heads.cross_head.", "full")):
        names = [name for name in started if name.startswith(prefix) and "position_ids" not in name]
        changed = [name for name in names if not torch.equal(started[name], found[name])]
        assert bool(changed) == (way != "frozen"), (prefix, way)
        if way == "lora":
            assert all(name.endswith("weight") and "norm" not in name.lower() for name in changed)


@pytest.mark.slow
def test_an_adapter_holds_encoders_and_heads_and_equals_its_merge(towers, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "SELECTION_NOISE", 1.0)  # keep the last epoch
    base = train.main(recipe(towers, shop, tmp_path / "base", fuse={"epochs": 1}))
    texts, merged_vectors = ["red mug", "blue lamp"], {}
    for name, seed in (("one", 1), ("two", 2)):
        arguments = recipe(towers, shop, tmp_path / name, fuse={"epochs": 2, "text": "lora", "vision": "lora"})
        arguments.model, arguments.seed = ModelArguments(start=str(base)), seed
        model, processor = load_model(train.main(arguments))
        merged_vectors[name] = vectors(model, processor, texts)
        size = sum(file.stat().st_size for file in (tmp_path / name / "adapter").glob("*.safetensors"))
        assert size < sum(file.stat().st_size for file in (tmp_path / name / "model").glob("*.safetensors"))
    assert not torch.allclose(merged_vectors["one"], merged_vectors["two"], atol=1e-3)
    adapted = PeftModel.from_pretrained(load_model(base)[0], tmp_path / "one" / "adapter", adapter_name="one").eval()
    adapted.load_adapter(tmp_path / "two" / "adapter", adapter_name="two")
    for name in ("two", "one", "two"):  # shops' adapters are swapped on one base
        adapted.set_adapter(name)
        found = vectors(adapted.base_model.model, processor, texts)
        torch.testing.assert_close(found, merged_vectors[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def vectors(model, processor, texts) -> torch.Tensor:
    queries = model.get_query_features(**processor.process_queries(texts)).pooler_output
    products = [{"title": "plain mug"}, {"title": "red lamp", "image": torch_picture()}]
    found = model.get_product_features(**processor.process_products(products)).pooler_output
    return torch.cat([queries, found])


def torch_picture():
    return Image.fromarray(np.arange(3 * 40 * 40, dtype=np.uint8).reshape(40, 40, 3))


if __name__ == "__main__":
    two_processes({"text": Path(sys.argv[1]), "vision": Path(sys.argv[2])}, Path(sys.argv[3]), sys.argv[4])
