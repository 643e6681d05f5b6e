"""Windows: per-stream rings of what arrived, cut into sliding unaligned windows by capture time.

A ``Windower`` is a function of arrivals and nothing else: it never reads a clock. A window that
ends at E is cut as soon as every stream that is alive has been heard up to E; in a paced session at
the latest ``lateness_s`` after E, with what had arrived by then. So a replay of the recorded
arrivals cuts the same windows as the live session did.

Words come late: a recogniser commits them seconds after they were said. A window that is cut before
its words are known is not ``final``; it is cut once more when listening has come to its end, with the
same faces and the same voice, and that one is.

Windows are right-aligned: the newest sample is the last step, padding stands in front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from capture.features import audio as audio_features
from capture.features import vision as vision_features
from capture.features.coverage import coverage as coverage_of
from capture.features.spec import FeatureSpec, InputSpec
from capture.messages import STREAMS, FeatureBlock, Message, StreamName, Word, Words
from runtime.history import DEAD, StreamHistory

MIN_COVERAGE = 0.1  # a face seen in less of its window than this is absent
LATE_NS = 30_000_000_000  # words that come later than this after a window change it no more
MAX_LAG_NS = 1_000_000_000  # a sense whose newest sample is older than this has left
AHEAD_NS = 10_000_000_000  # a sample that is so much newer than its arrival is none
JUMP_NS = 3_600_000_000_000  # nor is one of a film that comes an hour after what was heard before
MIN_SPEECH_S = 0.3  # less speech than this in the window is a silent room
SPEECH = 0.5  # Silero's probability above which a frame counts as speech

_SPEECH_COLUMN = audio_features.SPEC.names.index("speech")
_PRESENCE_COLUMN = vision_features.SPEC.names.index("presence")


@dataclass(frozen=True, slots=True, eq=False)
class SenseWindow:
    """What one sense contributes; where it is absent, ``mask`` is zero and ``reason`` says why."""

    values: npt.NDArray[np.float32]  # (steps, dim), right-aligned; text: empty, see ``words``
    mask: npt.NDArray[np.float32]  # (steps,) 1 for a valid sample
    present: bool
    coverage: float  # share of the window's time that was observed, 0..1
    lag_ns: int | None  # window end less the newest valid sample; None: there is none
    reason: str | None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One sliding window over the three senses; times are on the capture clock."""

    start_ns: int
    end_ns: int
    cut_ns: int  # when it was complete
    text: SenseWindow
    audio: SenseWindow
    vision: SenseWindow
    newest: FeatureBlock | None  # the block with the newest sample inside, if any: its way is timed
    dropped: dict[StreamName, int]  # samples lost so far, by the processes and on the bus
    final: bool = True  # all that will ever be known of this time is inside
    revision: bool = False  # cut once more, with the words that came after the first time

    @property
    def senses(self) -> dict[StreamName, SenseWindow]:
        return {"text": self.text, "audio": self.audio, "vision": self.vision}


