"""The emotion stream, schema 1: its messages, who publishes them, and a helper to subscribe.

ZeroMQ multipart ``[topic, JSON]`` on an XPUB socket; the topic is ``emotion.<session>.``, so that a
subscription to ``emotion`` gets every session. A field that does not apply is absent, never zero.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import zmq
from msgspec import UNSET, UnsetType

log = logging.getLogger("runtime.stream")

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5563"
BEGIN_S = 5.0  # session.begin is repeated so often, for those who cannot hear they are late
QUEUE_MESSAGES = 1000  # per subscriber; whoever is slower loses its own messages, nobody else's
LINGER_MS = 500

State = Literal["ok", "degraded", "abstain"]


class EndpointError(ValueError):
    """An endpoint that cannot be bound or connected to."""


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """When: nanoseconds on the session's capture clock, and the window's end as a date."""

    clock: Literal["monotonic", "media"]
    start_ns: int
    end_ns: int
    published_ns: int
    wall: str


class Emotions(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrated probabilities of a classifying network; they sum to 1."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    top: str


class Sentiment(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a regressing network."""

    value: float
    scale: tuple[float, float]


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One sense in this window; ``reason`` says why it is absent."""

    present: bool
    coverage: float  # share of the window's time that was observed, 0..1
    lag_ms: float | UnsetType = UNSET  # window end less the newest sample
    logits: tuple[float, ...] | UnsetType = UNSET  # what this sense alone says
    words: int | UnsetType = UNSET
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

    text: int = 0
    audio: int = 0
    vision: int = 0
    windows: int = 0  # too old to be inferred


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

    seq: int
    state: State
    time: Time
    modalities: Modalities
    latency_ms: Latency
    dropped: Lost
    model: Model
    revises: int | None = None  # the seq of the message that this one replaces
    final: bool
    emotions: Emotions | UnsetType = UNSET
    sentiment: Sentiment | UnsetType = UNSET
    distillation: Distillation | UnsetType = UNSET


class SessionBegin(_Message, frozen=True, kw_only=True, tag="session.begin"):
    """The whole configuration; at the start, to every newcomer, and every few seconds."""

    started: str
    clock: Literal["monotonic", "media"]
    config: dict[str, Any]
    model: Model
    streams: dict[str, str]  # sense -> hash of its StreamSpec
    software: str


class SenseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one capture stream is."""

    state: str
    reason: str | None = None
    detail: str = ""
    produced: int = 0
    dropped: int = 0
    corrupt: int = 0
    refused: int = 0
    restarts: int = 0


class StatusMessage(_Message, frozen=True, kw_only=True, tag="status"):
    """How the session is: every second, and at once when something happens (``event``)."""

    uptime_s: float
    senses: dict[str, SenseStatus]
    windows: int
    skipped: int
    engine: str
    event: str | UnsetType = UNSET


class SessionEnd(_Message, frozen=True, kw_only=True, tag="session.end"):
    """Totals."""

    reason: str
    duration_s: float
    windows: int
    skipped: int
    senses: dict[str, SenseStatus]
    latency_ms_p50: float | UnsetType = UNSET
    latency_ms_p95: float | UnsetType = UNSET


Message = Emotion | SessionBegin | StatusMessage | SessionEnd

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def decode(payload: bytes) -> Message:
    """Check and decode the JSON of a message. Raises msgspec.DecodeError for anything else."""
    message: Message = _decoder.decode(payload)
    return message


def schema() -> dict[str, Any]:
    """The JSON schema of every message, generated from the structs above."""
    generated = msgspec.json.schema(Message)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "emotion-stream-1",
        "title": "Emotion stream, schema 1",
    }
    return head | generated


def wall(unix_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class Publisher:
    """The publishing end: one XPUB socket, a bounded queue for each subscriber.

    Raises:
        EndpointError: the endpoint is malformed, in use, or reaches beyond this machine.
    """

    def __init__(self, endpoint: str, session: str) -> None:
        self.topic = f"emotion.{session}.".encode()
        self._begin: bytes | None = None
        self._begin_at = 0.0
        _refuse_beyond_loopback(endpoint)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            if error.errno == zmq.EADDRINUSE:
                raise EndpointError(
                    f"{endpoint} is in use: stop the other program, or choose another --endpoint"
                ) from error
            raise EndpointError(f"{endpoint}: {error.strerror}: expected tcp://127.0.0.1:PORT") from error

    def publish(self, message: Message) -> bytes:
        """Send, and return the JSON exactly as it went out."""
        payload = _encoder.encode(message)
        if isinstance(message, SessionBegin):
            self._begin, self._begin_at = payload, time.monotonic() + BEGIN_S
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
        if self._socket.poll(round(seconds * 1000), zmq.POLLIN):
            self._newcomers()

    def close(self) -> None:
        self._socket.close()

    def _newcomers(self) -> bool:
        newcomer = False
        while self._socket.poll(0, zmq.POLLIN):
            newcomer |= self._socket.recv().startswith(b"\x01")
        return newcomer


def subscribe(
    endpoint: str = DEFAULT_ENDPOINT,
    *,
    session: str | None = None,
    timeout_s: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Message]:
    """Iterate over the messages of a stream: ``for message in subscribe(): ...``.

    Args:
        session: only this session; None: all.
        timeout_s: end after so long without any message; None: wait for ever.
        stopping: asked a few times a second; True ends the iteration.

    Raises:
        EndpointError: the endpoint is malformed.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    try:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(f"{endpoint}: {error.strerror}: expected tcp://HOST:PORT") from error
        socket.subscribe(b"emotion" if session is None else f"emotion.{session}.".encode())
        heard_at = time.monotonic()
        while not stopping():
            if not socket.poll(100):
                if timeout_s is not None and time.monotonic() - heard_at > timeout_s:
                    return
                continue
            heard_at = time.monotonic()
            frames = socket.recv_multipart()
            try:
                yield decode(frames[-1])
            except msgspec.DecodeError as error:
                log.warning("skipped a message that is not of schema 1: %s", error)
    finally:
        socket.close(linger=0)


def _refuse_beyond_loopback(endpoint: str) -> None:
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return
    host = address.rpartition(":")[0].strip("[]")
    if transport != "tcp" or not host:
        raise EndpointError(f"{endpoint!r} is no endpoint: expected tcp://127.0.0.1:PORT or ipc://FILE")
    if host not in ("localhost", "::1", "lo") and not host.startswith("127."):
        raise EndpointError(
            f"{endpoint} reaches beyond this machine, where anybody could listen: "
            f"expected a loopback address such as {DEFAULT_ENDPOINT}"
        )
