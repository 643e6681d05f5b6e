"""Sample clock: jitter stays out of the times, a wrong card is followed, lost sound is a gap."""

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
