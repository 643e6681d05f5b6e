"""Coverage is of time, not of samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.features.coverage import HOLE_NS, coverage
from capture.rate_cap import RateCap

S = 1_000_000_000


def times(*seconds: float) -> np.ndarray:
    return np.array([round(t * S) for t in seconds], np.int64)


@pytest.mark.parametrize("eased_hz", [None, 10.0])
@pytest.mark.parametrize("rate_hz", [10, 12, 15, 20, 24, 25, 29.97, 30, 60])
def test_all_of_the_time_is_covered_at_any_rate_of_a_camera_and_when_fewer_faces_are_asked_for(
    rate_hz: float, eased_hz: float | None
) -> None:
    frames = [round(n * S / rate_hz) for n in range(round(20 * rate_hz))]
    camera, eased = RateCap(30), RateCap(eased_hz or 1e9)
    passed = np.array([t for t in frames if camera.passes(t) and eased.passes(t)])
    for end_ns in range(5 * S, 19 * S, S // 3):
        inside = passed[(passed > end_ns - 4 * S) & (passed <= end_ns)]
        assert coverage(inside, end_ns - 4 * S, end_ns) == 1


def test_a_hole_is_not_covered_nor_is_the_time_before_the_first_sample_and_after_the_last() -> None:
    middle = times(*np.arange(0.1, 1.05, 0.1), *np.arange(2.0, 4.05, 0.1))
    assert coverage(middle, 0, 4 * S) == pytest.approx(0.75)
    assert coverage(times(*np.arange(1.0, 3.05, 0.1)), 0, 4 * S) == pytest.approx(0.5)
    assert coverage(times(2.0), 0, 4 * S) == coverage(times(), 0, 4 * S) == 0


@given(st.lists(st.integers(1, 4 * S), max_size=60).map(sorted))
def test_it_is_a_share_and_more_samples_are_never_less(seen: list[int]) -> None:
    full = coverage(np.array(seen, np.int64), 0, 4 * S)
    assert 0 <= full <= 1
    assert coverage(np.array(seen[::2], np.int64), 0, 4 * S) <= full + 1e-9
    if seen and max(np.diff([0, *seen, 4 * S])) <= HOLE_NS:
        assert full == 1
