"""Subtitles: words with their times from a .srt or .vtt file.

A cue says when its text is shown, not when each word is spoken, so its words are spread over it by
their number of characters. WebVTT's inline times (``<00:00:01.500>``) are taken as they stand: the
words between two of them are spread over just that stretch, and a stretch without words is a pause.

Captions that roll up (YouTube's, and what television's become) repeat in each cue the lines that are
still on the screen: these were said before, and are taken once.

The parser is our own because WebVTT's inline times, strictness and line numbers are needed together:
pysubs2 loses text around inline times, webvtt-py skips malformed cues and names no line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from capture.messages import Word
from capture.trouble import SourceError

SUFFIXES = (".vtt", ".srt")  # in order of preference: only WebVTT can hold word times

_TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d)[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?")
_INLINE_TIME = re.compile(rf"<{_TIME}>")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<>|\{\\[^{}]*\}")  # tags; {\an8} of Aegisub in .srt
_SOUND = re.compile(r"\[[^\]]*\]")  # [applause]: described, not spoken
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")

ROLLING_NS = 100_000_000  # a cue that begins so soon after the last one may still show its lines

Line = tuple[int, str]  # its number in the file, from 1, and its text


@dataclass(frozen=True, slots=True)
class _Cue:
    start_ns: int
    end_ns: int
    text: tuple[Line, ...]


class _Malformed(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line, self.problem = line, problem


def find(path: Path) -> Path | None:
    """The subtitles beside a media file: ``stem.vtt``, ``stem.srt``, then ``stem.<language>.vtt`` ..."""
    if not path.parent.is_dir():
        return None
    found = []
    for candidate in path.parent.iterdir():
        suffix = candidate.suffix.lower()
        rest = candidate.stem.removeprefix(path.stem)
        beside = suffix in SUFFIXES and candidate.stem.startswith(path.stem) and candidate.is_file()
        if beside and (not rest or (rest[0] == "." and _LANGUAGE.fullmatch(rest[1:]))):
            found.append((rest != "", SUFFIXES.index(suffix), candidate.name, candidate))
    return min(found)[-1] if found else None


def read(path: Path) -> tuple[Word, ...]:
    """The words of a subtitle file in order of their start; times in nanoseconds of media time.

    Raises:
        SourceError: ``no_file``, or ``unreadable`` with the file, the line and what is wrong there.
    """
    if not path.is_file():
        raise SourceError("no_file", f"{path} is not a file: give the path of a .srt or .vtt file")
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError("unreadable", f"{path} is no .srt or .vtt file: convert it to one of these")
    try:
        return parse(path.read_bytes(), vtt=path.suffix.lower() == ".vtt")
    except OSError as error:
        raise SourceError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    except _Malformed as error:
        raise SourceError("unreadable", f"{path}, line {error.line}: {error.problem}") from error


def parse(data: bytes, *, vtt: bool) -> tuple[Word, ...]:
    """The words in the bytes of a WebVTT or SubRip file, UTF-8 with or without a byte order mark."""
    lines = _lines(data)
    if vtt:
        if not re.fullmatch(r"WEBVTT(?:[ \t].*)?", lines[0]):
            raise _Malformed(1, f"expected WEBVTT, found {lines[0][:40]!r}")
        header = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    else:
        header = 0
    blocks = _blocks(lines, header)
    cues = [
        _cue(block)
        for block in blocks
        if not (vtt and re.match(r"(?:NOTE|STYLE|REGION)(?:\s|$)", block[0][1]))
    ]
    if not vtt and not cues:
        raise _Malformed(1, "holds no cue, expected 00:00:01,000 --> 00:00:02,000")
    words = [word for cue in _without_repeats(cues) for word in _spoken(cue)]
    return tuple(sorted(words, key=lambda word: (word.start_ns, word.end_ns)))


def _lines(data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\n|\r", data[: error.start]))
        raise _Malformed(line, "is not UTF-8: save the file as UTF-8") from error
    if "\0" in text:
        line = len(re.split(r"\r\n|\n|\r", text[: text.index("\0")]))
        raise _Malformed(line, "holds a zero byte: this is no text file")
    return re.split(r"\r\n|\n|\r", text)


def _blocks(lines: Sequence[str], start: int) -> Iterator[list[Line]]:
    """Runs of lines between empty lines, each line with its number.

    A line of spaces is a line of the text (YouTube's captions have it), unless a cue follows.
    """
    block: list[Line] = []
    for index in range(start, len(lines)):
        line = lines[index]
        if line.strip() or (line and block and not _begins_cue(lines, index + 1)):
            block.append((index + 1, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _begins_cue(lines: Sequence[str], index: int) -> bool:
    """Whether a cue, or nothing more, comes next: its times, or a line above them."""
    while index < len(lines) and not lines[index].strip():
        index += 1
    return index == len(lines) or any("-->" in line for line in lines[index : index + 2])


def _cue(block: Sequence[Line]) -> _Cue:
    """An identifier, if any, the line with its times, the text."""
    at = 0 if "-->" in block[0][1] or len(block) == 1 else 1
    number, line = block[at]
    timing = _TIMING.fullmatch(line)
    if timing is None:
        raise _Malformed(number, f"expected 00:00:01.000 --> 00:00:02.000, found {line[:40]!r}")
    start_ns, end_ns = _ns(timing.groups()[:4]), _ns(timing.groups()[4:])
    if end_ns < start_ns:
        raise _Malformed(number, f"the cue ends before it begins: {line[:40]!r}")
    for number, line in block[at + 1 :]:
        if "-->" in line:
            raise _Malformed(number, "a cue begins inside a cue: put an empty line before it")
    return _Cue(start_ns, end_ns, tuple(block[at + 1 :]))


def _without_repeats(cues: Sequence[_Cue]) -> Iterator[_Cue]:
    """The cues without the lines that the cue just before them shows already.

    Only where captions roll: something new stands below the repeated lines, or words have times of their
    own, which the repeated lines have not. Elsewhere a cue that says the same again was said again.
    """
    timed = any(_INLINE_TIME.search(line) for cue in cues for _, line in cue.text)
    before: _Cue | None = None
    for cue in cues:
        kept = [(number, line) for number, line in cue.text if _plain(line)]
        if before is not None and 0 <= cue.start_ns - before.end_ns <= ROLLING_NS:
            shown = [_plain(line) for _, line in before.text if _plain(line)]
            most = min(len(shown), len(kept) if timed else len(kept) - 1)
            for count in range(most, 0, -1):
                repeats = kept[:count]
                same = [_plain(line) for _, line in repeats] == shown[-count:]
                if same and not any(_INLINE_TIME.search(line) for _, line in repeats):
                    del kept[:count]
                    break
        yield replace(cue, text=tuple(kept))
        before = cue


def _plain(line: str) -> str:
    return " ".join(html.unescape(_MARKUP.sub("", _INLINE_TIME.sub("", line))).split())


def _spoken(cue: _Cue) -> Iterator[Word]:
    stretch, start_ns = "", cue.start_ns
    for number, line in cue.text:
        at = 0
        for mark in _INLINE_TIME.finditer(line):
            t_ns = _ns(mark.groups())
            if not start_ns <= t_ns <= cue.end_ns:
                raise _Malformed(number, f"the time {mark[0]} lies outside its cue or goes back")
            yield from _spread(stretch + line[at : mark.start()], start_ns, t_ns)
            stretch, start_ns, at = "", t_ns, mark.end()
        stretch += line[at:] + "\n"
    yield from _spread(stretch, start_ns, cue.end_ns)


def _spread(text: str, start_ns: int, end_ns: int) -> Iterator[Word]:
    """Words over a stretch of time, each as long as its share of the characters, spaces counted."""
    plain = _SOUND.sub(" ", html.unescape(_MARKUP.sub("", text)))
    words = [word for word in plain.split() if any(letter.isalnum() for letter in word)]
    total = sum(map(len, words)) + len(words) - 1
    before = 0
    for word in words:
        after = before + len(word)
        span_ns = end_ns - start_ns
        yield Word(word, start_ns + span_ns * before // total, start_ns + span_ns * after // total)
        before = after + 1


def _ns(groups: Sequence[str | None]) -> int:
    hours, minutes, seconds, milliseconds = (int(group or 0) for group in groups)
    return (((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds) * 1_000_000
