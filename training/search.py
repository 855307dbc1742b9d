"""Searches an index: a query on the command line, ranked products with scores, and why.

    python -m training.search "green striped mug"
    python -m training.search "green striped mug" --where "price=5..20; category=mugs|cups; in_stock=true" --hybrid
    python -m training.search --image mug.jpg                       # products that look like this
    python -m training.search "but in red" --image mug.jpg --json
    python -m training.search --queries queries.txt > answers.jsonl   # a query a line, an answer a line

The run folder holds model/ and index/. Only the query tower is loaded, unless a picture is searched for; with --tower
int8 the 8-bit one that `training.export --quantize-query int8` wrote.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from tqdm.auto import tqdm

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.index_mmfusion import ProductIndex, SearchResult
from modeling_mmfusion.processing_mmfusion import load_picture
from modeling_mmfusion.query_mmfusion import MMFusionQueryModel
from training.common.cli import run
from training.common.errors import DataError, Problems
from training.common.files import check_whole, existing_file
from training.features.backends import OnnxTowers
from training.features.fingerprints import stored_fingerprint
from training.features.models import check_model_name, load_model

BATCH_SIZE = 64


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
        where: Conditions that products must fulfil, with ; between: column=value, column=one|another or
            column=low..high; for example "price=5..20; brand=Harrow Lane; in_stock=true".
        hybrid: Join the ranking with one by words (BM25), which knows model numbers; the index needs --words.
        queries: File of queries instead of one, a query a line, or JSON lines with text and perhaps _id; prints JSON
            lines.
        width: How widely the graph is searched: more finds more and takes longer; what was chosen for the index if not
            given.
        tower: The query tower: torch, or onnx or int8 of model/onnx, which training.export wrote.
    """

    query: str = ""
    run: str = "runs/quickstart"
    k: PositiveInt = 10
    json: bool = False
    image: str | None = None
    image_weight: ClosedUnitInterval = 0.5
    where: str | None = None
    hybrid: bool = False
    queries: str | None = None
    width: PositiveInt | None = None
    tower: Literal["torch", "onnx", "int8"] = "torch"


class Searcher:
    """A query tower and an index that belong together.

    Args:
        run (`str` or `Path`): run folder with `model/` and `index/`. The index is mapped into memory;
            `searcher.index.refresh()` opens a newer one.
        tower (`str`, *optional*, defaults to `"torch"`): `torch`, `onnx` or `int8`; see [`SearchArguments`].

    Raises:
        DataError: if the model is missing or damaged.
        ProductIndexError: if the index is missing or damaged, or was built with another model.
    """

    def __init__(self, run: str | Path, tower: str = "torch"):
        self.folder = Path(run) / "model"
        check_model_name(self.folder)
        check_whole(self.folder)
        self.index = ProductIndex.load(Path(run) / "index", view=True)
        try:
            self.processor = MMFusionProcessor.from_pretrained(self.folder)
            if tower == "torch":
                self.tower = MMFusionQueryModel.from_pretrained(self.folder).eval()
                fingerprint = stored_fingerprint(self.folder, self.processor)
            else:
                name = "query_tower_int8" if tower == "int8" else "query_tower"
                self.tower = OnnxTowers(self.folder / "onnx", name, threads=torch.get_num_threads())
                fingerprint = self.tower.model
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder}: can't load the query tower: {' '.join(str(error).split())[:300]}"
            ) from error
        self.index.check_model(fingerprint)
        if tower == "torch":
            self.tower.config.truncate_dim = self.index.dim

    @cached_property
    def whole_model(self) -> MMFusionModel:
        """The model with its image encoder, loaded when a picture is first searched for."""
        return load_model(self.folder, device="cpu", truncate_dim=self.index.dim)[0]

    @torch.inference_mode()
    def embed(self, texts: list[str], images: list | None = None, image_weight: float = 0.5) -> np.ndarray:
        """Vectors `(queries, dim)` of texts, pictures ("like this") or both ("like this, but red").

        Args:
            texts (`list[str]`): the queries; empty ones have only a picture.
            images (`list`, *optional*): each query's picture in a form that `processor.process_products` takes, or
                `None`.
            image_weight (`float`, *optional*, defaults to 0.5): share of the picture where there is a text too.
        """
        if images is None:
            inputs = self.processor.process_queries(texts)
            if isinstance(self.tower, OnnxTowers):
                return self.tower.query_vectors(inputs)
            return self.tower.get_query_features(**inputs).pooler_output.float().numpy()
        vectors = []
        for text, image in zip(texts, images, strict=True):
            inputs = dict(self.processor.process_queries([text])) if text.strip() else {}
            if image is not None:
                pictures = self.processor.process_products([{"image": image}])
                inputs |= {name: pictures[name] for name in ("pixel_values", "image_mask")}
            output = self.whole_model.get_query_features(**inputs, image_weight=image_weight)
            vectors.append(output.pooler_output.float().numpy())
        return np.concatenate(vectors)

    def search(
        self,
        query: str,
        k: int = 10,
        where: dict[str, Any] | None = None,
        hybrid: bool = False,
        image: Any = None,
        image_weight: float = 0.5,
    ) -> tuple[list[SearchResult], dict[str, float]]:
        """The best `k` products for a query, and the share of each block in its vector (they sum to 1).

        Args:
            query (`str`): a text; may be empty if there is a picture.
            k (`int`, *optional*, defaults to 10): products.
            where (`dict`, *optional*): conditions; see [`ProductIndex.search`].
            hybrid (`bool`, *optional*, defaults to `False`): join the ranking with one by words.
            image (*optional*): a picture: path, bytes or PIL image.
            image_weight (`float`, *optional*, defaults to 0.5): share of the picture where there is a text too.
        """
        vectors = self.embed([query], None if image is None else [image], image_weight)
        results = self.index.search(vectors, k, where, [query] if hybrid else None)[0]
        return results, self.shares(vectors[0])

    def search_many(
        self, queries: list[str], k: int = 10, where: dict[str, Any] | None = None, hybrid: bool = False
    ) -> Iterator[tuple[list[SearchResult], dict[str, float]]]:
        """What [`~Searcher.search`] says of each of many texts."""
        for start in range(0, len(queries), BATCH_SIZE):
            texts = queries[start : start + BATCH_SIZE]
            vectors = self.embed(texts)
            found = self.index.search(vectors, k, where, texts if hybrid else None)
            yield from ((results, self.shares(vector)) for results, vector in zip(found, vectors, strict=True))

    def shares(self, vector: np.ndarray) -> dict[str, float]:
        """The share of each block in a query's vector."""
        if not self.index.blocks:
            return {}
        starts = np.cumsum([0, *self.index.blocks.values()])[:-1]
        return dict(zip(self.index.blocks, np.add.reduceat(vector**2, starts).tolist(), strict=True))


