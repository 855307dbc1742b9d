"""Compares the embedding of a catalogue with its towers' bare forward pass and with sentence-transformers' encode.

    python -m training.benchmarks.embedding --data data/hm
    python -m training.benchmarks.embedding --products 32 --rounds 2 --memory "200;2000"

All embed the same products with the same weights in float32: ours from the catalogue's files to shards on the disk,
`forward` the towers alone on the same batches, prepared before, and sentence-transformers from decoded pictures to
vectors, as it is used with `datasets`. They take turns, in every round with other products, so that
whatever else the machine does hits all alike; ratios are of the sums over the rounds. A CPU-second counts all threads:
by it ours pays for reading pictures, and by the clock that is hidden where a core is free.

Memory is the peak of `python -m training.embed` with all its children, with a small random model, for catalogues of
several sizes.
"""

from training.benchmarks.options import BenchEmbedArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.embedding", BenchEmbedArguments, __doc__)

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from accelerate.utils import set_seed
from tqdm.auto import tqdm
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.pictures_mmfusion import load_picture
from training import export
from training.catalogue.layout import RetrievalSplit, load_products
from training.catalogue.stream import stream_products
from training.catalogue.writing import write_card, write_split
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.embedder import CatalogueEmbedder, inputs_of
from training.features.options import EmbedArguments
from training.features.pretrained import resolve_tower
from training.features.shards import vectors_of
from training.features.windows import prepare_batch, product_batches
from training.learning.options import ModelArguments
from training.learning.starting import new_model

BASELINE = "sentence-transformers"
BACKENDS = ("torch", "onnx", "openvino")
RATIOS = (
    *((f"embed, {name}", f"forward, {name}") for name in BACKENDS),
    *((f"embed, {name}", BASELINE) for name in BACKENDS),
)
BATCH_SIZE = 16
MAX_DIFFERENCE = 2e-3  # of float16 and of engines
SAMPLING_SECONDS = 0.1


