"""`training.prepare`: what a shop has becomes a catalogue; nothing leaks between splits and nothing gets lost."""

import csv
import io
import json
import random
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_mmfusion.errors import DataError
from training.catalogue import products, writing
from training.catalogue.delimited import LINE_BREAKS
from training.catalogue.layout import load_products, load_split, split_names
from training.catalogue.options import Columns, PrepareArguments, Shares
from training.catalogue.pictures import fit_picture
from training.catalogue.query_log import LogColumns
from training.catalogue.splits import Groups, choose_split
from training.common.cli import run
from training.prepare import main

SPLITS = ("train", "dev", "test")
EVEN = Shares(train=0.4, dev=0.3, test=0.3)


def picture(colour=(200, 30, 30), size=(40, 20), form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def write_csv(path, rows, columns=None, delimiter=",", encoding="utf-8"):
    columns = columns or list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, restval="", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def table(output, split, name):
    return pq.read_table(output / split / f"{name}.parquet").to_pylist()


def counts(report, name):
    return {problem["kind"]: problem["count"] for problem in report[name]["problems"]}


def example_rows(report, name):
    return {problem["kind"]: [place["row"] for place in problem["examples"]] for problem in report[name]["problems"]}


@pytest.fixture
def shop(tmp_path):
    """60 products, each with its own picture file, and a log with one query a product and one for all of them."""
    (tmp_path / "images").mkdir()
    products, log = [], []
    for i in range(60):
        item = f"{i:05}"
        (tmp_path / "images" / f"{item}.png").write_bytes(picture((i, 2 * i, 99)))
        products.append({"id": item, "title": f"Mug {i}", "category": "kitchen", "price": "9.90"})
        log.append({"query": f"mug number {i}", "product": item, "event": "click"})
        log.append({"query": "mug", "product": item, "event": "purchase" if i % 2 else "impression"})
    write_csv(tmp_path / "products.csv", products)
    write_csv(tmp_path / "log.csv", log)
    return tmp_path


def options(folder, **changes):
    given = {"products": str(folder / "products.csv"), "output": str(folder / "out"), "shares": EVEN}
    for name in ("images", "log.csv"):
        if (folder / name).exists():
            given[name.split(".")[0]] = str(folder / name)
    return PrepareArguments(**given | changes)


def test_each_split_is_loaded_by_the_reader(shop, capsys):
    report = main(options(shop, license="cc-by-4.0"))
    out = shop / "out"
    assert split_names(out) == list(SPLITS)
    ids = []
    for split in SPLITS:
        loaded = load_split(out, split)
        assert not loaded.problems.counts
        assert set(loaded.query_texts) == {"mug"} | {f"mug number {int(item)}" for item in loaded.product_ids}
        assert all(query["_id"].startswith(f"{split}-q-") for query in loaded.queries)
        first = loaded.corpus[0]
        assert first["image"]["bytes"] == (shop / "images" / f"{first['_id']}.png").read_bytes()
        assert (first["category"], first["price"], first["brand"]) == ("kitchen", 9.9, None)
        novel = {query["text"]: query["novel"] for query in loaded.queries}
        assert novel == {text: split != "train" and text != "mug" for text in novel}
        size = report["splits"][split]
        assert (size["products"], size["queries"]) == (len(loaded.product_ids), len(loaded.queries))
        assert size["judgments"] == sum(map(len, loaded.qrels.values())) == 2 * size["products"]
        ids += loaded.product_ids
    assert sorted(ids) == [f"{i:05}" for i in range(60)]
    assert json.loads((out / "prepare_report.json").read_text()) == report
    card = (out / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "seed 0" in card
    assert "60 rows read, 0 left out" in capsys.readouterr().out
    assert sorted(path.name for path in shop.iterdir()) == ["images", "log.csv", "out", "products.csv"]


def test_a_chain_of_title_picture_and_group_stays_together():
    chain = [
        {"id": "d", "title": "Red  MUG", "group": "", "hash": ""},
        {"id": "a", "title": "red mug", "group": "", "hash": "p1"},
        {"id": "c", "title": "other", "group": "g1", "hash": "p1"},
        {"id": "b", "title": "", "group": "g1", "hash": ""},
        {"id": "x", "title": "", "group": "", "hash": ""},
        {"id": "y", "title": "", "group": "", "hash": ""},
    ]
    expected = {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "y"}
    for seed in range(30):
        random.Random(seed).shuffle(chain)
        groups = Groups()
        for product in chain:
            groups.add(product, filter(None, [product["hash"]]))
        assert groups.all() == expected


def test_nothing_crosses_splits_in_a_tangled_shop(tmp_path):
    chance = random.Random(7)
    (tmp_path / "images").mkdir()
    for i in range(90):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture((i, 0, 0), (8, 8)))
        (tmp_path / "images" / f"copy-{i}.png").write_bytes(picture((i, 0, 0), (8, 8)))
    rows = []
    for i in range(120):
        title = chance.choice(["Mug  %d", "MUG %d ", "mug %d"]) % chance.randrange(90)
        image = chance.choice(["", "%d.png", "copy-%d.png"])
        image = image and image % chance.randrange(90)
        group = chance.choice(["", "", f"g{chance.randrange(40)}"])
        rows.append({"id": f"p{i}", "title": title, "image": image, "group": group})
    write_csv(tmp_path / "products.csv", rows)
    report = main(options(tmp_path))
    assert min(size["products"] for size in report["splits"].values()) > 5
    group_of = {row["id"]: row["group"] for row in rows}
    seen = {}
    for split in SPLITS:
        for row in table(tmp_path / "out", split, "corpus"):
            content = row["image"] and row["image"]["bytes"]
            for key in ("title", " ".join(row["title"].lower().split())), ("group", group_of[row["_id"]]), content:
                if key and key[1]:
                    assert seen.setdefault(key, split) == split, key


def test_shares_are_kept_and_the_seed_matters():
    shares = {"train": 0.8, "dev": 0.05, "test": 0.15}
    splits = [choose_split(f"p{i}", shares, 0) for i in range(4000)]
    for split, share in shares.items():
        assert splits.count(split) / 4000 == pytest.approx(share, abs=0.02)
    assert splits == [choose_split(f"p{i}", shares, 0) for i in range(4000)]
    assert splits != [choose_split(f"p{i}", shares, 1) for i in range(4000)]


def test_bad_products_are_counted_and_named_by_line(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "good.png").write_bytes(picture())
    (images / "bad.png").write_bytes(picture()[:60])
    (tmp_path / "secret.png").write_bytes(picture())
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [
        {"id": "1", "title": "NA", "image": "good.png"},  # line 2
        {"id": "1", "title": "again"},
        {"id": " ", "title": "no id"},
        {"id": "4"},
        {"id": "5", "title": "five", "image": "none.png"},
        {"id": "6", "title": "six", "image": "../secret.png"},  # line 7
        {"id": "7", "title": "seven", "image": str(tmp_path / "secret.png")},
        {"id": "8", "title": "eight", "image": "link.png"},
        {"id": "9", "title": "nine", "image": "https://shop.example/9.png"},
        {"id": "10", "image": "bad.png"},  # line 11: nothing is left of it
        {"id": "11", "title": "None", "image": "none.png | bad.png|good.png"},
    ]
    path = write_csv(tmp_path / "products.csv", rows)
    with open(path, "a") as file:
        file.write("12,one,cell,too,many\n\n13,short\n")
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    assert example_rows(report, "products") == {
        "duplicate product id, the first is kept (left out)": [3],
        "product without an id (left out)": [4],
        "product without title, description and picture (left out)": [5, 11],
        "picture file is missing (picture not used)": [6, 12],
        "picture outside the images folder is refused (picture not used)": [7, 8, 9],
        "picture is a URL, which isn't fetched (picture not used)": [10],
        "picture can't be read (picture not used)": [11, 12],
        "broken row (left out)": [13],
        "row with fewer cells than the header (the others are taken as empty)": [15],
        "no picture is named, and none is called like the id (text alone)": [15],
        "title: value such as N/A or - (taken for missing)": [2, 12],
    }
    products = report["products"]
    assert counts(report, "products") == {kind: len(rows) for kind, rows in example_rows(report, "products").items()}
    assert (products["read"], products["written"], products["dropped"]) == (13, 8, 5)
    kinds = [problem["kind"] for problem in products["problems"]]
    place = products["problems"][kinds.index("picture file is missing (picture not used)")]["examples"][0]
    assert place == {"file": path, "row": 6, "field": "image", "value": "none.png"}
    corpus = {row["_id"]: row for row in table(tmp_path / "out", "train", "corpus")}
    assert (corpus["1"]["title"], corpus["11"]["title"]) == (None, None)
    assert {item for item, row in corpus.items() if row["image"]} == {"1", "11"}
    assert corpus["11"]["image"]["bytes"] == picture()


def test_problems_are_printed_with_their_first_place_and_only_20_are_kept(tmp_path, capsys):
    rows = [{"id": "1", "title": "one"}] + [{"id": "1", "title": "again"}] * 30
    path = write_csv(tmp_path / "products.csv", rows)
    report = main(options(tmp_path))
    problem = report["products"]["problems"][0]
    assert problem["count"] == 30
    assert [place["row"] for place in problem["examples"]] == list(range(3, 23))
    assert f"30 x {problem['kind']}; first: {path} line 3, field id: '1'" in capsys.readouterr().out


def test_bad_log_rows_are_counted_and_named_by_line(tmp_path):
    write_csv(tmp_path / "products.csv", [{"id": "007", "title": "seven"}, {"id": "8", "title": "eight"}])
    rows = [
        {"query": " a  B", "product": "007", "event": "click"},  # line 2
        {"query": " A \t B ", "product": "007", "event": " Purchase"},
        {"query": "a b", "product": "007", "event": "impression"},
        {"query": "  ", "product": "007", "event": "click"},
        {"query": "a b", "product": "7", "event": "click"},
        {"query": "a b", "product": "", "event": "click"},  # line 7
        {"query": "a b", "product": "8", "event": "hover"},
        {"query": "a b", "product": "8", "event": "impression"},
        {"query": "never bought", "product": "8", "event": "impression"},
    ]
    write_csv(tmp_path / "log.csv", rows)
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    assert example_rows(report, "log") == {
        "empty query (left out)": [5],
        "unknown product (left out)": [6, 7],
        "unknown event (left out)": [8],
    }
    expected = {"read": 9, "dropped": 4, "repeated": 2, "no_relevant_product_in_split": 1, "written": 2}
    assert {key: report["log"][key] for key in expected} == expected
    loaded = load_split(tmp_path / "out", "train")
    assert loaded.query_texts == ["a b"], "the most frequent spelling"
    assert loaded.qrels == {loaded.queries[0]["_id"]: {"007": 3, "8": 0}}


def test_grades_take_the_highest_and_bad_ones_are_counted(tmp_path):
    write_csv(tmp_path / "products.csv", [{"id": "1", "title": "one"}])
    grades = ["2", "7.0", "0", "-1", "1.5", "", "nan", "many", "1e3", "9999999999"]
    rows = [{"query": "one", "product": "1", "grade": grade, "event": "hover"} for grade in grades]
    write_csv(tmp_path / "log.csv", rows)
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    assert example_rows(report, "log") == {"grade is no whole number from 0 (left out)": [5, 6, 7, 8, 9, 10, 11]}
    assert table(tmp_path / "out", "train", "qrels")[0]["score"] == 7


def test_impressions_follow_the_split_of_their_product(shop):
    log = [{"query": "everything", "product": f"{i:05}", "event": "impression"} for i in range(60)]
    log.append({"query": "Everything", "product": "00007", "event": "cart"})
    write_csv(shop / "log.csv", log)
    report = main(options(shop))
    home = [split for split in SPLITS if report["splits"][split]["queries"]]
    assert len(home) == 1
    judged = table(shop / "out", home[0], "qrels")
    assert {row["corpus-id"] for row in judged} == {row["_id"] for row in table(shop / "out", home[0], "corpus")}
    assert {row["corpus-id"]: row["score"] for row in judged if row["score"]} == {"00007": 2}
    assert sum("no query with a relevant product" in warning for warning in report["warnings"]) == 2
    assert report["log"]["no_relevant_product_in_split"] == 60 - len(judged)


def test_row_order_changes_nothing(shop):
    def files():
        paths = sorted((shop / "out").rglob("*.parquet"))
        return {path.relative_to(shop / "out"): pq.read_table(path).to_pylist() for path in paths}

    main(options(shop))
    first = files()
    for name in ("products.csv", "log.csv"):
        header, *rows = (shop / name).read_text().splitlines()
        random.Random(3).shuffle(rows)
        (shop / name).write_text("\n".join([header, *rows]))
    main(options(shop, overwrite=True))
    assert files() == first
    main(options(shop, overwrite=True, seed=1))
    assert files() != first
    assert not [path for path in shop.iterdir() if path.name.startswith(".")]


def test_output_is_only_replaced_if_asked_and_if_it_is_ours(shop):
    main(options(shop))
    before = (shop / "out" / "prepare_report.json").stat().st_mtime_ns
    with pytest.raises(DataError, match="isn't empty; --overwrite"):
        main(options(shop))
    with pytest.raises(DataError, match="no product can be used"):
        write_csv(shop / "none.csv", [{"id": "", "title": "nobody"}])
        main(options(shop, products=str(shop / "none.csv"), overwrite=True))
    assert (shop / "out" / "prepare_report.json").stat().st_mtime_ns == before
    other = shop / "photos"
    other.mkdir()
    (other / "holiday.txt").write_text("keep me")
    with pytest.raises(DataError, match="no earlier run's output"):
        main(options(shop, output=str(other), overwrite=True))
    with pytest.raises(DataError, match="holds input"):
        main(options(shop, output=str(shop), overwrite=True))
    assert (other / "holiday.txt").exists() and (shop / "products.csv").exists()


def test_a_failed_write_leaves_the_old_output(shop, monkeypatch):
    main(options(shop))
    rename = Path.rename

    def fail(path, target):
        if path.name.startswith(".out.mmfusion-partial"):
            raise OSError("no space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DataError, match="can't be written .no space left"):
        main(options(shop, overwrite=True))
    assert load_split(shop / "out", "train").queries
    assert sorted(path.name for path in shop.iterdir()) == ["images", "log.csv", "out", "products.csv"]


def test_without_a_log_only_products_are_written(shop):
    report = main(options(shop, log=None))
    assert any("without --log" in warning for warning in report["warnings"]) and "log" not in report
    for split in SPLITS:
        assert [path.name for path in (shop / "out" / split).iterdir()] == ["corpus.parquet"]
        assert len(load_products(shop / "out", split).product_ids) == report["splits"][split]["products"]


def test_an_empty_split_is_named_and_not_written(tmp_path):
    write_csv(tmp_path / "products.csv", [{"id": f"{i}", "title": "the same"} for i in range(9)])
    write_csv(tmp_path / "log.csv", [{"query": "same", "product": "3", "event": "click"}])
    report = main(options(tmp_path))
    filled = [split for split in SPLITS if report["splits"][split]["products"]]
    assert len(filled) == 1 and split_names(tmp_path / "out") == filled
    for split in set(SPLITS) - set(filled):
        assert any(warning.startswith(f"split {split} has no products") for warning in report["warnings"])
        assert not (tmp_path / "out" / split).exists()
    assert any("9 of 9 products are in one group, that of 0" in warning for warning in report["warnings"])
    assert load_split(tmp_path / "out", filled[0]).query_texts == ["same"]


@pytest.mark.parametrize(
    "name, delimiter, encoding",
    [("p.csv", ",", "utf-8-sig"), ("p.csv", ";", "utf-8-sig"), ("p.tsv", "\t", "utf-8"), ("P.CSV", ",", "utf-8")],
)
def test_delimiters_and_byte_order_marks(tmp_path, name, delimiter, encoding):
    rows = [{"sku": "00123", "name": 'Tasse, 12" groß; "schön"\nzwei Zeilen'}, {"sku": "", "name": "x"}]
    path = write_csv(tmp_path / name, rows, delimiter=delimiter, encoding=encoding)
    columns = Columns(id="sku", title="name")
    report = main(options(tmp_path, products=path, columns=columns, shares=Shares(1, 0, 0)))
    row = table(tmp_path / "out", "train", "corpus")[0]
    assert (row["_id"], row["title"]) == ("00123", rows[0]["name"])
    told = {LINE_BREAKS: [2]} if delimiter == "\t" else {}
    assert example_rows(report, "products") == told | {"product without an id (left out)": [3]}
    assert report["products"]["problems"][-1]["examples"][0]["field"] == "sku"


def test_json_lines(tmp_path):
    lines = [
        '{"id": 7, "title": "seven", "price": 9.90, "category": ["a", "b"]}',
        "",
        "not json",
        '{"id": "8", "description": null, "title": "caf\\u00e9", "group": NaN}',
        "[1]",
        '{"id": "9", "title": "half \\ud800"}',
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    report = main(options(tmp_path, products=str(tmp_path / "p.jsonl"), shares=Shares(1, 0, 0)))
    rows = table(tmp_path / "out", "train", "corpus")
    assert [(row["_id"], row["title"], row["price"]) for row in rows] == [("7", "seven", 9.9), ("8", "café", None)]
    assert rows[0]["category"] == "a | b"
    assert example_rows(report, "products") == {"broken row (left out)": [3, 5, 6]}
    assert (report["products"]["read"], report["products"]["written"]) == (5, 2)


NESTED = [
    {"id": "1", "title": "Mug", "price": {"amount": 9.5, "currency": "EUR"}, "brand": {"name": "Acme", "id": 3}}
    | {"images": [{"src": "a.jpg", "alt": "A"}], "box": {"size": {"height": 3, "width": None}}},
    {"id": "2", "title": "Cup", "price": {"amount": 7.0, "currency": "EUR", "value": None}, "brand": None}
    | {"images": [{"src": "b.jpg", "alt": None}], "box": None},
]


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_nested_columns_are_taken_apart_alike(tmp_path, name):
    if name == "p.parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), tmp_path / name)
    else:
        (tmp_path / name).write_text("\n".join(map(json.dumps, NESTED)))
    arguments = PrepareArguments(str(tmp_path / name), str(tmp_path / "out"), shares=Shares(1, 0, 0))
    report = main(arguments)
    first, second = table(tmp_path / "out", "train", "corpus")
    assert (first["price"], first["currency"], second["price"], "price_text" in second) == (9.5, "EUR", 7, False)
    assert (first["brand"], first["brand.id"], first["box.size.height"]) == ("Acme", "3", "3")
    assert (first["images"], second["images"]) == ("a.jpg", "b.jpg") and report["products"]["read"] == 2
    main(
        PrepareArguments(
            str(tmp_path / name), str(tmp_path / "two"), columns=Columns(brand="brand.id", image="images")
        )
    )


def test_parquet_with_maps_pictures_and_a_column_twice(tmp_path):
    columns = [["1"], ["Mug"], ["S"], ["M"], pa.array([[("Colour", "red")]], pa.map_(pa.string(), pa.string()))]
    columns.append([{"bytes": b"\x89PNG", "path": "a.png"}])
    names = ["id", "title", "size", "size", "attributes", "image"]
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names), tmp_path / "p.parquet")
    report = main(PrepareArguments(str(tmp_path / "p.parquet"), str(tmp_path / "out"), shares=Shares(1, 0, 0)))
    [row] = table(tmp_path / "out", "train", "corpus")
    assert (row["size"], row["size (2)"], row["attributes"]) == ("S", "M", '{"Colour": "red"}')
    kinds = [problem["kind"] for problem in report["products"]["problems"]]
    assert "picture in the table itself (picture not used; write it as a file and name it)" in kinds


def test_an_object_that_is_left_out_counts_once_however_many_variants_it_has(tmp_path):
    variants = {"variants": [{"sku": "1"}, {"sku": "2"}], "images": [{"src": "a.jpg"}], "options": ["Size"]}
    objects = [{"handle": "a", "title": "A", "status": "active"}, {"handle": "b", "title": "B", "status": "draft"}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(one | variants) for one in objects))
    read = main(PrepareArguments(str(tmp_path / "p.jsonl"), str(tmp_path / "out"), shares=Shares(1, 0, 0)))["products"]
    assert (read["read"], read["dropped"], read["written"]) == (2, 1, 1)


