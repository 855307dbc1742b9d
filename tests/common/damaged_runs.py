"""Every command on a small world of good files of which one is damaged, and what has to be said of how it ended.

The commands run in a process of their own, one after the other, which this file is when it is run: a case comes as a
line of JSON, and what became of it goes back as another. So a damaged file that ends the process is told like any
other fault.
"""

import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from damage import damage
from helpers import (
    IMPORTED,
    TINY_DIMS,
    commands,
    make_model,
    make_text_tower,
    make_vision_tower,
    shop_rows,
    write_shop,
)

from modeling_mmfusion import MMFusionProcessor
from training import embed, export, index, mine
from training.common.cli import run
from training.common.environment import write_config
from training.common.files import new_folder, write_json
from training.features.options import EmbedArguments, ExportArguments
from training.features.shards import read_sampled_queries, read_vectors
from training.index import IndexArguments
from training.learning.options import DataArguments, LoraArguments, ModelArguments, StageArguments, TrainArguments
from training.mine import MineArguments

SECONDS = 60  # that a command may take
MEMORY = 6 * 2**30  # bytes that it may ask for besides what the process has
SHOWN = 200  # letters of a message

MODEL = ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
SHOP = [f"test/{name}.parquet" for name in ("corpus", "queries", "qrels")] + ["README.md"]


@dataclass
class Target:
    """A command and what it reads.

    Args:
        words: The command line: the module's name and its options; paths are below the world's folder.
        files: What is damaged, one file at a time.
        answer: What tells that a run's result is the right one: the lines that it printed, and files below the world.
            `None` where no damaged file can be right.
        checked: Whether a damaged file may never give another answer, for a digest of it is known. Of any other file,
            such as a table, nobody knows what it should hold: it is read as it is or refused.
        options: Of the parser.
        names: What may be named in place of the file: of a recipe the option that can't be what the recipe says.
    """

    words: list[str]
    files: list[str]
    answer: Callable[[Path, str], Any] | None
    checked: bool = True
    options: dict = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def printed(folder: Path, text: str) -> Any:
    return text


def digests(*names: str) -> Callable[[Path, str], Any]:
    """The contents of folders and files, but for marks."""

    def of(folder: Path, text: str) -> Any:
        files = [file for name in names for file in sorted([folder / name, *(folder / name).rglob("*")])]
        return [
            [file.relative_to(folder).as_posix(), sha256(file.read_bytes()).hexdigest()]
            for file in files
            if file.is_file() and not file.name.startswith(".")
        ]

    return of


def searched(folder: Path, text: str) -> Any:
    """The index that was written, but for the number of its generation."""
    said = json.loads((folder / "out" / "index.json").read_text())
    files = {part: facts["sha256"] for part, facts in said["files"].items()}
    return {name: value for name, value in said.items() if name not in ("checksum", "generation")} | {"files": files}


def measured(folder: Path, text: str) -> Any:
    return json.loads((folder / "out" / "report.json").read_text())["views"]


def rows(folder: Path, text: str) -> Any:
    files = sorted((folder / "out").rglob("*.parquet"))
    return [[file.name, pq.read_table(file).to_pylist()] for file in files]


def vectors(folder: Path, text: str) -> Any:
    """The shards that the manifest tells of and no more, and their vectors."""
    found, products = read_vectors(folder / "out")
    files = sorted(file.name for file in (folder / "out" / "shards").glob("*"))
    queries = read_sampled_queries(folder / "out")
    return [found.tolist(), products.to_pylist(), files, None if queries is None else queries.tolist()]


def counted(folder: Path, text: str) -> Any:
    import lance

    return lance.dataset(str(folder / "out")).to_table().to_pylist()


