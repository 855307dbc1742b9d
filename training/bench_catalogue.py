"""Benchmarks of a catalogue: searching it (`training.bench_search`).

    python -m training.bench_catalogue

All figures go to hub_card/results/bench_catalogue.json, each part under its name; see the parts for their options.
"""

from dataclasses import dataclass

from training import bench_search
from training.arguments import run


@dataclass
class CatalogueBenchArguments:
    """What is measured.

    Args:
        count: Vectors to search in.
        model: Model folder.
        output: JSON file for the figures.
    """

    count: int = bench_search.SearchBenchArguments.count
    model: str = bench_search.SearchBenchArguments.model
    output: str = bench_search.SearchBenchArguments.output


def main(arguments: CatalogueBenchArguments) -> None:
    """Runs the parts one after the other."""
    bench_search.main(bench_search.SearchBenchArguments(arguments.count, arguments.model, output=arguments.output))


if __name__ == "__main__":
    run(main, CatalogueBenchArguments, __doc__)
