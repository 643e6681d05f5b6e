"""Summary: a session in plain lines — one a window, and in the end what it all was."""

from __future__ import annotations

from collections import Counter, deque

from msgspec import UNSET
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runtime.colours import palette
from runtime.dashboard.phrases import when
from runtime.stream import (
    Emotion,
    Message,
    Modality,
    SessionBegin,
    SessionEnd,
    StatusMessage,
    Transcript,
)
from runtime.view import SENSES, reason

LOST = (*SENSES, "windows")
LATENCIES = 7200  # windows that the percentiles are taken from: an hour at the usual hop


def line(message: Message) -> str:
    """One line for a message, or nothing for one that says nothing new."""
    match message:
        case Emotion():
            at = f"{when(message.time):>11}  {message.state:8}"
            if message.emotions is not UNSET:
                felt = f"{message.emotions.top:8} {max(message.emotions.scores):4.0%}"
            elif message.sentiment is not UNSET:
                felt = f"sentiment {message.sentiment.value:+.2f}"
            else:
                felt = " " * 13
            senses = "  ".join(_sense_in_a_word(name, message) for name in SENSES)
            late = "" if message.revises is None else f", revises {message.revises}"
            return f"{at}  {felt}  {senses}  {message.latency_ms.total:.0f} ms{late}"
        case StatusMessage():
            return "" if message.event is UNSET else f"  ! {message.event}"
        case SessionBegin():
            return f"session {message.session}: {message.model.name} on {message.model.engine}"
        case SessionEnd():
            return f"session {message.session} ended: {message.reason}; {message.windows} windows"
        case Transcript(words=words):
            committed = " ".join(word.text for word in words if word.committed)
            return f"  “{committed}”" if committed else ""
        case _:  # faces, pictures, sound: too many for lines
            return ""


def _sense_in_a_word(name: str, message: Emotion) -> str:
    sense: Modality = getattr(message.modalities, name)
    return f"{name} ✓" if sense.present else f"{name} – ({reason(sense)})"


class Totals:
    """What a session was, or all rounds of a loop, kept in bounded memory; feed it every message."""

    def __init__(self) -> None:
        self.windows = 0
        self.labels: tuple[str, ...] = ()
        self.tops: Counter[str] = Counter()
        self.unsure = 0  # windows with a best guess that abstain: nothing was felt in them
        self.present: Counter[str] = Counter()
        self.duration_s = 0.0
        self.restarts = 0
        self.end: SessionEnd | None = None  # of the latest round
        self._lost_before: Counter[str] = Counter()  # in the rounds that have ended
        self._lost: Counter[str] = Counter()  # in this one, so far
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES)

    def update(self, message: Message) -> None:
        """Take in a message."""
        match message:
            case Emotion(dropped=lost, revises=None):
                self.windows += 1
                if message.emotions is not UNSET:
                    self.labels = message.emotions.labels
                    if message.state == "abstain":
                        self.unsure += 1
                    else:
                        self.tops[message.emotions.top] += 1
                self.present.update(name for name in SENSES if getattr(message.modalities, name).present)
                self._latencies_ms.append(message.latency_ms.total)
                self._lost = Counter({name: getattr(lost, name) for name in LOST})
            case SessionEnd():
                self.end = message
                self.duration_s += message.duration_s
                self._lost_before.update({name: sense.dropped for name, sense in message.senses.items()})
                self._lost_before["windows"] += message.skipped
                self._lost.clear()
                self.restarts += sum(sense.restarts for sense in message.senses.values())
            case _:
                pass

    @property
    def dropped(self) -> dict[str, int]:
        """What was lost, by sense, and windows."""
        return {name: self._lost_before[name] + self._lost[name] for name in LOST}

    def latency_ms(self, share: float) -> float | None:
        """The total latency that this share of the windows (0..1) stayed below, in ms; None before any."""
        ordered = sorted(self._latencies_ms)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else None


def summary(totals: Totals) -> RenderableType:
    """What a session was: how long, what was felt, what was there, how late, what was lost."""
    table = Table.grid(padding=(0, 2))
    windows = max(totals.windows, 1)
    end = totals.end
    took = "" if end is None else f" in {totals.duration_s:.1f} s · {end.reason}"
    table.add_row("windows", Text(f"{totals.windows}{took}"))
    felt, colours = Text(), palette(totals.labels)
    for label, count in totals.tops.most_common(4):
        felt.append(f"{label} {count / windows:.0%}   ", style=colours.get(label, ""))
    if totals.unsure:
        felt.append(f"unsure {totals.unsure / windows:.0%}", style="dim")
    table.add_row("felt", felt if felt else Text("nothing to go by", "dim"))
    table.add_row("there", "   ".join(f"{name} {totals.present[name] / windows:.0%}" for name in SENSES))
    median, p95 = totals.latency_ms(0.5), totals.latency_ms(0.95)
    if median is not None and p95 is not None:
        table.add_row("latency", f"median {median:.0f} ms   p95 {p95:.0f} ms")
    lost = "   ".join(f"{name} {count}" for name, count in totals.dropped.items() if count)
    table.add_row("dropped", Text(lost or "nothing", "yellow" if lost else ""))
    if totals.restarts:
        table.add_row("restarts", Text(str(totals.restarts), "yellow"))
    return Panel(table, title="the session")
