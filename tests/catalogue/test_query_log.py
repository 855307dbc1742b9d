"""From raw events to grades, by hand."""

import csv
import math

import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import load_split
from training.catalogue.options import ConvertArguments, PrepareArguments, Shares
from training.catalogue.query_log import LABELS, Engagement, LogColumns, read_log
from training.catalogue.query_synthesis import synthesise
from training.catalogue.spellings import query_key
from training.prepare import main

EVENTS = {"impression": 0, "click": 1, "cart": 2, "purchase": 3}
COLUMNS = ("query", "product", "event", "position", "visitor")


def log_file(tmp_path, rows, columns=COLUMNS):
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])
    return str(tmp_path / "log.csv")


def read(tmp_path, rows, ids="abc", columns=COLUMNS, **how):
    found = read_log(log_file(tmp_path, rows, columns), LogColumns(), EVENTS, Engagement(**how), set(ids))
    return found.grades, found.texts, found.table


def test_grades_are_values_for_shoppers_who_look_by_hand(tmp_path):
    rows = [["mug", "a", "impression", 1, f"v{n}"] for n in range(10)]
    rows += [["mug", "a", "click", 1, f"v{n}"] for n in range(4)] + [["Mug ", "a", "purchase", 1, "v0"]]
    rows += [["mug", "b", "impression", 4, f"v{n}"] for n in range(10)]
    rows += [["mug", "b", "click", 4, f"v{n}"] for n in range(3)]
    rows += [["mug", "c", "impression", 2, f"v{n}"] for n in range(10)]
    judgments, texts, _ = read(tmp_path, rows, prior=2.0)
    values, looks = {"a": 3 + 3, "b": 3, "c": 0}, {"a": 10.0, "b": 10 / 4, "c": 10 / 2}
    mean = sum(values.values()) / sum(looks.values())
    value = {key: (values[key] + 2 * mean) / (looks[key] + 2) for key in "ab"}
    assert value["b"] > value["a"], "fewer clicks, but far down"
    assert judgments == {("mug", "a"): math.ceil(3 * value["a"] / value["b"]), ("mug", "b"): 3, ("mug", "c"): 0}
    assert judgments["mug", "a"] in (1, 2) and texts == {"mug": "mug"}


def test_without_positions_the_best_event_counts(tmp_path):
    rows = [["mug", "a", "click"], ["mug", "a", "purchase"], ["mug", "b", "impression"]]
    judgments, _, _ = read(tmp_path, rows, columns=COLUMNS[:3])
    assert judgments == {("mug", "a"): 3, ("mug", "b"): 0}


def test_ids_lose_what_a_spreadsheet_needed_and_queries_keep_theirs(tmp_path):
    rows = [["'90s mug", "'00071", "click"], ["mug", '="00072"', "click"], ["mug", "'07-B", "purchase"]]
    grades, texts, table = read(tmp_path, rows, ids=["00071", "00072", "07-B"], columns=COLUMNS[:3])
    assert sorted(product for _, product in grades) == ["00071", "00072", "07-B"] and not table.counts
    assert set(texts.values()) == {"'90s mug", "mug"}


def test_bots_and_one_off_noise_are_left_out_and_counted(tmp_path):
    rows = [["mug", "a", "click", 1, "bot"]] * 9 + [["mug", "b", "click", 1, v] for v in ("x", "y")]
    rows += [["mug", "c", "click", 1, "x"], ["mug", "a", "impression", 3, "y"]]
    judgments, _, table = read(tmp_path, rows, max_events=5, min_visitors=2)
    assert judgments == {("mug", "b"): 1, ("mug", "a"): 0}
    assert table.counts["visitor with too many events, a bot (left out)"] == 9
    assert table.counts["pair engaged with by fewer than 2 visitors (left out)"] == 1


def test_a_position_that_is_none_is_named_and_an_empty_one_is_unknown(tmp_path):
    rows = [["mug", "a", "click", "0", "x"], ["mug", "b", "click", "", "y"], ["mug", "c", "click", "top", "z"]]
    judgments, _, table = read(tmp_path, rows)
    assert judgments == {("mug", "b"): 1}
    (line,) = table.lines()
    assert (
        line.startswith("2 x position is no number from 1 (left out)")
        and "log.csv line 2, field position: '0'" in line
    )
    with pytest.raises(DataError, match="no row says that a known product is relevant"):
        read(tmp_path, [["mug", "a", "impression", 1, "x"]])


