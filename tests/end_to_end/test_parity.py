"""What trains is what runs: a clip's features, live and extracted, are the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from capture import offline
from capture.features import audio, vision
from capture.messages import FeatureBlock
from runtime.recording.read import Recording
from tests.end_to_end.application import Application

Start = Callable[..., Application]


def _recorded(recording: Path, stream: str, columns: int) -> offline.Rows:
    blocks = [
        arrival.message
        for arrival in Recording.open(recording).arrivals()
        if isinstance(arrival.message, FeatureBlock) and arrival.message.stamp.stream == stream
    ]
    return offline.Rows(
        np.concatenate([np.empty(0, np.int64), *(block.times_ns for block in blocks)]),
        np.concatenate([np.empty((0, columns), np.float32), *(block.values for block in blocks)]),
    )


def _same(live: offline.Rows, extracted: offline.Rows) -> None:
    """Live, the windows end with the last hop; what lies behind may not be recorded any more."""
    assert len(live.times_ns) > 0.9 * len(extracted.times_ns)
    np.testing.assert_array_equal(live.times_ns, extracted.times_ns[: len(live.times_ns)])
    np.testing.assert_array_equal(live.values, extracted.values[: len(live.values)])


def test_a_face_and_a_voice_are_the_same_live_and_extracted(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    clip = shared / "media/face_and_speech.mp4"
    start("--input", clip, "--fast", "--record", tmp_path / "x.mcap").run_to_end()
    _same(_recorded(tmp_path / "x.mcap", "audio", audio.SPEC.dim), offline.hear(clip))
    asset = shared / "models/face_landmarker.task"
    _same(_recorded(tmp_path / "x.mcap", "vision", vision.SPEC.dim), offline.see(clip, asset))


def tones(path: Path, seconds: float = 3.0, rate_hz: int = 44100) -> Path:
    """A stereo sound file with a tone that rises."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    samples = (9000 * np.sin(2 * np.pi * (200 + 60 * t) * t)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout="stereo")
        for begin in range(0, len(samples), 4096):
            part = np.repeat(samples[None, begin : begin + 4096], 2, 0).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout="stereo")
            frame.sample_rate = rate_hz
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_sound_of_another_rate_is_the_same_live_and_extracted(start: Start, tmp_path: Path) -> None:
    clip = tones(tmp_path / "tones.wav")
    start("--input", clip, "--fast", "--camera", "none", "--record", tmp_path / "x.mcap").run_to_end()
    extracted = offline.hear(clip)
    assert len(extracted.times_ns) == pytest.approx(150, abs=3)
    _same(_recorded(tmp_path / "x.mcap", "audio", audio.SPEC.dim), extracted)


def test_a_sense_that_a_clip_has_not_is_without_rows(tmp_path: Path) -> None:
    clip = tones(tmp_path / "tones.wav", 0.5)
    assert offline.see(clip, tmp_path / "never read").values.shape == (0, vision.SPEC.dim)
