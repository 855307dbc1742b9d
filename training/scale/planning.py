"""A plan for so many products and so many queries a second, from what was measured here.

    python -m training.scale.planning --products 500000000 --queries 2000 --changes 50
    python -m training.scale.planning --plans 1000000:100,100000000:1000,500000000:5000

Reads what `training.benchmarks.scaling` measured: bytes a product in memory and on disk, queries a second on one
core and how they fall with the number of products, and products embedded a second on one device. Your
own machine's figures are the better ones: run the benchmark there and give its results with --results.
"""

from training.common.cli import run
from training.scale.options import SizeArguments

if __name__ == "__main__":
    run("training.scale.planning", SizeArguments, __doc__)

import math
import re
from dataclasses import dataclass
from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.json_files import ANY, COUNT, NUMBER, POSITIVE, check_form, read_form

DAY = 24 * 60 * 60
MEASURE = "run python -m training.benchmarks.scaling"
BUILT = {"products": COUNT, "bytes on disk": {ANY: NUMBER}}
FOUND = {"products": COUNT, "bytes in memory": POSITIVE}
FOUND |= {"settings": [{"recall@10": NUMBER, "queries/s": POSITIVE, "p50 ms": POSITIVE}]}


@dataclass
class MeasuredSpeed:
    """What one core and one device do.

    Attributes:
        products (`int`): in the index that was measured.
        dim (`int`): length of its vectors.
        memory (`float`): bytes a product in memory.
        disk (`float`): bytes a product on disk, the graph's included.
        milliseconds (`float`): of a query on one core, with recall@10 of at least 0.99 if there was one.
        per_tenfold (`float`): milliseconds that ten times as many products add.
        tower (`float`): milliseconds of a query besides the graph: tokenizer, 8-bit query tower, what is shown.
        embedded (`float` or `None`): products a second on one device.
    """

    products: int
    dim: int
    memory: float
    disk: float
    milliseconds: float
    per_tenfold: float
    tower: float
    embedded: float | None


def main(arguments: SizeArguments) -> str:
    """Makes and prints the plans."""
    plans = make_plans(arguments)
    print(plans, flush=True)
    return plans


def make_plans(arguments: SizeArguments) -> str:
    """The plans as a table, after what they are made from."""
    measured = read_measured(arguments)
    wanted = parse_plans(arguments.plans) if arguments.plans else [(arguments.products, arguments.queries)]
    return format_plans([plan(measured, *one, arguments) for one in wanted], measured, arguments)


def parse_plans(text: str) -> list[tuple[int, float]]:
    """Products and queries a second of each plan.

    Raises:
        DataError: if they can't be read.
    """
    try:
        return [(int(products), float(queries)) for products, queries in (one.split(":") for one in text.split(","))]
    except ValueError:
        raise DataError(f"--plans {text!r}: write products:queries with commas between, such as 1000000:100") from None


def read_measured(arguments: SizeArguments) -> MeasuredSpeed:
    """The figures of a results file.

    Raises:
        DataError: if it has none for this storage, or is damaged.
    """
    file = existing_file(arguments.results, f"a results file; {MEASURE}")
    figures = read_form(file, {"figures": {}}, MEASURE)["figures"]
    names = f"build ours {arguments.storage}", f"search ours {arguments.storage}"
    if not set(names) <= set(figures):
        raise DataError(f"{file}: has no figures of {arguments.storage}; {MEASURE}")
    form = dict(zip(names, (BUILT, FOUND), strict=True)) | {"prepare": {"dim": COUNT}, "end to end": {ANY: NUMBER}}
    figures = {"end to end": {}} | figures
    check_form(file, figures, form, MEASURE)
    built, found = (figures[name] for name in names)
    if not found["settings"]:
        raise DataError(f"{file}: {names[1]} has no settings; {MEASURE}")
    enough = [one for one in found["settings"] if one["recall@10"] >= 0.99] or found["settings"][-1:]
    fastest = max(enough, key=lambda one: one["queries/s"])
    return MeasuredSpeed(
        products=found["products"],
        dim=figures["prepare"]["dim"],
        memory=found["bytes in memory"] / found["products"],
        disk=sum(built["bytes on disk"].values()) / built["products"],
        milliseconds=1000 / fastest["queries/s"],
        per_tenfold=slope_of(read_curve(file)),
        tower=max(0.0, figures["end to end"].get("int8 p50 ms", 0.0) - enough[0]["p50 ms"]),
        embedded=arguments.speed or fastest_embedding(Path(arguments.embedding)),
    )


