"""Follows a stream of product events: applies them, exactly once also after a crash, to an index or an engine.

    python -m training.follow --run runs/myshop --source events/
    python -m training.follow --run runs/myshop --source events.jsonl --once
    python -m training.follow --run runs/myshop --source events/ --engine postgresql://me@host/shop#products

The source is a JSONL file that grows, or a folder of files *.jsonl, in the order of their names, each of which appears
whole or grows at its end. An event a line:

    {"type": "upsert", "product": {"_id": "a", "title": "Mug", "price": 9.9, "image": "a.jpg"}}    all its fields
    {"type": "price", "_id": "a", "price": 12.5, "currency": "EUR"}
    {"type": "stock", "_id": "a", "in_stock": false}
    {"type": "update", "_id": "a", "colour": "red"}    any columns of which the vector is not made
    {"type": "delete", "_id": "a"}

What can't be applied is counted, named by file and line in follow/left_out.jsonl, and left out; half a line at the end
of a file waits for its rest. Products are embedded where their text or pictures changed, never for prices and stock.

The position in the stream is saved with the products: after a crash the same command goes on and applies again what
came after the last save. A file that was truncated or replaced ends the command; one that was applied may be deleted.
Without --once it waits for more until SIGTERM or Ctrl-C; SIGTERM ends the batch and saves. What was saved is taken
over by services within seconds.
"""

import hashlib
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import NonNegativeFloat, PositiveInt

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_files import read_manifest
from training.catalogue.event_files import EventFiles, Line
from training.common.cli import run
from training.common.errors import Problems
from training.common.files import claim_folder, only_process
from training.common.stopping import Stop, ends_on_sigterm
from training.features.contents import KnownContents
from training.features.embedder import ProductEmbedder
from training.features.options import EmbedArguments
from training.scale.changes import ChangeApplier
from training.scale.engine import open_engine, shown
from training.scale.targets import EngineTarget, IndexTarget

WRITER = "training.follow"
FACTS, LEFT_OUT = "follow.jsonl", "left_out.jsonl"
POLL = 0.1  # seconds


@dataclass
class FollowArguments:
    """What to follow, and where to apply it.

    Args:
        source: JSONL file of events that grows, or a folder of such files.
        run: Run folder with model/ and index/; gets follow/ with facts, one folder an engine.
        engine: Address of an engine to apply events to, in place of the index; see training/scale/engine.py.
        images: Folder that pictures' paths are relative to; null is that of the source.
        once: End at the end of the stream, and don't wait for more.
        batch: Most events that are applied together.
        seconds: Longest time that an event waits for others of its batch.
        save_seconds: Time from a save of the index to the next, which searches see. Of 100,000 products it takes under
            a second, and 10 where texts changed, for then all words are indexed anew.
        batch_tokens: As of training.embed; 1, with --batch_pictures 1, makes vectors that don't depend in their last
            bit on what else is embedded, and takes twice as long.
        batch_pictures: As of training.embed.
    """

    source: str
    run: str = "runs/quickstart"
    engine: str | None = None
    images: str | None = None
    once: bool = False
    batch: PositiveInt = 1024
    seconds: NonNegativeFloat = 1.0
    save_seconds: NonNegativeFloat = 60.0
    batch_tokens: PositiveInt | None = None
    batch_pictures: PositiveInt | None = None


