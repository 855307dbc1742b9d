"""`training.convert`: public sets, with their real file names and columns, become catalogues that the reader takes."""

import gzip
import json
import math
import re
from itertools import permutations

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import make_text_tower, picture
from public_sets import (
    GS_ROWS,
    SHOPPING,
    counts,
    example,
    item,
    listing,
    offer,
    row_of,
    write_esci,
    write_gs,
    write_items,
    write_table,
)
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from modeling_mmfusion.errors import DataError
from training import evaluate
from training.catalogue.delimited import BARE_QUOTE
from training.catalogue.layout import load_split, split_names
from training.catalogue.options import ConvertArguments
from training.catalogue.public_tables import ENDINGS, columns_of, read_rows
from training.common.cli import parse
from training.common.errors import Problems
from training.convert import main
from training.evaluation import measuring
from training.evaluation.options import EvaluateArguments
from training.evaluation.product_retrieval.metrics import per_query
from training.evaluation.rankers import TextRanker

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}  # of the Shopping Queries paper
GRADES = {"E": 100, "S": 10, "C": 1, "I": 0}
GRADES_OF_B0 = {f"B0{label}": grade for label, grade in GRADES.items()}


def esci(tmp_path, examples, products, **options):
    """Converts; returns the report and the folder."""
    folder = write_esci(tmp_path / "esci", examples, products)
    output = tmp_path / options.pop("output", "out")
    return main(ConvertArguments("esci", str(folder), str(output), **{"dev": 0.0} | options)), output


FOUR = [example(7, f"B0{label}", label, "test") for label in "CSIE"]
FOUR_PRODUCTS = [listing(f"B0{label}") for label in "ESCI"]


def test_esci_labels_become_grades_with_s_above_c(tmp_path, capsys):
    report, output = esci(tmp_path, FOUR, FOUR_PRODUCTS, splits=["test"])
    split = load_split(output, "test")
    assert split.qrels == {"7": GRADES_OF_B0}
    assert split.query_texts == ["query 7"] and not report["problems"] and not split.problems.counts
    assert report["splits"]["test"] == {"products": 4, "pictures": 0, "queries": 1, "judgments": 4, "relevant": 3}
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card and "E 100, S 10, C 1, I 0" in card
    assert re.search(r"\| +test \| +4 \| +0 \| +1 \| +4 \| +3 \|", capsys.readouterr().out)


@pytest.mark.parametrize("ranking", list(permutations("ESCI"))[::5])
def test_the_whole_numbers_give_the_ndcg_of_the_papers_gains(tmp_path, ranking):
    _, output = esci(tmp_path, FOUR, FOUR_PRODUCTS, splits=["test"])
    qrels = load_split(output, "test").qrels
    found = per_query({"7": [f"B0{label}" for label in ranking]}, qrels, ("ndcg@1000",))["ndcg@1000"][0]
    dcg = {
        order: sum(GAINS[label] / math.log2(rank + 2) for rank, label in enumerate(order))
        for order in (ranking, "ESCI")
    }
    assert found == pytest.approx(dcg[ranking] / dcg["ESCI"], abs=1e-9)


def test_esci_keeps_judged_products_of_the_locale_and_version_with_their_texts(tmp_path):
    texts = {"product_brand": "Lumo", "product_color": "Teal", "product_description": "<p>Warm.</p>"}
    products = [
        listing("0060538260", "Desk lamp", product_bullet_point="bright\nsmall", **texts),
        listing("0060538260", "Lámpara", "es"),
        listing("B2", "second"),
        listing("B3", "only in the larger version"),
        listing("B4", "unjudged"),
    ]
    examples = [
        example(1, "0060538260", "E"),
        example(1, "B2", "I"),
        example(2, "B2", "E", "test", text="Query  1"),
        example(3, "0060538260", "E", "test"),
        example(4, "B3", "E", small=0),
        example(5, "0060538260", "E", locale="es"),
    ]
    report, output = esci(tmp_path, examples, products)
    train, test = load_split(output, "train"), load_split(output, "test")
    assert split_names(output) == ["train", "test"] and not report["problems"]
    assert (train.product_ids, test.product_ids) == (["0060538260", "B2"],) * 2
    row = row_of(train, "0060538260")
    assert (row["title"], row["brand"], row["image"]) == ("Desk lamp", "Lumo", None)
    assert row["description"] == "Teal\nbright\nsmall\n<p>Warm.</p>" and row_of(train, "B2")["description"] is None
    assert train.qrels == {"1": {"0060538260": 100, "B2": 0}} and train.queries[0]["novel"] is False
    assert {query["_id"]: query["novel"] for query in test.queries} == {"2": False, "3": True}
    _, large = esci(tmp_path, examples, products, version="large", output="large", gains={"E": 3, "I": 0})
    assert load_split(large, "train").qrels == {"1": {"0060538260": 3, "B2": 0}, "4": {"B3": 3}}
    _, spanish = esci(tmp_path, examples, products, locale="es", output="es", splits=["train"])
    assert row_of(load_split(spanish, "train"), "0060538260")["title"] == "Lámpara"