def test_parquet(tmp_path):
    products = pa.table({"id": [7.0, None, 8.0], "title": ["seven", "x", "eight"], "price": [1.5, 2.0, None]})
    pq.write_table(products, tmp_path / "p.parquet")
    pq.write_table(pa.table({"q": ["big"], "product": [7], "grade": [2.0]}), tmp_path / "log.parquet")
    files = {"products": str(tmp_path / "p.parquet"), "log": str(tmp_path / "log.parquet")}
    report = main(options(tmp_path, **files, log_columns=LogColumns(query="q"), shares=Shares(1, 0, 0)))
    rows = table(tmp_path / "out", "train", "corpus")
    assert [(row["_id"], row["price"]) for row in rows] == [("7", 1.5), ("8", None)]
    assert example_rows(report, "products") == {"product without an id (left out)": [2]}
    assert table(tmp_path / "out", "train", "qrels")[0]["score"] == 2


def test_pictures_are_kept_or_made_smaller():
    for form in ("JPEG", "PNG", "WEBP"):
        content = picture(size=(50, 40), form=form)
        assert fit_picture(content, "a/b.dat", 50) == {"bytes": content, "path": "b.dat"}
    for content in (picture(size=(30, 60)), picture(size=(25, 50), form="GIF")):
        fitted = fit_picture(content, "a/b.png", 50)
        with Image.open(io.BytesIO(fitted["bytes"])) as smaller:
            assert (fitted["path"], smaller.format, smaller.size) == ("b.jpg", "JPEG", (25, 50))


