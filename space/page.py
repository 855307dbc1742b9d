"""What the page asks the server for: a function of what is asked alone, so that answers may come in any order.

The browser (`page.js`) holds what is typed and chosen, sends all of it with each request and shows the answer of its
newest request alone. Only what a visitor brought is kept here, by the secret key of their page.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable

import arguments
import gradio as gr
import markup
import reasons
from api import SEARCHES_AT_ONCE
from catalogue import VIEWS, Catalogue, Filters, Query, VisitorError
from endpoints import Endpoints
from pictures import data_address, with_map
from upload import TableRows, Upload, preview
from workers import Workers

LISTS = ("side", "fused")
COUNTS = (4, 8, 12, 24)
VISITOR = re.compile(r"[0-9a-f]{32}")
ALONE = ("fused",)


class Page:
    """Answers to the page in the browser.

    A request is a `dict` with any of: `q` (words), `like` (id of a product) and `but` (words), `weight` (of a picture
    or product beside words), `category` and `brand` (lists), `low` and `high` (prices), `presence`, `show` (`side`,
    `fused` or, where there are two, `models`), `k`, `where` (`shop` or `yours`), `visitor` (the secret key of a page),
    `number` (of the file brought), `id` (of a product) and `lane` (where that was found). All values are text, as in a
    page's address.

    Args:
        endpoints (`Endpoints`): what answers.
    """

    def __init__(self, endpoints: Endpoints):
        self.endpoints = endpoints
        self.shop = endpoints.shop
        self.visitors = endpoints.visitors
        self.reading: dict[str, float] = {}  # visitor to the share of their file that was read
        values = self.shop.judged_values() if self.shop.judged_texts else None
        self.means = {view: float(of.mean()) for view, of in values.items()} if values else None
        self.firsts = self.shop.judged_firsts() if values else None
        self.least_score = self.shop.least_score()
        self.lists, other = LISTS, self.shop.other
        if other is not None:
            self.lists, self.least_of_other = (*LISTS, "models"), other.least_score()
        if other is not None and values:
            self.means["other"] = float(other.judged_values()["fused"].mean())
            self.firsts["other"] = other.judged_firsts()["fused"]
        self.examples = reasons.examples(self.shop, values)

    def whole(self) -> str:
        """The search tab, with the finished comparison of the first example."""
        opening = self.search({"q": self.examples[0].text}, None)
        return markup.search_tab(self.shop, self.examples, opening["board"], opening["choices"])

    def search(self, request: dict, picture: bytes | None) -> dict[str, str]:
        """What is found, or one sentence on what is wrong.

        Returns:
            `dict`: `board` (HTML of the results), `place` (which catalogue was searched), `choices` (HTML of its
            filters; empty where the request says by `have` that the browser has them) and `like` (title of the product
            that others are to be like, or empty).
        """
        answer = {"place": "", "choices": "", "like": ""}
        try:
            place, catalogue = self.place(request)
            choices = "" if request.get("have") == place else markup.choices(catalogue)
            answer |= {"place": place, "choices": choices}
            if request.get("like"):
                answer["like"] = markup.title_of(catalogue.products[catalogue.row(str(request["like"]))])
            query = self.query(catalogue, request, picture)
            return answer | {
                "board": markup.empty_board() if query is None else self._board(catalogue, query, request, picture)
            }
        except VisitorError as error:
            return answer | {"board": markup.problem_board(str(error))}

    def _board(self, catalogue: Catalogue, query: Query, request: dict, picture: bytes | None) -> str:
        show, count, filters = request.get("show", LISTS[0]), request.get("k", str(COUNTS[1])), filters_of(request)
        if show not in self.lists or count not in map(str, COUNTS):
            lists, counts = " or ".join(self.lists), ", ".join(map(str, COUNTS))
            raise VisitorError(f"Lists are shown {lists}, with {counts} results.")
        others = self.query(self.other(catalogue), request, picture) if show == "models" else None
        begin = time.perf_counter()
        if others is not None:
            found = catalogue.search_models(query, others, filters, int(count))
        else:
            found = catalogue.search(query, filters, int(count), VIEWS if show == "side" else ALONE)
        milliseconds = 1000 * (time.perf_counter() - begin)
        is_of_words = query.picture is None and query.like is None
        fits = not is_of_words or found["fused"].hits[0].score >= self.least_score
        fits = fits or ("other" in found and found["other"].hits[0].score >= self.least_of_other)
        return markup.board(catalogue, query, found, milliseconds, fits)

    def why(self, request: dict, picture: bytes | None) -> dict[str, str]:
        """Why the product `id` was found, by the model of its `lane`, as the `drawer`'s HTML."""
        try:
            _, catalogue = self.place(request)
            model = ""
            if request.get("show") == "models":
                lane, other = "other" if request.get("lane") == "other" else "fused", self.other(catalogue)
                model, catalogue = catalogue.model_names[lane], other if lane == "other" else catalogue
            row, query = catalogue.row(str(request.get("id"))), self.query(catalogue, request, picture)
            if query is None:
                raise VisitorError("Search for something first; then its reasons can be told.")
            hit = catalogue.hit(query, row)
            seen = catalogue.encoder.picture_map(query, catalogue.product_inputs(row))
            overlay = None if seen is None else data_address(with_map(*seen))
            return {"drawer": markup.drawer(catalogue, query, row, hit, overlay, model)}
        except VisitorError as error:
            return {"drawer": markup.problem_board(str(error))}

    def bring(self, request: dict, content: bytes | None) -> dict:
        """Reads a visitor's file; `report` is HTML, and `ready` is true if there is something to search in.

        The request's `columns` names the column of any of `upload.FIELDS`, where a visitor has chosen one.
        """
        content, columns, seen = content or b"", request.get("columns"), None
        try:
            visitor, number = visitor_of(request), number_of(request.get("number"), "A file's number") or 1
            columns = arguments.columns("columns", columns)
            seen = self._preview(kept_file(content), columns)
            report, yours = self._read(visitor, kept_file(content), columns)
            self.visitors.keep(visitor, int(number), yours)
        except (VisitorError, gr.Error) as error:
            shown = markup.problem_board(getattr(error, "message", None) or str(error))
            return {"report": shown + markup.columns(seen or table_of(content)), "ready": False}
        shown = markup.upload_report(report["products"], report["with_picture"], report["problems"])
        return {"report": shown + markup.columns(seen), "ready": True}

    def _preview(self, path: str, columns: dict[str, str]) -> Upload:
        try:
            return preview(path, columns)
        finally:
            os.unlink(path)

    def _read(self, visitor: str, path: str, columns: dict[str, str]) -> tuple[dict, Catalogue]:
        def tell(share: float) -> None:
            self.reading[visitor] = share

        try:
            return self.endpoints.upload(path, columns, tell)
        finally:
            self.reading.pop(visitor, None)

    def progress(self, request: dict, _: bytes | None) -> dict:
        """The share `done` of a visitor's file that was read; `None` before its turn came."""
        return {"done": self.reading.get(str(request.get("visitor")))}

    def forget(self, request: dict, _: bytes | None) -> dict:
        """Forgets what a visitor brought."""
        self.visitors.forget(str(request.get("visitor")))
        return {}

    def place(self, request: dict) -> tuple[str, Catalogue]:
        """The catalogue that is searched, and a name that tells it from others of the visitor.

        Raises:
            VisitorError: if there is none.
        """
        if request.get("where", "shop") != "yours":
            return "shop", self.endpoints.place(request.get("where", "shop"), None)
        number, catalogue = self.visitors.find(visitor_of(request))
        return f"yours {number}", catalogue

    def other(self, catalogue: Catalogue) -> Catalogue:
        """The same products by the second model.

        Raises:
            VisitorError: if there are none, as of what a visitor brought.
        """
        if catalogue.other is None:
            raise VisitorError(
                "Your products are read by the first model alone; choose another view, or search the shop."
            )
        return catalogue.other

    def query(self, catalogue: Catalogue, request: dict, picture: bytes | None) -> Query | None:
        """What is asked for, by the catalogue's model: a product's like, a picture, words or both; `None` for nothing.

        Raises:
            VisitorError: if a part of it can't be read.
        """
        weight = number_of(request.get("weight"), "The weight")
        if request.get("like"):
            chosen = {} if weight is None else {"weight": min(max(weight, 0.0), 1.0)}
            return catalogue.like(str(request["like"]), str(request.get("but") or ""), **chosen)
        text = str(request.get("q") or "")
        if not text.strip() and picture is None:
            return None
        path = None if picture is None else kept_file(picture)
        try:
            return self.endpoints.query(text, path, 0.5 if weight is None else weight, catalogue.encoder)
        finally:
            if path is not None:
                os.unlink(path)


