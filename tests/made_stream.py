"""Messages of the stream that several tests need: a session that cannot keep up, and one without senses."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.stream import (
    Emotion,
    Emotions,
    Latency,
    Lost,
    Modalities,
    Modality,
    Model,
    Revised,
    SessionBegin,
    SessionEnd,
    StatusMessage,
    Time,
    wall,
)

LATE = Revised(
    windows=7, words_changed=3, answer_changed=2, shift=0.2, after_ms_p50=900.0, after_ms_p95=1400.0
)
OVERLOADED = StatusMessage(
    session="demo", uptime_s=9.0, senses={}, windows=12, skipped=5, engine="numpy", revised=LATE,
    eased=("no provisional words",),
)  # fmt: skip

MODEL = Model(name="dmd", hash="a", features="b", engine="e", precision="fp32")


def window(seq: int = 1, **changes: Any) -> Emotion:
    """A window without any sense, for what needs no session."""
    absent = Modality(present=False, coverage=0.0, reason="no_device")
    message = Emotion(
        session="lab", seq=seq, state="degraded", final=True,
        time=Time(clock="media", start_ns=0, end_ns=10**9, published_ns=10**9, wall=wall(0)),
        emotions=Emotions(labels=("happy", "sad"), scores=(0.25, 0.75), top="sad"),
        modalities=Modalities(text=absent, audio=absent, vision=absent),
        latency_ms=Latency(infer=1.0, publish=0.5, total=1.5),
        dropped=Lost(), model=MODEL,
    )  # fmt: skip
    return msgspec.structs.replace(message, **changes)


def window_at(end_s: float, **changes: Any) -> Emotion:
    """A window that ends then, and is published at once."""
    end_ns = round(end_s * 1e9)
    time = Time(clock="media", start_ns=end_ns - 10**9, end_ns=end_ns, published_ns=end_ns, wall=wall(end_ns))
    return window(time=time, **changes)


def begin(session: str = "lab", minute: int = 0) -> SessionBegin:
    """How a session begins, at a minute of the hour."""
    return SessionBegin(
        session=session, started=f"2026-11-25T12:{minute:02d}:00.000Z", clock="monotonic", config={},
        model=MODEL, streams={}, software="0.1.0",
    )  # fmt: skip


def end(session: str = "lab") -> SessionEnd:
    """How it ends."""
    return SessionEnd(session=session, reason="interrupted", duration_s=1, windows=1, skipped=0, senses={})
