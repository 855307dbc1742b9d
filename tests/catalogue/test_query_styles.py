"""Queries in further styles: what each is made of, and by what it is judged."""

import csv
import json
from dataclasses import replace
from random import Random

import pytest
from helpers import write_shop

from modeling_mmfusion.errors import DataError
from training import styles
from training.catalogue.layout import load_split
from training.catalogue.product_facts import product_facts
from training.catalogue.query_styles import change_number, styled_queries
from training.catalogue.translations import FILE, LANGUAGES, translate
from training.catalogue.units import respell
from training.catalogue.word_forms import other_number
from training.styles import StylesArguments

PRODUCTS = (  # title, kind, colour
    ("Oslo mug 350 ml", "mug", "red"),
    ("Oslo mug 350 ml", "mug", "red"),
    ("Bergen big mug", "mug", "blue"),
    ("Bergen tall mug", "mug", "dark blue"),
    ("Lofoten", "mug", "green"),
    ("Tromso", "mug", "navy"),
    ("Narvik cotton dress", "dress", "red"),
    ("Bodo cotton dress", "dress", "green"),
)


@pytest.fixture
def split(tmp_path):
    """A shop whose corpus tells neither kinds nor colours, but whose judgments do; navy is nearly blue."""
    corpus = [
        {"_id": f"p{row}", "title": title, "brand": "Fjord", "image": None} for row, (title, *_) in enumerate(PRODUCTS)
    ]
    queries, qrels = [], []
    for kind, colour in dict.fromkeys(row[1:] for row in PRODUCTS):
        asked, name = {"type": kind, "color": colour}, f"q{len(queries)}"
        queries.append({"_id": name, "text": f"{colour} {kind}", "slice": "image", "attributes": json.dumps(asked)})
        for row, (_, *told) in enumerate(PRODUCTS):
            score = 2 if told == [kind, colour] else int((colour, told) == ("blue", ["mug", "navy"]))
            qrels += [{"query-id": name, "corpus-id": f"p{row}", "score": score}] if score else []
    return load_split(write_shop(tmp_path / "shop", corpus, queries, qrels, splits=("test",)), "test")


def made(split, style, count=50):
    return [query for query in styled_queries(split, count, 0) if query.style == style]


def test_judgments_tell_kinds_and_values_and_titles_the_rest(split):
    split.qrels["q0"].pop("p1")
    facts = product_facts(split)
    assert facts.kinds == ["mug"] * 6 + ["dress"] * 2
    assert [values.get("colour", set()) for values in facts.values][:4] == [{"red"}, set(), {"blue"}, {"dark blue"}]
    assert facts.near[5]["colour"] == {"blue"}
    assert all(values["brand"] == {"fjord"} for values in facts.values)
    split.queries[0]["attributes"] = json.dumps({"type": "mug", "brand": "Oslo"})
    brands = [values.get("brand") for values in product_facts(split).values]
    assert brands == [{"oslo"}, *[None] * 7], "the column tells something else than what queries call a brand"


def test_a_negation_wants_other_known_values_and_not_near_ones(split):
    found = made(split, "negation")
    colours = {colour: next((q for q in found if q.text.endswith(f" {colour}")), None) for colour in ("red", "green")}
    assert colours["red"].judgments == {"p2": 1, "p3": 1, "p4": 1, "p5": 1, "p0": 0, "p1": 0}
    assert colours["green"] is None, "one green mug is too few"
    positive = {query.id: query for query in made(split, "negation, positive part")}
    assert positive[colours["red"].source].text == "mug"
    assert positive[colours["red"].source].judgments == colours["red"].judgments
    split.qrels["q1"]["p6"] = 2  # one more that is blue: dark blue and navy are doubtful
    split.qrels["q0"].pop("p6", None)
    split.queries[-2]["attributes"] = split.queries[1]["attributes"]
    (blue,) = (query for query in made(split, "negation") if query.text.endswith(" blue") and "dark" not in query.text)
    assert not {"p3", "p5"} & blue.judgments.keys() and blue.judgments["p0"] == 1 and blue.judgments["p2"] == 0


def test_heads_are_judged_by_kind(split):
    assert {query.text: set(query.judgments) for query in made(split, "head")} == {
        "mug": {f"p{row}" for row in range(6)},
        "dress": {"p6", "p7"},
    }


def test_a_title_fits_its_product_and_copies_alone(split):
    found = made(split, "title")
    assert found and not {"lofoten", "cotton dress", "dress cotton"} & {query.text for query in found}
    for query in found:
        words = set(query.text.split())
        fitting = {f"p{row}" for row, (title, *_) in enumerate(PRODUCTS) if words <= set(title.lower().split())}
        assert fitting == query.judgments.keys() and len(words) >= 2
    assert any(query.judgments == {"p0": 1, "p1": 1} for query in found)


def test_units_of_titles_come_with_their_listed_spelling(split):
    (listed,), (other,) = made(split, "units, as listed"), made(split, "units")
    assert (listed.text, other.text) == ("oslo mug 350 ml", "oslo mug 350ml")
    assert other.source == listed.id and other.judgments == listed.judgments == {"p0": 1, "p1": 1}
    split.queries[0]["text"] = "red 500 ml mug"
    (query,) = made(split, "units")
    assert query.source == "q0" and query.judgments == split.qrels["q0"] and not made(split, "units, as listed")


