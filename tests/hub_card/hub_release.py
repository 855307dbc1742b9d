"""What the tests of hub_card publish: a tiny run with an adapter, its repositories' folders, and a Hub on loopback."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers import TINY_DIMS, make_text_tower, make_vision_tower, shop_rows, write_shop

from hub_card import build, push
from training import evaluate, train
from training.catalogue.writing import write_card
from training.learning.options import DataArguments, LoraArguments, ModelArguments, StageArguments, TrainArguments

JUDGED = "For tests. Scores are drawn by nobody; each product is in every split."
IDS = {
    "dataset": "me/shop",
    "base": "me/mmfusion-base",
    "model": "me/mmfusion-tiny",
    "adapter": "me/tiny-lora",
    "metric": "me/product_retrieval",
    "space": "me/search",
}


@dataclass
class Release:
    """Folders of a tiny run and of what is built from it.

    Attributes:
        shop (`Path`): the catalogue.
        run (`Path`): the run, with `model/`, `adapter/`, `base/` and `report.json`.
        hub (`Path`): a folder for each of `IDS`.
    """

    shop: Path
    run: Path
    hub: Path

    def build(self, what: str, output: Path | None = None, **options) -> Path:
        """Builds one repository's folder."""
        options = {"run": str(self.run), "data": str(self.shop), "dataset_ids": [IDS["dataset"]]} | options
        options |= {"base_id": IDS["base"], "model_id": IDS["model"]}
        options.setdefault("repo_id", IDS[what])
        return build.main(build.BuildArguments(what=what, output=str(output or self.hub / what), **options))


@cache
def make_release(base_temp: Path) -> Release:
    """A run of two epochs whose data and encoders have open licences, and all repositories' folders."""
    folder = base_temp / "release"
    shop = write_shop(folder / "shop", *shop_rows())
    write_card(shop, "Tiny shop", "apache-2.0", ["train", "dev", "test"], JUDGED, synthetic=True)
    towers = {"text": make_text_tower(folder / "text"), "vision": make_vision_tower(folder / "vision")}
    for tower in towers.values():
        (tower / "README.md").write_text("---\nlicense: mit\n---\nA random encoder.\n")
    model = ModelArguments(str(towers["text"]), str(towers["vision"]), config=dict(TINY_DIMS))
    stage = StageArguments(epochs=2, text="lora", batch_size=12, learning_rate=1e-2)
    lora, run = LoraArguments(rank=2, alpha=4), folder / "run"
    train.main(TrainArguments(DataArguments(str(shop).split(",")), model, lora, fuse=stage, output=str(run)))
    options = {"model": str(run / "model"), "data": str(shop), "report": str(run / "report.json")}
    evaluate.main(evaluate.EvaluateArguments(**options))
    found = Release(shop, run, folder / "hub")
    for what in ("dataset", "model", "adapter", "metric", "space"):
        found.build(what)
    base = folder / "base"
    base.mkdir()
    for name in (run / "base", *run.iterdir()):
        if name.name not in ("model", "adapter", "base"):
            (base / name.name).symlink_to(name)
    (base / "model").symlink_to(run / "base")
    found.build("model", found.hub / "base", run=str(base), repo_id=IDS["base"])
    return found


def push_folder(release: Release, name: str, **options) -> str | None:
    """Pushes one of the release's folders."""
    what = "model" if name == "base" else name
    options.setdefault("folder", str(release.hub / name))
    return push.main(push.PushArguments(IDS[name], what, **options))


def stranger_environment(home: Path) -> dict[str, str]:
    """The environment of a process with an empty cache that finds no package of this checkout."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_DATASETS_CACHE")
    }
    return environment | {
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_METRICS_CACHE": str(home),
    }
