"""What the page shows, as HTML: results side by side, one product's reasons, readouts, empty and error states.

The markup is in page.html, whose macros escape all that comes from a catalogue, a visitor or a model.
"""

from pathlib import Path

from catalogue import CUTOFF, VIEWS, Catalogue, Found, Hit, Query
from jinja2 import Environment, FileSystemLoader
from reasons import Example, missed, sentence
from tradeoff import Tradeoff
from upload import FIELDS, HELP, SAMPLE, Upload

VIEW_NAMES = {"fused": "Fused", "text": "Text only", "image": "Pictures only"}
VIEW_NOTES = {
    "fused": "reads the listing, looks at the picture",
    "text": "the same model, blind to pictures",
    "image": "the same model, unable to read",
}
MISSED = {"text": "missed by text", "image": "missed by pictures", "fused": "not in fused"}
BLOCK_NAMES = {"text": "text", "lexical": "words", "image": "picture", "cross": "both together"}
BLOCK_NAMES |= {"aligned": "words to picture", "fused": "vector"}

PLAIN_HELP = HELP.replace("*", "").replace("`", "")

environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
environment.globals |= {"views": VIEWS, "view_names": VIEW_NAMES}
environment.globals |= {"block_names": BLOCK_NAMES, "cutoff": CUTOFF}
page = environment.get_template("page.html").module


def intro(catalogue: Catalogue, firsts: dict[str, float] | None, means: dict[str, float] | None) -> str:
    """The page's head: what this is, how often the right product comes first, and on demand how that was measured.

    Args:
        catalogue (`Catalogue`): the shop.
        firsts (`dict[str, float]` or `None`): each view's share of judged queries whose first result is right, and
            that of the fused results of the `other` model, if there is one.
        means (`dict[str, float]` or `None`): the same of the mean nDCG@10.
    """
    tens = {view: round(10 * share) for view, share in (firsts or {}).items()}
    judged = (len(catalogue.judged_texts), int(catalogue.measured.sum()))
    models = catalogue.model_names if catalogue.other is not None else None
    return str(page.intro(catalogue.name, len(catalogue), tens, firsts, means, *judged, models))


def search_tab(catalogue: Catalogue, examples: list[Example], board: str, choices: str) -> str:
    """The search tab: box, examples, filters, the opening results and an empty drawer."""
    models = list(catalogue.model_names.values()) if catalogue.other is not None else []
    return str(page.search_tab(catalogue.name, examples, board, choices, PLAIN_HELP, SAMPLE, models))


def choices(catalogue: Catalogue) -> str:
    """The filters of a catalogue: its categories and brands with their numbers of products, and its highest price."""
    return str(page.choices(catalogue.values("category"), catalogue.values("brand"), catalogue.highest_price))


def empty_board() -> str:
    """What is shown where nothing is asked for."""
    return str(page.empty_board())


def problem_board(message: str) -> str:
    """What went wrong and what to do, in place of results."""
    return str(page.problem_board(message))


def board(catalogue: Catalogue, query: Query, views: dict[str, Found], milliseconds: float, fits: bool = True) -> str:
    """Result lists side by side, row by row, or one alone: those of views, or of two models.

    Args:
        catalogue (`Catalogue`): where the results are from.
        query (`Query`): what was asked.
        views (`dict[str, Found]`): view to its results; `other` are those of the second model.
        milliseconds (`float`): how long the search took, once the query was a vector.
        fits (`bool`, *optional*, defaults to `True`): `False` if nothing fits the query well; then that is said, and
            the lists are shown on demand.
    """
    like = title_of(catalogue.products[catalogue.rows[query.like]]) if query.like else ""
    names = catalogue.model_names if "other" in views else None
    lanes = [
        {
            "view": view,
            "name": (names or VIEW_NAMES)[view],
            "note": "" if names else VIEW_NOTES[view],
            "ndcg": found.ndcg,
            "right": _right(catalogue, query, found),
            "cards": [_card(catalogue, view, hit, views, names) for hit in found.hits],
        }
        for view, found in views.items()
    ]
    said = missed(catalogue, query, views) if fits else ""
    facts = (catalogue.name, len(catalogue), milliseconds, fits)
    return str(page.board(query, like, said, shares_of(query.shares), lanes, *facts))


def _right(catalogue: Catalogue, query: Query, found: Found) -> str:
    """How many of the products that are judged right a list shows, in words; empty for a query without judgments."""
    total = sum(grade >= catalogue.right for grade in (catalogue.grades(query) or {}).values())
    ranks = [hit.rank for hit in found.hits if _judgment(catalogue, hit) == "right"]
    if total == 1:
        return f"right one at {ranks[0]}" if ranks else "right one missed"
    return f"{len(ranks)} of {total} right ones" if total else ""


