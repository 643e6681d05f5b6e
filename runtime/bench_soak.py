"""Soak: the whole application for minutes or hours, on a film that does not end, with faults on purpose.

The camera, microphone and transcript processes run in real time, a page is served and all is recorded. Every
few seconds something bad is done to one of them, or to the application, or to its subscribers, drawn from a
seed so that a run can be repeated; what is reported is measured from outside: the stream by subscribing,
memory and handles from /proc. What is a gap, ``runtime.verdict`` says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from msgspec import UNSET, UnsetType
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runtime import proc
from runtime.bench_engine import BenchError
from runtime.dashboard.start import installed
from runtime.endless_film import endless_film
from runtime.endpoint import free_port
from runtime.mischief import EVERYTHING, LONG_STALL_S, MODULES, PAGE, Fault, Mischief
from runtime.recording import Recording
from runtime.stream import Emotion, SessionEnd, StatusMessage, decode, subscribe
from runtime.verdict import (
    NEAR_S,
    OTHER_SHARE,
    Others,
    Seen,
    Weight,
    back_s,
    beside,
    busy_share,
    circumstances,
    growth,
    late,
    other_work,
    overtaken,
    unexplained,
    unsaid,
    watched,
)

FLAT = 0.05  # the application may grow by so much, after the warm-up
LISTENS_NS = 100_000_000  # from one window to the next: somebody listens
LONG = 20.0  # minutes; a shorter run is too short to tell


class Soak:
    """One run: the application, its subscriber, and who does the mischief."""

    def __init__(self, film: Path, minutes: float, seed: int, endpoint: str, asr: str | None) -> None:
        self.seen = Seen()
        self.recording = film.with_name("soak.mcap")
        self._endpoint, self._minutes = endpoint, minutes
        self._began = time.monotonic()
        self._before: Emotion | None = None  # the window before
        self._drops = proc.cache_drops()
        self._spent = 0.0, proc.machine_s(), proc.family_s(os.getpid())
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the run
        command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", endpoint]
        command += ["--input", str(film), "--session", "soak", "--record", str(self.recording)]
        command += [] if asr is None else ["--asr", asr]
        page = f"127.0.0.1:{free_port()}" if installed() else None
        command += [] if page is None else ["--dashboard", page]
        self.application = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        self._mischief = Mischief(
            self.application.pid,
            endpoint,
            seed,
            page=page,
            now_s=self._now_s,
            media_ns=self._media_ns,
            until_s=minutes * 60 - LONG_STALL_S - NEAR_S,  # the last fault must have had the time to be over
        )

    def run(self, tick: Callable[[float], None]) -> None:
        """To the end of the time; then Ctrl-C, and its last words. Raises BenchError if it died."""
        stopping = False
        try:
            for message in subscribe(
                self._endpoint, stopping=lambda: self.application.poll() is not None, timeout_s=60
            ):
                now_s = self._now_s()
                match message:
                    case Emotion():
                        self.seen.windows.append((now_s, message))
                        self._note_recovery(now_s, message)
                        if len(self.seen.windows) == 1:
                            self._mischief.start()
                    case StatusMessage():
                        self.seen.statuses.append((now_s, message))
                        self._weigh(now_s)
                        tick(now_s)
                    case SessionEnd():
                        self.seen.end = message
                        break
                    case _:
                        pass
                if now_s > self._minutes * 60 and not stopping:
                    stopping = True
                    self.application.send_signal(signal.SIGINT)
            if self.application.wait(30) != 0 or self.seen.end is None:
                self._log.seek(0)
                last = self._log.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise BenchError(f"the application did not survive: {last[0]}")
        finally:
            self._mischief.stop()
            if self.application.poll() is None:
                self.application.kill()
                self.application.wait()

    @property
    def faults(self) -> list[Fault]:
        return self._mischief.faults

    def _now_s(self) -> float:
        return time.monotonic() - self._began

    def _media_ns(self) -> int:
        """The session's clock, by the last window that was heard."""
        heard_s, last = self.seen.windows[-1]
        return last.time.published_ns + round((self._now_s() - heard_s) * 1e9)

    def _weigh(self, now_s: float) -> None:
        pid = self.application.pid
        if self.seen.memory and now_s - self.seen.memory[-1].at_s < 2:
            return
        before, self._spent = self._spent, (now_s, proc.machine_s(), proc.family_s(os.getpid()))
        span_s, machine_s, ours_s = (now - then for now, then in zip(self._spent, before, strict=True))
        self.seen.others.append(Others(before[0], now_s, (machine_s - ours_s) / span_s))
        if (drops := proc.cache_drops()) > self._drops:
            self._drops = drops
            self.seen.cold_s.append(before[0])
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            mb = proc.memory_mb(pid)
            others = {(_called(child), child): proc.memory_mb(child) for child in proc.descendants(pid)}
            self.seen.memory.append(Weight(now_s, mb, others, proc.open_files(pid)))

    def _note_recovery(self, now_s: float, message: Emotion) -> None:
        if message.revises is not None:
            return
        before, self._before = self._before, message
        for fault in self.faults:
            waiting = fault.sense and fault.over_s is not None and fault.well_s is None
            if waiting and is_well(fault, before, message):
                fault.well_s = now_s


