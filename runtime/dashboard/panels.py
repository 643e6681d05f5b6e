"""Panels: the senses, the transcript, the latency and the health of a session."""

from __future__ import annotations

from msgspec import UNSET
from nicegui import ui
from nicegui.element import Element

from runtime.colours import OTHER, palette
from runtime.dashboard.board import SENSES, Board
from runtime.dashboard.drawing import attrs, box, card, say, styles, swap, text, unstyled
from runtime.dashboard.phrases import ICONS, NAMES, PROCESSES, reason, says, tenths
from runtime.stream import Modality

SEGMENTS = {  # in the order in which they happen; Okabe and Ito's colours
    "capture": "#56B4E9",
    "features": "#009E73",
    "window": "#0072B2",
    "infer": "#E69F00",
    "publish": "#CC79A7",
}
SCALES_MS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
LATEST_WORDS = 60


class SensesPanel:
    """Face, voice and words: whether each is there, why not, and what it says by itself."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Element, ui.label, Element, ui.label]] = {}
        with card("Senses", "senses", "what each says by itself"):
            for name in SENSES:
                with box("sense", role="group", aria_label=NAMES[name]) as row:
                    ui.icon(ICONS[name]).props('aria-hidden="true"')
                    text(NAMES[name], "name")
                    dot = box("dot", aria_hidden="true")
                    said = text("–", "said")
                    detail = text("", "muted small detail")
                self._rows[name] = (row, said, dot, detail)

    def show(self, board: Board) -> None:
        emotion = board.emotion
        if emotion is None:
            for row, said, dot, detail in self._rows.values():
                swap(row, False, "away")
                unstyled(dot)
                say(said, "–")
                say(detail, "")
            return
        labels = () if emotion.emotions is UNSET else emotion.emotions.labels
        hues = palette(labels)
        for name, (row, said, dot, detail) in self._rows.items():
            sense: Modality = getattr(emotion.modalities, name)
            swap(row, not sense.present, "away")
            if not sense.present:
                why = None if sense.reason is UNSET else sense.reason
                say(said, reason(why))
                say(detail, "")
                continue
            word = says(sense, labels)
            say(said, word or "present")
            styles(dot, background_color=hues.get(word, OTHER))
            seen = f"{sense.coverage:.0%} seen" if sense.words is UNSET else f"{sense.words} words"
            say(detail, seen if sense.lag_ms is UNSET else f"{seen} · {sense.lag_ms:.0f} ms old")


class WordsPanel:
    """The transcript where there is one; else how many words were heard."""

    def __init__(self) -> None:
        with card("Transcript", "words"), box("", role="log", aria_label="transcript", aria_live="off"):
            self._said = ui.label("").classes("transcript")
            self._provisional = ui.label("").classes("transcript provisional")
            self._note = text("", "muted small")

    def show(self, board: Board) -> None:
        emotion = board.emotion
        if board.words is not None:
            shown = board.words[-LATEST_WORDS:]
            say(self._said, " ".join(word.text for word in shown if word.committed))
            say(self._provisional, " ".join(word.text for word in shown if not word.committed))
            say(self._note, "" if shown else "no words yet")
        elif emotion is not None:
            sense = emotion.modalities.text
            count = 0 if sense.words is UNSET else sense.words
            window_s = (emotion.time.end_ns - emotion.time.start_ns) / 1e9
            why = f" ({reason(sense.reason)})" if not sense.present and sense.reason is not UNSET else ""
            heard = f"{count} words" if count != 1 else "1 word"
            say(self._said, f"{heard} in the last {window_s:.0f} s" if count else f"no words{why}")
            say(
                self._note,
                "The stream tells how many words were heard, not which: start it with --share-words.",
            )
        else:
            for label in (self._said, self._provisional, self._note):
                say(label, "")
        swap(self._said, board.words is None, "count")
        swap(self._provisional, not self._provisional.text, "gone")


class LatencyPanel:
    """From the newest sample to publication: one stacked bar whose parts add up."""

    def __init__(self) -> None:
        with card("Latency", "latency"):
            with box("total-line"):
                self._total = text("–", "total")
                self._scale = text("", "muted small")
            self._bar = box("stack", role="img", aria_label="latency")
            with self._bar:
                self._parts = {name: box("part") for name in SEGMENTS}
            for name, part in self._parts.items():
                styles(part, background_color=SEGMENTS[name], width="0%")
            self._values: dict[str, tuple[Element, ui.label]] = {}
            with box("legend"):
                for name, hue in SEGMENTS.items():
                    with box("item") as item:
                        styles(box("swatch", aria_hidden="true"), background_color=hue)
                        text(name, "small")
                        self._values[name] = item, text("", "small number")

    def show(self, board: Board) -> None:
        if board.emotion is None:
            self._reset()
            return
        latency = board.emotion.latency_ms
        there = {n: float(v) for n in SEGMENTS if (v := getattr(latency, n)) is not UNSET}
        largest = max([moment.emotion.latency_ms.total for moment in board.history] + [latency.total])
        scale = next((step for step in SCALES_MS if step >= largest), SCALES_MS[-1])
        rounded, total = tenths(list(there.values()), latency.total)
        shown = dict(zip(there, rounded, strict=True))
        for name, part in self._parts.items():
            styles(part, width=f"{min(there.get(name, 0.0) / scale, 1):.2%}")
            item, value = self._values[name]
            swap(item, name not in there, "gone")
            say(value, f"{shown.get(name, 0.0):.1f}")
        say(self._total, f"{total:.1f} ms")
        say(self._scale, f"bar: 0 to {scale} ms")
        parts = ", ".join(f"{name} {value:.1f}" for name, value in shown.items())
        attrs(self._bar, aria_label=f"latency {total:.1f} ms: {parts}")

    def _reset(self) -> None:
        for name, part in self._parts.items():
            styles(part, width="0%")
            say(self._values[name][1], "")
        say(self._total, "–")
        say(self._scale, "")
        attrs(self._bar, aria_label="latency")


class HealthPanel:
    """The capture processes, the engine, what was dropped, and the last event."""

    def __init__(self) -> None:
        self._cells: dict[str, list[ui.label]] = {}
        with card("Health", "health"):
            with box("", "table"):
                with box("", "thead"), box("", "tr"):
                    for head in ("process", "state", "samples", "lost", "restarts"):
                        ui.html(head, tag="th", sanitize=False).props('scope="col"')
                with box("", "tbody"):
                    for name in SENSES:
                        with box("", "tr"):
                            ui.html(PROCESSES[name], tag="th", sanitize=False).props('scope="row"')
                            self._cells[name] = [self._cell() for _ in range(4)]
            self._detail = text("", "muted small")
            with box("facts", "dl"):
                self._engine, self._windows = _fact("engine"), _fact("windows")
                self._network, self._late = _fact("network"), _fact("late words")
                self._eased, self._event = _fact("given up now"), _fact("last event")
            with box("passed", "details") as self._passed_over:
                with box("", "summary"):
                    self._passed_count = text("", "inline-text")
                self._passed = text("", "lines")

    def show(self, board: Board) -> None:
        emotion = board.emotion
        troubles = list(board.warnings)
        for name, (state, samples, lost, restarts) in self._cells.items():
            sense = board.senses.get(name)
            if sense is None:
                say(state, "–" if board.senses else "")
                for cell in (samples, lost, restarts):
                    say(cell, "")
                continue
            swap(state, sense.state in ("degraded", "failed", "absent"), "warn")
            say(state, sense.state)
            say(samples, f"{sense.produced}")
            say(lost, f"{sense.dropped}")
            swap(lost, sense.dropped > 0, "warn")
            say(restarts, "" if board.replayed else f"{sense.restarts}")
            if sense.state in ("degraded", "failed", "absent") and (sense.detail or sense.reason):
                troubles.append(f"{PROCESSES[name]}: {sense.detail or reason(sense.reason)}")
        say(self._detail, "; ".join(troubles))
        model = None if emotion is None else emotion.model
        say(self._engine, "" if model is None else f"{model.engine}, {model.precision}")
        say(self._network, "" if model is None else f"{model.name} ({model.hash})")
        self._show_load(board)
        begin = board.begin
        passed = {} if begin is None or begin.passed_over is UNSET else begin.passed_over
        engines = "engine does" if len(passed) == 1 else "engines do"
        say(self._passed_count, f"{len(passed)} faster {engines} not run here: why")
        say(
            self._passed,
            "\n".join(why if engine in why else f"{engine}: {why}" for engine, why in passed.items()),
        )
        swap(self._passed_over, not passed, "gone")
        say(self._event, board.event)
        swap(self._event, not board.event, "gone")

    def _show_load(self, board: Board) -> None:
        """Windows, what is given up because the machine cannot keep up, and what late words changed."""
        skipped = board.skipped
        if skipped is None and board.emotion is not None:
            skipped = board.emotion.dropped.windows
        counted = [] if board.windows is None else [f"{board.windows}"]
        say(self._windows, ", ".join(counted if skipped is None else [*counted, f"dropped {skipped}"]))
        swap(self._windows, bool(skipped), "warn")
        say(self._eased, ", ".join(board.eased))
        swap(self._eased, bool(board.eased), "warn")
        late = board.revised
        say(
            self._late,
            "" if late is None
            else f"{late.windows} windows published again, {late.answer_changed} with another answer",
        )  # fmt: skip
        for fact in (self._engine, self._network, self._windows, self._eased, self._late):
            swap(fact, not fact.text, "gone")

    @staticmethod
    def _cell() -> ui.label:
        with box("", "td"):
            return text("")


def _fact(name: str) -> ui.label:
    with box("fact"):
        ui.html(name, tag="dt", sanitize=False)
        with box("", "dd"):
            return text("")
