import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import TINY_DIMS
from PIL import Image

from modeling_mmfusion.errors import DataError
from training.benchmarks import ablate
from training.benchmarks.ablate import AblateArguments


@pytest.fixture
def arguments(towers, shop, tmp_path) -> AblateArguments:
    """Three variants, two seeds and two epochs on the tiny shop."""
    recipe = {
        "data": {"path": [str(shop)]},
        "model": {"text": str(towers["text"]), "vision": str(towers["vision"]), "config": TINY_DIMS},
        "fuse": {"epochs": 2, "batch_size": 12},
        "output": str(tmp_path / "ablation"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = str(tmp_path / "results" / "fusion.json")
    options = {
        "variants": ["experts", "gated", "text only"],
        "tests": [str(shop)],
        "seeds": [0, 1],
        "results": results,
    }
    return AblateArguments(recipe=str(tmp_path / "recipe.yaml"), **options)


@pytest.mark.slow
def test_variants_and_seeds_are_trained_once_and_compared(arguments, shop, monkeypatch, capsys):
    results = ablate.main(arguments)
    assert json.loads(Path(arguments.results).read_text())["variants"] == results["variants"]
    assert Image.open(Path(arguments.results).with_suffix(".png")).width > 500, "it is drawn as well"
    rows = results["variants"]
    assert list(rows) == ["experts", "gated", "text only"] and rows["gated"]["dims"] == TINY_DIMS["vector_dim"]
    for row in rows.values():
        found = row["data"][str(shop)]
        assert len(found["fused"]["ndcg@10"]["seeds"]) == 2
        assert found["fused"]["ndcg@10"]["mean"] == pytest.approx(
            np.mean(found["fused"]["ndcg@10"]["seeds"]), abs=1e-4
        )
        assert found["no pictures"]["ndcg@10"] == {**found["text"]["ndcg@10"]}, "both hide all pictures"
    text_only = rows["text only"]["data"][str(shop)]
    assert text_only["fused"]["ndcg@10"]["mean"] == text_only["text"]["ndcg@10"]["mean"], "it never saw a picture"
    compared = results["comparisons"]["experts_vs_gated"][str(shop)]["ndcg@10"]
    ours, theirs = (rows[name]["data"][str(shop)]["fused"]["ndcg@10"]["mean"] for name in ("experts", "gated"))
    assert compared["diff"] == pytest.approx(ours - theirs) and compared["ratio"] == pytest.approx(ours / theirs)
    assert f"| gated | {theirs:.3f} [" in capsys.readouterr().out

    trained = []
    monkeypatch.setattr(ablate, "train_variant", lambda recipe, *rest: trained.append(recipe.seed) or 1 / 0)
    assert ablate.main(arguments)["variants"] == results["variants"], "nothing is trained again"
    arguments.seeds = [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        ablate.main(arguments)
    assert trained == [2]


def test_truncation_and_missing_pictures_are_measured_and_undone(arguments, shop):
    arguments.variants, arguments.seeds = ["experts"], [0]
    found = ablate.main(arguments)["variants"]["experts"]["data"][str(shop)]
    assert found["1/4 of the dimensions"] != found["fused"]
    expected = {"fused", "text", "image", "half the pictures", "no pictures"}
    assert set(found) == expected | {"1/2 of the dimensions", "1/4 of the dimensions"}


@pytest.mark.slow
def test_stages_that_variants_share_are_trained_once(arguments, tmp_path, monkeypatch):
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe |= {name: {"epochs": 1, "batch_size": 12, "text": "full"} for name in ("domain", "align")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained, fit = [], ablate.fit

    def counted(*words, **options):
        trained.append([name for name in ablate.STAGES if getattr(words[2], name).epochs])
        return fit(*words, **options)

    monkeypatch.setattr(ablate, "fit", counted)
    arguments.seeds, arguments.variants = [0], ["full recipe", "no align stage", "no fuse stage"]
    shared = ablate.main(arguments)["variants"]
    assert trained == [["domain"], ["align"], ["fuse"], ["fuse"]]
    arguments.variants, recipe["output"] = ["no fuse stage"], str(tmp_path / "other")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    alone = ablate.main(arguments)["variants"]["no fuse stage"]
    assert trained[4:] == [["domain"], ["align"]] and alone["data"] == shared["no fuse stage"]["data"]


def test_an_unknown_variant_is_named(arguments):
    arguments.variants = ["experts", "magic"]
    with pytest.raises(DataError, match="unknown variant 'magic'; use some of experts, weighted_mean"):
        ablate.main(arguments)


@pytest.mark.parametrize("variant", ablate.VARIANTS)
def test_every_variant_is_a_recipe(arguments, variant):
    recipe = ablate.recipe_of(arguments, variant, seed=7)
    assert recipe.seed == 7
    assert recipe.model.config["image_dim"] == TINY_DIMS["image_dim"], "a variant's fields are added to the recipe's"
