"""Subscribe: iterate over the messages of a stream, checked, with what is malformed counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zmq

from runtime.curve import prove
from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError, check_port
from runtime.keys import KeyFileError
from runtime.stream.messages import Emotion, MalformedMessage, Message, decode

log = logging.getLogger("runtime.stream")


class Subscription(Iterator[Message]):
    """An open subscription: iterate over it; ``malformed`` counts the messages that were skipped."""

    def __init__(
        self,
        endpoint: str,
        session: str | None,
        timeout_s: float | None,
        stopping: Callable[[], bool],
        key: Path | None,
        finals: bool,
        topics: Iterable[str],
    ) -> None:
        self.malformed = 0
        self._finals = finals
        self._session, self._timeout_s, self._stopping = session, timeout_s, stopping
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        try:
            self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
            if key is not None:
                prove(self._socket, key)
            check_port(endpoint)
            self._socket.connect(endpoint)
        except KeyFileError:
            self.close()
            raise
        except (zmq.ZMQError, EndpointError) as error:
            self.close()
            raise EndpointError(
                f"{endpoint!r} is no endpoint: expected tcp://HOST:PORT or ipc://FILE"
            ) from error
        for topic in ("emotion", *topics):
            self._socket.subscribe(f"{topic}." if session is None else f"{topic}.{session}.")

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
        if self._finals and isinstance(message, Emotion) and not message.final:
            return None
        # Session "lab.2" has the topic of session "lab" for a prefix.
        return message if self._session in (None, message.session) else None


def subscribe(
    endpoint: str = DEFAULT_ENDPOINT,
    *,
    session: str | None = None,
    timeout_s: float | None = None,
    key: Path | str | None = None,
    finals: bool = False,
    words: bool = False,
    face: bool = False,
    raw: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Subscription:
    """Iterate over the messages of a stream: ``for message in subscribe(): ...``.

    Messages that are not of schema 1 are skipped with a warning and counted.

    Args:
        session: only this session; None: all.
        timeout_s: end after so many seconds without any message; None: wait for ever.
        key: the key file of this client, for a stream that asks for one (``runtime.keys``).
        finals: each window once, when its words are committed: later, and never revised.
        words: hear what was said, too (``Transcript``), of a session that shares it.
        face: hear the face in numbers, too (``Face``), of a session that shares it.
        raw: hear pictures and sound, too (``Picture``, ``Sound``), of a session that shares them.
        stopping: asked a few times a second; True ends the iteration.

    Raises:
        EndpointError: the endpoint is malformed.
        KeyFileError: the key file is none.
    """
    key = None if key is None else Path(key)
    topics = [name for name, wanted in (("words", words), ("face", face), ("raw", raw)) if wanted]
    return Subscription(endpoint, session, timeout_s, stopping, key, finals, topics)
