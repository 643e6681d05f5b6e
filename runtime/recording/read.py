"""Recording: reads a session back in the order in which it arrived, also from a file that broke off."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Metadata
from mcap.records import Message as McapMessage
from mcap.stream_reader import breakup_chunk

from capture.features.spec import FeatureSpec
from capture.messages import CorruptMessage, Message, StreamName, decode, unpack
from runtime.recording.layout import (
    CAPTURE_TOPICS,
    EMOTION_TOPIC,
    END_RECORD,
    FORMAT,
    PAUSE_NS,
    SESSION_RECORD,
    TOPICS,
    Arrival,
    Header,
    Raw,
    RecordingError,
)

T = TypeVar("T")
MAGIC = b"\x89MCAP0\r\n"
MAX_RECORD_BYTES = 64 << 20  # of a chunk, packed or not: far more than the recorder makes
DAMAGE = 0  # stands for a stretch in which no record can be made out; MCAP has no such opcode
MOST_OPCODE = 15  # of MCAP 1.0; the recorder writes no private ones
_HEAD = struct.Struct("<BQ")  # opcode, length
_CHUNK_HEAD = struct.Struct("<QQ")  # first and last log_time
_PACKED = b"\x04\x00\x00\x00zstd"  # in the head of each of the recorder's chunks, so far from its start:
_PACKED_AT = _HEAD.size + _CHUNK_HEAD.size + struct.calcsize("<QI")  # times; size unpacked, checksum
_STREAMS: dict[str, StreamName] = {topic: stream for stream, topic in CAPTURE_TOPICS.items()}
_EXPECTED = "give a recording made with python -m runtime.live --record FILE"


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch that was left out: between two messages of the file, on the session's clock."""

    first_ns: int  # arrival of the last message before it
    last_ns: int  # arrival of the first message after it


