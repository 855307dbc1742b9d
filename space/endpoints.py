"""What the Space answers to programs: named endpoints with plain JSON, for `gradio_client` and plain HTTP.

Every mistake of the caller is one sentence (`AppError` in `gradio_client`).
"""

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal, TypedDict

import arguments
import gradio as gr
import numpy as np
from catalogue import MAX_RESULTS, PRESENCE, VIEWS, Catalogue, Filters, Hit, Query, VisitorError, checked_text
from gradio.data_classes import FileData
from sent_files import delete_file
from tradeoff import STORAGE, Tradeoffs
from upload import SAMPLE, Progress, Upload, preview, query_picture, read_upload
from visitors import Visitors

PLACES = ("shop", "yours")
READING = 0.2  # the share of an upload's time that goes by until its products are embedded
View, Presence, Place = Literal[VIEWS], Literal[PRESENCE], Literal[PLACES]


class Product(TypedDict):
    """A product as it is shown."""

    id: str
    title: str
    brand: str
    category: str
    price: str
    has_picture: bool


class Result(Product):
    """A product that was found; `contributions` of the blocks sum to its `score`, `ranks` are those in each view, and
    `grade` is its judgment for the query, if that has any."""

    rank: int
    score: float
    contributions: dict[str, float]
    ranks: dict[str, int]
    grade: int | None


Results = TypedDict("Results", {"ndcg@10": float | None, "results": list[Result]})


class Asked(TypedDict):
    """What was asked, the weight of each block in it, and how long it took."""

    query: str
    query_weights: dict[str, float]
    encode_ms: float
    search_ms: float


class SearchAnswer(Asked, Results):
    """The best products in one view."""


class CompareAnswer(Asked):
    """The best products in each view."""

    views: dict[str, Results]


class ExplainAnswer(TypedDict):
    """Why a product has its score; `picture_map` says how much each cell of its picture adds, from 0 to 1."""

    product: Product
    score: float
    contributions: dict[str, float]
    query_weights: dict[str, float]
    picture_map: list[list[float]] | None


class TradeoffAnswer(TypedDict):
    """What a choice of storage and length costs and saves; see [`Tradeoff`]."""

    storage: str
    dim: int
    ndcg: float | None
    queries: int
    overlap: float
    bytes_per_product: int
    milliseconds: float


class Problem(TypedDict, total=False):
    """What is wrong with rows of a file, and where it was seen first."""

    problem: str
    count: int
    line: int
    field: str
    value: str


class UploadAnswer(TypedDict):
    """What was read of a file: as what (`format`) and how (`read_as`), the column of each of the `fields`, and what is
    wrong, as sentences (`problems`) and in detail (`report`)."""

    products: int
    with_picture: int
    format: str
    read_as: str
    fields: dict[str, str]
    problems: list[str]
    report: list[Problem]


class PreviewAnswer(TypedDict):
    """How a file would be read: all `columns` of its table, the column of each of the `fields`, its first `rows` as
    they stand, and the first `products` as they would be."""

    format: str
    read_as: str
    columns: list[str]
    fields: dict[str, str]
    rows: list[dict[str, str]]
    products: list[Product]
    problems: list[str]


class SampleAnswer(TypedDict):
    """A small table as a file to fill."""

    name: str
    content: str


class ClearAnswer(TypedDict):
    """How many products of the caller were forgotten."""

    forgotten: int


