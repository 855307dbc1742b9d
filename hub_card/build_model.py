"""The folders of weights: a model with all that loads it, or the adapter of a run on a model that is on the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from hub_card.cards import check_card, render
from hub_card.contents import without_paths
from hub_card.dependencies import requirements
from hub_card.figures import CardError, Figures
from hub_card.licenses import UNCLEAR_TAG, WHEELS, Source, card_of, is_hub_id, name_of, sources_of
from training.common.files import write_json, write_text
from training.evaluation.product_retrieval.metrics import of_quality
from training.features.exporting import QUERY_FOLDER

TAGS = "mmfusion multimodal e-commerce product-search retrieval two-tower".split()
LIBRARY_TAGS = {
    "transformers": ["sentence-transformers", "usearch"],
    "peft": ["lora"],
}  # what loads or takes it besides
EXPORTS = ("onnx", "openvino")
STAGES = ("domain", "align", "fuse")
HANDLER = Path(__file__).with_name("handler.py")
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "peft", "timm", "numpy")
RUN_FILES = ("config.yaml", "environment.json", "metrics.jsonl")
NO_REPORT = "measure the model first: python -m training.evaluate --model {run}/model --data DATA --report {file}"


def build_model(arguments: Any, folder: Path) -> None:
    """Fills a folder with weights, code, processor, exported towers, an endpoint's handler and what it needs, results,
    figures and card.

    Args:
        arguments (`BuildArguments`): run, ids and reports.
        folder (`Path`): an empty folder.

    Raises:
        CardError: if the run has no model or no report, or the card would not be true.
    """
    run = Path(arguments.run)
    copy_weights(run / "model", folder, "train one: python -m training.quickstart")
    shutil.copy(HANDLER, folder)
    write_text(folder / "requirements.txt", "\n".join([*needed(run / "model", "transformers"), ""]))
    build_card(arguments, folder, "model.md", library="transformers", relation="finetune")


def build_adapter(arguments: Any, folder: Path) -> None:
    """The same of a run's adapter, which names the model on the Hub that it belongs to.

    Raises:
        CardError: if the run has no adapter, or its model is not on the Hub and `--base-id` is not given.
    """
    run = Path(arguments.run)
    copy_weights(run / "adapter", folder, "train with --fuse.text lora")
    (folder / "README.md").unlink(missing_ok=True)  # of peft, without content
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    base = arguments.base_id or config["base_model_name_or_path"]
    if not is_hub_id(base):
        raise CardError(f"{file}: belongs to {base}, which is on no Hub; publish it, then give its id as --base-id")
    write_json(file, config | {"base_model_name_or_path": base})
    build_card(arguments, folder, "adapter.md", library="peft", relation="adapter", base=base)


def copy_weights(source: Path, folder: Path, advice: str) -> None:
    """Copies a folder of weights.

    Raises:
        CardError: if it is not there or has no safetensors.
    """
    if not list(source.glob("*.safetensors")):
        raise CardError(f"{source}: no weights there; {advice}")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for file in folder.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        if (cleaned := without_paths(text)) != text:
            write_text(file, cleaned)


def build_card(
    arguments: Any, folder: Path, template: str, library: str, relation: str, base: str | None = None
) -> None:
    """Copies the run's files, renders the card from the copies and writes the evaluation results."""
    run, ids = Path(arguments.run), arguments.dataset_ids
    sources = sources_of(run, ids)
    renamed = {source.path: source.name for source in sources if source.kind == "data"}
    renamed |= {str(run / "model"): arguments.repo_id}
    reports = copy_run(run, folder, arguments.reports, renamed)
    exports = [name for name in EXPORTS if (folder / name / "export.json").is_file()]
    files = {Path(name).stem: folder / "run" / name for name in RUN_FILES} | reports
    figure = Figures(files | {name: folder / name / "export.json" for name in exports})
    pictures = copy_pictures(run, folder, sources)
    unclear = [source for source in sources if not source.is_clear]
    data = card_data(arguments, figure, list(reports), sources, library, relation, base)
    data.tags += exports
    main = next(iter(reports))
    views = figure.keys(main, "views")
    card = render(
        template,
        ModelCard,
        data,
        figure=figure,
        interval=figure.interval,
        keys=figure.keys,
        title=arguments.repo_id.split("/")[1],
        repo_id=arguments.repo_id,
        base=base or "",
        license=arguments.license,
        reports=list(reports),
        names=[figure(name, "data") for name in reports],
        views=views,
        metrics=figure.keys(main, f"views/{views[0]}"),
        data=[source for source in sources if source.kind == "data"],
        models=[source for source in sources if source.kind == "model"],
        wheels=[source.name for source in sources if source.path in WHEELS],
        unclear=unclear,
        unclear_tag=UNCLEAR_TAG,
        synthetic=", ".join(source.name for source in sources if is_synthetic(source)),
        stages=[
            name
            for name in STAGES
            if figure.has("config", f"{name}/epochs") and figure.value("config", f"{name}/epochs") > 0
        ],
        packages=[name for name in PACKAGES if figure.has("environment", f"packages/{name}")],
        exports=exports,
        query_folder=(folder / QUERY_FOLDER / "export.json").is_file(),
        picture=pictures.get("results.png", ""),
        plot=pictures.get("training.png", ""),
        weighs=weighs(folder),
        install=" ".join(f'"{line}"' for line in needed(run / "model", library)),
    )
    card.save(folder / "README.md")
    write_eval_results(folder, figure, list(reports), sources)
    check_card(card, folder)


