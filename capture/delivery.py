"""Delivery: what becomes of a message that its receiver cannot take in time, as policies with names.

A loss is never hidden: a dropped message leaves a hole in ``seq`` that the receiver counts and the session
publishes. Windows have no queue but an age: one that is older than the session's ``max_age_s`` when its turn
comes is given up, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Delivery:
    """How many messages may wait, and what happens to the next one."""

    holds: int
    when_full: Literal["drop", "wait", "replace"]  # the new one goes, the sender waits, the oldest goes


NEWEST = Delivery(1, "replace")  # frames, inside the camera's process
ORDERED = Delivery(256, "drop")  # features and words: more than 5 s of vision, 10 s of audio blocks
LOSSLESS = Delivery(256, "wait")  # sound to the recogniser, and whatever is not in real time
PER_SUBSCRIBER = Delivery(1000, "drop")  # the stream: who is slow loses its own messages, nobody else's
PER_SUBSCRIBER_RAW = Delivery(100, "drop")  # the same with pictures: 3 s, some 4 MB for who never reads
