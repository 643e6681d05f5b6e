"""Fuzz every decoder: ``python -m tests.fuzz --inputs 1000000 --minutes 10``; the suite runs a few.

Inputs are real messages and files that were cut, flipped, spliced, grown, and given wicked values in the
right places. A decoder may refuse them in the one way that it documents; anything else is a finding, also
to take its process down, or not to come back: its seed is printed, and ``--target NAME --seed SEED
--inputs 1`` makes that input again. Each decoder has the whole budget, in a process of its own.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import rich.progress
from rich.console import Console
from rich.table import Table

from tests.mutation import Target, mutated

ROOT = f"{Path(__file__).resolve().parents[1]}{os.sep}"
ENDLESS_S = 60.0  # a decoder that takes longer over one small input does not come back
MEMORY = 16 << 30  # bytes of address space; a decoder that a small input makes so large is a finding
NEXT, REFUSED, ACCEPTED, BEGUN_NS = range(4)  # what a process shares with the one that watches it


@dataclass
class Found:
    """A decoder that did something else than to decode or to refuse."""

    target: str
    seed: int
    size: int  # bytes of the input
    kind: str
    error: str


def one(target: Target, seed: int) -> Literal["accepted", "refused"] | Found:
    """What a decoder makes of one input, made from its seed alone."""
    data = mutated(random.Random(seed), target)
    try:
        target.run(data)
    except target.refuses:
        return "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what is no Exception, such as the panic of a library in Rust
        return Found(target.name, seed, len(data), _kind(error), traceback.format_exc())
    return "accepted"


def _kind(error: BaseException) -> str:
    """The error's type and which line of ours let it through, so that each is told once."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(ROOT)]
    return f"{type(error).__name__} at {ours[-1].filename.removeprefix(ROOT)}:{ours[-1].lineno}"


@dataclass
class Tally:
    """What a decoder made of its inputs; of findings the first of each kind is kept."""

    target: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    found: dict[str, Found] = field(default_factory=dict)


class _Run:
    """A target in a process, which is begun anew behind an input that takes it down."""

    def __init__(self, target: Target, seed: int, inputs: int, minutes: float, scratch: Path) -> None:
        self.target, self.tally = target, Tally(target.name)
        self.news: list[Found] = []
        self._end, self._until = seed + inputs, time.monotonic() + 60 * minutes
        self._first, self._began = seed, time.monotonic()
        self._crash = scratch / "crash"
        self._forked = multiprocessing.get_context("fork")  # a target's functions cannot be pickled
        self._shared = self._forked.Array("q", [seed, 0, 0, 0], lock=False)
        self._start()

    def _start(self) -> None:
        self._shared[BEGUN_NS] = time.monotonic_ns()
        self._hears, tells = self._forked.Pipe(duplex=False)
        arguments = (self.target, self._end, self._until, self._shared, tells, self._crash)
        self._process = self._forked.Process(target=_fuzz, args=arguments, daemon=True)
        self._process.start()
        tells.close()

    def look(self) -> bool:
        """Take in what is new; False when this target is done."""
        alive = self._process.is_alive()
        self._listen()
        self._count()
        if alive:
            if time.monotonic_ns() - self._shared[BEGUN_NS] > ENDLESS_S * 1e9:
                self._process.kill()
                self._process.join()
                self._go_on("endless", f"no end within {ENDLESS_S:g} s")
            return True
        self._process.join()
        if self._process.exitcode == 0:
            return False
        where = self._crash.read_text(errors="replace") if self._crash.exists() else ""
        self._go_on("crashed", f"{where}exit status {self._process.exitcode}")
        return True

    def stop(self) -> None:
        """End it now; what it has found so far stands."""
        self._process.terminate()
        self._process.join()
        self._listen()
        self._count()

    def _go_on(self, kind: str, error: str) -> None:
        seed = self._shared[NEXT]
        size = len(mutated(random.Random(seed), self.target))
        self._add(Found(self.target.name, seed, size, kind, error))
        self._shared[NEXT] += 1
        self._start()

    def _listen(self) -> None:
        try:
            while self._hears.poll():
                self._add(self._hears.recv())
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
            pass

    def _add(self, found: Found) -> None:
        if self.tally.found.setdefault(found.kind, found) is found:
            self.news.append(found)

    def _count(self) -> None:
        self.tally.inputs = self._shared[NEXT] - self._first
        self.tally.refused, self.tally.accepted = self._shared[REFUSED], self._shared[ACCEPTED]
        self.tally.seconds = time.monotonic() - self._began


