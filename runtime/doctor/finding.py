"""Finding: what one check saw, and the patience that every check has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

Level = Literal["ok", "warning", "fault"]
TIME_S = 20.0


class Finding(msgspec.Struct, frozen=True):
    """``warning``: a session runs, without something; ``fault``: it does not, or not as it was asked to."""

    level: Level
    detail: str  # one line
    remedy: str = ""  # what to type, or do
    check: str = ""
    seconds: float = 0.0


def ok(detail: str) -> Finding:
    return Finding("ok", detail)


def warning(detail: str, remedy: str = "") -> Finding:
    return Finding("warning", detail, remedy)


def fault(detail: str, remedy: str = "") -> Finding:
    return Finding("fault", detail, remedy)


@dataclass(frozen=True)
class Check:
    """One thing to look at; ``look`` may take its time, raise, or never come back."""

    name: str
    look: Callable[[], Finding]
    limit_s: float = TIME_S
    stuck: str = "close other programs, and run it again"  # what to do when there is no answer

    def run(self) -> Finding:
        """What it saw; that it failed or took too long is a fault, too."""
        seen: list[Finding] = []

        def look() -> None:
            try:
                seen.append(self.look())
            except Exception as error:
                seen.append(fault(f"the check itself failed: {type(error).__name__}: {error}", REPORT))

        started = time.monotonic()
        thread = threading.Thread(target=look, name=self.name, daemon=True)  # a driver may never answer
        thread.start()
        thread.join(self.limit_s)
        found = seen[0] if seen else fault(f"no answer in {self.limit_s:g} s", self.stuck)
        took = round(time.monotonic() - started, 3)
        return msgspec.structs.replace(found, check=self.name, seconds=took)


REPORT = "please report it, with this line"
