"""Which products count as near duplicates of another split's, and what is measured without them."""

import json

import numpy as np
import pytest
from helpers import shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import audit, evaluate
from training.audit import AuditArguments
from training.catalogue.layout import NothingToMeasure, load_split
from training.catalogue.writing import write_card, write_split
from training.evaluation import near_duplicates
from training.evaluation.near_duplicates import find_near_duplicates, without_products
from training.evaluation.options import EvaluateArguments


def rows(*angles) -> np.ndarray:
    """Unit vectors at some angles in degrees, 0 for `None`."""
    radians = np.radians([0 if angle is None else angle for angle in angles])
    there = np.array([angle is not None for angle in angles])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1) * there[:, None]


@pytest.mark.parametrize("at_a_time", [1, 2, 256])
def test_both_texts_and_pictures_have_to_be_alike_and_one_decides_where_the_other_is_missing(at_a_time, monkeypatch):
    monkeypatch.setattr(near_duplicates, "ROWS", at_a_time)
    ours = rows(0, 0, 0, 0, None, None), rows(0, 0, 90, None, 0, None)
    theirs = rows(5, 3, 60, 180, None), rows(4, 2, 0, 90, None)
    found = find_near_duplicates(ours, theirs, threshold=0.97)  # up to 14 degrees
    assert found.nearest.keys() == {0, 1, 3, 4}, "the third one's picture is another, the last one has nothing"
    assert [found.nearest[row][0] for row in (0, 1, 3, 4)] == [1, 1, 1, 2]
    assert found.nearest[0][1:] == pytest.approx(np.cos(np.radians([3, 2])), abs=1e-4)
    assert (found.pairs, found.by_text_alone, found.by_picture_alone) == (2 + 2 + 2 + 3, 2, 3)
    assert not find_near_duplicates(ours, theirs, threshold=0.9999).pairs == found.pairs


@pytest.fixture
def shop_with_copies(tmp_path):
    """The test split has of each kind a red product that train has too, under another id, and others of its own."""
    corpus, queries, qrels = shop_rows()
    names = "plain mug,small red shirt,the big lamp,soft blue cotton bowl of clay".split(",")
    test = [product | {"title": names[number // 3]} for number, product in enumerate(corpus)]
    train = [product | {"_id": f"old-{product['_id']}"} for product in test if product["_id"].endswith("-red")]
    for split, products in (("train", train), ("test", test)):
        found = queries if split == "test" else queries[:1]
        judged = (
            qrels if split == "test" else [{"query-id": queries[0]["_id"], "corpus-id": "old-mug-red", "score": 1}]
        )
        write_split(tmp_path / "copies", split, products, found, judged)
    write_card(tmp_path / "copies", "Copies", "apache-2.0", ["train", "test"], "For tests.")
    return str(tmp_path / "copies")


def test_copies_are_found_reported_and_left_out_of_what_is_measured(saved, shop_with_copies, tmp_path, capsys):
    file, reds = str(tmp_path / "audit.json"), {f"{kind}-red" for kind in ("mug", "shirt", "lamp", "bowl")}
    report = audit.main(AuditArguments(shop_with_copies, model=str(saved), threshold=0.9999, report=file))
    assert {pair["product"]: pair["of"] for pair in report["near_duplicates"]} == {
        name: f"old-{name}" for name in reds
    }
    assert (report["products_with_near_duplicates"], report["queries_with_near_duplicates"]) == (4, 4)
    assert (
        report["compared"][0]["pairs"] == 4
        and json.loads((tmp_path / "audit.json").read_text()).items() >= report.items()
    )
    assert "mug-red 'plain mug' is like old-mug-red 'plain mug' of" in capsys.readouterr().out
    options = {"metrics": ["ndcg@10"], "report": str(tmp_path / "report.json")}
    found = evaluate.main(EvaluateArguments("bm25", shop_with_copies, exclude=file, **options))
    assert (found["n_products"], found["n_queries"], found["excluded"]) == (8, 8, 4)
    assert "8 queries, 8 products; without 4 near duplicates" in capsys.readouterr().out
    whole = evaluate.main(EvaluateArguments("bm25", shop_with_copies, **options))
    assert (whole["n_products"], whole["n_queries"], whole["excluded"]) == (12, 12, 0)


def test_queries_keep_their_other_products_and_go_with_the_last_one(tmp_path):
    corpus, queries, qrels = shop_rows()
    qrels.append({"query-id": "q-mug-red", "corpus-id": "mug-blue", "score": 1})
    qrels.append({"query-id": "q-bowl-red", "corpus-id": "mug-blue", "score": 0})
    split = load_split(write_shop(tmp_path / "shop", corpus, queries, qrels), "test")
    split.problems.add("something", "row 1")
    found = without_products(split, {"mug-red", "bowl-red"})
    assert found.qrels["q-mug-red"] == {"mug-blue": 1} and "q-bowl-red" not in {
        query["_id"] for query in found.queries
    }
    assert len(found.product_ids) == 10 and len(found.queries) == 11 and found.problems.counts == {"something": 1}
    assert without_products(split, set()) is split
    with pytest.raises(DataError, match=r"shop\[test\]: has no product 'mug-pink', which is to be left out"):
        without_products(split, {"mug-pink"})
    with pytest.raises(NothingToMeasure, match="no query has a relevant product that is no near duplicate"):
        without_products(split, set(split.product_ids))


def test_without_a_picture_or_a_title_the_other_one_decides_and_it_is_said(saved, tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus[0]["image"], corpus[11]["title"] = None, ""
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels, splits=("train", "test"))
    (row,) = audit.main(AuditArguments(str(shop), model=str(saved), threshold=0.9999))["compared"]
    assert row["by text alone"] == 5, "the red mug with all three mugs, and these with it"
    assert row["by picture alone"] == 7, "the blue bowl with all four blue products, and these with it"
    assert (row["pairs"], row["near duplicates"]) == (10 + 5 + 7, 12), "beside these ten others with their copies"


def test_what_cannot_be_audited_or_left_out_is_told_in_one_line(shop, tmp_path):
    write_split(tmp_path / "alone", "test", *shop_rows())
    write_card(tmp_path / "alone", "One split", "apache-2.0", ["test"], "For tests.")
    with pytest.raises(DataError, match="alone: no split but test; give catalogues by --against"):
        audit.main(AuditArguments(str(tmp_path / "alone")))
    (tmp_path / "other.json").write_text("[]")
    for file, message in (("nowhere.json", "no such file; give one that"), ("other.json", "is no report of training")):
        with pytest.raises(DataError, match=message):
            evaluate.main(EvaluateArguments("bm25", str(shop), exclude=str(tmp_path / file)))
