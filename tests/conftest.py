"""What the tests share: where the shared material lies, and how to run the application."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.loopback import LoopbackError, SoundServer

ROOT = Path(__file__).parent.parent

# A shell starts what runs in its background with Ctrl-C ignored, and so would be all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of corpora, clips and reference numbers; tests that need it are skipped without it."""
    folder = Path(os.environ.get("EMOTION_SHARED", ROOT.parent / "shared"))
    if not (folder / "media").is_dir():
        pytest.skip(f"no shared material at {folder} (set EMOTION_SHARED)")
    return folder


@pytest.fixture
def endpoint() -> str:
    """A loopback endpoint that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real Whisper with random weights, made for these tests."""
    pytest.importorskip("ctranslate2", reason="the extra 'whisper' is not installed")
    from tests import tiny_whisper

    return tiny_whisper.make(tmp_path_factory.mktemp("whisper"))


@pytest.fixture
def sound() -> Iterator[SoundServer]:
    """A sound server of this test's own; its microphone is not plugged in."""
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    try:
        server = SoundServer()
    except LoopbackError as error:
        pytest.skip(str(error))
    yield server
    server.close()
