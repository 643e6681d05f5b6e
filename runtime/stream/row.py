"""Row: a published window as one flat row; exports, Lab Streaming Layer and OSC have the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from runtime.stream.messages import Emotion

SENSES = ("text", "audio", "vision")


def row(message: Emotion) -> dict[str, Any]:
    """A published window as one flat row, column by column; None where a value is absent.

    Columns of a sense's logits, of scores and of edges are there only where the message has them.
    """
    flat: dict[str, Any] = {
        "start_s": message.time.start_ns / 1e9,
        "wall": message.time.wall,
        "seq": message.seq,
        "revises": message.revises,
        "final": message.final,
        "state": message.state,
    }
    labels: Sequence[str] = ()
    if message.emotions is not UNSET:
        labels = message.emotions.labels
        flat["top"] = message.emotions.top
        flat |= {f"p_{label}": p for label, p in zip(labels, message.emotions.scores, strict=True)}
    if message.sentiment is not UNSET:
        flat["sentiment"] = message.sentiment.value
    for sense in SENSES:
        one = getattr(message.modalities, sense)
        flat |= {f"{sense}_present": one.present, f"{sense}_coverage": one.coverage}
        flat |= {f"{sense}_{name}": _or_none(getattr(one, name)) for name in ("lag_ms", "reason")}
        if one.logits is not UNSET:
            names = labels if len(labels) == len(one.logits) else [str(i) for i in range(len(one.logits))]
            flat |= {f"{sense}_logit_{label}": x for label, x in zip(names, one.logits, strict=True)}
    if message.distillation is not UNSET:
        for space in ("homo", "hetero"):
            strengths = getattr(message.distillation, space)
            flat |= {f"{space}_{e}": x for e, x in zip(message.distillation.order, strengths, strict=True)}
    latency = message.latency_ms
    for segment in ("capture", "features", "window", "infer", "publish", "total"):
        flat[f"latency_{segment}_ms"] = _or_none(getattr(latency, segment))
    flat |= {f"dropped_{name}": getattr(message.dropped, name) for name in (*SENSES, "windows")}
    return flat


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value
