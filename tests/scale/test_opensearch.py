"""OpenSearch and Elasticsearch keep the contract of engines, on stand-ins that check what they are asked."""

import pytest
from engine_contract import EngineContract
from opensearch_stand_in import StandIn, serving


class OnStandIn(EngineContract):
    elastic = False

    @pytest.fixture(scope="class")
    def server(self):
        with serving(StandIn(self.elastic)) as server:
            yield server

    @pytest.fixture(scope="class")
    def address_of(self, server):
        name = "elasticsearch" if self.elastic else "opensearch"
        return lambda collection: f"{name}:{server.url}#{collection}"

    @pytest.fixture(autouse=True)
    def _at(self, server):
        self.server = server

    def somebody_elses(self, address):
        name = address.partition("#")[2]
        self.server.create(name, {"mappings": {"properties": {"title": {"type": "text"}}}})
        return lambda: (self.server.indices[name].mappings, dict(self.server.indices[name].written))


class TestOpenSearch(OnStandIn):
    pass


class TestElasticsearch(OnStandIn):
    elastic = True
