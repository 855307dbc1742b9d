"""Bad catalogues: one line that names file, row and field, or a counted warning; nothing is lost silently."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import picture, shop_rows, write_shop
from PIL import Image

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import NothingToMeasure, load_products, load_split, split_names
from training.catalogue.pictures import picture_content
from training.catalogue.writing import CORPUS_FEATURES, PICTURE_QUERY_FEATURES, write_card, write_split


def rewrite(folder, name, change, split="test"):
    """Applies `change(table) -> table` to one of a shop's Parquet files."""
    file = folder / split / f"{name}.parquet"
    table = change(datasets.Dataset.from_parquet(str(file), cache_dir=str(folder / "cache")))
    table.to_parquet(file)


def test_a_good_shop(shop):
    split = load_split(shop, "test")
    assert len(split.product_ids) == len(split.queries) == 12 and not split.problems.counts
    assert split.query_texts[0] == "red mug" and split.qrels["q-mug-red"] == {"mug-red": 2}
    assert split.corpus[0]["image"]["bytes"].startswith(b"\x89PNG")
    assert split_names(shop) == ["train", "dev", "test"]


def test_a_catalogue_that_was_written_again_is_read_again(shop):
    first = load_split(shop, "test")
    corpus, queries, qrels = shop_rows()
    corpus[0]["title"] = "golden mug"
    write_shop(shop, corpus, queries, qrels)
    again = load_split(shop, "test")
    assert again.corpus[0]["title"] == "golden mug"
    assert again.picture_digests == first.picture_digests
    corpus[0]["image"] = corpus[1]["image"]
    assert load_split(write_shop(shop, corpus, queries, qrels), "test").picture_digests != again.picture_digests


def test_what_datasets_keeps_of_another_folder_of_the_name_is_not_taken(tmp_path):
    first, second = write_shop(tmp_path / "a" / "shop"), write_shop(tmp_path / "b" / "shop", splits=("dev", "test"))
    file = second / "test" / "corpus.parquet"
    table = pq.read_table(file).replace_schema_metadata(None)
    pq.write_table(table.drop_columns(["brand"]).append_column("rating", pa.array([1.5] * len(table))), file)
    datasets.load_dataset(str(first), "corpus", split="test")  # as a person does beside our commands
    assert split_names(second) == ["dev", "test"]
    found = load_split(second, "test")
    assert "rating" in found.corpus.column_names and "brand" not in found.corpus.column_names
    datasets.load_dataset(str(first), "corpus", split="test")
    pq.write_table(table.drop_columns(["category"]), first / "test" / "corpus.parquet")
    assert "category" not in load_split(first, "test").corpus.column_names


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "/nowhere"])
def test_no_such_folder(name):
    with pytest.raises(DataError, match="no such folder"):
        load_split(name, "test")


def fails_in_one_line(shop, *words, split="test"):
    with pytest.raises(DataError) as caught:
        load_split(shop, split)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    fails_in_one_line(tmp_path, str(tmp_path), "corpus")


def test_a_file_in_place_of_a_folder(shop):
    fails_in_one_line(shop / "test" / "corpus.parquet", "is a file", "training.prepare")


def test_an_unknown_split_lists_those_there_are(shop):
    fails_in_one_line(shop, "validation", "'train', 'dev', 'test'", split="validation")


@pytest.mark.parametrize(
    "table, column",
    [("corpus", "_id"), ("queries", "text"), ("queries", "_id"), ("qrels", "corpus-id"), ("qrels", "score")],
)
def test_a_missing_column(shop, table, column):
    rewrite(shop, table, lambda rows: rows.rename_column(column, "other"))
    fails_in_one_line(shop, f"test/{table}.parquet", f"column {column} is missing", "other")


def test_a_catalogue_without_text_and_pictures(shop):
    rewrite(shop, "corpus", lambda rows: rows.select_columns(["_id", "price"]))
    fails_in_one_line(shop, "test/corpus.parquet", "title, description, image")


def test_an_empty_catalogue(shop):
    rewrite(shop, "corpus", lambda rows: rows.select([]))
    fails_in_one_line(shop, str(shop), "corpus", "the table is empty")
    corpus, queries, qrels = shop_rows()
    write_shop(shop, [{**product, "_id": ""} for product in corpus], queries, qrels)
    fails_in_one_line(shop, "test/corpus.parquet", "the catalogue is empty")


def test_a_damaged_file(shop):
    file = shop / "test" / "corpus.parquet"
    file.write_bytes(file.read_bytes()[:2000])
    fails_in_one_line(shop, str(shop), "corpus")


