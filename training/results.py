"""Copies reports of runs to hub_card/results/ and writes their tables into README.md.

    python -m training.results --runs '{quickstart: runs/quickstart, hm: runs/hm}'

Every number in README comes from a file in hub_card/results/, and every file there from a run's report.json.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from training.arguments import existing_file, run
from training.data import DataError
from training.evaluate import format_report
from training.run_folder import write_json, write_text

START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
RESULTS = Path("hub_card/results")


@dataclass
class ResultsArguments:
    """Which runs to show.

    Args:
        runs: Run folder by the name of its results file.
        readme: File whose part between the two markers is written.
        picture: Name of the run whose results.png is copied; pictures of catalogues of unclear licence stay out.
    """

    runs: dict[str, str] = field(default_factory=lambda: {"quickstart": "runs/quickstart", "hm": "runs/hm"})
    readme: str = "README.md"
    picture: str = "quickstart"


def main(arguments: ResultsArguments) -> None:
    """Copies the reports and writes the tables."""
    for name, folder in arguments.runs.items():
        source = existing_file(f"{folder}/report.json", "a run folder that training.quickstart wrote")
        write_json(RESULTS / f"{name}.json", json.loads(source.read_text(encoding="utf-8")))
    shutil.copy(Path(arguments.runs[arguments.picture], "results.png"), RESULTS / f"{arguments.picture}.png")
    reports = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in arguments.runs]
    readme = Path(arguments.readme)
    write_text(readme, insert_tables(readme.read_text(encoding="utf-8"), reports))
    print(f"wrote {readme} and {RESULTS}/", flush=True)


def insert_tables(text: str, reports: list[dict]) -> str:
    """The text with the reports' tables between its two markers.

    Raises:
        DataError: if a marker is missing.
    """
    if START not in text or END not in text:
        raise DataError(f"the README lacks the lines {START!r} and {END!r}")
    before, rest = text.split(START)
    tables = [format_report(report).replace("\n", "\n\n", 1) for report in reports]
    return "\n\n".join([before + START, *tables, END]) + rest.split(END)[1]


if __name__ == "__main__":
    run(main, ResultsArguments, __doc__)
