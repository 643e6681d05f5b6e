"""Word pieces: equal to the reference library, on lines that people say and on lines that nobody would."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from capture.features.wordpiece import WordPiece

FILE = Path(__file__).parent.parent.parent / "models/pretrained/tokenizer.json"
OURS, THEIRS = WordPiece(FILE), Tokenizer.from_file(str(FILE))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "And so my fellow Americans,",
        "naïve café — déjà vu!",
        "¿Qué tal? 你好 world",
        "x" * 101,
        "it's 5$ (or ½)…",
        "İstanbul ß ﬁ",
    ],
)
def test_lines_are_cut_as_the_reference_cuts_them(line: str) -> None:
    assert OURS.encode(line) == THEIRS.encode(line).ids


# Without unassigned code points: which are assigned depends on the version of Unicode.
SPOKEN = st.text(st.characters(codec="utf-8", exclude_categories=("Cn", "Co", "Cs", "Cf", "Mn")), max_size=40)


# What the reference takes for its own marks in a line; nobody says them, and ours cuts them as text.
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@settings(max_examples=500, deadline=None)
@given(
    st.text("abcdefghijklmnopqrstuvwxyzABCDE ,.!?'-éüñçå0123456789$", max_size=60)
    | SPOKEN.filter(str.isascii)
)
def test_any_latin_line_is_cut_as_the_reference_cuts_it(line: str) -> None:
    assume(not any(mark in line for mark in MARKS))
    assert OURS.encode(line) == THEIRS.encode(line).ids


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_pieces_of_the_vocabulary(line: str) -> None:
    ids = OURS.encode(line)
    assert ids[0] == 101 and ids[-1] == 102 and all(0 <= i < 30522 for i in ids)


def test_the_lines_of_a_television_series_are_cut_as_the_reference_cuts_them(shared: Path) -> None:
    with (shared / "corpora/meld/dev_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        lines = [row["Utterance"] for row in csv.DictReader(file)]
    assert [OURS.encode(line) for line in lines] == [THEIRS.encode(line).ids for line in lines]