def filters_of(request: dict) -> Filters:
    """The filters of a request.

    Raises:
        VisitorError: if a price is no number.
    """
    lists = [request.get(name) or [] for name in ("category", "brand")]
    lists = [[str(value) for value in (of if isinstance(of, list) else [of])] for of in lists]
    prices = [number_of(request.get(name), "A price") for name in ("low", "high")]
    return Filters(*lists, *prices, str(request.get("presence") or "any"))


def number_of(value, what: str) -> float | None:
    """A number that was sent as text; `None` if it is empty.

    Raises:
        VisitorError: if it is none.
    """
    try:
        number = float(value) if value not in (None, "") else None
    except (TypeError, ValueError):
        number = float("nan")
    if number is not None and number != number:
        raise VisitorError(f"{what} is a number, such as 12.50, not {str(value)[:40]!r}.")
    return number


def visitor_of(request: dict) -> str:
    """The secret key of a visitor's page.

    Raises:
        VisitorError: if it is none.
    """
    visitor = str(request.get("visitor"))
    if not VISITOR.fullmatch(visitor):
        raise VisitorError("This page has no key of its own; load it again.")
    return visitor


def table_of(content: bytes) -> Upload:
    """The columns and first rows of a table that can't be read as products; none if it is no table."""
    try:
        table = TableRows(content)
    except ValueError:
        return Upload()
    return Upload(form="table", columns=table.columns, rows=table.head)


