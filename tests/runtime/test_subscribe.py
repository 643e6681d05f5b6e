"""`python -m runtime.subscribe` as people run it: a real process, a real stream, a pipe, a Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from runtime import stream
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import Emotion, Publisher
from runtime.view import StreamView

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "runtime.subscribe"]


def emotion() -> Emotion:
    absent = stream.Modality(present=False, coverage=0.0, reason="no_device")
    return Emotion(
        session="lab",
        seq=1,
        state="degraded",
        final=True,
        time=stream.Time(clock="media", start_ns=0, end_ns=10**9, published_ns=10**9, wall=stream.wall(0)),
        emotions=stream.Emotions(labels=("happy", "sad"), scores=(0.25, 0.75), top="sad"),
        modalities=stream.Modalities(
            text=absent, audio=stream.Modality(present=True, coverage=1.0), vision=absent
        ),
        latency_ms=stream.Latency(infer=1.0, publish=0.5, total=1.5),
        dropped=stream.Lost(),
        model=stream.Model(name="dmd", hash="a", features="b", engine="onnxruntime-cpu", precision="fp32"),
    )


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*", "lab") as publisher:
        yield publisher


def publish_until(publisher: Publisher, done: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to pass"
        publisher.publish(emotion())
        time.sleep(0.02)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=20)


def test_a_pipe_gets_each_message_as_a_line_of_the_json_that_was_published(publisher: Publisher) -> None:
    options = ["--json", "--count", "3", "--endpoint", publisher.endpoint]
    process = subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE)
    publish_until(publisher, lambda: process.poll() is not None)
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    assert output == (msgspec.json.encode(emotion()) + b"\n") * 3
    assert json.loads(output.splitlines()[0])["emotions"]["top"] == "sad"


def test_who_asks_for_finals_gets_complete_windows_only(publisher: Publisher) -> None:
    options = ["--json", "--finals", "--count", "3", "--endpoint", publisher.endpoint]
    process = subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE)
    early, seq, deadline = msgspec.structs.replace(emotion(), final=False), 0, time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        publisher.publish(msgspec.structs.replace(early, seq=seq))
        publisher.publish(msgspec.structs.replace(emotion(), seq=seq + 1, revises=seq))
        seq += 2
        time.sleep(0.02)
    output, _ = process.communicate(timeout=5)
    heard = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 0 and len(heard) == 3
    assert all(message["final"] and message["revises"] == message["seq"] - 1 for message in heard)


def test_a_reader_who_has_had_enough_ends_it_quietly(publisher: Publisher) -> None:
    command = f"{' '.join(COMMAND)} --json --endpoint {publisher.endpoint} | head -n 1"
    process = subprocess.Popen(
        ["bash", "-c", command + '; echo "status ${PIPESTATUS[0]}"'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    publish_until(publisher, lambda: process.poll() is not None)
    output, errors = process.communicate(timeout=5)
    assert output.endswith("status 0\n") and errors == ""


def test_ctrl_c_ends_it_cleanly_and_without_a_terminal_it_writes_a_line_a_message(
    publisher: Publisher,
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--endpoint", publisher.endpoint],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    publish_until(publisher, lambda: bool(select.select([process.stdout], [], [], 0)[0]))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=5)
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines()[0].split()[2:5] == ["degraded", "sad", "75%"] and "no_device" in output


def test_in_a_terminal_it_draws_the_view(publisher: Publisher) -> None:
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "30"}
    options = ["--count", "20", "--endpoint", publisher.endpoint]
    process = subprocess.Popen(
        [*COMMAND, *options], cwd=ROOT, stdout=end, stdin=end, stderr=end, env=environment
    )
    os.close(end)
    shown = bytearray()

    def done() -> bool:
        while select.select([terminal], [], [], 0)[0]:
            try:
                piece = os.read(terminal, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            shown.extend(piece)
        return process.poll() is not None

    publish_until(publisher, done)
    os.close(terminal)
    assert process.returncode == 0
    for words in ("waiting on tcp://", "emotion · lab", "sad", "75%"):
        assert words in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


def test_silence_is_one_line_and_status_3(endpoint: str) -> None:
    done = run("--timeout", "0.3", "--endpoint", endpoint)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1 and endpoint in done.stderr and "runtime.live" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--endpoint", "nonsense"], "expected tcp://HOST:PORT"),
        (["--count", "0"], "'0': expected a whole number from 1"),
        (["--timeout", "soon"], "'soon': expected seconds"),
        (["--jsno"], "--jsno"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(options: list[str], named: str) -> None:
    done = run(*options)
    assert (done.returncode, done.stdout) == (2, "") and named in done.stderr


def test_the_help_teaches_by_examples() -> None:
    done = run("--help")
    assert done.returncode == 0 and "--json | jq" in done.stdout and "exit status" in done.stdout


def test_the_view_shows_all_that_the_page_shows_in_numbers_and_words() -> None:
    view = StreamView()
    windows = [stream.decode(payload) for _, payload in Recording.open(DEMO).emotions()]
    for message in windows:
        view.update(message)
    head = stream.Head(pitch=0.0, yaw=0.0, roll=0.0)
    shapes = {"_neutral": 1.0, "mouthSmileLeft": 0.42, "jawOpen": 0.05}
    view.update(stream.Face(session="demo", seq=0, t_ns=0, present=True, blendshapes=shapes, head=head))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view)
    shown = console.export_text()
    last = windows[-1]
    assert isinstance(last, Emotion) and last.distillation and last.emotions
    for edge, homo, hetero in zip(*msgspec.structs.astuple(last.distillation), strict=True):
        for strength in (homo, hetero):
            assert f"{edge.replace('->', '→')} {strength:.0%}" in shown
    assert all(label in shown for label in last.emotions.labels)
    assert "face     mouth smile left 42%" in shown and "jaw open" not in shown
    assert f"latency {last.latency_ms.total:.0f} ms" in shown
