"""Offline: a clip's features at once and in memory, by the code of the capture processes.

What trains must be what runs: the readers of ``capture.camera`` and ``capture.microphone`` work here as they
do live on a file that is read as fast as it goes; only where the features go is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from capture.camera import Reader
from capture.clock import Clock, HostClock
from capture.features import audio, vision
from capture.features.vision import FaceFeatures
from capture.frames import from_file
from capture.link import Wish
from capture.messages import State
from capture.microphone import read_file
from capture.rate_cap import RateCap
from capture.sound import Sound
from capture.track import Track
from capture.trouble import SourceError


@dataclass(frozen=True)
class Rows:
    """Feature vectors and when they happened, in media time."""

    times_ns: npt.NDArray[np.int64]  # (T,)
    values: npt.NDArray[np.float32]  # (T, D)


class Memory:
    """An outlet that keeps what it is given, up to media time ``end_ns``; behind it, it is ``stopping``."""

    def __init__(self, end_ns: int | None = None) -> None:
        self.session = "offline"
        self.wish = Wish()
        self.stopping = False
        self.clock: Clock = HostClock(kind="media", paced=False)
        self.dropped = 0
        self._end_ns = end_ns
        self._times: list[npt.NDArray[np.int64]] = []
        self._values: list[npt.NDArray[np.float32]] = []

    def status(self, state: State, reason: str | None = None, detail: str = "") -> None:
        """Nobody watches."""

    def beat(self) -> None:
        """Nobody waits."""

    def features(
        self, times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float32], t_ready_ns: int
    ) -> None:
        if self._end_ns is not None:
            self.stopping = self.stopping or int(times_ns[-1]) > self._end_ns
            values, times_ns = values[times_ns <= self._end_ns], times_ns[times_ns <= self._end_ns]
        self._times.append(times_ns)
        self._values.append(values)

    def rows(self, columns: int) -> Rows:
        """All that came, (T, columns)."""
        if not self._times:
            return Rows(np.empty(0, np.int64), np.empty((0, columns), np.float32))
        return Rows(np.concatenate(self._times), np.concatenate(self._values))


def see(path: Path, asset: Path, start_ns: int = 0, end_ns: int | None = None) -> Rows:
    """Vision features of a clip, (T, 59); none where it has no picture.

    start_ns, end_ns: the part of it, in media time; None: to its end.
    Raises SourceError ``no_file`` or ``unreadable``.
    """
    memory = Memory(end_ns)
    track = _track(path, "video")
    if track is None:
        return memory.rows(vision.SPEC.dim)
    try:
        with FaceFeatures(asset) as features:
            frames = from_file(track, memory, start_ns, RateCap(vision.SPEC.rate_hz))
            Reader(memory, features).read_all(frames)
    finally:
        track.close()
    return memory.rows(vision.SPEC.dim)


def hear(path: Path, start_ns: int = 0, end_ns: int | None = None) -> Rows:
    """Audio features of a clip, (T, 42); none where it has no sound.

    start_ns, end_ns: the part of it, in media time; None: to its end.
    Raises SourceError ``no_file`` or ``unreadable``.
    """
    memory = Memory(end_ns)
    track = _track(path, "audio")
    if track is None:
        return memory.rows(audio.SPEC.dim)
    try:
        sound = Sound(memory)
        read_file(memory, track, start_ns, sound)
        sound.end()
    finally:
        track.close()
    return memory.rows(audio.SPEC.dim)


def _track(path: Path, kind: Literal["video", "audio"]) -> Track | None:
    """The clip's track, or None where it has none of the kind."""
    try:
        return Track(path, kind)
    except SourceError as error:
        if error.reason != f"no_{kind}":
            raise
        return None
