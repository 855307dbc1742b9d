"""Trains a model on a catalogue's queries and judgments.

    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml
    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml --data.path data/myshop \\
        --output runs/myshop --fuse.epochs 30

Options on the command line override the recipe. The towers are frozen: they run once over the catalogue, what they
say is cached, and the fusion network trains on that. The run folder gets model/, config.yaml, environment.json and
metrics.jsonl.
"""

import json
import sys
import time
from dataclasses import fields
from pathlib import Path

if not __package__:  # run by its path, as `accelerate launch` does: this folder would hide the `evaluate` library
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionProcessor
from training.arguments import ModelArguments, StageArguments, TrainArguments, run
from training.data import DataError, RetrievalSplit, load_split
from training.embedding import TOWERS, ProductFeatures, prepare_for_inference, product_features, query_features
from training.evaluate import evaluate
from training.losses import contrastive_loss
from training.run_folder import environment, new_folder, write_config, write_json, write_text
from training.sampling import Batch, PairSampler
from training.towers import resolve_tower

SELECTION_METRIC = "ndcg@10"


def main(arguments: TrainArguments) -> Path:
    """Trains, and returns the folder of the model."""
    set_seed(arguments.seed)
    accelerator = Accelerator()
    output = Path(arguments.output)
    if accelerator.is_main_process:
        write_config(output / "config.yaml", arguments)
        write_json(output / "environment.json", environment())
    with accelerator.main_process_first():  # the first call may convert a tower into the cache
        model, processor = build_model(arguments.model)
    prepare_for_inference(model, str(accelerator.device))
    splits, features = {}, {}
    for name in (arguments.data.train_split, arguments.data.dev_split):
        with accelerator.main_process_first():
            splits[name] = load_split(arguments.data.path, name)
            products = product_features(model, processor, splits[name])
            features[name] = products, query_features(model, processor, splits[name].query_texts)
    train_data = splits[arguments.data.train_split], *features[arguments.data.train_split]
    dev_data = splits[arguments.data.dev_split], *features[arguments.data.dev_split]
    metrics = train_stage(accelerator, model, arguments.fuse, train_data, dev_data, arguments.seed)
    if accelerator.is_main_process:
        write_text(output / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))
        save_model(model, processor, output / "model")
        for split in splits.values():
            split.problems.report()
        print(f"model: {output / 'model'}", flush=True)
    accelerator.end_training()
    return output / "model"


def build_model(arguments: ModelArguments) -> tuple[MMFusionModel, MMFusionProcessor]:
    """A model with pretrained towers and new heads, and its processor.

    Raises:
        DataError: if a tower can't be loaded or a field of `config` or `processor` is unknown or out of range.
    """
    if unknown := set(arguments.config) - {option.name for option in fields(MMFusionConfig)}:
        raise DataError(f"--model.config: MMFusionConfig has no field {', '.join(sorted(unknown))}")
    towers = {"text": resolve_tower(arguments.text), "vision": resolve_tower(arguments.vision)}
    towers["query"] = None if arguments.query is None else resolve_tower(arguments.query)
    try:
        model = MMFusionModel.from_towers(**towers, **arguments.config)
        processor = MMFusionProcessor.from_towers(**towers, **arguments.processor)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise DataError(f"can't build a model from {arguments}: {' '.join(str(error).split())[:300]}") from error
    return model, processor


