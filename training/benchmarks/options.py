"""What the commands of this room are told; see each one's `--help`."""

from dataclasses import dataclass, field
from typing import Any

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from training.common.cli import Seed

RESULTS = "hub_card/results"
SHOPS = ("data/hm", "data/fashion", "data/amazon", "data/ikea")
CONTESTANTS = ("ours i8", "ours i8 256", "ours i8 128", "ours b1", "ours bf16", "hnswlib", "faiss", "ours f32")
DEFAULT_VARIANTS = ("experts", "weighted_mean", "sum", "concat", "gated", "text only", "image only", "zero-shot text")


@dataclass
class AblateArguments:
    """Which variants to compare, on what.

    Args:
        recipe: Training recipe of all variants; its output is the folder of the results.
        variants: Variants, with commas between; all of them are listed by `--variants list`.
        tests: Catalogues whose test split is measured, with commas between.
        seeds: Seeds, with commas between.
        overrides: Further options of training.train for all variants, such as {fuse.epochs: 2}.
        results: JSON file for the table's numbers.
    """

    recipe: str = "training/recipes/ablation.yaml"
    variants: list[str] = field(default_factory=lambda: list(DEFAULT_VARIANTS))
    tests: list[str] = field(default_factory=lambda: ["data/hm", "data/ikea"])
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    overrides: dict[str, Any] = field(default_factory=dict)
    results: str = "runs/ablation/results.json"


@dataclass
class BaselineArguments:
    """What to train on and how.

    Args:
        data: Catalogue, or several with commas between: folders or Hub dataset ids in the retrieval layout.
        tests: Catalogues to measure; those of `data` if it is empty.
        text: Text encoder; a tower's name, a folder or a Hub id.
        vision: Image encoder, likewise.
        epochs: Passes over the queries; each draws one relevant product a query.
        batch_size: Pairs in a batch.
        learning_rate: Peak learning rate of the text encoder; it warms up over a tenth of the steps.
        picture_learning_rate: That of the linear layer over pictures, which starts at random; the rate of our heads.
        seed: Seed of everything random.
        output: Folder for both models' weights and each query's values.
        report: JSON file for the report; null for report.json in the folder.
    """

    data: list[str] = field(default_factory=lambda: ["data/hm"])
    tests: list[str] = field(default_factory=list)
    text: str = "minilm"
    vision: str = "efficientnet-lite0"
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 256
    learning_rate: NonNegativeFloat = 5e-5
    picture_learning_rate: NonNegativeFloat = 1e-3
    seed: Seed = 0
    output: str = "runs/baseline"
    report: str | None = None


@dataclass
class CompareArguments:
    """What to compare on what.

    Args:
        models: Model by the name of its row: a folder, a Hub id, a dual encoder as it is, any text model of
            sentence-transformers, or minilm; or a list of them, one a seed.
        views: View by the name of a row, where it is not fused: one that was trained on text alone is measured on it.
        data: Catalogues, with commas between.
        split: Their split.
        baseline: Reports of training.benchmarks.baseline_trainer to add, one a seed, with commas between.
        output: Folder that keeps the single reports.
        keep: Folder that keeps each query's nDCG@10 of folders and baselines, a small file a catalogue; where a model
            is gone it counts as measured. Null keeps nothing.
        results: JSON file for the table's numbers; the table itself goes beside it as Markdown.
    """

    models: dict[str, str | list[str]] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    data: list[str] = field(default_factory=lambda: ["data/hm"])
    split: str = "test"
    baseline: list[str] = field(default_factory=list)
    output: str = "runs/compare"
    keep: str | None = None
    results: str = "runs/compare/results.json"


@dataclass
class DualEncoderArguments:
    """What to train on, and how.

    Args:
        data: Catalogues, with commas between; only their products are read.
        split: Their split to train on.
        text: Text encoder: minilm, or a folder or Hub id of one with a pooler.
        vision: Image encoder: efficientnet-lite0, or a folder or Hub id.
        output: Folder for the checkpoint, model/, and what it was made with.
        projection_dim: Width of the space that texts and pictures share.
        epochs: Passes over the products.
        batch_size: Pairs of a batch, each other's negatives.
        learning_rate: Peak learning rate, reached after a tenth of the steps and then lowered along a cosine.
        weight_decay: Weight decay of AdamW.
        title_share: Share of the pairs whose text is the title alone, the length of a query.
        feature_dropout: Dropout of what the image encoder says.
        seed: Seed of everything random.
    """

    data: list[str] = field(default_factory=lambda: ["data/demo_shop"])
    split: str = "train"
    text: str = "minilm"
    vision: str = "efficientnet-lite0"
    output: str = "runs/dual_encoder"
    projection_dim: PositiveInt = 256
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 1024
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.1
    title_share: ClosedUnitInterval = 0.5
    feature_dropout: ClosedUnitInterval = 0.2
    seed: Seed = 0


