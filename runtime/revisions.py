"""Revisions: how often words that came late changed an answer, and by how much."""

from __future__ import annotations

from collections import deque

from msgspec import UNSET

from runtime.stream import Emotion, Revised

KEPT = 7200  # windows that the percentiles are taken from: an hour at the usual hop


class Revisions:
    """Compares each final message with the one that it revises; bounded memory."""

    def __init__(self) -> None:
        self._windows = self._words = self._answers = 0
        self._shift = 0.0
        self._after_ms: deque[float] = deque(maxlen=KEPT)

    def count(self, before: Emotion, after: Emotion, *, other_words: bool) -> None:
        """Take in a revision; ``other_words``: it holds other words than the message before."""
        self._windows += 1
        self._after_ms.append((after.time.published_ns - after.time.end_ns) / 1e6)
        if other_words:
            self._words += 1
            self._answers += _answer(before) != _answer(after)
            self._shift += shift(before, after)

    def told(self) -> Revised | None:
        """The totals so far; None where nothing has been revised."""
        if not self._windows:
            return None
        ordered = sorted(self._after_ms)
        return Revised(
            windows=self._windows,
            words_changed=self._words,
            answer_changed=self._answers,
            shift=round(self._shift / self._words, 4) if self._words else 0.0,
            after_ms_p50=round(ordered[len(ordered) // 2], 1),
            after_ms_p95=round(ordered[int(len(ordered) * 0.95)], 1),
        )


def _answer(message: Emotion) -> str | bool | None:
    if message.emotions is not UNSET:
        return message.emotions.top
    return None if message.sentiment is UNSET else message.sentiment.value > 0


def shift(before: Emotion, after: Emotion) -> float:
    """How far an answer moved, 0..1: total variation of the scores, or of the sentiment's scale.

    From no answer to one, or back, is all of it.
    """
    if before.emotions is not UNSET and after.emotions is not UNSET:
        pairs = zip(before.emotions.scores, after.emotions.scores, strict=True)
        return min(1.0, sum(abs(a - b) for a, b in pairs) / 2)
    if before.sentiment is not UNSET and after.sentiment is not UNSET:
        low, high = after.sentiment.scale
        return min(1.0, abs(before.sentiment.value - after.sentiment.value) / (high - low))
    return float(_answer(before) != _answer(after))
