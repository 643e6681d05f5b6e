"""Audio features: streaming equals offline, columns mean what they say, memory stays flat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.features import audio
from capture.features.audio import SPEC, AudioFeatures

Int16 = npt.NDArray[np.int16]

FEATURES = AudioFeatures()  # shared: reset must be as good as new


def noise(seconds: float, seed: int = 0, amplitude: float = 3000) -> Int16:
    samples = np.random.default_rng(seed).normal(0, amplitude, int(seconds * 16_000))
    return np.clip(samples, -32768, 32767).astype(np.int16)


def tone(hz: float, seconds: float, amplitude: float = 10_000) -> Int16:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.int16)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_the_spec_names_every_column_once() -> None:
    assert SPEC.dim == 42 == len(set(SPEC.names))
    assert SPEC.names[-2:] == ("log_energy", "speech")
    assert SPEC.rate_hz == 50


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 2000), min_size=0, max_size=40),
    length=st.integers(0, 20_000),
)
def test_streaming_in_any_chunking_equals_offline(cuts: list[int], length: int) -> None:
    samples = noise(1.25, seed=1)[:length]
    FEATURES.reset()
    centres, values = FEATURES.accept(samples)
    FEATURES.reset()
    parts, start = [], 0
    for cut in [*cuts, length]:
        parts.append(FEATURES.accept(samples[start : start + cut]))
        start += cut
    np.testing.assert_array_equal(np.concatenate([c for c, _ in parts]), centres)
    np.testing.assert_array_equal(np.concatenate([v for _, v in parts]), values)


def test_frames_lie_every_20_ms_and_wait_only_for_their_samples_and_their_vad_chunk() -> None:
    FEATURES.reset()
    got = 0
    for heard in range(1, 6000):
        centres, values = FEATURES.accept(noise(1)[heard - 1 : heard])
        expected = [i for i in range(30) if max(320 * i + 400, 512 * ((320 * i + 200) // 512 + 1)) == heard]
        assert centres.tolist() == [320 * i + 200 for i in expected]
        assert values.shape == (len(expected), 42)
        got += len(expected)
    assert got == 17


def test_slices_of_a_long_file_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(2)
    FEATURES.reset()
    centres, values = FEATURES.accept(samples)
    monkeypatch.setattr(audio, "SLICE_SAMPLES", 7001)
    FEATURES.reset()
    sliced_centres, sliced_values = FEATURES.accept(samples)
    np.testing.assert_array_equal(centres, sliced_centres)
    np.testing.assert_array_equal(values, sliced_values)


def test_two_extractors_do_not_share_their_state() -> None:
    one, other = AudioFeatures(), AudioFeatures()
    one.accept(tone(440, 1))
    _, values = other.accept(noise(1))
    FEATURES.reset()
    np.testing.assert_array_equal(values, FEATURES.accept(noise(1))[1])


def test_a_tone_lights_its_band_and_silence_is_finite() -> None:
    FEATURES.reset()
    _, low = FEATURES.accept(tone(200, 0.5))
    FEATURES.reset()
    _, high = FEATURES.accept(tone(4000, 0.5))
    assert np.argmax(low[5, :40]) < 8 < 28 < np.argmax(high[5, :40])
    FEATURES.reset()
    _, silence = FEATURES.accept(np.zeros(8000, np.int16))
    assert np.isfinite(silence).all()
    assert silence[:, -1].max() < 0.1


def test_log_energy_is_the_log_of_the_frames_energy() -> None:
    samples = noise(0.1)
    FEATURES.reset()
    centres, values = FEATURES.accept(samples)
    frame = samples[centres[1] - 200 : centres[1] + 200].astype(np.float64)
    expected = np.log(((frame - frame.mean()) ** 2).sum())
    assert values[1, 40] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [np.zeros(10, np.float32), np.zeros((10, 2), np.int16)])
def test_other_than_mono_int16_is_refused_in_one_line(bad: Int16) -> None:
    with pytest.raises(ValueError, match=r"expected mono sound as int16 \(N,\), got") as caught:
        FEATURES.accept(bad)
    assert "\n" not in str(caught.value)


def test_memory_stays_flat_over_an_hour_of_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    features = AudioFeatures()
    # Silero VAD holds no frames; without it an hour passes in two seconds.
    monkeypatch.setattr(features._vad, "process_chunk", lambda _: 0.5)
    minute = noise(60)
    features.accept(minute)
    before_mib = resident_mib()
    for _ in range(60):
        features.accept(minute)
    assert resident_mib() - before_mib < 8
    assert len(features._speech) <= 2
    assert len(features._pending) < 512


def test_another_silero_vad_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / audio.VAD_MODEL.name
    other.write_bytes(audio.VAD_MODEL.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(audio, "VAD_MODEL", other)
    with pytest.raises(FileNotFoundError, match="or another one"):
        audio.AudioFeatures()