@dataclass
class BenchEmbedArguments:
    """What to embed and how often.

    Args:
        data: Catalogue: a folder or Hub dataset id; only products with a picture are taken.
        split: Its split.
        products: Products of a round.
        rounds: Rounds, after one that is not counted.
        threads: Threads of the towers; pictures are read by as many more.
        memory: Sizes of the catalogues whose peak memory is measured, with semicolons between; empty for none.
        output: JSON file for the figures.
    """

    data: str = "data/hm"
    split: str = "test"
    products: PositiveInt = 256
    rounds: PositiveInt = 4
    threads: PositiveInt = 1
    memory: str = "10000;100000"
    output: str = "runs/bench_embed.json"


@dataclass
class FaultArguments:
    """How often to do it.

    Args:
        kills: Saves that are killed, and runs of the embedding.
        updates: Changes that readers see.
        mutations: Damaged copies that are opened.
        seed: Seed of the moments and of the damage.
        output: Results file.
    """

    kills: NonNegativeInt = 1000
    updates: NonNegativeInt = 10_000
    mutations: NonNegativeInt = 10_000
    seed: NonNegativeInt = 0
    output: str = "hub_card/results/bench_faults.json"


@dataclass
class LeaveOneOutArguments:
    """What to train on and what to leave out.

    Args:
        pretrained: Catalogues whose pictures and listings the stand-in is trained on, with commas between.
        shops: Catalogues to train a model on, each alone.
        unseen: Further catalogues to measure.
        aligned: Dual encoder to start from; null makes the stand-in.
        options: Options of training.train for the models that start from it.
        recipe: Training recipe of all models.
        seeds: Seeds, with commas between.
        output: Folder for the stand-in and what was measured.
        results: JSON file for the table's numbers; the table itself goes beside it as Markdown.
    """

    pretrained: list[str] = field(default_factory=lambda: ["data/fashion", "data/hm"])
    shops: list[str] = field(default_factory=lambda: ["data/amazon", "data/demo_shop"])
    unseen: list[str] = field(default_factory=lambda: ["data/ikea"])
    aligned: str | None = None
    options: dict[str, Any] = field(default_factory=lambda: {"model.config.text_pooling": "mean"})
    recipe: str = "training/recipes/quickstart.yaml"
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    output: str = "runs/leave_one_out"
    results: str = "runs/leave_one_out/results.json"


@dataclass
class ResultsArguments:
    """Which runs to show.

    Args:
        runs: Run folder by the name of its results file.
        copy: Copy the runs' reports and the picture first; else the copies in hub_card/results/ are shown.
        readmes: Files whose parts between two markers are written; each has the tables that it has markers of.
        picture: Name of the run whose results.png is copied; pictures of catalogues of unclear licence stay out.
        ablations: Results of training.benchmarks.ablate to show, with commas between.
        recipe: Results of training.benchmarks.ablate on the stages to show.
        multishop: Results of training.benchmarks.compare to show.
        styles: Results of training.benchmarks.styles to show; before they are there its tables stay as they are.
        left_out: Results of training.benchmarks.leave_one_out to show.
        bench: Results of training.benchmarks.training_speed to show.
        embedding: Results of training.benchmarks.embedding to show.
        search: Results of training.benchmarks.search_speed on products' vectors to show.
        generated: Its results on generated vectors.
        faults: Results of training.benchmarks.faults to show.
        like: Results of training.benchmarks.like to show.
        engines: Results of training.benchmarks.engines to show.
        follow: Results of training.benchmarks.follow to show.
        shards: Results of training.benchmarks.shard_speed to show.
        ray: Results of training.benchmarks.ray_cluster to show.
        start: Results of training.benchmarks.start to show.
        load: Results of training.benchmarks.space_load to show.
        service: Results of training.benchmarks.service_load to show.
        judged: What training.judge says of systems to show.
        agreements: What it says of two judges each to show, with commas between.
    """

    runs: dict[str, str] = field(default_factory=lambda: {"quickstart": "runs/quickstart", "hm": "runs/hm"})
    copy: bool = True
    readmes: list[str] = field(default_factory=lambda: ["README.md", "hub_card/results/README.md"])
    picture: str = "quickstart"
    ablations: list[str] = field(
        default_factory=lambda: [f"hub_card/results/fusion_{name}.json" for name in ("ablation", "fashion")]
    )
    recipe: str = "hub_card/results/recipe_ablation.json"
    multishop: str = "hub_card/results/multishop.json"
    styles: str = "hub_card/results/styles.json"
    left_out: str = "hub_card/results/leave_one_out.json"
    bench: str = "hub_card/results/bench_train.json"
    embedding: str = "hub_card/results/bench_embed.json"
    search: str = "hub_card/results/bench_search.json"
    generated: str = "hub_card/results/bench_generated.json"
    faults: str = "hub_card/results/bench_faults.json"
    like: str = "hub_card/results/bench_like.json"
    engines: str = "hub_card/results/bench_engines.json"
    follow: str = "hub_card/results/bench_follow.json"
    shards: str = "hub_card/results/bench_shards.json"
    ray: str = "hub_card/results/bench_ray.json"
    start: str = "hub_card/results/bench_start.json"
    load: str = "hub_card/results/bench_space.json"
    service: str = "hub_card/results/bench_service.json"
    judged: str = "hub_card/results/judged_hm.json"
    agreements: list[str] = field(
        default_factory=lambda: [f"hub_card/results/agreement_hm_{name}.json" for name in ("qrels", "again")]
    )


