"""What trains is what runs: what the application records of a clip is what the extractor's code makes of it.

That no row differs or is missing is shown process by process in ``tests/capture/test_parity.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capture import offline
from capture.messages import FeatureBlock
from runtime.recording.read import Recording
from tests.capture.films import film
from tests.end_to_end.application import Application

Start = Callable[..., Application]


def recorded(recording: Path, stream: str) -> offline.Rows:
    blocks = [
        arrival.message
        for arrival in Recording.open(recording).arrivals()
        if isinstance(arrival.message, FeatureBlock) and arrival.message.stamp.stream == stream
    ]
    return offline.Rows(
        np.concatenate([block.times_ns for block in blocks]),
        np.concatenate([block.values for block in blocks]),
    )


def assert_same(live: offline.Rows, made: offline.Rows) -> None:
    np.testing.assert_array_equal(live.times_ns, made.times_ns)
    np.testing.assert_array_equal(live.values.view(np.uint32), made.values.view(np.uint32))


def test_a_recording_of_a_face_and_a_voice_is_what_is_extracted(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    clip = shared / "media/face_and_speech.mp4"
    start("--input", clip, "--fast", "--record", tmp_path / "x.mcap").run_to_end()
    assert_same(recorded(tmp_path / "x.mcap", "audio"), offline.hear(clip))
    asset = shared / "models/face_landmarker.task"
    assert_same(recorded(tmp_path / "x.mcap", "vision"), offline.see(clip, asset))


def test_a_recording_of_sound_of_another_rate_is_what_is_extracted(start: Start, tmp_path: Path) -> None:
    clip = film(tmp_path / "tones.wav", seconds=3, pictures=False)
    start("--input", clip, "--fast", "--camera", "none", "--record", tmp_path / "x.mcap").run_to_end()
    made = offline.hear(clip)
    assert len(made.times_ns) == pytest.approx(150, abs=3)
    assert_same(recorded(tmp_path / "x.mcap", "audio"), made)
