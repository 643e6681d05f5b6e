"""Requests: heads of HTTP requests that our own code admits or refuses, and the addresses people type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import h11
from websockets.server import ServerProtocol

from capture.address import shown
from runtime.bridge.bridge import BridgeError, host_port
from runtime.bridge.websocket import WebSocketBridge
from runtime.dashboard.address import Address, AddressError
from runtime.dashboard.guard import Guard
from runtime.endpoint import EndpointError, check_bindable
from tests.mutation import Target

TOKEN, UNKNOWN = "let-me-in", "nobody-has-this-token-9fK2"
UPGRADE = (
    b"GET /?token=let-me-in&x=1 HTTP/1.1\r\nHost: 127.0.0.1:8564\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: http://127.0.0.1:8080\r\n\r\n"
)
PAGE = (
    b"GET /?token=let-me-in&dark=1 HTTP/1.1\r\nHost: localhost:8563\r\n"
    b"Cookie: emotion_dashboard_8563=let-me-in\r\n\r\n"
)
SOCKET = UPGRADE.replace(b"Origin: http://127.0.0.1:8080", b'Origin: http://[::1]:8563\r\nCookie: a=b; c="d"')
ADDRESSES = (
    b"127.0.0.1:8563", b"[::1]:8564", b"robot.local", b"tcp://127.0.0.1:5563", b"ipc:///nowhere/emotion.sock",
    b"tcp://*:5563", b"rtsp://ada:secret@camera.local:554/1?a=b#c",
)  # fmt: skip


class Refused(Exception):
    """The library's parser let none of it through to our code."""


def targets() -> tuple[Target, ...]:
    return (
        # runtime.bridge.websocket: who may listen, by the head of the upgrade
        Target("WebSocket request", (UPGRADE, SOCKET), _upgraded(), (Refused,), tries=500),
        # runtime.dashboard.guard: who may see the page, by the head of any request and its query
        Target("page request", (PAGE, UPGRADE, SOCKET), _guarded(), (Refused,), tries=500),
        # HOST:PORT of the page and the bridges, endpoints, sources
        Target("addresses", ADDRESSES, _address, (AddressError, BridgeError, EndpointError), whole=False),
    )


def _upgraded() -> Callable[[bytes], object]:
    """Against a token that the requests have, one that none has, and none at all."""
    bridges = {token: WebSocketBridge("127.0.0.1:8564", token=token) for token in (TOKEN, UNKNOWN, None)}

    def run(data: bytes) -> None:
        for token, bridge in bridges.items():
            protocol = ServerProtocol()
            protocol.receive_data(data)
            protocol.receive_eof()
            requests = protocol.events_received()
            if not requests:
                raise Refused from protocol.handshake_exc
            refusal = bridge._admit(_Connection(protocol), requests[0])
            assert refusal is not None or token != UNKNOWN, "whoever has no token is refused"

    return run


class _Connection:
    """What ``websockets`` hands to the admission: it makes the response to a refusal."""

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol

    def respond(self, status: int, text: str) -> Any:
        return self._protocol.reject(status, text)


def _guarded() -> Callable[[bytes], object]:
    reached: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def nothing(*_: Any) -> None:
        pass

    def run(data: bytes) -> None:
        scope = _scope(data)
        for token in (TOKEN, UNKNOWN, None):
            reached.clear()
            its = Guard(page, token, "127.0.0.1", 8563)(scope, nothing, nothing)
            try:
                its.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waits for something")
            assert not reached or token != UNKNOWN, "whoever has no token is refused"

    return run


def _scope(data: bytes) -> dict[str, Any]:
    """As uvicorn makes it of the head."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        head = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused from error
    if not isinstance(head, h11.Request):
        raise Refused
    path, _, query = head.target.partition(b"?")
    upgrade = any(name == b"upgrade" and value.lower() == b"websocket" for name, value in head.headers)
    return {
        "type": "websocket" if upgrade else "http", "method": head.method.decode("ascii"),
        "path": unquote(path.decode("ascii")), "raw_path": path, "query_string": query,
        "headers": list(head.headers),
    }  # fmt: skip


def _address(data: bytes) -> None:
    """Each reader of addresses; refused is what none of them takes."""
    text = data.decode(errors="surrogateescape")  # as the command line has it
    refusals: list[Exception] = []
    for read in (_page, _bridge, lambda it: check_bindable(it, guarded=False)):
        try:
            read(text)
        except (AddressError, BridgeError, EndpointError) as error:
            refusals.append(error)
    shown(text)
    if len(refusals) == 3:
        raise refusals[-1]


def _page(text: str) -> None:
    found = Address.parse(text)
    assert Address.parse(str(found)) == found
    found.loopback, found.url()


def _bridge(text: str) -> None:
    _, port = host_port(text, 8564)
    assert 0 < port < 65536
