"""The one path from products and queries to vectors; training, evaluation, index building and search all use it.

The towers are by far the dearest part and often frozen, so what they say is kept in a cache, keyed by the towers'
weights, the processor and the data; the fusion network turns cached features into vectors in no time.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers import BatchFeature

from modeling_mmfusion import MMFusionModel, MMFusionProcessor, MMFusionStates
from modeling_mmfusion.processing_mmfusion import is_missing, load_picture
from training.data import DataError, RetrievalSplit
from training.towers import cache_folder

BATCH_SIZE = 16  # on a CPU the fastest of 4, 8, 16, 32 and 64: a larger batch's feature maps leave the cache
HEAD_BATCH_SIZE = 4096
TOWERS = ("text_model.", "vision_model.", "query_model.")


@dataclass
class TowerStates:
    """What the frozen towers say about N queries or products.

    Attributes:
        arrays (`dict[str, np.ndarray]`): the fields of [`MMFusionStates`], each with N rows and padded with zeros;
            features are float32, the states of single tokens and cells float16.
    """

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["text_features"])

    def states(self, rows, device: torch.device | str = "cpu") -> MMFusionStates:
        """The states of some rows (a slice or an array of indices)."""
        found = {name: torch.from_numpy(array[rows]).to(device) for name, array in self.arrays.items()}
        return MMFusionStates(**{name: to_model_dtype(tensor) for name, tensor in found.items()})


def to_model_dtype(tensor: torch.Tensor) -> torch.Tensor:
    """Float16, in which states are kept, to float32; anything else as it is."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def load_model(
    name: str | os.PathLike, device: str | None = None, truncate_dim: int | None = None
) -> tuple[MMFusionModel, MMFusionProcessor]:
    """Loads a model folder or Hub id and its processor, in eval mode, on a GPU if there is one.

    Args:
        name (`str`): folder or Hub id.
        device (`str`, *optional*): such as `cpu`.
        truncate_dim (`int`, *optional*): length of the vectors; see [`MMFusionConfig`].

    Raises:
        DataError: if there is no such model, it is none of ours, weights are missing or it can't be truncated so.
    """
    path = Path(name)
    is_hub_id = isinstance(name, str) and not name.startswith((".", "/")) and name.count("/") == 1
    if not path.is_dir() and not is_hub_id:
        raise DataError(f"{name}: no such model folder; train one (make quickstart) or give a Hub id such as org/name")
    try:
        model, loading = MMFusionModel.from_pretrained(name, output_loading_info=True)
        model.config.truncate_dim = truncate_dim or model.config.truncate_dim
        model.config.truncated_dims(model.config.projection_dim)
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
) -> TowerStates:
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
    rows = split.corpus.remove_columns([name for name in split.corpus.column_names if name == "image"])
    texts = [processor.product_text(product) for product in rows]
    return _with_lexical(model, arrays, texts, partial(_product_tokens, processor))


def query_features(
    model: MMFusionModel, processor: MMFusionProcessor, texts: list[str], cache: bool = True, batch_size: int = 64
) -> TowerStates:
    """Runs the query tower's encoder over texts, or takes what an earlier run kept."""
    file = _cache_file("queries", towers_fingerprint(model, processor), *texts)
    arrays, _ = _read_cache(file) if cache else (None, [])
    if arrays is None:
        arrays = _run_query_tower(model, processor, texts, batch_size)
        if cache:
            _write_cache(file, arrays, [])
    return _with_lexical(model, arrays, texts, processor.process_queries)


@torch.inference_mode()
def embed_products(model: MMFusionModel, products: TowerStates, view: str = "fused") -> np.ndarray:
    """Vectors of products from what the towers say: float32 of shape `(N, embedding_dim)`."""
    outputs = []
    for start in range(0, len(products), HEAD_BATCH_SIZE):
        states = products.states(slice(start, start + HEAD_BATCH_SIZE), model.device)
        outputs.append(model.get_product_features(states=states, view=view).pooler_output.float().cpu().numpy())
    return np.concatenate(outputs)


