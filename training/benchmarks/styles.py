"""Writes a table of each style of query by system, from what training.benchmarks.compare measured.

    python -m training.styles --data data/hm --output data/hm_styles
    python -m training.benchmarks.compare --models '{mmfusion: runs/hm/model, zero-shot text: minilm}' \\
        --data data/hm_styles,data/ikea_styles --results runs/compare/styles.json
    python -m training.benchmarks.styles --results runs/compare/styles.json

In brackets is what a style costs beside the queries that its own were made of.
"""

from training.benchmarks.options import StyleTableArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.styles", StyleTableArguments, __doc__)

from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from training.common.files import check_output_file, read_json, write_text
from training.evaluation.styles import format_cost


def main(arguments: StyleTableArguments) -> str:
    """Prints the tables, writes and returns them."""
    if arguments.output:
        check_output_file(arguments.output, ".md")
    results = read_json(existing_file(arguments.results, "results of training.benchmarks.compare"))
    systems = [name.strip() for name in arguments.systems.split(";") if name.strip()] or list(results["rows"])
    if unknown := [name for name in systems if name not in results["rows"]]:
        raise DataError(f"--systems: {arguments.results} has no row {unknown[0]!r}; use {'; '.join(results['rows'])}")
    text = format_style_tables(results, systems)
    if not text:
        raise DataError(f"{arguments.results}: no query has a style; compare on what training.styles writes")
    if arguments.output:
        write_text(Path(arguments.output), text + "\n")
    print(text, flush=True)
    return text


def format_style_tables(results: dict, systems: list[str]) -> str:
    """A Markdown table a catalogue: a row a style, a column a system; `""` if no catalogue has styles.

    Args:
        results (`dict`): of training.benchmarks.compare.
        systems (`list[str]`): the names of its rows to show.
    """
    cells = {name: results["rows"][name] for name in systems}
    paths = dict.fromkeys(path for row in cells.values() for path, cell in row.items() if "styles" in cell)
    return "\n\n".join(_table(results["metric"], path, cells) for path in paths)


def _table(metric: str, path: str, cells: dict[str, dict]) -> str:
    shown = {name: row[path]["styles"] for name, row in cells.items() if path in row}
    lines = [f"| {Path(path).name}, {metric} | queries | " + " | ".join(shown) + " |"]
    lines.append("| --- |" + " --- |" * (len(shown) + 1))
    for style, found in next(iter(shown.values())).items():
        told = [format_cost(styles[style]) for styles in shown.values()]
        lines.append(f"| {style} | {found['n']:,} | " + " | ".join(told) + " |")
    return "\n".join(lines)
