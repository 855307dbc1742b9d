"""Searches an index: a query on the command line, ranked products with scores, and why.

    python -m training.search "green striped mug"
    python -m training.search "green striped mug" --where "price=5..20; category=mugs|cups; in_stock=true"
    python -m training.search "green striped mug" --hybrid=false     # by the vectors alone
    python -m training.search --image mug.jpg                       # products that look like this
    python -m training.search "but in red" --image mug.jpg --json
    python -m training.search --queries queries.txt > answers.jsonl   # a query a line, an answer a line
    python -m training.search "green striped mug" --engine lance:runs/quickstart/products.lance

The run folder holds model/ and index/; with --engine, which searches what training.scale.engines loaded, model/ is
enough. Engines tell no contributions of the vectors' blocks, and there are no warnings of values that no product has.
Only the query tower is loaded, unless a picture is searched for; with --tower int8 the 8-bit one that
`training.export --quantize-query int8` wrote.
"""

from training.common.cli import run
from training.options import SearchArguments

if __name__ == "__main__":
    run("training.search", SearchArguments, __doc__, positional="query")


import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex, SearchResult
from modeling_mmfusion.index_filters import parse_where
from modeling_mmfusion.pictures_mmfusion import load_picture
from modeling_mmfusion.prices import price_text
from modeling_mmfusion.search import Searcher
from modeling_mmfusion.sharded import ShardedIndex
from training.common.errors import Problems
from training.scale.engine import open_engine


def main(arguments: SearchArguments) -> None:
    """Looks at what is given, opens what is searched, and answers."""
    if not arguments.queries and not arguments.query.strip() and not arguments.image:
        raise DataError("the query is empty; type what a shopper would, or give --image or --queries")
    try:
        where = parse_where(arguments.where or "")
    except DataError as error:
        raise DataError(f"--where {error}") from error
    image = read_image(arguments.image) if arguments.image else None
    if arguments.engine is None:
        answer(Searcher(arguments.run, arguments.tower, arguments.spelling), arguments, where, image)
        return
    if arguments.width:
        raise DataError("--width is of our own index; leave it out with --engine")
    with open_engine(arguments.engine) as engine:
        answer(Searcher(arguments.run, arguments.tower, arguments.spelling, engine), arguments, where, image)


def answer(searcher: Searcher, arguments: SearchArguments, where: dict[str, Any], image: Any) -> None:
    """Searches and prints."""
    if isinstance(searcher.index, ProductIndex | ShardedIndex):
        if arguments.width:
            searcher.index.width = arguments.width
        for sentence in searcher.index.unknown_values(where):
            print(f"warning: {sentence}", file=sys.stderr, flush=True)
    if arguments.queries:
        answer_file(searcher, arguments, where)
        return
    options = {"where": where, "hybrid": arguments.hybrid, "image": image, "image_weight": arguments.image_weight}
    results, shares = searcher.search(arguments.query, arguments.k, **options)
    query = asked(searcher, {"query": arguments.query})
    if arguments.json:
        print(json.dumps(as_answer(query, results, shares)))
    else:
        print(format_results(query.get("read_as") or arguments.query or arguments.image, results, shares))


def read_image(file: str):
    """A picture.

    Raises:
        DataError: naming the file, if it can't be read.
    """
    existing_file(file, "a picture")
    try:
        return load_picture(file)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error


def answer_file(searcher: Searcher, arguments: SearchArguments, where: dict[str, Any]) -> None:
    """Prints an answer a line for each query of a file, in their order; lines without a query are counted."""
    problems = Problems()
    queries = read_queries(Path(arguments.queries), problems)
    texts = [query["query"] for query in queries]
    found = searcher.search_many(texts, arguments.k, where, arguments.hybrid)
    for query, (results, shares) in zip(queries, tqdm(found, total=len(queries), unit="query"), strict=True):
        print(json.dumps(as_answer(asked(searcher, query), results, shares), ensure_ascii=False))
    for line in problems.lines():
        print(f"warning: {line}", file=sys.stderr, flush=True)


def read_queries(file: Path, problems: Problems) -> list[dict[str, str]]:
    """The queries of a file: `query`, and `_id` if the file has it.

    Raises:
        DataError: if there is none.
    """
    queries = []
    lines = (
        existing_file(file, "a file with a query a line").read_text(encoding="utf-8", errors="replace").splitlines()
    )
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if file.suffix in (".json", ".jsonl") and line.strip() else {"text": line}
            query = {"_id": str(row["_id"])} if "_id" in row else {}
            query["query"] = row["text"].strip()
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.add("line that is no JSON with text (left out)", f"{file} line {number}")
            continue
        if query["query"]:
            queries.append(query)
        else:
            problems.add("empty query (left out)", f"{file} line {number}")
    if not queries:
        raise DataError(f"{file}: holds no query; give one a line, or JSON lines with text")
    return queries


def asked(searcher: Searcher, query: dict[str, str]) -> dict[str, str]:
    """A query, and `read_as` if its spelling was corrected."""
    read_as = searcher.processor.correction(query["query"])
    return query | ({"read_as": read_as} if read_as else {})


def as_answer(query: dict[str, str], results: list[SearchResult], shares: dict[str, float]) -> dict[str, Any]:
    """A query's answer as JSON holds it."""
    return {**query, "shares": shares, "results": [asdict(found) for found in results]}


def format_results(query: str, results: list[SearchResult], shares: dict[str, float]) -> str:
    """A result list for a terminal: rank, score, title, price, id and what each block adds to the score."""
    weights = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    lines = [f"{query}   (the query weighs {weights})"]
    for rank, found in enumerate(results, start=1):
        title = str(found.product.get("title") or found.product.get("description") or "")[:60]
        price = price_text(found.product.get("price") or "")
        why = " ".join(f"{name} {part:+.2f}" for name, part in found.contributions.items())
        lines.append(f"{rank:3d}  {found.score:.3f}  {title:60s}  {price:>8s}  {found.product_id}  {why}".rstrip())
    return "\n".join(lines)
