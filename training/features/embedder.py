"""Shards of a catalogue's vectors: what is known is taken, the rest is embedded."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import digest_of, model_fingerprint
from modeling_mmfusion.model_folder import load_model
from modeling_mmfusion.pictures_mmfusion import pictures_of
from training.catalogue.layout import NothingToMeasure, has_files, load_table, split_names
from training.catalogue.pictures import picture_content
from training.catalogue.stream import ROW, stream_products
from training.common.errors import Problems
from training.common.files import beside
from training.features.backends import TorchTowers, TruncatedTowers, choose_backend, exported_towers
from training.features.encoder import Encoder, check_vectors
from training.features.options import EmbedArguments
from training.features.shards import (
    KnownVectors,
    kept_columns,
    unkept_columns,
    vector_column,
    write_sampled_queries,
    write_shard,
    write_vectors_manifest,
)
from training.features.windows import ProductInputs, embed_windows

WRITER = "training.embed"
WINDOW = 1024  # products that are sorted by the length of their texts, and held with their pictures
SAMPLED_QUERIES = 500
UNREADABLE = "unreadable image (embedded without it)"


@dataclass
class Window:
    """Some consecutive products on their way into a shard.

    Attributes:
        shard (`int`): the shard's number.
        is_last (`bool`): whether the shard ends with it.
        shown (`pyarrow.Table`): see [`kept_columns`].
        hashes (`list[str]`): see [`content_hash`].
        vectors (`np.ndarray` of shape `(N, dim)`): float16; zeros where the product is still to be embedded.
        missing (`np.ndarray`): rows of those.
        unreadable (`dict[int, str]`): why a picture can't be read, by row.
        places (`list[str]`): where each product is in the source, for messages.
    """

    shard: int
    is_last: bool
    shown: pa.Table
    hashes: list[str]
    vectors: np.ndarray
    missing: np.ndarray
    unreadable: dict[int, str]
    places: list[str]

    def fill(self, vectors: np.ndarray, unreadable: dict[int, str], model: str) -> "Window":
        """Puts the missing products' vectors and unreadable pictures, counted among these products, in their rows;
        `model` is whose they are.

        Raises:
            DataError: if a vector is not finite.
        """
        if not (finite := np.isfinite(vectors).all(axis=1)).all():
            place = self.places[self.missing[int(np.argmin(finite))]]
            raise DataError(f"{model}: the vector of {place} is no finite number; is the model damaged?")
        self.vectors[self.missing] = vectors
        self.unreadable |= {int(self.missing[row]): reason for row, reason in unreadable.items()}
        return self

    def table(self) -> pa.Table:
        """The window's part of the shard."""
        columns = {name: self.shown.column(name) for name in self.shown.column_names}
        hashes, vectors = pa.array(self.hashes, pa.string()), vector_column(self.vectors)
        return pa.table({"_id": columns.pop("_id"), "hash": hashes, "vector": vectors} | columns)


class ProductEmbedder:
    """The product tower that a command was told of, with all that decides its vectors.

    Args:
        arguments (`EmbedArguments`): see there.
        device (`str`, *optional*): such as `cuda:1`; a GPU if there is one.

    Raises:
        DataError: if the model or the exported towers can't be used.
    """

    def __init__(self, arguments: EmbedArguments, device: str | None = None):
        self.arguments = arguments
        self.model, self.processor = load_model(arguments.model, device, arguments.truncate_dim)
        on_gpu = self.model.device.type != "cpu"
        self.fingerprint = model_fingerprint(self.model, self.processor)
        self.dim = self.model.config.projection_dim
        self.precision = arguments.precision or default_precision(on_gpu)
        self.batching = {"batch_tokens": arguments.batch_tokens or (65_536 if on_gpu else 2048)}
        self.batching |= {"batch_pictures": arguments.batch_pictures or (256 if on_gpu else 16)}
        self.batching |= {"workers": arguments.workers or max(2, min(16, os.cpu_count() or 2))}
        folder = arguments.exported or arguments.model
        self.backend = arguments.backend
        if self.backend == "auto":
            self.backend = choose_backend(folder, self.fingerprint, on_gpu)
        if self.backend == "torch":
            self.tower = TorchTowers(self.model, self.precision, arguments.compile)
        else:
            self.precision = "float32"
            self.tower = exported_towers(self.backend, folder, self.fingerprint, torch.get_num_threads())
            if self.model.config.truncate_dim:
                self.tower = TruncatedTowers(self.tower, self.model)
        self.key = digest_of(self.fingerprint, str(self.dim), self.precision)

    def embed(self, products: list[ProductInputs]) -> tuple[np.ndarray, dict[int, str]]:
        """Vectors `(N, dim)`, float16, of some products, and why a picture can't be read, by its product's place.

        Raises:
            DataError: if a vector is no finite number.
        """
        if not products:
            return np.zeros((0, self.dim), dtype=np.float16), {}
        (done,) = embed_windows(self.tower, self.processor, [(None, products)], self.dim, **self.batching)
        return check_vectors(done.vectors, "product", self.arguments.model).astype(np.float16), done.unreadable


