"""Subtitles: what every kind of cue becomes, round trips of times, and files that are not right."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture import subtitles
from capture.messages import Word
from capture.trouble import SourceError

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000

VTT = """\ufeffWEBVTT - a title\r
Kind: captions\r
\r
NOTE\r
nothing to hear --\r
\r
STYLE\r
::cue { color: red }\r
\r
REGION\r
id:fred\r
\r
intro\r
00:01.000 --> 00:02.000 align:start position:10%\r
<v Bob>I &amp;c. <c.loud>know</c></v>\r
\r
00:00:03.000 --> 00:00:05.000\r
And <00:00:03.500><c>so</c> <00:00:04.000><00:00:04.400>my fel-\r
low\r
\r
01:00:00.000 --> 01:00:01.000\r
[applause] - ♪\r
"""

SRT = """1
00:00:01,000 --> 00:00:02,000 X1:40 X2:600
{\\an8}<i>Ask</i> <font color="#ff0000">not</font>

2
00:00:01,500 --> 00:00:02,500
- what

00:00:10,000 --> 00:00:10,500

12
00:00:12.000 --> 00:00:13.000
2026
"""


def milliseconds(words: tuple[Word, ...]) -> list[tuple[str, int, int]]:
    return [(word.text, word.start_ns // MS, word.end_ns // MS) for word in words]


def test_webvtt_with_everything_in_it() -> None:
    assert milliseconds(subtitles.parse(VTT.encode(), vtt=True)) == [
        ("I", 1000, 1100), ("&c.", 1200, 1500), ("know", 1600, 2000),  # 10 characters in a second
        ("And", 3000, 3500), ("so", 3500, 4000),  # as the inline times say, then a pause
        ("my", 4400, 4509), ("fel-", 4563, 4781), ("low", 4836, 5000),
    ]  # fmt: skip


def test_subrip_with_overlapping_and_empty_cues_and_without_numbers() -> None:
    assert milliseconds(subtitles.parse(SRT.encode(), vtt=False)) == [
        ("Ask", 1000, 1428), ("what", 1500, 2500), ("not", 1571, 2000), ("2026", 12000, 13000),
    ]  # fmt: skip


def test_webvtt_without_cues_is_a_file_in_which_nobody_speaks() -> None:
    assert subtitles.parse(b"WEBVTT", vtt=True) == ()


def test_captions_that_roll_up_are_said_once() -> None:
    youtube = """WEBVTT
Kind: captions
Language: en

00:00:00.080 --> 00:00:02.000 align:start position:0%
~
the<00:00:00.400><c> first</c><00:00:00.800><c> line</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
the first line
~

00:00:02.010 --> 00:00:04.000 align:start position:0%
the first line
and<00:00:02.500><c> one</c><00:00:03.000><c> more</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
and one more
~

00:00:04.010 --> 00:00:05.000 align:start position:0%
and one more
[Music]
"""
    youtube = youtube.replace("~", " ")  # a line of one space
    words = subtitles.parse(youtube.encode(), vtt=True)
    assert [word.text for word in words] == ["the", "first", "line", "and", "one", "more"]
    assert [word.start_ns // MS for word in words] == [80, 400, 800, 2010, 2500, 3000]


def test_captions_of_television_roll_up_without_times_of_words() -> None:
    rolled = b"""1
00:00:00,000 --> 00:00:01,000
I SAW

2
00:00:01,000 --> 00:00:02,000
I SAW
A SHIP

