"""Calibrate: films with a known offset give it back; what is no clap and flash gives one clear line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from capture import frames
from capture.bus import private_folder
from capture.trouble import SourceError
from runtime import calibrate
from runtime.calibrate import (
    Heard,
    Offset,
    Seen,
    Unclear,
    claps,
    correction,
    flashes,
    from_file,
    main,
    offset,
)

ROOT = Path(__file__).parents[2]
AT_S = [1.2, 2.52, 3.64, 5.0, 6.08, 7.56]  # whole pictures of 25 per second; no beat
RATE_HZ = 48_000


def film(
    path: Path,
    offset_ms: float,
    *,
    at_s: list[float] = AT_S,
    fps: int = 25,
    codec: str = "pcm_s16le",
    noises_s: tuple[float, ...] = (),
    lights_s: tuple[float, ...] = (),
    seconds: float = 9.0,
) -> Path:
    """A noisy film with flashes of three pictures at ``at_s``, each with its clap ``offset_ms`` later.

    noises_s, lights_s: claps without a flash, and flashes without a clap.
    """
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 60, int(seconds * RATE_HZ))
    for t_s in [t + offset_ms / 1000 for t in at_s] + list(noises_s):
        clap = rng.normal(0, 9000, RATE_HZ // 5) * np.exp(-np.arange(RATE_HZ // 5) / (0.02 * RATE_HZ))
        sound[round(t_s * RATE_HZ) :][: len(clap)] += clap
    samples = sound.clip(-32768, 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=fps, width=160, height=96, pix_fmt="yuv420p")
        audio = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        for i in range(int(seconds * fps)):
            lit = any(0 <= round(i - t * fps) < 3 for t in (*at_s, *lights_s))
            picture = rng.integers(20, 60, (96, 160, 3)) + 120 * lit
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for begin in range(0, len(samples), 1024):
            block = av.AudioFrame.from_ndarray(
                samples[None, begin : begin + 1024], format="s16", layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = RATE_HZ, begin, Fraction(1, RATE_HZ)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("offset_ms", [-80, 0, 120])
@pytest.mark.parametrize(("name", "codec"), [("film.mkv", "pcm_s16le"), ("film.mp4", "aac")])
def test_the_offset_of_a_film_is_found_within_15_ms(
    tmp_path: Path, offset_ms: int, name: str, codec: str
) -> None:
    found = offset(*from_file(film(tmp_path / name, offset_ms, codec=codec)))
    assert found.offset_ms == pytest.approx(offset_ms, abs=15)
    assert found.spread_ms < 5
    assert found.pairs == found.claps == found.flashes == len(AT_S)
    assert found.picture_ms == pytest.approx(40, abs=1)


def test_the_jitter_of_a_webcam_shows_in_the_spread_and_not_in_the_offset(tmp_path: Path) -> None:
    at_s = [round(1.113 * (i + 1) * 25) / 25 for i in range(10)]
    heard, seen = from_file(film(tmp_path / "film.mkv", 60, at_s=at_s, seconds=13))
    jitter_s = np.random.default_rng(0).uniform(-0.015, 0.015, len(seen.times_s))
    found = offset(heard, Seen(seen.times_s + jitter_s, seen.luma))
    assert found.offset_ms == pytest.approx(60, abs=15)
    assert 3 < found.spread_ms < 15 and found.pairs == 10


def test_noises_and_lights_that_belong_to_nothing_do_no_harm(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv", 120, noises_s=(1.9, 4.3, 5.55, 8.2), lights_s=(0.6, 4.4, 7.04))
    found = offset(*from_file(path))
    assert found.offset_ms == pytest.approx(120, abs=15)
    assert (found.pairs, found.claps, found.flashes) == (6, 10, 9)


def test_claps_and_flashes_that_have_nothing_to_do_with_each_other_give_no_offset(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        noises, lights = (np.cumsum(rng.uniform(0.25, 1.5, 40)) for _ in range(2))
        with pytest.raises(Unclear):
            offset(_heard(noises), _seen(lights))


def _heard(at_s: np.ndarray, seconds: float = 60) -> Heard:
    times_s = np.arange(0, seconds, 0.001)
    power = np.full(len(times_s), 2500.0)
    for t in at_s[at_s < seconds - 1]:
        power[int(t * 1000) :][:20] = 4e7
    return Heard(times_s, power)


def _seen(at_s: np.ndarray, seconds: float = 60) -> Seen:
    times_s = np.arange(0, seconds, 1 / 30)
    luma = np.full(len(times_s), 40.0)
    for t in at_s[at_s < seconds - 1]:
        luma[int(np.ceil(t * 30)) :][:3] = 160.0
    return Seen(times_s, luma)


def test_a_beat_that_fits_at_two_offsets_is_doubtful() -> None:
    beat = np.arange(2, 50, 0.35)
    with pytest.raises(Unclear, match="more than one offset: leave a second"):
        offset(_heard(beat), _seen(beat))


def test_a_voice_that_swells_and_a_lamp_that_is_dimmed_up_are_neither() -> None:
    times_s = np.arange(0, 10, 0.001)
    swell = 10 ** (2 + 6 * np.clip((times_s % 2 - 0.5) / 1.0, 0, 1))
    assert len(claps(Heard(times_s[400:1900], swell[400:1900]))) == 0
    pictures_s = np.arange(0, 10, 0.04)
    assert len(flashes(Seen(pictures_s, 40 + 15 * np.clip(pictures_s - 2, 0, 8)))) == 0


def test_a_hole_in_the_sound_is_no_clap() -> None:
    times_s = np.arange(0, 4, 0.001)
    heard = Heard(times_s, np.where(times_s < 2, 1.0, 1e6))
    assert claps(heard) == pytest.approx([2.0])
    keep = (times_s < 1.9) | (times_s > 2.1)
    assert len(claps(Heard(times_s[keep], heard.power[keep]))) == 0


def test_live_the_sense_that_is_late_is_set_back() -> None:
    def told(offset_ms: float, spread_ms: float = 3) -> str:
        return correction(Offset(offset_ms, spread_ms, 9, 9, 9, 33.3), None)

    assert "--microphone-delay-ms 120 " in told(120) and "camera" not in told(120)
    assert "--camera-delay-ms 80 " in told(-80) and "microphone" not in told(-80)
    assert "nothing is to be corrected" in told(12) and "nothing is to be corrected" in told(60, 100)


@pytest.mark.parametrize("offset_ms", [-80, 120])
def test_the_command_that_is_told_puts_a_film_right(tmp_path: Path, offset_ms: int) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg (apt install ffmpeg)")
    path = film(tmp_path / "a film.mkv", offset_ms)
    told = correction(offset(*from_file(path)), path).partition(": ")[2]
    subprocess.run([*shlex.split(told), "-v", "error", "-nostdin"], check=True, timeout=30)
    assert offset(*from_file(tmp_path / "a film-right.mkv")).offset_ms == pytest.approx(0, abs=15)


# --- as a command


def test_a_film_by_command_is_two_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(film(tmp_path / "film.mkv", -80))
    assert main([path]) == 0
    told = capsys.readouterr().out
    assert "before the picture" in told and "6 pairs" in told and told.count("\n") == 2
    assert main([path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["offset_ms"] == pytest.approx(-80, abs=15)


def test_too_few_pairs_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(film(tmp_path / "film.mkv", 0, at_s=[1.2, 2.52], seconds=4))]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "2 claps and 2 flashes were found, and at least 3 of each are needed" in told.err


def test_what_cannot_be_used_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_bytes(b"no film " * 100)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    for name, told in (
        ("none.mp4", "is not a file"),
        ("text.mp4", "cannot be read"),
        ("sound.wav", "no pict"),
    ):
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert told in error and str(tmp_path / name) in error and error.count("\n") == 1
    for arguments in ([], ["a.mp4", "--live"], ["--live", "--seconds", "soon"], ["--live", "--seconds", "1"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2 and "expected" in capsys.readouterr().err


def test_devices_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "runtime.calibrate", "--live", "--microphone", "no such thing"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        env=os.environ | {"PULSE_SERVER": str(tmp_path / "nobody")},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert "there is no microphone 'no such thing'" in done.stderr and done.stderr.count("\n") == 1


class SilentCamera:
    """As OpenCV's of a webcam on a bad cable: it opens, and no picture comes."""

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(0.01)
        return False

    def release(self) -> None:
        pass


