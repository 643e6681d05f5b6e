"""Publish: one XPUB socket, which remembers for newcomers what session this is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from capture.delivery import PER_SUBSCRIBER, PER_SUBSCRIBER_RAW
from runtime.curve import guard
from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError, check_bindable, in_use
from runtime.keys import KeyFileError
from runtime.stream.messages import (
    Face,
    Message,
    Picture,
    SessionBegin,
    SessionEnd,
    Sound,
    Transcript,
    decode,
    encode,
)

BEGIN_S = 5.0  # session.begin is repeated so often, for those who cannot hear they are late
GREET_S = 0.1  # newcomers wait so long for it at most: it goes to everybody
LONGEST_TOPIC = 1 << 10  # bytes; whoever asks for a longer one is disconnected
GREETED_AT_ONCE = 100  # subscriptions that are looked at in a turn of the loop
# What tells more of a person than a feeling has a topic of its own, that nobody hears by accident.
OWN_TOPICS = {Transcript: "words", Face: "face", Picture: "raw", Sound: "raw"}
LINGER_MS = 500  # how long closing waits for session.end to go out


class Publisher:
    """The publishing end: one XPUB socket, a bounded queue for each subscriber.

    Args:
        endpoint: a loopback ``tcp://127.0.0.1:PORT`` (PORT may be ``*``: any free one) or ``ipc://FILE``.
            With keys, also an address that other machines reach.
        session: name of the session, part of the topic.
        keys: a folder of ``runtime.keys``: only the clients on its list hear anything, encrypted.
        raw: pictures and sound are published, too: fewer messages are kept for who does not read.

    Raises:
        EndpointError: the endpoint is malformed, in use, or reaches beyond this machine without keys.
        KeyFileError: the folder is none, or nobody is on its list.
    """

    def __init__(self, endpoint: str, session: str, keys: Path | None = None, *, raw: bool = False) -> None:
        self.topic = f"emotion.{session}.".encode()
        self._own_topics = {kind: f"{topic}.{session}.".encode() for kind, topic in OWN_TOPICS.items()}
        self._begin: bytes | None = None
        self._begin_at = 0.0  # when it is said next
        self._begun_at = 0.0  # when it was said last
        check_bindable(endpoint, guarded=keys is not None)
        # A context of its own, because only ending it waits until session.end has gone out.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.XPUB)
        if keys is not None:
            try:
                self._guard = guard(self._context, self._socket, keys)
            except KeyFileError:
                self.close()
                raise
        self._socket.setsockopt(zmq.SNDHWM, (PER_SUBSCRIBER_RAW if raw else PER_SUBSCRIBER).holds)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_TOPIC)  # of what comes in: subscriptions
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # a second subscriber to one topic is news, too
        self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        mask = os.umask(0o177)  # an ipc file is this user's alone, wherever it lies
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                raise in_use(endpoint) from error
            raise EndpointError(
                f"{endpoint} cannot be bound ({zmq.strerror(error.errno or 0)}): "
                f"expected an address of this machine, such as {DEFAULT_ENDPOINT}"
            ) from error
        finally:
            os.umask(mask)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)  # where subscribers connect to

    def publish(self, message: Message) -> bytes:
        """Send, and return the JSON exactly as it went out.

        Raises:
            MalformedMessage: a value is not of schema 1, such as a score that is no number; nobody
                could have read the message.
        """
        payload = encode(message)
        decode(payload)
        match message:
            case SessionBegin():
                self._begin, self._begin_at = payload, time.monotonic() + BEGIN_S
            case SessionEnd():
                self._begin = None
            case _:
                pass
        self._socket.send_multipart([self._own_topics.get(type(message), self.topic), payload])
        return payload

    def greet(self) -> None:
        """Tell newcomers what session this is; call it in every turn of the loop."""
        now = time.monotonic()
        if self._newcomers():  # a crowd of them is greeted together
            self._begin_at = min(self._begin_at, self._begun_at + GREET_S)
        if self._begin is not None and now >= self._begin_at:
            self._begun_at, self._begin_at = now, now + BEGIN_S
            self._socket.send_multipart([self.topic, self._begin])

    def wait_for_subscriber(self, seconds: float) -> None:
        """Give programs that wait for a session the time to connect, before all is over."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0 and self._socket.poll(round(left_s * 1000)):
            if self._newcomers():  # and nobody who only leaves
                return

    def close(self) -> None:
        """Wait at most ``LINGER_MS`` for what is still to be sent, then let go of the endpoint."""
        self._socket.close()
        if self._guard is not None:
            self._guard.stop()
        self._context.term()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _newcomers(self) -> bool:
        newcomer = False
        for _ in range(GREETED_AT_ONCE):  # whoever subscribes in a loop does not hold up the session
            if not self._socket.poll(0, zmq.POLLIN):
                break
            newcomer |= self._socket.recv().startswith(b"\x01")
        return newcomer
