"""Serve: hears the stream in a thread of its own and serves the page until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from nicegui import app, ui

from runtime.dashboard.address import Address
from runtime.dashboard.board import Board
from runtime.dashboard.guard import Guard
from runtime.dashboard.page import Page
from runtime.dashboard.playback import Playback
from runtime.markers import Markers, of_recording, place
from runtime.stream import Message, SessionBegin, subscribe

log = logging.getLogger("runtime.dashboard")

END_S = 5.0  # how long the page may take to end by itself when its parent has gone
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" '
    'fill="#0072B2"/><path d="M7 20v-6M13 24V8M19 21V11M25 18v-4" stroke="#fff" stroke-width="3" '
    'stroke-linecap="round"/></svg>'
)


class Live:
    """The stream's board and the markers of its session, the same for every viewer."""

    def __init__(self, endpoint: str, key: str | None) -> None:
        self.board = Board()
        self._markers: Markers | None = None
        self._of: tuple[str, SessionBegin | None] = "", None
        self._endpoint, self._key = endpoint, key
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Hear the stream in a thread; the board is touched only in the page's own event loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._hear, args=(loop,), name="subscriber", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave the stream."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def markers(self) -> Markers | None:
        """The markers of the session that is heard; a file for each session."""
        board = self.board
        if not board.session:
            return None
        if self._markers is None or self._of != (board.session, board.begin):
            began = "" if board.begin is None else board.begin.started
            self._of = board.session, board.begin
            self._markers = Markers(place(*self._of), board.session, began)
        return self._markers

    def _hear(self, loop: asyncio.AbstractEventLoop) -> None:
        def take(message: Message) -> None:
            self.board.update(message)

        for message in subscribe(
            self._endpoint, key=self._key, words=True, face=True, raw=True, stopping=self._stopping.is_set
        ):
            try:
                loop.call_soon_threadsafe(take, message)
            except RuntimeError:  # the loop has ended: so has the page
                return


def serve(
    address: Address,
    token: str | None,
    *,
    endpoint: str = "",
    key: str | None = None,
    playback: Playback | None = None,
    with_parent: bool = False,
) -> None:
    """Serve until Ctrl-C.

    Args:
        endpoint: the stream to show, if no ``playback`` is given.
        key: the key file for a stream that asks for one.
        token: what a viewer must show; None: nothing, on loopback only.
        with_parent: end when standard input closes, that is, when the process that started this one ends.
    """
    root = _of_recording(playback) if playback is not None else _of_stream(endpoint, key)
    app.add_middleware(Guard, token=token, host=address.host, port=address.port)
    app.on_startup(lambda: print(f"dashboard: {address.url(token)}", flush=True))
    if with_parent:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    ui.page("/")(root)
    ui.run(
        host=address.host,
        port=address.port,
        title="emotion",
        favicon=ICON,
        dark=None,
        language="en-US",
        binding_refresh_interval=None,  # nothing is bound: the page draws what changed
        tailwind=False,  # the style sheet is our own, and small
        reload=False,
        show=False,
        show_welcome_message=False,
        timeout_graceful_shutdown=1,  # open pages do not hold up the end
    )


def _of_stream(endpoint: str, key: str | None) -> Callable[[], None]:
    live = Live(endpoint, key)
    app.on_startup(live.start)
    app.on_shutdown(live.stop)

    def root() -> None:
        Page(lambda: live.board, live.markers)

    return root


def _of_recording(playback: Playback) -> Callable[..., None]:
    markers = of_recording(playback.recording)

    def root(at: float = 0.0) -> None:
        Page(lambda: playback.board(0.0), lambda: markers, playback=playback, at_s=at)

    return root


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    app.shutdown()
    time.sleep(END_S)
    os._exit(1)  # still here: whatever holds it up, nobody is left to end it
