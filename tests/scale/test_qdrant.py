"""Qdrant does what every engine must."""

import engine_contract
import pytest
from engine_contract import EngineContract

pytest.importorskip("qdrant_client")


class TestEmbedded(EngineContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("qdrant")
        return lambda name: f"qdrant:{folder}/{name}#{name}"  # one process at a time has a folder

    def somebody_elses(self, address):
        from qdrant_client import QdrantClient, models

        folder, name = address.removeprefix("qdrant:").split("#")
        client = QdrantClient(path=folder)
        client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
        client.upsert(name, [models.PointStruct(id=1, vector=[1, 0, 0, 0], payload={"mine": True})])
        client.close()

        def state():
            client = QdrantClient(path=folder)
            found = client.get_collections(), client.get_aliases(), client.scroll(name, with_vectors=True)
            client.close()
            return str(found)

        return state

    @pytest.mark.slow
    def test_filters_find_what_comparing_all_vectors_finds(self, shop, monkeypatch):
        """Of two queries: an embedded Qdrant looks at each product with each."""
        draw = engine_contract.unit_vectors
        monkeypatch.setattr(engine_contract, "unit_vectors", lambda rows, seed: draw(2, seed))
        super().test_filters_find_what_comparing_all_vectors_finds(shop)