def kept_file(content: bytes) -> str:
    """Writes what was sent to a file that its reader deletes; returns its path."""
    with tempfile.NamedTemporaryFile(prefix="mmfusion-", delete=False) as file:
        file.write(content)
    return file.name


def server_functions(page: Page) -> list[Callable]:
    """The page's answers as `gr.HTML` takes them: each waits in a line of its own, so that heavy work holds no search
    up, and answers its own caller, so that none is lost or taken for another."""
    few, pictures = Workers(2, 400), Workers(2, 100)
    lines = {
        "search": (Workers(SEARCHES_AT_ONCE, 400), pictures),
        "why": (Workers(2, 100), None),
        "bring": (Workers(1, 200, patient=True), None),
        "progress": (few, None),
        "forget": (few, None),
    }

    def in_line(name: str, workers: Workers, with_file: Workers | None) -> Callable:
        async def answer(sent):
            request, content = unpacked(sent)
            line = workers if content is None else with_file or workers
            return await line.run(getattr(page, name), request, content)

        answer.__name__ = name
        return answer

    return [in_line(name, *of) for name, of in lines.items()]


def unpacked(sent) -> tuple[dict, bytes | None]:
    """The request and the content of the file, if there is one, of what the browser sent."""
    if isinstance(sent, dict):
        return sent, None
    try:
        request = json.loads(sent.data["request"])
        return request if isinstance(request, dict) else {}, sent.files[0][1] if sent.files else None
    except (AttributeError, KeyError, TypeError, ValueError):  # not from our page
        return {}, None