@torch.inference_mode()
def embed_queries(model: MMFusionModel, queries: TowerStates) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(N, embedding_dim)` and block weights `(N, blocks)` of queries; both float32."""
    output = model.get_query_features(states=queries.states(slice(None), model.device))
    return output.pooler_output.float().cpu().numpy(), output.block_weights.float().cpu().numpy()


def _product_tokens(processor: MMFusionProcessor, texts: list[str]) -> BatchFeature:
    return processor.process_products([{"text": text} for text in texts])


@torch.inference_mode()
def _with_lexical(model, arrays, texts, tokenize) -> TowerStates:
    """Adds the lexical features, which cost nothing and are not kept: models of other widths share a cache."""
    parts = []
    for start in range(0, len(texts), HEAD_BATCH_SIZE):
        inputs = tokenize(texts[start : start + HEAD_BATCH_SIZE])
        found = model.lexical_features(inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device))
        parts.append(found.float().cpu().numpy())
    return TowerStates({**arrays, "lexical_features": np.concatenate(parts)})


def _run_query_tower(model, processor, texts, batch_size) -> dict[str, np.ndarray]:
    outputs, order = [], []
    with tqdm(total=len(texts), desc="query tower", unit="query", leave=False) as progress:
        for rows in _batches_by_length(texts, batch_size):
            with torch.inference_mode():
                inputs = processor.process_queries([texts[row] for row in rows]).to(model.device)
                outputs.append(_to_arrays(model.encode_queries(**inputs)))
            order.extend(rows)
            progress.update(len(rows))
    return _join_batches(outputs, order)


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
            inputs = processor.process_products(products).to(model.device)
            with torch.inference_mode():
                outputs.append(_to_arrays(model.encode_products(**inputs)))
            order.extend(rows)
            progress.update(len(rows))
    return _join_batches(outputs, order), sorted(bad_rows)


def _to_arrays(states: MMFusionStates) -> dict[str, np.ndarray]:
    """A batch's states on their way to the cache; what belongs to no picture is set to 0."""
    arrays = {}
    for name, tensor in states.items():
        if name == "lexical_features":
            continue
        if name.startswith("image_") and name != "image_mask":
            mask = states.image_mask.reshape(states.image_mask.shape + (1,) * (tensor.ndim - 2))
            tensor = tensor.masked_fill(~mask, 0)
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16 if name.endswith("_states") else torch.float32)
        arrays[name] = tensor.cpu().numpy()
    return arrays


def _join_batches(outputs: list[dict[str, np.ndarray]], order: list[int]) -> dict[str, np.ndarray]:
    """Batches as one, in the order of the rows, each array padded to its longest batch."""
    positions, arrays = np.argsort(order), {}
    for name in outputs[0]:
        parts = [output[name] for output in outputs]
        shape = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
        joined = np.zeros((len(order), *shape), dtype=parts[0].dtype)
        start = 0
        for part in parts:
            joined[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
            start += len(part)
        arrays[name] = joined[positions]
    return arrays


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
    settings = json.loads(processor.to_json_string(), object_hook=without_auto_map)
    digest = hashlib.sha256((json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    for tokenizer in (processor.tokenizer, processor.query_tokenizer):
        vocabulary = sorted(tokenizer.get_vocab().items())
        digest.update(f"{type(tokenizer).__name__} {vocabulary}".encode())
    settings = ("text_pooling", "query_pooling", "image_levels", "cross_attention")
    digest.update(f"{[getattr(model.config, name) for name in settings]} {model.dtype}".encode())
    _update_with_weights(digest, model, lambda name: name.startswith(TOWERS))
    return digest.hexdigest()


def without_auto_map(settings: dict) -> dict:
    """Settings without `auto_map`, which a processor and its parts have only once they were saved and loaded."""
    return {name: value for name, value in settings.items() if name != "auto_map"}


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
