"""The one path from products and queries to vectors; training, evaluation, index building and search all use it.

The towers are by far the dearest part and often frozen, so what they say is kept in a cache, keyed by the towers'
weights, the processor and the data; the fusion network turns cached features into vectors in no time.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.modeling_mmfusion import hidden_size_of
from modeling_mmfusion.processing_mmfusion import is_missing, load_picture
from training.data import DataError, RetrievalSplit
from training.towers import cache_folder

BATCH_SIZE = 16  # on a CPU the fastest of 4, 8, 16, 32 and 64: a larger batch's feature maps leave the cache
HEAD_BATCH_SIZE = 4096
TOWERS = ("text_model.", "vision_model.", "query_model.")


@dataclass
class ProductFeatures:
    """What the frozen towers say about N products.

    Attributes:
        text (`np.ndarray` of shape `(N, text_hidden_size)`): unit text features, float32.
        image (`np.ndarray` of shape `(N, images, vision_hidden_size)`): picture features, float32, padded with zeros.
        text_mask (`np.ndarray` of shape `(N,)`): True where the product has text.
        image_mask (`np.ndarray` of shape `(N, images)`): True where there is a picture.
    """

    text: np.ndarray
    image: np.ndarray
    text_mask: np.ndarray
    image_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.text)

    def inputs(self, rows, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """The arguments of `get_product_features` for some rows (a slice or an array of indices)."""
        arrays = {
            "text_features": self.text,
            "image_features": self.image,
            "text_mask": self.text_mask,
            "image_mask": self.image_mask,
        }
        return {name: torch.from_numpy(array[rows]).to(device) for name, array in arrays.items()}


def load_model(name: str | os.PathLike, device: str | None = None) -> tuple[MMFusionModel, MMFusionProcessor]:
    """Loads a model folder or Hub id and its processor, in eval mode, on a GPU if there is one.

    Raises:
        DataError: if there is no such model, it is none of ours or weights are missing.
    """
    path = Path(name)
    is_hub_id = isinstance(name, str) and not name.startswith((".", "/")) and name.count("/") == 1
    if not path.is_dir() and not is_hub_id:
        raise DataError(f"{name}: no such model folder; train one (make quickstart) or give a Hub id such as org/name")
    try:
        model, loading = MMFusionModel.from_pretrained(name, output_loading_info=True)
        processor = MMFusionProcessor.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise DataError(f"{name}: can't load the model: {' '.join(str(error).split())[:300]}") from error
    if missing := sorted(loading["missing_keys"]):
        raise DataError(f"{name}: the checkpoint lacks {len(missing)} weights, such as {missing[0]}; train it again")
    return prepare_for_inference(model, device), processor


def prepare_for_inference(model: MMFusionModel, device: str | None = None) -> MMFusionModel:
    """Puts a model in eval mode on its device; convolutions run channels last, 1.5 to 4 times faster on a CPU."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.vision_model.to(memory_format=torch.channels_last)
    return model.to(device).eval()


def product_features(
    model: MMFusionModel,
    processor: MMFusionProcessor,
    split: RetrievalSplit,
    batch_size: int = BATCH_SIZE,
    cache: bool = True,
) -> ProductFeatures:
    """Runs the product tower's encoders over a catalogue's split, or takes what an earlier run kept.

    An unreadable picture is counted in `split.problems` and its product embedded from its other pictures and text.

    Args:
        model (`MMFusionModel`): in eval mode.
        processor (`MMFusionProcessor`): the model's.
        split (`RetrievalSplit`): the catalogue.
        batch_size (`int`, *optional*, defaults to 16): products a batch.
        cache (`bool`, *optional*, defaults to `True`): keep the features below `cache_folder()`.
    """
    file = _cache_file("products", towers_fingerprint(model, processor), split.fingerprint)
    arrays, bad_rows = _read_cache(file) if cache else (None, [])
    if arrays is None:
        arrays, bad_rows = _run_product_towers(model, processor, split, batch_size)
        if cache:
            _write_cache(file, arrays, bad_rows)
    for row, reason in bad_rows:
        split.problems.add("unreadable image (embedded without it)", f"{split.where(row, 'image')}: {reason}")
    return ProductFeatures(**arrays)


def query_features(
    model: MMFusionModel, processor: MMFusionProcessor, texts: list[str], cache: bool = True, batch_size: int = 64
) -> np.ndarray:
    """Runs the query tower's encoder over texts; float32 unit features of shape `(len(texts), hidden_size)`."""
    file = _cache_file("queries", towers_fingerprint(model, processor), *texts)
    arrays, _ = _read_cache(file) if cache else (None, [])
    if arrays is None:
        arrays = {"text": _run_query_tower(model, processor, texts, batch_size)}
        if cache:
            _write_cache(file, arrays, [])
    return arrays["text"]


@torch.inference_mode()
def embed_products(model: MMFusionModel, features: ProductFeatures, view: str = "fused") -> np.ndarray:
    """Vectors of products from their features: float32 of shape `(N, embedding_dim)`."""
    outputs = []
    for start in range(0, len(features), HEAD_BATCH_SIZE):
        inputs = features.inputs(slice(start, start + HEAD_BATCH_SIZE), model.device)
        outputs.append(model.get_product_features(**inputs, view=view).pooler_output.float().cpu().numpy())
    return np.concatenate(outputs)