def _in(folder: str, names: list[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def targets(world: Path) -> dict[str, Target]:
    """The commands, by a name of each."""

    def below(folder: str, *patterns: str) -> list[str]:
        found = [file for pattern in patterns for file in sorted((world / folder).glob(pattern)) if file.is_file()]
        return [file.relative_to(world).as_posix() for file in found]

    model, bare = _in("run/model", [*MODEL, ".mmfusion.json"]), _in("bare/model", MODEL)
    search = ["training.search", "red mug", "--json", "--hybrid", "--k", "5", "--run"]
    ask = {"positional": "query"}
    stored = below("run/vectors", "*.json", "*.npy", "shards/*", ".mmfusion.json")
    to = ["training.scale.engines", "--vectors", "run/vectors"]
    embed = ["training.embed", "--data", "shop", "--split", "test", "--output", "out", "--shard_size", "5"]
    evaluate = ["training.evaluate", "--data", "shop", "--report", "out/report.json"]
    train = ["training.train", "--recipe", "recipe.yaml", "--output", "out"]
    start, recipe = [*train, "--fuse.epochs", "0"], {"recipe": True}
    prepare = ["training.prepare", "--output", "out", "--shares.train", "0.5", "--shares.dev", "0.2"]
    prepare += ["--shares.test", "0.3"]
    return {
        "search": Target([*search, "run"], model + below("run/index", "*"), printed, options=ask),
        "search, no mark": Target([*search, "bare"], bare, printed, options=ask),
        "search, int8": Target(
            [*search, "run", "--tower", "int8"],
            ["run/model/onnx/export.json", "run/model/onnx/query_tower_int8.onnx", "run/model/onnx/.mmfusion.json"],
            printed,
            options=ask,
        ),
        "search, file": Target(
            [*search[:1], "--queries", "queries.jsonl", "--run", "run"], ["queries.jsonl"], printed, False, ask
        ),
        "index": Target(["training.index", "--vectors", "run/vectors", "--output", "out"], stored, searched),
        "index, queries": Target(
            ["training.index", "--vectors", "run/vectors", "--output", "out", "--queries", "queries.npy"],
            ["queries.npy"],
            searched,
            False,
        ),
        "index --sync": Target(
            ["training.index", "--vectors", "run/vectors", "--output", "run/index", "--sync"],
            stored + below("run/index", "*"),
            printed,
        ),
        "index --compact": Target(
            ["training.index", "--output", "run/index", "--compact"], below("run/index", "*"), printed
        ),
        "embed": Target([*embed, "--model", "run/model", "--backend", "torch"], model, vectors),
        "embed, no mark": Target([*embed, "--model", "bare/model"], bare, vectors, False),
        "embed, catalogue": Target(
            [*embed, "--model", "run/model", "--backend", "torch"], _in("shop", SHOP), vectors, False
        ),
        "embed, again": Target(
            ["training.embed", "--model", "run/model", "--data", "shop", "--split", "test", "--output", "out"]
            + ["--shard_size", "5", "--backend", "torch"],
            [name.replace("run/vectors", "out") for name in stored],
            vectors,
        ),
        "embed, onnx": Target(
            [*embed, "--model", "run/model", "--backend", "auto"],
            below("run/model/onnx", "export.json", "product_tower.onnx", ".mmfusion.json"),
            vectors,
        ),
        "evaluate": Target([*evaluate, "--model", "run/model"], model, measured),
        "evaluate, no mark": Target([*evaluate, "--model", "bare/model"], bare, measured, False),
        "evaluate, catalogue": Target([*evaluate, "--model", "run/model"], _in("shop", SHOP), measured, False),
        "mine": Target(
            ["training.mine", "--model", "bare/model", "--data", "shop", "--split", "test"]
            + ["--output", "out/scores.parquet"],
            bare + _in("shop", SHOP),
            rows,
            False,
        ),
        "train": Target(
            train,
            ["recipe.yaml", "negatives.parquet"],
            digests("out/model"),
            False,
            recipe,
            ["--", "can't build a model from text", "no such folder; give a catalogue's folder"],
        ),
        "train, towers": Target(start, below("towers", "*/*"), digests("out/model"), False, recipe),
        "train, catalogue": Target(
            start, [name.replace("test", "train") for name in _in("shop", SHOP)], digests("out/model"), False, recipe
        ),
        "train, start": Target([*start, "--model.start", "bare/model"], bare, digests("out/model"), False, recipe),
        "export": Target(
            ["training.export", "--model", "run/model", "--formats", "onnx", "--output", "out"],
            model[:2],
            None,
        ),
        "engines, parquet": Target([*to, "--to", "parquet:out"], stored, rows),
        "engines, lance": Target([*to, "--to", "lance:out"], stored[:2], counted),
        "planning": Target(
            ["training.scale.planning", "--results", "bench_search.json", "--embedding", "bench_embed.json"],
            ["bench_search.json", "bench_embed.json"],
            printed,
            False,
        ),
        "prepare": Target(
            [*prepare, "--products", "products.csv", "--log", "log.csv"],
            ["products.csv", "log.csv"],
            digests("out"),
            False,
            names=["unknown product"],
        ),
        "prepare, parquet": Target(
            [*prepare, "--products", "products.parquet", "--log", "log.jsonl"],
            ["products.parquet", "log.jsonl"],
            digests("out"),
            False,
            names=["unknown product"],
        ),
        "convert": Target(
            ["training.convert", "--source", "esci", "--input", "esci", "--output", "out", "--dev", "0"],
            below("esci", "*"),
            digests("out"),
            False,
        ),
    }


def make_world(folder: Path) -> Path:
    """All that the commands read, in files that are as they should be."""
    towers = {
        "text": make_text_tower(folder / "towers" / "text"),
        "vision": make_vision_tower(folder / "towers/vision"),
    }
    for name in ("run", "bare"):
        with new_folder(folder / name / "model", "training.train") as partial:
            make_model(towers).save_pretrained(partial)
            MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(partial)
    (folder / "bare" / "model" / ".mmfusion.json").unlink()
    write_shop(folder / "shop")
    here = Path.cwd()
    os.chdir(folder)  # what a command says and writes of a path is then as in the worker
    export.main(ExportArguments("run/model", formats=["onnx"], quantize_query="int8"))
    embed.main(EmbedArguments("run/model", "shop", "test", shard_size=5, backend="torch"))
    shutil.copytree("run/vectors", "out")
    built = index.main(IndexArguments("run/vectors", words=True))
    built.remove(["mug-red"])
    built.save("run/index")
    shutil.copytree("run/index", "bare/index")
    mine.main(MineArguments("run/model", "shop", "negatives.parquet"))
    np.save("queries.npy", np.random.default_rng(0).standard_normal((60, built.dim)).astype(np.float32))
    _write_tables(Path())
    stage = StageArguments(epochs=1, batch_size=6, chunk_size=3, negatives_per_query=1)
    recipe = TrainArguments(
        DataArguments(["shop"], negatives=["negatives.parquet"]),
        ModelArguments("towers/text", "towers/vision", config=dict(TINY_DIMS)),
        LoraArguments(rank=2, alpha=4),
        fuse=stage,
    )
    write_config(Path("recipe.yaml"), recipe)
    os.chdir(here)
    return folder


def _write_tables(folder: Path) -> None:
    """Tables of a shop, a public set and results of benchmarks."""
    import pyarrow as pa

    corpus, queries, _ = shop_rows()
    items = [{**{key: row[key] for key in ("title", "description", "price")}, "id": row["_id"]} for row in corpus]
    events = [
        {"query": query["text"], "product": row["_id"], "event": "click"}
        for row, query in zip(corpus, queries, strict=True)
    ]
    for name, table in (("products", items), ("log", events)):
        columns = list(table[0])
        lines = [",".join(columns), *(",".join(row[column] for column in columns) for row in table)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query["_id"], "text": query["text"]}) + "\n" for query in queries)
    )
    judged = [
        {"query": event["query"], "query_id": number, "product_id": event["product"], "product_locale": "us"}
        | {"esci_label": "E", "small_version": 1, "large_version": 1, "split": ("train", "test")[number % 2]}
        for number, event in enumerate(events)
    ]
    listings = [
        {"product_id": row["id"], "product_title": row["title"], "product_description": row["description"]}
        | {"product_bullet_point": "", "product_brand": "", "product_color": "", "product_locale": "us"}
        for row in items
    ]
    (folder / "esci").mkdir()
    pq.write_table(pa.Table.from_pylist(judged), folder / "esci" / "shopping_queries_dataset_examples.parquet")
    pq.write_table(pa.Table.from_pylist(listings), folder / "esci" / "shopping_queries_dataset_products.parquet")
    settings = [{"recall@10": 0.98, "queries/s": 900.0, "p50 ms": 1.0}]
    settings += [{"recall@10": 0.995, "queries/s": 500.0, "p50 ms": 2.0}]
    figures = {
        "prepare": {"dim": 384},
        "build ours i8": {"products": 1000, "bytes on disk": {"graph": 5000, "vectors": 768000}},
        "search ours i8": {"products": 1000, "bytes in memory": 540000, "settings": settings},
        "end to end": {"int8 p50 ms": 5.0},
    }
    curve = {"curve, p50 ms": {"1000": 0.5, "10000": 0.9}}
    write_json(folder / "bench_search.json", {"figures": figures, "summary": curve})
    write_json(folder / "bench_embed.json", {"figures": {"embed, torch": {"products_per_second": 20.0}}})


