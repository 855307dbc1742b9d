"""What may be published: the licences of the data and of the encoders that a run was trained on."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub_card.figures import CardError, Figures

# Ids of https://huggingface.co/docs/hub/repositories-licenses that let anyone share the material and works from it.
OPEN = (
    "apache-2.0 mit bsd bsd-2-clause bsd-3-clause isc zlib unlicense wtfpl cc0-1.0 pddl cc-by-2.0 cc-by-2.5 cc-by-3.0 "
    "cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 odc-by odbl cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 "
    "etalab-2.0 c-uda"
).split()
# Those that let anyone share the material as it is under the same terms; what holds for weights is unclear.
NON_COMMERCIAL = "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0".split()
# The encoders that come as wheels: the model on the Hub that their files say they are, and its licence.
WHEELS = {
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    "efficientnet-lite0": ("timm/tf_efficientnet_lite0.in1k", "apache-2.0"),
}
UNCLEAR_TAG = "unclear-licence"


@dataclass
class Source:
    """A catalogue or a model that weights come from.

    Attributes:
        kind (`str`): `data` or `model`.
        path (`str`): as the run's configuration names it.
        name (`str`): as a card names it.
        license (`str` or `None`): a licence id of the Hub; `None` if nobody said.
        repo_id (`str` or `None`): where it is on the Hub.
    """

    kind: str
    path: str
    name: str
    license: str | None
    repo_id: str | None

    @property
    def is_clear(self) -> bool:
        """True if weights made of it may be published."""
        return self.license in OPEN


def card_of(path: str, kind: str) -> DatasetCard | ModelCard | None:
    """The card of a folder or of a Hub id; `None` if there is none or it can't be read."""
    cls = DatasetCard if kind == "data" else ModelCard
    readme = Path(path, "README.md")
    try:
        if readme.is_file():
            return cls.load(readme)
        return cls.load(path) if is_hub_id(path) else None
    except (OSError, HfHubHTTPError, ValueError, yaml.YAMLError):
        return None


def license_of(path: str, kind: str) -> str | None:
    """The licence that the card of a folder or Hub id names; of several the first that is not open.

    A licence of its own (`other`) is `None`: nobody but a person can tell what it allows.
    """
    card = card_of(path, kind)
    named = card.data.get("license") if card else None
    names = [str(name).lower() for name in (named if isinstance(named, list) else [named])]
    worst = next((name for name in names if name not in OPEN), names[0])
    return None if worst in ("none", "unknown", "other", "") else worst


def is_hub_id(path: str) -> bool:
    """True for `org/name` that is no folder here."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return path.count("/") == 1 and not Path(path).exists()


def name_of(path: str) -> str:
    """What a card calls a catalogue or encoder: a Hub id or a wheel's name as it is, of a folder its last part."""
    return path if is_hub_id(path) else Path(path).name


def sources_of(run: Path, dataset_ids: list[str], known: tuple[Path, ...] = ()) -> list[Source]:
    """What a run's weights come from: its catalogues, then its encoders or the model that it started from.

    A model that an earlier run made brings that run's sources along.

    Args:
        run (`Path`): run folder with `config.yaml`.
        dataset_ids (`list[str]`): Hub ids of its catalogues, in their order; empty if they are on no Hub.
        known (`tuple[Path, ...]`, *optional*): runs that started from this one.

    Raises:
        CardError: if the numbers of catalogues and ids differ, or the configuration is not there.
    """
    config = Figures({"config": run / "config.yaml"})
    paths = config.value("config", "data/path")
    if dataset_ids and len(dataset_ids) != len(paths):
        raise CardError(f"--dataset-ids names {len(dataset_ids)} datasets; the run was trained on {', '.join(paths)}")
    ids = dataset_ids or [path if is_hub_id(path) else None for path in paths]
    found = [
        Source("data", path, repo_id or name_of(path), license_of(path, "data"), repo_id)
        for path, repo_id in zip(paths, ids, strict=True)
    ]
    if config.has("config", "model/start"):
        return found + sources_of_start(config("config", "model/start"), (*known, run.resolve()))
    parts = ("aligned",) if config.has("config", "model/aligned") else ("text", "vision", "query")
    names = [config("config", f"model/{part}") for part in parts if config.has("config", f"model/{part}")]
    return found + [encoder(name) for name in names]


def sources_of_start(path: str, known: tuple[Path, ...]) -> list[Source]:
    """A model that a run started from or, if a run folder of ours made it, what that run was made of.

    Of a stage of the same run, whose configuration was written over, nobody knows any more: its licence is unclear.
    """
    source = Source("model", path, name_of(path), license_of(path, "model"), path if is_hub_id(path) else None)
    made_by = Path(path).resolve().parent
    if source.license is None and made_by not in known and (made_by / "config.yaml").is_file():
        return sources_of(made_by, [], known)
    return [source]


def encoder(name: str) -> Source:
    """An encoder by the name that recipes give it."""
    if name in WHEELS:
        repo_id, license = WHEELS[name]
        return Source("model", name, repo_id, license, repo_id)
    return Source("model", name, name_of(name), license_of(name, "model"), name if is_hub_id(name) else None)