@torch.inference_mode()
def embed_queries(model: MMFusionModel, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(N, embedding_dim)` and block weights `(N, 3)` of queries from their features; both float32."""
    output = model.get_query_features(text_features=torch.from_numpy(features).to(model.device))
    return output.pooler_output.float().cpu().numpy(), output.block_weights.float().cpu().numpy()


def _run_query_tower(model, processor, texts, batch_size) -> np.ndarray:
    outputs, order = [], []
    with tqdm(total=len(texts), desc="query tower", unit="query", leave=False) as progress:
        for rows in _batches_by_length(texts, batch_size):
            inputs = processor.process_queries([texts[row] for row in rows]).to(model.device)
            with torch.inference_mode():
                outputs.append(model.get_query_features(**inputs).text_features.float().cpu().numpy())
            order.extend(rows)
            progress.update(len(rows))
    return np.concatenate(outputs)[np.argsort(order)]


def _run_product_towers(model, processor, split, batch_size):
    """Arrays by name, and `(row, reason)` for each picture that could not be read."""
    corpus, outputs, order, bad_rows = split.corpus, [], [], []
    image_columns = [name for name in corpus.column_names if name == "image"]
    texts = [processor.product_text(product) for product in corpus.remove_columns(image_columns)]
    with tqdm(total=len(texts), desc=f"towers: {split.name}", unit="product") as progress:
        for rows in _batches_by_length(texts, batch_size):
            products = [corpus[row] for row in rows]
            for row, product in zip(rows, products, strict=True):
                product["image"] = _readable_pictures(product.get("image"), row, bad_rows)
            outputs.append(_tower_batch(model, processor, products))
            order.extend(rows)
            progress.update(len(rows))
    images = max(output["image_mask"].shape[1] for output in outputs)
    positions = np.argsort(order)
    arrays = {}
    for name in ("text", "image", "text_mask", "image_mask"):
        parts = [output[name] for output in outputs]
        if name.startswith("image"):
            parts = [
                np.pad(part, [(0, 0), (0, images - part.shape[1])] + [(0, 0)] * (part.ndim - 2)) for part in parts
            ]
        arrays[name] = np.concatenate(parts)[positions]
    return arrays, sorted(bad_rows)


def _tower_batch(model, processor, products) -> dict[str, np.ndarray]:
    """The towers' features of one batch; a batch without pictures gets one missing picture a product."""
    inputs = processor.process_products(products).to(model.device)
    with torch.inference_mode():
        output = model.get_product_features(**inputs)
    text = output.text_features.float().cpu().numpy()
    text_mask = inputs["text_mask"].cpu().numpy()
    if output.image_features is None:
        image = np.zeros((len(products), 1, hidden_size_of(model.config.vision_config)), dtype=np.float32)
        return {"text": text, "image": image, "text_mask": text_mask, "image_mask": np.zeros((len(products), 1), bool)}
    image, image_mask = output.image_features.float().cpu().numpy(), inputs["image_mask"].cpu().numpy()
    return {"text": text, "image": image * image_mask[..., None], "text_mask": text_mask, "image_mask": image_mask}


def _readable_pictures(pictures, row: int, bad_rows: list[tuple[int, str]]) -> list:
    """Those of a product's pictures that can be read; the others' reasons go to `bad_rows`."""
    readable = []
    for picture in pictures if isinstance(pictures, list) else [pictures]:
        if not is_missing(picture):
            try:
                readable.append(load_picture(picture))
            except ValueError as error:
                bad_rows.append((row, str(error)))
    return readable


def _batches_by_length(texts: list[str], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of texts of like length, so that little is padded; the longest come first."""
    order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def towers_fingerprint(model: MMFusionModel, processor: MMFusionProcessor) -> str:
    """A digest of all that decides what the towers say: encoders, pooling, tokenizers and image preprocessing."""
    digest = hashlib.sha256(processor.to_json_string().encode())
    for tokenizer in (processor.tokenizer, processor.query_tokenizer):
        vocabulary = sorted(tokenizer.get_vocab().items())
        digest.update(f"{type(tokenizer).__name__} {vocabulary}".encode())
    digest.update(f"{model.config.text_pooling} {model.config.query_pooling} {model.dtype}".encode())
    _update_with_weights(digest, model, lambda name: name.startswith(TOWERS))
    return digest.hexdigest()


def model_fingerprint(model: MMFusionModel, processor: MMFusionProcessor) -> str:
    """A digest of all that decides the vectors: the towers' and the weights of the heads and the fusion network."""
    digest = hashlib.sha256(towers_fingerprint(model, processor).encode())
    _update_with_weights(digest, model, lambda name: not name.startswith(TOWERS))
    return digest.hexdigest()[:32]


def _update_with_weights(digest, model: MMFusionModel, wanted: Callable[[str], bool]) -> None:
    for name, tensor in sorted(model.state_dict().items()):
        if wanted(name):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def _cache_file(*parts: str) -> Path:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_folder() / "features" / f"{digest[:32]}.safetensors"


def _read_cache(file: Path) -> tuple[dict[str, np.ndarray] | None, list[tuple[int, str]]]:
    if not file.exists():
        return None, []
    with safe_open(file, framework="np") as stored:
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        return arrays, json.loads(stored.metadata()["bad_rows"])


def _write_cache(file: Path, arrays: dict[str, np.ndarray], bad_rows: list[tuple[int, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    save_file(arrays, partial, metadata={"bad_rows": json.dumps(bad_rows)})
    partial.rename(file)
