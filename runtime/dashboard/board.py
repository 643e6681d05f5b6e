"""Board: what the page shows at one moment, gathered from the stream's messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import UNSET

from capture.messages import Word
from runtime.stream import (
    Emotion,
    Face,
    Message,
    Picture,
    Revised,
    Said,
    SenseStatus,
    SessionBegin,
    SessionEnd,
    Sound,
    StatusMessage,
    Transcript,
)

HISTORY_S = 60.0
WORDS_KEPT = 400
SEEN_S = 2.0  # an older face or picture is none of now
SILENT_S = 3.0  # a stream says something every second; one that does not is stalled
SENSES = ("vision", "audio", "text")


@dataclass(frozen=True, slots=True)
class Moment:
    """A window and when it was heard, seconds on the board's clock."""

    at_s: float
    emotion: Emotion


def begins_anew(begin: SessionBegin, before: SessionBegin | None, over: str) -> bool:
    """Whether it begins another session of the same name; a session repeats its own for late joiners.

    Args:
        before: the latest one that was heard under this name.
        over: why the session before ended. A demo's rounds begin at one date; who was killed says no end.
    """
    return bool(over) or (before is not None and before.started != begin.started)


class Board:
    """Feed it every message; ``version`` says whether there is anything new to draw.

    Args:
        now_s: the clock of the history, in seconds: monotonic for a live stream.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.now_s = now_s
        self.version = 0
        self.session = ""
        self.emotion: Emotion | None = None
        self.history: deque[Moment] = deque()
        self.begin: SessionBegin | None = None
        self.senses: dict[str, SenseStatus] = {}
        self.windows: int | None = None
        self.skipped: int | None = None  # windows that were not inferred
        self.eased: tuple[str, ...] = ()  # what is given up now, to keep up
        self.revised: Revised | None = None  # what late words changed
        self.replayed = False  # a recording does not know everything that a stream tells
        self.warnings: tuple[str, ...] = ()  # what of a recording could not be read
        self.event = ""
        self.over = ""  # why the session ended
        self.words: tuple[Word | Said, ...] | None = None  # None: the stream tells only how many
        self.heard_s: float | None = None
        self._published_ns = 0  # of the newest window, when it came first
        self.face: Face | None = None
        self.faced_s = self.pictured_s = 0.0  # when the face and the picture came
        self.picture: Picture | None = None

    def update(self, message: Message, at_s: float | None = None) -> None:
        """Take in a message that was heard at ``at_s`` (default: now)."""
        at_s = self.now_s() if at_s is None else at_s
        if message.session != self.session:
            self._clear(message.session)
        self.heard_s = at_s
        if isinstance(message, Face | Picture | Sound):
            self._glance(message, at_s)
            return
        self.version += 1
        match message:
            case Emotion():
                self._take(message, at_s)
            case SessionBegin():
                if begins_anew(message, self.begin, self.over):
                    self._clear(message.session)  # nothing of the person before
                self.begin = message
                if self.words is None and message.config.get("share_words"):
                    self.words = ()
            case Transcript():
                committed = tuple(word for word in self.words or () if word.committed)
                self.words = (committed + message.words)[-WORDS_KEPT:]
            case StatusMessage():
                self._count(message)
                self.eased = message.eased
                self.event = self.event if message.event is UNSET else message.event
            case SessionEnd():
                self._count(message)
                self.eased = ()
                self.over = message.reason

    @property
    def silent_s(self) -> float:
        """For how long nothing has been heard of a session that has not ended; 0 where that is fine."""
        if self.heard_s is None or self.over:
            return 0.0
        silent = self.now_s() - self.heard_s
        return silent if silent > SILENT_S else 0.0

    def now_ns(self) -> int | None:
        """The time on the session's capture clock, as far as its last window tells; None before any."""
        if not self.history:
            return None
        return self._published_ns + round((self.now_s() - self.history[-1].at_s) * 1e9)

    @property
    def face_now(self) -> Face | None:
        """The face, unless it was seen too long ago: a camera that is gone does not go on smiling."""
        return self.face if self.now_s() - self.faced_s < SEEN_S else None

    @property
    def picture_now(self) -> Picture | None:
        """The picture, unless it is of some time ago."""
        return self.picture if self.now_s() - self.pictured_s < SEEN_S else None

    def _glance(self, message: Face | Picture | Sound, at_s: float) -> None:
        match message:
            case Face():
                self.face, self.faced_s = message, at_s
            case Picture():
                self.picture, self.pictured_s = message, at_s
            case Sound():
                pass  # the page has no loudspeaker

    def _take(self, emotion: Emotion, at_s: float) -> None:
        newest = self.emotion is None or emotion.time.end_ns >= self.emotion.time.end_ns
        if emotion.revises is None:
            self.history.append(Moment(at_s, emotion))
            self._published_ns = emotion.time.published_ns  # a revision is published later than it was heard
            newest = True  # also when its time is earlier: a demo begins again
        else:
            self._revise(emotion)
        if newest:
            self.emotion = emotion
        while self.history and self.history[0].at_s < at_s - HISTORY_S:
            self.history.popleft()

    def _revise(self, emotion: Emotion) -> None:
        """Put a revision in its window's place; the newest first, for a demo's loop counts from 0 again."""
        for index in range(len(self.history) - 1, -1, -1):
            moment = self.history[index]
            one = moment.emotion
            if one.seq == emotion.revises and one.time.end_ns == emotion.time.end_ns:
                self.history[index] = Moment(moment.at_s, emotion)
                return

    def _count(self, message: StatusMessage | SessionEnd) -> None:
        self.senses, self.windows, self.skipped = message.senses, message.windows, message.skipped
        self.revised = None if message.revised is UNSET else message.revised

    def _clear(self, session: str) -> None:
        self.session, self.emotion, self.begin = session, None, None
        self.history.clear()
        self.words = self.face = self.picture = None
        self.senses, self.windows, self.event, self.over = {}, None, "", ""
        self.skipped, self.eased, self.revised = None, (), None
