import numpy as np
import pyarrow.parquet as pq
import pytest

from modeling_mmfusion.errors import DataError
from training import mine
from training.catalogue.layout import load_split
from training.features.encoder import Encoder, embed_products, embed_queries
from training.learning.scores import read_scores
from training.mine import MineArguments


@pytest.fixture
def saved(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_hard_negatives_are_the_best_that_stay_below_the_relevant_one(saved, model, processor, shop, tmp_path):
    output = str(tmp_path / "negatives.parquet")
    report = mine.main(MineArguments(saved, str(shop), output, count=3, max_share=0.99))
    split = load_split(shop, "train")
    products = embed_products(model, Encoder(model, processor).product_states(split))
    queries, _ = embed_queries(model, Encoder(model, processor).query_states(split.query_texts))
    scores, rows = queries @ products.T, {name: number for number, name in enumerate(split.product_ids)}
    (found,) = read_scores([output], 1)
    assert report["with"] == len(found) > 3 and report["scores"] == sum(map(len, found.values()))
    for number, query in enumerate(split.queries):
        relevant = [rows[product] for product in split.qrels[query["_id"]]]
        allowed = scores[number] <= 0.99 * scores[number][relevant].min()
        allowed[relevant] = False
        best = sorted(np.flatnonzero(allowed), key=lambda row: -scores[number][row])[:3]
        assert [rows[product] for product in found.get(query["_id"], {})] == best
        for product, score in found.get(query["_id"], {}).items():
            assert score == pytest.approx(scores[number][rows[product]], abs=1e-5)


def test_a_teachers_scores_hold_the_relevant_products_too(saved, shop, tmp_path):
    output = str(tmp_path / "teacher.parquet")
    mine.main(MineArguments(saved, str(shop), output, depth=12, keep_relevant=True, scale=20.0))
    (found,) = read_scores([output], 1)
    assert all(len(scores) == 12 for scores in found.values()) and max(found["q-mug-red"].values()) > 1


def test_files_of_scores_are_refused_by_name(tmp_path):
    (tmp_path / "none.parquet").write_text("no parquet")
    pq.write_table(pq.read_table(write_wrong(tmp_path)), tmp_path / "wrong.parquet")
    for name in ("none", "wrong"):
        with pytest.raises(DataError, match=rf"{name}.parquet: no file of scores with the columns query-id"):
            read_scores([str(tmp_path / f"{name}.parquet")], 1)
    with pytest.raises(DataError, match="nowhere.parquet: no such file; give a file that training.mine wrote"):
        read_scores(["nowhere.parquet"], 1)
    with pytest.raises(DataError, match="1 files of scores for 2 catalogues"):
        read_scores(["nowhere.parquet"], 2)
    assert read_scores([], 2) == [None, None]


def write_wrong(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"query-id": ["a"]}), tmp_path / "columns.parquet")
    return tmp_path / "columns.parquet"