class Windower:
    """Cuts windows from arrivals.

    Args:
        spec: the network's FeatureSpec; messages with another spec hash are refused and counted.
        hop_s: a window ends every ``hop_s`` seconds after ``start_ns``.
        lateness_s: how long a paced session waits for samples after a window's end.
        paced: False: wait for every live stream however long it takes (files read with ``--fast``).
    """

    def __init__(
        self, spec: FeatureSpec, *, hop_s: float, lateness_s: float, start_ns: int = 0, paced: bool = True
    ) -> None:
        self.streams: dict[StreamName, StreamHistory] = {name: StreamHistory() for name in STREAMS}
        self._spec = spec
        self._hop_ns = round(hop_s * 1e9)
        self._lateness_ns = round(lateness_s * 1e9)
        self._paced = paced
        self._start_ns = start_ns
        self._end_ns = start_ns + self._hop_ns
        self._open: deque[Window] = deque()  # cut, but their words are still to come

    @property
    def next_end_ns(self) -> int:
        """Where the next window ends."""
        return self._end_ns

    @property
    def deadline_ns(self) -> int | None:
        """When the next window is cut at the latest; None: it waits for its streams."""
        return self._end_ns + self._lateness_ns if self._paced else None

    def lagging(self) -> list[StreamName]:
        """The streams that the next window still waits for; the others need not be read now."""
        return [name for name in STREAMS if self._awaited(name) and not self._heard(name)]

    def wanted(self) -> list[StreamName]:
        """The streams to read next: all when paced, else those that lag and what feeds them."""
        if self._paced:
            return list(STREAMS)
        lagging = self.lagging()
        if "text" in lagging and "audio" not in lagging:  # words are made from sound
            lagging.append("audio")
        return lagging

    def advance(self, now_ns: int) -> Iterator[Window]:
        """Cut the windows whose deadline lies before ``now_ns``; again those whose words never came."""
        while (deadline_ns := self.deadline_ns) is not None:
            too_late_ns = self._open[0].end_ns + LATE_NS if self._open else deadline_ns
            if min(deadline_ns, too_late_ns) >= now_ns:
                return
            if too_late_ns < deadline_ns:
                yield self._again(self._open.popleft(), too_late_ns)
            else:
                yield self._cut(deadline_ns)

    def add(self, message: Message, t_arrival_ns: int) -> Iterator[Window]:
        """Take in a message and cut the windows that it completes, first those that waited for words."""
        if self._from_the_future(message, t_arrival_ns):
            self.streams[message.stamp.stream].refused += 1
            return
        stream = message.stamp.stream
        self.streams[stream].take(message, self._spec.input(stream).stream)
        if message.stamp.stream == "text":
            yield from self._revise(t_arrival_ns)
        while any(history.until_ns is not None for history in self.streams.values()) and not self.lagging():
            if all(history.state in DEAD for history in self.streams.values()):
                return  # the end of the input: ``finish`` decides how far it goes
            if not any(self._awaited(name) for name in STREAMS):
                return  # only time itself goes on: the deadline cuts
            yield self._cut(t_arrival_ns)

    def _from_the_future(self, message: Message, t_arrival_ns: int) -> bool:
        """Whether it tells of a time that cannot be yet: windows up to there would be cut without end."""
        match message:
            case FeatureBlock(times_ns=times_ns) if len(times_ns):
                until_ns = int(times_ns.max())
            case Words():
                until_ns = message.until_ns
            case _:
                return False
        if self._paced:
            return until_ns > max(t_arrival_ns, self._end_ns) + AHEAD_NS
        return until_ns > self._end_ns + JUMP_NS

    def finish(self, t_end_ns: int | None = None) -> Iterator[Window]:
        """Cut what remains, up to the newest sample of all streams (or ``t_end_ns``)."""
        heard = [history.until_ns for history in self.streams.values() if history.until_ns is not None]
        end_ns = max(heard, default=self._start_ns) if t_end_ns is None else t_end_ns
        if self._paced:  # as if time had gone on, so that a replay can do the same
            yield from self.advance(end_ns + self._lateness_ns + 1)
        while self._end_ns <= end_ns:
            yield self._cut(self._end_ns)
        yield from self.settle()

    def settle(self) -> Iterator[Window]:
        """No more words will come: cut the windows that waited for them, with those that did."""
        while self._open:
            yield self._again(self._open.popleft(), self._end_ns)

    def _revise(self, now_ns: int) -> Iterator[Window]:
        """Cut again what listening has come to the end of, and what has waited too long."""
        while self._open and not self._words_to_come(self._open[0].end_ns, now_ns):
            yield self._again(self._open.popleft(), now_ns)

    def _words_to_come(self, end_ns: int, now_ns: int) -> bool:
        history = self.streams["text"]
        heard = history.until_ns is not None and history.until_ns >= end_ns
        return not (heard or history.state in DEAD or now_ns - end_ns > LATE_NS)

    def _again(self, window: Window, now_ns: int) -> Window:
        return replace(window, text=self._cut_words(window.end_ns), cut_ns=now_ns, final=True, revision=True)

    def _awaited(self, name: StreamName) -> bool:
        history = self.streams[name]
        if history.state in DEAD:
            return False
        if not self._paced:
            return True
        # Words come seconds after they were said; a process that is starting has said nothing yet.
        return name != "text" and history.state != "starting" and history.until_ns is not None

    def _heard(self, name: StreamName) -> bool:
        until_ns = self.streams[name].until_ns
        return until_ns is not None and until_ns >= self._end_ns

    def _cut(self, cut_ns: int) -> Window:
        end_ns = self._end_ns
        self._end_ns += self._hop_ns
        window = Window(
            start_ns=end_ns - round(self._spec.window_s * 1e9),
            end_ns=end_ns,
            cut_ns=max(cut_ns, end_ns) if self._paced else cut_ns,
            text=self._cut_words(end_ns),
            audio=self._cut_samples("audio", end_ns),
            vision=self._cut_samples("vision", end_ns),
            newest=self._newest(end_ns),
            dropped={name: history.lost for name, history in self.streams.items()},
            final=not self._words_to_come(end_ns, cut_ns),
        )
        if not window.final:
            self._open.append(window)
        self._forget()
        return window

    def _cut_samples(self, name: StreamName, end_ns: int) -> SenseWindow:
        history, spec = self.streams[name], self._spec.input(name)
        start_ns = end_ns - round(spec.window_s * 1e9)
        inside = [sample for sample in history.samples if start_ns < sample[0] <= end_ns][-spec.steps :]
        values = np.zeros((spec.steps, spec.dim), np.float32)
        mask = np.zeros(spec.steps, np.float32)
        if not inside:
            return SenseWindow(values, mask, False, 0.0, None, history.reason or "no_samples")
        times_ns = np.array([t_ns for t_ns, _ in inside])
        rows = np.stack([row for _, row in inside])  # (T, D)
        valid = rows[:, _PRESENCE_COLUMN] > 0 if name == "vision" else np.ones(len(rows), bool)
        coverage = coverage_of(times_ns[valid], start_ns, end_ns)
        lag_ns = int(end_ns - times_ns[valid][-1]) if valid.any() else None
        if end_ns - times_ns[-1] > MAX_LAG_NS:
            return SenseWindow(values, mask, False, coverage, lag_ns, history.reason or "no_samples")
        if reason := _why_absent(name, rows, coverage, lag_ns, spec):
            return SenseWindow(values, mask, False, coverage, lag_ns, reason)
        values[-len(rows) :] = rows * valid[:, None]
        mask[-len(rows) :] = valid
        return SenseWindow(values, mask, True, coverage, lag_ns, None)

    def _cut_words(self, end_ns: int) -> SenseWindow:
        history, spec = self.streams["text"], self._spec.text
        window_ns = round(spec.window_s * 1e9)
        start_ns = end_ns - window_ns
        words = tuple(word for word in history.words if start_ns < word.end_ns <= end_ns)
        heard_ns = start_ns if history.until_ns is None else min(history.until_ns, end_ns)
        missed = [
            (max(one.start_ns, start_ns), min(one.end_ns, heard_ns), one.reason) for one in history.unheard
        ]
        missed_ns = sum(max(0, to_ns - from_ns) for from_ns, to_ns, _ in missed)
        coverage = max(0.0, heard_ns - start_ns - missed_ns) / window_ns
        nothing = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
        if not words:
            reason = history.reason or "no_samples"
            if missed_ns > window_ns / 2:
                reason = max(missed, key=lambda stretch: stretch[1] - stretch[0])[2]
            elif history.until_ns is not None and (history.until_ns >= end_ns or history.listens):
                reason = "no_words"
            return SenseWindow(*nothing, False, coverage, None, reason)
        return SenseWindow(*nothing, True, coverage, end_ns - words[-1].end_ns, None, words)

    def _newest(self, end_ns: int) -> FeatureBlock | None:
        """The last block of the stream that was heard last, of those with a sample in the window."""
        inside = [
            block
            for name, history in self.streams.items()
            for block in history.blocks
            if block.times_ns[0] <= end_ns < block.times_ns[-1] + round(self._spec.input(name).window_s * 1e9)
        ]
        return max(inside, key=lambda block: block.stamp.t_capture_ns, default=None)

    def _forget(self) -> None:
        for name, history in self.streams.items():
            end_ns = self._open[0].end_ns if name == "text" and self._open else self._end_ns
            oldest_ns = end_ns - round(self._spec.input(name).window_s * 1e9)
            while history.samples and history.samples[0][0] <= oldest_ns:
                history.samples.popleft()
            while history.words and history.words[0].end_ns <= oldest_ns:
                history.words.popleft()
            while history.unheard and history.unheard[0].end_ns <= oldest_ns:
                history.unheard.popleft()
            while len(history.blocks) > 1 and history.blocks[1].times_ns[0] <= self._end_ns - self._hop_ns:
                history.blocks.popleft()


def _why_absent(
    name: StreamName,
    rows: npt.NDArray[np.float32],
    coverage: float,
    lag_ns: int | None,
    spec: InputSpec,
) -> str | None:
    if name == "vision":
        seen = coverage >= MIN_COVERAGE and lag_ns is not None and lag_ns <= MAX_LAG_NS
        return None if seen else "no_face"
    speech_s = float((rows[:, _SPEECH_COLUMN] > SPEECH).sum()) / spec.stream.rate_hz
    return "no_speech" if speech_s < MIN_SPEECH_S else None
