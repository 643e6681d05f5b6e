"""Layout: what stands where in a recording; the writer and the reader agree here and nowhere else.

A recording is an MCAP file (https://mcap.dev/spec), readable by Foxglove and the ``mcap`` tool:

* metadata ``session``, before anything else: ``format`` and ``begin``, the session's header as JSON;
* channels ``/capture/text``, ``/capture/audio``, ``/capture/vision``: the multiparts that arrived from
  the capture processes, byte for byte (``capture.messages.pack``); pictures and sound only with the
  consent that stands in the header (``raw_consent``);
* channel ``/emotion``: the JSON that was published, byte for byte;
* metadata ``end``, when the session was closed properly: its totals as JSON.

``log_time`` is when a message arrived on the session's clock, ``publish_time`` when its process
published it; both in nanoseconds. MCAP times are unsigned: an instant before the clock's zero (a
process that says ``ready`` before a file begins) is kept as 0; the stamp inside keeps the true value.
The order of the file is the order of arrival, also between equal times. ``sequence`` is the stream's
``seq`` modulo 2**32.

Of the session's header ``Header`` is what readers look at; it may hold more, which is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from capture.clock import ClockKind, WallAnchor
from capture.features.spec import StreamSpec
from capture.messages import Message, StreamName

FORMAT = "emotion-recording/1"
SESSION_RECORD = "session"
END_RECORD = "end"

# In the order in which the writer registers them, so also their channel ids, counted from 1.
CAPTURE_TOPICS: dict[StreamName, str] = {
    "text": "/capture/text",
    "audio": "/capture/audio",
    "vision": "/capture/vision",
}
EMOTION_TOPIC = "/emotion"
TOPICS = (*CAPTURE_TOPICS.values(), EMOTION_TOPIC)

LARGEST_NS = 2**64 - 1
PAUSE_NS = (
    3_600_000_000_000  # no session is silent for so long: its processes say every second that they live
)


class RecordingError(Exception):
    """A recording that cannot be written or read: one line with the file, what is wrong and what to do."""


class Header(msgspec.Struct, frozen=True):
    """What a session says of itself when it begins, as far as a replay needs it."""

    session: str
    clock: ClockKind
    start_ns: int = 0  # capture time at which the session began
    origin_ns: int = 0  # of the clock, on the host's monotonic clock
    paced: bool = True
    wall: WallAnchor | None = None
    hop_s: Annotated[float, msgspec.Meta(ge=0.05, le=10)] | None = None
    lateness_s: Annotated[float, msgspec.Meta(ge=0, le=12)] | None = None  # with the delays of the devices
    streams: dict[StreamName, StreamSpec | str] = {}  # what was captured: the spec, or only its hash
    config: dict[str, Any] = {}
    software: str = ""
    raw_consent: str = ""  # the words with which pictures and sound were allowed; without them there are none


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of a capture process and when the session received it."""

    t_arrival_ns: int  # on the session's clock
    message: Message


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as the file holds it, whatever is inside; times as MCAP has them."""

    topic: str
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


def unsigned_ns(t_ns: int) -> int:
    """A time as MCAP can hold it: before zero is zero."""
    return min(max(t_ns, 0), LARGEST_NS)
