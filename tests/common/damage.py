"""Ways to damage a file, drawn by a seed: bytes of any file; values, columns and headers where the format is known.

    kind = damage(folder / "config.json", 17, others=[folder / "model.safetensors"])

The same file, number and `others` give the same damage.
"""

import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Change = Callable[[Random, bytes], bytes]
ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 10**12, 2**63, -(2**70), 0.5, 1e308, float("nan"), float("inf"), "", "x", "../../x",
    "/etc/passwd", "\0", "\ud800", "a" * 5000, "12", "NaN", [], ["x"], [[]], [None], [1, 2, 3], {}, {"x": 1}, {"": {}},
]  # fmt: skip


def damage(file: Path, number: int, others: list[Path]) -> str:
    """Damages a file in place, the same way for the same number.

    Args:
        file (`Path`): the file.
        number (`int`): the seed.
        others (`list[Path]`): files that may take its place.

    Returns:
        The kind of damage.
    """
    draw = Random(f"{file.name} {number}")
    kinds = [*PLACES, *BYTES, *BYTES, *(3 * list(STRUCTURE.get(file.suffix, {})))]
    if others:
        kinds += ["another file"] * 2
    kind = draw.choice(kinds)
    if kind in PLACES:
        PLACES[kind](file)
    elif kind == "another file":
        shutil.copyfile(draw.choice(others), file)
    else:
        change = BYTES.get(kind) or STRUCTURE[file.suffix][kind]
        content = file.read_bytes()
        changed = content
        for _ in range(10):  # a draw may hit what stays the same, such as zeros that become zeros
            if (changed := change(draw, content)) != content:
                break
        file.write_bytes(changed)
    return kind


def _as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _as_broken_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


PLACES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "a folder": _as_folder,
    "broken link": _as_broken_link,
    "empty": lambda file: file.write_bytes(b"") and None,
}


