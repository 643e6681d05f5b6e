"""View: the emotion stream in a terminal, as a panel that is drawn anew."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import UNSET
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runtime.colours import COLOURS, OTHER
from runtime.dashboard.phrases import spoken
from runtime.stream import (
    Emotion,
    Face,
    Message,
    Modality,
    Said,
    SessionBegin,
    SessionEnd,
    StatusMessage,
    Transcript,
)

STATES = {"ok": "green", "degraded": "yellow", "abstain": "dim"}
SENSES = ("vision", "audio", "text")
WORDS_KEPT = 100
HISTORY = 200  # windows in the strip of top emotions, as far as the terminal is wide
SILENT_S = 3.0  # a stream says something every second; one that does not is stalled


class StreamView:
    """A rich renderable that shows the newest state of a stream; feed it every message.

    Args:
        waiting: what to say before the first message.
        now_s: a monotonic clock, in seconds.
    """

    def __init__(
        self, waiting: str = "waiting for the first window …", now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._waiting, self._now_s = waiting, now_s
        self._heard_s: float | None = None
        self._emotion: Emotion | None = None
        self._status: StatusMessage | None = None
        self._session = ""
        self._over = ""
        self._event = ""
        self._said: tuple[Said, ...] = ()
        self._face: Face | None = None
        self._tops: deque[tuple[int, str | None]] = deque(maxlen=HISTORY)  # end of the window, top emotion

    def update(self, message: Message) -> None:
        """Take in a message; the next rendering shows it."""
        self._session, self._heard_s = message.session, self._now_s()
        match message:
            case Emotion():
                self._take(message)
            case StatusMessage():
                self._status = message
                self._event = self._event if message.event is UNSET else message.event
            case SessionBegin():
                self._over = ""
            case SessionEnd():
                self._over = message.reason
            case Transcript(words=words):
                committed = tuple(word for word in self._said if word.committed)
                self._said = (committed + words)[-WORDS_KEPT:]
            case Face():
                self._face = message
            case _:
                pass  # a terminal shows no picture and plays no sound

    def _take(self, emotion: Emotion) -> None:
        past = emotion.time.end_ns, None if emotion.emotions is UNSET else emotion.emotions.top
        if emotion.revises is None:
            self._emotion = emotion
            self._tops.append(past)
            return
        if self._emotion is not None and self._emotion.time.end_ns == emotion.time.end_ns:
            self._emotion = emotion
        for index, (end_ns, _) in enumerate(self._tops):
            if end_ns == emotion.time.end_ns:
                self._tops[index] = past

    def __rich__(self) -> RenderableType:
        emotion, parts = self._emotion, list[RenderableType]()
        title = Text(f"emotion · {self._session}" if self._session else "emotion")
        if emotion is None:
            parts.append(Text(self._waiting, style="dim"))
        else:
            title.append(f" · {emotion.time.end_ns / 1e9:.1f} s · ")
            title.append(emotion.state, style=STATES[emotion.state])
            parts.append(_felt(emotion))
            if emotion.emotions is not UNSET:
                parts.append(_Strip([top for _, top in self._tops], emotion.emotions.labels))
            parts += [Text(), _senses(emotion)]
            if self._face is not None and self._face.present:
                parts.append(Text(f"face     {spoken(self._face)}", no_wrap=True, overflow="ellipsis"))
            if self._said:
                parts += [Text(), _Transcript(self._said)]
            if emotion.distillation is not UNSET:
                parts += [Text(), _teachers(emotion)]
            parts += [Text(), _foot(emotion)]
        parts += [Text(line, style="yellow") for line in self._trouble()]
        return Panel(
            Group(*parts), title=title, subtitle=Text(f"ended: {self._over}") if self._over else None
        )

    def _trouble(self) -> list[str]:
        lines = []
        for name, sense in {} if self._status is None else self._status.senses.items():
            if sense.state in ("degraded", "failed") or (sense.state == "absent" and sense.detail):
                lines.append(f"{name} {sense.state}: {sense.detail or sense.reason or 'no reason given'}")
        if self._event:
            lines.append(f"! {self._event}")
        silent_s = 0.0 if self._heard_s is None else self._now_s() - self._heard_s
        if silent_s > SILENT_S and not self._over:
            lines.append(f"nothing heard for {silent_s:.0f} s")
        return lines


class _Transcript:
    """The last line of what was said; provisional words are dim."""

    def __init__(self, said: Sequence[Said]) -> None:
        self._said = said

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room, shown = max(options.max_width - 9, 1), list[Said]()
        for word in reversed(self._said):
            room -= len(word.text) + 1
            if room < 0:
                break
            shown.insert(0, word)
        line = Text("words    ", no_wrap=True, overflow="crop")
        for word in shown:
            line.append(f"{word.text} ", style="" if word.committed else "dim italic")
        yield line


class _Strip:
    """The top emotions of the past windows, the newest at the right: a letter each, and its colour."""

    def __init__(self, tops: Sequence[str | None], labels: Sequence[str]) -> None:
        self._tops, self._letters = tops, _letters(labels)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.max_width - 9, 1)
        strip = Text("past     ", no_wrap=True, overflow="crop")
        for top in self._tops[-room:]:
            strip.append(self._letters.get(top or "", "·"), style=_colour(top) if top else "dim")
        yield strip


def _letters(labels: Sequence[str]) -> dict[str, str]:
    """A letter for each label, its own wherever possible: sad is s, surprise is u."""
    letters: dict[str, str] = {}
    for label in labels:
        free = [letter for letter in label if letter not in letters.values()]
        letters[label] = (free or [*label, "?"])[0]
    return letters


def _colour(label: str | None) -> str:
    return COLOURS.get(label or "", OTHER)


def _felt(emotion: Emotion) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(max_width=12, no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    if emotion.emotions is not UNSET:
        letters = _letters(emotion.emotions.labels)
        for label, score in zip(emotion.emotions.labels, emotion.emotions.scores, strict=True):
            bold = "bold" if label == emotion.emotions.top else ""
            name = Text(label, style=bold)
            at = label.find(letters[label])
            name.stylize("underline", at, at + 1)  # the letter that stands for it in the strip
            table.add_row(name, Bar(1.0, 0, score, color=_colour(label)), Text(f"{score:4.0%}", bold))
    if emotion.sentiment is not UNSET:
        value, (low, high) = emotion.sentiment.value, emotion.sentiment.scale
        zero, at_value = -low, min(max(value, low), high) - low
        bar = Bar(high - low, min(zero, at_value), max(zero, at_value), color=OTHER)
        table.add_row(Text("sentiment"), bar, Text(f"{value:+.2f} of {low:+g}..{high:+g}", "bold"))
    if not table.row_count:
        return Text("nothing to go by: no face, no voice, no words", style="dim")
    return table


def _senses(emotion: Emotion) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name in SENSES:
        sense: Modality = getattr(emotion.modalities, name)
        lost = getattr(emotion.dropped, name)
        dropped = Text(f"{lost} dropped" if lost else "", style="yellow")
        if not sense.present:
            table.add_row(Text(f"○ {name}", "dim"), Text(reason(sense), "dim"), "", "", dropped)
            continue
        says = ""
        if sense.logits is not UNSET and emotion.emotions is not UNSET and sense.logits:
            best = max(range(len(sense.logits)), key=sense.logits.__getitem__)
            says = emotion.emotions.labels[best] if best < len(emotion.emotions.labels) else ""
        elif sense.logits is not UNSET and len(sense.logits) == 1:
            says = f"{sense.logits[0]:+.2f}"
        lag = "" if sense.lag_ms is UNSET else f"{sense.lag_ms:.0f} ms old"
        seen = f"{sense.coverage:.0%} seen" if sense.words is UNSET else f"{sense.words} words"
        table.add_row(
            f"● {name}", Text(says, COLOURS.get(says, "")), Text(seen, "dim"), Text(lag, "dim"), dropped
        )
    return table


def reason(sense: Modality) -> str:
    """Why a sense is not there."""
    return "absent" if sense.reason is UNSET else sense.reason


def _teachers(emotion: Emotion) -> RenderableType:
    """The edges of each GD-Unit, the strongest first, as many as the terminal is wide."""
    assert emotion.distillation is not UNSET
    lines = []
    for kind, edges in (("homo", emotion.distillation.homo), ("hetero", emotion.distillation.hetero)):
        line = Text(f"{kind:9}", no_wrap=True, overflow="ellipsis")
        for strength, edge in sorted(zip(edges, emotion.distillation.order, strict=True), reverse=True):
            line.append(
                f"{edge.replace('->', '→')} {strength:.0%}   ", style="" if strength >= 0.1 else "dim"
            )
        lines.append(line)
    return Group(*lines)


def _foot(emotion: Emotion) -> Text:
    latency, model = emotion.latency_ms, emotion.model
    foot = Text(f"{model.name} · {model.engine} {model.precision}\n", style="dim")
    foot.append(f"latency {latency.total:.0f} ms")
    shares = [
        f"{segment} {value:.0f}"
        for segment in ("capture", "features", "window", "infer", "publish")
        if (value := getattr(latency, segment)) is not UNSET
    ]
    foot.append(f" = {' + '.join(shares)}")
    if emotion.dropped.windows:
        foot.append(f" · {emotion.dropped.windows} windows skipped", style="yellow")
    return foot
