"""Raw: pictures and sound of a recording that was made with consent, as files that everything opens."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from capture.messages import Pcm, Picture
from capture.sound import Int16
from runtime.recording.read import Recording

PICTURES, SOUND, TIMES = "pictures", "sound.wav", "sound.csv"
LONGEST_GAP_S = 3600  # a longer hole in the sound is damage, not silence


def write_raw(recording: Recording, folder: Path) -> list[str]:
    """Write ``pictures/SECONDS.jpg``, by capture time, and the sound (``_Sound``).

    Returns the names of what there was: nothing, of a recording without. Raises OSError.
    """
    written: list[str] = []
    sound: _Sound | None = None
    try:
        for arrival in recording:
            match arrival.message:
                case Picture(stamp=stamp, jpeg=jpeg):
                    if PICTURES not in written:
                        (folder / PICTURES).mkdir()
                        written.append(PICTURES)
                    (folder / PICTURES / f"{stamp.t_capture_ns / 1e9:012.3f}.jpg").write_bytes(jpeg)
                case Pcm() as pcm:
                    if sound is None:
                        sound = _Sound(folder, pcm)
                        written += [SOUND, TIMES]
                    sound.add(pcm)
                case _:
                    pass
    finally:
        if sound is not None:
            sound.close()
    return written


class _Sound:
    """``sound.wav``, gaps as silence, and ``sound.csv``: which of its samples was captured when.

    A card's second is never quite the clock's, so the times cannot be counted from the samples: the table
    has a row for the first sample, one after each gap, and one a second.
    """

    def __init__(self, folder: Path, first: Pcm) -> None:
        self._rate_hz = first.rate_hz
        self._samples = self._row_at = 0
        self._end_ns = first.stamp.t_capture_ns
        self._wave = wave.Wave_write(str(folder / SOUND))
        self._wave.setparams((1, 2, self._rate_hz, 0, "NONE", "not compressed"))
        self._times = (folder / TIMES).open("w", encoding="ascii")
        self._times.write("sample,time_s\n")

    def add(self, pcm: Pcm) -> None:
        t_ns = pcm.stamp.t_capture_ns
        silent = round((t_ns - self._end_ns) * self._rate_hz / 1e9)
        gap = silent > self._rate_hz // 100
        if gap and silent < LONGEST_GAP_S * self._rate_hz:
            self._write(np.zeros(silent, np.int16))
        if gap or self._samples >= self._row_at:
            self._times.write(f"{self._samples},{t_ns / 1e9:.6f}\n")
            self._row_at = self._samples + self._rate_hz
        self._write(pcm.samples)
        self._end_ns = t_ns + round(len(pcm.samples) * 1e9 / self._rate_hz)

    def close(self) -> None:
        self._wave.close()
        self._times.close()

    def _write(self, samples: Int16) -> None:
        self._wave.writeframes(samples.astype("<i2").tobytes())
        self._samples += len(samples)
