"""The session's end of the pipes, with real capture processes: nothing that was read of a file is lost."""

from __future__ import annotations

import time
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from capture.messages import Status, StreamName
from runtime.sources import LiveSource
from runtime.supervisor import Sense
from tests.conftest import ROOT

LISTENER = """
import sys
from pathlib import Path
from capture.bus import SOUND, Receiver
from capture.features.text import SPEC
from capture.link import Link, arguments, run
from capture.trouble import SourceError

parser = arguments("listener", "a recogniser that is slow, or that cannot be had")
parser.add_argument("--asr")
parser.add_argument("--pcm")
options = parser.parse_args()

def work(link):
    receiver = Receiver(options.pcm, session=link.session, stream="audio", carries=SOUND)
    if options.asr == "whisper:missing":
        receiver.close()
        raise SourceError("asset_missing", "there is no such model")
    link.wait_for_go()
    link.status("running")
    while not Path("over").exists() and link.pause(0.1):
        pass  # at its first sentence
    link.pause(3)
    while not link.stopping:
        receiver.socket.poll(100)
        message = receiver.receive()
        if message is not None and not len(message.samples):
            break
        link.produced += message is not None
        link.dropped = receiver.sequence.gaps
    receiver.close()

link = Link("text", SPEC, options.session, options.endpoint)
sys.exit(run(link, work))
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where the capture processes run, with a recogniser of our own among them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "listener.py").write_text(LISTENER)
    yield tmp_path


def sound(path: Path, seconds: float) -> Path:
    with wave.open(str(path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(round(seconds * 16_000), "<i2").tobytes())
    return path / "sound.wav"


def attend(
    senses: Sequence[Sense], *, paced: bool, within_s: float = 60
) -> tuple[dict[str, Status], list[str]]:
    """Run to the end: the last status of each stream, and the news."""
    source = LiveSource(senses, session="s", absent={"vision": "none"}, media=True, paced=paced)
    last: dict[str, Status] = {}
    wanted: list[StreamName] = ["text", "audio"]
    deadline = time.monotonic() + within_s
    try:
        source.open()
        while not source.over:
            assert time.monotonic() < deadline, f"no end; last {last}; news {source.events}"
            arrival = source.next(None, wanted)
            if arrival is not None and isinstance(arrival.message, Status):
                last[arrival.message.stamp.stream] = arrival.message
                if (arrival.message.stamp.stream, arrival.message.state) == ("audio", "ended"):
                    Path("over").touch()
        return last, list(source.events)
    finally:
        source.close()


def senses(file: Path, asr: str) -> list[Sense]:
    pcm = ("--pcm", "ipc://{folder}/pcm")
    microphone = Sense("audio", "capture.microphone", ("--source", f"file:{file}", *pcm), False)
    return [Sense("text", "listener", ("--asr", asr, *pcm), False), microphone]


def test_a_recogniser_that_is_behind_when_a_film_ends_hears_it_to_its_last_word(path: Path) -> None:
    """By more than the pipe holds at its end."""
    last, news = attend(senses(sound(path, 60), "whisper:slow"), paced=False)
    assert (last["text"].produced, last["text"].dropped) == (375, 0)  # 160 ms each
    assert last["audio"].state == last["text"].state == "ended" and not news


@pytest.mark.parametrize("seconds", [20, 100])
def test_a_film_does_not_wait_for_a_recogniser_that_cannot_be_had(path: Path, seconds: float) -> None:
    """Neither with less sound than the pipe holds nor with more."""
    last, news = attend(senses(sound(path, seconds), "whisper:missing"), paced=False)
    assert last["audio"].state == "ended" and last["audio"].produced > seconds * 49
    assert news == ["text: absent: there is no such model"]
