"""Account: what a session says of itself — how many windows, how late, how each sense is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from capture.messages import STREAMS, StreamName
from runtime.history import StreamHistory
from runtime.ladder import MEANING, Step
from runtime.revisions import Revisions
from runtime.stream import Emotion, SenseStatus, SessionEnd, StatusMessage

STATUS_S = 1.0
REMEMBERED = 7200  # latencies: of the last hour, at the usual hop


class Account:
    """Counts what a session does; turns the counts into its ``status`` and ``session.end`` messages."""

    def __init__(self, session: str) -> None:
        self.windows = self.skipped = 0
        self.revisions = Revisions()
        self._session = session
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._started_at = time.monotonic()
        self._status_at = 0.0

    def published(self, message: Emotion) -> None:
        """A window went out for the first time."""
        self.windows += 1
        self._latencies.append(message.latency_ms.total)

    def status_due(self) -> bool:
        """Once a second."""
        if time.monotonic() < self._status_at:
            return False
        self._status_at = time.monotonic() + STATUS_S
        return True

    def status(
        self, senses: dict[str, SenseStatus], engine: str, eased: Sequence[Step], event: str | None
    ) -> StatusMessage:
        return StatusMessage(
            session=self._session,
            uptime_s=self._uptime_s(),
            senses=senses,
            windows=self.windows,
            skipped=self.skipped,
            engine=engine,
            eased=tuple(MEANING[step] for step in eased),
            revised=self.revisions.told() or msgspec.UNSET,
            event=msgspec.UNSET if event is None else event,
        )

    def end(self, senses: dict[str, SenseStatus], reason: str) -> SessionEnd:
        ordered = sorted(self._latencies)
        return SessionEnd(
            session=self._session,
            reason=reason,
            duration_s=self._uptime_s(),
            windows=self.windows,
            skipped=self.skipped,
            senses=senses,
            revised=self.revisions.told() or msgspec.UNSET,
            latency_ms_p50=ordered[len(ordered) // 2] if ordered else msgspec.UNSET,
            latency_ms_p95=ordered[int(len(ordered) * 0.95)] if ordered else msgspec.UNSET,
        )

    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._started_at, 3)


def health(
    histories: Mapping[StreamName, StreamHistory],
    corrupt: Mapping[StreamName, int],
    restarts: Mapping[StreamName, int],
) -> dict[str, SenseStatus]:
    """How each sense is: what its process says, and what was lost on the way."""
    return {
        name: SenseStatus(
            state=histories[name].state,
            reason=histories[name].reason,
            detail=histories[name].detail,
            produced=histories[name].produced.total,
            dropped=histories[name].lost,
            gaps=histories[name].sequence.gaps,
            refused=histories[name].refused,
            corrupt=corrupt[name] + histories[name].corrupt.total,
            restarts=restarts[name],
        )
        for name in STREAMS
    }
