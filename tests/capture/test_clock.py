"""Clocks: time that a test moves, time that runs, and dates for it."""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.clock import HostClock, VirtualClock, WallAnchor, WallClock, anchor

MS = 1_000_000


def test_virtual_time_moves_only_by_waiting_and_never_back() -> None:
    clock = VirtualClock(5)
    clock.wait_until_ns(3)
    assert clock.now_ns() == 5
    clock.wait_until_ns(3_600_000_000_000)
    assert clock.now_ns() == 3_600_000_000_000


def test_media_time_starts_at_its_origin() -> None:
    clock = HostClock("media", time.monotonic_ns())
    first = clock.now_ns()
    assert 0 <= first < 1_000 * MS
    assert HostClock("media", time.monotonic_ns() + 10**12).now_ns() < 0, "before the media begins"


def test_a_paced_clock_waits_until_the_time_and_not_less() -> None:
    clock = HostClock("media", time.monotonic_ns())
    clock.wait_until_ns(30 * MS)
    assert clock.now_ns() >= 30 * MS
    before = time.monotonic_ns()
    clock.wait_until_ns(-(10**12))  # long past
    assert time.monotonic_ns() - before < 500 * MS


def test_an_unpaced_clock_does_not_wait() -> None:
    clock = HostClock("media", time.monotonic_ns(), paced=False)
    before = time.monotonic_ns()
    clock.wait_until_ns(10**15)
    assert time.monotonic_ns() - before < 1_000 * MS


def test_the_clock_is_the_same_in_another_process() -> None:
    clock = HostClock("media", time.monotonic_ns())
    code = (
        "import sys, msgspec; from capture.clock import HostClock; "
        "print(msgspec.json.decode(sys.argv[1], type=HostClock).now_ns())"
    )
    before = clock.now_ns()
    sent = msgspec.json.encode(clock).decode()
    there = int(subprocess.run([sys.executable, "-c", code, sent], capture_output=True, check=True).stdout)
    assert before <= there <= clock.now_ns()


@pytest.mark.parametrize("data", [b'{"kind":"sundial"}', b'{"origin_ns":1.5}', b'{"speed":2}'])
def test_a_clock_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=HostClock)


@given(st.integers(-(2**62), 2**62), st.integers(0, 2**62), st.integers(-(2**62), 2**62))
def test_an_anchor_keeps_distances(t_capture_ns: int, wall_unix_ns: int, later_ns: int) -> None:
    wall = WallAnchor(t_capture_ns, wall_unix_ns)
    assert wall.wall_ns(t_capture_ns) == wall_unix_ns
    assert wall.wall_ns(t_capture_ns + later_ns) - wall.wall_ns(t_capture_ns) == later_ns


def test_an_anchor_reads_both_clocks_now() -> None:
    before = time.time_ns()
    wall = anchor(VirtualClock(42))
    assert wall.t_capture_ns == 42
    assert before <= wall.wall_unix_ns <= time.time_ns()


def test_a_date_that_is_set_in_a_session_is_followed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ahead_ns = VirtualClock(), 0
    monkeypatch.setattr("time.time_ns", lambda: 10**18 + clock.now_ns() + ahead_ns)
    wall = WallClock(clock)
    clock.wait_until_ns(900 * MS)
    ahead_ns = 2_500 * MS
    assert wall.renew() == 0.0 and wall.anchor.wall_ns(0) == 10**18, "once a second is enough"
    clock.wait_until_ns(1_000 * MS)
    assert wall.renew() == 2.5
    assert wall.anchor.wall_ns(clock.now_ns()) == 10**18 + 3_500 * MS
    clock.wait_until_ns(2_000 * MS)
    ahead_ns -= 5 * MS
    assert wall.renew() == 0.0, "a clock that is kept right is no news"
    assert wall.anchor.wall_ns(clock.now_ns()) == 10**18 + 4_495 * MS


def test_the_dates_of_a_recording_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    wall = WallClock(clock, WallAnchor(0, 10**18))
    clock.wait_until_ns(10**12)
    assert wall.renew() == 0.0 and wall.anchor == WallAnchor(0, 10**18)
