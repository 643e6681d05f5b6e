"""WebSocket: every message as JSON text, one a frame, to any number of browsers.

Source: RFC 6455. A browser lets any web site's page open a socket to this machine, so a connection
from a page must come from this machine's own or from an origin that was allowed by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import secrets
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from runtime.bridge.bridge import BridgeError, Losses, host_port, missing
from runtime.bridge.sessions import Sessions
from runtime.endpoint import token_trouble, why_not
from runtime.stream import Message, SessionBegin, SessionEnd, encode

PORT = 8564
QUEUED = 100  # messages for each client: whoever is slower loses the oldest of its own, nobody else's
START_S, CLOSE_S = 10.0, 2.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class WebSocketBridge:
    """A server in a thread of its own; newcomers hear first which sessions run.

    Args:
        serve: HOST:PORT. Beyond loopback every client needs ``?token=…``.
        token: what clients must show; None: nothing on loopback, and one that is made up elsewhere.
        origins: pages from here may connect, too, such as ``https://example.org``.

    Raises:
        BridgeError: the address is malformed, or the token is short or not ASCII.
    """

    def __init__(self, serve: str, *, token: str | None = None, origins: Sequence[str] = ()) -> None:
        self._host, self._port = host_port(serve, PORT)
        if trouble := token_trouble(token):
            raise BridgeError(trouble)
        self._token = token or (None if _is_loopback(self._host) else secrets.token_urlsafe(16))
        self._origins = frozenset(origins)
        self._sessions = Sessions()
        self._begins: tuple[str, ...] = ()  # how those that run have begun; replaced, never changed
        self._clients: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error = ""
        self._losses = Losses("a client reads more slowly than the stream goes")

    def open(self) -> str:
        try:
            from websockets.asyncio.server import serve
        except ImportError as error:
            raise missing("websockets") from error
        self._serve: Any = serve
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="websocket", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(START_S) or self._error:
            why = self._error or "the server does not start"
            raise BridgeError(
                f"{self._host}:{self._port} cannot be served on ({why}): choose another --serve HOST:PORT"
            )
        host = f"[{self._host}]" if ":" in self._host else self._host
        query = f"?token={quote(self._token, safe='')}" if self._token else ""
        return f"WebSocket at ws://{host}:{self._port}/{query}"

    def send(self, message: Message) -> None:
        assert self._loop is not None
        text = encode(message).decode()
        self._sessions.news(message)
        if isinstance(message, SessionBegin | SessionEnd):
            self._begins = tuple(encode(begin).decode() for begin in self._sessions.begins())
        try:
            self._loop.call_soon_threadsafe(self._spread, text)
        except RuntimeError as error:  # the loop has ended
            raise BridgeError(
                f"{self._host}:{self._port}: the server has ended: start the bridge again"
            ) from error

    def close(self) -> None:
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended in between
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(CLOSE_S)
        self._losses.tell()

    def _spread(self, text: str | None) -> None:
        for queue in self._clients:
            if queue.full():
                queue.get_nowait()
                self._losses.add()
            queue.put_nowait(text)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await self._serve(
                self._talk,
                self._host,
                self._port,
                process_request=self._admit,
                max_size=1024,
                close_timeout=1,
            )
        except (OSError, UnicodeError) as error:
            self._error = why_not(error)
            self._ready.set()
            return
        self._ready.set()
        async with server:
            await self._stop.wait()
            self._spread(None)
            await asyncio.sleep(0.05 if self._clients else 0)  # what is queued goes out
            # The last of what a queue holds is the end, which is no message.
            self._losses.add(sum(max(queue.qsize() - 1, 0) for queue in self._clients))

    def _admit(self, connection: Any, request: Any) -> Any:
        """Refuse who must not listen; None lets the handshake go on."""
        for origin in request.headers.get_all("Origin"):
            if origin not in self._origins and not _of_this_machine(origin):
                return connection.respond(403, f"pages of {origin} may not listen: --allow-origin {origin}\n")
        if self._token is None:
            return None
        offered = parse_qs(request.path.partition("?")[2]).get("token", [""])[0]
        if hmac.compare_digest(offered.encode(), self._token.encode()):
            return None
        return connection.respond(401, "a token is needed: open the address that the bridge printed\n")

    async def _talk(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUED)
        for begin in self._begins[-QUEUED:]:
            queue.put_nowait(begin)
        self._clients.add(queue)
        gone = asyncio.create_task(connection.wait_closed())
        try:
            while not gone.done():
                waiting = asyncio.create_task(queue.get())
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    return
                text = waiting.result()
                if text is None:
                    return
                await connection.send(text)
        except ConnectionClosed:
            pass
        finally:
            gone.cancel()
            self._clients.discard(queue)


def _of_this_machine(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in LOOPBACK
    except ValueError:  # no address at all, such as http://[
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may lead anywhere
        return False
