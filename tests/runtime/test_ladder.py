"""Overload: one step at a time, each published, and back again when there is room — never to and fro."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.messages import STREAMS
from runtime import ladder, network
from runtime.config import Config
from runtime.engine import Prediction
from runtime.engines.onnx import OnnxEngine
from runtime.ladder import CALM_NS, MAX_CALM_NS, STEPS, Change, Ladder
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.replay_source import ReplaySource
from runtime.session import Session
from runtime.stream import Emotion, Message, Publisher, SessionEnd, StatusMessage
from runtime.windows import Window

S = 1_000_000_000
HOP = S // 2
MAX_AGE = 2 * S


class Life:
    """Windows every half second, as old as is said."""

    def __init__(self) -> None:
        self.ladder = Ladder(STEPS, MAX_AGE)
        self.now_ns = 0
        self.changes: list[tuple[float, Change]] = []

    def go_on(self, seconds: float, age_s: float) -> Life:
        for _ in range(round(seconds * 2)):
            self.now_ns += HOP
            change = self.ladder.observe(self.now_ns, round(age_s * S))
            if change is not None:
                self.changes.append((self.now_ns / S, change))
        return self


def test_a_machine_that_keeps_up_gives_up_nothing() -> None:
    assert Life().go_on(3600, 0.1).changes == []


def test_a_few_late_windows_are_no_overload() -> None:
    life = Life()
    for _ in range(100):
        life.go_on(2, 1.5).go_on(3, 0.1)
    assert life.changes == []


def test_overload_gives_up_one_thing_at_a_time_in_the_order_of_the_design() -> None:
    life = Life().go_on(120, 1.8)
    assert [change.step for _, change in life.changes] == list(STEPS)
    assert all(change.down for _, change in life.changes)
    times = [at for at, _ in life.changes]
    assert times[0] <= 4 and all(b - a >= 5 for a, b in itertools.pairwise(times))
    assert life.ladder.taken == list(STEPS), "and at the bottom it stays"


def test_when_there_is_room_the_last_step_is_the_first_that_is_taken_back() -> None:
    life = Life().go_on(20, 1.8)
    down = [change.step for _, change in life.changes]
    assert len(down) >= 2
    life.changes.clear()
    life.go_on(600, 0.1)
    assert [change.step for _, change in life.changes] == down[::-1] and life.ladder.taken == []
    assert life.changes[0][0] >= 20 + CALM_NS / S


def test_windows_that_are_neither_late_nor_calm_change_nothing() -> None:
    life = Life().go_on(5, 1.8)
    assert len(life.changes) == 1
    assert len(life.go_on(600, 0.8).changes) == 1


def test_a_step_up_that_was_a_mistake_makes_the_next_one_wait_longer() -> None:
    """A machine that only keeps up on the first step: it must not swing for ever at one pace."""
    life = Life()
    for _ in range(4 * 3600):
        life.go_on(0.5, 0.1 if life.ladder.taken else 1.8)
    ups = [at for at, change in life.changes if not change.down]
    waits = [b - a for a, b in itertools.pairwise(ups)]
    assert waits[0] < 100 < waits[-1] and max(waits) <= MAX_CALM_NS / S + 20


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 60), st.floats(0, 3)), max_size=30))
def test_whatever_happens_steps_are_taken_and_taken_back_in_order(parts: list[tuple[float, float]]) -> None:
    life = Life()
    for seconds, age_s in parts:
        life.go_on(seconds, age_s)
    taken: list[str] = []
    for _, change in life.changes:
        if change.down:
            taken.append(change.step)
        else:
            assert taken.pop() == change.step
        assert taken == list(STEPS[: len(taken)])
    assert taken == life.ladder.taken


class SlowEngine:
    """The bundled network on a machine that is too slow, until it is not."""

    name, precision = "onnxruntime-cpu", "fp32"

    def __init__(self, extra_s: float) -> None:
        self.extra_s = extra_s
        self._real = OnnxEngine(network.load(), threads=1)

    def infer(self, window: Window) -> Prediction:
        time.sleep(self.extra_s)
        return self._real.infer(window)


def test_a_session_that_cannot_keep_up_publishes_its_steps_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real session in real time whose network takes longer than the hop, for the first seconds."""
    for name, value in (("LOOKED_AT", 4), ("TOO_MANY", 2), ("SETTLE_NS", S // 2), ("CALM_NS", 2 * S)):
        monkeypatch.setattr(ladder, name, value)
    engine, heard = SlowEngine(0.3), list[Message]()

    def hear(message: Message) -> None:
        heard.append(message)
        if isinstance(message, StatusMessage) and message.event is not msgspec.UNSET:
            engine.extra_s = 0.0  # somebody plugged it in

    config = Config(replay=str(DEMO), hop_s=0.25, max_age_s=0.8)
    recording = Recording.open(DEMO)
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = ReplaySource(recording, paced=True)
        session = Session(config, network.load(), engine, publisher, source, name="slow", show=hear)
        assert session.run() == "end of input"
    events = [m.event for m in heard if isinstance(m, StatusMessage) and m.event is not msgspec.UNSET]
    assert events[:2] == [
        "overload: every second window only",
        "room again: no longer every second window only",
    ]
    eased = [m.eased for m in heard if isinstance(m, StatusMessage)]
    assert ("every second window only",) in eased and eased[-1] == ()
    ends = [m.time.end_ns for m in heard if isinstance(m, Emotion) and m.revises is None]
    hops = {b - a for a, b in itertools.pairwise(ends)}
    assert HOP in hops and HOP // 2 in hops, "half as many windows meanwhile, then all of them"


def test_a_window_that_is_too_old_is_skipped_and_counted_in_every_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of windows is newest only; here nothing else is given up that could help."""
    monkeypatch.setattr(ladder, "TOO_MANY", 10**9)
    heard = list[Message]()
    config = Config(replay=str(DEMO), hop_s=0.25, max_age_s=0.6, duration_s=6)
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = ReplaySource(Recording.open(DEMO), paced=True)
        engine = SlowEngine(0.5)
        Session(config, network.load(), engine, publisher, source, name="slow", show=heard.append).run()
    windows = [m for m in heard if isinstance(m, Emotion) and m.revises is None]
    end = heard[-1]
    assert isinstance(end, SessionEnd) and end.skipped > 0 and end.windows == len(windows)
    told = [window.dropped.windows for window in windows]
    assert told == sorted(told) and 0 < told[-1] <= end.skipped
    for (before, lost), (window, lost_then) in itertools.pairwise(zip(windows, told, strict=True)):
        missing = (window.time.end_ns - before.time.end_ns) // (HOP // 2) - 1
        assert missing == lost_then - lost, "each window is published or counted, and none is both"
    assert not any(status.eased for status in heard if isinstance(status, StatusMessage))


def test_a_session_without_a_camera_or_recogniser_has_only_its_hop_to_give_up() -> None:
    source = ReplaySource(Recording.open(DEMO), paced=True)
    assert source.eases() == () and set(STREAMS) == {"text", "audio", "vision"}