def copy_run(run: Path, folder: Path, reports: list[str], renamed: dict[str, str]) -> dict[str, Path]:
    """Copies what the run wrote to `run/`, with the names that catalogues and model have on the Hub, without paths.

    Args:
        run (`Path`): the run folder.
        folder (`Path`): the repository's folder.
        reports (`list[str]`): reports of `training.evaluate`; the run's `report.json` if empty.
        renamed (`dict[str, str]`): published names by path.

    Returns:
        The copies of the reports by their names.
    """
    for name in RUN_FILES:
        publish(run / name, folder / "run" / name, renamed)
    found = {}
    for file in reports or [str(run / "report.json")]:
        if not Path(file).is_file():
            raise CardError(f"{file}: no report there; {NO_REPORT.format(run=run, file=file)}")
        name = Path(file).stem
        if name in found or name in ("config", "environment", "metrics"):
            raise CardError(f"--reports {file}: another file is called {name} already; rename it")
        found[name] = folder / "run" / f"{name}.json"
        publish(Path(file), found[name], renamed)
    return found


def publish(source: Path, target: Path, renamed: dict[str, str]) -> None:
    """Copies a JSON, JSON lines or YAML file with published names in place of paths."""
    content = public(Figures({"file": source}).value("file", ""), renamed)
    if source.suffix == ".jsonl":
        write_text(target, "".join(json.dumps(line) + "\n" for line in content))
    elif source.suffix == ".yaml":
        write_text(target, yaml.safe_dump(content, sort_keys=False))
    else:
        write_json(target, content)


def public(value: Any, renamed: dict[str, str]) -> Any:
    """A value without paths: known ones get their published names, of others the last part is kept."""
    if isinstance(value, dict):
        return {name: public(part, renamed) for name, part in value.items()}
    if isinstance(value, list):
        return [public(part, renamed) for part in value]
    if not isinstance(value, str):
        return value
    if value in renamed:
        return renamed[value]
    return name_of(value) if value.startswith(("../", "./")) else without_paths(value)


