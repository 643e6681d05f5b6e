"""Logs: standard error, as lines for a person or as JSON lines for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import sys

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

WIDE = 1000  # a line for a machine is folded nowhere


def start(*, as_json: bool) -> Console:
    """Send every log line to standard error; the console returned prints there in the same form."""
    handler: logging.Handler
    if as_json:
        console = Console(file=_Logged(), width=WIDE, force_terminal=False, color_system=None)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_JsonLines())
    else:
        console = _Errors(stderr=True)
        handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s", force=True)
    return console


def refuse(console: Console, error: Exception) -> None:
    """Say in one line what cannot be done, and what to do."""
    if isinstance(console.file, _Logged):
        console.file.log.error("%s", error)
    else:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


class _Errors(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read the log has gone; rich itself would end the program."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t": record.created,
            "level": record.levelname,
            "name": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Logged(io.StringIO):
    """Lets a console print into the log, a record a line."""

    log = logging.getLogger("runtime.live")

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.log.info("%s", line.rstrip())
        return len(text)
