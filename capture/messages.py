"""Messages: what capture processes say, and the wire codec (msgpack header + raw buffers, no pickle).

On the wire a message is a ZeroMQ multipart: frame 0 is a msgpack map, tagged by ``type``; the
following frames are the message's arrays, little-endian and C-ordered. A decoder checks every
size before it believes a buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

StreamName = Literal["text", "audio", "vision"]
STREAMS: tuple[StreamName, ...] = ("text", "audio", "vision")
State = Literal["starting", "ready", "running", "degraded", "absent", "ended", "failed"]

MAX_BUFFER_BYTES = 8 << 20  # larger than any honest feature block or PCM chunk
MAX_SIDE = 16_384  # of a picture, pixels
LATEST_NS = 2**62  # of any time: 146 years, and sums of two still fit an int64
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]  # a capture process never comes so far


class CorruptMessage(ValueError):
    """A multipart that is not a well-formed message; it is dropped and counted, never guessed at."""


class Stamp(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who said it, in which order, and when it happened.

    Times are nanoseconds on the session's capture clock (see ``capture.clock``).
    """

    session: str
    stream: StreamName
    seq: Annotated[
        int, msgspec.Meta(ge=-1, le=2**48)
    ]  # counts every message of the stream, also those that were dropped on the way
    t_capture_ns: int  # when the newest sample inside happened
    t_publish_ns: int  # when the message was handed to the bus


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A spoken word with its time on the capture clock."""

    text: str
    start_ns: int
    end_ns: int
    probability: float = 1.0
    committed: bool = True  # False: provisional, may still be taken back


class Unheard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of time in which nobody listened, and why: that no word was said in it is not known."""

    start_ns: int
    end_ns: int
    reason: str  # as in ``Status``


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBlock:
    """Feature vectors of one stream: one vision frame, or a few audio frames."""

    stamp: Stamp
    spec: str  # StreamSpec.hash of the code that made them
    t_ready_ns: int  # raw data in hand; t_publish - t_ready is what the features cost
    times_ns: npt.NDArray[np.int64]  # (T,) capture time of each vector
    values: npt.NDArray[np.float32]  # (T, D)


class Words(msgspec.Struct, frozen=True, tag="words", forbid_unknown_fields=True, omit_defaults=True):
    """Recognised words; also sent empty, because ``until_ns`` says how far listening has come."""

    stamp: Stamp
    spec: str
    words: tuple[Word, ...]
    until_ns: int  # every committed word that ends before this time has been sent
    unheard: tuple[Unheard, ...] = ()  # before ``until_ns``, since the last such message


@dataclass(frozen=True, slots=True, eq=False)
class Pcm:
    """Raw sound for the recogniser, 16-bit mono; ``stamp.t_capture_ns`` is the first sample's time."""

    stamp: Stamp
    rate_hz: int
    samples: npt.NDArray[np.int16]  # (N,)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What the camera saw, small, and only where the operator shares or records it."""

    stamp: Stamp
    width: int
    height: int
    jpeg: bytes
    landmarks: npt.NDArray[np.float32]  # (N, 2) in shares of width and height; N is 0 without a face


class Status(msgspec.Struct, frozen=True, tag="status", forbid_unknown_fields=True):
    """How a capture process is; sent on every change and once a second."""

    stamp: Stamp
    state: State
    reason: str | None = None  # short and stable: "asset_missing", "no_device", "no_face"
    detail: str = ""  # one line for a person
    dropped: Count = 0  # samples lost inside the process so far (newest-only camera, device overflow)
    produced: Count = 0  # samples published so far
    corrupt: Count = 0  # messages to the process itself that it could not read, such as sound to Whisper


Message: TypeAlias = FeatureBlock | Words | Pcm | Picture | Status


class _FeaturesHeader(msgspec.Struct, frozen=True, tag="features", forbid_unknown_fields=True):
    stamp: Stamp
    spec: str
    t_ready_ns: int
    steps: int
    dim: int


class _PcmHeader(msgspec.Struct, frozen=True, tag="pcm", forbid_unknown_fields=True):
    stamp: Stamp
    rate_hz: int
    samples: int


class _PictureHeader(msgspec.Struct, frozen=True, tag="picture", forbid_unknown_fields=True):
    stamp: Stamp
    width: int
    height: int
    landmarks: int


_Header: TypeAlias = _FeaturesHeader | _PcmHeader | _PictureHeader | Words | Status

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)
_packed = msgspec.msgpack.Decoder(list[bytes])


