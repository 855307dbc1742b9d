"""Products on disk, from when they were read until they are written to their splits; memory holds their places."""

import json
import tempfile
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from modeling_mmfusion.errors import DataError, one_line


class ProductSpool:
    """Products by number, in the order in which they came.

    Args:
        folder (`Path`): where the file is; it has no name, so nothing is left however the process ends.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.starts = array("q", [0])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def file(self) -> BinaryIO:
        """The file, made when the first product comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.folder)

    def add(self, product: dict) -> int:
        """Keeps a product and gives its number.

        Raises:
            DataError: if the disk is full.
        """
        line = json.dumps(product, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        try:
            self.file.write(line)
        except OSError as error:
            raise DataError(f"{self.folder}: no place for the products: {one_line(error)}") from error
        self.starts.append(self.starts[-1] + len(line))
        return len(self) - 1

    def get(self, number: int) -> dict:
        """A product."""
        start, end = self.starts[number], self.starts[number + 1]
        self.file.seek(start)
        return json.loads(self.file.read(end - start).decode("utf-8", "surrogatepass"))

    def __iter__(self) -> Iterator[dict]:
        return map(self.get, range(len(self)))