def polite(function: Callable) -> Callable:
    """Turns a `VisitorError` into gradio's error, whose message the caller sees."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except VisitorError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapper


class Endpoints:
    """The Space's answers on a catalogue, or on what a visitor has uploaded in this session.

    The endpoints take what callers give, of any type, and check it; `yours` is the key by which the session's products
    are found.

    Args:
        shop (`Catalogue`): the catalogue that everybody sees.
    """

    def __init__(self, shop: Catalogue):
        self.shop = shop
        self.tradeoffs = Tradeoffs(shop)
        self.visitors = Visitors()

    def place(self, where: str, yours: Catalogue | None) -> Catalogue:
        """The catalogue that is searched: the `shop`, or `yours` of this session.

        Raises:
            VisitorError: if it is neither, or nothing was uploaded.
        """
        if where not in PLACES:
            raise VisitorError(f"Search in one of {', '.join(PLACES)}.")
        if where == "yours" and yours is None:
            raise VisitorError("You have uploaded no products yet; do that first, under 'Your products'.")
        return yours if where == "yours" else self.shop

    def chosen(self, where: Any, yours: str | None) -> Catalogue:
        """The catalogue that a program asks for.

        Raises:
            VisitorError: if there is none, or the session's products are no longer kept.
        """
        if where == "yours" and yours is None:
            raise VisitorError("You have uploaded no products yet in this session; do that first, with /upload.")
        if where == "yours":
            return self.visitors.find(yours)[1]
        return self.place(arguments.text("where", where) or "shop", None)

    def query(self, text: str | None, picture: str | None = None, picture_weight: float = 0.5) -> Query:
        """A visitor's query of words, a picture file or both.

        Raises:
            VisitorError: if there is neither, or one can't be read.
        """
        text, content = checked_text(text), query_picture(picture)
        if not text and content is None:
            raise VisitorError("Type what you are looking for, or give a picture.")
        return self.shop.encoder.query(text, content, min(max(float(picture_weight), 0.0), 1.0))

    def asked(self, query: Any, picture: Any, weight: Any = None) -> Query:
        """The query that a program gives."""
        query, picture = arguments.text("query", query), arguments.file_path("picture", picture)
        weight = arguments.number("picture_weight", weight, 0, 1)
        return self.query(query, picture, 0.5 if weight is None else weight)

    @polite
    def search(
        self,
        query: str | None = None,
        picture: FileData | None = None,
        view: View = "fused",
        k: int = 12,
        categories: list[str] | None = None,
        brands: list[str] | None = None,
        price_from: float | None = None,
        price_to: float | None = None,
        presence: Presence = "any",
        picture_weight: float = 0.5,
        where: Place = "shop",
        yours: str | None = None,
    ) -> SearchAnswer:
        """The best `k` products for a query of words, a picture or both, in one view."""
        low, high = arguments.number("price_from", price_from), arguments.number("price_to", price_to)
        if low is not None and high is not None and low > high:
            raise VisitorError(f"price_from is at most price_to, but {low:g} is more than {high:g}.")
        wanted = arguments.texts("categories", categories), arguments.texts("brands", brands)
        filters = Filters(*wanted, low, high, arguments.text("presence", presence) or "any")
        views = (arguments.choice("view", view, VIEWS, "fused"),)
        catalogue, k = self.chosen(where, yours), arguments.whole_number("k", k, 1, MAX_RESULTS, 12)
        return found(catalogue, lambda: self.asked(query, picture, picture_weight), filters, k, views)

    @polite
    def compare(
        self,
        query: str | None = None,
        picture: FileData | None = None,
        k: int = 10,
        where: Place = "shop",
        yours: str | None = None,
    ) -> CompareAnswer:
        """The same in all three views, with nDCG@10 where the query is judged."""
        catalogue, k = self.chosen(where, yours), arguments.whole_number("k", k, 1, MAX_RESULTS, 10)
        return found(catalogue, lambda: self.asked(query, picture), Filters(), k, VIEWS)

    @polite
    def similar(
        self,
        product_id: str,
        text: str | None = None,
        k: int = 12,
        weight: float = 0.5,
        where: Place = "shop",
        yours: str | None = None,
    ) -> SearchAnswer:
        """Products like one of the catalogue, or with `text` "like this, but ..."."""
        catalogue, k = self.chosen(where, yours), arguments.whole_number("k", k, 1, MAX_RESULTS, 12)
        product_id, text = arguments.id_text("product_id", product_id), arguments.text("text", text)
        share = arguments.number("weight", weight, 0, 1)
        given = {} if share is None else {"weight": share}
        return found(catalogue, lambda: catalogue.like(product_id, text, **given), Filters(), k, ("fused",))

    @polite
    def explain(
        self,
        query: str | None,
        product_id: str,
        picture: FileData | None = None,
        where: Place = "shop",
        yours: str | None = None,
    ) -> ExplainAnswer:
        """Why a product has its score: what each block adds, and the map of its picture."""
        catalogue = self.chosen(where, yours)
        row, asked = catalogue.row(arguments.id_text("product_id", product_id)), self.asked(query, picture)
        contributions = catalogue.encoder.contributions(asked.vector, catalogue.vectors["fused"][[row]])[0]
        seen = catalogue.encoder.picture_map(asked, catalogue.product_inputs(row))
        return {
            "product": shown(catalogue.products[row]),
            "score": round(sum(contributions.values()), 6),
            "contributions": contributions,
            "query_weights": asked.shares,
            "picture_map": None if seen is None else np.round(seen[1], 4).tolist(),
        }

    @polite
    def tradeoff(self, storage: Literal[tuple(STORAGE)] = "f32", dim: int | None = None) -> TradeoffAnswer:
        """Quality, memory and latency of stored vectors of a length."""
        dim = arguments.whole_number("dim", dim, 1, 10**9, self.tradeoffs.whole)
        return asdict(self.tradeoffs.measure(arguments.text("storage", storage) or "f32", dim))

    @polite
    def bring(
        self, file: FileData, columns: dict[str, str] | None = None, yours: str | None = None
    ) -> tuple[UploadAnswer, str]:
        """Reads and embeds a table or ZIP of products, which this session can then search (`where="yours"`). `columns`
        names the column of any of id, title, description, category, brand, price and image."""
        path, columns = arguments.file_path("file", file), arguments.columns("columns", columns)
        report, catalogue = self.upload(path, columns)
        yours = yours or secrets.token_hex(16)
        self.visitors.keep(yours, 1, catalogue)
        return report, yours

    @polite
    def upload(
        self, path: str | None, columns: dict[str, str] | None = None, progress: Progress | None = None
    ) -> tuple[UploadAnswer, Catalogue]:
        """Reads and embeds a table or ZIP of products, and deletes the file.

        Args:
            path (`str`): the file.
            columns (`dict[str, str]`, *optional*): the column of any of `upload.FIELDS`.
            progress (`Callable[[float], None]`, *optional*): is told the share that is done, from 0 to 1, of reading
                and embedding together.
        """
        if not path:
            raise VisitorError("Give a CSV or a ZIP of products.")
        tell = progress or (lambda share: None)
        try:
            read = read_upload(path, columns, lambda share: tell(READING * share))
        finally:
            delete_file(path)  # nothing of a visitor's is kept

        def embedding(batches: list):
            for number, batch in enumerate(batches, start=1):
                yield batch
                tell(1 - (1 - READING) * (1 - number / len(batches)))

        vectors = self.shop.encoder.products(read.products, embedding, fast=True)
        yours = own_catalogue(read, vectors, self.shop.encoder)
        report = {"products": len(yours), "with_picture": int(yours.pictured.sum()), "format": read.form}
        report |= {"read_as": read.dialect, "fields": read.fields, "problems": read.lines(), "report": read.report()}
        return report, yours

    @polite
    def preview(self, file: FileData, columns: dict[str, str] | None = None) -> PreviewAnswer:
        """How a file's columns would be read, and its first products; nothing is kept."""
        path, columns = arguments.file_path("file", file), arguments.columns("columns", columns)
        if not path:
            raise VisitorError("Give a CSV or a ZIP of products.")
        seen = preview(path, columns)
        answer = {"format": seen.form, "read_as": seen.dialect, "columns": seen.columns, "fields": seen.fields}
        return answer | {"rows": seen.rows, "products": list(map(shown, seen.products)), "problems": seen.lines()}

    @polite
    def sample(self) -> SampleAnswer:
        """A small table to fill with one's own products."""
        return {"name": "products.csv", "content": SAMPLE}

    @polite
    def clear(self, yours: str | None = None) -> tuple[ClearAnswer, None]:
        """Forgets the products of this session."""
        forgotten = 0
        if yours is not None:
            try:
                forgotten = len(self.visitors.find(yours)[1])
            except VisitorError:  # they are gone already
                forgotten = 0
            self.visitors.forget(yours)
        return {"forgotten": forgotten}, None


