"""Start: runs the page beside a session, in a process of its own, and ends it with the session."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from types import TracebackType

from rich.logging import RichHandler

from runtime.dashboard.address import Address

log = logging.getLogger("runtime.dashboard")

HOW_TO_GET = "the page in a browser is not installed: pip install 'emotion-edge[dashboard]'"
STOP_S = 3.0
TOKEN = "EMOTION_PAGE_TOKEN"  # in the environment, where no list of processes shows it
HEALTHY_S = 10.0  # a page that ran for so long has its back-off forgiven
BACK_OFF_S = (0.1, 2.0, 5.0, 15.0)  # before a page that died is served again
REFUSED = 2  # the exit status of a page that will not work the next time, either


def installed() -> bool:
    """The extra that serves the page is there."""
    return importlib.util.find_spec("nicegui") is not None


def how_to_see() -> str:
    """One line for a session without a page."""
    return "add --dashboard to see it in a browser" if installed() else HOW_TO_GET


class PageProcess:
    """The dashboard's process; as a context manager it lives as long as the session.

    One that dies is started again, with the same token, so that an open page finds it again. Without the
    extra it logs one line and the session goes on without a page.

    Args:
        address: where to serve, HOST:PORT; None: no page.
        endpoint: the stream to show.

    Raises:
        AddressError: the address is malformed, in use, or none of this machine.
    """

    def __init__(self, address: str | None, endpoint: str) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ending = threading.Event()
        self._starting = threading.Lock()  # no page is started behind the back of the one who ends it
        if address is None:
            return
        where = Address.parse(address)
        where.check_free()
        if not installed():
            log.warning("dashboard: %s", HOW_TO_GET)
            return
        self._command = [sys.executable, "-m", "runtime.dashboard", "--with-parent"]
        self._command += ["--endpoint", endpoint, "--dashboard", address]
        token = {} if where.loopback else {TOKEN: secrets.token_urlsafe(16)}
        self._environment = os.environ | token
        self._start()
        threading.Thread(target=self._keep, name="dashboard", daemon=True).start()

    def __enter__(self) -> PageProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._starting:
            self._ending.set()
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

    def _start(self) -> bool:
        """Start the process; False when the session has ended."""
        with self._starting:
            if self._ending.is_set():
                return False
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # it ends when this closes, also if this process is killed
                stdout=subprocess.PIPE,
                text=True,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the session, which then ends the page
            )
        return True

    def _keep(self) -> None:
        """Say where the page is, and serve it again when it ends by itself."""
        failures = 0
        while True:
            began = time.monotonic()
            status = self._relay()
            if self._ending.is_set():
                return
            if status == REFUSED:
                log.warning("dashboard: it cannot be served; the session goes on")
                return
            log.warning("dashboard: it ended with status %d and is started again", status)
            failures = 0 if time.monotonic() - began > HEALTHY_S else failures
            self._ending.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
            failures += 1
            if not self._start():
                return

    def _relay(self) -> int:
        """Say where the page is, once it is served; return the status it ended with."""
        process = self._process
        assert process is not None and process.stdout is not None
        for line in process.stdout:
            address, secret, _ = line.rstrip().partition("?token=")
            if secret:
                _tell(line.rstrip())
            log.info("%s%s", address, " (with the token that was printed, not logged)" if secret else "")
        return process.wait()


def _tell(line: str) -> None:
    """Print what no log file may keep: unfolded, to be copied; above the view, if one is drawn."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RichHandler):
            handler.console.print(line, soft_wrap=True, markup=False, highlight=False)
            return
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None))
            return
    print(line, file=sys.stderr, flush=True)
