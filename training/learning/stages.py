"""A recipe's stages one after the other, each from what the one before left."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast, broadcast_object_list, set_seed

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import prepare_for_inference
from training.catalogue.layout import NothingToMeasure, RetrievalSplit, hide_modality, load_split
from training.common.distributed import PATIENCE
from training.common.environment import environment, write_config
from training.common.errors import Problems
from training.common.files import RUN, cannot_write, check_folder, claim_folder, new_folder, write_json, write_text
from training.common.random_state import random_state_kept
from training.common.stopping import Stop
from training.evaluation.rankers import listing_texts
from training.features.encoder import Encoder
from training.learning.adapters import merged, save_adapter
from training.learning.calibration import picture_sample, sample_rows, start_alignment, start_text_head
from training.learning.checkpoints import Checkpoints
from training.learning.losses import view_weights
from training.learning.options import DataArguments, StageArguments, TrainArguments
from training.learning.plot import draw_training
from training.learning.provenance import input_digests, recipe_facts
from training.learning.scores import read_scores
from training.learning.stage import StageData, StageRun, calibrate_stage, train_stage
from training.learning.starting import check_fields, start_model
from training.learning.training_set import TrainingSet, join_sets, query_set, title_set

STAGES = ("domain", "align", "fuse")
WRITER = "training.train"
SAMPLE_SEED = 0  # one sample of a catalogue's texts for all runs, so that they share a cache


def train(arguments: TrainArguments, stop: Stop) -> Path:
    arguments.output = arguments.output or default_output(arguments.data)
    accelerator = start_accelerator(arguments)
    check_batches(arguments, accelerator.num_processes)
    check_fields(arguments.model)
    inputs = broadcast_object_list([input_digests(arguments) if accelerator.is_main_process else None])[0]
    output = claim_run(accelerator, arguments)
    minutes = arguments.checkpoint_minutes
    checkpoints = Checkpoints(accelerator, output, recipe_facts(arguments), inputs, minutes, stop)
    checkpoints.begin()
    if accelerator.is_main_process:
        write_config(output / "config.yaml", arguments)
        write_json(output / "environment.json", environment())
    set_seed(arguments.seed)  # here, so that nothing before decides what the heads are drawn from
    with accelerator.main_process_first():  # the first call may convert a tower into the cache
        encoder = start_model(arguments.model, output, checkpoints.done)
    prepare_for_inference(encoder.model, str(accelerator.device))
    checkpoints.restore_random_state()
    _, lines, problems = fit(accelerator, encoder, arguments, checkpoints)
    if accelerator.is_main_process:
        for found in problems:
            found.report()
        print(f"model: {output / 'model'}", flush=True)
    checkpoints.clear()
    accelerator.end_training()
    return output / "model"


def default_output(data: DataArguments) -> str:
    """The run folder where none is given: `runs/` and the catalogues' names, so never that of another catalogue."""
    names = "-".join(Path(path).resolve().name for path in data.path)
    return f"runs/{names}"


def claim_run(accelerator: Accelerator, arguments: TrainArguments) -> Path:
    """Takes the run folder for this training, by the first process.

    Raises:
        DataError: if it, or a folder in it that is going to be written, holds what is not this training's.
    """
    if accelerator.is_main_process:
        output = claim_folder(arguments.output, RUN, ",".join(arguments.data.path))
        for name in (*STAGES, "base", "model", "adapter"):
            check_folder(output / name, WRITER)
    accelerator.wait_for_everyone()
    return Path(arguments.output)


def start_accelerator(arguments: TrainArguments) -> Accelerator:
    """Processes, precision and tracker; the precision is that of `accelerate launch`.

    Raises:
        DataError: if the tracker is not installed, or several processes were started that would each train alone.
    """
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a stage's losses may leave out a head
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # several processes don't hear of `use_cpu` from accelerate launch
        log_with=arguments.tracker,
        project_dir=arguments.output,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if accelerator.num_processes < (started := int(os.environ.get("WORLD_SIZE", 1))):
        raise DataError(f"{started} processes don't see each other: set ACCELERATE_USE_CPU=true to train on the CPU")
    if arguments.tracker and not accelerator.log_with:
        raise DataError(f"--tracker {arguments.tracker}: is not installed; pip install {arguments.tracker}")
    if arguments.tracker:
        flat = {key: str(value) for key, value in asdict(arguments).items()}
        accelerator.init_trackers("mmfusion", config=flat)
    return accelerator