def own_catalogue(read: Upload, vectors: dict[str, np.ndarray], encoder) -> Catalogue:
    """A visitor's products as a catalogue that lives in their session."""
    pictures = [product.pop("image") for product in read.products]
    return Catalogue("your products", read.products, pictures.__getitem__, vectors, encoder)


def found(
    catalogue: Catalogue, make_query: Callable[[], Query], filters: Filters, k: int, views: tuple[str, ...]
) -> dict:
    """Embeds a query, searches and gives the results of each view as JSON, with how long both took."""
    begin = time.perf_counter()
    query = make_query()
    middle = time.perf_counter()
    lists = catalogue.search(query, filters, k, views)
    end = time.perf_counter()
    answer = {
        "query": query.text,
        "query_weights": query.shares,
        "encode_ms": round(1000 * (middle - begin), 2),
        "search_ms": round(1000 * (end - middle), 2),
    }
    results = {
        view: {"ndcg@10": of.ndcg, "results": [as_result(catalogue, hit) for hit in of.hits]}
        for view, of in lists.items()
    }
    return answer | (results[views[0]] if len(views) == 1 else {"views": results})


def as_result(catalogue: Catalogue, hit: Hit) -> dict:
    """One result as JSON."""
    return {
        **shown(catalogue.products[hit.row]),
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "contributions": hit.contributions,
        "ranks": hit.ranks,
        "grade": hit.grade,
    }


def shown(product: dict) -> Product:
    """A product's id and what is shown of it."""
    fields = {name: product.get(name) or "" for name in ("title", "brand", "category", "price")}
    return {"id": product["_id"], **fields, "has_picture": bool(product.get("pictured"))}
