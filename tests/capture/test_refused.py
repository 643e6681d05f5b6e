"""Devices that are there and refuse: forbidden, in use, without the rate or the channels, without pictures.

Kernel, ALSA and PortAudio are real wherever they can be made to refuse. A camera of our own would need a
kernel module, so its device file is one that the kernel refuses for the same reason.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from capture import frames, sound_cards, sound_device
from capture.features.vision import SPEC
from capture.frames import UNREADABLE, from_camera, open_camera
from capture.hot_plug import PASSING
from capture.link import Link
from capture.rate_cap import RateCap
from capture.sound_device import SoundDevice
from capture.trouble import SourceError
from tests.capture.conftest import ROOT

Start = Callable[..., Any]

AS_NOBODY = """
import contextlib, os, sys
from pathlib import Path
from capture import frames, sound_cards, sound_device
from capture.trouble import SourceError
with contextlib.suppress(ImportError):
    import pyaudio
if os.geteuid() == 0:  # nothing is forbidden to root
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    {attempt}
except SourceError as error:
    print(error.reason, error, sep="\\n")
"""


def refusal(attempt: str, *arguments: object, **env: str) -> list[str]:
    """The reason, and the line for a person, of a process that may not do everything."""
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY.format(attempt=attempt), *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"USER": "ada"} | env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


# ── cameras ──────────────────────────────────────────────────────────────────────────────────────

OPEN = "frames.open_camera(f'device:{sys.argv[1]}')"


def test_a_camera_that_may_not_be_opened_says_so_and_what_mends_it(folder: Path) -> None:
    (folder / "video0").touch(0)
    reason, told = refusal(OPEN, folder / "video0")
    assert reason == "no_permission" and reason in PASSING
    assert f"{folder}/video0 may not be opened by you" in told
    assert told.endswith("sudo usermod -aG video ada; log in again")


def test_a_camera_that_another_program_holds_alone_is_busy() -> None:
    """A terminal that is held exclusively: opening it is EBUSY, as with a camera's driver that says so."""
    master, held = pty.openpty()
    fcntl.ioctl(held, termios.TIOCEXCL)
    path = Path(os.ttyname(held))
    path.chmod(0o666)
    reason, told = refusal(OPEN, path)
    assert reason == "busy" and "close the program that uses it" in told
    os.close(held)
    os.close(master)


@pytest.mark.parametrize(
    ("able", "reason"), [(0x84A00001, "busy"), (0x85201000, "busy"), (0x84A00000, "no_device")]
)
def test_a_camera_that_answers_and_cannot_be_used_is_busy_unless_it_gives_only_metadata(
    monkeypatch: pytest.MonkeyPatch, able: int, reason: str
) -> None:
    """Most drivers let anybody open a camera and give pictures to one; the driver's answer is made up."""

    def answer(node: int, request: int, capability: bytearray) -> int:
        capability[88:92] = able.to_bytes(4, sys.byteorder)  # device_caps
        return 0

    monkeypatch.setattr(frames.fcntl, "ioctl", answer)
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        open_camera("device:/dev/null")
    assert caught.value.reason == reason


@pytest.mark.parametrize("path", ["/dev/null", "/dev/video-of-nobody", __file__])
def test_what_is_no_camera_is_not_called_busy(path: str) -> None:
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        open_camera(f"device:{path}")
    assert caught.value.reason == "no_device"


class Driver:
    """A camera whose pictures come and cannot be decoded from the ``good``-th on."""

    def __init__(self, good: int, link: Link) -> None:
        self.good, self.link = good, link
        self.grabbed = 0
        self.released = False

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.grabbed += 1
        return True

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if self.grabbed <= self.good:
            return True, np.full((2, 2, 3), (0, 0, self.grabbed), np.uint8)
        return False, None

    def release(self) -> None:
        self.released = True


