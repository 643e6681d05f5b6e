"""Recorder: writes a session to an MCAP file while it runs, so that a crash loses at most a second.

The file is written in place under its final name: whatever ends the process, the name that was asked
for holds all that was recorded up to the last flush. A flush closes the chunk in progress and hands it
to the operating system; a thread does it twice a second, so it also happens when nothing arrives, and
then asks the system to bring it to the disk, so that a power cut costs little more than a crash.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
from mcap.writer import CompressionType, Writer

from capture.messages import Message, encode, pack
from runtime.recording.layout import (
    CAPTURE_TOPICS,
    EMOTION_TOPIC,
    END_RECORD,
    FORMAT,
    SESSION_RECORD,
    Header,
    Raw,
    RecordingError,
    unsigned_ns,
)
from runtime.recording.staged import private

FLUSH_S = 0.5  # with the writing itself, well inside the second that a crash may cost
CHUNK_BYTES = 256 << 10
_NAMES = {topic: stream for stream, topic in CAPTURE_TOPICS.items()} | {EMOTION_TOPIC: "emotion"}


class Recorder:
    """Writes what arrives and what is published, in the order of the calls; safe between threads.

    Args:
        path: a file that does not exist yet, in a folder that does.
        begin: the session's header (``layout.Header`` and whatever else), as JSON or what becomes it.
        emotion_schema: JSON schema of the emotion messages, as JSON.

    Raises:
        RecordingError: the header lacks something, or the file exists or cannot be made there. The
            methods raise it, every time from then on, when the file cannot be written any further (a
            full disk); the session can go on without its recording.
    """

    def __init__(
        self,
        path: Path | str,
        begin: Header | Mapping[str, Any] | bytes,
        emotion_schema: bytes = b'{"type":"object"}',
    ) -> None:
        self.path = Path(path)
        self.counts: dict[str, int] = dict.fromkeys((*CAPTURE_TOPICS, "emotion"), 0)  # messages so far
        header = begin if isinstance(begin, bytes) else msgspec.json.encode(begin)
        try:
            msgspec.json.decode(header, type=Header)
        except msgspec.DecodeError as error:
            raise RecordingError(f"{path}: the session's header cannot be recorded: {error}") from error
        self._file = _create(self.path)
        self._closed = False
        self._error: RecordingError | None = None
        self._told = False  # the error has been raised, to whoever records
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._writer = Writer(self._file, CHUNK_BYTES, CompressionType.ZSTD)
        try:
            self._writer.start(profile="", library="emotion-edge")
            record = {"format": FORMAT, "begin": header.decode()}
            self._writer.add_metadata(SESSION_RECORD, record)
            self._channels = self._register(emotion_schema)
            self._writer.flush()  # type: ignore[no-untyped-call]
        except OSError as error:
            failed = self._failed(error)
            self.path.unlink(missing_ok=True)  # nothing has been recorded yet
            raise failed from error
        self._flusher = threading.Thread(target=self._flush_regularly, name="recorder", daemon=True)
        self._flusher.start()

    def add(self, message: Message, t_arrival_ns: int) -> None:
        """Write a message of a capture process that arrived at ``t_arrival_ns`` on the session's clock."""
        stamp = message.stamp
        self._add(stamp.stream, pack(encode(message)), t_arrival_ns, stamp.t_publish_ns, stamp.seq)

    def add_emotion(self, data: bytes, t_publish_ns: int, seq: int = 0) -> None:
        """Write an emotion message, the JSON exactly as it was published at ``t_publish_ns``."""
        self._add("emotion", data, t_publish_ns, t_publish_ns, seq)

    def copy(self, raw: Raw) -> None:
        """Write a message as it stands in another recording. Raises KeyError for a foreign topic."""
        self._add(_NAMES[raw.topic], raw.data, raw.log_ns, raw.publish_ns, raw.sequence)

    def flush(self) -> None:
        """Hand everything so far to the operating system; it then survives the end of this process."""
        with self._lock:
            self._demand_open()
            try:
                self._writer.flush()  # type: ignore[no-untyped-call]
            except OSError as error:
                raise self._failed(error) from error

    def close(self, totals: Mapping[str, Any] | None = None) -> None:
        """Write the end record, with the session's ``totals``, and the index. Again: does nothing."""
        self._stop.set()
        self._flusher.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._error is not None and not self._told:
                raise self._error
            if self._error is not None:
                return
            end = {"totals": msgspec.json.encode(totals or {}).decode()}
            end["messages"] = msgspec.json.encode(self.counts).decode()
            try:
                # Flush first, or the end record would stand before the last messages.
                self._writer.flush()  # type: ignore[no-untyped-call]
                self._writer.add_metadata(END_RECORD, end)
                self._writer.finish()  # type: ignore[no-untyped-call]
                self._file.close()
            except OSError as error:
                raise self._failed(error) from error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _register(self, emotion_schema: bytes) -> dict[str, int]:
        channels = {
            stream: self._writer.register_channel(topic, "msgpack", schema_id=0)
            for stream, topic in CAPTURE_TOPICS.items()
        }
        schema = self._writer.register_schema("emotion", "jsonschema", emotion_schema)
        return channels | {"emotion": self._writer.register_channel(EMOTION_TOPIC, "json", schema)}

    def _add(self, name: str, data: bytes, log_ns: int, publish_ns: int, seq: int) -> None:
        with self._lock:
            self._demand_open()
            try:
                self._writer.add_message(
                    channel_id=self._channels[name],
                    log_time=unsigned_ns(log_ns),
                    data=data,
                    publish_time=unsigned_ns(publish_ns),
                    sequence=seq % 2**32,
                )
            except OSError as error:
                raise self._failed(error) from error
            self.counts[name] += 1

    def _flush_regularly(self) -> None:
        while not self._stop.wait(FLUSH_S):
            with self._lock:
                if self._closed or self._error is not None:
                    return
                try:
                    self._writer.flush()  # type: ignore[no-untyped-call]
                except OSError as error:
                    self._failed(error, told=False)  # raised by the next call
                    return
                number = self._file.fileno()
            # Without the lock: a slow disk must not hold up whoever records. A failure that matters
            # shows in the next write; what cannot be synced at all (a pipe) need not be.
            with contextlib.suppress(OSError):
                os.fdatasync(number)

    def _demand_open(self) -> None:
        if self._error is not None:
            self._told = True
            raise self._error
        if self._closed:
            raise RecordingError(f"{self.path}: the recording is closed; nothing can be added to it")

    def _failed(self, error: OSError, *, told: bool = True) -> RecordingError:
        self._told = told
        self._error = RecordingError(
            f"{self.path}: the recording stopped ({error.strerror}); what it holds up to here can be "
            f"replayed: make room, and record to another file"
        )
        with contextlib.suppress(OSError):  # the one being reported: the last bytes have no room
            self._file.close()
        return self._error


def _create(path: Path) -> BinaryIO:
    try:
        return open(path, "xb", opener=private)
    except FileExistsError as error:
        raise RecordingError(
            f"{path} exists already: a recording is never overwritten; choose another name, or move it away"
        ) from error
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot record there ({error.strerror}): "
            f"choose a file in a folder that exists and that you may write to"
        ) from error
