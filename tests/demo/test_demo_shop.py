"""The generated shop: the same seed gives the same shop, nothing leaks between splits, judgments are right."""

import hashlib
import io
import json
import random
from collections import defaultdict

import datasets
import pytest
from PIL import Image

from modeling_mmfusion.errors import DataError
from training.demo import drawings
from training.demo import shop as demo_shop

PRODUCTS, QUERIES = 60, 40
SPLITS = ("train", "dev", "test")
COLUMNS = {
    "corpus": {"_id", "title", "description", "category", "brand", "price", "image"},
    "queries": {"_id", "text", "slice", "novel", "attributes", "frequency"},
    "qrels": {"query-id", "corpus-id", "score"},
}


def read(folder, cache):
    """`tables[config][split]` as `datasets` reads them, pictures not decoded."""
    tables = {name: datasets.load_dataset(str(folder), name, cache_dir=str(cache)) for name in COLUMNS}
    tables["corpus"] = tables["corpus"].cast_column("image", datasets.Image(decode=False))
    return tables


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small shop with its pictures: its folder, the report and the tables."""
    folder = tmp_path_factory.mktemp("small")
    report = demo_shop.generate(folder, PRODUCTS, QUERIES, progress=False)
    return folder, report, read(folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The tables of a shop of the default size, without pictures, which take a minute."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_shop, "draw_product", lambda product, seed: b"")
        demo_shop.generate(folder, progress=False)
    return read(folder, tmp_path_factory.mktemp("cache"))


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_shop_also_from_the_command_line(tmp_path, capsys):
    demo_shop.generate(tmp_path / "one", 40, 20, seed=3, progress=False)
    demo_shop.main(demo_shop.DemoShopArguments(str(tmp_path / "two"), products=40, queries=20, seed=3))
    assert f"wrote {tmp_path / 'two'}" in capsys.readouterr().out
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert len(one) == 11  # three tables a split, the card and the mark
    assert one == two


def test_another_seed_another_shop():
    one, other = demo_shop.make_products(60, 0), demo_shop.make_products(60, 1)
    assert not {product.title for product in one} & {product.title for product in other}
    assert demo_shop.draw_product(one[0], 0) != demo_shop.draw_product(one[0], 1)
    queries = [{query["text"] for query in demo_shop.make_queries(one, "train", 20, seed)} for seed in (0, 0, 1)]
    assert queries[0] == queries[1] != queries[2]


def test_counts_columns_and_pictures(small):
    folder, report, tables = small
    for name, columns in COLUMNS.items():
        assert set(tables[name]) == set(SPLITS)
        assert all(set(tables[name][split].column_names) == columns for split in SPLITS)
    sizes = [tables["corpus"][split].num_rows for split in SPLITS]
    assert sum(sizes) == PRODUCTS
    assert [report[split]["products"] for split in SPLITS] == sizes
    assert [abs(size / PRODUCTS - share) < 0.04 for size, share in zip(sizes, (0.6, 0.1, 0.3), strict=True)] == [
        True
    ] * 3
    assert sum(tables["queries"][split].num_rows for split in SPLITS) == QUERIES
    assert (folder / "README.md").read_text().startswith("---\n")
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    first = next(row["image"] for row in tables["corpus"]["test"] if row["image"])
    picture = Image.open(io.BytesIO(first["bytes"]))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (224, 224))


def test_nothing_is_in_two_splits(small):
    _, _, tables = small
    for what in ("_id", "title", "picture"):
        places = defaultdict(set)
        for split in SPLITS:
            for row in tables["corpus"][split]:
                value = row["image"] and row["image"]["bytes"] if what == "picture" else row[what]
                if value:
                    places[value].add(split)
        assert len(places) > 20
        assert all(len(splits) == 1 for splits in places.values())
    ids = [row["_id"] for split in SPLITS for row in tables["queries"][split]]
    assert len(set(ids)) == len(ids)


def test_a_model_shares_its_title_and_its_split_and_differs_in_colour():
    models = defaultdict(list)
    for product in demo_shop.make_products(600):
        models[product.model].append(product)
    groups = [group for group in models.values() if len(group) > 1]
    assert len(groups) > 50
    for group in groups:
        assert len({(product.title, product.split, product.pattern, product.material) for product in group}) == 1
        assert len({product.colour for product in group}) == len(group)
        assert not any(product.colour in group[0].title.lower().split() for product in group)
    assert len({group[0].title for group in models.values()}) == len(models)


@pytest.mark.parametrize("size", ("small", "large"))
def test_every_query_has_an_exact_answer_in_its_split(size, request):
    tables = request.getfixturevalue(size)
    tables = tables[-1] if size == "small" else tables
    for split in SPLITS:
        corpus = set(tables["corpus"][split]["_id"])
        best = defaultdict(int)
        for row in tables["qrels"][split]:
            assert row["corpus-id"] in corpus
            assert row["score"] in (1, 2)
            best[row["query-id"]] = max(best[row["query-id"]], row["score"])
        assert set(best) == set(tables["queries"][split]["_id"])
        assert set(best.values()) == {2}


def test_slices_ask_for_what_their_names_say(large):
    told, shown = {"brand", "material", "feature"}, {"colour", "pattern"}
    for split in SPLITS:
        rows = list(large["queries"][split])
        assert {row["slice"] for row in rows} == {"text", "image", "both"}
        assert len({row["text"] for row in rows}) == len(rows)
        for row in rows:
            asked = set(json.loads(row["attributes"])) - {"type"}
            seen = "both" if asked & told and asked & shown else "text" if asked & told else "image"
            assert row["slice"] == seen, row
            assert row["text"] == row["text"].lower() and "{" not in row["text"] and "  " not in row["text"]


def test_novel_queries_are_those_that_train_does_not_ask(large):
    train = set(large["queries"]["train"]["attributes"])
    assert not any(large["queries"]["train"]["novel"])
    held_out = [row for split in ("dev", "test") for row in large["queries"][split]]
    assert {row["novel"] for row in held_out} == {True, False}
    assert all(row["novel"] == (row["attributes"] not in train) for row in held_out)


def test_judgments_agree_with_the_hidden_attributes(large):
    shelf = {product.id: product for product in demo_shop.make_products(2400) if product.split == "test"}
    neighbours = {frozenset(pair) for pair in demo_shop.NEIGHBOURS}
    judged = {(row["query-id"], row["corpus-id"]): row["score"] for row in large["qrels"]["test"]}
    assert set(shelf) == set(large["corpus"]["test"]["_id"])
    assert set(judged.values()) == {1, 2}
    for query in large["queries"]["test"]:
        asked = json.loads(query["attributes"])
        for product in shelf.values():
            has = {
                **vars(product),
                "feature": asked.get("feature") if asked.get("feature") in product.features else None,
            }
            wrong = {name for name, value in asked.items() if has[name] != value}
            score = 0
            if not wrong:
                score = 2
            elif wrong == {"colour"} and frozenset((asked["colour"], product.colour)) in neighbours:
                score = 1
            assert judged.get((query["_id"], product.id), 0) == score, (query["text"], product)


def test_grade_of_one_product():
    product = demo_shop.Product(
        "mug", "navy", "striped", "ceramic", "Oakmere", ("handmade", "350 ml"), "a mug", "9.00"
    )
    for asked, grade in (
        ({"type": "mug", "feature": "350 ml"}, 2),
        ({"type": "mug", "colour": "navy", "pattern": "striped"}, 2),
        ({"type": "mug", "colour": "blue", "pattern": "striped"}, 1),
        ({"type": "mug", "colour": "blue", "pattern": "dotted"}, 0),
        ({"type": "mug", "colour": "red"}, 0),
        ({"type": "mug", "feature": "microwave safe"}, 0),
        ({"type": "bowl", "colour": "navy"}, 0),
    ):
        assert demo_shop.grade(asked, product) == grade, asked


def test_phrases_read_well():
    rng = random.Random(0)
    asked = {"type": "socks", "colour": "red", "feature": "for running", "brand": "Oakmere"}
    texts = {demo_shop.phrase(asked, rng) for _ in range(200)}
    assert len(texts) > 5
    assert "oakmere red running socks" in texts
    for text in texts:
        assert "oakmere" in text and "red" in text, text
        assert "running socks" in text or "socks for running" in text, text
    asked = {"type": "umbrella", "feature": "automatic"}
    texts = {demo_shop.phrase(asked, rng) for _ in range(300)}
    assert any(" an automatic " in text for text in texts) and not any(" a automatic " in text for text in texts)


def test_texts_are_incomplete_on_purpose():
    products = demo_shop.make_products(2400)
    texts = [f"{product.title} {product.description}".lower() for product in products]
    told = sum(product.colour in text for product, text in zip(products, texts, strict=True)) / len(products)
    assert 0.1 < told < 0.3  # the plain word alone; other wordings make it about a quarter
    assert 0.015 < sum(not product.pictured for product in products) / len(products) < 0.045
    assert 0.015 < sum(not product.description for product in products) / len(products) < 0.045
    assert all(product.pictured or product.description for product in products)
    lengths = [len(product.description.split()) for product in products if product.description]
    assert 10 <= min(lengths) and max(lengths) <= 32
    assert all(product.brand in product.title for product in products)


def test_the_tables_fit_together():
    types = demo_shop.TYPES
    assert len(types) >= 24 and set(types) == set(drawings.DRAWINGS)
    assert len({about.department for about in types.values()}) >= 4
    names = [name for about in types.values() for name in (*about.names, about.listed) if name]
    assert len(set(names)) == len(names)
    assert set(demo_shop.COLOUR_WORDS) == set(drawings.COLOURS)
    assert set(demo_shop.PATTERN_WORDS) == set(drawings.PATTERNS)
    assert len(demo_shop.BRANDS) >= 12
    for about in types.values():
        assert set(about.materials) <= set(demo_shop.MATERIAL_WORDS)
        assert {name for group in about.features for name in group} <= set(demo_shop.FEATURES)
        assert len(about.features) >= 2 and about.price[0] < about.price[1]
    for feature in demo_shop.FEATURES.values():
        assert all(ask.startswith("{} ") != ask.endswith(" {}") for ask in feature.ask)


@pytest.mark.parametrize("kind", drawings.DRAWINGS)
def test_pictures_show_the_colour(kind):
    for colour in ("green", "navy"):
        picture = drawings.draw(kind, colour, "plain", random.Random(1), random.Random(2))
        wanted = drawings.COLOURS[colour][0]
        near = sum(
            count
            for count, pixel in picture.getcolors(224 * 224)
            if max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) < 40
        )
        assert near > 0.08 * 224 * 224, (kind, colour)


@pytest.mark.parametrize("pattern", drawings.PATTERNS)
def test_a_pattern_leaves_the_colour_in_the_majority(pattern):
    main, second = (200, 30, 30), (250, 250, 250)
    for seed in range(4):
        cloth = drawings.texture(pattern, main, second, random.Random(seed))
        counts = {colour: count for count, colour in cloth.getcolors(1 << 20)}
        assert (
            counts[main] > 2 * counts.get(second, 0) if pattern == "checked" else counts[main] > 0.55 * cloth.width**2
        )
        assert (len(counts) == 1) == (pattern == "plain")


def test_too_small_a_shop_says_so(tmp_path):
    with pytest.raises(DataError, match="at least 40 products"):
        demo_shop.generate(tmp_path, products=5)