def products():
    names = ["Striped cotton mug", "Plain mug with lid", "Striped shirt for girls", "Blue cotton shirt"]
    rows = [{"_id": str(n), "title": title, "brand": "Harrow", "category": "home"} for n, title in enumerate(names)]
    return [*rows, {"_id": "4", "title": None, "brand": "Harrow", "category": "garden"}]


def test_worded_queries_are_answered_by_the_products_that_hold_their_words():
    queries, qrels = synthesise(products(), per_product=9, seed=0)
    found = {
        query["text"]: {row["corpus-id"]: row["score"] for row in qrels if row["query-id"] == query["_id"]}
        for query in queries
    }
    assert found["mug"] == {"0": 2, "1": 2} and found["striped mug"] == {"0": 2}
    assert found["cotton shirt"] == {"3": 2} and found["shirt"] == {"2": 2, "3": 2}
    assert not any("lid" in text or "girls" in text for text in found), "what comes with it is not its kind"
    assert found["harrow garden"] == {"4": 2}
    assert synthesise(products(), 2, seed=0) == synthesise(products(), 2, seed=0) != synthesise(products(), 2, seed=1)


def test_a_shop_without_a_log_gets_queries_but_none_to_be_measured_by(tmp_path):
    with open(tmp_path / "products.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "brand"])
        writer.writerows([[number, f"Striped {kind} {number}", "Harrow"] for number in range(30) for kind in ["mug"]])
    arguments = PrepareArguments(str(tmp_path / "products.csv"), str(tmp_path / "shop"), synthesise=3)
    arguments.shares = Shares(0.4, 0.3, 0.3)
    report = main(arguments)
    assert load_split(tmp_path / "shop", "train").queries and load_split(tmp_path / "shop", "dev").queries
    assert report["splits"]["test"]["queries"] == 0 and not (tmp_path / "shop" / "test" / "queries.parquet").exists()
    arguments.log = log_file(tmp_path, [["mug", "1", "click"]], COLUMNS[:3])
    with pytest.raises(DataError, match="--synthesise: is for shops without a log"):
        main(arguments)


def judged(tmp_path, rows, columns, **how):
    return read_log(log_file(tmp_path, rows, columns), LogColumns(), EVENTS, Engagement(**how), set("abc"))


def test_old_events_count_less_by_hand(tmp_path):
    columns = ("query", "product", "event", "position", "visitor", "time")
    rows = [["mug", "a", "purchase", 1, "v1", "2026-11-08"], ["mug", "a", "impression", 1, "v2", "2026-11-28"]]
    rows += [["mug", "b", "click", 2, "v1", "2026-11-28"], ["mug", "b", "click", 2, "v2", "2026-11-18"]]
    values, looks = {"a": 99 / 4, "b": 40 + 40 / 2}, {"a": 1 / 4 + 1, "b": 1 / 2 + 1 / 4}
    mean = sum(values.values()) / sum(looks.values())
    value = {key: (values[key] + mean) / (looks[key] + 1) for key in "ab"}
    events = {"impression": 0, "click": 40, "purchase": 99}
    name, how = log_file(tmp_path, rows, columns), Engagement(prior=1.0, half_life_days=10.0)
    found = read_log(name, LogColumns(), events, how, set("ab")).grades
    assert found == {("mug", "a"): math.ceil(99 * value["a"] / value["b"]), ("mug", "b"): 99}
    how.half_life_days = None
    assert read_log(name, LogColumns(), events, how, set("ab")).grades != found, "off unless asked for"


def test_without_positions_the_best_event_is_weighted_and_never_becomes_nothing(tmp_path):
    times = {"a": "2026-11-28", "b": "2026-11-18", "c": "1999-01-01"}
    rows = [["mug", name, "purchase", time] for name, time in times.items()]
    columns = ("query", "product", "event", "time")
    assert judged(tmp_path, rows, columns, half_life_days=10.0).grades == {
        ("mug", "a"): 3,
        ("mug", "b"): 2,
        ("mug", "c"): 1,
    }
    assert judged(tmp_path, rows, columns, half_life_days=1e-6).grades["mug", "c"] == 1, "0.5 ** 1e9 is 0"


def test_a_time_that_cannot_be_read_is_counted_like_the_oldest(tmp_path):
    columns = ("query", "product", "event", "time")
    rows = [
        ["mug", "a", "purchase", "2026-11-28"],
        ["mug", "b", "purchase", "soon"],
        ["mug", "c", "click", "2026-11-18"],
    ]
    found = judged(tmp_path, rows, columns, half_life_days=10.0)
    assert found.grades == {("mug", "a"): 3, ("mug", "b"): 2, ("mug", "c"): 1}
    assert found.table.counts == {"time can't be read (counted like the oldest event)": 1} and not found.table.dropped
    assert "line 3, field time: 'soon'" in found.table.lines()[0]
    with pytest.raises(DataError, match="log.csv: no time can be read"):
        judged(tmp_path, [["mug", "a", "click", "soon"]], columns, half_life_days=1.0)
    with pytest.raises(DataError, match="half_life_days needs times; name their column with --log_columns.time"):
        judged(tmp_path, [["mug", "a", "click"]], columns[:3], half_life_days=1.0)
    with pytest.raises(DataError, match="grades are taken as they are; leave out --engagement.half_life_days"):
        judged(tmp_path, [["mug", "a", "1"]], ("query", "product", "grade"), half_life_days=1.0)


def test_one_query_in_many_spellings(tmp_path):
    spelled = [
        "Red T-Shirt",
        "red t-shirt",
        "RED T–SHIRT",
        "red, t shirt!",
        "ｒｅｄ t\u00a0shirt",
        "red t-shirt",
        " re\u200bd t-shirt ",
    ]
    rows = [[text, "a", "click"] for text in spelled] + [["red tshirt", "b", "click"], ["c#", "c", "click"]]
    found = judged(tmp_path, [*rows, ["C", "c", "click"]], ("query", "product", "event"))
    assert found.texts == {"red t shirt": "red t-shirt", "red tshirt": "red tshirt", "c#": "c#", "c": "C"}
    assert found.frequencies["red t shirt"] == 7 and len(found.grades) == 4
    (note,) = found.notes
    assert (
        "log.csv: 5 other spellings were joined to 1 queries" in note
        and "'red t-shirt' (2), 'Red T-Shirt' (1)" in note
    )


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("Straße", "STRASSE", True),
        ("women's shoes", "Womens  shoes", True),
        ("usb-c cable", "USB C cable", True),
        ("3,5 mm", "3.5 mm", True),
        ("3.5 mm", "35 mm", False),
        ("mug.", "mug", True),
        ("c++", "c", False),
        ("h&m", "hm", False),
        ("50%", "50", False),
        ("café", "cafe\u0301", True),
        ("café", "cafe", False),
        ("???", "!!!", False),
        ("mugs", "mug", False),
    ],
)
def test_what_is_one_query(one, other, same):
    assert (query_key(one) == query_key(other)) is same
    assert query_key(query_key(one)) == query_key(one) != ""


