"""The bus inside one machine: one ZeroMQ PUSH -> PULL pipe per stream, in a private folder.

Delivery: ``ORDERED`` or ``LOSSLESS``. A live sender never waits: when the pipe is full the message is
dropped, and the hole in ``seq`` shows it to the receiver. An unpaced sender (a file read with
``--fast``) waits instead, so nothing is lost. PUSH/PULL rather than PUB/SUB, because a
subscription needs a round trip in which the first messages would vanish unseen.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import zmq

from capture.delivery import ORDERED, Delivery
from capture.messages import (
    CorruptMessage,
    FeatureBlock,
    Message,
    Pcm,
    Picture,
    Status,
    Words,
    decode,
    encode,
)

CARRIES: dict[str, tuple[type, ...]] = {  # what may come over the pipe of a stream
    "text": (Words, Status),
    "audio": (FeatureBlock, Status),
    "vision": (FeatureBlock, Status),
}
RAW: dict[str, tuple[type, ...]] = {"audio": (Pcm,), "vision": (Picture,)}  # only where it was asked for
SOUND: tuple[type, ...] = (Pcm,)  # what may come over the pipe from the microphone to Whisper
PORTION = 64  # corrupt messages that are skipped at a time
HAND_OVER_MS = 60_000  # how long a closed sender may take to hand over what is queued...
STOPPING_MS = 500  # ...and in a process that is stopping


def private_folder() -> Path:
    """A new folder that only this user can enter (0700), for ipc sockets.

    ipc paths are limited to about 100 bytes, so it lies directly in the system's runtime or
    temporary folder.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base is not None and (len(base) > 60 or not os.access(base, os.W_OK)):
        base = None
    return Path(tempfile.mkdtemp(prefix="emotion-", dir=base))


def ipc(folder: Path, name: str) -> str:
    """The endpoint of one pipe in a private folder."""
    return f"ipc://{folder / name}"


class Sequence:
    """Counts the numbers missing in a stream's ``seq``; a number that goes back is a new process.

    Negative numbers are outside the count: the session says something of a stream that has no process.
    """

    def __init__(self) -> None:
        self.gaps = 0
        self._next: int | None = None

    def observe(self, seq: int) -> None:
        if seq < 0:
            return
        if self._next is not None and seq > self._next:
            self.gaps += seq - self._next
        self._next = seq + 1


class Sender:
    """The sending end of a pipe: stamps, numbers and encodes.

    Args:
        endpoint: where the receiver has bound.
        delivery: ``ORDERED``, or ``LOSSLESS`` (for unpaced files and for PCM).
        stopping: asked while waiting for room; True gives up.
    """

    def __init__(
        self, endpoint: str, *, delivery: Delivery = ORDERED, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.dropped = 0
        self._waits = delivery.when_full == "wait"
        self._stopping = stopping
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, delivery.holds)
        self._socket.connect(endpoint)

    def send(self, message: Message, *, wait: bool = False) -> bool:
        """Send; False when it was dropped, because the pipe is full or the process is stopping."""
        frames = encode(message)
        while True:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                return True
            except zmq.Again:
                patient = self._waits or wait
                if not patient or self._stopping():
                    self.dropped += 1
                    return False
                self._socket.poll(100, zmq.POLLOUT)

    def close(self) -> None:
        """Close; what is still queued is handed over, in a process that is stopping only if that is quick."""
        self._socket.close(linger=STOPPING_MS if self._stopping() else HAND_OVER_MS)

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Receiver:
    """The receiving end of a pipe: decodes, and counts what is missing or wrong.

    ``sequence.gaps`` counts messages that never came, ``corrupt`` those that could not be read or
    belong to another session or stream, or are of a type that this stream does not have; they are
    dropped, never guessed at. One of more than 16 MB never comes: it costs its sender the connection.

    Args:
        endpoint: to bind.
        session, stream: what every message must carry.
        raw: pictures and sound may come, too; otherwise whatever a process sends, they do not.
        carries: the types that may come; None: what the stream has.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        session: str,
        stream: str,
        raw: bool = False,
        carries: tuple[type, ...] | None = None,
    ) -> None:
        self.sequence = Sequence()
        self.corrupt = 0
        self.last_error = ""
        self._session = session
        self._stream = stream
        self._carries = carries or CARRIES[stream] + (RAW.get(stream, ()) if raw else ())
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self.socket.setsockopt(zmq.RCVHWM, ORDERED.holds)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 16 << 20)
        self.socket.bind(endpoint)

    def receive(self) -> Message | None:
        """The next message, or None when none is waiting. Corrupt ones are counted and skipped.

        A flood of them is skipped in portions: None does not hold up who has other things to do.
        """
        for _ in range(PORTION):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                message = decode(frames)
                self._check(message)
            except CorruptMessage as error:
                self.corrupt += 1
                self.last_error = str(error)
                continue
            return message
        return None

    def close(self) -> None:
        self.socket.close()

    def _check(self, message: Message) -> None:
        stamp = message.stamp
        if stamp.session != self._session or stamp.stream != self._stream:
            raise CorruptMessage(
                f"{stamp.stream} of session {stamp.session!r} on the pipe of "
                f"{self._stream} of {self._session!r}"
            )
        if not isinstance(message, self._carries):
            raise CorruptMessage(f"{type(message).__name__} on the pipe of {self._stream}")
        self.sequence.observe(stamp.seq)
