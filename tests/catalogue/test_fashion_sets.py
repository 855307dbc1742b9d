"""`training.convert`: H&M's search data, GLAMI-1M and LookBench, from files with the columns that are documented."""

import re

import numpy as np
import pytest
import torch
from helpers import make_dual_encoder, picture
from public_sets import article, counts, glami_item, look, row_of, write_glami, write_hnm, write_look, write_table

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.processing_mmfusion import load_picture
from training import evaluate
from training.catalogue.layout import NothingToMeasure, load_split, split_names
from training.catalogue.options import ConvertArguments
from training.common.errors import Problems
from training.convert import main
from training.evaluation.options import EvaluateArguments
from training.features.embedder import sample_queries
from training.features.encoder import Encoder, embed_picture_queries

ARTICLES = [article("0108775015"), article("0108775044", detail_desc=None), article("0110065001", "OP T-shirt")]
QUERIES = [(f"q{number}", f"black top {number}") for number in range(60)]
QRELS = [[query, "0108775015 0110065001", "0108775044"] for query, _ in QUERIES]


def hnm(tmp_path, articles=ARTICLES, queries=QUERIES, qrels=QRELS, written=(), **options):
    folder = write_hnm(tmp_path / "hnm", articles, queries, qrels, **dict(written))
    report = main(ConvertArguments("hnm-search-data", folder, str(tmp_path / "out"), **options))
    return report, tmp_path / "out"


def test_hnm_grades_what_was_bought_and_splits_by_the_text(tmp_path):
    again = [(f"again-{query}", text.upper()) for query, text in QUERIES[:20]]
    qrels = [*QRELS, *([query, "0110065001", ""] for query, _ in again)]
    report, output = hnm(tmp_path, queries=[*QUERIES, *again], qrels=qrels, dev=0.2)
    splits = {name: load_split(output, name) for name in split_names(output)}
    assert list(splits) == ["train", "dev", "test"] and not report["problems"]
    of_query = {query["_id"]: name for name, split in splits.items() for query in split.queries}
    assert len(of_query) == 80 and all(of_query[f"again-{query}"] == of_query[query] for query, _ in QUERIES[:20])
    assert len(splits["train"].queries) > 30 and splits["dev"].queries and splits["test"].queries
    grades = {"0108775015": 1, "0110065001": 1, "0108775044": 0}
    for split in splits.values():
        assert split.product_ids == ["0108775015", "0108775044", "0110065001"], "all search in all articles"
        assert all(found == grades for query, found in split.qrels.items() if query[0] == "q")
    row = row_of(splits["test"], "0108775015")
    assert (row["title"], row["category"]) == ("Strap top", "Ladieswear > Jersey Basic > Vest top")
    assert row["description"] == "Black\nSolid\nJersey top, with straps." and row["image"] is None
    card = (output / "README.md").read_text()
    assert "license: other" in card and "synthetic" in card and "share of 0.2" in card


@pytest.mark.parametrize("ending, column", [(".csv", "negatives_ids"), (".parquet", "negative_ids")])
def test_hnm_ids_get_their_zeros_back_and_find_their_pictures(tmp_path, ending, column):
    (tmp_path / "images" / "010").mkdir(parents=True)
    (tmp_path / "images" / "010" / "0108775015.jpg").write_bytes(picture("red", format="JPEG"))
    rows = [article("108775015"), article("108775044"), article("0110065001")]
    written = {"columns": ("query_id", "positive_ids", column), "ending": ending}
    qrels = [[query, "108775015", "0108775044"] for query, _ in QUERIES]
    options = {"splits": ["test"], "images": str(tmp_path / "images"), "judged_corpus": True}
    report, output = hnm(tmp_path, rows, QUERIES, qrels, written, **options)
    split = load_split(output, "test")
    assert split.product_ids == ["0108775015", "0108775044"], "the third is not judged"
    assert all(grades == {"0108775015": 1, "0108775044": 0} for grades in split.qrels.values())
    assert row_of(split, "0108775015")["image"]["path"] == "0108775015.jpg"
    assert counts(report) == {"picture file is missing (picture not used)": 1}


