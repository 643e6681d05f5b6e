"""The link in a real process: go, publish, stop, and how it ends under every kind of end."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from capture.bus import Receiver, ipc, private_folder
from capture.clock import HostClock
from capture.link import Go, Wish
from capture.messages import FeatureBlock, Message, Status
from capture.trouble import SourceError

ROOT = Path(__file__).resolve().parents[2]
SENSE = """
import sys, time
import numpy as np
from capture.features.spec import StreamSpec
from capture.link import Link, arguments, run
from capture.trouble import SourceError

parser = arguments("sense", "a sense for tests")
parser.add_argument("mode")
options = parser.parse_args()

def work(link):
    if options.mode == "absent":
        raise SourceError("no_device", "camera 7 is not there: plug it in")
    go = link.wait_for_go("ready to see")
    if options.mode == "broken":
        raise KeyError("boom")
    link.status("running")
    step = 0
    while not link.stopping and not (options.mode == "short" and step == 5):
        link.beat()
        now_ns = go.start_ns + step * 1000
        link.features(np.array([now_ns]), np.full((1, 2), step, np.float32), link.clock.now_ns())
        step += 1
        time.sleep(0.02)

link = Link("vision", StreamSpec("test", ("a", "b"), 50.0), options.session, options.endpoint)
sys.exit(run(link, work))
"""
PARENT = (
    "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, close_fds=False).wait()"
)


class Session:
    """The test's side: a receiver, and capture processes to start."""

    def __init__(self, tmp_path: Path) -> None:
        self.script = tmp_path / "sense.py"
        self.script.write_text(SENSE)
        self.folder = private_folder()
        self.endpoint = ipc(self.folder, "vision")
        self.receiver = Receiver(self.endpoint, session="s", stream="vision")
        self.started: list[subprocess.Popen[bytes]] = []

    def command(self, mode: str) -> list[str]:
        return [sys.executable, str(self.script), "--session", "s", "--endpoint", self.endpoint, mode]

    def start(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, **options,
        )  # type: ignore[call-overload]  # fmt: skip
        self.started.append(process)
        return process

    def until(self, found: Callable[[Message], bool], within_s: float = 10.0) -> list[Message]:
        """Messages up to and with the one looked for; fails when it does not come."""
        messages: list[Message] = []
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            message = self.receiver.receive()
            if message is None:
                self.receiver.socket.poll(50)
                continue
            messages.append(message)
            if found(message):
                return messages
        raise AssertionError(f"not among {[getattr(m, 'state', m.stamp.seq) for m in messages]}")

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.receiver.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


def go(process: subprocess.Popen[bytes], start_ns: int = 0) -> None:
    clock = HostClock("media", time.monotonic_ns() - start_ns)
    say(process, msgspec.json.encode(Go(clock, start_ns)))


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


def hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def is_state(*states: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Status) and message.state in states


def is_block(message: Message) -> bool:
    return isinstance(message, FeatureBlock)


def test_from_ready_to_ended(session: Session) -> None:
    process = session.start(session.command("endless"))
    (ready,) = session.until(is_state("ready"))
    assert isinstance(ready, Status) and ready.detail == "ready to see"
    go(process, start_ns=5_000_000_000)
    messages = session.until(is_block)
    block = messages[-1]
    assert isinstance(block, FeatureBlock)
    assert block.stamp.t_capture_ns == 5_000_000_000
    assert 5_000_000_000 <= block.t_ready_ns <= block.stamp.t_publish_ns < 15_000_000_000
    hang_up(process)
    messages += session.until(is_state("ended"))
    assert process.wait(3) == 0
    assert [message.stamp.seq for message in [ready, *messages]] == list(range(len(messages) + 1))
    ended = messages[-1]
    assert isinstance(ended, Status)
    assert ended.produced == sum(is_block(message) for message in messages)


def test_it_says_once_a_second_that_it_lives(session: Session) -> None:
    process = session.start(session.command("endless"))
    session.until(is_state("ready"))
    go(process)
    session.until(is_state("running"))
    began = time.monotonic()
    session.until(is_state("running"), within_s=3)
    assert 0.5 < time.monotonic() - began < 2.5


