"""View: the emotion stream in a terminal — a live panel, a line a window, a summary of a session."""

from __future__ import annotations

from collections import Counter, deque

from msgspec import UNSET
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runtime.stream import Emotion, Message, Modality, SessionBegin, SessionEnd, StatusMessage

# Okabe and Ito's palette: told apart by colour-blind people too.
COLOURS = {
    "angry": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "happy": "#F0E442",
    "neutral": "#999999",
    "sad": "#0072B2",
    "surprise": "#56B4E9",
}
OTHER = "#E69F00"
STATES = {"ok": "green", "degraded": "yellow", "abstain": "dim"}
HISTORY = 60  # windows in the strip of top emotions


class StreamView:
    """A rich renderable that shows the newest state of a stream; feed it every message."""

    def __init__(self) -> None:
        self._emotion: Emotion | None = None
        self._status: StatusMessage | None = None
        self._session = ""
        self._over = ""
        self._event = ""
        self._tops: deque[str | None] = deque(maxlen=HISTORY)

    def update(self, message: Message) -> None:
        self._session = message.session
        match message:
            case Emotion():
                self._emotion = message
                self._tops.append(None if message.emotions is UNSET else message.emotions.top)
            case StatusMessage():
                self._status = message
                self._event = self._event if message.event is UNSET else message.event
            case SessionBegin():
                self._over = ""
            case SessionEnd():
                self._over = message.reason

    def __rich__(self) -> RenderableType:
        if self._emotion is None:
            return Panel(Text("waiting for the first window …", style="dim"), title="emotion")
        emotion = self._emotion
        parts: list[RenderableType] = [_bars(emotion), Text(), self._strip(), Text(), _senses(emotion)]
        if emotion.distillation is not UNSET:
            parts += [Text(), _teachers(emotion)]
        parts += [Text(), self._foot(emotion)]
        if self._event:
            parts.append(Text(self._event, style="yellow"))
        colour = STATES[emotion.state]
        title = (
            f"emotion · {self._session} · {emotion.time.end_ns / 1e9:.1f} s · [{colour}]{emotion.state}[/]"
        )
        return Panel(Group(*parts), title=title, subtitle=f"ended: {self._over}" if self._over else None)

    def _strip(self) -> Text:
        strip = Text("past     ")
        for top in self._tops:
            strip.append("█" if top else "·", style=COLOURS.get(top or "", OTHER) if top else "dim")
        strip.no_wrap, strip.overflow = True, "crop"
        return strip

    def _foot(self, emotion: Emotion) -> Text:
        latency, dropped = emotion.latency_ms, emotion.dropped
        lost = dropped.text + dropped.audio + dropped.vision + dropped.windows
        foot = Text(style="dim")
        foot.append(f"{emotion.model.name} · {emotion.model.engine} {emotion.model.precision}")
        foot.append(f" · latency {latency.total:.0f} ms (network {latency.infer:.1f})")
        foot.append(f" · dropped {lost}", style="yellow" if lost else "dim")
        return foot


def _bars(emotion: Emotion) -> RenderableType:
    if emotion.sentiment is not UNSET:
        low, high = emotion.sentiment.scale
        return Text(f"sentiment {emotion.sentiment.value:+.2f}  ({low:+.0f} to {high:+.0f})")
    if emotion.emotions is UNSET:
        return Text("nothing to go by: no face, no voice, no words", style="dim")
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=8)
    table.add_column(ratio=1)
    table.add_column(width=5, justify="right")
    for label, score in zip(emotion.emotions.labels, emotion.emotions.scores, strict=True):
        top = label == emotion.emotions.top
        bar = Bar(1.0, 0, score, color=COLOURS.get(label, OTHER))
        table.add_row(
            Text(label, style="bold" if top else ""), bar, Text(f"{score:4.0%}", "bold" if top else "")
        )
    return table


