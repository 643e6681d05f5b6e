"""Link: how a capture process talks to the session that started it.

The session starts ``python -m capture.<sense>`` with ``--endpoint`` and keeps its standard input
open. The process opens its device, says ``ready``, and waits for one line of JSON, a ``Go``; from
then on it publishes, and each further line is a ``Wish``. When standard input closes, because the
session stops or died, it ends. Started by hand, without ``--endpoint``, it begins at once and prints
what it would have published.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from capture.bus import Sender
from capture.clock import Clock, HostClock
from capture.features.spec import StreamSpec
from capture.messages import (
    FeatureBlock,
    Message,
    Pcm,
    Picture,
    Stamp,
    State,
    Status,
    StreamName,
    Unheard,
    Word,
    Words,
)
from capture.trouble import SourceError

BEAT_S = 1.0
RELEASE_S = 60.0  # from the last message to the end of the process, where nobody says that it was read
GRACE_S = 2.0  # from the end of standard input to the end of the process


class Go(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start publishing: on this clock, from this capture time on (files seek to it)."""

    clock: HostClock = HostClock()
    start_ns: int = 0


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process is asked to give up for now, because the machine cannot keep up; by default nothing."""

    rate_hz: Annotated[float, msgspec.Meta(ge=0.001)] | None = None  # of faces; None: all of them
    provisional: bool = True  # say words that may still change
    recogniser: Literal["full", "simple", "off"] = "full"  # to the microphone: "off", nobody hears its sound
    no_more_sound: bool = False  # to the recogniser: but what is on its way; who gave it may not have said so


class Outlet(Protocol):
    """Where what is seen and heard goes: a process's ``Link``, or memory (``capture.offline``)."""

    wish: Wish
    session: str
    stopping: bool
    clock: Clock
    dropped: int

    def status(self, state: State, reason: str | None = None, detail: str = "") -> None: ...

    def beat(self) -> None: ...

    def features(
        self, times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float32], t_ready_ns: int
    ) -> None: ...


class Link:
    """A capture process's end: status, features and words out; go and stop in.

    ``stopping`` becomes True when the session ends; every loop of a process asks it.
    """

    def __init__(self, stream: StreamName, spec: StreamSpec, session: str, endpoint: str | None) -> None:
        self.stream = stream
        self.spec = spec
        self.session = session
        self.stopping = False
        self.wish = Wish()
        self.clock: Clock = HostClock()
        self.dropped = 0  # by the process itself; what the bus drops shows as holes in ``seq``
        self.produced = 0
        self.corrupt = 0  # messages to this process that it could not read
        self._seq = 0
        self._t_capture_ns = 0
        self._said: tuple[State, str | None, str] = ("starting", None, "")
        self._beat_at = 0.0
        self._unread = b""  # of standard input, behind the last whole line
        self._watching = False  # a thread reads standard input
        self._sender = None if endpoint is None else Sender(endpoint, stopping=lambda: self.stopping)
        self._held: Sender | None = None

    def wait_for_go(self, detail: str = "") -> Go:
        """Say ``ready``, wait for the session's go, and take its clock. By hand: go at once."""
        self.status("ready", detail=detail)
        if self._sender is None:
            go = Go(HostClock(origin_ns=time.monotonic_ns(), kind="media"))
        else:
            line = self._read_go()
            if line is None:
                self.stopping = True
                return Go()
            go = msgspec.json.decode(line, type=Go)
            self._watching = True
            threading.Thread(target=self._watch_stdin, daemon=True).start()
        self.clock = go.clock
        self._t_capture_ns = go.start_ns
        return go

    @property
    def by_hand(self) -> bool:
        """Nobody but a person at a terminal listens."""
        return self._sender is None

    def pause(self, seconds: float) -> bool:
        """Wait, and say meanwhile that the process lives; False as soon as the session ends."""
        until = time.monotonic() + seconds
        while not self.stopping and (left_s := until - time.monotonic()) > 0:
            self.beat()
            if self._watching:
                time.sleep(min(left_s, 0.1))
            elif select.select([sys.stdin], [], [], min(left_s, 0.1))[0]:
                heard = os.read(sys.stdin.fileno(), 4096)
                self._unread += heard
                self.stopping = not heard
        return not self.stopping

    def status(self, state: State, reason: str | None = None, detail: str = "") -> None:
        """Publish a change of state; the same state again is only a heartbeat."""
        if (state, reason, detail) != self._said:
            self._said = (state, reason, detail)
            self._beat_at = 0.0
        self.beat()

    def beat(self) -> None:
        """Call this in every turn of a loop: once a second it publishes that the process lives."""
        if time.monotonic() < self._beat_at:
            return
        self._beat_at = time.monotonic() + BEAT_S
        state, reason, detail = self._said
        stamp = self._stamp(self._t_capture_ns)
        self._send(Status(stamp, state, reason, detail, self.dropped, self.produced, self.corrupt), wait=True)

    def features(
        self, times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float32], t_ready_ns: int
    ) -> None:
        """Publish feature vectors ``values`` (T, D) that happened at ``times_ns`` (T,)."""
        assert values.shape == (len(times_ns), self.spec.dim), (values.shape, self.spec.dim)
        self.produced += len(times_ns)
        stamp = self._stamp(int(times_ns[-1]))
        self._send(FeatureBlock(stamp, self.spec.hash, t_ready_ns, times_ns, values))

    def words(self, words: tuple[Word, ...], until_ns: int, unheard: tuple[Unheard, ...] = ()) -> None:
        """Publish words, or, without any, how far listening has come; and where nobody listened."""
        self.produced += sum(word.committed for word in words)
        self._send(Words(self._stamp(until_ns), self.spec.hash, words, until_ns, unheard), wait=True)

    def picture(
        self, t_ns: int, width: int, height: int, jpeg: bytes, landmarks: npt.NDArray[np.float32]
    ) -> None:
        """Publish what the camera saw at ``t_ns``; see ``capture.messages.Picture``."""
        self._send(Picture(self._outside(t_ns), width, height, jpeg, landmarks))

    def sound(self, heard: Pcm) -> None:
        """Publish samples that were heard."""
        if len(heard.samples):
            self._send(Pcm(self._outside(heard.stamp.t_capture_ns), heard.rate_hz, heard.samples))

    def _outside(self, t_ns: int) -> Stamp:
        """The stamp of what is not counted: a picture that is lost is no lost observation."""
        return Stamp(self.session, self.stream, -1, t_ns, self.clock.now_ns())

    def _stamp(self, t_capture_ns: int) -> Stamp:
        self._t_capture_ns = t_capture_ns
        stamp = Stamp(self.session, self.stream, self._seq, t_capture_ns, self.clock.now_ns())
        self._seq += 1
        return stamp

    def _send(self, message: Message, *, wait: bool = False) -> None:
        if self._sender is None:
            _print(message)
        else:
            self._sender.send(message, wait=wait or not self.clock.paced)

    def _read_go(self) -> bytes | None:
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], BEAT_S)
            if readable:
                # Not readline: it would swallow a wish that comes right behind.
                heard = os.read(sys.stdin.fileno(), 4096)
                self._unread += heard
                line, end, rest = self._unread.partition(b"\n")
                if end:
                    self._unread = rest
                    return line
                if not heard:
                    return None
            self.beat()

    def _watch_stdin(self) -> None:
        # Not sys.stdin: at exit Python aborts when a thread is still reading from its buffer.
        while True:
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                self._obey(line)
            heard = os.read(sys.stdin.fileno(), 4096)
            if not heard:
                break
            self._unread += heard
        self.stopping = True
        time.sleep(GRACE_S)
        os._exit(1)  # stuck in a driver or a decoder, and nobody is left to end us

    def _obey(self, line: bytes) -> None:
        try:
            self.wish = msgspec.json.decode(line, type=Wish)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            print(f"{line!r} is no wish: {error}", file=sys.stderr, flush=True)

    def hold(self, sender: Sender) -> None:
        """Keep another pipe open to the end of the process, which then lasts until all in it was heard."""
        self._held = sender

    def wait_for_release(self) -> None:
        """Unpaced or with a pipe that is held, wait until the session closes standard input.

        It does so when the last message was read, and who reads the held pipe has ended. ZeroMQ does not read
        what lies in the pipe of a process that is gone while its queue is full.
        """
        end = time.monotonic() + RELEASE_S
        while self._sender and not self.stopping:
            if self._held is not None:
                self.beat()
            elif self.clock.paced or time.monotonic() >= end:
                return
            if self._watching:
                time.sleep(0.02)
            elif select.select([sys.stdin], [], [], 0.1)[0] and not os.read(sys.stdin.fileno(), 4096):
                return

    def close(self) -> None:
        """Hand over what is still queued."""
        senders = [sender for sender in (self._held, self._sender) if sender is not None]
        for sender in senders:
            sender.close()
        if senders:
            zmq.Context.instance().term()


