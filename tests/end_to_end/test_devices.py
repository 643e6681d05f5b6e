"""Devices that come, go and return while the application runs: published, and used again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from runtime.loopback import NetworkCamera, SoundServer
from tests.capture.films import jpegs
from tests.end_to_end.application import Application, Json
from tests.end_to_end.test_live import child

Start = Callable[..., Application]


def tells(event: str) -> Callable[[Json], bool]:
    return lambda message: message["type"] == "status" and message.get("event", "").startswith(event)


def absent(sense: str, reason: str) -> Callable[[Json], bool]:
    def good(message: Json) -> bool:
        return message["type"] == "emotion" and message["modalities"][sense].get("reason") == reason

    return good


def comes_goes_and_returns(
    application: Application,
    sense: str,
    module: str,
    plug_in: Callable[[], float],
    unplug: Callable[[], float],
    perceives: Callable[[Json], bool],
) -> None:
    """A device that is not there at first, then is, then is unplugged and plugged in again."""
    application.read_until(tells(f"{sense}: absent: "))
    application.read_until(absent(sense, "no_device"))
    process = child(application.process.pid, module)

    plug_in()
    application.read_until(tells(f"{sense}: there: "))
    application.read_until(perceives)

    unplug()
    gone = application.read_until(tells(f"{sense}: absent: "))
    assert (gone["senses"][sense]["state"], gone["senses"][sense]["reason"]) == ("absent", "no_device")
    application.read_until(absent(sense, "no_device"))

    plug_in()
    back = application.read_until(tells(f"{sense}: there again"))
    produced = back["senses"][sense]["produced"]
    application.read_until(perceives)
    application.read_until(
        lambda message: message["type"] == "status" and message["senses"][sense]["produced"] > produced
    )
    assert child(application.process.pid, module) == process

    application.process.send_signal(signal.SIGINT)
    end = application.read_until(lambda message: message["type"] == "session.end")
    assert end["reason"] == "stopped" and end["senses"][sense]["restarts"] == 0
    assert application.wait() == 0


def test_a_microphone_comes_goes_and_is_there_again(start: Start, sound: SoundServer) -> None:
    application = start(
        "--camera", "none", "--microphone", "default", "--asr", "none", **sound.env
    )  # fmt: skip

    def hears(message: Json) -> bool:
        """The hum is no speech, and that is heard."""
        return absent("audio", "no_speech")(message) and message["modalities"]["audio"]["lag_ms"] < 500

    comes_goes_and_returns(
        application, "audio", "capture.microphone", sound.plug_in, sound.unplug, hears
    )  # fmt: skip


def test_a_network_camera_comes_goes_and_is_there_again(start: Start, shared: Path) -> None:
    camera = NetworkCamera(jpegs(shared / "media/face_and_speech.mp4", 50))
    application = start("--input", camera.url)

    def sees(message: Json) -> bool:
        return message["type"] == "emotion" and message["modalities"]["vision"]["present"]

    try:
        comes_goes_and_returns(
            application, "vision", "capture.camera", camera.switch_on, camera.switch_off, sees
        )  # fmt: skip
    finally:
        camera.switch_off()


def test_a_camera_that_freezes_is_told_and_so_is_that_it_moves_again(start: Start, shared: Path) -> None:
    camera = NetworkCamera(jpegs(shared / "media/face_and_speech.mp4", 50))
    camera.switch_on()
    try:
        application = start("--input", camera.url)
        application.read_until(lambda m: m["type"] == "emotion" and m["modalities"]["vision"]["present"])
        camera.freeze()
        told = application.read_until(tells("vision: degraded: "))
        assert told["senses"]["vision"]["reason"] == "frozen"
        camera.go_on()
        back = application.read_until(tells("vision: there again"))
        assert back["senses"]["vision"]["restarts"] == 0
    finally:
        camera.switch_off()
