"""Newcomers: cameras and microphones that are connected while a session runs on others.

PortAudio's list stands still while a stream runs, so the kernel's is looked at, once a second. Who has a
sound server hears of a headset from it as well: ``default`` goes where the desktop's settings say.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from capture import devices, sound_cards
from capture.messages import StreamName

LOOK_S = 1.0


class Newcomers:
    """Knows what was there; ``look`` says what was not.

    Args:
        streams: the senses that have a device, of which news are wanted.
    """

    def __init__(self, streams: Collection[StreamName]) -> None:
        self._streams = streams
        self._ours = set(self._there())  # what a sense may have: it goes and comes without being a newcomer
        self._known = set(self._ours)
        self._next_s = 0.0

    def look(self, running: Collection[StreamName]) -> list[str]:
        """News for people, of senses that run on another device; at most once a second."""
        if not self._streams or time.monotonic() < self._next_s:
            return []
        self._next_s = time.monotonic() + LOOK_S
        there = self._there()
        news = [
            f"{stream}: {name} was connected; to use it: {option}"
            for (stream, name, option) in there
            if (stream, name, option) not in self._known and stream in running
        ]
        self._ours |= {one for one in there if one not in self._known and one[0] not in running}
        self._known = self._ours | set(there)
        return news

    def _there(self) -> list[tuple[StreamName, str, str]]:
        """Stream, name and the option of ``runtime.live`` that takes it."""
        found: list[tuple[StreamName, str, str]] = []
        if "vision" in self._streams:
            found += [
                ("vision", f"camera {one.name!r}", one.option) for one in devices.cameras(devices.VIDEO)
            ]
        if "audio" in self._streams:
            for one in sound_cards.recorders(sound_cards.CARDS):
                found.append(("audio", f"microphone {one.name!r}", f"--microphone {one.hw}"))
        return found
