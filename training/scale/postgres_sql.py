"""SQL of [`PostgresEngine`]: names, columns, filters and statements, as text."""

import math
import re
from typing import Any

import pyarrow as pa

from modeling_mmfusion.index_filters import LEVEL
from training.scale.engine import DIGEST, TEXT, ProductSchema
from training.scale.filters import Condition

WORDS = "_words"  # the column of a product's stems, for hybrid search
TYPES = {
    TEXT: 'text collate "C"',
    pa.bool_(): "bool",
    pa.int64(): "int8",
    pa.float32(): "float8",
    pa.float64(): "float8",
}
TABLE_FACTS = """
    select c.oid, c.relkind, obj_description(c.oid, 'pg_class') from pg_class c
    join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s
"""
EXTENSION_FACTS = """
    select x.extversion, quote_ident(n.nspname), current_schema() from pg_extension x
    join pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector'
"""
SEARCH_SETTINGS = """
    select set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', %s, true),
    set_config('enable_seqscan', %s, true), set_config('jit', 'off', true)
"""


def hidden(place: str) -> str:
    """An address without a password, for messages.

    >>> hidden("postgresql://me:a@b/c@host/shop?sslpassword=x"), hidden("postgresql://host:5432/shop")
    ('postgresql://me:***@host/shop?sslpassword=***', 'postgresql://host:5432/shop')
    """
    place = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", place)
    return re.sub(r"(password=)[^&]*", r"\1***", place)


def quoted(name: str) -> str:
    """A name in SQL, for statements with values.

    >>> quoted("100% wool")
    '"100%% wool"'
    """
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def table_columns(schema: ProductSchema) -> dict[str, str]:
    """The columns of a table and their types in SQL, in their order.

    >>> table_columns(ProductSchema(4, {"_id": TEXT, "price": pa.float64()}))["price"]
    'float8'
    """
    columns = {}
    for place, (name, kind) in enumerate(schema.columns.items()):
        columns[name] = TYPES[kind]
        if kind == TEXT:
            columns |= {f"_plain_{place}": TYPES[TEXT], f"_number_{place}": TYPES[pa.float64()]}
    return columns | {"vector": f"halfvec({schema.dim})", DIGEST: TYPES[pa.int64()], WORDS: 'text[] collate "C"'}


def condition_of(name: str, wanted: Condition, schema: ProductSchema) -> tuple[str, list[Any]]:
    """What [`conditions`] gives of one column, in SQL with places for its values, and these.

    >>> condition_of("brand", ["a"], ProductSchema(4, {"brand": TEXT}))
    ('("_plain_0" = any(%s::text[]) or starts_with("_plain_0", %s))', [['a'], 'a > '])
    """
    kind, place = schema.columns[name], list(schema.columns).index(name)
    text, number = (f"_plain_{place}", f"_number_{place}") if kind == TEXT else (name, name)
    number_type = TYPES[pa.float64() if kind == TEXT else kind]
    exact = [one.replace("\0", "") if kind == TEXT else one for one in wanted if not isinstance(one, tuple)]
    parts, values = [], []
    if exact:
        parts, values = [f"{quoted(text)} = any(%s::{TYPES[kind].split()[0]}[])"], [exact]
    for value in exact if kind == TEXT else ():
        parts.append(f"starts_with({quoted(text)}, %s)")
        values.append(f"{value} {LEVEL} ")
    for low, high in (one for one in wanted if isinstance(one, tuple)):
        least, most = (-(2**63), 2**63 - 1) if kind == pa.int64() else (-math.inf, math.inf)  # not-a-number is more
        parts.append(f"{quoted(number)} between %s::{number_type} and %s::{number_type}")
        values += [least if low is None else low, most if high is None else high]
    return f"({' or '.join(parts)})" if parts else "false", values


def search_statement(
    table: str, schema: ProductSchema, version: int, passing: str, exact: bool, more: tuple[str, ...] = ()
) -> str:
    """A search by the graph, or of all products that pass.

    Args:
        table (`str`): the table in SQL.
        schema (`ProductSchema`): what it holds.
        version (`int`): the table's number, as another one in its place may have columns of the same names and other
            types, which a prepared statement does not forgive.
        passing (`str`): a filter in SQL, whose values come between the query vector and the number of products.
        exact (`bool`): whether all are compared; the graph serves no sum.
        more (`tuple[str, ...]`, *optional*): columns of ours to read too, behind the schema's.
    """
    selected = selected_columns(schema, f"(vector <#> %s){' + 0' if exact else ''}", more)
    return f"select {selected} from {table} where {passing} order by 2 limit %s -- {version}"


def selected_columns(schema: ProductSchema, distance: str, more: tuple[str, ...] = ()) -> str:
    """What is read of a product: its id, the distance, the other columns of the schema, and `more`."""
    columns = [quoted(name) for name in (*schema.columns, *more) if name != "_id"]
    return ", ".join(["_id", f"{distance} as _distance", *columns])


def word_lengths_statement(table: str) -> str:
    """How many products have words, and how many on average."""
    return f"select count(*), avg(cardinality({WORDS}))::float8 from {table} where cardinality({WORDS}) > 0"


def word_counts_statement(table: str) -> str:
    """How many products have each of some words."""
    having = f"select count(*) from {table} where {WORDS} @> array[word]"
    return f"select word, ({having}) from unnest(%s::text[]) word"


def matching_statement(table: str, schema: ProductSchema, version: int, passing: str) -> str:
    """A search for the products whose words match a query's most; see [`training.scale.words.matches`].

    Its values are the query vector, what BM25's norm adds for every product and for each word of it, the query's words
    and their idf, the filter's values, the different words, what makes the matches a score, and how many are wanted.
    """
    counts = f"select word, count(*) as n from unnest({WORDS}) word group by word"
    score = f"sum(idf * n / (n + %s::float8 + %s::float8 * cardinality({WORDS}))) * sum(idf) ^ 3"
    query = "unnest(%s::text[], %s::float8[]) query(word, idf)"
    shared = f"select {score} as matches from ({counts}) product join {query}"
    return f"""
        select {selected_columns(schema, "(vector <#> %s) + 0", (WORDS,))}
        from {table}, lateral ({shared} using (word)) _found
        where {passing} and {WORDS} && %s::text[]
        order by round((_found.matches * %s::float8)::numeric, 6) desc, _id limit %s -- {version}
    """
