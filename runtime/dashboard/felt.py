"""Felt: what is felt, in one word and in bars, each with its last minute beside it."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET
from nicegui import ui
from nicegui.element import Element

from runtime.colours import OTHER, palette
from runtime.dashboard.board import Board, Moment
from runtime.dashboard.drawing import attrs, box, card, say, styles, swap, text, without
from runtime.dashboard.phrases import state

GAP_S = 3.0  # between two windows that a line joins
PLOT_W, PLOT_H = 240, 28
WORDS = {"ok": "ok", "degraded": "degraded", "abstain": "abstains"}


@dataclass(frozen=True, slots=True)
class _Row:
    name: ui.label
    meter: Element
    fill: Element
    share: ui.label
    past: Element


class FeltPanel:
    """Top emotion, state, a bar and a history for each emotion, and for the sentiment if there is one.

    Args:
        span_s: how much of the past is drawn, seconds.
    """

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        with card("Emotion", "felt", f"now, and the last {span_s:.0f} s"):
            with box("hero"):
                with box("", aria_live="polite"):
                    self._top = text("waiting", "top")
                self._share = text("", "top-share")
                with box("state") as self._state:
                    self._state_word = text("", "badge")
                    self._state_line = text("", "muted")
            self._rows_at = box("felt-rows")
            self._rows: dict[str, _Row] = {}
            self._nothing = text("waiting for the first window …", "muted")

    def show(self, board: Board) -> None:
        emotion = board.emotion
        swap(self._nothing, emotion is not None, "gone")
        swap(self._state, emotion is None, "gone")
        if emotion is None:
            say(self._top, "waiting")
            say(self._share, "")
            return
        scores: dict[str, float] = {}
        if emotion.emotions is not UNSET:
            scores = dict(zip(emotion.emotions.labels, emotion.emotions.scores, strict=True))
        top = emotion.emotions.top if emotion.emotions is not UNSET else ""
        self._headline(board, top, scores)
        names = [*scores, *(["sentiment"] if emotion.sentiment is not UNSET else [])]
        if names and names != list(self._rows):
            self._build(names)
        shown = [(moment, moment.at_s - board.now_s()) for moment in board.history]
        for label in self._rows:
            row = self._rows[label]
            if label == "sentiment" and emotion.sentiment is not UNSET:
                self._sentiment(row, emotion.sentiment.value, emotion.sentiment.scale)
            else:
                score = scores.get(label, 0.0)
                swap(row.name, label == top, "strong")
                swap(row.share, label == top, "strong")
                styles(row.fill, width=f"{score:.1%}")
                if label in scores:
                    attrs(row.meter, aria_valuenow=f"{score * 100:.0f}")
                else:
                    without(row.meter, "aria_valuenow")
                say(row.share, f"{score:.0%}" if label in scores else "–")
            heights = [(at_s, _height(moment, label)) for moment, at_s in shown]
            drawn = _line(heights, self._span_s) if label == "sentiment" else _area(heights, self._span_s)
            attrs(row.past, d=drawn)

    def _headline(self, board: Board, top: str, scores: dict[str, float]) -> None:
        assert board.emotion is not None
        emotion = board.emotion
        value = "" if emotion.sentiment is UNSET else f"{emotion.sentiment.value:+.2f}"
        say(self._top, top or value or "nothing")
        scale = (
            "" if emotion.sentiment is UNSET else "sentiment, {:+g} to {:+g}".format(*emotion.sentiment.scale)
        )
        say(self._share, f"{scores[top]:.0%}" if top else scale)
        swap(self._top, emotion.state == "abstain", "unsure")  # a best guess must not look like an answer
        say(self._state_word, WORDS[emotion.state])
        say(self._state_line, state(emotion))
        for name in WORDS:
            swap(self._state, name == emotion.state, f"is-{name}")

    def _sentiment(self, row: _Row, value: float, scale: tuple[float, float]) -> None:
        low, high = scale
        left, right = sorted((min(max(0.0, low), high), min(max(value, low), high)))
        span = high - low
        styles(row.fill, width=f"{(right - left) / span:.1%}", margin_left=f"{(left - low) / span:.1%}")
        attrs(row.meter, aria_valuemin=f"{low:g}", aria_valuemax=f"{high:g}", aria_valuenow=f"{value:.2f}")
        say(row.share, f"{value:+.2f}")

    def _build(self, names: list[str]) -> None:
        self._rows_at.clear()
        self._rows, hues = {}, palette(names)
        with self._rows_at:
            for label in names:
                hue = OTHER if label == "sentiment" else hues[label]
                with box("felt-row"):
                    name = text(label, "name")
                    meter = box("track", role="meter", aria_label=label)
                    attrs(meter, aria_valuemin="0", aria_valuemax="100")
                    with meter:
                        if label == "sentiment":
                            box("zero", aria_hidden="true")
                        fill = box("fill")
                        styles(fill, background_color=hue, width="0%")
                    share = text("", "share")
                    with box(
                        "past", "svg", role="img", aria_label=f"{label}, last {self._span_s:.0f} seconds"
                    ) as plot:
                        attrs(plot, viewBox=f"0 0 {PLOT_W} {PLOT_H}", preserveAspectRatio="none")
                        if label == "sentiment":
                            box("zero", "path", d=f"M0 {PLOT_H / 2:g} H{PLOT_W}")
                            past = box("line", "path", d="M0 0")
                            styles(past, stroke=hue)
                        else:
                            past = box("", "path", d="M0 0", fill=hue)
                self._rows[label] = _Row(name, meter, fill, share, past)


def _height(moment: Moment, label: str) -> float | None:
    """How high a label stood then, 0..1; None: nothing was said of it."""
    emotion = moment.emotion
    if label == "sentiment":
        if emotion.sentiment is UNSET:
            return None
        low, high = emotion.sentiment.scale
        return min(max((emotion.sentiment.value - low) / (high - low), 0.0), 1.0)
    if emotion.emotions is UNSET or label not in emotion.emotions.labels:
        return None
    return emotion.emotions.scores[emotion.emotions.labels.index(label)]


def _area(points: list[tuple[float, float | None]], span_s: float) -> str:
    """The SVG path of a history: seconds before now (negative), heights 0..1; broken where there is none."""
    parts = []
    for run in _runs([(at_s, None if h is None else max(h, 0.02)) for at_s, h in points], span_s):
        line = " ".join(f"L{x:.1f} {y:.1f}" for x, y in run)
        right = min(max(run[-1][0], run[0][0] + 1.0), float(PLOT_W))
        parts.append(f"M{run[0][0]:.1f} {PLOT_H} {line} L{right:.1f} {PLOT_H} z")
    return " ".join(parts) or "M0 0"


def _line(points: list[tuple[float, float | None]], span_s: float) -> str:
    """The same as a line: of a value that may lie on both sides of zero."""
    runs = _runs(points, span_s)
    return " ".join("M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs) or "M0 0"


def _runs(points: list[tuple[float, float | None]], span_s: float) -> list[list[tuple[float, float]]]:
    """Places in the plot, broken where nothing was said."""
    runs: list[list[tuple[float, float]]] = []
    last_s: float | None = None
    for at_s, height in points:
        if height is None or at_s < -span_s:
            last_s = None
            continue
        if last_s is None or at_s - last_s > GAP_S:
            runs.append([])
        runs[-1].append(((at_s / span_s + 1) * PLOT_W, PLOT_H - height * PLOT_H))
        last_s = at_s
    return runs
