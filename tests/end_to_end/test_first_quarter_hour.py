"""The first quarter of an hour, typed letter by letter: what the page shows is seen, numbers aside."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.application import without_pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/first-quarter-hour.md").read_text()
PORT = 5563  # the page's reader has the usual one
INSTALLS = re.compile(r"sudo apt-get |\.venv/bin/pip |python3 -m venv ")
LABELS = "angry|disgust|fear|happy|neutral|sad|surprise"


def minute(number: int) -> list[tuple[str, str]]:
    """The blocks of a section: kind and text."""
    found = re.search(rf"^## Minute {number}:.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"there is no minute {number}"
    return re.findall(r"^```(\w+)\n(.*?)^```", found[0], re.DOTALL | re.MULTILINE)


def typed(number: int) -> list[str]:
    """What a section says to type, without what installs: CI has done that."""
    lines = [line for kind, text in minute(number) if kind == "bash" for line in text.splitlines()]
    commands = [part for line in lines for part in line.split(" && ") if not INSTALLS.match(part)]
    assert all(command.startswith(".venv/bin/python -m ") for command in commands), commands
    return commands


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, which emotion, how wide the table is."""
    line = re.sub(rf"\b({LABELS})\b", "EMOTION", re.sub(r"\d+(\.\d+)?", "N", line))
    return re.sub(r"\s+", " ", line).strip()


def assert_seen(number: int, which: int, output: str) -> None:
    """Every line of a section's block of output stands in what was printed."""
    shown = [text for kind, text in minute(number) if kind == "text"][which]
    seen = {shape(line) for line in output.splitlines()}
    missing = [line for line in shown.splitlines() if shape(line) not in seen]
    assert not missing, output


def answers(address: str) -> bool:
    """Whether a page is there within seconds."""
    for _ in range(100):
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
        time.sleep(0.1)
    return False


class Reader:
    """A person who reads the page, in a folder with a film, and types what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=without_pytest() | {"COLUMNS": "160"},
        )
        self.running.append(process)
        return process

    def type(self, command: str, status: int = 0) -> str:
        shell = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            env=without_pytest() | {"COLUMNS": "160"},
        )
        assert shell.returncode == status, f"{command}\n{shell.stdout}"
        return shell.stdout

    def interrupt(self, process: subprocess.Popen[str]) -> str:
        """Ctrl-C: it ends cleanly; returns what it had printed."""
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode in (0, 130) and "Traceback" not in output, output
        return output


@pytest.fixture
def reader(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"a session runs on port {PORT}: the page's commands are typed as they stand")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copy(shared / "media/face_and_speech.mp4", tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_text("1\n00:00:00,300 --> 00:00:02,200\nAnd so, my fellow Americans, ask\n")
    monkeypatch.setenv("EMOTION_ASSETS", str(shared / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    person = Reader(tmp_path)
    yield person
    for process in person.running:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_demo_is_seen_and_heard_by_subscribers(reader: Reader) -> None:
    (demo,) = typed(0)
    output = reader.type(demo)
    assert_seen(0, 0, output)
    assert_seen(0, 1, output)

    looping, view, as_json, picked, too_late = typed(3)
    session = reader.start(looping)
    assert '"type"' in reader.type(as_json)
    if shutil.which("jq") is not None:
        assert_seen(3, 0, reader.type(picked))
    viewer = reader.start(view)
    time.sleep(4)
    assert "EMOTION" in shape(reader.interrupt(viewer))
    reader.interrupt(session)
    assert_seen(3, 1, reader.type(too_late, status=3))


def test_a_film_is_read_recorded_looked_into_and_shown(reader: Reader) -> None:
    (film,) = typed(8)
    reader.type(film)
    info, replay, export, report, page = typed(11)
    assert_seen(11, 0, reader.type(info))
    assert "end of input" in reader.type(replay)
    reader.type(export)
    tables = {path.name for path in (reader.folder / "session.csv.d").iterdir()}
    assert {"emotions.csv", "audio.csv", "vision.csv", "words.csv"} <= tables
    pytest.importorskip("nicegui", reason="pip install '.[dashboard]'")
    pytest.importorskip("jinja2", reason="pip install '.[report]'")
    reader.type(report)
    assert (reader.folder / "session.html").is_file()
    served = reader.start(page)
    assert served.stdout is not None
    address = next(found[0] for line in served.stdout if (found := re.search(r"http://\S+", line)))
    assert answers(address)
    reader.interrupt(served)
