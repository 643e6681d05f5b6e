"""Endpoints: where the emotion stream may be published, checked before libzmq sees it."""

from __future__ import annotations

import ipaddress
import socket as sockets
from pathlib import Path

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5563"


class EndpointError(ValueError):
    """An endpoint that cannot be bound or connected to."""


def free_port() -> int:
    """A port of loopback that nobody uses, for who serves something to himself."""
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def token_trouble(token: str | None) -> str:
    """What is wrong with a token that somebody chose for what he serves; nothing, or there is none: empty."""
    if token is not None and len(token) < 8:
        return f"token of {len(token)} characters: expected at least 8"
    if token is not None and not (token.isascii() and token.isprintable()):
        return "a token with other characters than those of ASCII: choose another --token"
    return ""


def why_not(error: OSError | UnicodeError) -> str:
    """Why an address cannot be served at; a host such as ``a..b`` has no name that could be looked up."""
    return str(error.strerror) if isinstance(error, OSError) else "no name that a host could have"


def check_bindable(endpoint: str, *, guarded: bool = False) -> None:
    """Refuse what cannot be bound, or would let anybody on other machines listen. Raises EndpointError.

    guarded: who listens has to prove who it is.
    """
    transport, _, address = endpoint.partition("://")
    if transport == "ipc" and address:
        _refuse_taken_path(endpoint, Path(address))
        return
    host = address.rpartition(":")[0].strip("[]")
    if transport != "tcp" or not host:
        raise EndpointError(f"{endpoint!r} is no endpoint: expected tcp://127.0.0.1:PORT or ipc://FILE")
    check_port(endpoint)
    if not guarded and host not in ("localhost", "lo") and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} reaches beyond this machine, where anybody could listen: expected a loopback "
            f"address such as {DEFAULT_ENDPOINT}, or keys for those who may (python -m runtime.keys --help)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may lead anywhere
        return False


def check_port(endpoint: str) -> None:
    """Refuse what libzmq would take modulo 65536. Raises EndpointError."""
    transport, _, address = endpoint.partition("://")
    port = address.rpartition(":")[2]
    good = port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536
    if transport == "tcp" and port != "*" and not good:
        raise EndpointError(f"{endpoint!r} has no port: expected a number from 1 to 65535 after the last ':'")


def _refuse_taken_path(endpoint: str, path: Path) -> None:
    """Libzmq would delete whatever lies at the path, also another program's socket, and take over."""
    try:
        if not path.exists():
            return
    except OSError as error:
        raise EndpointError(f"{endpoint}: {error.strerror}: choose another --endpoint") from error
    if not path.is_socket():
        raise EndpointError(f"{endpoint}: {path} is there already and no socket: choose another --endpoint")
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except PermissionError as error:  # another user's, who may be listening
            raise in_use(endpoint) from error
        except OSError:  # nobody listens: left behind by a program that was killed
            return
    raise in_use(endpoint)


def in_use(endpoint: str) -> EndpointError:
    """The error for an endpoint that another program has bound."""
    return EndpointError(f"{endpoint} is in use: stop the other program, or choose another --endpoint")