@dataclass
class Recording:
    """A recorded session. ``open`` makes one; iterate ``arrivals`` as often as you like.

    ``corrupt``, ``damaged_chunks`` and ``missing`` count what the latest pass over the file had to leave out,
    ``gaps`` says where the damaged stretches were.
    """

    path: Path
    header: Header
    begin: dict[str, Any]  # the header as it was given, with whatever else it holds
    end: dict[str, Any] | None = None  # its totals; None: the session was not closed properly
    truncated: bool = False  # the file breaks off: its writer was killed, or the copy is incomplete
    start_ns: int = 0  # arrival of the first message, session clock
    stop_ns: int = 0  # arrival of the last one
    corrupt: int = 0  # messages that could not be decoded
    damaged_chunks: int = 0  # stretches of up to half a second that fail their checksum
    missing: int = 0  # messages that the end record counts and the pass did not find
    gaps: list[Gap] = field(default_factory=list)  # neighbouring damaged stretches are one gap
    last_error: str = ""
    _recorded: int | None = field(default=None, repr=False)  # capture messages, by the end record
    _chunks: list[tuple[int, int]] = field(default_factory=list, repr=False)  # offset and size of bodies

    @classmethod
    def open(cls, path: Path | str) -> Recording:
        """Read the header and find the chunks; the messages are read later, a chunk at a time.

        Raises:
            RecordingError: there is no such file, or it is no recording, or it breaks off before
                its header is complete.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return _scan(path, file)
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}: {_EXPECTED}") from error

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last, seconds."""
        return (self.stop_ns - self.start_ns) / 1e9

    @property
    def stopped_at_ns(self) -> int | None:
        """When windows were no longer cut, where somebody ended the session; None: its input ended."""
        told = (self.end or {}).get("stopped_at_ns")
        return told if isinstance(told, int) and told < self.stop_ns + PAUSE_NS else None

    @property
    def warnings(self) -> list[str]:
        """One line for each thing that is not as it was recorded; complete after a pass over the file."""
        lines = []
        if self.truncated:
            lines.append(
                f"{self.path} breaks off (its writer was killed, or the copy is incomplete): "
                f"the first {self.duration_s:.1f} s are there, what came after them is lost"
            )
        if self.damaged_chunks:
            where = ", ".join(map(self.told, self.gaps))
            lines.append(
                f"{self.path}: {self.damaged_chunks} damaged stretches left out: {where} ({self.last_error})"
            )
        if self.corrupt:
            lines.append(f"{self.path}: {self.corrupt} corrupt messages left out ({self.last_error})")
        if self.missing:
            lines.append(f"{self.path}: {self.missing} recorded messages are missing: the file is damaged")
        return lines

    def told(self, gap: Gap) -> str:
        """Where a gap is, for a person: seconds since the recording's start."""
        first_s, last_s = ((t_ns - self.start_ns) / 1e9 for t_ns in (gap.first_ns, gap.last_ns))
        return f"{first_s:.1f} to {last_s:.1f} s"

    def check(self, features: FeatureSpec) -> None:
        """Compare the recorded features with what a network expects.

        Raises:
            RecordingError: naming the first sense that was recorded with other features.
        """
        for stream, recorded in self.header.streams.items():
            expected = features.input(stream).stream
            digest = recorded if isinstance(recorded, str) else recorded.hash
            if digest != expected.hash:
                raise RecordingError(
                    f"{self.path} holds other {stream} features than the network expects (spec {digest}, "
                    f"expected {expected.hash}): choose a network made for them with --network, "
                    f"or record the session anew"
                )

    def __iter__(self) -> Iterator[Arrival]:
        return self.arrivals()

    def arrivals(self) -> Iterator[Arrival]:
        """The messages of the capture processes, in the order of arrival."""
        found = self.missing = 0
        for raw in self.raw():
            if raw.topic not in _STREAMS:
                continue
            found += 1
            try:
                message = captured(raw)
            except CorruptMessage as error:
                self.corrupt += 1
                self.last_error = str(error)
                continue
            yield Arrival(raw.log_ns, message)
        if self._recorded is not None:
            self.missing = max(0, self._recorded - found)

    def emotions(self) -> Iterator[tuple[int, bytes]]:
        """The published emotion messages: when (session clock, ns) and the JSON exactly as it was."""
        return ((raw.log_ns, raw.data) for raw in self.raw() if raw.topic == EMOTION_TOPIC)

    def raw(self) -> Iterator[Raw]:
        """Every message as it stands in the file; stretches that fail their checksum are left out."""
        self.corrupt = self.damaged_chunks = 0
        self.gaps = []
        latest_ns, open_gap = self.start_ns, False
        topics = dict(enumerate(TOPICS, start=1))
        with self.path.open("rb") as file:
            for offset, size in self._chunks:
                file.seek(offset)
                try:
                    body = file.read(min(size, MAX_RECORD_BYTES))
                    chunk = Chunk.read(ReadDataStream(BytesIO(body)))
                    if chunk.uncompressed_size > MAX_RECORD_BYTES:
                        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes")
                    records = breakup_chunk(chunk, validate_crc=True)
                except Exception as error:  # whatever a foreign decoder makes of damaged bytes
                    self.damaged_chunks += 1
                    self.last_error = f"at byte {offset}: {error or type(error).__name__}"
                    open_gap = True
                    continue
                for record in records:
                    if isinstance(record, Channel):
                        topics[record.id] = record.topic
                    elif isinstance(record, McapMessage):
                        if open_gap:
                            self.gaps.append(Gap(latest_ns, record.log_time))
                            open_gap = False
                        latest_ns = record.log_time
                        topic = topics.get(record.channel_id, "")
                        yield Raw(topic, record.log_time, record.publish_time, record.sequence, record.data)
        if open_gap:  # up to the end of what was recorded
            self.gaps.append(Gap(latest_ns, max(latest_ns, self.stop_ns)))


def captured(raw: Raw) -> Message:
    """The message of a capture process, from one of the capture topics. Raises CorruptMessage."""
    message = decode(unpack(raw.data))
    if message.stamp.stream != _STREAMS[raw.topic]:
        raise CorruptMessage(f"a message of {message.stamp.stream} on the channel {raw.topic}")
    return message


