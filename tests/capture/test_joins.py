"""Files whose time goes back are read to their end, with picture and sound in step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from capture.joins import BACK_NS, Joins
from capture.offline import hear
from capture.track import Track

S = 1_000_000_000
PICTURE, SOUND = 0, 1


def broadcast(path: Path, seconds: float) -> bytes:
    """A film as a television station sends it, of noise."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format="mpegts") as container:
        picture = container.add_stream("mpeg2video", rate=25, width=96, height=64, pix_fmt="yuv420p")
        voice = container.add_stream("mp2", rate=48_000, layout="mono")
        for n in range(round(seconds * 25)):
            noise = rng.integers(0, 256, (64, 96, 3), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
            tone = av.AudioFrame.from_ndarray(
                rng.integers(-9000, 9000, (1, 1920), np.int16), format="s16", layout="mono"
            )
            tone.sample_rate, tone.pts = 48_000, n * 1920
            container.mux(voice.encode(tone))
        container.mux([*picture.encode(None), *voice.encode(None)])
    return path.read_bytes()


def times_ns(path: Path, kind: str) -> list[int]:
    track = Track(path, kind)  # type: ignore[arg-type]
    try:
        return [t_ns for t_ns, _ in track.frames()]
    finally:
        track.close()


def test_two_broadcasts_in_one_file_are_one_after_the_other_with_picture_and_sound_in_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "both.ts"
    path.write_bytes(broadcast(tmp_path / "a.ts", 4) + broadcast(tmp_path / "b.ts", 6))
    at_ns = {}
    for kind, file_frames in (("video", 250), ("audio", 417)):
        alone = times_ns(tmp_path / "a.ts", kind)
        together = times_ns(path, kind)
        assert abs(len(together) - file_frames) <= 3
        assert all(a < b for a, b in pairwise(together)) and together[: len(alone) - 1] == alone[:-1]
        assert max(b - a for a, b in pairwise(together)) < S // 10, "no hole"
        assert together[-1] == pytest.approx(10 * S, abs=S // 5)
        at_ns[kind] = together[-1] - times_ns(tmp_path / "b.ts", kind)[-1]
    assert at_ns["video"] == pytest.approx(at_ns["audio"], abs=50_000)  # two ticks of 90 kHz
    assert sum("time goes back, and is read on from 4." in text for text in caplog.messages) == 2
    assert len(hear(path).times_ns) == pytest.approx(500, abs=5)


def test_both_senses_come_to_the_same_times_whichever_goes_back_first() -> None:
    for order in ((PICTURE, SOUND), (SOUND, PICTURE)):
        joins = Joins()
        for t_ns in range(0, 60 * S, S // 25):
            assert {joins.later_ns(stream, t_ns, S // 25) for stream in order} == {0}
        for t_ns in range(0, 60 * S, S // 25):
            assert {joins.later_ns(stream, t_ns, S // 25) for stream in order} == {60 * S}
        assert joins.parts == 2


def test_a_stamp_that_is_broken_moves_nothing_else() -> None:
    joins = Joins()
    for n in range(500):
        t_ns = n * S // 50
        later = joins.later_ns(SOUND, 3 * S if n == 300 else t_ns, S // 50)
        assert (later == 0) == (n != 300)
        assert joins.later_ns(PICTURE, t_ns, S // 50) == 0
    assert joins.later_ns(SOUND, 0, S // 50) == joins.later_ns(PICTURE, 0, S // 50) == 10 * S


def test_small_steps_back_are_left_to_the_reader() -> None:
    joins = Joins()
    assert [joins.later_ns(SOUND, t_ns, 0) for t_ns in (0, 2 * BACK_NS, BACK_NS, 3 * BACK_NS)] == [0] * 4
