"""Endless film: a clip again and again, with its words, for benchmarks and tests that take longer than it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from capture import subtitles
from runtime.bench_engine import BenchError


def endless_film(clip: Path, folder: Path, minutes: float) -> Path:
    """The clip again and again, without encoding it anew; its subtitles, too. Raises BenchError."""
    path = folder / "film.mkv"
    with av.open(str(clip)) as one:
        length_s = (one.duration or 0) / av.time_base
    if length_s <= 0:
        raise BenchError(f"{clip} has no length: expected a film with a face and a voice")
    rounds = int(minutes * 60 / length_s) + 2
    with av.open(str(path), "w") as out, av.open(str(clip)) as one:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in one.streams}
        for number in range(rounds):
            later_s = Fraction(length_s).limit_denominator(100_000) * number
            one.seek(0)
            for packet in one.demux():
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                later = round(later_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    words = subtitles.find(clip)
    if words is not None:
        _repeat_words(words, path.with_suffix(".vtt"), length_s, rounds)
    return path


def _repeat_words(words: Path, path: Path, length_s: float, rounds: int) -> None:
    heard = subtitles.read(words)
    with path.open("w") as file:
        file.write("WEBVTT\n")
        for number in range(rounds):
            for word in heard:
                start_s, end_s = (t_ns / 1e9 + number * length_s for t_ns in (word.start_ns, word.end_ns))
                file.write(f"\n{_clock(start_s)} --> {_clock(end_s)}\n{word.text}\n")


def _clock(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
