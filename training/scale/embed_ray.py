"""Embeds a catalogue on the machines of a Ray cluster: training.embed with an actor for each device.

    ray start --head                  # on one machine, and on the others: ray start --address=ADDRESS
    python -m training.scale.embed_ray --model MODEL --data data/myshop --output /mnt/shared/vectors --actors 8

All machines must see model, catalogue and output folder under the same paths. Ray Data hands out shards one by one;
those of a worker that dies are done again, and the same command goes on where a run was interrupted, as training.embed
does: both write the same folders. Without a cluster it starts one on this machine. Ray is in the extra `ray`.
"""

from training.common.cli import run
from training.scale.options import EmbedRayArguments

if __name__ == "__main__":
    run("training.scale.embed_ray", EmbedRayArguments, __doc__)

import time
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_mmfusion.errors import DataError
from training.common.files import claim_folder, only_process
from training.features.embedder import WRITER, CatalogueEmbedder, output_of
from training.features.options import EmbedArguments


class ShardActor:
    """Loads the model once and embeds shards.

    Args:
        options (`dict`): of [`EmbedArguments`].
    """

    def __init__(self, options: dict[str, Any]):
        self.embedder = CatalogueEmbedder(EmbedArguments(**options))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embeds and writes the shards with the numbers in `shard`; what `CatalogueEmbedder.run` tells of them."""
        found = list(self.embedder.run(batch["shard"].tolist()))
        self.embedder.problems.report()
        return {"facts": np.array(found, dtype=object)}


def main(arguments: EmbedRayArguments) -> Path:
    """Embeds on the cluster, writes the folder and returns it."""
    if find_spec("ray") is None:
        raise DataError("ray is not installed; run: pip install -e '.[ray]'")
    claim_folder(output_of(arguments), WRITER, arguments.data)
    import ray

    names = {option.name for option in fields(EmbedArguments)}
    options = {name: value for name, value in asdict(arguments).items() if name in names}
    embedder = CatalogueEmbedder(EmbedArguments(**options), device="cpu")  # refuses what is wrong before actors start
    gpus = float(torch.cuda.is_available()) if arguments.gpus is None else arguments.gpus
    with only_process(embedder.output):
        started = time.perf_counter()
        ray.init(ignore_reinit_error=True)
        items = [{"shard": number} for number in range(embedder.shards)]
        shards = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardActor,
            fn_constructor_kwargs={"options": options},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=arguments.actors),
            num_gpus=gpus,
            num_cpus=arguments.cpus,
        )
        embedder.finish([row["facts"] for row in shards.iter_rows()], time.perf_counter() - started)
    return embedder.output
