"""Markers: what the operator noted and when, one JSON line each, in a file beside the recording.

The page runs in a process of its own and the stream goes one way, so a marker cannot go into the
recording itself. ``session.mcap`` has its markers in ``session.markers.jsonl``; those of a session that
is not recorded lie in the user's data folder. Only the user may read them: they are notes about people.
Exports, reports and ``info`` read them from beside the recording.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Literal

import msgspec
import platformdirs

from runtime.stream import SessionBegin, wall

log = logging.getLogger("runtime.markers")


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """One note."""

    session: str
    t_ns: int  # on the session's capture clock
    clock: Literal["monotonic", "media"]
    wall: str  # when the button was pressed, RFC 3339, UTC
    text: str = ""


class MarkersError(Exception):
    """Markers that cannot be kept: the file and why."""


def beside(recording: Path) -> Path:
    """The file of a recording's markers."""
    return recording.with_name(f"{recording.stem}.markers.jsonl")


def place(session: str, begin: SessionBegin | None) -> Path:
    """Where the markers of a live session go: beside its recording, if it is recorded and can be seen."""
    record = None if begin is None else begin.config.get("record")
    if isinstance(record, str) and Path(record).is_file():
        return beside(Path(record))
    name = re.sub(r"[^\w-]", "_", session)  # it came over the stream: it names a file, and no way to one
    return platformdirs.user_data_path("emotion-edge") / "markers" / f"{name}.markers.jsonl"


class Markers:
    """The markers of one file; those of earlier sittings are read first, without lines that are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Marker] = []
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            return  # there is none yet; if it cannot be written either, ``add`` says so
        for number, line in enumerate(lines, start=1):
            try:
                self.all.append(msgspec.json.decode(line, type=Marker))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("%s: line %d is no marker: %s", path, number, error)

    def add(self, session: str, t_ns: int, clock: Literal["monotonic", "media"], text: str) -> Marker:
        """Write a marker down. Raises MarkersError: it is not kept."""
        now = wall(time.time_ns())
        marker = Marker(session=session, t_ns=t_ns, clock=clock, wall=now, text=text)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            private = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(private, "ab") as file:
                file.write(msgspec.json.encode(marker) + b"\n")
        except OSError as error:
            raise MarkersError(f"{self.path}: the marker is not kept ({error.strerror})") from error
        self.all.append(marker)
        return marker
