"""Rankings in TREC's run format: a line has query id, `Q0`, product id, rank, score and name, with spaces between.

The format has no quotes, so an id with a space would break its line. White space, control characters and `%` in ids
are therefore written as in addresses, percent-encoded in UTF-8: `a b` as `a%20b` and `50%` as `50%25`. All other ids
stand as they are.
"""

import math
import re
from pathlib import Path
from urllib.parse import quote, unquote

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from training.common.files import write_text

ESCAPED = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\ufeff]")
FIELDS = "query id, Q0, product id, rank, score, name"


def write_run(file: Path, rankings: dict[str, list[str]]) -> None:
    """Writes rankings, best first: ranks from 1, and whole scores that fall to 1, so that tools that sort by
    the score find no ties."""
    lines = []
    for query, ids in rankings.items():
        for rank, product in enumerate(ids, start=1):
            lines.append(f"{_escape(query)} Q0 {_escape(product)} {rank} {len(ids) - rank + 1} mmfusion\n")
    write_text(file, "".join(lines))


def read_run(file: str | Path) -> dict[str, list[str]]:
    """Reads rankings that [`write_run`] or another tool wrote, as [`per_query`] measures them.

    Args:
        file (`str` or `Path`): a run in TREC's format, its ids escaped as above.

    Returns:
        `dict[str, list[str]]`: query id to product ids by falling score, whatever the order of the lines; ties go by
        the rank, then by the line.

    Raises:
        DataError: naming the line, if it has other fields, a score or a rank is no number, or a product comes twice.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    path = existing_file(file, "a run in TREC's format")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file}: is no UTF-8 text; give a run in TREC's format") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not (cells := line.split()):
            continue
        if (order := _order(cells)) is None:
            raise DataError(
                f"{file} line {number}: {line.strip()[:100]!r} isn't {FIELDS} with a number for rank and score"
            )
        products, product = found.setdefault(unquote(cells[0]), {}), unquote(cells[2])
        if product in products:
            raise DataError(f"{file} line {number}: product {cells[2]} a second time for query {cells[0]}; keep one")
        products[product] = order
    return {query: sorted(products, key=products.__getitem__) for query, products in found.items()}


def _order(cells: list[str]) -> tuple[float, float] | None:
    """What a line is sorted by, `None` if it is none."""
    try:
        rank, score = map(float, cells[3:5])
    except ValueError:
        return None
    return None if len(cells) != 6 or math.isnan(rank) or math.isnan(score) else (-score, rank)


def _escape(name: str) -> str:
    """An id without white space, control characters and `%`."""
    return ESCAPED.sub(lambda found: quote(found[0], safe=""), name)
