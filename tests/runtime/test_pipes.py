"""What waits in the pipes while a session is busy has come in time: overload is late, never deaf."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from capture.bus import Sender, ipc, private_folder
from capture.bus import Sequence as Numbers
from capture.clock import VirtualClock
from capture.messages import STREAMS, FeatureBlock, Stamp, Status, StreamName
from runtime import live, network
from runtime.config import Config
from runtime.engine import Prediction
from runtime.engines.onnx import OnnxEngine
from runtime.pipes import Pipes, restamped
from runtime.plan import DEMO
from runtime.recording import Arrival, Recording
from runtime.session import Session
from runtime.sources import LiveSource
from runtime.stream import Emotion, Publisher, StatusMessage
from runtime.stream import Message as Published
from runtime.windows import Window
from tests.runtime.published import timeless

pytestmark = pytest.mark.usefixtures("one_date")

MS = 1_000_000
S = 1000 * MS


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = private_folder()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def pipes(clock: VirtualClock, folder: Path) -> Iterator[Pipes]:
    one = Pipes(folder, session="s", raw=False, now_ns=clock.now_ns, heard=lambda stream, message: None)
    yield one
    one.close()


def said(stream: StreamName, t_publish_ns: int, seq: int = 0) -> Status:
    return Status(Stamp("s", stream, seq, 0, t_publish_ns), "running")


def taken(pipes: Pipes, until_ns: int | None) -> list[tuple[int, str, int]]:
    """All that is there: when it arrived, of which stream, when it was published; in ms."""
    got: list[tuple[int, str, int]] = []
    while (arrival := pipes.next(until_ns, STREAMS)) is not None:
        stamp = arrival.message.stamp
        got.append((arrival.t_arrival_ns // MS, stamp.stream, stamp.t_publish_ns // MS))
    return got


def test_a_session_that_keeps_up_takes_each_message_when_it_comes(pipes: Pipes, clock: VirtualClock) -> None:
    clock.wait_until_ns(100 * MS)
    pipes.put(said("vision", 90 * MS))
    assert taken(pipes, 750 * MS) == [(100, "vision", 90)]
    assert pipes.given_out


def test_what_was_published_before_a_deadline_that_has_passed_arrives_by_it(
    pipes: Pipes, clock: VirtualClock
) -> None:
    clock.wait_until_ns(2000 * MS)
    for t_ms in (600, 700, 800, 900):
        pipes.put(said("vision", t_ms * MS))
    for t_ms in (650, 1300):
        pipes.put(said("audio", t_ms * MS))
    got = taken(pipes, 750 * MS)
    assert sorted(got[:3]) == [(750, "audio", 650), (750, "vision", 600), (750, "vision", 700)]
    assert got[3:] == [(800, "vision", 800), (900, "vision", 900), (1300, "audio", 1300)], (
        "the earliest first"
    )


def test_who_has_no_go_yet_is_on_another_clock_and_keeps_nobody_waiting(
    pipes: Pipes, clock: VirtualClock
) -> None:
    clock.wait_until_ns(2000 * MS)
    pipes.put(said("text", 10**15))
    pipes.put(said("vision", 800 * MS))
    assert taken(pipes, 750 * MS) == [(800, "vision", 800), (2000, "text", 10**9)]


def test_nobody_who_always_has_something_to_say_keeps_the_others_waiting(
    pipes: Pipes, clock: VirtualClock
) -> None:
    for _ in range(50):
        pipes.put(said("text", 0))
    for stream in ("audio", "vision"):
        pipes.put(said(stream, 0))
    assert {stream for _, stream, _ in taken(pipes, S)[:4]} == set(STREAMS)


def test_what_was_taken_before_the_session_began_arrives_at_its_beginning_and_first(
    pipes: Pipes, clock: VirtualClock
) -> None:
    clock.wait_until_ns(9 * MS)
    pipes.put(said("vision", 3 * MS))
    pipes.put_back([said("vision", MS), said("text", MS), said("vision", 2 * MS)], 5 * MS)
    got = taken(pipes, None)
    assert got == [(5, "vision", 1), (5, "text", 1), (5, "vision", 2), (9, "vision", 3)]


def test_a_session_that_wants_one_stream_leaves_the_others_in_their_pipes(pipes: Pipes, folder: Path) -> None:
    with Sender(ipc(folder, "vision")) as seen, Sender(ipc(folder, "audio")) as heard:
        seen.send(said("vision", 0))
        heard.send(said("audio", 0))
        assert pipes.wait(None, ["vision"])
        assert pipes.receivers["audio"].socket.poll(1000)
        arrival = pipes.next(None, ["vision"])
        assert arrival is not None and arrival.message.stamp.stream == "vision"
        assert pipes.next(None, ["vision"]) is None and pipes.receivers["audio"].socket.poll(0)


def test_what_comes_while_it_waits_is_noticed_also_when_the_deadline_has_passed(
    pipes: Pipes, clock: VirtualClock, folder: Path
) -> None:
    clock.wait_until_ns(S)
    began = time.monotonic()
    assert not pipes.wait(S // 2, STREAMS) and time.monotonic() - began < 0.5
    with Sender(ipc(folder, "audio")) as sender:
        sender.send(said("audio", 0))
        assert pipes.wait(2 * S, STREAMS)


def seen(clock: VirtualClock, seq: int) -> FeatureBlock:
    t_ns, values = clock.now_ns(), np.zeros((1, 59), np.float32)
    return FeatureBlock(Stamp("s", "vision", seq, t_ns, t_ns), "h", t_ns, np.array([t_ns]), values)


def test_what_a_dead_process_still_has_in_its_pipe_is_neither_a_gap_nor_news_of_its_successor(
    pipes: Pipes, clock: VirtualClock, folder: Path
) -> None:
    sequence = Numbers()
    numbers: list[int] = []

    def take(count: int) -> None:
        deadline = time.monotonic() + 10
        while len(numbers) < count and time.monotonic() < deadline:
            if (arrival := pipes.next(None, STREAMS)) is None:
                pipes.wait(None, STREAMS)
                continue
            assert not isinstance(arrival.message, Status), "of a life that is over"
            numbers.append(arrival.message.stamp.seq)
            sequence.observe(numbers[-1])

    with Sender(ipc(folder, "vision")) as dead, Sender(ipc(folder, "vision")) as successor:
        clock.wait_until_ns(S)
        for seq in range(10):
            dead.send(seen(clock, seq))
        late = [seen(clock, seq) for seq in range(10, 13)]
        clock.wait_until_ns(2 * S)
        assert pipes.receivers["vision"].socket.poll(1000)
        pipes.end("vision")
        take(10)
        for seq in range(3):
            clock.wait_until_ns((3 + seq) * S)
            successor.send(seen(clock, seq))
            take(11 + 2 * seq)
            dead.send(said("vision", S, 99))
            dead.send(late[seq])
            take(12 + 2 * seq)
    assert numbers == [*range(10), 0, -1, 1, -1, 2, -1] and sequence.gaps == 0


class Film(LiveSource):
    """The demo, as if its processes published it in a time that a test moves.

    ``stopped_ns``: from when to when nobody comes round to looking at what was published.
    """

    stopped_ns = (0, 0)

    def __init__(self, clock: VirtualClock) -> None:
        recording = Recording.open(DEMO)
        super().__init__([], session=recording.header.session, absent={}, media=True)
        self.clock = clock
        self._to_come = deque(recording.arrivals())

    @property
    def over(self) -> bool:
        return not self._to_come and self._pipes.given_out

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        pass

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        now_ns = self.clock.now_ns()
        while self._to_come and self._to_come[0].t_arrival_ns <= now_ns:
            one = self._to_come.popleft()
            self._pipes.put(restamped(one.message, t_publish_ns=one.t_arrival_ns))
        arrival = self._pipes.next(until_ns, wanted)
        if arrival is None and self._to_come:
            self.clock.wait_until_ns(min(self._to_come[0].t_arrival_ns, (until_ns or 0) + 1))
            if self.clock.now_ns() > self.stopped_ns[0]:
                self.clock.wait_until_ns(self.stopped_ns[1])
        return arrival


class Labouring(OnnxEngine):
    """The bundled network on a machine that is too slow for it."""

    def __init__(self, clock: VirtualClock, cost_s: float) -> None:
        super().__init__(network.load())
        self._clock, self._cost_ns = clock, round(cost_s * S)

    def infer(self, window: Window) -> Prediction:
        self._clock.wait_until_ns(self._clock.now_ns() + self._cost_ns)
        return super().infer(window)


@pytest.mark.parametrize("cost_s", [0.1, 0.7, 1.1])
def test_a_slow_network_makes_windows_late_and_is_eased_but_no_sense_is_missing_for_it(
    tmp_path: Path, clock: VirtualClock, cost_s: float
) -> None:
    heard: list[Published] = []
    path = tmp_path / "session.mcap"
    config = Config(record=str(path))
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = Film(clock)
        engine = Labouring(clock, cost_s)
        slow = Session(config, network.load(), engine, publisher, source, name="slow", show=heard.append)
        assert slow.run() == "end of input"
    windows = [m for m in heard if isinstance(m, Emotion) and m.time.end_ns > S]
    reasons = {m.modalities.audio.reason for m in windows} | {m.modalities.vision.reason for m in windows}
    assert "no_samples" not in reasons and len(windows) > 5
    events = [m.event for m in heard if isinstance(m, StatusMessage) and m.event is not msgspec.UNSET]
    assert events == (["overload: every second window only"] if cost_s > 0.5 else [])
    arrivals = [arrival.t_arrival_ns for arrival in Recording.open(path).arrivals()]
    assert arrivals == sorted(arrivals)
    again = tmp_path / "again.mcap"
    arguments = ["--replay", str(path), "--fast", "--record", str(again), "--no-dashboard"]
    assert live.main([*arguments, "--endpoint", f"ipc://{tmp_path}/again"]) == 0
    assert timeless(again) == timeless(path)


@pytest.mark.parametrize("busy", [True, False])
def test_a_session_that_was_stopped_for_a_while_gives_up_old_windows_and_invents_no_absence(
    tmp_path: Path, clock: VirtualClock, busy: bool
) -> None:
    heard: list[Published] = []
    with Publisher(f"ipc://{tmp_path}/stream", "stopped") as publisher:
        source = Film(clock)
        source.stopped_ns = (0, 0) if busy else (3 * S, 8 * S)  # while it waits

        def hear(message: Published) -> None:
            heard.append(message)
            if busy and isinstance(message, Emotion) and message.time.end_ns == 3 * S:
                clock.wait_until_ns(8 * S)

        engine = OnnxEngine(network.load())
        Session(Config(), network.load(), engine, publisher, source, name="stopped", show=hear).run()
    windows = [m for m in heard if isinstance(m, Emotion) and m.time.end_ns > S]
    assert windows[-1].dropped.windows > 0
    senses = [sense for m in windows for sense in (m.modalities.audio, m.modalities.vision)]
    assert {sense.reason for sense in senses} == {msgspec.UNSET}
