"""Raw: pictures and sound of a recording that was made with consent, as files that everything opens."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from capture.messages import Pcm, Picture
from runtime.recording.read import Recording

PICTURES, SOUND = "pictures", "sound.wav"
LONGEST_GAP_S = 3600  # a longer hole in the sound is damage, not silence


def write_raw(recording: Recording, folder: Path) -> list[str]:
    """Write ``pictures/SECONDS.jpg``, by capture time, and ``sound.wav``, gaps as silence.

    Returns the names of what there was: nothing, of a recording without. Raises OSError.
    """
    written: list[str] = []
    sound: wave.Wave_write | None = None
    end_ns = 0
    try:
        for arrival in recording:
            match arrival.message:
                case Picture(stamp=stamp, jpeg=jpeg):
                    if PICTURES not in written:
                        (folder / PICTURES).mkdir()
                        written.append(PICTURES)
                    (folder / PICTURES / f"{stamp.t_capture_ns / 1e9:012.3f}.jpg").write_bytes(jpeg)
                case Pcm(stamp=stamp, rate_hz=rate_hz, samples=samples):
                    if sound is None:
                        sound = wave.Wave_write(str(folder / SOUND))
                        sound.setparams((1, 2, rate_hz, 0, "NONE", "not compressed"))
                        written.append(SOUND)
                        end_ns = stamp.t_capture_ns
                    silent = round((stamp.t_capture_ns - end_ns) * rate_hz / 1e9)
                    if rate_hz // 100 < silent < LONGEST_GAP_S * rate_hz:
                        sound.writeframes(np.zeros(silent, "<i2").tobytes())
                    sound.writeframes(samples.astype("<i2").tobytes())
                    end_ns = stamp.t_capture_ns + round(len(samples) * 1e9 / rate_hz)
                case _:
                    pass
    finally:
        if sound is not None:
            sound.close()
    return written
