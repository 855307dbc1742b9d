"""PostgreSQL with pgvector: what every engine must do, and what is its own."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engine_contract import (
    EngineContract,
    brute_force,
    digests_by_id,
    found_ids,
    schema_of,
    small_table,
    state_of,
    unit_vectors,
    with_vectors,
)

from modeling_mmfusion.errors import DataError
from training.benchmarks.postgres_server import PASSWORD, QUOTED_PASSWORD, postgres_server, programs
from training.scale import postgres
from training.scale.engine import TEXT, ProductSchema, open_engine, stored_columns
from training.scale.postgres_sql import search_statement

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
    rounding = 1e-3  # of halfvec
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


@pytest.fixture
def address(server) -> str:
    """A database of its own, with the extension."""
    with psycopg.connect(server, autocommit=True) as connection:
        name = f"shop_{connection.info.backend_pid}"
        connection.execute(f"create database {name}")
        place = server.removesuffix("shop") + name
        with psycopg.connect(place) as made:
            made.execute("create extension vector")
        yield place
        connection.execute(f"drop database {name} with (force)")


def relations(place: str) -> list[str]:
    """What is in a database's schema."""
    with psycopg.connect(place) as connection:
        found = connection.execute("select relname from pg_class where relnamespace = 'public'::regnamespace")
        return sorted(name for (name,) in found)


def load_for_ever(address: str, table: pa.Table) -> None:
    """What a process does until it is killed: loads of which none ends."""
    with open_engine(address) as engine:

        def tables() -> Iterator[pa.Table]:
            while True:
                yield table.set_column(0, "_id", [[f"{next(numbers)}" for _ in range(len(table))]])

        numbers = count()
        engine.load(tables(), schema_of(table))


def load_again(address: str, table: pa.Table) -> None:
    """What a process does until it is killed: loads that end."""
    with open_engine(address) as engine:
        while True:
            engine.load([table], schema_of(table))


@pytest.mark.slow
@pytest.mark.parametrize("work", [load_for_ever, load_again])
def test_loads_that_are_killed_at_any_moment_leave_products_that_are_whole(work, address):
    columns, vectors = {"_id": [f"sku-{number}" for number in range(300)]}, unit_vectors(300, 0)
    table, drawn = with_vectors(columns, vectors), np.random.default_rng(0)
    with open_engine(address) as engine:
        engine.load([table], schema_of(table))
        whole = relations(address)
        for _ in range(6):
            process = get_context("fork").Process(target=work, args=(address, table))
            process.start()
            time.sleep(drawn.uniform(0.02, 0.4))
            process.kill()
            process.join()
            assert engine.digests() == digests_by_id(table)
            assert found_ids(engine, vectors[7], 1) == ["sku-7"]
        assert engine.load([table], schema_of(table)) == 300
    with psycopg.connect(address) as connection:
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        while connection.execute(others).fetchone()[0]:  # of processes that were killed, until they notice
            time.sleep(0.05)
    assert len(relations(address)) == len(whole) and relations(address)[-1].startswith("products")


@pytest.mark.slow
def test_searches_go_on_while_another_engine_loads_columns_of_other_types(address):
    cheap, dear = small_table(price=[1.5, 2.5, 3.5]), small_table(price=["dear", "dear", "dear"])
    rows = [{"price": 1.5}], [{"price": "dear"}]
    with open_engine(address) as reader, open_engine(address) as writer:
        writer.load([cheap], schema_of(cheap))

        def load() -> None:
            for _ in range(10):
                for table in (dear, cheap):
                    writer.load([table], schema_of(table))

        seen = []
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load)
            while not loading.done():
                seen.append([one.product for one in reader.search(np.eye(1, 4), 1)[0]])
            loading.result()
    assert all(one in rows for one in seen) and all(one in seen for one in rows)


def test_threads_share_an_engine(address):
    table = small_table(brand=["x", "y", "z"])
    with open_engine(address) as engine, ThreadPoolExecutor(4) as pool:
        engine.load([table], schema_of(table))
        found = pool.map(lambda number: found_ids(engine, np.eye(4)[number % 3], 1), range(40))
        assert [one for (one,) in found] == ["abc"[number % 3] for number in range(40)]


def test_two_loads_at_a_time_end_one_after_the_other(address):
    def load(name: str) -> int:
        table = small_table(_id=[f"{name}{number}" for number in range(3)])
        with open_engine(address) as engine:
            return engine.load([table], schema_of(table))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, "abcd")) == [3] * 4
    with open_engine(address) as engine:
        assert len({product_id[0] for product_id in engine.digests()}) == 1 and engine.count() == 3


