"""Tables as shops' tools write them: any encoding, separator and quoting is read exactly and said, or refused."""

import csv
import gzip
import io
import json
import random
import re
import zipfile

import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue.delimited import (
    BARE_QUOTE,
    ESCAPED_QUOTE,
    LINE_BREAKS,
    SEVERAL_LINES,
    SHORT,
    UNNAMED,
    WRAPPED,
    read_table,
    separator_of,
)
from training.catalogue.meant_rows import JOINED, NULLS
from training.catalogue.options import Columns
from training.catalogue.tables import Table, table_rows
from training.catalogue.text_files import CONTROL, LOST, NOT_CP1252, NOT_UTF8, TextFile

ROWS = [("1", "Größe 5, blau", "9,90"), ("2", "Café |extra|; groß", "1.234,50"), ("3", "Löffel", "7")]
TABLE = "id;title;price\n" + "".join(f'{a};"{b}";{c}\n' for a, b, c in ROWS)


def write(folder, content, name="p.csv", encoding="utf-8"):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return file


def opened(file, **given):
    return Table.open(str(file), Columns(), [("id",), ("title",)], "--columns", **given)


def read(file, **given):
    """The rows as tuples, and the table with its problems."""
    table = opened(file, **given)
    return [tuple(row.values()) for _, row in table.rows()], table


def places(table):
    """The rows of each kind of problem."""
    return {kind: [place["row"] for place in found] for kind, found in table.examples.items()}


