"""Sample clock: jitter stays out, a wrong card is followed and told, lost sound is a gap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.sample_clock import SampleClock


def buffers(seconds: float, ppm: float = 0, jitter_ns: int = 0) -> Iterator[tuple[int, int]]:
    """Buffers of 20 ms of a card that is ``ppm`` slow: sample number, and what the device says."""
    random = np.random.default_rng(0)
    for i in range(int(seconds * 50)):
        yield i * 320, round(i * 20_000_000 * (1 + ppm * 1e-6)) + int(random.integers(0, jitter_ns + 1))


def settled(stream: list[tuple[int, int]]) -> SampleClock:
    return SampleClock.settled(16_000, stream[:10])


def test_jitter_does_not_reach_the_times() -> None:
    stream = list(buffers(60, jitter_ns=30_000_000))
    clock = settled(stream)
    assert all(clock.observe(n, t_ns, lost=False) == 0 for n, t_ns in stream)
    assert abs(clock.time_ns(60 * 16_000) - 60 * 10**9) < 6_000_000


@pytest.mark.parametrize("ppm", [-150, 150])
def test_a_card_that_runs_wrong_is_followed_for_an_hour_without_a_gap(ppm: float) -> None:
    stream = list(buffers(3600, ppm=ppm, jitter_ns=5_000_000))
    clock = settled(stream)
    assert all(clock.observe(n, t_ns, lost=False) == 0 for n, t_ns in stream)
    n, t_ns = stream[-1]
    assert abs(clock.time_ns(n) - t_ns) < 8_000_000


@pytest.mark.parametrize("ppm", [-150, -20, 0, 80, 400])
def test_the_drift_of_a_card_is_told_to_a_few_ppm(ppm: float) -> None:
    clock, told = SampleClock(16_000, 0), {}
    for n, t_ns in buffers(600, ppm=ppm, jitter_ns=5_000_000):
        clock.observe(n, t_ns, lost=False)
        told[n // 16_000] = clock.drift_ppm
    assert told[59] is None
    assert told[90] == pytest.approx(ppm, abs=8)
    assert told[599] == pytest.approx(ppm, abs=2)


def test_a_gap_is_no_drift() -> None:
    clock, told = SampleClock(16_000, 0), []
    for n, t_ns in buffers(200, ppm=50, jitter_ns=5_000_000):
        late = n > 100 * 16_000
        clock.observe(n, t_ns + late * 700_000_000, lost=False)
        told.append(clock.drift_ppm)
    assert clock.anchor_ns > 650_000_000
    told_ppm = [one for one in told if one is not None]
    assert len(told_ppm) > 120 * 50
    assert told_ppm == pytest.approx([50] * len(told_ppm), abs=8)


@pytest.mark.parametrize("late_ms", [60, 300])
def test_a_first_fifth_of_a_second_that_came_late_is_made_good_in_order(late_ms: int) -> None:
    """A device that is slow to start delays its first buffers, all of them; then it catches up."""
    stream = [
        (n, t_ns + (n < 20 * 320) * late_ms * 1_000_000) for n, t_ns in buffers(30, jitter_ns=5_000_000)
    ]
    clock = settled(stream)
    times_ns, gaps_ns = [], 0
    for n, t_ns in stream:
        gaps_ns += clock.observe(n, t_ns, lost=False)
        times_ns.append(clock.time_ns(n))
    assert gaps_ns == 0 and (np.diff(times_ns) > 15_000_000).all()
    off_ns = np.array(times_ns) - np.arange(len(times_ns)) * 20_000_000
    assert off_ns[0] == pytest.approx(late_ms * 1e6, abs=5e6)
    assert abs(off_ns[10 * 50 :]).max() < 16_000_000
    assert abs(off_ns[25 * 50 :]).max() < 5_000_000


def test_one_wrong_time_of_a_driver_moves_next_to_nothing() -> None:
    stream = list(buffers(20))
    clock = settled(stream)
    for i, (n, t_ns) in enumerate(stream):
        clock.observe(n, t_ns - (i == 500) * 900_000_000, lost=False)
        assert abs(clock.time_ns(n) - n * 62_500) < 2_000_000


@settings(max_examples=30, deadline=None)
@given(lost_ms=st.integers(150, 3000), said=st.booleans())
def test_lost_sound_is_a_gap_of_its_length_whether_the_device_says_so_or_not(
    lost_ms: int, said: bool
) -> None:
    stream = list(buffers(10))
    clock = settled(stream)
    gaps_ns = []
    for i, (n, t_ns) in enumerate(stream):
        lost = i >= 250
        gaps_ns.append(clock.observe(n, t_ns + lost * lost_ms * 1_000_000, lost=said and i == 250))
    assert sum(gaps_ns) == pytest.approx(lost_ms * 1e6, abs=5e6)
    assert (np.flatnonzero(gaps_ns)[0] == 250) == said
    assert clock.time_ns(500 * 320) == pytest.approx(10e9 + lost_ms * 1e6, abs=10e6)
