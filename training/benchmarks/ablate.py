"""Trains variants of a recipe with several seeds and compares them, in and out of their domain.

    python -m training.benchmarks.ablate --recipe training/recipes/ablation.yaml --tests data/hm,data/ikea
    python -m training.benchmarks.ablate --recipe training/recipes/ablation.yaml --variants experts,gated --seeds 0,1

Every variant has the same towers, data, steps and seeds. A run's results are kept in the output folder, one file a
run, and a run whose recipe and data did not change is not done again; so the command can be stopped and called again
at any time. Each file tells the commit that made it: after a change of the code that matters, delete it.

Besides the views of the products it measures catalogues whose pictures are missing, half of them or all, and vectors
that are truncated to a half and a quarter. The first stages that variants have in common are trained once a seed. The
table's intervals are over queries, of the mean over seeds.
"""

from training.benchmarks.options import AblateArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.ablate", AblateArguments, __doc__)

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import prepare_for_inference
from training.benchmarks.ablation_plot import draw_ablation
from training.catalogue.layout import RetrievalSplit, hide_modality, load_split
from training.common.cli import parse
from training.common.environment import digest, environment, git_state
from training.common.files import check_output_file, claim_folder, read_json, write_json, write_text
from training.evaluation.measuring import evaluate, without_pictures
from training.evaluation.report import slice_masks
from training.evaluation.statistics import paired_difference, summarise
from training.features.encoder import Encoder, TowerStates
from training.learning.options import StageArguments, TrainArguments
from training.learning.provenance import data_fingerprint, inputs_fingerprint
from training.learning.stages import STAGES, fit, save_model
from training.learning.starting import start_model
from training.learning.training_set import measured_states, trained_encoders

WRITER = "training.benchmarks.ablate"
METRICS = ("ndcg@10", "recall@100", "mrr@10")
# A variant is a list of options of training.train, as on its command line.
VARIANTS = {
    "experts": [],
    "weighted_mean": ["--model.config.fusion_type=weighted_mean"],
    "sum": ["--model.config.fusion_type=sum"],
    "concat": ["--model.config.fusion_type=concat"],
    "gated": ["--model.config.fusion_type=gated"],
    "text only": ["--data.modality=text"],
    "image only": ["--data.modality=image"],
    "zero-shot text": [
        "--data.modality=text",
        "--model.config.text_dim=384",
        "--model.config.lexical_dim=0",
        "--fuse.epochs=0",
    ],
    "zero-shot text + lexical": ["--data.modality=text", "--fuse.epochs=0"],
    "no lexical block": ["--model.config.lexical_dim=0"],
    "no image levels": ["--model.config.image_levels=[]", "--model.config.image_level_dims=[]"],
    "no cells": ["--model.config.cross_attention=false"],
    "full recipe": [],
    "no domain stage": ["--domain.epochs=0"],
    "no align stage": ["--align.epochs=0"],
    "no fuse stage": ["--fuse.epochs=0"],
    # more pairs through the encoder than in the three stages of hm.yaml with one epoch of align
    "one stage": [
        "--domain.epochs=0",
        "--align.epochs=0",
        "--fuse.text=lora",
        "--fuse.epochs=3",
        "--fuse.batch_size=128",
        "--fuse.positives_per_query=1",
    ],
    "frozen encoders": ["--domain.epochs=0", "--align.epochs=0"],
    "gated, no image levels": [
        "--model.config.fusion_type=gated",
        "--model.config.image_levels=[]",
        "--model.config.image_level_dims=[]",
    ],
}


def main(arguments: AblateArguments) -> dict:
    """Runs what is missing, prints the table, writes it and returns its numbers."""
    if arguments.variants == "list":
        print("\n".join(f"{name:28s} {' '.join(options)}" for name, options in VARIANTS.items()))
        return {}
    variants, tests = arguments.variants, arguments.tests
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise DataError(f"unknown variant {unknown[0]!r}; use some of {', '.join(VARIANTS)}")
    check_output_file(arguments.results, ".json")
    claim_folder(recipe_of(arguments, variants[0], 0).output, WRITER)
    runs, loaded = {}, {}
    for seed in arguments.seeds:
        for variant in variants:
            runs.setdefault(variant, []).append(run_variant(arguments, variant, tests, seed, loaded))
    results = summarise_runs(runs)
    results |= {"recipe": arguments.recipe, "seeds": arguments.seeds, "environment": environment()}
    write_json(Path(arguments.results), results)
    text = format_table(results)
    write_text(Path(arguments.results).with_suffix(".md"), text)
    draw_ablation(results, Path(arguments.results).with_suffix(".png"))
    print(text, flush=True)
    return results