def _card(catalogue: Catalogue, view: str, hit: Hit, views: dict[str, Found], names: dict[str, str] | None) -> tuple:
    """What the macro `card` takes: a result, how it was judged, how it differs from other views, its bar's width."""
    width = min(100 * max(hit.score, 0) / max(views[view].hits[0].score, 1e-9), 100)
    return _shown(catalogue, hit.row, hit), hit, _judgment(catalogue, hit), marks(view, hit, views, names), width


def _judgment(catalogue: Catalogue, hit: Hit) -> str:
    """A result's judgment in a word; empty if there is none or it is not relevant."""
    return "" if not hit.grade else "right" if hit.grade >= catalogue.right else "near"


def _shown(catalogue: Catalogue, row: int, hit: Hit) -> dict:
    """What a card and a drawer show of a product."""
    product = catalogue.products[row]
    found = {"id": product["_id"], "title": title_of(product), "price": str(product.get("price") or "")}
    return found | {"thumbnail": catalogue.thumbnail(row), "shares": shares_of(hit.contributions)}


def marks(
    view: str, hit: Hit, views: dict[str, Found], names: dict[str, str] | None = None
) -> list[tuple[str, str, str]]:
    """How a result differs from the lists of the other views, or of the other one of two models with these `names`: a
    CSS class, words, and its ranks in full."""
    lists = {name: {other.row for other in of.hits} for name, of in views.items() if name != view}
    without = [name for name, rows in lists.items() if hit.row not in rows]
    if names is not None:
        return [("new", f"missed by {names[name]}", f"#{hit.ranks[name]} by {names[name]}") for name in without]
    ranks = ", ".join(f"#{hit.ranks[name]} {VIEW_NAMES[name].lower()}" for name in without)
    if view != "fused":
        return [("away", MISSED["fused"], ranks)] if "fused" in without else []
    if len(without) == 2:
        return [("new", "found by fusion alone", ranks)]
    return [("new", MISSED[name], ranks) for name in without]


def title_of(product: dict) -> str:
    """A product's title, or what stands in for it."""
    return str(product.get("title") or product.get("description") or product["_id"])[:120]


def shares_of(parts: dict[str, float]) -> dict[str, float]:
    """The share of each block; parts below zero add nothing."""
    total = sum(max(value, 0) for value in parts.values()) or 1
    return {name: max(value, 0) / total for name, value in parts.items()}


def drawer(catalogue: Catalogue, query: Query, row: int, hit: Hit, overlay: str | None, model: str = "") -> str:
    """One product's reasons: a sentence, its picture with the map, what to search for next, and the numbers. Where one
    of two models is explained, `model` is its name."""
    product = catalogue.products[row]
    facts = [str(product[name]) for name in ("brand", "category", "price") if product.get(name)]
    ranks = ", ".join(f"#{hit.ranks[view]} {VIEW_NAMES[view].lower()}" for view in VIEWS)
    ranks = f"By {model}: {ranks}" if model else ranks
    judged = {None: "", "": "Judged not relevant. ", "near": "Judged near. ", "right": "Judged right. "}
    judged = judged[None if hit.grade is None else _judgment(catalogue, hit)]
    description = str(product.get("description") or "")[:600]
    shown = _shown(catalogue, row, hit)
    said = sentence(catalogue, query, hit)
    return str(page.drawer(shown, said, description, facts, query.shares, hit, ranks, judged, overlay))


def upload_report(count: int, pictured: int, lines: list[str]) -> str:
    """What was read of a visitor's file and what was not."""
    return str(page.upload_report(count, pictured, lines[:12]))


def columns(read: Upload) -> str:
    """The column that each field of a visitor's table was read from, with its first value, to choose others; empty
    where the form of the file says it."""
    if read.form != "table" or not read.columns:
        return ""
    first = read.rows[0] if read.rows else {}
    rows = [(name, read.fields.get(name, ""), first.get(read.fields.get(name), "")) for name in FIELDS]
    return str(page.columns(rows, read.columns))


def tradeoff(found: Tradeoff, whole: Tradeoff) -> str:
    """A choice of storage and length beside full float32 vectors."""
    million, whole_million = found.bytes_per_product / 1000, whole.bytes_per_product / 1000
    rows = [
        ("quality", "nDCG@10", found.ndcg, whole.ndcg, "{:.3f}", False),
        ("same best ten", "overlap with full vectors", found.overlap, 1.0, "{:.0%}", False),
        ("memory", "GB for a million products", million, whole_million, "{:.2f}", True),
        ("latency", "ms for a scan of 20,000 products", found.milliseconds, whole.milliseconds, "{:.2f}", True),
    ]
    return str(page.tradeoff(found, whole, [_gauge(*row) for row in rows if row[2] is not None]))


def _gauge(name: str, unit: str, value: float, whole: float, form: str, less_is_better: bool) -> dict:
    share = value / whole if whole else 0
    is_good = share <= 1 if less_is_better else share >= 0.97
    shown = {"value": form.format(value), "whole": form.format(whole)}
    return {"name": name, "unit": unit, "share": share, "is_good": is_good} | shown