QUOTES = ['1|"Vintage" mug', '2|"Bowl', '3|12" pan', '4|"Tea pot" "blue"', "5|plain", '6|"by the rule"', '7|"open']


@pytest.mark.parametrize("name, delimiter", [("p.tsv", "\t"), ("p.csv", ","), ("s.csv", ";")])
def test_rows_behind_a_quote_that_is_not_closed_are_read(tmp_path, name, delimiter):
    text = "\n".join(["id|title", *QUOTES]).replace("|", delimiter)
    (tmp_path / name).write_text(text)
    (tmp_path / "log.tsv").write_text('query\tproduct\tgrade\n"vintage mug\t1\t1\n5" pan\t3\t2\nbowl\t2\t1\n')
    given = {"products": str(tmp_path / name), "log": str(tmp_path / "log.tsv"), "shares": Shares(1, 0, 0)}
    report = main(options(tmp_path, **given))
    titles = {row["_id"]: row["title"] for row in table(tmp_path / "out", "train", "corpus")}
    assert titles == dict(line.split("|") for line in QUOTES) | {"6": "by the rule"}
    assert (report["products"]["read"], report["products"]["dropped"]) == (7, 0)
    kind = "quote that doesn't follow the rule for tables (kept as it stands)"
    assert example_rows(report, "products") == {kind: [2, 3, 5, 8]} and example_rows(report, "log") == {kind: [2]}
    assert {row["text"] for row in table(tmp_path / "out", "train", "queries")} == {'"vintage mug', '5" pan', "bowl"}