def _span(draw: Random, content: bytes) -> tuple[int, int]:
    """Where a range of up to a third begins and ends."""
    start = draw.randrange(max(1, len(content)))
    return start, min(len(content), start + draw.randint(1, max(1, len(content) // 3)))


def _truncate(draw: Random, content: bytes) -> bytes:
    return content[: draw.choice([1, 4, 8, len(content) // 2, len(content) - 1, draw.randrange(len(content) + 1)])]


def _zero(draw: Random, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + bytes(end - start) + content[end:]


def _flip(draw: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _remove(draw: Random, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + content[end:]


def _repeat(draw: Random, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:end] + content[start:]


def _noise(draw: Random, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + draw.randbytes(end - start) + content[end:]


BYTES: dict[str, Change] = {
    "truncated": _truncate,
    "zeros": _zero,
    "flipped bits": _flip,
    "range removed": _remove,
    "range repeated": _repeat,
    "noise": _noise,
    "appended": lambda draw, content: content + draw.choice([b"\0", b"}", b"\n", draw.randbytes(50)]),
    "prepended": lambda draw, content: draw.choice([b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\n"]) + content,
    "all noise": lambda draw, content: draw.randbytes(len(content)),
}


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each container within a value and each of its keys."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in items] + [place for _, one in items for place in _places(one)]


def _changed_value(draw: Random, value: Any, kind: str) -> Any:
    """A value of JSON or YAML with one place changed."""
    places = _places(value)
    if kind == "nested":
        return [value] if draw.random() < 0.5 else {"x": value}
    if not places or kind == "other root":
        return draw.choice(ODD_VALUES)
    container, key = draw.choice(places)
    if kind == "key dropped":
        del container[key]
    elif kind == "key renamed" and isinstance(container, dict):
        container[f"{key}x"] = container.pop(key)
    elif kind == "number moved" and isinstance(container[key], int | float):
        container[key] = draw.choice([-container[key], container[key] + 1, container[key] * 10**9, float("nan")])
    elif kind == "list for a scalar":
        container[key] = [container[key]]
    elif kind == "as text":
        container[key] = json.dumps(container[key])
    else:
        container[key] = draw.choice(ODD_VALUES)
    return value


VALUE_KINDS = (
    "odd value", "key dropped", "key renamed", "number moved", "list for a scalar", "as text", "nested", "other root",
)  # fmt: skip


def _in_json(kind: str) -> Change:
    def change(draw: Random, content: bytes) -> bytes:
        value = _changed_value(draw, json.loads(content), kind)
        return json.dumps(value, indent=2).encode("utf-8", "surrogatepass")

    return change


def _in_json_lines(kind: str) -> Change:
    def change(draw: Random, content: bytes) -> bytes:
        lines = content.splitlines()
        row = draw.randrange(len(lines))
        lines[row] = json.dumps(_changed_value(draw, json.loads(lines[row]), kind)).encode()
        return b"\n".join(lines) + b"\n"

    return change


def _in_yaml(kind: str) -> Change:
    def change(draw: Random, content: bytes) -> bytes:
        return yaml.dump(_changed_value(draw, yaml.safe_load(content), kind)).encode("utf-8", "replace")

    return change


def _doubled_key(draw: Random, content: bytes) -> bytes:
    """The same key twice, the second time with another value."""
    lines = content.split(b"\n")
    rows = [row for row, line in enumerate(lines) if b":" in line]
    if not rows:
        return content
    row = draw.choice(rows)
    key = lines[row].partition(b":")[0]
    comma = b"," if content.lstrip().startswith(b"{") else b""
    return b"\n".join([*lines[:row], key + b": 7" + comma, *lines[row:]])


def _deep(draw: Random, content: bytes) -> bytes:
    depth = draw.choice([50, 2000, 100_000])
    return draw.choice([b"[" * depth + b"]" * depth, b'{"x":' * depth + b"1" + b"}" * depth, b"[" * depth])


def _in_header(kind: str) -> Change:
    """The JSON at the start of a safetensors file, its length kept true."""

    def change(draw: Random, content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(_changed_value(draw, header, kind)).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return change


def _other_array(draw: Random, content: bytes) -> bytes:
    """An array of another form."""
    array = np.load(io.BytesIO(content))
    forms = [array.T, array.ravel(), array[:0], array[:1], array[:, :1] if array.ndim > 1 else array, array * np.nan]
    forms += [array.astype(str), array.astype(np.int64), array.astype(np.complex64), array[None], np.float64(3)]
    stream = io.BytesIO()
    np.save(stream, draw.choice(forms))
    return stream.getvalue()


def _huge_array(draw: Random, content: bytes) -> bytes:
    """A header that tells of more than there is, or of objects."""
    stream = io.BytesIO()
    shape = draw.choice([(10**12, 8), (2**40,), (0, 10**15), (-1, 4)])
    descr = draw.choice(["<f4", "<f2", "|O", "<U9999"])
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content[128:]


def _in_table(kind: str) -> Change:
    def change(draw: Random, content: bytes) -> bytes:
        table = _changed_table(draw, pq.read_table(io.BytesIO(content)), kind)
        stream = io.BytesIO()
        pq.write_table(table, stream)
        return stream.getvalue()

    return change


def _changed_table(draw: Random, table: pa.Table, kind: str) -> pa.Table:
    place = draw.randrange(table.num_columns)
    name = table.column_names[place]
    if kind == "column dropped":
        return table.drop_columns([name])
    if kind == "column renamed":
        return table.rename_columns([f"{one}x" if one == name else one for one in table.column_names])
    if kind == "column twice":
        return table.append_column(name, table.column(place))
    if kind == "rows twice":
        return pa.concat_tables([table, table])
    if kind == "no rows":
        return table.slice(0, 0)
    if kind == "column of nulls":
        return table.set_column(place, name, pa.nulls(len(table), draw.choice([table.schema.types[place], pa.null()])))
    others = [
        pa.array(range(len(table))),
        pa.array([f"value {row}" for row in range(len(table))]),
        pa.array([b"\xff\xfe"] * len(table)),
        pa.array([[1.5, float("nan")]] * len(table)),
        pa.array([[0.5]] * len(table), pa.list_(pa.float16(), 1)),
        pa.array([{"bytes": b"x", "path": None}] * len(table)),
        pa.array([float("inf")] * len(table)),
        pa.array([True] * len(table)),
        pa.array([["a", None]] * len(table)),
    ]
    return table.set_column(place, name, draw.choice(others))


def _cells(draw: Random, content: bytes) -> bytes:
    """A cell of a delimited file is changed, or a row gets a cell more or less."""
    lines = content.split(b"\n")
    row = draw.randrange(len(lines))
    cells = lines[row].split(b",")
    place = draw.randrange(len(cells))
    odd = [b"", b'"', b'"a"b', b"x,y", b"-1", b"1e999", b"\0", b"\xff", b"a" * 200_000, b'"\n', b"NaN", b"\r"]
    changed = [*cells[:place], draw.choice(odd), *cells[place + 1 :]]
    lines[row] = b",".join(draw.choice([changed, cells[:place], cells + cells]))
    return b"\n".join(lines)


JSON = {kind: _in_json(kind) for kind in VALUE_KINDS} | {"key twice": _doubled_key, "deep": _deep}
TABLE_KINDS = (
    "column dropped", "column renamed", "column twice", "rows twice", "no rows", "column of nulls", "other column",
)  # fmt: skip
STRUCTURE: dict[str, dict[str, Change]] = {
    ".json": JSON,
    ".jsonl": {f"line: {kind}": _in_json_lines(kind) for kind in VALUE_KINDS},
    ".yaml": {kind: _in_yaml(kind) for kind in VALUE_KINDS} | {"key twice": _doubled_key},
    ".safetensors": {f"header: {kind}": _in_header(kind) for kind in VALUE_KINDS},
    ".npy": {"other array": _other_array, "huge array": _huge_array},
    ".parquet": {kind: _in_table(kind) for kind in TABLE_KINDS},
    ".csv": {"cells": _cells},
}
