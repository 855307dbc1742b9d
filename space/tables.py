"""What the readers of product tables, those of `training.catalogue`, count problems by, and cells as text."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from delimited import unguarded


@dataclass
class Table:
    """Counts what is wrong with the rows of a file.

    Attributes:
        counts (`Counter`): how often each kind of problem was seen.
        first (`dict[str, dict]`): the `line` and `value` where each kind was seen first, if it is of a row.
    """

    counts: Counter = field(default_factory=Counter)
    first: dict[str, dict] = field(default_factory=dict)

    def note(self, kind: str, row: int, key: str, value: str) -> None:
        """Counts a problem in a field of a row."""
        self.counts[kind] += 1
        self.first.setdefault(kind, {"line": row, "field": key, "value": value[:100]})


def cell_text(value: Any) -> str:
    """A cell as text without space around it; a list has `|` between its items."""
    if isinstance(value, list):
        return " | ".join(map(cell_text, value))
    return "" if value is None else unguarded(str(value).strip())
