"""Markers: what the operator noted and when, one JSON line each, in a file beside the recording.

The page runs in a process of its own and the stream goes one way, so a marker cannot go into the
recording itself. ``session.mcap`` has its markers in ``session.markers.jsonl``; those of a session that
is not recorded lie in the user's data folder. Only the user may read them: they are notes about people.
Exports, reports and ``info`` read them from beside the recording.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import platformdirs

from runtime.recording import Recording, RecordingError
from runtime.stream import SessionBegin, wall

SET = timedelta(minutes=1)  # a clock may be set while a session runs

log = logging.getLogger("runtime.markers")


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """One note."""

    session: str
    t_ns: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # on the session's capture clock
    clock: Literal["monotonic", "media"]
    wall: str  # when the button was pressed, RFC 3339, UTC
    text: str = ""


class MarkersError(Exception):
    """Markers that cannot be kept: the file and why."""


def beside(recording: Path) -> Path:
    """The file of a recording's markers."""
    return recording.with_name(f"{recording.stem}.markers.jsonl")


def of_recording(recording: Recording) -> Markers:
    """The markers of a recorded session."""
    header, began = recording.header, ""
    if header.wall is not None:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # no date that a calendar has
            began = wall(header.wall.wall_ns(header.start_ns))
    return Markers(beside(recording.path), header.session, began)


def carry_over(recording: Path, out: Path) -> None:
    """What was noted holds for what was made of the recording, too; notes that ``out`` has stay.

    Raises MarkersError.
    """
    if not beside(recording).is_file() or beside(out).exists():
        return
    try:
        _append(beside(out), beside(recording).read_bytes())
    except OSError as error:
        raise MarkersError(f"{beside(out)}: the markers are not carried over ({error.strerror})") from error


def place(session: str, begin: SessionBegin | None) -> Path:
    """Where the markers of a live session go: beside its recording, if it is recorded and can be seen."""
    record = None if begin is None else begin.config.get("record")
    if isinstance(record, str) and Path(record).is_absolute():
        # It may be on another machine, another user's, or no name for a file; one there may be of another.
        with contextlib.suppress(RecordingError, OSError, ValueError):
            if Recording.open(record).header.session == session:
                return beside(Path(record))
    name = re.sub(r"[^\w-]", "_", session)  # it came over the stream: it names a file, and no way to one
    return platformdirs.user_data_path("emotion-edge") / "markers" / f"{name}.markers.jsonl"


class Markers:
    """A session's markers in one file; those of earlier sittings are read first.

    Lines that are no markers are left out and counted (``skipped``), and so are those of another session
    (``others``): a recording may have been moved away, and its name used again.

    Args:
        began: when the session did, RFC 3339: what was noted before is of another one of its name.
    """

    def __init__(self, path: Path, session: str, began: str = "") -> None:
        self.path = path
        self.session = session
        self.all: list[Marker] = []
        self.skipped = self.others = 0
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s: cannot be read (%s): its markers are left out", path, error.strerror)
            return
        for number, line in enumerate(lines, start=1):
            try:
                marker = msgspec.json.decode(line, type=Marker)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self.skipped += 1
                log.warning("%s: line %d is no marker: %s", path, number, error)
                continue
            if marker.session == session and not _before(marker.wall, began):
                self.all.append(marker)
            else:
                self.others += 1
        if self.others:
            log.warning("%s: %d markers are of another session than %r", path, self.others, session)

    def add(self, t_ns: int, clock: Literal["monotonic", "media"], text: str) -> Marker:
        """Write a marker down. Raises MarkersError: it is not kept."""
        now = wall(time.time_ns())
        marker = Marker(session=self.session, t_ns=t_ns, clock=clock, wall=now, text=text)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, msgspec.json.encode(marker) + b"\n")
        except OSError as error:
            raise MarkersError(f"{self.path}: the marker is not kept ({error.strerror})") from error
        self.all.append(marker)
        return marker


def _before(date: str, began: str) -> bool:
    """Whether a date lies clearly before another; what is no date does not."""
    try:
        return datetime.fromisoformat(date) < datetime.fromisoformat(began) - SET
    except (ValueError, TypeError, OverflowError):  # the second: one of them has no time zone
        return False


def _append(path: Path, lines: bytes) -> None:
    """Only the user may read the file, also one that an earlier version made. Raises OSError."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "a+b") as file:
        with contextlib.suppress(PermissionError):  # another's file, or one on a disk without modes
            os.fchmod(file.fileno(), 0o600)
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")  # the last line broke off: it takes no other with it
        file.write(lines)
