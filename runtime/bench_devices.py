"""Devices: how soon a session notices a device that comes, goes, freezes or returns, and perceives again.

The real application runs on a network camera of loopback, then on a microphone of a PulseAudio of our
own, through ALSA and PortAudio (``runtime.loopback``). What is reported is what a subscriber gets:
*noticed* is the status whose event tells it, *again* the first picture or sound after the return. The
process that captures must live through all of it: a restart is an error.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import cv2
import numpy as np
from msgspec import UNSET
from rich.console import Console
from rich.progress import track
from rich.table import Table

from capture.messages import StreamName
from runtime.bench_engine import BenchError
from runtime.loopback import LoopbackError, NetworkCamera, SoundServer
from runtime.stream import Message, Picture, Sound, StatusMessage, subscribe

HELP = """\
Measure how soon a camera or a microphone that comes, goes, freezes or returns is noticed.

Nothing needs to be connected: the camera is a network camera on loopback, the microphone belongs to a
PulseAudio of its own (apt-get install pulseaudio pulseaudio-utils libasound2-plugins). Each round starts
the application without the device; a round takes about half a minute. The columns of the table:

  noticed   seconds from the event to the status that tells it to a subscriber
  again     seconds from the event to the first picture or sound that a subscriber gets
"""
EPILOG = """\
examples:
  python -m runtime.bench devices               five rounds
  python -m runtime.bench devices --rounds 1    a quick look

exit status: 0 all of it was noticed within 2 s; 1 something was not; 2 it could not be measured.
"""
NOTICED_S = 2.0  # the promise
PATIENCE_S = 20.0  # then it was not noticed at all
STARTING_S = 60.0
REST_S = (
    2.0  # and up to a second more, between two events: they meet the application at any moment of its second
)

Good = Callable[[Message], bool]


@dataclass
class Event:
    """Something that was done to a device, in every round, and how long it took to be told."""

    noticed_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)


class Session:
    """The application in a process of its own, and a subscriber that waits for what it tells."""

    def __init__(self, endpoint: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", endpoint]
        command += ["--share-raw", "--session", "devices", *arguments]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the session
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._log, env=os.environ | (env or {})
        )
        self._until = time.monotonic() + STARTING_S
        self._stream = subscribe(endpoint, session="devices", raw=True, stopping=self._stopping)

    def until(self, *wanted: Good, patience_s: float = PATIENCE_S) -> list[float]:
        """When the first message came that each of these is true of, on the monotonic clock.

        Raises BenchError when one does not come, or when a capture process had to be restarted.
        """
        self._until = time.monotonic() + patience_s
        found: dict[Good, float] = {}
        for message in self._stream:
            now = time.monotonic()
            for good in wanted:
                if good not in found and good(message):
                    found[good] = now
            if len(found) == len(wanted):
                return [found[good] for good in wanted]
            if isinstance(message, StatusMessage) and any(s.restarts for s in message.senses.values()):
                raise BenchError(f"a capture process was started again: {message.event or ''}")
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["nothing was said"])[-1]
        raise BenchError(
            f"what was done to the device was not told within {patience_s:g} s; the last: {last}"
        )

    def rest(self) -> None:
        """Read on for a while, so that the next event is another one."""
        over = time.monotonic() + REST_S + random.random()
        self.until(lambda _: time.monotonic() >= over)

    def close(self) -> None:
        self._stream.close()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _stopping(self) -> bool:
        return time.monotonic() > self._until or self._process.poll() is not None


def devices(console: Console, rounds: int) -> bool:
    """Measure and print; False when something was noticed too late. Raises BenchError."""
    events: dict[str, Event] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            endpoint = f"ipc://{folder}/stream"
            for kind in (_camera, _microphone):
                for _ in track(range(rounds), kind.__name__.strip("_"), console=console, transient=True):
                    kind(events, endpoint)
    except LoopbackError as error:
        raise BenchError(str(error)) from error
    console.print(_table(events, rounds))
    late = [name for name, event in events.items() if max(event.noticed_s) > NOTICED_S]
    if late:
        console.print(f"noticed after more than {NOTICED_S:g} s: {', '.join(late)}")
    return not late


def _camera(events: dict[str, Event], endpoint: str) -> None:
    camera = NetworkCamera(_pictures())
    try:
        with closing(Session(endpoint, "--input", camera.url)) as session:
            _go_through(
                events,
                session,
                Picture,
                "vision",
                ("camera comes later", camera.switch_on, True),
                ("camera freezes", camera.freeze, False),
                ("camera moves again", camera.go_on, True),
                ("camera sends nothing", camera.hush, False),
                ("camera sends again", camera.go_on, True),
                ("camera goes", camera.switch_off, False),
                ("camera returns", camera.switch_on, True),
            )
    finally:
        camera.switch_off()


def _microphone(events: dict[str, Event], endpoint: str) -> None:
    arguments = ("--camera", "none", "--microphone", "default", "--asr", "none")
    with closing(SoundServer()) as sound, closing(Session(endpoint, *arguments, env=sound.env)) as session:
        _go_through(
            events,
            session,
            Sound,
            "audio",
            ("microphone comes later", sound.plug_in, True),
            ("microphone gives nothing", sound.hush, False),
            ("microphone gives again", sound.go_on, True),
            ("microphone goes", sound.unplug, False),
            ("microphone returns", sound.plug_in, True),
        )


def _go_through(
    events: dict[str, Event],
    session: Session,
    sample: type[Message],
    stream: StreamName,
    *steps: tuple[str, Callable[[], float], bool],
) -> None:
    """Do one thing after the other to a device that is absent at first.

    Args:
        sample: what is published of what the device perceives.
        steps: name, what is done (it returns when it began), and whether the device is there afterwards.
    """
    session.until(_tells(f"{stream}: absent"), patience_s=STARTING_S)
    session.rest()
    for name, do, there in steps:
        event = events.setdefault(name, Event())
        at = do()
        if there:
            noticed, again = session.until(
                _tells(f"{stream}: there"), lambda message: isinstance(message, sample)
            )
            event.again_s.append(again - at)
        else:
            (noticed,) = session.until(_tells(f"{stream}: degraded", f"{stream}: absent"))
        event.noticed_s.append(noticed - at)
        session.rest()


def _tells(*beginnings: str) -> Good:
    """A status whose event begins with one of these."""

    def good(message: Message) -> bool:
        event = message.event if isinstance(message, StatusMessage) else UNSET
        return event is not UNSET and event.startswith(beginnings)

    return good


def _pictures() -> list[bytes]:
    """JPEGs without a face, each another one."""
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(50))
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in noise]


def _table(events: dict[str, Event], rounds: int) -> Table:
    table = Table("event", "noticed, s", "again, s", title=f"{rounds} rounds, {os.cpu_count()} cores")
    for name, event in events.items():
        table.add_row(name, _told(event.noticed_s), _told(event.again_s))
    return table


def _told(seconds: Sequence[float]) -> str:
    return f"median {statistics.median(seconds):.2f}, worst {max(seconds):.2f}" if seconds else ""
