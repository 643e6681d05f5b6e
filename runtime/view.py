"""View: the emotion stream in a terminal, as a panel that is drawn anew."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import UNSET
from rich.bar import Bar
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runtime.colours import OTHER, palette
from runtime.dashboard.board import SEEN_S, SILENT_S, begins_anew
from runtime.dashboard.phrases import spoken, when
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
from runtime.strips import LastWords, SentimentOfThePast, TopsOfThePast, letters

STATES = {"ok": "green", "degraded": "yellow", "abstain": "dim"}
SENSES = ("vision", "audio", "text")
WORDS_KEPT = 100
HISTORY = 200  # windows in the strip of top emotions, as far as the terminal is wide
FAINT = "#666666"  # the bars of a window that abstains


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
        self._clear("")

    def _clear(self, session: str) -> None:
        """Begin anew. What is drawn is replaced as a whole: another thread draws it meanwhile."""
        self._session, self._over, self._event = session, "", ""
        self._emotion: Emotion | None = None
        self._status: StatusMessage | None = None
        self._begin: SessionBegin | None = None
        self._said: tuple[Said, ...] = ()
        self._face: Face | None = None
        self._faced_s = 0.0
        self._past: tuple[Emotion, ...] = ()  # the windows of the history, each as it was said last

    def update(self, message: Message) -> None:
        """Take in a message; the next rendering shows it."""
        anew = isinstance(message, SessionBegin) and begins_anew(message, self._begin, self._over)
        if message.session != self._session or anew:
            self._clear(message.session)  # nothing of the person before
        self._heard_s = self._now_s()
        match message:
            case Emotion():
                self._take(message)
            case StatusMessage():
                self._status = message
                self._event = self._event if message.event is UNSET else message.event
            case SessionBegin():
                self._begin = message
            case SessionEnd():
                self._over = message.reason
            case Transcript(words=words):
                committed = tuple(word for word in self._said if word.committed)
                self._said = (committed + words)[-WORDS_KEPT:]
            case Face():
                self._face, self._faced_s = message, self._now_s()
            case _:
                pass  # a terminal shows no picture and plays no sound

    def _take(self, emotion: Emotion) -> None:
        if emotion.revises is None:
            self._emotion = emotion
            self._past = (*self._past[1 - HISTORY :], emotion)
            return
        if self._emotion is not None and self._emotion.time.end_ns == emotion.time.end_ns:
            self._emotion = emotion
        ends = emotion.time.end_ns
        self._past = tuple(emotion if one.time.end_ns == ends else one for one in self._past)

    def __rich__(self) -> RenderableType:
        emotion, parts = self._emotion, list[RenderableType]()
        title = Text(f"emotion · {self._session}" if self._session else "emotion")
        if emotion is None:
            parts.append(Text(self._waiting, style="dim"))
        else:
            title.append(f" · {when(emotion.time)} · ")
            title.append(emotion.state, style=STATES[emotion.state])
            parts.append(_felt(emotion))
            if emotion.emotions is not UNSET:
                parts.append(TopsOfThePast(self._past, emotion.emotions.labels))
            elif emotion.sentiment is not UNSET:
                parts.append(SentimentOfThePast(self._past))
            parts += [Text(), _senses(emotion)]
            face, seen_s = self._face, self._now_s() - self._faced_s
            if face is not None and face.present and seen_s < SEEN_S:
                parts.append(Text(f"face     {spoken(face)}", no_wrap=True, overflow="ellipsis"))
            if self._said:
                parts += [Text(), LastWords(self._said)]
            if emotion.distillation is not UNSET:
                parts += [Text(), _teachers(emotion)]
            parts += [Text(), _foot(emotion), *self._health()]
        parts += [Text(line, style="yellow") for line in self._trouble()]
        return Panel(
            Group(*parts), title=title, subtitle=Text(f"ended: {self._over}") if self._over else None
        )

    def _health(self) -> list[Text]:
        """Counts, what is given up now, what late words changed, and what is not shared."""
        status, begin, lines = self._status, self._begin, list[Text]()
        if status is not None:
            counts = [f"{status.windows} windows"]
            restarts = sum(sense.restarts for sense in status.senses.values())
            counts += [f"{restarts} restarts"] if restarts else []
            if status.revised is not UNSET:
                counts.append(
                    f"late words changed {status.revised.answer_changed} of {status.revised.windows}"
                )
            lines.append(Text(" · ".join(counts), style="dim"))
            if status.eased:
                lines.append(Text(f"given up to keep up: {', '.join(status.eased)}", style="yellow"))
        if begin is not None:
            if begin.passed_over is not UNSET:
                lines.append(
                    Text(f"faster engines that do not run here: {', '.join(begin.passed_over)}", "dim")
                )
            hidden = [name for name in ("words", "face") if not begin.config.get(f"share_{name}")]
            if hidden:
                how = " ".join(f"--share-{name}" for name in hidden)
                lines.append(Text(f"not shared: {' and '.join(hidden)} ({how})", style="dim"))
        return lines

    def _trouble(self) -> list[str]:
        lines, status = [], self._status  # read once: another thread may put None there
        for name, sense in {} if status is None else status.senses.items():
            if sense.state in ("degraded", "failed") or (sense.state == "absent" and sense.detail):
                lines.append(f"{name} {sense.state}: {sense.detail or sense.reason or 'no reason given'}")
        if self._event:
            lines.append(f"! {self._event}")
        silent_s = 0.0 if self._heard_s is None else self._now_s() - self._heard_s
        if silent_s > SILENT_S and not self._over:
            lines.append(f"nothing heard for {silent_s:.0f} s")
        return lines


def _felt(emotion: Emotion) -> RenderableType:
    """A bar for each emotion, and for the sentiment. A window that abstains must not look like an answer."""
    unsure, guess = emotion.state == "abstain", ""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(max_width=12, no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    if emotion.emotions is not UNSET:
        marks, colours = letters(emotion.emotions.labels), palette(emotion.emotions.labels)
        guess = emotion.emotions.top
        for label, score in zip(emotion.emotions.labels, emotion.emotions.scores, strict=True):
            bold = "dim" if unsure else "bold" if label == emotion.emotions.top else ""
            name = Text(label, style=bold)
            at = label.find(marks[label])
            name.stylize("underline", at, at + 1)  # the letter that stands for it in the strip
            table.add_row(
                name,
                Bar(1.0, 0, score, color=FAINT if unsure else colours[label]),
                Text(f"{score:4.0%}", bold),
            )
    if emotion.sentiment is not UNSET:
        value, (low, high) = emotion.sentiment.value, emotion.sentiment.scale
        zero, at_value = -low, min(max(value, low), high) - low
        bar = Bar(high - low, min(zero, at_value), max(zero, at_value), color=FAINT if unsure else OTHER)
        bold = "dim" if unsure else "bold"
        table.add_row(
            Text("sentiment", "dim" if unsure else ""),
            bar,
            Text(f"{value:+.2f} of {low:+g}..{high:+g}", bold),
        )
        guess = guess or f"{value:+.2f}"
    if not table.row_count:
        return Text("nothing to go by: no face, no voice, no words", style="dim")
    return Group(table, Text(f"unsure, best guess {guess}", style="dim italic")) if unsure else table


def _senses(emotion: Emotion) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    colours = palette(() if emotion.emotions is UNSET else emotion.emotions.labels)
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
            f"● {name}", Text(says, colours.get(says, "")), Text(seen, "dim"), Text(lag, "dim"), dropped
        )
    return table


def reason(sense: Modality) -> str:
    """Why a sense is not there."""
    return "absent" if sense.reason is UNSET else sense.reason


def _teachers(emotion: Emotion) -> RenderableType:
    """The edges of each GD-Unit, the strongest first, over as many lines as they need."""
    assert emotion.distillation is not UNSET
    table = Table.grid(padding=(0, 0))
    table.add_column(width=9)
    for kind, edges in (("homo", emotion.distillation.homo), ("hetero", emotion.distillation.hetero)):
        ranked = sorted(zip(edges, emotion.distillation.order, strict=True), reverse=True)
        said = [
            Text(f"{edge.replace('->', '→')} {strength:.0%}", "" if strength >= 0.1 else "dim")
            for strength, edge in ranked
        ]
        table.add_row(kind, Columns(said, padding=(0, 2)))
    return table


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
