"""Repair: a whole, indexed recording from one that broke off or was damaged; the original stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from capture.messages import CorruptMessage
from runtime.recording.layout import EMOTION_TOPIC, TOPICS, RecordingError
from runtime.recording.read import Recording, captured
from runtime.recording.staged import staged
from runtime.recording.write import Recorder
from runtime.stream import schema


@dataclass(frozen=True)
class Repaired:
    """What became of a recording."""

    kept: int = 0  # messages
    seconds: float = 0.0  # of the session, from the first one to the last
    damaged: int = 0  # stretches that failed their checksum, left out
    gaps: tuple[str, ...] = ()  # where they were: "3.5 to 4.0 s"
    corrupt: int = 0  # messages that cannot be decoded, left out
    broke_off: bool = False


def repair(path: Path, out: Path) -> Repaired | None:
    """Write what can be read of ``path`` to ``out``, whole or not at all; None: nothing had to be done.

    The session's end record says what was lost (``repaired``), also if there was none before.

    Raises:
        RecordingError: ``path`` cannot be read, ``out`` exists or cannot be written.
    """
    recording = Recording.open(path)
    for _ in recording:  # one pass, to know what is wrong with it
        pass
    if recording.end is not None and not recording.warnings:
        return None
    if out.exists():
        raise RecordingError(f"{out} exists already: a recording is never overwritten; choose another --out")
    if not out.parent.is_dir():
        raise RecordingError(f"{out}: {out.parent} is no folder: choose another --out")
    try:
        with staged(out) as half:
            repaired = _copy(recording, half)
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written ({error.strerror}): choose another --out") from error
    return repaired


def _copy(recording: Recording, half: Path) -> Repaired:
    kept = corrupt = 0
    begin = msgspec.json.encode(recording.begin)
    with Recorder(half, begin, msgspec.json.encode(schema())) as recorder:
        for raw in recording.raw():
            if raw.topic not in TOPICS:
                continue
            try:
                if raw.topic != EMOTION_TOPIC:
                    captured(raw)
            except CorruptMessage:
                corrupt += 1
                continue
            recorder.copy(raw)
            kept += 1
        damaged = recording.damaged_chunks
        gaps = tuple(map(recording.told, recording.gaps))
        lost = {"broke_off": recording.truncated, "damaged": damaged, "gaps": gaps, "corrupt": corrupt}
        recorder.close({**(recording.end or {}), "repaired": lost})
    return Repaired(kept, recording.duration_s, damaged, gaps, corrupt, recording.truncated)