@pytest.mark.parametrize("style", ["typo 1", "typo 2", "joined", "split", "plural", *LANGUAGES])
def test_others_are_judged_like_their_sources(split, style):
    texts = {query["_id"]: query["text"] for query in split.queries}
    found = made(split, style)
    assert found and all(query.judgments == split.qrels[query.source] for query in found)
    assert all(query.text != texts[query.source] for query in found)
    few = made(split, style, count=2)
    assert few == found[:2]


def test_both_kinds_of_typos_are_in_the_same_words(split):
    one, two = ({query.source: query.text.split() for query in made(split, f"typo {edits}")} for edits in (1, 2))
    sources = {query["_id"]: query["text"].split() for query in split.queries}
    for name in one:
        changed = [[new != old for new, old in zip(words[name], sources[name], strict=True)] for words in (one, two)]
        assert changed[0] == changed[1]


def test_the_written_catalogue_keeps_what_it_was_made_of(split, tmp_path, capsys):
    arguments = StylesArguments(str(split.name.removesuffix("[test]")), "test", str(tmp_path / "styled"), queries=3)
    told = styles.main(arguments)
    found = load_split(tmp_path / "styled", "test")
    assert not found.problems.lines() and found.product_ids == split.product_ids
    own = [query for query in found.queries if query["style"] == "as asked"]
    assert [{name: query[name] for name in split.queries[0]} for query in own] == split.queries
    assert all(found.qrels[query["_id"]] == split.qrels[query["_id"]] for query in own)
    ids = {query["_id"]: query for query in found.queries}
    sources = [query for query in found.queries if query["source"]]
    assert len(sources) > 20 and all(query["source"] in ids for query in sources)
    assert all(query["slice"] is None for query in found.queries[len(own) :])
    assert told["queries"]["typo 1"] == 3 and told["left_out"] == []
    first = (tmp_path / "styled/test/queries.parquet").read_bytes()
    file = tmp_path / "styled/test/queries.parquet"
    made = file.stat().st_mtime_ns
    assert styles.main(arguments) == told and file.stat().st_mtime_ns == made, "kept, for nothing has changed"
    assert styles.main(replace(arguments, queries=2))["queries"]["typo 1"] == 2
    styles.main(arguments)
    assert file.stat().st_mtime_ns != made and file.read_bytes() == first
    file.unlink()
    styles.main(arguments)
    assert file.read_bytes() == first, "made anew, for it was not whole"
    with pytest.raises(DataError, match="has a column source already"):
        styles.main(StylesArguments(str(tmp_path / "styled"), output=str(tmp_path / "again")))


def test_nouns_change_their_number():
    pairs = ("dress dresses", "mug mugs", "watch watches", "vase vases", "knife knives", "baby babies", "tie ties")
    pairs += ("woman women", "hoodie hoodies", "lens lenses", "shoe shoes", "shelf shelves", "t-shirt t-shirts")
    for one, many in map(str.split, pairs):
        assert (other_number(one), other_number(many)) == (many, one)
    assert {other_number(word) for word in ("trousers", "jeans")} == {"trousers", "jeans"}
    assert change_number("Red T-shirts for women", {"tshirt"}) == "Red t-shirt for women"
    assert change_number("red thing", {"mug"}) == "red thing"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("rug 60x80 cm", {"rug 60 x 80 cm"}),
        ("60 x 80", {"60x80"}),
        ("mug 500 ml", {"mug 500ml", "mug 0.5 l"}),
        ("bag 1,5L", {"bag 1,5 l", "bag 1,5 litre", "bag 1500 ml"}),
        ('napkins 10"', {"napkins 10 inch", "napkins 10inch", "napkins 10 inches"}),
        ("2 in 1 wallet A-15 l 3 men", {"2 in 1 wallet A-15 l 3 men"}),
    ],
)
def test_units_have_other_spellings_of_the_same_size(text, spelled):
    assert {respell(text, Random(seed)) for seed in range(40)} == spelled


@pytest.mark.parametrize(
    ("query", "translations"),
    [
        ("black cotton dress for women", "kleid schwarz baumwolle damen|robe noire en coton femme"),
        ("women's striped red T-shirts", "t-shirt gestreift rot damen|t-shirt rayé rouge femme"),
        ("white sunglasses", "sonnenbrille weiß|lunettes de soleil blanches"),
        (
            "spotted purple lamp with zip",
            "lampe gepunktet lila mit reißverschluss|lampe violette à pois à fermeture éclair",
        ),
        ("stockings", None),
        ("Nike red shoes", None),
        ("red", None),
        ("shirt dress", None),
    ],
)
def test_queries_are_translated_if_all_words_are_known(query, translations):
    expected = translations.split("|") if translations else [None, None]
    assert [translate(query, language) for language in LANGUAGES[:2]] == expected


def test_the_table_of_words_is_whole():
    with FILE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    english = [word for row in rows for word in row["english"].split("|")]
    assert len(set(english)) == len(english) > 250
    for row in rows:
        assert None not in row and all(row.values()), row
        words = [row["french"], row["spanish"]]
        is_kind = row["part"] == "kind"
        assert row["part"] in ("kind", "looks", "material", "person")
        assert all(word.endswith(("(m)", "(f)", "(fp)")) == is_kind for word in words), row
