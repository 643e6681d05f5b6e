"""Mischief: something bad that is done on purpose, every few seconds, to a session that runs.

What is done, and to which process, is drawn from a seed, so that a run can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException

import zmq

from runtime import proc

EVERY_S = (12.0, 25.0)  # between two faults
STALL_S = 3.0
LONG_STALL_S = 14.0  # longer than the supervisor's patience
BURST_S, GAP_S = 2.0, 14.0  # how long the application itself is stopped
PAGE_S = 30.0  # how long a page that was killed is waited for
PAGE = "runtime.dashboard"
PAGE_KILLED, NOISE = "page killed", "junk on a pipe"
STALLED = "stalled for good"
JUNK = 50  # messages of it
EVERYTHING = "text", "audio", "vision", "windows"
MODULES = {"vision": "capture.camera", "audio": "capture.microphone", "text": "capture.transcript"}


@dataclass(slots=True)
class Fault:
    """Something bad that was done."""

    at_s: float  # seconds since the beginning, on the clock of the one who did it
    kind: str
    sense: str = ""
    hits: tuple[str, ...] = ()  # what may lose something by it: senses, or windows; nothing else may
    media_ns: int = 0  # on the session's clock; only newer samples come from a process that is well again
    over_s: float | None = None  # when it was taken back
    well_s: float | None = None  # when the sense was in a window again, with fresh samples


class Mischief:
    """A thread that kills, stalls, floods and freezes until it is told to stop.

    Args:
        pid: of the application; its capture processes are found.
        endpoint: of its stream.
        page: where it serves its page; None: it has none.
        now_s, media_ns: the time, on the bench's clock and on the session's.
        until_s: no fault begins later.
    """

    def __init__(
        self,
        pid: int,
        endpoint: str,
        seed: int,
        *,
        page: str | None,
        now_s: Callable[[], float],
        media_ns: Callable[[], int],
        until_s: float,
    ) -> None:
        self.faults: list[Fault] = []
        self._pid, self._endpoint, self._page = pid, endpoint, page
        self._now_s, self._media_ns, self._until_s = now_s, media_ns, until_s
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._problem: Exception | None = None
        self._frozen: list[zmq.Socket[bytes]] = []
        self._thread = threading.Thread(target=self._run, name="mischief")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take back what is being done, and end. Raises what stopped it before its time."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for socket in self._frozen:
            socket.close(linger=0)
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        kinds = [self._kill] * 4 + [self._stall] * 2 + [self._burst, self._gap, self._stall_long]
        kinds += [self._noise, self._storm, self._freeze]
        kinds += [self._kill_page] if self._page is not None else []
        once = self._random.sample(list(dict.fromkeys(kinds)), len(set(kinds)))  # first each of them
        while not self._over.wait(self._random.uniform(*EVERY_S)) and self._now_s() <= self._until_s:
            try:
                (once.pop() if once else self._random.choice(kinds))()
            except ProcessLookupError:  # it has just been restarted
                continue
            except Exception as error:
                self._problem = error
                return

    def _child(self) -> tuple[str, int]:
        """A capture process that runs, by chance. Raises ProcessLookupError where there is none."""
        running: dict[str, int] = {}
        for pid in proc.children(self._pid):
            words = proc.command(pid)
            running |= {sense: pid for sense, module in MODULES.items() if module in words}
        if not running:
            raise ProcessLookupError
        sense = self._random.choice(sorted(running))
        return sense, running[sense]

    def _begin(self, kind: str, sense: str = "", hits: tuple[str, ...] = ()) -> Fault:
        fault = Fault(self._now_s(), kind, sense, hits, self._media_ns())
        self.faults.append(fault)
        return fault

    def _kill(self) -> None:
        sense, pid = self._child()
        hit = _hit(sense, pid)
        os.kill(pid, signal.SIGKILL)
        fault = self._begin("killed", sense, hit)
        fault.over_s = self._now_s()

    def _kill_page(self) -> None:
        page = next((pid for pid in proc.children(self._pid) if PAGE in proc.command(pid)), None)
        if page is None:
            raise ProcessLookupError
        os.kill(page, signal.SIGKILL)
        fault = self._begin(PAGE_KILLED)
        fault.over_s = self._now_s()
        while fault.well_s is None and self._now_s() < fault.over_s + PAGE_S and not self._over.wait(0.1):
            with (
                contextlib.suppress(OSError, HTTPException),
                urllib.request.urlopen(f"http://{self._page}/", timeout=1),
            ):
                fault.well_s = self._now_s()

    def _stop(self, kind: str, sense: str, pid: int, seconds: float) -> None:
        hit = _hit(sense, pid) if sense else EVERYTHING
        os.kill(pid, signal.SIGSTOP)
        fault = self._begin(kind, sense, hit)
        try:
            self._over.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            fault.over_s = self._now_s()

    def _stall(self) -> None:
        self._stop(f"stalled {STALL_S:g} s", *self._child(), STALL_S)

    def _stall_long(self) -> None:
        self._stop(STALLED, *self._child(), LONG_STALL_S)

    def _burst(self) -> None:
        self._stop(f"application stopped {BURST_S:g} s", "", self._pid, BURST_S)

    def _gap(self) -> None:
        self._stop(f"application stopped {GAP_S:g} s", "", self._pid, GAP_S)

    def _noise(self) -> None:
        _, pid = self._child()
        words = proc.command(pid)
        if "--endpoint" not in words:
            raise ProcessLookupError
        pipe = words[words.index("--endpoint") + 1]
        fault = self._begin(NOISE)
        intruder: zmq.Socket[bytes]
        with zmq.Context.instance().socket(zmq.PUSH) as intruder:
            intruder.setsockopt(zmq.LINGER, 500)
            intruder.connect(pipe)
            for _ in range(JUNK):
                intruder.send_multipart([b"\xc1 no message", os.urandom(64)])
        fault.over_s = self._now_s()

    def _storm(self) -> None:
        fault = self._begin("200 subscribers come and go")
        one: zmq.Socket[bytes]
        shaken: zmq.Socket[bytes]
        for _ in range(200):
            with zmq.Context.instance().socket(zmq.SUB) as one:
                shaken = one.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
                one.setsockopt(zmq.LINGER, 0)
                one.connect(self._endpoint)
                one.subscribe(b"emotion")
                shaken.poll(1000)  # one that is closed before had no connection
                one.disable_monitor()
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


def _hit(sense: str, pid: int) -> tuple[str, ...]:
    """The senses that a fault of this process takes something from: words are made from sound."""
    return (sense, "text") if "--pcm" in proc.command(pid) else (sense,)
