"""Track: the picture or the sound of a media file, frame by frame, each with its media time.

Files are read with PyAV: it gives every frame's own time stamp, on one time base for picture and
sound. OpenCV counts pictures from the first one, seeks by frame number, and is wrong where the
frame rate varies or one track begins later than the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av

from capture.joins import Joins
from capture.link import Outlet
from capture.trouble import SourceError

SEEK_MARGIN_NS = 200_000_000  # decoders of sound need a few packets before the wanted one
PATIENCE_NS = 200_000_000  # a wait is cut into such pieces, so that the process stays lively

log = logging.getLogger(__name__)


class Track:
    """An open track of a file; iterate once over ``(t_ns, frame)``, and close it.

    Time 0 is the file's first instant, for each of its tracks. Where a file's time goes back, as in two that
    were put one after the other, it goes on instead, for picture and sound alike; a start behind that place
    cannot be found, for the file says its time twice.

    Args:
        path: a file that FFmpeg reads.
        kind: which track; the first of its kind that is not a cover picture.

    Raises:
        SourceError: ``no_file``, ``unreadable``, or ``no_video`` / ``no_audio``.
    """

    def __init__(self, path: Path, kind: Literal["video", "audio"]) -> None:
        if not path.is_file():
            raise SourceError("no_file", f"{path} is not a file: give the path of a video or sound file")
        try:
            self._container = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                "unreadable", f"{path} cannot be read as video or sound: {error.strerror}"
            ) from error
        found = [s for s in self._container.streams if s.type == kind and not is_cover(s)]
        if not found:
            self._container.close()
            what = "picture" if kind == "video" else "sound"
            raise SourceError(f"no_{kind}", f"{path} has no {what}: that sense is absent")
        self._stream = found[0]
        self._timed = [s for s in self._container.streams if s.type in ("video", "audio") and not is_cover(s)]
        self._joins = Joins()
        self.origin_ns = (self._container.start_time or 0) * 1000  # av.time_base is microseconds
        self.corrupt = 0  # packets that could not be decoded, and were left out

    def frames(self, start_ns: int = 0) -> Iterator[tuple[int, Any]]:
        """Decode from media time ``start_ns`` on. A frame that has no time stamp is left out."""
        if start_ns > 0:
            wanted_us = (start_ns - SEEK_MARGIN_NS + self.origin_ns) // 1000
            self._container.seek(max(wanted_us, self.origin_ns // 1000))
        for frame in self._decoded():
            if frame.pts is None or frame.time_base is None:
                self.corrupt += 1
                continue
            # in integers: a float of seconds loses nanoseconds
            base = frame.time_base
            t_ns = max(0, frame.pts * 1_000_000_000 * base.numerator // base.denominator - self.origin_ns)
            length_ns = 0 if not hasattr(frame, "samples") else frame.samples * 10**9 // frame.sample_rate
            if t_ns + length_ns >= start_ns:
                yield t_ns, frame

    def close(self) -> None:
        self._container.close()

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._timed):
                self._join(packet)
                if packet.stream.index == self._stream.index:
                    yield from self._decode(packet)
        except (av.error.FFmpegError, OSError) as error:  # a file that stops in the middle
            log.warning("%s ends early: %s", self._container.name, error.strerror)

    def _join(self, packet: Any) -> None:
        """Move a packet to where it belongs, where the file's time went back before it."""
        if packet.dts is None:
            return
        parts, base = self._joins.parts, packet.time_base
        t_ns, length_ns = (int(ticks * base * 10**9) for ticks in (packet.dts, packet.duration or 0))
        later = int(self._joins.later_ns(packet.stream.index, t_ns, length_ns) / base / 10**9)
        if self._joins.parts > parts:
            at_s = float((packet.dts + later) * base) - self.origin_ns / 1e9
            log.warning("%s: time goes back, and is read on from %.1f s", self._container.name, at_s)
        if later:
            packet.dts += later
            packet.pts = None if packet.pts is None else packet.pts + later

    def _decode(self, packet: Any) -> Iterator[Any]:
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            self.corrupt += 1


def wait_until(link: Outlet, t_ns: int, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Wait for media time ``t_ns`` on a paced clock; False when the session stops.

    ``meanwhile`` is called a few times a second: pass ``link.beat`` where the link's own thread waits.
    """
    while link.clock.paced and not link.stopping and (now_ns := link.clock.now_ns()) < t_ns:
        link.clock.wait_until_ns(min(t_ns, now_ns + PATIENCE_NS))
        meanwhile()
    return not link.stopping


def is_cover(stream: Any) -> bool:
    """Whether a video track is the picture on the cover of a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
