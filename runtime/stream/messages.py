"""Messages of the emotion stream, schema 1: the structs that define and check every one of them.

A field that does not apply is absent, never zero. The JSON schema is generated from these structs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

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

    def __post_init__(self) -> None:
        if not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale {self.scale}: expected its low end first, and its high end above that")


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One sense in this window; ``reason`` says why it is absent."""

    present: bool
    coverage: Share  # share of the window's time that was observed, 0..1
    lag_ms: float | UnsetType = UNSET  # window end less the newest sample
    logits: tuple[float, ...] | UnsetType = UNSET  # what this sense alone says
    words: Count | UnsetType = UNSET  # how many; what was said goes to a topic of its own, or nowhere
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
    """Milliseconds from the newest sample to the message's stamp; the segments sum to the total.

    The stamp, ``published_ns``, is inside the message, so what comes after it is in no segment: putting the
    message together, checking, encoding and sending it, and its way to a subscriber. A session that does not
    run in real time, and a window without a sample, have only ``infer`` and ``publish``.
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
    windows: Count = 0  # not inferred: too old, or given up because the machine could not keep up


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
    final: bool  # False: words are still to come, and one message that revises this one
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
    sources: dict[str, str] | UnsetType = UNSET  # sense -> the device, file or recording it comes from
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
    corrupt: Count = 0  # messages from its process, or to it, that could not be read
    refused: Count = 0  # messages of another FeatureSpec
    restarts: Count = 0


class Revised(msgspec.Struct, frozen=True, kw_only=True):
    """Windows that were published again because their words came late, and what that changed, so far."""

    windows: Count
    words_changed: Count  # of those: other words inside than at first
    answer_changed: Count  # of those: another top emotion, or a sentiment of another sign
    shift: Share  # how far the scores moved where the words changed, on average: 0 not at all, 1 all of it
    after_ms_p50: float  # from the end of a window to its final message
    after_ms_p95: float


class StatusMessage(_Message, frozen=True, kw_only=True, tag="status"):
    """How the session is: every second, and at once when something happens (``event``)."""

    uptime_s: float
    senses: dict[str, SenseStatus]
    windows: Count
    skipped: Count  # windows that were not inferred: too old, or given up in overload
    engine: str
    eased: tuple[str, ...] = ()  # what was given up for now because the machine cannot keep up
    revised: Revised | UnsetType = UNSET
    event: str | UnsetType = UNSET


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A word and when it was said, on the session's capture clock."""

    text: str
    start_ns: int
    end_ns: int
    committed: bool  # False: provisional, and may still be taken back


class Transcript(_Message, frozen=True, kw_only=True, tag="words"):
    """What was said, on a topic of its own, and only where the operator shares words.

    Committed words come once and stay. Provisional ones replace those of the message before.
    """

    seq: Count  # counts these messages
    until_ns: int  # every committed word that ends before this time has been sent
    words: tuple[Said, ...]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where the head points, radians: 0 looks into the camera; rotations as Rz(roll) Ry(yaw) Rx(pitch)."""

    pitch: float
    yaw: float
    roll: float


class Face(_Message, frozen=True, kw_only=True, tag="face"):
    """The face in numbers, on a topic of its own, only where the operator shares it; at most ten a second."""

    seq: Count  # counts these messages
    t_ns: int  # when it was seen, on the session's capture clock
    present: bool
    blendshapes: dict[str, Share] | UnsetType = UNSET  # MediaPipe's 52, by name; absent without a face
    head: Head | UnsetType = UNSET


class Picture(_Message, frozen=True, kw_only=True, tag="raw.picture"):
    """What the camera saw, on the topic ``raw``, only where the operator shares it; at most ten a second."""

    t_ns: int
    width: Annotated[int, Meta(gt=0)]
    height: Annotated[int, Meta(gt=0)]
    jpeg: bytes  # base64 in JSON
    landmarks: tuple[tuple[float, float], ...] = ()  # of the face, in shares of width and height


class Sound(_Message, frozen=True, kw_only=True, tag="raw.sound"):
    """What the microphone heard, on the topic ``raw``, only where the operator shares it."""

    t_ns: int  # of the first sample
    rate_hz: Annotated[int, Meta(gt=0)]
    pcm: bytes  # 16-bit, little-endian, mono; base64 in JSON


class SessionEnd(_Message, frozen=True, kw_only=True, tag="session.end"):
    """Totals."""

    reason: str
    duration_s: float
    windows: Count
    skipped: Count  # windows that were not inferred: too old, or given up in overload
    senses: dict[str, SenseStatus]
    revised: Revised | UnsetType = UNSET
    latency_ms_p50: float | UnsetType = UNSET
    latency_ms_p95: float | UnsetType = UNSET


Message = Emotion | SessionBegin | StatusMessage | SessionEnd | Transcript | Face | Picture | Sound

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """The JSON of a message."""
    return _encoder.encode(message)


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
