"""Kills, concurrent readers and damaged files: what an index, and the embedding, do when things go wrong.

    python -m training.benchmarks.faults --kills 1000 --updates 10000 --mutations 10000

1. A process that loads, changes and saves an index is killed (SIGKILL) at a random moment, again and again. After each
   kill the folder must open with the products and vectors of before or of after the change, none lost, none twice.
2. A process that embeds a catalogue, or the changes since it was embedded, is killed likewise. The folder must hold
   the vectors of before or of after; what was begun from nothing must end as, byte by byte, what one run writes.
3. Threads and processes search while another thread changes products one by one and saves. No search may fail, and
   the columns and the score of a product must be of the same version.
4. Copies of an index get random damage: flipped bits, torn, longer, swapped and missing files. Loading must end in an
   error, or in the right results where the damage does not matter, and never in a crash.

Half an hour in all, on a few hundred products. The tests do the same, with fewer rounds. Works where processes can be
forked (not on Windows).
"""

from training.benchmarks.options import FaultArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.faults", FaultArguments, __doc__)

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from threading import RLock, Thread

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tqdm import std
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.index import ProductIndex
from training import embed
from training.benchmarks.embedding import save_small_model, write_shop
from training.common.environment import environment
from training.common.files import check_output_file, write_json
from training.features.options import EmbedArguments
from training.features.shards import read_vectors

DIM = 24
PRODUCTS = 300
CHANGES = 12  # products that are added, updated and removed in a change
FUZZED_TOGETHER = 250  # damaged copies that one process opens
SAVE_EVERY = 50  # updates
ANEW_EVERY = 12  # kills of the embedding
Content = dict[str, int]  # version by product id


def vector_of(product_id: str, version: int) -> np.ndarray:
    """The vector of a version of a product."""
    seed = int.from_bytes(sha256(f"{product_id} {version}".encode()).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32)


def vectors_of(content: Content) -> np.ndarray:
    """The vectors of some products, `(products, dim)`."""
    return np.stack([vector_of(product_id, version) for product_id, version in content.items()])


def table_of(content: Content) -> pa.Table:
    """Some products as an index stores them."""
    titles = [f"product {product_id} of version {version}" for product_id, version in content.items()]
    return pa.table({"_id": list(content), "title": titles, "version": list(content.values())})


def first_content() -> Content:
    """What the index holds before any change."""
    return {f"sku-{number}": 0 for number in range(PRODUCTS)}


def build_index(dtype: str = "i8") -> ProductIndex:
    """An index of [`first_content`] with words."""
    content = first_content()
    return ProductIndex.build(vectors_of(content), table_of(content), "a model", dtype, {"all": DIM}, words=True)


def next_content(content: Content, version: int) -> tuple[Content, Content, Content, list[str]]:
    """What the index holds after the change of that number, and what is added, updated and removed by it."""
    rng = np.random.default_rng(version)
    ids = rng.permutation(sorted(content)).tolist()
    removed, updated = ids[:CHANGES], dict.fromkeys(ids[CHANGES : 2 * CHANGES], version)
    added = {f"new-{version}-{number}": version for number in range(CHANGES)}
    kept = {product_id: found for product_id, found in content.items() if product_id not in removed}
    return kept | updated | added, added, updated, removed


def change_and_save(folder: Path, content: Content, version: int) -> None:
    """Loads, changes and saves an index."""
    index = ProductIndex.load(folder)
    _, added, updated, removed = next_content(content, version)
    index.remove(removed)
    index.update(table_of(updated), vectors_of(updated))
    index.add(vectors_of(added), table_of(added))
    index.save(folder)


def content_of(folder: Path) -> Content:
    """What an index on disk holds.

    Raises:
        DataError: if a product is there twice, has another version's vector or does not find itself.
    """
    index = ProductIndex.load(folder, view=True)
    products = index.products
    content = dict(zip(products.column("_id").to_pylist(), products.column("version").to_pylist(), strict=True))
    if len(content) != products.num_rows or len(content) != len(index):
        raise DataError(f"{folder}: holds a product twice")
    found = index.search(vectors_of(content), 1)
    for (product_id, vector), results in zip(zip(content, vectors_of(content), strict=True), found, strict=True):
        if results[0].product_id != product_id or abs(results[0].score - vector @ vector) > 1e-5:
            raise DataError(f"{folder}: {product_id} does not find itself")
    return content


