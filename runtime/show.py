"""Show: what the person who started the session sees — the live view, or a line a window, then a summary."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from runtime.stream import Message
from runtime.summary import Totals, line, summary
from runtime.view import StreamView

log = logging.getLogger("runtime.show")

NEXT = """\
[bold]What to try next[/]
  python -m runtime.live                      your camera and microphone
  python -m runtime.live --input clip.mp4     a film of your own
  python -m runtime.live --demo --loop        the recording, again and again, and meanwhile
  python -m runtime.subscribe                 in another terminal: the stream as others hear it
"""


class Show:
    """Takes every message of a session. In a terminal it redraws a view; elsewhere it prints lines.

    Args:
        errors: the console of the log, so that log lines scroll above the view.
        live: whether to draw the view where there is a terminal.
    """

    def __init__(self, errors: Console, *, live: bool) -> None:
        self._out = Console(file=sys.stdout)
        self._gone = False  # whoever read what is printed
        self._view = StreamView()
        self._totals = Totals()
        console = errors if errors.is_terminal else self._out
        self._live = None
        if live and self._out.is_terminal:
            self._live = Live(self._view, console=console, refresh_per_second=10, transient=False)

    def __call__(self, message: Message) -> None:
        self._totals.update(message)
        self._view.update(message)
        if self._live is None and (text := line(message)):
            self._print(text, markup=False, highlight=False, soft_wrap=True)

    def summary(self, *, demo: bool) -> None:
        """Print what the session was, and after a demo what to do with it."""
        self._print(summary(self._totals))
        if demo:
            self._print(NEXT)

    def _print(self, what: RenderableType, **how: Any) -> None:
        """A reader who goes away (``| head``) ends the lines, not the session and its recording."""
        if self._gone:
            return
        with self._out.capture() as told:  # rich itself would end the program
            self._out.print(what, **how)
        try:
            print(told.get(), end="", file=self._out.file, flush=True)
        except OSError as error:
            self._gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._out.file.fileno())  # its buffer is written once more, at the end
            log.warning("standard output: %s: no more lines; the session goes on", error.strerror)

    def __enter__(self) -> Show:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
