"""Verdict: what a soak's subscriber saw, and what of it no fault explains.

A window that misses a sense, a hole in the windows or a growing count of lost samples must have a fault of
that sense, or of the application, beside it; what has none is an unexplained gap. So is whatever a subscriber
misses. The camera's policy is the newest frame only: one that is overtaken, in a window that is observed
throughout all the same, is no gap. Where other programs have the processor, that is a fault, too; but whoever
measures on a machine that has other work for long has measured nothing.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from itertools import pairwise

from msgspec import UNSET

from runtime.ladder import MEANING
from runtime.mischief import EVERYTHING, JUNK, NOISE, PAGE_KILLED, STALLED, Fault
from runtime.stream import Emotion, SessionEnd, StatusMessage

OTHER_WORK = "other work"  # a kind of fault that nobody does on purpose
BACK_S = 3.0  # a process that was killed must be back within this
CAUGHT_UP_S = 6.0  # longer than this after its end nothing is excused by a fault that goes on to be felt
LOST_S = 3.0  # what is counted as lost within this after a fault is explained by it
NEAR_S = 8.0  # and a sense that is absent: the longest window still has the hole inside
DEAF_S = 45.0  # Whisper hears 30 s at once and then commits something; who says less has not listened
EASED_S = 2.0  # a status tells every second what is given up
OTHER_CORES = 0.25  # of a core, that other programs take: what is lost then is no fault of the application's
OTHER_SHARE = 0.1  # of the time, at most
CONTENT = {"no_face", "no_speech", "no_words"}  # what the film may show, no matter how well all runs


@dataclass(frozen=True, slots=True)
class Weight:
    """What the application weighed."""

    at_s: float
    mb: float
    others: dict[tuple[str, int], float]  # MB of the processes that it started, by sense or page, and pid
    files: int

    @property
    def all_mb(self) -> float:
        return self.mb + sum(self.others.values())


@dataclass(frozen=True, slots=True)
class Others:
    """How much of the processor other programs had."""

    begin_s: float
    end_s: float
    cores: float


@dataclass(slots=True)
class Seen:
    """What a subscriber saw, and what /proc said meanwhile."""

    windows: list[tuple[float, Emotion]] = field(default_factory=list)
    statuses: list[tuple[float, StatusMessage]] = field(default_factory=list)
    memory: list[Weight] = field(default_factory=list)
    others: list[Others] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)  # when somebody dropped the machine's page cache
    end: SessionEnd | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that was lost, and when it was noticed."""

    at_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:.1f} s: {self.what}"


def unexplained(seen: Seen, faults: list[Fault], hop_s: float) -> list[Gap]:
    """Every loss without a fault beside it.

    A window that is left out is explained where the session says that it gives every second one up, and a
    frame where the camera had a newer one: see ``overtaken``.
    """
    passed = {at_s for at_s, _ in overtaken(seen)}
    given_up = [at_s for at_s, status in seen.statuses if MEANING["hop"] in status.eased]

    found, listened_s = list[Gap](), 0.0
    first = [(at_s, message) for at_s, message in seen.windows if message.revises is None]
    for (_, before), (at_s, message) in pairwise(first):
        missing = round((message.time.end_ns - before.time.end_ns) / 1e9 / hop_s) - 1
        every_second = missing == 1 and any(abs(at_s - t_s) < EASED_S for t_s in given_up)
        if missing and not every_second and not beside(at_s, "windows", faults):
            found.append(Gap(at_s, f"{missing} windows missing"))
        for name in ("text", "audio", "vision"):
            sense = getattr(message.modalities, name)
            if name == "text" and sense.coverage:
                listened_s = at_s
            deaf = name == "text" and at_s - listened_s > DEAF_S  # whatever it says
            absent = not sense.present and (sense.reason not in CONTENT or deaf)
            if absent and not beside(at_s, name, faults, NEAR_S):
                found.append(Gap(at_s, f"{name} absent: {sense.reason}"))
            lost = getattr(message.dropped, name) - getattr(before.dropped, name)
            if lost > 0 and not beside(at_s, name, faults) and not (name == "vision" and at_s in passed):
                found.append(Gap(at_s, f"{lost} samples of {name} lost"))
    for (_, before), (at_s, message) in pairwise(seen.windows):
        if message.seq != before.seq + 1:
            found.append(Gap(at_s, f"{message.seq - before.seq - 1} messages lost to the subscriber"))
    return found


def circumstances(seen: Seen, at_s: float, faults: list[Fault]) -> str:
    """What stood near a time, for whoever looks for a cause."""
    told = []
    message = min(seen.windows, key=lambda pair: abs(pair[0] - at_s), default=(at_s, None))[1]
    if message is not None:
        senses = ((name, getattr(message.modalities, name)) for name in ("text", "audio", "vision"))
        told += [f"{name} covered {sense.coverage:.0%}" for name, sense in senses]
        told.append(f"latency {message.latency_ms.total:.0f} ms")
    status = min(seen.statuses, key=lambda pair: abs(pair[0] - at_s), default=(at_s, None))[1]
    told += [] if status is None else [f"given up: {step}" for step in status.eased]
    told += [f"others had {one.cores:.2f} cores" for one in seen.others if one.begin_s <= at_s <= one.end_s]
    before = max((fault for fault in faults if fault.at_s <= at_s), key=lambda f: f.at_s, default=None)
    if before is not None:
        told.append(f"{at_s - before.at_s:.0f} s after {f'{before.sense} {before.kind}'.strip()}")
    return ", ".join(told)