def _senses(emotion: Emotion) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name in ("vision", "audio", "text"):
        sense: Modality = getattr(emotion.modalities, name)
        if not sense.present:
            reason = "absent" if sense.reason is UNSET else sense.reason
            table.add_row(Text(name), Text(reason, style="dim"), "", "")
            continue
        says = ""
        if sense.logits is not UNSET and emotion.emotions is not UNSET:
            best = max(range(len(sense.logits)), key=sense.logits.__getitem__)
            says = emotion.emotions.labels[best]
        lag = "" if sense.lag_ms is UNSET else f"{sense.lag_ms:.0f} ms old"
        seen = f"{sense.words} words" if name == "text" else f"{sense.coverage:.0%} seen"
        table.add_row(
            Text(name), Text(says, style=COLOURS.get(says, "")), Text(seen, "dim"), Text(lag, "dim")
        )
    return table


def _teachers(emotion: Emotion) -> Text:
    assert emotion.distillation is not UNSET
    line = Text("teaches  ")
    for kind, edges in (("homo", emotion.distillation.homo), ("hetero", emotion.distillation.hetero)):
        best = max(range(len(edges)), key=edges.__getitem__)
        line.append(f"{kind} {emotion.distillation.order[best]} {edges[best]:.0%}   ")
    return line


def line(message: Message) -> str:
    """One line for a message, or nothing for one that says nothing new."""
    match message:
        case Emotion():
            at = f"{message.time.end_ns / 1e9:9.1f} s  {message.state:8}"
            if message.sentiment is not UNSET:
                felt = f"sentiment {message.sentiment.value:+.2f}"
            elif message.emotions is not UNSET:
                felt = f"{message.emotions.top:8} {max(message.emotions.scores):4.0%}"
            else:
                felt = " " * 13
            senses = "  ".join(_sense_in_a_word(name, message) for name in ("vision", "audio", "text"))
            return f"{at}  {felt}  {senses}  {message.latency_ms.total:.0f} ms"
        case StatusMessage():
            return "" if message.event is UNSET else f"  ! {message.event}"
        case SessionBegin():
            return f"session {message.session}: {message.model.name} on {message.model.engine}"
        case SessionEnd():
            return f"session {message.session} ended: {message.reason}; {message.windows} windows"


def _sense_in_a_word(name: str, message: Emotion) -> str:
    sense: Modality = getattr(message.modalities, name)
    if sense.present:
        return f"{name} ✓"
    return f"{name} – ({'absent' if sense.reason is UNSET else sense.reason})"


class Totals:
    """What a session was, kept in constant memory; feed it every message."""

    def __init__(self) -> None:
        self.windows = 0
        self.tops: Counter[str] = Counter()
        self.present: Counter[str] = Counter()
        self.end: SessionEnd | None = None

    def update(self, message: Message) -> None:
        match message:
            case Emotion():
                self.windows += 1
                self.tops["—" if message.emotions is UNSET else message.emotions.top] += 1
                for name in ("vision", "audio", "text"):
                    self.present[name] += getattr(message.modalities, name).present
            case SessionEnd():
                self.end = message
            case _:
                pass


def summary(totals: Totals) -> RenderableType:
    """What a session was: how long, what was felt, what was there, how late, what was lost."""
    table = Table.grid(padding=(0, 2))
    windows = max(totals.windows, 1)
    table.add_row("windows", str(totals.windows))
    felt = Text()
    for label, count in totals.tops.most_common(4):
        felt.append(f"{label} {count / windows:.0%}   ", style=COLOURS.get(label, ""))
    table.add_row("felt", felt)
    there = "   ".join(f"{name} {totals.present[name] / windows:.0%}" for name in ("vision", "audio", "text"))
    table.add_row("there", there)
    if totals.end is not None:
        end = totals.end
        if end.latency_ms_p50 is not UNSET:
            table.add_row("latency", f"median {end.latency_ms_p50:.0f} ms   p95 {end.latency_ms_p95:.0f} ms")
        lost = {name: sense.dropped for name, sense in end.senses.items() if sense.dropped}
        table.add_row(
            "dropped", "nothing" if not lost and not end.skipped else f"{lost} windows {end.skipped}"
        )
    return Panel(table, title="the session")
