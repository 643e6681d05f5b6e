"""Pipes: what the capture processes have sent, given out in the order in which it was there to be taken.

A session that was busy for a while finds the messages of that while in its pipes, behind each other. They
arrived when they were sent, not when it came round to reading them: overload is late, never deaf.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import zmq

from capture.bus import Receiver, ipc
from capture.messages import STREAMS, Message, Status, StreamName
from runtime.recording import Arrival

POLL_MS = 100
TURN_MS = 10  # where only one stream is read
GRACE_MS = 5  # for ZeroMQ to hand over what was sent before
LEFT_S = 0.5  # at most so long for what is left in a pipe


class Pipes:
    """A pipe for each stream, and what was read of it and not given out yet.

    Args:
        folder: private; the pipes lie in it.
        now_ns: the session's clock.
        heard: called with every message as soon as it is read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        session: str,
        raw: bool,
        now_ns: Callable[[], int],
        heard: Callable[[StreamName, Message], None],
    ) -> None:
        self.receivers: dict[StreamName, Receiver] = {
            s: Receiver(ipc(folder, s), session=session, stream=s, raw=raw) for s in STREAMS
        }
        self._now_ns, self._heard = now_ns, heard
        self._read: dict[StreamName, deque[Message]] = {s: deque() for s in STREAMS}
        self._before: deque[Arrival] = deque()
        self._ended_ns: dict[StreamName, int] = {}  # what was published before is of a life that is over
        self._turn = 0
        self._poller = zmq.Poller()
        for receiver in self.receivers.values():
            self._poller.register(receiver.socket, zmq.POLLIN)

    @property
    def given_out(self) -> bool:
        """Nothing that was read or put in is left."""
        return not (self._before or any(self._read.values()))

    def put(self, message: Message) -> None:
        """Say something of a stream, behind what was read of it."""
        self._read[message.stamp.stream].append(message)

    def put_back(self, messages: Sequence[Message], start_ns: int) -> None:
        """Give these out before everything else, as if they arrived when the session began."""
        self._before += [Arrival(start_ns, message) for message in messages]

    def read_out(self, stream: StreamName) -> None:
        """Read what is in a pipe now; it is given out later."""
        enough = time.monotonic() + LEFT_S
        while self.receivers[stream].socket.poll(GRACE_MS) and time.monotonic() < enough:
            if (message := self._receive(stream)) is not None:
                self._read[stream].append(message)

    def end(self, stream: StreamName) -> None:
        """Its process is dead: read what it has left, before another one takes its place."""
        self.read_out(stream)
        self._ended_ns[stream] = self._now_ns()

    def forget_ends(self) -> None:
        """The session has another clock from now on."""
        self._ended_ns.clear()

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        """The next message of those that were read, and of the streams that are ``wanted``; None: none.

        Everything that was published by ``until_ns`` comes before anything that was published later, and
        arrives by then; of what is later, the earliest comes first. Arrivals never go back in time where
        ``until_ns`` lies never before the last one.
        """
        if self._before:
            return self._before.popleft()
        self._turn += 1  # nobody who always has something to say keeps the others waiting
        streams = [s for s in STREAMS if s in wanted or self._read[s]]
        turn = self._turn % len(streams)
        later: list[tuple[int, StreamName]] = []
        for stream in streams[turn:] + streams[:turn]:
            message = self._first(stream)
            if message is None:
                continue
            now_ns = self._now_ns()
            came_ns = min(message.stamp.t_publish_ns, now_ns)  # who has had no go yet has another clock
            if until_ns is None or came_ns <= until_ns:
                return Arrival(now_ns if until_ns is None else min(now_ns, until_ns), self._take(stream))
            later.append((came_ns, stream))
        if not later:
            return None
        came_ns, stream = min(later)
        return Arrival(came_ns, self._take(stream))

    def wait(self, until_ns: int | None, wanted: Sequence[StreamName]) -> bool:
        """Wait until something comes, at most until ``until_ns`` or for a tenth of a second."""
        wait_ms = POLL_MS
        if until_ns is not None:
            left_ms = math.ceil((until_ns - self._now_ns()) / 1e6)
            wait_ms = min(POLL_MS, left_ms if left_ms > 0 else GRACE_MS)
        if len(wanted) == len(STREAMS):
            return bool(self._poller.poll(wait_ms))
        return bool(self.receivers[wanted[0]].socket.poll(min(wait_ms, TURN_MS)))

    def close(self) -> None:
        for receiver in self.receivers.values():
            receiver.close()

    def _first(self, stream: StreamName) -> Message | None:
        waiting = self._read[stream]
        if not waiting and (message := self._receive(stream)) is not None:
            waiting.append(message)
        return waiting[0] if waiting else None

    def _take(self, stream: StreamName) -> Message:
        return self._read[stream].popleft()

    def _receive(self, stream: StreamName) -> Message | None:
        message = self.receivers[stream].receive()
        if message is None:
            return None
        ended_ns = self._ended_ns.get(stream)
        if ended_ns is not None and message.stamp.t_publish_ns < ended_ns:
            # Without its number among what another process says.
            return None if isinstance(message, Status) else restamped(message, seq=-1)
        self._heard(stream, message)
        return message


def restamped(message: Message, **changes: int) -> Message:
    """The same seen or heard, with another stamp."""
    stamp = msgspec.structs.replace(message.stamp, **changes)
    if isinstance(message, msgspec.Struct):
        return msgspec.structs.replace(message, stamp=stamp)
    return replace(message, stamp=stamp)
