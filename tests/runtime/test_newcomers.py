"""Newcomers: a device that is connected while another one works is told, once, with the option that takes it.

The kernel's lists are folders of our own: no test machine plugs in a headset.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capture import devices, sound_cards
from capture.messages import Stamp, State, Status, StreamName
from runtime import newcomers
from runtime.newcomers import Newcomers
from runtime.sources import LiveSource
from runtime.supervisor import Sense


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel tells of: a microphone, and no camera."""
    monkeypatch.setattr(sound_cards, "CARDS", tmp_path / "asound")
    monkeypatch.setattr(devices, "VIDEO", tmp_path / "video4linux")
    monkeypatch.setattr(newcomers, "LOOK_S", 0.0)
    sound_card(tmp_path, 0, "ALC295 Analog")
    return tmp_path


def sound_card(kernel: Path, number: int, name: str) -> Path:
    info = kernel / "asound" / f"card{number}" / "pcm0c" / "info"
    info.parent.mkdir(parents=True)
    info.write_text(f"card: {number}\ndevice: 0\nstream: CAPTURE\nname: {name}\nsubdevices_avail: 1\n")
    return info


def webcam(kernel: Path, number: int, name: str) -> None:
    entry = kernel / "video4linux" / f"video{number}"
    entry.mkdir(parents=True)
    (entry / "name").write_text(f"{name}\n")
    (entry / "index").write_text("0\n")


HEADSET = "audio: microphone 'Blue Headset' was connected; to use it: --microphone hw:2,0"


def test_a_microphone_that_is_connected_is_told_once_and_again_when_it_returns(kernel: Path) -> None:
    senses: list[StreamName] = ["audio", "vision"]
    watch = Newcomers(senses)
    assert watch.look(senses) == []
    info = sound_card(kernel, 2, "Blue Headset")
    assert watch.look(senses) == [HEADSET]
    assert watch.look(senses) == []
    shutil.rmtree(info.parents[1])
    assert watch.look(senses) == []
    sound_card(kernel, 2, "Blue Headset")
    assert watch.look(senses) == [HEADSET]


def test_a_camera_that_is_connected_is_told(kernel: Path) -> None:
    watch = Newcomers(["vision"])
    webcam(kernel, 2, "Desk")
    sound_card(kernel, 1, "Desk")  # its microphone; nobody listens in this session
    assert watch.look(["vision"]) == ["vision: camera 'Desk' was connected; to use it: --camera 2"]


def test_the_device_that_a_sense_waits_for_is_no_newcomer(kernel: Path) -> None:
    watch = Newcomers(["audio"])
    sound_card(kernel, 2, "Blue Headset")
    assert watch.look([]) == []
    assert watch.look(["audio"]) == []


@pytest.mark.parametrize(("source", "told"), [("device:default", [HEADSET]), ("file:speech.wav", [])])
def test_the_session_tells_it_where_it_listens_to_a_device(
    kernel: Path, source: str, told: list[str]
) -> None:
    device = source.startswith("device:")
    sense = Sense("audio", "capture.microphone", ("--source", source), device)
    live = LiveSource([sense], session="lab", absent={}, media=not device)
    try:
        live._take_status("audio", Status(Stamp("lab", "audio", 0, 0, 0), running()))
        live.next(0, ())
        sound_card(kernel, 2, "Blue Headset")
        live.next(0, ())
        assert list(live.events) == told
    finally:
        live.close()


def running() -> State:
    return "running"
