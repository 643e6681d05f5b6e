"""What a session gave up in overload a replay leaves out, too; it can be asked for all windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from capture.clock import VirtualClock
from capture.messages import StreamName
from runtime import live, network
from runtime.bench_late import delay
from runtime.config import Config
from runtime.engine import Prediction
from runtime.engines.onnx import OnnxEngine
from runtime.plan import DEMO
from runtime.recording import LeftOut, Recorder, Recording, left_out
from runtime.recording.__main__ import main
from runtime.recording.layout import EMOTION_TOPIC, Arrival, Raw
from runtime.replay_source import ReplaySource
from runtime.session import Session
from runtime.stream import Emotion, Message, Publisher, SessionEnd, StatusMessage, decode
from runtime.windows import Window
from tests.runtime.published import timeless

pytestmark = pytest.mark.usefixtures("one_date")

S = 1_000_000_000
HOP = S // 2
HANGS_AT = 3 * S  # the window that ends here takes so long that those after it are too old
HANGS = 5 * S // 2
LABOURED = 3 * S // 10  # any other inference: with those of late words it is more than there is time for


class Replay(ReplaySource):
    """A recording as if it were captured now, in a time that a test moves."""

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self.clock = VirtualClock(self.start_ns)


class Labouring(OnnxEngine):
    """The bundled network on a machine that is too slow for it."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__(network.load())
        self.clock = clock

    def infer(self, window: Window) -> Prediction:
        assert self.clock is not None
        cost_ns = HANGS if window.end_ns == HANGS_AT else LABOURED
        self.clock.wait_until_ns(self.clock.now_ns() + cost_ns)
        return super().infer(window)


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory, one_date: None) -> tuple[Path, list[Message]]:
    """A recording of a session that could not keep up, with late words, and all that it published."""
    folder = tmp_path_factory.mktemp("overloaded")
    delay(Recording.open(DEMO), folder / "late.mcap", 1.3)
    heard: list[Message] = []
    engine = Labouring()
    source = Replay(Recording.open(folder / "late.mcap"), paced=True)
    config = Config(record=str(folder / "session.mcap"), hop_s=HOP / S)

    def hear(message: Message) -> None:
        heard.append(message)
        engine.clock = source.clock  # type: ignore[assignment]

    with Publisher(f"ipc://{folder}/stream", "slow") as publisher:
        session = Session(config, network.load(), engine, publisher, source, name="slow", show=hear)
        assert session.run() == "end of input"
    return folder / "session.mcap", heard


def emotions(path: Path) -> list[Emotion]:
    messages = (decode(payload) for _, payload in Recording.open(path).emotions())
    return [message for message in messages if isinstance(message, Emotion)]


def ends(messages: Iterable[Message]) -> list[int]:
    return [m.time.end_ns for m in messages if isinstance(m, Emotion) and m.revises is None]


def again(path: Path, out: Path, *options: str) -> Path:
    ipc = f"ipc://{out.parent}/{out.stem}"
    arguments = ["--replay", str(path), "--fast", "--record", str(out), "--endpoint", ipc, "--no-dashboard"]
    assert live.main([*arguments, *options]) == 0
    return out


