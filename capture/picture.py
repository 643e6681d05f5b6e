"""Picture: what the camera saw, as a small JPEG, where the operator shares or records it; else nothing."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from capture.link import Link
from capture.rate_cap import RateCap

RATE_HZ = 10.0  # to look at and to check; the features come from every frame
LONGEST = 640  # pixels of the longer side
QUALITY = 80  # of the JPEG


class Pictures:
    """Sends at most ten pictures a second over the link; like features they are dropped, not waited for."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cap = RateCap(RATE_HZ)

    def show(self, rgb: npt.NDArray[np.uint8], t_ns: int, landmarks: npt.NDArray[np.float32]) -> None:
        """Take a picture (H, W, 3) of time ``t_ns``; landmarks (N, 2) in shares of width and height."""
        if not self._cap.passes(t_ns):
            return
        scale = LONGEST / max(rgb.shape[:2])
        if scale < 1:
            rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
        good, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if good:
            height, width = rgb.shape[:2]
            self._link.picture(t_ns, width, height, jpeg.tobytes(), landmarks)
