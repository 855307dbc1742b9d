"""What the Space answers to programs: named endpoints with plain JSON, for `gradio_client` and plain HTTP.

Every mistake of the caller is one sentence (`AppError` in `gradio_client`).
"""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import asdict

import gradio as gr
import numpy as np
from catalogue import VIEWS, Catalogue, Filters, Hit, Query, VisitorError, checked_text
from tradeoff import Tradeoffs
from upload import Upload, query_picture, read_upload

PLACES = ("shop", "yours")


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

    Args:
        shop (`Catalogue`): the catalogue that everybody sees.
    """

    def __init__(self, shop: Catalogue):
        self.shop = shop
        self.tradeoffs = Tradeoffs(shop)

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

    def query(self, text: str | None, picture: str | None = None, picture_weight: float = 0.5) -> Query:
        """A visitor's query of words, a picture file or both.

        Raises:
            VisitorError: if there is neither, or one can't be read.
        """
        text, content = checked_text(text), query_picture(picture)
        if not text and content is None:
            raise VisitorError("Type what you are looking for, or give a picture.")
        return self.shop.encoder.query(text, content, min(max(float(picture_weight), 0.0), 1.0))

    @polite
    def search(
        self,
        query: str | None = None,
        picture: str | None = None,
        view: str = "fused",
        k: int = 12,
        categories: list[str] | None = None,
        brands: list[str] | None = None,
        price_from: float | None = None,
        price_to: float | None = None,
        presence: str = "any",
        picture_weight: float = 0.5,
        where: str = "shop",
        yours: Catalogue | None = None,
    ) -> dict:
        """The best `k` products for a query of words, a picture or both, in one view (`/search`)."""
        filters = Filters(categories or [], brands or [], price_from, price_to, presence)
        catalogue = self.place(where, yours)
        return found(catalogue, lambda: self.query(query, picture, picture_weight), filters, k, views_of(view))

    @polite
    def compare(
        self, query: str | None = None, picture: str | None = None, k: int = 10, where: str = "shop", yours=None
    ) -> dict:
        """The same in all three views, with nDCG@10 where the query is judged (`/compare`)."""
        return found(self.place(where, yours), lambda: self.query(query, picture), Filters(), k, VIEWS)

    @polite
    def similar(
        self,
        product_id: str,
        text: str | None = None,
        k: int = 12,
        weight: float = 0.5,
        where: str = "shop",
        yours=None,
    ) -> dict:
        """Products like one of the catalogue, or with `text` "like this, but ..." (`/similar`)."""
        catalogue = self.place(where, yours)
        weight = min(max(float(weight), 0.0), 1.0)
        return found(catalogue, lambda: catalogue.like(product_id, text, weight), Filters(), k, ("fused",))

    @polite
    def explain(
        self, query: str, product_id: str, picture: str | None = None, where: str = "shop", yours=None
    ) -> dict:
        """Why a product has its score: what each block adds, and the map of its picture (`/explain`)."""
        catalogue = self.place(where, yours)
        asked, row = self.query(query, picture), catalogue.row(product_id)
        contributions = catalogue.encoder.contributions(asked.vector, catalogue.vectors["fused"][[row]])[0]
        seen = catalogue.encoder.picture_map(asked, catalogue.product_inputs(row))
        return {
            "product": shown(catalogue, row),
            "score": round(sum(contributions.values()), 6),
            "contributions": contributions,
            "query_weights": asked.shares,
            "picture_map": None if seen is None else np.round(seen[1], 4).tolist(),
        }

    @polite
    def tradeoff(self, storage: str = "f32", dim: int | None = None) -> dict:
        """Quality, memory and latency of stored vectors of a length (`/tradeoff`)."""
        return asdict(self.tradeoffs.measure(storage, int(dim or self.tradeoffs.whole)))

    @polite
    def upload(self, file: str, progress=iter) -> tuple[dict, Catalogue]:
        """Reads and embeds a CSV or ZIP of products for this session (`/upload`)."""
        if not file:
            raise VisitorError("Give a CSV or a ZIP of products.")
        try:
            read = read_upload(file)
        finally:
            os.unlink(file)  # nothing of a visitor's is kept
        vectors = self.shop.encoder.products(read.products, progress)
        yours = own_catalogue(read, vectors, self.shop.encoder)
        pictured = int(yours.pictured.sum())
        return {"products": len(yours), "with_picture": pictured, "problems": read.lines()}, yours


def own_catalogue(read: Upload, vectors: dict[str, np.ndarray], encoder) -> Catalogue:
    """A visitor's products as a catalogue that lives in their session."""
    pictures = [product.pop("image") for product in read.products]
    return Catalogue("your products", read.products, pictures.__getitem__, vectors, encoder)


def views_of(view: str) -> tuple[str, ...]:
    """The one view that is asked for.

    Raises:
        VisitorError: if there is no such view.
    """
    if view not in VIEWS:
        raise VisitorError(f"The view is one of {', '.join(VIEWS)}.")
    return (view,)


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
        **shown(catalogue, hit.row),
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "contributions": hit.contributions,
        "ranks": hit.ranks,
        "grade": hit.grade,
    }


def shown(catalogue: Catalogue, row: int) -> dict:
    """A product's id and what is shown of it."""
    product = catalogue.products[row]
    fields = {name: product.get(name) or "" for name in ("title", "brand", "category", "price")}
    return {"id": product["_id"], **fields, "has_picture": bool(catalogue.pictured[row])}
