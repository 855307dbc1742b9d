"""Benchmarks of a catalogue: embedding it, searching it, and what happens to its index when things go wrong.

    python -m training.bench_catalogue

Runs `training.bench_embed`, `training.bench_search` (on products' vectors, and on generated ones) and
`training.bench_faults` one after the other, some four hours in all, on a machine that has nothing else to do. Each
writes its own file in hub_card/results/ and has more options. The search goes on where it was stopped.
"""

from dataclasses import dataclass

from jsonargparse.typing import PositiveInt

from training import bench_embed, bench_faults, bench_search
from training.arguments import run

RESULTS = "hub_card/results"


@dataclass
class CatalogueBenchArguments:
    """What is measured.

    Args:
        count: Vectors to search in.
        model: Model folder whose vectors are searched.
        results: Folder for bench_embed.json, bench_search.json, bench_generated.json and bench_faults.json.
    """

    count: PositiveInt = bench_search.SearchBenchArguments.count
    model: str = bench_search.SearchBenchArguments.model
    results: str = RESULTS


def main(arguments: CatalogueBenchArguments) -> None:
    """Runs the parts one after the other."""
    bench_embed.main(bench_embed.BenchEmbedArguments(output=f"{arguments.results}/bench_embed.json"))
    bench_search.main(
        bench_search.SearchBenchArguments(
            arguments.count,
            model=arguments.model,
            output=f"{arguments.results}/bench_search.json",
            plot=f"{arguments.results}/bench_search.png",
        )
    )
    bench_search.main(
        bench_search.SearchBenchArguments(
            arguments.count,
            "100000",
            model=None,
            contestants="ours i8,hnswlib,faiss",
            work="runs/bench_generated",
            output=f"{arguments.results}/bench_generated.json",
            plot="runs/bench_generated/search.png",
        )
    )
    bench_faults.main(bench_faults.FaultArguments(output=f"{arguments.results}/bench_faults.json"))


if __name__ == "__main__":
    run(main, CatalogueBenchArguments, __doc__)
