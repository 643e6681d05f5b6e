"""Ladder: what to give up when the machine cannot keep up, step by step, and when to take it back.

A pure function of how late windows are; it reads no clock. Stepping down is quick, stepping up slow, and
slower each time that it was a mistake, so that a machine at its limit does not swing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Step = Literal["faces", "provisional", "recogniser", "hop", "text"]
STEPS: tuple[Step, ...] = ("faces", "provisional", "recogniser", "hop", "text")  # in this order
MEANING: dict[Step, str] = {
    "faces": "fewer faces a second",
    "provisional": "no provisional words",
    "recogniser": "a simpler recognition of words",
    "hop": "every second window only",
    "text": "no words",
}

LATE = 0.5  # of the greatest age that a window may have: the machine falls behind
CALM = 0.25  # below this share of it there is room
LOOKED_AT = 8  # windows, of which...
TOO_MANY = 5  # ...so many late ones are a step down
SETTLE_NS = 5_000_000_000  # after a step, before the next is thought of
CALM_NS = 30_000_000_000  # without trouble for so long: a step up
RELAPSE_NS = 60_000_000_000  # a step down so soon after a step up: that was too early
MAX_CALM_NS = 480_000_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """A step that was taken."""

    step: Step
    down: bool

    def __str__(self) -> str:
        meaning = MEANING[self.step]
        return f"overload: {meaning}" if self.down else f"room again: no longer {meaning}"


class Ladder:
    """Feed it the age of every window.

    Args:
        steps: those that mean something in this session, in the order in which they are given up.
        max_age_ns: an older window is not inferred.
    """

    def __init__(self, steps: Sequence[Step], max_age_ns: int) -> None:
        self.taken: list[Step] = []  # what is given up now, the first step first
        self._steps, self._max_age_ns = tuple(steps), max_age_ns
        self._late: deque[bool] = deque(maxlen=LOOKED_AT)
        self._calm_ns = CALM_NS
        self._calm_since_ns: int | None = None
        self._changed_ns: int | None = None
        self._up_ns: int | None = None  # the last step up

    def observe(self, now_ns: int, age_ns: int) -> Change | None:
        """Take in a window that was ``age_ns`` old when it was published, or skipped; None: go on so.

        What it waited for samples by rule is not in its age.
        """
        self._late.append(age_ns > LATE * self._max_age_ns)
        if age_ns > CALM * self._max_age_ns:
            self._calm_since_ns = None
        elif self._calm_since_ns is None:
            self._calm_since_ns = now_ns
        if self._changed_ns is not None and now_ns - self._changed_ns < SETTLE_NS:
            self._late.clear()
            return None
        if sum(self._late) >= TOO_MANY and len(self.taken) < len(self._steps):
            return self._down(now_ns)
        calm = self._calm_since_ns is not None and now_ns - self._calm_since_ns >= self._calm_ns
        return self._up(now_ns) if calm and self.taken else None

    def _down(self, now_ns: int) -> Change:
        if self._up_ns is not None and now_ns - self._up_ns < RELAPSE_NS:
            self._calm_ns = min(2 * self._calm_ns, MAX_CALM_NS)
        self.taken.append(self._steps[len(self.taken)])
        self._changed(now_ns)
        return Change(self.taken[-1], down=True)

    def _up(self, now_ns: int) -> Change:
        if self._up_ns is not None and now_ns - self._up_ns > 2 * RELAPSE_NS + self._calm_ns:
            self._calm_ns = CALM_NS  # the last one was no mistake
        self._up_ns = now_ns
        self._changed(now_ns)
        return Change(self.taken.pop(), down=False)

    def _changed(self, now_ns: int) -> None:
        self._changed_ns, self._calm_since_ns = now_ns, None
        self._late.clear()
