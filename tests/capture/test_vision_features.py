"""Vision features: MediaPipe's columns in MediaPipe's order, poses with the right signs, absence as zeros."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from mediapipe.tasks.python.vision.face_landmarker import Blendshapes

from capture.assets import FACE_LANDMARKER_SHA256
from capture.features.vision import BLENDSHAPES, PRESENCE, SPEC, FaceFeatures, head_pose

Rgb = npt.NDArray[np.uint8]


def frames(path: Path, every: int = 1) -> Iterator[tuple[int, Rgb]]:
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i % every == 0:
                yield round(frame.time * 1000), frame.to_ndarray(format="rgb24")


@pytest.fixture(scope="module")
def face(media: Path) -> Rgb:
    return next(rgb for t_ms, rgb in frames(media / "face_and_speech.mp4") if t_ms > 500)


@pytest.fixture(scope="module")
def still(landmarker: Path) -> Iterator[FaceFeatures]:
    with FaceFeatures(landmarker, video=False) as features:
        yield features


def rotation(pitch: float = 0, yaw: float = 0, roll: float = 0) -> npt.NDArray[np.float32]:
    def turn(angle: float, one: int, other: int) -> npt.NDArray[np.float64]:
        r = np.eye(4)
        r[one, one] = r[other, other] = np.cos(angle)
        r[other, one], r[one, other] = np.sin(angle), -np.sin(angle)
        return r

    return (turn(roll, 0, 1) @ turn(yaw, 2, 0) @ turn(pitch, 1, 2)).astype(np.float32)


def test_the_spec_names_mediapipes_blendshapes_then_pose_then_presence() -> None:
    def screaming(name: str) -> str:
        return "".join(f"_{c}" if c.isupper() else c.upper() for c in name.removeprefix("_"))

    assert [screaming(name) for name in BLENDSHAPES] == [shape.name for shape in Blendshapes]
    assert SPEC.dim == 59 == len(set(SPEC.names))
    assert SPEC.names[PRESENCE] == "presence"
    assert FACE_LANDMARKER_SHA256[:12] in SPEC.extractor


def test_the_asset_has_the_sha256_of_the_spec(landmarker: Path) -> None:
    assert hashlib.sha256(landmarker.read_bytes()).hexdigest() == FACE_LANDMARKER_SHA256


@pytest.mark.parametrize(
    "angles", [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.0, -0.7, 0.0), (0.0, 0.0, 1.0), (-0.2, 0.5, 0.3)]
)
def test_head_pose_finds_the_angles_and_ignores_the_size(angles: tuple[float, float, float]) -> None:
    matrix = rotation(*angles)
    matrix[:3, :3] *= 1.1
    matrix[:3, 3] = 1, -2, -40
    np.testing.assert_allclose(head_pose(matrix), [*angles, 1, -2, -40], atol=1e-6)


def test_a_picture_turned_on_its_side_turns_the_roll(still: FaceFeatures, face: Rgb) -> None:
    upright = dict(zip(SPEC.names, still.extract(face, 0), strict=True))
    turned = dict(zip(SPEC.names, still.extract(np.rot90(face), 0), strict=True))  # counter-clockwise
    assert upright["presence"] == turned["presence"] == 1
    assert upright["head_z_cm"] < -5
    assert turned["head_roll_rad"] - upright["head_roll_rad"] == pytest.approx(np.pi / 2, abs=0.25)


def test_a_mirrored_picture_mirrors_yaw_and_side(still: FaceFeatures, face: Rgb) -> None:
    one = dict(zip(SPEC.names, still.extract(face, 0), strict=True))
    other = dict(zip(SPEC.names, still.extract(face[:, ::-1], 0), strict=True))
    assert abs(one["head_yaw_rad"]) > 0.1
    assert other["head_yaw_rad"] == pytest.approx(-one["head_yaw_rad"], abs=0.1)
    assert other["head_x_cm"] == pytest.approx(-one["head_x_cm"], abs=1.0)
    assert other["mouthSmileLeft"] == pytest.approx(one["mouthSmileRight"], abs=0.2)


def test_no_face_is_all_zeros(still: FaceFeatures) -> None:
    vector = still.extract(np.full((48, 64, 3), 127, np.uint8), 0)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.zeros(59))


def test_presence_follows_the_face_through_a_clip(landmarker: Path, media: Path) -> None:
    with FaceFeatures(landmarker) as features:
        clip = [(t, features.extract(rgb, t)) for t, rgb in frames(media / "face_then_no_face.mov", every=2)]
    presence = np.array([vector[PRESENCE] for _, vector in clip])
    assert presence[:10].all()
    assert not presence[-10:].any()
    with FaceFeatures(landmarker) as features:
        empty = [features.extract(rgb, t) for t, rgb in frames(media / "no_face.mp4", every=3)]
    assert not np.any(empty)


def test_the_same_clip_gives_the_same_numbers_twice(landmarker: Path, media: Path) -> None:
    clip = [frame for _, frame in zip(range(15), frames(media / "face_and_speech.mp4"), strict=False)]
    runs = []
    for _ in range(2):
        with FaceFeatures(landmarker) as features:
            runs.append(np.stack([features.extract(rgb, t_ms) for t_ms, rgb in clip]))
    np.testing.assert_array_equal(*runs)
    assert runs[0][:, PRESENCE].all()
    assert np.isfinite(runs[0]).all()


def test_times_that_do_not_rise_are_survived(landmarker: Path, face: Rgb) -> None:
    with FaceFeatures(landmarker) as features:
        assert [features.extract(face, t)[PRESENCE] for t in (0, 0, 40, 20)] == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 4), (0, 64, 3)])
def test_other_than_rgb_is_refused(still: FaceFeatures, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a picture as uint8 \(H, W, 3\), got uint8"):
        still.extract(np.zeros(shape, np.uint8), 0)


def test_another_landmarker_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "face_landmarker.task").write_bytes(b"something else")
    with pytest.raises(ValueError, match="another face landmarker") as caught:
        FaceFeatures(tmp_path / "face_landmarker.task")
    assert "\n" not in str(caught.value)


def test_mediapipes_chatter_stays_off_stderr_and_other_lines_do_not(landmarker: Path, face: Rgb) -> None:
    program = (
        "import os, sys, numpy as np; from pathlib import Path\n"
        "from capture import noise; from capture.features.vision import FaceFeatures\n"
        "face = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(360, 640, 3)\n"
        "with FaceFeatures(Path(sys.argv[1])) as f: assert f.extract(face, 0)[-1] == 1\n"
        "with noise.without(noise.MEDIAPIPE):\n"
        "    os.write(2, b'W0000 00:00:1 7 face_landmarker_graph.cc:181] chatter\\n')\n"
        "    os.write(2, b'E0000 00:00:1 7 face_landmarker_graph.cc:9] an error\\n')\n"
        "    print('from python', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(landmarker)],
        input=face.tobytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().splitlines() == [
        "E0000 00:00:1 7 face_landmarker_graph.cc:9] an error",
        "from python",
    ]
