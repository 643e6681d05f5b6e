"""Lab Streaming Layer: two outlets for LabRecorder, ``emotion`` (numbers) and ``emotion-events`` (text).

Source: https://labstreaminglayer.readthedocs.io; metadata as in the XDF project's wiki. Channels carry the
names of an export's columns (``runtime.stream.row``); what is absent is NaN. The time of a sample is the end
of its window on LSL's clock: the stream says when it published, on the capture clock, and the least delay
between that and hearing it tells how the two clocks lie.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from msgspec import UNSET

from runtime.bridge.bridge import log, missing
from runtime.bridge.sessions import Sessions
from runtime.stream import Emotion, Message, SessionBegin, SessionEnd, StatusMessage, Transcript
from runtime.stream.row import SENSES, row

SETTINGS = "[multicast]\nResolveScope = {scope}\n[log]\nlevel = -2\n"  # of the log: errors only
KEPT = 240  # messages that the clocks are compared over: two minutes at the usual hop
SILENT_S = 5.0  # a session says how it is every second: who is silent so long is gone
UNITS = {"p": "probability", "sentiment": "value", "homo": "strength", "hetero": "strength"}


class LslBridge:
    """Outlets of Lab Streaming Layer, made anew for each session and network; windows are never revised.

    LSL's outlets stand for one session: the first that is heard, until it has ended or is silent.

    Args:
        name: of the outlet of numbers; the outlet of text is ``name-events``.
        words: what was said goes to the outlet of text, too.
        lan: other machines find the outlets; LSL knows neither keys nor encryption. A user's own
            ``lsl_api.cfg`` decides instead, where there is one.
    """

    def __init__(self, name: str, *, words: bool = False, lan: bool = False) -> None:
        self._name, self._words, self._lan = name, words, lan
        self._session, self._heard_s, self._over = "", 0.0, True
        self._told = False  # that another session is heard, too
        self._sessions = Sessions()
        self._begin: SessionBegin | None = None
        self._numbers: Any = None
        self._events: Any = None
        self._channels: tuple[str, ...] = ()
        self._network = ""  # the hash of the one that the outlet of numbers was made for
        self._clock = _Clock()

    def open(self) -> str:
        try:
            import pylsl
        except ImportError as error:
            raise missing("pylsl") from error
        except RuntimeError as error:  # the package is there, the library that it wraps is not
            raise missing("liblsl, which pylsl loads,") from error
        self._lsl = pylsl
        if not _configured():
            pylsl.set_config_content(SETTINGS.format(scope="site" if self._lan else "machine"))
        return f"LSL outlets {self._name} and {self._name}-events, from the session's first window on"

    def send(self, message: Message) -> None:
        if not self._takes(message.session):
            return
        news = self._sessions.news(message)
        match message:
            case SessionBegin():
                known, self._begin = self._begin, message
                if news:
                    if known is not None:  # it was killed, and begins again on another clock
                        self._clock = _Clock()
                    self._tell(f"session.begin {message.session}")
            case Emotion():
                self._clock.observe(message.time.published_ns, self._lsl.local_clock())
                if news:
                    self._sample(message)
            case StatusMessage(event=str(event)):
                self._tell(event)
            case Transcript(words=words) if self._words:
                for word in words:
                    if word.committed:
                        self._tell(word.text, self._clock.lsl_s(word.start_ns))
            case SessionEnd(reason=reason):
                self._tell(f"session.end {reason}")
                # A demo's loop goes on under the same name, on a clock that begins again.
                self._begin, self._clock, self._over = None, _Clock(), True
            case _:
                pass

    def close(self) -> None:
        self._numbers = self._events = None  # an outlet lives as long as its object

    def _takes(self, session: str) -> bool:
        """Whether this session is the one that is carried, from now on or still."""
        now_s = time.monotonic()
        if session != self._session:
            if not self._over and now_s - self._heard_s < SILENT_S:
                if not self._told:
                    log.warning(
                        "session %s is heard, too, and not carried: to choose one, --session NAME", session
                    )
                self._told = True
                return False
            self._begin_session(session)
        self._heard_s, self._over = now_s, False
        return True

    def _begin_session(self, session: str) -> None:
        self._session, self._begin, self._clock = session, None, _Clock()
        self._sessions, self._told = Sessions(), False
        self._numbers = None
        lsl = self._lsl
        info = lsl.StreamInfo(
            f"{self._name}-events", "Markers", 1, 0, "string", f"{self._name}-events-{session}"
        )
        info.desc().append_child_value("session", session)
        self._events = lsl.StreamOutlet(info)

    def _sample(self, message: Emotion) -> None:
        answered = message.emotions is not UNSET or message.sentiment is not UNSET
        if message.model.hash != self._network or (answered and channels(message) != self._channels):
            self._numbers = None  # of another network: a session of the same name may bring one
        if self._numbers is None:
            if not answered:
                return  # which channels there are is not known yet
            self._numbers = self._outlet(message)
        flat = row(message)
        values = (flat.get(name) for name in self._channels)
        sample = [math.nan if value is None else float(value) for value in values]
        self._numbers.push_sample(sample, self._clock.lsl_s(message.time.end_ns))

    def _outlet(self, message: Emotion) -> Any:
        """An outlet whose metadata says what each channel is, and what made it."""
        self._channels, self._network = channels(message), message.model.hash
        model = message.model
        # LSL reconnects an inlet by this: it must not go on with the channels of another network.
        source = f"{self._name}-{message.session}-{model.hash}"
        info = self._lsl.StreamInfo(self._name, "Emotion", len(self._channels), 0, "double64", source)
        described = info.desc().append_child("channels")
        for name in self._channels:
            channel = described.append_child("channel")
            channel.append_child_value("label", name)
            channel.append_child_value("unit", _unit(name))
            channel.append_child_value("type", "Emotion")
        made = info.desc().append_child("acquisition")
        made.append_child_value("manufacturer", "emotion-edge")
        made.append_child_value("model", model.name)
        made.append_child_value("serial_number", model.hash)
        made.append_child_value("engine", f"{model.engine}, {model.precision}")
        if self._begin is not None:
            made.append_child_value("software", self._begin.software)
        info.desc().append_child_value("session", message.session)
        window_s = (message.time.end_ns - message.time.start_ns) / 1e9
        info.desc().append_child_value("window_s", f"{window_s:.3f}")
        return self._lsl.StreamOutlet(info)

    def _tell(self, text: str, t_s: float | None = None) -> None:
        self._events.push_sample([text], self._lsl.local_clock() if t_s is None else t_s)


class _Clock:
    """The capture clock on LSL's: the least delay of late is nearest to none."""

    def __init__(self) -> None:
        self._offsets_s: deque[float] = deque(maxlen=KEPT)

    def observe(self, published_ns: int, heard_s: float) -> None:
        self._offsets_s.append(heard_s - published_ns / 1e9)

    def lsl_s(self, t_ns: int) -> float:
        """A capture time on LSL's clock, seconds; 0, which LSL reads as now, before anything was heard."""
        return t_ns / 1e9 + min(self._offsets_s) if self._offsets_s else 0.0


