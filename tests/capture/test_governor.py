"""What keeps Whisper from falling behind, and from talking to itself; no model, no clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture import whisper
from capture.governor import CALM_STEPS, CHUNKS_NS, Governor
from capture.guards import LONGEST, REPEATS, without_loops
from capture.messages import Word

S = 1_000_000_000


def run(governor: Governor, steps: int, cost_s: float, per_sound: float = 0.0) -> list[tuple[int, int]]:
    """Steps that cost ``cost_s`` and ``per_sound`` more for each second of new sound; the levels passed."""
    levels = []
    for _ in range(steps):
        chunk_ns = governor.level.chunk_ns
        if governor.observe(round(cost_s * S + per_sound * chunk_ns), chunk_ns):
            levels.append((governor.level.chunk_ns // S, governor.level.smaller))
    return levels


def test_a_machine_that_keeps_up_gives_up_nothing() -> None:
    assert run(Governor(3), 1000, 0.6) == []


def test_first_the_chunks_grow_and_then_the_model_shrinks() -> None:
    assert run(Governor(2), 60, 6.0) == [(2, 0), (3, 0), (2, 1), (2, 2)]


def test_it_stops_at_the_first_level_that_is_enough() -> None:
    governor = Governor(2)
    assert run(governor, 200, 1.2) == [(2, 0)], "1.2 s for each 2 s of sound is enough"
    assert governor.eased


def test_without_a_smaller_model_it_ends_at_the_longest_chunk() -> None:
    assert run(Governor(0), 100, 9.0)[-1] == (CHUNKS_NS[-1] // S, 0)


def test_when_there_is_room_for_long_one_level_is_taken_back_at_a_time() -> None:
    governor = Governor(1)
    run(governor, 60, 6.0)
    assert run(governor, CALM_STEPS - 1, 0.1) == []
    assert run(governor, 4 * CALM_STEPS, 0.1) == [(3, 0), (2, 0), (1, 0)]
    assert not governor.eased


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 8)), max_size=20), st.integers(0, 4))
def test_it_never_leaves_its_ladder(parts: list[tuple[int, float]], smaller: int) -> None:
    governor = Governor(smaller)
    for steps, cost_s in parts:
        run(governor, steps, cost_s)
        assert governor.level.chunk_ns in CHUNKS_NS and 0 <= governor.level.smaller <= smaller


def said(text: str) -> list[Word]:
    return [Word(word, i * S, i * S + S // 2) for i, word in enumerate(text.split())]


def texts(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


@pytest.mark.parametrize(
    ("heard", "kept"),
    [
        ("thank you thank you thank you thank you thank you", "thank you"),
        ("well the The the, the. the the", "well the"),
        ("I said so so so so and then", "I said so"),
        ("no no no I will not", "no no no I will not"),
        ("yes and yes and yes and no", "yes and yes and yes and no"),
        ("", ""),
    ],
)
def test_a_phrase_in_a_loop_is_kept_once(heard: str, kept: str) -> None:
    assert texts(without_loops(said(heard))) == kept


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_what_is_left_has_no_loop_and_is_the_beginning_of_what_was_heard(letters: list[str]) -> None:
    left = texts(without_loops(said(" ".join(letters)))).split()
    assert left == letters[: len(left)]
    for length in range(1, LONGEST + 1):
        for start in range(len(left)):
            phrase = left[start : start + length]
            assert left[start : start + length * REPEATS] != phrase * REPEATS or not phrase


def test_smaller_models_are_those_of_this_machine_and_nothing_is_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    utils = pytest.importorskip("faster_whisper.utils")
    asked: list[str] = []

    def download(name: str, *, local_files_only: bool) -> str:
        assert local_files_only
        asked.append(name)
        if name.startswith("base"):
            raise FileNotFoundError(name)
        return name

    monkeypatch.setattr(utils, "download_model", download)
    assert whisper.smaller_here("small") == ["tiny"] and asked == ["base", "tiny"]
    assert whisper.smaller_here("medium.en") == ["small.en", "tiny.en"]
    assert whisper.smaller_here("distil-large-v3") == ["medium", "small", "tiny"]
    assert whisper.smaller_here("tiny") == [] == whisper.smaller_here("/some/folder")
