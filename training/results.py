"""Copies reports of runs to hub_card/results/ and writes their tables into README.md.

    python -m training.results --runs '{quickstart: runs/quickstart, hm: runs/hm}'

Every number in README comes from a file in hub_card/results/, and every file there from a run's report.json or from
`python -m training.ablate`.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from training.ablate import format_results
from training.arguments import existing_file, run
from training.data import DataError
from training.evaluate import format_report
from training.run_folder import write_json, write_text

START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
ABLATION_START, ABLATION_END = "<!-- ablation: written by `make ablation` -->", "<!-- end of ablation -->"
RESULTS = Path("hub_card/results")


@dataclass
class ResultsArguments:
    """Which runs to show.

    Args:
        runs: Run folder by the name of its results file.
        readme: File whose part between the two markers is written.
        picture: Name of the run whose results.png is copied; pictures of catalogues of unclear licence stay out.
        ablations: Results of training.ablate to show, with commas between.
    """

    runs: dict[str, str] = field(default_factory=lambda: {"quickstart": "runs/quickstart", "hm": "runs/hm"})
    readme: str = "README.md"
    picture: str = "quickstart"
    ablations: str = "hub_card/results/fusion_ablation.json,hub_card/results/fusion_fashion.json"


def main(arguments: ResultsArguments) -> None:
    """Copies the reports and writes the tables."""
    for name, folder in arguments.runs.items():
        source = existing_file(f"{folder}/report.json", "a run folder that training.quickstart wrote")
        write_json(RESULTS / f"{name}.json", json.loads(source.read_text(encoding="utf-8")))
    shutil.copy(Path(arguments.runs[arguments.picture], "results.png"), RESULTS / f"{arguments.picture}.png")
    reports = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in arguments.runs]
    readme = Path(arguments.readme)
    text = insert_tables(readme.read_text(encoding="utf-8"), [markdown(report) for report in reports])
    ablations = [json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments.ablations.split(",")]
    tables = [format_results(ablation) for ablation in ablations]
    write_text(readme, insert_tables(text, tables, ABLATION_START, ABLATION_END))
    print(f"wrote {readme} and {RESULTS}/", flush=True)


def markdown(report: dict) -> str:
    """A report's table, set off from the line that names it."""
    return format_report(report).replace("\n", "\n\n", 1)


def insert_tables(text: str, tables: list[str], start: str = START, end: str = END) -> str:
    """The text with the tables, one after the other, between two markers.

    Raises:
        DataError: if a marker is missing.
    """
    if start not in text or end not in text:
        raise DataError(f"the README lacks the lines {start!r} and {end!r}")
    before, rest = text.split(start)
    return "\n\n".join([before + start, *(table.strip() for table in tables), end]) + rest.split(end)[1]


if __name__ == "__main__":
    run(main, ResultsArguments, __doc__)
