"""Google Analytics 4 events as rows of a search log: which products were shown, clicked, put into a cart and bought.

Read are BigQuery's export (JSON lines or Parquet, with nested `event_params` and `items`) and flat tables, a row an
item. GA4 tells the query on an event of its own, `view_search_results`. So within a session

- what a list shows (`view_item_list`) and a click (`select_item`) belong to the last search before them,
- a cart (`add_to_cart`) and a purchase to the last search before them that showed the product or had it clicked,
- an event that has a `search_term` itself belongs to that.

A session is `user_pseudo_id` and `ga_session_id`, either of which may be missing. Exports aren't sorted, so events are
taken by their times, searches first where these are equal. `items.index` is the position in lists and of clicks; in
GA4's own examples it begins at 0, so a log in which it is 0 somewhere counts from there.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.catalogue.log_times import seconds_of
from training.catalogue.tables import Table, cell_text, table_rows

NAMES = {"view_item_list": "impression", "select_item": "click", "add_to_cart": "cart", "purchase": "purchase"}
SHOWN = ("impression", "click")
MISSING = ("(not set)", "(not provided)", "(other)", "(none)")
DETAILS = ("items", "event_params", "item_id", "item_list_index", "ga_session_id", "user_pseudo_id")
INDICES = ("index", "item_list_index", "item_list_position", "position")
SESSIONS = ("ga_session_id", "session_id", "session")
TIMES = ("event_timestamp", "timestamp", "time", "event_date")
UNUSED = "event of GA4 that isn't used (left out)"
NO_SEARCH = "event of GA4 without a search before it in its session (left out)"


@dataclass
class GA4Columns:
    """The columns that tell a GA4 export from other logs; it has its own names for all of them."""

    event_name: str = "event_name"


@dataclass(slots=True)
class _Event:
    """An event, or an item of one."""

    time: float
    number: int
    name: str
    term: str
    items: list[tuple[str, str]]
    stamp: str
    visitor: str


def is_ga4(name: str, query: str, product: str, encoding: str | None = None, separator: str | None = None) -> bool:
    """Whether a table is a GA4 export by its columns: it has GA4's own and not those of a log."""
    record = next(
        (record for _, record, _ in table_rows(Path(name), None, encoding, separator) if isinstance(record, dict)), {}
    )
    return "event_name" in record and bool(record.keys() & set(DETAILS)) and not {query, product} <= record.keys()


def read_ga4(table: Table, used: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a search log that a GA4 export tells.

    Args:
        table (`Table`): the export, opened; counts what can't be used.
        used (`set[str]`): events that have a grade, by a log's names; other events of GA4 go by their own.

    Yields:
        `(int, dict[str, str])`: the row in the file, and `query, product, event, position, visitor, time`.
    """
    sessions: dict[tuple[str, str], list[_Event]] = defaultdict(list)
    lone = 0
    for number, record, _ in table.records():
        if not isinstance(record, dict):
            table.read += 1
            table.note("broken row (left out)", number, "(all)", record)
            continue
        params = _params(record)
        session = _text(record.get("user_pseudo_id")), _first(record, SESSIONS) or _first(params, SESSIONS)
        event = _event(number, record, params, session)
        if not event.term and event.name not in used:
            table.read += 1
            table.note(UNUSED, number, "event_name", event.name)
        else:
            lone += 1
            sessions[session if any(session) else ("", f"row {lone}")].append(event)
    shown = (item for events in sessions.values() for event in events if event.name in SHOWN for item in event.items)
    first = 1 if any(position == "0" for _, position in shown) else 0
    for events in sessions.values():
        yield from _attributed(table, events, used, first)


def _attributed(
    table: Table, events: list[_Event], used: set[str], first: int
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a session, each with its query."""
    last, found_by = "", {}
    for event in sorted(events, key=lambda event: (event.time, event.name in used, event.number)):
        last = event.term or last
        for product, position in event.items if event.name in used else ():
            table.read += 1
            is_shown = event.name in SHOWN
            query = event.term or (last if is_shown else found_by.get(product, ""))
            if not query:
                table.note(NO_SEARCH, event.number, "item_id", product)
                continue
            if is_shown:
                found_by[product] = query
                position = str(int(position) + first) if position.isdecimal() else position
            row = {"query": query, "product": product, "event": event.name, "position": position if is_shown else ""}
            yield event.number, row | {"visitor": event.visitor, "time": event.stamp}


def _event(number: int, record: dict[str, Any], params: dict[str, Any], session: tuple[str, str]) -> _Event:
    name = _text(record.get("event_name"))
    items = _parsed(record.get("items"))
    items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    if not items and _text(record.get("item_id")):
        items = [record]
    found = [(_text(item.get("item_id")), _first(item, INDICES)) for item in items]
    stamp = _first(record, TIMES)
    return _Event(
        seconds_of(stamp) or 0.0,
        number,
        NAMES.get(name, name),
        _text(record.get("search_term")) or _text(params.get("search_term")),
        found,
        stamp,
        session[0] or session[1],
    )


def _params(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an event by name: BigQuery's list of keys and values of four types, or a plain object."""
    given = _parsed(record.get("event_params"))
    if isinstance(given, dict):
        return given
    pairs = ((item.get("key"), item.get("value")) for item in given or () if isinstance(item, dict))
    return {str(key): _value(value) for key, value in pairs}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return next((found for found in value.values() if found is not None), None)
    return value


def _parsed(value: Any) -> Any:
    """A nested cell, which CSV has as JSON."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        try:
            return json.loads(value, parse_int=str, parse_float=str)
        except ValueError:
            return None
    return None if isinstance(value, str) else value


def _first(record: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := _text(record.get(name)))), "")


def _text(value: Any) -> str:
    """A cell as text, `""` for GA4's own words for nothing."""
    text = cell_text(value)
    return "" if text in MISSING else text
