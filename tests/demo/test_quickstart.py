"""The quickstart end to end with the real towers, on a smaller demo shop."""

import json
import sys

import pytest
from helpers import SHARED_DATA

from training import evaluate, quickstart
from training.demo.shop import generate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Arguments of a quickstart that was run once."""
    folder = tmp_path_factory.mktemp("quickstart")
    generate(folder / "shop", products=420, queries=300, progress=False)
    arguments = quickstart.QuickstartArguments(str(folder / "shop"), str(folder / "run"))
    quickstart.main(arguments)
    return arguments


@pytest.mark.slow
def test_fused_is_above_image_and_not_below_text(run):
    """On 90 queries fused and text differ by less than chance; on the whole demo shop they are far apart."""
    with open(f"{run.output}/report.json") as file:
        report = json.load(file)
    views = {view: metrics["ndcg@10"]["mean"] for view, metrics in report["views"].items()}
    assert views["fused"] > views["text"] - 0.02 and views["fused"] > views["image"] + 0.1, views
    assert report["schema"] == 1 and report["split"] == "test" and report["seconds"] > 0
    assert {"text", "image", "both", "novel"} <= set(report["slices"])
    assert set(report["comparisons"]["fused_vs_text"]["ndcg@10"]) == {"diff", "ci95", "p", "p_holm"}


@pytest.mark.slow
def test_a_second_run_does_nothing_again_and_a_changed_seed_trains(run, capfd, monkeypatch):
    report = quickstart.main(run)
    out = capfd.readouterr().out
    assert out.count("nothing changed") == 3 and "(* = judged relevant" in out
    assert report["views"]["fused"]["ndcg@10"]["mean"] > 0
    trained = []
    monkeypatch.setattr(quickstart, "train_step", lambda arguments, recipe: trained.append(recipe.seed) or sys.exit(1))
    for seed in (1, 0):  # stopped while it trained: the model that is there is not known to be seed 0's any more
        with pytest.raises(SystemExit):
            quickstart.main(quickstart.QuickstartArguments(run.data, run.output, seed=seed))
    assert trained == [1, 0]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs real catalogues in ../shared/data")
def test_the_model_is_measured_on_a_real_catalogue(run, tmp_path):
    arguments = evaluate.EvaluateArguments(f"{run.output}/model", str(SHARED_DATA / "amazon"), "dev")
    report = evaluate.main(arguments)
    assert report["n_queries"] == 175 and report["n_products"] == 706
    assert report["views"]["text"]["ndcg@10"]["mean"] > 0.2, "the text tower's knowledge was lost"