def test_bad_rows_of_esci_are_counted_and_told(tmp_path, capsys):
    examples = [
        *FOUR,
        example(7, "B0C", "E", "test"),  # row 4: judged before
        example(7, "B0S", "X", "test"),
        example(7, "gone", "E", "test"),
        example(7, "gone too", "S", "test"),
        example(8, "B0E", "E", "test", text="  "),
        example(None, "B0E", "E", "test"),
        example(9, None, "E", "test"),
        example(9, "B0E", "E", "validation"),
        example(7, "B0E", "I", "test", text="another text"),
    ]
    products = [*FOUR_PRODUCTS[:3], listing("B0I", None), listing("B0E", "again"), listing(""), listing("B0I")]
    report, output = esci(tmp_path, examples, products, splits=["test"])
    assert counts(report) == {
        "judgment given twice (the higher grade is kept)": 2,
        "judgment with an unknown label or grade (left out)": 1,
        "judgment of a product that isn't in the tables (left out)": 2,
        "judgment without a query or a product (left out)": 3,
        "judgment of an unknown split (left out)": 1,
        "query id with another text (the first one is kept)": 1,
        "duplicate product id (the first one is kept)": 2,
        "product without an id (left out)": 1,
        "product with neither text nor picture (kept)": 1,
    }
    out, told = capsys.readouterr().out, (output / "README.md").read_text()
    for line in report["problems"]:
        assert f"warning: {line}" in out and f"- {line}" in told
    assert re.search(r"1 x judgment with an unknown label.*examples\.parquet row 5, field esci_label: 'X'", told)
    split = load_split(output, "test")
    assert split.qrels == {"7": GRADES_OF_B0 | {"B0C": 100}} and row_of(split, "B0E")["title"] == "a lamp"
    assert not split.problems.counts, "the reader has nothing left to mend"


def test_a_grade_can_be_changed_on_the_command_line(tmp_path):
    folder, output = write_esci(tmp_path / "esci", FOUR, FOUR_PRODUCTS), tmp_path / "out"
    words = f"--source esci --input {folder} --output {output} --splits test --gains.C 0 --gains.S=5".split()
    main(parse(ConvertArguments, "", words))
    assert load_split(output, "test").qrels == {"7": {"B0E": 100, "B0S": 5, "B0C": 0, "B0I": 0}}


def test_dev_is_a_share_of_the_train_queries(tmp_path):
    examples = [example(number, "B0E", "E", "train" if number < 200 else "test") for number in range(210)]
    examples += [example(number, "B0S", "S") for number in range(200)]
    report, output = esci(tmp_path, examples, FOUR_PRODUCTS, dev=0.2)
    queries = {name: set(load_split(output, name).qrels) for name in ("train", "dev", "test")}
    assert 20 < len(queries["dev"]) < 60 and len(queries["train"] | queries["dev"]) == 200
    assert not queries["train"] & queries["dev"] and len(queries["test"]) == 10
    assert report["splits"]["dev"]["judgments"] == 2 * len(queries["dev"]), "a query's judgments stay together"
    drawn = []
    for seed in (1, 2):
        _, folder = esci(tmp_path, examples, FOUR_PRODUCTS, queries=5, output=f"few{seed}", seed=seed)
        drawn.append(set(load_split(folder, "train").qrels))
    assert [len(ids) for ids in drawn] == [5, 5] and drawn[0] != drawn[1]