def other_work(seen: Seen) -> list[Fault]:
    """When other programs had the processor: anything may be lost by that."""
    return [
        Fault(one.begin_s, OTHER_WORK, hits=EVERYTHING, over_s=one.end_s, well_s=one.end_s)
        for one in seen.others
        if one.cores > OTHER_CORES
    ]


def busy_share(seen: Seen) -> float:
    """The share of the time in which other programs had the processor."""
    busy_s = sum(one.end_s - one.begin_s for one in seen.others if one.cores > OTHER_CORES)
    return busy_s / max(sum(one.end_s - one.begin_s for one in seen.others), 1e-9)


def beside(at_s: float, what: str, faults: list[Fault], after_s: float = LOST_S) -> bool:
    """Whether a fault explains that a sense, or the windows, lost something then."""
    return any(begin <= at_s <= end for begin, end in _excuses(what, faults, after_s))


def _excuses(what: str, faults: list[Fault], after_s: float) -> list[tuple[float, float]]:
    return [
        (fault.at_s - 1, min(fault.well_s or math.inf, (fault.over_s or fault.at_s) + CAUGHT_UP_S) + after_s)
        for fault in faults
        if what in fault.hits
    ]


def watched(what: str, faults: list[Fault], seconds: float) -> float:
    """The share of the time in which no fault would explain a loss."""
    excused, until_s = 0.0, 0.0
    for begin, end in sorted(_excuses(what, faults, LOST_S)):
        begin, end = max(begin, until_s), min(end, seconds)
        excused += max(0.0, end - begin)
        until_s = max(until_s, end)
    return 1 - excused / seconds


def overtaken(seen: Seen) -> list[tuple[float, int]]:
    """When frames were overtaken by newer ones, and how many, in windows that were observed throughout.

    None may have been lost on the pipe from the camera, which the statuses tell apart.
    """
    found = []
    first = [(at_s, message) for at_s, message in seen.windows if message.revises is None]
    for (_, before), (at_s, message) in pairwise(first):
        lost = message.dropped.vision - before.dropped.vision
        sense = message.modalities.vision
        if lost > 0 and sense.present and sense.coverage == 1 and not _holes(seen, at_s):
            found.append((at_s, lost))
    return found


def _holes(seen: Seen, at_s: float) -> int:
    """Messages of the camera that the pipe lost around a time, by the statuses before and after it."""
    near = (status.senses["vision"].gaps for t_s, status in seen.statuses if abs(t_s - at_s) < EASED_S)
    counts = [count for count in near if count is not UNSET]
    return max(counts) - min(counts) if counts else 0


def cold_start(seen: Seen, fault: Fault, faults: list[Fault]) -> bool:
    """Whether all that the process needed had to come from the disk: nobody had started one since a drop.

    What runs keeps its libraries in memory all the same; it is the next start that waits for them.
    """
    dropped_s = max((at_s for at_s in seen.cold_s if at_s < (fault.well_s or math.inf)), default=None)
    return dropped_s is not None and not any(
        (one.kind, one.sense) in ((fault.kind, fault.sense), (STALLED, fault.sense))
        and dropped_s <= one.at_s < fault.at_s
        for one in faults
    )


def late(seen: Seen, faults: list[Fault]) -> list[str]:
    """Whoever was killed and not back in time, but for other programs: they had the processor, or the cache.

    A recogniser that was only stalled has first to catch up.
    """
    busy = [fault for fault in faults if fault.kind == OTHER_WORK]
    return [
        f"{fault.sense or 'the page'}, {fault.kind} at {fault.at_s:.0f} s: back after {back_s(fault):.1f} s"
        for fault in faults
        if fault.kind in ("killed", PAGE_KILLED)
        and back_s(fault) > BACK_S
        and not any(one.at_s < (fault.well_s or math.inf) and fault.at_s < (one.over_s or 0) for one in busy)
        and not cold_start(seen, fault, faults)
    ]


def unsaid(seen: Seen, faults: list[Fault]) -> list[str]:
    """Kills whose loss was not published, and junk that was not counted."""
    said = [(at_s, status.event) for at_s, status in seen.statuses if status.event]
    found = [
        f"{fault.sense}, killed at {fault.at_s:.0f} s: what was lost is not said"
        for fault in faults
        if fault.kind == "killed"
        and not any(
            fault.at_s <= at_s <= max(fault.at_s + NEAR_S, fault.well_s or 0)
            and str(event).startswith(f"{fault.sense}: back after a restart")
            for at_s, event in said
        )
    ]
    sent = JUNK * sum(fault.kind == NOISE for fault in faults)
    counted = 0 if seen.end is None else sum(sense.corrupt for sense in seen.end.senses.values())
    return found if sent == counted else [*found, f"{counted} of {sent} messages of junk were counted"]


def back_s(fault: Fault) -> float:
    """From the end of a fault to a window with a new sample of the sense; infinite: never."""
    if fault.well_s is None or fault.over_s is None:
        return float("inf")
    return fault.well_s - fault.over_s


def growth(mb: list[float]) -> float:
    """From the first half minute to the last one."""
    return statistics.median(mb[-15:]) / statistics.median(mb[:15]) - 1
