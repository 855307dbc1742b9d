"""Benchmarks of a catalogue: embedding it, searching it, and what happens to its index when things go wrong.

    python -m training.benchmarks.scaling

Runs `training.benchmarks.embedding`, `training.benchmarks.search_speed` (on products' vectors, and on generated ones)
and `training.benchmarks.faults` one after the other, some four hours in all, on a machine that has nothing else to do.
Each writes its own file in hub_card/results/ and has more options. The search goes on where it was stopped.
"""

from training.benchmarks.options import CatalogueBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.scaling", CatalogueBenchArguments, __doc__)


from training.benchmarks import embedding, faults, search_speed


def main(arguments: CatalogueBenchArguments) -> None:
    """Runs the parts one after the other."""
    first = arguments.data[0]
    embedding.main(embedding.BenchEmbedArguments(data=first, output=f"{arguments.results}/bench_embed.json"))
    search_speed.main(
        search_speed.SearchBenchArguments(
            arguments.count,
            model=arguments.model,
            data=arguments.data,
            judged=first,
            output=f"{arguments.results}/bench_search.json",
            plot=f"{arguments.results}/bench_search.png",
        )
    )
    search_speed.main(
        search_speed.SearchBenchArguments(
            arguments.count,
            [100_000],
            model=None,
            contestants=["ours i8", "ours i8 256", "hnswlib", "faiss"],
            work="runs/bench_generated",
            output=f"{arguments.results}/bench_generated.json",
            plot="runs/bench_generated/search.png",
        )
    )
    faults.main(faults.FaultArguments(output=f"{arguments.results}/bench_faults.json"))
