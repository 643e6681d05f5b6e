"""LocalAgreement-2: a word is committed when two successive hypotheses agree on it and all before it.

The policy of Macháček, Dabre and Bojar, "Turning Whisper into Real-Time Transcription System" (2023),
without any model: hypotheses come in as words with times, committed words go out once and for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from capture.messages import Word

JITTER_NS = 100_000_000  # Whisper places the same word this differently in two hypotheses
OVERLAP_NS = 1_000_000_000  # so far behind the last committed word may old words be heard again
OVERLAP_WORDS = 5


def normalised(text: str) -> str:
    """What two hypotheses must share to agree on a word: letters and digits, without case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


class HypothesisBuffer:
    """What was committed last, and the previous hypothesis for what follows.

    ``frontier_ns`` is a promise: no word that ends before it will be committed any more.
    """

    def __init__(self, frontier_ns: int = 0) -> None:
        self.frontier_ns = frontier_ns
        self.committed_ns = frontier_ns  # end of the last committed word
        self._tail: list[Word] = []  # the last committed words, to know them when they are heard again
        self._pending: list[Word] = []

    @property
    def pending(self) -> tuple[Word, ...]:
        """The words of the last hypothesis that still wait for agreement."""
        return tuple(self._pending)

    def insert(self, hypothesis: Sequence[Word]) -> list[Word]:
        """Take a hypothesis of everything in the sound buffer; return the newly committed words."""
        fresh = self._fresh(hypothesis)
        agreed = 0
        for ours, theirs in zip(self._pending, fresh, strict=False):
            if normalised(ours.text) != normalised(theirs.text):
                break
            agreed += 1
        committed = self._commit(fresh[:agreed])
        self._pending = fresh[agreed:]
        return committed

    def flush(self, before_ns: int | None = None) -> list[Word]:
        """Commit what waits, because its sound leaves the buffer; with ``before_ns`` what ends by then."""
        count = len(self._pending)
        if before_ns is not None:
            count = next((i for i, word in enumerate(self._pending) if word.end_ns > before_ns), count)
        committed = self._commit(self._pending[:count])
        self._pending = self._pending[count:]
        return committed

    def promise(self, frontier_ns: int) -> None:
        """No word that ends before ``frontier_ns`` will come; one that is heard there is left out."""
        self.frontier_ns = max(self.frontier_ns, frontier_ns)

    def forget(self) -> None:
        """The sound before is gone: nothing waits, and what comes next repeats nothing."""
        self._pending, self._tail = [], []

    def _fresh(self, hypothesis: Sequence[Word]) -> list[Word]:
        fresh = [
            word
            for word in hypothesis
            if normalised(word.text)
            and word.end_ns >= self.frontier_ns
            and word.start_ns > self.committed_ns - JITTER_NS
        ]
        return fresh[self._heard_again(fresh) :]

    def _heard_again(self, fresh: Sequence[Word]) -> int:
        """How many words at the front are the last committed ones, placed a little later."""
        if not fresh or not self._tail or fresh[0].start_ns - self.committed_ns > OVERLAP_NS:
            return 0
        for count in range(min(OVERLAP_WORDS, len(self._tail), len(fresh)), 0, -1):
            old = self._tail[-count:]
            if any(normalised(a.text) != normalised(b.text) for a, b in zip(old, fresh, strict=False)):
                continue
            # One word alone may be said twice ("no, no"): it is the old one only if nearer to its start
            # than to its end.
            nearer = abs(fresh[0].start_ns - old[0].start_ns) < abs(fresh[0].start_ns - old[-1].end_ns)
            if count > 1 or nearer:
                return count
        return 0

    def _commit(self, words: Sequence[Word]) -> list[Word]:
        committed = []
        for word in words:
            if word.end_ns < self.frontier_ns:  # promised away while it waited, or placed backwards
                continue
            start_ns = min(max(word.start_ns, self.frontier_ns), word.end_ns)
            committed.append(msgspec.structs.replace(word, start_ns=start_ns, committed=True))
            self.frontier_ns = self.committed_ns = word.end_ns
        self._tail = (self._tail + committed)[-OVERLAP_WORDS:]
        return committed
