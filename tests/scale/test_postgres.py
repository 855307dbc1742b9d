"""PostgreSQL with pgvector: what every engine must do, and what is its own."""

from collections.abc import Callable
from typing import Any

import pytest
from engine_contract import EngineContract
from postgres_server import postgres_server, programs

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed; it is in the extra `engines`")
if programs() is None:
    pytest.skip("there is no PostgreSQL with pgvector; one is in the extra `test`", allow_module_level=True)


@pytest.fixture(scope="session")
def server():
    """The address of a database."""
    with postgres_server("fsync=off") as address:
        yield address


class TestPostgres(EngineContract):
    """What every engine must do."""

    tolerance = 1e-3  # of 16-bit floats
    least_recall = 0.99  # which may change the order of products that are nearly the same

    @pytest.fixture(scope="class")
    def address_of(self, server) -> Callable[[str], str]:
        return lambda name: f"{server}#{name}"

    def somebody_elses(self, address: str) -> Callable[[], Any]:
        place, _, name = address.partition("#")
        with psycopg.connect(place) as connection:
            connection.execute(f"create table {name} (_id text primary key, vector halfvec(4))")
            connection.execute(f"insert into {name} values ('a', '[1,0,0,0]')")

        def seen() -> list[tuple]:
            with psycopg.connect(place) as connection:
                return connection.execute(f"select *, obj_description('{name}'::regclass) from {name}").fetchall()

        return seen
