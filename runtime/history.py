"""History: what is known of one stream — samples, words, how far it has been heard, how its process is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from capture.bus import Sequence
from capture.features.spec import StreamSpec
from capture.messages import FeatureBlock, Message, Pcm, Picture, State, Status, Unheard, Word, Words

STRETCHES = 1000  # of unheard sound; more than come in the time that a window waits for its words
DEAD: frozenset[State] = frozenset({"absent", "ended", "failed"})


@dataclass(slots=True)
class Lives:
    """What a process counts, over all its lives: each begins at 0."""

    before: int = 0
    now: int = 0

    def observe(self, count: int) -> None:
        if count < self.now:
            self.before += self.now
        self.now = count

    @property
    def total(self) -> int:
        return self.before + self.now


@dataclass(slots=True)
class StreamHistory:
    """One stream, as far as windows still need it."""

    state: State = "starting"
    reason: str | None = "starting"
    detail: str = ""
    until_ns: int | None = None  # heard up to here
    produced: Lives = field(default_factory=Lives)  # samples that it published
    dropped: Lives = field(default_factory=Lives)  # samples, by the process
    corrupt: Lives = field(default_factory=Lives)  # messages to the process that it could not read
    sequence: Sequence = field(default_factory=Sequence)
    samples: deque[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=deque)
    words: deque[Word] = field(default_factory=deque)
    unheard: deque[Unheard] = field(default_factory=lambda: deque(maxlen=STRETCHES))
    blocks: deque[FeatureBlock] = field(default_factory=deque)
    refused: int = 0  # messages of another feature spec, of another size than theirs says, or of the future

    @property
    def listens(self) -> bool:
        """Its process runs: what it has not said yet may still come."""
        return self.state not in DEAD and self.state != "starting"

    @property
    def lost(self) -> int:
        """Samples that the process dropped, and messages that the bus did."""
        return self.dropped.total + self.sequence.gaps

    def take(self, message: Message, expected: StreamSpec) -> None:
        """Take a message in; features that are not as ``expected`` are refused and counted."""
        self.sequence.observe(message.stamp.seq)
        match message:
            case Status():
                self.state, self.reason = message.state, message.reason
                self.detail = message.detail
                self.produced.observe(message.produced)
                self.dropped.observe(message.dropped)
                self.corrupt.observe(message.corrupt)
            case FeatureBlock():
                if message.spec != expected.hash or message.values.shape[1] != expected.dim:
                    self.refused += 1
                    return
                self.samples.extend(zip(message.times_ns.tolist(), message.values, strict=True))
                self.blocks.append(message)
                self.until_ns = int(message.times_ns[-1])
            case Words():
                if message.spec != expected.hash:
                    self.refused += 1
                    return
                self.words.extend(word for word in message.words if word.committed)
                self.unheard.extend(message.unheard)
                self.until_ns = message.until_ns
            case Pcm() | Picture():
                pass  # for people; the network sees features
