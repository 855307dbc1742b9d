"""Lance does what every engine does."""
import lance as _lance
import pytest
import pyarrow as pa
from engine_contract import EngineContract
from pathlib import Path


class TestLance(EngineContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("lance")
        return lambda name: f"lance:{folder}/{name}.lance"

    def somebody_elses(self, address):
        folder = Path(address.removeprefix("lance:"))
        _lance.write_dataset(pa.table({"a": [1]}), str(folder))
        return lambda: {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
