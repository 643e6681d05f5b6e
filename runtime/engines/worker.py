"""Worker: a build runs in a process of its own; a library that crashes, hangs or eats the memory ends alone.

TensorRT-RTX 1.7 does all three where memory is short: it throws, dies of SIGSEGV, or waits for ever for a
thread that found none. And Linux, when memory runs out, kills the largest process: that must be this one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from runtime.engine import EngineError
from runtime.engines.progress import Listener, Phases
from runtime.engines.trt_build import BuildError, Built, NoMemory

BEAT_S = 0.1
STALL_S = 60.0  # without progress and without work: it will not go on
STALL_CPU_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
OOM_SCORE = 500  # of 1000 more than others: Linux takes this process first
SHORT = "close other programs, or free memory otherwise"


class Interrupted(EngineError):
    """Somebody asked the build to stop. Nothing was written."""


class _Relay:
    """The build's side of ``Phases``: tells the process that waits. Where that is gone, so is the build."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._tell("start", name, parent, steps)

    def step(self, name: str, step: int) -> None:
        self._tell("step", name, step)

    def finish(self, name: str) -> None:
        self._tell("finish", name)

    def _tell(self, *what: object) -> None:
        try:
            self._pipe.send(what)
        except OSError:
            os._exit(1)  # whoever wanted the engine was killed


def run(work: Callable[[Listener], Built], phases: Phases, beat: Callable[[], None]) -> Built:
    """Call ``work`` (a function that can be pickled) in a process of its own, and answer what it answers.

    beat: called about ten times a second. Ctrl-C ends it at once.

    Raises:
        Interrupted: by Ctrl-C.
        BuildError: the library's answer, or it crashed; NoMemory: killed, stands still, or said so.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(work, theirs), name="engine-build", daemon=True)
    # Ctrl-C goes to every process of the terminal; a blocked signal stays blocked in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        try:
            process.start()
        except OSError as error:
            raise NoMemory(f"no process for the build ({error.strerror}): {SHORT}") from error
        theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return _wait(process, ours, phases, beat)
    except KeyboardInterrupt:
        raise Interrupted("stopped: no engine was written") from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if process.pid is not None:
            process.kill()
            process.join()
        ours.close()


def _wait(process: BaseProcess, pipe: Connection, phases: Phases, beat: Callable[[], None]) -> Built:
    moved_at, beat_at, cpu_s = time.monotonic(), 0.0, 0.0
    while True:
        if time.monotonic() - beat_at > BEAT_S:
            beat_at = time.monotonic()
            beat()
        if pipe.poll(BEAT_S):
            try:
                kind, *what = pipe.recv()
            except (EOFError, OSError):  # OSError: in the middle of a message
                process.join()
                raise _died(process.exitcode) from None
            if kind == "built":
                return _built(what[0])
            if kind == "failed":
                raise what[0]
            getattr(phases, kind)(*what)
            moved_at = time.monotonic()
            continue
        now_s = _cpu_s(process.pid)
        if now_s - cpu_s > STALL_CPU_S:
            moved_at, cpu_s = time.monotonic(), now_s
        if time.monotonic() - moved_at > STALL_S:
            raise NoMemory(
                f"the build has stood still for {STALL_S:.0f} s in {phases.now!r}, as it does where memory "
                f"is too little: {SHORT}"
            )


def _child(work: Callable[[Listener], Built], pipe: Connection) -> None:
    with contextlib.suppress(OSError):  # not every container allows it
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    try:
        answer: tuple[str, object] = "built", work(_Relay(pipe))
    except EngineError as error:
        answer = "failed", error
    except MemoryError:
        answer = "failed", NoMemory(f"the build ran out of memory: {SHORT}")
    except Exception as error:
        answer = "failed", BuildError(f"the build failed: {type(error).__name__}: {error}")
    pipe.send(answer)
    pipe.close()
    os._exit(0)  # a library that has lost a thread would not let go


def _built(answer: object) -> Built:
    if not isinstance(answer, Built):
        raise TypeError(f"{type(answer).__name__}, expected what was built")
    return answer


def _died(status: int | None) -> BuildError:
    """What to say of a process that is gone without a word."""
    if status == -signal.SIGKILL:
        return NoMemory(f"the build was killed, as Linux does when memory runs out: {SHORT}")
    how = f"exit status {status}"
    if status is not None and status < 0:
        how = signal.Signals(-status).name
    return BuildError(f"the library crashed ({how}): too little memory, or a fault of its own: {SHORT}")


def _cpu_s(pid: int | None) -> float:
    """Processor time that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS
