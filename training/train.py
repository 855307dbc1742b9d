"""Trains a model on a catalogue's queries and judgments.

    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml
    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml --data.path data/myshop \\
        --output runs/myshop --fuse.epochs 30

Options on the command line override the recipe. The towers are frozen: they run once over the catalogue, what they
say is cached, and the fusion network trains on that. The run folder gets model/, config.yaml, environment.json and
metrics.jsonl.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

if not __package__:  # run by its path, as `accelerate launch` does: this folder would hide the `evaluate` library
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionProcessor
from modeling_mmfusion.fusion_mmfusion import truncate_vectors
from training.arguments import ModelArguments, StageArguments, TrainArguments, run
from training.data import DataError, Problems, RetrievalSplit, load_split
from training.embedding import TOWERS, TowerStates, prepare_for_inference, product_features, query_features
from training.evaluate import evaluate
from training.losses import contrastive_loss
from training.run_folder import environment, new_folder, write_config, write_json, write_text
from training.sampling import Batch, PairSampler, TrainingSet, positives_of
from training.towers import resolve_tower

SELECTION_METRIC = "ndcg@10"
SELECTION_NOISE = 0.01  # of a small dev split; among epochs as good as the best the last one learned most
CALIBRATION_STEPS, CALIBRATION_RATE = 60, 0.03
Measured = tuple[RetrievalSplit, TowerStates, TowerStates]  # a split, its products and its queries


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
    metrics, problems = fit(accelerator, model, processor, arguments, partial(load_data, model, processor))
    if accelerator.is_main_process:
        write_text(output / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))
        save_model(model, processor, output / "model")
        for found in problems:
            found.report()
        print(f"model: {output / 'model'}", flush=True)
    accelerator.end_training()
    return output / "model"


def fit(
    accelerator: Accelerator,
    model: MMFusionModel,
    processor: MMFusionProcessor,
    arguments: TrainArguments,
    load: Callable[[str, str], Measured],
) -> tuple[list[dict], list[Problems]]:
    """Loads the recipe's catalogues and trains the model on them, in place.

    Args:
        accelerator (`Accelerator`): device and processes.
        model (`MMFusionModel`): with new heads.
        processor (`MMFusionProcessor`): the model's.
        arguments (`TrainArguments`): the recipe.
        load (`Callable`): gives a catalogue's split by the catalogue's path and the split's name.

    Returns:
        A line an epoch, see [`train_stage`], and what was wrong with the data.
    """
    paths = [path.strip() for path in arguments.data.path.split(",")]
    with accelerator.main_process_first():  # the first process fills the cache of tower features
        train_data = [load(path, arguments.data.train_split) for path in paths]
        dev_data = [load(path, arguments.data.dev_split) for path in paths]
        sets = [TrainingSet(queries, products, positives_of(split)) for split, products, queries in train_data]
        start_text_head(model, sets)
    metrics = train_stage(accelerator, model, arguments.fuse, sets, dev_data, arguments.seed)
    dev_sets = [TrainingSet(queries, products, positives_of(split)) for split, products, queries in dev_data]
    calibrate_routers(model, dev_sets, arguments.fuse, arguments.seed)
    learn_familiar_texts(model, sets)
    return metrics, [split.problems for split, _, _ in train_data + dev_data]


def load_data(model: MMFusionModel, processor: MMFusionProcessor, path: str, name: str) -> Measured:
    """A split of a catalogue and what the towers say of its products and queries."""
    split = load_split(path, name)
    return split, product_features(model, processor, split), query_features(model, processor, split.query_texts)


def start_text_head(model: MMFusionModel, training_sets: list[TrainingSet]) -> None:
    """Turns the text block to the principal axes of the catalogues' texts, so that its first dimensions tell most.

    Where query and product have encoders, and so spaces, of their own they keep their axes.
    """
    if model.text_head is not None and model.query_text_head is None:
        states = [states for data in training_sets for states in (data.queries, data.products)]
        model.text_head.set_basis(joined_texts(states).to(model.device))


def calibrate_routers(model: MMFusionModel, dev_sets: list[TrainingSet], stage: StageArguments, seed: int) -> None:
    """Fits the routers' biases, two for each block, to the dev splits; nothing else changes.

    The heads know the training's products better than new ones, the image and cross heads most of all, so routers
    that were trained along with them trust these blocks too much.
    """
    if model.text_head is None:
        return
    biases = [model.query_heads.router.bias, model.product_heads.router.bias]
    optimizer = torch.optim.AdamW(biases, lr=CALIBRATION_RATE, weight_decay=0.0)
    samplers = [PairSampler(data.positives, stage.positives_per_query, stage.batch_size, seed) for data in dev_sets]
    batches = (batch for number in itertools.count() for batch in epoch_batches(samplers, number, seed))
    for source, batch in itertools.islice(batches, CALIBRATION_STEPS):
        batch, data = samplers[source].collate(batch), dev_sets[source]
        queries = data.queries.states(batch.queries, model.device)
        products = data.products.states(batch.products, model.device)
        logits = model(query_states=queries, product_states=products).logits_per_query
        gradients = torch.autograd.grad(contrastive_loss(logits, batch.relevance.to(model.device)), biases)
        for bias, gradient in zip(biases, gradients, strict=True):
            bias.grad = gradient
        optimizer.step()
    optimizer.zero_grad()


def learn_familiar_texts(model: MMFusionModel, training_sets: list[TrainingSet]) -> None:
    """Shows the trained model which texts it was trained on."""
    if model.text_head is None:
        return
    queries = joined_texts([data.queries for data in training_sets]).to(model.device)
    products = joined_texts([data.products for data in training_sets]).to(model.device)
    if model.query_text_head is None:
        queries = products = torch.cat([queries, products])
    model.query_heads.familiarity.fit(queries)
    if len(products):  # a catalogue may have pictures only
        model.product_heads.familiarity.fit(products)


def joined_texts(states: list[TowerStates]) -> torch.Tensor:
    """The unit features of all texts, `(texts, hidden_size)`."""
    found = [part.arrays["text_features"][part.arrays.get("text_mask", slice(None))] for part in states]
    return torch.from_numpy(np.concatenate(found))


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
    training_sets: list[TrainingSet],
    dev_data: list[Measured],
    seed: int,
) -> list[dict]:
    """Trains the heads and the fusion network on cached features, and leaves a good epoch's weights in the model.

    That is the last epoch whose nDCG@10 on the dev splits is within 0.01 of the best one's before it.

    Args:
        accelerator (`Accelerator`): device and processes.
        model (`MMFusionModel`): trained in place.
        stage (`StageArguments`): losses and schedule.
        training_sets (`list[TrainingSet]`): catalogues to train on, one a batch.
        dev_data (`list`): split, products and queries of each catalogue to measure nDCG@10 of the fused view on,
            before training and after each epoch.
        seed (`int`): seed of the batches.

    Returns:
        `list[dict]`: a line an epoch: loss, learning rate, inverse temperature, pairs a second and dev metrics.
    """
    samplers = [
        PairSampler(data.positives, stage.positives_per_query, stage.batch_size, seed) for data in training_sets
    ]
    # of all processes together: accelerate's scheduler takes a step for each process
    steps = stage.epochs * len(epoch_batches(samplers, 0, seed))
    trained = freeze_towers(model)
    start = copy_state(trained)
    optimizer = torch.optim.AdamW(parameter_groups(trained, stage.weight_decay), lr=stage.learning_rate)
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(stage.warmup * steps), steps)
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    lines = [{"epoch": 0, "dev": measure(model, dev_data)}]
    best, best_state = lines[0]["dev"]["fused"][SELECTION_METRIC], start
    for number in tqdm(range(1, stage.epochs + 1), desc="epochs", disable=not accelerator.is_main_process):
        started, losses, pairs = time.perf_counter(), [], 0
        set_train_mode(model)
        for source, batch in own_share(epoch_batches(samplers, number, seed), accelerator):
            pairs += len(batch) * accelerator.num_processes
            batch = samplers[source].collate(batch)
            loss = batch_loss(wrapped, batch, training_sets[source], stage, model.config, accelerator.device)
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
        line |= {"scale": model.logit_scale().item(), "pairs_per_second": pairs / seconds}
        line |= {"dev": measure(model, dev_data)}
        lines.append(line)
        score = line["dev"]["fused"][SELECTION_METRIC]
        if score > best - SELECTION_NOISE:
            best, best_state = max(best, score), copy_state(trained)
        if accelerator.is_main_process:
            report_epoch(line)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.lerp(start[name], best_state[name], stage.trained_share))
    model.eval()
    return lines


def epoch_batches(samplers: list[PairSampler], number: int, seed: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """An epoch's batches of all catalogues in random order: the number of the catalogue and its pairs."""
    batches = [(source, batch) for source, sampler in enumerate(samplers) for batch in sampler.epoch(number)]
    return [batches[position] for position in np.random.default_rng((seed, number)).permutation(len(batches))]