def run_variant(arguments: AblateArguments, variant: str, tests: list[str], seed: int, loaded: dict) -> dict:
    """Trains and measures one variant with one seed, or takes what an earlier call kept.

    Returns:
        `dict`: `data` (catalogue to condition to metric to the value of each query), `slices` (catalogue to the
        slice of each query), `dims` (width of a vector), `parameters` (without the towers) and `seconds`.
    """
    recipe = recipe_of(arguments, variant, seed)
    inputs = digest(inputs_fingerprint(recipe), *(data_fingerprint(path, "test") for path in tests))
    name = "-".join([variant.replace(" ", "_").replace(",", ""), str(seed)])
    file = Path(recipe.output) / "runs" / f"{name}.json"
    if file.is_file() and (kept := read_json(file))["inputs"] == inputs:
        return kept
    print(f"== {variant}, seed {seed}", flush=True)
    started = time.perf_counter()
    model, found = train_variant(recipe, tests, loaded)
    found |= {"inputs": inputs, "dims": model.config.embedding_dim, "parameters": count_heads(model)}
    found |= {"seconds": round(time.perf_counter() - started, 1), "commit": git_state()}
    write_json(file, found)
    return found


def recipe_of(arguments: AblateArguments, variant: str, seed: int) -> TrainArguments:
    """A variant's recipe."""
    options = [f"--{name}={value}" for name, value in arguments.overrides.items()] + VARIANTS[variant]
    words = [f"--recipe={arguments.recipe}", f"--seed={seed}", *options]
    recipe = parse(TrainArguments, "", words, recipe=True)
    return dataclasses.replace(recipe, output=recipe.output or "runs/ablation")


def train_variant(recipe: TrainArguments, tests: list[str], loaded: dict) -> tuple[MMFusionModel, dict]:
    """Trains a variant and measures it on the test splits; `loaded` keeps the splits for the next one."""

    def load(path: str, split: str) -> RetrievalSplit:
        if (path, split) not in loaded:
            loaded[path, split] = load_split(path, split)
        return loaded[path, split]

    encoder = train_stages(recipe, load)
    found = {"data": {}, "slices": {}}
    for path in tests:
        split = hide_modality(load(path, "test"), recipe.data.modality)
        states = measured_states(encoder, split, changed_encoders(recipe))
        found["data"][path] = measure_conditions(encoder.model, split, *states)
        found["slices"][path] = {name: np.flatnonzero(mask).tolist() for name, mask in slice_masks(split).items()}
    return encoder.model, found


def train_stages(recipe: TrainArguments, load: Callable[[str, str], RetrievalSplit]) -> Encoder:
    """Trains a recipe stage by stage, each from the same seed; what variants have in common is trained once.

    The model after `domain` and `align` is kept below the recipe's output, by all that decided it.
    """
    accelerator = Accelerator()
    names = [name for name in STAGES if getattr(recipe, name).epochs > 0]
    nothing = dataclasses.replace(recipe, **{name: StageArguments(epochs=0) for name in STAGES})
    set_seed(recipe.seed)
    encoder = start_model(recipe.model, Path(recipe.output), [])
    prepare_for_inference(encoder.model, str(accelerator.device))
    if not names:
        return fit(accelerator, encoder, nothing, load=load)[0]
    begun, start = nothing, recipe.model.start
    for name in names:
        stage = {name: getattr(recipe, name)}
        begun = dataclasses.replace(begun, **stage)
        key = inputs_fingerprint(begun)
        folder = Path(recipe.output) / "stages" / key
        if folder.is_dir():
            encoder, start = Encoder.load(folder), str(folder)
            continue
        alone = dataclasses.replace(nothing, model=dataclasses.replace(recipe.model, start=start), **stage)
        set_seed(recipe.seed)
        encoder, _, _ = fit(accelerator, encoder, alone, load=load)
        if name != STAGES[-1]:
            save_model(accelerator, encoder, folder)
        start = str(folder)
    return encoder


def changed_encoders(recipe: TrainArguments) -> set[str]:
    """The encoders that any stage of a recipe changes."""
    stages = [getattr(recipe, name) for name in STAGES]
    return set().union(*(trained_encoders(stage) for stage in stages if stage.epochs > 0))