class Microphone:
    """One that opens; nobody hears it out."""

    description, rate_hz, buffers = "quiet", 16_000, queue.SimpleQueue[object]()

    def __init__(self, name: str) -> None:
        pass

    def start(self, clock: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("gone", [False, True])
def test_a_camera_that_gives_no_picture_is_told_and_no_flash_is_blamed(
    gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [SilentCamera()]

    def device(source: str) -> object:
        if gone and not opened:  # unplugged after it was opened
            return cv2.VideoCapture()
        return opened.pop() if opened else SilentCamera()

    monkeypatch.setattr(frames, "_open", device)
    monkeypatch.setattr(frames, "REOPEN_S", 0.05)
    monkeypatch.setattr(calibrate, "SoundDevice", Microphone)
    with pytest.raises(SourceError, match="cannot be opened" if gone else "gave no picture") as caught:
        calibrate.live("/dev/video99", "default", 0.5, lambda left_s: None)
    assert caught.value.reason == ("no_device" if gone else "no_frames")


# --- live, by devices that the test makes: a microphone of PulseAudio, a camera on the network


@pytest.fixture
def devices() -> Iterator[tuple[str, dict[str, str], list[float]]]:
    """Camera address, environment, how late pictures are made (s): both show the same event every 1.3 s."""
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    if shutil.which("pulseaudio") is None:
        pytest.skip("no pulseaudio (apt install pulseaudio libasound2-plugins)")
    folder, stop, begin = private_folder(), threading.Event(), time.monotonic()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(20 + light, 60 + light, (96, 160, 3), np.uint8) for light in (0, 120)]
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]

    late_s = [0.0]

    def since_event(late_s: float = 0.0) -> float:
        return (time.monotonic() - begin - late_s) % 1.3

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not stop.wait(0.033):
                    jpeg = jpegs[since_event(late_s[0]) < 0.15]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse")}
    pipe = folder / "microphone"
    sound_server = subprocess.Popen(
        [
            *("pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disallow-exit"),
            *("-L", "module-native-protocol-unix"),
            *("-L", f"module-pipe-source file={pipe} format=s16le rate=16000 channels=1"),
        ],
        env=os.environ | env, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 10
    while not ((folder / "pulse" / "native").exists() and pipe.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)

    def sound() -> None:
        started, n = time.monotonic(), 0
        with pipe.open("wb", buffering=0) as out:
            while not stop.is_set():
                loud = 9000 if since_event() < 0.03 else 60
                out.write(rng.normal(0, loud, 160).astype("<i2").tobytes())
                n += 160
                time.sleep(max(0, started + n / 16_000 - time.monotonic()))

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    threads = [threading.Thread(target=work, daemon=True) for work in (web.serve_forever, sound)]
    for thread in threads:
        thread.start()
    yield f"http://127.0.0.1:{web.server_port}/video.mjpg", env, late_s
    stop.set()
    web.shutdown()
    web.server_close()
    sound_server.terminate()
    sound_server.wait(5)
    for thread in threads:
        thread.join(2)
    shutil.rmtree(folder)


def calibrating(camera: str, env: dict[str, str], seconds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime.calibrate", "--live", "--json", "--camera", camera]
    return subprocess.Popen(
        [*command, "--seconds", str(seconds)], cwd=ROOT, env=os.environ | env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_live_devices_are_measured_and_ctrl_c_ends_it_with_130(
    devices: tuple[str, dict[str, str], list[float]],
) -> None:
    """How much the two ways delay is not known beforehand; how much more a later picture does, is."""
    camera, env, late_s = devices
    offsets_ms = []
    for late_s[0] in (0.0, 0.25):
        process = calibrating(camera, env, seconds=9)
        out, told = process.communicate(timeout=60)
        if "there is no microphone" in told or "cannot be opened" in told:
            pytest.skip("PortAudio does not see PulseAudio (apt install libasound2-plugins)")
        assert process.returncode == 0, told
        found = json.loads(out)
        assert 4 <= found["pairs"] <= 7 and found["spread_ms"] < 40
        offsets_ms.append(found["offset_ms"])
    assert offsets_ms[0] - offsets_ms[1] == pytest.approx(250, abs=60), "the sound is so much earlier now"

    process = calibrating(camera, env, seconds=60)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=10)
    assert process.returncode == 130 and out == "" and told == "stopped\n"
