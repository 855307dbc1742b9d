"""Embeds a catalogue of any size: products to vectors in Parquet shards.

    python -m training.embed --model runs/myshop/model --data data/myshop
    accelerate launch --config_file training/accelerate/multi_gpu.yaml training/embed.py --output runs/vectors

The whole catalogue is embedded, whatever its splits; they are for training and measuring. The output folder, vectors/
beside the model if it is not given, gets manifest.json and shards/ with `_id`, `hash`, `vector` and all columns of the
catalogue, of pictures the name alone, to be shown and filtered by. The same command again embeds only what is new:
after a crash the shards that were not written yet, later the products whose text or pictures changed. Products that
left the catalogue leave the shards. training.scale.embed_ray does the same on many machines.

On a CPU towers that training.export wrote are faster than torch; --backend auto takes them if they are there.
"""

from training.common.cli import run
from training.features.options import EmbedArguments

if __name__ == "__main__":
    run("training.embed", EmbedArguments, __doc__)

import os
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from training.common.distributed import PATIENCE, Share
from training.common.files import claim_folder, only_process
from training.features.embedder import WRITER, CatalogueEmbedder, output_of


def main(arguments: EmbedArguments) -> Path:
    """Embeds, in this process or its share in one of several, writes the folder and returns it."""
    share, state = start_processes()
    if share.rank == 0:
        claim_folder(output_of(arguments), WRITER, arguments.data)
    device = f"cuda:{state.local_process_index}" if state and torch.cuda.is_available() else None
    embedder = CatalogueEmbedder(arguments, device)
    with only_process(embedder.output) if share.rank == 0 else nullcontext():
        numbers = list(range(share.rank, embedder.shards, share.world))
        if share.rank == 0:
            print(
                f"embedding {embedder.stream.count:,} products of {embedder.stream.name} by {embedder.backend}",
                flush=True,
            )
        total = sum(stop - start for start, stop in map(embedder.span, numbers))
        started = time.perf_counter()
        with tqdm(total=total, desc="embed", unit=" products", disable=share.rank > 0) as bar:
            shards = list(embedder.run(numbers, bar.update))
        embedder.problems.report()
        shards = gather_object(shards) if state else shards
        if share.rank == 0:
            embedder.finish(shards, time.perf_counter() - started)
    if state:  # one that ends while the others are still connected to it may be aborted
        state.wait_for_everyone()
        state.destroy_process_group()
    return embedder.output


def start_processes() -> tuple[Share, PartialState | None]:
    """This process' share of the work, and accelerate's state where there are several processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Share(), None
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return Share(state.process_index, state.num_processes), state
