"""What `training.evaluate` is told."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from modeling_mmfusion.text_mmfusion import VIEWS
from training.evaluation.product_retrieval.metrics import DEFAULT_METRICS


@dataclass
class EvaluateArguments:
    """Which model to measure on what.

    Args:
        model: Folder or Hub id of a trained model, or of a dual encoder (CLIP, SigLIP and their kin) as it is; folder
            of any text model of sentence-transformers, dense or sparse (SPLADE); bm25; or bm25-tuned, whose k1, b and
            stemming are chosen on the catalogue's split dev.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Split to measure; queries search in this split's corpus.
        report: JSON file to write the report to; null only prints it.
        views: Views to measure, with commas between: fused (text and pictures), text, image; besides them bm25, rrf
            (reciprocal rank fusion of bm25, text and image), hybrid (fused and matching words, as the index searches)
            and oracle (each query's better one of text and image).
            A dual encoder has text, image, sum (of both, unit vectors) and sum_9_1 (.9 of the text, .1 of the image).
        metrics: Metrics, with commas between, such as ndcg@10, recall@100, mrr@10, map@10, precision@10, success@10;
            judged@10 (the share that is judged); err@1000 and rbp9@1000 (or rbp8, the persistence) are GCL's.
        batch_size: Products that go through the towers at a time.
        truncate_dim: Length of the vectors, each block's first dimensions in proportion; null for all.
        missing_images: Share of the products whose pictures are hidden, drawn at random.
        quantization: How products' vectors are stored: f32, f16, i8 (steps of 1/127) or b1 (signs alone).
        spelling: Correct misspelled words of queries to those of the corpus, as a search by one of our models does.
        ann: Search by the approximate index instead of exactly.
        judged_only: Rank each query's judged products alone, as ESCI is measured; ndcg@1000 takes whole lists. Any
            order of such a list scores high, so the view random, the mean of 100 random orders, is measured beside.
        tune_on: Catalogue on whose split dev bm25-tuned is tuned, if it is another one than the one that is measured.
        exclude: Report of training.audit; the near duplicates that it names are left out, with their judgments and the
            queries that have no other relevant product.
        run_file: File to write the rankings of the first view to, in TREC's format. White space, control characters
            and % in ids are written as in addresses (a b as a%20b).
        per_query: Parquet file to write each query's metrics and best ten products in each view to.
        examples: HTML page to write with the queries that fusion wins and loses most, with the catalogue's pictures.
        examples_by: What the page shows: gain, the queries where fusion is most above and most below the better one of
            text and image; or harm, those where it is most below text.
        examples_count: Queries of each kind to show.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    report: str | None = None
    views: list[str] = field(default_factory=lambda: list(VIEWS))
    metrics: list[str] = field(default_factory=lambda: list(DEFAULT_METRICS))
    batch_size: PositiveInt = 16
    truncate_dim: PositiveInt | None = None
    missing_images: ClosedUnitInterval = 0.0
    quantization: Literal["f32", "f16", "i8", "b1"] = "f32"
    spelling: bool = True
    ann: bool = False
    judged_only: bool = False
    tune_on: str | None = None
    exclude: str | None = None
    run_file: str | None = None
    per_query: str | None = None
    examples: str | None = None
    examples_by: Literal["gain", "harm"] = "gain"
    examples_count: PositiveInt = 12


@dataclass
class SheetArguments:
    """What to draw.

    Args:
        model: Folder of a trained model, or its Hub id.
        data: Catalogue: a folder or Hub dataset id in the retrieval layout.
        split: Split to search in.
        output: Picture to write (PNG, SVG or PDF); null is results.png beside the model.
        queries: How many queries; those on which the fused view gains most over either other one.
        k: Results a query and view.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    output: str | None = None
    queries: int = 4
    k: int = 4