@dataclass
class SearchBenchArguments:
    """What to search in.

    Args:
        count: Vectors.
        smaller: Smaller numbers of vectors that the contestants are compared at too, with commas between.
        model: Model folder; null for generated vectors in clusters, with neither model nor catalogue.
        data: Catalogues that the vectors are of, with commas between; all their splits are taken.
        judged: Catalogue whose test split the loss by compression is measured on.
        dim: Length of the vectors.
        queries: Queries, at most.
        contestants: Some of the contestants, with commas between.
        work: Folder for vectors and indexes; some 10 GB at a million.
        output: JSON file for the figures.
        plot: Picture of the cost of a query by the number of products.
        threads: Threads to build with; searches have one.
        mapped: Map our graph into memory in place of reading it.
        seed: Seed of the noise.
        task: Do this alone, in this process; used by the benchmark itself.
    """

    count: PositiveInt = 1_000_000
    smaller: list[PositiveInt] = field(default_factory=list)
    model: str | None = "runs/multishop-0/model"
    data: list[str] = field(default_factory=lambda: list(SHOPS))
    judged: str = "data/hm"
    dim: PositiveInt = 384
    queries: PositiveInt = 2000
    contestants: list[str] = field(default_factory=lambda: list(CONTESTANTS))
    work: str = "runs/bench_search"
    output: str = "hub_card/results/bench_search.json"
    plot: str = "hub_card/results/bench_search.png"
    threads: PositiveInt = 1
    mapped: bool = False
    seed: NonNegativeInt = 0
    task: str | None = None


@dataclass
class CatalogueBenchArguments:
    """What is measured.

    Args:
        count: Vectors to search in.
        model: Model folder whose vectors are searched.
        data: Catalogues that the vectors are of; the first is embedded and judged.
        results: Folder for bench_embed.json, bench_search.json, bench_generated.json and bench_faults.json.
    """

    count: PositiveInt = SearchBenchArguments.count
    model: str = SearchBenchArguments.model
    data: list[str] = field(default_factory=lambda: list(SHOPS))
    results: str = RESULTS


@dataclass
class BenchServiceArguments:
    """Which servers to load, and how much.

    Args:
        run: Run folder with model/ and index/.
        data: Catalogue with judged queries.
        towers: Query towers to serve: torch, onnx, int8.
        others: Addresses of other servers' embeddings by name.
        clients: Clients at once.
        requests: Requests of each, one after the other.
        output: JSON file for the results; null only prints them.
    """

    run: str = "runs/quickstart"
    data: str = "data/demo_shop"
    towers: list[str] = field(default_factory=lambda: ["torch"])
    others: dict[str, str] = field(default_factory=dict)
    clients: PositiveInt = 200
    requests: PositiveInt = 10
    output: str | None = None


@dataclass
class BenchSpaceArguments:
    """Which Space to load, and how much.

    Args:
        run: Run folder with the model.
        data: Catalogue with judged queries.
        clients: Clients at once.
        queries: Queries of each, one after the other.
        memory_queries: Queries over which memory is watched, by eight clients.
        output: JSON file for the results; null only prints them.
    """

    run: str = "runs/quickstart"
    data: str = "data/demo_shop"
    clients: PositiveInt = 50
    queries: PositiveInt = 20
    memory_queries: PositiveInt = 2000
    output: str | None = None


@dataclass
class BenchArguments:
    """What to train on and how long.

    Args:
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        batch_size: Query-product pairs in a batch.
        chunk_size: Products that run through the encoders at a time, of both where losses are cached.
        steps: Steps that are timed, after one that is not.
        threads: Threads of a process.
        contestants: Some of the contestants' names, with semicolons between; empty for all.
        output: JSON file for the figures.
        contestant: Run this one alone, in this process; used by the benchmark itself.
        model: Its model folder.
    """

    data: str = "data/hm"
    batch_size: PositiveInt = 256
    chunk_size: PositiveInt = 32
    steps: PositiveInt = 2
    threads: PositiveInt = 1
    contestants: str = ""
    output: str = "runs/bench_train.json"
    contestant: str | None = None
    model: str | None = None


