"""Folders and files of commands: whole or not at all, and never in place of what somebody else made."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import ROOT, commands, make_model, write_shop

from hub_card import build
from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.checksums import MARK, check_whole
from modeling_mmfusion.errors import DataError, ProductIndexError
from training import convert, embed, evaluate, export, index, judge, mine, prepare, quickstart, rerank, styles, train
from training.benchmarks import ablate, baseline_trainer, compare, dual_encoder, leave_one_out, search_speed
from training.benchmarks import styles as style_tables
from training.common.files import (
    beside,
    cannot_write,
    check_folder,
    check_output_file,
    claim_folder,
    new_file,
    new_folder,
    new_shared_folder,
    only_process,
    write_text,
)
from training.demo import shop as demo_shop
from training.demo import space_sample
from training.evaluation import sheet
from training.learning import stages
from training.learning.options import TrainArguments
from training.scale import embed_ray, engines

# Every command that writes a folder, with options that would let it write; `output` is the folder.
FOLDERS = {
    "training.prepare": lambda given: prepare.main(
        prepare.PrepareArguments(str(given.products), str(given.output), overwrite=True)
    ),
    "training.convert": lambda given: convert.main(
        convert.ConvertArguments("marqo-products", str(given.shop), str(given.output))
    ),
    "training.styles": lambda given: styles.main(styles.StylesArguments(str(given.shop), output=str(given.output))),
    "training.demo.shop": lambda given: demo_shop.main(demo_shop.DemoShopArguments(str(given.output), 40, 20)),
    "training.demo.space_sample": lambda given: space_sample.main(
        space_sample.SpaceShopArguments(str(given.shop), str(given.output))
    ),
    "training.train": lambda given: train.main(given.recipe),
    "training.quickstart": lambda given: quickstart.main(
        quickstart.QuickstartArguments(str(given.shop), str(given.output))
    ),
    "training.embed": lambda given: embed.main(
        embed.EmbedArguments(given.model, str(given.shop), output=str(given.output))
    ),
    "training.scale.embed_ray": lambda given: embed_ray.main(
        embed_ray.EmbedRayArguments(given.model, str(given.shop), output=str(given.output))
    ),
    "training.index": lambda given: index.main(index.IndexArguments(given.vectors, str(given.output))),
    "training.scale.engines": lambda given: engines.main(
        engines.EngineArguments(given.vectors, f"parquet:{given.output}")
    ),
    "training.rerank": lambda given: rerank.main(
        rerank.RerankArguments(given.model, str(given.shop), train=True, output=str(given.output))
    ),
    "training.export": lambda given: export.main(
        export.ExportArguments(given.model, str(given.output.parent), [given.output.name])
    ),
    "training.benchmarks.ablate": lambda given: ablate.main(
        ablate.AblateArguments(
            str(ROOT / "training" / "recipes" / "ablation.yaml"),
            overrides={"output": str(given.output)},
            results=str(given.output / "results.json"),
        )
    ),
    "training.benchmarks.compare": lambda given: compare.main(compare.CompareArguments(output=str(given.output))),
    "training.benchmarks.styles": lambda given: style_tables.main(
        style_tables.StyleBenchArguments({"ours": given.model}, [str(given.shop)], output=str(given.output))
    ),
    "training.benchmarks.baseline_trainer": lambda given: baseline_trainer.main(
        baseline_trainer.BaselineArguments([str(given.shop)], output=str(given.output))
    ),
    "training.benchmarks.dual_encoder": lambda given: dual_encoder.main(
        dual_encoder.DualEncoderArguments([str(given.shop)], output=str(given.output))
    ),
    "training.benchmarks.leave_one_out": lambda given: leave_one_out.main(
        leave_one_out.LeaveOneOutArguments(
            output=str(given.output), results=str(given.output.parents[1] / "results.json")
        )
    ),
    "training.benchmarks.search_speed": lambda given: search_speed.main(
        search_speed.SearchBenchArguments(work=str(given.output), output=str(given.output / "report.json"))
    ),
    "training.judge": lambda given: judge.main(
        judge.JudgeArguments("pool", str(given.output), str(given.shop), systems=["bm25"])
    ),
    "hub_card.build": lambda given: build.main(
        build.BuildArguments("me/product_retrieval", "metric", output=str(given.output))
    ),
}
# Every command that writes files of names that are given.
FILES = {"training.audit", "training.evaluate", "training.mine", "training.evaluation.sheet"}
FILES |= {
    f"training.benchmarks.{name}" for name in ("embedding", "engines", "faults", "follow", "scaling", "training_speed")
}
FILES |= {"training.benchmarks.like"}
FILES |= {
    f"training.benchmarks.{name}" for name in ("ray_cluster", "service_load", "shard_speed", "space_load", "start")
}
RUNS = {"training.follow"}  # write into a run, folders of their own: see tests/scale/test_follow.py
OUTPUTS = {"output", "to", "work", "report", "results", "run_file", "per_query", "examples", "plot"}
READ = {"training.scale.planning", "training.benchmarks.results", "hub_card.check", "hub_card.push", "training.search"}


class Given:
    """What commands are given: a shop, a model, vectors, and `output`, a folder with somebody's things in it."""

    def __init__(self, towers, folder: Path):
        self.output = folder / "run" / "onnx"
        self.shop = write_shop(folder / "shop")
        self.products = folder / "products.csv"
        self.products.write_text("id,title\na,Mug\nb,Lamp\nc,Shirt\n")
        self.model, self.vectors = str(folder / "model"), str(folder / "vectors")
        make_model(towers).save_pretrained(self.model)
        MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(self.model)
        embed.main(embed.EmbedArguments(self.model, str(self.shop)))
        self.recipe = TrainArguments(output=str(self.output))
        self.recipe.data.path, self.recipe.model.start = [str(self.shop)], self.model


