"""Tables of starts and of followed streams."""

from training.benchmarks.follow import format_follow
from training.benchmarks.start import format_starts


def test_starts_have_columns_of_before_only_where_there_are_some():
    now, before = {"wall": 0.2, "cpu": 0.126, "mb": 23.6}, {"wall": 9.0, "cpu": 4.5, "mb": 1813.3}
    alone = format_starts({"training.search": {"now": now}})
    assert alone.splitlines()[0] == "| command | seconds | CPU seconds | MB |"
    assert alone.splitlines()[2:] == ["| training.search | 0.20 | 0.13 | 24 |"]
    lines = format_starts(
        {"training.search": {"now": now, "before": before}, "new": {"now": now}, "old": {"before": now}}
    )
    assert len({line.count("|") for line in lines.splitlines()[:3]}) == 1
    assert lines.splitlines()[2:] == [
        "| training.search | 0.20 | 0.13 | 24 | 9.00 | 4.50 | 1,813 |",
        "| new | 0.20 | 0.13 | 24 |  |  |  |",
    ]


def test_streams_have_a_row_each_and_the_kills_a_sentence():
    kills = {"events": 100_000, "killed": 20, "states that were found": 43, "products compared": 2998}
    kills |= {"queries compared": 100, "words compared": 23}
    speed = {"events": 400, "events a second": 12195.1, "embedded": 30, "products": 2000, "seconds to save": 0.063}
    text = format_follow({"kills": kills, "prices": speed, "environment": {}})
    assert "killed 20 times" in text and "43 different states" in text and "2,998 products" in text
    assert text.splitlines()[-1] == "| prices | 12,195 | 30 of 400 | 2,000 | 0.06 |"
    assert len(text.splitlines()) == 5
