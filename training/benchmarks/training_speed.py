"""Compares the speed and memory of training with sentence-transformers' trainer, side by side in one run.

    python -m training.benchmarks.training_speed --data data/hm
    python -m training.benchmarks.training_speed --data data/demo_shop --batch_size 64 --steps 2

Both train the same model on the same pairs in float32: sentence-transformers loads our model folder and trains it with
MultipleNegativesRankingLoss, or with its cached variant where we use gradient caching. Each contestant runs in a
process of its own, one after the other; the first step is not counted. Memory is the process' peak and, in brackets,
the part of it that came on top of the loaded model. Figures are kept as they come: the same command goes on where it
was stopped, and contestants that are in the output file already are not run again.
"""

from training.benchmarks.options import BenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.training_speed", BenchArguments, __doc__)

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import LoraConfig
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import load_split
from training.common.distributed import Share
from training.common.environment import environment
from training.common.files import check_output_file, read_json, write_json
from training.features.encoder import Encoder
from training.learning.adapters import ENCODERS, EXCLUDED, HEADS, add_lora
from training.learning.gradient_cache import forward_backward
from training.learning.losses import alignment_loss
from training.learning.options import LoraArguments, ModelArguments, StageArguments
from training.learning.sampling import PairSampler
from training.learning.stage import choose_trained, parameter_groups, set_train_mode
from training.learning.starting import new_model
from training.learning.training_set import BatchInputs, query_set, to_device

PLAIN = {"text_view_weight": 0.0, "image_view_weight": 0.0, "matryoshka_weight": 0.0, "directions": "query"}
TEXT, BOTH, CACHED = {"text": "lora"}, {"text": "lora", "vision": "lora"}, {"gradient_cache": True}
BASELINE = "sentence-transformers"
OPTIONS = ("data", "batch_size", "chunk_size", "steps", "threads")  # on which figures depend
# name: who, what is trained and how, processes; sentence-transformers runs frozen encoders, we cache what they say
CONTESTANTS = {
    "ours, adapters on text": ("ours", TEXT, 1),
    "ours, adapters on text, gradient cache": ("ours", TEXT | CACHED, 1),
    "ours, adapters on text, 2 processes": ("ours", TEXT, 2),
    f"{BASELINE}, adapters on text": ("baseline", TEXT, 1),
    f"{BASELINE}, adapters on text, cached loss": ("baseline", TEXT | CACHED, 1),
    "ours, adapters on both encoders, gradient cache": ("ours", BOTH | CACHED, 1),
    f"{BASELINE}, adapters on both encoders, cached loss": ("baseline", BOTH | CACHED, 1),
    "ours, encoders frozen": ("ours", {}, 1),
    f"{BASELINE}, encoders frozen": ("baseline", {}, 1),
}
RATIOS = (
    ("ours, adapters on text", f"{BASELINE}, adapters on text"),
    ("ours, adapters on text, gradient cache", f"{BASELINE}, adapters on text, cached loss"),
    ("ours, adapters on text, gradient cache", f"{BASELINE}, adapters on text"),
    ("ours, adapters on both encoders, gradient cache", f"{BASELINE}, adapters on both encoders, cached loss"),
    ("ours, encoders frozen", f"{BASELINE}, encoders frozen"),
    ("ours, adapters on text, 2 processes", "ours, adapters on text"),
)


def main(arguments: BenchArguments) -> dict:
    """Runs all contestants, prints and writes their figures and ratios."""
    check_output_file(arguments.output, ".json")
    if arguments.contestant:
        return run_contestant(arguments)
    names = [name.strip() for name in arguments.contestants.split(";") if name.strip()] or list(CONTESTANTS)
    if unknown := [name for name in names if name not in CONTESTANTS]:
        raise DataError(f"unknown contestant {unknown[0]!r}; use some of: {'; '.join(CONTESTANTS)}")
    figures = kept_figures(arguments)
    report = report_of(arguments, figures)
    with tempfile.TemporaryDirectory() as folder:
        set_seed(0)
        model, processor = new_model(ModelArguments())
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for name in tqdm([name for name in names if name not in figures], desc="contestants"):
            figures[name] = in_a_process(arguments, name, folder)
            tqdm.write(f"{name}: {figures[name]['pairs_per_second']:.1f} pairs/s, {figures[name]['peak_mb']:,.0f} MB")
            report = report_of(arguments, figures)
            write_json(Path(arguments.output), report)
    print(format_figures(report), flush=True)
    return report


