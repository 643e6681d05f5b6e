"""Microphone: real files, a real sound server, real processes; exact times, gaps said, nothing compressed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
import pytest

from capture.bus import Receiver, ipc, private_folder
from capture.clock import Clock, HostClock, VirtualClock
from capture.features.audio import SPEC, AudioFeatures
from capture.link import Go, Link
from capture.messages import Pcm, State
from capture.microphone import _news, read_device
from capture.sound import Resampler, Sound
from capture.sound_device import Buffer, SoundDevice
from capture.track import Track
from capture.trouble import SourceError

Start = Callable[..., Any]
Int16 = npt.NDArray[np.int16]


def write_wav(path: Path, samples: Int16, rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def offline(path: Path) -> tuple[int, Int16]:
    """Time of the first sample, and all samples at 16 kHz."""
    resampler, parts = Resampler(), []
    frames = list(Track(path, "audio").frames())
    parts = [resampler.convert(frame) for _, frame in frames]
    return frames[0][0], np.concatenate([*parts, resampler.convert(None)])


@pytest.fixture
def pcm() -> Iterator[Receiver]:
    """A recogniser's end of the pipe; ``endpoint`` tells where."""
    folder = private_folder()
    receiver = Receiver(ipc(folder, "pcm"), session="test", stream="audio", raw=True)
    receiver.endpoint = ipc(folder, "pcm")  # type: ignore[attr-defined]
    yield receiver
    receiver.close()
    shutil.rmtree(folder)


def drain(receiver: Receiver) -> list[Pcm]:
    messages = []
    while receiver.socket.poll(200):
        message = receiver.receive()
        assert isinstance(message, Pcm)
        messages.append(message)
    return messages


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_read_at_once_equals_offline_features_and_passes_all_its_sound(
    start: Start, media: Path, unpaced: Go, pcm: Receiver
) -> None:
    path = media / "face_and_speech.mp4"
    begin_ns, samples = offline(path)
    microphone = start(
        "capture.microphone",
        "--source",
        f"file:{path}",
        "--pcm",
        pcm.endpoint,  # type: ignore[attr-defined]
    )
    microphone.go(unpaced)
    assert microphone.read_to_end() == 0
    assert microphone.states == ["starting", "ready", "running", "ended"]
    assert microphone.receiver.sequence.gaps == microphone.receiver.corrupt == 0

    centres, values = AudioFeatures().accept(samples)
    np.testing.assert_array_equal(microphone.values, values)
    np.testing.assert_allclose(microphone.times_s, begin_ns / 1e9 + centres / 16_000, atol=2e-9)
    assert {len(block.times_ns) for block in microphone.blocks} <= {1, 2, 3}
    assert (values[:, -1] > 0.5).mean() > 0.5  # it is a speech

    sent = drain(pcm)
    np.testing.assert_array_equal(np.concatenate([m.samples for m in sent]), samples)
    assert pcm.sequence.gaps == 0
    assert [len(m.samples) for m in sent[:-2]] == [2560] * (len(sent) - 2)
    assert len(sent[-1].samples) == 0  # the end of sound
    for one, other in pairwise(sent):
        length_ns = len(one.samples) * 10**9 // 16_000
        assert abs(other.stamp.t_capture_ns - one.stamp.t_capture_ns - length_ns) <= 1


@pytest.mark.parametrize(("seconds", "last"), [(20, "ended"), (100, "running")])
def test_a_session_that_stops_is_not_kept_waiting_by_sound_that_nobody_hears(
    start: Start, tmp_path: Path, unpaced: Go, pcm: Receiver, seconds: int, last: str
) -> None:
    """Neither at the end of a file, when the recogniser is still behind, nor while the pipe to it is full."""
    path = write_wav(tmp_path / "n.wav", np.zeros(seconds * 16_000, np.int16), 16_000)
    microphone = start("capture.microphone", "--source", f"file:{path}", "--pcm", pcm.endpoint)  # type: ignore[attr-defined]
    microphone.go(unpaced)
    microphone.read_until(
        lambda m: microphone.states[-1] == last and m.stamp.t_capture_ns > min(80, seconds - 1) * 10**9, 40
    )
    time.sleep(0.5)
    assert microphone.process.poll() is None
    status, took_s = microphone.stop()
    assert status == 0 and took_s < 2


def test_sound_that_begins_late_in_a_film_keeps_its_time(start: Start, media: Path, unpaced: Go) -> None:
    microphone = start("capture.microphone", "--source", f"file:{media / 'face_then_no_face.mov'}")
    microphone.go(unpaced)
    assert microphone.read_to_end() == 0
    assert microphone.times_s[0] == pytest.approx(2.430023 + 0.0125, abs=1e-5)
    np.testing.assert_allclose(np.diff(microphone.times_s), 0.02, atol=2e-9)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44_100, 2), (48_000, 1), (16_000, 2)])
def test_a_click_is_found_at_its_time_whatever_the_rate(tmp_path: Path, rate_hz: int, channels: int) -> None:
    samples = np.zeros((3 * rate_hz, channels), np.int16)
    samples[2 * rate_hz : 2 * rate_hz + 4] = 20_000
    begin_ns, heard = offline(write_wav(tmp_path / "click.wav", samples, rate_hz))
    assert begin_ns == 0
    assert abs(int(np.abs(heard.astype(int)).argmax()) - 32_000) < 12
    assert len(heard) == 48_000


