"""Capture processes that die, with a session that listens to them: real processes, real pipes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capture.messages import STREAMS, FeatureBlock, Message, Status, Words
from runtime import supervisor
from runtime.sources import LiveSource
from runtime.supervisor import Sense
from tests.conftest import ROOT

SENSE = """
import pathlib, sys, time
import numpy as np
from capture.features.vision import SPEC
from capture.link import Link, arguments, run

parser = arguments("sense", "a sense for tests, which is broken in its first life")
parser.add_argument("lives")
options = parser.parse_args()
lives = pathlib.Path(options.lives)
first = not lives.exists()
lives.touch()

def see(link, go, n):
    now_ns = link.clock.now_ns()
    link.features(np.array([now_ns]), np.zeros((1, SPEC.dim), np.float32), now_ns)

def work(link):
    go = link.wait_for_go()
    link.status("running")
    for n in range(30 if first else 10**9):
        see(link, go, n)
        if not first:
            time.sleep(0.02)
        if link.stopping:
            return
        link.beat()
    raise RuntimeError("broken")

sys.exit(run(Link("vision", SPEC, options.session, options.endpoint), work))
"""
RECOGNISER = """
import sys, time
from capture.bus import SOUND, Receiver
from capture.features.text import SPEC
from capture.link import Link, arguments, run

parser = arguments("sense", "is given sound, and says that it has listened to a second of it")
parser.add_argument("--asr")
parser.add_argument("--pcm")
options = parser.parse_args()

def work(link):
    receiver = Receiver(options.pcm, session=link.session, stream="audio", carries=SOUND)
    link.wait_for_go()
    link.status("running")
    link.words((), 10**9)
    while not link.stopping:
        link.beat()
        time.sleep(0.02)
    receiver.close()

sys.exit(run(Link("text", SPEC, options.session, options.endpoint), work))
"""
MICROPHONE = """
import sys
import numpy as np
from capture.bus import Sender
from capture.delivery import LOSSLESS
from capture.features.audio import SPEC
from capture.link import Link, arguments, run
from capture.messages import Pcm, Stamp

parser = arguments("sense", "gives two seconds of sound and breaks")
parser.add_argument("--pcm")
options = parser.parse_args()

def work(link):
    link.wait_for_go()
    link.status("running")
    with Sender(options.pcm, delivery=LOSSLESS) as pcm:
        for n in range(20):
            stamp = Stamp(link.session, "audio", n, n * 10**8, n * 10**8)
            pcm.send(Pcm(stamp, 16_000, np.zeros(1_600, np.int16)))
    raise RuntimeError("broken")

sys.exit(run(Link("audio", SPEC, options.session, options.endpoint), work))
"""
SUBTITLES = """
import sys, time
from capture.features.text import SPEC
from capture.link import Link, arguments, run

options = arguments("sense", "listens").parse_args()

def work(link):
    link.wait_for_go()
    link.status("running")
    while not link.stopping:
        link.words((), link.clock.now_ns())
        link.beat()
        time.sleep(0.05)