def _called(pid: int) -> str:
    """What a process of the application is for."""
    words = proc.command(pid)
    return next((name for name, module in (MODULES | {"page": PAGE}).items() if module in words), "other")


def is_well(fault: Fault, before: Emotion | None, message: Emotion) -> bool:
    """Whether a sense is in a window again, after a fault, with what happened since.

    Of words it is told how much of the window was listened to: after a fault, that shrinks from window to
    window until somebody listens again.
    """
    if fault.sense == "text":
        if before is None or before.time.end_ns < fault.media_ns:
            return False
        return _listened_ns(message) > _listened_ns(before) + LISTENS_NS
    lag_ms: float | UnsetType = getattr(message.modalities, fault.sense).lag_ms
    return lag_ms is not UNSET and message.time.end_ns - lag_ms * 1e6 > fault.media_ns


def _listened_ns(message: Emotion) -> float:
    """How far listening has come, less what was not heard of the window."""
    time_ = message.time
    return time_.start_ns + message.modalities.text.coverage * (time_.end_ns - time_.start_ns)


def soak(
    console: Console, clip: Path, minutes: float, seed: int, endpoint: str, asr: str | None = None
) -> bool:
    """Run, report; True when nothing was lost without a reason."""
    with tempfile.TemporaryDirectory() as folder:
        with console.status("making a film that does not end"):
            film = endless_film(clip, Path(folder), minutes)
        run = Soak(film, minutes, seed, endpoint, asr)
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("soaking", total=minutes * 60)

            def tick(now_s: float) -> None:
                progress.update(bar, completed=now_s, description=f"{len(run.faults)} faults")

            run.run(tick)
        kept = recorded(run.recording)
        size_mb = run.recording.stat().st_size / 1e6
    return report(console, run.seen, run.faults, minutes, kept, size_mb)


def recorded(path: Path) -> set[int]:
    """The numbers of the answers in the recording."""
    messages = (decode(payload) for _, payload in Recording.open(path).emotions())
    return {message.seq for message in messages if isinstance(message, Emotion)}


