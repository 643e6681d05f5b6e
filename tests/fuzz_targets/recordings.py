"""Recordings: the MCAP reader, and whatever else reads a recording that somebody else made or damaged."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from mcap.writer import CompressionType, Writer
from rich.console import Console

from capture.messages import encode, pack
from runtime import network, stream
from runtime.config import Config
from runtime.dashboard.playback import Playback
from runtime.engine import Prediction
from runtime.markers import Markers
from runtime.recording import Recording, RecordingError
from runtime.recording.export import Format, export
from runtime.recording.info import summarise, tables
from runtime.recording.layout import CAPTURE_TOPICS, EMOTION_TOPIC, END_RECORD, FORMAT, SESSION_RECORD
from runtime.recording.repair import repair
from runtime.replay_source import ReplaySource
from runtime.report.gather import gather
from runtime.report.page import render
from runtime.session import Session
from runtime.stream import Message, Publisher
from runtime.windows import Window
from tests.fuzz_targets.messages import SECOND, captured, dumps_message, loads_message, shared
from tests.mutation import Target

MARKER = b'{"session":"s","t_ns":5,"clock":"media","wall":"2026-11-23T12:00:00.000Z","text":"he laughs"}'


def targets(demo: Recording, in_file: Callable[..., Callable[[bytes], object]]) -> tuple[Target, ...]:
    recorded = demo.path.read_bytes()
    values = _made(demo)
    made = _dumps_recording(values)
    seeds = (made, made, made, made[: len(made) * 2 // 3], recorded[:60_000])
    small: dict[str, Any] = {"loads": lambda _: values, "dumps": _dumps_recording}

    def target(name: str, run: Callable[[Path], object], tries: int = 25) -> Target:
        return Target(name, seeds, in_file("a.mcap", run), (RecordingError,), **small, tries=tries)

    return (
        # runtime.recording.read: all the messages of whole recordings and of those that break off
        Target(
            "recording", (recorded, *seeds), in_file("a.mcap", _read), (RecordingError,), **small, tries=25
        ),
        # python -m runtime.recording info, repair and export; runtime.report; the page of a recording
        target("recording, summarised", _summarised),
        target("recording, repaired", _repaired),
        target("recording as CSV", lambda path: _exported(path, "csv")),
        target("recording as Parquet", lambda path: _exported(path, "parquet"), 15),
        target("recording as XDF", lambda path: _exported(path, "xdf")),
        target("recording, reported", lambda path: render(gather(Recording.open(path))), 12),
        target("recording, played", _played),
        # runtime.live --replay and rescore: the same windows, through a network that always says the same
        target("recording, replayed", _Replay(), 15),
        # runtime.markers: what the operator noted, a line each; damaged ones are left out
        Target(
            "markers", (MARKER, MARKER + b"\n" + MARKER), in_file("s.markers.jsonl", _marked), (), tries=150,
            loads=_loads_lines, dumps=_dumps_lines,
        ),
    )  # fmt: skip


def _marked(path: Path) -> None:
    Markers(path, "s")


def _read(path: Path) -> None:
    found = Recording.open(path)
    for _ in found:
        pass
    for _, payload in found.emotions():
        len(payload)


def _summarised(path: Path) -> None:
    info = summarise(Recording.open(path))
    msgspec.json.encode(info)
    Console(file=io.StringIO(), width=100).print(*tables(info))


def _repaired(path: Path) -> None:
    out = path.with_name("repaired.mcap")
    out.unlink(missing_ok=True)
    if repair(path, out) is not None:
        assert repair(out, path.with_name("again.mcap")) is None, "a repaired recording is whole"


def _exported(path: Path, to: Format) -> None:
    out = path.with_name("exported")
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    export(Recording.open(path), to, out)


class _Said:
    """Takes what a session publishes, as far as it is a message."""

    def publish(self, message: Message) -> bytes:
        payload = stream.encode(message)
        stream.decode(payload)
        return payload

    def greet(self) -> None: ...

    def wait_for_subscriber(self, seconds: float) -> None: ...


class _Oracle:
    """An engine in no time."""

    name, precision = "oracle", "fp32"
    says = Prediction(np.eye(1, 7, dtype=np.float32)[0], {}, *(np.full(6, 1 / 6, np.float32),) * 2)

    def infer(self, window: Window) -> Prediction:
        return self.says


class _Replay:
    def __init__(self) -> None:
        self._network = network.load()

    def __call__(self, path: Path) -> None:
        recording = Recording.open(path)
        recording.check(self._network.features)
        source, publisher = ReplaySource(recording, paced=False), cast("Publisher", _Said())
        Session(
            Config(replay=str(path), fast=True), self._network, _Oracle(), publisher, source, name="s",
            replayed=recording,
        ).run()  # fmt: skip


def _played(path: Path) -> None:
    playback = Playback(Recording.open(path))
    for share in (0.0, 0.5, 1.0):
        playback.board(share * playback.duration_s)


def _made(demo: Recording) -> Any:
    """A small recording with everything in it, as values."""
    begin = {
        "session": "s", "clock": "monotonic", "start_ns": SECOND, "origin_ns": 5, "paced": True, "hop_s": 0.5,
        "lateness_s": 0.25, "wall": {"t_capture_ns": SECOND, "wall_unix_ns": 1_790_000_000 * SECOND},
        "streams": msgspec.to_builtins(demo.header.streams), "config": {"hop_s": 0.5}, "software": "1",
        "raw_consent": "Ada agreed on 3 May",
    }  # fmt: skip
    messages: list[Any] = []
    for message in captured():
        topic, stamp = CAPTURE_TOPICS[message.stamp.stream], message.stamp
        messages.append([topic, SECOND, SECOND, max(0, stamp.seq), loads_message(pack(encode(message)))])
    emotions = [payload for _, payload in demo.emotions()][:3]
    for payload in (*emotions, *shared()):
        messages.append([EMOTION_TOPIC, 2 * SECOND, 2 * SECOND, 1, msgspec.json.decode(payload)])
    lost = {"broke_off": True, "damaged": 1, "gaps": ["1.0 to 2.0 s"], "corrupt": 2}
    totals = {"windows": 3, "repaired": lost}
    return [
        {"format": FORMAT, "begin": begin},
        messages,
        {"totals": totals, "messages": {"audio": 2, "text": 1, "vision": 5}},
    ]


def _dumps_recording(value: Any) -> bytes:
    head, messages, end = value
    out = io.BytesIO()
    writer = Writer(out, 1500, CompressionType.ZSTD)
    writer.start(profile="", library="fuzz")
    begin = {"format": head["format"], "begin": msgspec.json.encode(head["begin"]).decode()}
    writer.add_metadata(SESSION_RECORD, begin)
    channels: dict[str, int] = {}
    for topic, log_ns, publish_ns, seq, content in messages:
        if topic not in channels:
            channels[topic] = writer.register_channel(topic, "x", schema_id=0)
        data = dumps_message(content) if topic != EMOTION_TOPIC else msgspec.json.encode(content)
        writer.add_message(channels[topic], log_time=log_ns, data=data, publish_time=publish_ns, sequence=seq)
    writer.add_metadata(END_RECORD, {name: msgspec.json.encode(one).decode() for name, one in end.items()})
    writer.finish()
    return out.getvalue()


def _loads_lines(data: bytes) -> Any:
    return [msgspec.json.decode(line) for line in data.splitlines()]


def _dumps_lines(value: Any) -> bytes:
    return b"\n".join(map(msgspec.json.encode, value))
