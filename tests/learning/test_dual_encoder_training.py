"""From an aligned dual encoder through training, evaluation, embedding and search."""

import json

import numpy as np
import pytest
import torch
from helpers import (
    DUAL_ENCODERS,
    TINY_DIMS,
    make_dual_encoder,
    odd_rows,
    recipe,
    shop_rows,
    weights,
    write_shop,
)

from modeling_mmfusion import MMFusionModel, Searcher
from modeling_mmfusion.errors import DataError
from training import embed, evaluate, index, train
from training.benchmarks import compare, dual_encoder, leave_one_out
from training.learning.options import LoraArguments, ModelArguments
from training.learning.starting import new_model

FROZEN = {"fuse": {"epochs": 2}}
FAMILIES = list(DUAL_ENCODERS)


def aligned_recipe(folder, shop, output, lora=None, **stages):
    arguments = recipe({"text": "minilm", "vision": "efficientnet-lite0"}, shop, output, lora, **stages)
    arguments.model = ModelArguments(aligned=str(folder), config=dict(TINY_DIMS))
    return arguments


@pytest.fixture(scope="module")
def whole_shop(tmp_path_factory):
    """A shop whose listings are longer than any window, with and without pictures."""
    corpus, queries, qrels = shop_rows()
    corpus = [row | {"image": odd["image"]} for row, odd in zip(corpus, odd_rows(), strict=True)]
    for row in corpus[::3]:
        row["description"] = " ".join(["the soft cotton"] * 60)
    return write_shop(tmp_path_factory.mktemp("shop") / "shop", corpus, queries, qrels)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_from_start_to_search(family, whole_shop, tmp_path, short_endings, capsys):
    folder = make_dual_encoder(tmp_path / "dual", family)
    model = train.main(aligned_recipe(folder, whole_shop, tmp_path / "run", **FROZEN))
    report = evaluate.main(evaluate.EvaluateArguments(str(model), str(whole_shop)))
    assert set(report["views"]) == {"fused", "text", "image"}
    embed.main(embed.EmbedArguments(str(model), str(whole_shop), "test"))
    index.main(index.IndexArguments(str(tmp_path / "run" / "vectors")))
    results, shares = Searcher(str(tmp_path / "run")).search("red mug", k=3)
    assert len(results) == 3 and set(shares) == {"text", "lexical", "image", "cross", "aligned"}
    trained = weights(model)
    start = MMFusionModel.from_towers(aligned=folder, **TINY_DIMS).state_dict()
    kept = [name for name in start if name.startswith(("alignment.text_projection", "alignment.image_projection"))]
    assert all(torch.equal(trained[name], start[name]) for name in kept)
    assert (trained["alignment.text_centre.weight"] != 0).any() and (
        trained["query_heads.router.weight"] != start["query_heads.router.weight"]
    ).any()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["lora", "full"])
def test_encoders_are_trained(family, way, whole_shop, tmp_path, short_endings, last_epoch_is_kept):
    folder = make_dual_encoder(tmp_path / "dual", family)
    stage = {"epochs": 1, "text": way, "vision": way}
    model = train.main(
        aligned_recipe(folder, whole_shop, tmp_path / "run", LoraArguments(rank=2, alpha=4), fuse=stage)
    )
    start, trained = MMFusionModel.from_towers(aligned=folder, **TINY_DIMS).state_dict(), weights(model)
    for part in ("text_model.", "vision_model."):
        changed = [n for n in start if n.startswith(part) and not torch.equal(start[n].float(), trained[n].float())]
        assert changed, f"nothing of {part} was trained"
    assert torch.equal(
        start["alignment.base.weight"].shape and trained["logit_scale.bias"], trained["logit_scale.bias"]
    )