def test_a_camera_whose_pictures_cannot_be_had_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that tells of pictures and has none, which no camera does at will."""
    link = Link("vision", SPEC, "test", None)
    first, missing, second = Driver(3, link), cv2.VideoCapture(), Driver(10**6, link)
    openings: list[Any] = [missing, second]
    monkeypatch.setattr(frames, "_open", lambda _: openings.pop(0))
    monkeypatch.setattr(frames, "REOPEN_S", 0.0)
    every = RateCap(1e9)
    seen = from_camera(first, "device:/dev/video-of-nobody", link, every)
    for _ in range(3):
        assert isinstance(next(seen), frames.Frame)
    told = next(seen)
    assert isinstance(told, SourceError) and told.reason == "no_device"
    assert first.released and first.grabbed == 3 + UNREADABLE
    assert next(seen) is None, "it is open again"
    assert isinstance(next(seen), frames.Frame) and second.grabbed == 1
    link.stopping = True
    assert next(seen, None) is None and second.released


def test_a_few_pictures_that_cannot_be_had_close_no_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link("vision", SPEC, "test", None)

    class Hiccup(Driver):
        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            if self.grabbed % UNREADABLE:
                return False, None
            return super().retrieve()

    camera = Hiccup(10**6, link)
    monkeypatch.setattr(frames, "_open", lambda _: pytest.fail("it was opened anew"))
    seen = from_camera(camera, "device:0", link, RateCap(1e9))
    assert all(isinstance(next(seen), frames.Frame) for _ in range(4))


def test_a_picture_is_converted_once_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link("vision", SPEC, "test", None)
    frame = next(from_camera(Driver(10, link), "device:0", link, RateCap(1e9)))
    assert isinstance(frame, frames.Frame)
    rgb = frame.rgb()
    assert rgb[0, 0].tolist() == [1, 0, 0]
    assert frame.rgb() is rgb


# ── microphones ──────────────────────────────────────────────────────────────────────────────────

ALSA = """
pcm_type.picky {{ lib "{library}" }}
pcm.studio {{ type picky rate 96000 format S16_LE held "{folder}/studio.lock" }}
pcm.telephone {{ type picky rate 8000 format MU_LAW held "{folder}/telephone.lock" }}
"""


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ALSA's own ``share`` would do, but writes into memory that it has freed (alsa-lib 1.2.8)."""
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    if shutil.which("gcc") is None or not Path("/usr/include/alsa/asoundlib.h").exists():
        pytest.skip("made with gcc and ALSA's headers: apt install gcc libasound2-dev")
    library = tmp_path_factory.mktemp("alsa") / "picky.so"
    source = Path(__file__).with_name("picky_microphone.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-DPIC", "-o", library, source, "-lasound"], check=True)
    return library


@pytest.fixture
def alsa(folder: Path, picky: Path) -> dict[str, str]:
    """Devices for ALSA: one that only knows 96 kHz and one user, one of a telephone."""
    library = shutil.copy(picky, folder)  # where everybody may read it
    (folder / ".asoundrc").write_text(ALSA.format(library=library, folder=folder))
    for device in ("studio", "telephone"):
        (folder / f"{device}.lock").touch()
    return {"HOME": str(folder), "PULSE_SERVER": str(folder / "nobody")}


def test_a_microphone_that_refuses_our_rate_is_opened_at_its_own(start: Start, alsa: dict[str, str]) -> None:
    """Real PortAudio refuses 16 kHz; every rate, its own, too, only a fake does (test_hot_plug)."""
    microphone = start("capture.microphone", "--source", "device:studio", env=alsa)
    microphone.read_until(lambda _: "ready" in microphone.states)
    assert microphone.last_status.detail == "studio (96000 Hz)"
    microphone.stop()


def test_a_microphone_without_a_usual_form_of_samples_is_unsupported(
    start: Start, alsa: dict[str, str]
) -> None:
    microphone = start("capture.microphone", "--source", "device:telephone", env=alsa)
    microphone.read_until(lambda _: "absent/unsupported" in microphone.states, 10)
    assert "'telephone'" in microphone.last_status.detail
    assert "usual forms of samples; choose another" in microphone.last_status.detail
    microphone.stop()


