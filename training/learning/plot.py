"""Draws a run's losses and dev metrics."""

from pathlib import Path

from matplotlib.figure import Figure

from training.common.files import new_file

COLOURS = {"fused": "#2e9e5b", "text": "#3b6fb6", "image": "#d98a29"}


def draw_training(lines: list[dict], file: Path) -> None:
    """Draws the loss and, if there is a dev split, the dev nDCG@10 of each view over the epochs of all stages.

    Args:
        lines (`list[dict]`): of `metrics.jsonl`.
        file (`Path`): PNG file.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, metrics = figure.subplots(1, 2)
    positions = list(range(len(lines)))
    trained = [(position, line["loss"]) for position, line in enumerate(lines) if "loss" in line]
    losses.plot(*zip(*trained, strict=True), color="#444444", marker="o", markersize=3) if trained else None
    losses.set(title="loss", xlabel="epoch")
    if any(line["dev"] for line in lines):
        for view, colour in COLOURS.items():
            values = [line["dev"][view]["ndcg@10"] for line in lines]
            metrics.plot(positions, values, color=colour, marker="o", markersize=3, label=view)
        metrics.legend(frameon=False)
    metrics.set(title="dev nDCG@10" if metrics.lines else "no dev split", xlabel="epoch", ylim=(0, 1))
    for axes in (losses, metrics):
        for position in (n for n in positions if n and lines[n]["stage"] != lines[n - 1]["stage"]):
            axes.axvline(position - 0.5, color="#bbbbbb", linewidth=1)
    with new_file(file) as partial:
        figure.savefig(partial, format="png", dpi=120)