class Follower:
    """Applies a stream to a target, saves, and tells how it goes.

    Args:
        arguments (`FollowArguments`): see there.
        folder (`Path`): gets `follow.jsonl`, `left_out.jsonl` and `contents.arrow`.
        target (`IndexTarget` or `EngineTarget`): where events are applied.

    Raises:
        DataError: if the source, the model or the target can't be used, or don't belong together.
    """

    def __init__(self, arguments: FollowArguments, folder: Path, target: IndexTarget | EngineTarget):
        self.arguments, self.folder, self.target = arguments, folder, target
        self.problems = Problems()
        self.files = EventFiles(arguments.source, target.position, self.problems)
        model = str(Path(arguments.run, "model"))
        batching = {"batch_tokens": arguments.batch_tokens, "batch_pictures": arguments.batch_pictures}
        embedder = ProductEmbedder(EmbedArguments(model, truncate_dim=target.dim, **batching))
        target.check_model(embedder.fingerprint, embedder.model.config.truncated_dims(embedder.dim), model)
        self.contents = KnownContents(folder, embedder.key, Path(arguments.run, "vectors"))
        images = Path(arguments.images) if arguments.images else self.files.folder
        if not images.is_dir():
            raise DataError(f"{images}: no such folder of pictures")
        self.applier = ChangeApplier(embedder, target, self.contents, images, self.problems)
        self.started = self.saved = self.caught_up = time.monotonic()
        self.totals: Counter[str] = Counter()
        self.position = self.files.position

    def follow(self, stop: Stop) -> None:
        """Applies events until the stream ends, or until a signal comes."""
        while not stop.asked:
            try:
                lines = self._next_batch(stop)
            except DataError:
                self.save()
                raise
            if lines:
                self.applier.apply(lines, self.files.position)
            if len(lines) < self.arguments.batch:
                self.caught_up = time.monotonic()
            if not lines and self.arguments.once:
                break
            if time.monotonic() - self.saved >= self.arguments.save_seconds:
                self.save()
        self.save()

    def save(self) -> None:
        """Saves the target and what is known of it, if anything was read since the last save, and tells of it."""
        self.saved, position = time.monotonic(), self.files.position
        if position == self.position:
            return
        self._write_left_out()
        self.target.save()
        self.contents.save()
        self.position = position
        self._tell(time.monotonic() - self.saved)
        self.saved = time.monotonic()

    def _next_batch(self, stop: Stop) -> list[Line]:
        """The next events: as many as a batch has, or what there is when the time to wait for them is over."""
        lines, until = self.files.read(self.arguments.batch), time.monotonic() + self.arguments.seconds
        while not self.arguments.once and len(lines) < self.arguments.batch and not stop.asked:
            if (left := until - time.monotonic()) <= 0:
                break
            time.sleep(min(POLL, left))
            lines += self.files.read(self.arguments.batch - len(lines))
        return lines

    def facts(self) -> dict:
        """What was done since the start: events by type, those left out, products embedded, speed, and how far behind
        the end of the stream it is."""
        seconds, events = time.monotonic() - self.started, sum(self.applier.counts.values())
        facts = {"events": events, **self.applier.counts, "left out": self.totals["left out"]}
        facts |= {"embedded": self.applier.embedded, "products": len(self.target)}
        facts |= {"seconds": round(seconds, 1), "events a second": round(events / max(seconds, 1e-3), 1)}
        behind = self.files.behind()
        late = time.monotonic() - self.caught_up if behind else 0
        return facts | {"bytes behind": behind, "seconds behind": round(late, 1)}

    def _tell(self, seconds: float) -> None:
        facts = self.facts() | {"seconds to save": round(seconds, 2)}
        append_lines(self.folder / FACTS, [{"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}])
        print(f"follow: {', '.join(f'{what} {number:,}' for what, number in facts.items())}", flush=True)

    def _write_left_out(self) -> None:
        left_out, self.applier.left_out = self.applier.left_out, []
        self.totals["left out"] += len(left_out)
        append_lines(self.folder / LEFT_OUT, [{"where": where, "why": why} for where, why in left_out])


def main(arguments: FollowArguments) -> dict:
    """Follows the stream, and returns what was done."""
    run_folder = Path(arguments.run)
    EventFiles(arguments.source)
    if not (run_folder / "model").is_dir():
        raise DataError(f"{run_folder}: holds no model/; give the folder of a run")
    if not arguments.engine:
        read_manifest(run_folder / "index")
    folder = claim_folder(run_folder / "follow" / place_of(arguments.engine), WRITER, option="--run")
    with ends_on_sigterm() as stop, only_process(folder, "one follower at a time; wait for its end"):
        target = EngineTarget(open_engine(arguments.engine)) if arguments.engine else IndexTarget(run_folder / "index")
        try:
            follower = Follower(arguments, folder, target)
            with stop.waiting():
                follower.follow(stop)
                tell_end(follower)
            return follower.facts()
        finally:
            target.close()


def place_of(engine: str | None) -> str:
    """The name of the folder with a target's facts: `index`, or an engine's name and a digest of its address."""
    if engine is None:
        return "index"
    return f"{engine.partition(':')[0]}-{hashlib.sha256(engine.encode()).hexdigest()[:8]}"


def tell_end(follower: Follower) -> None:
    """Tells what was left out, and which files end in half a line."""
    for where in follower.files.waiting():
        follower.problems.add("half a line at the end of a file (waits for its rest)", where)
    follower.problems.report()
    facts, target = follower.facts(), follower.arguments.engine
    where = shown(target) if target else Path(follower.arguments.run, "index")
    line = f"follow: {facts['events']:,} events applied to {where}, {facts['left out']:,} left out; "
    line += f"{facts['products']:,} products, {facts['embedded']:,} embedded; {facts['seconds']:,} s"
    print(line, flush=True)


def append_lines(file: Path, rows: list[dict]) -> None:
    """Appends rows as JSON lines in one write, on a line of their own if the last one was cut by a crash."""
    if not rows:
        return
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(file, "ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            text = text if opened.read(1) == b"\n" else f"\n{text}"
        opened.write(text.encode())


if __name__ == "__main__":
    run(main, FollowArguments, __doc__)