def copy_pictures(run: Path, folder: Path, sources: list[Source]) -> dict[str, str]:
    """Copies the loss plot and, if every catalogue's licence is open, the picture of what is found; links by name."""
    shown = ["training.png"]
    if all(source.is_clear for source in sources if source.kind == "data"):
        shown.append("results.png")
    found = {}
    for name in shown:
        if (run / name).is_file():
            (folder / "figures").mkdir(exist_ok=True)
            shutil.copy(run / name, folder / "figures" / name)
            found[name] = f"figures/{name}"
    return found


def card_data(
    arguments: Any,
    figure: Figures,
    reports: list[str],
    sources: list[Source],
    library: str,
    relation: str,
    base: str | None,
) -> ModelCardData:
    """The front matter."""
    ids = {
        kind: list(dict.fromkeys(s.repo_id for s in sources if s.kind == kind and s.repo_id))
        for kind in ("data", "model")
    }
    unclear = not all(source.is_clear for source in sources)
    results = eval_results(figure, reports, sources)
    return ModelCardData(
        language=arguments.language,
        license="other" if unclear else arguments.license,
        license_name="unclear" if unclear else None,
        library_name=library,
        pipeline_tag="feature-extraction",
        tags=[*TAGS, *LIBRARY_TAGS[library], *([UNCLEAR_TAG] if unclear else [])],
        base_model=base or ids["model"] or None,
        base_model_relation=relation if base or ids["model"] else None,
        datasets=ids["data"] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name=arguments.repo_id.split("/")[1],
        eval_results=results,
    )


def eval_results(figure: Figures, reports: list[str], sources: list[Source]) -> list[EvalResult]:
    """The metrics of quality of each report's first view, exactly as it has them."""
    found = []
    for report in reports:
        view, name = figure.keys(report, "views")[0], figure(report, "data")
        for metric in of_quality(figure.keys(report, f"views/{view}")):
            found.append(
                EvalResult(
                    task_type="information-retrieval",
                    task_name="Product search",
                    dataset_type=name,
                    dataset_name=name.split("/")[-1],
                    dataset_split=figure(report, "split"),
                    metric_type=metric,
                    metric_name=f"{metric}, {view}",
                    metric_value=figure.value(report, f"views/{view}/{metric}/mean"),
                )
            )
    return found


def write_eval_results(folder: Path, figure: Figures, reports: list[str], sources: list[Source]) -> None:
    """Writes `.eval_results/`, the Hub's newer form, for reports on datasets that are there."""
    ids = {source.repo_id for source in sources if source.kind == "data" and source.repo_id}
    for report in reports:
        name = figure(report, "data")
        if name not in ids and not is_hub_id(name):
            continue
        view = figure.keys(report, "views")[0]
        entries = [
            EvalResultEntry(
                dataset_id=name,
                task_id=f"{figure(report, 'split')}_{metric.replace('@', '_at_')}",
                value=figure.value(report, f"views/{view}/{metric}/mean"),
                notes=f"{metric} of the view {view}; run/{report}.json has intervals and slices",
            )
            for metric in of_quality(figure.keys(report, f"views/{view}"))
        ]
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        write_text(folder / ".eval_results" / f"{name.replace('/', '_')}_{report}.yaml", text)


def is_synthetic(source: Source) -> bool:
    """True if a catalogue's own card says that it is generated."""
    card = card_of(source.path, source.kind) if source.kind == "data" else None
    return bool(card and "synthetic" in (card.data.get("tags") or []))


def needed(model: Path, library: str) -> list[str]:
    """What a reader has to install: for encoders of timm that package too, with the versions of pyproject.toml."""
    names, extras = ("torch", "transformers", "pillow", library), ("train",)
    if '"timm_wrapper"' in (model / "config.json").read_text(encoding="utf-8"):
        names, extras = (*names, "timm", "torchvision"), (*extras, "timm")
    return requirements(names, extras)


def weighs(folder: Path) -> bool:
    """True if queries weigh the blocks of products, as those of all fusion types but the baselines do."""
    file = folder / "config.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("fusion_type", "experts") == "experts"
