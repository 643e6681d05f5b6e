"""Sessions: what a bridge knows of each session that it hears: several may come over one endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.stream import Emotion, Message, SessionBegin, SessionEnd

GONE_S = 60.0  # who was silent so long while others spoke was killed, and will never say its end


@dataclass(slots=True)
class Heard:
    """One session, as far as it has been carried."""

    heard_s: float
    begin: SessionBegin | None = None
    first_ns: int | None = None  # ends of the first and of the newest window, on the session's clock
    newest_ns: int | None = None


class Sessions:
    """Every session that runs, by its name; one that has ended is forgotten."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}

    def news(self, message: Message) -> bool:
        """Take a message in; False: who wants each thing once, and windows in order, has no use for it.

        That is a begin which is repeated, and a revision of a window that is no newer than one before.
        A session that begins at another date is another one, on a clock of its own: the last has been killed.
        """
        now_s, name = time.monotonic(), message.session
        heard = self._heard.setdefault(name, Heard(now_s))
        heard.heard_s = now_s
        for other in [other for other, one in self._heard.items() if now_s - one.heard_s > GONE_S]:
            del self._heard[other]
        match message:
            case SessionBegin():
                known, heard.begin = heard.begin, message
                repeated = known is not None and known.started == message.started
                if known is not None and not repeated:
                    self._heard[name] = Heard(now_s, message)
                return not repeated
            case Emotion(time=window, revises=revises):
                newest_ns = heard.newest_ns
                if revises is not None and newest_ns is not None and window.end_ns <= newest_ns:
                    return False
                heard.newest_ns = window.end_ns
                heard.first_ns = window.end_ns if heard.first_ns is None else heard.first_ns
            case SessionEnd():
                del self._heard[name]
            case _:
                pass
        return True

    def __getitem__(self, name: str) -> Heard:
        return self._heard[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._heard)

    def begins(self) -> list[SessionBegin]:
        """How those that run have begun, where that was heard."""
        return [one.begin for one in self._heard.values() if one.begin is not None]
