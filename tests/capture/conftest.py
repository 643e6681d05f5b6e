"""Shared media, models and a real receiver for the capture tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from capture.bus import Receiver, ipc, private_folder
from capture.clock import HostClock
from capture.link import Go, Wish
from capture.messages import FeatureBlock, Message, Status

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("EMOTION_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of test clips."""
    folder = SHARED / "media"
    if not folder.is_dir():
        pytest.skip(f"no test media: {folder} is missing, set EMOTION_SHARED")
    return folder


@pytest.fixture(scope="session")
def landmarker() -> Path:
    """MediaPipe's face landmarker; in a clone without shared models the cached or downloaded one."""
    given = SHARED / "models" / "face_landmarker.task"
    if given.is_file():
        return given
    from capture import assets
    from capture.trouble import SourceError

    try:
        return assets.face_landmarker()
    except SourceError as error:
        pytest.skip(f"no face landmarker: {error}")


class CaptureProcess:
    """A real capture process with a real receiver: started, told to go, read until its end."""

    def __init__(self, module: str, *arguments: str, folder: Path, env: dict[str, str] | None = None) -> None:
        stream = {"capture.camera": "vision", "capture.microphone": "audio"}[module]
        endpoint = ipc(folder, stream)
        self.receiver = Receiver(endpoint, session="test", stream=stream)
        self.messages: list[Message] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--session", "test", "--endpoint", endpoint, *arguments],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def go(self, go: Go, timeout_s: float = 20) -> None:
        """Wait until the process is ready and tell it to begin."""
        if "ready" not in self.states:
            self.read_until(lambda _: "ready" in self.states, timeout_s)
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(go) + b"\n")
        self.process.stdin.flush()

    def wish(self, wish: Wish) -> None:
        """Ask it to give something up, or to take it back."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(wish) + b"\n")
        self.process.stdin.flush()

    def read_until(self, enough: Callable[[Message], bool], timeout_s: float = 20) -> Message:
        """Receive until a message is enough, and return it."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self.receiver.socket.poll(min(100, int(left_s * 1000)))
            if (message := self.receiver.receive()) is not None:
                self.messages.append(message)
                if enough(message):
                    return message
        said = self.process.stderr.read1() if self.process.poll() is not None else b""  # type: ignore[union-attr]
        raise AssertionError(f"not within {timeout_s} s; last: {self.messages[-2:]} {said.decode()}")

    def read_to_end(self, timeout_s: float = 20) -> int:
        """Receive to the last status; the exit status."""
        self.read_until(
            lambda m: isinstance(m, Status) and m.state in ("ended", "absent", "failed"), timeout_s
        )
        assert self.process.stdin is not None
        self.process.stdin.close()  # as the session does when it has read the last message
        return self.process.wait(5)

    def stop(self) -> tuple[int, float]:
        """Close its standard input, as a session does; exit status, and seconds it took."""
        assert self.process.stdin is not None
        started = time.monotonic()
        self.process.stdin.close()
        return self.process.wait(5), time.monotonic() - started

    @property
    def states(self) -> list[str]:
        """States in order, with their reasons, as ``running/no_face``; each change once."""
        said = [
            f"{m.state}/{m.reason}" if m.reason else m.state for m in self.messages if isinstance(m, Status)
        ]
        return [state for i, state in enumerate(said) if i == 0 or state != said[i - 1]]

    @property
    def blocks(self) -> list[FeatureBlock]:
        return [m for m in self.messages if isinstance(m, FeatureBlock)]

    @property
    def times_s(self) -> npt.NDArray[np.float64]:
        return np.concatenate([block.times_ns for block in self.blocks]) / 1e9

    @property
    def values(self) -> npt.NDArray[np.float32]:
        return np.concatenate([block.values for block in self.blocks])

    @property
    def last_status(self) -> Status:
        return [m for m in self.messages if isinstance(m, Status)][-1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., CaptureProcess]]:
    """Starts capture processes, and leaves none behind."""
    running: list[CaptureProcess] = []
    folders: list[Path] = []

    def begin(module: str, *arguments: str, env: dict[str, str] | None = None) -> CaptureProcess:
        folders.append(private_folder())
        arguments = tuple(argument.replace("{folder}", str(folders[-1])) for argument in arguments)
        running.append(CaptureProcess(module, *arguments, folder=folders[-1], env=env))
        return running[-1]

    yield begin
    for capture in running:
        capture.process.kill()
        capture.process.wait()
        for pipe in (capture.process.stdin, capture.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        capture.receiver.close()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture
def unpaced() -> Go:
    return Go(HostClock("media", time.monotonic_ns(), paced=False))
