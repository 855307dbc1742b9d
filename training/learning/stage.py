"""One stage of a training: which parameters learn from which batches, epoch by epoch, and what is kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.fingerprint import TOWERS
from training.catalogue.layout import RetrievalSplit
from training.common.distributed import Share
from training.common.stopping import leave_to_parent
from training.evaluation.measuring import evaluate
from training.features.encoder import Encoder, TowerStates
from training.learning.adapters import add_lora
from training.learning.calibration import (
    calibrate_query_router,
    calibrate_routers,
    forget_familiar_texts,
    learn_familiar_texts,
    loosen_familiar_texts,
    sample_rows,
)
from training.learning.checkpoints import Checkpoints, copy_of, write_into
from training.learning.gradient_cache import forward_backward
from training.learning.losses import alignment_loss, view_weights
from training.learning.options import LoraArguments, StageArguments
from training.learning.sampling import Judgments, PairBatch, PairSampler, epoch_batches
from training.learning.training_set import (
    BatchInputs,
    TrainingSet,
    measured_states,
    positives_of,
    to_device,
    trained_encoders,
)

SELECTION_METRIC = "ndcg@10"
SELECTION_NOISE = 0.01  # of a small dev split; among epochs as good as the best the last one learned most
AVERAGE_WARMUP = 10
ROUTER_SHARE = 0.1  # of the learning rate
NEVER_TRAINED = (".familiarity.", "alignment.")


@dataclass
class StageData:
    """What a stage learns from.

    Attributes:
        sets (`list[TrainingSet]`): catalogues to train on, one a batch.
        train (`list[RetrievalSplit]`): their training splits.
        dev (`list[RetrievalSplit]`): the splits that are measured before training and after each epoch; may be none.
    """

    sets: list[TrainingSet]
    train: list[RetrievalSplit]
    dev: list[RetrievalSplit]


@dataclass
class StageRun:
    """How a stage runs.

    Attributes:
        name (`str`): `domain`, `align` or `fuse`.
        seed (`int`): seed of the batches.
        workers (`int`): processes that prepare batches ahead.
        checkpoints (`Checkpoints` or `None`): where to save the state now and then.
    """

    name: str
    seed: int = 0
    workers: int = 0
    checkpoints: Checkpoints | None = None


def train_stage(
    accelerator: Accelerator,
    encoder: Encoder,
    stage: StageArguments,
    lora: LoraArguments,
    data: StageData,
    run: StageRun,
):
    """Trains a stage's epochs, and leaves a good one's weights in the model; [`calibrate_stage`] does the rest.

    That is the last epoch whose nDCG@10 on the dev splits is within 0.01 of the best one's before it; without dev
    splits it is the last one.

    Args:
        accelerator (`Accelerator`): device, precision and processes.
        encoder (`Encoder`): model and processor; trained in place.
        stage (`StageArguments`): what is trained, losses and schedule.
        lora (`LoraArguments`): for stages that train encoders through adapters.
        data (`StageData`): what it learns from.
        run (`StageRun`): how it runs.

    Returns:
        A line an epoch (loss, learning rate, inverse temperature, pairs a second, dev metrics), and the PEFT model
        around `model` if the stage trains adapters, else `None`.
    """
    forget_familiar_texts(encoder.model)
    encoders = {name for name in ("text", "vision") if getattr(stage, name) == "lora"}
    peft_model = add_lora(encoder.model, lora, encoders) if encoders else None
    trained = choose_trained(encoder.model, stage)
    samplers = [
        PairSampler(
            some.judgments,
            stage.positives_per_query,
            stage.batch_size,
            run.seed,
            stage.negatives_per_query,
            stage.topical_share,
        )
        for some in data.sets
    ]
    steps = stage.epochs * len(epoch_batches(samplers, 0, run.seed))
    optimizer = torch.optim.AdamW(parameter_groups(trained, stage))
    wrapped, optimizer = accelerator.prepare(peft_model or encoder.model, optimizer)
    # not prepared: accelerate would take a step for each process, and one step here is one batch over all processes
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(stage.warmup * steps), steps)
    trainer = _Trainer(
        accelerator,
        encoder.model,
        wrapped,
        encoder.processor,
        stage,
        data,
        run,
        samplers,
        trained,
        optimizer,
        scheduler,
    )
    lines = trainer.run_epochs()
    encoder.model.eval()
    accelerator.free_memory()
    return lines, peft_model


def calibrate_stage(encoder: Encoder, stage: StageArguments, data: StageData, seed: int) -> None:
    """Fits what a stage's epochs don't: which texts are familiar and, of fused products, how far blocks are trusted.

    Args:
        encoder (`Encoder`): model and processor; the trained model, in eval mode; changed in place.
        stage (`StageArguments`): the stage.
        data (`StageData`): what it learned from; without dev splits the blocks' weights stay as they are.
        seed (`int`): seed of batches and samples.
    """
    found = []
    if stage.fused_weight > 0 and data.dev:
        states = [measured_states(encoder, split, trained_encoders(stage)) for split in data.dev]
        found = [(Judgments(positives_of(split)), q, p) for split, (p, q) in zip(data.dev, states, strict=True)]
        calibrate_routers(encoder.model, found, stage, seed)
    texts = learn_from_texts(encoder, data.train, stage, seed)
    if found:
        loosen_familiar_texts(encoder.model, *texts, lambda: dev_values(encoder.model, data.dev, states))
        calibrate_query_router(encoder.model, found, seed)


def choose_trained(model: MMFusionModel, stage: StageArguments) -> dict[str, torch.nn.Parameter]:
    """Turns gradients on for what a stage trains and off for the rest; returns the parameters that are trained.

    Heads are trained (in a model with adapters, their copies), encoders and adapters as the stage says, and what
    tells familiar texts is not.
    """
    ways = {"text_model.": stage.text, "query_model.": stage.text, "vision_model.": stage.vision}
    for name, parameter in model.named_parameters():
        way = next((way for prefix, way in ways.items() if name.startswith(prefix)), "heads")
        is_adapter = ".lora_" in name
        trained = {"frozen": False, "lora": is_adapter, "full": not is_adapter, "heads": True}[way]
        frozen_copy = ".original_module." in name or any(part in name for part in NEVER_TRAINED)
        parameter.requires_grad_(trained and not frozen_copy)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_train_mode(model: MMFusionModel, stage: StageArguments) -> None:
    """Train mode for all but frozen encoders and batch norms, whose statistics are those of the pretraining."""
    model.train()
    if stage.text == "frozen":
        model.text_model.eval()
        if model.config.query_config is not None:
            model.query_model.eval()
    for module in model.vision_model.modules():
        if stage.vision == "frozen" or isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def parameter_groups(parameters: dict[str, torch.nn.Parameter], stage: StageArguments) -> list[dict]:
    """Groups for AdamW: encoders and routers have learning rates of their own; biases, norms and the temperature don't
    decay.

    A router that learns as fast as the heads turns the image and cross blocks down in the first steps, when they are
    noise yet, and so they never learn.
    """
    rates = {"tower": stage.tower_learning_rate, "router": ROUTER_SHARE * stage.learning_rate}
    rates["head"] = stage.learning_rate
    groups = {}
    for name, parameter in parameters.items():
        kind = "tower" if name.startswith(TOWERS) else "router" if ".router." in name else "head"
        groups.setdefault((kind, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": found, "lr": rates[kind], "weight_decay": stage.weight_decay if decays else 0.0}
        for (kind, decays), found in groups.items()
    ]


def dev_values(model: MMFusionModel, splits: list[RetrievalSplit], states: list[tuple]) -> np.ndarray:
    """nDCG@10 of fused products for each query of the dev splits, one after the other."""
    pairs = zip(splits, states, strict=True)
    found = [evaluate(model, split, *pair, ("fused",), (SELECTION_METRIC,)) for split, pair in pairs]
    return np.concatenate([values["fused"][SELECTION_METRIC] for values in found])


def learn_from_texts(
    encoder: Encoder, splits: list[RetrievalSplit], stage: StageArguments, seed: int
) -> tuple[list[TowerStates], list[TowerStates]]:
    """Shows the model which texts it was trained on; of a text encoder that was trained, a sample of them.

    Returns:
        What the encoder says of each split's queries and of its products.
    """
    keep, queries, products = stage.text == "frozen", [], []
    for split in splits:
        texts = split.query_texts, encoder.product_texts(split)
        if not keep:
            texts = [[some[row] for row in sample_rows(len(some), seed)] for some in texts]
        queries.append(encoder.query_states(texts[0], cache=keep))
        products.append(encoder.text_states(texts[1], cache=keep))
    learn_familiar_texts(encoder.model, queries, products)
    return queries, products


@dataclass
class _Trainer:
    """The loop over epochs and steps, and all that it carries along."""

    accelerator: Accelerator
    model: MMFusionModel
    wrapped: torch.nn.Module
    processor: MMFusionProcessor
    stage: StageArguments
    data: StageData
    run: StageRun
    samplers: list[PairSampler]
    trained: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def run_epochs(self) -> list[dict]:
        """All epochs that are left, from the last checkpoint if there is one."""
        self.seen_bad_rows = set()
        checkpoints, stage = self.run.checkpoints, self.stage
        self.progress = checkpoints.restore(self.run.name) if checkpoints else None
        if self.progress is None:
            first = {"stage": self.run.name, "epoch": 0, "dev": self._measure()}
            score = selection_score(first["dev"], stage)
            start = copy_of(self.trained)
            self.progress = {"epoch": 1, "step": 0, "losses": [], "pairs": 0, "seconds": 0.0, "lines": [first]}
            self.progress |= {"best": score, "best_epoch": 0, "steps": 0, "start": start, "best_state": start}
            self.progress |= {"average": copy_of(self.trained) if stage.ema else {}}
        else:
            self.scheduler.load_state_dict(self.progress["scheduler"])
            self._to_device()
            if self.progress["epoch"] <= stage.epochs:
                place = f"going on in epoch {self.progress['epoch']}, step {self.progress['step']}"
            else:
                place = "its epochs are done, going on behind them"
            self._tell(f"{self.run.name}: {place}")
        with checkpoints.stop.waiting() if checkpoints else nullcontext():
            while self.progress["epoch"] <= stage.epochs:
                with _one_line_for_dead_workers():
                    self._run_epoch(self.progress["epoch"])
                self._begin_next_epoch()
        start, kept = self.progress["start"], self.progress["best_state"]
        write_into(self.trained, {n: torch.lerp(start[n], kept[n], stage.trained_share) for n in self.trained})
        return self.progress["lines"]

    def _begin_next_epoch(self) -> None:
        """Counts on, beyond the last epoch if the stage ends, and saves what is worth it."""
        checkpoints = self.run.checkpoints
        if self._has_patience():
            self.progress["epoch"] += 1
        else:
            self._tell(f"{self.run.name}: no better epoch for {self.stage.patience}, stopped early")
            self.progress["epoch"] = self.stage.epochs + 1
        is_last = self.progress["epoch"] > self.stage.epochs  # no fault behind it costs the training
        if checkpoints and (is_last or checkpoints.end_is_asked()):
            self._save()
            checkpoints.end_if_asked()

    def _has_patience(self) -> bool:
        waited = self.progress["epoch"] - self.progress["best_epoch"]
        return not self.stage.patience or not self.data.dev or waited < self.stage.patience

    def _run_epoch(self, number: int) -> None:
        progress = self.progress
        share = Share(self.accelerator.process_index, self.accelerator.num_processes)
        batches = epoch_batches(self.samplers, number, self.run.seed)
        inputs = BatchInputs(self.data.sets, self.samplers, batches, self.processor, self.stage, share)
        left = Subset(inputs, range(progress["step"], len(batches)))
        # a generator of its own: else making the loader would draw from the random numbers that a resumed run restores
        own = {"generator": torch.Generator(), "worker_init_fn": leave_to_parent}
        loader = DataLoader(left, None, num_workers=self.run.workers, **own)
        set_train_mode(self.model, self.stage)
        started = time.perf_counter() - progress["seconds"]
        with tqdm(
            total=len(batches),
            initial=progress["step"],
            desc=f"{self.run.name} {number}/{self.stage.epochs}",
            unit="batch",
            disable=not self.accelerator.is_main_process,
            leave=False,
        ) as bar:
            for source, batch, chunks in loader:
                loss = self._step(batch, chunks).item()
                if not np.isfinite(loss):
                    raise DataError(
                        f"{self.run.name}: the loss of epoch {number}, step {progress['step'] + 1} is not a number; "
                        f"lower --{self.run.name}.learning_rate and --{self.run.name}.tower_learning_rate"
                    )
                self._report_bad_rows(source, chunks)
                progress["losses"].append(loss)
                progress["pairs"] += batch.pairs
                progress["step"] += 1
                progress["seconds"] = time.perf_counter() - started
                rate, speed = self.scheduler.get_last_lr()[0], progress["pairs"] / progress["seconds"]
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.1e}", pairs_per_second=f"{speed:,.0f}", refresh=False)
                bar.update()
                if self.run.checkpoints and self.run.checkpoints.is_due():
                    self._save()
                    self.run.checkpoints.end_if_asked()
        self._end_epoch(number)

    def _step(self, batch: PairBatch, chunks) -> torch.Tensor:
        share = Share(self.accelerator.process_index, self.accelerator.num_processes)
        for chunk in chunks:
            chunk.inputs = to_device(chunk.inputs, self.accelerator.device)

        def loss_of(vectors: dict[str, torch.Tensor]) -> torch.Tensor:
            return alignment_loss(vectors, batch, self.stage, self.model.config, share)

        counts = len(batch.queries), len(batch.products)
        loss = forward_backward(
            self.accelerator, self.wrapped, chunks, counts, loss_of, replay=self.stage.gradient_cache
        )
        self.accelerator.clip_grad_norm_(self.trained.values(), self.stage.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self._average()
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the average of the weights, quickly at first, so that it forgets where they began."""
        self.progress["steps"] += 1
        if self.stage.ema:
            steps = self.progress["steps"]
            decay = min(self.stage.ema, (1 + steps) / (AVERAGE_WARMUP + steps))
            for name, parameter in self.trained.items():
                self.progress["average"][name].lerp_(parameter, 1 - decay)

    def _end_epoch(self, number: int) -> None:
        progress, stage = self.progress, self.stage
        now = copy_of(self.trained)
        if stage.ema:
            write_into(self.trained, progress["average"])
        line = {"stage": self.run.name, "epoch": number, "loss": float(np.mean(progress["losses"]))}
        line |= {"learning_rate": self.scheduler.get_last_lr()[0], "scale": self.model.logit_scale()[0].item()}
        line |= {"pairs_per_second": progress["pairs"] / max(progress["seconds"], 1e-9), "dev": self._measure()}
        progress["lines"].append(line)
        score = selection_score(line["dev"], stage)
        if score > progress["best"]:
            progress["best_epoch"] = number
        if score > progress["best"] - SELECTION_NOISE:
            progress["best"], progress["best_state"] = max(progress["best"], score), copy_of(self.trained)
        if stage.ema:
            write_into(self.trained, now)
        progress |= {"step": 0, "losses": [], "pairs": 0, "seconds": 0.0}
        dev = ", ".join(f"{view} {metrics[SELECTION_METRIC]:.3f}" for view, metrics in line["dev"].items())
        dev = f", dev {SELECTION_METRIC}: {dev}" if dev else ""
        self._tell(f"{self.run.name} epoch {number}: loss {line['loss']:.3f}{dev}")
        logged = {f"{self.run.name}/dev/{view}": found[SELECTION_METRIC] for view, found in line["dev"].items()}
        logged |= {f"{self.run.name}/{name}": line[name] for name in ("loss", "learning_rate", "scale")}
        self.accelerator.log(logged, step=number)

    def _measure(self) -> dict:
        """Metrics of each view, averaged over queries and then over catalogues; nothing without dev splits."""
        self.model.eval()
        if not self.data.dev:
            return {}
        found = []
        for split in self.data.dev:
            states = measured_states(Encoder(self.model, self.processor), split, trained_encoders(self.stage))
            found.append(evaluate(self.model, split, *states))
        return {
            view: {name: float(np.mean([part[view][name].mean() for part in found])) for name in metrics}
            for view, metrics in found[0].items()
        }

    def _save(self) -> None:
        self.progress["scheduler"] = self.scheduler.state_dict()
        self.run.checkpoints.save(self.run.name, self.progress)

    def _to_device(self) -> None:
        for name in ("start", "best_state", "average"):
            self.progress[name] = to_device(self.progress[name], self.accelerator.device)

    def _report_bad_rows(self, source: int, chunks) -> None:
        for row, reason in (bad for chunk in chunks for bad in chunk.bad_rows):
            if (source, row) not in self.seen_bad_rows:
                self.seen_bad_rows.add((source, row))
                self.data.sets[source].add_problem("unreadable image (trained without it)", row, reason)

    def _tell(self, text: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(text)


def selection_score(dev: dict, stage: StageArguments) -> float:
    """The number that an epoch is judged by: nDCG@10 of fused products, or the mean of the views that are trained; 0
    for all epochs where nothing is measured, so that the last one is kept."""
    if not dev:
        return 0.0
    views = ["fused"] if stage.fused_weight > 0 else list(view_weights(stage)) or ["image"]
    return float(np.mean([dev[view][SELECTION_METRIC] for view in views]))


@contextmanager
def _one_line_for_dead_workers() -> Iterator[None]:
    """Turns the error that torch raises, wherever the program is, when a process of its loader died, or that of the
    broken connection where this is noticed first."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that reads pictures died ({one_line(error)}); run the same command "
            "again to go on from the last checkpoint, with fewer --workers if memory is short"
        ) from error
