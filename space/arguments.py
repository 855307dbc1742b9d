"""What callers of the endpoints give, checked: what is wrong is one sentence that names the argument and says how."""

import math
from collections.abc import Sequence
from typing import Any

from catalogue import VisitorError


def whole_number(name: str, value: Any, low: int, high: int, default: int) -> int:
    """A whole number within bounds; `default` for `None`.

    Raises:
        VisitorError: if it is none.
    """
    if value is None:
        return default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value != value or not low <= value <= high or int(value) != value:
        raise VisitorError(f"{name} is a whole number from {low} to {high:,}, not {shown(value)}.")
    return int(value)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A number within bounds, or `None`.

    Raises:
        VisitorError: if it is none.
    """
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        bounds = f" from {low:g} to {high:g}" if math.isfinite(low) else ", such as 12.5"
        raise VisitorError(f"{name} is a number{bounds}, not {shown(value)}.")
    return float(value)


def text(name: str, value: Any) -> str:
    """A text; `""` for `None`.

    Raises:
        VisitorError: if it is none.
    """
    if value is None or isinstance(value, str):
        return value or ""
    raise VisitorError(f"{name} is a text, not {shown(value)}.")


def texts(name: str, value: Any) -> list[str]:
    """A list of texts; an empty one for `None`.

    Raises:
        VisitorError: if it is none, such as one text alone, which would be read letter by letter.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        example = f"[{value[:40]!r}]" if isinstance(value, str) and value else "['one', 'another']"
        raise VisitorError(f"{name} is a list of texts, such as {example}, not {shown(value)}.")
    return value


def choice(name: str, value: Any, choices: Sequence[str], default: str) -> str:
    """One of some words; `default` for `None`.

    Raises:
        VisitorError: if it is none of them.
    """
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise VisitorError(f"{name} is one of {', '.join(choices)}, not {shown(value)}.")
    return value


def id_text(name: str, value: Any) -> str:
    """A product's id; one that is written as a whole number is taken as text.

    Raises:
        VisitorError: if it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise VisitorError(f"{name} is the id of a product, as /search gives it, not {shown(value)}.")
    return value


def file_path(name: str, value: Any) -> str | None:
    """The path of a file that the caller sent and gradio received, or `None`.

    Raises:
        VisitorError: if it is none, such as a path on the caller's machine.
    """
    if value is None or value == "":
        return None
    if not is_sent_file(value):
        path = value[:80] if isinstance(value, str) else "shirt.jpg"
        raise VisitorError(
            f"Give {name} as handle_file({path!r}), from gradio_client import handle_file: that sends the file; "
            "a path alone says nothing here."
        )
    return value["path"]


def is_sent_file(value: Any) -> bool:
    """Whether a value stands for a file, as gradio gives it; the path of such a one has been checked by it."""
    meta = value.get("meta") if isinstance(value, dict) else None
    return isinstance(meta, dict) and meta.get("_type") == "gradio.FileData" and isinstance(value.get("path"), str)


def columns(name: str, value: Any) -> dict[str, str]:
    """Fields to columns; an empty mapping for `None`.

    Raises:
        VisitorError: if it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise VisitorError(f"{name} names a column for a field, such as {{'title': 'Name'}}, not {shown(value)}.")
    return value


def shown(value: Any) -> str:
    """A value as it was given, shortened."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:57]}..."
