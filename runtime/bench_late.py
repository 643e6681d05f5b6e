"""Late: how often, and how far, words that come late change what was published without them.

A recording is replayed as if its words had been recognised from sound: each so long after it was said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.table import Table

from capture.messages import Words
from runtime.bench_engine import BenchError
from runtime.recording import Arrival, Recorder, Recording
from runtime.stream import SessionEnd

S = 1_000_000_000
DELAYS_S = (0.5, 1.3, 2.5)


def delay(recording: Recording, out: Path, delay_s: float) -> None:
    """Write the recording anew with every word ``delay_s`` later. Raises RecordingError."""
    delay_ns = round(delay_s * S)
    last_ns = max((arrival.t_arrival_ns for arrival in recording), default=0)

    def delayed() -> Iterable[Arrival]:
        for arrival in recording:
            wait_ns = delay_ns if isinstance(arrival.message, Words) else 0
            if arrival.message.stamp.stream == "text" and arrival.t_arrival_ns > last_ns - S:
                wait_ns = delay_ns + S  # listening ends after its words
            yield Arrival(arrival.t_arrival_ns + wait_ns, arrival.message)

    with Recorder(out, recording.begin) as recorder:
        for arrival in sorted(delayed(), key=lambda one: one.t_arrival_ns):
            recorder.add(arrival.message, arrival.t_arrival_ns)


def late(console: Console, path: Path, delays_s: Sequence[float] = DELAYS_S) -> None:
    """Replay with each delay and tell what changed. Raises BenchError, RecordingError."""
    table = Table("words come", "windows published again", "other words", "another answer", "answer moved")
    for delay_s in delays_s:
        with console.status(f"words {delay_s:g} s late"), tempfile.TemporaryDirectory() as folder:
            slow, out = Path(folder) / "late.mcap", Path(folder) / "out.mcap"
            delay(Recording.open(path), slow, delay_s)
            end = _replayed(slow, out)
        if end.revised is UNSET:
            raise BenchError(f"{path} has no words that could be late")
        told = end.revised
        table.add_row(
            f"{delay_s:g} s late",
            f"{told.windows} of {end.windows}",
            str(told.words_changed),
            str(told.answer_changed),
            f"{told.shift:.0%}",
        )
    console.print(table)


def _replayed(path: Path, out: Path) -> SessionEnd:
    from runtime import live

    arguments = ["--replay", str(path), "--fast", "--record", str(out), "--no-dashboard"]
    if live.main([*arguments, "--endpoint", f"ipc://{out.parent}/stream"]) != 0:
        raise BenchError(f"{path} could not be replayed: see above")
    return msgspec.convert(Recording.open(out).end, SessionEnd, strict=False)
