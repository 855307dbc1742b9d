"""Looks for near duplicates of a split in those that models are trained on: what the metrics may be flattered by.

    python -m training.audit --data data/hm --report runs/hm_audit.json
    python -m training.audit --data data/ikea --against data/fashion,data/hm --report runs/ikea_audit.json
    python -m training.evaluate --model runs/hm/model --data data/hm --exclude runs/hm_audit.json

Two products are near duplicates if both their titles and their first pictures have a cosine of at least `threshold` to
an encoder; where one of them has no picture the title decides alone, and that is counted.
"""

from training.common.cli import run
from training.options import AuditArguments

if __name__ == "__main__":
    run("training.audit", AuditArguments, __doc__)

from pathlib import Path

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import prepare_for_inference
from training.catalogue.layout import RetrievalSplit, load_products, load_split, split_names
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.evaluation.near_duplicates import NearDuplicates, encoder_features, find_near_duplicates
from training.evaluation.rankers import listing_texts
from training.features.encoder import Encoder
from training.learning.options import ModelArguments
from training.learning.starting import new_model

SCHEMA = 1


def main(arguments: AuditArguments) -> dict:
    """Compares, prints counts and examples, writes the report and returns it."""
    if arguments.report:
        check_output_file(arguments.report, ".json")
    catalogues = arguments.against or [arguments.data]
    others = [(data, name) for data in catalogues for name in split_names(data) if name != arguments.split]
    if not others:
        raise DataError(f"{', '.join(catalogues)}: no split but {arguments.split}; give catalogues by --against")
    split = load_split(arguments.data, arguments.split)
    encoder = Encoder.load(arguments.model) if arguments.model else Encoder(*new_model(ModelArguments()))
    prepare_for_inference(encoder.model)
    ours, compared, near = encoder_features(encoder, split), [], []
    for data, name in others:
        other = load_products(data, name)
        found = find_near_duplicates(ours, encoder_features(encoder, other), arguments.threshold)
        counts = {"products": len(other.product_ids), "pairs": found.pairs, "by text alone": found.by_text_alone}
        counts |= {"by picture alone": found.by_picture_alone, "near duplicates": len(found.nearest)}
        compared.append({"with": other.name} | counts)
        near += described(found, split, other)
        other.problems.report()
    excluded = {pair["product"] for pair in near}
    relevant = [{name for name, score in scores.items() if score > 0} for scores in split.qrels.values()]
    touched = sum(bool(products & excluded) for products in relevant)
    report = {"schema": SCHEMA, "data": arguments.data, "split": arguments.split, "threshold": arguments.threshold}
    report |= {"model": arguments.model or "minilm, efficientnet-lite0", "n_products": len(split.product_ids)}
    report |= {"n_queries": len(split.queries), "products_with_near_duplicates": len(excluded)}
    report |= {"queries_with_near_duplicates": touched, "compared": compared, "near_duplicates": near}
    print(format_audit(report, arguments.examples), flush=True)
    split.problems.report()
    if arguments.report:
        write_json(Path(arguments.report), report | {"environment": environment()})
    return report


def described(found: NearDuplicates, split: RetrievalSplit, other: RetrievalSplit) -> list[dict]:
    """A line a product of the split: its nearest pair, by id and title, and the cosines."""
    titles, other_titles = (listing_texts(one, ("title",)) for one in (split, other))
    return [
        {
            "product": split.product_ids[row],
            "title": titles[row],
            "with": other.name,
            "of": other.product_ids[nearest],
            "of_title": other_titles[nearest],
            "text": text,
            "picture": picture,
        }
        for row, (nearest, text, picture) in found.nearest.items()
    ]


def format_audit(report: dict, examples: int) -> str:
    """Counts as a Markdown table, a row a split that was compared, and some pairs of each."""
    products, queries = report["products_with_near_duplicates"], report["queries_with_near_duplicates"]
    head = list(report["compared"][0])
    lines = [
        f"{report['data']}, {report['split']}: {products:,} of {report['n_products']:,} products have a near "
        f"duplicate, which {queries:,} of {report['n_queries']:,} queries ask for (cosine {report['threshold']})",
        "| " + " | ".join(head) + " |",
        "| --- |" + " --- |" * (len(head) - 1),
    ]
    lines += [
        "| " + " | ".join(f"{count:,}" if name != "with" else count for name, count in row.items()) + " |"
        for row in report["compared"]
    ]
    for row in report["compared"]:
        shown = [pair for pair in report["near_duplicates"] if pair["with"] == row["with"]][:examples]
        lines += [
            f"{pair['product']} {pair['title']!r:.60} is like {pair['of']} {pair['of_title']!r:.60} of {row['with']}: "
            f"text {pair['text']:.3f}, picture {pair['picture']:.3f}"
            for pair in shown
        ]
    return "\n".join(lines)
