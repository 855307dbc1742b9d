"""Trains a cross-encoder to rerank: relevant products of each query against candidates that nobody judged."""

import tempfile

import datasets
import numpy as np

from training.catalogue.layout import RetrievalSplit
from training.evaluation.rankers import listing_texts


def train_reranker(encoder, split: RetrievalSplit, candidates: list[np.ndarray], options) -> int:
    """Trains a cross-encoder by binary cross-entropy, with sentence-transformers' own trainer.

    Args:
        encoder (`CrossEncoder`): of sentence-transformers, with one output; it is changed.
        split (`RetrievalSplit`): queries, products and judgments.
        candidates (`list[np.ndarray]`): rows for each query, best first.
        options ([`RerankArguments`]): `depth`, `negatives`, `epochs`, `batch_size`, `learning_rate` and `seed`.

    Returns:
        `int`: pairs of a query and a product that were trained on.

    References:
        Nogueira and Cho, Passage Re-ranking with BERT, https://huggingface.co/papers/1901.04085.
    """
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    pairs = judged_pairs(split, candidates, options.depth, options.negatives, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = CrossEncoderTrainingArguments(
            folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup_steps=0.1,
            seed=options.seed,
            save_strategy="no",
            report_to="none",
        )
        CrossEncoderTrainer(encoder, arguments, pairs, loss=BinaryCrossEntropyLoss(encoder)).train()
    return len(pairs)


def judged_pairs(
    split: RetrievalSplit, candidates: list[np.ndarray], depth: int, negatives: int, seed: int = 0
) -> datasets.Dataset:
    """Pairs of `query` and `product` with a `label`: 1 for each relevant product, 0 for those judged not relevant and
    for `negatives` a query, drawn from its best `depth` candidates that nobody judged."""
    rng, texts = np.random.default_rng(seed), listing_texts(split)
    row_of = {product: row for row, product in enumerate(split.product_ids)}
    columns: dict[str, list] = {"query": [], "product": [], "label": []}
    for query, rows in zip(split.queries, candidates, strict=True):
        judged = {row_of[product]: float(grade > 0) for product, grade in split.qrels[query["_id"]].items()}
        others = [row for row in rows[:depth].tolist() if row not in judged]
        drawn = rng.permutation(others)[:negatives].astype(int).tolist()
        labels = judged | dict.fromkeys(drawn, 0.0)
        columns["query"] += [query["text"]] * len(labels)
        columns["product"] += [texts[row] for row in labels]
        columns["label"] += list(labels.values())
    return datasets.Dataset.from_dict(columns)