def encode(message: Message) -> list[bytes]:
    """Turn a message into the frames of a ZeroMQ multipart."""
    match message:
        case FeatureBlock(stamp, spec, t_ready_ns, times_ns, values):
            steps, dim = values.shape
            header = _FeaturesHeader(stamp, spec, t_ready_ns, steps, dim)
            return [_encoder.encode(header), _raw(times_ns, "<i8"), _raw(values, "<f4")]
        case Pcm(stamp, rate_hz, samples):
            return [_encoder.encode(_PcmHeader(stamp, rate_hz, len(samples))), _raw(samples, "<i2")]
        case Picture(stamp, width, height, jpeg, landmarks):
            head = _encoder.encode(_PictureHeader(stamp, width, height, len(landmarks)))
            return [head, jpeg, _raw(landmarks, "<f4")]
        case _:
            return [_encoder.encode(message)]


def decode(frames: Sequence[bytes]) -> Message:
    """Turn the frames of a multipart into a message.

    Raises:
        CorruptMessage: the header is not valid msgpack of a known type, a buffer has another size
            than the header says, or a value is no number, no time, or not in order.
    """
    if not frames:
        raise CorruptMessage("a message without frames")
    try:
        header: _Header = _decoder.decode(frames[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptMessage(f"the header is no known message: {error}") from error
    buffers = frames[1:]
    _check_times(header.stamp.t_capture_ns, header.stamp.t_publish_ns)
    match header:
        case _FeaturesHeader():
            _expect(buffers, 2)
            if header.steps < 1 or header.dim < 1:
                raise CorruptMessage(f"a block of {header.steps} vectors of {header.dim} columns")
            times_ns = _array(buffers[0], "<i8", header.steps)
            values = _array(buffers[1], "<f4", header.steps, header.dim)
            _check_times(header.t_ready_ns, *times_ns[[0, -1]].tolist())
            if (np.diff(times_ns) < 0).any() or not np.isfinite(values).all():
                raise CorruptMessage("a block whose times go back, or with a value that is no number")
            return FeatureBlock(header.stamp, header.spec, header.t_ready_ns, times_ns, values)
        case _PcmHeader():
            _expect(buffers, 1)
            if header.rate_hz < 1:
                raise CorruptMessage(f"sound at {header.rate_hz} Hz")
            return Pcm(header.stamp, header.rate_hz, _array(buffers[0], "<i2", header.samples))
        case _PictureHeader():
            _expect(buffers, 2)
            if not (0 < header.width <= MAX_SIDE and 0 < header.height <= MAX_SIDE and buffers[0]):
                raise CorruptMessage(f"a picture of {header.width} x {header.height}")
            if len(buffers[0]) > MAX_BUFFER_BYTES:
                raise CorruptMessage(f"a picture of {len(buffers[0])} bytes")
            landmarks = _array(buffers[1], "<f4", header.landmarks, 2)
            if not np.isfinite(landmarks).all():
                raise CorruptMessage("a landmark that is nowhere")
            return Picture(header.stamp, header.width, header.height, bytes(buffers[0]), landmarks)
        case Words() | Status():
            _expect(buffers, 0)
            if isinstance(header, Words):
                _check_words(header)
            return header


def pack(frames: Sequence[bytes]) -> bytes:
    """Join the frames of a multipart into one byte string, as recordings store it."""
    return _encoder.encode(list(frames))


def unpack(data: bytes) -> list[bytes]:
    """Undo ``pack``. Raises CorruptMessage for anything else."""
    try:
        return _packed.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptMessage(f"not a packed message: {error}") from error


def _check_times(*times_ns: int) -> None:
    if not all(-LATEST_NS < t_ns < LATEST_NS for t_ns in times_ns):
        raise CorruptMessage(f"an impossible time among {times_ns} ns")


def _check_words(message: Words) -> None:
    _check_times(message.until_ns, *(t_ns for word in message.words for t_ns in (word.start_ns, word.end_ns)))
    _check_times(*(t_ns for one in message.unheard for t_ns in (one.start_ns, one.end_ns)))
    if any(one.end_ns < one.start_ns for one in message.unheard):
        raise CorruptMessage("a stretch that ends before it begins")
    for word in message.words:
        if word.end_ns < word.start_ns or not 0 <= word.probability <= 1:
            raise CorruptMessage(f"a word that ends before it begins, or of probability {word.probability}")


def _raw(array: npt.NDArray[np.generic], dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()


def _expect(buffers: Sequence[bytes], count: int) -> None:
    if len(buffers) != count:
        raise CorruptMessage(f"expected {count} buffers, got {len(buffers)}")


def _array(buffer: bytes, dtype: str, *shape: int) -> npt.NDArray[Any]:
    if min(shape) < 0 or max(shape) > MAX_BUFFER_BYTES:
        raise CorruptMessage(f"an impossible size {shape}")
    expected = np.dtype(dtype).itemsize * math.prod(shape)
    if expected > MAX_BUFFER_BYTES or len(buffer) != expected:
        raise CorruptMessage(f"a buffer of {len(buffer)} bytes where {shape} {dtype} needs {expected}")
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)
