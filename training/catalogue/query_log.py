"""From a shop's raw search log to graded judgments: bots and one-off noise out, position bias corrected for.

A log with a column `grade` is taken as it is, and one without positions gives each pair its best event's grade. With
positions each pair of query and product is graded by its value for a shopper who looks at it:

    value = (sum of v + prior * mean) / (sum of e + prior)
    grade = value / the query's best value * the highest grade, rounded up

Both sums are over the visitors who were shown the pair; `v` is the grade of what the visitor did at most (a click, a
purchase), `e = 1 / position ** power` the probability that a visitor looks that far down, and `mean` the log's sum of
`v` over its sum of `e`. A pair that was shown and that nobody engaged with has grade 0: it is a hard negative.

With a half-life each `v` and `e` is multiplied by `0.5 ** (age / half_life)`, the age counted from the newest event;
without positions a pair's grade is its best event's, multiplied likewise and rounded up. One query in many spellings
counts as one, see `spellings.py`; exports of Google Analytics 4 are read by `ga4.py`.

The examination model is that of Joachims et al., Unbiased Learning-to-Rank with Biased Feedback
(https://huggingface.co/papers/1608.04468); the prior keeps a single lucky click from winning.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modeling_mmfusion.errors import DataError
from training.catalogue.cells import code_text
from training.catalogue.ga4 import GA4Columns, is_ga4, read_ga4
from training.catalogue.layout import MAX_SCORE
from training.catalogue.log_times import Recency
from training.catalogue.options import Engagement, LogColumns
from training.catalogue.spellings import Spellings
from training.catalogue.tables import Table

Row = tuple[int, dict[str, str]]
WHOLE = re.compile(r"\+?[0-9]{1,9}(\.0*)?")
LABELS = {"e": 100, "s": 10, "c": 1, "i": 0, "exact": 100, "substitute": 10, "complement": 1, "irrelevant": 0}


@dataclass(slots=True)
class _Pair:
    """What each visitor did with a product that was shown for a query, as value and look (0 if its position isn't
    known); `best` is the highest grade of an event."""

    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    best: int = 0

    @property
    def value(self) -> float:
        """Sum of the values."""
        return sum(value for value, _ in self.seen.values())

    @property
    def look(self) -> float:
        """Sum of the looks."""
        return sum(look for _, look in self.seen.values())


@dataclass
class Judged:
    """What a log says.

    Attributes:
        grades (`dict[tuple[str, str], int]`): the grade of each pair of query (by its [`query_key`]) and product id.
        texts (`dict[str, str]`): each query as it was spelled most often.
        frequencies (`dict[str, int]`): how many rows of the log ask each query.
        table (`Table`): the table with its problems.
        notes (`list[str]`): what was decided on the way: spellings that were joined, the order of day and month.
    """

    grades: dict[tuple[str, str], int]
    texts: dict[str, str]
    frequencies: dict[str, int]
    table: Table | None
    notes: list[str] = field(default_factory=list)


def read_log(
    name: str,
    columns: LogColumns,
    events: dict[str, int],
    how: Engagement,
    ids: set[str],
    form: str = "auto",
    encoding: str | None = None,
    separator: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Judged:
    """Reads the search log.

    Args:
        name (`str`): the file.
        columns (`LogColumns`): what its columns are called.
        events (`dict[str, int]`): grade of each event.
        how (`Engagement`): how events become grades.
        ids (`set[str]`): the products that there are.
        form (`str`, *optional*, defaults to `"auto"`): `events`, a row an event; `ga4`, an export of Google Analytics
            4; `auto` tells them by their columns.
        encoding, separator (`str`, *optional*): of the file; found out if not given.
        aliases (`Mapping[str, str]`, *optional*): the product that is meant by other ids, such as a variant's.

    Returns:
        [`Judged`].

    Raises:
        DataError: if the log can't be read, no row says that a product is relevant, grades are on two scales, or
            there is a half-life and no times.
    """
    events = {same_text(event): grade for event, grade in events.items()}
    given = encoding, separator
    is_export = form == "ga4" or (form == "auto" and is_ga4(name, columns.query, columns.product, *given))
    table, rows, times, visitors = _open_ga4(name, events, *given) if is_export else _open_log(name, columns, *given)
    recency = _recency(table, times, how)
    bots = {visitor for visitor, count in visitors.items() if visitor and count > how.max_events}
    pairs: dict[tuple[str, str], _Pair] = defaultdict(_Pair)
    spellings, frequencies, scales = Spellings(), Counter[str](), set()
    for number, row in rows:
        row["visitor"] = row.get("visitor") or row.get("session") or ""
        product = code_text(row["product"])
        row["product"] = (aliases or {}).get(product, product)
        if problem := _problem(row, ids, events, bots):
            table.note(f"{problem[0]} (left out)", number, problem[1], row[problem[1]])
            continue
        given, weight = row.get("grade"), 1.0
        grade = events[same_text(row["event"])] if given is None else _grade(given)
        if given is not None:
            scales.add(same_text(given) in LABELS)
        elif recency:
            if (time := recency.seconds(row.get("time", ""))) is None:
                table.note("time can't be read (counted like the oldest event)", number, "time", row.get("time", ""))
            weight = recency.weight(time)
        query = spellings.add(" ".join(row["query"].split()))
        frequencies[query] += 1
        pair, visitor = pairs[query, row["product"]], row["visitor"] or str(number)
        pair.best = max(grade, pair.best)
        look = weight * float(row["position"]) ** -how.power if row.get("position") and given is None else 0.0
        before = pair.seen.get(visitor, (0.0, 0.0))
        pair.seen[visitor] = max(weight * grade, before[0]), max(look, before[1])
    if len(scales) > 1:
        raise DataError(f"{name}: column {columns.grade!r} has both numbers and ESCI's labels; write all on one scale")
    judgments = _grades(pairs, how, table)
    if not any(judgments.values()):
        raise table.left_nothing("no row says that a known product is relevant (a grade above 0)")
    texts = {key: found[0] for key, found in spellings.groups().items()}
    notes = list(filter(None, (recency.told if recency else "", spellings.told(name))))
    return Judged(judgments, texts, dict(frequencies), table, notes)


Opened = tuple[Table, Iterable[Row], Iterable[tuple[int, str]], Counter]


def _open_log(name: str, columns: LogColumns, encoding: str | None, separator: str | None) -> Opened:
    """A log of a row an event: its table, rows, times and how many rows each visitor has."""
    table = Table.open(
        name, columns, [("query",), ("product",), ("event", "grade")], "--log_columns", encoding, separator
    )
    return table, table.rows(), table.values("time") if "time" in table.columns else (), _visitors(table)


def _open_ga4(name: str, events: Iterable[str], encoding: str | None, separator: str | None) -> Opened:
    """The same of an export of Google Analytics 4."""
    table = Table.open(name, GA4Columns(), [("event_name",)], "--log_columns", encoding, separator)
    rows = list(read_ga4(table, set(events)))
    times = ((number, row["time"]) for number, row in rows)
    return table, rows, times, Counter(row["visitor"] for _, row in rows)


def _recency(table: Table, times: Iterable[tuple[int, str]], how: Engagement) -> Recency | None:
    """How events count by their age, `None` if all count alike."""
    if how.half_life_days is None:
        return None
    if "grade" in table.columns:
        raise DataError(f"{table.name}: its grades are taken as they are; leave out --engagement.half_life_days")
    if "time" not in table.columns and "event_name" not in table.columns:
        raise DataError(
            f"{table.name}: --engagement.half_life_days needs times; name their column with --log_columns.time"
        )
    return Recency.of(times, how.half_life_days, how.day_first, table.name)


def _grade(text: str) -> int:
    label = LABELS.get(same_text(text))
    return int(float(text)) if label is None else label


def same_text(text: str) -> str:
    """A text without letter case and surplus space, by which queries are told apart."""
    return " ".join(text.casefold().split())


def _visitors(table: Table) -> Counter:
    """How many rows each visitor has in the log, or each session where no visitor is told."""
    counts = Counter[str]()
    for key in ("visitor", "session"):
        if key in table.columns and not counts.total() - counts[""]:
            counts = table.count_values(key)
    return counts


def _problem(row: dict, ids: set[str], events: dict[str, int], bots: set[str]) -> tuple[str, str] | None:
    """What is wrong with a row, and in which field."""
    grade, position = row.get("grade"), row.get("position")
    checks = (
        (not row["query"].split(), "empty query", "query"),
        (row["product"] not in ids, "unknown product", "product"),
        (row.get("visitor") in bots, "visitor with too many events, a bot", "visitor"),
        (grade is not None and not _is_grade(grade), "grade is no whole number from 0", "grade"),
        (grade is None and same_text(row.get("event") or "") not in events, "unknown event", "event"),
        (position and not (WHOLE.fullmatch(position) and float(position)), "position is no number from 1", "position"),
    )
    return next(((kind, column) for wrong, kind, column in checks if wrong), None)


def _is_grade(text: str) -> bool:
    return same_text(text) in LABELS or bool(WHOLE.fullmatch(text) and float(text) <= MAX_SCORE)


def _grades(pairs: dict[tuple[str, str], _Pair], how: Engagement, table: Table) -> dict[tuple[str, str], int]:
    """The grade of each pair that enough visitors engaged with, or none."""
    engaged = {key: sum(value > 0 for value, _ in pair.seen.values()) for key, pair in pairs.items()}
    noise = {key for key, count in engaged.items() if 0 < count < how.min_visitors}
    if noise:
        query, product = min(noise)
        kind = f"pair engaged with by fewer than {how.min_visitors} visitors (left out)"
        table.add(kind, f"{table.name}: query {query!r}, product {product!r}", len(noise))
    kept = {key: pair for key, pair in pairs.items() if key not in noise}
    total = sum(pair.look for pair in kept.values())
    if not total:
        return {key: math.ceil(max(value for value, _ in pair.seen.values())) for key, pair in kept.items()}
    mean = sum(pair.value for pair in kept.values()) / total
    values = {
        key: (pair.value + how.prior * mean) / (pair.look + how.prior) for key, pair in kept.items() if engaged[key]
    }
    best: dict[str, float] = defaultdict(float)
    for (query, _), value in values.items():
        best[query] = max(best[query], value)
    highest = max(pair.best for pair in kept.values())
    return {key: math.ceil(highest * values[key] / best[key[0]]) if key in values else 0 for key in kept}