class TooLong(BaseException):
    """A command goes on and on."""


def call(target: Target) -> tuple[Any, str, str]:
    """The status of a command that runs in this process, and its two outputs; the error where a traceback is due."""
    out, err = io.StringIO(), io.StringIO()
    module, words = target.words[0], target.words[1:]
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run(import_module(module).main, commands_of()[module], module, argv=words, **target.options)
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except (Exception, TooLong) as error:
        status = error
    finally:
        signal.alarm(0)
    return status, out.getvalue(), err.getvalue()


_COMMANDS: dict[str, type] = {}


def commands_of() -> dict[str, type]:
    if not _COMMANDS:
        _COMMANDS.update(commands())
    return _COMMANDS


def _end(*_) -> None:
    raise TooLong


def verdict(target: Target, file: str, expected: Any) -> tuple[str, str]:
    """How a command on a damaged file ended, and its message: `right`, `refused`, `read` (see [`Target`]), or a fault:
    `traceback`, `wrong answer`, `names no file`, `hang` or `not one line`."""
    folder = Path.cwd()
    status, out, err = call(target)
    if isinstance(status, TooLong):
        return "hang", _place(status)
    if isinstance(status, BaseException):
        return "traceback", f"{type(status).__name__}: {str(status)[:SHOWN]!r} at {_place(status)}"
    if status == 0:
        if target.answer is None:
            return "wrong answer", out[-SHOWN:]
        try:
            answer = json.loads(json.dumps(target.answer(folder, out), default=str))
        except Exception as error:
            return "wrong answer", f"unreadable: {type(error).__name__} {error}"
        if same(answer, expected):
            return "right", ""
        return ("wrong answer" if target.checked else "read"), out[-SHOWN:]
    errors = [line for line in err.splitlines() if line.strip().startswith("error:")]
    if status != 2 or len(errors) != 1 or "Traceback" in err or err.strip().splitlines()[-1] != errors[0]:
        return "not one line", f"{status} {err[-SHOWN:]!r}"
    named = [Path(file).name, *(folder.as_posix() for folder in Path(file).parents if folder != Path())][:2]
    is_named = any(name in errors[0] for name in named + target.names)
    return ("refused" if is_named else "names no file"), errors[0][:SHOWN]


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, but for the last bits of numbers: products embedded in other batches."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-3)
    return one == other