def test_bad_rows_of_hnm_are_counted(tmp_path):
    articles = [*ARTICLES, article("", "no id"), article("0108775015", "again")]
    queries = [*QUERIES, ("", "no id"), ("q60", ""), ("q0", "another text"), ("asked", "never judged")]
    qrels = [*QRELS, ["unknown", "0108775015", ""], ["q1", "", "0108775044"], ["q2", "0999999999", "0108775015"]]
    report, output = hnm(tmp_path, articles, queries, qrels, dev=0)
    assert counts(report) == {
        "product without an id (left out)": 1,
        "duplicate product id (the first one is kept)": 1,
        "query without an id or a text (left out)": 2,
        "query id with another text (the first one is kept)": 1,
        "query of which nothing was bought": 1,
        "query without a judgment (left out)": 1,
        "judgment without a query or a product (left out)": 1,
        "judgment given twice (the higher grade is kept)": 2,
        "judgment of a product that isn't in the tables (left out)": 1,
    }
    card = (output / "README.md").read_text()
    assert re.search(
        r"1 x query of which nothing was bought; first: qrels.csv row 61, field positive_ids, .*'q1'", card
    )
    assert re.search(r"2 x query without an id or a text .*; first: queries.csv row 60, field query_id", card)
    grades = {query: found for name in split_names(output) for query, found in load_split(output, name).qrels.items()}
    assert grades["q2"]["0108775015"] == 1, "bought once, and not another time"


GLAMI = [
    glami_item(1, "Šaty červené"),
    glami_item(2, "Rochie", geo="ro"),
    glami_item(3, "Šaty červené", "womens-t-shirts", "sk"),
    glami_item(90, "Tričko", "womens-t-shirts", description=None),
]


def glami(tmp_path, source=None, **options):
    folder = source or write_glami(tmp_path / "GLAMI-1M-dataset", test=GLAMI)
    report = main(ConvertArguments("glami-1m", folder, str(tmp_path / "out"), **options))
    return report, tmp_path / "out"


def test_glamis_categories_are_queries_and_products_do_not_tell_them(tmp_path):
    report, output = glami(tmp_path)
    split = load_split(output, "test")
    found = {query["text"]: split.qrels[query["_id"]] for query in split.queries}
    assert found == {"womens dresses": {"1": 1, "2": 1}, "womens t shirts": {"3": 1, "90": 1}}
    row = row_of(split, "2")
    assert (row["title"], row["description"], row["category"]) == ("Rochie", "popis 2", None)
    assert row["image"]["bytes"] == picture("red", (9, 9), "JPEG") and row_of(split, "90")["image"] is None
    assert counts(report) == {"picture file is missing (picture not used)": 1}
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card and "classification made to look like retrieval" in card
    assert "column category_name" in card


def test_glamis_names_are_known_items_with_a_slice_a_country(tmp_path):
    _, output = glami(tmp_path, query_column="name")
    split = load_split(output, "test")
    found = {query["text"]: (split.qrels[query["_id"]], query["slice"]) for query in split.queries}
    expected = {"Šaty červené": ({"1": 1, "3": 1}, "many"), "Rochie": ({"2": 1}, "ro"), "Tričko": ({"90": 1}, "cz")}
    assert found == expected
    row = row_of(split, "2")
    assert (row["title"], row["category"]) == (None, "womens-dresses"), "a name would tell itself"


def test_glamis_splits_are_those_that_are_there_and_bad_rows_are_counted(tmp_path):
    rows = [
        *GLAMI,
        glami_item("", "no id"),
        glami_item(1, "again", "bags"),
        glami_item(4, "x", ""),
        glami_item(5, "y"),
    ]
    rows[-1]["image_id"] = ""
    folder = write_glami(tmp_path / "GLAMI-1M-dataset", train=GLAMI, test=rows)
    report, output = glami(tmp_path, folder, splits=["test"], judged_corpus=True)
    assert split_names(output) == ["test"] and load_split(output, "test").product_ids == ["1", "2", "3", "90", "5"]
    assert counts(report) == {
        "product without an id (left out)": 1,
        "duplicate product id (the first one is kept)": 1,
        "judgment without a query or a product (left out)": 1,
        "picture file is missing (picture not used)": 1,
        "product without the name of a picture (it has none)": 1,
    }
    assert load_split(output, "test").query_texts == ["womens dresses", "womens t shirts"], "the first row counts"
    told = (output / "README.md").read_text()
    assert re.search(r"judgment without .*; first: GLAMI-1M-test.csv row 6, field category_name", told)
    assert re.search(r"name of a picture .*; first: GLAMI-1M-test.csv row 7, product '5', field image_id", told)


def test_glami_without_its_pictures_says_so(tmp_path):
    write_table(tmp_path / "texts" / "GLAMI-1M-test.csv", GLAMI)
    report, output = glami(tmp_path, str(tmp_path / "texts"))
    assert counts(report) == {"folder of pictures isn't there (products have none)": 1}
    assert set(load_split(output, "test").corpus["image"]) == {None}


