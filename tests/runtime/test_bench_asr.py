"""The words' benchmark: a scripted recogniser must get the figures that its script says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.messages import Word
from capture.recogniser import RATE_HZ
from runtime.bench_asr import plain, stream, word_errors

S = 1_000_000_000
words = st.lists(st.sampled_from("abcd"), max_size=12)


def loud(chunk: bytes) -> float:
    return float(np.abs(np.frombuffer(chunk, "<i2")).max() > 1000)


def levels(seconds: float) -> npt.NDArray[np.int16]:
    """Sound whose level changes every 250 ms: each is a word."""
    return np.repeat(np.arange(round(seconds * 4)) * 10 + 2000, RATE_HZ // 4).astype(np.int16)


class Scripted:
    """Hears every level as a word, and takes its time."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s

    def __call__(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        time.sleep(self.takes_s)
        borders = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
        return [
            Word(f"w{round(float(samples[a]) * 32768)}", a * S // RATE_HZ, b * S // RATE_HZ)
            for a, b in pairwise(borders)
            if b - a > RATE_HZ // 16
        ]


@pytest.mark.parametrize("chunk_s", [0.5, 1.0, 2.0, 3.0])
def test_a_word_is_committed_within_two_chunks_whatever_the_chunk(chunk_s: float) -> None:
    done = stream(levels(20), Scripted(), loud, round(chunk_s * S))
    assert [word.text for word in done.words] == [f"w{2000 + 10 * i}" for i in range(80)]
    piece_s = 0.16  # a chunk is full when a whole piece has filled it
    assert max(done.unaware_s) <= 2 * (chunk_s + piece_s) + 0.25, "and the rest of a word that was cut"
    assert min(done.unaware_s) >= 0


def test_what_hearing_costs_is_in_the_aware_latency_and_in_the_real_time_factor() -> None:
    quick = stream(levels(4), Scripted(), loud, S)
    slow = stream(levels(4), Scripted(0.1), loud, S)
    assert slow.unaware_s == quick.unaware_s
    assert all(a >= u for a, u in zip(slow.aware_s, slow.unaware_s, strict=True))
    assert np.median(np.subtract(slow.aware_s, slow.unaware_s)) >= 0.1
    assert slow.busy_s >= 0.1 * (slow.steps - 1) > quick.busy_s


def test_a_recogniser_that_cannot_keep_up_falls_behind_more_and_more() -> None:
    done = stream(levels(6), Scripted(0.5), loud, round(0.2 * S))
    behind = np.subtract(done.aware_s, done.unaware_s)
    assert behind[-1] > behind[0] + 1


@given(words, words)
def test_errors_are_counted_as_an_edit_distance(a: list[str], b: list[str]) -> None:
    assert word_errors(a, a) == 0 and word_errors(a, []) == len(a)
    assert word_errors(a, b) == word_errors(b, a)
    assert abs(len(a) - len(b)) <= word_errors(a, b) <= max(len(a), len(b))


def test_known_errors() -> None:
    assert (
        word_errors(plain("ask not what your country can do"), plain("Ask knot what country, can do it")) == 3
    )
    assert plain("It's 5 — o'clock!") == ["its", "5", "oclock"]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.bench", "asr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_what_cannot_be_used_is_one_line_and_status_2(shared: Path, tmp_path: Path) -> None:
    clip = shared / "media/jfk.flac"
    for arguments, said in (
        ((clip, "--reference", "…"), "has no words"),
        ((clip, "--reference", "ask not", "--chunk", "0"), "expected 0.2 to 10 seconds"),
        ((clip, "--reference", "ask not", "--model", tmp_path), "has no config.json"),
        ((tmp_path / "no.wav", "--reference", "ask not"), "no.wav"),
    ):
        done = bench(*arguments)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_real_whisper_goes_the_whole_way(shared: Path, tiny_whisper: Path) -> None:
    """Random weights hear nonsense; the figures must still fit together."""
    reference = "and so my fellow americans ask not what your country can do for you"
    clip = shared / "media/jfk.flac"
    done = bench(clip, "--reference", reference, "--model", tiny_whisper, "--language", "en", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sound_s"] == pytest.approx(11, abs=0.1) and result["reference_words"] == 14
    assert result["wer"] > 0 and result["steps"] >= 5 and result["real_time_factor"] > 0
    if result["words"]:
        assert result["aware_median_s"] >= result["unaware_median_s"] >= 0
