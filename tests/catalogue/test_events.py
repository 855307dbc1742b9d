"""Streams of events: files that grow, and lines that are none."""

import json
import os

import pyarrow as pa
import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue import event_files
from training.catalogue.event_files import EventFiles
from training.catalogue.events import Unusable, as_stored, read_event


def contents(files: EventFiles, count: int = 100) -> list[bytes | None]:
    return [line.content for line in files.read(count)]


def append(file, content: bytes) -> None:
    with open(file, "ab") as opened:
        opened.write(content)


def test_lines_come_once_whatever_their_ends_and_wherever_a_run_ends(tmp_path):
    source = tmp_path / "events.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"n": 0}\r\n\n{"n": 1}\n  \n{"n": 2}\r\n{"n": 3}')
    seen, places, position = [], [], None
    for _ in range(8):
        files = EventFiles(source, position)
        for line in files.read(1):
            seen.append(json.loads(line.content)["n"])
            places.append(int(line.where.rsplit(" ", 1)[1]))
        position = files.position
    assert seen == [0, 1, 2, 3] and places == [1, 3, 5, 6]
    append(source, b'\r\n{"n": 4}\n')
    assert [json.loads(line.content)["n"] for line in EventFiles(source, position).read(9)] == [4]
    assert EventFiles(source, position).read(9)[0].where.endswith("line 7")


@pytest.mark.parametrize("cut", range(1, 20))
def test_half_a_line_waits_for_its_rest(tmp_path, cut):
    source, whole = tmp_path / "events.jsonl", '{"a": {"b": "ü}"}}'.encode()
    source.write_bytes(b"{}\n" + whole[:cut])
    files = EventFiles(source)
    found = contents(files)
    assert found == [b"{}"] + ([whole] if cut >= len(whole) else [])
    assert bool(files.waiting()) == (cut < len(whole))
    again = EventFiles(source, files.position)
    append(source, whole[cut:] + b"\n")
    for one in (files, again):
        assert found + contents(one) == [b"{}", whole] and not one.waiting() and not one.behind()


def test_files_are_read_in_the_order_of_their_names_and_may_grow_and_go(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text(json.dumps(name) + "\n")
    files = EventFiles(tmp_path)
    assert contents(files) == [b'"a.jsonl"', b'"b.jsonl"']
    (tmp_path / "a.jsonl").unlink()
    append(tmp_path / "b.jsonl", b"1\n")
    (tmp_path / "d.jsonl").write_text("2\n")
    position = files.position
    assert contents(files) == [b"1", b"2"] == contents(EventFiles(tmp_path, position)) and not files.problems.counts
    (tmp_path / "aa.jsonl").write_text("3\n")
    assert contents(files) == [b"3"] and "came after later ones" in files.problems.lines()[0]
    append(tmp_path / "d.jsonl", b"half")
    files.read(9)
    (tmp_path / "d.jsonl").unlink()
    files.read(9)
    assert "deleted before it was read to its end" in files.problems.lines()[1]


REPLACED = {
    "truncated": lambda file: os.truncate(file, 3),
    "emptied": lambda file: os.truncate(file, 0),
    "another": lambda file: file.write_text('{"n": 8}\n{"n": 9}\n{"n": 9}\n'),
    "begun anew and longer": lambda file: file.write_text('{"n": 7}\n' * 100),
    "another of its name": lambda file: (file.unlink(), file.write_text('{"n": 0}\n{"n": 5}\n{"n": 5}\n')),
}


@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("running", [True, False])
def test_a_file_that_is_another_one_is_told_and_not_read_again(tmp_path, kind, running):
    source = tmp_path / "events.jsonl"
    source.write_text('{"n": 0}\n{"n": 1}\n')
    files = EventFiles(source)
    files.read(9)
    position = files.position
    REPLACED[kind](source)
    with pytest.raises(DataError, match="events.jsonl: was truncated or replaced") as caught:
        (files if running else EventFiles(source, position)).read(9)
    assert "\n" not in str(caught.value)


def test_a_copy_of_the_same_file_goes_on(tmp_path):
    source = tmp_path / "events.jsonl"
    source.write_text("1\n")
    files = EventFiles(source)
    files.read(9)
    (tmp_path / "copy").write_text("1\n2\n")
    (tmp_path / "copy").rename(source)
    assert contents(files) == [b"2"]


def test_a_line_that_is_too_long_is_passed_over_when_its_end_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "LONGEST", 100)
    monkeypatch.setattr(event_files, "CHUNK", 30)
    source = tmp_path / "events.jsonl"
    source.write_bytes(b"1\n" + b"x" * 250)
    files = EventFiles(source)
    assert contents(files) == [b"1"]
    append(source, b"x" * 50 + b"\n" + b"y" * 99 + b"\n2\n")
    again = EventFiles(source, files.position)
    for one in (files, again):
        assert contents(one) == [None, b"y" * 99, b"2"]
    assert not EventFiles(source, files.position).read(9)


