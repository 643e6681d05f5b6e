"""Makes short clips, for tests that need one and no shared material."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt


def film(path: Path, *, seconds: float = 1.5, pictures: bool = True, rate_hz: int = 44100) -> Path:
    """A stereo tone that rises and, if wanted, noisy pictures at 25 per second without a face."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    tone = (9000 * np.sin(2 * np.pi * (200 + 60 * t) * t)).astype(np.int16)
    with av.open(str(path), "w") as container:
        voice = container.add_stream("pcm_s16le", rate=rate_hz, layout="stereo")
        if pictures:
            picture = container.add_stream("mpeg4", rate=25, width=96, height=64, pix_fmt="yuv420p")
            for _ in range(int(seconds * 25)):
                noise: npt.NDArray[np.uint8] = rng.integers(0, 256, (64, 96, 3), np.uint8)
                container.mux(picture.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
            container.mux(picture.encode(None))
        for begin in range(0, len(tone), 4096):
            both = np.repeat(tone[begin : begin + 4096], 2)[None]  # (1, 2 N), channels interleaved
            frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
            frame.sample_rate = rate_hz
            container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path


def jpegs(path: Path, count: int) -> list[bytes]:
    """The first pictures of a film, as a network camera sends them."""
    with av.open(str(path)) as container:
        frames = zip(container.decode(video=0), range(count), strict=False)
        return [cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))[1].tobytes() for frame, _ in frames]
