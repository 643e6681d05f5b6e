"""Info: what a recording holds, counted in one pass: streams, rates, faces, words, losses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from rich.markup import escape
from rich.table import Table

from capture.bus import Sequence
from capture.features import vision as vision_features
from capture.messages import STREAMS, FeatureBlock, Pcm, Picture, Status, StreamName, Words
from runtime.markers import of_recording
from runtime.recording.read import Recording


class StreamInfo(msgspec.Struct):
    """One stream of a recording; ``samples`` are feature vectors, words, or PCM samples."""

    messages: int = 0
    samples: int = 0
    rate_hz: float | None = None  # of the samples, over the time that they span
    gaps: int = 0  # messages that never arrived
    dropped: int = 0  # samples lost inside the process, as it said last
    first_ns: int | None = None  # capture time of the first sample
    last_ns: int | None = None
    state: str = "absent"  # as the process said last
    reason: str | None = None


class Info(msgspec.Struct):
    """A recording at a glance."""

    file: str
    bytes: int
    session: str
    clock: str
    started: str | None  # date of the first arrival; None: the header has no wall anchor
    duration_s: float
    complete: bool  # closed properly, nothing missing
    truncated: bool  # breaks off: its writer was killed, or the copy is incomplete
    damaged: list[str]  # stretches left out, in seconds since the start: "3.5 to 4.0 s"
    repaired: dict[str, Any] | None  # what an earlier repair had to leave out
    warnings: list[str]
    streams: dict[StreamName, StreamInfo]
    faces: float | None  # share of the vision samples with a face, 0..1; None: it is not known
    words: int  # committed ones
    emotions: int  # published messages
    markers: int  # set by the operator, in a file beside the recording
    markers_skipped: int  # lines of that file that are none
    markers_others: int  # those of another session, whose recording had this name
    pictures: int
    sound_s: float
    raw_consent: str  # the words with which pictures and sound were allowed
    begin: dict[str, Any]
    end: dict[str, Any] | None


def summarise(recording: Recording) -> Info:
    """Count everything in one pass over the messages of the capture processes, one over the rest."""
    streams: dict[StreamName, StreamInfo] = {name: StreamInfo() for name in STREAMS}
    sequences: dict[StreamName, Sequence] = {name: Sequence() for name in STREAMS}
    column = _presence_column(recording)
    faces: list[bool] = []
    words = pictures = 0
    sound_s = 0.0
    for arrival in recording.arrivals():
        message = arrival.message
        name = message.stamp.stream
        info = streams[name]
        info.messages += 1
        sequences[name].observe(message.stamp.seq)
        match message:
            case FeatureBlock(times_ns=times_ns, values=values) if len(times_ns):
                _span(info, int(times_ns[0]), int(times_ns[-1]), len(times_ns))
                if name == "vision" and column is not None and column < values.shape[1]:
                    faces += (values[:, column] > 0).tolist()
            case Words():
                words += sum(word.committed for word in message.words)
                for word in message.words:
                    _span(info, word.start_ns, word.end_ns, 1)
            case Pcm(rate_hz=rate_hz, samples=samples):
                sound_s += len(samples) / rate_hz
            case Picture():
                pictures += 1
            case Status():
                info.state, info.reason, info.dropped = message.state, message.reason, message.dropped
            case _:
                pass
    for name, info in streams.items():
        info.gaps = sequences[name].gaps
        if name != "text" and info.first_ns is not None and info.last_ns is not None:
            span_ns = info.last_ns - info.first_ns
            info.rate_hz = (info.samples - 1) * 1e9 / span_ns if span_ns > 0 else None
    warnings = recording.warnings
    markers = of_recording(recording)
    return Info(
        file=str(recording.path),
        bytes=recording.path.stat().st_size,
        session=recording.header.session,
        clock=recording.header.clock,
        started=_started(recording),
        duration_s=_duration_s(recording, streams),
        complete=not warnings and recording.end is not None,
        truncated=recording.truncated,
        damaged=list(map(recording.told, recording.gaps)),
        repaired=_repaired(recording.end or {}),
        warnings=warnings,
        streams=streams,
        faces=float(np.mean(faces)) if faces else None,
        words=words,
        emotions=sum(1 for _ in recording.emotions()),
        markers=len(markers.all),
        markers_skipped=markers.skipped,
        markers_others=markers.others,
        pictures=pictures,
        sound_s=sound_s,
        raw_consent=recording.header.raw_consent,
        begin=recording.begin,
        end=recording.end,
    )


def _duration_s(recording: Recording, streams: Mapping[StreamName, StreamInfo]) -> float:
    """On the session's clock; where nobody waited for that (``--fast``), as far as samples were captured."""
    captured = [info.last_ns for info in streams.values() if info.last_ns is not None]
    if recording.header.paced or not captured:
        return recording.duration_s
    return (max(captured) - recording.header.start_ns) / 1e9


