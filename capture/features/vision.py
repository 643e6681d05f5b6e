"""Vision features: the face's 52 blendshapes, head pose and presence, one vector per frame.

The same code reads a live camera and a training picture. MediaPipe's facial transformation matrix
takes the canonical face to the camera's space: x to the right of the picture, y up, z towards the
viewer, centimetres, so a face before the camera has a negative z. Its rotation is taken apart as
R = Rz(roll) Ry(yaw) Rx(pitch); all three are 0 for a face that looks into the camera.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from capture import noise
from capture.assets import FACE_LANDMARKER_SHA256
from capture.features.spec import StreamSpec

# MediaPipe's names in MediaPipe's order (vision.face_landmarker.Blendshapes).
# fmt: off
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft",
    "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight",
    "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)
# fmt: on
POSE = ("head_pitch_rad", "head_yaw_rad", "head_roll_rad", "head_x_cm", "head_y_cm", "head_z_cm")

SPEC = StreamSpec(
    extractor=(
        f"mediapipe face landmarker {FACE_LANDMARKER_SHA256[:12]}, one face, blendshapes and "
        "facial transformation matrix as Rz Ry Rx, zeros without a face; v1"
    ),
    names=(*BLENDSHAPES, *POSE, "presence"),
    rate_hz=30.0,
)
PRESENCE = SPEC.dim - 1  # the column that is 1 where a face was seen


NO_LANDMARKS = np.empty((0, 2), np.float32)


class FaceFeatures:
    """MediaPipe's FaceLandmarker with its state; close it, or use it as a context manager.

    Args:
        asset: ``face_landmarker.task``, see ``capture.assets.face_landmarker``.
        video: frames follow each other, so the face is tracked and its landmarks smoothed; False
            for pictures that have nothing to do with each other.

    Raises:
        ValueError: the asset is another landmarker than the one in ``SPEC``.
        FileNotFoundError: there is no asset.
    """

    def __init__(self, asset: Path, video: bool = True) -> None:
        model = asset.read_bytes()
        digest = hashlib.sha256(model).hexdigest()
        if digest != FACE_LANDMARKER_SHA256:
            raise ValueError(
                f"{asset} is another face landmarker (sha256 {digest[:12]}…, expected "
                f"{FACE_LANDMARKER_SHA256[:12]}…): remove it, the right one will be downloaded"
            )
        self._video = video
        self._last_ms = 0  # the warm-up's
        self.landmarks = NO_LANDMARKS  # (N, 2) of the last frame, shares of its width and height
        # Imported here: who only needs SPEC, as the runtime does, is spared MediaPipe's weight.
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        self._image = partial(mediapipe.Image, image_format=mediapipe.ImageFormat.SRGB)
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=model),
            running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
            num_faces=1,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        with noise.without(noise.MEDIAPIPE):
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            self._detect(np.zeros((64, 64, 3), np.uint8), 0)  # its threads are up, and quiet from here on

    def extract(self, rgb: npt.NDArray[np.uint8], t_ms: int) -> npt.NDArray[np.float32]:
        """Read one frame.

        Args:
            rgb: (H, W, 3) uint8, red first.
            t_ms: the frame's time in milliseconds; it rises from frame to frame (a frame that does
                not is read as 1 ms later). Not used for pictures.

        Returns:
            (59,) float32, columns as in ``SPEC.names``; all zeros when no face is seen, which is a
            result and no error.

        Raises:
            ValueError: the frame is not (H, W, 3) uint8.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise ValueError(f"expected a picture as uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
        self._last_ms = max(t_ms + 1, self._last_ms + 1)
        result = self._detect(np.ascontiguousarray(rgb), self._last_ms)
        self.landmarks = _landmarks(result)
        return _vector(result)

    def close(self) -> None:
        """Give the landmarker's threads and memory back; again is no error."""
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def _detect(self, rgb: npt.NDArray[np.uint8], t_ms: int) -> Any:
        image = self._image(data=rgb)
        return (
            self._landmarker.detect_for_video(image, t_ms) if self._video else self._landmarker.detect(image)
        )

    def __enter__(self) -> FaceFeatures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def head_pose(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Take MediaPipe's facial transformation matrix (4, 4) apart into ``POSE`` (6,): radians and cm."""
    r = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)  # (3, 3), the face's size taken out
    pitch = np.arctan2(r[2, 1], r[2, 2])
    yaw = np.arctan2(-r[2, 0], np.hypot(r[2, 1], r[2, 2]))
    roll = np.arctan2(r[1, 0], r[0, 0])
    return np.array([pitch, yaw, roll, *matrix[:3, 3]], np.float32)


def _landmarks(result: Any) -> npt.NDArray[np.float32]:
    if not result.face_landmarks:
        return NO_LANDMARKS
    return np.array([(one.x, one.y) for one in result.face_landmarks[0]], np.float32)  # (478, 2)


def _vector(result: Any) -> npt.NDArray[np.float32]:
    vector = np.zeros(SPEC.dim, np.float32)  # (59,)
    if not result.face_blendshapes or not result.facial_transformation_matrixes:
        return vector
    for shape in result.face_blendshapes[0]:
        vector[shape.index] = shape.score
    vector[len(BLENDSHAPES) : PRESENCE] = head_pose(np.asarray(result.facial_transformation_matrixes[0]))
    vector[PRESENCE] = 1.0
    return vector