def check_batches(arguments: TrainArguments, processes: int) -> None:
    """Refuses batches in which a process or a query has nothing to learn from.

    Raises:
        DataError: naming the option.
    """
    for name in STAGES:
        stage = getattr(arguments, name)
        if stage.epochs > 0 and stage.batch_size < max(2, processes):
            why = "a pair alone has no negatives" if stage.batch_size < 2 else f"there are {processes} processes"
            least = max(2, processes)
            raise DataError(f"--{name}.batch_size {stage.batch_size}: {why}; give at least {least}")


def fit(
    accelerator: Accelerator,
    encoder: Encoder,
    arguments: TrainArguments,
    checkpoints: Checkpoints | None = None,
    load: Callable[[str, str], RetrievalSplit] = load_split,
) -> tuple[Encoder, list[dict], list[Problems]]:
    """Runs the recipe's stages that are left.

    Args:
        accelerator (`Accelerator`): device and processes.
        encoder (`Encoder`): model and processor; with new heads, or that of the last stage that is done.
        arguments (`TrainArguments`): the recipe.
        checkpoints (`Checkpoints`, *optional*): the run folder's; without it nothing is written.
        load (`Callable`, *optional*, defaults to `load_split`): gives a catalogue's split by path and name.

    Returns:
        The trained model with its processor, a line an epoch of each stage (see [`train_stage`]), and what was wrong
        with the data.
    """
    output, data = Path(arguments.output), arguments.data
    with accelerator.main_process_first(), random_state_kept():
        train = [hide_modality(load(path, data.train_split), data.modality) for path in data.path]
        dev = [hide_modality(split, data.modality) for split in dev_splits(accelerator, data, load)]
    learn_words(encoder, train)
    stages = [name for name in STAGES if getattr(arguments, name).epochs > 0]
    done = checkpoints.done if checkpoints else []
    lines = list(checkpoints.lines) if checkpoints else []
    if not done and arguments.model.start is None:
        ways = {part: {getattr(getattr(arguments, name), part) for name in stages} for part in ("text", "vision")}
        sampled = {part for part, found in ways.items() if found - {"frozen"}}
        _start_heads(accelerator, encoder, train, sampled)
    for name in [name for name in stages if name not in done]:
        stage = getattr(arguments, name)
        base = _base(arguments, stages, name)
        if checkpoints and "lora" in (stage.text, stage.vision) and base == output / "base":
            save_model(accelerator, encoder, base)
        with accelerator.main_process_first():  # the first process fills the cache of features
            sets = stage_sets(encoder, stage, arguments, train)
        share_topics(accelerator, sets)
        stage_run = StageRun(name, arguments.seed, arguments.workers, checkpoints)
        stage_data = StageData(sets, train, dev)
        found, peft_model = train_stage(accelerator, encoder, stage, arguments.lora, stage_data, stage_run)
        lines += found
        result = output / ("model" if name == stages[-1] else name)
        if checkpoints:  # first of all the model, so that no fault behind the last epoch costs the training
            save_model(accelerator, Encoder(merged(encoder.model, peft_model), encoder.processor), result)
            if accelerator.is_main_process:
                write_text(output / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
                draw_training(lines, output / "training.png")
        calibrate_stage(encoder, stage, stage_data, arguments.seed)
        if checkpoints and peft_model is not None and accelerator.is_main_process:
            with new_folder(output / "adapter", WRITER) as folder:
                save_adapter(peft_model, folder, str(base))
        encoder = Encoder(merged(encoder.model, peft_model), encoder.processor)
        if checkpoints:
            save_model(accelerator, encoder, result)
            checkpoints.finish(name, result, lines)
    if not stages and checkpoints:
        save_model(accelerator, encoder, output / "model")
    return encoder, lines, [split.problems for split in train + dev]


def learn_words(encoder: Encoder, splits: list[RetrievalSplit]) -> None:
    """Tells the processor how the catalogues spell their words; see [`MMFusionProcessor.learn_words`]."""
    fields = encoder.processor.product_fields
    listings = (text for split in splits for text in listing_texts(split, fields))
    encoder.processor.learn_words(listings, (text for split in splits for text in split.query_texts))


def dev_splits(
    accelerator: Accelerator, data: DataArguments, load: Callable[[str, str], RetrievalSplit]
) -> list[RetrievalSplit]:
    """The catalogues' dev splits. Without one a catalogue is trained on all the same, and that is said.

    Raises:
        DataError: if a dev split was named (as another than `dev`) and can't be measured on.
    """
    found = []
    for path in data.path if data.dev_split else ():
        try:
            found.append(load(path, data.dev_split))
        except NothingToMeasure as error:
            if data.dev_split != DataArguments.dev_split:
                raise
            accelerator.print(f"warning: nothing to choose the best epoch on: {error}", flush=True)
    if not found:
        accelerator.print("training without a dev split: the last epoch is kept, nothing is calibrated", flush=True)
    return found


def stage_sets(
    encoder: Encoder,
    stage: StageArguments,
    arguments: TrainArguments,
    splits: list[RetrievalSplit],
) -> list[TrainingSet]:
    """What a stage's batches are drawn from: queries and, if the stage wants them, titles; a set a catalogue or, with
    `data.mixed`, one for all."""
    data, kinds = arguments.data, []
    if view_weights(stage):
        negatives, teacher = (read_scores(files, len(splits)) for files in (data.negatives, data.teacher))
        kinds.append(
            [query_set(encoder, split, stage, *some) for split, *some in zip(splits, negatives, teacher, strict=True)]
        )
    if stage.title_image_weight > 0:
        kinds.append([found for split in splits if (found := title_set(encoder, split, stage))])
    kinds = [[join_sets(sets)] if data.mixed and len(sets) > 1 else sets for sets in kinds]
    sets = [data for sets in kinds for data in sets]
    if not sets:
        raise DataError(
            f"{', '.join(data.path)}: a stage has nothing to learn from: all its losses have weight 0, or no product "
            "has both a title and a picture"
        )
    return sets


def share_topics(accelerator: Accelerator, sets: list[TrainingSet]) -> None:
    """Gives all processes the first one's features of the queries, which tell what like queries are.

    Two devices may differ in the last bit of what they compute, and all processes have to draw the same batches.
    """
    for judgments in (data.judgments for data in sets):
        if judgments.query_features is not None:
            features = torch.from_numpy(judgments.query_features).to(accelerator.device)
            judgments.query_features = broadcast(features).cpu().numpy()


def save_model(accelerator: Accelerator, encoder: Encoder, folder: Path) -> None:
    """Saves weights, configuration, processor and code as one folder, which appears whole or not at all."""
    if accelerator.is_main_process:
        with new_folder(folder, WRITER) as partial, cannot_write(partial):
            encoder.model.save_pretrained(partial)
            encoder.processor.save_pretrained(partial)
    accelerator.wait_for_everyone()


def _start_heads(accelerator, encoder, splits: list[RetrievalSplit], sampled: set[str]) -> None:
    """Starts the text head, and what is aligned, from all texts and pictures, whose features frozen encoders need
    anyway, or from a sample of those whose encoders (`text`, `vision`) are trained."""
    states, pictures = [], []
    with accelerator.main_process_first():
        for split in splits:
            texts = encoder.product_texts(split)
            if "text" in sampled:
                texts = [texts[row] for row in sample_rows(len(texts), SAMPLE_SEED)]
            states += [encoder.query_states(split.query_texts), encoder.text_states(texts)]
            if encoder.model.alignment is not None:
                pictures.append(picture_sample(encoder, split, SAMPLE_SEED, cached="vision" not in sampled))
    start_alignment(encoder.model, states, pictures)
    start_text_head(encoder.model, states)


def _base(arguments: TrainArguments, stages: list[str], name: str) -> Path:
    """The folder of the model that a stage starts from, and that its adapter belongs to."""
    output, number = Path(arguments.output), stages.index(name)
    if number > 0:
        return output / stages[number - 1]
    return output / "base" if arguments.model.start is None else Path(arguments.model.start)