def _scan(path: Path, file: BinaryIO) -> Recording:
    """Walk over the records without unpacking them."""
    size = os.fstat(file.fileno()).st_size
    magic = file.read(len(MAGIC))
    if not magic:
        raise RecordingError(f"{path} is empty: {_EXPECTED}")
    if not MAGIC.startswith(magic):
        raise RecordingError(f"{path} is not an MCAP file: {_EXPECTED}")
    recording: Recording | None = None
    times_ns: list[int] = []
    end: dict[str, Any] | None = None
    recorded: dict[str, int] | None = None
    chunks: list[tuple[int, int]] = []
    complete = False
    for opcode, offset, length in _records(file, size):
        if opcode == Opcode.METADATA:
            name, entries = _metadata(file.read(length))
            if name == SESSION_RECORD and "format" in entries and recording is None:
                recording = Recording(path, *_begin(path, entries))
            elif name == END_RECORD:
                end = _json(entries.get("totals", ""), dict[str, Any])
                recorded = _json(entries.get("messages", ""), dict[str, int])
        elif opcode == Opcode.CHUNK and length >= _CHUNK_HEAD.size:
            chunks.append((offset, length))
            times_ns += _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
        elif opcode == DAMAGE:
            chunks.append((offset, 0))  # a stretch that cannot be read: counted and told like any other
        elif opcode == Opcode.FOOTER:
            file.seek(offset + length)
            complete = file.read(len(MAGIC)) == MAGIC
            break
    if recording is None:
        if complete:
            raise RecordingError(f"{path} is an MCAP file of another program, without a session: {_EXPECTED}")
        raise RecordingError(f"{path} breaks off before its header is complete; nothing in it can be read")
    recording.truncated = not complete
    recording.end = end
    if recorded is not None:
        recording._recorded = sum(recorded.get(stream, 0) for stream in CAPTURE_TOPICS)
    recording._chunks = chunks
    recording.start_ns, recording.stop_ns = min(times_ns, default=0), max(times_ns, default=0)
    return recording


def _records(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Opcode, offset and length of each record's body; ends where the file breaks off.

    Where a record's own head is damaged, DAMAGE and the next chunk that can be made out.
    """
    offset = file.tell()
    while offset + _HEAD.size <= size:
        file.seek(offset)
        opcode, length = _HEAD.unpack(file.read(_HEAD.size))
        if not 0 < opcode <= MOST_OPCODE or length > size - offset - _HEAD.size:
            following = _next_chunk(file, offset + 1, size)
            if following is None:
                return
            yield DAMAGE, offset, 0
            offset = following
            continue
        offset += _HEAD.size
        yield opcode, offset, length
        offset += length


def _next_chunk(file: BinaryIO, offset: int, size: int) -> int | None:
    """Where the next chunk begins, by how its head looks. Its checksum tells later whether it is one."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_PACKED, offset + _PACKED_AT)
        while at >= 0:
            start = at - _PACKED_AT
            opcode, length = _HEAD.unpack_from(data, start)
            if opcode == Opcode.CHUNK and length <= size - start - _HEAD.size:
                return start
            at = data.find(_PACKED, at + 1)
    return None


def _metadata(body: bytes) -> tuple[str, dict[str, str]]:
    try:
        record = Metadata.read(ReadDataStream(BytesIO(body)))
    except (McapError, struct.error, UnicodeDecodeError):
        return "", {}
    return record.name, record.metadata


def _begin(path: Path, entries: dict[str, str]) -> tuple[Header, dict[str, Any]]:
    if entries["format"] != FORMAT:
        raise RecordingError(
            f"{path} is of the format {entries['format']!r}, expected {FORMAT!r}: "
            f"replay it with the version that made it"
        )
    try:
        begin = msgspec.json.decode(entries.get("begin", ""), type=dict[str, Any])
        return msgspec.convert(begin, Header), begin
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordingError(f"{path}: its session header is damaged ({error}): record it anew") from error


def _json(text: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None
