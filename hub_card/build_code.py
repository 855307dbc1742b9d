"""The folders of code: the metric for the `evaluate` library, and the Gradio Space."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, SpaceCardData

from hub_card.cards import TEMPLATES, check_card, render
from hub_card.dependencies import ROOT, requirements
from hub_card.figures import CardError

METRIC = ROOT / "training" / "evaluation" / "product_retrieval" / "product_retrieval.py"
SPACE = ROOT / "space"
METRIC_PACKAGES = ("datasets", "evaluate", "ir-measures", "numpy")


def build_metric(arguments: Any, folder: Path) -> None:
    """Fills a folder with the metric, which the Hub keeps as a Space, where `evaluate.load` finds it.

    Raises:
        CardError: if the repository has another name than the metric's file, by which `evaluate` looks for it.
    """
    if arguments.repo_id.split("/")[1] != METRIC.stem:
        raise CardError(f"--repo-id {arguments.repo_id}: the metric's repository must be called {METRIC.stem}")
    for name in (METRIC.name, "metrics.py"):
        shutil.copy(METRIC.with_name(name), folder)
    (folder / "requirements.txt").write_text("\n".join(requirements(METRIC_PACKAGES)) + "\n", encoding="utf-8")
    shutil.copy(TEMPLATES / "metric.html", folder / "index.html")
    data = SpaceCardData(
        title="Product retrieval",
        sdk="static",
        app_file="index.html",
        license="apache-2.0",
        tags=["evaluate", "metric", "retrieval", "mmfusion"],
        emoji="📏",
        colorFrom="indigo",
        colorTo="pink",
    )
    card = render("metric.md", SpaceCard, data, repo_id=arguments.repo_id)
    card.save(folder / "README.md")
    check_card(card, folder)


def build_space(arguments: Any, folder: Path) -> None:
    """Fills a folder with the Space as it is, and the ids of its model and catalogue; prepared vectors stay out.

    Raises:
        CardError: if `--model-id` or `--dataset-ids` is missing.
    """
    ids = arguments.dataset_ids
    if not arguments.model_id or len(ids) != 1:
        raise CardError("a Space searches one catalogue with one model: give --model-id and one of --dataset-ids")
    shutil.copytree(SPACE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*", "prepared"))
    page = SpaceCard.load(SPACE / "README.md")
    data = SpaceCardData(**page.data.to_dict() | {"models": [arguments.model_id], "datasets": ids})
    body = page.text.strip()
    card = render("space.md", SpaceCard, data, body=body, model_id=arguments.model_id, dataset_id=ids[0])
    card.save(folder / "README.md")
    check_card(card, folder)
