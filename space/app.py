"""A Gradio Space: type what a shopper would, see which products the model finds.

    MMFUSION_RUN=runs/quickstart MMFUSION_DATA=data/demo_shop python space/app.py

`MMFUSION_RUN` is a run folder with model/ and index/; `MMFUSION_DATA` the catalogue whose pictures are shown (a folder
or a Hub dataset id) and `MMFUSION_SPLIT` its split. `/search` is the endpoint for `gradio_client`.
"""

import os
import sys
from io import BytesIO
from pathlib import Path

import datasets
import gradio as gr
import torch
from PIL import Image

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.index_mmfusion import ProductIndex

RUN = Path(os.environ.get("MMFUSION_RUN", "runs/quickstart"))
DATA = os.environ.get("MMFUSION_DATA", "data/demo_shop")
SPLIT = os.environ.get("MMFUSION_SPLIT", "test")
EXAMPLES = ["green striped mug", "navy wool scarf", "floral cushion", "waterproof backpack", "red dotted dress"]
MAX_QUERY_CHARACTERS = 500


class Shop:
    """A model, its index and the pictures of its catalogue.

    Args:
        run (`Path`): run folder with `model/` and `index/`.
        data (`str`): the catalogue: a folder or a Hub dataset id.
        split (`str`): the split that was indexed.
    """

    def __init__(self, run: Path, data: str, split: str):
        self.model = MMFusionModel.from_pretrained(run / "model").eval()
        self.processor = MMFusionProcessor.from_pretrained(run / "model")
        self.index = ProductIndex.load(run / "index")
        # of a local folder that was written again, `datasets` would give the old rows
        mode = "force_redownload" if Path(data).is_dir() else None
        corpus = datasets.load_dataset(data, "corpus", split=split, download_mode=mode)
        self.pictures = corpus.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self.rows = {str(product_id): row for row, product_id in enumerate(corpus["_id"])}

    @torch.inference_mode()
    def search(self, query: str, k: int = 12) -> tuple[list[tuple[Image.Image, str]], str]:
        """Pictures with captions of the best `k` products, and how the query weighs text and picture."""
        if not query.strip():
            raise gr.Error("Type what you are looking for.")
        inputs = self.processor.process_queries([query[:MAX_QUERY_CHARACTERS]])
        output = self.model.get_query_features(**inputs)
        results = self.index.search(output.pooler_output.numpy(), int(k))[0]
        weights = zip(self.model.config.blocks, (output.block_weights[0] ** 2).tolist(), strict=True)
        shares = f"This query weighs {', '.join(f'{name} {share:.0%}' for name, share in weights)}."
        return [(self.picture(found.product_id), self.caption(found)) for found in results], shares

    def picture(self, product_id: str) -> Image.Image:
        """A product's picture, or a grey square if it has none."""
        stored = self.pictures[self.rows[product_id]]["image"]
        if stored is None or not stored["bytes"]:
            return Image.new("RGB", (224, 224), "lightgrey")
        return Image.open(BytesIO(stored["bytes"])).convert("RGB")

    @staticmethod
    def caption(found) -> str:
        """Title, price and score on one line."""
        parts = (found.product.get("title"), found.product.get("price"), f"{found.score:.2f}")
        return " · ".join(str(part) for part in parts if part)


def build(shop: Shop) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="mmfusion") as page:
        gr.Markdown("# mmfusion\nProduct search that reads the listing and looks at the picture.")
        query = gr.Textbox(label="Search", placeholder="green striped mug", autofocus=True)
        count = gr.Slider(4, 40, value=12, step=4, label="Results")
        shares = gr.Markdown()
        results = gr.Gallery(label="Products", columns=4, object_fit="contain", height="auto")
        gr.Examples(EXAMPLES, query)
        query.submit(shop.search, [query, count], [results, shares], api_name="search")
    return page


if __name__ == "__main__":
    if not (RUN / "index" / "index.json").is_file():
        sys.exit(f"error: {RUN}: no model and index there yet; run: make quickstart")
    build(Shop(RUN, DATA, SPLIT)).launch()
