"""Devices that come and go, with real parts: a sound server with a microphone to unplug, a network camera."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture import sound_device
from capture.clock import HostClock
from capture.link import Go
from capture.messages import FeatureBlock, Message, Status
from capture.sound_device import SoundDevice
from capture.trouble import SourceError
from runtime.loopback import NetworkCamera, SoundServer
from tests.capture.films import jpegs

Start = Callable[..., Any]
NOTICED_S = 2.0  # the promise
SLACK_S = 1.5  # for a machine with two cores that runs other tests


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


@pytest.fixture
def camera(media: Path) -> Iterator[NetworkCamera]:
    one = NetworkCamera(jpegs(media / "face_and_speech.mp4", 50))
    yield one
    one.switch_off()


@pytest.fixture
def env(landmarker: Path) -> dict[str, str]:
    return {"EMOTION_ASSETS": str(landmarker.parent)}


def test_a_network_camera_that_comes_later_freezes_goes_returns_and_falls_silent(
    start: Start, env: dict[str, str], camera: NetworkCamera
) -> None:
    eye = start("capture.camera", "--source", camera.url, env=env)
    eye.read_until(state("absent/no_device"), 10)
    at = camera.switch_on()
    eye.read_until(state("ready/None"), 10)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    eye.go(Go(HostClock(origin_ns=time.monotonic_ns())))
    eye.read_until(lambda _: len(eye.blocks) >= 25)

    at = camera.freeze()
    eye.read_until(state("degraded/frozen"), 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    seen = len(eye.blocks)
    time.sleep(0.5)
    eye.read_until(lambda m: isinstance(m, Status), 3)
    assert len(eye.blocks) == seen, "a frozen picture is no observation"
    camera.go_on()
    eye.read_until(is_block, 3)
    eye.read_until(state("running/None"), 3)

    at = camera.switch_off()
    eye.read_until(state("absent/no_device"), 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    seen = len(eye.blocks)
    at = camera.switch_on()
    eye.read_until(lambda _: len(eye.blocks) > seen, 8)
    assert time.monotonic() - at < NOTICED_S + SLACK_S
    eye.read_until(state("running/None"), 3)

    camera.hush()
    eye.read_until(state("degraded/no_frames"), 8)
    seen = len(eye.blocks)
    camera.go_on()
    eye.read_until(lambda _: len(eye.blocks) > seen, 8)
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
