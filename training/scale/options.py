"""What the commands of this room are told; see each one's `--help`."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from training.features.options import EmbedArguments


@dataclass
class EmbedRayArguments(EmbedArguments):
    """Which catalogue to embed with which model, and on how many devices; the other options are training.embed's.

    Args:
        actors: Processes that embed, each with a model of its own; one a device.
        gpus: GPUs of an actor; null is 1 where this machine has one, and else 0.
        cpus: CPU cores of an actor.
        address: Of the cluster, such as 10.0.0.1:6379; null is RAY_ADDRESS, or one on this machine, or a new one.
        patience: Minutes to wait where no machine that is left has room for an actor.
    """

    actors: PositiveInt = 1
    gpus: NonNegativeFloat | None = None
    cpus: NonNegativeFloat = 1.0
    address: str | None = None
    patience: PositiveFloat = 10.0


@dataclass
class EngineArguments:
    """Which vectors go where.

    Args:
        vectors: Folder that training.embed wrote.
        to: Address of an engine, such as lance:products.lance, or parquet:FOLDER for files. Null is parquet files in
            bulk/ beside the vectors.
        sync: Bring the collection to what the vectors' folder holds: products that are new, changed or gone.
        drop: Delete the collection, and do nothing else.
    """

    vectors: str = "runs/quickstart/vectors"
    to: str | None = None
    sync: bool = False
    drop: bool = False


@dataclass
class SizeArguments:
    """How much there is, and what a machine has.

    Args:
        products: Products.
        queries: Queries a second at the busiest time.
        changes: Products a second that are new or whose text or pictures changed; prices and stock cost nothing.
        plans: Several plans in place of these: products:queries, with commas between.
        storage: How the graph stores vectors: i8, b1, bf16 or f32.
        dim: Length of the vectors; memory is that of 384 measured dimensions, in proportion.
        memory: GB of memory of a machine.
        cores: Cores of a machine.
        share: Share of a machine's memory and cores to plan with; the rest is for the system, peaks and the save of
            the next generation.
        replicas: Copies of each shard at least, so that one machine may fail.
        embed_days: Days within which the whole catalogue is to be embedded.
        speed: Products a second that one device embeds, if the results tell none.
        results: Results of training.benchmarks.search_speed.
        embedding: Results of training.benchmarks.embedding.
    """

    products: PositiveInt = 1_000_000
    queries: PositiveFloat = 100.0
    changes: NonNegativeFloat = 0.0
    plans: str | None = None
    storage: str = "i8"
    dim: PositiveInt = 384
    memory: PositiveFloat = 64.0
    cores: PositiveInt = 16
    share: PositiveFloat = 0.6
    replicas: PositiveInt = 2
    embed_days: PositiveFloat = 1.0
    speed: PositiveFloat | None = None
    results: str = "hub_card/results/bench_search.json"
    embedding: str = "hub_card/results/bench_embed.json"