def read_curve(file: Path) -> dict[int, float]:
    """Milliseconds of a query by numbers of products, where a results file has them; empty where not."""
    summary = {"summary": {}} | read_form(file, {}, MEASURE)
    check_form(file, summary, {"summary": {}}, MEASURE)
    curve = {"curve, p50 ms": {}} | summary["summary"]
    check_form(file, curve, {"curve, p50 ms": {ANY: POSITIVE}}, MEASURE)
    for count in curve["curve, p50 ms"]:
        if not re.fullmatch("[1-9][0-9]{0,14}", count):
            raise DataError(f"{file}: its curve has {count[:40]!r} for a number of products; {MEASURE}")
    return {int(count): value for count, value in curve["curve, p50 ms"].items()}


def fastest_embedding(results: Path) -> float | None:
    """Products a second of the fastest backend in a file of training.benchmarks.embedding; `None` without one."""
    if not results.is_file():
        return None
    again = "run python -m training.benchmarks.embedding"
    figures = read_form(results, {"figures": {}}, again)["figures"]
    embedded = {name: found for name, found in figures.items() if name.startswith("embed, ")}
    check_form(results, embedded, {ANY: {"products_per_second": POSITIVE}}, again)
    if not embedded:
        raise DataError(f"{results}: has no figures of embedding; {again}")
    return round(max(found["products_per_second"] for found in embedded.values()), 1)


def slope_of(curve: dict[int, float]) -> float:
    """Milliseconds that ten times as many products add, by the ends of a curve; 0 without one."""
    if len(curve) < 2:
        return 0.0
    first, last = min(curve), max(curve)
    return max(0.0, (curve[last] - curve[first]) / math.log10(last / first))


def plan(measured: MeasuredSpeed, products: int, queries: float, arguments: SizeArguments) -> dict:
    """Shards, machines, memory and device hours.

    A machine holds one shard: as many products as fit into its share of the memory. A query asks every shard, each on
    one core, and the shards' answers are merged. Replicas are added until their cores carry the queries. Exact vectors
    are on disk: where memory does not hold them too, a query reads as many of them as it scores exactly from there.
    """
    scale = arguments.dim / measured.dim
    usable = arguments.share * arguments.memory * 1e9
    shards = max(1, math.ceil(products * measured.memory * scale / usable))
    a_shard = math.ceil(products / shards)
    tenfold = math.log10(max(a_shard, 1) / measured.products)
    milliseconds = max(0.05, measured.milliseconds * scale + measured.per_tenfold * tenfold)
    busy = queries * (milliseconds + measured.tower / shards) / 1000  # cores of one shard's machines
    replicas = max(arguments.replicas, math.ceil(busy / (arguments.share * arguments.cores)))
    facts = {"products": products, "queries/s": queries, "shards": shards, "products a shard": a_shard}
    facts |= {"replicas": replicas, "machines": shards * replicas}
    facts |= {"memory GB": round(products * measured.memory * scale * replicas / 1e9, 1)}
    facts |= {"disk GB": round(products * measured.disk * scale * replicas / 1e9, 1)}
    facts |= {"ms a query": round(milliseconds + measured.tower, 1)}
    if measured.embedded:
        facts["device hours"] = round(products / measured.embedded / 3600, 1)
        facts["devices"] = max(1, math.ceil(products / measured.embedded / (arguments.embed_days * DAY)))
        if arguments.changes:
            facts["devices for changes"] = math.ceil(arguments.changes / measured.embedded)
    return facts


def format_plans(plans: list[dict], measured: MeasuredSpeed, arguments: SizeArguments) -> str:
    """A table with a plan a line, after what it is made from."""
    header = (
        f"{arguments.storage}, {arguments.dim} dimensions, machines of {arguments.memory:g} GB and {arguments.cores} "
        f"cores of which {arguments.share:.0%} are planned with; measured at {measured.products:,} products: "
        f"{measured.memory:,.0f} bytes a product in memory, {measured.disk:,.0f} on disk, "
        f"{measured.milliseconds:.2f} ms a query and {measured.tower:.1f} ms the query tower and the rest on one core"
    )
    header += f", {measured.embedded:g} products/s embedded on one device" if measured.embedded else ""
    names = list(dict.fromkeys(name for one in plans for name in one))
    lines = [header, "", f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(_text(one.get(name)) for name in names)} |" for one in plans]
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
