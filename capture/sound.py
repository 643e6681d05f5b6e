"""Sound: takes 16 kHz mono samples with their times, publishes features, hands on PCM to who may have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from capture.features.audio import SAMPLE_RATE_HZ, AudioFeatures
from capture.link import Outlet
from capture.messages import Pcm, Stamp

Int16 = npt.NDArray[np.int16]

BLOCK_SAMPLES = 640  # 40 ms: two feature frames in a message
PCM_SAMPLES = 4 * BLOCK_SAMPLES  # 160 ms


def duration_ns(samples: int) -> int:
    """How long so many samples last."""
    return samples * 1_000_000_000 // SAMPLE_RATE_HZ


class Sound:
    """Publishes what is heard, in blocks of 40 ms. ``begin`` says where time starts or jumps.

    Args:
        link: where features go.
        listeners: where the samples themselves go: the recogniser, who shares or records them. The
            last message is empty and says when the sound ended.
    """

    def __init__(self, link: Outlet, *listeners: Callable[[Pcm], object]) -> None:
        self._link = link
        self._listeners = listeners
        self._pcm_seq = 0
        self._features = AudioFeatures()
        self._origin_ns = 0  # time of the sample that the features count as 0
        self._heard = 0  # samples since then
        self._waiting: list[Int16] = []
        self._unsent: list[Int16] = []

    @property
    def until_ns(self) -> int:
        """Time of the next sample."""
        return self._origin_ns + duration_ns(self._heard + _length(self._waiting))

    def begin(self, t_ns: int) -> None:
        """The next sample happened at ``t_ns``: at the start, and after a gap."""
        self._flush()
        self._features.reset()
        self._origin_ns, self._heard = t_ns, 0

    def shift(self, ns: int) -> None:
        """Correct the time of all that comes by a little; the sound itself has no gap."""
        self._origin_ns += ns

    def hear(self, samples: Int16, t_ready_ns: int) -> None:
        """Take the next samples (N,), any N; whole blocks are published."""
        self._waiting.append(samples)
        if _length(self._waiting) < BLOCK_SAMPLES:
            return
        together = np.concatenate(self._waiting)
        whole = len(together) // BLOCK_SAMPLES * BLOCK_SAMPLES
        for start in range(0, whole, BLOCK_SAMPLES):
            self._publish(together[start : start + BLOCK_SAMPLES], t_ready_ns)
        self._waiting = [together[whole:]]

    def end(self) -> None:
        """Publish what is left, and tell the recogniser that the sound is over."""
        self._flush()
        if self._listeners:
            self._send(np.empty(0, np.int16))

    def _publish(self, block: Int16, t_ready_ns: int) -> None:
        self._heard += len(block)
        centres, values = self._features.accept(block)  # (T,), (T, 42)
        if len(centres):
            times_ns = self._origin_ns + centres * 1_000_000_000 // SAMPLE_RATE_HZ  # (T,)
            self._link.features(times_ns, values, t_ready_ns)
        if self._listeners:
            self._unsent.append(block)
            if _length(self._unsent) >= PCM_SAMPLES:
                self._send(np.concatenate(self._unsent))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if _length(waiting):
            self._publish(np.concatenate(waiting), self._link.clock.now_ns())
        if self._unsent:
            self._send(np.concatenate(self._unsent))

    def _send(self, samples: Int16) -> None:
        t_ns = self._origin_ns + duration_ns(self._heard - len(samples))
        stamp = Stamp(self._link.session, "audio", self._pcm_seq, t_ns, self._link.clock.now_ns())
        self._pcm_seq += 1
        for listen in self._listeners:
            listen(Pcm(stamp, SAMPLE_RATE_HZ, samples))
        self._unsent = []


def _length(parts: list[Int16]) -> int:
    return sum(map(len, parts))


class Resampler:
    """Turns sound of any rate and number of channels into 16 kHz mono; keeps its time, to the sample."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)

    def convert(self, frame: Any) -> Int16:
        """Samples (N,) of a decoded frame; ``None`` gives what the filter still holds."""
        if frame is not None:
            frame.pts = None  # the samples are counted here
        parts = [part.to_ndarray().reshape(-1) for part in self._resampler.resample(frame)]
        return np.concatenate(parts).astype(np.int16, copy=False) if parts else np.empty(0, np.int16)