def arguments(prog: str, description: str) -> argparse.ArgumentParser:
    """The options that every capture process has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--session", default="by-hand", help="name of the session (default: %(default)s)")
    parser.add_argument("--endpoint", help="ZeroMQ endpoint to publish to; without it, print to the terminal")
    return parser


RAW_HELP = "publish what is seen or heard itself, too; otherwise it does not leave this process"
DELAY_HELP = "how long the device takes from the world to a sample; measure it: python -m runtime.calibrate"


def delay_ms(text: str) -> float:
    """Check ``--delay-ms``. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected milliseconds, 0 to 2000")
    return value


def run(link: Link, work: Callable[[Link], None]) -> int:
    """Run a capture process to its end and say how it ended.

    ``work`` returns at the end of its source or when ``link.stopping``; a ``SourceError`` becomes
    the status ``absent`` with its reason and exit status 3, anything else ``failed`` and 1.
    """
    if link._sender is None:
        signal.signal(signal.SIGINT, lambda *_: setattr(link, "stopping", True))
    else:  # Ctrl-C reaches the whole group; the session decides, and closes standard input
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(link)
        link.status("ended")
        return 0
    except SourceError as error:
        link.status("absent", error.reason, str(error))
        return 3
    except Exception as error:  # the process boundary: whatever it was is published and logged
        traceback.print_exc()
        link.status("failed", type(error).__name__, str(error))
        return 1
    finally:
        link.wait_for_release()
        link.close()


def _print(message: Message) -> None:
    stamp = message.stamp
    head = f"{stamp.t_capture_ns / 1e9:9.3f} s  {stamp.stream:6}"
    match message:
        case Status(state=state, reason=reason, detail=detail, dropped=dropped):
            print(f"{head}  {state} {reason or ''} {detail} (dropped {dropped})", flush=True)
        case Words(words=words):
            if words:
                print(f"{head}  {' '.join(word.text for word in words)}", flush=True)
        case FeatureBlock(values=values):
            with np.printoptions(precision=2, suppress=True, threshold=8, linewidth=200):
                print(f"{head}  {values[-1]}", flush=True)
        case _:
            pass
