"""Page: what the dashboard costs the session: not there, served, and looked at by a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from runtime import proc
from runtime.bench_engine import BenchError
from runtime.dashboard.start import HOW_TO_GET, installed
from runtime.endless_film import endless_film
from runtime.endpoint import free_port
from runtime.stream import Emotion, SessionEnd, subscribe

WARM_WINDOWS = 12  # before the clock starts: imports, the first second of a page
ENDING_S = 30
PAGE = "runtime.dashboard"
HOW_LOOKED = ("no page", "a page, nobody looks", "a page, a browser looks")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio")


@dataclass
class Cost:
    """One session: processor time and what it published."""

    pipeline: list[float] = field(default_factory=list)  # shares of a core, a sample each two seconds
    page: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)  # from a window's end to its publication
    windows: int = 0
    skipped: int = 0
    missing: int = 0  # places of the hop that no window came for


def page(console: Console, clip: Path, seconds: float, endpoint: str) -> None:
    """Run three sessions on the same film, one after the other, and compare. Raises BenchError."""
    if not installed():
        raise BenchError(HOW_TO_GET)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise BenchError("no browser to look with: apt-get install chromium")
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        film = endless_film(clip, Path(folder), (seconds + 30) / 60)
        for how in HOW_LOOKED:
            with console.status(f"{how}, {seconds:g} s"):
                costs[how] = _session(film, seconds, endpoint, how, browser)
    console.print(_table(costs, seconds))


def _session(film: Path, seconds: float, endpoint: str, how: str, browser: str) -> Cost:
    port = free_port()
    shown = [] if how == HOW_LOOKED[0] else ["--dashboard", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", endpoint]
    with tempfile.TemporaryFile("w+") as log:
        live = subprocess.Popen(
            [*command, "--input", str(film), "--session", "page", *shown],
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
        try:
            with _looking(browser, port) if how == HOW_LOOKED[2] else contextlib.nullcontext():
                cost = _measured(live, seconds, endpoint)
            with contextlib.suppress(subprocess.TimeoutExpired):
                live.wait(ENDING_S)  # after its last message it still closes its page and its processes
        finally:
            if live.poll() is None:
                live.kill()
        if live.wait() != 0:
            log.seek(0)
            raise BenchError((log.read().strip().splitlines() or ["the session failed"])[-1])
    return cost


def _measured(live: subprocess.Popen[bytes], seconds: float, endpoint: str) -> Cost:
    cost, ends = Cost(), list[int]()
    since: tuple[float, float, float] | None = None
    begun = float("inf")
    for message in subscribe(endpoint, timeout_s=60, stopping=lambda: live.poll() is not None):
        if isinstance(message, SessionEnd):
            cost.skipped = message.skipped
            break
        if not isinstance(message, Emotion) or message.revises is not None:
            continue
        cost.windows += 1
        if cost.windows < WARM_WINDOWS:
            continue
        ends.append(message.time.end_ns)
        cost.late_ms.append((message.time.published_ns - message.time.end_ns) / 1e6)
        now = (time.monotonic(), *_spent(live.pid))
        begun = min(begun, now[0])
        if since is None:
            since = now
        elif now[0] - since[0] >= 2:
            took = now[0] - since[0]
            cost.pipeline.append((now[1] - since[1]) / took)
            cost.page.append((now[2] - since[2]) / took)
            since = now
        if now[0] - begun >= seconds:
            live.send_signal(signal.SIGINT)
            begun = float("inf")
    if len(ends) > 1:
        hop_ns = statistics.median(np.diff(ends).tolist())
        cost.missing = round((ends[-1] - ends[0]) / hop_ns) + 1 - len(ends)
    return cost


def _spent(pid: int) -> tuple[float, float]:
    """Processor time so far, seconds: of the session with its capture processes, and of its page."""
    pipeline, shown = proc.cpu_s(pid), 0.0
    for child in proc.children(pid):
        if PAGE in proc.command(child):
            shown += proc.cpu_s(child)
        else:
            pipeline += proc.cpu_s(child)
    return pipeline, shown


@contextlib.contextmanager
def _looking(browser: str, port: int) -> Iterator[None]:
    """A browser that has the page open, in a profile of its own."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            break
        time.sleep(0.2)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        window = subprocess.Popen(
            [browser, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0",
             f"http://127.0.0.1:{port}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            window.terminate()
            window.wait(10)


def _table(costs: dict[str, Cost], seconds: float) -> Table:
    table = Table(
        "", *costs, title=f"the page: {seconds:g} s each, {os.cpu_count()} cores", caption="shares of a core"
    )
    base = statistics.mean(costs[HOW_LOOKED[0]].pipeline)
    means = [statistics.mean(cost.pipeline) for cost in costs.values()]
    table.add_row("pipeline", *(f"{mean:.1%}" for mean in means))
    table.add_row("more than without", *(f"{mean - base:+.1%}" for mean in means))
    spread = (2 * statistics.stdev(c.pipeline) / len(c.pipeline) ** 0.5 for c in costs.values())
    table.add_row("  known to within", *(f"±{width:.1%}" for width in spread))
    table.add_row("the page's own process", *(f"{statistics.mean(c.page):.1%}" for c in costs.values()))
    late = [np.percentile(cost.late_ms, (50, 95)) for cost in costs.values()]
    table.add_row("window end to publication, ms", *(f"{p50:.0f}, p95 {p95:.0f}" for p50, p95 in late))
    dropped = (f"{c.skipped + c.missing} of {c.windows}" for c in costs.values())
    table.add_row("windows dropped", *dropped)
    return table