def _configured() -> bool:
    """Whether there is a configuration where liblsl looks for one."""
    places = (Path("lsl_api.cfg"), Path.home() / "lsl_api" / "lsl_api.cfg", Path("/etc/lsl_api/lsl_api.cfg"))
    return "LSLAPICFG" in os.environ or any(place.is_file() for place in places)


def channels(message: Emotion) -> tuple[str, ...]:
    """The channels of a session, told by its first answer: the numeric columns of a row, all of them.

    A sense that is absent from this window says nothing in it, and may in the next: its columns are there.
    """
    flat = row(message)
    answer = [name.removeprefix("p_") for name in flat if name.startswith("p_")] or ["0"]
    names = []
    for name in flat:
        sense, _, what = name.partition("_")
        if what == "reason" or name in ("start_s", "wall", "revises", "final", "state", "top"):
            continue
        if sense in SENSES and what.startswith("logit_"):
            continue
        names.append(name)
        if sense in SENSES and what == "lag_ms":
            names += [f"{sense}_logit_{label}" for label in answer]
    return tuple(names)


def _unit(name: str) -> str:
    first, _, rest = name.partition("_")
    if name.endswith("_ms"):
        return "milliseconds"
    if rest.startswith("logit_"):
        return "logit"
    if rest in ("present", "coverage"):
        return "share"
    return UNITS.get(first, "count")
