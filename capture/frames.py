"""Frames: where pictures come from — a device, a network camera or a file — newest only.

A thread grabs and stamps, so that a camera that blocks stalls nobody; the landmarker takes the
newest frame from a slot that holds one.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from capture import noise
from capture.address import shown
from capture.delivery import NEWEST
from capture.link import Outlet
from capture.rate_cap import RateCap
from capture.track import Track, wait_until
from capture.trouble import SourceError, may_not

# Errors, not remarks; OpenCV hands the first to FFmpeg when it opens something.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "16")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

Rgb = npt.NDArray[np.uint8]

ANSWER_MS = 5000  # how long a network camera may take to answer, or be silent, before it is opened anew
REOPEN_S = 1.0
VIDIOC_QUERYCAP = 0x80685600  # of <linux/videodev2.h>: which driver, which card
VIDEO_CAPTURE = 0x1 | 0x1000  # on one plane, on several
UNREADABLE = 25  # so many pictures in a row that were announced and cannot be had: the camera is gone


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and when it happened; ``rgb`` converts it, once, which only frames that are used need."""

    t_ns: int
    t_ready_ns: int  # when it was in hand
    rgb: Callable[[], Rgb]  # (H, W, 3) uint8


class Newest:
    """A slot for one frame between the grabbing thread and the landmarker.

    A frame that comes while another one waits takes its place; ``overwritten`` counts these.
    ``missing`` says why there is no camera to take frames from, while that is so.
    """

    def __init__(self) -> None:
        self.overwritten = 0
        self.missing: SourceError | None = None
        self._over = False
        self._error: BaseException | None = None
        self._frames: deque[Frame] = deque(maxlen=NEWEST.holds)
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        with self._changed:
            self.overwritten += len(self._frames) == NEWEST.holds
            self._frames.append(frame)
            self.missing = None
            self._changed.notify()

    def miss(self, error: SourceError | None) -> None:
        with self._changed:
            self.missing = error
            self._changed.notify()

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame; None when none comes in time, or when there is news of what is ``missing``.

        Raises what the grabbing thread raised.
        """
        with self._changed:
            before = self.missing
            self._changed.wait_for(
                lambda: bool(self._frames) or self._over or self.missing is not before, timeout_s
            )
            frame = self._frames.popleft() if self._frames else None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    @property
    def finished(self) -> bool:
        """Nothing waits, and nothing comes any more."""
        with self._changed:
            return self._over and not self._frames and self._error is None

    def fill(self, frames: Iterator[Frame | SourceError | None]) -> threading.Thread:
        """Put all frames, and what is missing, from a thread of its own; then it is ``finished``."""

        def grab() -> None:
            error: BaseException | None = None
            try:
                for frame in frames:
                    if isinstance(frame, Frame):
                        self.put(frame)
                    else:
                        self.miss(frame)
            except Exception as caught:  # crosses to the thread that takes
                error = caught
            with self._changed:
                self._error, self._over = error, True
                self._changed.notify()

        thread = threading.Thread(target=grab, name="grab", daemon=True)
        thread.start()
        return thread


def from_file(track: Track, link: Outlet, start_ns: int, cap: RateCap) -> Iterator[Frame]:
    """The pictures of a file from ``start_ns`` on, each when its time has come (at once if unpaced)."""
    for t_ns, picture in track.frames(start_ns):
        if not cap.passes(t_ns):
            continue
        if not wait_until(link, t_ns):
            return
        yield Frame(t_ns, link.clock.now_ns(), cache(partial(_upright, picture)))


def from_camera(
    camera: Any, source: str, link: Outlet, cap: RateCap, delay_ns: int = 0
) -> Iterator[Frame | SourceError | None]:
    """The pictures of an open camera, stamped right after the grab.

    A camera that fails, or announces pictures that cannot be had, is opened anew; as long as that does
    not succeed, it says why, and None when it did. ``delay_ns`` is what the camera takes from the world to
    the grab.
    """
    unreadable, opened_at = 0, time.monotonic()
    bgr: Any
    while not link.stopping:
        grabbed = camera.grab()
        t_ns = link.clock.now_ns() - delay_ns
        if grabbed and not cap.passes(t_ns):
            continue
        decoded, bgr = camera.retrieve() if grabbed else (False, None)
        if decoded:
            unreadable = 0
            yield Frame(t_ns, link.clock.now_ns(), cache(partial(_to_rgb, bgr)))
            continue
        unreadable += 1
        if not grabbed or unreadable >= UNREADABLE:
            camera.release()
            time.sleep(max(0.0, opened_at + REOPEN_S - time.monotonic()))  # one that fails at once
            camera = yield from _again(source, link)
            unreadable, opened_at = 0, time.monotonic()
    camera.release()


def _again(source: str, link: Outlet) -> Generator[SourceError | None, None, Any]:
    """Open a camera that failed, as often as it takes; meanwhile tell why it cannot be opened."""
    while True:
        camera = _open(source)
        if camera.isOpened() or link.stopping:
            yield None
            return camera
        yield _why_not(source)
        time.sleep(REOPEN_S)


def open_camera(source: str) -> Any:
    """Open ``device:N``, ``device:/dev/videoN`` or an ``rtsp://``, ``http(s)://`` address.

    Raises:
        SourceError: ``no_device``, it says which ones there are; ``no_permission``; or ``busy``.
    """
    with noise.without(noise.ANYTHING):  # every backend complains of every failure; one line does
        camera = _open(source)
    if camera.isOpened():
        return camera
    raise _why_not(source)


def _why_not(source: str) -> SourceError:
    """Why a camera could not be opened: what the kernel answers to the same attempt."""
    if not source.startswith("device:"):
        return SourceError(
            "no_device",
            f"{shown(source)} gives no picture within {ANSWER_MS / 1000:g} s: check address and network",
        )
    name = source.removeprefix("device:")
    path = f"/dev/video{name}" if name.isdigit() else name
    number = _asked(path)
    if number in (errno.EACCES, errno.EPERM):
        return SourceError("no_permission", f"camera {name}: {may_not(path, 'video')}")
    if number in (0, errno.EBUSY):  # a driver lets others open a camera, and not take pictures
        return SourceError(
            "busy",
            f"camera {name} is there and cannot be opened: close the program that uses it, or choose another",
        )
    there = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"  # noqa: PTH207 - a pattern of devices
    return SourceError(
        "no_device",
        f"camera {name} cannot be opened (cameras on this machine: {there}): connect one, or choose another",
    )


def _asked(path: str) -> int:
    """The error number of opening a camera's device file and asking what it can; 0: it gives pictures."""
    try:
        node = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        answer = bytearray(104)  # struct v4l2_capability
        fcntl.ioctl(node, VIDIOC_QUERYCAP, answer)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(node)
    able = int.from_bytes(answer[88:92], sys.byteorder)  # this file of the device: many have one for metadata
    return 0 if able & VIDEO_CAPTURE else errno.ENODEV


def _open(source: str) -> Any:
    if source.startswith("device:"):
        name = source.removeprefix("device:")
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        camera = cv2.VideoCapture(int(name) if name.isdigit() else name, backend)
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old frame is worth nothing
        return camera
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, ANSWER_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, ANSWER_MS]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _to_rgb(bgr: Rgb) -> Rgb:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _upright(picture: Any) -> Rgb:
    """Convert a decoded frame, turned as the file's rotation says (counter-clockwise degrees)."""
    rgb: Rgb = picture.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(picture.rotation / 90)))


def open_track(source: str) -> Track:
    """The pictures of ``file:PATH``. Raises SourceError as ``Track`` does."""
    return Track(Path(source.removeprefix("file:")), "video")
