"""The emotion stream, schema 1: its messages, who publishes them, and a helper to subscribe.

ZeroMQ multipart ``[topic, JSON]`` on an XPUB socket; the topic is ``emotion.<session>.``, so that a
subscription to ``emotion`` gets every session. A field that does not apply is absent, never zero.
``python -m runtime.stream --schema`` prints the JSON schema that is generated from these structs.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import zmq
from msgspec import UNSET, Meta, UnsetType
from zmq.auth.thread import ThreadAuthenticator

from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError, check_bindable, check_port, in_use
from runtime.keys import KeyFileError, client_key, clients, server_keys

log = logging.getLogger("runtime.stream")

BEGIN_S = 5.0  # session.begin is repeated so often, for those who cannot hear they are late
QUEUE_MESSAGES = 1000  # per subscriber; whoever is slower loses its own messages, nobody else's
LINGER_MS = 500  # how long closing waits for session.end to go out

State = Literal["ok", "degraded", "abstain"]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Date = Annotated[
    str, Meta(description="RFC 3339, UTC, milliseconds", extra_json_schema={"format": "date-time"})
]


class MalformedMessage(ValueError):
    """A message that is not of schema 1."""


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """When: nanoseconds on the session's capture clock, and the window's end as a date."""

    clock: Literal["monotonic", "media"]
    start_ns: int
    end_ns: int
    published_ns: int
    wall: Date


class Emotions(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrated probabilities of a classifying network; they sum to 1."""

    labels: tuple[str, ...]
    scores: tuple[Share, ...]
    top: str

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.labels):
            raise ValueError(f"{len(self.scores)} scores for {len(self.labels)} labels")
        if self.top not in self.labels:
            raise ValueError(f"top {self.top!r} is none of the labels {self.labels}")


class Sentiment(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a regressing network."""

    value: float
    scale: tuple[float, float]


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One sense in this window; ``reason`` says why it is absent."""

    present: bool
    coverage: Share  # share of the window's time that was observed, 0..1
    lag_ms: float | UnsetType = UNSET  # window end less the newest sample
    logits: tuple[float, ...] | UnsetType = UNSET  # what this sense alone says
    words: Count | UnsetType = UNSET  # how many; what was said is not published
    reason: str | UnsetType = UNSET


class Modalities(msgspec.Struct, frozen=True, kw_only=True):
    """The three senses."""

    text: Modality
    audio: Modality
    vision: Modality


class Distillation(msgspec.Struct, frozen=True, kw_only=True):
    """Edges of the two GD-Units: ``order`` names teacher->student, strengths sum to 1."""

    order: tuple[str, ...]
    homo: tuple[float, ...]
    hetero: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.order) == len(self.homo) == len(self.hetero):
            raise ValueError(f"{len(self.homo)} and {len(self.hetero)} strengths for {len(self.order)} edges")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the newest sample to publication; the segments sum to the total.

    A session that does not run in real time has only what the engine and the publisher cost.
    """

    infer: float
    publish: float
    total: float
    capture: float | UnsetType = UNSET
    features: float | UnsetType = UNSET
    window: float | UnsetType = UNSET


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Samples lost so far, in the capture processes and on the bus."""

    text: Count = 0
    audio: Count = 0
    vision: Count = 0
    windows: Count = 0  # too old to be inferred


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Which network, features and engine."""

    name: str
    hash: str
    features: str
    engine: str
    precision: str


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    schema: Literal[1] = 1
    session: str


class Emotion(_Message, frozen=True, kw_only=True, tag="emotion"):
    """One window: what is felt, how sure, and which sense said so."""

    seq: Count
    state: State
    time: Time
    modalities: Modalities
    latency_ms: Latency
    dropped: Lost
    model: Model
    revises: Count | None = None  # the seq of the message that this one replaces
    final: bool
    emotions: Emotions | UnsetType = UNSET
    sentiment: Sentiment | UnsetType = UNSET
    distillation: Distillation | UnsetType = UNSET


class SessionBegin(_Message, frozen=True, kw_only=True, tag="session.begin"):
    """The whole configuration; at the start, to newcomers, every few seconds, and when the engine changes."""

    started: Date
    clock: Literal["monotonic", "media"]
    config: dict[str, Any]
    model: Model
    streams: dict[str, str]  # sense -> hash of its StreamSpec
    sources: dict[str, str] | UnsetType = UNSET  # sense -> the device or file it is captured from
    software: str
    passed_over: dict[str, str] | UnsetType = UNSET  # faster engines -> why they do not run, or no longer


class SenseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one capture stream is, and what it has come to so far."""

    state: str
    reason: str | None = None  # short and stable: "no_device"
    detail: str = ""  # one line for a person
    produced: Count = 0  # samples
    dropped: Count = 0  # samples lost in the capture process and on the bus
    gaps: Count | UnsetType = UNSET  # those of them that were lost on the bus
    corrupt: Count = 0  # messages that could not be decoded
    refused: Count = 0  # messages of another FeatureSpec
    restarts: Count = 0


class StatusMessage(_Message, frozen=True, kw_only=True, tag="status"):
    """How the session is: every second, and at once when something happens (``event``)."""

    uptime_s: float
    senses: dict[str, SenseStatus]
    windows: Count
    skipped: Count  # windows too old to be inferred
    engine: str
    event: str | UnsetType = UNSET


class SessionEnd(_Message, frozen=True, kw_only=True, tag="session.end"):
    """Totals."""

    reason: str
    duration_s: float
    windows: Count
    skipped: Count  # windows too old to be inferred
    senses: dict[str, SenseStatus]
    latency_ms_p50: float | UnsetType = UNSET
    latency_ms_p95: float | UnsetType = UNSET