def test_sqids_pictures_are_taken_and_only_listed_ones_are_missed(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("B0E.jpg", "B0S.jpg"):
        (images / name).write_bytes(picture("red", (800, 40), "JPEG") if name == "B0E.jpg" else picture("blue"))
    (images / "B0C.png").write_bytes(b"no picture")
    url, placeholder = (
        "https://m.media-amazon.com/images/I/1.jpg",
        "https://m.media-amazon.com/Default_Background_Art_LTR.jpg",
    )
    products = [*FOUR_PRODUCTS, listing("B0X"), listing("B0Y")]
    examples = [*FOUR, example(7, "B0X", "I", "test"), example(7, "B0Y", "I", "test")]
    first = write_table(
        tmp_path / "product_image_urls.csv", [{"product_id": f"B0{key}", "image_url": url} for key in "ECI"]
    )
    rows = [("B0S", placeholder), ("B0X", "")]
    second = write_table(
        tmp_path / "supp_product_image_urls.csv",
        [dict(zip(("product_id", "image_url"), row, strict=True)) for row in rows],
    )
    options = {"splits": ["test"], "images": str(images)}
    report, output = esci(tmp_path, examples, products, image_urls=[str(first), str(second)], **options)
    split = load_split(output, "test")
    pictured = {product: row_of(split, product)["image"] for product in split.product_ids}
    assert [product for product, image in pictured.items() if image] == ["B0E"] and report["splits"]["test"][
        "pictures"
    ] == 1
    assert pictured["B0E"]["path"] == "B0E.jpg" and len(pictured["B0E"]["bytes"]) < (images / "B0E.jpg").stat().st_size
    assert counts(report) == {
        "picture is a placeholder (picture not used)": 1,
        "picture can't be read (picture not used)": 1,
        "picture file is missing (picture not used)": 1,
    }
    report, output = esci(tmp_path, examples, products, output="unlisted", **options)
    assert row_of(load_split(output, "test"), "B0S")["image"]["bytes"] == (images / "B0S.jpg").read_bytes()
    assert counts(report)["picture file is missing (picture not used)"] == 3, "without SQID's lists all are expected"


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".parquet"])
def test_tables_may_be_csv_or_json_lines_and_broken_rows_are_counted(tmp_path, ending):
    folder = write_esci(tmp_path / "esci", FOUR, FOUR_PRODUCTS, ending)
    file = folder / f"shopping_queries_dataset_examples{ending}"
    opened = gzip.open if ending.endswith(".gz") else open
    with opened(file, "at") as lines:
        lines.write('only,"three",cells\n' if ".csv" in ending else '{"query": \n{"query": "\\ud800"}\n')
    report = main(ConvertArguments("esci", str(folder), str(tmp_path / "out"), splits=["test"]))
    assert load_split(tmp_path / "out", "test").qrels == {"7": GRADES_OF_B0}
    assert counts(report) == {"broken row (left out)": 1 if ".csv" in ending else 2}


def test_only_the_columns_that_are_asked_for_are_read(tmp_path, monkeypatch):
    file = write_table(tmp_path / "a.parquet", [{"item_ID": 7, "image": {"bytes": b"x"}, "text": None}] * 3)
    asked = []
    whole = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda *args, **options: asked.append(options["columns"]) or whole(*args, **options),
    )
    assert [row for _, row in read_rows(file, ("item_ID", "text"))] == [{"item_ID": "7", "text": ""}] * 3
    assert asked == [["item_ID", "text"]] and columns_of(file) == ["item_ID", "image", "text"]


