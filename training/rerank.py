"""Ranks the best products anew with a cross-encoder, which reads query and listing together; or trains one.

    python -m training.rerank --model runs/reranker --candidates runs/quickstart/model --run-file runs/reranked.trec
    python -m training.rerank --model cross-encoder/ms-marco-MiniLM-L6-v2 --candidates runs/hybrid.trec --depth 100
    python -m training.rerank --model runs/reranker --split train --scores runs/teacher.parquet
    python -m training.rerank --model distilbert-base-uncased --split train --train --output runs/reranker

Candidates are those of a model or of a run that training.evaluate wrote (--run-file). The cross-encoder is any
CrossEncoder of sentence-transformers, by folder or Hub id, and reads a product's text alone. A catalogue is too much
for it; --scores writes what it says of the training queries' candidates, from which training.train learns
(`--data.teacher FILE --fuse.distillation_weight 1`).
"""

from training.common.cli import run
from training.options import RerankArguments

if __name__ == "__main__":
    run("training.rerank", RerankArguments, __doc__)

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import check_model_name
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.environment import environment
from training.common.files import check_folder, check_output_file, new_folder, write_json
from training.evaluation.measuring import (
    BM25,
    SCHEMA,
    MeasuredViews,
    check_names,
    depth_of,
    measure_rankings,
    rankers_of,
    views_of,
)
from training.evaluation.options import EvaluateArguments
from training.evaluation.rankers import listing_texts, load_text_model
from training.evaluation.report import format_report, make_report
from training.evaluation.statistics import paired_difference
from training.evaluation.trec import read_run, write_run
from training.learning.reranker import train_reranker
from training.learning.scores import COLUMNS, write_scores

WRITER = "training.rerank"


def main(arguments: RerankArguments) -> dict | None:
    """Reranks, prints the table, writes what was asked for and returns the report; or trains."""
    started = time.perf_counter()
    check(arguments)
    split = load_split(arguments.data, arguments.split)
    rankings = candidates_of(arguments, split)
    encoder = load_text_model(arguments.model, "CrossEncoder", num_labels=1 if arguments.train else None)
    if arguments.train:
        with new_folder(arguments.output, WRITER) as folder:
            count = train_reranker(encoder, split, rankings, arguments)
            encoder.save_pretrained(str(folder))
        split.problems.report()
        print(f"reranker: trained on {count:,} pairs: {arguments.output}", flush=True)
        return None
    if encoder.num_labels != 1:
        raise DataError(
            f"{arguments.model}: tells {encoder.num_labels} scores of a pair; give a cross-encoder with one"
        )
    found, scores = rerank(encoder, split, rankings, arguments.depth, arguments.batch_size)
    if arguments.scores:
        write_scores(Path(arguments.scores), scores)
    if arguments.run_file:
        ids = (query["_id"] for query in split.queries)
        named = {name: [split.product_ids[row] for row in rows] for name, rows in zip(ids, found, strict=True)}
        write_run(Path(arguments.run_file), named)
    views, metrics = {"candidates": rankings, "reranked": found}, tuple(arguments.metrics)
    values = {view: measure_rankings(split, rows, metrics) for view, rows in views.items()}
    report: dict[str, Any] = {"schema": SCHEMA, "model": arguments.model, "data": arguments.data}
    report |= {"split": arguments.split, "candidates": arguments.candidates, "depth": arguments.depth}
    report |= make_report(values, split)
    both = {name: paired_difference(values["reranked"][name], values["candidates"][name]) for name in metrics}
    report |= {"comparisons": {"reranked_vs_candidates": both}, "environment": environment()}
    report |= {"problems": split.problems.lines(), "seconds": round(time.perf_counter() - started, 2)}
    print(format_report(report), flush=True)
    split.problems.report()
    if arguments.report:
        write_json(Path(arguments.report), report)
    return report


