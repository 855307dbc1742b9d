"""What the commands of this room are told; see each one's `--help`."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from training.features.options import EmbedArguments


@dataclass
class EmbedRayArguments(EmbedArguments):
    """Which catalogue to embed with which model, and on how many devices; the other options are training.embed's.

    Args:
        actors: Processes that embed, each with a model of its own; one a device.
        gpus: GPUs of an actor; null is 1 where this machine has one, and else 0.
        cpus: CPU cores of an actor. Leave Ray some: with all of them taken nothing else can start.
    """

    actors: int = 1
    gpus: float | None = None
    cpus: float = 1.0


@dataclass
class EngineArguments:
    """Which vectors go where.

    Args:
        vectors: Folder that training.embed wrote.
        to: parquet or lance files, or milvus.
        output: Folder for the files; for milvus its address, or a file for the embedded one. Null is bulk/,
            products.lance/ or milvus.db beside the vectors.
        collection: Name in milvus; one of that name is replaced once the new one is loaded.
        token: User and password, or key, of milvus.
        shards: Shards of the collection in milvus, which write in parallel.
    """

    vectors: str = "runs/quickstart/vectors"
    to: Literal["parquet", "lance", "milvus"] = "parquet"
    output: str | None = None
    collection: str = "products"
    token: str = ""
    shards: PositiveInt = 1


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
