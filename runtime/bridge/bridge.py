"""Bridge: what each of them does — open, take every message, close — and what can go wrong."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from runtime.stream import Message

log = logging.getLogger("runtime.bridge")
TELL_S = 10.0  # between two lines about losses


class BridgeError(Exception):
    """A bridge that cannot be opened, or can carry no more; one line with what to do."""


class Bridge(Protocol):
    """One way out of the emotion stream. ``send`` never waits for whoever listens at the other side."""

    def open(self) -> str:
        """Get ready; returns where the stream can be heard from now on. Raises BridgeError."""
        ...

    def send(self, message: Message) -> None:
        """Carry a message over. Raises BridgeError where no further one can be."""
        ...

    def close(self) -> None:
        """Hand over what is on its way, and let go; a second time does nothing."""
        ...


class Losses:
    """Counts messages that could not be carried, and says so: at once, then now and then, and in the end."""

    def __init__(self, why: str) -> None:
        self.count = 0
        self._why, self._told, self._told_at = why, 0, float("-inf")

    def add(self, count: int = 1) -> None:
        """So many more are lost."""
        self.count += count
        if time.monotonic() - self._told_at >= TELL_S:
            self.tell()

    def tell(self) -> None:
        """Say how many, if there is news."""
        if self.count > self._told:
            log.warning("%d messages lost: %s", self.count, self._why)
            self._told, self._told_at = self.count, time.monotonic()


def missing(what: str) -> BridgeError:
    """The error for a library that is not installed."""
    return BridgeError(f"{what} is not installed: pip install '.[bridge]' in the clone")


def host_port(text: str, default_port: int) -> tuple[str, int]:
    """Read ``HOST[:PORT]``, an IPv6 host in brackets. Raises BridgeError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or set(host) & set("/@ ") or not (port.isascii() and port.isdecimal()):
        raise BridgeError(f"{text!r}: expected HOST:PORT, such as 127.0.0.1:{default_port}")
    if len(port) > 5 or not 0 < int(port) < 65536:
        raise BridgeError(f"{text!r}: expected a port from 1 to 65535")
    return host, int(port)