3
00:00:02,000 --> 00:00:03,000
A SHIP
GO BY
"""
    words = subtitles.parse(rolled, vtt=False)
    assert [word.text for word in words] == ["I", "SAW", "A", "SHIP", "GO", "BY"]
    assert [word.start_ns // MS for word in words][::2] == [0, 1000, 2000]


def test_what_is_said_twice_stays_said_twice() -> None:
    twice = b"1\n00:00:00,000 --> 00:00:01,000\nNo.\n\n2\n00:00:01,000 --> 00:00:02,000\nNo.\n"
    assert [word.text for word in subtitles.parse(twice, vtt=False)] == ["No.", "No."]
    later = b"1\n00:00:00,000 --> 00:00:01,000\nNo.\n\n2\n00:00:03,000 --> 00:00:04,000\nNo.\nNever.\n"
    assert [word.text for word in subtitles.parse(later, vtt=False)] == ["No.", "No.", "Never."]


def test_the_demo_says_every_word_of_the_speech_in_order() -> None:
    words = subtitles.read(ROOT / "runtime" / "demo" / "face_and_speech.vtt")
    assert " ".join(word.text for word in words) == (
        "And so my fellow Americans ask not what your country can do for you "
        "ask what you can do for your country"
    )
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(words))
    assert all(80 * MS <= word.end_ns - word.start_ns <= 600 * MS for word in words)


@pytest.mark.parametrize(
    ("name", "data", "line", "problem"),
    [
        ("a.vtt", b"1\n00:01.000 --> 00:02.000\nno\n", 1, "expected WEBVTT, found '1'"),
        ("a.vtt", b"WEBVTT\n\nlost words\n", 3, "expected 00:00:01.000"),
        ("a.vtt", b"WEBVTT\n\nid\nmore\n", 4, "expected 00:00:01.000"),
        ("a.vtt", b"WEBVTT\n\n00:01.000 --> 00:0x.000\nno\n", 3, "expected 00:00:01.000"),
        ("a.vtt", b"WEBVTT\n\n00:01.000 --> 00:61.000\nno\n", 3, "expected 00:00:01.000"),
        ("a.vtt", b"WEBVTT\n\n00:02.000 --> 00:01.000\nno\n", 3, "ends before it begins"),
        ("a.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\na <00:03.000>b\n", 4, "lies outside its cue"),
        ("a.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\na\n00:02.000 --> 00:03.000\nb", 5, "empty line"),
        ("a.srt", b"1\r\n00:00:01,000 -> 00:00:02,000\r\nno", 2, "expected 00:00:01.000"),
        ("a.srt", b"", 1, "holds no cue"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9", 3, "is not UTF-8"),
        ("a.srt", b"1\n\0\n", 2, "zero byte"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_line(
    tmp_path: Path, name: str, data: bytes, line: int, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        subtitles.read(path)
    assert caught.value.reason == "unreadable"
    assert str(caught.value).startswith(f"{path}, line {line}: ") and problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a file") as caught:
        subtitles.read(tmp_path / "a.vtt")
    assert caught.value.reason == "no_file"
    (tmp_path / "a.ass").write_text("[Script Info]")
    with pytest.raises(SourceError, match=r"no \.srt or \.vtt"):
        subtitles.read(tmp_path / "a.ass")


def test_subtitles_are_found_beside_the_media(tmp_path: Path) -> None:
    media = tmp_path / "clip.1.mp4"
    assert subtitles.find(media) is None and subtitles.find(tmp_path / "no" / "clip.mp4") is None
    for other in ("clip.vtt", "clip.10.vtt", "clip.1.backup.vtt", "clip.1.txt"):
        (tmp_path / other).touch()
    assert subtitles.find(media) is None
    for better in ("clip.1.en.srt", "clip.1.de-AT.VTT", "clip.1.srt", "clip.1.vtt"):
        (tmp_path / better).touch()
        assert subtitles.find(media) == tmp_path / better


# --- round trips

TEXT = st.text("abcdefghijklmnopqrstuvwxyzäß0123456789'", min_size=1, max_size=12).filter(
    lambda word: any(letter.isalnum() for letter in word)
)


def clock(ms: int, comma: str) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


@given(
    st.lists(st.tuples(TEXT, st.integers(0, 10**8), st.integers(0, 10**5)), min_size=1),
    st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(),
)  # fmt: skip
def test_times_come_back_as_they_were_written(
    cues: list[tuple[str, int, int]], vtt: bool, newline: str, mark: bool
) -> None:
    comma = "." if vtt else ","
    lines = ["WEBVTT", ""] if vtt else []
    for text, start, length in cues:
        lines += [f"{clock(start, comma)} --> {clock(start + length, comma)}", text, ""]
    data = newline.join(lines).encode("utf-8-sig" if mark else "utf-8")
    expected = sorted(((t, a, a + d) for t, a, d in cues), key=lambda cue: cue[1:])
    assert milliseconds(subtitles.parse(data, vtt=vtt)) == expected


@given(st.lists(st.tuples(TEXT, st.integers(0, 2000), st.integers(0, 2000)), min_size=1))
def test_inline_times_come_back_as_they_were_written(words: list[tuple[str, int, int]]) -> None:
    now, line, expected = 0, "", []
    for text, pause, length in words:
        line += f"<{clock(now + pause, '.')}>{text} <{clock(now + pause + length, '.')}>"
        expected.append((text, now + pause, now + pause + length))
        now += pause + length
    data = f"WEBVTT\n\n{clock(0, '.')} --> {clock(now, '.')}\n{line}\n".encode()
    assert milliseconds(subtitles.parse(data, vtt=True)) == sorted(expected, key=lambda word: word[1:])


@given(st.lists(TEXT, min_size=1), st.integers(0, 10**6), st.integers(1, 10**5))
def test_the_words_of_a_cue_follow_each_other_and_fill_it(texts: list[str], start: int, length: int) -> None:
    cue = f"{clock(start, ',')} --> {clock(start + length, ',')}\n{' '.join(texts)}\n"
    words = subtitles.parse(cue.encode(), vtt=False)
    assert [word.text for word in words] == texts
    assert words[0].start_ns == start * MS and words[-1].end_ns == (start + length) * MS
    assert all(a.start_ns <= a.end_ns <= b.start_ns for a, b in pairwise(words))


@given(st.binary(max_size=200), st.booleans())
def test_whatever_the_bytes_it_is_words_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, vtt: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("any.vtt" if vtt else "any.srt")
    path.write_bytes((b"WEBVTT\n\n" if vtt else b"") + data)
    try:
        assert all(isinstance(word, Word) for word in subtitles.read(path))
    except SourceError as error:
        assert error.reason == "unreadable" and ", line " in str(error)
