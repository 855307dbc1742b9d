"""What the commands are told; see each one's `--help`."""

from dataclasses import dataclass, field
from typing import Literal

What = Literal["model", "adapter", "dataset", "metric", "space"]


@dataclass
class BuildArguments:
    """What to build, and from what.

    Args:
        repo_id: Id that the repository will have on the Hub, such as me/mmfusion-demo; the card's examples use it.
        what: Kind of repository.
        run: model, adapter: the run folder, with report.json of training.evaluate.
        data: dataset: the catalogue's folder.
        output: Folder to write; runs/hub/, the kind and the repository's name if not given.
        reports: model: reports to show, with commas between, the first as the main one; report.json of the run if it
            is not given.
        dataset_ids: Hub ids of the catalogues that the run was trained on, in their order with commas between; of a
            Space the catalogue that it shows.
        base_id: adapter: Hub id of the model that it belongs to.
        model_id: space: Hub id of the model that it searches with.
        license: model, adapter: licence of the weights, an id of the Hub.
        language: Language of queries and listings, an ISO 639 code, several with commas between.
    """

    repo_id: str
    what: What = "model"
    run: str = "runs/quickstart"
    data: str = "data/demo_shop"
    output: str | None = None
    reports: list[str] = field(default_factory=list)
    dataset_ids: list[str] = field(default_factory=list)
    base_id: str | None = None
    model_id: str | None = None
    license: str = "apache-2.0"
    language: list[str] = field(default_factory=lambda: ["en"])


@dataclass
class CheckArguments:
    """Which model to check, and on what.

    Args:
        repo_id: Model on the Hub.
        revision: Its commit or tag.
        data: Catalogue to measure on; the card's dataset if it is not given. A folder's catalogue must be that of the
            card, else the numbers differ for good reason.
        tolerance: How far a metric may be from the card's; another processor rounds otherwise, and a product more or
            less in ten moves one query's nDCG.
    """

    repo_id: str
    revision: str = "main"
    data: str | None = None
    tolerance: float = 0.002


@dataclass
class PushArguments:
    """What to push, and where to.

    Args:
        repo_id: Repository on the Hub, such as me/mmfusion-demo; made if it is not there.
        what: Kind of repository.
        folder: Folder that hub_card.build wrote; runs/hub/, the kind and the repository's name
            if not given.
        private: Make the repository private, if it is made.
        dry_run: List the files and their sizes, check them, and send nothing.
        pull_request: Open a pull request instead of writing to the main branch.
        tag: Tag for the commit, such as v0.1.0, set last; tags are never moved.
        message: Message of the commit.
        collection: Title of a collection of the repository's owner to add it to; made if it is not there.
        delete: Remove files from the repository that the folder does not have; without it they stop the push.
        max_mb: The most megabytes that the folder may have.
        allow_unclear_license: Publish weights of unclear licence all the same. You answer for it.
    """

    repo_id: str
    what: What = "model"
    folder: str | None = None
    private: bool = False
    dry_run: bool = False
    pull_request: bool = False
    tag: str | None = None
    message: str = "Push by hub_card.push"
    collection: str | None = None
    delete: bool = False
    max_mb: float = 2000.0
    allow_unclear_license: bool = False