def kill_saves(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kills saves at random moments; see the module.

    Returns:
        How often the process was killed or had ended before, and how often the old and the new state was found.

    Raises:
        DataError: if neither was found.
    """
    content, rng = first_content(), np.random.default_rng(seed)
    seen = Counter(dict.fromkeys(("killed", "ended before", "new state", "old state"), 0))
    build_index().save(folder)
    started = time.monotonic()
    _wait(_fork(lambda: change_and_save(folder, content, 0)))
    longest, content = time.monotonic() - started, next_content(content, 0)[0]
    for version in tqdm(range(1, 1 + kills), desc="kills", leave=False):
        child = _fork(lambda: change_and_save(folder, content, version))  # noqa: B023
        was_killed, longest = kill_at_random(child, longest, rng)
        seen["killed" if was_killed else "ended before"] += 1
        found, new = content_of(folder), next_content(content, version)[0]
        if found not in (content, new):
            raise DataError(f"{folder}: after kill {version} it is neither of the old nor of the new state")
        seen["new state" if found == new else "old state"] += 1
        content = found
    change_and_save(folder, content, 10**6)
    if len(list(folder.iterdir())) != len(ProductIndex.load(folder).files) + 1:
        raise DataError(f"{folder}: files of killed saves are left")
    return dict(seen)


def kill_at_random(child: int, longest: float, rng: np.random.Generator) -> tuple[bool, float]:
    """Kills a process after a random time of at most `longest` seconds.

    Returns:
        Whether it was still running, and what to take for `longest` the next time: a little more if it was, else
        less, so that on a machine of any speed and load about half of many processes are hit.
    """
    time.sleep(rng.uniform(0.2, 1) * longest)
    os.kill(child, signal.SIGKILL)
    was_killed = _wait(child, check=False) == -signal.SIGKILL
    return was_killed, longest * (1.1 if was_killed else 0.9)


def kill_embedding(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kills the embedding of a catalogue that changes to and fro, and now and then is begun anew; see the module.

    Returns:
        As [`kill_saves`], and how often there was nothing yet.

    Raises:
        DataError: if anything else was found.
    """
    torch.set_num_threads(1)  # a fork has no threads of its parent's, and would wait for them for ever
    folder.mkdir()
    save_small_model(folder / "model", folder)
    shops = [write_shop(folder / f"shop-{number}", drawn_products(number)) for number in range(2)]
    output, shop, rng = folder / "vectors", folder / "shop", np.random.default_rng(seed)
    seen = Counter(dict.fromkeys(("killed", "ended before", "new state", "old state", "nothing yet"), 0))

    def start(number: int, output: Path) -> int:
        shop.unlink(missing_ok=True)
        shop.symlink_to(shops[number])  # the same catalogue, changed
        options = {"shard_size": 10, "batch_pictures": 4, "workers": 2}
        arguments = EmbedArguments(str(folder / "model"), str(shop), "test", str(output), **options)
        return _fork(lambda: quietly(lambda: embed.main(arguments)))

    started = time.monotonic()
    for number in range(len(shops)):
        _wait(start(number, folder / f"whole-{number}"))
    longest = (time.monotonic() - started) / len(shops)
    whole = [read_embedded(folder / f"whole-{number}") for number in range(2)]
    state = None  # the number of the catalogue whose vectors the folder holds
    for number in tqdm(range(kills), desc="kills of the embedding", leave=False):
        if number % ANEW_EVERY == 0:
            shutil.rmtree(output, ignore_errors=True)
            state = None
        target = 1 if state == 0 else 0
        child = start(target, output)
        was_killed, longest = kill_at_random(child, longest, rng)
        seen["killed" if was_killed else "ended before"] += 1
        found = read_embedded(output) if (output / "manifest.json").is_file() else None
        if same_vectors(found, whole[target]):
            if state is None and files_of(output) != files_of(folder / f"whole-{target}"):
                raise DataError(f"{output}: after kill {number} its files are not those of one run")
            seen["new state"] += 1
            state = target
        elif same_vectors(found, None if state is None else whole[state]):
            seen["nothing yet" if state is None else "old state"] += 1
        else:
            raise DataError(f"{output}: after kill {number} it is neither of the old nor of the new state")
    return dict(seen)


def drawn_products(number: int) -> list[dict]:
    """The products of a catalogue; that of another number has others, and some with another text or picture."""
    rows = []
    for product in range(10 * number, 40 + 10 * number):
        version, file = number if product % 3 == 0 else 0, BytesIO()
        Image.new("RGB", (40, 40), (5 * product, 90 * version, 128)).save(file, "PNG")
        row = dict.fromkeys(("description", "category", "brand", "price"))
        row |= {"_id": f"sku-{product}", "title": f"product {product} of version {version if product % 2 else 0}"}
        rows.append(row | {"image": {"bytes": file.getvalue(), "path": f"{product}.png"} if product % 7 else None})
    return rows


def quietly(work: Callable[[], None]) -> None:
    """Runs something without its progress bars and messages."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        work()


def read_embedded(folder: Path) -> dict[str, np.ndarray]:
    """Vectors by product id that training.embed wrote.

    Raises:
        DataError: if they can't be read, or a product is there twice.
    """
    vectors, products = read_vectors(folder)
    found = dict(zip(products.column("_id").to_pylist(), vectors, strict=True))
    if len(found) != len(vectors):
        raise DataError(f"{folder}: holds a product twice")
    return found


def same_vectors(found: dict[str, np.ndarray] | None, expected: dict[str, np.ndarray] | None) -> bool:
    """Whether both hold the same products with the same vectors, but for how float16 rounds; or both are `None`."""
    if found is None or expected is None:
        return found is expected
    return list(found) == list(expected) and all(np.allclose(found[one], expected[one], atol=2e-3) for one in found)


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of the shards' files by name."""
    return {file.name: file.read_bytes() for file in (folder / "shards").iterdir()}


def read_while_updating(folder: Path, updates: int, readers: int = 2) -> dict[str, int]:
    """Searches in threads and processes while products change; see the module.

    Returns:
        Numbers of updates, saves and searches.

    Raises:
        DataError: if a search failed.
    """
    index, content, errors, searches = build_index(), first_content(), [], Counter()
    index.save(folder)
    done = folder / "done"

    def keep_searching(name: str, opened: ProductIndex, refreshed: bool) -> None:
        rng = np.random.default_rng(len(name))
        while not done.exists():
            if refreshed:
                opened.refresh()
            query = vector_of("query", int(rng.integers(10**9)))
            for result in opened.search(query[None], 10, where={"version": (0, None)} if rng.random() < 0.3 else None)[
                0
            ]:
                expected = vector_of(result.product_id, result.product["version"]) @ query
                if abs(result.score - expected) > 1e-5:
                    raise DataError(f"{name}: {result.product_id} has the score of another version")
            searches[name] += 1

    def in_thread(name: str) -> None:
        try:
            keep_searching(name, index, refreshed=False)
        except Exception as error:  # of any kind: it is what this is about
            errors.append(f"{name}: {error!r}")

    processes = [
        _fork(lambda: keep_searching("process", ProductIndex.load(folder, view=True), refreshed=True))
        for _ in range(readers)
    ]
    threads = [Thread(target=in_thread, args=(f"thread {number}",)) for number in range(readers)]
    try:
        for thread in threads:
            thread.start()
        rng = np.random.default_rng(0)
        for version in tqdm(range(1, updates + 1), desc="updates", leave=False):
            _change_one(index, content, version, rng)
            if version % SAVE_EVERY == 0:
                index.save(folder)
    finally:
        done.touch()
        for thread in threads:
            thread.join()
        statuses = [_wait(process, check=False) for process in processes]
    if errors or any(statuses):
        raise DataError("; ".join(errors) or f"a reading process ended with status {statuses}")
    index.save(folder)
    if content_of(folder) != content:
        raise DataError("the index does not hold what was put in")
    return {"updates": updates, "saves": updates // SAVE_EVERY, "searches in threads": sum(searches.values())}


def _change_one(index: ProductIndex, content: Content, version: int, rng: np.random.Generator) -> None:
    """Adds, updates or removes one product, in the index and in what it is known to hold."""
    kind, some = rng.integers(4), str(rng.choice(list(content)))
    if kind == 0:
        one = {f"new-{version}": version}
        index.add(vectors_of(one), table_of(one))
    elif kind == 1 and len(content) > PRODUCTS // 2:
        index.remove([some])
        del content[some]
        return
    else:
        one = {some: version}
        index.update(table_of(one), vectors_of(one))
    content.update(one)


def fuzz_files(folder: Path, mutations: int, seed: int = 0) -> dict[str, int]:
    """Opens damaged copies of an index; see the module.

    Returns:
        How often it was refused, and how often it opened with the right results.

    Raises:
        DataError: if a process crashed or results were wrong.
    """
    build_index().save(folder / "index")
    expected = content_of(folder / "index")
    counts = Counter()
    for start in tqdm(range(0, mutations, FUZZED_TOGETHER), desc="mutations", leave=False):
        report = folder / "report"
        numbers = range(start, min(start + FUZZED_TOGETHER, mutations))
        status = _wait(_fork(lambda: _open_damaged(folder, numbers, seed, expected, report)), check=False)  # noqa: B023
        if status:
            raise DataError(f"opening a damaged index ended the process with status {status}: {report.read_text()}")
        counts.update(report.read_text().split("\n")[:-1])
    return dict(counts)


def _open_damaged(folder: Path, numbers: range, seed: int, expected: Content, report: Path) -> None:
    copy = folder / "copy"
    with open(report, "w") as log:
        for number in numbers:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder / "index", copy)
            what = damage(copy, np.random.default_rng([seed, number]))
            try:
                right = content_of(copy) == expected
            except ProductIndexError:
                log.write("refused\n")
                continue
            except BaseException as error:
                raise DataError(f"mutation {number} ({what}) ended in {error!r}") from error
            if not right:
                raise DataError(f"mutation {number} ({what}) gave wrong products")
            log.write("right\n")


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Damages one file of a folder, and tells how."""
    files = sorted(folder.iterdir())
    file = files[rng.integers(len(files))]
    old, kind = bytearray(file.read_bytes()), rng.choice(["bit", "bytes", "torn", "longer", "zeros", "swap", "gone"])
    start, length = int(rng.integers(len(old))), int(rng.integers(1, 64))
    if kind == "bit":
        old[start] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        old[start : start + length] = rng.bytes(length)
    elif kind == "torn":
        del old[start:]
    elif kind == "longer":
        old += rng.bytes(length)
    elif kind == "zeros":
        old[start:] = bytes(len(old) - start)
    elif kind == "swap":
        old = bytearray(files[rng.integers(len(files))].read_bytes())
    file.write_bytes(old)
    if kind == "gone":
        file.unlink()
    return f"{file.name}: {kind} at {start}"


def _fork(work: Callable[[], None]) -> int:
    """Runs something in a copy of this process, which ends with status 1 after an error."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    for kind in (std.tqdm, tqdm):
        kind.set_lock(RLock())  # its own one is shared by processes, and a killed one would hold it for ever
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"error: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def _wait(child: int, check: bool = True) -> int:
    """The exit status of a process, negative if a signal ended it."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if check and status:
        raise DataError(f"a process ended with status {status}")
    return status


def main(arguments: FaultArguments) -> dict:
    """Does all three, prints and writes what came of it."""
    check_output_file(arguments.output, ".json")
    results = {}
    for name, work in (
        ("kills", lambda folder: kill_saves(folder, arguments.kills, arguments.seed)),
        ("embedding", lambda folder: kill_embedding(folder, arguments.kills, arguments.seed)),
        ("readers", lambda folder: read_while_updating(folder, arguments.updates)),
        ("mutations", lambda folder: fuzz_files(folder, arguments.mutations, arguments.seed)),
    ):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = work(Path(folder, name))
        results[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{name}: {', '.join(f'{what} {count:,}' for what, count in results[name].items())}", flush=True)
    write_json(Path(arguments.output), results | {"environment": environment()})
    return results


def format_faults(results: dict) -> str:
    """What came of it, a line for each kind of fault."""
    lines = ["| fault | what was seen |", "| --- | --- |"]
    for name in ("kills", "embedding", "readers", "mutations"):
        seen = ", ".join(f"{what} {count:,}" for what, count in results[name].items())
        lines.append(f"| {name} | {seen} |")
    return "\n".join(lines)