def test_a_restarted_process_goes_on_in_the_middle_to_the_sample(
    start: Start, media: Path, unpaced: Go, pcm: Receiver
) -> None:
    path = media / "face_and_speech.mp4"
    _, samples = offline(path)
    microphone = start(
        "capture.microphone",
        "--source",
        f"file:{path}",
        "--pcm",
        pcm.endpoint,  # type: ignore[attr-defined]
    )
    microphone.go(Go(unpaced.clock, start_ns=5_000_000_000))
    assert microphone.read_to_end() == 0
    assert microphone.times_s[0] == pytest.approx(5.0125, abs=1e-4)
    tail = np.concatenate([m.samples for m in drain(pcm)])
    assert abs(len(tail) - (len(samples) - 80_000)) <= 1
    # the two may sample the sound up to half a sample apart
    alike = [
        np.corrcoef(tail[1000:50_000], samples[81_000 + lag : 130_000 + lag])[0, 1] for lag in range(-4, 5)
    ]
    assert abs(int(np.argmax(alike)) - 4) <= 1
    assert max(alike) > 0.98


def test_a_hole_in_a_file_is_a_hole_in_time(start: Start, tmp_path: Path, unpaced: Go) -> None:
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).normal(0, 2000, (1, 1600)).astype(np.int16)
        for i in [*range(20), *range(35, 50)]:
            frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, i * 1600, Fraction(1, 16_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    microphone = start("capture.microphone", "--source", f"file:{path}")
    microphone.go(unpaced)
    assert microphone.read_to_end() == 0
    steps = np.diff(microphone.times_s)
    assert (steps > 0.021).sum() == 1
    assert microphone.times_s[steps.argmax() + 1] == pytest.approx(3.5125, abs=1e-3)
    assert microphone.times_s[-1] == pytest.approx(5.0, abs=0.05)


def test_a_paced_file_is_heard_as_it_sounds(start: Start, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2000, 32_000).astype(np.int16)
    microphone = start(
        "capture.microphone", "--source", f"file:{write_wav(tmp_path / 'n.wav', noise, 16_000)}"
    )
    microphone.read_until(lambda _: "ready" in microphone.states)
    microphone.go(Go(HostClock("media", time.monotonic_ns())))
    assert microphone.read_to_end() == 0
    late_ns = [b.stamp.t_publish_ns - b.stamp.t_capture_ns for b in microphone.blocks]
    assert min(late_ns) > 0  # nothing is heard before it sounded
    assert np.median(late_ns) < 80e6


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.mp3", "no_file"), ("text.mp3", "unreadable"), ("film.mkv", "no_audio")]
)
def test_what_has_no_sound_is_absent_with_its_reason(
    start: Start, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "text.mp3").write_bytes(b"no sound " * 100)
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    microphone = start("capture.microphone", "--source", f"file:{tmp_path / name}")
    assert microphone.read_to_end() == 3
    assert microphone.states[-1] == f"absent/{reason}"
    assert str(tmp_path / name) in microphone.last_status.detail


# ── devices ──────────────────────────────────────────────────────────────────────────────────────


def test_without_pyaudio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    with pytest.raises(SourceError, match=r"pip install 'emotion-edge\[mic\]'") as caught:
        SoundDevice("default")
    assert caught.value.reason == "no_pyaudio"


def test_no_microphone_is_absent_with_a_reason_and_nothing_else_on_stderr(
    start: Start, tmp_path: Path
) -> None:
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    nowhere = {"PULSE_SERVER": str(tmp_path / "nobody"), "PULSE_RUNTIME_PATH": str(tmp_path)}
    microphone = start("capture.microphone", "--source", "device:no such thing", env=nowhere)
    assert microphone.read_to_end() == 3
    assert microphone.states[-1] == "absent/no_device"
    assert "there is no microphone 'no such thing'" in microphone.last_status.detail
    assert microphone.process.stderr.read() == b""