def tables(info: Info) -> list[Table]:
    """The same for a person."""
    about = Table(title="recording", show_header=False)
    about.add_row("file", escape(info.file))
    about.add_row("session", escape(info.session) or "(not named)")
    about.add_row("started", info.started or "not known")
    about.add_row("duration", f"{info.duration_s:.1f} s on the {info.clock} clock")
    about.add_row("faces", "not known" if info.faces is None else f"in {info.faces:.0%} of the frames")
    about.add_row("words", str(info.words))
    about.add_row("emotion messages", str(info.emotions))
    left_out = {"damaged": info.markers_skipped, "of another session": info.markers_others}
    if info.markers or any(left_out.values()):
        about.add_row("markers", str(info.markers))
    if any(left_out.values()):
        about.add_row("markers left out", ", ".join(f"{n} {why}" for why, n in left_out.items() if n))
    if info.pictures or info.sound_s:
        kept = f"{info.pictures} pictures, {info.sound_s:.1f} s of sound"
        about.add_row("pictures and sound", escape(f'{kept}; consent: "{info.raw_consent}"'))
    about.add_row("size", f"{info.bytes / 1e6:.2f} MB")
    about.add_row("closed properly", "no" if info.truncated or info.end is None else "yes")
    about.add_row("damaged stretches", ", ".join(info.damaged) or "none")
    if info.repaired is not None:
        about.add_row("repaired; was lost", escape(_told(info.repaired)))
    lost = sum(stream.gaps for stream in info.streams.values())
    about.add_row("whole", "yes" if info.complete else "no: python -m runtime.recording repair mends it")
    about.add_row("messages lost on the way", str(lost))
    streams = Table("stream", "messages", "samples", "rate", "gaps", "dropped", "last state", title="streams")
    for name, stream in info.streams.items():
        rate = "" if stream.rate_hz is None else f"{stream.rate_hz:.1f} Hz"
        state = f"{stream.state} ({stream.reason})" if stream.reason else stream.state
        counts = (stream.messages, stream.samples, rate, stream.gaps, stream.dropped)
        streams.add_row(name, *map(str, counts), escape(state))
    config = info.begin.get("config")
    if not isinstance(config, dict) or not config:
        return [about, streams]
    settings = Table("setting", "value", title="configuration")
    for key, value in config.items():
        settings.add_row(escape(str(key)), escape(msgspec.json.encode(value).decode()))
    return [about, streams, settings]


def _repaired(end: dict[str, Any]) -> dict[str, Any] | None:
    """What a repair says in the end record; None: there was none, or this is not what one says."""
    told = end.get("repaired")
    return told if isinstance(told, dict) and isinstance(told.get("gaps", []), list) else None


def _told(repaired: dict[str, Any]) -> str:
    lost = ["what came after the end"] if repaired.get("broke_off") else []
    lost += [str(gap) for gap in repaired.get("gaps", [])]
    lost += [f"{repaired['corrupt']} corrupt messages"] if repaired.get("corrupt") else []
    return ", ".join(lost) or "the end record"


def _span(info: StreamInfo, first_ns: int, last_ns: int, samples: int) -> None:
    info.samples += samples
    info.first_ns = first_ns if info.first_ns is None else min(info.first_ns, first_ns)
    info.last_ns = last_ns if info.last_ns is None else max(info.last_ns, last_ns)


def _presence_column(recording: Recording) -> int | None:
    """Where the vision stream says whether there is a face, by the spec in the session's header."""
    spec = recording.header.streams.get("vision")
    if spec == vision_features.SPEC.hash:
        spec = vision_features.SPEC
    if spec is None or isinstance(spec, str) or "presence" not in spec.names:
        return None
    return spec.names.index("presence")


def _started(recording: Recording) -> str | None:
    wall = recording.header.wall
    if wall is None:
        return None
    try:
        unix_s = wall.wall_ns(recording.start_ns) / 1e9
        return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None  # no date that a calendar has
