"""Where each number of a card comes from: a result file and a place in it; without a source the build fails."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from modeling_mmfusion.errors import DataError, one_line

MISSING = (None, "", [], {})
READERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    ".yaml": yaml.safe_load,
}


class CardError(DataError):
    """A card that would not be true or whole. The message is one line."""


class ResultFile:
    """One file that a card may quote.

    Args:
        path (`Path`): a `.json`, `.jsonl` or `.yaml` file.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @cached_property
    def content(self) -> Any:
        """What the file holds.

        Raises:
            CardError: if it is not there or can't be read.
        """
        try:
            return READERS[self.path.suffix](self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CardError(f"{self.path}: no such file; the card takes its figures from it") from error
        except (ValueError, yaml.YAMLError) as error:
            raise CardError(f"{self.path}: can't be read: {one_line(error)}") from error


class Figures:
    """Gives templates the figures of result files, as text; nothing else lets a number into a card.

    Args:
        files (`dict[str, Path]`): the files by the names that templates call them.

    Example:

    ```python
    >>> figure = Figures({"report": Path("runs/quickstart/report.json")})
    >>> figure("report", "views/fused/ndcg@10/mean", ".3f")
    '0.830'
    ```
    """

    def __init__(self, files: dict[str, Path]):
        self.files = {name: ResultFile(path) for name, path in files.items()}

    def value(self, name: str, place: str) -> Any:
        """What stands in a file at a place, a path of keys and row numbers with `/` between; `""` is the whole file.

        Raises:
            CardError: if there is nothing.
        """
        file = self.files[name]
        found = file.content
        for key in filter(None, place.split("/")):
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (LookupError, TypeError, ValueError) as error:
                raise CardError(f"{file.path}: has no {place!r}; the card shows no figure without a source") from error
        if found in MISSING or found != found:  # nan differs from itself
            raise CardError(f"{file.path}: {place!r} is {found!r}; the card shows no figure without a source")
        return found

    def has(self, name: str, place: str) -> bool:
        """True if there is something to show."""
        try:
            self.value(name, place)
        except CardError:
            return False
        return True

    def __call__(self, name: str, place: str, form: str = "") -> str:
        """A figure as text, in the format `form` of Python."""
        return format(self.value(name, place), form)

    def keys(self, name: str, place: str) -> list[str]:
        """The keys at a place, to show each."""
        return [str(key) for key in self.value(name, place)]

    def interval(self, name: str, place: str) -> str:
        """A metric's mean and its 95% interval, such as `0.830 [0.811, 0.848]`."""
        low, high = (self(name, f"{place}/ci95/{end}", ".3f") for end in (0, 1))
        return f"{self(name, f'{place}/mean', '.3f')} [{low}, {high}]"