def test_files_that_are_gone_are_forgotten_from_the_first_on(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "FORGOTTEN", 3)
    files = EventFiles(tmp_path)
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text("1\n")
        assert len(files.read(9)) == 1
        if number != 1:
            (tmp_path / f"{number}.jsonl").unlink()
    assert set(json.loads(files.position)) == {"1.jsonl", "3.jsonl", "4.jsonl", "5.jsonl"}


@pytest.mark.parametrize(
    "position", ["x", "[1]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [-1, 0, 0]}', '{"a": [null, 0, 0]}']
)
def test_a_position_that_is_none_is_one_line(tmp_path, position):
    with pytest.raises(DataError, match="position"):
        EventFiles(tmp_path, position)


UNUSABLE = {
    "": "no JSON",
    "nonsense": "no JSON",
    "\0\0": "no JSON",
    "[" * 100_000: "no JSON",
    "9" * 5000: "no JSON",
    '{"type": "price", "_id": "a", "price": NaN}': "no JSON",
    '{"type": "upsert", "product": {"_id": "a", "title": "\\ud800"}}': "no JSON",
    "[]": "no JSON object",
    "null": "no JSON object",
    '{"_id": "a"}': "type is none of upsert",
    '{"type": ["price"], "_id": "a"}': "type is none of upsert",
    '{"type": "gift", "_id": "a"}': "type is none of upsert",
    '{"type": "delete"}': "without an _id",
    '{"type": "delete", "_id": " "}': "without an _id",
    '{"type": "delete", "_id": null}': "without an _id",
    '{"type": "delete", "_id": true}': "without an _id",
    '{"type": "delete", "_id": 1.5}': "without an _id",
    '{"type": "upsert", "_id": "a"}': "without a product",
    '{"type": "upsert", "product": {"title": "a"}}': "without an _id",
    '{"type": "price", "_id": "a"}': "price that is no number",
    '{"type": "price", "_id": "a", "price": "12.5"}': "price that is no number",
    '{"type": "price", "_id": "a", "price": true}': "price that is no number",
    '{"type": "price", "_id": "a", "price": 1e999}': "price that is no number",
    '{"type": "price", "_id": "a", "price": 1' + 400 * "0" + "}": "price that is no number",
    '{"type": "price", "_id": "a", "price": 1, "currency": 7}': "currency that is no text",
    '{"type": "stock", "_id": "a", "in_stock": 1}': "neither true nor false",
    '{"type": "update", "_id": "a"}': "update of no column",
}


@pytest.mark.parametrize("line", UNUSABLE, ids=lambda line: line[:40])
def test_what_is_no_event_says_why(line):
    with pytest.raises(Unusable, match=UNUSABLE[line]):
        read_event(line.encode())


def test_bytes_that_are_no_text_and_lines_that_are_too_long_are_no_events():
    for content, why in (
        (b'{"type": "\xff"}', "no JSON"),
        ('{"type": 1}'.encode("utf-16"), "no JSON"),
        (None, "64 MB"),
    ):
        with pytest.raises(Unusable, match=why):
            read_event(content)


def test_ids_may_be_numbers_and_of_any_letters():
    assert read_event(b'{"type": "delete", "_id": 17, "x": 1}').product_id == "17"
    event = read_event('{"type": "upsert", "product": {"_id": "Ж \'\\"\\u0000", "type": "mug"}}'.encode(), "here")
    assert (event.product_id, event.columns, event.where) == ("Ж '\"\0", {"type": "mug"}, "here")


@pytest.mark.parametrize(
    ("value", "kind", "stored"),
    [
        (7, pa.large_string(), "7"),
        (7.0, pa.large_string(), "7"),
        (12.5, pa.large_string(), "12.5"),
        (["ü"], pa.large_string(), '["ü"]'),
        (7, pa.float64(), 7.0),
        (0.1, pa.float32(), pa.scalar(0.1, pa.float32()).as_py()),
        (7.0, pa.int64(), 7),
        (True, pa.bool_(), True),
        (None, pa.bool_(), None),
        ("7", pa.float64(), Unusable),
        (True, pa.float64(), Unusable),
        (1e300, pa.float32(), Unusable),
        (10**400, pa.float64(), Unusable),
        (2**63, pa.int64(), Unusable),
        (7.5, pa.int64(), Unusable),
        (1, pa.bool_(), Unusable),
        ([1], pa.int64(), Unusable),
    ],
)
def test_values_are_what_their_column_holds(value, kind, stored):
    if stored is Unusable:
        with pytest.raises(Unusable, match="can't hold"):
            as_stored(value, kind)
    else:
        found = as_stored(value, kind)
        assert found == stored and type(found) is type(stored)