@dataclass
class StartArguments:
    """What is started.

    Args:
        before: Another checkout whose commands are started too, in turn with this one's; null starts these alone.
        commands: Commands to start, such as training.search, with commas between; all if not given.
        run: Run folder that is searched in, with the 8-bit query tower of training.export; null searches in none.
        query: What is searched for.
        towers: Query towers to search by: torch, onnx, int8.
        rounds: Starts of each command, of which the fastest counts: what runs beside only ever slows them down.
        output: JSON file for the results; null only prints them.
    """

    before: str | None = None
    commands: list[str] = field(default_factory=list)
    run: str | None = "runs/quickstart"
    query: str = "green striped mug"
    towers: list[str] = field(default_factory=lambda: ["torch", "int8"])
    rounds: PositiveInt = 3
    output: str | None = None


@dataclass
class StyleBenchArguments:
    """What to compare on what.

    Args:
        models: Model by its name: one of ours first; the others are folders, Hub ids, minilm, bm25 or bm25-tuned. A
            list of them is one a seed.
        data: Catalogues, with commas between, in English.
        split: Their split.
        baseline: Folders of training.benchmarks.baseline_trainer, one a seed, with commas between; its models are
            measured too. Where there is none with trained models, that is said and left out.
        queries: Most queries of a style; a catalogue's own are measured all.
        seed: Seed of the styles.
        output: Folder that keeps the catalogues and the single reports.
        results: JSON file for the numbers; the tables go beside it as Markdown.
    """

    models: dict[str, str | list[str]] = field(default_factory=dict)
    data: list[str] = field(default_factory=lambda: ["data/hm"])
    split: str = "test"
    baseline: list[str] = field(default_factory=list)
    queries: PositiveInt = 300
    seed: Seed = 0
    output: str = "runs/styles"
    results: str = "runs/styles.json"


@dataclass
class FollowBenchArguments:
    """How much to do.

    Args:
        products: Products before the first event.
        events: Events of the stream; a fifth of them where speed is measured.
        kills: How often the follower is killed.
        model: Model folder; null makes a small random one.
        seed: Seed of the events and of the moments.
        output: Results file.
    """

    products: PositiveInt = 2000
    events: PositiveInt = 100_000
    kills: PositiveInt = 20
    model: str | None = None
    seed: PositiveInt = 1
    output: str = "hub_card/results/bench_follow.json"


@dataclass
class ShardBenchArguments:
    """How many products in how many shards.

    Args:
        products: Products that are generated.
        dim: Length of their vectors.
        queries: Queries, one after the other.
        shards: Numbers of shards.
        output: File for the report.
    """

    products: PositiveInt = 100_000
    dim: PositiveInt = 256
    queries: PositiveInt = 500
    shards: list[PositiveInt] = field(default_factory=lambda: [1, 4])
    output: str = "hub_card/results/bench_shards.json"


@dataclass
class RayBenchArguments:
    """How many products, on how many machines, and where to write what came of it.

    Args:
        products: Products that are generated.
        shard_size: Products of a shard.
        machines: Workers of the cluster at first, of one CPU each.
        output: File for the report.
    """

    products: PositiveInt = 20_000
    shard_size: PositiveInt = 250
    machines: PositiveInt = 3
    output: str = "hub_card/results/bench_ray.json"


@dataclass
class EngineBenchArguments:
    """How many products, in which engines.

    Args:
        products: Products that are generated.
        dim: Length of their vectors.
        queries: Queries, one after the other, with each filter.
        engines: Addresses of engines, with commas between; see training/scale/engine.py. By default those that need
            no server, and a PostgreSQL that is started for it if there is one with pgvector.
        output: File for the report.
    """

    products: PositiveInt = 10_000
    dim: PositiveInt = 256
    queries: PositiveInt = 100
    engines: list[str] = field(default_factory=list)
    output: str = "hub_card/results/bench_engines.json"


@dataclass
class LikeBenchArguments:
    """Which model, on triples of which catalogue.

    Args:
        model: Model folder.
        data: Catalogue whose queries have attributes.
        split: Its split.
        attributes: Attributes that the words may change, with commas between; those that pictures show.
        triples: How many are drawn.
        weights: Shares of the picture, with commas between.
        seed: Seed of the triples.
        output: File for the report.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    attributes: list[str] = field(default_factory=lambda: ["colour", "color", "pattern"])
    triples: PositiveInt = 400
    weights: list[ClosedUnitInterval] = field(default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7])
    seed: Seed = 0
    output: str = "hub_card/results/bench_like.json"
