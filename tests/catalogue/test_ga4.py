"""Google Analytics 4: the query of an event is told by another one."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue.query_log import Engagement, LogColumns, read_log

EVENTS = {"impression": 0, "click": 1, "cart": 2, "purchase": 3}
START = 1_795_860_000_000_000


def event(name, at, *items, user="u1", session=7, **params):
    """An event as BigQuery has it, `at` in seconds; an item is an id or an id and an index."""
    values = {"ga_session_id": {"string_value": None, "int_value": session}}
    values |= {key: {"string_value": value, "int_value": None} for key, value in params.items()}
    pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
    return {
        "event_date": "20261128",
        "event_timestamp": START + at * 1_000_000,
        "event_name": name,
        "user_pseudo_id": user,
        "event_params": [{"key": key, "value": value} for key, value in values.items()],
        "items": [{"item_id": item, "item_name": "Mug", "index": index} for item, index in pairs],
    }


SESSION = [
    event("session_start", 0),
    event("view_search_results", 1, search_term="Red Mug"),
    event("view_item_list", 2, ("a", 0), ("b", 1), ("c", 2)),
    event("select_item", 3, ("b", 1)),
    event("view_search_results", 4, search_term="lamp"),
    event("view_item_list", 5, ("c", 0), ("d", 1)),
    event("add_to_cart", 6, "b"),
    event("purchase", 7, "b", "c", "e"),
]


def write(file, events):
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(events), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in events))
    return str(file)


def read(name, form="auto", ids="abcde", **how):
    return read_log(name, LogColumns(), EVENTS, Engagement(**how), set(ids), form)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("turned", [1, -1])
def test_an_event_belongs_to_the_search_before_it(tmp_path, ending, turned):
    found = read(write(tmp_path / f"ga4{ending}", SESSION[::turned]), prior=0.0)
    assert found.grades == {
        ("red mug", "a"): 0,
        ("red mug", "b"): 3,
        ("red mug", "c"): 0,
        ("lamp", "c"): 3,
        ("lamp", "d"): 0,
    }, "carts and purchases go to the last search that showed the product"
    assert found.texts["red mug"] == "Red Mug"
    assert found.table.counts == {
        "event of GA4 that isn't used (left out)": 1,
        "event of GA4 without a search before it in its session (left out)": 1,
    }
    assert (
        "field item_id: 'e'" in found.table.first["event of GA4 without a search before it in its session (left out)"]
    )
    assert found.table.read - found.table.dropped == 3 + 1 + 2 + 1 + 2


def test_an_index_from_zero_is_moved_and_one_from_one_is_not(tmp_path):
    """With no prior, the value of a product at position k is k times its clicks."""

    def grades(first):
        events = [event("view_search_results", 0, search_term="mug")]
        events += [event("view_item_list", 1, ("a", first), ("b", first + 1), ("c", first + 3))]
        events += [
            event("select_item", 2, (name, place))
            for name, place in (("a", first), ("b", first + 1), ("c", first + 3))
        ]
        return read(write(tmp_path / "ga4.jsonl", events + [event("purchase", 3, "c")]), prior=0.0).grades

    assert grades(0) == grades(1) == {("mug", "a"): 1, ("mug", "b"): 1, ("mug", "c"): 3}


def test_searches_do_not_leak_into_other_sessions(tmp_path):
    events = [event("view_search_results", 0, search_term="mug"), event("select_item", 1, "a")]
    for other in ({"session": 8}, {"user": "u2"}):
        events.append(event("select_item", 1, "b", **other))
    found = read(write(tmp_path / "ga4.jsonl", events))
    assert found.grades == {("mug", "a"): 1}
    assert found.table.dropped == 2


def test_at_the_same_time_a_search_comes_first_and_an_own_term_counts(tmp_path):
    events = [event("view_item_list", 1, "a"), event("view_search_results", 1, search_term="mug")]
    events += [event("select_item", 2, "b", search_term="lamp"), event("select_item", 3, "a")]
    events += [event("purchase", 4, "c", search_term="cup")]
    found = set(read(write(tmp_path / "ga4.jsonl", events)).grades)
    assert found == {("mug", "a"), ("lamp", "b"), ("lamp", "a"), ("cup", "c")}


def test_a_flat_table_has_a_row_an_item(tmp_path):
    columns = ["event_name", "search_term", "item_id", "item_list_index", "user_pseudo_id", "event_timestamp"]
    rows = [["view_search_results", "mug", "", "", "u", 1], ["view_item_list", "(not set)", "a", 1, "u", 2]]
    rows += [
        ["view_item_list", "", "b", 2, "u", 2],
        ["select_item", "", "b", 2, "u", 3],
        ["purchase", "", "b", "", "u", 4],
    ]
    rows += [["scroll", "", "", "", "u", 5]]
    with open(tmp_path / "ga4.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *([*row[:5], START + row[5] * 1_000_000] for row in rows)])
    found = read(str(tmp_path / "ga4.csv"))
    assert found.grades == {("mug", "a"): 0, ("mug", "b"): 3}
    (line,) = found.table.lines()
    assert line.startswith("1 x event of GA4 that isn't used (left out)") and line.endswith("event_name: 'scroll'")


def test_bots_ages_and_events_of_ga4_by_their_own_names(tmp_path):
    events = SESSION + [event("view_search_results", 0, user="bot", search_term="mug")]
    events += [event("select_item", 1, "a", user="bot")] * 20
    found = read(write(tmp_path / "ga4.jsonl", events), max_events=15)
    assert (
        found.table.counts["visitor with too many events, a bot (left out)"] == 20 and ("mug", "a") not in found.grades
    )
    late = [event("view_search_results", 0, search_term="mug"), event("view_item_list", 1, "a", "b")]
    late += [
        event("purchase", 2, "a"),
        event("add_to_wishlist", 20 * 86_400, "b"),
        event("purchase", 20 * 86_400 + 2, "b"),
    ]
    name = write(tmp_path / "late.jsonl", late)
    assert read(name, half_life_days=10.0).grades == {("mug", "a"): 1, ("mug", "b"): 3}, "3 / 4, rounded up"
    wished = read_log(name, LogColumns(), EVENTS | {"add_to_wishlist": 5}, Engagement(), set("ab"))
    assert wished.grades == {("mug", "a"): 3, ("mug", "b"): 5}


def test_a_log_is_no_ga4_export_unless_it_looks_like_one_or_is_said_to_be(tmp_path):
    row = {"event_name": "select_item", "items": [], "query": "mug", "product": "a", "event": "click"}
    name = write(tmp_path / "log.jsonl", [row])
    assert read(name).grades == {("mug", "a"): 1}
    with pytest.raises(DataError, match="no row says that a known product is relevant"):
        read(name, "ga4")
    with pytest.raises(DataError, match="column 'query' is missing"):
        read(write(tmp_path / "ga4.jsonl", SESSION), "events")
    with pytest.raises(DataError, match="column 'event_name' is missing"):
        read(write(tmp_path / "other.jsonl", [{"query": "mug"}]), "ga4")
