"""Host offset: what time it is on another host, by the round trip that took least, over ZeroMQ.

Each exchange has four time stamps, as in NTP (RFC 5905, section 8): sent and received here, received and
answered there. Queues only ever add to a round trip, and mostly to one way of it, so the exchange with the
least round trip has the least error, which is never more than half of that trip.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
import zmq

from capture.clock import Clock
from capture.messages import LATEST_NS

TURN_MS = 200  # how long the echo waits before it asks whether to stop
GIVE_UP = 3  # requests without any answer
KEPT = 8  # exchanges that a filter remembers, as NTP's does
STABLE_PPM = 50.0  # two quartz clocks part by no more: what an old exchange loses in worth
ROUNDING_NS = 1000
MAX_BYTES = 1024  # of a message of CURVE's handshake; an honest one of ours has fewer than 64

TimeNs = Annotated[int, msgspec.Meta(gt=-LATEST_NS, lt=LATEST_NS)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request: its number, so that a late answer is not taken for the next one's."""

    number: Number


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A reply: when the request came and when this left, on the clock of the host that answers."""

    number: Number
    t_received_ns: TimeNs
    t_answered_ns: TimeNs


@dataclass(frozen=True, slots=True)
class Exchange:
    """One round trip; the outer times are of our clock, the inner ones of the other host's."""

    t_asked_ns: int
    t_received_ns: int
    t_answered_ns: int
    t_heard_ns: int

    @property
    def round_trip_ns(self) -> int:
        """Time on the way, both ways: without what the other host took to answer."""
        return (self.t_heard_ns - self.t_asked_ns) - (self.t_answered_ns - self.t_received_ns)

    @property
    def offset_ns(self) -> int:
        """The other clock less ours, if both ways took the same time."""
        return (self.t_received_ns - self.t_asked_ns + self.t_answered_ns - self.t_heard_ns) // 2


class HostOffset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far another host's clock is ahead of ours; goes as it is into a recording."""

    offset_ns: int
    error_ns: int  # the offset is wrong by no more: half the round trip, and what the clocks parted since
    t_ns: int  # when it was measured, on our clock
    exchanges: int  # that it was chosen from
    lost: int = 0  # requests that nobody answered in time

    def here_ns(self, t_there_ns: int) -> int:
        """A time of the other host's clock, on ours."""
        return t_there_ns - self.offset_ns

    def there_ns(self, t_here_ns: int) -> int:
        """A time of our clock, on the other host's."""
        return t_here_ns + self.offset_ns


class NoAnswer(Exception):
    """The other host answered no request; one line with what to look at."""


class Filter:
    """Keeps the last exchanges and believes the one with the least error at this moment.

    An old exchange loses worth, for the clocks part by up to ``stable_ppm`` meanwhile; so a change of the
    offset is followed, and one lucky exchange is not believed for ever.
    """

    def __init__(self, kept: int = KEPT, stable_ppm: float = STABLE_PPM) -> None:
        self.lost = 0
        self._exchanges: deque[Exchange] = deque(maxlen=kept)
        self._stable_ppm = stable_ppm

    def observe(self, exchange: Exchange) -> None:
        """Take an exchange. One that came back before it was sent is of a clock that was set: forget all."""
        if exchange.round_trip_ns < 0 or exchange.t_answered_ns < exchange.t_received_ns:
            self._exchanges.clear()
            return
        if self._exchanges and self._impossible(exchange):
            self._exchanges.clear()
        self._exchanges.append(exchange)

    def offset(self) -> HostOffset | None:
        """The best estimate so far; None before the first exchange."""
        if not self._exchanges:
            return None
        now_ns = self._exchanges[-1].t_heard_ns
        best = min(self._exchanges, key=lambda one: self._error_ns(one, now_ns))
        error_ns = round(self._error_ns(best, now_ns))
        return HostOffset(best.offset_ns, error_ns, best.t_heard_ns, len(self._exchanges), self.lost)

    def _error_ns(self, one: Exchange, now_ns: int) -> float:
        return one.round_trip_ns / 2 + (now_ns - one.t_heard_ns) * self._stable_ppm * 1e-6

    def _impossible(self, exchange: Exchange) -> bool:
        """Whether it contradicts what is kept: then the other host has a new clock, and it alone counts."""
        now_ns = exchange.t_heard_ns
        return any(
            abs(exchange.offset_ns - one.offset_ns)
            > self._error_ns(one, now_ns) + self._error_ns(exchange, now_ns) + ROUNDING_NS
            for one in self._exchanges
        )


