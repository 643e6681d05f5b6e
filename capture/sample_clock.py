"""Sample clock: when each sample of a sound device happened, from its converter's time and the sample count.

The first fifth of a second anchors the count to the capture clock. From then on the count says the
time, because it has no jitter; the converter's time only corrects it: slowly for a sound card that
runs fast or slow, quickly where the count says later than the converter (a buffer may come late, but
never early, so the anchor is wrong), at once where sound was lost, which is a gap and never a shorter
second. The slow corrections add up to the card's drift against the system clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SETTLE = 10  # buffers before the anchor is set: the least delayed of them counts
LOST_NS = 100_000_000  # sound that is late by more, for a second, was lost
SLEW_NS = 1_000_000  # per second at most: 1000 ppm, ten times what a sound card is off
EARLY_NS = 10_000_000  # a buffer that is early by more was counted from a late anchor
HURRY_NS = 1_000_000  # per buffer of 20 ms then: times go on in order, and 300 ms are mended in 6 s
DRIFT_S = 60  # without a gap, before the drift is told


@dataclass(slots=True)
class SampleClock:
    """Time of sample ``n`` is ``anchor_ns + n / rate_hz``; ``observe`` keeps the anchor right.

    Args:
        rate_hz: of the samples that are counted.
        anchor_ns: capture time of sample 0.
    """

    rate_hz: float
    anchor_ns: float
    _second: int = 0
    _least_ns: float | None = None  # the smallest lateness in this second
    _drift_ppm: float | None = None
    _steady: tuple[int, float] | None = None  # second and anchor from which on there was only drift

    @classmethod
    def settled(cls, rate_hz: float, firsts: Sequence[tuple[int, int]]) -> SampleClock:
        """Anchor on the least delayed of some buffers, each given as ``(n, t_ns)`` of its first sample."""
        return cls(rate_hz, min(t_ns - n * 1e9 / rate_hz for n, t_ns in firsts))

    def time_ns(self, n: int) -> int:
        """Capture time of sample ``n``."""
        return round(self.anchor_ns + n * 1e9 / self.rate_hz)

    @property
    def drift_ppm(self) -> float | None:
        """How slow the card is against the system clock, in millionths; negative: it is fast.

        Over the last stretch of at least a minute in which nothing was lost; None before the first.
        """
        return self._drift_ppm

    def observe(self, n: int, t_ns: int, lost: bool) -> int:
        """A buffer begins with sample ``n``, which the device says happened at ``t_ns``.

        Args:
            lost: the device says that it lost sound right before this buffer.

        Returns:
            Length of the gap before sample ``n`` in nanoseconds, 0 mostly; the anchor has moved by it.
        """
        late_ns = t_ns - (self.anchor_ns + n * 1e9 / self.rate_hz)
        if lost and late_ns > 0:
            return self._move(late_ns)
        if late_ns < -EARLY_NS:
            self.anchor_ns -= HURRY_NS
            self._least_ns = self._steady = None
            return 0
        self._least_ns = late_ns if self._least_ns is None else min(self._least_ns, late_ns)
        second = int(n / self.rate_hz)
        if second <= self._second:
            return 0
        self._second = second
        least_ns, self._least_ns = self._least_ns, None
        if least_ns > LOST_NS:
            return self._move(least_ns)
        self.anchor_ns += max(-SLEW_NS, min(SLEW_NS, least_ns))
        self._learn(second, settled=abs(least_ns) < SLEW_NS)
        return 0

    def _learn(self, second: int, *, settled: bool) -> None:
        """The anchor has been corrected at ``second``; ``settled``: by all that it was off."""
        if self._steady is None:
            self._steady = (second, self.anchor_ns) if settled else None
            return
        begin, anchor_ns = self._steady
        if settled and second - begin >= DRIFT_S:
            self._drift_ppm = (self.anchor_ns - anchor_ns) / (second - begin) / 1000

    def _move(self, gap_ns: float) -> int:
        self.anchor_ns += gap_ns
        self._least_ns = self._steady = None
        return round(gap_ns)
