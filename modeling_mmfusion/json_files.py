"""JSON files that commands read: whole, and of the form that they should have."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError

ANY = ...  # a key of a form that stands for all others


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Attributes:
        name (`str`): for messages, such as `a text`.
        holds (`Callable`): whether a value is of it.
    """

    name: str
    holds: Callable[[Any], bool]


TEXT = Kind("a text", lambda value: isinstance(value, str))
COUNT = Kind("a whole number above 0", lambda value: type(value) is int and 0 < value < 2**53)
NUMBER = Kind("a number from 0", lambda value: type(value) in (int, float) and 0 <= value < 1e15)
POSITIVE = Kind("a number above 0", lambda value: type(value) in (int, float) and 0 < value < 1e15)
Form = Kind | dict | list


def parse_json(text: str | bytes) -> Any:
    """The value of a text in JSON.

    Raises:
        ValueError: if it is none, or nested so deeply that Python can't read it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def read_form(file: Path, form: Form, remedy: str) -> Any:
    """The value of a JSON file, if it has a form.

    Args:
        file (`Path`): the file.
        form (`Kind`, `dict` or `list`): a [`Kind`], an object by its keys or a list by the one form of its items. The
            key `ANY` stands for all that are not named; without it others are passed over.
        remedy (`str`): what a person has to do where it is damaged.

    Raises:
        DataError: naming the file and the field.
    """
    try:
        value = parse_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: is damaged ({error}); {remedy}") from error
    check_form(file, value, form, remedy)
    return value


def check_form(file: Path, value: Any, form: Form, remedy: str) -> None:
    """Refuses the value of a file that has not a form; see [`read_form`]."""
    if fault := fault_of(value, form):
        raise DataError(f"{file}: {fault}; {remedy}")


def fault_of(value: Any, form: Form, where: str = "") -> str:
    """What of a value is not as a form says, naming the field; `""` if nothing.

    >>> fault_of({"dim": -1}, {"dim": COUNT, "model": TEXT})
    'field dim is no whole number above 0: -1'
    >>> fault_of({"shards": [{}]}, {"shards": [{"file": TEXT}]})
    'field shards[0].file is missing'
    """
    if isinstance(form, Kind):
        return "" if form.holds(value) else f"{_field(where)} is no {form.name.removeprefix('a ')}: {_short(value)}"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{_field(where)} is no list: {_short(value)}"
        parts = [(f"{where}[{place}]", item, form[0]) for place, item in enumerate(value)]
    else:
        if not isinstance(value, Mapping):
            return f"{_field(where)} is no object: {_short(value)}"
        prefix = f"{where}." if where else ""
        if missing := [key for key in form if key is not ANY and key not in value]:
            return f"field {prefix}{missing[0]} is missing"
        known = {key: form.get(key, form.get(ANY)) for key in value}
        parts = [(f"{prefix}{key}", value[key], known[key]) for key in value if known[key] is not None]
    return next((fault for name, part, kind in parts if (fault := fault_of(part, kind, name))), "")


def _field(where: str) -> str:
    return f"field {where}" if where else "what it holds"


def _short(value: Any) -> str:
    """The start of a value as JSON, on one line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}..."
