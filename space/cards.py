"""What the page shows, as HTML: results side by side, one product's reasons, readouts, empty and error states.

All that comes from a catalogue, a visitor or a model goes through `escape`: a title is text, whatever it holds.
"""

from html import escape

from catalogue import CUTOFF, VIEWS, Catalogue, Found, Hit, Query
from tradeoff import Tradeoff

VIEW_NAMES = {"fused": "Fused", "text": "Text only", "image": "Image only"}
VIEW_NOTES = {
    "fused": "reads the listing and looks at the picture",
    "text": "the same model, blind to pictures",
    "image": "the same model, unable to read",
}
BLOCK_NAMES = {"text": "text", "lexical": "words", "image": "picture", "cross": "both together", "fused": "vector"}


def intro(catalogue: Catalogue, means: dict[str, float] | None) -> str:
    """The page's head: what this is, and the three views' nDCG on the catalogue's judged queries."""
    tiles = ""
    if means:
        tiles = "".join(
            f"<li class='tile {view}'><b>{means[view]:.2f}</b><span>{VIEW_NAMES[view]}</span></li>" for view in VIEWS
        )
        tiles = (
            f"<figure class='tiles'><ul>{tiles}</ul><figcaption>nDCG@{CUTOFF}, mean of the "
            f"{len(catalogue.judged_texts):,} judged queries among the {catalogue.measured.sum():,} products that are "
            "judged for them; 1 is perfect</figcaption></figure>"
        )
    return (
        "<header class='intro'><div><h1>mmfusion</h1>"
        "<p>Product search that reads the listing <em>and</em> looks at the picture. "
        "A listing seldom says all that its picture shows. Try a query and compare.</p>"
        f"<p class='quiet'>{len(catalogue):,} products of {escape(catalogue.name)}</p></div>{tiles}</header>"
    )


def chips(texts: list[str]) -> str:
    """Example queries as buttons."""
    buttons = "".join(
        f"<button type='button' class='chip' data-do='ask' data-text='{text}'>{text}</button>"
        for text in (escape(text, quote=True) for text in texts)
    )
    return f"<div class='chips'><span class='quiet'>Try</span>{buttons}</div>" if texts else ""


def empty_board() -> str:
    """What is shown before the first query."""
    return (
        "<div class='state'><p><b>Type what a shopper would</b>, pick an example, or give a picture.</p>"
        "<p class='quiet'>You will see the fused results beside those of the text alone and of the pictures alone, "
        "with what each missed. Click a product to see why it was found.</p></div>"
    )


def problem_board(message: str) -> str:
    """What went wrong and what to do, in place of results."""
    return f"<div class='state problem' role='alert'><p><b>That didn't work.</b> {escape(message)}</p></div>"


def board(
    catalogue: Catalogue,
    query: Query,
    views: dict[str, Found],
    milliseconds: float,
) -> str:
    """Result lists side by side, or one alone.

    Args:
        catalogue (`Catalogue`): where the results are from.
        query (`Query`): what was asked.
        views (`dict[str, Found]`): view to its results.
        milliseconds (`float`): how long the search took, once the query was a vector.
    """
    columns = "".join(_column(catalogue, view, views) for view in views)
    judged = any(found.ndcg is not None for found in views.values())
    note = "&#10003; is judged relevant, ~ nearly so" if judged else "this query has no judgments, so there is no nDCG"
    side = " side" if len(views) > 1 else ""
    return (
        f"<section class='asked' aria-live='polite'><p class='what'>{_asked(catalogue, query)}</p>"
        f"<p class='quiet'>The query counts</p>{bar(query.shares, legend=True)}"
        f"<p class='quiet'>{len(catalogue):,} products in {milliseconds:.0f} ms; {note}.</p></section>"
        f"<div class='board{side}'>{columns}</div>"
    )


def _asked(catalogue: Catalogue, query: Query) -> str:
    text = f"<q>{escape(query.text)}</q>" if query.text else ""
    if query.like:
        title = escape(title_of(catalogue.products[catalogue.rows[query.like]]))
        return f"Like <b>{title}</b>" + (f", but {text}" if text else "")
    return "A picture" + (f" and {text}" if text else "") if query.picture else text


