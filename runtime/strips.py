"""Strips: a line of the terminal each — the tops of the past, the sentiment of the past, the last words."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from runtime.colours import OTHER, leaning, palette
from runtime.scale import on_scale
from runtime.stream import Emotion, Said

HEIGHTS = "▁▂▃▄▅▆▇█"
NAME_WIDTH = 9  # of what stands before a strip


class LastWords:
    """The last line of what was said; provisional words are dim."""

    def __init__(self, said: Sequence[Said]) -> None:
        self._said = said

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room, shown = max(options.max_width - NAME_WIDTH, 1), list[Said]()
        for word in reversed(self._said):
            room -= len(word.text) + 1
            if room < 0:
                break
            shown.insert(0, word)
        line = Text("words    ", no_wrap=True, overflow="crop")
        for word in shown:
            line.append(f"{word.text} ", style="" if word.committed else "dim italic")
        yield line


class TopsOfThePast:
    """The top emotions of the past windows, the newest at the right: a letter each, and its colour.

    A window that abstains has its best guess without a colour.
    """

    def __init__(self, past: Sequence[Emotion], labels: Sequence[str]) -> None:
        self._past, self._letters, self._colours = past, letters(labels), palette(labels)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.max_width - NAME_WIDTH, 1)
        strip = Text("past     ", no_wrap=True, overflow="crop")
        for emotion in self._past[-room:]:
            top = "" if emotion.emotions is UNSET else emotion.emotions.top
            sure = top and emotion.state != "abstain"
            strip.append(self._letters.get(top, "·"), style=self._colours.get(top, OTHER) if sure else "dim")
        yield strip


class SentimentOfThePast:
    """The sentiment of the past windows, the newest at the right: low to high, its colour by the sign."""

    def __init__(self, past: Sequence[Emotion]) -> None:
        self._past = past

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.max_width - NAME_WIDTH, 1)
        line = Text("past     ", no_wrap=True, overflow="crop")
        for emotion in self._past[-room:]:
            if emotion.sentiment is UNSET:
                line.append("·", style="dim")
                continue
            value, scale = emotion.sentiment.value, emotion.sentiment.scale
            line.append(
                HEIGHTS[round(on_scale(value, scale) * (len(HEIGHTS) - 1))],
                style="dim" if emotion.state == "abstain" else leaning(value, scale),
            )
        yield line


def letters(labels: Sequence[str]) -> dict[str, str]:
    """A letter for each label, its own wherever possible: sad is s, surprise is u."""
    found: dict[str, str] = {}
    for label in labels:
        free = [letter for letter in label if letter not in found.values()]
        found[label] = (free or [*label, "?"])[0]
    return found
