"""Film: the pictures of a recording, found by their time; they lie on disk, an hour of them is large."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from dataclasses import dataclass

import msgspec

from capture import messages as captured
from runtime.sharing import picture
from runtime.stream import Picture

IN_MEMORY = 8 << 20  # bytes, before they go to disk


@dataclass(frozen=True, slots=True)
class _Kept:
    t_s: float
    start: int
    size: int
    about: Picture  # without its bytes


class Film:
    """Add pictures in order of their time; then ask for the one of a moment."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives as long as the film
        self._kept: list[_Kept] = []

    def add(self, t_s: float, seen: captured.Picture) -> None:
        """Keep a picture that is shown from ``t_s`` on."""
        start = self._file.seek(0, 2)
        self._file.write(seen.jpeg)
        about = msgspec.structs.replace(picture(seen, seen.stamp.session), jpeg=b"")
        self._kept.append(_Kept(t_s, start, len(seen.jpeg), about))

    def at(self, t_s: float) -> tuple[float, Picture] | None:
        """The last picture up to ``t_s``, and its time; None before the first."""
        index = bisect_right(self._kept, t_s, key=lambda one: one.t_s)
        if not index:
            return None
        kept = self._kept[index - 1]
        self._file.seek(kept.start)
        return kept.t_s, msgspec.structs.replace(kept.about, jpeg=self._file.read(kept.size))
