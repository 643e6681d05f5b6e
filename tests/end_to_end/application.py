"""The application under test: real processes, real sockets, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

ROOT = Path(__file__).parent.parent.parent
Json = dict[str, Any]


def without_pytest() -> dict[str, str]:
    """Our environment without pytest's marks: NiceGUI serves another page where it sees them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


class Application:
    """`python -m runtime.live` in a process of its own, and a subscriber of plain pyzmq and json."""

    def __init__(
        self,
        endpoint: str,
        environment: dict[str, str],
        *arguments: str,
        python: Sequence[str] = ("-m", "runtime.live"),
    ) -> None:
        self.messages: list[Json] = []
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)  # a session that is not paced waits half a second
        self._socket.connect(endpoint)
        self._socket.subscribe("emotion")
        self.process = subprocess.Popen(
            [sys.executable, *python, "--no-dashboard", "--endpoint", endpoint, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, timeout_s: float = 1.0) -> Json | None:
        """The next message, or None when none came in time."""
        if not self._socket.poll(timeout_s * 1000):
            return None
        message: Json = json.loads(self._socket.recv_multipart()[1])
        self.messages.append(message)
        return message

    def read_until(self, good: Callable[[Json], bool], timeout_s: float = 60) -> Json:
        """Read on until a message is good; fails the test when none is in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            message = self.read(0.5)
            if message is not None and good(message):
                return message
            if message is None and self.process.poll() is not None:
                break
        pytest.fail(f"no such message; the last were {self.messages[-3:]}; exit {self.process.poll()}")

    def run_to_end(self, timeout_s: float = 120) -> list[Json]:
        """Every message up to ``session.end``; returns the emotions."""
        self.read_until(lambda message: message["type"] == "session.end", timeout_s)
        assert self.wait() == 0
        return self.emotions

    @property
    def emotions(self) -> list[Json]:
        return [message for message in self.messages if message["type"] == "emotion"]

    def wait(self, timeout_s: float = 15) -> int:
        self.output, self.errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._socket.close(linger=0)
