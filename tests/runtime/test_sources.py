"""Capture processes that die, with a session that listens to them: real processes, real pipes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capture.messages import STREAMS, FeatureBlock, Message, Status
from runtime.sources import LiveSource
from runtime.supervisor import Sense

ROOT = Path(__file__).resolve().parents[2]
SENSE = """
import pathlib, sys, time
import numpy as np
from capture.features.vision import SPEC
from capture.link import Link, arguments, run

parser = arguments("sense", "a sense for tests, which is broken in its first life")
parser.add_argument("lives")
options = parser.parse_args()
lives = pathlib.Path(options.lives)
first = not lives.exists()
lives.touch()

def see(link, go, n):
    now_ns = link.clock.now_ns()
    link.features(np.array([now_ns]), np.zeros((1, SPEC.dim), np.float32), now_ns)

def work(link):
    go = link.wait_for_go()
    link.status("running")
    for n in range(30 if first else 10**9):
        see(link, go, n)
        if not first:
            time.sleep(0.02)
        if link.stopping:
            return
        link.beat()
    raise RuntimeError("broken")

sys.exit(run(Link("vision", SPEC, options.session, options.endpoint), work))
"""
Start = Callable[..., LiveSource]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A session's source whose one sense is the module above, or another body."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    started: list[LiveSource] = []

    def begin(body: str = SENSE, *, media: bool = False, paced: bool = True) -> LiveSource:
        (tmp_path / "sense.py").write_text(body)
        sense = Sense("vision", "sense", (str(tmp_path / "lives"),), False)
        source = LiveSource([sense], session="s", absent={}, media=media, paced=paced)
        started.append(source)
        source.open()
        return source

    yield begin
    for source in started:
        source.close()


def read_until(
    source: LiveSource, good: Callable[[Message], bool], *, pause_s: float = 0.0, within_s: float = 60
) -> list[Message]:
    """What comes, up to and with the message looked for; fails when it does not come."""
    messages: list[Message] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        arrival = source.next(None, STREAMS)
        time.sleep(pause_s)
        if arrival is not None:
            messages.append(arrival.message)
            if good(arrival.message):
                return messages
    raise AssertionError(f"not among {[m for m in messages if isinstance(m, Status)]}, {list(source.events)}")


def is_state(*states: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Status) and message.state in states


def is_block(message: Message) -> bool:
    return isinstance(message, FeatureBlock)


def test_the_last_words_of_a_dead_process_do_not_end_its_successor(start: Start) -> None:
    """A session that is behind reads them when the successor has been started."""
    source = start()
    messages = read_until(source, is_state("failed"), pause_s=0.05)
    assert sum(map(is_block, messages)) == 30, "what it saw before is not lost"
    messages += read_until(source, is_state("starting"))
    read_until(source, is_state("ready"))
    read_until(source, is_block)
    pid = source._supervisor.pid("vision")
    for _ in range(20):
        messages += read_until(source, is_block)
    assert source._supervisor.pid("vision") == pid is not None
    assert source.restarts()["vision"] == 1


@pytest.mark.parametrize("paced", [True, False])
def test_a_reader_that_dies_while_its_film_is_loaded_has_lost_nothing_from_before_the_session(
    start: Start, paced: bool
) -> None:
    dies = SENSE.replace("go = link.wait_for_go()", "sys.exit(7) if first else None; go = link.wait_for_go()")
    source = start(dies, media=True, paced=paced)
    began = time.monotonic()
    read_until(source, is_block)
    took_s = time.monotonic() - began
    (back,) = [event for event in source.events if "back after a restart" in event]
    lost = re.search(r"restart, (-?\d+\.\d) s lost", back)
    assert lost is not None and 0 <= float(lost[1]) <= (took_s + 0.1 if paced else 0), back
