"""Frames: the rate cap goes by time stamps alone; the slot keeps the newest and counts the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.clock import VirtualClock
from capture.features.vision import SPEC
from capture.frames import Frame, Newest, from_camera
from capture.link import Link
from capture.rate_cap import RateCap
from capture.trouble import SourceError


@given(
    st.lists(st.integers(-4_000_000, 4_000_000), min_size=300, max_size=300),  # a quarter of a period
    st.sampled_from([15, 24, 25, 30]),
)
def test_a_jittering_camera_at_or_below_the_nominal_rate_loses_nothing(
    jitter_ns: list[int], rate: int
) -> None:
    cap = RateCap(30)
    assert all(cap.passes(i * 10**9 // rate + jitter) for i, jitter in enumerate(jitter_ns))


@given(st.lists(st.integers(1, 60_000_000), min_size=2, max_size=400))
def test_no_time_stamps_pass_faster_than_the_rate(steps_ns: list[int]) -> None:
    times_ns = np.cumsum(steps_ns).tolist()
    cap, again = RateCap(30), RateCap(30)
    passed = [t for t in times_ns if cap.passes(t)]
    assert passed == [t for t in times_ns if again.passes(t)]
    for i, first in enumerate(passed):
        within = sum(first <= t < first + 10**9 for t in passed[i:])
        assert within <= 32


@pytest.mark.parametrize(("fps", "expected"), [(60, 30), (50, 30), (120, 30), (30, 30), (25, 25), (10, 10)])
def test_the_cap_brings_any_rate_down_to_30(fps: int, expected: int) -> None:
    cap = RateCap(30)
    assert sum(cap.passes(i * 10**9 // fps) for i in range(10 * fps)) == pytest.approx(10 * expected, abs=1)


class Webcam:
    """Gives pictures at times of its own, on a clock that it moves."""

    def __init__(self, times_ns: list[int], link: Link) -> None:
        self._times_ns, self._link = iter(times_ns), link

    def grab(self) -> bool:
        self._link.clock.wait_until_ns(next(self._times_ns))
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        self._link.clock.wait_until_ns(self._link.clock.now_ns() + 3_000_000)  # decoding takes a while
        return True, np.zeros((2, 2, 3), np.uint8)


@given(st.lists(st.integers(4_000_000, 200_000_000), min_size=2, max_size=60), st.integers(0, 2 * 10**9))
def test_a_webcams_jitter_is_left_as_it_is(steps_ns: list[int], delay_ns: int) -> None:
    """Each picture has the time at which it was grabbed, less the known delay: no smoothing, no grid."""
    link = Link("vision", SPEC, "test", None)
    link.clock = VirtualClock()
    times_ns = np.cumsum(steps_ns).tolist()
    frames = from_camera(Webcam(times_ns, link), "device:0", link, RateCap(1e9), delay_ns)
    seen = [one for _, one in zip(times_ns, frames, strict=False) if isinstance(one, Frame)]
    assert [one.t_ns for one in seen] == [t_ns - delay_ns for t_ns in times_ns]
    assert [one.t_ready_ns for one in seen] == [t_ns + 3_000_000 for t_ns in times_ns]


def frame(t_ns: int) -> Frame:
    return Frame(t_ns, t_ns, lambda: np.zeros((1, 1, 3), np.uint8))


def test_the_slot_keeps_the_newest_frame_and_counts_the_others() -> None:
    slot = Newest()
    slot.fill(iter([frame(1), frame(2), frame(3)])).join()
    assert not slot.finished
    newest = slot.take(1)
    assert newest is not None
    assert newest.t_ns == 3
    assert slot.overwritten == 2
    assert slot.finished
    assert slot.take(0) is None


def test_what_the_grabbing_thread_raises_reaches_the_one_who_takes() -> None:
    def frames() -> Iterator[Frame]:
        yield frame(1)
        raise SourceError("no_device", "gone")

    slot = Newest()
    slot.fill(frames()).join()
    assert slot.take(1) is not None
    with pytest.raises(SourceError, match="gone"):
        slot.take(1)
