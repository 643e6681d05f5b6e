"""Gather: what a report tells, read from a recording in two passes; seconds since the session began."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from msgspec import UNSET

from capture.messages import Words
from runtime.markers import of_recording
from runtime.recording import Recording
from runtime.recording.info import Info, summarise
from runtime.stream import Emotion, MalformedMessage, Modality, decode

SENSES = ("vision", "audio", "text")
SEGMENTS = ("capture", "features", "window", "infer", "publish")


@dataclass(frozen=True)
class Spoken:
    """A committed word; ``top`` or ``sentiment`` is the answer of the first window that ends after it."""

    time_s: float
    text: str
    top: str | None
    sentiment: float | None = None


@dataclass(frozen=True)
class Run:
    """A stretch of windows that have something in common."""

    first_s: float
    last_s: float
    value: str


@dataclass
class Session:
    """Everything that a report shows; a window that was published again counts once, as published last."""

    info: Info
    hop_s: float
    windows: list[Emotion]
    times_s: list[float]  # of the windows' ends
    words: list[Spoken] = field(default_factory=list)
    damaged_s: list[tuple[float, float]] = field(default_factory=list)
    markers: list[tuple[float, str]] = field(default_factory=list)  # what the operator noted, and when

    @property
    def missing(self) -> list[tuple[float, float, int]]:
        """Holes in the hops: the windows before and after, and how many are not there."""
        found = []
        for before_s, after_s in pairwise(self.times_s):
            count = round((after_s - before_s) / self.hop_s) - 1
            if count > 0:
                found.append((before_s, after_s, count))
        return found

    @property
    def scale(self) -> tuple[float, float] | None:
        """Of the sentiment; None where the network is none that gives one."""
        return next((w.sentiment.scale for w in self.windows if w.sentiment is not UNSET), None)

    @property
    def labels(self) -> tuple[str, ...]:
        return next((w.emotions.labels for w in self.windows if w.emotions is not UNSET), ())


def gather(recording: Recording) -> Session:
    """Read a recording. What is damaged in it is left out and stands in ``info.warnings``."""
    info = summarise(recording)
    start_ns = recording.header.start_ns
    published = {message.seq: message for message in _published(recording)}
    for message in list(published.values()):
        if message.revises is not None:
            published.pop(message.revises, None)
    windows = sorted(published.values(), key=lambda message: message.time.end_ns)
    times_s = [(message.time.end_ns - start_ns) / 1e9 for message in windows]
    steps = [later - earlier for earlier, later in pairwise(times_s) if later > earlier]
    hop_s = recording.header.hop_s or (float(np.median(steps)) if steps else 1.0)
    session = Session(info, hop_s, windows, times_s)
    session.damaged_s = [
        ((gap.first_ns - start_ns) / 1e9, (gap.last_ns - start_ns) / 1e9) for gap in recording.gaps
    ]
    session.markers = [
        ((marker.t_ns - start_ns) / 1e9, marker.text) for marker in of_recording(recording).all
    ]
    for arrival in recording:
        if isinstance(arrival.message, Words):
            for word in arrival.message.words:
                if word.committed:
                    at = bisect.bisect_left(times_s, (word.end_ns - start_ns) / 1e9)
                    felt = (top(windows[at]), value(windows[at])) if at < len(windows) else (None, None)
                    session.words.append(Spoken((word.start_ns - start_ns) / 1e9, word.text, *felt))
    return session


def _published(recording: Recording) -> Iterator[Emotion]:
    for _, payload in recording.emotions():
        try:
            message = decode(payload)
        except MalformedMessage:
            continue
        if isinstance(message, Emotion):
            yield message


def top(window: Emotion) -> str | None:
    """The likeliest label; None where nothing was said, or where the network abstained."""
    return None if window.emotions is UNSET or window.state == "abstain" else window.emotions.top


def value(window: Emotion) -> float | None:
    """The sentiment; None where there is none, or where the network abstained."""
    return None if window.sentiment is UNSET or window.state == "abstain" else window.sentiment.value


def unsure(window: Emotion) -> str | None:
    """What is told of a window that has a best guess and abstains; None of any other."""
    if window.state != "abstain" or (window.emotions is UNSET and window.sentiment is UNSET):
        return None
    guess = f"{window.sentiment.value:+.2f}" if window.emotions is UNSET else window.emotions.top
    return f"unsure, best guess {guess}"


def sense(window: Emotion, name: str) -> Modality:
    """What one sense did in a window."""
    found: Modality = getattr(window.modalities, name)
    return found


def own(window: Emotion, name: str) -> float | None:
    """The probability that a sense alone, by its own logits, gives to the published answer, 0..1."""
    logits = sense(window, name).logits
    if window.emotions is UNSET or logits is UNSET or len(logits) != len(window.emotions.labels):
        return None
    peak = max(logits)
    powers = [math.exp(logit - peak) for logit in logits]
    return powers[window.emotions.labels.index(window.emotions.top)] / sum(powers)


def alone(window: Emotion, name: str) -> float | None:
    """The sentiment that a sense alone gives; None where the network gives none."""
    logits = sense(window, name).logits
    return None if window.sentiment is UNSET or logits is UNSET or len(logits) != 1 else logits[0]


def agrees(window: Emotion, name: str) -> bool | None:
    """Whether a sense alone would have given the published answer; of a sentiment, one of the same sign."""
    logits, own_value = sense(window, name).logits, alone(window, name)
    if window.sentiment is not UNSET and own_value is not None:
        return (own_value > 0) == (window.sentiment.value > 0)
    if window.emotions is UNSET or logits is UNSET or len(logits) != len(window.emotions.labels):
        return None
    return window.emotions.labels[logits.index(max(logits))] == window.emotions.top


def runs(session: Session, values: Sequence[str | None]) -> list[Run]:
    """Neighbouring windows of one value as one stretch; None makes no stretch, nor does a missing window."""
    found: list[Run] = []
    for time_s, value in zip(session.times_s, values, strict=True):
        first_s = time_s - session.hop_s
        if value is None:
            continue
        if found and found[-1].value == value and first_s - found[-1].last_s < session.hop_s / 2:
            found[-1] = Run(found[-1].first_s, time_s, value)
        else:
            found.append(Run(first_s, time_s, value))
    return found
