"""Finding: what one check saw, and the patience that every check has."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import msgspec

from runtime.doctor import system

Level = Literal["ok", "warning", "fault"]
TIME_S = 20.0


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``warning``: a session runs, without something; ``fault``: it does not, or not as it was asked to."""

    level: Level
    detail: str  # one line
    remedy: str = ""  # what to type, or do
    check: str = ""
    seconds: float = 0.0


def ok(detail: str) -> Finding:
    return Finding("ok", detail)


def warning(detail: str, remedy: str = "") -> Finding:
    return Finding("warning", detail, remedy)


def fault(detail: str, remedy: str = "") -> Finding:
    return Finding("fault", detail, remedy)


@dataclass(frozen=True)
class Check:
    """One thing to look at; ``look`` may take its time, raise, crash, or never come back.

    It runs in a process of its own, which ends when the time is up: what went on computing would spoil the
    speeds that are measured after it.
    """

    name: str
    look: Callable[[], Finding]
    limit_s: float = TIME_S
    stuck: str = "close other programs, and run it again"  # what to do when there is no answer

    def run(self) -> Finding:
        """What it saw; that it failed or took too long is a fault, too."""
        started = time.monotonic()
        forked = multiprocessing.get_context("fork")  # nothing is imported again, which took a second each
        answer, its = forked.Pipe(duplex=False)
        process = forked.Process(target=_answer, args=(self.look, its), name=self.name, daemon=True)
        process.start()
        assert process.pid is not None
        its.close()
        try:
            if answer.poll(self.limit_s):
                found = msgspec.json.decode(answer.recv_bytes(), type=Finding)
            else:
                found = fault(f"no answer in {self.limit_s:g} s", self.stuck)
        except EOFError:  # a driver or a library took the process down
            process.join(1)
            found = fault(f"the check itself crashed (exit status {process.exitcode})", REPORT)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has no group before its first line
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join(1)  # no longer: one that hangs in a driver cannot be killed
            answer.close()
        took = round(time.monotonic() - started, 3)
        return msgspec.structs.replace(found, check=self.name, seconds=took)


REPORT = "please report it, with this line"


def _answer(look: Callable[[], Finding], out: Connection) -> None:
    """In the check's process: look, tell, and end without waiting for threads of libraries."""
    os.setsid()  # programs that the check starts end with it
    try:
        found = look()
    except Exception as error:
        found = _failed(error)
    out.send_bytes(msgspec.json.encode(found))
    os._exit(0)


def _failed(error: Exception) -> Finding:
    if isinstance(error, ImportError | OSError) and (missed := system.missed(str(error))) is not None:
        library, command = missed
        return fault(f"{library} is not on this machine", command)
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return fault(f"the check itself failed: {told}", REPORT)
