"""What is wrong with a person's rows and is counted; errors are in `modeling_mmfusion/errors.py`."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Problems:
    """Counted warnings about rows that were left out or read in part, each kind with its first place.

    Attributes:
        counts (`Counter`): how often each kind of problem was seen.
        first (`dict[str, str]`): where each kind was seen first, such as `corpus.parquet row 12, field image`.
    """

    counts: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Counts `count` more problems of a `kind` and keeps the first place where it was seen."""
        self.counts[kind] += count
        self.first.setdefault(kind, where)

    def lines(self) -> list[str]:
        """One line a kind, such as `3 unreadable image (embedded from text alone); first: corpus.parquet row 7`."""
        return [f"{count:,} x {kind}; first: {self.first[kind]}" for kind, count in self.counts.items()]

    def report(self) -> None:
        """Prints the lines, each after `warning:`."""
        for line in self.lines():
            print(f"warning: {line}", flush=True)
