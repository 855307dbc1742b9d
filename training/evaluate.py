"""Measures a model on a catalogue: nDCG, recall and MRR of its fused, text-only and image-only views.

    python -m training.evaluate --model runs/quickstart/model --data data/demo_shop --split test --report report.json
    python -m training.evaluate --model bm25 --data data/demo_shop          # or bm25-tuned, on the split dev
    python -m training.evaluate --model google/siglip2-base-patch16-224 --data data/demo_shop
    python -m training.evaluate --model runs/quickstart/model --views fused,text,image,bm25,rrf,oracle
    python -m training.evaluate --model runs/esci/model --data data/esci --judged-only --metrics ndcg@1000

Search is exact unless --ann is given. Scores are compared to six decimals and ties go to the product that comes first
in the corpus.
"""

from training.common.cli import run
from training.evaluation.options import EvaluateArguments

if __name__ == "__main__":
    run("training.evaluate", EvaluateArguments, __doc__)

import time
from pathlib import Path

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import check_model_name
from modeling_mmfusion.text_mmfusion import VIEWS
from training.catalogue.layout import load_split
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.evaluation.examples import write_examples
from training.evaluation.measuring import (
    BM25,
    DUAL_VIEWS,
    SCHEMA,
    check_baseline,
    check_names,
    measure_views,
    views_of,
)
from training.evaluation.near_duplicates import read_excluded, without_products
from training.evaluation.report import (
    format_report,
    make_report,
    write_per_query,
)
from training.evaluation.trec import write_run


def main(arguments: EvaluateArguments) -> dict:
    """Measures, prints the table, writes the report and returns it."""
    started = time.perf_counter()
    views, metrics = tuple(arguments.views), tuple(arguments.metrics)
    check_names(views, metrics)
    if arguments.examples and not {"fused", "text"} <= set(views):
        raise DataError("--examples compares the fused view with others: add fused, text and image to --views")
    if arguments.run_file and views[0] == "oracle":
        raise DataError("--run-file: the oracle is no ranking; name another view first in --views")
    if arguments.judged_only and arguments.ann:
        raise DataError("--judged-only: ranks exactly; leave out --ann")
    check_baseline(arguments, views)
    if views == VIEWS and (known := views_of(arguments.model)) == tuple(DUAL_VIEWS):
        views = known
    if arguments.model not in BM25:
        check_model_name(arguments.model)
    for file, suffix in (
        (arguments.run_file, ""),
        (arguments.report, ".json"),
        (arguments.per_query, ".parquet"),
        (arguments.examples, ".html"),
    ):
        if file:
            check_output_file(file, suffix)
    excluded = read_excluded(arguments.exclude) if arguments.exclude else set()
    split = without_products(load_split(arguments.data, arguments.split, picture_queries=True), excluded)
    found = measure_views(arguments, split, views, metrics)
    report = {"schema": SCHEMA, "model": arguments.model, "data": arguments.data, "split": arguments.split}
    report |= {"dim": found.dim, "missing_images": arguments.missing_images, "quantization": arguments.quantization}
    report |= {"bm25": found.bm25} if found.bm25 else {}
    report |= {"spelling": arguments.spelling, "judged_only": arguments.judged_only, "excluded": len(excluded)}
    report |= make_report(found.values, split)
    report |= {"problems": split.problems.lines(), "environment": environment()}
    report["seconds"] = round(time.perf_counter() - started, 2)
    print(format_report(report), flush=True)
    split.problems.report()
    if arguments.report:
        write_json(Path(arguments.report), report)
    if arguments.run_file:
        ids = [query["_id"] for query in split.queries]
        rows_of = zip(ids, next(found.rankings[view] for view in found.values if view in found.rankings), strict=True)
        write_run(Path(arguments.run_file), {name: [split.product_ids[row] for row in rows] for name, rows in rows_of})
    if arguments.per_query:
        write_per_query(Path(arguments.per_query), split, found.rankings, found.values)
    if arguments.examples:
        shown = {view: values[metrics[0]] for view, values in found.values.items() if view in VIEWS}
        title = f"{arguments.model} on {arguments.data}, {arguments.split}: {metrics[0]}"
        page = {"by": arguments.examples_by, "queries": arguments.examples_count}
        write_examples(Path(arguments.examples), split, shown, found.rankings, found.shares, title, **page)
    return report