@pytest.mark.parametrize("archive", [None, "images", "."])
@pytest.mark.parametrize("splits", [[], ["zero_shot", "in_domain"]])
def test_marqo_gs_has_its_four_splits_and_shares_the_products_of_two(tmp_path, archive, splits):
    folder = write_gs(tmp_path / "marqo_gs_wfash_1m", archive)
    images = str(tmp_path / archive) if archive else None
    report = main(ConvertArguments("marqo-gs", folder, str(tmp_path / "out"), images=images, splits=splits))
    loaded = {name: load_split(tmp_path / "out", name) for name in split_names(tmp_path / "out")}
    assert list(loaded) == [name for name in GS_ROWS if not splits or name in splits]
    products = {"in_domain": ["p1", "p2", "p3"], "zero_shot": ["p4", "p5"]}
    products |= {"novel_query": products["in_domain"], "novel_document": products["zero_shot"]}
    qrels = {
        "in_domain": {"id-a": {"p1": 100, "p2": 99}, "id-b": {"p1": 1}},
        "novel_query": {"id-c": {"p2": 100, "p3": 98}},
        "novel_document": {"id-a": {"p4": 100}},
        "zero_shot": {"id-d": {"p5": 97}},
    }
    for name, split in loaded.items():
        assert (split.product_ids, split.qrels) == (products[name], qrels[name])
        assert {query["novel"] for query in split.queries} == {name in ("novel_query", "zero_shot")}
    first = row_of(loaded["in_domain"], "p1")
    assert first["title"] == "boots" and first["image"] == {"bytes": picture("red"), "path": "p1.png"}
    assert loaded["in_domain"].query_texts == ["query a", "query b"] and not report["problems"]
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()


def test_bad_rows_of_marqo_gs_are_counted(tmp_path):
    rows = dict(GS_ROWS) | {"in_domain": [*GS_ROWS["in_domain"], offer("b", "p9", "n/a"), offer("", "p1", 5)]}
    rows["in_domain"][-1]["query_id"] = ""
    folder = write_gs(tmp_path / "gs", True, {"in_domain": rows["in_domain"]})
    (tmp_path / "images" / "p2.png").rename(tmp_path / "p2.png")
    table = tmp_path / "gs" / "query_0_product_id_0.csv"
    table.write_text(table.read_text().replace("images/p2.png", "../p2.png"))  # no file outside the folder is read
    with open(tmp_path / "gs" / "query_0_product_id_0.csv", "a") as lines:
        lines.write("a,broken,row\n")
    options = ConvertArguments("marqo-gs", folder, str(tmp_path / "out"), images=str(tmp_path / "images"))
    report = main(options)
    assert counts(report) == {
        "split whose products are missing in another's corpus": 1,
        "judgment with an unknown label or grade (left out)": 1,
        "judgment without a query or a product (left out)": 1,
        "broken row (left out)": 1,
        "picture file is missing (picture not used)": 1,
    }
    split = load_split(tmp_path / "out", "in_domain")
    assert split.product_ids == ["p1", "p2", "p9"] and row_of(split, "p2")["image"] is None
    assert not split.problems.counts
    write_gs(tmp_path / "gs", True, {"novel_query": GS_ROWS["novel_query"]})
    alone = main(ConvertArguments("marqo-gs", folder, str(tmp_path / "alone"), splits=["novel_query"]))
    assert counts(alone) == {"broken row (left out)": 1}, "of the table that is read for its products alone"
    judged = ConvertArguments(
        "marqo-gs", folder, str(tmp_path / "few"), splits=["in_domain"], queries=1, judged_corpus=True
    )
    main(judged)
    few = load_split(tmp_path / "few", "in_domain")
    assert len(few.queries) == 1 and set(few.product_ids) == set(few.qrels[few.queries[0]["_id"]])


def test_marqo_products_are_relevant_to_their_query(tmp_path):
    folder = write_items(tmp_path / "shopping", SHOPPING)
    report = main(ConvertArguments("marqo-products", folder, str(tmp_path / "out")))
    split = load_split(tmp_path / "out", "test")
    qrels = {query["text"]: split.qrels[query["_id"]] for query in split.queries}
    assert qrels == {"boots": {"id-1": 1, "id-2": 1}, "lamps": {"id-3": 1}}
    assert (
        split.product_ids == [f"id-{number}" for number in (1, 2, 3, 4)] and row_of(split, "id-4")["title"] == "Lamp"
    )
    assert row_of(split, "id-2")["image"]["bytes"] == SHOPPING[1]["image"]["bytes"]
    assert counts(report) == {"judgment without a query or a product (left out)": 1}
    assert "license: other" in (tmp_path / "out" / "README.md").read_text()