def _fuzz(target: Target, end: int, until: float, shared: Any, tells: Connection, crash: Path) -> None:
    """One input after the other; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that watches
    logging.disable()  # some name each damaged line
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libraries in C complain of each damaged file
    kinds: set[str] = set()
    with crash.open("w") as file:
        faulthandler.enable(file)
        while shared[NEXT] < end and time.monotonic() < until:
            shared[BEGUN_NS] = time.monotonic_ns()
            outcome = one(target, shared[NEXT])
            if isinstance(outcome, Found):
                if outcome.kind not in kinds:
                    tells.send(outcome)
                    kinds.add(outcome.kind)
            else:
                shared[REFUSED if outcome == "refused" else ACCEPTED] += 1
            shared[NEXT] += 1
        faulthandler.disable()


def run(
    chosen: Sequence[Target], seed: int, inputs: int, minutes: float, jobs: int, scratch: Path
) -> list[Tally]:
    """Fuzz the targets, ``jobs`` of them at a time; Ctrl-C ends it with what there is."""
    console = Console()
    waiting, running, tallies = deque(chosen), list[_Run](), list[Tally]()
    columns = (
        rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[told]}"), rich.progress.TimeElapsedColumn(),
    )  # fmt: skip
    with rich.progress.Progress(*columns, console=console) as progress:
        bars: dict[str, rich.progress.TaskID] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    target = waiting.popleft()
                    place = scratch / f"run-{len(tallies)}"
                    place.mkdir()
                    running.append(_Run(target, seed, inputs, minutes, place))
                    tallies.append(running[-1].tally)
                    bars[target.name] = progress.add_task(target.name, total=1.0, told="")
                time.sleep(0.05)
                for each in list(running):
                    goes_on = each.look()
                    _tell(console, each)
                    tally, bar = each.tally, bars[each.target.name]
                    done = max(tally.inputs / inputs, tally.seconds / (60 * minutes))
                    progress.update(bar, completed=min(done, 1.0), told=f"{tally.inputs:,} inputs")
                    if not goes_on:
                        running.remove(each)
                        progress.remove_task(bar)
                        console.print(f"{tally.target}: {tally.inputs:,} inputs, {len(tally.found)} findings")
        except KeyboardInterrupt:
            console.print("stopped")
        finally:
            for each in running:
                each.stop()
                _tell(console, each)
    return tallies


def _tell(console: Console, each: _Run) -> None:
    for found in each.news:
        head = f"--- --target '{found.target}' --seed {found.seed} --inputs 1: {found.size} bytes"
        console.print(f"{head}; {found.kind}\n{found.error}", markup=False, highlight=False, soft_wrap=True)
    each.news.clear()


def table(tallies: Sequence[Tally]) -> Table:
    """What was fuzzed, one decoder a row."""
    made = Table("target", title="fuzzed")
    for name in ("inputs", "refused", "accepted", "findings", "seconds"):
        made.add_column(name, justify="right")
    for tally in tallies:
        counts = (tally.inputs, tally.refused, tally.accepted, len(tally.found))
        made.add_row(tally.target, *(f"{count:,}" for count in counts), f"{tally.seconds:.1f}")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 when something was found."""
    from tests.fuzz_targets.everything import targets

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="at most so long each (default: 10)")
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="at most so many each (default: 1000000)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: CPUs)")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--target", "--only", help="one decoder, by its name")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.inputs < 1 or options.jobs < 1:
        parser.error("--minutes, --inputs and --jobs must be positive")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        known = targets(Path(scratch))
        chosen = [target for target in known if options.target in (None, target.name)]
        if not chosen:
            parser.error(f"no target {options.target!r}; there are: {', '.join(t.name for t in known)}")
        tallies = run(chosen, options.seed, options.inputs, options.minutes, options.jobs, Path(scratch))
    Console(width=100).print(table(tallies))
    total, findings = sum(tally.inputs for tally in tallies), sum(len(tally.found) for tally in tallies)
    print(f"{total:,} inputs for {len(tallies)} of {len(chosen)} decoders, {findings} kinds of findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
