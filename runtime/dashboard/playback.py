"""Playback: a recording as the page shows it at any moment, and where the scrubber stands.

A session in real time is shown as it came; one of a film that was read as fast as it goes (``--fast``),
by the film's own time.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from capture.features import vision
from capture.messages import FeatureBlock, Picture, Status, Word, Words
from capture.rate_cap import RateCap
from runtime.dashboard.board import HISTORY_S, WORDS_KEPT, Board
from runtime.dashboard.film import Film
from runtime.recording import Recording, RecordingError
from runtime.sharing import FACE_HZ, face
from runtime.stream import Emotion, Face, MalformedMessage, SenseStatus, decode

FACE_S = 1.0  # an older face is none of now


class Playback:
    """A recording, read once.

    Args:
        recording: what ``Recording.open`` gave.

    Raises:
        RecordingError: it holds no window that can be read, so that there is nothing to show.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.start_s = recording.start_ns / 1e9
        self.unread = 0  # results of another schema
        self._emotions: list[tuple[float, Emotion]] = []
        for t_ns, payload in recording.emotions():
            try:
                message = decode(payload)
            except MalformedMessage:
                self.unread += 1
                continue
            if isinstance(message, Emotion):
                shown_ns = t_ns if recording.header.paced else message.time.end_ns
                self._emotions.append((shown_ns / 1e9, message))
        if not self._emotions:
            held = "only results of another schema" if self.unread else "no results to show"
            raise RecordingError(
                f"{recording.path} holds {held}: make them anew with "
                f"python -m runtime.recording rescore {recording.path} --out NEW.mcap"
            )
        self._emotions.sort(key=lambda pair: pair[0])
        firsts = (int(emotion.revises is None) for _, emotion in self._emotions)
        self._first_ones = [0, *accumulate(firsts)]  # windows up to each message: a revision is none
        self._faces: list[tuple[float, npt.NDArray[np.float32]]] = []
        self._cap = RateCap(FACE_HZ)
        self._film = Film()
        self._said: list[Word] = []  # committed words
        self._words: list[tuple[float, int, tuple[Word, ...]]] = []  # how many of them then, and provisional
        self._senses: dict[str, list[tuple[float, SenseStatus]]] = {}  # a film's streams are not in step
        for arrival in recording.arrivals():
            stamp = arrival.message.stamp
            shown_ns = arrival.t_arrival_ns if recording.header.paced else stamp.t_capture_ns
            self._arrive(shown_ns / 1e9, arrival.message)
        last_s = self._emotions[-1][0] - self.start_s
        self.duration_s = max(recording.duration_s, last_s) if recording.header.paced else last_s
        self.warnings = tuple(recording.warnings)  # complete, now that all was read
        if self.unread:
            self.warnings += (f"{recording.path}: {self.unread} results of another schema are not shown",)

    def board(self, at_s: float) -> Board:
        """What the page showed ``at_s`` seconds after the recording's beginning."""
        now_s = self.start_s + at_s
        board = Board(lambda: now_s)
        board.session = self.recording.header.session
        end = bisect_right(self._emotions, now_s, key=lambda pair: pair[0])
        begin = bisect_right(self._emotions, now_s - HISTORY_S, key=lambda pair: pair[0])
        for t_s, emotion in self._emotions[begin:end]:
            board.update(emotion, t_s)
        board.session = self.recording.header.session
        board.senses = {
            name: moments[at - 1][1]
            for name, moments in self._senses.items()
            if (at := bisect_right(moments, now_s, key=lambda pair: pair[0]))
        }
        board.words = self._heard(now_s)
        board.windows = self._first_ones[end]
        board.face, board.faced_s = self._face(now_s), now_s
        if (seen := self._film.at(now_s)) is not None:
            board.pictured_s, board.picture = seen
        board.heard_s, board.replayed = None, True  # a recording is never silent
        board.warnings = self.warnings
        return board

    def _heard(self, now_s: float) -> tuple[Word, ...]:
        """The last words that were committed by then, and the provisional ones of then."""
        index = bisect_right(self._words, now_s, key=lambda entry: entry[0])
        if not index:
            return ()
        _, count, provisional = self._words[index - 1]
        return (*self._said[max(count - WORDS_KEPT, 0) : count], *provisional)

    def _face(self, now_s: float) -> Face | None:
        """The face that was seen last, if that was not long ago."""
        index = bisect_right(self._faces, now_s, key=lambda pair: pair[0])
        if not index or now_s - self._faces[index - 1][0] > FACE_S:
            return None
        t_s, vector = self._faces[index - 1]
        return face(vector, round(t_s * 1e9), self.recording.header.session, index - 1)

    def _arrive(self, t_s: float, message: object) -> None:
        match message:
            case Words(words=words):
                self._said += (word for word in words if word.committed)
                provisional = tuple(word for word in words if not word.committed)
                news = len(self._said), provisional
                if not self._words or self._words[-1][1:] != news:
                    self._words.append((t_s, *news))
            case FeatureBlock(spec=spec, times_ns=times_ns, values=values) if spec == vision.SPEC.hash:
                for t_ns, vector in zip(times_ns.tolist(), values, strict=True):
                    if len(vector) == vision.SPEC.dim and self._cap.passes(t_ns):
                        self._faces.append((t_ns / 1e9, vector.copy()))
            case Picture():
                self._film.add(t_s, message)
            case Status(stamp=stamp):
                status = SenseStatus(
                    state=message.state,
                    reason=message.reason,
                    detail=message.detail,
                    produced=message.produced,
                    dropped=message.dropped,
                )
                self._senses.setdefault(stamp.stream, []).append((t_s, status))
            case _:
                pass


class Player:
    """Where one viewer stands in a recording.

    Args:
        now_s: a monotonic clock, in seconds.
    """

    def __init__(self, duration_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self.duration_s, self._now_s = duration_s, now_s
        self.playing, self.speed = False, 1.0
        self._position_s, self._since_s = 0.0, now_s()

    @property
    def position_s(self) -> float:
        """Seconds from the beginning; playing stops at the end."""
        position = self._position_s
        if self.playing:
            position += (self._now_s() - self._since_s) * self.speed
            if position >= self.duration_s:
                self._position_s, self.playing = self.duration_s, False
        return min(max(position, 0.0), self.duration_s)

    def seek(self, position_s: float) -> None:
        """Go there, and go on playing if it plays."""
        self._position_s, self._since_s = min(max(position_s, 0.0), self.duration_s), self._now_s()

    def play(self, playing: bool) -> None:
        """Play or pause; from the end it begins again."""
        position = self.position_s
        self.seek(0.0 if playing and position >= self.duration_s else position)
        self.playing = playing

    def set_speed(self, speed: float) -> None:
        """Times the speed of life."""
        self.seek(self.position_s)
        self.speed = speed
