"""Builds a search index from the vectors that training.embed wrote.

    python -m training.index --vectors runs/quickstart/vectors --output runs/quickstart/index

The output folder gets the usearch index, the products that it shows and index.json.
"""

from dataclasses import dataclass
from pathlib import Path

from modeling_mmfusion.index_mmfusion import ProductIndex
from training.arguments import run
from training.vector_shards import read_manifest, read_vectors


@dataclass
class IndexArguments:
    """Which vectors to index.

    Args:
        vectors: Folder that training.embed wrote.
        output: Folder for the index.
        dtype: How vectors are stored: f32, bf16, f16 or i8.
    """

    vectors: str = "runs/quickstart/vectors"
    output: str = "runs/quickstart/index"
    dtype: str = "f32"


def main(arguments: IndexArguments) -> ProductIndex:
    """Builds, saves and returns the index."""
    folder = Path(arguments.vectors)
    manifest = read_manifest(folder)
    vectors, products = read_vectors(folder)
    index = ProductIndex.build(vectors, products.drop_columns("hash"), manifest["model"], arguments.dtype)
    index.save(arguments.output)
    print(f"index: {len(index):,} products in {arguments.output}", flush=True)
    return index


if __name__ == "__main__":
    run(main, IndexArguments, __doc__)
