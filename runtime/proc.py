"""Proc: what Linux says of a process from outside (proc(5)), for benchmarks; one that is gone spent 0."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_GONE = FileNotFoundError, ProcessLookupError


def children(pid: int) -> list[int]:
    """The processes that any thread of this one started, and that run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(*_GONE):
            found += map(int, task.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def command(pid: int) -> list[str]:
    """Its command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except _GONE:
        return []


def cpu_s(pid: int) -> float:
    """Processor time of all its threads, in user and kernel, seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except _GONE:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def family_s(pid: int) -> float:
    """The same of a process and all that it started, those that have ended among them."""
    spent = 0
    for member in (pid, *descendants(pid)):
        with contextlib.suppress(*_GONE):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            spent += sum(map(int, fields[11:15]))
    return spent / TICKS


def machine_s() -> float:
    """Processor time of everything that runs here, on all cores, and of what the host took away."""
    user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / TICKS


def cache_drops() -> int:
    """How often somebody has dropped what this machine keeps of its disk in memory (drop_caches)."""
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counters.get("drop_pagecache", 0))


def memory_mb(pid: int) -> float:
    """Resident set, megabytes of 10^6. Raises FileNotFoundError, ProcessLookupError."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB


def open_files(pid: int) -> int:
    """File descriptors. Raises FileNotFoundError, ProcessLookupError."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