def test_products_have_no_title_where_titles_are_the_queries(tmp_path):
    folder = write_items(tmp_path / "shopping", [*SHOPPING, item(5, "x", "Mug", image=None)], "mit")
    report = main(ConvertArguments("marqo-products", folder, str(tmp_path / "out"), query_column="title"))
    split = load_split(tmp_path / "out", "test")
    assert {query["text"]: set(split.qrels[query["_id"]]) for query in split.queries}["Red boot"] == {"id-1", "id-3"}
    assert set(split.corpus["title"]) == {None} and row_of(split, "id-1")["image"]
    assert counts(report) == {
        "picture is missing in the table": 1,
        "product with neither text nor picture (kept)": 1,
    }
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


def test_marqos_file_of_judgments_is_taken(tmp_path):
    folder = write_items(tmp_path / "shopping", [*SHOPPING, item(4, "", "Lamp again")])
    truth = tmp_path / "gt_results.json"
    truth.write_text(
        json.dumps({"Red boot_{!@#~}_": {"id-1": 1, "id-9": 1}, "Lamp_{!@#~}_": {"id-4": 1, "id-2": "?"}})
    )
    options = {"query_column": "title", "ground_truth": str(truth)}
    report = main(ConvertArguments("marqo-products", folder, str(tmp_path / "out"), **options))
    split = load_split(tmp_path / "out", "test")
    assert {query["text"]: split.qrels[query["_id"]] for query in split.queries} == {
        "Red boot": {"id-1": 1},
        "Lamp": {"id-4": 1},
    }
    assert len(split.product_ids) == 4 and set(split.corpus["title"]) == {None} and not split.problems.counts
    assert counts(report) == {
        "judgment of a product that isn't in the tables (left out)": 1,
        "judgment with an unknown label or grade (left out)": 1,
        "duplicate product id (the first one is kept)": 1,
    }