def test_a_microphone_that_is_in_use_is_busy(alsa: dict[str, str]) -> None:
    attempt = "held = sound_device.SoundDevice('studio'); sound_device.SoundDevice('studio')"
    reason, told = refusal(attempt, **alsa)
    assert reason == "busy" and "'studio'" in told and "close the program that uses it" in told


WAITING = """
from types import SimpleNamespace
from capture.hot_plug import when_there
from capture.sound_device import SoundDevice

held = SoundDevice("studio")
said = []

def pause(seconds):
    held.close()  # its user has closed it
    return True

link = SimpleNamespace(by_hand=False, status=lambda *how: said.append(how), pause=pause)
print(when_there(link, lambda: SoundDevice("studio")).description, *said[0], len(said))
"""


def test_a_microphone_that_was_in_use_is_opened_when_it_is_free(alsa: dict[str, str]) -> None:
    """Real PortAudio. Who holds it is in the same process: PortAudio lists no device that was held before."""
    done = subprocess.run(
        [sys.executable, "-c", WAITING], cwd=ROOT, env=os.environ | alsa, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("studio (96000 Hz) absent busy microphone 'studio' cannot be opened")
    assert done.stdout.endswith(" 1\n"), "looked once, waited once"


def test_a_microphone_that_may_not_be_opened_says_so_and_what_mends_it(
    alsa: dict[str, str], folder: Path
) -> None:
    """PortAudio does not list what it may not open."""
    Path(alsa["HOME"], ".asoundrc").unlink()
    if Path("/proc/asound/cards").exists():
        pytest.skip("this machine has microphones of its own")
    attempt = "sound_cards.NODES = Path(sys.argv[1]); sound_device.SoundDevice('default')"
    (folder / "pcmC0D0c").touch(0o666)
    (folder / "pcmC0D0c").chmod(0o666)
    assert refusal(attempt, folder, **alsa)[0] == "no_device"
    (folder / "pcmC0D0c").chmod(0)
    reason, told = refusal(attempt, folder, **alsa)
    assert reason == "no_permission" and reason in PASSING
    assert told.endswith("pcmC0D0c may not be opened by you: sudo usermod -aG audio ada; log in again")


@pytest.mark.parametrize(("free", "reason"), [(0, "busy"), (1, "no_device")])
def test_a_card_that_portaudio_could_not_open_and_so_does_not_list_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alsa: dict[str, str], free: int, reason: str
) -> None:
    """The kernel's list of cards is made up: no sound card is needed."""
    info = tmp_path / "card1" / "pcm0c" / "info"
    info.parent.mkdir(parents=True)
    info.write_text(
        f"card: 1\nstream: CAPTURE\nname: Blue Headset\nsubdevices_count: 1\nsubdevices_avail: {free}\n"
    )
    monkeypatch.setattr(sound_cards, "CARDS", tmp_path)
    with pytest.raises(SourceError, match="eadset") as caught:
        SoundDevice("blue headset")
    assert caught.value.reason == reason


def test_a_card_that_is_forbidden_is_not_called_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PortAudio's answer is made up; that the file is forbidden is looked up, here on a file of our own."""

    class PortAudio:
        def get_default_input_device_info(self) -> dict[str, object]:
            name = "Headset: USB Audio (hw:3,0)"
            return {"index": 0, "name": name, "defaultSampleRate": 48000.0, "maxInputChannels": 1}

        def get_device_count(self) -> int:
            return 0

        def open(self, **_: object) -> None:
            raise OSError(-9985, "Device unavailable")

        def terminate(self) -> None:
            pass

    fake = type("pyaudio", (), {"PyAudio": PortAudio, "paInt16": 8})
    monkeypatch.setattr(sound_device, "import_pyaudio", lambda: fake)
    monkeypatch.setattr(sound_cards, "NODES", tmp_path)
    (tmp_path / "pcmC3D0c").touch()
    monkeypatch.setattr(sound_cards.os, "access", lambda path, _: Path(path).name != "pcmC3D0c")
    with pytest.raises(SourceError, match="pcmC3D0c may not be opened by you") as caught:
        SoundDevice("default")
    assert caught.value.reason == "no_permission"
