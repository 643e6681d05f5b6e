"""Messages of the stream that several tests need: a session that cannot keep up."""

from __future__ import annotations

from runtime.stream import Revised, StatusMessage

LATE = Revised(
    windows=7, words_changed=3, answer_changed=2, shift=0.2, after_ms_p50=900.0, after_ms_p95=1400.0
)
OVERLOADED = StatusMessage(
    session="demo", uptime_s=9.0, senses={}, windows=12, skipped=5, engine="numpy", revised=LATE,
    eased=("no provisional words",),
)  # fmt: skip