@pytest.mark.parametrize(
    "encoding, said",
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-be", "UTF-32-BE"),
        ("cp1252", "CP1252 (assumed: it isn't UTF-8, and reads as 'Größe'; --encoding names another)"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_encoding_is_found_out_and_said(tmp_path, encoding, said, end):
    rows, table = read(write(tmp_path, TABLE.replace("\n", end), encoding=encoding))
    assert rows == ROWS and not table.counts and table.size in (3, 4)
    assert table.dialect.startswith(f"read as {said}, separator ;")
    assert ("--encoding" in table.dialect) == (encoding == "cp1252")


@pytest.mark.parametrize("script", ["Кружка большая", "红色杯子", "כוס אדומה", "赤いマグ", "Czerwień żółć"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le"])
def test_unicode_of_any_script_needs_no_mark(tmp_path, script, encoding):
    text = f"id\ttitle\tprice\r\n1\t{script * 9}\t9\r\n2\t{script}\t8\r\n"
    rows, table = read(write(tmp_path, text, encoding=encoding))
    assert [row[1] for row in rows] == [script * 9, script] and not table.counts


@pytest.mark.parametrize(
    "encoding, text",
    [
        ("cp1251", "Кружка большая синяя\n" * 3),
        ("gb18030", "红色的杯子和蓝色的杯子\n" * 3),
        ("shift_jis", "赤いマグカップ\n" * 3),
        ("mac_roman", "größer schöner hübscher\n"),
        ("mac_roman", "crème brûlée à côté\n"),
        ("cp850", "größer, über, schön\n"),
        ("cp1250", "Ťažký kôň, ďaleko\n"),
        ("iso8859-7", "Κόκκινη κούπα μεγάλη\n" * 3),
    ],
)
def test_what_is_not_western_is_refused_with_the_option_that_reads_it(tmp_path, encoding, text):
    lines = [f'{number};"{line}";9' for number, line in enumerate(text.splitlines())]
    file = write(tmp_path, "\n".join(["id;title;price", *lines]), encoding=encoding)
    with pytest.raises(DataError, match="p.csv: is neither UTF-8 nor western text: .*--encoding") as refused:
        opened(file)
    assert "\n" not in str(refused.value)
    rows, table = read(file, encoding=encoding)
    assert [row[1] for row in rows] == text.splitlines() and table.dialect.startswith(f"read as {encoding.upper()}, ")


@pytest.mark.parametrize(
    "words", ["Šaty à œuvre, élève", "NESTLÉ® “größte” – 5 €", "Ärmel, Öl, Übergröße", "12 µm ± 3° «é»"]
)
def test_western_text_is_read_as_such(tmp_path, words):
    rows, table = read(write(tmp_path, f'id,title\n1,"{words}"\n2,x\n', encoding="cp1252"))
    assert rows[0] == ("1", words) and not table.counts


def test_utf8_that_stops_being_it_is_read_on_and_told_by_line(tmp_path):
    lines = [b"id,title", *(b"%d,plain mug" % number for number in range(9000))]
    lines[5] = "5,größer".encode()
    lines[8000] = "8000,größer".encode("cp1252")
    lines[8500] = b"8500,cut caf\xc3"
    rows, table = read(write(tmp_path, b"\n".join(lines)))
    assert rows[4][1] == rows[7999][1] == "größer" and rows[8499][1] == "cut cafÃ" and len(rows) == 9000
    assert places(table) == {NOT_UTF8: [8001, 8501]} and table.dialect == "read as UTF-8, separator ,"


@pytest.mark.parametrize("cut", [b"\xc3", b"\xe2\x82", b"\xe9"])
def test_a_cut_character_does_not_make_utf8_another_encoding(tmp_path, cut):
    rows, table = read(write(tmp_path, b"id,title\n1," + "größer €".encode() + b"\n2,cut caf" + cut + b"\n3,x\n"))
    assert rows[0][1] == "größer €" and rows[1][1].startswith("cut caf") and len(rows) == 3
    assert places(table) == {NOT_UTF8: [3]} and "UTF-8," in table.dialect


def test_cp1252_that_goes_on_as_utf8_is_told_and_so_is_what_it_lacks(tmp_path):
    lines = ["id,title\n1,größer\n".encode("cp1252"), b"2,x\n" * 20_000, "3,größer\n".encode(), b"4,\x81\n"]
    rows, table = read(write(tmp_path, b"".join(lines)))
    assert (rows[0][1], rows[-2][1], rows[-1][1]) == ("größer", "grÃ¶ÃŸer", "\ufffd")
    assert places(table) == {NOT_CP1252: [20003], LOST: [20004]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_nul_and_control_characters_are_left_out_and_told(tmp_path, encoding):
    text = "id,title\n1,Grö\0ßer\n2,two\x1a\n3,th\x0bree\n4,\x7f\x01four\n5,five\n6\0\0,six\n\x1a"
    rows, table = read(write(tmp_path, text, encoding=encoding))
    assert [row[1] for row in rows] == ["Größer", "two", "th ree", "four", "five", "six"] and rows[5][0] == "6"
    assert places(table) == {CONTROL: [2, 3, 4, 5, 7]}


def test_nul_bytes_do_not_make_a_text_utf16(tmp_path):
    for line in ("1,mugs\0\n", "1,a\0b\n", "1,mug\0\0\0\0\0\n"):
        rows, table = read(write(tmp_path, "id,title\n" + line * 4))
        assert len(rows) == 4 and len(rows[0][1]) in (2, 3, 4) and "UTF-8" in table.dialect


def test_a_mark_inside_a_file_is_left_out(tmp_path):
    part = "id,title\n1,one\n".encode("utf-8-sig")
    rows, table = read(write(tmp_path, part + part.replace(b"1,one", b"2,two")))
    assert rows == [("1", "one"), ("2", "two")]
    assert places(table) == {"broken row (left out)": [3]}, "the header of the second file"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.txt", "P.CSV", "p.tab", "p.psv"])
def test_a_separator_is_found_out_whatever_the_ending(tmp_path, separator, name):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator).writerows([("id", "title", "price"), *ROWS])
    rows, table = read(write(tmp_path, stream.getvalue(), name))
    assert rows == ROWS and not table.counts
    assert table.dialect == f"read as UTF-8, separator {'tab' if separator == chr(9) else separator}"
    assert read(tmp_path / name, separator=separator)[0] == ROWS


@pytest.mark.parametrize(
    "text, separator",
    [
        ("id;title\n" + "".join(f"{n};a, b, c\n" for n in range(9)), ";"),
        ("id,title\n" + "".join(f"{n},a; b; c; d\n" for n in range(9)), ","),
        ("id\ttitle\n" + "".join(f"{n}\tone, two; three, four\n" for n in range(9)), "tab"),
        ("id|title|price\n" + "".join(f"{n}|x|9,{n}0\n" for n in range(9)), "|"),
        ("id;title, short;price, EUR\n1;a, b;9,90\n2;a, c;8,90\n", ";"),
        ('id,title\n1,"a;b;c\nd;e;f\ng;h;i\nj;k;l"\n', ","),
        ("id;title;a\n1;x\n2;y\n", ";"),
        ("id,title\n", ","),
    ],
)
def test_separators_inside_cells_do_not_deceive(text, separator):
    table = read_table(io.StringIO(text, newline=""))
    assert table.said == f"separator {separator}" and table.header[0] == "id"


@pytest.mark.parametrize("lines", ["red mug, blue|mug|cup", "a, b|c, d|e, f", "a;|b|c", "1,5|2,5|3"])
def test_one_column_is_not_cut(lines):
    table = read_table(io.StringIO("query\n" + lines.replace("|", "\n"), newline=""))
    assert [row["query"] for _, row in table.rows()] == lines.split("|") and "one column" in table.said


@pytest.mark.parametrize(
    "line, shown", [("sep=;", ";"), ('"sep=;"', ";"), ("SEP=;\r", ";"), ("sep=|", "|"), ("sep=\t", "tab")]
)
def test_a_line_that_names_the_separator_is_obeyed(tmp_path, line, shown):
    separator = "\t" if shown == "tab" else shown
    rows, table = read(write(tmp_path, f"{line}\nid{separator}title\n1{separator}a,b\n"))
    assert rows == [("1", "a,b")] and table.dialect == f"read as UTF-8, separator {shown}, header on line 2"
    assert [number for number, _ in table.rows()] == [3]


@pytest.mark.parametrize("given", ["tab", "\\t", "\t", "TAB"])
def test_separators_have_names(given):
    assert separator_of(given) == "\t" and separator_of("\\x01") == "\x01" and separator_of(";") == ";"


@pytest.mark.parametrize("given", ["", ";;", '"', "\n", "tabs", "\\xzz"])
def test_what_can_not_separate_is_refused(given):
    with pytest.raises(ValueError, match="is no single character"):
        separator_of(given)


def test_a_control_character_may_separate(tmp_path):
    rows, table = read(write(tmp_path, "id\x01title\n1\x01a\x02b, c\n"), separator="\\x01")
    assert rows == [("1", "ab, c")] and places(table) == {CONTROL: [2]}


@pytest.mark.parametrize(
    "above",
    [
        "",
        "\n\n",
        "  \r\n\r\n",
        "Product export\n",
        "# exported 2026-01-01\n",
        "# exported 2026-01-01; by me; for you; and all\n",
        "Shop GmbH\n\nProducts\n",
        "Product export;;\n;;\n",
        '"Products, all of them"\n',
        "Products: mugs, cups\n",
    ],
)
def test_lines_above_the_header_are_no_rows(tmp_path, above):
    rows, table = read(write(tmp_path, above + TABLE))
    assert rows == ROWS and not table.counts
    line = len(above.splitlines()) + 1
    assert ("header on line" in table.dialect) == bool(above) and f"line {line}" * bool(above) in table.dialect
    assert [number for number, _ in table.rows()] == [line + 1, line + 2, line + 3]


def test_a_title_above_two_columns(tmp_path):
    for separator in ",;|":
        text = "Export of the shop\nid,title\n1,one\n2,two\n".replace(",", separator)
        assert read(write(tmp_path, text))[0] == [("1", "one"), ("2", "two")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_half_a_character_at_the_end_is_told(tmp_path, encoding):
    rows, table = read(write(tmp_path, ("id,title\n" + "1,mug\n" * 9).encode(encoding)[:-3]))
    assert len(rows) == 9 and places(table) == {LOST: [10]}


@pytest.mark.parametrize("cell", ['="00123"', '"=""00123"""', ' ="00123" '])
def test_formulas_that_keep_zeros_are_text(tmp_path, cell):
    rows, table = read(write(tmp_path, f'id,title\n{cell},a="b"\n'))
    assert rows == [("00123", 'a="b"')] and not table.counts


def test_ends_of_lines_of_several_kinds(tmp_path):
    rows, table = read(write(tmp_path, 'id,title\n1,a\r\n2,b\r3,"c\rd"\n4,"e\r\nf"\r\r\n5,g'))
    assert rows == [("1", "a"), ("2", "b"), ("3", "c\rd"), ("4", "e\r\nf"), ("5", "g")] and not table.counts
    found, table = read(write(tmp_path, "id,title,price\n1,a\rb,9\n2,c,8\n"))
    assert found == [("2", "c", "8")] and places(table) == {"broken row (left out)": [2, 3]}


@pytest.mark.parametrize(
    "header",
    [
        "id,title,price",
        " id , title ,price ",
        '"id","title","price"',
        '"id", "title", "price"',
        "'id','title','price'",
        "id,title,price,",
        "id,title,price,,,",
    ],
)
def test_headers_with_quotes_spaces_and_trailing_separators(tmp_path, header):
    for end in ("", ",", ",,"):
        rows, table = read(write(tmp_path, f"{header}\n1,one,9{end}\n2,two,8{end}\n"))
        assert rows == [("1", "one", "9"), ("2", "two", "8")] and not table.counts


def test_columns_twice_and_without_a_name(tmp_path):
    rows, table = read(write(tmp_path, ",id,title,size,size,\n0,1,one,S,M,x\n1,2,two,S,,\n"))
    assert rows == [("1", "one"), ("2", "two")] and places(table) == {UNNAMED: [2, 3]}
    assert table.dialect.endswith("separator ,, 2 columns 'size' (the second is called 'size (2)')")
    file = write(tmp_path, "id,size (2),size,size,size\n1,a,b,c,d\n")
    assert next(table_rows(file))[1] == {"id": "1", "size (2)": "a", "size": "b", "size (3)": "c", "size (4)": "d"}


@pytest.mark.parametrize("name", ["additional_image_link", "Image", "product_highlight"])
def test_columns_of_pictures_that_come_several_times_are_a_list(tmp_path, name):
    rows = "1\tone\ta.jpg\tS\tb.jpg\t\n2\ttwo\t\tM\t\tc.jpg\n"
    file = write(tmp_path, f"id\ttitle\t{name}\tsize\t{name}\t{name}\n{rows}", "p.tsv")
    found = [row for _, row, _ in table_rows(file)]
    assert [row[name] for row in found] == [["a.jpg", "b.jpg"], ["c.jpg"]] and list(found[0])[-1] == name
    assert f"3 columns '{name}' (read as a list)" in opened(file).dialect and len(found[0]) == 4


@pytest.mark.parametrize(
    "rows, kept, broken",
    [
        ("1,a,9|2,b|3,c,9", "123", []),
        ("1,a,9|2,b,8,7|3,c,9", "13", [3]),
        ("1,a,9|2,b,8,,|3,c,9", "123", []),
        ("1,a,9|2,Big|mug,8|3,c,9", "13", [3, 4]),
        ("1,a,9|2,Big|red|mug,8|3,c,9", "13", [3, 4, 5]),
        ("1,a,9|total|3,c,9", "13", [3]),
        ("1,a,9|id,title,price|3,c,9", "13", [3]),
    ],
)
def test_rows_of_another_length_are_told_and_kept_where_nothing_is_lost(tmp_path, rows, kept, broken):
    text = "id,title,price\n" + rows.replace("|", "\n")
    found, table = read(write(tmp_path, text))
    assert "".join(row[0] for row in found) == kept
    assert places(table).get("broken row (left out)", []) == broken
    assert table.counts[SHORT] == rows.count("2,b|")


def test_tools_that_drop_empty_cells_at_the_end_lose_no_row(tmp_path):
    lines = [
        "id,title,price,brand,group",
        *(f"{n},t{n},9,b" for n in range(40)),
        *(f"{n},t{n},9,b,g" for n in range(40, 50)),
    ]
    rows, table = read(write(tmp_path, "\n".join(lines)))
    assert len(rows) == 50 and table.counts == {SHORT: 40}


@pytest.mark.parametrize(
    "cell, read_as", [(r"5\" pipe, \"blue\"", '5" pipe, "blue"'), (r"\"", '"'), (r"a\\\", b", r'a\\", b')]
)
def test_quotes_behind_a_backslash(tmp_path, cell, read_as):
    rows, table = read(write(tmp_path, f'id,title\n1,"{cell}"\n2,plain\n3,"C:\\dir\\"\n4,"two\n{cell}"\n5,x\n'))
    assert [row[1] for row in rows] == [read_as, "plain", "C:\\dir\\", f"two\n{read_as}", "x"]
    assert sorted(sum(places(table).values(), [])) == [2, 5] and places(table)[ESCAPED_QUOTE][0] == 2


@pytest.mark.parametrize(
    "text",
    ["'id','title'\n'1','Mug, blue 5\" wide'\n'2','it''s'\n", "id,title\n1,'Mug, blue 5\" wide'\n2,'it''s'\n"],
)
def test_single_quotes(tmp_path, text):
    rows, table = read(write(tmp_path, text))
    assert rows == [("1", 'Mug, blue 5" wide'), ("2", "it's")] and table.dialect.endswith("separator ,, quotes '")


def test_space_before_quotes(tmp_path):
    rows, table = read(write(tmp_path, '"id", "title", "price"\n"1", "Mug, blue", "9"\n"2", "5"" pipe", "8"\n'))
    assert rows == [("1", "Mug, blue", "9"), ("2", '5" pipe', "8")] and not table.counts


WRAPPED_ROWS = [
    ("1", "Mug, blue", "9"),
    ("2", 'a "big" cup', "8,50"),
    ("3", "Plain", "7"),
    ("4", "two\nlines, x", "6"),
]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("is_header_wrapped", [True, False])
def test_lines_that_are_wrapped_whole_are_read_as_what_they_mean(tmp_path, separator, is_header_wrapped):
    """As a spreadsheet that saw one cell a row writes them: rows with quotes are wrapped and perhaps others too."""
    lines = []
    for number, row in enumerate([("id", "title", "price"), *WRAPPED_ROWS]):
        stream = io.StringIO(newline="")
        csv.writer(stream, delimiter=separator, lineterminator="\n").writerow(row)
        line = stream.getvalue().rstrip()
        is_wrapped = is_header_wrapped if number == 0 else '"' in line or separator == ";"
        lines.append('"' + line.replace('"', '""') + '"' if is_wrapped else line)
    rows, table = read(write(tmp_path, "\n".join(lines) + "\n"))
    assert rows == WRAPPED_ROWS and set(table.counts) <= {WRAPPED}
    assert ("lines wrapped whole in quotes" in table.dialect) == is_header_wrapped
    assert table.counts[WRAPPED] == sum(line[0] == '"' for line in lines[1:])


def test_wrapped_lines_with_bare_quotes_and_sentences_in_one_column(tmp_path):
    rows, table = read(write(tmp_path, '"id,title,price"\n"1,"Mug, blue",9"\n"2,"Cup",8"\n"3,x,7\n"4,y,6\n'))
    assert rows[:2] == [("1", "Mug, blue", "9"), ("2", "Cup", "8")] and [row[1] for row in rows[2:]] == ["x", "y"]
    assert places(table) == {WRAPPED: [2, 3], BARE_QUOTE: [4, 5]}
    for header in ("query", '"query, as typed"'):
        table = read_table(io.StringIO(f'{header}\n"red, blue"\n"a, b"\n', newline=""))
        assert [*next(table.rows())[1].values()] == ["red, blue"] and "one column" in table.said


@pytest.mark.parametrize(
    ("text", "expected", "joined"),
    [
        ("id,title,price\n1,Mug,12,50\n2,Cup,9\n3,Jug,1.299,00 €\n", ["12,50", "9", "1.299,00 €"], [2, 4]),
        ("id,price,title\n1,12,50,Mug\n2,€9,90,Cup\n", ["12,50", "€9,90"], [2, 3]),
        ("id,title,price,image\n1,Mug,12,50,\n2,Cup,9,90,b.jpg\n", ["12,50", "9,90"], [2, 3]),
        ("id,title,price,old price\n1,Mug,12,50,19,90\n2,Cup,9,90,\n3,Jug,12,50,10\n", None, []),
        ("id,title,price,old price\n1,Mug,12,50,19,90\n2,Cup,9,90,\n", ["12,50", "9,90"], [2, 3]),
        ("id,title,price\n1,Mug,12,50,\n2,Cup,9,90,,\n", ["12,50", "9,90"], [2, 3]),
        ("id,title,price\n1,Mug, blue,12\n2,Cup,12,50\n3,Jug,8\n", None, []),
        ("id,title,price\n1,Mug,12,50\n2,Cup,9.90\n", None, []),
        ("id,title,price,stock\n1,Mug,12,50,\n2,Cup,8,40,\n", None, []),
        ("id,title,size\n1,Mug,12,50\n2,Cup,8\n", None, []),
        ("id;title;price\n1;Mug;12;50\n2;Cup;8\n", None, []),
    ],
)
def test_prices_that_a_comma_cut_are_joined_where_nothing_else_can_be_meant(tmp_path, text, expected, joined):
    rows, table = read(write(tmp_path, text))
    assert places(table).get(JOINED, []) == joined
    if expected:
        assert [row[list(table.columns).index("price")] for row in rows] == expected and set(table.counts) == {JOINED}
    else:
        assert not any(re.search(r"\d,\d", cell) for row in rows for cell in row)
        assert len(rows) + table.counts["broken row (left out)"] == text.count("\n") - 1


def test_a_cut_price_far_down_is_joined_and_another_row_stays_broken(tmp_path):
    lines = [f"{number},Mug,9,{number % 90 + 10}" for number in range(300)]
    lines[250], lines[260] = "250,Mug, blue,9,50", "260,Mug,blue"
    rows, table = read(write(tmp_path, "\n".join(["id,title,price", *lines])))
    assert len(rows) == 299 and rows[259] == ("260", "Mug", "blue")
    assert table.counts == {JOINED: 298, "broken row (left out)": 1}


def test_a_databases_nulls_are_missing_and_its_backslashes_undone(tmp_path):
    text = 'id\ttitle\tbrand\tnote\n1\tTwo\\nlines\t\\N\tx\\ty\\\\z\n2\t\\N\t\\N\t\\"q\\"\n\\N\tx\ty\tz\n'
    rows, table = read(write(tmp_path, text, "p.tsv"))
    assert rows == [("1", "Two\nlines", ""), ("2", "", ""), ("", "x", "y")] and places(table) == {NULLS: [2, 3, 4]}
    assert table.dialect.endswith("backslashes as databases write them")
    assert [row["note"] for _, row, _ in table_rows(tmp_path / "p.tsv")] == ["x\ty\\z", '"q"', "z"]
    rows, table = read(write(tmp_path, "id,title\n1,C:\\new\n2,a\\Nb\n"))
    assert rows == [("1", "C:\\new"), ("2", "a\\Nb")] and not table.counts


@pytest.fixture
def short_limit():
    """A limit of cells that a test can afford to go beyond."""
    usual = csv.field_size_limit(2**18)
    yield
    csv.field_size_limit(usual)


@pytest.mark.parametrize("size", [131_073, 2**18 + 9])
@pytest.mark.parametrize("name, separator", [("p.csv", ","), ("p.tsv", "\t")])
def test_cells_of_any_length_cost_no_other_row(tmp_path, short_limit, size, name, separator):
    for cell in ("x" * size, f'"{"y" * size}"'):
        rows, table = read(write(tmp_path, f"id,title\n1,one\n2,{cell}\n3,three\n".replace(",", separator), name))
        assert [row[0] for row in rows] == ["1", "2", "3"] and rows[1][1].strip('"') == cell.strip('"')


@pytest.mark.parametrize("name", ["p.csv.gz", "p.csv", "p.tsv"])
def test_gzip_by_its_content(tmp_path, name):
    assert read(write(tmp_path, gzip.compress(TABLE.encode("utf-16")), name))[0] == ROWS


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return stream.getvalue()


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.txt", "p.jsonl"])
@pytest.mark.parametrize(
    "content, message",
    [
        (zipped(), "is an Excel or LibreOffice workbook or a ZIP; save the table as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is an old Excel workbook"),
        (b"PAR1\x15\x04", "is Parquet; let its name end in .parquet"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
        (b"\xfd7zXZ\0", "is a packed file; unpack it"),
        (b"\n<!DOCTYPE html>\n<html><body>Please sign in</body></html>", "is a web page"),
        ("<html>".encode("utf-16"), "is a web page"),
        (b'<?xml version="1.0"?><rss/>', "is XML"),
        (b'[\n {"id": 1, "title": "a"}\n]', "is (one )?JSON"),
        (b'[{"id": 1, "title": "a"}]', "is (one )?JSON"),
        (b'{\n "id": 1}', "is (one )?JSON"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
    ],
)
def test_what_is_no_table_is_named_with_what_to_do(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as refused:
        opened(write(tmp_path, content, name))
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_json_lines_called_csv_are_named(tmp_path):
    with pytest.raises(DataError, match="is JSON; write one object a line and let its name end in .jsonl"):
        opened(write(tmp_path, '{"id": 1, "title": "a"}\n'))


def test_a_table_without_a_row_that_fits_says_which(tmp_path):
    with pytest.raises(DataError, match="no row fits the header: row 2 has 4 cells, the header has 3 .separator ,."):
        opened(write(tmp_path, "id,title,price\n1,Mug,red,90\n2,Cup,8,90\n"))
    with pytest.raises(DataError, match="p.csv: is empty; it needs columns and at least one row"):
        opened(write(tmp_path, "id,title\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_json_lines_in_any_encoding_with_columns_that_come_late(tmp_path, encoding):
    lines = [{"id": str(number), "title": f"größer {number}"} for number in range(3000)]
    lines[2900]["brand"] = "Maker"
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    rows, table = read(write(tmp_path, text, "p.jsonl", encoding))
    assert rows[2900] == ("2900", "größer 2900", "Maker") and rows[0] == ("0", "größer 0", "") and table.size == 3000
    assert not table.counts and table.dialect.startswith(f"read as {encoding.removesuffix('-sig').upper()}")
    escaped = write(tmp_path, '{"id": 1, "title": "a"}\n{"id": 2, "gr\\u00f6\\u00dfe": "b"}\n', "q.jsonl")
    table = Table.open(str(escaped), Columns(brand="größe"), [("id",)], "--columns")
    assert [row["brand"] for _, row in table.rows()] == ["", "b"]


def test_line_breaks_in_a_tab_separated_table_are_told(tmp_path):
    text = 'id\ttitle\tprice\n1\t"two\nlines"\t9\n2\t"open\t8\n3\tplain\t7\n4\t"a\tb"\t6\n'
    rows, table = read(write(tmp_path, text, "p.tsv"))
    assert [row[1] for row in rows] == ["two\nlines", '"open', "plain", "a\tb"]
    assert places(table) == {LINE_BREAKS: [2], BARE_QUOTE: [3]}


WORDS = [
    "mug",
    "blue",
    '5"',
    '"best"',
    "naïve",
    "Größe",
    "it's",
    "a, b",
    "c; d",
    "x|y",
    "tab\there",
    "two\nlines",
    "\\",
    "",
]
KINDS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]


def random_table(chance):
    """A table by the rule as text, its rows, and its separator."""
    rows = [["id", "title", "description", "price"][: chance.randint(2, 4)]]
    for number in range(chance.randint(3, 60)):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 6))) for _ in rows[0][1:]]
        rows.append([f"row{number}", *texts])
    stream, separator = io.StringIO(newline=""), chance.choice(",;\t|")
    quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    end = chance.choice(["\n", "\r\n"])
    csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    return stream.getvalue(), rows, separator


@pytest.mark.parametrize("seed", range(6))
def test_tables_by_the_rule_in_any_dialect_come_back_as_they_were(seed):
    chance = random.Random(seed)
    for _ in range(60):
        text, rows, separator = random_table(chance)
        encoding = chance.choice(KINDS)
        table = read_table(TextFile(io.BytesIO(text.encode(encoding))))
        assert table.separator == separator
        assert [rows[0], *([*row.values()] for _, row in table.rows())] == rows, (text, encoding)


@pytest.mark.parametrize("seed", range(6))
def test_a_quote_too_many_or_too_few_swallows_no_row_untold(seed):
    chance = random.Random(seed)
    for _ in range(150):
        text, rows, separator = random_table(chance)
        body = text.index("row0")
        for _ in range(chance.randint(1, 3)):
            quotes = [place for place, letter in enumerate(text) if letter == '"' and place >= body]
            if quotes and chance.random() < 0.5:
                place = chance.choice(quotes)
                text = text[:place] + text[place + 1 :]
            else:
                place = chance.randrange(body, len(text))
                text = text[:place] + '"' + text[place:]
        seen = set()
        for record, row in read_table(io.StringIO(text, newline=""), separator).rows():
            starts = [line.replace('"', "").partition(separator)[0] for line in record.text.splitlines()]
            starts = [start for start in starts if start.startswith("row")]
            seen.update(starts)
            assert len(starts) < 2 or record.doubt in (SEVERAL_LINES, LINE_BREAKS) or row is None, text
        assert seen == {row[0] for row in rows[1:]}
