"""CURVE at either end of a socket: who may connect, and as whom (https://rfc.zeromq.org/spec/26)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from runtime.keys import KeyFileError, client_key, clients, server_keys


@dataclass(frozen=True)
class _Listed:
    """Who may connect, by public keys in Z85."""

    keys: frozenset[bytes]

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self.keys


def guard(context: zmq.Context[Any], socket: zmq.Socket[bytes], folder: Path) -> ThreadAuthenticator:
    """Let only the clients on a list connect to ``socket``; call it before it is bound.

    Args:
        folder: of ``runtime.keys``.

    Returns:
        What checks the keys, in a thread; ``stop`` it when the socket is closed.

    Raises:
        KeyFileError: the folder is none, or nobody is on its list.
    """
    own, listed = server_keys(folder), clients(folder)
    if not listed:
        raise KeyFileError(
            f"{folder}: nobody is on the list, so nobody could listen: "
            f"python -m runtime.keys add {folder} NAME"
        )
    checks = ThreadAuthenticator(context)
    checks.start()
    # Not by the folder: pyzmq takes its name for a pattern, which may fit another folder.
    checks.configure_curve_callback("*", _Listed(frozenset(key.encode() for key in listed.values())))
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
    return checks


def prove(socket: zmq.Socket[bytes], key: Path) -> None:
    """Connect as the client whose key file this is; call it before connecting. Raises KeyFileError."""
    own = client_key(key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, own.server)