def kept_figures(arguments: BenchArguments) -> dict[str, dict]:
    """The figures in the output file, if they were measured with the same options."""
    file = Path(arguments.output)
    report = read_json(file) if file.is_file() else {}
    same = all(report.get("options", {}).get(name) == getattr(arguments, name) for name in OPTIONS)
    return report["figures"] if same else {}


def report_of(arguments: BenchArguments, figures: dict[str, dict]) -> dict:
    """What is written: options, figures in the contestants' order, ratios and the environment."""
    ordered = {name: figures[name] for name in CONTESTANTS if name in figures}
    options = {name: getattr(arguments, name) for name in OPTIONS}
    return {"options": options, "figures": ordered, "ratios": ratios(ordered), "environment": environment()}


def in_a_process(arguments: BenchArguments, name: str, model: str) -> dict:
    """One contestant's figures."""
    processes = CONTESTANTS[name][2]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [
        sys.executable,
        *launch,
        "-m",
        "training.benchmarks.training_speed",
        "--contestant",
        name,
        "--model",
        model,
    ]
    for option in OPTIONS:
        words += [f"--{option}", str(getattr(arguments, option))]
    variables = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "ACCELERATE_USE_CPU": "true"}
    found = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if found.returncode or not lines:
        raise DataError(f"{name}: failed: {' '.join(found.stderr.split())[-600:]}")
    return json.loads(lines[-1])


def run_contestant(arguments: BenchArguments) -> dict:
    """Trains a few steps and prints seconds a step, pairs a second and memory as one line of JSON."""
    torch.set_num_threads(arguments.threads)
    who, options, _ = CONTESTANTS[arguments.contestant]
    contestant = run_ours if who == "ours" else run_baseline
    before, seconds, pairs = contestant(arguments, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"pairs_per_second": pairs / seconds, "seconds": seconds, "peak_mb": peak, "over_model_mb": peak - before}
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(found), flush=True)
    return found


