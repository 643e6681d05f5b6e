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
from runtime.scale import on_scale

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
    guessed: Element  # those parts of the past in which the network was unsure


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
            self._scale: tuple[float, float] | None = None  # of the sentiment that has a row
            self._nothing = text("waiting for the first window …", "muted")

    def show(self, board: Board) -> None:
        emotion = board.emotion
        swap(self._nothing, emotion is not None, "gone")
        swap(self._state, emotion is None, "gone")
        if emotion is None:
            say(self._top, "waiting")
            say(self._share, "")
            swap(self._top, False, "unsure")
            for row in self._rows.values():
                _reset(row)
            return
        scores: dict[str, float] = {}
        if emotion.emotions is not UNSET:
            scores = dict(zip(emotion.emotions.labels, emotion.emotions.scores, strict=True))
        top = emotion.emotions.top if emotion.emotions is not UNSET else ""
        self._headline(board, top, scores)
        names = [*scores, *(["sentiment"] if emotion.sentiment is not UNSET else [])]
        scale = None if emotion.sentiment is UNSET else emotion.sentiment.scale
        if names and (names, scale) != (list(self._rows), self._scale):
            self._build(names, scale)
        swap(self._rows_at, emotion.state == "abstain", "unsure")
        shown = [(moment, moment.at_s - board.now_s()) for moment in board.history]
        for label in self._rows:
            row = self._rows[label]
            if label == "sentiment" and emotion.sentiment is not UNSET:
                self._sentiment(row, emotion.sentiment.value, emotion.sentiment.scale)
            else:
                score = scores.get(label, 0.0)
                for words in (row.name, row.share):
                    swap(words, label == top and emotion.state != "abstain", "strong")
                styles(row.fill, width=f"{score:.1%}", margin_left="0%")
                if label in scores:
                    attrs(row.meter, aria_valuenow=f"{score * 100:.0f}")
                else:
                    without(row.meter, "aria_valuenow")
                say(row.share, f"{score:.0%}" if label in scores else "–")
            draw = _line if label == "sentiment" else _area
            for path, points in zip((row.past, row.guessed), _apart(shown, label), strict=True):
                attrs(path, d=draw(points, self._span_s))

    def _headline(self, board: Board, top: str, scores: dict[str, float]) -> None:
        assert board.emotion is not None
        emotion = board.emotion
        answer, beside = top, ""
        if top:
            beside = f"{scores[top]:.0%}"
        elif emotion.sentiment is not UNSET:
            answer = f"{emotion.sentiment.value:+.2f}"
            beside = "sentiment, {:+g} to {:+g}".format(*emotion.sentiment.scale)
        unsure = emotion.state == "abstain"  # a best guess must not look like an answer
        if unsure and answer:
            answer, beside = "unsure", f"perhaps {answer}, {beside}"
        say(self._top, answer or "nothing")
        say(self._share, beside)
        swap(self._top, unsure, "unsure")
        swap(self._share, unsure, "guess")
        say(self._state_word, WORDS[emotion.state])
        say(self._state_line, state(emotion))
        for name in WORDS:
            swap(self._state, name == emotion.state, f"is-{name}")

    def _sentiment(self, row: _Row, value: float, scale: tuple[float, float]) -> None:
        low, high = scale
        left, right = sorted((on_scale(0.0, scale), on_scale(value, scale)))
        styles(row.fill, width=f"{right - left:.1%}", margin_left=f"{left:.1%}")
        attrs(row.meter, aria_valuemin=f"{low:g}", aria_valuemax=f"{high:g}", aria_valuenow=f"{value:.2f}")
        say(row.share, f"{value:+.2f}")

    def _build(self, names: list[str], scale: tuple[float, float] | None) -> None:
        self._rows_at.clear()
        self._rows, self._scale, hues = {}, scale, palette(names)
        zero = 0.0 if scale is None else on_scale(0.0, scale)
        with self._rows_at:
            for label in names:
                hue = OTHER if label == "sentiment" else hues[label]
                with box("felt-row"):
                    name = text(label, "name")
                    meter = box("track", role="meter", aria_label=label)
                    attrs(meter, aria_valuemin="0", aria_valuemax="100")
                    with meter:
                        if label == "sentiment":
                            styles(box("zero", aria_hidden="true"), left=f"{zero:.1%}")
                        fill = box("fill")
                        styles(fill, background_color=hue, width="0%")
                    share = text("", "share")
                    with box(
                        "past", "svg", role="img", aria_label=f"{label}, last {self._span_s:.0f} seconds"
                    ) as plot:
                        attrs(plot, viewBox=f"0 0 {PLOT_W} {PLOT_H}", preserveAspectRatio="none")
                        if label == "sentiment":
                            box("zero", "path", d=f"M0 {PLOT_H - zero * PLOT_H:g} H{PLOT_W}")
                        past, guessed = (_past(kind, hue, label) for kind in ("", "guess"))
                self._rows[label] = _Row(name, meter, fill, share, past, guessed)


def _reset(row: _Row) -> None:
    """As before the first window; the row stays, so that the page does not jump."""
    styles(row.fill, width="0%", margin_left="0%")
    without(row.meter, "aria_valuenow")
    say(row.share, "–")
    for path in (row.past, row.guessed):
        attrs(path, d="M0 0")


def _past(kind: str, hue: str, label: str) -> Element:
    if label != "sentiment":
        return box(kind, "path", d="M0 0", fill=hue)
    line = box(f"line {kind}".strip(), "path", d="M0 0")
    styles(line, stroke=hue)
    return line


def _apart(
    shown: list[tuple[Moment, float]], label: str
) -> tuple[list[tuple[float, float | None]], list[tuple[float, float | None]]]:
    """The heights of answers, and of guesses; a guess is joined to what stands before and after it."""
    unsure = [moment.emotion.state == "abstain" for moment, _ in shown]
    answers: list[tuple[float, float | None]] = []
    guesses: list[tuple[float, float | None]] = []
    for k, (moment, at_s) in enumerate(shown):
        height = _height(moment, label)
        answers.append((at_s, None if unsure[k] else height))
        guesses.append((at_s, height if any(unsure[max(k - 1, 0) : k + 2]) else None))
    return answers, guesses


def _height(moment: Moment, label: str) -> float | None:
    """How high a label stood then, 0..1; None: nothing was said of it."""
    emotion = moment.emotion
    if label == "sentiment":
        if emotion.sentiment is UNSET:
            return None
        return on_scale(emotion.sentiment.value, emotion.sentiment.scale)
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