def test_a_connection_that_was_lost_is_one_line_and_made_anew(address):
    table = small_table(brand=["x", "y", "z"])
    end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mmfusion'"
    with open_engine(address) as engine, psycopg.connect(address, autocommit=True) as admin:
        engine.load([table], schema_of(table))
        admin.execute(end)
        with pytest.raises(DataError, match="terminating connection") as error:
            engine.count()
        assert "\n" not in str(error.value) and QUOTED_PASSWORD not in str(error.value)
        assert engine.count() == 3

        def tables() -> Iterator[pa.Table]:
            yield table
            admin.execute(end)
            yield table

        with pytest.raises(DataError, match="terminating connection") as error:
            engine.load(tables(), schema_of(table))
        assert "\n" not in str(error.value)
    with open_engine(address) as engine:
        assert engine.count() == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("/shop", "/nobodys"), 'database "nobodys" does not exist'),
        ((QUOTED_PASSWORD, "wrong-secret"), "password authentication failed"),
        ((":" + QUOTED_PASSWORD, ""), "no password supplied"),
        (("mmfusion:", "nobody:"), "password authentication failed"),
        (("/shop", "/postgres"), "has no pgvector; run there: CREATE EXTENSION vector"),
        (("127.0.0.1", "nowhere.invalid"), "nowhere.invalid"),
        (("/shop", "/shop?option=secret"), "the address can't be read"),
        ((QUOTED_PASSWORD, "50%secret"), "the address can't be read"),
        ((QUOTED_PASSWORD, "a/secret"), r"mmfusion:\*\*\*@127.0.0.1"),
        (("/shop", "/shop?sslpassword=secret&options=-csearch_path%3Dnone"), "no schema of the search path"),
        (("/shop", "/shop#" + "ü" * 32), "a table's name has 1 to 63 bytes"),
        (("/shop", "/shop#a\0b"), "a table's name has 1 to 63 bytes"),
        (("/shop", "/shop?connect_timeout=never"), "bad value for connect_timeout|invalid integer value"),
    ],
)
def test_addresses_that_lead_nowhere_are_one_line_without_the_password(change, message, server, monkeypatch):
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=message) as error:
        open_engine(server.replace(*change, 1))
    told = str(error.value)
    assert "\n" not in told and "secret" not in told and QUOTED_PASSWORD not in told and PASSWORD not in told


def test_a_port_where_nobody_listens_is_one_line():
    with pytest.raises(DataError, match=r"^postgresql://me:\*\*\*@127.0.0.1:1/shop: postgresql: .*refused") as error:
        open_engine("postgresql://me:secret@127.0.0.1:1/shop")
    assert "\n" not in str(error.value)


def test_nul_characters_are_cut_and_counted_and_refused_in_ids(address):
    table = small_table(title=["a\0b\0", "ab", None], size=["\0" + "5", "6", "7"])
    with open_engine(address) as engine:
        engine.load([table], schema_of(table))
        found = {one.product_id: one.product for one in engine.search(np.eye(1, 4))[0]}
        assert found["a"] == {"title": "ab", "size": "5"} and engine.digests() == digests_by_id(table)
        assert engine.problems.lines() == [
            "2 x text with NUL characters (cut out); first: product a, column title",
        ]
        assert found_ids(engine, np.eye(4)[0], 3, {"title": "A\0B"}) == ["a", "b"]
        assert found_ids(engine, np.eye(4)[0], 3, {"size": (5, 6)}) == ["a", "b"]
        wrong = small_table(_id=["x", "y\0", "z"])
        with pytest.raises(DataError, match="product 'y.*its _id has a NUL"):
            engine.upsert(wrong)
        engine.delete(["a\0", "\ud800"])
        assert engine.count() == 3


def test_numbers_that_are_none_pass_no_bounds(address):
    table = small_table(price=[float("nan"), float("inf"), 5.0], pages=pa.array([2**63 - 1, -(2**63), None]))
    with open_engine(address) as engine:
        engine.load([table], schema_of(table))
        for where, ids in (
            ({"price": (5, None)}, "bc"),
            ({"price": (None, 5)}, "c"),
            ({"price": (None, None)}, "bc"),
            ({"price": float("nan")}, ""),
            ({"pages": (None, None)}, "ab"),
            ({"pages": (0, None)}, "a"),
            ({"pages": (None, 0)}, "b"),
            ({"pages": 2**63 - 1}, "a"),
        ):
            assert sorted(found_ids(engine, np.ones(4) / 2, 3, where)) == list(ids), where


@pytest.mark.parametrize(
    "name", ["", "vector", "_digest", "_plain_0", "_number_12", "xmin", "tableoid", "a\0", "ü" * 32]
)
def test_names_that_a_table_can_not_have_are_refused(name, address):
    table = small_table(**{name: [1, 2, 3]}) if name != "vector" else small_table()
    schema = ProductSchema(4, stored_columns(table.schema) | {name: pa.int64()})
    with open_engine(address) as engine:
        with pytest.raises(DataError, match="rename it"):
            engine.load([table], schema)
        assert relations(address) == []


