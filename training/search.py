"""Searches an index: a query on the command line, ranked products with scores.

    python -m training.search "green striped mug"
    python -m training.search "green striped mug" --run runs/myshop --k 3 --json

The run folder holds model/ and index/.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from modeling_mmfusion.index_mmfusion import ProductIndex, SearchResult
from training.arguments import run
from training.data import DataError
from training.embedding import embed_queries, load_model, query_features
from training.feature_cache import model_fingerprint


@dataclass
class SearchArguments:
    """What to search for, and where.

    Args:
        query: What a shopper would type.
        run: Run folder with model/ and index/.
        k: How many products to show.
        json: Print JSON instead of a table.
    """

    query: str
    run: str = "runs/quickstart"
    k: int = 10
    json: bool = False


class Searcher:
    """A model and an index that belong together.

    Args:
        run (`str` or `Path`): run folder with `model/` and `index/`.

    Raises:
        DataError: if one is missing, or the index was built with another model.
    """

    def __init__(self, run: str | Path):
        self.model, self.processor = load_model(Path(run) / "model")
        self.index = ProductIndex.load(Path(run) / "index")
        if self.index.model != model_fingerprint(self.model, self.processor):
            raise DataError(f"{run}/index was built with another model than {run}/model; embed and index again")
        self.model.config.truncate_dim = self.index.dim

    def search(self, query: str, k: int = 10) -> tuple[list[SearchResult], dict[str, float]]:
        """The best `k` products for a query, and the share of each block in the query's vector (they sum to 1)."""
        vectors, weights = embed_queries(self.model, query_features(self.model, self.processor, [query], cache=False))
        shares = {name: float(weight**2) for name, weight in zip(self.model.config.blocks, weights[0], strict=True)}
        return self.index.search(vectors, k)[0], shares


def main(arguments: SearchArguments) -> None:
    """Searches and prints."""
    if not arguments.query.strip():
        raise DataError("the query is empty; type what a shopper would")
    if arguments.k < 1:
        raise DataError(f"--k must be at least 1, got {arguments.k}")
    results, shares = Searcher(arguments.run).search(arguments.query, arguments.k)
    if arguments.json:
        print(
            json.dumps({"query": arguments.query, "shares": shares, "results": [asdict(found) for found in results]})
        )
    else:
        print(format_results(arguments.query, results, shares))


def format_results(query: str, results: list[SearchResult], shares: dict[str, float]) -> str:
    """A result list for a terminal: rank, score, title, price and id a line."""
    weights = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    lines = [f"{query}   (the query weighs {weights})"]
    for rank, found in enumerate(results, start=1):
        title = str(found.product.get("title") or found.product.get("description") or "")[:60]
        price = str(found.product.get("price") or "")
        lines.append(f"{rank:3d}  {found.score:.3f}  {title:60s}  {price:>8s}  {found.product_id}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, SearchArguments, __doc__, positional="query")
