"""What `training.convert` leaves out of a set is named with its file and row, whichever field is missing."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import picture
from public_sets import (
    GS_ARCHIVE,
    GS_ROWS,
    SHOPPING,
    article,
    example,
    glami_item,
    item,
    listing,
    look,
    write_esci,
    write_glami,
    write_gs,
    write_hnm,
    write_items,
    write_look,
    write_table,
)

from training.catalogue.options import ConvertArguments
from training.convert import COUNTS, main

ESCI = [example(number, f"B{number}", "E", split) for number in (1, 2) for split in ("train", "test")]
SHOP = {"marqo-products": [*SHOPPING[:3], item(4, "lamps", "Lamp")]}
SHOP["marqo-fashion"] = [{**row, "text": row["title"], "category2": row["query"]} for row in SHOP["marqo-products"]]


def write_set(source, folder):
    """A set without faults; options that `training.convert` needs for it."""
    images = folder.parent / "images"
    images.mkdir()
    if source == "esci":
        write_esci(folder, ESCI, [listing("B1"), listing("B2")])
        urls = [{"product_id": name, "image_url": f"https://a/{name}.jpg"} for name in ("B1", "B2")]
        for row in urls:
            (images / f"{row['product_id']}.jpg").write_bytes(picture("red", format="JPEG"))
        write_table(folder / "urls.csv", urls)
        return {"dev": 0.0, "images": str(images), "image_urls": [str(folder / "urls.csv")]}
    if source.startswith("marqo-gs"):
        write_gs(folder, source.endswith("archive"), {name: GS_ROWS[name] for name in ("in_domain", "novel_query")})
        return {"images": str(folder.parent)} if source.endswith("archive") else {}
    if source in SHOP:
        write_items(folder, SHOP[source])
        (folder / "data").rename(folder / "parts")
        write_table(folder / "data.parquet", SHOP[source])
        for part in (folder / "parts").iterdir():
            part.unlink()
        return {"query_column": "category2"} if source == "marqo-fashion" else {}
    if source == "hnm-search-data":
        queries = [(f"q{number}", f"top {number}") for number in range(60)]
        articles = [article("0108775015"), article("0108775044")]
        write_hnm(folder, articles, queries, [[query, "0108775015", "0108775044"] for query, _ in queries])
        (images / "010").mkdir()
        for row in articles:
            (images / "010" / f"{row['article_id']}.jpg").write_bytes(picture("red", format="JPEG"))
        return {"dev": 0.0, "images": str(images)}
    if source.startswith("glami-1m"):
        write_glami(folder, test=[glami_item(1, "a"), glami_item(2, "b", "bags"), glami_item(3, "c", "bags")])
        return {"query_column": source.partition(" by ")[2] or None}
    write_look(folder, True, aigen_studio=([look("red"), look("blue")], [look("pink"), look("black")]))
    return {}


def blank(file, column):
    """Takes a cell out of the last row; returns the row's number."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        rows = table.to_pylist()
        rows[-1][column] = None
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
        return len(rows) - 1
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    rows[-1][column] = ""
    write_table(file, rows)
    return len(rows) - 1


EXAMPLES, PRODUCTS = (f"shopping_queries_dataset_{name}.parquet" for name in ("examples", "products"))
GS_HUB = "data/in_domain-00002-of-00003.parquet"
FIELDS = {
    "esci": {
        EXAMPLES: "query_id query product_id product_locale esci_label small_version split",
        PRODUCTS: "product_id product_locale product_title product_brand product_description",
        "urls.csv": "product_id image_url",
    },
    "marqo-gs": {GS_HUB: "query_id query product_id score_linear title image"},
    "marqo-gs archive": {
        f"{GS_ARCHIVE['novel_query']}.csv": "query_id query product_id score_linear title image_local"
    },
    "marqo-products": {"data.parquet": "item_ID query title image"},
    "marqo-fashion": {"data.parquet": "item_ID category2 text image"},
    "hnm-search-data": {
        "data/raw/articles.csv": "article_id prod_name detail_desc product_type_name",
        "data/search/queries.csv": "query_id transaction_id query_text",
        "data/search/qrels.csv": "query_id positive_ids",  # nothing is left out where all that was found was bought
    },
    "glami-1m": {"GLAMI-1M-test.csv": "item_id image_id geo name description category_name label_source"},
    "glami-1m by name": {"GLAMI-1M-test.csv": "item_id image_id geo name description category_name"},
    "lookbench": {
        f"aigen_studio/{part}.parquet": "image category main_attribute other_attributes bbox item_ID"
        for part in ("query", "gallery")
    },
}
CASES = [
    (source, file, column)
    for source, files in FIELDS.items()
    for file, columns in files.items()
    for column in columns.split()
]


def total(report):
    """Products, pictures, queries and judgments of all splits."""
    return {name: sum(split[name] for split in report["splits"].values()) for name in COUNTS}


@pytest.mark.parametrize("source, file, column", CASES)
def test_a_row_that_lacks_a_field_is_kept_or_named(tmp_path, source, file, column):
    options = write_set(source, tmp_path / "set")
    name = source.removesuffix(" archive").partition(" by ")[0]
    whole = main(ConvertArguments(name, str(tmp_path / "set"), str(tmp_path / "whole"), **options))
    unexpected = [line for line in whole["problems"] if "whose products are missing" not in line]
    assert not unexpected, "the set has no faults"
    number = blank(tmp_path / "set" / file, column)
    report = main(ConvertArguments(name, str(tmp_path / "set"), str(tmp_path / "out"), **options))
    place = f"{file.rpartition('/')[2]} row {number},"
    named_anyhow = column == "product_id" and file == "urls.csv"
    if total(report) != total(whole) or named_anyhow:
        assert any(place in line for line in report["problems"]), f"{place} {report['problems']}"


def test_a_table_that_is_read_for_its_products_alone_is_told_of_too(tmp_path):
    write_gs(tmp_path / "gs", False, {name: GS_ROWS[name] for name in ("in_domain", "novel_query")})
    blank(tmp_path / "gs" / "data" / "novel_query-00001-of-00002.parquet", "product_id")
    options = ConvertArguments("marqo-gs", str(tmp_path / "gs"), str(tmp_path / "out"), splits=["in_domain"])
    place = "novel_query-00001-of-00002.parquet row 0, field product_id"
    assert f"1 x product without an id (left out); first: {place}" in main(options)["problems"]
