"""What trains is what runs: a clip's features, live and extracted, are the same numbers at the same times.

Live: the capture processes, over their real ZeroMQ pipes. Extracted: the command that makes training
features. Not a bit may differ, and no row may be missing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capture import offline
from capture.features import vision
from capture.link import Go
from models.clip_index import Rows, read_index, read_rows
from tests.capture.conftest import ROOT, CaptureProcess
from tests.capture.films import film

Start = Callable[..., CaptureProcess]


def lived(start: Start, module: str, clip: Path, go: Go, asset: Path | None = None) -> offline.Rows:
    """What a capture process publishes of a clip."""
    env = {} if asset is None else {"EMOTION_ASSETS": str(asset.parent)}
    process = start(module, "--source", f"file:{clip}", env=env)
    process.go(go)
    assert process.read_to_end(60) == 0
    return offline.Rows(np.concatenate([block.times_ns for block in process.blocks]), process.values)


def extracted(clip: Path, folder: Path, *options: str) -> Rows:
    """What the extractor makes of it; the landmarker is found as ever."""
    folder.mkdir()
    (folder / "labels.csv").write_text(f"path,text,label\n{clip},,sad\n")
    command = [sys.executable, str(ROOT / "build/extract_features.py"), str(folder / "labels.csv")]
    command += ["--out", str(folder / "features"), "--jobs", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (one,) = read_index(folder / "features").clips
    return read_rows(folder / "features", one)


def assert_same(live: offline.Rows, made: Rows, sense: str) -> None:
    np.testing.assert_array_equal(live.times_ns, made[f"{sense}_ns"])
    assert live.values.dtype == made[sense].dtype == np.float32
    np.testing.assert_array_equal(live.values.view(np.uint32), made[sense].view(np.uint32))


def test_a_face_and_a_voice_are_the_same_live_and_extracted(
    start: Start, media: Path, landmarker: Path, unpaced: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_ASSETS", str(landmarker.parent))
    clip = media / "face_and_speech.mp4"
    made = extracted(clip, tmp_path / "x")
    assert_same(lived(start, "capture.microphone", clip, unpaced), made, "audio")
    assert_same(lived(start, "capture.camera", clip, unpaced, landmarker), made, "vision")
    assert len(made["audio"]) == 549 and len(made["vision"]) == 264
    assert made["vision"][:, vision.PRESENCE].mean() > 0.9


def test_noise_without_a_face_is_the_same_live_and_extracted(
    start: Start, landmarker: Path, unpaced: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_ASSETS", str(landmarker.parent))
    clip = film(tmp_path / "noise.mkv")
    made = extracted(clip, tmp_path / "x")
    assert_same(lived(start, "capture.microphone", clip, unpaced), made, "audio")
    assert_same(lived(start, "capture.camera", clip, unpaced, landmarker), made, "vision")
    assert made["vision"].shape == (37, vision.SPEC.dim) and not made["vision"].any()


def test_sound_alone_is_the_same_live_and_extracted(start: Start, unpaced: Go, tmp_path: Path) -> None:
    clip = film(tmp_path / "tone.wav", seconds=3, pictures=False)
    made = extracted(clip, tmp_path / "x", "--no-faces")
    assert_same(lived(start, "capture.microphone", clip, unpaced), made, "audio")
    assert len(made["audio"]) == pytest.approx(150, abs=3)
    assert made["vision"].shape == (0, vision.SPEC.dim)


def test_a_part_of_a_clip_ends_where_it_shall(tmp_path: Path) -> None:
    clip = film(tmp_path / "tone.wav", seconds=3, pictures=False)
    whole, part = offline.hear(clip), offline.hear(clip, end_ns=1_000_000_000)
    assert part.times_ns[-1] <= 1_000_000_000 < whole.times_ns[len(part.times_ns)]
    np.testing.assert_array_equal(part.values, whole.values[: len(part.values)])


def test_a_part_of_a_clip_begins_as_a_process_that_is_told_to(
    start: Start, unpaced: Go, tmp_path: Path
) -> None:
    clip = film(tmp_path / "tone.wav", seconds=3, pictures=False)
    live = lived(start, "capture.microphone", clip, Go(unpaced.clock, 1_000_000_000))
    part = offline.hear(clip, 1_000_000_000)
    assert part.times_ns[0] >= 1_000_000_000
    np.testing.assert_array_equal(part.times_ns, live.times_ns)
    np.testing.assert_array_equal(part.values, live.values)
