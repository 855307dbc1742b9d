"""What the commands at the top are told; see each one's `--help`."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from training.common.cli import Seed
from training.evaluation.product_retrieval.metrics import DEFAULT_METRICS


@dataclass
class AuditArguments:
    """What to compare with what.

    Args:
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Its split that is measured.
        against: Catalogues whose other splits it is compared with, with commas between; by default its own.
        model: Model folder or Hub id whose encoders are to compare; null takes minilm and efficientnet-lite0.
        threshold: Least cosine of near duplicates, of titles and of pictures.
        examples: Pairs to show for each of the other splits.
        report: JSON file to write; `training.evaluate --exclude` takes it.
    """

    data: str = "data/demo_shop"
    split: str = "test"
    against: list[str] = field(default_factory=list)
    model: str | None = None
    threshold: ClosedUnitInterval = 0.97
    examples: NonNegativeInt = 5
    report: str | None = None


@dataclass
class IndexArguments:
    """Which vectors to index.

    Args:
        vectors: Folder that training.embed wrote.
        output: Folder for the index; null is index/ beside the vectors.
        dtype: How the graph stores vectors: f32, bf16, f16, i8 or b1 (signs alone). Scores are exact with any.
        words: Index the products' words too (BM25), which searches count beside the vectors.
        threads: Threads to build with; 0 for one a core. More than one build a little differently each time.
        sync: Bring the index in the output folder up to date: products that are new, changed or gone.
        recall: Share of the best ten products that searches shall find; how wide they are is measured, and again by
            --sync where more than a fifth of the products changed.
        compact: Drop what is left of removed products from the index in the output folder, and do nothing else; it is
            done by itself where more than half of the rows are free, and some thousand.
        queries: File of queries' vectors (.npy) to measure that with, some hundred; null is those of the catalogue's
            own that training.embed left beside the products' or, where it has fewer than 50, made ones.
        shards: Build the index in that many parts, which hosts of their own may serve and which are searched as one; a
            product's id decides which it is in. --sync and --compact find out by themselves how many there are.
        shard: Build one of them alone, such as 0/4 for the first of four, as on a machine that serves it.
    """

    vectors: str = "runs/quickstart/vectors"
    output: str | None = None
    dtype: Literal["f32", "bf16", "f16", "i8", "b1"] = "i8"
    words: bool = True
    threads: NonNegativeInt = 1
    sync: bool = False
    recall: ClosedUnitInterval = 0.99
    queries: str | None = None
    compact: bool = False
    shards: PositiveInt | None = None
    shard: str | None = None


@dataclass
class JudgeArguments:
    """What to do, and what it needs.

    Args:
        step: One of pool, page, ask, agree and result.
        output: Folder of the judging, where each step finds the pool and writes its own files.
        data: Catalogue in the retrieval layout (pool).
        split: Its split (pool).
        systems: What finds products, with commas between: files of rankings in TREC's format, as training.evaluate
            --run-file writes them, or models as it measures them: bm25, minilm, folders or Hub ids (pool).
        queries: How many queries are drawn, of each slice in proportion (pool).
        depth: How many products of each ranking are judged (pool).
        seed: Of the drawing and of the order of products (pool).
        endpoint: Address of a server, to which /chat/completions is added (ask).
        model: The model's name there (ask).
        pictures: Show the model the products' first pictures (ask).
        together: Products of one query in a request (ask).
        parallel: Requests at a time (ask).
        grades: CSV files of grades, with commas between; qrels are the catalogue's own judgments of the pool, unjudged
            ones as 0 (agree: two, result: any number).
    """

    step: str
    output: str = "runs/judging"
    data: str = "data/demo_shop"
    split: str = "test"
    systems: list[str] = field(default_factory=list)
    queries: PositiveInt = 200
    depth: PositiveInt = 10
    seed: Seed = 0
    endpoint: str = ""
    model: str = ""
    pictures: bool = False
    together: PositiveInt = 1
    parallel: PositiveInt = 4
    grades: list[str] = field(default_factory=list)


@dataclass
class MineArguments:
    """Which model looks where.

    Args:
        model: Model folder or Hub id.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Its split; that of the training.
        output: Parquet file with the columns query-id, corpus-id and score.
        depth: Products that are looked at for a query.
        count: Most hard negatives of a query.
        max_share: A negative's score is at most this share of that of the lowest-scored relevant product.
        keep_relevant: Keep all products that were looked at, the relevant ones as well: a teacher's scores.
        scale: What scores are multiplied by; a teacher's are logits.
    """

    model: str
    data: str
    output: str
    split: str = "train"
    depth: PositiveInt = 100
    count: PositiveInt = 10
    max_share: ClosedUnitInterval = 0.95
    keep_relevant: bool = False
    scale: PositiveFloat = 1.0


DEMO_SHOP = "data/demo_shop"


RECIPE = "training/recipes/quickstart.yaml"


@dataclass
class QuickstartArguments:
    """Which catalogue, and where the results go.

    Args:
        data: Catalogue: a folder or Hub dataset id in the retrieval layout. The demo shop is drawn if it is not there.
        output: Run folder; null is runs/quickstart for the demo shop, else runs/ and the catalogue's name. It gets
            model/, vectors/, index/, report.json, results.png and config.yaml.
        recipe: Training recipe.
        seed: Seed of the training, and of the demo shop if it is drawn.
    """

    data: str = DEMO_SHOP
    output: str | None = None
    recipe: str = RECIPE
    seed: Seed = 0


@dataclass
class RerankArguments:
    """What to rank anew, with what.

    Args:
        model: Folder or Hub id of a CrossEncoder of sentence-transformers with one output; with --train of any text
            encoder of transformers as well.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Split whose queries and products are ranked.
        candidates: A run in TREC's format, or a model as training.evaluate takes it, of which its first view counts:
            fused, the text of a text model, bm25.
        depth: Candidates of a query that are ranked anew; those below follow as they were.
        metrics: Metrics, with commas between.
        batch_size: Pairs at a time.
        run_file: File to write the new rankings to, in TREC's format.
        report: JSON file to write the report to.
        scores: Parquet file for the logits of all pairs, for --data.teacher of training.train.
        train: Train the model on the split instead, by binary cross-entropy on the relevant products of each query
            and on candidates that nobody judged.
        output: Folder for the trained model.
        epochs: Passes over the pairs.
        negatives: Candidates a query that count as not relevant.
        learning_rate: Peak learning rate; it warms up over a tenth of the steps.
        seed: Seed of everything random in the training.
    """

    model: str
    data: str = "data/demo_shop"
    split: str = "test"
    candidates: str = "bm25"
    depth: PositiveInt = 50
    metrics: list[str] = field(default_factory=lambda: list(DEFAULT_METRICS))
    batch_size: PositiveInt = 32
    run_file: str | None = None
    report: str | None = None
    scores: str | None = None
    train: bool = False
    output: str | None = None
    epochs: PositiveInt = 1
    negatives: PositiveInt = 4
    learning_rate: PositiveFloat = 2e-5
    seed: Seed = 0


@dataclass
class SearchArguments:
    """What to search for, and where.

    Args:
        query: What a shopper would type.
        run: Run folder with model/ and index/.
        k: How many products to show.
        json: Print JSON instead of a table.
        image: A picture to search by, alone or with a query.
        image_weight: Share of the picture where there is a query too.
        where: Conditions that products must fulfil, with ; between: column=value, column=one|another,
            column=low..high, column<number or column>=number; for example "price=5..20; brand=Harrow Lane;
            in_stock=true". Letter case does not count, and a category finds those below it: "category=Home > Kitchen".
        spelling: Correct misspelled words to those of the products, if the index has words; the answer tells.
        hybrid: Let matching words (BM25) count too, if the index has words: they find titles and model numbers.
        queries: File of queries instead of one, a query a line, or JSON lines with text and perhaps _id; prints JSON
            lines.
        width: How widely the graph is searched: more finds more and takes longer; what was chosen for the index if not
            given.
        tower: The query tower: torch, or onnx or int8 of model/onnx, which training.export wrote.
        engine: Address of an engine to search in place of index/, such as lance:products.lance; see
            training/scale/engine.py. Words count where the engine has hybrid search.
    """

    query: str = ""
    run: str = "runs/quickstart"
    k: PositiveInt = 10
    json: bool = False
    image: str | None = None
    image_weight: ClosedUnitInterval = 0.5
    where: str | None = None
    hybrid: bool = True
    spelling: bool = True
    queries: str | None = None
    width: PositiveInt | None = None
    tower: Literal["torch", "onnx", "int8"] = "torch"
    engine: str | None = None


@dataclass
class StylesArguments:
    """Which queries to restyle.

    Args:
        data: Catalogue: a folder or Hub dataset id in the retrieval layout, in English.
        split: Split to read and write.
        output: Folder to write; it has this split alone, with the same products.
        queries: Most queries of a style.
        seed: Seed of all choices.
    """

    data: str = "data/demo_shop"
    split: str = "test"
    output: str = "data/demo_shop_styles"
    queries: PositiveInt = 300
    seed: Seed = 0


@dataclass
class FollowArguments:
    """What to follow, and where to apply it.

    Args:
        source: JSONL file of events that grows, or a folder of such files.
        run: Run folder with model/ and index/; gets follow/ with facts, one folder an engine.
        engine: Address of an engine to apply events to, in place of the index; see training/scale/engine.py.
        images: Folder that pictures' paths are relative to; null is that of the source.
        once: End at the end of the stream, and don't wait for more.
        batch: Most events that are applied together.
        seconds: Longest time that an event waits for others of its batch.
        save_seconds: Time from a save of the index to the next, which searches see. Of 100,000 products it takes under
            a second, and 10 where texts changed, for then all words are indexed anew.
        batch_tokens: As of training.embed; 1, with --batch_pictures 1, makes vectors that don't depend in their last
            bit on what else is embedded, and takes twice as long.
        batch_pictures: As of training.embed.
    """

    source: str
    run: str = "runs/quickstart"
    engine: str | None = None
    images: str | None = None
    once: bool = False
    batch: PositiveInt = 1024
    seconds: NonNegativeFloat = 1.0
    save_seconds: NonNegativeFloat = 60.0
    batch_tokens: PositiveInt | None = None
    batch_pictures: PositiveInt | None = None
