"""`python -m runtime.hosts`: two processes, two hosts, and who may ask; over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from runtime import keys
from runtime.hosts import Measured, offset_to

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "runtime.hosts"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command, waits for its first line, and ends it with Ctrl-C."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix, *COMMAND, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


def answering(start: Start, endpoint: str, *arguments: object) -> subprocess.Popen[str]:
    process = start("answer", "--endpoint", endpoint, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == f"telling the time at {endpoint}\n"
    return process


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )


def test_the_clock_of_another_process_of_this_host_is_ours_and_the_record_says_so(
    start: Start, endpoint: str, tmp_path: Path
) -> None:
    process = answering(start, endpoint)
    record = tmp_path / "offsets.jsonl"
    for _ in range(2):
        done = run("measure", "--endpoint", endpoint, "--out", record)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("the other clock is 0.") and "to within 0." in done.stdout
    lines = [msgspec.json.decode(line, type=Measured) for line in record.read_bytes().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert abs(line.offset.offset_ns) <= line.offset.error_ns < 50e6
        assert line.endpoint == endpoint
    here = offset_to(endpoint)
    assert abs(here.here_ns(10**12) - 10**12) <= here.error_ns
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 0


def test_only_who_is_on_the_list_is_told_the_time(start: Start, endpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.init(folder)
    known = keys.add(folder, "robot")
    stranger_folder = tmp_path / "others"
    keys.init(stranger_folder)
    stranger = keys.add(stranger_folder, "stranger")
    answering(start, endpoint, "--keys", folder)
    assert run("measure", "--endpoint", endpoint, "--key", known).returncode == 0
    for options in ((), ("--key", stranger)):
        done = run("measure", "--endpoint", endpoint, *options)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("error: no answer") and done.stderr.count("\n") == 1


def test_a_host_that_is_gone_is_told_once_and_heard_again_when_it_is_back(
    start: Start, endpoint: str
) -> None:
    first = answering(start, endpoint)
    measuring = start("measure", "--endpoint", endpoint, "--every", "0.2", "--json")
    assert measuring.stdout is not None and measuring.stderr is not None
    assert json.loads(measuring.stdout.readline())["offset"]["exchanges"] == 8
    first.send_signal(signal.SIGINT)
    first.wait(5)
    assert "no answer" in measuring.stderr.readline()
    answering(start, endpoint)
    before = time.monotonic_ns()
    while json.loads(measuring.stdout.readline())["offset"]["t_ns"] < before:
        pass  # what was in the pipe
    measuring.send_signal(signal.SIGINT)
    _, errors = measuring.communicate(timeout=10)
    assert (measuring.returncode, errors) == (0, "")


def test_junk_stops_nobody(start: Start, endpoint: str) -> None:
    process = answering(start, endpoint)
    socket: zmq.Socket[bytes]
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(b"\xc1 what time is it?")
        assert socket.poll(5000)
    assert run("measure", "--endpoint", endpoint).returncode == 0
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert errors == "1 malformed requests\n"


def test_what_cannot_be_used_is_one_line_and_status_2(endpoint: str, tmp_path: Path) -> None:
    cases = {
        ("answer", "--endpoint", "tcp://0.0.0.0:5564"): "reaches beyond this machine",
        ("answer", "--endpoint", "nowhere"): "is no endpoint",
        ("answer", "--keys", tmp_path): "is no key folder",
        ("measure", "--endpoint", "tcp://127.0.0.1:0"): "is no endpoint",
        ("measure", "--endpoint", endpoint, "--key", tmp_path / "none"): "is no key file",
        ("measure", "--endpoint", endpoint, "--out", tmp_path / "none/a.jsonl"): "--out takes a file",
        ("measure", "--every", "0"): "expected seconds",
    }
    for arguments, expected in cases.items():
        done = run(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert expected in done.stderr
        assert done.stderr.startswith(("error: ", "usage: ")) and "Traceback" not in done.stderr


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces, joined by a cable: hosts of their own, as far as a socket can tell."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2 (apt-get install iproute2)")
    names = (f"emotion-a{os.getpid()}", f"emotion-b{os.getpid()}")

    def do(*words: str) -> int:
        return subprocess.run([ip, *words], capture_output=True).returncode

    made = [do("netns", "add", name) for name in names]
    if not any(made):
        a, b = f"va{os.getpid()}", f"vb{os.getpid()}"
        made.append(
            do("link", "add", a, "netns", names[0], "type", "veth", "peer", "name", b, "netns", names[1])
        )
        for name, link, address in ((names[0], a, "10.77.0.1/24"), (names[1], b, "10.77.0.2/24")):
            made.append(do("-n", name, "addr", "add", address, "dev", link))
            made.append(do("-n", name, "link", "set", link, "up"))
    try:
        if any(made):
            pytest.skip("this machine lets nobody make network namespaces")
        yield names
    finally:
        for name in names:
            do("netns", "delete", name)


def test_over_a_network_a_listed_host_measures_with_its_key(
    start: Start, two_hosts: tuple[str, str], tmp_path: Path
) -> None:
    here, there = (("ip", "netns", "exec", name) for name in two_hosts)
    folder = tmp_path / "keys"
    keys.init(folder)
    key = keys.add(folder, "robot")
    endpoint = "tcp://10.77.0.1:5564"
    answerer = start("answer", "--endpoint", endpoint, "--keys", folder, prefix=here)
    assert answerer.stdout is not None and endpoint in answerer.stdout.readline()
    asker = start("measure", "--endpoint", endpoint, "--key", key, "--json", prefix=there)
    output, errors = asker.communicate(timeout=20)
    assert (asker.returncode, errors) == (0, "")
    offset = msgspec.json.decode(output, type=Measured).offset
    assert abs(offset.offset_ns) <= offset.error_ns < 50e6  # one machine after all: one clock