def resident_mb() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_ours(arguments: BenchArguments, options: dict) -> tuple[float, float, int]:
    """Memory before, seconds and pairs of our training steps."""
    stage = StageArguments(batch_size=arguments.batch_size, chunk_size=arguments.chunk_size, **PLAIN, **options)
    accelerator = Accelerator()
    encoder = Encoder.load(arguments.model, device="cpu")
    model, processor = encoder.model, encoder.processor
    data = query_set(encoder, load_split(arguments.data, "train"), stage)
    encoders = {name for name in ("text", "vision") if getattr(stage, name) == "lora"}
    peft_model = add_lora(model, LoraArguments(), encoders) if encoders else model
    trained = choose_trained(model, stage)
    optimizer = torch.optim.AdamW(parameter_groups(trained, stage))
    wrapped, optimizer = accelerator.prepare(peft_model, optimizer)
    set_train_mode(model, stage)
    sampler = PairSampler(data.judgments, stage.positives_per_query, stage.batch_size, seed=0)
    share = Share(accelerator.process_index, accelerator.num_processes)
    batches = BatchInputs([data], [sampler], [(0, pairs) for pairs in sampler.epoch(1)], processor, stage, share)
    before, started, pairs = resident_mb(), 0.0, 0
    for step in range(arguments.steps + 1):
        if step == 1:
            started = time.perf_counter()
        _, batch, chunks = batches[step % len(batches)]
        for chunk in chunks:
            chunk.inputs = to_device(chunk.inputs, accelerator.device)
        forward_backward(
            accelerator,
            wrapped,
            chunks,
            (len(batch.queries), len(batch.products)),
            lambda vectors, batch=batch: alignment_loss(vectors, batch, stage, model.config, share),
            replay=stage.gradient_cache,
        )
        accelerator.clip_grad_norm_(trained.values(), stage.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        pairs += batch.pairs if step else 0
    return before, time.perf_counter() - started, pairs


def run_baseline(arguments: BenchArguments, options: dict) -> tuple[float, float, int]:
    """Memory before, seconds and pairs of sentence-transformers' training steps on our model."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        times: list[float] = []

        def on_step_end(self, *args, **kwargs):
            self.times.append(time.perf_counter())

    encoder = SentenceTransformer(arguments.model, device="cpu", trust_remote_code=True)
    model = encoder.transformers_model
    lora = LoraArguments()
    if encoders := [prefix for name, prefix in ENCODERS.items() if options.get(name) == "lora"]:
        targets = f"({'|'.join(encoders)}){lora.targets}"
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        config.exclude_modules = EXCLUDED
        model.add_adapter(config)
    for name, parameter in model.named_parameters():
        is_head = name.startswith(HEADS) and ".familiarity." not in name
        parameter.requires_grad_(is_head or ".lora_" in name)
    kind = losses.MultipleNegativesRankingLoss
    loss = kind(encoder)
    if options.get("gradient_cache"):
        loss = losses.CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=arguments.chunk_size)
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch_size,
            max_steps=arguments.steps + 1,
            router_mapping={"anchor": "query", "positive": "document"},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        pairs = baseline_pairs(arguments)
        trainer = SentenceTransformerTrainer(
            model=encoder, args=training, train_dataset=pairs, loss=loss, callbacks=[Clock()]
        )
        before = resident_mb()
        trainer.train()
    return before, Clock.times[-1] - Clock.times[0], arguments.steps * arguments.batch_size


def baseline_pairs(arguments: BenchArguments) -> datasets.Dataset:
    """Pairs as sentence-transformers takes them, drawn as ours are; products with both text and picture."""
    split = load_split(arguments.data, "train")
    rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
    columns = [name for name in split.corpus.column_names if name not in ("_id",)]
    rng, anchors, products = np.random.default_rng(0), [], []
    wanted = (arguments.steps + 2) * arguments.batch_size
    for number in rng.permutation(len(split.queries)).tolist() * 4:
        query = split.queries[number]
        relevant = [rows[product] for product, score in split.qrels[query["_id"]].items() if score > 0]
        row = split.corpus[int(rng.choice(relevant))]
        if row.get("image"):
            text = ". ".join(str(row[name]) for name in columns if name != "image" and row[name])
            anchors.append(query["text"])
            products.append({"text": text, "image": row["image"]})
        if len(anchors) == wanted:
            break
    features = datasets.Features(
        {"anchor": datasets.Value("string"), "positive": {"text": datasets.Value("string"), "image": datasets.Image()}}
    )
    return datasets.Dataset.from_dict({"anchor": anchors, "positive": products}, features=features)


def ratios(figures: dict[str, dict]) -> dict[str, dict]:
    """Speed and memory of the first of each pair over the second's."""
    return {
        f"{first} / {second}": {
            "speed": figures[first]["pairs_per_second"] / figures[second]["pairs_per_second"],
            "peak": figures[first]["peak_mb"] / figures[second]["peak_mb"],
            "over_model": figures[first]["over_model_mb"] / max(figures[second]["over_model_mb"], 1.0),
        }
        for first, second in RATIOS
        if first in figures and second in figures
    }


def format_figures(report: dict) -> str:
    """Two tables in Markdown."""
    lines = ["| contestant | pairs/s | peak memory |", "| --- | --- | --- |"]
    for name, found in report["figures"].items():
        memory = f"{found['peak_mb']:,.0f} MB ({found['over_model_mb']:,.0f})"
        lines.append(f"| {name} | {found['pairs_per_second']:.1f} | {memory} |")
    lines += ["", "| ratio | speed | peak memory | on top of the model |", "| --- | --- | --- | --- |"]
    for name, found in report["ratios"].items():
        lines.append(f"| {name} | {found['speed']:.2f} | {found['peak']:.2f} | {found['over_model']:.2f} |")
    return "\n".join(lines)