def test_a_score_that_is_no_number(shop):
    rewrite(shop, "qrels", lambda rows: rows.cast_column("score", datasets.Value("string")))
    assert load_split(shop, "test").qrels["q-mug-red"] == {"mug-red": 2}
    rewrite(
        shop, "qrels", lambda rows: rows.map(lambda row, n: {"score": "high" if n == 3 else "1"}, with_indices=True)
    )
    fails_in_one_line(shop, "test/qrels.parquet row 3, field score", "'high'")


def test_rows_that_can_not_be_used_are_counted_and_named(tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus.insert(5, {**corpus[0], "title": "the same id again"})
    corpus.append({**corpus[0], "_id": None})
    queries.append({**queries[0], "_id": "q-empty", "text": "  "})
    queries.append({**queries[0]})
    queries.append({**queries[0], "_id": "q-unjudged", "text": "silver spoon"})
    qrels.append({"query-id": "q-mug-red", "corpus-id": "spoon", "score": 1})
    qrels.append({"query-id": "q-nobody", "corpus-id": "mug-red", "score": 1})
    qrels.append({"query-id": "q-mug-red", "corpus-id": "lamp-red", "score": 0})
    qrels.append({"query-id": "q-mug-red", "corpus-id": "mug-red", "score": 1})
    split = load_split(write_shop(tmp_path, corpus, queries, qrels), "test")
    assert len(split.product_ids) == 12 and len(split.queries) == 12
    assert split.corpus[0]["title"] == "plain mug"
    assert split.qrels["q-mug-red"] == {"mug-red": 2, "lamp-red": 0}
    assert sum(split.problems.counts.values()) == 8 and set(split.problems.counts.values()) == {1}
    lines = "\n".join(split.problems.lines())
    for place in (
        "test/corpus.parquet row 5, field _id: mug-red",
        "test/corpus.parquet row 13, field _id",
        "test/queries.parquet row 12, field text",
        "test/queries.parquet row 13, field _id: q-mug-red",
        "test/qrels.parquet row 12, field corpus-id: spoon",
        "test/qrels.parquet row 13, field query-id: q-nobody",
        "test/qrels.parquet row 15, fields query-id and corpus-id: q-mug-red, mug-red",
        "q-unjudged",
    ):
        assert place in lines
    assert split.where(5, "image").endswith("test/corpus.parquet row 6, field image"), "rows count as in the file"


def test_no_query_with_a_relevant_product(shop):
    rewrite(shop, "qrels", lambda rows: rows.map(lambda row: {"score": 0}))
    fails_in_one_line(shop, "test/qrels.parquet", "no query has a relevant product")


def test_products_alone_need_no_queries(shop):
    for name in ("queries", "qrels"):
        (shop / "test" / f"{name}.parquet").unlink()
    card = (shop / "README.md").read_text().split("- config_name: queries")[0] + "---\n"
    (shop / "README.md").write_text(card)
    assert len(load_products(shop, "test").product_ids) == 12


def picture_shop(folder, text=None):
    """The tiny shop with pictures of three colours as queries; the first has none and to the second nothing is
    relevant."""
    corpus, queries, qrels = shop_rows()
    queries = [{**query, "text": text, "image": corpus[row]["image"]} for row, query in enumerate(queries)]
    queries[0]["image"] = None
    qrels[1]["score"] = 0
    write_split(folder, "test", corpus, queries, qrels, query_features=PICTURE_QUERY_FEATURES)
    write_card(folder, "Pictures", "other", ["test"], "For tests.")
    return folder


def test_queries_that_are_pictures_stay_beside_their_judgments(tmp_path):
    split = load_split(picture_shop(tmp_path / "shop"), "test", picture_queries=True)
    expected = [row["image"]["bytes"] for row in shop_rows()[0]][2:]
    assert [row["image"]["bytes"] for row in split.query_pictures.corpus] == expected
    assert split.query_pictures.product_ids == [query["_id"] for query in split.queries] and len(split.queries) == 10
    assert split.query_pictures.where(0, "image").endswith("queries.parquet row 2, field image")
    first = split.problems.first["query without a picture (left out)"]
    assert first.endswith("queries.parquet row 0, field image") and "image" not in split.queries[0]


def test_queries_with_texts_are_texts_whatever_pictures_they_have(tmp_path):
    shop = picture_shop(tmp_path / "shop", "red mug")
    for picture_queries in (False, True):
        split = load_split(shop, "test", picture_queries)
        assert split.query_pictures is None and split.query_texts == ["red mug"] * 11


def listed_shop(folder, kind=datasets.List, pictures=None):
    """The tiny shop whose products have lists of pictures; `pictures` gives a product's, by its row."""
    shop = write_shop(folder)
    corpus = shop_rows()[0]
    for row, product in enumerate(corpus):
        product["image"] = pictures(row) if pictures else [product["image"]]
    features = datasets.Features({**CORPUS_FEATURES, "image": kind(datasets.Image())})
    pq.write_table(pa.Table.from_pylist(corpus, schema=features.arrow_schema), shop / "test" / "corpus.parquet")
    return shop


def shaded(row, size=(6, 6)):
    return {"bytes": picture((row, 0, 0), size), "path": None}


@pytest.mark.parametrize("kind", [datasets.List, datasets.LargeList])
def test_lists_of_pictures_are_told_apart_by_what_they_show(tmp_path, kind):
    split = load_split(listed_shop(tmp_path / "shop", kind), "test")
    assert split.picture_digests == load_split(write_shop(tmp_path / "single"), "test").picture_digests
    assert split.corpus[0]["image"][0]["bytes"].startswith(b"\x89PNG"), "not decoded"
    several = listed_shop(tmp_path / "shop", kind, lambda row: [shaded(row), shaded(100), shaded(row + 1)][: row % 4])
    digests = load_split(several, "test").picture_digests
    assert digests == load_split(several, "test").picture_digests, "the same when they are read again"
    assert [row for row, found in enumerate(digests) if not found] == [0, 4, 8]
    assert len(set(digests)) == 10, "another picture or another number of them is another digest"
    swapped = listed_shop(tmp_path / "shop", kind, lambda row: [shaded(100), shaded(row)])
    assert not set(load_split(swapped, "test").picture_digests) & set(digests)


def test_a_picture_is_known_by_its_content_however_it_is_held(tmp_path):
    file = tmp_path / "mug.png"
    file.write_bytes(picture("red"))
    forms = [picture("red"), str(file), file, {"bytes": picture("red"), "path": None}, {"path": str(file)}]
    assert {picture_content(form) for form in forms} == {picture("red")}
    file.write_bytes(picture("blue"))
    assert picture_content(str(file)) == picture("blue"), "a path is no content"
    one, other = (Image.new("RGB", (4, 9), colour) for colour in ("red", "blue"))
    assert picture_content(one) == picture_content(one.copy()) != picture_content(other)
    assert picture_content(one) != picture_content(Image.new("RGB", (9, 4), "red")), "the same pixels, another shape"
    assert picture_content(str(tmp_path / "none.png")) is picture_content(object()) is None


def test_pictures_that_are_not_there_are_no_copies_of_each_other(tmp_path):
    corpus, queries, qrels = shop_rows()
    for product in corpus[:4]:
        product["image"] = {"bytes": None, "path": str(tmp_path / "none.png")}
    digests = load_split(write_shop(tmp_path / "shop", corpus, queries, qrels), "test").picture_digests
    assert all(digests) and len(set(digests[:4])) == 4


def test_csv_catalogues_whose_quotes_would_swallow_rows_are_refused_by_name(tmp_path):
    lines = ["---", "configs:"]
    texts = {
        "corpus": '_id,title\na,"red, plain mug"\nb,blue mug\n',
        "queries": "_id,text\nq,red mug\n",
        "qrels": "query-id,corpus-id,score\nq,a,1\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
        lines += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {name}.csv"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    assert load_split(tmp_path, "test").corpus["title"][:] == ["red, plain mug", "blue mug"]
    (tmp_path / "corpus.csv").write_text('_id,title\na,red mug\nb,"5 inch pipe\nc,blue mug\n')
    fails_in_one_line(tmp_path, "corpus.csv row 3", "quote that doesn't follow the rule", "training.prepare")


def test_a_split_with_nothing_to_measure_says_so_by_its_kind(shop):
    corpus, queries, qrels = shop_rows()
    for rows in (([], queries, qrels), (corpus, [], qrels), (corpus, queries, [])):
        write_split(shop, "test", *rows)
        with pytest.raises(NothingToMeasure):
            load_split(shop, "test")
    with pytest.raises(NothingToMeasure, match="Unknown split"):
        load_split(shop, "validation")
    (shop / "test" / "corpus.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        load_split(shop, "test")
    assert not isinstance(caught.value, NothingToMeasure)
