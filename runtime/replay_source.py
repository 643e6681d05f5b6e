"""Replay source: a recording's arrivals, as if they came now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from capture.clock import Clock, HostClock
from capture.messages import STREAMS, StreamName
from runtime.ladder import Step
from runtime.pipes import POLL_MS
from runtime.recording import Arrival, Recording
from runtime.recording.layout import PAUSE_NS


class ReplaySource:
    """A recording, at its own pace or as fast as it goes."""

    def __init__(self, recording: Recording, *, paced: bool) -> None:
        self._kind = recording.header.clock
        self._arrivals = recording.arrivals()
        self._paced = paced
        self._recording = recording
        self._latest_ns = recording.header.start_ns
        self._corrupt: dict[StreamName, int] = dict.fromkeys(STREAMS, 0)
        self._upcoming = self._following()
        self._warned = False
        self.events: deque[str] = deque()
        self.start_ns = recording.header.start_ns
        self.clock: Clock = HostClock()

    @property
    def over(self) -> bool:
        if self._upcoming is None and not self._warned:
            self._warned = True  # only now is it known what had to be left out
            self.events.extend(self._recording.warnings)
        return self._upcoming is None

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        now_ns = time.monotonic_ns()
        self.clock = HostClock(self._kind, now_ns - self.start_ns, self._paced)

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        arrival = self._upcoming
        if arrival is None:
            return None
        if self._paced:
            tick_ns = self.clock.now_ns() + POLL_MS * 1_000_000
            wake_ns = min(arrival.t_arrival_ns, tick_ns, tick_ns if until_ns is None else until_ns + 1)
            self.clock.wait_until_ns(wake_ns)
            if self.clock.now_ns() < arrival.t_arrival_ns:
                return None
        self._upcoming = self._following()
        return arrival

    def _following(self) -> Arrival | None:
        """The next arrival. One that came an hour after the one before is none: no windows lie between."""
        for arrival in self._arrivals:
            if arrival.t_arrival_ns <= self._latest_ns + PAUSE_NS:
                self._latest_ns = max(self._latest_ns, arrival.t_arrival_ns)
                return arrival
            self._corrupt[arrival.message.stamp.stream] += 1
        return None

    def origins(self) -> dict[str, str]:
        return dict.fromkeys(self._recording.header.streams, f"recording:{self._recording.path}")

    def eases(self) -> tuple[Step, ...]:
        return ()

    def ease(self, taken: Sequence[Step]) -> None:
        """What was captured was captured."""

    def restarts(self) -> dict[StreamName, int]:
        return dict.fromkeys(STREAMS, 0)

    def corrupt(self) -> dict[StreamName, int]:
        return self._corrupt

    def close(self) -> None:
        pass
