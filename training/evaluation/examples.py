"""A page to look at: the queries that fusion wins and loses most, or harms most, with pictures, judgments and block
weights."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from modeling_mmfusion.pictures_mmfusion import load_picture, pictures_of
from training.catalogue.layout import RetrievalSplit
from training.common.files import write_text
from training.evaluation.styles import LEAST

PICTURE_SIZE = 112
SHADES = ("#3b6fb6", "#8fb3de", "#d98a3d", "#7a5ba8", "#4f9d8f")  # text, lexical, image, cross, aligned
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222;
  background: #fff }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } }
section { margin: 2.5rem 0 }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem }
.results { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0; padding: 0; list-style: none }
.results li { width: 7rem; font-size: .75rem; border: 3px solid #8884; border-radius: 4px; padding: 3px }
.results li.relevant { border-color: #2e9e5b }
.results img, .results .none { width: 100%; height: 7rem; object-fit: contain; background: #fff; display: block }
.results .none { background: #8883; display: grid; place-content: center }
.bar { display: flex; height: .6rem; max-width: 30rem }
"""


def write_examples(
    file: Path,
    split: RetrievalSplit,
    values: dict[str, np.ndarray],
    rankings: dict[str, list[np.ndarray]],
    shares: dict[str, np.ndarray],
    title: str,
    by: str = "gain",
    queries: int = 12,
    results: int = 5,
) -> None:
    """Writes the page, which needs no other file and no network.

    Args:
        file (`Path`): HTML file to write.
        split (`RetrievalSplit`): queries, products and judgments.
        values (`dict[str, np.ndarray]`): a metric of each query `(queries,)` in each view, with `fused` among them.
        rankings (`dict[str, list[np.ndarray]]`): rows of the best products for each query in each view.
        shares (`dict[str, np.ndarray]`): the share of each block in each query `(queries,)`.
        title (`str`): heading.
        by (`str`, *optional*, defaults to `"gain"`): what the queries are chosen by: `gain`, how far fused is above
            and below the better one of the other views, or `harm`, how far it is below text.
        queries (`int`, *optional*, defaults to 12): queries shown of each kind.
        results (`int`, *optional*, defaults to 5): products shown for a query and view.
    """
    gains = values["fused"] - values["text"] if by == "harm" else gains_of_fusion(values)
    order = np.argsort(-gains, kind="stable")
    won = [row for row in order[:queries].tolist() if gains[row] > LEAST]
    lost = [row for row in order[::-1][:queries].tolist() if gains[row] < -LEAST]
    kinds = {"Fusion wins most": won, "Fusion loses most": lost} if by == "gain" else {"Fusion harms most": lost}
    parts = [f"<h1>{escape(title)}</h1>", _summary(gains, by)]
    for heading, rows in kinds.items():
        parts.append(f"<h2>{heading}</h2>")
        parts += [_query(split, row, values, rankings, shares, results) for row in rows]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{escape(title)}</title>"
    write_text(
        file, f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head>{''.join(parts)}</html>\n"
    )


def gains_of_fusion(values: dict[str, np.ndarray]) -> np.ndarray:
    """How much better each query fares fused than in the better of the other views, `(queries,)`."""
    others = [found for view, found in values.items() if view != "fused"]
    return values["fused"] - np.max(others, axis=0)


def _summary(gains: np.ndarray, by: str) -> str:
    better, worse = int((gains > LEAST).sum()), int((gains < -LEAST).sum())
    said = f"better than either single view for {better:,}, worse than the better one for {worse:,}"
    if by == "harm":
        said = f"worse than text for {worse:,}, better for {better:,}"
    return f"<p>{len(gains):,} queries: fused is {said}. A green frame marks products that are judged relevant.</p>"


def _query(split, row: int, values, rankings, shares, results: int) -> str:
    query = split.queries[row]
    words = [f"<h3>{escape(query['text'])}</h3>"]
    if query.get("slice"):
        words.append(f"<p>slice: {escape(str(query['slice']))}</p>")
    words.append(_bar({name: float(found[row]) for name, found in shares.items()}))
    qrels = split.qrels[query["_id"]]
    views = [
        f"<div><p>{escape(view)}: {found[row]:.3f}</p><ul class='results'>"
        + "".join(_product(split, int(product), qrels) for product in rankings[view][row][:results])
        + "</ul></div>"
        for view, found in values.items()
    ]
    return f"<section>{''.join(words)}<div class='views'>{''.join(views)}</div></section>"


def _bar(shares: dict[str, float]) -> str:
    """The share of each block in the query, as a bar and in words."""
    shown = list(zip(SHADES, shares.items(), strict=False))
    bar = "".join(f"<span style='background:{shade};width:{100 * share:.1f}%'></span>" for shade, (_, share) in shown)
    words = "".join(
        f"<span style='color:{shade}'>&#9632;</span> {escape(name)} {100 * share:.0f}% "
        for shade, (name, share) in shown
    )
    return f"<div class='bar'>{bar}</div><p>{words}</p>"


def _product(split: RetrievalSplit, row: int, qrels: dict[str, int]) -> str:
    product = split.corpus[row]
    name = product.get("title") or split.product_ids[row]
    kind = " class='relevant'" if qrels.get(split.product_ids[row], 0) > 0 else ""
    return f"<li{kind}>{_picture(product.get('image'), name)}{escape(str(name))}</li>"


def _picture(pictures, name: str) -> str:
    """The first picture, small and in the page itself; a grey square where there is none that can be read."""
    if not (pictures := pictures_of(pictures)):
        return "<span class='none'>no picture</span>"
    try:
        image = load_picture(pictures[0])
    except ValueError:
        return "<span class='none'>unreadable</span>"
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    stream = BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=80)
    code = base64.b64encode(stream.getvalue()).decode()
    return f"<img alt='{escape(str(name), quote=True)}' src='data:image/jpeg;base64,{code}'>"