sys.exit(run(Link("text", SPEC, options.session, options.endpoint), work))
"""
S = 1_000_000_000
PCM = "--pcm", "ipc://{folder}/pcm"
Start = Callable[..., LiveSource]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A session's source whose one sense is the module above, or another body."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    started: list[LiveSource] = []

    def begin(body: str = SENSE, *, media: bool = False, paced: bool = True) -> LiveSource:
        (tmp_path / "sense.py").write_text(body)
        sense = Sense("vision", "sense", (str(tmp_path / "lives"),), False)
        source = LiveSource([sense], session="s", absent={}, media=media, paced=paced)
        started.append(source)
        source.open()
        return source

    yield begin
    for source in started:
        source.close()


def read_until(
    source: LiveSource, good: Callable[[Message], bool], *, pause_s: float = 0.0, within_s: float = 60
) -> list[Message]:
    """What comes, up to and with the message looked for; fails when it does not come."""
    messages: list[Message] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        arrival = source.next(None, STREAMS)
        time.sleep(pause_s)
        if arrival is not None:
            messages.append(arrival.message)
            if good(arrival.message):
                return messages
    raise AssertionError(f"not among {[m for m in messages if isinstance(m, Status)]}, {list(source.events)}")


def is_state(*states: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Status) and message.state in states


def is_block(message: Message) -> bool:
    return isinstance(message, FeatureBlock)


def test_the_last_words_of_a_dead_process_do_not_end_its_successor(start: Start) -> None:
    """A session that is behind reads them when the successor has been started."""
    source = start()
    messages = read_until(source, is_state("failed"), pause_s=0.05)
    assert sum(map(is_block, messages)) == 30, "what it saw before is not lost"
    messages += read_until(source, is_state("starting"))
    read_until(source, is_state("ready"))
    read_until(source, is_block)
    pid = source._supervisor.pid("vision")
    for _ in range(20):
        messages += read_until(source, is_block)
    assert source._supervisor.pid("vision") == pid is not None
    assert source.restarts()["vision"] == 1


@pytest.mark.parametrize("paced", [True, False])
def test_a_reader_that_dies_while_its_film_is_loaded_has_lost_nothing_from_before_the_session(
    start: Start, paced: bool
) -> None:
    dies = SENSE.replace("go = link.wait_for_go()", "sys.exit(7) if first else None; go = link.wait_for_go()")
    source = start(dies, media=True, paced=paced)
    began = time.monotonic()
    read_until(source, is_block)
    took_s = time.monotonic() - began
    (back,) = [event for event in source.events if "back after a restart" in event]
    lost = re.search(r"restart, (-?\d+\.\d) s lost", back)
    assert lost is not None and 0 <= float(lost[1]) <= (took_s + 0.1 if paced else 0), back


def test_a_recogniser_that_dies_with_all_the_sound_of_a_film_that_is_read_at_once_is_not_waited_for(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "sense.py").write_text(RECOGNISER)
    senses = [
        Sense("text", "sense", ("--asr", "whisper:of these tests", *PCM), False),
        Sense("audio", "capture.microphone", ("--source", f"file:{shared / 'media/jfk.flac'}", *PCM), False),
    ]
    source = LiveSource(senses, session="s", absent={"vision": "no_video"}, media=True, paced=False)
    try:
        source.open()
        messages = read_until(source, lambda m: isinstance(m, Words))
        messages += read_until(source, lambda m: m.stamp.stream == "audio" and is_state("ended")(m))
        pid = source._supervisor.pid("text")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not source.over:
            assert time.monotonic() < deadline, "it waits for words that nobody will say"
            if (arrival := source.next(None, STREAMS)) is not None:
                messages.append(arrival.message)
    finally:
        source.close()
    heard_ns = max(m.stamp.t_capture_ns for m in messages if is_block(m))
    last = [m for m in messages if isinstance(m, Status) and m.stamp.stream == "text"][-1]
    assert (last.state, last.reason) == ("failed", "gave_up")
    assert last.dropped == (heard_ns - 10**9) * 16_000 // 10**9 > 9 * 16_000
    told = f"signal 9, {(heard_ns - 10**9) / 1e9:.1f} s not heard"
    assert source.events[-1] == f"text: the capture process is given up ({told})"


@pytest.mark.parametrize("paced", [True, False])
def test_a_microphone_that_is_given_up_ends_the_recogniser_when_it_has_heard_what_there_was(
    paced: bool, tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(supervisor, "MAX_FILE_FAILURES", 0)
    (tmp_path / "sense.py").write_text(MICROPHONE)
    senses = [
        Sense("text", "capture.transcript", ("--asr", f"whisper:{tiny_whisper}", *PCM), False),
        Sense("audio", "sense", PCM, False),
    ]
    absent = {"vision": "no_video"}
    messages = whole(LiveSource(senses, session="s", absent=absent, media=True, paced=paced))
    text = [m for m in messages if m.stamp.stream == "text"]
    last = next(m for m in reversed(text) if isinstance(m, Status))
    assert (last.state, last.dropped) == ("ended", 0)
    assert max(m.until_ns for m in text if isinstance(m, Words)) >= 2 * S


def test_a_recogniser_that_dies_when_a_film_is_over_is_not_waited_for(
    tiny_whisper: Path, shared: Path
) -> None:
    """Its successor is given no sound: all that there was went to the one before."""
    senses = [
        Sense("text", "capture.transcript", ("--asr", f"whisper:{tiny_whisper}", *PCM), False),
        Sense("audio", "capture.microphone", ("--source", f"file:{shared / 'media/jfk.flac'}", *PCM), False),
    ]
    source = LiveSource(senses, session="s", absent={"vision": "no_video"}, media=True)
    killed = False

    def kill(message: Message) -> None:
        nonlocal killed
        if message.stamp.stream == "audio" and is_state("ended")(message) and not killed:
            pid = source._supervisor.pid("text")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed = True

    messages = whole(source, kill)
    assert killed and source.restarts()["text"] == 1
    last = [m for m in messages if isinstance(m, Status) and m.stamp.stream == "text"][-1]
    assert last.state == "ended"


def whole(source: LiveSource, seen: Callable[[Message], None] = lambda message: None) -> list[Message]:
    """All that comes, to the end of a session that must end by itself."""
    messages: list[Message] = []
    deadline = time.monotonic() + 60
    try:
        source.open()
        while not source.over:
            assert time.monotonic() < deadline, f"it never ends: {list(source.events)}"
            if (arrival := source.next(None, STREAMS)) is not None:
                messages.append(arrival.message)
                seen(arrival.message)
    finally:
        source.close()
    return messages


def test_the_time_between_the_death_of_who_says_words_and_its_return_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "sense.py").write_text(SUBTITLES)
    source = LiveSource([Sense("text", "sense", (), False)], session="s", absent={}, media=True)
    try:
        source.open()
        before = read_until(source, lambda m: isinstance(m, Words) and m.until_ns > S)
        pid = source._supervisor.pid("text")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        after = read_until(source, lambda m: isinstance(m, Words) and bool(m.unheard))
        after += read_until(source, lambda m: isinstance(m, Words))
    finally:
        source.close()
    said = [m for m in (*before, *after) if isinstance(m, Words)]
    (unheard,) = [one for m in said for one in m.unheard]
    assert unheard.reason == "restarting"
    assert unheard.start_ns == said[-3].until_ns < unheard.end_ns == said[-2].until_ns <= said[-1].until_ns
    (back,) = [event for event in source.events if "back after a restart" in event]
    assert back == f"text: back after a restart, {(unheard.end_ns - unheard.start_ns) / 1e9:.1f} s lost"
