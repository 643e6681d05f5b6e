"""Sources: where arrivals come from — capture processes on the bus, or a recording (``replay_source``).

Both give ``Arrival``s in order, on a session clock, so that the session does not know which it has.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, Protocol

import msgspec

from capture.address import shown
from capture.bus import ipc, private_folder
from capture.clock import Clock, HostClock
from capture.features import text
from capture.features.audio import SAMPLE_RATE_HZ
from capture.link import Go, Wish
from capture.messages import STREAMS, Message, Stamp, State, Status, StreamName, Unheard, Words
from runtime.ladder import Step
from runtime.newcomers import Newcomers
from runtime.pipes import Pipes
from runtime.recording import Arrival
from runtime.supervisor import Exit, Restart, Sense, Supervisor

READY_S = 60.0  # how long the slowest process may take to load its models
EASED_HZ = 10.0  # faces a second when the machine cannot keep up
CORRUPT_S = 1.0  # between two events that tell of messages that could not be read
FINAL_S = 2.0  # how long after the last process the last message may come

_FINAL: frozenset[State] = frozenset({"absent", "ended", "failed"})
_SETTLED: frozenset[State] = _FINAL | {"ready"}


class Source(Protocol):
    """Gives arrivals. ``over`` says that no more will come; ``events`` are news for people."""

    clock: Clock
    start_ns: int
    events: deque[str]

    @property
    def over(self) -> bool: ...

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Get ready; return when the session's clock runs, or soon after ``stopping`` says so."""
        ...

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        """The next arrival; None when there is none by ``until_ns`` or for a tenth of a second.

        With None, what was there when it was asked has been given out, so that windows may be cut up to then.
        An unpaced source reads only the streams that are ``wanted``, so that the others wait in
        their own processes and nothing piles up.
        """
        ...

    def origins(self) -> dict[str, str]:
        """Sense -> the device, file or recording that it comes from, as it may be published."""
        ...

    def eases(self) -> tuple[Step, ...]:
        """What it could give up if the machine cannot keep up."""
        ...

    def ease(self, taken: Sequence[Step]) -> None:
        """Give up this, and nothing else."""
        ...

    def restarts(self) -> dict[StreamName, int]:
        """How often each capture process was started again."""
        ...

    def corrupt(self) -> dict[StreamName, int]:
        """How many messages of each stream could not be read."""
        ...

    def close(self) -> None: ...


