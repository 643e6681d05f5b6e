"""Soak: the whole application for minutes or hours, on a film that does not end, with faults on purpose.

The camera, microphone and transcript processes run in real time. Every few seconds something bad is
done to one of them, or to the application, or to its subscribers, drawn from a seed so that a run can
be repeated; what is reported is measured from outside: the stream by subscribing, memory and handles
from /proc. A window that misses a sense, a hole in the windows or a growing count of lost samples must
have a fault beside it; what has none is an unexplained gap.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import zmq
from msgspec import UNSET, UnsetType
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from capture import subtitles
from runtime.bench_engine import BenchError
from runtime.ladder import MEANING
from runtime.stream import Emotion, SessionEnd, StatusMessage, subscribe

EVERY_S = (12.0, 25.0)  # between two faults
BACK_S = 3.0  # a process that was killed must be back within this
NEAR_S = 8.0  # what follows a fault within this is explained by it
EASED_S = 2.0  # a status tells every second what is given up
LONG_STALL_S = 14.0  # longer than the supervisor's patience
CONTENT = {"no_face", "no_speech", "no_words"}  # what the film may show, no matter how well all runs
MODULES = {"vision": "capture.camera", "audio": "capture.microphone", "text": "capture.transcript"}
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(slots=True)
class Fault:
    """Something bad that was done on purpose."""

    at_s: float  # seconds since the beginning, on this process's clock
    kind: str
    sense: str = ""
    media_ns: int = 0  # on the session's clock; only newer samples come from a process that is well again
    over_s: float | None = None  # when it was taken back
    well_s: float | None = None  # when the sense was in a window again, with fresh samples


@dataclass(slots=True)
class Seen:
    """What a subscriber saw, and what /proc said meanwhile."""

    windows: list[tuple[float, Emotion]] = field(default_factory=list)
    statuses: list[tuple[float, StatusMessage]] = field(default_factory=list)
    memory: list[tuple[float, float, int]] = field(default_factory=list)  # seconds, MB, open files
    end: SessionEnd | None = None


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


class Soak:
    """One run: the application, its subscriber, and who does the mischief."""

    def __init__(self, film: Path, minutes: float, seed: int, endpoint: str) -> None:
        self.faults: list[Fault] = []
        self.seen = Seen()
        self._endpoint, self._minutes = endpoint, minutes
        self._random = random.Random(seed)
        self._began = time.monotonic()
        self._over = threading.Event()
        self._frozen: list[zmq.Socket[bytes]] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the run
        command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", endpoint]
        self.application = subprocess.Popen(
            [*command, "--input", str(film), "--session", "soak"], stdout=subprocess.DEVNULL, stderr=self._log
        )

    def run(self, tick: Callable[[float], None]) -> None:
        """To the end of the time; then Ctrl-C, and its last words. Raises BenchError if it died."""
        mischief = threading.Thread(target=self._do_mischief, name="mischief")
        try:
            stopping = self._over.is_set
            for message in subscribe(
                self._endpoint, stopping=lambda: self.application.poll() is not None, timeout_s=60
            ):
                now_s = self._now_s()
                match message:
                    case Emotion():
                        self.seen.windows.append((now_s, message))
                        self._note_recovery(now_s, message)
                        if len(self.seen.windows) == 1:
                            mischief.start()
                    case StatusMessage():
                        self.seen.statuses.append((now_s, message))
                        self._weigh(now_s)
                        tick(now_s)
                    case SessionEnd():
                        self.seen.end = message
                        break
                    case _:
                        pass
                if now_s > self._minutes * 60 and not stopping():
                    self._over.set()
                    self.application.send_signal(signal.SIGINT)
            if self.application.wait(30) != 0 or self.seen.end is None:
                self._log.seek(0)
                last = self._log.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise BenchError(f"the application did not survive: {last[0]}")
        finally:
            self._over.set()
            if mischief.is_alive():
                mischief.join()
            for socket in self._frozen:
                socket.close(linger=0)
            if self.application.poll() is None:
                self.application.kill()
                self.application.wait()

    def _now_s(self) -> float:
        return time.monotonic() - self._began

    def _weigh(self, now_s: float) -> None:
        pid = self.application.pid
        if self.seen.memory and now_s - self.seen.memory[-1][0] < 2:
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            memory_mb = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB
            self.seen.memory.append((now_s, memory_mb, len(list(Path(f"/proc/{pid}/fd").iterdir()))))

    def _note_recovery(self, now_s: float, message: Emotion) -> None:
        for fault in self.faults:
            waiting = fault.sense and fault.over_s is not None and fault.well_s is None
            if waiting and _newest_ns(message, fault.sense) > fault.media_ns:
                fault.well_s = now_s

    def _do_mischief(self) -> None:
        kinds = [self._kill] * 4 + [self._stall] * 2 + [self._burst, self._gap, self._stall_long]
        kinds += [self._noise, self._storm, self._freeze]
        while not self._over.wait(self._random.uniform(*EVERY_S)):
            if self._now_s() > self._minutes * 60 - LONG_STALL_S - NEAR_S:
                return  # the last fault must have had the time to be over
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has just been restarted
                self._random.choice(kinds)()

    def _child(self) -> tuple[str, int]:
        """A capture process that runs, by chance."""
        running: dict[str, int] = {}
        for task in Path(f"/proc/{self.application.pid}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                running |= {sense: pid for sense, module in MODULES.items() if module in command}
        if not running:
            raise ProcessLookupError
        sense = self._random.choice(sorted(running))
        return sense, running[sense]

    def _begin(self, kind: str, sense: str = "") -> Fault:
        heard_s, last = self.seen.windows[-1]
        now_s = self._now_s()
        fault = Fault(now_s, kind, sense, last.time.published_ns + round((now_s - heard_s) * 1e9))
        self.faults.append(fault)
        return fault

    def _kill(self) -> None:
        sense, pid = self._child()
        fault = self._begin("killed", sense)
        os.kill(pid, signal.SIGKILL)
        fault.over_s = self._now_s()

    def _stop(self, kind: str, sense: str, pid: int, seconds: float) -> None:
        fault = self._begin(kind, sense)
        os.kill(pid, signal.SIGSTOP)
        try:
            self._over.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            fault.over_s = self._now_s()

    def _stall(self) -> None:
        self._stop("stalled 3 s", *self._child(), 3.0)

    def _stall_long(self) -> None:
        self._stop("stalled for good", *self._child(), LONG_STALL_S)

    def _burst(self) -> None:
        self._stop("application stopped 2 s", "", self.application.pid, 2.0)

    def _gap(self) -> None:
        self._stop("application stopped 9 s", "", self.application.pid, 9.0)

    def _noise(self) -> None:
        _, pid = self._child()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        pipe = command[command.index(b"--endpoint") + 1].decode()
        fault = self._begin("junk on a pipe")
        intruder: zmq.Socket[bytes]
        with zmq.Context.instance().socket(zmq.PUSH) as intruder:
            intruder.setsockopt(zmq.LINGER, 500)
            intruder.connect(pipe)
            for _ in range(50):
                intruder.send_multipart([b"\xc1 no message", os.urandom(64)])
        fault.over_s = self._now_s()

    def _storm(self) -> None:
        fault = self._begin("200 subscribers come and go")
        one: zmq.Socket[bytes]
        for _ in range(200):
            with zmq.Context.instance().socket(zmq.SUB) as one:
                one.setsockopt(zmq.LINGER, 0)
                one.connect(self._endpoint)
                one.subscribe(b"emotion")
        fault.over_s = self._now_s()

    def _freeze(self) -> None:
        fault = self._begin("a subscriber that never reads")
        if len(self._frozen) > 4:
            self._frozen.pop(0).close(linger=0)
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.connect(self._endpoint)
        socket.subscribe(b"")
        self._frozen.append(socket)
        fault.over_s = self._now_s()


def _newest_ns(message: Emotion, name: str) -> int:
    """When the newest sample of a sense happened; for words, how far listening has come."""
    sense, time_ = getattr(message.modalities, name), message.time
    if name == "text":
        coverage: float = sense.coverage
        return round(time_.start_ns + coverage * (time_.end_ns - time_.start_ns))
    lag_ms: float | UnsetType = sense.lag_ms
    return 0 if lag_ms is UNSET else round(time_.end_ns - lag_ms * 1e6)


def unexplained(seen: Seen, faults: list[Fault], hop_s: float) -> list[str]:
    """Every loss without a fault beside it, in words.

    A window that is left out is explained where the session says that it gives every second one up.
    """
    given_up = [at_s for at_s, status in seen.statuses if MEANING["hop"] in status.eased]
    near = [(fault.at_s - 1, (fault.well_s or fault.over_s or fault.at_s) + NEAR_S) for fault in faults]

    def explained(at_s: float) -> bool:
        return any(a <= at_s <= b for a, b in near)

    found = []
    first = [(at_s, message) for at_s, message in seen.windows if message.revises is None]
    for (_, before), (at_s, message) in pairwise(first):
        missing = round((message.time.end_ns - before.time.end_ns) / 1e9 / hop_s) - 1
        if missing and not explained(at_s) and not any(abs(at_s - t_s) < EASED_S for t_s in given_up):
            found.append(f"{at_s:.1f} s: {missing} windows missing")
        for name in ("text", "audio", "vision"):
            sense = getattr(message.modalities, name)
            if not sense.present and sense.reason not in CONTENT and not explained(at_s):
                found.append(f"{at_s:.1f} s: {name} absent: {sense.reason}")
            lost = getattr(message.dropped, name) - getattr(before.dropped, name)
            if lost > 0 and not explained(at_s):
                found.append(f"{at_s:.1f} s: {lost} samples of {name} lost")
    for (_, before), (at_s, message) in pairwise(seen.windows):
        if message.seq != before.seq + 1 and not explained(at_s):
            found.append(f"{at_s:.1f} s: {message.seq - before.seq - 1} messages lost to the subscriber")
    return found


def soak(console: Console, clip: Path, minutes: float, seed: int, endpoint: str) -> bool:
    """Run, report; True when nothing was lost without a reason."""
    with tempfile.TemporaryDirectory() as folder:
        with console.status("making a film that does not end"):
            film = endless_film(clip, Path(folder), minutes)
        run = Soak(film, minutes, seed, endpoint)
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("soaking", total=minutes * 60)

            def tick(now_s: float) -> None:
                progress.update(bar, completed=now_s, description=f"{len(run.faults)} faults")

            run.run(tick)
    return report(console, run.seen, run.faults, minutes)


def report(console: Console, seen: Seen, faults: list[Fault], minutes: float) -> bool:
    """The tables; True when there is no unexplained gap."""
    assert seen.end is not None
    table = Table("fault", "times", "back after, s (median, worst)", title=f"{minutes:g} minutes of faults")
    for kind, times in sorted(Counter(fault.kind for fault in faults).items()):
        after = [_back_s(fault) for fault in faults if fault.kind == kind and fault.well_s is not None]
        shown = f"{statistics.median(after):.1f}, {max(after):.1f}" if after else ""
        table.add_row(kind, str(times), shown)
    console.print(table)
    warm = [row for row in seen.memory if row[0] > min(120.0, minutes * 60 / 5)] or seen.memory
    head, tail = (statistics.median(row[1] for row in part) for part in (warm[:15], warm[-15:]))
    latencies = sorted(m.latency_ms.total for _, m in seen.windows if m.revises is None)
    middle, worst = (latencies[int(len(latencies) * share)] for share in (0.5, 0.95))
    end = seen.end
    rows = {
        "windows": f"{end.windows}, and {end.skipped} too old to be inferred",
        "memory, MB": f"{head:.1f} at first, {tail:.1f} in the end: {(tail / head - 1) * 100:+.1f} %",
        "open files": f"{warm[0][2]} at first, {warm[-1][2]} in the end, {max(r[2] for r in warm)} at most",
        "overload": f"{sum(bool(s.eased) for _, s in seen.statuses)} of {len(seen.statuses)} seconds eased",
        "restarts": ", ".join(f"{name} {sense.restarts}" for name, sense in end.senses.items()),
        "samples lost": ", ".join(f"{name} {sense.dropped}" for name, sense in end.senses.items()),
        "junk dropped": str(sum(sense.corrupt for sense in end.senses.values())),
        "latency, ms": f"median {middle:.0f}, p95 {worst:.0f}",
    }
    result = Table("measured", "", title="from outside, after the warm-up")
    for name, value in rows.items():
        result.add_row(name, value)
    console.print(result)
    hop_s = 0.5 if len(seen.windows) < 2 else _hop_s(seen)
    gaps = unexplained(seen, faults, hop_s)
    late = [f for f in faults if f.kind == "killed" and _back_s(f) > BACK_S]
    for line in gaps[:20]:
        console.print(f"[red]unexplained[/] {line}", highlight=False)
    for fault in late:
        told = f"[red]late[/] {fault.sense}, killed at {fault.at_s:.0f} s, back after {_back_s(fault):.1f} s"
        console.print(told, highlight=False)
    console.print(f"{len(gaps)} unexplained gaps")
    return not gaps and not late


def _back_s(fault: Fault) -> float:
    """From the end of a fault to a window with a new sample of the sense; infinite: never."""
    if fault.well_s is None or fault.over_s is None:
        return float("inf")
    return fault.well_s - fault.over_s


def _hop_s(seen: Seen) -> float:
    ends = sorted({message.time.end_ns for _, message in seen.windows})
    return statistics.median(b - a for a, b in pairwise(ends)) / 1e9