def test_a_picture_by_id_is_found_behind_a_name_that_is_of_no_use(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 2, 3):
        (images / f"{number}.png").write_bytes(picture((number, 0, 0)))
    names = {"1": "https://shop.example/a.jpg", "2": "gone.png|data:image/png;base64,xx", "3": "", "4": "gone.png"}
    rows = [{"id": item, "title": item, "image": name} for item, name in names.items()]
    rows += [{"id": item, "title": item} for item in ("5", "6")]
    write_csv(tmp_path / "products.csv", rows)
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    found = {row["_id"]: row["image"] and row["image"]["bytes"] for row in table(tmp_path / "out", "train", "corpus")}
    assert found == {str(n): picture((n, 0, 0)) if n < 4 else None for n in range(1, 7)}
    assert example_rows(report, "products") == {
        "picture is a URL, which isn't fetched (picture not used)": [2, 3],
        "picture file is missing (picture not used)": [3, 5],
        "no picture is named, and none is called like the id (text alone)": [6, 7],
    }
    assert not any("no product has a picture" in warning for warning in report["warnings"])


def test_a_folder_without_the_shops_pictures_is_told(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_bytes(picture())
    write_csv(tmp_path / "products.csv", [{"id": str(number), "title": "mug"} for number in range(30)])
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    assert counts(report, "products") == {"no picture is named, and none is called like the id (text alone)": 30}
    assert f"warning: no product has a picture: {tmp_path / 'images'} has none" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "WRITTEN_BYTES", 200_000)
    noise, peaks = random.Random(0), {}
    for number in (20, 160):
        folder = tmp_path / str(number)
        (folder / "images").mkdir(parents=True)
        for item in range(number):
            pixels = Image.frombytes("RGB", (120, 120), noise.randbytes(3 * 120**2))
            pixels.save(folder / "images" / f"{item}.png")
        write_csv(folder / "products.csv", [{"id": str(item), "title": f"mug {item}"} for item in range(number)])
        tracemalloc.start()
        main(options(folder))
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(len(load_products(folder / "out", split).product_ids) for split in SPLITS) == number
    assert peaks[160] < peaks[20] + 1_000_000, "140 more pictures are 6 MB"


