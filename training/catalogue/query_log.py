"""From a shop's raw search log to graded judgments: bots and one-off noise out, position bias corrected for.

A log with a column `grade` is taken as it is, and one without positions gives each pair its best event's grade. With
positions each pair of query and product is graded by its value for a shopper who looks at it:

    value = (sum of v + prior * mean) / (sum of e + prior)
    grade = value / the query's best value * the highest grade, rounded up

Both sums are over the visitors who were shown the pair; `v` is the grade of what the visitor did at most (a click, a
purchase), `e = 1 / position ** power` the probability that a visitor looks that far down, and `mean` the log's sum of
`v` over its sum of `e`. A pair that was shown and that nobody engaged with has grade 0: it is a hard negative.

The examination model is that of Joachims et al., Unbiased Learning-to-Rank with Biased Feedback
(https://huggingface.co/papers/1608.04468); the prior keeps a single lucky click from winning.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from training.catalogue.tables import Table

WHOLE = re.compile(r"[0-9]{1,9}(\.0*)?")


@dataclass
class LogColumns:
    """What the search log calls its columns; query, product and one of event and grade must be there.

    Args:
        query: What was searched for.
        product: Id of a product that was shown for it.
        event: What the shopper did with it, one of --events.
        grade: How relevant the product is, a whole number from 0; where this column is, event isn't read.
        position: At which place of the results it was shown, from 1; where this column is, grades are corrected for
            shoppers not looking far down.
        visitor: Who searched: a session, cookie or customer id. Where this column is, a visitor counts once a pair.
    """

    query: str = "query"
    product: str = "product"
    event: str = "event"
    grade: str = "grade"
    position: str = "position"
    visitor: str = "visitor"


@dataclass
class Engagement:
    """How events become grades, see [`training.catalogue.query_log`].

    Args:
        power: A product at position k is looked at with probability 1 / k ** power.
        prior: Weight of the log's mean value, in views.
        min_visitors: Fewer visitors than this who engaged with a pair are noise: the pair is left out.
        max_events: A visitor with more rows than this in the log is a bot: its rows are left out.
    """

    power: NonNegativeFloat = 1.0
    prior: NonNegativeFloat = 5.0
    min_visitors: NonNegativeInt = 1
    max_events: PositiveInt = 1000


@dataclass
class _Pair:
    """What the visitors did with a product that was shown for a query."""

    values: dict[str, int] = field(default_factory=dict)
    looks: dict[str, float] = field(default_factory=dict)


@dataclass
class Judged:
    """What a log says.

    Attributes:
        grades (`dict[tuple[str, str], int]`): the grade of each pair of query (letter case apart) and product id.
        texts (`dict[str, str]`): each query as it was first spelled.
        frequencies (`dict[str, int]`): how many rows of the log ask each query.
        table (`Table`): the table with its problems.
    """

    grades: dict[tuple[str, str], int]
    texts: dict[str, str]
    frequencies: dict[str, int]
    table: Table | None


def read_log(
    name: str,
    columns: LogColumns,
    events: dict[str, int],
    how: Engagement,
    ids: set[str],
    encoding: str | None = None,
    separator: str | None = None,
) -> Judged:
    """Reads the search log.

    Args:
        name (`str`): the file.
        columns (`LogColumns`): what its columns are called.
        events (`dict[str, int]`): grade of each event.
        how (`Engagement`): how events become grades.
        ids (`set[str]`): the products that there are.
        encoding, separator (`str`, *optional*): of the file; found out if not given.

    Returns:
        [`Judged`].

    Raises:
        DataError: if the log can't be read or no row says that a product is relevant.
    """
    needed = [("query",), ("product",), ("event", "grade")]
    table = Table.open(name, columns, needed, "--log_columns", encoding, separator)
    events = {same_text(event): grade for event, grade in events.items()}
    bots = _bots(table, how) if "visitor" in table.columns else set()
    pairs: dict[tuple[str, str], _Pair] = defaultdict(_Pair)
    texts: dict[str, str] = {}
    frequencies: Counter[str] = Counter()
    for number, row in table.rows():
        problem, query = _problem(row, ids, events, bots), " ".join(row["query"].split())
        if problem:
            table.note(f"{problem[0]} (left out)", number, problem[1], row[problem[1]])
            continue
        grade = events[same_text(row["event"])] if row.get("grade") is None else int(float(row["grade"]))
        key = (same_text(query), row["product"])
        visitor = row.get("visitor") or str(number)
        texts.setdefault(key[0], query)
        frequencies[key[0]] += 1
        pair = pairs[key]
        pair.values[visitor] = max(grade, pair.values.get(visitor, 0))
        if row.get("position") and row.get("grade") is None:
            pair.looks[visitor] = max(float(row["position"]) ** -how.power, pair.looks.get(visitor, 0.0))
    judgments = _grades(pairs, how, table)
    if not any(judgments.values()):
        raise table.left_nothing("no row says that a known product is relevant (a grade above 0)")
    return Judged(judgments, texts, dict(frequencies), table)


def same_text(text: str) -> str:
    """A text without letter case and surplus space, by which queries are told apart."""
    return " ".join(text.casefold().split())


def _bots(table: Table, how: Engagement) -> set[str]:
    found = table.count_values("visitor").items()
    return {visitor for visitor, count in found if visitor and count > how.max_events}


def _problem(row: dict, ids: set[str], events: dict[str, int], bots: set[str]) -> tuple[str, str] | None:
    """What is wrong with a row, and in which field."""
    grade, position = row.get("grade"), row.get("position")
    checks = (
        (not row["query"].split(), "empty query", "query"),
        (row["product"] not in ids, "unknown product", "product"),
        (row.get("visitor") in bots, "visitor with too many events, a bot", "visitor"),
        (grade is not None and not WHOLE.fullmatch(grade), "grade is no whole number from 0", "grade"),
        (grade is None and same_text(row.get("event") or "") not in events, "unknown event", "event"),
        (position and not (WHOLE.fullmatch(position) and float(position)), "position is no number from 1", "position"),
    )
    return next(((kind, column) for wrong, kind, column in checks if wrong), None)


def _grades(pairs: dict[tuple[str, str], _Pair], how: Engagement, table: Table) -> dict[tuple[str, str], int]:
    """The grade of each pair that enough visitors engaged with, or none."""
    engaged = {key: sum(value > 0 for value in pair.values.values()) for key, pair in pairs.items()}
    noise = {key for key, count in engaged.items() if 0 < count < how.min_visitors}
    if noise:
        query, product = min(noise)
        kind = f"pair engaged with by fewer than {how.min_visitors} visitors (left out)"
        table.add(kind, f"{table.name}: query {query!r}, product {product!r}", len(noise))
    kept = {key: pair for key, pair in pairs.items() if key not in noise}
    if not any(pair.looks for pair in kept.values()):
        return {key: max(pair.values.values()) for key, pair in kept.items()}
    total = sum(sum(pair.looks.values()) for pair in kept.values())
    mean = sum(sum(pair.values.values()) for pair in kept.values()) / total
    values = {
        key: (sum(pair.values.values()) + how.prior * mean) / (sum(pair.looks.values()) + how.prior)
        for key, pair in kept.items()
        if engaged[key]
    }
    best: dict[str, float] = defaultdict(float)
    for (query, _), value in values.items():
        best[query] = max(best[query], value)
    highest = max(max(pair.values.values()) for pair in kept.values())
    return {key: math.ceil(highest * values[key] / best[key[0]]) if key in values else 0 for key in kept}