def answer(socket: zmq.Socket[bytes], clock: Clock, stopping: Callable[[], bool]) -> int:
    """Echo on a bound REP socket until ``stopping``; returns how many requests were malformed.

    The socket is the caller's, after ``prepare``: beyond loopback it needs CURVE keys and an allow-list.
    """
    malformed = 0
    while not stopping():
        if not socket.poll(TURN_MS):
            continue
        frames = socket.recv_multipart()
        t_received_ns = clock.now_ns()
        try:
            asked = msgspec.msgpack.decode(b"".join(frames), type=Ask)
        except (msgspec.DecodeError, UnicodeDecodeError):
            malformed += 1
            socket.send(b"")  # REP owes an answer to each request
            continue
        socket.send(msgspec.msgpack.encode(Answer(asked.number, t_received_ns, clock.now_ns())))
    return malformed


def measure(
    socket: zmq.Socket[bytes],
    clock: Clock,
    *,
    exchanges: int = KEPT,
    interval_s: float = 0.02,
    timeout_s: float = 1.0,
    stopping: Callable[[], bool] = lambda: False,
    into: Filter | None = None,
) -> HostOffset:
    """Ask the other host a few times over a REQ socket, and choose.

    Args:
        socket: of type REQ, the caller's, after ``prepare``.
        clock: ours.
        exchanges: how many; the more, the better the least round trip.
        interval_s: between two of them, so that one burst in the network does not meet all.
        timeout_s: a later answer is lost.
        into: go on with what an earlier measurement found.

    Raises:
        NoAnswer: not one request was answered.
    """
    best = Filter(max(exchanges, KEPT)) if into is None else into
    for number in range(exchanges):
        if stopping():
            break
        if number:
            time.sleep(interval_s)
        exchange = _exchange(socket, clock, number, timeout_s)
        if exchange is not None:
            best.observe(exchange)
            continue
        best.lost += 1
        if best.lost >= GIVE_UP and best.offset() is None:
            break
    found = best.offset()
    if found is None:
        raise NoAnswer(
            f"no answer to {best.lost} requests within {timeout_s:g} s each: "
            "is the other host's echo running, at this address, with our key on its list?"
        )
    return found


def prepare(socket: zmq.Socket[bytes]) -> None:
    """Set what a REQ or REP socket needs before it connects or binds."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    if socket.type == zmq.REQ:
        socket.setsockopt(zmq.REQ_RELAXED, 1)  # a lost answer does not block the next request
        socket.setsockopt(zmq.REQ_CORRELATE, 1)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # connecting is no part of a round trip


def _exchange(socket: zmq.Socket[bytes], clock: Clock, number: int, timeout_s: float) -> Exchange | None:
    deadline = time.monotonic() + timeout_s
    if not socket.poll(round(timeout_s * 1000), zmq.POLLOUT):  # nobody is there
        return None
    t_asked_ns = clock.now_ns()
    socket.send(msgspec.msgpack.encode(Ask(number)))
    if not socket.poll(max(1, round((deadline - time.monotonic()) * 1000))):
        return None
    frames = socket.recv_multipart()
    t_heard_ns = clock.now_ns()
    try:
        told = msgspec.msgpack.decode(b"".join(frames), type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if told.number != number:
        return None
    return Exchange(t_asked_ns, told.t_received_ns, told.t_answered_ns, t_heard_ns)