class LiveSource:
    """Capture processes, supervised; each stream on a pipe of its own in a private folder.

    Args:
        senses: the processes to run; ``{folder}`` in their arguments becomes the private folder.
        session: name that every message must carry.
        absent: streams without a process, and the reason.
        media: the senses read a file: the clock is media time, paced or not.
        raw: pictures and sound may come, too.
    """

    def __init__(
        self,
        senses: Sequence[Sense],
        *,
        session: str,
        absent: dict[StreamName, str],
        media: bool,
        paced: bool = True,
        raw: bool = False,
    ) -> None:
        self.clock: Clock = HostClock()
        self.start_ns = 0
        self.events: deque[str] = deque()
        self._session = session
        self._media, self._paced = media, paced
        self._folder = private_folder()
        self._pipes = Pipes(
            self._folder,
            session=session,
            raw=raw,
            now_ns=lambda: self.clock.now_ns(),
            heard=self._heard,
        )
        processes = []
        for sense in senses:
            private = (argument.replace("{folder}", str(self._folder)) for argument in sense.arguments)
            link = ("--session", session, "--endpoint", ipc(self._folder, sense.stream))
            processes.append(replace(sense, arguments=(*link, *private)))
        self._supervisor = Supervisor(processes, watch_stalls=paced)
        self._senses = {sense.stream for sense in senses}
        self._origins: dict[str, str] = {sense.stream: _origin(sense.arguments) for sense in senses}
        self._devices = {sense.stream for sense in senses if sense.device}
        local = [sense for sense in senses if any(word.startswith("device:") for word in sense.arguments)]
        self._newcomers = Newcomers({sense.stream for sense in local if sense.device})
        self._recognises = any(word.startswith("whisper") for sense in senses for word in sense.arguments)
        self._listens = self._recognises  # to the microphone, or will when it is started again
        self._wishes: dict[StreamName, Wish] = {}
        self._gone: set[StreamName] = set()  # told to go: only then does a process take wishes
        self._states: dict[StreamName, State] = {}
        self._settled: set[StreamName] = set()  # ready, or known not to be: nobody waits for it
        self._heard_ns: dict[StreamName, int] = {}
        self._died_ns: dict[StreamName, int] = {}
        self._corrupt_said: dict[StreamName, int] = dict.fromkeys(STREAMS, 0)
        self._corrupt_at: dict[StreamName, float] = dict.fromkeys(STREAMS, 0.0)  # when it may be said again
        self._unread: dict[StreamName, int] = {}  # by the processes themselves
        self._absent = absent
        self._running = False
        self._over_at: float | None = None

    @property
    def over(self) -> bool:
        if not (self._pipes.given_out and self._supervisor.over and self._senses):
            return False
        if all(self._states.get(stream) in _FINAL for stream in self._senses):
            return True
        self._over_at = self._over_at or time.monotonic()
        return time.monotonic() - self._over_at > FINAL_S

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._supervisor.start()
        deadline = time.monotonic() + READY_S
        waiting: list[Message] = []
        while self._senses - self._settled and time.monotonic() < deadline and not stopping():
            arrival = self.next(None, STREAMS)
            if arrival is not None:
                waiting.append(arrival.message)
        if self._media:
            self.clock = HostClock("media", time.monotonic_ns(), self._paced)
            self._pipes.forget_ends()
        self.start_ns = self.clock.now_ns() if not self._media else 0
        missing = [stream for stream in self._died_ns if self._states.get(stream) != "ready"]
        self._died_ns = dict.fromkeys(missing, self.start_ns)  # nothing was lost before
        self._running = True
        self._pipes.put_back(waiting, self.start_ns)
        for stream, reason in self._absent.items():
            self._inject(stream, "absent", reason)
        for stream, state in self._states.items():
            if state == "ready":
                self._go(stream, self.start_ns)

    def next(self, until_ns: int | None, wanted: Sequence[StreamName]) -> Arrival | None:
        for event in self._supervisor.poll():
            self._note(event)
        working = [s for s, state in self._states.items() if state in ("running", "degraded")]
        self.events += self._newcomers.look(working)
        wanted = wanted or STREAMS
        arrival = self._pipes.next(until_ns, wanted)
        if arrival is None and self._pipes.wait(until_ns, wanted):
            arrival = self._pipes.next(until_ns, wanted)
        self._tell_corrupt()
        return arrival

    def origins(self) -> dict[str, str]:
        return self._origins

    def _tell_corrupt(self) -> None:
        """Say what could not be read: the first at once, a flood of them once a second."""
        for stream, receiver in self._pipes.receivers.items():
            new = receiver.corrupt - self._corrupt_said[stream]
            if new and time.monotonic() >= self._corrupt_at[stream]:
                self._corrupt_said[stream] = receiver.corrupt
                self._corrupt_at[stream] = time.monotonic() + CORRUPT_S
                told = "corrupt message" if new == 1 else f"{new} corrupt messages"
                self.events.append(f"{stream}: {told} dropped: {receiver.last_error}")

    def eases(self) -> tuple[Step, ...]:
        steps: tuple[Step, ...] = ()
        if "vision" in self._senses:
            steps += ("faces",)
        if self._recognises:
            steps += ("provisional", "recogniser", "text")
        return steps

    def ease(self, taken: Sequence[Step]) -> None:
        words: Literal["full", "simple", "off"] = "full"
        if "recogniser" in taken:
            words = "off" if "text" in taken else "simple"
        wishes: dict[StreamName, Wish] = {
            "vision": Wish(rate_hz=EASED_HZ if "faces" in taken else None),
            "text": msgspec.structs.replace(
                self._wishes.get("text", Wish()), provisional="provisional" not in taken, recogniser=words
            ),
        }
        for stream, wish in wishes.items():
            if stream in self._senses:
                self._wish(stream, wish)

    def restarts(self) -> dict[StreamName, int]:
        return {stream: self._supervisor.restarts(stream) for stream in STREAMS}

    def corrupt(self) -> dict[StreamName, int]:
        return {stream: receiver.corrupt for stream, receiver in self._pipes.receivers.items()}

    def close(self) -> None:
        self._supervisor.stop()
        self._pipes.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _heard(self, stream: StreamName, message: Message) -> None:
        """A message was read of a stream's pipe."""
        self._supervisor.heard(stream)
        if isinstance(message, Status):
            self._take_status(stream, message)
        else:
            self._heard_ns[stream] = message.stamp.t_capture_ns

    def _take_status(self, stream: StreamName, status: Status) -> None:
        before = self._states.get(stream)
        self._states[stream] = status.state
        if status.corrupt > self._unread.get(stream, 0):
            self.events.append(f"{stream}: {status.corrupt} messages to its process could not be read")
        self._unread[stream] = status.corrupt
        if status.state in _SETTLED:
            self._settled.add(stream)
        if stream == "text" and status.state in ("absent", "ended"):
            self._stop_listening()
        if stream == "audio" and status.state in ("absent", "ended") and stream not in self._devices:
            self._end_sound()
        looks_on = status.state == "absent" and stream in self._devices  # for its device, by itself
        is_heard = status.state == "ended" and stream == "audio" and self._listens
        if status.state in _FINAL and not (looks_on or is_heard):
            self._supervisor.release(stream)
        if status.state == "ready" and before == "absent":
            self.events.append(f"{stream}: there: {status.detail}")
        if status.state == "ready" and before != "ready" and self._running:
            heard_ns = self._heard_ns.get(stream, self.start_ns)
            start_ns = self.clock.now_ns() if self._paced else heard_ns + 1
            self._go(stream, start_ns)
            if stream in self._died_ns:
                died_ns = self._died_ns.pop(stream)
                told = f", {(start_ns - died_ns) / 1e9:.1f} s lost"
                if stream == "text" and self._paced:
                    self._own_up(died_ns, start_ns)
                elif stream == "text" and self._recognises:
                    told = ""  # the process itself says what it does not hear
                self.events.append(f"{stream}: back after a restart{told}")
        elif status.state == "running" and (
            before == "absent" or (before == "degraded" and stream in self._devices)
        ):
            self.events.append(f"{stream}: there again")
        elif status.state != before and status.state in ("absent", "failed", "degraded"):
            self.events.append(f"{stream}: {status.state}: {status.detail or status.reason}")

    def _stop_listening(self) -> None:
        """The recogniser has heard all, or never will: the microphone need not wait for it any longer."""
        if not self._listens:
            return
        self._listens = False
        if self._states.get("audio") == "ended":
            self._supervisor.release("audio")
        self._wish("audio", Wish(recogniser="off"))

    def _end_sound(self) -> None:
        """No more sound will come, and who gave it may be dead: the recogniser need not wait for its end."""
        if self._listens:
            self._wish("text", msgspec.structs.replace(self._wishes.get("text", Wish()), no_more_sound=True))

    def _wish(self, stream: StreamName, wish: Wish) -> None:
        """Ask for this from now on, also of the process that takes the place of one that died."""
        if self._wishes.get(stream, Wish()) == wish:
            return
        self._wishes[stream] = wish
        if stream in self._gone:  # who waits for its go is told with it
            self._supervisor.tell(stream, wish)

    def _own_up(self, from_ns: int, to_ns: int) -> None:
        """Say that nobody listened in the meantime; otherwise it counts as heard, and silent."""
        if to_ns > from_ns:
            unheard = (Unheard(from_ns, to_ns, "restarting"),)
            self._pipes.put(Words(self._stamp("text", to_ns), text.SPEC.hash, (), to_ns, unheard))

    def _go(self, stream: StreamName, start_ns: int) -> None:
        self._supervisor.go(stream, Go(self._host_clock(), start_ns))
        self._gone.add(stream)
        if stream in self._wishes:
            self._supervisor.tell(stream, self._wishes[stream])

    def _note(self, event: Exit | Restart) -> None:
        stream = event.stream
        if isinstance(event, Exit) and not (event.expected and event.retry_in_s is None):
            self._pipes.end(stream)  # its last words are not for its successor
        self._settled.add(stream)
        self._gone.discard(stream)
        if isinstance(event, Restart):
            self._states.pop(stream, None)
            self.events.append(f"{stream}: restarting the capture process ({event.cause})")
        elif event.expected:
            pass  # it said so itself
        elif self._has_nothing_to_hear(stream):
            self._supervisor.forgo(stream)
            self._stop_listening()
            lost_ns = self._heard_ns.get("audio", 0) - self._heard_ns.get(stream, self.start_ns)
            told = f"{event.cause}, {lost_ns / 1e9:.1f} s not heard"
            self._inject(stream, "failed", "gave_up", told, max(0, lost_ns) * SAMPLE_RATE_HZ // 10**9)
            self.events.append(f"{stream}: the capture process is given up ({told})")
        elif event.retry_in_s is None:
            if stream == "text":
                self._stop_listening()
            if stream == "audio":
                self._end_sound()
            self._inject(stream, "failed", "gave_up", event.cause)
            self.events.append(f"{stream}: the capture process is given up ({event.cause})")
        else:
            self._died_ns.setdefault(stream, self._heard_ns.get(stream, self.clock.now_ns()))
            self._inject(stream, "starting", "restarting", event.cause)
            self.events.append(f"{stream}: the capture process died ({event.cause})")

    def _has_nothing_to_hear(self, stream: StreamName) -> bool:
        """Whether a file that is read at once has been given out to a recogniser that is dead.

        What is left in the pipe may be all or nothing of it: nobody can tell whether its end was taken out.
        """
        if stream != "text" or not self._recognises or self._paced:
            return False
        self._pipes.read_out("audio")  # is there its last word?
        return self._states.get("audio") in _FINAL

    def _inject(
        self, stream: StreamName, state: State, reason: str, detail: str = "", dropped: int = 0
    ) -> None:
        """Say of a stream what its process cannot say itself; recorded like any message."""
        self._states[stream] = state
        stamp = self._stamp(stream, self.clock.now_ns())
        self._pipes.put(Status(stamp, state, reason, detail, dropped))

    def _stamp(self, stream: StreamName, t_ns: int) -> Stamp:
        """Of what the session says of a stream; outside the count of what its process says."""
        return Stamp(self._session, stream, -1, t_ns, self.clock.now_ns())

    def _host_clock(self) -> HostClock:
        assert isinstance(self.clock, HostClock)
        return self.clock


def _origin(arguments: Sequence[str]) -> str:
    """What a capture process reads, of its command line."""
    named = (shown(value) for name, value in pairwise(arguments) if name in ("--source", "--asr"))
    return next(named, "")
