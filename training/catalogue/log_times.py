"""Times of a log as shops export them, and how much an event counts by its age.

Read are ISO 8601 with or without zone, seconds and fraction (`2026-11-28T10:00:00.5+01:00`, `2026-11-28 10:00`, GA4's
`20261128`), `28.11.2026 10:00`, `11/28/2026 10:00 AM`, and seconds, milliseconds and microseconds since 1970. A time
without a zone is taken for UTC. Dots mean that the day comes first. With slashes or hyphens the whole column tells, by
its days above 12.
"""

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from modeling_mmfusion.errors import DataError

DAY = 86_400
NUMBER = re.compile(r"[0-9]{9,17}(\.[0-9]+)?")
CLOCK = r"(?:[ ,T]+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}(?:[.,][0-9]+)?))?(?: ?([AaPp])\.?[Mm]\.?)?)?"
WRITTEN = re.compile(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})" + CLOCK)
AFTER_ISO = re.compile(r" ?(UTC|GMT|Z)$", re.IGNORECASE)


def seconds_of(text: str, day_first: bool | None = None) -> float | None:
    """Seconds since 1970 of a time, `None` if it can't be read.

    Args:
        text (`str`): the time.
        day_first (`bool`, *optional*): the order of day and month in `03/04/2026`, which can't be read without.
    """
    if NUMBER.fullmatch(text):
        digits = len(text.partition(".")[0])
        return float(text) / (1 if digits < 12 else 1_000 if digits < 15 else 1_000_000)
    try:
        if found := WRITTEN.fullmatch(text):
            return _written(found, day_first)
        time = datetime.fromisoformat(AFTER_ISO.sub("+00:00", text) if ":" in text else text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _written(found: re.Match, day_first: bool | None) -> float | None:
    """Seconds since 1970 of a date with the year at its end.

    Raises:
        ValueError: if there is no such day or time.
    """
    if found[2] != "." and day_first is None:
        return None
    day, month = (int(found[1]), int(found[3])) if found[2] == "." or day_first else (int(found[3]), int(found[1]))
    hour, seconds = int(found[5] or 0), float((found[7] or "0").replace(",", "."))
    if found[8]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (found[8] in "Pp")
    if seconds >= 60:
        return None
    return datetime(int(found[4]), month, day, hour, int(found[6] or 0), tzinfo=UTC).timestamp() + seconds


@dataclass
class Recency:
    """How much events count by their age: half as much after each half-life before the newest event.

    Attributes:
        half_life (`float`): in days.
        day_first (`bool` or `None`): the order of day and month; `None` where no time needs it.
        oldest, newest (`float`): in seconds since 1970.
        told (`str`): how the order was found, `""` where none was needed.
    """

    half_life: float
    day_first: bool | None
    oldest: float
    newest: float
    told: str = ""

    @classmethod
    def of(cls, times: Iterable[tuple[int, str]], half_life: float, day_first: bool | None, name: str) -> "Recency":
        """Reads a column through once.

        Args:
            times (`Iterable[tuple[int, str]]`): row number and text of each time.
            half_life (`float`): in days.
            day_first (`bool` or `None`): the order of day and month as it was declared; `None` lets the rows tell.
            name (`str`): the file, for messages.

        Raises:
            DataError: if no time can be read, or rows don't tell the order of day and month or contradict each other.
        """
        ranges = {True: [math.inf, -math.inf], False: [math.inf, -math.inf]}
        seen: dict[bool | None, tuple[int, str]] = {}
        for number, text in times:
            if is_ordered := _needs_order(text):
                seen.setdefault(_order(text), (number, text))
            at = None if is_ordered else seconds_of(text)
            for order, span in ranges.items():
                if (time := seconds_of(text, order) if is_ordered else at) is not None:
                    span[0], span[1] = min(span[0], time), max(span[1], time)
        found, told = day_first, ""
        if day_first is None and seen:
            found = _decided(seen, name)
            number, text = seen[found]
            told = f"{name}: dates have the {'day' if found else 'month'} first, as row {number} tells: {text!r}"
        oldest, newest = ranges[bool(found)]
        if newest == -math.inf:
            raise DataError(f"{name}: no time can be read; give it as 2026-11-28 10:00 or leave out the half-life")
        return cls(half_life, found, oldest, newest, told)

    def seconds(self, text: str) -> float | None:
        """See [`seconds_of`]."""
        return seconds_of(text, self.day_first)

    def weight(self, seconds: float | None) -> float:
        """`0.5 ** (age / half_life)`, above 0; an event of unknown time is taken for the oldest."""
        age = (self.newest - (self.oldest if seconds is None else seconds)) / DAY
        return max(0.5 ** (age / self.half_life), sys.float_info.min)


def _needs_order(text: str) -> bool:
    return bool((found := WRITTEN.fullmatch(text)) and found[2] != ".")


def _order(text: str) -> bool | None:
    """Whether the day comes first in a date, `None` if it can't be told."""
    first, second = (int(WRITTEN.fullmatch(text)[group]) for group in (1, 3))  # type: ignore[index]
    return None if (first > 12) == (second > 12) else first > 12


def _decided(seen: dict[bool | None, tuple[int, str]], name: str) -> bool:
    """The order of day and month that the rows of a column agree on."""
    option = "say it with --engagement.day_first true or false"
    if True in seen and False in seen:
        (one, day), (other, month) = seen[True], seen[False]
        raise DataError(
            f"{name}: dates have day and month in both orders, row {one} {day!r}, row {other} {month!r}; {option}"
        )
    if orders := [order for order in (True, False) if order in seen]:
        return orders[0]
    number, text = seen[None]
    raise DataError(f"{name} row {number}: {text!r} may have the day or the month first, and no row tells; {option}")
