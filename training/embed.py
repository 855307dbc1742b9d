"""Embeds a catalogue: products to vectors in a Parquet file.

    python -m training.embed --model runs/quickstart/model --data data/demo_shop --split test --output runs/vectors

The output folder gets vectors.parquet (`_id`, `vector`, and the columns that a result list shows) and manifest.json.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training.arguments import existing_file, run
from training.data import RetrievalSplit, load_products
from training.embedding import embed_products, load_model, product_features
from training.feature_cache import model_fingerprint
from training.run_folder import new_folder, write_json

SHOWN_COLUMNS = ("title", "description", "category", "brand", "price")


@dataclass
class EmbedArguments:
    """Which catalogue to embed with which model.

    Args:
        model: Folder of a trained model, or its Hub id.
        data: Catalogue: a folder or Hub dataset id with a corpus; queries and judgments are not needed.
        split: Split to embed.
        output: Folder for the vectors.
        batch_size: Products that go through the towers at a time.
        truncate_dim: Length of the vectors, each block's first dimensions in proportion; null for all.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = "test"
    output: str = "runs/quickstart/vectors"
    batch_size: int = 16
    truncate_dim: int | None = None


def catalogue_table(model: MMFusionModel, processor: MMFusionProcessor, split: RetrievalSplit, batch_size: int = 16):
    """The catalogue as a table of `_id`, the shown columns and `vector` (float32, fixed-size list)."""
    vectors = embed_products(model, product_features(model, processor, split, batch_size))
    columns = {"_id": split.product_ids}
    columns |= {name: split.corpus[name][:] for name in SHOWN_COLUMNS if name in split.corpus.column_names}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table(columns)


def read_vectors(folder: Path) -> tuple[np.ndarray, pa.Table]:
    """Vectors `(N, dim)`, float32, and the table of the other columns of a folder that this script wrote."""
    table = pq.read_table(existing_file(folder / "vectors.parquet", "a folder that training.embed wrote"))
    column = table.column("vector").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return vectors, table.drop_columns("vector")


def main(arguments: EmbedArguments) -> Path:
    """Embeds, writes the folder and returns it."""
    model, processor = load_model(arguments.model, truncate_dim=arguments.truncate_dim)
    split = load_products(arguments.data, arguments.split)
    table = catalogue_table(model, processor, split, arguments.batch_size)
    output = Path(arguments.output)
    with new_folder(output) as partial:
        pq.write_table(table, partial / "vectors.parquet")
        manifest = {"data": arguments.data, "split": arguments.split, "model": model_fingerprint(model, processor)}
        manifest |= {"count": table.num_rows, "dim": model.config.projection_dim}
        manifest["blocks"] = dict(zip(model.config.blocks, model.output_dims, strict=True))
        write_json(partial / "manifest.json", manifest)
    split.problems.report()
    print(f"vectors: {table.num_rows:,} products x {model.config.projection_dim} dimensions in {output}", flush=True)
    return output


if __name__ == "__main__":
    run(main, EmbedArguments, __doc__)
