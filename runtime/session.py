"""Session: the loop that joins it all — arrival, window, prediction, message."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from capture.clock import WallClock
from capture.messages import Pcm, Picture, Word
from runtime.account import Account, health
from runtime.compose import Timing, compose
from runtime.config import Config, told
from runtime.engine import Engine, EngineError, Prediction
from runtime.ladder import STEPS, Ladder
from runtime.network import CAPTURED, Network
from runtime.recording import Arrival, Header, LeftOut, Recorder, Recording, RecordingError, left_out
from runtime.sharing import Sharing
from runtime.sources import Source
from runtime.stream import (
    Emotion,
    Message,
    Model,
    Publisher,
    SenseStatus,
    SessionBegin,
    StatusMessage,
    schema,
    wall,
)
from runtime.windows import Window, Windower

log = logging.getLogger("runtime.session")

RAW_MESSAGES = (Pcm, Picture)
CONNECT_S = 0.5  # a session that does not run in real time may be over before anybody has connected


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A window that was published before its words were known."""

    message: Emotion
    words: tuple[Word, ...]
    prediction: Prediction | None


class Session:
    """One pass from begin to end: takes arrivals from a source, publishes what they mean.

    Single-threaded: whatever happens to a window happens between two turns of ``run``'s loop, in an
    order that a recording can repeat.

    Args:
        source: opened by ``run``, closed with the session.
        replayed: the recording that the source reads, if it does; its timing rules apply, and what it
            left out is left out again, unless the configuration asks for all windows.
        passed_over: the faster engines that do not run here, and why; published.
        spare: opens the engine that goes on when ``engine`` fails; None: the session ends then.
        delay_s: how late the slowest device is; windows wait so much longer.
        show: called with every message that is published.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        engine: Engine,
        publisher: Publisher,
        source: Source,
        *,
        name: str,
        replayed: Recording | None = None,
        passed_over: Mapping[str, str] = MappingProxyType({}),
        spare: Callable[[], Engine] | None = None,
        delay_s: float = 0.0,
        show: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.name = name
        self._config, self._network, self._engine = config, network, engine
        self._publisher, self._source, self._show = publisher, source, show
        self._recorder: Recorder | None = None
        self._replayed = replayed
        self._passed_over, self._spare = dict(passed_over), spare
        # A recording is cut again as it was cut: its hop, its lateness, its pace.
        self._hop_s, self._paced = config.hop_s, not config.fast
        self._lateness_s = config.lateness_s + delay_s
        if replayed is not None:
            header = replayed.header
            self._hop_s = header.hop_s or config.hop_s
            self._lateness_s = config.lateness_s if header.lateness_s is None else header.lateness_s
            self._paced = header.paced
        self._delay_ns = round(max(0.0, self._lateness_s - config.lateness_s) * 1e9)
        self._stopping = False
        self._seq = 0
        self._sharing = Sharing(config, name)
        self._unfinished: dict[int, _Unfinished] = {}  # by the end of the window
        self._model = self._about(engine)

    def stop(self) -> None:
        """End soon and cleanly; safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> str:
        """Run to the end of the source, of the duration, or to ``stop``; returns which it was."""
        try:
            self._left_out = LeftOut()  # nothing
            if self._replayed is not None and not self._config.all_windows:
                self._left_out = left_out(self._replayed)
            self._source.open(lambda: self._stopping)
            self._open()
            reason = self._loop()
            self._close(reason)
            return reason
        except BaseException as error:
            self._close(f"error: {error}")
            raise
        finally:
            self._source.close()

    def _open(self) -> None:
        source = self._source
        self._windower = Windower(
            self._network.features,
            hop_s=self._hop_s,
            lateness_s=self._lateness_s,
            start_ns=source.start_ns,
            paced=self._paced,
        )
        recorded = None if self._replayed is None else self._replayed.header.wall
        self._wall = WallClock(source.clock, recorded)
        able = (*source.eases(), "hop")
        steps = [step for step in STEPS if source.clock.paced and step in able]
        self._ladder = Ladder(steps, round(self._config.max_age_s * 1e9))
        self._account = Account(self.name)
        begin = SessionBegin(
            session=self.name,
            started=wall(self._wall.anchor.wall_ns(source.start_ns)),
            clock=source.clock.kind,
            config=told(self._config),
            model=self._model,
            streams={name: spec.hash for name, spec in CAPTURED.items()},
            sources=source.origins(),
            software=importlib.metadata.version("emotion-edge"),
            passed_over=self._passed_over or msgspec.UNSET,
        )
        if self._config.record is not None:
            header = Header(
                session=self.name,
                clock=source.clock.kind,
                paced=self._paced,
                start_ns=source.start_ns,
                wall=self._wall.anchor,
                hop_s=self._hop_s,
                lateness_s=self._lateness_s,
                streams=dict(CAPTURED),
                config=begin.config,
                software=begin.software,
                raw_consent=self._config.record_raw or "",
            )
            self._recorder = Recorder(
                Path(self._config.record), header, emotion_schema=msgspec.json.encode(schema())
            )
        if not source.clock.paced:
            self._publisher.wait_for_subscriber(CONNECT_S)
        self._begin = begin
        self._publish(begin)

    def _loop(self) -> str:
        source, windower = self._source, self._windower
        end_ns = None
        if self._config.duration_s is not None:
            end_ns = source.start_ns + round(self._config.duration_s * 1e9)
        while not self._stopping:
            self._publisher.greet()
            self._report()
            asked_ns = source.clock.now_ns()
            arrival = source.next(windower.deadline_ns, windower.wanted())
            if arrival is not None:
                self._take(arrival)
            elif source.over:
                self._report()
                self._finish()
                return "end of input"
            elif source.clock.paced:
                for window in windower.advance(asked_ns):
                    self._handle(window)
            if end_ns is not None and windower.next_end_ns > end_ns:
                self._settle()
                return "duration"
        self._settle()
        return "stopped"

    def _take(self, arrival: Arrival) -> None:
        """A message's way: windows that it is too late for, the recording, windows that it completes."""
        for window in self._windower.advance(arrival.t_arrival_ns):
            self._handle(window)
        for shared in self._sharing.of(arrival.message):
            self._publish(shared)
        if isinstance(arrival.message, RAW_MESSAGES):
            if self._config.record_raw is not None:
                self._record(lambda recorder: recorder.add(arrival.message, arrival.t_arrival_ns))
            return  # for people; the network sees features
        self._record(lambda recorder: recorder.add(arrival.message, arrival.t_arrival_ns))
        for window in self._windower.add(arrival.message, arrival.t_arrival_ns):
            self._handle(window)

    def _finish(self) -> None:
        """Cut what the end of the source leaves open: all of it, or what the recorded session had cut."""
        stopped_at_ns = None if self._replayed is None else self._replayed.stopped_at_ns
        if stopped_at_ns is not None:
            for window in self._windower.advance(stopped_at_ns):
                self._handle(window)
            self._settle()
            return
        for window in self._windower.finish():
            self._handle(window)

    def _settle(self) -> None:
        """The session ends: what waits for words is published once more, with those that came."""
        for window in self._windower.settle():
            self._handle(window)

    def _handle(self, window: Window) -> None:
        """A window's way: infer, compose, publish, record; with late words, once more."""
        clock = self._source.clock
        infer_ns = clock.now_ns()
        before = self._unfinished.pop(window.end_ns, None)
        if window.revision and before is None:
            return  # it was skipped, and nobody waits for it
        if before is None and self._given_up(infer_ns, window):
            self._account.skipped += 1
            return
        same_words = before is not None and before.words == window.text.words
        prediction = before.prediction if before is not None and same_words else self._predict(window)
        inferred_ns = clock.now_ns()
        message = compose(
            window,
            prediction,
            network=self._network,
            model=self._model,
            anchor=self._wall.anchor,
            clock=clock.kind,
            session=self.name,
            seq=self._seq,
            revises=None if before is None else before.message.seq,
            skipped=self._account.skipped,
            timing=Timing(infer_ns, inferred_ns, clock.now_ns(), clock.paced),
        )
        payload = self._publish(message)
        self._seq += 1
        if before is None:
            self._account.published(message)
            self._keep_up(message.time.published_ns, window)
        else:
            self._account.revisions.count(before.message, message, other_words=not same_words)
        if not window.final:
            self._unfinished[window.end_ns] = _Unfinished(message, window.text.words, prediction)
        published_ns = message.time.published_ns
        self._record(lambda recorder: recorder.add_emotion(payload, published_ns, message.seq))

    def _given_up(self, now_ns: int, window: Window) -> bool:
        """Whether a window is not inferred: the machine cannot keep up, or could not when it was recorded."""
        if window.end_ns in self._left_out:
            return True
        age_ns = now_ns - window.end_ns - self._delay_ns
        if self._source.clock.paced and age_ns > self._config.max_age_s * 1e9:
            self._keep_up(now_ns, window)  # newest only: nobody wants to know any more
            return True
        return "hop" in self._ladder.taken and self._between(window)

    def _keep_up(self, now_ns: int, window: Window) -> None:
        """Give something up when windows come late for long, or take it back; and say so."""
        if not self._source.clock.paced:
            return
        waited_ns = round(self._lateness_s * 1e9)  # by rule, however fast the machine is
        change = self._ladder.observe(now_ns, now_ns - window.end_ns - waited_ns)
        if change is not None:
            self._source.ease(self._ladder.taken)
            self._source.events.append(str(change))

    def _between(self, window: Window) -> bool:
        """Every second window, by its place in time, so that a twice as long hop stays on a grid."""
        return (window.end_ns - self._source.start_ns) // round(self._hop_s * 1e9) % 2 == 1

    def _predict(self, window: Window) -> Prediction | None:
        """What the network says; None where no sense is there, or where it says no number."""
        if not any(sense.present for sense in window.senses.values()):
            return None
        prediction = self._infer(window)
        if prediction.finite:
            return prediction
        self._source.events.append(f"network: no number for the window that ends at {window.end_ns} ns")
        return None

    def _infer(self, window: Window) -> Prediction:
        """Ask the engine. One that fails in the middle of a session is replaced, and that is published."""
        try:
            return self._engine.infer(window)
        except EngineError as error:
            if self._spare is None:
                raise
            failed, self._engine, self._spare = self._engine.name, self._spare(), None
            self._model = self._about(self._engine)
            self._passed_over[failed] = str(error)
            self._source.events.append(f"engine: {failed} failed, {self._engine.name} goes on: {error}")
            self._begin = msgspec.structs.replace(
                self._begin, model=self._model, passed_over=self._passed_over
            )
            self._publish(self._begin)
            return self._engine.infer(window)

    def _about(self, engine: Engine) -> Model:
        network = self._network
        return Model(
            name=network.manifest.name,
            hash=network.hash,
            features=network.features.hash,
            engine=engine.name,
            precision=engine.precision,
        )

    def _report(self) -> None:
        """Publish the status: every second, and at once for each event."""
        if jump_s := self._wall.renew():
            self._source.events.append(
                f"clock: the date jumped by {jump_s:+.3f} s against the session's clock"
            )
        while self._source.events:
            event = self._source.events.popleft()
            log.warning("%s", event)
            self._publish(self._status(event))
        if self._account.status_due():
            self._publish(self._status())

    def _status(self, event: str | None = None) -> StatusMessage:
        return self._account.status(self._senses(), self._engine.name, self._ladder.taken, event)

    def _senses(self) -> dict[str, SenseStatus]:
        return health(self._windower.streams, self._source.corrupt(), self._source.restarts())

    def _close(self, reason: str) -> None:
        if not hasattr(self, "_windower"):
            return
        end = self._account.end(self._senses(), reason)
        totals = msgspec.to_builtins(end)
        if reason != "end of input" or self._paced:  # time went on after the last message
            totals["stopped_at_ns"] = self._windower.next_end_ns + round(self._lateness_s * 1e9)
        self._record(lambda recorder: recorder.close(totals))
        self._report()  # what happened last: the recording may have failed just now
        self._publish(end)

    def _publish(self, message: Message) -> bytes:
        payload = self._publisher.publish(message)
        self._show(message)
        return payload

    def _record(self, write: Callable[[Recorder], None]) -> None:
        """Write to the recording; one that fails is given up, and the session goes on."""
        if self._recorder is None:
            return
        try:
            write(self._recorder)
        except RecordingError as error:
            self._recorder = None
            self._source.events.append(f"recording: {error}")