@pytest.mark.parametrize("name, title", [("category2-image+text", "Blue Cotton Shirt"), ("text-image", None)])
def test_fashion_sets_with_their_judgments(tmp_path, name, title):
    rows = [
        {
            "gender": "Men",
            "category2": "Topwear",
            "text": " Blue Cotton Shirt",
            "item_ID": 15970,
            "image": SHOPPING[0]["image"],
        },
        {
            "gender": "Men",
            "category2": "Shoes",
            "text": None,
            "item_ID": 39386,
            "image": {"bytes": b"torn", "path": "x"},
        },
    ]
    folder = write_items(tmp_path / "KAGL", rows, "mit")
    truth = tmp_path / f"ground_truth_{name}.json"
    truth.write_text(json.dumps({" Topwear": {"15970": 1}, "Shoes": {"39386": 1}}))
    report = main(ConvertArguments("marqo-fashion", folder, str(tmp_path / "out"), ground_truth=str(truth)))
    split = load_split(tmp_path / "out", "test")
    assert {query["text"]: split.qrels[query["_id"]] for query in split.queries} == {
        "Topwear": {"15970": 1},
        "Shoes": {"39386": 1},
    }
    assert row_of(split, "15970")["title"] == title and row_of(split, "15970")["category"] is None, (
        "it would tell the answer"
    )
    assert counts(report) == {
        "picture can't be read (picture not used)": 1,
        "product with neither text nor picture (kept)": 1,
    }
    assert report["splits"]["test"]["pictures"] == 1 and "license: mit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input": "nowhere"}, "nowhere: no such folder"),
        ({"input": "empty"}, "empty: has no shopping_queries_dataset_examples.parquet"),
        ({"input": "empty", "source": "marqo-gs"}, "empty: has neither in_domain"),
        ({"input": "subsets", "source": "marqo-gs"}, "give the folder of one subset"),
        ({"input": "empty", "source": "marqo-fashion"}, "empty: has no table"),
        ({"output": "esci/out"}, "is in the folder that is read"),
        ({"output": "full"}, "full: isn't empty"),
        ({"output": "full/file"}, "file: is a file"),
        ({"images": "nowhere"}, "nowhere: no such folder of pictures"),
        ({"image_urls": ["nowhere.csv"]}, "nowhere.csv: no such file"),
        ({"splits": ["test", "novel_query"]}, "no split 'novel_query'"),
        ({"splits": ["dev"]}, "no split 'dev'"),
        ({"dev": 1.0}, "--dev: 1.0"),
        ({"gains": {"E": -1}}, "--gains"),
        ({"gains": {"E": 0}}, "nothing is relevant in test"),
        ({"source": "marqo-products", "input": "shop"}, "column 'item_ID' is missing"),
        ({"source": "marqo-products", "input": "esci"}, "column 'item_ID' is missing"),
        ({"source": "marqo-products", "input": "items", "query_column": "qeury"}, "column 'qeury' is missing"),
        (
            {"source": "marqo-products", "input": "items", "ground_truth": "full/file"},
            "isn't a JSON object of queries",
        ),
        ({"source": "marqo-products", "input": "torn"}, "torn.parquet: can't be read"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    write_esci(tmp_path / "esci", FOUR, FOUR_PRODUCTS)
    write_items(tmp_path / "items", SHOPPING)
    write_table(tmp_path / "shop" / "a.csv", [{"id": "1"}])
    for subset in ("marqo_gs_fashion_5m", "marqo_gs_wfash_1m"):
        write_table(tmp_path / "subsets" / subset / "query_0_product_id_0.csv", GS_ROWS["in_domain"])
    for folder in ("empty", "full", "torn"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "file").write_text("[]")
    (tmp_path / "torn" / "torn.parquet").write_bytes(b"PAR1")
    options = {"source": "esci", "input": "esci", "output": "out", "splits": [], "dev": 0.0, **changes}
    if options["source"] == "esci" and not options["splits"]:
        options["splits"] = ["test"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        main(ConvertArguments(**options))
    assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before


def test_random_orders_of_judged_lists_by_hand(tmp_path):
    examples = [example(number, f"B0{label}", label, "test") for number in range(300) for label in "ESCI"]
    _, output = esci(tmp_path, examples, FOUR_PRODUCTS, splits=["test"])
    split = load_split(output, "test")
    discounts = [1 / math.log2(rank + 2) for rank in range(4)]
    orders = [
        sum(GAINS[label] * d for label, d in zip(order, discounts, strict=True)) for order in permutations("ESCI")
    ]
    expected = np.mean(orders) / max(orders)
    floor = measuring.random_floor(split, ("ndcg@1000", "recall@1"))
    error = np.std(orders) / max(orders) / math.sqrt(300 * measuring.RANDOM_ORDERS)
    assert floor["ndcg@1000"].shape == (300,) and floor["ndcg@1000"].mean() == pytest.approx(expected, abs=4 * error)
    assert floor["recall@1"].mean() == pytest.approx(1 / 4, abs=0.01)
    again = measuring.random_floor(split, ("ndcg@1000",))
    assert np.array_equal(again["ndcg@1000"], floor["ndcg@1000"])


def test_judged_only_ranks_nothing_else_and_shows_the_floor(tmp_path, capsys):
    products = [listing("B0E", "red mug"), listing("B0S", "mug"), listing("B0I", "lamp"), listing("B1", "red red mug")]
    examples = [example(1, "B0I", "I", "test", "red mug"), example(1, "B0S", "S", "test", "red mug")]
    examples += [example(1, "B0E", "E", "test", "red mug"), example(2, "B1", "E", "test", "lamp")]
    _, output = esci(tmp_path, examples, products, splits=["test"])
    split = load_split(output, "test")
    among = measuring.judged_rows(split)
    assert [rows.tolist() for rows in among] == [[0, 1, 2], [3]]
    found = measuring.search_exact(np.ones((2, 1), np.float32), np.array([[1], [3], [2], [9]], np.float32), 9, among)
    assert [rows.tolist() for rows in found] == [[1, 2, 0], [3]]
    options = {"data": str(output), "judged_only": True, "metrics": ["ndcg@1000", "recall@1"]}
    report = evaluate.main(EvaluateArguments("bm25", report=str(tmp_path / "report.json"), **options))
    table = capsys.readouterr().out
    assert report["judged_only"] and "each query's judged products alone" in table and "| random |" in table
    assert json.loads((tmp_path / "report.json").read_text())["views"]["random"] == report["views"]["random"]
    assert report["views"]["bm25"]["ndcg@1000"]["mean"] == 1, "a product without a shared word is ranked, too"
    assert 0.7 < report["views"]["random"]["ndcg@1000"]["mean"] < 1
    everywhere = evaluate.main(EvaluateArguments("bm25", data=str(output), metrics=["ndcg@1000"]))
    assert everywhere["views"]["bm25"]["ndcg@1000"]["mean"] < 1 and "random" not in everywhere["views"]
    with pytest.raises(DataError, match="leave out --ann"):
        evaluate.main(EvaluateArguments("bm25", ann=True, **options))


def test_our_model_and_others_rank_judged_products_alone(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    _, output = esci(tmp_path, [*FOUR, example(8, "B0E", "E", "test")], FOUR_PRODUCTS, splits=["test"])
    files = {"run_file": str(tmp_path / "run"), "metrics": ["ndcg@1000"], "judged_only": True}
    report = evaluate.main(
        EvaluateArguments(str(tmp_path / "model"), str(output), views=["fused", "text", "bm25", "rrf"], **files)
    )
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert sorted(line[2] for line in lines if line[0] == "7") == sorted(GRADES_OF_B0)
    assert [line[2] for line in lines if line[0] == "8"] == ["B0E"]
    encoder = SentenceTransformer(modules=[Transformer(str(make_text_tower(tmp_path / "bert"))), Pooling(16)])
    encoder.save_pretrained(str(tmp_path / "encoder"))
    ranked = TextRanker(tmp_path / "encoder").rank(
        load_split(output, "test"), 9, among=[np.array([1, 3]), np.array([0])]
    )
    assert [sorted(rows.tolist()) for rows in ranked] == [[1, 3], [0]]
    assert (
        list(report["views"]) == ["fused", "text", "bm25", "rrf", "random"]
        and "fused_vs_random" in report["comparisons"]
    )


def test_problems_of_a_second_reading_are_not_counted_again(tmp_path):
    file = write_table(tmp_path / "a.csv", [{"a": 1, "b": 2}])
    with open(file, "a") as lines:
        lines.write("1\n")
    problems = Problems()
    assert len(list(read_rows(file, ("a",), problems))) == len(list(read_rows(file, ("a",)))) == 1
    assert problems.lines() == [f"1 x broken row (left out); first: {file.name} row 1"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_a_bare_quote_in_a_public_table_swallows_no_row_and_is_told(tmp_path, ending):
    file, problems = tmp_path / f"table{ending}", Problems()
    text = 'id,title\n1,"Vintage" mug\n2,"Bowl\n3,plain\n4,one,too many\n5,12" pan\n6,"by, the rule"\n'
    file.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    titles = {row["id"]: row["title"] for _, row in read_rows(file, ("id", "title"), problems)}
    assert titles == {"1": '"Vintage" mug', "2": '"Bowl', "3": "plain", "5": '12" pan', "6": "by, the rule"}
    assert problems.counts == {BARE_QUOTE: 2, "broken row (left out)": 1}
    assert problems.first[BARE_QUOTE].endswith("row 0")


@pytest.mark.parametrize(
    ("encoding", "given", "title"), [("cp1252", None, "große Tasse"), ("cp1250", "cp1250", "Červený")]
)
def test_text_of_any_encoding_is_read_and_what_was_assumed_is_told(tmp_path, encoding, given, title):
    folder = write_esci(tmp_path / "esci", FOUR, [listing(f"B0{label}", title) for label in "ESCI"], ".csv")
    file = folder / "shopping_queries_dataset_products.csv"
    file.write_bytes(file.read_text(encoding="utf-8").replace("None", "").encode(encoding))
    arguments = ConvertArguments("esci", str(folder), str(tmp_path / "out"), dev=0.0, splits=["test"], encoding=given)
    report = main(arguments)
    assert row_of(load_split(tmp_path / "out", "test"), "B0E")["title"] == title
    told = [line for line in report["problems"] if line.startswith("1 x table read as CP1252 (assumed")]
    assert len(told) == len(report["problems"]) == (given is None)
