"""Recogniser: keeps the sound that is still open, and decides when it is transcribed and what is committed.

Knows neither Whisper nor sockets: ``transcribe`` is any function from samples to words with times
relative to the first sample, ``speech`` any speech probability of 512 samples.

Silence is not transcribed. The sound is bounded: beyond 15 s it is cut at the last committed word, at
30 s it is cut anyway. Two seconds without speech, or a hole in time, end an utterance: what waits
for agreement is committed, and the sound before is forgotten. Time is never compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from capture.agreement import HypothesisBuffer
from capture.guards import without_loops
from capture.messages import Unheard, Word

RATE_HZ = 16000
VAD_SAMPLES = 512
SPEECH_PROBABILITY = 0.5
STEP_NS = 1_000_000_000
TRIM_NS = 15_000_000_000
CAP_NS = 30_000_000_000  # what Whisper hears at once
SILENCE_NS = 2_000_000_000
PRE_ROLL_NS = 500_000_000  # speech begins before Silero VAD is sure of it
HANGOVER_NS = 300_000_000  # and is still heard so long after a word has ended
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
GAP_NS = 60_000_000  # later (or earlier) than expected by more than this: a hole

Transcribe = Callable[[npt.NDArray[np.float32]], Sequence[Word]]
Speech = Callable[[bytes], float]


class Recogniser:
    """From sound with times to committed words.

    Args:
        transcribe: (N,) samples in [-1, 1] at 16 kHz -> words, times in ns from the first sample.
        speech: 512 samples of 16-bit sound -> probability of speech.
        start_ns: nothing before this capture time is said.
    """

    def __init__(self, transcribe: Transcribe, speech: Speech, start_ns: int = 0) -> None:
        self.hypotheses = HypothesisBuffer(start_ns)
        self.skipped = 0  # samples cut without ever having been transcribed
        self.step_ns = STEP_NS  # new sound before the next hypothesis
        self._transcribe = transcribe
        self._speech = speech
        self._sound = np.empty(0, np.int16)
        self._end_ns = start_ns  # of the newest sample
        self._unheard = 0  # samples at the end of the sound that the VAD has not heard
        self._spoken: list[tuple[int, int]] = []  # stretches of speech in the sound, capture time
        self._sentence_ns = start_ns  # where the last committed sentence ended
        self._transcribed_ns = start_ns  # the last hypothesis knew the sound up to here
        self._missed: list[Unheard] = []

    @property
    def until_ns(self) -> int:
        """No word that ends before this capture time will be committed any more."""
        return self.hypotheses.frontier_ns

    @property
    def provisional(self) -> tuple[Word, ...]:
        """The words that wait for a second hypothesis to agree; they may still change or go."""
        return tuple(msgspec.structs.replace(word, committed=False) for word in self.hypotheses.pending)

    @property
    def end_ns(self) -> int:
        """Sound has come up to here."""
        return self._end_ns

    @property
    def new_ns(self) -> int:
        """How much sound has come since the last hypothesis."""
        return self._end_ns - self._transcribed_ns

    def missed(self) -> tuple[Unheard, ...]:
        """The stretches that nobody listened to, since this was asked last."""
        missed, self._missed = tuple(self._missed), []
        return missed

    def use(self, transcribe: Transcribe) -> None:
        """Go on with another model."""
        self._transcribe = transcribe

    @property
    def due(self) -> bool:
        """A chunk of new sound has come, and there is something to say about it."""
        new = self._end_ns - self._transcribed_ns >= self.step_ns
        return new and (self._open_speech() is not None or bool(self.hypotheses.pending))

    def expects(self, t_ns: int) -> bool:
        """Whether sound that begins at ``t_ns`` goes on where the last ended."""
        return not len(self._sound) or abs(t_ns - self._end_ns) <= GAP_NS

    def feed(self, t_ns: int, samples: npt.NDArray[np.int16]) -> list[Word]:
        """Take sound whose first sample happened at ``t_ns``; return words that this brings to an end.

        The caller ends the utterance first where ``expects`` says that there is a hole.
        """
        if not len(self._sound):
            self._transcribed_ns = t_ns
        self._sound = np.concatenate([self._sound, samples])
        self._end_ns = t_ns + _ns(len(samples))  # the newest stamp counts: clocks drift
        self._unheard += len(samples)
        self._listen()
        words = self._cap()
        self._promise()
        return words

    @property
    def silent(self) -> bool:
        """The utterance is over: words or speech lie in the sound, and two seconds of silence after them."""
        something = bool(self._spoken or self.hypotheses.pending)
        return something and self._end_ns - max(self._last_speech_ns(), self._start_ns) >= SILENCE_NS

    def step(self) -> list[Word]:
        """Transcribe the sound once more; return the words that two hypotheses agree on."""
        hypothesis = self._hear()
        words = self.hypotheses.insert(hypothesis)
        self._sentence_ns = max(
            (word.end_ns for word in words if word.text.endswith(SENTENCE_ENDS)), default=self._sentence_ns
        )
        committed_ns = self.hypotheses.committed_ns
        if self._end_ns - self._start_ns > TRIM_NS and committed_ns > self._start_ns:
            # Whisper hears best from the beginning of a sentence; within a long one, from a whole word.
            self._cut(self._sentence_ns if self._sentence_ns > self._start_ns else committed_ns)
        self._promise()
        return words

    def fall_silent(self) -> list[Word]:
        """End the utterance, but keep the last half second: the next one may already have begun in it."""
        words = self._last_words()
        self._spoken = []
        self._promise()
        return words

    def end_utterance(self) -> list[Word]:
        """Commit what waits, after a last look at speech not yet transcribed, and forget the sound."""
        words = self._last_words()
        self._forget()
        return words

    def _forget(self) -> None:
        self._sound, self._spoken, self._unheard = np.empty(0, np.int16), [], 0
        self._transcribed_ns = self._end_ns
        self.hypotheses.promise(self._end_ns)

    def _last_words(self) -> list[Word]:
        words: list[Word] = []
        if self._open_speech(self._transcribed_ns) is not None:
            words += self.hypotheses.insert(self._hear())
        words += self.hypotheses.flush()
        self.hypotheses.forget()
        return words

    def skip_to(self, t_ns: int) -> list[Word]:
        """Give up the sound before ``t_ns``, because the machine cannot keep up; counted in ``skipped``."""
        words = self.hypotheses.flush()
        self.hypotheses.forget()
        self._skip(t_ns)
        self._cut(t_ns)
        self._transcribed_ns = max(self._transcribed_ns, self._start_ns)
        self.hypotheses.promise(self._start_ns)
        return words

    def leave(self) -> list[Word]:
        """Give up all sound so far without hearing it, because nobody wants words; not counted as lost."""
        words = self.hypotheses.flush()
        self.hypotheses.forget()
        self._miss(self._transcribed_ns, self._end_ns, "eased")
        self._forget()
        return words

    def pass_over(self, t_ns: int, reason: str) -> None:
        """After the end of an utterance: there is no sound up to ``t_ns``, and so nobody has heard it."""
        assert not len(self._sound)
        self._miss(self._end_ns, t_ns, reason)
        self._end_ns = max(self._end_ns, t_ns)
        self._forget()

    @property
    def backlog_ns(self) -> int:
        """How much sound waits for its first transcription."""
        return self._end_ns - self._transcribed_ns if self._open_speech() is not None else 0

    @property
    def _start_ns(self) -> int:
        return self._end_ns - _ns(len(self._sound))

    def _listen(self) -> None:
        while self._unheard >= VAD_SAMPLES:
            at = len(self._sound) - self._unheard
            chunk = self._sound[at : at + VAD_SAMPLES]
            start_ns = self._end_ns - _ns(self._unheard)
            self._unheard -= VAD_SAMPLES
            if self._speech(chunk.tobytes()) < SPEECH_PROBABILITY:
                continue
            end_ns = start_ns + _ns(VAD_SAMPLES)
            if self._spoken and start_ns - self._spoken[-1][1] < _ns(VAD_SAMPLES):
                start_ns = self._spoken.pop()[0]
            self._spoken.append((start_ns, end_ns))

    def _hear(self) -> list[Word]:
        """A hypothesis on the capture clock, without words outside the sound or wholly in silence."""
        start_ns, end_ns = self._start_ns, self._end_ns
        self._transcribed_ns = end_ns
        hypothesis = []
        for word in without_loops(self._transcribe(self._sound.astype(np.float32) / 32768.0)):
            at_ns, to_ns = start_ns + word.start_ns, min(start_ns + word.end_ns, end_ns)
            if at_ns >= end_ns or to_ns < at_ns or not self._is_spoken(at_ns, to_ns):
                continue
            hypothesis.append(msgspec.structs.replace(word, start_ns=at_ns, end_ns=to_ns))
        return hypothesis

    def _is_spoken(self, start_ns: int, end_ns: int) -> bool:
        return any(a - PRE_ROLL_NS <= end_ns and start_ns <= b + HANGOVER_NS for a, b in self._spoken)

    def _last_speech_ns(self) -> int:
        return self._spoken[-1][1] if self._spoken else self._start_ns

    def _open_speech(self, after_ns: int | None = None) -> int | None:
        """Where speech begins that no committed word accounts for (or that goes on after ``after_ns``)."""
        if after_ns is None:
            after_ns = max(self.hypotheses.committed_ns + HANGOVER_NS, self._start_ns)
        return next((max(a, self._start_ns) for a, b in self._spoken if b > after_ns), None)

    def _promise(self) -> None:
        """Move the frontier over silence, and let sound go in which nobody has spoken."""
        speech_ns = self._open_speech()
        heard_ns = self._end_ns - _ns(self._unheard)
        quiet_ns = (heard_ns if speech_ns is None else speech_ns) - PRE_ROLL_NS
        if self.hypotheses.pending:
            quiet_ns = min(quiet_ns, self.hypotheses.pending[0].start_ns)
        self.hypotheses.promise(max(quiet_ns, self._start_ns))
        if not self._spoken and not self.hypotheses.pending:
            self._cut(quiet_ns)
            self._transcribed_ns = max(self._transcribed_ns, self._start_ns)

    def _cap(self) -> list[Word]:
        if self._end_ns - self._start_ns <= CAP_NS:
            return []
        cut_ns = self._end_ns - TRIM_NS
        words = self.hypotheses.flush(before_ns=cut_ns)
        self._skip(cut_ns)
        self._cut(cut_ns)
        return words

    def _skip(self, t_ns: int) -> None:
        """Own up to the sound before ``t_ns`` that was never transcribed."""
        from_ns = max(self._transcribed_ns, self._start_ns)
        self.skipped += max(0, _samples(t_ns - from_ns))
        self._miss(from_ns, t_ns, "lagging")

    def _miss(self, start_ns: int, end_ns: int, reason: str) -> None:
        if end_ns <= start_ns:
            return
        last = self._missed[-1] if self._missed else None
        if last is not None and last.reason == reason and start_ns - last.end_ns <= GAP_NS:
            start_ns = self._missed.pop().start_ns
        self._missed.append(Unheard(start_ns, end_ns, reason))

    def _cut(self, t_ns: int) -> None:
        """Forget the sound before ``t_ns``."""
        drop = min(_samples(t_ns - self._start_ns), len(self._sound) - self._unheard)
        if drop > 0:
            self._sound = self._sound[drop:]
            start_ns = self._start_ns
            self._spoken = [(max(a, start_ns), b) for a, b in self._spoken if b > start_ns]


def _ns(samples: int) -> int:
    return samples * 1_000_000_000 // RATE_HZ


def _samples(ns: int) -> int:
    return ns * RATE_HZ // 1_000_000_000
