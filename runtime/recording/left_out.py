"""LeftOut: which windows a recorded session cut and did not publish, as told by those that it did publish.

A session in real time gives up windows that are too old, and every second one when it cannot keep up. Its
messages are numbered without a gap, so between two that follow each other nothing was published; where a
number is missing in the file (a damaged stretch, an end that broke off), nobody knows, and nothing is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from runtime.recording.read import Recording


class _Time(msgspec.Struct):
    end_ns: int


class _Published(msgspec.Struct):
    """Of an emotion message, what tells which window it was."""

    seq: int
    time: _Time
    revises: int | None = None


class _Revised(msgspec.Struct):
    windows: int


class _Totals(msgspec.Struct):
    """Of the end record, how many messages there were."""

    windows: int
    revised: _Revised | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Ask with ``in``, by the end of a window."""

    published: frozenset[int] = frozenset()  # ends of windows, ns
    unknown: tuple[tuple[float, float], ...] = ((-math.inf, math.inf),)  # lost between these ends

    def __contains__(self, end_ns: int) -> bool:
        return end_ns not in self.published and not any(a < end_ns < b for a, b in self.unknown)


def left_out(recording: Recording) -> LeftOut:
    """Read it from the file, in a pass of its own: what ``recording`` counts is not touched.

    Raises:
        RecordingError: the file is gone, or no recording any more.
    """
    recording = Recording.open(recording.path)
    published: set[int] = set()
    unknown: list[tuple[float, float]] = []
    latest_ns = -math.inf
    following, lost = 0, False
    for _, payload in recording.emotions():
        try:
            message = msgspec.json.decode(payload, type=_Published)
        except (msgspec.DecodeError, RecursionError):
            continue  # its number will be missing
        lost |= message.seq != following
        following = message.seq + 1
        if message.revises is not None:
            continue
        if lost:
            unknown.append((latest_ns, message.time.end_ns))
        latest_ns, lost = message.time.end_ns, False
        published.add(message.time.end_ns)
    if lost or following != _messages(recording.end):
        unknown.append((latest_ns, math.inf))
    return LeftOut(frozenset(published), tuple(unknown))


def _messages(end: dict[str, Any] | None) -> int | None:
    """How many emotion messages the session published in all; None: it was not closed properly."""
    try:
        totals = msgspec.convert(end, _Totals)
    except msgspec.ValidationError:
        return None
    return totals.windows + (0 if totals.revised is None else totals.revised.windows)