def check(arguments: RerankArguments) -> None:
    """Refuses what can't work before any work is done.

    Raises:
        DataError: naming the option.
    """
    check_names(("fused",), tuple(arguments.metrics))
    if arguments.train != bool(arguments.output):
        raise DataError("--train and --output belong together: the folder for the trained model")
    written = {"run_file": "", "report": ".json", "scores": ".parquet"}
    for name, suffix in written.items():
        if file := getattr(arguments, name):
            if arguments.train:
                option = name.replace("_", "-")
                raise DataError(f"--{option}: --train only trains; call again with --model {arguments.output}")
            check_output_file(file, suffix)
    if arguments.output:
        check_folder(arguments.output, WRITER)
    if not Path(arguments.candidates).is_file() and arguments.candidates not in BM25:
        check_model_name(arguments.candidates)


def candidates_of(arguments: RerankArguments, split: RetrievalSplit) -> list[np.ndarray]:
    """Rows of the products for each query of a split, best first."""
    if Path(arguments.candidates).is_file():
        return rows_of_run(arguments.candidates, split)
    depth = max(arguments.depth, depth_of(tuple(arguments.metrics)))
    asked = EvaluateArguments(arguments.candidates, arguments.data, arguments.split)
    view = views_of(arguments.candidates)[0]
    return rankers_of(asked, split, (view,), MeasuredViews({}))[view].rank(split, depth)


def rows_of_run(file: str, split: RetrievalSplit) -> list[np.ndarray]:
    """A run's rankings as rows, in the order of the split's queries; those that it lacks are counted.

    Raises:
        DataError: if it ranks queries or products that are not in the split.
    """
    run_, row_of = read_run(file), {product: row for row, product in enumerate(split.product_ids)}
    ids = [query["_id"] for query in split.queries]
    if unknown := set(run_) - set(ids):
        raise DataError(f"{file}: query {min(unknown)} is not in {split.name}; give a run of this split")
    for query, products in run_.items():
        if unknown := set(products) - set(row_of):
            raise DataError(
                f"{file}: query {query}: product {min(unknown)} is not in {split.name}; is it another's run?"
            )
    for query in ids:
        if query not in run_:
            split.problems.add("query without candidates (counts as nothing found)", f"{file}, query {query}")
    return [np.array([row_of[product] for product in run_.get(query, [])], dtype=np.int64) for query in ids]


def rerank(
    encoder, split: RetrievalSplit, rankings: list[np.ndarray], depth: int, batch_size: int = 32
) -> tuple[list[np.ndarray], dict[str, list]]:
    """Rankings whose first `depth` products are ordered by a cross-encoder; ties stay as they were.

    Args:
        encoder (`CrossEncoder`): of sentence-transformers, with one output.
        split (`RetrievalSplit`): queries and products.
        rankings (`list[np.ndarray]`): rows for each query, best first.
        depth (`int`): products a query.
        batch_size (`int`, *optional*, defaults to 32): pairs at a time.

    Returns:
        The new rankings, and the logits of all pairs as columns for [`write_scores`].
    """
    texts, heads = listing_texts(split), [rows[:depth] for rows in rankings]
    pairs = [(query, texts[row]) for query, rows in zip(split.query_texts, heads, strict=True) for row in rows]
    options = {"batch_size": batch_size, "activation_fn": torch.nn.Identity(), "show_progress_bar": True}
    logits = encoder.predict(pairs, **options) if pairs else np.zeros(0, dtype=np.float32)
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    found, parts = [], np.split(logits, np.cumsum([len(rows) for rows in heads])[:-1])
    for query, rows, ranking, scores in zip(split.queries, heads, rankings, parts, strict=True):
        order = np.argsort(-np.round(scores, 6), kind="stable")
        found.append(np.concatenate([rows[order], ranking[depth:]]))
        columns["query-id"] += [query["_id"]] * len(rows)
        columns["corpus-id"] += [split.product_ids[row] for row in rows]
        columns["score"] += scores.tolist()
    return found, columns
