"""Draws an ablation: each variant's quality, what shorter vectors cost, and what missing pictures cost."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from training.common.files import new_file

METRIC = "ndcg@10"
BYTES_PER_NUMBER = 4  # vectors are measured as float32
SHARES_OF_DIMS = {"1/4 of the dimensions": 1 / 4, "1/2 of the dimensions": 1 / 2, "fused": 1}
SHARES_MISSING = {"fused": 0.0, "half the pictures": 0.5, "no pictures": 1.0}


def draw_ablation(results: dict, file: Path) -> None:
    """Draws a row of three charts a catalogue: bars with 95% intervals, quality against bytes a product, quality
    against the share of products whose picture is missing.

    Args:
        results (`dict`): what `training.benchmarks.ablate` writes.
        file (`Path`): PNG file.
    """
    variants = results["variants"]
    paths = list(next(iter(variants.values()))["data"])
    colours = dict(zip(variants, matplotlib.colormaps["tab10"].colors, strict=False))
    height = 1.4 + 0.26 * len(variants)
    figure = Figure(figsize=(11, max(height, 2.8) * len(paths)), layout="constrained")
    for row, path in zip(figure.subplots(len(paths), 3, squeeze=False), paths, strict=True):
        bars, dims, pictures = row
        _draw_bars(bars, variants, path, colours)
        for name, variant in variants.items():
            found = variant["data"][path]
            widths = [variant["dims"] * BYTES_PER_NUMBER * share for share in SHARES_OF_DIMS.values()]
            for axes, places, conditions in (
                (dims, widths, SHARES_OF_DIMS),
                (pictures, list(SHARES_MISSING.values()), SHARES_MISSING),
            ):
                heights = [found[condition][METRIC]["mean"] for condition in conditions]
                axes.plot(places, heights, color=colours[name], marker="o", markersize=3, linewidth=1.2)
        dims.set(title="bytes a product", xscale="log", ylim=(0, None))
        dims.set_xticks([1024, 2048, 4096], ["1 KiB", "2 KiB", "4 KiB"])
        dims.minorticks_off()
        pictures.set(title="pictures missing", ylim=(0, None))
        pictures.set_xticks([0, 0.5, 1], ["none", "half", "all"])
    with new_file(file) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_bars(axes, variants: dict, path: str, colours: dict) -> None:
    """The fused view of each variant, the first on top."""
    for place, (name, variant) in enumerate(variants.items()):
        found = variant["data"][path]["fused"][METRIC]
        low, high = found["ci95"]
        errors = [[found["mean"] - low], [high - found["mean"]]]
        axes.barh(place, found["mean"], xerr=errors, color=colours[name], height=0.7, error_kw={"linewidth": 1})
        axes.text(high + 0.02, place, f"{found['mean']:.3f}", va="center", fontsize=7)
    axes.set_yticks(range(len(variants)), [name.replace("_", " ") for name in variants])
    axes.invert_yaxis()
    axes.set(title=f"{Path(path).name}: nDCG@10 with 95% interval", xlim=(0, 1.1))
