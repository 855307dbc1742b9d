"""What `training.embed` and `training.export` are told."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import PositiveInt

from training.catalogue.options import ALL

FORMATS = ("onnx", "openvino")  # of exported towers


@dataclass
class EmbedArguments:
    """Which catalogue to embed with which model, and how.

    Args:
        model: Folder of a trained model, or its Hub id.
        data: Catalogue: a folder or Hub dataset id with a corpus; queries and judgments are not needed.
        split: Split to embed, several with + between; all is the whole catalogue.
        output: Folder for the vectors; null is vectors/ beside the model.
        truncate_dim: Length of the vectors, each block's first dimensions in proportion; null for all.
        backend: What runs the product tower. auto is torch on a GPU; on a CPU it is openvino or onnx, if installed
            and exported from this model by training.export, and else torch.
        exported: Folder that holds openvino/ or onnx/; null for the model's own.
        precision: Of torch; null is bfloat16 on a GPU that has it and else float32.
        compile: Compile the encoders with torch.compile, for long runs.
        batch_tokens: Most tokens of a batch, with padding; null is 2,048 on a CPU and 65,536 on a GPU.
        batch_pictures: Most pictures of a batch; null is 16 on a CPU and 256 on a GPU.
        workers: Threads that read and resize pictures; null is one a core, at least 2 and at most 16.
        shard_size: Products of a shard, what a crash costs at most.
    """

    model: str = "runs/quickstart/model"
    data: str = "data/demo_shop"
    split: str = ALL
    output: str | None = None
    truncate_dim: PositiveInt | None = None
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    exported: str | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    compile: bool = False
    batch_tokens: PositiveInt | None = None
    batch_pictures: PositiveInt | None = None
    workers: PositiveInt | None = None
    shard_size: PositiveInt = 8192


@dataclass
class ExportArguments:
    """Which model to export, and to what.

    Args:
        model: Folder of a trained model, or its Hub id.
        output: Folder that gets onnx/ and openvino/; null is the model's own, where the Hub looks for them.
        formats: Formats to write, with commas between: onnx, openvino, and query, the query tower as a folder of its
            own for text-embeddings-inference, Vespa, OpenSearch and transformers.js.
        quantize_query: int8 writes the query tower of onnx and query with 8-bit weights too, a quarter of the size and
            twice as fast; its vectors differ a little.
        pictures: Write picture.onnx too, which makes the product tower's pixel_values of an RGB picture of any size
            as the image processor does, for callers in other languages; they differ a little.
    """

    model: str = "runs/quickstart/model"
    output: str | None = None
    formats: list[str] = field(default_factory=lambda: list(FORMATS))
    quantize_query: Literal["int8"] | None = None
    pictures: bool = False