def _column(catalogue: Catalogue, view: str, views: dict[str, Found]) -> str:
    hits, score = views[view].hits, views[view].ndcg
    measured = f"<span class='score' title='nDCG@{CUTOFF}'>nDCG {score:.2f}</span>" if score is not None else ""
    best = max(hits[0].score, 1e-9)
    cards = "".join(f"<li>{card(catalogue, hit, marks(view, hit, views), best)}</li>" for hit in hits)
    return (
        f"<section class='lane {view}' aria-label='{VIEW_NAMES[view]}'><h2>{VIEW_NAMES[view]} {measured}</h2>"
        f"<p class='quiet'>{VIEW_NOTES[view]}</p><ol class='cards'>{cards}</ol></section>"
    )


def marks(view: str, hit: Hit, views: dict[str, Found]) -> list[tuple[str, str]]:
    """How a result differs from the other views' lists: pairs of a CSS class and words."""
    found = {name: {other.row for other in of.hits} for name, of in views.items() if name != view}
    if view != "fused":
        missing = "fused" in found and hit.row not in found["fused"]
        return [("away", f"#{hit.ranks['fused']} when fused")] if missing else []
    missed = [name for name, rows in found.items() if hit.row not in rows]
    if len(missed) == 2:
        return [("new", f"only here; #{hit.ranks['text']} by text, #{hit.ranks['image']} by image")]
    return [("new", f"#{hit.ranks[name]} by {name}") for name in missed]


def card(catalogue: Catalogue, hit: Hit, found_marks: list[tuple[str, str]], best: float) -> str:
    """One result, a button that opens its reasons."""
    product = catalogue.products[hit.row]
    title, price = title_of(product), str(product.get("price") or "")
    judgment = {None: "", 0: "", 1: "near"}.get(hit.grade, "relevant")
    label = f"{title}, rank {hit.rank}, score {hit.score:.2f}" + (f", judged {judgment}" if judgment else "")
    shown = "".join(f"<span class='mark {kind}'>{escape(words)}</span>" for kind, words in found_marks)
    check = {"relevant": "<span class='check'>&#10003; relevant</span>", "near": "<span class='check'>~ near</span>"}
    width = 100 * max(hit.score, 0) / best
    return (
        f"<button type='button' class='card {judgment}' data-do='open' data-id='{escape(product['_id'], quote=True)}' "
        f"aria-label='{escape(label, quote=True)}'>{picture(catalogue, hit.row)}"
        f"<span class='rank'>{hit.rank}</span>{check.get(judgment, '')}"
        f"<span class='title'>{escape(title)}</span>"
        f"<span class='meta'><span>{escape(price)}</span><span class='number'>{hit.score:.3f}</span></span>"
        f"<span class='scaled' style='width:{min(width, 100):.0f}%'>{bar(hit.contributions)}</span>{shown}</button>"
    )


def picture(catalogue: Catalogue, row: int) -> str:
    """A product's thumbnail, or a placeholder that says there is none."""
    address, title = catalogue.thumbnail(row), title_of(catalogue.products[row])
    if address is None:
        return "<span class='none'>no picture</span>"
    return f"<img alt='{escape(title, quote=True)}' src='{address}' loading='lazy' width='224' height='224'>"


def title_of(product: dict) -> str:
    """A product's title, or what stands in for it."""
    return str(product.get("title") or product.get("description") or product["_id"])[:120]


def bar(parts: dict[str, float], legend: bool = False) -> str:
    """The share of each block as a bar, with a legend in words if asked for; parts below zero add nothing."""
    total = sum(max(value, 0) for value in parts.values()) or 1
    shares = {name: max(value, 0) / total for name, value in parts.items()}
    words = ", ".join(f"{BLOCK_NAMES[name]} {share:.0%}" for name, share in shares.items())
    pieces = "".join(f"<i class='{name}' style='width:{100 * share:.1f}%'></i>" for name, share in shares.items())
    found = f"<span class='bar' role='img' aria-label='{words}' title='{words}'>{pieces}</span>"
    if not legend:
        return found
    entries = "".join(
        f"<span><i class='{name}'></i>{BLOCK_NAMES[name]} {share:.0%}</span>" for name, share in shares.items()
    )
    return f"{found}<span class='legend'>{entries}</span>"


