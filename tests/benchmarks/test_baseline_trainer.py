import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import shop_rows, write_shop

from training.benchmarks import baseline_trainer
from training.benchmarks.baseline_trainer import BaselineArguments
from training.catalogue.layout import load_split
from training.learning.sampling import Judgments, PairSampler
from training.learning.training_set import positives_of


@pytest.fixture
def arguments(towers, tmp_path) -> BaselineArguments:
    corpus, queries, qrels = shop_rows()
    corpus[4]["image"] = None
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels)
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "output": str(tmp_path / "baseline")}
    return BaselineArguments([str(shop)], text=str(towers["text"]), vision=str(towers["vision"]), **options)


def test_the_baseline_trains_on_our_pairs_once_and_is_measured_in_three_views(arguments, tmp_path, monkeypatch):
    split = load_split(arguments.data[0], "train")
    sampler = PairSampler(Judgments(positives_of(split)), 1, 4, seed=0)
    ours = [pair for number in (1, 2) for batch in sampler.epoch(number) for pair in batch]
    (texts,) = baseline_trainer.text_pairs(arguments, [split]).values()
    assert texts["anchor"] == [split.query_texts[query] for query, _ in ours] and len(texts) == 24
    (pictures,) = baseline_trainer.picture_pairs(arguments, [split]).values()
    assert pictures["positive"] == [split.picture_digests[product] for _, product in ours if product != 4]
    report = baseline_trainer.main(arguments)
    assert json.loads((tmp_path / "baseline" / "report.json").read_text())["catalogues"] == report["catalogues"]
    (found,) = report["catalogues"].values()
    assert len(list((tmp_path / "baseline").glob("*.safetensors"))) == 2
    monkeypatch.setattr(baseline_trainer, "SentenceTransformerTrainer", lambda **_: pytest.fail("was trained already"))
    assert baseline_trainer.main(arguments) == report
    means = {view: metrics["ndcg@10"]["mean"] for view, metrics in found["views"].items()}
    assert list(means) == ["text", "image", "averaged"] and len(set(means.values())) == 3
    values = pq.read_table(found["per_query"])
    assert values["averaged ndcg@10"].to_numpy().mean() == pytest.approx(means["averaged"])
    assert values["query-id"].to_pylist() == [query["_id"] for query in split.queries]


def test_pictures_are_scored_by_the_models_own_features(arguments):
    split = load_split(arguments.data[0], "test")
    pictures = baseline_trainer.pooled_pictures(arguments, [split])
    assert pictures.keys() == {digest for digest in split.picture_digests if digest}
    model = baseline_trainer.with_pictures(baseline_trainer.SentenceTransformer(arguments.text), pictures)
    red, blue = (split.picture_digests[split.product_ids.index(f"mug-{colour}")] for colour in ("red", "blue"))
    scores = baseline_trainer.cosines(model, ["red mug"], [red, blue, red])[0]
    assert scores[0] == pytest.approx(scores[2], abs=1e-6) and not np.isclose(scores[0], scores[1], atol=1e-4)