Message = Emotion | SessionBegin | StatusMessage | SessionEnd

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def decode(payload: bytes) -> Message:
    """Decode and check the JSON of a message. Raises MalformedMessage for anything else."""
    try:
        message: Message = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not a message of schema 1: {error}") from error
    return message


def schema() -> dict[str, Any]:
    """The JSON schema of every message, generated from the structs above."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:emotion-edge:emotion-stream:1",
        "title": "Emotion stream, schema 1",
        "description": "The JSON part of each message; a field that does not apply is absent, never zero.",
    }
    return head | msgspec.json.schema(Message)


def schema_text() -> str:
    """The schema as it is kept in ``runtime/schema/emotion-stream-1.json``."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


def wall(unix_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ns // 1_000_000:03d}Z"


class Publisher:
    """The publishing end: one XPUB socket, a bounded queue for each subscriber.

    Args:
        endpoint: a loopback ``tcp://127.0.0.1:PORT`` (PORT may be ``*``: any free one) or ``ipc://FILE``.
            With keys, also an address that other machines reach.
        session: name of the session, part of the topic.
        keys: a folder of ``runtime.keys``: only the clients on its list hear anything, encrypted.

    Raises:
        EndpointError: the endpoint is malformed, in use, or reaches beyond this machine without keys.
        KeyFileError: the folder is none, or nobody is on its list.
    """

    def __init__(self, endpoint: str, session: str, keys: Path | None = None) -> None:
        self.topic = f"emotion.{session}.".encode()
        self._begin: bytes | None = None
        self._begin_at = 0.0
        curve = None if keys is None else server_keys(keys)
        if keys is not None and not clients(keys):
            raise KeyFileError(
                f"{keys}: nobody is on the list, so nobody could listen: "
                f"python -m runtime.keys add {keys} NAME"
            )
        check_bindable(endpoint, guarded=curve is not None)
        # A context of its own, because only ending it waits until session.end has gone out.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.XPUB)
        if curve is not None:
            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve(domain="*", location=str(curve.clients))
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
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
        payload = _encoder.encode(message)
        decode(payload)
        match message:
            case SessionBegin():
                self._begin, self._begin_at = payload, time.monotonic() + BEGIN_S
            case SessionEnd():
                self._begin = None
            case _:
                pass
        self._socket.send_multipart([self.topic, payload])
        return payload

    def greet(self) -> None:
        """Tell newcomers what session this is; call it in every turn of the loop."""
        newcomer = self._newcomers()
        if self._begin is not None and (newcomer or time.monotonic() >= self._begin_at):
            self._begin_at = time.monotonic() + BEGIN_S
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
        while self._socket.poll(0, zmq.POLLIN):
            newcomer |= self._socket.recv().startswith(b"\x01")
        return newcomer


class Subscription(Iterator[Message]):
    """An open subscription: iterate over it; ``malformed`` counts the messages that were skipped."""

    def __init__(
        self,
        endpoint: str,
        session: str | None,
        timeout_s: float | None,
        stopping: Callable[[], bool],
        key: Path | None,
    ) -> None:
        self.malformed = 0
        curve = None if key is None else client_key(key)
        self._session, self._timeout_s, self._stopping = session, timeout_s, stopping
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        try:
            self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
            if curve is not None:
                self._socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public)
                self._socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
                self._socket.setsockopt(zmq.CURVE_SERVERKEY, curve.server)
            check_port(endpoint)
            self._socket.connect(endpoint)
        except (zmq.ZMQError, EndpointError) as error:
            self.close()
            raise EndpointError(
                f"{endpoint!r} is no endpoint: expected tcp://HOST:PORT or ipc://FILE"
            ) from error
        self._socket.subscribe(b"emotion." if session is None else f"emotion.{session}.".encode())

    def __next__(self) -> Message:
        silent_at = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._socket.closed and not self._stopping():
            if self._socket.poll(100):
                message = self._check(self._socket.recv_multipart())
                if message is not None:
                    return message
            if silent_at is not None and time.monotonic() >= silent_at:
                break
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Leave the stream; iterating further ends at once."""
        self._socket.close(linger=0)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, frames: list[bytes]) -> Message | None:
        try:
            if len(frames) != 2:
                raise MalformedMessage(f"{len(frames)} parts instead of a topic and its JSON")
            message = decode(frames[1])
        except MalformedMessage as error:
            self.malformed += 1
            log.warning("skipped a message (%d so far): %s", self.malformed, error)
            return None
        # Session "lab.2" has the topic of session "lab" for a prefix.
        return message if self._session in (None, message.session) else None


def subscribe(
    endpoint: str = DEFAULT_ENDPOINT,
    *,
    session: str | None = None,
    timeout_s: float | None = None,
    key: Path | str | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Subscription:
    """Iterate over the messages of a stream: ``for message in subscribe(): ...``.

    Messages that are not of schema 1 are skipped with a warning and counted.

    Args:
        session: only this session; None: all.
        timeout_s: end after so many seconds without any message; None: wait for ever.
        key: the key file of this client, for a stream that asks for one (``runtime.keys``).
        stopping: asked a few times a second; True ends the iteration.

    Raises:
        EndpointError: the endpoint is malformed.
        KeyFileError: the key file is none.
    """
    return Subscription(endpoint, session, timeout_s, stopping, None if key is None else Path(key))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m runtime.stream", description="Print the JSON schema of the emotion stream."
    )
    parser.add_argument("--schema", action="store_true", help="print it (there is nothing else to do)")
    parser.parse_args()
    print(schema_text(), end="")