def main(arguments: SearchArguments) -> None:
    """Searches and prints."""
    if not arguments.queries and not arguments.query.strip() and not arguments.image:
        raise DataError("the query is empty; type what a shopper would, or give --image or --queries")
    where = parse_where(arguments.where or "")
    image = read_image(arguments.image) if arguments.image else None
    searcher = Searcher(arguments.run, arguments.tower)
    if arguments.width:
        searcher.index.width = arguments.width
    if arguments.queries:
        answer_file(searcher, arguments, where)
        return
    options = {"where": where, "hybrid": arguments.hybrid, "image": image, "image_weight": arguments.image_weight}
    results, shares = searcher.search(arguments.query, arguments.k, **options)
    if arguments.json:
        print(json.dumps(as_answer({"query": arguments.query}, results, shares)))
    else:
        print(format_results(arguments.query or arguments.image, results, shares))


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
        print(json.dumps(as_answer(query, results, shares), ensure_ascii=False))
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


def parse_where(text: str) -> dict[str, Any]:
    """Conditions of a command line; see [`SearchArguments`] and [`ProductIndex.search`].

    Raises:
        DataError: if one can't be understood.
    """
    where = {}
    for condition in filter(None, map(str.strip, text.split(";"))):
        column, equals, value = map(str.strip, condition.partition("="))
        low, dots, high = value.partition("..")
        if not (column and equals and value):
            raise DataError(f"--where {condition!r}: write column=value, column=one|another or column=low..high")
        if dots:
            where[column] = tuple(_number(bound, condition) for bound in (low, high))
        elif value.lower() in ("true", "false"):
            where[column] = value.lower() == "true"
        else:
            where[column] = [one.strip() for one in value.split("|")]
    return where


def _number(text: str, condition: str) -> float | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise DataError(f"--where {condition!r}: {text!r} is no number; write column=low..high") from None


def as_answer(query: dict[str, str], results: list[SearchResult], shares: dict[str, float]) -> dict[str, Any]:
    """A query's answer as JSON holds it."""
    return {**query, "shares": shares, "results": [asdict(found) for found in results]}


def format_results(query: str, results: list[SearchResult], shares: dict[str, float]) -> str:
    """A result list for a terminal: rank, score, title, price, id and what each block adds to the score."""
    weights = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    lines = [f"{query}   (the query weighs {weights})"]
    for rank, found in enumerate(results, start=1):
        title = str(found.product.get("title") or found.product.get("description") or "")[:60]
        price = str(found.product.get("price") or "")
        why = " ".join(f"{name} {part:+.2f}" for name, part in found.contributions.items())
        lines.append(f"{rank:3d}  {found.score:.3f}  {title:60s}  {price:>8s}  {found.product_id}  {why}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, SearchArguments, __doc__, positional="query")
