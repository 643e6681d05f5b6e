"""Draw: series over time as the points of SVG shapes, in a box of WIDTH by whatever height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 1000.0
TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds between two
MOST_POINTS = 2000  # in one shape: two for each pixel of a wide page


@dataclass(frozen=True)
class Axis:
    """Time on the horizontal."""

    first_s: float
    last_s: float

    def x(self, time_s: float) -> float:
        """Where a time stands, in the box."""
        share = (time_s - self.first_s) / max(self.last_s - self.first_s, 1e-9)
        return round(WIDTH * min(max(share, 0.0), 1.0), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where, and what stands there: at most eleven."""
        span_s = self.last_s - self.first_s
        step_s = next((step for step in TICKS if span_s / step <= 10), span_s / 10)
        number = -(-self.first_s // step_s)
        ticks = []
        while number * step_s <= self.last_s:
            ticks.append((self.x(number * step_s), clock(number * step_s)))
            number += 1
        return ticks


def clock(time_s: float) -> str:
    """``1:02:03``, ``0:01``, or ``0:00.5``."""
    sign, tenths = ("−" if time_s < 0 else ""), round(abs(time_s) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return sign + (f"{hours}:{minutes:02d}:{seconds}" if hours else f"{minutes}:{seconds}")


def pieces(times_s: Sequence[float], known: Sequence[bool], hop_s: float) -> list[list[int]]:
    """Indices of what may be drawn in one stroke: no line crosses a missing window or a missing value."""
    found: list[list[int]] = []
    latest_s = float("-inf")
    for i, (time_s, here) in enumerate(zip(times_s, known, strict=True)):
        if here:
            if found and time_s - latest_s < 1.5 * hop_s:
                found[-1].append(i)
            else:
                found.append([i])
            latest_s = time_s
        else:
            latest_s = float("-inf")
    every = max(1, len(times_s) // MOST_POINTS)
    return [[*piece[:-1:every], piece[-1]] for piece in found]


def line(axis: Axis, times_s: Sequence[float], ys: Sequence[float | None], hop_s: float, high: float) -> str:
    """A path of values 0..1 in a box of this height; each window is drawn as wide as its hop."""
    path = []
    for piece in pieces(times_s, [y is not None for y in ys], hop_s):
        points = []
        for i in piece:
            y = round(high * (1 - (ys[i] or 0.0)), 2)
            points += [f"{axis.x(times_s[i] - hop_s)},{y}", f"{axis.x(times_s[i])},{y}"]
        path.append("M" + " L".join(points))
    return " ".join(path)


def area(
    axis: Axis,
    times_s: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    known: Sequence[bool],
    hop_s: float,
    high: float,
) -> str:
    """A path around the area between two series of 0..1."""
    path = []
    for piece in pieces(times_s, known, hop_s):
        there, back = [], []
        for i in piece:
            for x in (axis.x(times_s[i] - hop_s), axis.x(times_s[i])):
                there.append(f"{x},{round(high * (1 - highs[i]), 2)}")
                back.append(f"{x},{round(high * (1 - lows[i]), 2)}")
        path.append("M" + " L".join(there + back[::-1]) + "Z")
    return " ".join(path)