def test_sessions_stand_for_visitors_that_are_not_told(tmp_path):
    rows = [["mug", "a", "click", "s1"]] * 9 + [["mug", "b", "click", "s2"], ["mug", "b", "click", "s3"]]
    columns = ("query", "product", "event", "session")
    found = judged(tmp_path, rows, columns, max_events=5, min_visitors=2)
    assert found.grades == {("mug", "b"): 1} and found.table.dropped == 9
    assert found.table.counts == {"visitor with too many events, a bot (left out)": 9}


@pytest.mark.parametrize(
    "grades, expected",
    [
        (["E", "s", "I"], [100, 10, 0]),
        (["Exact", "complement", " IRRELEVANT "], [100, 1, 0]),
        (["2.0", "3", "0.0"], [2, 3, 0]),
    ],
)
def test_grades_are_read_as_they_are(tmp_path, grades, expected):
    rows = [["mug", product, grade] for product, grade in zip("abc", grades, strict=True)]
    found = judged(tmp_path, rows, ("query", "product", "grade"))
    assert list(found.grades.values()) == expected and not found.table.counts


def test_labels_have_the_gains_of_the_converter_and_scales_are_not_mixed(tmp_path):
    assert {label.upper(): LABELS[label] for label in "esci"} == ConvertArguments("esci", "in", "out").gains
    with pytest.raises(DataError, match="column 'grade' has both numbers and ESCI's labels"):
        judged(tmp_path, [["mug", "a", "E"], ["mug", "b", "3"]], ("query", "product", "grade"))
    found = judged(
        tmp_path, [["mug", "a", "1"], ["mug", "b", "1000001"], ["mug", "c", "X"]], ("query", "product", "grade")
    )
    assert found.table.counts == {"grade is no whole number from 0 (left out)": 2}, "metrics can't measure more"