def test_a_dual_encoder_is_measured_as_it_is(whole_shop, tmp_path, capsys):
    folder = str(make_dual_encoder(tmp_path / "dual", "clip"))
    report = evaluate.main(evaluate.EvaluateArguments(folder, str(whole_shop)))
    assert list(report["views"]) == ["sum", "sum_9_1", "text", "image"]
    with pytest.raises(DataError, match="--truncate-dim: .* has only the views sum, sum_9_1, text, image"):
        evaluate.main(evaluate.EvaluateArguments(folder, str(whole_shop), truncate_dim=8))
    compared = compare.main(
        compare.CompareArguments(
            {"words": "bm25", "clip": folder, "clip's pictures": folder},
            {"clip's pictures": "image"},
            [str(whole_shop)],
            output=str(tmp_path / "compare"),
            results=str(tmp_path / "compare" / "results.json"),
        )
    )
    found = {name: cells[str(whole_shop)]["ndcg@10"]["mean"] for name, cells in compared["rows"].items()}
    assert found["clip"] == report["views"]["sum"]["ndcg@10"]["mean"]
    assert found["clip's pictures"] == report["views"]["image"]["ndcg@10"]["mean"]


def test_an_unreadable_picture_is_counted_once(tmp_path, short_endings, capsys):
    corpus, queries, qrels = shop_rows()
    corpus[7]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels)
    folder = make_dual_encoder(tmp_path / "dual", "clip")
    train.main(aligned_recipe(folder, shop, tmp_path / "run", **FROZEN))
    assert capsys.readouterr().out.count("warning: 1 x unreadable image") == 2, "of train and of dev"


def test_a_stand_in_of_no_pictures_is_refused(towers, tmp_path):
    corpus, queries, qrels = shop_rows()
    shop = write_shop(tmp_path / "shop", [row | {"image": None} for row in corpus], queries, qrels)
    names = {"text": str(towers["text"]), "vision": str(towers["vision"]), "output": str(tmp_path / "made")}
    with pytest.raises(DataError, match="no product has both a picture and a title"):
        dual_encoder.main(dual_encoder.DualEncoderArguments([str(shop)], **names))


def test_two_ways_to_name_the_encoders_are_refused(tmp_path):
    arguments = ModelArguments(aligned=str(make_dual_encoder(tmp_path / "dual", "clip")), vision="other")
    with pytest.raises(DataError, match="--model.vision: leave it out: --model.aligned"):
        new_model(arguments)
    with pytest.raises(DataError, match="is no dual encoder"):
        new_model(ModelArguments(aligned="minilm"))


@pytest.mark.slow
def test_a_stand_in_learns_what_pictures_show_and_shops_are_left_out(towers, shop, tmp_path, short_endings, capsys):
    """The tiny shop's titles name no colour; here they do, and only pictures of the test tell it."""
    corpus, queries, qrels = shop_rows()
    told = [row | {"title": row["_id"].replace("-", " ")} for row in corpus]
    coloured = write_shop(tmp_path / "coloured", told, queries, qrels)
    made = {"text": str(towers["text"]), "vision": str(towers["vision"]), "projection_dim": 8, "batch_size": 12}
    folder = dual_encoder.main(
        dual_encoder.DualEncoderArguments(
            [str(coloured)], output=str(tmp_path / "made"), epochs=300, learning_rate=1e-2, feature_dropout=0, **made
        )
    )
    losses = json.loads((tmp_path / "made" / "environment.json").read_text())["losses"]
    assert losses[-1]["loss"] < 0.5 * losses[0]["loss"]
    report = evaluate.main(evaluate.EvaluateArguments(str(folder), str(coloured)))
    assert report["views"]["image"]["ndcg@10"]["mean"] > 0.5, "chance is about .35"
    tiny = {f"model.config.{name}": value for name, value in TINY_DIMS.items()} | {"fuse.epochs": 1}
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(
        json.dumps({"model": {"text": made["text"], "vision": made["vision"]}, "fuse": {"epochs": 1, "batch_size": 6}})
    )
    results = leave_one_out.main(
        leave_one_out.LeaveOneOutArguments(
            [str(coloured)],
            [str(shop)],
            [],
            str(folder),
            tiny | {"model.text": "minilm", "model.vision": "efficientnet-lite0"},
            str(recipe_file),
            [0, 1],
            str(tmp_path / "left"),
            str(tmp_path / "left" / "results.json"),
        )
    )
    row = results["rows"]["shop, aligned, fused"][str(coloured)]
    assert len(row["seeds"]) == 2 and 0 <= row["mean"] <= 1
    assert results["rows"]["dual encoder, image"][str(coloured)]["mean"] == pytest.approx(
        report["views"]["image"]["ndcg@10"]["mean"]
    )
    assert np.isfinite([cell["mean"] for cells in results["rows"].values() for cell in cells.values()]).all()