def test_what_is_too_wide_is_refused_before_anything_is_written(address):
    with open_engine(address) as engine:
        with pytest.raises(DataError, match="vectors have 4,001 dimensions, and pgvector's graph takes up to 4,000"):
            engine.create(ProductSchema(4001, {"_id": TEXT}))
        with pytest.raises(DataError, match="at most 1,600 columns"):
            engine.create(ProductSchema(4, {"_id": TEXT} | {f"c{number}": TEXT for number in range(533)}))
        assert relations(address) == []
        with pytest.raises(DataError, match="product 'b': its vector has numbers over 65,504; give unit vectors"):
            engine.load([small_table(vectors=np.diag([1, -1e5, 1, 1])[:3])], schema_of(small_table()))
        assert relations(address) == []
        engine.create(ProductSchema(4000, {"_id": TEXT} | {f"c{number}": TEXT for number in range(531)}))
        engine.upsert(with_vectors({"_id": ["a"], "c7": ["x"]}, np.eye(1, 4000)))
        assert found_ids(engine, np.eye(1, 4000)[0], 1, {"c7": "X"}) == ["a"]


def test_a_table_with_a_view_of_somebody_elses_stays(address):
    table = small_table(brand=["x", "y", "z"])
    with open_engine(address) as engine:
        engine.load([table], schema_of(table))
        with psycopg.connect(address) as connection:
            connection.execute("create view cheap as select _id, brand from products")
        before = state_of(engine)
        for change in (lambda: engine.load([table], schema_of(table)), engine.drop):
            with pytest.raises(DataError, match="view cheap depends on table products"):
                change()
            assert state_of(engine) == before


@pytest.mark.parametrize("kind", ["view", "materialized view", "sequence", "index"])
def test_other_things_of_that_name_stay(kind, address):
    made = {"sequence": "create sequence products", "index": "create table t (a int); create index products on t (a)"}
    with psycopg.connect(address) as connection:
        connection.execute(made.get(kind, f"create {kind} products as select 1"))
    before = relations(address)
    with open_engine(address) as engine:
        for change in (lambda: engine.create(schema_of(small_table())), engine.drop, engine.count):
            with pytest.raises(DataError) as error:
                change()
            assert "\n" not in str(error.value) and relations(address) == before


def test_tables_and_the_extension_may_lie_in_other_schemas(address):
    with psycopg.connect(address) as connection:
        connection.execute(
            'create schema "My shop"; create schema extensions; alter extension vector set schema extensions'
        )
    place = address + "?options=-csearch_path%3D%22My%5C%20shop%22"
    with open_engine(place + '#50% "off"') as engine:
        engine.load([small_table(**{"50%": ["x", "y", "z"]})], schema_of(small_table(**{"50%": ["x"] * 3})))
        engine.upsert(small_table(_id=["new"], **{"50%": ["n"]}))
        engine.write_note("100%", "%s")
        assert engine.read_note("100%") == "%s" and found_ids(engine, np.eye(4)[0], 4, {"50%": "N"}) == ["new"]
    assert relations(address) == []


def test_a_filter_over_a_column_that_went_meanwhile_is_one_line(address):
    table = small_table(brand=["x", "y", "z"])
    with open_engine(address) as engine:
        engine.load([table.drop_columns("brand")], schema_of(table.drop_columns("brand")))
        with pytest.raises(DataError, match="other products came meanwhile, without a column 'brand'"):
            engine.find(np.eye(1, 4, dtype=np.float32), 3, {"brand": ["x"]}, None)


def test_where_the_graph_gives_too_few_all_are_compared(address, monkeypatch):
    monkeypatch.setattr(postgres, "EXACT_ROWS", 100)
    vectors = unit_vectors(3000, 0)
    table = with_vectors({"_id": [f"{number}" for number in range(3000)], "place": range(3000)}, vectors)
    with open_engine(address + "?options=-chnsw.max_scan_tuples%3D200") as engine:
        engine.load([table], schema_of(table))
        queries, where = unit_vectors(20, 1), {"place": (None, 150)}
        found, expected = engine.search(queries, 10, where), brute_force(table, queries, 10, where)
        assert all(len(results) == 10 for results in found)
        hits = sum(
            len({one.product_id for one in a} & {one for one, _, _ in b}) for a, b in zip(found, expected, strict=True)
        )
        assert hits >= 190
        assert len(found_ids(engine, queries[0], 3000)) == 3000
        plan = engine.connection.execute(
            "explain "
            + search_statement(engine.table, engine.schema, 1, "true", False) % (f"'{vectors[0].tolist()}'", 1)
        )
        assert "Index Scan" in plan.fetchone()[0] + plan.fetchone()[0]


def test_queries_of_any_length_are_searched(address):
    table = small_table()
    with open_engine(address) as engine:
        engine.load([table], schema_of(table))
        for length in (1e-30, 1e-6, 1, 1e6, 1e30):
            found = engine.search(np.array([[0.6, 0.8, 0, 0]]) * length, 3)[0]
            assert [one.product_id for one in found] == ["b", "a", "c"]
            assert [one.score / length for one in found] == pytest.approx([0.8, 0.6, 0], abs=1e-3)
        assert [one.score for one in engine.search(np.zeros((1, 4)), 3)[0]] == [0, 0, 0]