def command_line(monkeypatch, capsys, *words):
    """The exit status and what was printed to stderr."""
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        run(main, PrepareArguments, "Prepares.")
    return stop.value.code, capsys.readouterr().err


GOOD = "id,title\n1,one\n"


@pytest.mark.parametrize(
    "content, words, message",
    [
        (None, "", "no such file"),
        ("", "", "is empty"),
        ("id,title\n", "", "at least one row"),
        ('"sku\n(number)",title\n1,a\n', "", "(columns found: sku (number), title)"),
        ("sku,title\n1,a\n", "", "column 'id' is missing (columns found: sku, title); name yours with --columns.id"),
        ("id,name\n1,a\n", "", "column 'title' or 'description' or 'image' is missing (columns found: id, name)"),
        (GOOD, "--columns.brand maker", "column 'maker' is missing"),
        (b"id,title\n1,\x8fcran\n", "", "neither UTF-8 nor western text: CP1252 has no byte 0x8f, which is on line 2"),
        (GOOD, "--encoding utf-9", "encoding 'utf-9' isn't known; name one such as utf-8, cp1252"),
        (GOOD, "--separator ;;", "separator ';;' is no single character"),
        (GOOD, "--products p.xlsx", "unknown file ending '.xlsx'"),
        (GOOD, "--products p.parquet", "can't be read after row 0"),
        (GOOD, "--images nowhere", "nowhere: no such folder"),
        (GOOD, "--shares.train 0.9", "don't add up to 1"),
        (GOOD, "--shares.train 1.2 --shares.test -0.25", "don't add up to 1"),
        (GOOD, "--image-size 0", "image_size"),
        (GOOD, "--output p.xlsx", "is a file"),
        (GOOD, "--log products.csv", "column 'query' is missing"),
        (GOOD, "--log no_event.csv", "column 'event' or 'grade' is missing"),
        (GOOD, "--log shown.csv", "no row says that a known product is relevant"),
        ("id,title\n1,\n2,\n", "", "no product can be used (2 rows read); 2 x product without title"),
        (GOOD, "--colour red", "--help lists the options"),
    ],
)
def test_what_a_person_has_to_mend_is_one_line(tmp_path, monkeypatch, capsys, content, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("p.xlsx", "p.parquet"):
        (tmp_path / name).write_text("nonsense")
    (tmp_path / "no_event.csv").write_text("query,product\na,1\n")
    (tmp_path / "shown.csv").write_text("query,product,event\na,1,impression\na,2,click\n")
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "products.csv").write_bytes(content)
    words = ["--products", "products.csv", "--output", "out", *words.split()]
    status, printed = command_line(monkeypatch, capsys, *words)
    *progress, line = printed.rstrip("\n").split("\n")
    assert status == 2 and line.startswith("error: ") and message in line and "Traceback" not in printed
    assert all("rows" in bar or "products" in bar for bar in progress)
    assert not (tmp_path / "out").exists()


