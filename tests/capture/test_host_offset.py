"""Host offset: a process with another clock is found out to within what the answer itself says."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from capture.clock import HostClock
from capture.host_offset import (
    KEPT,
    Exchange,
    Filter,
    HostOffset,
    NoAnswer,
    answer,
    measure,
    prepare,
)

ROOT = Path(__file__).parents[2]
OTHER_HOST = """
import sys, zmq
from capture.clock import HostClock
from capture.host_offset import answer, prepare
socket = zmq.Context.instance().socket(zmq.REP)
prepare(socket)
port = socket.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)
answer(socket, HostClock(origin_ns=-int(sys.argv[1])), lambda: False)
"""
Start = Callable[[int], tuple[str, subprocess.Popen[str]]]


@pytest.fixture
def other_host() -> Iterator[Start]:
    """Starts an echo in a process of its own, whose clock is ahead by so many nanoseconds."""
    running: list[subprocess.Popen[str]] = []

    def start(ahead_ns: int) -> tuple[str, subprocess.Popen[str]]:
        command = [sys.executable, "-c", OTHER_HOST, str(ahead_ns)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        return f"tcp://127.0.0.1:{int(running[-1].stdout.readline())}", running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def asking(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        prepare(socket)
        socket.connect(endpoint)
        yield socket


def exchange(ahead_ns: int, there_ns: int, back_ns: int, t_ns: int = 0, work_ns: int = 1000) -> Exchange:
    """What is stamped when the ways take so long."""
    received = t_ns + there_ns
    return Exchange(t_ns, received + ahead_ns, received + work_ns + ahead_ns, received + work_ns + back_ns)


@pytest.mark.parametrize("ahead_ns", [0, 3_600_000_000_000, -1_234_567_890])
def test_the_clock_of_another_process_is_found_to_the_millisecond(other_host: Start, ahead_ns: int) -> None:
    endpoint, _ = other_host(ahead_ns)
    with asking(endpoint) as socket:
        found = measure(socket, HostClock())
    assert found.lost == 0 and found.exchanges == KEPT
    assert abs(found.offset_ns - ahead_ns) <= found.error_ns < 5_000_000
    assert found.here_ns(found.there_ns(42)) == 42
    now_ns = time.monotonic_ns()
    assert abs(found.there_ns(now_ns) - (now_ns + ahead_ns)) <= found.error_ns


@contextlib.contextmanager
def slow_way(endpoint: str, delays_s: list[float]) -> Iterator[str]:
    """A way to the other host on which requests wait, in turn, for so long; answers do not."""
    done = threading.Event()
    with zmq.Context() as context:
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        port = front.bind_to_random_port("tcp://127.0.0.1")
        back.connect(endpoint)

        def carry() -> None:
            turn = 0
            while not done.is_set():
                if front.poll(5):
                    frames = front.recv_multipart()
                    time.sleep(delays_s[turn % len(delays_s)])
                    turn += 1
                    back.send_multipart(frames)
                    if back.poll(2000):
                        front.send_multipart(back.recv_multipart())
            front.close(0)
            back.close(0)

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{port}"
        finally:
            done.set()
            thread.join()


def test_a_congested_way_misleads_the_mean_and_not_the_least_round_trip(other_host: Start) -> None:
    ahead_ns = 5_000_000_000
    endpoint, _ = other_host(ahead_ns)
    seen: list[Exchange] = []

    class Seen(Filter):
        def observe(self, exchange: Exchange) -> None:
            seen.append(exchange)
            super().observe(exchange)

    with slow_way(endpoint, [0.04, 0.06, 0.05, 0.0]) as way, asking(way) as socket:
        found = measure(socket, HostClock(), exchanges=12, into=Seen(12))
    mean_ns = np.mean([one.offset_ns for one in seen])
    assert abs(mean_ns - ahead_ns) > 10_000_000
    assert abs(found.offset_ns - ahead_ns) <= found.error_ns < 8_000_000


@given(
    ahead_ns=st.integers(-(10**15), 10**15),
    ways=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20),
    ppm=st.floats(-40, 40),
)
def test_the_offset_is_never_wrong_by_more_than_it_says(
    ahead_ns: int, ways: list[tuple[int, int]], ppm: float
) -> None:
    """Whatever the ways take, and while the clocks drift apart."""
    kept, t_ns = Filter(), 0
    for there_ns, back_ns in ways:
        ahead_now_ns = ahead_ns + round(t_ns * ppm * 1e-6)
        kept.observe(exchange(ahead_now_ns, there_ns, back_ns, t_ns))
        t_ns += 2_000_000_000
        found = kept.offset()
        assert found is not None
        assert abs(found.offset_ns - ahead_now_ns) <= found.error_ns + 2


def test_a_clock_that_drifts_is_followed_for_an_hour() -> None:
    kept, random = Filter(), np.random.default_rng(0)
    for second in range(0, 3600, 10):
        t_ns = second * 10**9
        ahead_ns = round(t_ns * 30e-6)
        there_ns, back_ns = (int(w) for w in 200_000 + random.exponential(3_000_000, 2))
        kept.observe(exchange(ahead_ns, there_ns, back_ns, t_ns))
    found = kept.offset()
    assert found is not None and found.exchanges == KEPT
    assert abs(found.offset_ns - ahead_ns) < 5_000_000
    assert ahead_ns > 100_000_000  # what it would be wrong by, had it been measured once


def test_another_host_that_starts_anew_is_believed_at_once(other_host: Start) -> None:
    first, process = other_host(7_000_000_000)
    kept = Filter()
    with asking(first) as socket:
        measure(socket, HostClock(), into=kept)
    process.kill()
    second, _ = other_host(-7_000_000_000)
    with asking(second) as socket:
        found = measure(socket, HostClock(), exchanges=1, into=kept)
    assert abs(found.offset_ns + 7_000_000_000) <= found.error_ns
    assert found.exchanges == 1


def test_an_exchange_that_came_back_before_it_was_sent_is_forgotten() -> None:
    kept = Filter()
    kept.observe(exchange(0, 1000, 1000))
    kept.observe(Exchange(10_000, 10_000, 10_000, 9_000))
    assert kept.offset() is None


def test_nobody_there_is_one_line_within_a_second(endpoint: str) -> None:
    started = time.monotonic()
    with asking(endpoint) as socket, pytest.raises(NoAnswer, match="no answer to 3 requests") as caught:
        measure(socket, HostClock(), timeout_s=0.2)
    assert time.monotonic() - started < 1.5 and "\n" not in str(caught.value)


def test_a_host_that_freezes_loses_requests_and_answers_again(other_host: Start) -> None:
    endpoint, process = other_host(1_000_000)
    kept = Filter()
    with asking(endpoint) as socket:
        measure(socket, HostClock(), into=kept)
        process.send_signal(signal.SIGSTOP)
        measure(socket, HostClock(), exchanges=2, timeout_s=0.2, into=kept)
        process.send_signal(signal.SIGCONT)
        found = measure(socket, HostClock(), into=kept)
    assert found.lost >= 2  # a late answer is lost, and never taken for another's
    assert abs(found.offset_ns - 1_000_000) <= found.error_ns < 5_000_000


@pytest.mark.parametrize("request_bytes", [b"", b"\xc1", b"\x91\xff", b"\x91\xa4many", bytes(60)])
def test_a_malformed_request_costs_nobody_else_anything(request_bytes: bytes) -> None:
    done = threading.Event()
    counted: list[int] = []
    with zmq.Context() as context, context.socket(zmq.REP) as echo:
        prepare(echo)
        endpoint = f"tcp://127.0.0.1:{echo.bind_to_random_port('tcp://127.0.0.1')}"
        thread = threading.Thread(target=lambda: counted.append(answer(echo, HostClock(), done.is_set)))
        thread.start()
        try:
            with asking(endpoint) as socket:
                socket.send(request_bytes)
                assert socket.poll(2000) and socket.recv() == b""
                assert abs(measure(socket, HostClock(), exchanges=2).offset_ns) < 5_000_000
        finally:
            done.set()
            thread.join()
    assert counted == [1]


def test_a_malformed_answer_is_a_lost_one() -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as liar:
        endpoint = f"tcp://127.0.0.1:{liar.bind_to_random_port('tcp://127.0.0.1')}"

        def lie() -> None:
            for told in (b"", b"\xc1", msgspec.msgpack.encode([9, 0, 0])):  # the last: of another request
                if liar.poll(2000):
                    liar.recv()
                    liar.send(told)

        thread = threading.Thread(target=lie)
        thread.start()
        with asking(endpoint) as socket, pytest.raises(NoAnswer):
            measure(socket, HostClock(), timeout_s=0.3)
        thread.join()


def test_what_was_measured_can_be_recorded() -> None:
    kept = Filter()
    kept.observe(exchange(5_000_000, 1000, 1000))
    found = kept.offset()
    assert found is not None
    assert msgspec.json.decode(msgspec.json.encode(found), type=HostOffset) == found
