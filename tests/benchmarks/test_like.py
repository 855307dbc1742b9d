"""Triples of "like this, but ...": how they are drawn and counted."""

import json

import numpy as np
import pytest
from helpers import picture, write_shop

from modeling_mmfusion.errors import DataError
from training.benchmarks.like import Triple, drawn, main, measured
from training.benchmarks.options import LikeBenchArguments
from training.catalogue.layout import load_split

ATTRIBUTES = ["colour", "pattern"]


def shop_of(folder, queries, qrels):
    """A shop of two mugs and a lamp in red and blue each, the second blue mug without a picture."""
    names = {"red mug": "red", "blue mug": "blue", "bare mug": None, "red lamp": "red", "blue lamp": "blue"}
    images = {name: colour and {"bytes": picture(colour), "path": None} for name, colour in names.items()}
    products = [{"_id": name, "title": name, "image": image} for name, image in images.items()]
    rows = [
        {"_id": f"q{number}", "text": text, "attributes": json.dumps(attributes)}
        for number, (text, attributes) in enumerate(queries)
    ]
    graded = [{"query-id": query, "corpus-id": product, "score": grade} for query, product, grade in qrels]
    return load_split(write_shop(folder, products, rows, graded), "test")


QUERIES = [
    ("red mug", {"type": "mug", "colour": "red"}),
    ("blue mug", {"type": "mug", "colour": "blue"}),
    ("red lamp", {"type": "lamp", "colour": "red"}),
    ("mug of clay", {"type": "mug", "material": "clay"}),
    ("red striped mug", {"type": "mug", "colour": "red", "pattern": "striped"}),
]
QRELS = [
    ("q0", "red mug", 2),
    ("q0", "blue mug", 1),
    ("q1", "blue mug", 2),
    ("q1", "bare mug", 2),
    ("q2", "red lamp", 2),
    ("q3", "red mug", 2),
    ("q4", "red mug", 2),
]


def test_triples_change_one_attribute_of_one_kind(tmp_path):
    split = shop_of(tmp_path, QUERIES, QRELS)
    triples = drawn(split, ATTRIBUTES, 50, 0)
    row = {name: number for number, name in enumerate(split.product_ids)}
    seen = {(triple.source, triple.query, frozenset(triple.right)) for triple in triples}
    to_blue = (row["red mug"], "blue mug", frozenset({row["blue mug"], row["bare mug"]}))
    assert seen == {(row["blue mug"], "red mug", frozenset({row["red mug"]})), to_blue}, "a source has a picture"
    assert {triple.words for triple in triples if triple.query == "red mug"} == {
        "red",
        "in red",
        "but red",
        "but in red",
    }
    assert drawn(split, ATTRIBUTES, 50, 0) == triples != drawn(split, ATTRIBUTES, 50, 1)
    with pytest.raises(DataError, match="no two queries ask for one type with different values of pattern"):
        drawn(split, ["pattern"], 5, 0)


def test_the_source_is_no_answer():
    vectors = np.eye(6)
    triples = [Triple(0, "", "", {0, 1}), Triple(1, "", "", {5}), Triple(2, "", "", {3})]
    queries = np.array([[1, 0.5, 0, 0, 0, 0], [0, 0, 0.4, 0.3, 0.2, 0.1], [0.5, 0, 1, 0.4, 0, 0]])
    assert measured(triples, queries, vectors) == [0, 3, 1]
    queries[1, 0] = 0.9
    assert measured(triples, queries, vectors)[1] == 4, "below the depth that is looked at"


def test_the_report_has_all_systems(saved, tmp_path):
    split = shop_of(tmp_path / "shop", QUERIES, QRELS)
    output = tmp_path / "like.json"
    arguments = LikeBenchArguments(
        str(saved), str(tmp_path / "shop"), triples=20, weights=[0.0, 1.0], output=str(output)
    )
    report = main(arguments)
    figures = json.loads(output.read_text())["figures"]
    assert list(figures) == ["query", "words", "mean 0.0", "mean 1.0", "composed 0.0", "composed 1.0"]
    assert figures["words"] == figures["mean 0.0"] == figures["composed 0.0"], "no share is the words alone"
    assert figures["mean 1.0"] == figures["composed 1.0"], "the whole share is the picture alone"
    assert report["products"] == len(split.product_ids) and report["queries"] == 2