class CatalogueEmbedder(ProductEmbedder):
    """Embeds some shards of a catalogue; what a process does of `training.embed`, and an actor of `embed_ray`.

    Args:
        arguments (`EmbedArguments`): see there.
        device (`str`, *optional*): such as `cuda:1`; a GPU if there is one.

    Raises:
        DataError: if the model, the catalogue or the exported towers can't be used.
    """

    def __init__(self, arguments: EmbedArguments, device: str | None = None):
        self.output = output_of(arguments)
        self.problems = Problems()
        self.stream = stream_products(arguments.data, arguments.split)
        for name, reason in unkept_columns(self.stream.schema).items():
            self.stream.problems.add(f"column that is not kept beside the vectors ({reason})", name)
        super().__init__(arguments, device)

    @property
    def shards(self) -> int:
        """How many shards the catalogue has."""
        return -(-self.stream.count // self.arguments.shard_size)

    def span(self, shard: int) -> tuple[int, int]:
        """First row of a shard and the one after its last."""
        size = self.arguments.shard_size
        return shard * size, min((shard + 1) * size, self.stream.count)

    def manifest(self) -> dict[str, Any]:
        """The manifest but for `count` and `shards`."""
        config = self.model.config
        facts = {"model": self.fingerprint, "data": self.arguments.data, "split": self.arguments.split}
        facts |= {"dim": self.dim, "blocks": config.truncated_dims(self.dim)}
        facts["fields"] = self.processor.product_fields
        return facts | {"backend": self.backend, "precision": self.precision}

    def query_vectors(self) -> np.ndarray:
        """Vectors `(Q, dim)` of some of the catalogue's own queries, if it has any, with which
        `training.index` measures how widely to search."""
        texts = sample_queries(self.arguments.data, self.stream.problems)
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return Encoder(self.model, self.processor).embed_queries(texts, cache=False)

    def run(self, shards: list[int], progress: Callable[[int], Any] = lambda count: None) -> Iterator[dict[str, Any]]:
        """Embeds some shards, in ascending order, and writes them.

        Args:
            shards (`list[int]`): their numbers.
            progress (`Callable`, *optional*): called with numbers of products that are done.

        Yields:
            What `write_shard` returns, with `embedded` and `unreadable`, numbers of products, and `first`, the place
            of the first unreadable picture. A shard without products is left out.
        """
        known, windows, writing = KnownVectors(self.output, self.key, self.problems), [], None
        source = self._windows(shards, known)
        options = self.batching | {"progress": progress}
        with ThreadPoolExecutor(1) as writer:
            for done in embed_windows(self.tower, self.processor, source, self.dim, **options):
                windows.append(done.window.fill(done.vectors, done.unreadable, self.arguments.model))
                progress(len(done.window.hashes) - len(done.window.missing))
                if done.window.is_last:
                    if writing and (facts := writing.result()):
                        yield facts
                    writing, windows = writer.submit(self._write, windows), []
            if writing and (facts := writing.result()):
                yield facts

    def finish(self, shards: list[dict[str, Any]], seconds: float) -> None:
        """Writes the manifest of all processes' shards and tells what was done."""
        problems = self.stream.problems
        for shard in sorted(shards, key=lambda shard: shard["file"]):
            if shard["unreadable"]:
                problems.add(UNREADABLE, shard["first"], shard["unreadable"])
        total, embedded = (sum(shard[name] for shard in shards) for name in ("rows", "embedded"))
        facts = self.manifest() | {"count": total, "queries": write_sampled_queries(self.output, self.query_vectors())}
        write_vectors_manifest(self.output, facts, shards)
        problems.report()
        print(
            f"vectors: {total:,} products x {self.dim} dimensions in {self.output} ({embedded:,} embedded in "
            f"{seconds:,.0f} s, {embedded / seconds:,.1f} products/s; {total - embedded:,} as before)",
            flush=True,
        )

    def _windows(self, shards: list[int], known: KnownVectors) -> Iterator[tuple[Window, list[ProductInputs]]]:
        """Reads windows and what is known of them; with each the products that are not."""
        for number, is_last, table in self.stream.tables([self.span(shard) for shard in shards], WINDOW):
            products = table.to_pylist()
            inputs = [inputs_of(self.processor, product) for product in products]
            ids, hashes = table.column("_id").to_pylist(), [content_hash(product) for product in inputs]
            found, vectors = known.find(ids, hashes, self.dim)
            shown = kept_columns(table)
            known_rows = np.flatnonzero(found).tolist()
            unreadable = {row: known.unreadable[ids[row]] for row in known_rows if ids[row] in known.unreadable}
            places = [self.stream.where(row, "image") for row in table.column(ROW).to_pylist()]
            window = Window(
                shards[number], is_last, shown, hashes, vectors, np.flatnonzero(~found), unreadable, places
            )
            yield window, [inputs[row] for row in window.missing]

    def _write(self, windows: list[Window]) -> dict[str, Any] | None:
        """Writes a shard's windows."""
        table = pa.concat_tables([window.table() for window in windows], promote_options="permissive").combine_chunks()
        if not len(table):
            return None
        unreadable, places = {}, []
        for window in windows:
            for row, reason in sorted(window.unreadable.items()):
                unreadable[window.shown["_id"][row].as_py()] = reason
                places.append(f"{window.places[row]}: {reason}")
        facts = write_shard(self.output, windows[0].shard, self.key, table, unreadable)
        facts |= {"embedded": sum(len(window.missing) for window in windows), "unreadable": len(places)}
        return facts | {"first": places[0] if places else None}


def output_of(arguments: EmbedArguments) -> Path:
    """The folder of the vectors."""
    return Path(arguments.output or beside(arguments.model, "vectors"))


def sample_queries(data: str, problems: Problems) -> list[str]:
    """At most 500 of a catalogue's queries, of all its splits, the same each time; files of them that can't be read go
    to `problems`."""
    texts = []
    for split in split_names(data):
        try:
            texts += load_table(data, "queries", split)[0]["text"][:]
        except NothingToMeasure:
            continue
        except DataError as error:  # products alone are a catalogue, too
            if has_files(data, "queries", split):
                problems.add("split whose queries can't be read (searches are measured without them)", str(error))
    texts = list(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip()))
    return [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:SAMPLED_QUERIES]]


def default_precision(on_gpu: bool) -> str:
    """`bfloat16` on a GPU that computes in it, else `float32`."""
    return "bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"


def inputs_of(processor: MMFusionProcessor, product: dict[str, Any]) -> ProductInputs:
    """A catalogue's row as the tower takes it."""
    return ProductInputs(processor.product_text(product), pictures_of(product.get("image")))


def content_hash(product: ProductInputs) -> str:
    """A digest of all of a product that decides its vector: its text and the bytes of its pictures."""
    digest = hashlib.sha256(product.text.encode())
    for picture in product.pictures:
        digest.update(hashlib.sha256(picture_content(picture) or b"nothing to read").digest())
    return digest.hexdigest()[:32]