def report(
    console: Console, seen: Seen, faults: list[Fault], minutes: float, kept: set[int], size_mb: float
) -> bool:
    """The tables; True when there is no unexplained gap."""
    assert seen.end is not None
    table = Table("fault", "times", "back after, s (median, worst)", title=f"{minutes:g} minutes of faults")
    for kind, times in sorted(Counter(fault.kind for fault in faults).items()):
        after = [back_s(fault) for fault in faults if fault.kind == kind and fault.well_s is not None]
        shown = f"{statistics.median(after):.1f}, {max(after):.1f}" if after else ""
        table.add_row(kind, str(times), shown)
    console.print(table)
    warm = [row for row in seen.memory if row.at_s > min(120.0, minutes * 60 / 5)] or seen.memory
    latencies = sorted(m.latency_ms.total for _, m in seen.windows if m.revises is None)
    middle, worst = (latencies[int(len(latencies) * share)] for share in (0.5, 0.95))
    end = seen.end
    hop_s = 0.5 if len(seen.windows) < 2 else _hop_s(seen)
    share, excuses = busy_share(seen), [*faults, *other_work(seen)]
    gaps = unexplained(seen, excuses, hop_s)
    excused = len(unexplained(seen, faults, hop_s)) - len(gaps)
    passed = [(at_s, count) for at_s, count in overtaken(seen) if not beside(at_s, "vision", excuses)]
    answers = {message.seq for _, message in seen.windows}
    rows = {
        "windows": f"{end.windows}, and {end.skipped} given up",
        "memory, MB": _told([row.mb for row in warm]),
        "of all processes, MB": _told([row.all_mb for row in warm]),
        "of the oldest of each": _of_the_oldest(seen.memory),
        "open files": f"{warm[0].files} at first, {warm[-1].files} in the end, "
        f"{max(row.files for row in warm)} at most",
        "overload": f"something given up in {_share(seen):.0%} of the status messages",
        "restarts": ", ".join(f"{name} {sense.restarts}" for name, sense in end.senses.items()),
        "samples lost": ", ".join(f"{name} {sense.dropped}" for name, sense in end.senses.items()),
        "overtaken": f"{sum(count for _, count in passed)} frames, beside no fault",
        "junk dropped": str(sum(sense.corrupt for sense in end.senses.values())),
        "latency, ms": f"median {middle:.0f}, p95 {worst:.0f}",
        "recording": f"{size_mb:.1f} MB, {len(answers & kept)} of {len(answers)} answers",
        "other work": f"more than a quarter of a core in {share:.1%} of the time, {excused} losses by it",
        "page cache": f"dropped {len(seen.cold_s)} times by others; a start is cold after it",
        "no fault near": ", ".join(
            f"{what} {watched(what, excuses, minutes * 60):.0%}" for what in EVERYTHING
        )
        + " of the time",
    }
    result = Table("measured", "", title="from outside, after the warm-up")
    for name, value in rows.items():
        result.add_row(name, value)
    console.print(result)
    told = [f"{gap} ({circumstances(seen, gap.at_s, faults)})" for gap in gaps]
    told += [f"answer {seq} is not in the recording" for seq in sorted(answers - kept)]
    wrong = [*late(seen, excuses), *unsaid(seen, faults)]
    if share > OTHER_SHARE:
        wrong.append(f"the machine had other work in {share:.0%} of the time: measure on one that has none")
    if minutes >= LONG and (grown := growth([row.mb for row in warm])) > FLAT:
        wrong.append(f"the application grew by {grown:.1%}")
    for line in told[:20]:
        console.print(f"[red]unexplained[/] {line}", highlight=False)
    for line in wrong:
        console.print(f"[red]wrong[/] {line}", highlight=False)
    console.print(f"{len(told)} unexplained gaps, {len(wrong)} other things wrong")
    return not told and not wrong


def _told(mb: list[float]) -> str:
    head, tail = (statistics.median(part) for part in (mb[:15], mb[-15:]))
    return f"{head:.1f} at first, {tail:.1f} in the end: {growth(mb):+.1%}"


def _of_the_oldest(memory: list[Weight]) -> str:
    """Of each kind the process that lived longest, for most are killed young: its growth after a minute."""
    lives: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in memory:
        for who, mb in row.others.items():
            lives.setdefault(who, []).append((row.at_s, mb))
    told = []
    for kind in sorted({kind for kind, _ in lives}):
        life = max((life for (name, _), life in lives.items() if name == kind), key=len)
        grown = [mb for at_s, mb in life if at_s > life[0][0] + 60]
        if grown:
            told.append(f"{kind} {growth(grown):+.1%} in {(life[-1][0] - life[0][0]) / 60:.0f} min")
    return ", ".join(told)


def _share(seen: Seen) -> float:
    """Of the status messages, how many tell of something that was given up."""
    return sum(bool(status.eased) for _, status in seen.statuses) / max(len(seen.statuses), 1)


def _hop_s(seen: Seen) -> float:
    ends = sorted({message.time.end_ns for _, message in seen.windows})
    return statistics.median(b - a for a, b in pairwise(ends)) / 1e9
