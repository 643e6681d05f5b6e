"""Governor: keeps a recogniser from falling behind, by longer chunks and then a smaller model.

A pure function of how long its steps take; it reads no clock. A longer chunk costs latency and saves
processor time, for each step hears the whole open sound again; a smaller model costs words.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

CHUNKS_NS = (1_000_000_000, 2_000_000_000, 3_000_000_000)
STEPS_LOOKED_AT = 4
BUSY = 0.9  # of real time, on average over these steps: it will fall behind
IDLE = 0.3  # below this there is room for the step before
CALM_STEPS = 20  # so many steps with room before one is taken back


@dataclass(frozen=True, slots=True)
class Level:
    """How much is given up: sound between two hypotheses, and how many sizes smaller the model is."""

    chunk_ns: int
    smaller: int = 0


class Governor:
    """Feed it every step; ``level`` is what to do next.

    Args:
        smaller_models: how many smaller ones there are on this machine.
    """

    def __init__(self, smaller_models: int = 0) -> None:
        self._levels = [Level(chunk_ns) for chunk_ns in CHUNKS_NS]
        self._levels += [Level(CHUNKS_NS[1], 1 + n) for n in range(smaller_models)]
        self._at = 0
        self._loads: deque[float] = deque(maxlen=STEPS_LOOKED_AT)
        self._calm = 0

    @property
    def level(self) -> Level:
        """What is done now."""
        return self._levels[self._at]

    @property
    def eased(self) -> bool:
        """Something is given up."""
        return self._at > 0

    def observe(self, took_ns: int, chunk_ns: int) -> bool:
        """Take in a step that took so long for so much new sound; True: the level has changed."""
        load = took_ns / max(chunk_ns, 1)
        self._loads.append(load)
        self._calm = self._calm + 1 if load < IDLE else 0
        full = len(self._loads) == STEPS_LOOKED_AT
        if full and sum(self._loads) / STEPS_LOOKED_AT > BUSY and self._at + 1 < len(self._levels):
            return self._move(1)
        if self._calm >= CALM_STEPS and self._at:
            return self._move(-1)
        return False

    def forgo(self) -> None:
        """The level just reached cannot be had after all: back to the one before, and never here again."""
        del self._levels[self._at]
        self._move(-1)

    def _move(self, by: int) -> bool:
        self._at += by
        self._loads.clear()
        self._calm = 0
        return True
