"""What a training makes of what an earlier one left in its folder: it goes on exactly, or starts anew and says so."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import TWO_STAGES, Killed, expect_same, losses, picture, recipe, shop_rows, told, weights, write_shop

from modeling_mmfusion.errors import DataError
from training import train
from training.catalogue.writing import write_split
from training.learning.checkpoints import Checkpoints
from training.learning.provenance import data_fingerprint, input_digests, recipe_facts

pytestmark = pytest.mark.usefixtures("last_epoch_is_kept", "short_endings")


@pytest.fixture
def killed(towers, shop, tmp_path, monkeypatch):
    """Arguments of a training in two stages that was killed after some number of checkpoints."""

    def kill(after: int, **stages):
        arguments = recipe(towers, shop, tmp_path / "run", **(stages or TWO_STAGES))
        arguments.checkpoint_minutes = 0
        save, saves = Checkpoints.save, []

        def save_and_die(checkpoints, *words):
            save(checkpoints, *words)
            saves.append(words)
            if len(saves) == after:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_die)
            with pytest.raises(Killed):
                train.main(arguments)
        return arguments

    return kill


@pytest.mark.slow
def test_a_training_does_not_go_on_with_other_data(towers, shop, tmp_path, killed, capfd):
    arguments = killed(after=2)
    corpus, queries, qrels = shop_rows()
    write_split(shop, "train", corpus, queries, qrels[:6])
    train.main(arguments)
    said = told(capfd)
    assert said.count("the data differs") == 1 and f"the data differs ({shop}); training starts anew" in said
    assert "going on" not in said and not list((tmp_path / "run").glob("*checkpoint*"))
    expect_same(
        weights(tmp_path / "run" / "model"), weights(train.main(recipe(towers, shop, tmp_path / "b", **TWO_STAGES)))
    )


@pytest.mark.slow
def test_what_differs_of_a_recipe_is_named_and_what_decides_nothing_is_not(towers, tmp_path, killed, capfd):
    arguments = killed(after=2)
    facts = recipe_facts(arguments)
    arguments.checkpoint_minutes, arguments.workers = 99, 1
    assert recipe_facts(arguments) == facts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda *words: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train.main(arguments)
    assert "align: going on in epoch 1, step 2" in told(capfd)
    arguments.fuse.epochs, arguments.seed = 1, 5
    train.main(arguments)
    assert "the recipe differs (fuse.epochs, seed); training starts anew" in told(capfd)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "run.json"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_checkpoint_is_told_of_and_training_starts_anew(killed, tmp_path, capfd, name, damage):
    arguments = killed(after=1, fuse={"epochs": 1})
    damage(tmp_path / "run" / "checkpoint-1" / name)
    train.main(arguments)
    said = told(capfd)
    assert "going on" not in said
    if name != "run.json":
        assert said.count(f"checkpoint-1/{name} is ") == 1 and "; training starts anew" in said
    elif damage is not Path.unlink:
        assert "checkpoint-1/run.json is damaged; training starts anew" in said
    left_alone = name == "run.json" and damage is Path.unlink
    assert bool(list((tmp_path / "run").glob("*checkpoint*"))) == left_alone
    assert (tmp_path / "run" / "model").is_dir()


@pytest.mark.slow
def test_an_older_whole_checkpoint_is_taken_where_the_last_is_damaged(
    towers, shop, killed, tmp_path, monkeypatch, capfd
):
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_remove_all_but", lambda *words: None)
        arguments = killed(after=3)
    flip(tmp_path / "run" / "checkpoint-3" / "optimizer.bin")
    train.main(arguments)
    said = told(capfd)
    assert "checkpoint-3/optimizer.bin is damaged or was changed; training goes on from what is left" in said
    assert "align: going on in epoch 1, step 2" in said
    expect_same(
        weights(tmp_path / "run" / "model"), weights(train.main(recipe(towers, shop, tmp_path / "b", **TWO_STAGES)))
    )


@pytest.mark.slow
def test_folders_that_are_none_of_ours_are_left_alone(killed, tmp_path):
    arguments = killed(after=2)
    for name, file in (("checkpoint-7", "trainer_state.json"), ("checkpoint-9", "run.json")):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / file).write_text('{"other": "tool"}')
    train.main(arguments)
    found = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").glob("checkpoint-*/*"))
    assert found == ["checkpoint-7/trainer_state.json", "checkpoint-9/run.json"]


def test_a_changed_model_of_a_finished_stage_is_neither_gone_on_from_nor_replaced(killed, tmp_path):
    arguments, file = killed(after=7), tmp_path / "run" / "align" / "model.safetensors"
    flip(file)
    changed = file.read_bytes()
    with pytest.raises(DataError, match="align: holds another model.safetensors, which mmfusion did not write"):
        train.main(arguments)
    assert file.read_bytes() == changed


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["progress.json", "progress.json, cut", "align"])
def test_only_the_very_model_of_a_finished_stage_is_gone_on_from(towers, shop, killed, tmp_path, capfd, damaged):
    arguments = killed(after=7)
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["done"] == ["align"]
    name = damaged.partition(",")[0]
    if damaged == "align":
        (tmp_path / "run" / "align").rename(tmp_path / "elsewhere")
    else:
        (truncate if "cut" in damaged else flip)(tmp_path / "run" / name)
    train.main(arguments)
    said = told(capfd)
    assert said.count("; training starts anew") == 1 and f"{name}" in said and "going on" not in said
    expect_same(
        weights(tmp_path / "run" / "model"), weights(train.main(recipe(towers, shop, tmp_path / "b", **TWO_STAGES)))
    )


@pytest.mark.slow
def test_a_training_killed_between_two_stages_ends_bitwise_alike(towers, shop, tmp_path, monkeypatch):
    expected = weights(train.main(recipe(towers, shop, tmp_path / "whole", **TWO_STAGES)))
    arguments = recipe(towers, shop, tmp_path / "run", **TWO_STAGES)
    finish = Checkpoints.finish

    def finish_and_die(*words):
        finish(*words)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "finish", finish_and_die)
        with pytest.raises(Killed):
            train.main(arguments)
    expect_same(weights(train.main(arguments)), expected)
    assert losses(tmp_path / "run" / "model") == losses(tmp_path / "whole" / "model")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [(s, n) for s in ("align", "fuse") for n in range(3)]
    assert not list((tmp_path / "run").glob("*checkpoint*")) and not (tmp_path / "run" / "progress.json").exists()


def test_the_digests_cover_all_that_a_recipe_names(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 1})
    scores = {"query-id": ["q-mug-red"], "corpus-id": ["mug-blue"], "score": [0.5]}
    pq.write_table(pa.table(scores), tmp_path / "scores.parquet")
    arguments.data.negatives = [str(tmp_path / "scores.parquet")]
    before = input_digests(arguments)
    assert before == input_digests(arguments)
    pq.write_table(pa.table(scores | {"score": [0.6]}), tmp_path / "scores.parquet")
    (towers["text"] / "note.txt").write_text("changed")
    try:
        after = input_digests(arguments)
    finally:
        (towers["text"] / "note.txt").unlink()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {str(tmp_path / "scores.parquet"), str(towers["text"])}


def test_the_digest_of_a_catalogue_covers_pictures_that_lie_elsewhere(tmp_path):
    file = tmp_path / "pictures" / "mug.png"
    file.parent.mkdir()
    file.write_bytes(picture("red"))
    corpus, queries, qrels = shop_rows()
    corpus[0]["image"] = {"bytes": None, "path": str(file)}
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels)
    before = data_fingerprint(str(shop), "train", "dev")
    file.write_bytes(picture("blue"))
    assert data_fingerprint(str(shop), "train", "dev") != before
    assert data_fingerprint(str(shop), "train", "nowhere") == data_fingerprint(str(shop), "train")
