"""Tables whose quotes follow the rule, and those that don't: every row is read, or counted and named."""

import csv
import io
import random

import pytest

from training.catalogue.delimited import BARE_QUOTE, SEVERAL_LINES, read_records

WORDS = ["Vintage", "mug", "5", "inch,", "a", "b, c", "blue", "wide", "pipe", "x"]


def read(text, delimiter=","):
    return list(read_records(io.StringIO(text, newline=""), delimiter))


def cells(text, delimiter=","):
    return [record.cells for record in read(text, delimiter)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_a_bare_quote_swallows_no_row(delimiter, end):
    lines = ["id|title|price", '1|"Vintage" mug|5', '2|"Vintage mug|6', '3|mug 5"|7', '4|"never closed|8', "5|plain|9"]
    found = read(end.join(lines).replace("|", delimiter), delimiter)
    assert [record.cells for record in found] == [line.split("|") for line in lines]
    assert [record.row for record in found if record.doubt == BARE_QUOTE] == [2, 3, 5]
    assert found[1].text == lines[1].replace("|", delimiter)


def test_a_bare_quote_and_one_more_separator_cost_their_own_row_alone():
    text = 'id,title,price\n1,"Vintage mug, blue,5\n2,"Bowl, red",6\n3,"a ""b"" c",7\n'
    assert cells(text) == [
        ["id", "title", "price"],
        ["1", '"Vintage mug', " blue", "5"],
        ["2", "Bowl, red", "6"],
        ["3", 'a "b" c', "7"],
    ]


@pytest.mark.parametrize("seed", range(4))
def test_tables_by_the_rule_are_read_by_it(seed):
    """Cells of anything, sentences with line breaks among them, as Python's own writer puts them."""
    chance, stream = random.Random(seed), io.StringIO(newline="")
    parts = [*WORDS, '"', '""', "\n", "\r\n", ", ", ";", "\t", " ", "é", ""]
    rows = [["id", "title", "description", "price"]]
    for number in range(300):
        texts = ["".join(chance.choices(parts, k=chance.randrange(9))) for _ in range(2)]
        rows.append([str(number), *texts, "9.90"])
    csv.writer(stream, quoting=chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows(rows)
    assert cells(stream.getvalue()) == rows


@pytest.mark.parametrize("seed", range(4))
def test_tables_without_a_rule_lose_no_row(seed):
    """Quotes wherever somebody typed them, as in tab-separated files that know no quoting."""
    chance = random.Random(seed)
    for _ in range(200):
        rows = [["id", "title", "brand", "price"]]
        for number in range(chance.randrange(2, 9)):
            texts = [" ".join(chance.choices(WORDS, k=2)) for _ in range(2)]
            for _ in range(chance.randrange(3)):
                which, place = chance.randrange(2), chance.randrange(3)
                texts[which] = [f'"{texts[which]}', f'{texts[which]}"', texts[which].replace(" ", ' "', 1)][place]
            rows.append([str(number), *texts, "9.90"])
        found = cells("\n".join("\t".join(row) for row in rows), "\t")
        unquoted = [[cell.strip('"') for cell in row] for row in rows]
        assert [[cell.strip('"') for cell in row] for row in found] == unquoted, rows


def test_line_breaks_in_quotes_stay_and_are_told_where_they_could_be_rows():
    assert cells('id,title\n1,"Mug\nblue, 5 cm"\n2,x') == [["id", "title"], ["1", "Mug\nblue, 5 cm"], ["2", "x"]]
    assert cells('id,"Price\n(EUR)",title\n1,2,3')[0] == ["id", "Price\n(EUR)", "title"]
    found = read('id,title,note\n1,"one\n2,two,a\n3,broken\n4,5 end",x\n5,five,y')
    assert found[1].cells == ["1", "one\n2,two,a\n3,broken\n4,5 end", "x"] and found[1].doubt == SEVERAL_LINES
    assert [record.row for record in found] == [1, 2, 3] and not found[2].doubt


def test_empty_lines_count_as_rows_and_long_cells_are_read():
    found = read("\n\nid,title\n\n1," + '"' + "long, " * 100_000 + '"\n,,\n')
    assert [record.row for record in found] == [3, 5, 6] and len(found[1].cells[1]) == 600_000
    assert found[2].cells == ["", "", ""]


def test_a_big_file_of_bare_quotes_is_read_in_one_pass():
    taken = []

    def lines():
        yield "id,title\n"
        for number in range(60_000):
            taken.append(number)
            yield f'{number},"5 inch\n' if number % 3 else f"{number},pipe\n"

    for count, record in enumerate(read_records(lines(), ",")):
        assert len(record.cells) == 2 and len(taken) < count + 10, "only as far ahead as the next quote"
    assert count == 60_000