FLAT = (
    [look("red"), look("blue", "dress", "RED "), look("green", "Bag", "Round")],
    [look("crimson"), look("pink"), look("white", "Bag", "Square"), look("black", "Bag", "Round")],
)


def lookbench(tmp_path, folder=None, **options):
    folder = folder or write_look(tmp_path / "look-bench" / "v20251201", real_studio_flat=FLAT)
    report = main(ConvertArguments("lookbench", folder, str(tmp_path / "out"), **options))
    return report, tmp_path / "out"


def test_lookbenchs_pictures_ask_for_those_of_their_category_and_attribute(tmp_path):
    report, output = lookbench(tmp_path)
    split = load_split(output, "real_studio_flat", picture_queries=True)
    assert split.qrels == {
        "real_studio_flat-query-0": {"real_studio_flat-gallery-0": 1, "real_studio_flat-gallery-1": 1},
        "real_studio_flat-query-1": {"real_studio_flat-gallery-0": 1, "real_studio_flat-gallery-1": 1},
        "real_studio_flat-query-2": {"real_studio_flat-gallery-3": 1},
    }
    assert split.product_ids[-1] == "noise-gallery-0" and len(split.product_ids) == 5
    assert split.query_pictures.corpus[2]["image"]["bytes"] == picture("green", (20, 20))
    row = row_of(split, "real_studio_flat-gallery-3")
    assert row["image"]["bytes"] == picture("black", (20, 20))
    assert not any(value for name, value in row.items() if name not in ("_id", "image")), (
        "texts would tell the answers"
    )
    assert not report["problems"] and not split.problems.counts
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card and "Queries are pictures" in card


def test_bad_rows_of_lookbench_are_counted(tmp_path):
    queries, gallery = FLAT
    queries = [*queries, look("red", None), look("red", "Shoe"), look("red", image=None)]
    queries.append(look("red", image={"bytes": b"torn", "path": None}))
    gallery = [*gallery, look("red", attribute=None), look("red", image={"bytes": b"torn", "path": None})]
    folder = write_look(tmp_path / "look", False, real_studio_flat=(queries, gallery))
    report, output = lookbench(tmp_path, folder, splits=["real_studio_flat"])
    assert counts(report) == {
        "set of pictures is missing in all galleries": 1,
        "product without a category or a main attribute (kept, relevant to nothing)": 1,
        "query without a category or a main attribute (left out)": 1,
        "query to which nothing in its gallery is relevant (left out)": 1,
        "picture is missing in the table": 1,
        "picture can't be read (picture not used)": 2,
        "query without a picture (left out)": 2,
        "product with neither text nor picture (kept)": 1,
    }
    told = (output / "README.md").read_text()
    place = r"real_studio_flat/query.parquet row 3, fields category and main_attribute"
    assert re.search(rf"query without a category .*; first: {place}", told)
    split = load_split(output, "real_studio_flat", picture_queries=True)
    assert len(split.queries) == 3 and len(split.product_ids) == 6
    folder = write_look(tmp_path / "look", True, real_studio_flat=FLAT)
    main(ConvertArguments("lookbench", folder, str(tmp_path / "few"), queries=1, judged_corpus=True))
    few = load_split(tmp_path / "few", "real_studio_flat", picture_queries=True)
    assert len(few.queries) == 1 and set(few.product_ids) == set(few.qrels[few.queries[0]["_id"]])


