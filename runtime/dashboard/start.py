"""Start: runs the page beside a session, in a process of its own, and ends it with the session."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import subprocess
import sys
import threading
from types import TracebackType

from rich.logging import RichHandler

from runtime.dashboard.address import Address

log = logging.getLogger("runtime.dashboard")

HOW_TO_GET = "the page in a browser is not installed: pip install 'emotion-edge[dashboard]'"
STOP_S = 3.0


def installed() -> bool:
    """The extra that serves the page is there."""
    return importlib.util.find_spec("nicegui") is not None


def how_to_see() -> str:
    """One line for a session without a page."""
    return "add --dashboard to see it in a browser" if installed() else HOW_TO_GET


class PageProcess:
    """The dashboard's process; as a context manager it lives as long as the session.

    Without the extra it logs one line and the session goes on without a page.

    Args:
        address: where to serve, HOST:PORT; None: no page.
        endpoint: the stream to show.

    Raises:
        AddressError: the address is malformed, in use, or none of this machine.
    """

    def __init__(self, address: str | None, endpoint: str) -> None:
        self._process: subprocess.Popen[str] | None = None
        if address is None:
            return
        Address.parse(address).check_free()
        if not installed():
            log.warning("dashboard: %s", HOW_TO_GET)
            return
        command = [sys.executable, "-m", "runtime.dashboard", "--with-parent"]
        self._process = subprocess.Popen(
            [*command, "--endpoint", endpoint, "--dashboard", address],
            stdin=subprocess.PIPE,  # it ends when this closes, also if this process is killed
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the session, which then ends the page
        )
        threading.Thread(target=self._relay, name="dashboard", daemon=True).start()

    def __enter__(self) -> PageProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _relay(self) -> None:
        """Say where the page is, once it is served, and that it ended, if it did so by itself."""
        process = self._process
        assert process is not None and process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            address, secret, _ = line.rstrip().partition("?token=")
            if secret:
                _tell(line.rstrip())
            log.info("%s%s", address, " (with the token that was printed, not logged)" if secret else "")
        if process.wait() and not process.stdin.closed:
            log.warning("dashboard: it ended with status %d; the session goes on", process.returncode)


def _tell(line: str) -> None:
    """Print what logs must not keep: unfolded, to be copied; above the view, if one is drawn."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RichHandler):
            handler.console.print(line, soft_wrap=True, markup=False, highlight=False)
            return
    print(line, file=sys.stderr, flush=True)