def measure_conditions(
    model: MMFusionModel, split: RetrievalSplit, products: TowerStates, queries: TowerStates
) -> dict[str, dict[str, list[float]]]:
    """Each query's metrics in each view, with pictures missing and with shorter vectors."""
    conditions = {}

    def add(name: str, states: TowerStates, views: tuple[str, ...] = ("fused",)) -> None:
        for view, metrics in evaluate(model, split, states, queries, views, METRICS).items():
            key = name if len(views) == 1 else view
            conditions[key] = {metric: np.round(values, 5).tolist() for metric, values in metrics.items()}

    add("views", products, ("fused", "text", "image"))
    add("half the pictures", without_pictures(products, 0.5))
    add("no pictures", without_pictures(products, 1.0))
    for share, dim in (("1/2", 2), ("1/4", 4)):
        model.config.truncate_dim = model.config.embedding_dim // dim
        add(f"{share} of the dimensions", products)
    model.config.truncate_dim = None
    return conditions


def count_heads(model: MMFusionModel) -> int:
    """Parameters besides the towers."""
    towers = (model.text_model, model.vision_model, getattr(model, "query_model", None))
    in_towers = sum(parameter.numel() for tower in towers if tower for parameter in tower.parameters())
    return model.num_parameters() - in_towers


def summarise_runs(runs: dict[str, list[dict]]) -> dict:
    """Means over seeds with intervals over queries, and the first variant against each other one."""
    table, comparisons = {}, {}
    first = next(iter(runs))
    for variant, found in runs.items():
        table[variant] = {"dims": found[0]["dims"], "parameters": found[0]["parameters"], "data": {}}
        table[variant] |= {name: [one[name] for one in found] for name in ("seconds", "commit")}
        for path in found[0]["data"]:
            table[variant]["data"][path] = summarise_catalogue(found, path)
            theirs, ours = mean_over_seeds(found, path, "fused"), mean_over_seeds(runs[first], path, "fused")
            if variant != first:
                comparisons.setdefault(f"{first}_vs_{variant}", {})[path] = {
                    metric: paired_difference(ours[metric], theirs[metric])
                    | {"ratio": float(ours[metric].mean() / max(theirs[metric].mean(), 1e-9))}
                    for metric in METRICS
                }
    return {"variants": table, "comparisons": comparisons}


def summarise_catalogue(found: list[dict], path: str) -> dict:
    """Conditions and slices of one catalogue: each metric's mean, interval and deviation between seeds."""
    summary = {}
    for condition in found[0]["data"][path]:
        values = mean_over_seeds(found, path, condition)
        summary[condition] = {metric: summarise(values[metric]) for metric in METRICS}
        means = [np.mean(one["data"][path][condition]["ndcg@10"]) for one in found]
        summary[condition]["ndcg@10"]["seeds"] = [round(float(mean), 4) for mean in means]
    slices = found[0]["slices"][path]
    for view in ("fused", "text", "image"):
        values = mean_over_seeds(found, path, view)["ndcg@10"]
        summary[view]["slices"] = {name: float(values[rows].mean()) for name, rows in slices.items()}
    return summary


def mean_over_seeds(found: list[dict], path: str, condition: str) -> dict[str, np.ndarray]:
    """Each query's metrics, averaged over seeds."""
    return {metric: np.mean([one["data"][path][condition][metric] for one in found], axis=0) for metric in METRICS}


def format_table(results: dict) -> str:
    """Markdown: a table a catalogue, a row a variant; nDCG@10 if nothing else is said."""
    lines = []
    for path in next(iter(results["variants"].values()))["data"]:
        head = ["variant", "nDCG@10", "recall@100", "text slice", "image slice", "both slice"]
        head += ["half the pictures", "no pictures", "1/2 dims", "1/4 dims", "dims"]
        lines += [f"\n{path}, test, seeds {results['seeds']}\n", _row(head), _row(["---"] * len(head))]
        for variant, row in results["variants"].items():
            found = row["data"][path]
            ndcg = found["fused"]["ndcg@10"]
            cells = [f"{ndcg['mean']:.3f} [{ndcg['ci95'][0]:.3f}, {ndcg['ci95'][1]:.3f}]"]
            cells += [f"{found['fused']['recall@100']['mean']:.3f}"]
            cells += [f"{found['fused']['slices'].get(name, float('nan')):.3f}" for name in ("text", "image", "both")]
            names = ("half the pictures", "no pictures", "1/2 of the dimensions", "1/4 of the dimensions")
            cells += [f"{found[name]['ndcg@10']['mean']:.3f}" for name in names]
            lines.append(_row([variant, *cells, str(row["dims"])]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
