"""Finds hard negatives: products that a model ranks high for a query although nobody judged them relevant.

    python -m training.mine --model runs/quickstart/model --data data/demo_shop --output runs/negatives.parquet
    accelerate launch training/train.py --data.negatives runs/negatives.parquet --fuse.negatives_per_query 4

Among the best products of each query those are kept that score at most `max_share` of the lowest-scored relevant
one's score: nearer ones are likely relevant and only unjudged (NV-Retriever, https://huggingface.co/papers/2407.15831).
With `keep_relevant` and a better model the file holds a teacher's scores for --data.teacher.
"""

from training.common.cli import run
from training.options import MineArguments

if __name__ == "__main__":
    run("training.mine", MineArguments, __doc__)

from pathlib import Path

import pyarrow as pa

from modeling_mmfusion.index import ProductIndex
from training.catalogue.layout import load_split
from training.common.files import check_output_file
from training.features.encoder import Encoder
from training.learning.scores import COLUMNS, write_scores


def main(arguments: MineArguments) -> dict:
    """Mines, writes the file and returns how many queries got negatives and how many there are."""
    check_output_file(arguments.output, ".parquet")
    encoder = Encoder.load(arguments.model)
    split = load_split(arguments.data, arguments.split)
    products, queries = encoder.embed_products(split), encoder.embed_queries(split.query_texts)
    rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
    index = ProductIndex.build(products, pa.table({"_id": split.product_ids}))
    columns = {name: [] for name in COLUMNS}
    for query, vector, results in zip(split.queries, queries, index.search(queries, arguments.depth), strict=True):
        qrels, ids = split.qrels[query["_id"]], [result.product_id for result in results]
        scores = products[[rows[product] for product in ids]] @ vector
        relevant = [rows[product] for product, grade in qrels.items() if grade > 0]
        limit = arguments.max_share * float((products[relevant] @ vector).min())
        kept = [
            (product, float(score) * arguments.scale)
            for product, score in zip(ids, scores, strict=True)
            if arguments.keep_relevant or (product not in qrels and score <= limit)
        ]
        kept = kept if arguments.keep_relevant else kept[: arguments.count]
        columns["query-id"] += [query["_id"]] * len(kept)
        columns["corpus-id"] += [product for product, _ in kept]
        columns["score"] += [score for _, score in kept]
    write_scores(Path(arguments.output), columns)
    split.problems.report()
    report = {"queries": len(split.queries), "with": len(set(columns["query-id"])), "scores": len(columns["score"])}
    print(f"{report['scores']:,} products for {report['with']:,} of {report['queries']:,} queries: {arguments.output}")
    return report
