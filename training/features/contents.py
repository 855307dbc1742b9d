"""Of which content a product's vector was made, so that what did not change is not embedded again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from modeling_mmfusion.errors import DataError
from training.common.files import new_file
from training.features.shards import MANIFEST, iterate_shards, read_vectors_manifest, vectors_of

FILE = "contents.arrow"
DIGEST = 8  # bytes


class KnownContents:
    """The content ([`content_hash`]) and a digest of the vector that was made of it, by product id.

    What it says only holds for a product that still has that vector, so it may be older or newer than the products, or
    be deleted: then more is embedded than has to be.

    Args:
        folder (`Path`): holds the file.
        key (`str`): of the model that makes the vectors; see [`ProductEmbedder`]. What another one made is not known.
        vectors (`Path`, *optional*): folder that `training.embed` wrote, from which it is known where there is no file
            yet.
    """

    def __init__(self, folder: Path, key: str, vectors: Path | None = None):
        self.file, self.key = folder / FILE, key
        self.known: dict[str, tuple[str, bytes]] = {}
        if not self._load() and vectors is not None and (vectors / MANIFEST).is_file():
            self._learn(vectors)

    def __contains__(self, product: tuple[str, str, np.ndarray]) -> bool:
        """Whether a product's vector `(dim,)` is of a content: `(id, hash, vector)`."""
        product_id, content, vector = product
        return self.known.get(product_id) == (content, vector_digest(vector))

    def add(self, product_id: str, content: str, vector: np.ndarray) -> None:
        """Keeps of which content a product's vector is."""
        self.known[product_id] = content, vector_digest(vector)

    def forget(self, product_ids: Iterable[str]) -> None:
        """Products that are gone."""
        for product_id in product_ids:
            self.known.pop(product_id, None)

    def save(self) -> None:
        """Writes the file."""
        contents = [content for content, _ in self.known.values()]
        digests = pa.array([digest for _, digest in self.known.values()], pa.binary())
        table = pa.table({"_id": pa.array(self.known, pa.large_string()), "content": contents, "vector": digests})
        table = table.replace_schema_metadata({"mmfusion": self.key})
        with new_file(self.file) as partial, pa.OSFile(str(partial), "wb") as sink:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

    def _load(self) -> bool:
        try:
            table = pa.ipc.open_file(self.file).read_all()
            if (table.schema.metadata or {}).get(b"mmfusion") != self.key.encode():
                return False
            columns = [table.column(name).to_pylist() for name in ("_id", "content", "vector")]
        except (OSError, pa.ArrowException, KeyError):  # missing or damaged: it is made anew
            return False
        self.known = {product_id: (content, digest) for product_id, content, digest in zip(*columns, strict=True)}
        return True

    def _learn(self, folder: Path) -> None:
        """Takes what a folder of vectors knows, as far as it can be read."""
        try:
            read_vectors_manifest(folder)
            for table in iterate_shards(folder):
                ids, contents = table.column("_id").to_pylist(), table.column("hash").to_pylist()
                for product_id, content, vector in zip(ids, contents, vectors_of(table), strict=True):
                    self.add(product_id, content, vector)
        except DataError:
            self.known = {}


def vector_digest(vector: np.ndarray) -> bytes:
    """A digest of a vector `(dim,)` in half precision."""
    return hashlib.blake2b(vector.astype(np.float16).tobytes(), digest_size=DIGEST).digest()
