"""The supervisor, with real processes: it restarts what dies and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.link import Wish
from runtime import supervisor
from runtime.sources import LiveSource
from runtime.supervisor import Exit, Restart, Sense, Supervisor

Make = Callable[..., Supervisor]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Supervise a module whose body is given; it is on the path of the process as ``sense``."""
    made: list[Supervisor] = []
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def build(
        body: str, *, device: bool = False, live: bool = False, watch_stalls: bool = False
    ) -> Supervisor:
        (tmp_path / "sense.py").write_text(f"import sys, time, os, signal\n{body}\n")
        one = Supervisor([Sense("vision", "sense", (), device, live)], watch_stalls=watch_stalls)
        made.append(one)
        one.start()
        return one

    yield build
    for one in made:
        one.stop()


def events(one: Supervisor, count: int, timeout_s: float = 20) -> list[Exit | Restart]:
    seen: list[Exit | Restart] = []
    deadline = time.monotonic() + timeout_s
    while len(seen) < count and time.monotonic() < deadline:
        seen += one.poll()
        time.sleep(0.01)
    return seen


def test_a_process_that_ends_by_itself_stays_down(make: Make) -> None:
    one = make("sys.exit(0)")
    assert events(one, 1) == [Exit("vision", "end of input", True, None)]
    assert one.over


def test_a_killed_process_is_started_again(make: Make) -> None:
    one = make("sys.stdin.read()")
    pid = one.pid("vision")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    died, back = events(one, 2)
    assert isinstance(died, Exit) and died.cause == "signal 9" and not died.expected
    assert isinstance(back, Restart) and one.restarts("vision") == 1
    assert one.pid("vision") not in (None, pid)


def test_the_back_off_grows_and_a_file_that_kills_its_reader_is_given_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr(supervisor, "MAX_FILE_FAILURES", 3)
    one = make("sys.exit(7)")
    seen = [event for event in events(one, 7) if isinstance(event, Exit)]
    assert [event.retry_in_s for event in seen] == [0.01, 0.02, 0.03, None]
    assert "exit status 7, 4 times" in seen[-1].cause and one.over


def test_an_absent_device_is_looked_for_again_and_an_absent_file_is_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "ABSENT_RETRY_S", 0.05)
    device = make("sys.exit(3)", device=True)
    assert [type(event) for event in events(device, 3)] == [Exit, Restart, Exit]
    file = make("sys.exit(3)")
    assert events(file, 1) == [Exit("vision", "source absent", True, None)]
    assert file.over


def test_a_silent_process_is_ended_and_started_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", 0.1)
    one = make("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", watch_stalls=True)
    died, back = events(one, 2)
    assert isinstance(died, Exit) and died.cause == "signal 9"
    assert isinstance(back, Restart)


def test_what_hears_something_live_is_never_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.01, 0.02))
    monkeypatch.setattr(supervisor, "MAX_FILE_FAILURES", 2)
    one = make("sys.exit(7)", live=True)
    seen = [event for event in events(one, 9) if isinstance(event, Exit)]
    assert [event.retry_in_s for event in seen] == [0.01, 0.02, 0.02, 0.02, 0.02]


@pytest.mark.parametrize("kind", ["device", "live"])
def test_what_hears_something_live_has_no_end_by_itself(make: Make, kind: str) -> None:
    one = make("sys.exit(0)", **{kind: True})
    died, back = events(one, 2)
    assert died == Exit("vision", "exit status 0", False, supervisor.BACK_OFF_S[0])
    assert isinstance(back, Restart) and not one.over


def test_a_machine_that_cannot_start_another_process_is_asked_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.01, 0.02, 0.03))
    one = make("sys.exit(7)", device=True)
    real = subprocess.Popen
    refused = 0

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    died, once, twice, back = events(one, 4)
    assert died == Exit("vision", "exit status 7", False, 0.01)
    for event, wait_s in ((once, 0.02), (twice, 0.03)):
        assert isinstance(event, Exit) and event.retry_in_s == wait_s and not event.expected
        assert event.cause == "it cannot be started: [Errno 11] Resource temporarily unavailable"
    assert isinstance(back, Restart) and one.restarts("vision") == 1


def test_who_has_been_asleep_himself_ends_nobody_for_being_silent(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", 0.3)
    monkeypatch.setattr(supervisor, "ASLEEP_S", 0.2)
    one = make("sys.stdin.read()", watch_stalls=True)
    pid = one.pid("vision")
    time.sleep(0.01)
    one.heard("vision")
    one.poll()
    time.sleep(1.0)  # nobody polls, as when the session is stopped or its machine sleeps
    assert one.poll() == [] and one.poll() == []
    assert one.pid("vision") == pid and one.restarts("vision") == 0
    died = events(one, 1)[0]  # from now on it is watched again
    assert isinstance(died, Exit) and died.cause == "signal 9"


def test_who_is_stopped_while_his_processes_load_their_models_does_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sense.py").write_text("import sys\nsys.stdin.read()\n")  # never ready, like a long download
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = LiveSource([Sense("text", "sense", (), False)], session="s", absent={}, media=False)
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    source.open(stopping)
    assert asked == 4 and source.start_ns > 0
    source.close()


def test_stopping_is_bounded_even_for_a_process_that_will_not_go(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.3)
    one = make("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', file=sys.stderr); time.sleep(60)")
    pid = one.pid("vision")
    time.sleep(0.3)
    started = time.monotonic()
    one.stop()
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid or 0, 0)


def unkillable(one: Supervisor, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[bytes]:
    """Its process, on which signals have no effect for now, as while a driver does not answer."""
    process = one._children["vision"].process
    assert process is not None
    monkeypatch.setattr(process, "kill", lambda: None)
    monkeypatch.setattr(process, "terminate", lambda: None)
    return process


def test_a_process_that_hangs_in_a_driver_keeps_nobody_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", 0.1)
    one = make("time.sleep(60)", watch_stalls=True)
    process = unkillable(one, monkeypatch)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        began = time.monotonic()
        assert one.poll() == []
        assert time.monotonic() - began < 0.5
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # now it dies of it
    died, back = events(one, 2)
    assert isinstance(died, Exit) and died.cause == "signal 9" and isinstance(back, Restart)


def test_stopping_is_bounded_even_for_a_process_that_hangs_in_a_driver(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.3)
    monkeypatch.setattr(supervisor, "KILL_S", 0.3)
    one = make("time.sleep(60)")
    process = unkillable(one, monkeypatch)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 5 and process.poll() is None
    assert f"process {process.pid} does not die" in caplog.text
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_process_that_dies_before_it_has_read_what_it_was_told_ends_nothing(make: Make) -> None:
    one = make("sys.exit(1)")
    deadline = time.monotonic() + 10
    pid = one.pid("vision")
    assert pid is not None
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is gone, and nobody has noticed
    one.tell("vision", Wish(rate_hz=5.0))
    died = events(one, 1, deadline - time.monotonic())[0]
    assert isinstance(died, Exit) and died.cause == "exit status 1"
