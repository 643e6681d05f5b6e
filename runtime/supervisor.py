"""Supervisor: starts the capture processes, watches them, brings them back, stops them."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import msgspec

from capture.link import Go, Wish
from capture.messages import StreamName

log = logging.getLogger("runtime.supervisor")

STALL_S = 10.0  # a process that says nothing for so long, not even a heartbeat, is ended
STOP_S = 3.0  # how long a process may take to end by itself
KILL_S = 2.0  # and how long when it was killed
HEALTHY_S = 10.0  # a process that ran for so long has its back-off forgiven
BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MAX_FILE_FAILURES = len(BACK_OFF_S)  # a file that kills its reader so often in a row is given up
ABSENT_RETRY_S = 15.0  # a device that is not there is looked for again
ASLEEP_S = 5.0  # between two polls: this process itself did not run, and could hear nobody

EXIT_ENDED, EXIT_ABSENT = 0, 3


@dataclass(frozen=True, slots=True)
class Sense:
    """A capture process to run: ``python -m MODULE ARGUMENTS...``."""

    stream: StreamName
    module: str
    arguments: tuple[str, ...]
    device: bool  # a device may come back; a file that cannot be read will not
    live: bool = False  # what it hears is live: however often it dies, it is started again

    @property
    def endless(self) -> bool:
        """It ends with the session; an end before is a failure."""
        return self.device or self.live


@dataclass(frozen=True, slots=True)
class Exit:
    """A capture process ended. ``retry_in_s`` is None when it stays down."""

    stream: StreamName
    cause: str
    expected: bool  # the end of its source, or a device that is not there: it said so itself
    retry_in_s: float | None


@dataclass(frozen=True, slots=True)
class Restart:
    """A capture process was started again after it had died."""

    stream: StreamName
    cause: str


@dataclass(slots=True)
class _Child:
    sense: Sense
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    heard_at: float = 0.0
    failures: int = 0
    restarts: int = 0
    cause: str = ""
    next_start: float | None = None


class Supervisor:
    """Owns the capture processes of a session. Call ``poll`` often; ``stop`` in the end."""

    def __init__(self, senses: list[Sense], *, watch_stalls: bool) -> None:
        self._children: dict[StreamName, _Child] = {sense.stream: _Child(sense) for sense in senses}
        self._watch_stalls = watch_stalls
        self._polled_at = time.monotonic()

    def start(self) -> None:
        """Start every process; each says ``ready`` or ``absent`` on its own."""
        for child in self._children.values():
            self._spawn(child)

    def go(self, stream: StreamName, go: Go) -> None:
        """Tell a process that said ``ready`` to begin."""
        self._write(stream, go)

    def tell(self, stream: StreamName, wish: Wish) -> None:
        """Ask a process that runs to give something up, or to take it back."""
        self._write(stream, wish)

    def release(self, stream: StreamName) -> None:
        """A process's last message was read: it may end."""
        child = self._children.get(stream)
        if child is not None and child.process is not None:
            _close_input(child.process)

    def heard(self, stream: StreamName) -> None:
        """A message came from this process: it lives."""
        child = self._children.get(stream)
        if child is not None:
            child.heard_at = time.monotonic()

    def forgo(self, stream: StreamName) -> None:
        """Do not start a process again that has ended."""
        self._children[stream].next_start = None

    def restarts(self, stream: StreamName) -> int:
        child = self._children.get(stream)
        return 0 if child is None else child.restarts

    def pid(self, stream: StreamName) -> int | None:
        child = self._children.get(stream)
        return None if child is None or child.process is None else child.process.pid

    @property
    def over(self) -> bool:
        """Every process has ended and none will be started again."""
        return all(child.process is None and child.next_start is None for child in self._children.values())

    def poll(self) -> list[Exit | Restart]:
        """Notice ends and stalls, restart what is due, and say what happened."""
        events: list[Exit | Restart] = []
        now = time.monotonic()
        asleep_s, self._polled_at = now - self._polled_at, now
        for child in self._children.values():
            if asleep_s > ASLEEP_S:  # what they said meanwhile is still to be read
                silent = child.heard_at == child.started_at
                child.heard_at = min(now, child.heard_at + asleep_s)
                child.started_at = child.heard_at if silent else child.started_at
            if child.process is not None:
                self._end_if_stalled(child, now)
                code = child.process.poll()
                if code is not None:
                    events.append(self._ended(child, code, now))
            elif child.next_start is not None and now >= child.next_start:
                events.append(self._started_again(child, now))
        return events

    def stop(self) -> None:
        """End every process: by closing its standard input, then by signal. Nothing that can die stays."""
        running = [child.process for child in self._children.values() if child.process is not None]
        for process in running:
            _close_input(process)
        deadline = time.monotonic() + STOP_S
        for process in running:
            for harder in (process.terminate, process.kill):
                try:
                    process.wait(max(0.2, deadline - time.monotonic()))
                    break
                except subprocess.TimeoutExpired:
                    harder()
            try:
                process.wait(KILL_S)
            except subprocess.TimeoutExpired:
                log.warning("process %d does not die, it hangs in the kernel: left behind", process.pid)

    def _write(self, stream: StreamName, line: Go | Wish) -> None:
        child = self._children[stream]
        if child.process is None or child.process.stdin is None or child.process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # it has just died; poll will see it
            child.process.stdin.write(msgspec.json.encode(line) + b"\n")
            child.process.stdin.flush()

    def _spawn(self, child: _Child) -> None:
        sense = child.sense
        child.process = subprocess.Popen(
            [sys.executable, "-m", sense.module, *sense.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the session, which then closes standard input
        )
        child.started_at = child.heard_at = time.monotonic()
        child.next_start = None
        threading.Thread(target=_log_lines, args=(sense.stream, child.process), daemon=True).start()

    def _started_again(self, child: _Child, now: float) -> Exit | Restart:
        try:
            self._spawn(child)
        except OSError as error:  # no memory, or no number for another process: that may pass
            child.next_start = None
            return self._failed(child, f"it cannot be started: {error}", now)
        child.restarts += 1
        return Restart(child.sense.stream, child.cause)

    def _end_if_stalled(self, child: _Child, now: float) -> None:
        assert child.process is not None
        # Loading models takes a while on a small machine, hence the triple patience at the start.
        patience = STALL_S if child.heard_at > child.started_at else 3 * STALL_S
        if self._watch_stalls and now - child.heard_at > patience:
            log.warning("%s: no sign of life for %.0f s, ending it", child.sense.stream, patience)
            child.process.kill()
            child.heard_at = now  # a later poll sees its end: in a driver it may not die at once

    def _ended(self, child: _Child, code: int, now: float) -> Exit:
        assert child.process is not None
        _close_input(child.process)
        child.process = None
        stream = child.sense.stream
        if code == EXIT_ENDED and not child.sense.endless:
            return Exit(stream, "end of input", True, None)
        if code == EXIT_ABSENT and not child.sense.device:
            return Exit(stream, "source absent", True, None)
        if code == EXIT_ABSENT:
            child.cause = "the device was absent"
            child.next_start = now + ABSENT_RETRY_S
            return Exit(stream, child.cause, True, ABSENT_RETRY_S)
        if now - child.started_at > HEALTHY_S:
            child.failures = 0
        return self._failed(child, f"signal {-code}" if code < 0 else f"exit status {code}", now)

    def _failed(self, child: _Child, cause: str, now: float) -> Exit:
        """One more failure: try again later, or give up."""
        stream, child.cause = child.sense.stream, cause
        if not child.sense.endless and child.failures >= MAX_FILE_FAILURES:
            return Exit(stream, f"{cause}, {child.failures + 1} times in a row", False, None)
        wait_s = BACK_OFF_S[min(child.failures, len(BACK_OFF_S) - 1)]
        child.failures += 1
        child.next_start = now + wait_s
        return Exit(stream, cause, False, wait_s)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead, and what it was told last lies in the buffer
        process.stdin.close()


def _log_lines(stream: StreamName, process: subprocess.Popen[bytes]) -> None:
    """Hand a child's standard error to the log, a line at a time."""
    assert process.stderr is not None
    child_log = logging.getLogger(f"capture.{stream}")
    for line in process.stderr:
        child_log.info("%s", line.decode(errors="replace").rstrip())
    process.stderr.close()