def own_share(batches: list, accelerator: Accelerator) -> list:
    """The batches of this process: as many in each process, so that none waits for the others for ever."""
    count = len(batches) // accelerator.num_processes * accelerator.num_processes or len(batches)
    return batches[accelerator.process_index % count : count : accelerator.num_processes]


def batch_loss(
    model: torch.nn.Module,
    batch: Batch,
    data: TrainingSet,
    stage: StageArguments,
    config: MMFusionConfig,
    device: torch.device,
) -> torch.Tensor:
    """The contrastive loss of fused products plus, at their weights, of single modalities and truncated vectors."""
    weights = {"fused": 1.0, "text": stage.text_view_weight, "image": stage.image_view_weight}
    views = tuple(view for view, weight in weights.items() if weight > 0)
    output = model(
        query_states=data.queries.states(batch.queries, device),
        product_states=data.products.states(batch.products, device),
        views=views,
    )
    relevance = batch.relevance.to(device)
    loss = sum(weights[view] * contrastive_loss(output.logits_per_view[view], relevance) for view in views)
    if stage.matryoshka_weight > 0:
        for dim in config.matryoshka_dims:
            queries = truncate_vectors(output.query_embeds, config, dim)
            logits = output.logit_scale * queries @ truncate_vectors(output.product_embeds, config, dim).T
            loss = loss + stage.matryoshka_weight * contrastive_loss(logits, relevance)
    return loss


def freeze_towers(model: MMFusionModel) -> dict[str, torch.nn.Parameter]:
    """Turns gradients off in the encoders and returns the parameters that are trained, by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(TOWERS) and ".familiarity." not in name)
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


def measure(model: MMFusionModel, data: list[Measured]) -> dict:
    """Metrics of each view, averaged over queries and then over catalogues."""
    model.eval()
    found = [evaluate(model, *part) for part in data]
    return {
        view: {name: float(np.mean([part[view][name].mean() for part in found])) for name in metrics}
        for view, metrics in found[0].items()
    }


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
