"""Devices: which cameras and microphones this machine has, and by which name each is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capture import noise
from capture.sound_device import import_pyaudio

VIDEO = Path("/sys/class/video4linux")
DEV = Path("/dev")


@dataclass(frozen=True)
class Camera:
    """A camera as the kernel lists it."""

    option: str  # of ``runtime.live``
    name: str
    path: str
    readable: bool  # by this user


@dataclass(frozen=True)
class Microphone:
    """A microphone as PortAudio lists it."""

    option: str  # of ``runtime.live``
    name: str
    rate_hz: int  # that it prefers
    channels: int
    default: bool


def cameras(listed: Path = VIDEO, folder: Path = DEV) -> list[Camera]:
    """The machine's cameras (Video4Linux), without opening one.

    A camera has several nodes; the one with index 0 gives pictures, the others metadata.
    """
    found = []
    for entry in sorted(listed.glob("video*"), key=lambda path: (len(path.name), path.name)):
        if _read(entry / "index") not in ("", "0"):
            continue
        path = folder / entry.name
        name = _read(entry / "name") or entry.name
        readable = os.access(path, os.R_OK | os.W_OK)
        found.append(Camera(f"--camera {entry.name.removeprefix('video')}", name, str(path), readable))
    return found


def microphones() -> list[Microphone]:
    """The machine's microphones. Raises SourceError (``no_pyaudio``)."""
    pyaudio = import_pyaudio()
    with noise.without(noise.PORTAUDIO):
        portaudio = pyaudio.PyAudio()
        try:
            devices: list[dict[str, Any]] = [
                portaudio.get_device_info_by_index(i) for i in range(portaudio.get_device_count())
            ]
            try:
                default = portaudio.get_default_input_device_info()["index"]
            except OSError:
                default = None
        finally:
            portaudio.terminate()
    return [
        Microphone(
            f"--microphone {device['index']}",
            device["name"],
            round(device["defaultSampleRate"]),
            device["maxInputChannels"],
            device["index"] == default,
        )
        for device in devices
        if device["maxInputChannels"] > 0
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