def drawer(catalogue: Catalogue, query: Query, row: int, hit: Hit, overlay: str | None) -> str:
    """One product's reasons: its picture with the map, its blocks in numbers, and what to search for next."""
    product = catalogue.products[row]
    title, shown = escape(title_of(product), quote=True), picture(catalogue, row)
    if overlay:
        shown = (
            f"<figure>{shown}<figcaption>the picture</figcaption></figure><figure><img src='{overlay}' "
            f"alt='The picture of {title} with the parts that raise the score glowing'>"
            "<figcaption>what raises the score</figcaption></figure>"
        )
    facts = [str(product[name]) for name in ("brand", "category", "price") if product.get(name)]
    lines = "".join(
        f"<tr><th><i class='{name}'></i>{BLOCK_NAMES[name]}</th>"
        f"<td>{query.shares[name]:.0%}</td><td>{value:.3f}</td></tr>"
        for name, value in hit.contributions.items()
    )
    ranks = ", ".join(f"{hit.ranks[view]} {VIEW_NAMES[view].lower()}" for view in VIEWS)
    judged = {None: "", 0: "Judged not relevant. ", 1: "Judged near. "}.get(hit.grade, "Judged relevant. ")
    identity = escape(product["_id"], quote=True)
    return (
        f"<aside class='drawer' role='dialog' aria-label='Why {title} was found'>"
        "<button type='button' class='close' data-do='close' aria-label='Close'>&#10005;</button>"
        f"<h2>{title}</h2><p class='quiet'>{escape(' · '.join(facts))}</p>"
        f"<div class='pictures'>{shown}</div>"
        f"<p>{escape(str(product.get('description') or ''))[:600]}</p>"
        f"<h3>Why</h3><p class='quiet'>{judged}Rank {ranks}.</p>{bar(hit.contributions)}"
        f"<table><thead><tr><th>block</th><th>weight in query</th><th>adds</th></tr></thead><tbody>{lines}</tbody>"
        f"<tfoot><tr><th>score</th><td></td><td>{sum(hit.contributions.values()):.3f}</td></tr></tfoot></table>"
        "<h3>Go on</h3>"
        f"<button type='button' class='wide' data-do='similar' data-id='{identity}'>More like this</button>"
        f"<form data-do='similar' data-id='{identity}'><label>Like this, but "
        "<input name='text' maxlength='200' placeholder='e.g. in red' autocomplete='off'></label>"
        "<button type='submit'>Search</button></form></aside>"
    )


def upload_report(count: int, pictured: int, lines: list[str]) -> str:
    """What was read of a visitor's file and what was not."""
    problems = "".join(f"<li>{escape(line)}</li>" for line in lines[:12])
    return (
        f"<div class='state done' role='status'><p><b>{count:,} products are ready to search</b>, {pictured:,} with a "
        "picture. Only you can see them, and they are gone when you close the page.</p>"
        + (f"<p>What could not be read:</p><ul>{problems}</ul>" if problems else "")
        + "</div>"
    )


def tradeoff(found: Tradeoff, whole: Tradeoff) -> str:
    """A choice of storage and length beside full float32 vectors."""
    million, whole_million = found.bytes_per_product / 1000, whole.bytes_per_product / 1000
    rows = [
        ("quality", "nDCG@10", found.ndcg, whole.ndcg, "{:.3f}", False),
        ("same best ten", "overlap with full vectors", found.overlap, 1.0, "{:.0%}", False),
        ("memory", "GB for a million products", million, whole_million, "{:.2f}", True),
        ("latency", "ms for a scan of 20,000 products", found.milliseconds, whole.milliseconds, "{:.2f}", True),
    ]
    tiles = "".join(_gauge(*row) for row in rows if row[2] is not None)
    return (
        f"<section aria-live='polite'><div class='gauges'>{tiles}</div><p class='quiet'>{found.dim} dimensions as "
        f"{found.storage}; {found.queries:,} queries, exact search on one thread of this machine. The mark is the "
        f"full vector: {whole.dim} dimensions as {whole.storage}.</p></section>"
    )


def _gauge(name: str, unit: str, value: float, whole: float, form: str, less_is_better: bool) -> str:
    share = value / whole if whole else 0
    good = share <= 1 if less_is_better else share >= 0.97
    return (
        f"<div class='gauge {'good' if good else 'bad'}'><span>{name}</span><b>{form.format(value)}</b>"
        f"<span class='track' role='img' aria-label='{share:.0%} of the full vector'>"
        f"<i style='width:{min(100 * share, 100):.1f}%'></i></span>"
        f"<span class='quiet'>{unit}; full: {form.format(whole)}</span></div>"
    )