@pytest.fixture
def virtual_microphone(media: Path) -> Iterator[dict[str, str]]:
    """A PulseAudio server whose microphone hears a speech, again and again."""
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    if shutil.which("pulseaudio") is None:
        pytest.skip("no pulseaudio (apt install pulseaudio libasound2-plugins)")
    _, samples = offline(media / "jfk.flac")
    folder = private_folder()
    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse")}
    pipe = folder / "microphone"
    server = subprocess.Popen(
        [
            *("pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disallow-exit"),
            *("-L", "module-native-protocol-unix"),
            *("-L", f"module-pipe-source file={pipe} format=s16le rate=16000 channels=1"),
        ],
        env=os.environ | env,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while not ((folder / "pulse" / "native").exists() and pipe.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop = threading.Event()

    def speak() -> None:
        begin, n = time.monotonic(), 0
        with pipe.open("wb", buffering=0) as out:
            while not stop.is_set():
                part = samples[n % len(samples) :][:320]
                out.write(part.tobytes())
                n += len(part)
                time.sleep(max(0, begin + n / 16_000 - time.monotonic()))

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    yield env
    stop.set()
    speaker.join(2)
    server.terminate()
    server.wait(5)
    shutil.rmtree(folder)


def test_a_microphone_hears_speech_at_its_time_and_a_stop_of_the_process_compresses_no_time(
    start: Start, virtual_microphone: dict[str, str]
) -> None:
    microphone = start("capture.microphone", "--source", "device:default", env=virtual_microphone)
    try:
        microphone.read_until(lambda _: "ready" in microphone.states, 8)
    except AssertionError:
        if microphone.states[-1:] == ["absent/no_device"]:
            pytest.skip("PortAudio does not see PulseAudio (apt install libasound2-plugins)")
        raise
    origin_ns = time.monotonic_ns()
    microphone.go(Go(HostClock(origin_ns=origin_ns)))
    microphone.read_until(lambda _: len(microphone.blocks) >= 60)
    assert (microphone.values[:, -1] > 0.5).mean() > 0.3
    # An anchor that was set late is mended by 1 ms per buffer, and a vector may come of two buffers.
    np.testing.assert_allclose(np.diff(microphone.times_s), 0.02, atol=2.1e-3)
    np.testing.assert_allclose(microphone.times_s[4:] - microphone.times_s[:-4], 0.08, atol=4.1e-3)
    lag_ns = [b.stamp.t_publish_ns - b.stamp.t_capture_ns for b in microphone.blocks]
    assert 0 < np.median(lag_ns) < 500e6

    microphone.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    microphone.process.send_signal(signal.SIGCONT)
    microphone.read_until(lambda m: m.stamp.t_publish_ns > time.monotonic_ns() - origin_ns - 10**8, 5)
    seen = len(microphone.blocks)
    microphone.read_until(lambda _: len(microphone.blocks) >= seen + 80)
    assert (np.diff(microphone.times_s) > 0).all()
    behind_s = (time.monotonic_ns() - origin_ns) / 1e9 - microphone.times_s[-1]
    assert -0.05 < behind_s < 0.6
    missing = round((microphone.times_s[-1] - microphone.times_s[0]) * 50) + 1 - len(microphone.times_s)
    assert missing <= microphone.last_status.dropped + 5

    status, took_s = microphone.stop()
    assert status == 0
    assert took_s < 2
    assert microphone.process.stderr.read() == b""


def test_a_drift_is_told_again_only_when_it_has_changed() -> None:
    told = None
    said = [told := _news(told, ppm) for ppm in (None, 20.0, 22.0, 24.9, 25.1, 24.0, None, 12.0)]
    assert said == [None, 20.0, 20.0, 20.0, 25.1, 25.1, 25.1, 12.0]


class SlowCard:
    """A sound card whose quartz is off; its converter's times are right but for jitter. Time is virtual."""

    rate_hz, channels, description, active = 16_000, 1, "slow card", True

    def __init__(self, ppm: float, seconds: float, link: Heard) -> None:
        self._link, self._left, self._n = link, round(seconds * 50), 0
        self._period_ns = 20e6 * (1 + ppm / 1e6)
        self._rng = np.random.default_rng(0)
        self.buffers = self

    def get(self, timeout: float) -> Buffer:
        t_ns = round(self._n * self._period_ns + self._rng.integers(0, 2_000_000))
        samples = self._rng.integers(-3000, 3000, (320, 1)).astype(np.int16)
        self._n += 1
        self._link.stopping = self._n >= self._left
        self._link.clock.wait_until_ns(t_ns + 20_000_000)
        return Buffer(samples, t_ns, self._link.clock.now_ns(), False)

    def start(self, clock: Clock) -> None: ...

    def close(self) -> None: ...


class Heard(Link):
    """Keeps what a process would publish."""

    def __init__(self) -> None:
        super().__init__("audio", SPEC, "test", None)
        self.clock = VirtualClock()
        self.times_ns: list[int] = []
        self.details: list[str] = []

    def features(self, times_ns: npt.NDArray[np.int64], values: object, t_ready_ns: int) -> None:
        self.times_ns += times_ns.tolist()

    def status(self, state: State, reason: str | None = None, detail: str = "") -> None:
        self.details.append(detail)

    def beat(self) -> None: ...


@pytest.mark.parametrize("ppm", [200.0, -150.0, 0.0])
def test_a_card_that_runs_slow_or_fast_is_corrected_and_said(ppm: float) -> None:
    """Ninety seconds of a made card through the real loop: uncorrected, 200 ppm would be 18 ms by then."""
    link = Heard()
    read_device(link, cast("SoundDevice", SlowCard(ppm, 90, link)), Sound(link))
    times = np.array(link.times_ns)
    right = times[0] + np.arange(len(times)) * 20e6 * (1 + ppm / 1e6)
    assert len(times) > 89 * 50 and np.abs(times[-500:] - right[-500:]).max() < 4e6
    (told,) = {found[1] for detail in link.details if (found := re.search(r"off by ([+-]\d+) ppm", detail))}
    assert int(told) == pytest.approx(ppm, abs=12)