@pytest.fixture(scope="module")
def given(towers, tmp_path_factory):
    return Given(towers, tmp_path_factory.mktemp("given"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_command_that_writes_is_tried_here():
    writing = {name for name, options in commands().items() if OUTPUTS & {option.name for option in fields(options)}}
    assert writing - READ == set(FOLDERS) | FILES and RUNS < set(commands()) - writing


@pytest.mark.parametrize("kind", ["notes", "like ours", "another command's"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_somebody_elses_is_refused_and_stays_as_it_is(given, name, kind, monkeypatch):
    monkeypatch.chdir(given.output.parents[1])
    monkeypatch.setattr(embed_ray, "find_spec", lambda name: True)
    with new_folder_of(given.output, kind):
        before = contents(given.output)
        with pytest.raises((DataError, ProductIndexError)) as error:
            FOLDERS[name](given)
        assert "\n" not in str(error.value) and given.output.name in str(error.value)
        assert contents(given.output) == before
        assert not [path for path in given.output.parent.iterdir() if path != given.output]


class new_folder_of:
    """A folder with things in it that the command did not write."""

    def __init__(self, folder: Path, kind: str):
        self.folder = folder
        if kind == "another command's":
            with new_folder(folder, "training.somebody") as partial:
                (partial / "model.safetensors").write_text("weights")
        else:
            folder.mkdir(parents=True)
            (folder / "notes.txt").write_text("mine")
        if kind == "like ours":
            for file in ("manifest.json", "index.json", "config.yaml", "prepare_report.json", "README.md"):
                (folder / file).write_text("{}")
            (folder / "shards").mkdir()
            (folder / "shards" / "000000-1f0c.parquet").write_text("mine, too")
            (folder / "checkpoint-3").mkdir()
            (folder / "checkpoint-3" / "weights").write_text("mine, too")
            (folder / "graph-000001.json").write_text("mine, too")

    def __enter__(self):
        return self.folder

    def __exit__(self, *error):
        import shutil

        shutil.rmtree(self.folder.parent)


def test_a_command_replaces_what_it_wrote_itself_and_nothing_that_came_to_it(tmp_path):
    folder = tmp_path / "out"
    for text in ("one", "two"):
        with new_folder(folder, "me") as partial:
            write_text(partial / "below" / "a.txt", text)
    assert contents(folder)["below/a.txt"] == b"two" and list(tmp_path.iterdir()) == [folder]
    with new_folder(folder / "onnx", "another") as partial:  # as exported towers in a model's folder
        write_text(partial / "b.txt", "derived")
    check_folder(folder, "me")
    for name, text, message in (
        ("c.txt", "new", "holds c.txt"),
        ("below/a.txt", "changed", "holds another below/a.txt"),
        ("onnx/d.txt", "new", "holds d.txt"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_text(text)
        with pytest.raises(DataError, match=message), new_folder(folder, "me"):
            raise AssertionError("not reached")
        assert (folder / name).read_text() == text
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    with pytest.raises(DataError, match="was written by me, not by you"):
        check_folder(folder, "you")
    claim_folder(folder / "vectors", "embed")
    with pytest.raises(DataError, match="holds vectors"):
        check_folder(folder, "me")


def test_what_came_to_a_folder_while_its_successor_was_made_is_kept(tmp_path):
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "one")
    with pytest.raises(DataError, match="holds b.txt"), new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "two")
        (tmp_path / "out" / "b.txt").write_text("mine")
    assert contents(tmp_path / "out").keys() == {"a.txt", "b.txt", MARK}
    assert contents(tmp_path / "out")["a.txt"] == b"one"


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "one")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "two")
        raise ZeroDivisionError
    assert contents(tmp_path / "out")["a.txt"] == b"one" and len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from training.common import files

rename, left = Path.rename, [int(sys.argv[2])]

def dying(path, target):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return rename(path, target)

Path.rename = dying
with files.new_folder(sys.argv[1], "me") as partial:
    (partial / "a.txt").write_text("two")
"""


@pytest.mark.slow
@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_at_any_rename_leaves_the_old_folder_or_brings_it_back(tmp_path, renames):
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "one")
    words = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(renames)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    check_folder(tmp_path / "out", "me")
    assert (tmp_path / "out" / "a.txt").read_text() == "one"
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "three")
    assert (tmp_path / "out" / "a.txt").read_text() == "three" and len(list(tmp_path.iterdir())) == 1


def test_two_runs_into_one_folder(tmp_path):
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "a.txt", "first")
        with pytest.raises(DataError, match="another run writes it"), new_folder(tmp_path / "out", "me"):
            raise AssertionError("not reached")
        assert (partial / "a.txt").read_text() == "first"
    claim_folder(tmp_path / "grows", "me")
    with only_process(tmp_path / "grows"), pytest.raises(DataError, match="another run"):
        with only_process(tmp_path / "grows"):
            raise AssertionError("not reached")


def test_a_cache_that_two_fill_at_a_time(tmp_path):
    with new_shared_folder(tmp_path / "cache", "features") as partial:
        write_text(partial / "a.txt", "same")
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "a.txt").write_text("same")  # of another process, which was first
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_claims_are_one_writers_and_one_catalogues(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim_folder("run", "a run", "data/a")
    claim_folder("run", "a run", str(tmp_path / "data" / "a"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    claim_folder("run", "a run", "data/a")
    with pytest.raises(DataError, match="run: was made of data/a, not of data/b"):
        claim_folder("run", "a run", "data/b")
    with pytest.raises(DataError, match="was written by a run, not by embed"):
        claim_folder("run", "embed")
    claim_folder("new/vectors", "embed", "data/a")
    claim_folder("new", "a run", "data/a")  # it holds nothing but what is ours
    assert json.loads((tmp_path / "new" / MARK).read_text()) == {"writer": "a run", "of": "data/a"}
    write_text(tmp_path / "file", "")
    with pytest.raises(DataError, match="file: is a file"):
        claim_folder("file", "a run")


def test_a_damaged_folder_is_told_by_its_file(tmp_path):
    with new_folder(tmp_path / "out", "me") as partial:
        write_text(partial / "below" / "a.txt", "one")
        write_text(partial / "b.txt", "two")
    check_whole(tmp_path / "out")
    (tmp_path / "out" / "below" / "a.txt").write_text("onf")
    with pytest.raises(DataError, match="a.txt: is not the file that was written"):
        check_whole(tmp_path / "out")
    (tmp_path / "out" / "below" / "a.txt").unlink()
    with pytest.raises(DataError, match="a.txt: is missing"):
        check_whole(tmp_path / "out")
    (tmp_path / "out" / MARK).write_text("{")
    check_whole(tmp_path / "out")
    with pytest.raises(DataError, match="is missing or damaged"):
        check_whole(tmp_path / "out", marked=True)


def test_files_are_written_at_one_stroke_and_where_they_belong(tmp_path):
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a.json") as partial:
        assert partial.suffix == ".json" and partial.parent == tmp_path
        partial.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="is a folder"):
        write_text(tmp_path, "text")
    (tmp_path / "products.csv").write_text("id\n")
    with pytest.raises(DataError, match="products.csv: .* let its name end in .json"):
        check_output_file(tmp_path / "products.csv", ".json")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError("write failed"), pa.ArrowInvalid("file too large")]
)
def test_a_full_disk_is_one_line(error):
    with pytest.raises(DataError, match=r"out: can't be written \(.*\); is the disk full"), cannot_write("out"):
        raise error


def test_outputs_go_beside_their_input(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert beside(given.vectors, "index") == Path(given.vectors).parent / "index"
    assert beside(".", "index") == Path("../index")
    index.main(index.IndexArguments(given.vectors))
    engines.main(engines.EngineArguments(given.vectors))
    assert (Path(given.vectors).parent / "index" / "index.json").is_file()
    assert (Path(given.vectors).parent / "bulk" / "products-00000.parquet").is_file()
    assert not list(tmp_path.iterdir()), "nothing is written anywhere else"
    for command, arguments in (
        (embed, embed.EmbedArguments("me/model", str(given.shop))),
        (export, export.ExportArguments("me/model", formats=["onnx"])),
    ):
        with pytest.raises(DataError, match="me/model: is no folder here.*give --output"):
            command.main(arguments)
    assert stages.default_output(given.recipe.data) == "runs/shop"
    assert quickstart.default_output("data/demo_shop") == "runs/quickstart"
    assert quickstart.default_output("data/myshop/") == "runs/myshop"


def test_reports_are_not_written_over_tables(given, tmp_path):
    (tmp_path / "products.csv").write_text("id\n")
    for command, arguments in (
        (evaluate, evaluate.EvaluateArguments(given.model, str(given.shop), report=str(tmp_path / "products.csv"))),
        (mine, mine.MineArguments(given.model, str(given.shop), str(tmp_path / "products.csv"))),
        (sheet, sheet.SheetArguments(given.model, str(given.shop), output=str(tmp_path))),
    ):
        with pytest.raises(DataError, match="let its name end in|is a folder"):
            command.main(arguments)
    assert (tmp_path / "products.csv").read_text() == "id\n"
