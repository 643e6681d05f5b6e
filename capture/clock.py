"""Clocks: one capture clock per session, shared by every process of the host.

Live devices are stamped on the host's monotonic clock. A file is stamped in media time (0 = its
first instant): paced, its clock runs from the moment the session starts; unpaced (``--fast``) its
stamps are the same but nobody waits. The operating system's monotonic clock is the same in every
process, so a clock travels between processes as its two numbers.
"""

from __future__ import annotations

import time
from typing import Literal, Protocol

import msgspec

RENEW_NS = 1_000_000_000  # between two looks at the date
ASIDE_NS = 5_000_000  # less is what two looks differ by
JUMP_NS = 100_000_000  # the date was set; less is a clock that is kept right

ClockKind = Literal["monotonic", "media"]


class Clock(Protocol):
    """What stamps samples: ``now_ns`` for devices, ``wait_until_ns`` to pace files."""

    @property
    def kind(self) -> ClockKind: ...

    @property
    def paced(self) -> bool: ...

    def now_ns(self) -> int:
        """The capture time of this instant, in nanoseconds."""
        ...

    def wait_until_ns(self, t_ns: int) -> None:
        """Return when ``now_ns() >= t_ns``; at once where the clock is not paced."""
        ...


class HostClock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clock of a session on this host: monotonic time less ``origin_ns``."""

    kind: ClockKind = "monotonic"
    origin_ns: int = 0
    paced: bool = True

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.origin_ns

    def wait_until_ns(self, t_ns: int) -> None:
        while self.paced and (left_ns := t_ns - self.now_ns()) > 0:
            time.sleep(left_ns / 1e9)


class VirtualClock:
    """A clock that a test moves by hand; waiting moves it forward."""

    kind: ClockKind = "media"
    paced = True

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def wait_until_ns(self, t_ns: int) -> None:
        self._now_ns = max(self._now_ns, t_ns)


class WallAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instant on both clocks, so that capture time can be read as a date."""

    t_capture_ns: int
    wall_unix_ns: int

    def wall_ns(self, t_capture_ns: int) -> int:
        """Unix time in nanoseconds of an instant on the capture clock."""
        return self.wall_unix_ns + t_capture_ns - self.t_capture_ns


def anchor(clock: Clock) -> WallAnchor:
    """Read both clocks at the same instant, within a millisecond unless the machine is very busy."""
    for _ in range(10):
        before_ns = clock.now_ns()
        wall_ns = time.time_ns()
        after_ns = clock.now_ns()
        if after_ns - before_ns < 1_000_000:
            break
    return WallAnchor((before_ns + after_ns) // 2, wall_ns)


class WallClock:
    """Dates for a session: its anchor is read anew every second.

    For the date may be set, and a machine that sleeps wakes on another day: its capture clock stood still.

    Args:
        clock: of the session; one that runs in real time is followed, of a file read at once no more
            than its beginning has a date.
        recorded: the anchor of a session that is replayed; it stays.
    """

    def __init__(self, clock: Clock, recorded: WallAnchor | None = None) -> None:
        self.anchor = recorded or anchor(clock)
        self._clock = clock
        self._fixed = recorded is not None or not clock.paced
        self._due_ns = self.anchor.t_capture_ns + RENEW_NS

    def renew(self) -> float:
        """Read the anchor where it is due; by how many seconds the date was set since, 0: not noticeably."""
        if self._fixed or self._clock.now_ns() < self._due_ns:
            return 0.0
        new = anchor(self._clock)
        jump_ns = new.wall_unix_ns - self.anchor.wall_ns(new.t_capture_ns)
        self._due_ns = new.t_capture_ns + RENEW_NS
        if abs(jump_ns) >= ASIDE_NS:
            self.anchor = new
        return jump_ns / 1e9 if abs(jump_ns) >= JUMP_NS else 0.0
