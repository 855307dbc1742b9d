"""Products to vectors window by window, in bounded memory: pictures are read while the tower computes."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modeling_mmfusion import MMFusionProcessor
from training.features.encoder import BATCH_SIZE, read_pictures


@dataclass
class ProductInputs:
    """What the tower is told of one product.

    Attributes:
        text (`str`): the product as text; see `processor.product_text`.
        pictures (`list`): its pictures as the catalogue holds them, not read yet.
    """

    text: str
    pictures: list


@dataclass
class ProductBatch:
    """Products of one window that go through the tower together.

    Attributes:
        rows (`list[int]`): their places in the window.
        texts (`dict[str, torch.Tensor]`): the texts' part of the tower's inputs.
        pictures (`list[list]`): each product's pictures, not read yet.
    """

    rows: list[int]
    texts: dict[str, torch.Tensor]
    pictures: list[list]


@dataclass
class EmbeddedWindow:
    """A window's vectors, filled batch by batch.

    Attributes:
        window (`Any`): whatever came with the products.
        vectors (`np.ndarray` of shape `(N, dim)`): float32.
        unreadable (`dict[int, str]`): place of each product with a picture that can't be read, with the reason.
    """

    window: Any
    vectors: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)


def embed_windows(
    tower,
    processor: MMFusionProcessor,
    windows: Iterable[tuple[Any, list[ProductInputs]]],
    dim: int,
    batch_tokens: int = 2048,
    batch_pictures: int = BATCH_SIZE,
    workers: int = 2,
    progress: Callable[[int], Any] = lambda count: None,
) -> Iterator[EmbeddedWindow]:
    """Embeds products window by window; reading, hashing and pictures are done by threads while the tower computes.

    A product whose picture can't be read is embedded from its other pictures and its text.

    Args:
        tower: anything with `product_vectors`, such as [`TorchTowers`] or [`ExportedTowers`] of `backends.py`.
        processor (`MMFusionProcessor`): the model's.
        windows (`Iterable`): pairs of anything and a list of products; a few windows are drawn ahead, in a thread.
        dim (`int`): width of the vectors.
        batch_tokens (`int`, *optional*, defaults to 2048): most tokens of a batch, with padding.
        batch_pictures (`int`, *optional*, defaults to 16): most pictures of a batch.
        workers (`int`, *optional*, defaults to 2): threads that read pictures.
        progress (`Callable`, *optional*): called with the number of products of each batch that is done.

    Yields:
        An [`EmbeddedWindow`] for each window, in order.
    """

    def batches() -> Iterator[tuple[EmbeddedWindow | None, ProductBatch | None]]:
        for window, products in windows:
            embedded = EmbeddedWindow(window, np.empty((len(products), dim), dtype=np.float32))
            for batch in product_batches(processor, products, batch_tokens, batch_pictures):
                yield embedded, batch
            yield embedded, None

    def prepare(item):
        return None if item[1] is None else prepare_batch(processor, item[1])

    for (embedded, batch), prepared in done_ahead(prepare, batches(), workers):
        if batch is None:
            yield embedded
            continue
        inputs, unreadable = prepared
        embedded.vectors[batch.rows] = tower.product_vectors(inputs)
        embedded.unreadable.update((batch.rows[row], reason) for row, reason in unreadable)
        progress(len(batch.rows))


def product_batches(
    processor: MMFusionProcessor, products: list[ProductInputs], batch_tokens: int, batch_pictures: int
) -> Iterator[ProductBatch]:
    """Batches of products with as many pictures and texts of like length, so that little is padded; see
    [`embed_windows`]. The largest come first."""
    if not products:
        return
    inputs = processor.process_products([{"text": product.text} for product in products])
    mask = inputs["attention_mask"]
    sizes = [(-len(product.pictures), -tokens) for product, tokens in zip(products, mask.sum(1).tolist(), strict=True)]
    order = sorted(range(len(products)), key=lambda row: (*sizes[row], row))
    while order:
        pictures, tokens = (-size for size in sizes[order[0]])
        count = max(1, min(batch_tokens // max(tokens, 1), batch_pictures // max(pictures, 1)))
        if pictures:  # products without a picture go apart: the image encoder is not run for them
            count = min(count, sum(len(products[row].pictures) == pictures for row in order[:count]))
        rows, order = order[:count], order[count:]
        used = mask[rows].any(dim=0) | (processor.text_padding == "max_length")
        texts = {"input_ids": inputs["input_ids"][rows][:, used], "attention_mask": mask[rows][:, used]}
        texts["text_mask"] = inputs["text_mask"][rows]
        yield ProductBatch(rows, texts, [products[row].pictures for row in rows])


def prepare_batch(
    processor: MMFusionProcessor, batch: ProductBatch
) -> tuple[dict[str, torch.Tensor], list[tuple[int, str]]]:
    """A batch's inputs of the tower, and row in the batch and reason of pictures that can't be read."""
    unreadable = []
    read = [read_pictures(p, row, unreadable, processor.min_side) for row, p in enumerate(batch.pictures)]
    return batch.texts | (processor.process_pictures(read) if any(read) else {}), unreadable


def done_ahead(function: Callable[[Any], Any], items: Iterable, workers: int) -> Iterator[tuple[Any, Any]]:
    """`(item, function(item))` of all items in order, done by threads before they are asked for, a few at a time.

    Args:
        function (`Callable`): called in one of `workers` threads.
        items (`Iterable`): drawn in one thread of its own.
        workers (`int`): threads; at most as many results and one more wait.

    Raises:
        Exception: whatever the function or the items raise.
    """
    waiting, stop = queue.Queue(maxsize=workers), threading.Event()

    def put(entry) -> None:
        while not stop.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def feed(pool: ThreadPoolExecutor) -> None:
        try:
            for item in items:
                put((item, pool.submit(function, item)))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # told to the one who asks
            put(error)

    with ThreadPoolExecutor(workers) as pool:
        feeder = threading.Thread(target=feed, args=(pool,), daemon=True)
        feeder.start()
        try:
            while (entry := waiting.get()) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                item, future = entry
                yield item, future.result()
        finally:
            stop.set()
            feeder.join()
