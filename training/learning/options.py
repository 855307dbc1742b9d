"""A training's recipe: what it learns from, from what model, in which stages."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat

from training.common.cli import BatchSize, Count, Finite, PositiveCount, Processes, Rank, Seed


@dataclass
class DataArguments:
    """Which catalogue to train on.

    Args:
        path: Folder or Hub dataset id in the retrieval layout (corpus, queries, qrels), or several with commas
            between.
        train_split: Split to train on.
        dev_split: Split to measure on after each epoch; the last epoch that is not clearly worse there, on average
            over the catalogues, than the best before it is kept. Without it, with null or where a catalogue has no
            split dev, the last epoch is kept and nothing is calibrated.
        modality: Train on text and pictures (both), or as if products had only their text or only their picture.
        negatives: Parquet file of training.mine, or several with commas between, one a catalogue: products that the
            model wrongly takes for relevant. Judgments with score 0 are hard negatives as well.
        teacher: Parquet file of a teacher's scores in the same form, for the distillation.
        mixed: Mix the catalogues within a batch; else each batch is of one catalogue.
    """

    path: list[str] = field(default_factory=lambda: ["data/demo_shop"])
    train_split: str = "train"
    dev_split: str | None = "dev"
    modality: Literal["both", "text", "image"] = "both"
    negatives: list[str] = field(default_factory=list)
    teacher: list[str] = field(default_factory=list)
    mixed: bool = False


@dataclass
class ModelArguments:
    """Where the model starts from.

    Args:
        text: Text encoder: minilm (a wheel, no Hub needed), a folder or a Hub id such as intfloat/e5-small-v2.
        vision: Image encoder: efficientnet-lite0 (a wheel), a folder or a Hub id such as
            google/siglip2-base-patch16-224.
        query: The query tower's own text encoder; null shares the product tower's.
        aligned: Dual encoder whose texts and pictures share a space (CLIP, SigLIP, SigLIP 2 and their kin), in place
            of text and vision: a folder or a Hub id such as google/siglip2-base-patch16-224.
        config: Fields of MMFusionConfig to set, such as {image_dim: 256}.
        processor: Arguments of MMFusionProcessor to set, such as {query_prefix: "query: "}.
        start: Model folder or Hub id to go on from, such as an earlier stage's; the others are then not read.
        encoders: Model folder or Hub id whose encoders, fine-tuned by an earlier stage, get new heads; it has to be
            made of the same encoders as this one.
    """

    text: str = "minilm"
    vision: str = "efficientnet-lite0"
    query: str | None = None
    aligned: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    encoders: str | None = None


@dataclass
class LoraArguments:
    """Low-rank adapters of the encoders, for stages that train these with `lora`.

    Args:
        rank: Rank of the adapters.
        alpha: Their scale is alpha / rank.
        dropout: Dropout before them; on a CPU it takes a fifth of the time.
        targets: Regular expression of the names of the layers, below an encoder, that get one.
    """

    rank: Rank = 16
    alpha: PositiveCount = 32
    dropout: ClosedUnitInterval = 0.0
    targets: str = (
        r".*\.(query|key|value|dense|[qkv]_proj|out_proj|fc1|fc2|qkv|proj|Wqkv|Wi|Wo|conv_pwl?|(expand|project)_conv)"
    )


Training = Literal["frozen", "lora", "full"]


@dataclass
class StageArguments:
    """One training stage: what is trained, on which losses, and the schedule. The heads are always trained.

    Args:
        epochs: Passes over the queries; 0 leaves the stage out.
        text: The text encoders are frozen, trained through low-rank adapters (lora), or trained (full). What a
            frozen encoder says is computed once and kept.
        vision: The same of the image encoder.
        fused_weight: Weight of the loss of queries against fused products.
        text_view_weight: Weight of the loss of queries against products seen as text alone.
        image_view_weight: Weight of the loss of queries against products seen as pictures alone.
        title_image_weight: Weight of the loss of titles, taken for queries, against the products' pictures.
        matryoshka_weight: Weight of the loss of vectors truncated to each of the model's matryoshka_dims.
        distillation_weight: Weight of the divergence from the scores of --data.teacher.
        loss: infonce compares each query with all products of the batch; sigmoid asks of each pair alone.
        directions: Queries against products and products against queries (both), or only the first (query).
        logq: Correct for popular products being drawn into batches more often.
        score_margin: Products that score within this margin of a query's best relevant one are not taken for
            negatives; null takes all that are not judged relevant, nor copies of one that is.
        positives_per_query: Relevant products drawn for a query in an epoch, the better graded ones more often.
        negatives_per_query: Hard negatives drawn for a query in a batch.
        topical_share: Share of the batches that are made of like queries, whose products are each other's hard
            negatives; the others are drawn at random.
        batch_size: Query-product pairs in a batch, over all processes, at least one for each; each is compared with
            all products of the batch. Gradient accumulation would add no negatives: to fit a big batch into memory use
            gradient_cache.
        chunk_size: Products that run through trained encoders at a time, those of like length together.
        gradient_cache: Keep the activations of one chunk at a time, by running the encoders twice.
        learning_rate: Peak learning rate of AdamW, reached after warm-up and then lowered along a cosine.
        tower_learning_rate: The same of the encoders.
        warmup: Share of the steps that warms up.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        ema: Decay a step of an average of the weights, which is what is measured and kept; 0 keeps the weights.
        patience: Stop after this many epochs without a better one; 0 never stops early.
        trained_share: Share of the trained weights in the saved ones, the rest are those from before the stage
            (WiSE-FT); less than 1 trades some quality on these catalogues for some elsewhere.
    """

    epochs: Count = 0
    text: Training = "frozen"
    vision: Training = "frozen"
    fused_weight: Finite = 1.0
    text_view_weight: Finite = 0.5
    image_view_weight: Finite = 0.4
    title_image_weight: Finite = 0.0
    matryoshka_weight: Finite = 0.5
    distillation_weight: Finite = 0.0
    loss: Literal["infonce", "sigmoid"] = "infonce"
    directions: Literal["both", "query"] = "both"
    logq: bool = False
    score_margin: Finite | None = None
    positives_per_query: PositiveCount = 4
    negatives_per_query: Count = 0
    topical_share: ClosedUnitInterval = 0.75
    batch_size: BatchSize = 256
    chunk_size: PositiveCount = 64
    gradient_cache: bool = False
    learning_rate: Finite = 1e-3
    tower_learning_rate: Finite = 1e-4
    warmup: ClosedUnitInterval = 0.05
    weight_decay: Finite = 0.01
    max_grad_norm: PositiveFloat = 1.0
    ema: ClosedUnitInterval = 0.0
    patience: Count = 0
    trained_share: ClosedUnitInterval = 1.0


def domain_stage() -> StageArguments:
    """Titles against pictures and queries against texts."""
    return StageArguments(fused_weight=0.0, text_view_weight=1.0, image_view_weight=0.0, title_image_weight=1.0)


def align_stage() -> StageArguments:
    """Queries against texts and, apart, against pictures."""
    return StageArguments(fused_weight=0.0, text_view_weight=1.0, image_view_weight=1.0)


def fuse_stage() -> StageArguments:
    """Queries against fused products, the other losses kept at a lower weight."""
    return StageArguments(epochs=12)


@dataclass
class TrainArguments:
    """A training recipe: up to three stages in this order, each of which starts from what the one before left.

    Args:
        data: Which catalogue to train on.
        model: Where the model starts from.
        lora: Low-rank adapters.
        domain: Fine-tunes the encoders to the domain: titles against pictures, queries against texts.
        align: Brings queries, product texts and product pictures, each alone, into one space.
        fuse: Aligns queries with fused products.
        output: Run folder; null is runs/ and the catalogue's name. It gets config.yaml, environment.json,
            metrics.jsonl, training.png, a model folder for each stage before the last (domain/, align/), model/ and,
            with low-rank adapters, adapter/.
        seed: Seed of everything random.
        workers: Processes that read pictures ahead, for stages that train the image encoder.
        checkpoint_minutes: Minutes between checkpoints, from which the same command goes on after a crash.
        tracker: Also log to tensorboard, trackio or wandb, whichever is installed.
    """

    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    lora: LoraArguments = field(default_factory=LoraArguments)
    domain: StageArguments = field(default_factory=domain_stage)
    align: StageArguments = field(default_factory=align_stage)
    fuse: StageArguments = field(default_factory=fuse_stage)
    output: str | None = None
    seed: Seed = 0
    workers: Processes = 0
    checkpoint_minutes: NonNegativeFloat = 10.0
    tracker: Literal["tensorboard", "trackio", "wandb"] | None = None