def test_a_process_that_is_not_told_to_go_keeps_saying_ready_and_ends_with_its_session(
    session: Session,
) -> None:
    process = session.start(session.command("endless"))
    session.until(is_state("ready"))
    session.until(is_state("ready"), within_s=3)
    hang_up(process)
    session.until(is_state("ended"))
    assert process.wait(3) == 0


def test_a_source_that_ends_by_itself_ends_the_process_with_0(session: Session) -> None:
    process = session.start(session.command("short"))
    session.until(is_state("ready"))
    go(process)
    messages = session.until(is_state("ended"))
    assert process.wait(3) == 0, "its standard input is still open"
    assert sum(is_block(message) for message in messages) == 5
    assert process.stderr is not None and process.stderr.read() == b""


def test_a_missing_device_is_absent_with_its_reason_and_3(session: Session) -> None:
    process = session.start(session.command("absent"))
    status = session.until(is_state("absent"))[-1]
    assert isinstance(status, Status)
    assert (status.reason, status.detail) == ("no_device", "camera 7 is not there: plug it in")
    assert process.wait(3) == 3


@pytest.mark.parametrize(
    ("mode", "line", "reason"),
    [("broken", None, "KeyError"), ("endless", b"go!", "DecodeError"), ("endless", b"{}1", "DecodeError"),
     ("endless", b'{"clock":{"kind":"sundial"}}', "ValidationError")],
)  # fmt: skip
def test_a_bug_or_a_wrong_go_is_failed_with_a_traceback_and_1(
    session: Session, mode: str, line: bytes | None, reason: str
) -> None:
    process = session.start(session.command(mode))
    session.until(is_state("ready"))
    go(process) if line is None else say(process, line)
    status = session.until(is_state("failed"))[-1]
    assert isinstance(status, Status) and status.reason == reason
    assert process.wait(3) == 1
    assert process.stderr is not None and b"Traceback" in process.stderr.read()


def test_ctrl_c_is_left_to_the_session(session: Session) -> None:
    process = session.start(session.command("endless"))
    session.until(is_state("ready"))
    go(process)
    session.until(is_block)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        session.until(is_block)
    assert process.poll() is None
    hang_up(process)
    session.until(is_state("ended"))
    assert process.wait(3) == 0


def test_it_ends_when_its_session_is_killed(session: Session) -> None:
    read_end, write_end = os.pipe()  # reads as closed when nobody has the other end any more
    command = [sys.executable, "-c", PARENT, *session.command("endless")]
    parent = session.start(command, pass_fds=[write_end])
    os.close(write_end)
    session.until(is_state("ready"))
    parent.kill()
    parent.wait()
    session.until(is_state("ended"), within_s=3)
    ready, _, _ = select.select([read_end], [], [], 3)
    assert ready and os.read(read_end, 1) == b""
    os.close(read_end)


def test_by_hand_it_begins_at_once_and_prints(session: Session) -> None:
    command = [sys.executable, str(session.script), "short"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[4. 4.]" in done.stdout and "ended" in done.stdout


def test_what_went_wrong_in_a_process_of_a_pool_is_still_told() -> None:
    sent = pickle.loads(pickle.dumps(SourceError("missing", "no model here: run python -m capture.assets")))
    assert (sent.reason, str(sent)) == ("missing", "no model here: run python -m capture.assets")


def test_what_the_session_wishes_is_heard_while_it_runs_and_nonsense_changes_nothing(
    session: Session,
) -> None:
    heeds = "step += 1; link.status('running', None, str(link.wish.rate_hz))"
    session.script.write_text(SENSE.replace("step += 1", heeds))
    process = session.start(session.command("endless"))
    session.until(is_state("ready"))
    go(process)
    session.until(is_block)
    say(process, msgspec.json.encode(Wish(rate_hz=7.5)))
    session.until(lambda m: isinstance(m, Status) and m.detail == "7.5")
    say(process, b'{"rate_hz": -1}\n{"rate_hz": 1e-320}\n{"fly": true}\n{"recogniser": "\xed"}')
    say(process, msgspec.json.encode(Wish()))
    session.until(lambda m: isinstance(m, Status) and m.detail == "None")
    hang_up(process)
    assert process.wait(10) == 0
    assert process.stderr is not None and process.stderr.read().count(b"is no wish") == 4
