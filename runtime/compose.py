"""Compose: a window and what the network says of it become the message that is published."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from capture.clock import WallAnchor
from capture.messages import StreamName
from runtime.engine import Prediction
from runtime.network import Network
from runtime.stream import (
    Distillation,
    Emotion,
    Emotions,
    Latency,
    Lost,
    Modalities,
    Modality,
    Model,
    Sentiment,
    State,
    Time,
    wall,
)
from runtime.windows import SenseWindow, Window

# Teacher -> student of each edge, in the order of the network's outputs (``models.gd_unit``).
EDGE_ORDER = (
    "vision->text",
    "audio->text",
    "text->vision",
    "audio->vision",
    "text->audio",
    "vision->audio",
)
Logits = npt.NDArray[np.float32]
DIGITS = 5  # of probabilities, logits and edges


class Timing(msgspec.Struct, frozen=True):
    """When a window went through the loop, on the session's clock, in nanoseconds."""

    infer_ns: int
    inferred_ns: int
    publish_ns: int
    paced: bool


def compose(
    window: Window,
    prediction: Prediction | None,
    *,
    network: Network,
    model: Model,
    anchor: WallAnchor,
    clock: str,
    session: str,
    seq: int,
    skipped: int,
    timing: Timing,
    revises: int | None = None,
) -> Emotion:
    """The message of one window; ``prediction`` is None when no sense was there.

    ``revises`` is the ``seq`` of the message that said less of the same window.
    """
    says: Mapping[StreamName, Logits] = {} if prediction is None else prediction.logits
    emotions: Emotions | UnsetType = UNSET
    sentiment: Sentiment | UnsetType = UNSET
    distillation: Distillation | UnsetType = UNSET
    if prediction is not None:
        emotions, sentiment = _output(prediction, network)
        if network.manifest.distilled:
            homo, hetero = _numbers(prediction.homo_edges), _numbers(prediction.hetero_edges)
            distillation = Distillation(order=EDGE_ORDER, homo=homo, hetero=hetero)
    return Emotion(
        session=session,
        seq=seq,
        revises=revises,
        final=window.final,
        state=_state(window, prediction, network),
        time=Time(
            clock="media" if clock == "media" else "monotonic",
            start_ns=window.start_ns,
            end_ns=window.end_ns,
            published_ns=timing.publish_ns,
            wall=wall(anchor.wall_ns(window.end_ns)),
        ),
        emotions=emotions,
        sentiment=sentiment,
        modalities=Modalities(
            **{name: _modality(name, sense, says) for name, sense in window.senses.items()}
        ),
        distillation=distillation,
        latency_ms=_latency(window, timing),
        dropped=Lost(**window.dropped, windows=skipped),
        model=model,
    )


def _state(window: Window, prediction: Prediction | None, network: Network) -> State:
    unsure = prediction is None or (
        network.manifest.task == "classification"
        and float(prediction.output.max()) < network.manifest.abstain_below
    )
    if unsure:
        return "abstain"
    return "ok" if all(sense.present for sense in window.senses.values()) else "degraded"


def _output(prediction: Prediction, network: Network) -> tuple[Emotions | UnsetType, Sentiment | UnsetType]:
    if network.manifest.task == "regression":
        return UNSET, Sentiment(value=_numbers(prediction.output)[0], scale=(-3.0, 3.0))
    labels = network.manifest.labels
    top = labels[int(prediction.output.argmax())]
    return Emotions(labels=labels, scores=_numbers(prediction.output), top=top), UNSET


def _modality(name: StreamName, sense: SenseWindow, says: Mapping[StreamName, Logits]) -> Modality:
    return Modality(
        present=sense.present,
        coverage=round(sense.coverage, 3),
        lag_ms=UNSET if sense.lag_ns is None else round(sense.lag_ns / 1e6, 1),
        logits=_numbers(says[name]) if sense.present and name in says else UNSET,
        words=len(sense.words) if name == "text" else UNSET,
        reason=UNSET if sense.present else sense.reason or "absent",
    )


def _latency(window: Window, timing: Timing) -> Latency:
    """From the newest sample inside to now; each segment ends where the next begins."""
    infer = _ms(timing.inferred_ns - timing.infer_ns)
    publish = _ms(timing.publish_ns - timing.inferred_ns)
    if not timing.paced or window.newest is None:
        return Latency(infer=infer, publish=publish, total=round(infer + publish, 3))
    stamp, ready_ns = window.newest.stamp, window.newest.t_ready_ns
    capture = _ms(ready_ns - stamp.t_capture_ns)
    features = _ms(stamp.t_publish_ns - ready_ns)
    waited = _ms(timing.infer_ns - stamp.t_publish_ns)
    total = round(capture + features + waited + infer + publish, 3)
    return Latency(
        capture=capture, features=features, window=waited, infer=infer, publish=publish, total=total
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)


def _numbers(values: npt.NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)
