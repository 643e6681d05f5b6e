"""Devices that come and go, with real parts: a sound server with a microphone to unplug, a network camera."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture import sound_device
from capture.bus import private_folder
from capture.clock import HostClock
from capture.link import Go
from capture.messages import FeatureBlock, Message, Status
from capture.sound_device import SoundDevice
from capture.trouble import SourceError
from tests.capture.films import jpegs

Start = Callable[..., Any]
NOTICED_S = 2.0  # the promise
SLACK_S = 1.5  # for a machine with two cores that runs other tests


class SoundServer:
    """PulseAudio of this test's own, with a microphone to plug in and out."""

    def __init__(self) -> None:
        self.folder = private_folder()
        self.env = {
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "PULSE_RUNTIME_PATH": str(self.folder / "pulse"),
        }
        self._pipe = self.folder / "microphone"
        self._stop = threading.Event()
        self._module = ""
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
        command += ["--disallow-exit", "-L", "module-native-protocol-unix"]
        self.server = subprocess.Popen(command, env=os.environ | self.env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not (self.folder / "pulse" / "native").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _pactl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["pactl", *arguments], env=os.environ | self.env, capture_output=True, text=True, timeout=10
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def plug_in(self) -> float:
        """Returns when, on the monotonic clock."""
        form = "format=s16le rate=16000 channels=1 source_name=headset"
        self._module = self._pactl("load-module", "module-pipe-source", f"file={self._pipe}", *form.split())
        self._stop = threading.Event()
        threading.Thread(target=self._hum, args=(self._stop,), daemon=True).start()
        return time.monotonic()

    def unplug(self) -> float:
        self._stop.set()
        self._pactl("unload-module", self._module)
        return time.monotonic()

    def _hum(self, stop: threading.Event) -> None:
        noise = np.random.default_rng(0).normal(0, 2000, 16_000).astype("<i2")
        began, n = time.monotonic(), 0
        try:
            with self._pipe.open("wb", buffering=0) as out:
                while not stop.is_set():
                    out.write(noise[n % 16_000 :][:320].tobytes())
                    n += 320
                    time.sleep(max(0, began + n / 16_000 - time.monotonic()))
        except BrokenPipeError:
            return

    def close(self) -> None:
        self._stop.set()
        self.server.terminate()
        self.server.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def sound() -> Iterator[SoundServer]:
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    if shutil.which("pulseaudio") is None or shutil.which("pactl") is None:
        pytest.skip("no pulseaudio (apt install pulseaudio pulseaudio-utils libasound2-plugins)")
    server = SoundServer()
    yield server
    server.close()


def state(*wanted: str) -> Callable[[Message], bool]:
    return lambda m: isinstance(m, Status) and f"{m.state}/{m.reason}" in wanted


def is_block(message: Message) -> bool:
    return isinstance(message, FeatureBlock)


def test_a_headset_that_comes_later_is_found_and_one_that_is_unplugged_is_missed_and_found_again(
    start: Start, sound: SoundServer
) -> None:
    microphone = start("capture.microphone", "--source", "device:default", env=sound.env)
    microphone.read_until(state("absent/no_device"), 10)
    at = sound.plug_in()
    try:
        microphone.read_until(state("ready/None"), 8)
    except AssertionError:
        if "default" not in microphone.last_status.detail:
            pytest.skip("PortAudio does not see PulseAudio (apt install libasound2-plugins)")
        raise
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    origin_ns = time.monotonic_ns()
    microphone.go(Go(HostClock(origin_ns=origin_ns)))
    microphone.read_until(lambda _: len(microphone.blocks) >= 25)
    assert microphone.states[-1] == "running"

    at = sound.unplug()
    microphone.read_until(state("degraded/no_sound", "absent/no_device"), 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    microphone.read_until(state("absent/no_device"), 8)
    heard = len(microphone.blocks)
    time.sleep(1)

    at = sound.plug_in()
    back = microphone.read_until(is_block, 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    microphone.read_until(lambda _: len(microphone.blocks) >= heard + 25)
    gap_s = np.diff(microphone.times_s)
    assert (gap_s > 0).all() and (gap_s > 1).sum() == 1, "one hole, and time is not compressed"
    assert back.stamp.t_capture_ns / 1e9 > microphone.times_s[0] + 1
    assert microphone.states[-1] == "running"
    status, took_s = microphone.stop()
    assert status == 0 and took_s < 3


def test_a_session_that_ends_while_a_device_is_waited_for_is_not_kept_waiting(
    start: Start, sound: SoundServer
) -> None:
    microphone = start("capture.microphone", "--source", "device:default", env=sound.env)
    microphone.read_until(state("absent/no_device"), 10)
    status, took_s = microphone.stop()
    assert status == 3 and took_s < 2


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (-9985, "busy", "close the program"),
        (-9997, "unsupported", "sample rates"),
        (-1, "no_device", "again"),
    ],
)
def test_a_microphone_that_cannot_be_opened_says_why(
    monkeypatch: pytest.MonkeyPatch, code: int, reason: str, advice: str
) -> None:
    """PortAudio's own error, which no device on a test machine gives at will."""
    tried: list[int] = []

    class PortAudio:
        def get_default_input_device_info(self) -> dict[str, object]:
            return {"index": 0, "name": "desk", "defaultSampleRate": 22050.0, "maxInputChannels": 1}

        def get_device_count(self) -> int:
            return 0

        def open(self, *, rate: int, **_: object) -> None:
            tried.append(rate)
            raise OSError(code, "PortAudio says no")

        def terminate(self) -> None:
            pass

    fake = type("pyaudio", (), {"PyAudio": PortAudio, "paInt16": 8})
    monkeypatch.setattr(sound_device, "import_pyaudio", lambda: fake)
    with pytest.raises(SourceError, match=advice) as caught:
        SoundDevice("default")
    assert caught.value.reason == reason and "'desk'" in str(caught.value)
    assert tried == [16_000, 22_050, 48_000, 44_100, 32_000]


class NetworkCamera:
    """MJPEG over HTTP; it can freeze, and go, and come back at the same address."""

    def __init__(self, pictures: list[bytes]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/video.mjpg"
        self.frozen = threading.Event()
        self._gone = threading.Event()
        self._pictures = pictures
        self._server: ThreadingHTTPServer | None = None

    def switch_on(self) -> float:
        gone = self._gone = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                number = 0
                try:
                    while not gone.is_set():
                        number += not camera.frozen.is_set()
                        jpeg = camera._pictures[number % len(camera._pictures)]
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                        time.sleep(0.04)
                except OSError:
                    return

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return time.monotonic()

    def switch_off(self) -> float:
        self._gone.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None
        return time.monotonic()


@pytest.fixture
def camera(media: Path) -> Iterator[NetworkCamera]:
    one = NetworkCamera(jpegs(media / "face_and_speech.mp4", 50))
    yield one
    one.switch_off()


@pytest.fixture
def env(landmarker: Path) -> dict[str, str]:
    return {"EMOTION_ASSETS": str(landmarker.parent)}


def test_a_network_camera_that_comes_later_freezes_goes_and_returns(
    start: Start, env: dict[str, str], camera: NetworkCamera
) -> None:
    eye = start("capture.camera", "--source", camera.url, env=env)
    eye.read_until(state("absent/no_device"), 10)
    at = camera.switch_on()
    eye.read_until(state("ready/None"), 10)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    eye.go(Go(HostClock(origin_ns=time.monotonic_ns())))
    eye.read_until(lambda _: len(eye.blocks) >= 25)

    camera.frozen.set()
    at = time.monotonic()
    eye.read_until(state("degraded/frozen"), 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    seen = len(eye.blocks)
    time.sleep(0.5)
    eye.read_until(lambda m: isinstance(m, Status), 3)
    assert len(eye.blocks) == seen, "a frozen picture is no observation"
    camera.frozen.clear()
    eye.read_until(is_block, 3)
    eye.read_until(state("running/None"), 3)

    at = camera.switch_off()
    eye.read_until(state("degraded/no_frames"), 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    seen = len(eye.blocks)
    at = camera.switch_on()
    eye.read_until(lambda _: len(eye.blocks) > seen, 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    eye.read_until(state("running/None"), 3)
    assert (np.diff(eye.times_s) > 0).all()
    status, took_s = eye.stop()
    assert status == 0 and took_s < 3


def test_a_delay_makes_every_picture_so_much_earlier(
    start: Start, env: dict[str, str], camera: NetworkCamera
) -> None:
    camera.switch_on()
    eye = start("capture.camera", "--source", camera.url, "--delay-ms", "750", env=env)
    eye.go(Go(HostClock(origin_ns=time.monotonic_ns())))
    eye.read_until(lambda _: len(eye.blocks) >= 10)
    for block in eye.blocks:
        assert 0.75 <= (block.t_ready_ns - block.stamp.t_capture_ns) / 1e9 < 0.95


@pytest.mark.parametrize("module", ["capture.camera", "capture.microphone"])
@pytest.mark.parametrize("value", ["-1", "3000", "soon"])
def test_a_delay_that_cannot_be_is_one_line(module: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--delay-ms", value],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2 and f"{value!r}: expected milliseconds, 0 to 2000" in done.stderr