@pytest.mark.parametrize(
    "source, spoil, message",
    [
        ("hnm-search-data", ("remove", "data/search/qrels.csv"), "data/search: has no qrels.parquet"),
        ("hnm-search-data", ("column", "data/search/qrels.csv", "negative_ids"), "column 'negative_ids' is missing"),
        ("hnm-search-data", ("column", "data/raw/articles.csv", "detail_desc"), "column 'detail_desc' is missing"),
        ("hnm-search-data", ("column", "data/search/queries.csv", "query_text"), "column 'query_text' is missing"),
        ("glami-1m", ("remove", "GLAMI-1M-test.csv"), "has neither GLAMI-1M-train.csv nor GLAMI-1M-test.csv"),
        ("glami-1m", ("column", "GLAMI-1M-test.csv", "category_name"), "column 'category_name' is missing"),
        ("glami-1m", ("column", "GLAMI-1M-test.csv", "image_id"), "column 'image_id' is missing"),
        (
            "glami-1m",
            ("option", "query_column", "title"),
            "glami-1m has queries of category_name or name, not 'title'",
        ),
        ("lookbench", ("remove", "real_studio_flat/gallery.parquet"), "has no real_studio_flat/gallery.parquet"),
        ("lookbench", ("remove", "real_studio_flat"), "has no real_studio_flat/query.parquet"),
        ("lookbench", ("again", "real_studio_flat"), "has real_studio_flat in several versions"),
        ("lookbench", ("torn", "real_studio_flat/query.parquet"), "query.parquet: can't be read"),
        ("lookbench", ("option", "splits", ["test"]), "no split 'test'"),
    ],
)
def test_damaged_sets_are_told_in_one_line_and_nothing_is_written(tmp_path, source, spoil, message):
    folder, kind, options = tmp_path / "set", spoil[0], {}
    if source == "hnm-search-data":
        write_hnm(folder, ARTICLES, QUERIES, QRELS)
    elif source == "glami-1m":
        write_glami(folder, test=GLAMI)
    else:
        write_look(folder, real_studio_flat=FLAT)
    if kind == "option":
        options = {spoil[1]: spoil[2]}
    elif kind == "column":
        file = folder / spoil[1]
        file.write_text(file.read_text().replace(f'"{spoil[2]}"', '"other"', 1))
    elif kind == "torn":
        (folder / spoil[1]).write_bytes(b"PAR1")
    elif kind == "again":
        write_look(folder / "v2", False, real_studio_flat=FLAT)
    else:
        for file in [folder / spoil[1], *(folder / spoil[1]).glob("*")][::-1]:
            file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        main(ConvertArguments(source, str(folder), str(tmp_path / "out"), **options))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_picture_queries_are_ranked_by_the_query_towers_own_vectors(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    _, output = lookbench(tmp_path)
    split = load_split(output, "real_studio_flat", picture_queries=True)
    encoder = Encoder.load(tmp_path / "model")
    vectors, weights = embed_picture_queries(encoder.model, encoder.product_states(split.query_pictures))
    pictures = [load_picture(picture(colour, (20, 20))) for colour in ("red", "blue", "green")]
    inputs = processor.process_products([{"image": [one]} for one in pictures])
    with torch.inference_mode():
        found = encoder.model.get_query_features(pixel_values=inputs["pixel_values"], image_mask=inputs["image_mask"])
    for kept, own in ((vectors, found.pooler_output), (weights, found.block_weights)):
        np.testing.assert_allclose(kept, own, atol=1e-4, rtol=0)  # cells are kept in half precision
    options = {"data": str(output), "split": "real_studio_flat", "metrics": ["ndcg@10", "success@1"]}
    report = evaluate.main(
        EvaluateArguments(str(tmp_path / "model"), per_query=str(tmp_path / "q.parquet"), **options)
    )
    assert list(report["views"]) == ["fused", "text", "image"] and report["n_queries"] == 3
    scores = vectors @ encoder.embed_products(split, "image").T
    hits = [
        split.product_ids[row] in split.qrels[query["_id"]]
        for query, row in zip(split.queries, scores.argmax(1), strict=True)
    ]
    assert report["views"]["image"]["success@1"]["mean"] == pytest.approx(np.mean(hits))


def test_a_dual_encoder_ranks_picture_queries(tmp_path):
    folder = make_dual_encoder(tmp_path / "clip", "clip")
    queries = [look("red"), look("blue", "Bag"), look("green", "Shoe")]
    _, output = lookbench(tmp_path, write_look(tmp_path / "same", True, aigen_studio=(queries, queries)))
    report = evaluate.main(EvaluateArguments(str(folder), str(output), "aigen_studio", metrics=["success@1"]))
    assert report["views"]["image"]["success@1"]["mean"] == 1, "each picture finds itself"


def test_what_takes_only_texts_refuses_picture_queries(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    _, output = lookbench(tmp_path)
    with pytest.raises(NothingToMeasure, match="the queries are pictures, which only training.evaluate can take"):
        load_split(output, "real_studio_flat")
    assert sample_queries(str(output), Problems()) == []
    options = {"data": str(output), "split": "real_studio_flat"}
    for name, more, message in (
        ("bm25", {}, "its queries are pictures, which bm25 can't take"),
        (str(tmp_path / "model"), {"views": ["fused", "rrf"]}, "leave rrf out of --views"),
        (str(tmp_path / "model"), {"examples": str(tmp_path / "a.html")}, "which --examples can't show"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate.main(EvaluateArguments(name, **options, **more))