def _place(error: BaseException) -> str:
    """Where in our code an error came from, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/" not in frame.filename]
    ours = [frame for frame in ours if "damaged_runs" not in frame.filename]
    return " in ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*ours[-1:], *frames[-1:]])


def prepare_case(world: Path, scratch: Path, target: Target) -> None:
    """A fresh copy of what a command reads."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    roots = {Path(name).parts[0] for name in [*target.files, *target.words] if (world / Path(name).parts[0]).exists()}
    if target.words[0] in ("training.train",):
        roots |= {"shop", "towers", "negatives.parquet", "recipe.yaml"}
    if not any(name.startswith("out") for name in target.files):
        roots.discard("out")
    for root in sorted(roots):
        source = world / root
        shutil.copytree(source, scratch / root) if source.is_dir() else shutil.copy2(source, scratch / root)
    os.chdir(scratch)


def work(world: Path, scratch: Path) -> None:
    """Answers lines of JSON: `target`, `file` and `number` come back with `kind`, `how` and `message`."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print by themselves
    known, expected = targets(world), {}
    for line in sys.stdin:
        case = json.loads(line)
        name = case["target"]
        target = known[name]
        if name not in expected and target.answer is None:
            expected[name] = None
        if name not in expected:
            prepare_case(world, scratch, target)
            status, out, err = call(target)
            if status != 0:
                raise SystemExit(f"{name}: the good files don't do: {status!r} {err}")
            expected[name] = json.loads(json.dumps(target.answer(scratch, out), default=str))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        prepare_case(world, scratch, target)
        others = [scratch / other for other in target.files if other != case["file"]]
        kind = damage(scratch / case["file"], case["number"], others)
        started = time.process_time()
        how, message = verdict(target, case["file"], expected[name])
        seconds = round(time.process_time() - started, 3)
        replies.write(json.dumps(case | {"kind": kind, "how": how, "message": message, "seconds": seconds}) + "\n")
        replies.flush()


def run_cases(world: Path, scratch: Path, cases: list[dict]) -> list[dict]:
    """What became of each case, in their order; where the process died, the next one starts behind the case."""
    results: list[dict] = []
    environment = os.environ | {"PYTHONPATH": IMPORTED + os.pathsep + str(Path(__file__).parent)}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    while len(results) < len(cases):
        words = [sys.executable, __file__, str(world), str(scratch)]
        log = scratch.with_name(f"{scratch.name}.log")
        with open(log, "w") as errors:
            worker = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
            for case in cases[len(results) :]:
                try:
                    worker.stdin.write(json.dumps(case) + "\n")
                    worker.stdin.flush()
                    reply = worker.stdout.readline()
                except BrokenPipeError:
                    reply = ""
                if not reply:
                    status = worker.wait()
                    said = Path(log).read_text()[-SHOWN:]
                    if "the good files don't do" in said:
                        raise RuntimeError(said)
                    results.append(case | {"kind": "?", "how": "crash", "message": f"{status}: {said}"})
                    break
                results.append(json.loads(reply))
            else:
                worker.stdin.close()
                worker.wait()
    return results


FAULTS = ("traceback", "wrong answer", "names no file", "not one line", "hang", "crash")


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
