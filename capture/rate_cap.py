"""Rate cap: at most so many samples a second, chosen by their time stamps alone."""

from __future__ import annotations


class RateCap:
    """Lets through at most ``rate_hz``, by time stamps alone, so that the same frames pass every time.

    A quarter of a period of jitter is forgiven, so that a camera at the nominal rate loses nothing.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self._period_ns = round(1e9 / rate_hz)
        self._due_ns: int | None = None

    def passes(self, t_ns: int) -> bool:
        if self._due_ns is not None and t_ns < self._due_ns - self._period_ns // 4:
            return False
        due_ns = t_ns if self._due_ns is None else max(self._due_ns, t_ns - self._period_ns)
        self._due_ns = due_ns + self._period_ns
        return True