def main(arguments: BenchEmbedArguments) -> dict:
    """Measures, prints and writes the figures and ratios."""
    check_output_file(arguments.output, ".json")
    torch.set_num_threads(arguments.threads)
    split = load_products(arguments.data, arguments.split)
    report = {"options": asdict(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        report |= measure_speed(arguments, split, Path(folder))
        write_json(Path(arguments.output), report | {"environment": environment()})
        report["memory"] = {}
        for count in map(int, filter(None, arguments.memory.split(";"))):
            report["memory"][str(count)] = measure_memory(count, split, Path(folder))
            write_json(Path(arguments.output), report | {"environment": environment()})
    print(format_embed_figures(report), flush=True)
    return report


def measure_speed(arguments: BenchEmbedArguments, split: RetrievalSplit, folder: Path) -> dict:
    """Products a second and a CPU-second of each contestant, and the ratios."""
    set_seed(0)
    model, processor = new_model(ModelArguments())
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    export.main(export.ExportArguments(str(folder / "model"), str(folder / "model")))
    shops = list(slices(arguments, split, folder))
    options = {"model": str(folder / "model"), "data": str(shops[0][0]), "split": "test", "workers": arguments.threads}
    embedders = {
        name: CatalogueEmbedder(EmbedArguments(**options, output=str(folder / "out"), backend=name), device="cpu")
        for name in BACKENDS
    }
    baseline = baseline_encoder(folder / "model")
    seconds = {}
    for number, (shop, products) in enumerate(tqdm(shops, desc="rounds")):
        contestants = {BASELINE: lambda products=products: baseline(products)}
        for name, embedder in embedders.items():
            contestants[f"forward, {name}"] = forward_pass(embedder, products)
            contestants[f"embed, {name}"] = embedding(embedder, shop, folder / f"{name}-{number}")
        vectors = {}
        for name in np.random.default_rng(number).permutation(list(contestants)).tolist():
            clock, cpu = time.perf_counter(), time.process_time()
            vectors[name] = contestants[name]()
            spent = (time.perf_counter() - clock, time.process_time() - cpu)
            if number:
                seconds.setdefault(name, []).append(spent)
        check_agreement(vectors[BASELINE], [folder / f"{name}-{number}" for name in BACKENDS])
    figures = {name: figures_of(seconds[name], arguments.products) for name in contestants}
    return {"figures": figures, "ratios": ratios(figures)}


def slices(arguments: BenchEmbedArguments, split: RetrievalSplit, folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    """A catalogue of other products for each round, and one to warm up with: its folder and its rows."""
    products = (product for product in split.corpus if product.get("image"))
    for number in range(arguments.rounds + 1):
        rows = [row for row, _ in zip(products, range(arguments.products), strict=False)]
        if len(rows) < arguments.products:
            raise DataError(f"{split.name}: too few products with a picture; give fewer --rounds or --products")
        yield write_shop(folder / f"shop-{number}", rows), rows


def write_shop(folder: Path, rows) -> Path:
    """A catalogue of products alone."""
    write_split(folder, "test", rows, [], [])
    write_card(folder, "For a benchmark", "unknown", ["test"], "")
    return folder


def forward_pass(embedder: CatalogueEmbedder, products: list[dict]) -> Callable[[], None]:
    """The tower alone over the batches that the embedding makes of the same products."""
    sizes = embedder.batching["batch_tokens"], embedder.batching["batch_pictures"]
    inputs = [inputs_of(embedder.processor, product) for product in products]
    batches = list(product_batches(embedder.processor, inputs, *sizes))
    prepared = [prepare_batch(embedder.processor, batch)[0] for batch in batches]

    def compute() -> None:
        for batch in prepared:
            embedder.tower.product_vectors(batch)

    return compute


def embedding(embedder: CatalogueEmbedder, shop: Path, output: Path) -> Callable[[], None]:
    """All of the embedding but loading the model: opens the catalogue, embeds it and writes the shards."""

    def compute() -> None:
        embedder.stream, embedder.output = stream_products(shop, "test"), output
        list(embedder.run(list(range(embedder.shards))))

    return compute


def baseline_encoder(model: Path) -> Callable[[list[dict]], np.ndarray]:
    """sentence-transformers' encode over products as `datasets` gives them: pictures are decoded when asked for."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu", trust_remote_code=True)
    processor = MMFusionProcessor.from_pretrained(model)

    def encode(products: list[dict]) -> np.ndarray:
        documents = [
            {"text": processor.product_text(product), "image": load_picture(product["image"])} for product in products
        ]
        return encoder.encode_document(documents, batch_size=BATCH_SIZE, show_progress_bar=False)

    return encode


def check_agreement(expected: np.ndarray, folders: list[Path]) -> None:
    """Makes sure that all contestants have done the same work.

    Raises:
        DataError: if the vectors in a folder's shards are not those of sentence-transformers.
    """
    for folder in folders:
        found = np.concatenate([vectors_of(pq.read_table(file)) for file in sorted(folder.glob("shards/*.parquet"))])
        difference = np.abs(found.astype(np.float32) - expected).max()
        if not difference < MAX_DIFFERENCE:
            raise DataError(f"{folder.name}: vectors differ from those of {BASELINE} by {difference:.1e}")


def figures_of(seconds: list[tuple[float, float]], products: int) -> dict:
    """Products a second by the clock and by the CPU, and the clock's seconds of each round."""
    clock, cpu = zip(*seconds, strict=True)
    count = products * len(clock)
    figures = {"products_per_second": count / sum(clock), "products_per_cpu_second": count / sum(cpu)}
    return figures | {"seconds": list(clock), "cpu_seconds": list(cpu)}


def ratios(figures: dict[str, dict]) -> dict[str, dict]:
    """Speed of the first of each pair over the second's, by the clock and by the CPU."""
    return {
        f"{first} / {second}": {
            kind: figures[first][name] / figures[second][name]
            for kind, name in (("speed", "products_per_second"), ("cpu", "products_per_cpu_second"))
        }
        for first, second in RATIOS
    }


def measure_memory(count: int, split: RetrievalSplit, folder: Path) -> dict:
    """Peak memory in MB and products a second of embedding `count` products with a small model, in processes of its
    own."""
    shop, model, output = folder / f"memory-{count}", folder / "small", folder / f"memory-{count}-vectors"
    save_small_model(model, folder)
    products = ((number, split.corpus[number % len(split.corpus)]) for number in range(count))
    rows = ({**row, "_id": str(number), "title": f"{row['title']} {number}"} for number, row in products)
    write_shop(shop, tqdm(rows, desc=f"write {count:,} products", total=count, leave=False))
    words = [sys.executable, "-m", "training.embed", "--model", str(model), "--data", str(shop)]
    started = time.perf_counter()
    with open(folder / "log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([*words, "--output", str(output), "--shard_size", "4096"], stdout=log, stderr=log)
        peak = peak_memory(process)
        log.seek(0)
        if process.returncode:
            raise DataError(f"embedding {count} products failed: {' '.join(log.read().split())[-600:]}")
    return {"peak_mb": peak, "products_per_second": count / (time.perf_counter() - started)}


def peak_memory(process: subprocess.Popen) -> float:
    """The most memory in MB that a process and its children had together, until it ends."""
    parent, peak = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        used = 0
        with suppress(psutil.NoSuchProcess):
            for one in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    used += one.memory_info().rss
        peak = max(peak, used / 2**20)
        time.sleep(SAMPLING_SECONDS)
    return peak


def save_small_model(folder: Path, scratch: Path) -> None:
    """A random model that takes under a millisecond a product: pipeline and shards are what is measured."""
    text, vision = scratch / "small-text", scratch / "small-vision"
    tokenizer = AutoTokenizer.from_pretrained(resolve_tower("minilm"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(text)
    tokenizer.save_pretrained(text)
    SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(vision)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(vision)
    MMFusionModel.from_towers(text, vision).save_pretrained(folder)
    MMFusionProcessor.from_towers(text, vision).save_pretrained(folder)


def format_embed_figures(report: dict) -> str:
    """Two or three tables in Markdown."""
    lines = ["| contestant | products/s | products/CPU-s |", "| --- | --- | --- |"]
    for name, found in report["figures"].items():
        lines.append(f"| {name} | {found['products_per_second']:.1f} | {found['products_per_cpu_second']:.1f} |")
    lines += ["", "| ratio | by the clock | by the CPU |", "| --- | --- | --- |"]
    for name, found in report["ratios"].items():
        lines.append(f"| {name} | {found['speed']:.2f} | {found['cpu']:.2f} |")
    if report.get("memory"):
        lines += ["", "| products, small model | peak memory | products/s |", "| --- | --- | --- |"]
    for count, found in report.get("memory", {}).items():
        lines.append(f"| {int(count):,} | {found['peak_mb']:,.0f} MB | {found['products_per_second']:.0f} |")
    return "\n".join(lines)
