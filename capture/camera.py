"""Camera: a device, a network camera or a file in; face features out, one vector per frame.

python -m capture.camera --source device:0
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from capture import assets
from capture.address import shown
from capture.features.vision import PRESENCE, SPEC, FaceFeatures
from capture.frames import Frame, Newest, Rgb, from_camera, from_file, open_camera, open_track
from capture.hot_plug import when_there
from capture.link import DELAY_HELP, RAW_HELP, Link, Outlet, arguments, delay_ms, run
from capture.picture import Pictures
from capture.rate_cap import RateCap
from capture.trouble import SourceError

NO_FACE_NS = 1_000_000_000
NO_FRAMES_S = 1.5
FROZEN_S = 1.5  # the very same picture for so long: no sensor is so quiet
TURN_S = 0.2  # longest turn of the loop: heartbeats and stopping need it short


def watch(link: Link, source: str, delay_ns: int = 0, raw: bool = False) -> None:
    """Publish the features of every frame until the source ends or the session stops.

    Args:
        delay_ns: from the world to a grabbed frame of a device; its times are so much earlier.
        raw: publish small pictures, too; otherwise none leaves this process.

    Raises:
        SourceError: ``asset_missing``, ``no_device``, ``no_permission``, ``busy``; of a file
            ``no_file``, ``unreadable``, ``no_video``.
    """
    link.beat()
    asset = assets.face_landmarker(beat=link.beat)
    track = open_track(source) if source.startswith("file:") else None
    with FaceFeatures(asset) as features:  # before the camera, so that one that comes is used at once
        camera = when_there(link, partial(open_camera, source)) if track is None else None
        go = link.wait_for_go(detail=shown(source))
        if link.stopping:
            return
        cap = RateCap(SPEC.rate_hz)
        reader = Reader(link, features, Pictures(link) if raw else None)
        if track is None:
            reader.read_newest(from_camera(camera, source, link, cap, delay_ns), device=True)
            return
        frames = from_file(track, link, go.start_ns, cap)
        if link.clock.paced:
            reader.read_newest(frames, device=False)
        else:
            reader.read_all(frames)
        link.dropped += track.corrupt


class Reader:
    """Reads faces from frames and says how it goes: ``running``, ``degraded`` or ``absent``, and why."""

    def __init__(self, link: Outlet, features: FaceFeatures, pictures: Pictures | None = None) -> None:
        self._link = link
        self._pictures = pictures
        self._features = features
        self._face_ns: int | None = None  # when a face was last seen
        self._picture: Rgb | None = None  # the last one that was not like the one before
        self._moved_ns = 0  # when it came
        self._eased: RateCap | None = None  # fewer faces a second, for now

    def read_all(self, frames: Iterator[Frame]) -> None:
        """Every frame in turn; the frames wait."""
        for frame in frames:
            if self._link.stopping:
                return
            self._read(frame)

    def read_newest(self, frames: Iterator[Frame | SourceError | None], *, device: bool) -> None:
        """The newest frame each time; those that came meanwhile count as dropped."""
        link, slot = self._link, Newest()
        grabbing = slot.fill(frames)
        frame_at = time.monotonic()
        while not (link.stopping or slot.finished):
            frame = slot.take(TURN_S)
            link.dropped = slot.overwritten
            if frame is not None:
                frame_at = time.monotonic()
                if device and self._frozen(frame):
                    link.status("degraded", "frozen", "the camera gives the same picture again and again")
                elif self._wanted(frame):
                    self._read(frame)
            elif slot.missing is not None:
                link.status("absent", slot.missing.reason, str(slot.missing))
            elif device and time.monotonic() - frame_at > NO_FRAMES_S:
                link.status("degraded", "no_frames", "the camera gives no pictures")
            else:
                link.beat()
        grabbing.join(TURN_S)

    def _frozen(self, frame: Frame) -> bool:
        """Whether this picture has been the same, to the bit, for too long to be an observation."""
        rgb = frame.rgb()
        if self._picture is None or not np.array_equal(self._picture, rgb):
            self._picture, self._moved_ns = rgb, frame.t_ns
        return frame.t_ns - self._moved_ns > FROZEN_S * 1e9

    def _wanted(self, frame: Frame) -> bool:
        """Whether to look at this picture, or to save the time because fewer faces are asked for."""
        rate_hz = self._link.wish.rate_hz
        if rate_hz is None:
            self._eased = None
            return True
        if self._eased is None or self._eased.rate_hz != rate_hz:
            self._eased = RateCap(rate_hz)
        return self._eased.passes(frame.t_ns)

    def _read(self, frame: Frame) -> None:
        link = self._link
        rgb = frame.rgb()
        vector = self._features.extract(rgb, frame.t_ns // 1_000_000)  # (59,)
        link.features(np.array([frame.t_ns]), vector[None], frame.t_ready_ns)
        if self._pictures is not None:
            self._pictures.show(rgb, frame.t_ns, self._features.landmarks)
        if vector[PRESENCE] or self._face_ns is None:
            self._face_ns = frame.t_ns
        if frame.t_ns - self._face_ns > NO_FACE_NS:
            link.status("running", "no_face", "no face is in the picture")
        else:
            link.status("running")


def source_name(text: str) -> str:
    """Check ``--source``. Raises ArgumentTypeError for what is no source."""
    if text.partition(":")[0] in ("device", "file", "rtsp", "rtsps", "http", "https"):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is no source: use device:0, file:PATH, or an rtsp:// or http:// address"
    )


def main() -> int:
    parser = arguments("capture.camera", __doc__ or "")
    parser.add_argument(
        "--source",
        type=source_name,
        default="device:0",
        help="device:N, file:PATH, or the rtsp://, http(s):// address of a network camera\n"
        "(default: %(default)s)",
    )
    parser.add_argument("--delay-ms", type=delay_ms, default=0.0, metavar="MS", help=DELAY_HELP)
    parser.add_argument("--raw", action="store_true", help=RAW_HELP)
    options = parser.parse_args()
    link = Link("vision", SPEC, options.session, options.endpoint)
    delay_ns = round(options.delay_ms * 1e6)
    return run(link, lambda link: watch(link, options.source, delay_ns, options.raw))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be stuck in a driver, and nothing is left to tidy