def test_a_replay_after_an_overload_gives_the_same_windows_and_the_same_numbers(
    overloaded: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    path, heard = overloaded
    events = [m.event for m in heard if isinstance(m, StatusMessage) and m.event is not UNSET]
    assert events == ["overload: every second window only"]
    published = ends(heard)
    assert HANGS_AT + 2 * HOP not in published, "too old when the engine came back"
    assert published[-1] - published[-2] == 2 * HOP, "every second window only"
    assert any(isinstance(m, Emotion) and m.revises is not None for m in heard)
    replayed = again(path, tmp_path / "again.mcap")
    assert timeless(replayed) == timeless(path)
    was, now = (msgspec.convert(Recording.open(p).end, SessionEnd, strict=False) for p in (path, replayed))
    assert (now.windows, now.skipped) == (was.windows, was.skipped)
    assert timeless(again(replayed, tmp_path / "thrice.mcap")) == timeless(path)


def test_what_was_given_up_is_counted_and_stands_in_the_messages(
    overloaded: tuple[Path, list[Message]],
) -> None:
    path, heard = overloaded
    for message in heard:
        if isinstance(message, Emotion) and message.revises is None:
            before = [end for end in ends(heard) if end < message.time.end_ns]
            assert message.dropped.windows == message.time.end_ns // HOP - 1 - len(before)
    end = heard[-1]
    assert isinstance(end, SessionEnd) and end.windows == len(ends(heard)) and end.skipped > 4
    recorded = Recording.open(path).end or {}
    assert recorded.pop("stopped_at_ns") > ends(heard)[-1] and recorded == msgspec.to_builtins(end)


class Lingering(Replay):
    """Capture processes that say they have ended, and take a second to be gone."""

    _gone_ns = 0

    @property
    def over(self) -> bool:
        return super().over and self.clock.now_ns() > self._gone_ns

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        arrival = super().next(until_ns, wanted)
        if arrival is None:
            self.clock.wait_until_ns(self.clock.now_ns() + S // 10)
        else:
            self._gone_ns = arrival.t_arrival_ns + S
        return arrival


def test_windows_that_were_cut_after_the_last_message_are_cut_in_the_replay_too(tmp_path: Path) -> None:
    path = tmp_path / "session.mcap"
    config = Config(record=str(path), hop_s=HOP / S)
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = Lingering(Recording.open(DEMO), paced=True)
        engine = OnnxEngine(network.load())
        reason = Session(config, network.load(), engine, publisher, source, name="s").run()
    assert reason == "end of input"
    newest_ns = max(arrival.message.stamp.t_capture_ns for arrival in Recording.open(path))
    assert emotions(path)[-1].time.end_ns > newest_ns, "time went on"
    assert timeless(again(path, tmp_path / "again.mcap")) == timeless(path)


def test_all_windows_are_computed_where_that_is_asked_for(
    overloaded: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    path, heard = overloaded
    whole = again(path, tmp_path / "all.mcap", "--all-windows")
    assert main(["rescore", str(path), "--all-windows", "--out", str(tmp_path / "rescored.mcap")]) == 0
    assert timeless(tmp_path / "rescored.mcap") == timeless(whole)
    assert Recording.open(whole).header.config["all_windows"] is True
    grid = ends(emotions(whole))
    assert grid == [HOP * (k + 1) for k in range(len(grid))] and set(ends(heard)) < set(grid)
    same = {m.time.end_ns: m.emotions for m in emotions(path) if m.final}
    computed = {m.time.end_ns: m.emotions for m in emotions(whole) if m.final}
    assert same.items() <= computed.items()
    assert not any(message.dropped.windows for message in emotions(whole))


def test_a_rescored_session_has_the_windows_of_the_recorded_one(
    overloaded: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    path, heard = overloaded
    assert main(["rescore", str(path), "--out", str(tmp_path / "rescored.mcap")]) == 0
    assert ends(emotions(tmp_path / "rescored.mcap")) == ends(heard)


def copied(path: Path, out: Path, keep: Iterable[Raw], end: dict[str, object] | None) -> LeftOut:
    recording = Recording.open(path)
    with Recorder(out, recording.begin) as recorder:
        for raw in keep:
            recorder.copy(raw)
        recorder.close(end)
    return left_out(Recording.open(out))


def test_where_messages_are_lost_nothing_is_said_to_have_been_left_out(
    overloaded: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    path, heard = overloaded
    published, end = ends(heard), Recording.open(path).end
    raws = list(Recording.open(path).raw())
    told = [raw for raw in raws if raw.topic == EMOTION_TOPIC]
    grid = range(HOP, published[-1] + 4 * HOP, HOP)
    gone = {end_ns for end_ns in grid if end_ns not in published}

    def left(name: str, keep: list[Raw], end: dict[str, object] | None = end) -> set[int]:
        found = copied(path, tmp_path / name, keep, end)
        return {end_ns for end_ns in grid if end_ns in found}

    assert left("whole", raws) == gone
    first = decode(told[0].data)
    assert isinstance(first, Emotion)
    last_ns = max(m.time.end_ns for m in map(decode, (r.data for r in told[:-1])) if isinstance(m, Emotion))
    assert left("no first", [r for r in raws if r is not told[0]]) == {e for e in gone if e > published[1]}
    assert left("no last", [r for r in raws if r is not told[-1]]) == {e for e in gone if e < last_ns}
    assert left("no end", raws, None) == {e for e in gone if e < published[-1]}
    assert left("nothing", [r for r in raws if r.topic != EMOTION_TOPIC], None) == set()


def test_a_recording_of_nothing_but_what_was_captured_is_replayed_whole(tmp_path: Path) -> None:
    delay(Recording.open(DEMO), tmp_path / "captured.mcap", 0.0)
    assert not list(Recording.open(tmp_path / "captured.mcap").emotions())
    replayed = ends(emotions(again(tmp_path / "captured.mcap", tmp_path / "again.mcap")))
    assert replayed == [HOP * (k + 1) for k in range(len(replayed))] and len(replayed) > 20


def test_all_windows_without_a_recording_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for source in (["--demo"], ["--input", "clip.mp4"]):
        assert live.main([*source, "--all-windows"]) == 2
        assert capsys.readouterr().err.splitlines() == [
            "error: all_windows belongs to a recording: add --replay FILE"
        ]


def test_the_segments_of_every_message_of_an_overloaded_session_sum_to_its_total(
    overloaded: tuple[Path, list[Message]],
) -> None:
    revised = 0
    for message in emotions(overloaded[0]):
        latency = message.latency_ms
        segments = (latency.capture, latency.features, latency.window, latency.infer, latency.publish)
        known = [segment for segment in segments if segment is not UNSET]
        assert len(known) == 5 and round(sum(known), 3) == latency.total
        revised += message.revises is not None
    assert revised > 3


def test_a_session_that_did_not_wait_for_anything_is_replayed_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "session.mcap"
    config = Config(record=str(path), hop_s=HOP / S, lateness_s=0.0)
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = Replay(Recording.open(DEMO), paced=True)
        Session(config, network.load(), OnnxEngine(network.load()), publisher, source, name="s").run()
    assert Recording.open(path).header.lateness_s == 0.0
    assert timeless(again(path, tmp_path / "again.mcap")) == timeless(path)


def test_a_camera_that_is_late_by_a_known_delay_is_in_every_window_and_in_its_replay(tmp_path: Path) -> None:
    """By 1.9 s, which is longer than windows wait and nearly as long as they are worth something."""
    demo, late_s = Recording.open(DEMO), 1.9
    with Recorder(tmp_path / "late.mcap", demo.begin | {"lateness_s": None}) as recorder:
        late = (
            (one.t_arrival_ns + round(late_s * S) * (one.message.stamp.stream == "vision"), one)
            for one in demo
        )
        for t_ns, arrival in sorted(late, key=lambda pair: pair[0]):
            recorder.add(arrival.message, t_ns)
    path, engine, heard = tmp_path / "session.mcap", OnnxEngine(network.load()), list[Message]()
    with Publisher(f"ipc://{tmp_path}/stream", "slow") as publisher:
        source = Replay(Recording.open(tmp_path / "late.mcap"), paced=True)
        config = Config(record=str(path), hop_s=HOP / S)
        Session(
            config, network.load(), engine, publisher, source, name="s", delay_s=late_s, show=heard.append
        ).run()
    faces = [message.modalities.vision for message in emotions(path)]
    present = [message.modalities.vision.present for message in emotions(DEMO) if message.revises is None]
    assert sum(face.present for face in faces) >= sum(present) - 4 > 10  # those until its first picture
    assert not any(m.eased or m.skipped for m in heard if isinstance(m, StatusMessage))
    assert Recording.open(path).header.lateness_s == pytest.approx(late_s + 0.25)
    assert timeless(again(path, tmp_path / "again.mcap")) == timeless(path)
