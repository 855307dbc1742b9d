"""A Shopify export and a folder of pictures, all the way to a search with filters."""

import csv
import json

import pytest
from helpers import picture

from modeling_mmfusion.search import Searcher
from training import embed, index, prepare, search
from training.catalogue.options import PrepareArguments, Shares

HEADER = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Variant SKU,"
    "Variant Inventory Tracker,Variant Inventory Qty,Variant Inventory Policy,Variant Price,Image Src,Image Position,"
    "Status"
).split(",")
MUG = {"Title": "Red mug", "Body (HTML)": "<p>A <b>clay</b> mug &amp; bowl</p>", "Vendor": "Acme", "Published": "true"}
MUG |= {"Product Category": "Home > Kitchen > Mugs", "Option1 Name": "Size", "Status": "active"}
STOCK = {"Variant Inventory Tracker": "shopify", "Variant Inventory Policy": "deny"}
CDN = "https://cdn.shop.example/s/files/"
ROWS = [
    {"Handle": "mug", **MUG, "Option1 Value": "S", "Variant SKU": "'0071", "Variant Price": "14.00", **STOCK}
    | {"Variant Inventory Qty": "3", "Image Src": f"{CDN}mug_1024x1024.png?v=1", "Image Position": "1"},
    {"Handle": "mug", "Option1 Value": "L", "Variant SKU": "'0072", "Variant Price": "19.50", **STOCK}
    | {"Variant Inventory Qty": "0", "Image Src": f"{CDN}mug-back.png?v=1", "Image Position": "2"},
    {"Handle": "lamp", "Title": "Blue lamp", "Product Category": "Home > Light", "Published": "true", **STOCK}
    | {"Variant SKU": "L1", "Variant Price": "1,059.00", "Variant Inventory Qty": "0", "Status": "active"},
    {"Handle": "bowl", "Title": "Soft bowl", "Product Category": "Home > Kitchen", "Published": "true", **STOCK}
    | {"Variant SKU": "B1", "Variant Price": "8.00", "Variant Inventory Qty": "5", "Status": "active"},
    {"Handle": "draft", "Title": "Draft", "Published": "false", "Variant Price": "1.00", "Status": "draft"},
]


@pytest.fixture
def catalogue(tmp_path):
    with open(tmp_path / "products_export.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, restval="")
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "images").mkdir()
    for name, colour in (("mug", "red"), ("mug-back", "darkred"), ("LAMP", "blue"), ("other", "green")):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture(colour))
    given = str(tmp_path / "products_export.csv"), str(tmp_path / "shop")
    options = {"images": str(tmp_path / "images"), "shares": Shares(train=0, dev=0, test=1)}
    return tmp_path / "shop", prepare.main(PrepareArguments(*given, **options))


def test_an_export_becomes_a_search_with_filters(catalogue, saved, tmp_path, capsys):
    shop, report = catalogue
    run = tmp_path / "run"
    embed.main(embed.EmbedArguments(str(saved), str(shop), "test", str(run / "vectors")))
    index.main(index.IndexArguments(str(run / "vectors"), str(run / "index")))
    (run / "model").symlink_to(saved)
    capsys.readouterr()

    def found(where):
        search.main(search.SearchArguments("red mug", str(run), where=where, json=True))
        printed = capsys.readouterr()
        return {one["product_id"] for one in json.loads(printed.out)["results"]}, printed.err

    assert found("price=<20; in_stock=true")[0] == {"mug", "bowl"}
    assert found("price=5-10")[0] == {"bowl"} and found("price>1000")[0] == {"lamp"}
    assert found("category=home > kitchen")[0] == {"mug", "bowl"} and found("in_stock=no")[0] == {"lamp"}
    assert found("brand=ACME")[0] == {"mug"} and found("Variant SKU=0071 | 0072") != {"mug"}
    nothing, said = found("category=kitchens")
    assert not nothing and "no product has category 'kitchens'; nearest are 'Home > Kitchen'" in said
    [mug] = Searcher(run).search("mug", 1, {"_id": "mug"})[0]
    assert mug.product["description"] == "A clay mug & bowl" and mug.product["price"] == 14.0
    assert json.loads(mug.product["attributes"])["Size"] == "S, L"


def test_the_report_says_what_was_read_and_what_was_not(catalogue):
    shop, report = catalogue
    products = report["products"]
    assert products["format"] == "shopify" and products["dialect"] == "read as UTF-8, separator ,"
    assert products["prices"]["decimal_mark"] == "." and products["left_out_columns"] == {}
    assert {problem["kind"] for problem in products["problems"]} == {
        "product with status draft (left out)",
        "no picture is named, and none is called like the id (text alone)",
    }
    [unused] = products["folder"].values()
    assert unused == {"count": 1, "examples": ["other.png"]}
    assert report["splits"]["test"]["pictures"] == 2, "the lamp's is called like its id"