def train_stage(
    accelerator: Accelerator,
    model: MMFusionModel,
    stage: StageArguments,
    train_data: tuple[RetrievalSplit, ProductFeatures, np.ndarray],
    dev_data: tuple[RetrievalSplit, ProductFeatures, np.ndarray],
    seed: int,
) -> list[dict]:
    """Trains the heads and the fusion network on cached features, and leaves the best epoch's weights in the model.

    Args:
        accelerator (`Accelerator`): device and processes.
        model (`MMFusionModel`): trained in place.
        stage (`StageArguments`): losses and schedule.
        train_data: split, product features and query features to train on.
        dev_data: the same to measure nDCG@10 of the fused view on, before training and after each epoch.
        seed (`int`): seed of the batches.

    Returns:
        `list[dict]`: a line an epoch: loss, learning rate, inverse temperature, pairs a second and dev metrics.
    """
    split, products, queries = train_data
    sampler = PairSampler(split, stage.positives_per_query, seed)
    # of all processes together: accelerate's scheduler takes a step for each process
    steps = stage.epochs * max(1, len(sampler.epoch(0)) // stage.batch_size)
    trained = freeze_towers(model)
    optimizer = torch.optim.AdamW(parameter_groups(trained, stage.weight_decay), lr=stage.learning_rate)
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(stage.warmup * steps), steps)
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    lines = [{"epoch": 0, "dev": measure(model, dev_data)}]
    best, best_state = lines[0]["dev"]["fused"][SELECTION_METRIC], copy_state(trained)
    for number in tqdm(range(1, stage.epochs + 1), desc="epochs", disable=not accelerator.is_main_process):
        started, losses = time.perf_counter(), []
        pairs = sampler.epoch(number)
        loader = DataLoader(
            pairs, stage.batch_size, collate_fn=sampler.collate, drop_last=len(pairs) > stage.batch_size
        )
        set_train_mode(model)
        for batch in accelerator.prepare_data_loader(loader, device_placement=False):
            loss = batch_loss(wrapped, batch, products, queries, stage, accelerator.device)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained.values(), stage.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        if not np.isfinite(losses).all():
            raise DataError(f"epoch {number}: the loss is not a number; lower --fuse.learning_rate")
        seconds = time.perf_counter() - started
        line = {"epoch": number, "loss": float(np.mean(losses)), "learning_rate": scheduler.get_last_lr()[0]}
        line |= {"scale": model.logit_scale().item(), "pairs_per_second": len(pairs) / seconds}
        line |= {"dev": measure(model, dev_data)}
        lines.append(line)
        if line["dev"]["fused"][SELECTION_METRIC] > best:
            best, best_state = line["dev"]["fused"][SELECTION_METRIC], copy_state(trained)
        if accelerator.is_main_process:
            report_epoch(line)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best_state[name])
    model.eval()
    return lines


def batch_loss(
    model: torch.nn.Module,
    batch: Batch,
    products: ProductFeatures,
    queries: np.ndarray,
    stage: StageArguments,
    device: torch.device,
) -> torch.Tensor:
    """The contrastive loss of fused products plus, at their weights, of products seen in one modality alone."""
    weights = {"fused": 1.0, "text": stage.text_view_weight, "image": stage.image_view_weight}
    views = tuple(view for view, weight in weights.items() if weight > 0)
    output = model(
        query_text_features=torch.from_numpy(queries[batch.queries]).to(device),
        views=views,
        **products.inputs(batch.products, device),
    )
    relevance = batch.relevance.to(device)
    return sum(weights[view] * contrastive_loss(output.logits_per_view[view], relevance) for view in views)


def freeze_towers(model: MMFusionModel) -> dict[str, torch.nn.Parameter]:
    """Turns gradients off in the encoders and returns the parameters that are trained, by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(TOWERS))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_train_mode(model: MMFusionModel) -> None:
    """Train mode for all but the frozen encoders, whose dropout and batch statistics stay off."""
    model.train()
    for name, module in model.named_children():
        if f"{name}." in TOWERS:
            module.eval()


def parameter_groups(parameters: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict]:
    """Two groups for AdamW: matrices decay; biases, norms and the temperature don't."""
    decayed = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def copy_state(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """A copy of the parameters' values."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def measure(model: MMFusionModel, data: tuple[RetrievalSplit, ProductFeatures, np.ndarray]) -> dict:
    """Mean metrics of each view."""
    model.eval()
    values = evaluate(model, *data)
    return {view: {name: float(found.mean()) for name, found in metrics.items()} for view, metrics in values.items()}


def report_epoch(line: dict) -> None:
    """Prints an epoch's loss and dev nDCG@10 above the progress bar."""
    dev = ", ".join(f"{view} {metrics[SELECTION_METRIC]:.3f}" for view, metrics in line["dev"].items())
    tqdm.write(f"epoch {line['epoch']}: loss {line['loss']:.3f}, dev {SELECTION_METRIC}: {dev}")


def save_model(model: MMFusionModel, processor: MMFusionProcessor, folder: Path) -> None:
    """Saves weights, configuration, processor and code as one folder, which appears whole or not at all."""
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


if __name__ == "__main__":
    run(main, TrainArguments, __doc__, recipe=True)