def test_command_line_and_help(shop, monkeypatch, capsys):
    monkeypatch.chdir(shop)
    (shop / "log.csv").write_text("q,product,event\nmug,00001,wishlist\n")
    words = "--products products.csv --images images --log log.csv --output out --shares.train 1 --shares.dev 0"
    words += " --shares.test 0 --log-columns.query q --events.wishlist 2 --columns.group category"
    monkeypatch.setattr(sys, "argv", ["prepare", *words.split()])
    run(main, PrepareArguments, "Prepares.")
    assert table(shop / "out", "train", "qrels")[0]["score"] == 2
    report = json.loads((shop / "out" / "prepare_report.json").read_text())
    assert list(report["splits"]) == split_names(shop / "out") == ["train"] and not report["splits"]["train"]["novel"]
    assert command_line(monkeypatch, capsys, "--help")[0] in (0, None)


def test_pictures_beyond_those_that_are_kept_are_counted_and_damaged_ones_give_way_to_the_ids(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a1", "a2", "a3", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture((len(name), ord(name[-1]), 9)))
    (tmp_path / "images" / "broken.png").write_bytes(picture()[:50])
    rows = [
        {"id": "a", "title": "a", "image": "a1.png|a2.png|a3.png"},
        {"id": "b", "title": "b", "image": "broken.png"},
    ]
    write_csv(tmp_path / "products.csv", rows)
    report = main(options(tmp_path, shares=Shares(1, 0, 0), max_pictures=2))
    found = {row["_id"]: [one["path"] for one in row["image"]] for row in table(tmp_path / "out", "train", "corpus")}
    assert found == {"a": ["a1.png", "a2.png"], "b": ["b.png"]}
    assert example_rows(report, "products") == {
        "more than 2 pictures, the first are kept (picture not used)": [2],
        "picture can't be read (picture not used)": [3],
    }


def test_a_column_to_keep_that_is_not_there_is_refused_before_pictures_are_read(tmp_path, monkeypatch):
    write_csv(tmp_path / "products.csv", [{"id": "a", "title": "a", "colour": "red", "": "x"}])
    report = main(options(tmp_path, shares=Shares(1, 0, 0)))
    assert report["products"]["kept_columns"] == {"colour": "colour"}
    assert "(no name)" in report["products"]["left_out_columns"] or report["products"]["problems"]
    monkeypatch.setattr(products, "keep_pictures", lambda *given: pytest.fail("pictures were read"))
    with pytest.raises(DataError, match="--keep color: .* it has colour"):
        main(options(tmp_path, overwrite=True, keep=["color"]))
