"""What is known of a stream over all the lives of its process."""

from __future__ import annotations

from capture.features import vision
from capture.messages import Stamp, State, Status
from runtime.history import StreamHistory


def test_what_a_process_produced_and_dropped_is_counted_over_all_its_lives() -> None:
    history = StreamHistory()

    def say(seq: int, state: State, produced: int = 0, dropped: int = 0) -> tuple[int, int]:
        stamp = Stamp("s", "vision", seq, 0, 0)
        history.take(Status(stamp, state, dropped=dropped, produced=produced), vision.SPEC)
        return history.produced.total, history.lost

    assert say(0, "running", 90, 2) == (90, 2)
    assert say(1, "running", 99, 3) == (99, 3)
    assert say(-1, "starting") == (99, 3), "as the session says of a process that is dead"
    assert say(0, "ready") == (99, 3)
    assert say(1, "running", 5, 1) == (104, 4)
    assert say(2, "running", 120, 1) == (219, 4)
    assert say(-1, "failed") == (219, 4), "given up"
