"""The doctor: each of ten staged faults is named, with what mends it, and the mending mends."""

from __future__ import annotations

import ctypes
import faulthandler
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from rich.console import Console

from capture import assets, devices
from capture.devices import Camera, Microphone
from runtime import devices as listing
from runtime import keys
from runtime.config import Config
from runtime.doctor import engine, machine
from runtime.doctor.__main__ import checks, main
from runtime.doctor.finding import Check, Finding, ok
from runtime.network import BUNDLED
from runtime.plan import DEMO

ROOT = Path(__file__).resolve().parents[2]

BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None
sys.meta_path.insert(0, Block())
"""
START = """
import os
from runtime.doctor.__main__ import main
status = main(sys.argv[1:])
sys.stdout.flush()
os._exit(status)
"""


def doctor(
    *arguments: object, without: tuple[str, ...] = (), **environment: str
) -> dict[str, dict[str, Any]]:
    """The findings of a real run, by check; ``without``: modules that seem not to be installed."""
    program = BLOCK.format(blocked=without) + START
    done = subprocess.run(
        [sys.executable, "-c", program, "--json", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, env=os.environ | environment, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == any(finding["level"] == "fault" for finding in found.values())
    return found


def one(name: str, *arguments: object, **more: Any) -> dict[str, Any]:
    return doctor("--only", name, *arguments, **more)[name]


def at_fault(finding: dict[str, Any], seen: str, remedy: str) -> None:
    assert finding["level"] == "fault" and re.search(seen, finding["detail"]), finding
    assert re.search(remedy, finding["remedy"]), finding
    assert "\n" not in finding["detail"] + finding["remedy"]


# --- ten faults and more


def test_a_page_whose_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        at_fault(one("page", "--dashboard", address), "cannot be served on", "--dashboard HOST:PORT")
    assert one("page", "--dashboard", address)["detail"] == f"{address} is free"


def test_a_library_of_the_system_that_opencv_does_not_find(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    at_fault(one("libraries", PYTHONPATH=str(tmp_path)), r"libGL\.so\.1", "apt-get install -y .*libgl1")
    assert one("libraries")["level"] == "ok"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_a_library_that_the_loader_itself_does_not_find(tmp_path: Path) -> None:
    # libEGL.so.9, for the real one may be here; an OpenCV that is linked to it; and then it is removed.
    for name, needs in (("libEGL.so.9", ()), ("cv2.so", ("-L.", "-l:libEGL.so.9"))):
        command = ["gcc", "-shared", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-xc", "/dev/null"]
        subprocess.run([*command, "-o", name, "-xnone", *needs], cwd=tmp_path, check=True)
    (tmp_path / "libEGL.so.9").unlink()
    found = one("libraries", PYTHONPATH=str(tmp_path))
    at_fault(found, r"libEGL\.so\.9: cannot open shared object file", "sudo apt-get install -y .*libegl1")


def test_a_check_that_misses_a_library_names_it_and_how_to_get_it() -> None:
    def missing(library: str) -> Callable[[], Finding]:
        def look() -> Finding:
            ctypes.CDLL(library)
            return ok("it is there")

        return look

    at_fault(
        asdict(Check("a", missing("libEGL.so.99")).run()), r"^libEGL\.so\.99 is not on", "apt-get .*libegl1"
    )
    at_fault(
        asdict(Check("b", missing("libnone.so.3")).run()), r"^libnone\.so\.3 is not on", "apt-file search"
    )


def test_an_opencv_that_is_broken_otherwise_is_installed_again(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    at_fault(
        one("libraries", PYTHONPATH=str(tmp_path)), "multiarray", "^pip install --force-reinstall mediapipe$"
    )


def test_a_whisper_that_is_damaged_and_one_that_is_measured(tiny_whisper: Path, tmp_path: Path) -> None:
    heard = one("speed of words", "--asr", f"whisper:{tiny_whisper}")
    assert re.search(r"on cpu: [\d.]+ times real time", heard["detail"]), heard
    damaged = Path(shutil.copytree(tiny_whisper, tmp_path / "whisper"))
    (damaged / "model.bin").unlink()
    at_fault(one("speed of words", "--asr", f"whisper:{damaged}"), "has no model.bin", "CTranslate2")
    (damaged / "model.bin").write_bytes(b"half a download")
    at_fault(one("speed of words", "--asr", f"whisper:{damaged}"), "cannot be loaded: ", "--asr whisper:base")
    absent = one("speed of words", "--asr", "whisper:base", without=("faster_whisper",))
    assert absent["level"] == "warning" and absent["remedy"] == "pip install 'emotion-edge[whisper]'"
    missing = one(
        "speed of words", "--asr", "whisper:base", HF_HUB_CACHE=str(tmp_path), HF_HOME=str(tmp_path)
    )
    assert missing["level"] == "warning" and "--asr whisper:FOLDER" in missing["remedy"]


def test_a_port_in_use(endpoint: str) -> None:
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    with socket.create_server((host, int(port))):
        at_fault(one("endpoint", "--endpoint", endpoint), "is in use", "stop the other program|--endpoint")
    assert one("endpoint", "--endpoint", endpoint)["level"] == "ok"


def test_a_stream_for_everybody(tmp_path: Path) -> None:
    at_fault(one("endpoint", "--endpoint", "tcp://0.0.0.0:5990"), "beyond this machine", r"runtime\.keys")
    keys.init(tmp_path / "keys")
    asked = ("--endpoint", "tcp://127.0.0.1:5991", "--keys", tmp_path / "keys")
    at_fault(one("endpoint", *asked), "nobody is on the list", r"^python -m runtime\.keys add")
    keys.add(tmp_path / "keys", "robot")
    assert one("endpoint", *asked)["level"] == "ok"


def test_a_damaged_landmarker(tmp_path: Path) -> None:
    (tmp_path / assets.FACE_LANDMARKER).write_bytes(b"half a download")
    at_fault(one("face landmarker", EMOTION_ASSETS=str(tmp_path)), "another file", "remove it")


def test_no_landmarker_is_a_warning_with_the_address(tmp_path: Path) -> None:
    found = one("face landmarker", EMOTION_ASSETS=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert found["level"] == "warning" and assets.FACE_LANDMARKER_URL in found["remedy"]


def test_a_damaged_network(tmp_path: Path) -> None:
    copy = tmp_path / "network"
    shutil.copytree(BUNDLED, copy)
    assert one("network", "--network", copy)["level"] == "ok"
    content = bytearray((copy / "network.onnx").read_bytes())
    content[1000] ^= 1
    (copy / "network.onnx").write_bytes(content)
    at_fault(one("network", "--network", copy), r"network\.onnx is damaged", "--network")


def test_a_network_of_other_features(tmp_path: Path) -> None:
    copy = tmp_path / "network"
    shutil.copytree(BUNDLED, copy)
    spec = json.loads((copy / "features.json").read_text())
    spec["audio"]["stream"]["extractor"] = "another"
    (copy / "features.json").write_text(json.dumps(spec))
    bundle = json.loads((copy / "bundle.json").read_text())
    del bundle["sha256"]["features.json"]
    (copy / "bundle.json").write_text(json.dumps(bundle))
    at_fault(one("network", "--network", copy), "expects other audio features", "--network")


def test_a_recogniser_that_is_not_installed() -> None:
    found = one("extras", "--asr", "whisper:base", without=("faster_whisper",))
    at_fault(found, "whisper: no words", r"pip install 'emotion-edge\[whisper\]'")
    assert one("extras", without=("faster_whisper",))["level"] == "warning"  # nobody asked for it


def test_what_the_bridges_reports_and_exports_need_is_named() -> None:
    found = one("extras", without=("pylsl", "jinja2", "pyarrow"))
    assert (
        found["level"] == "warning" and found["remedy"] == "pip install 'emotion-edge[report,export,bridge]'"
    )
    assert "no way to LSL" in found["detail"]


def test_no_pyaudio() -> None:
    found = one("microphone", without=("pyaudio",))
    assert found["level"] == "warning" and "pip install 'emotion-edge[mic]'" in found["remedy"]


def test_a_library_that_is_too_old(tmp_path: Path) -> None:
    folder = tmp_path / "onnxruntime-1.12.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.12.0\n")
    found = one("packages", PYTHONPATH=str(tmp_path))
    at_fault(found, r"onnxruntime.* is 1\.12\.0", r"pip install 'onnxruntime.*>=1\.20")


def test_an_engine_that_is_not_here() -> None:
    at_fault(one("engine", "--engine", "tensorrt", without=("tensorrt",)), "tensorrt", "JetPack|pip install")


def test_a_folder_that_cannot_be_written() -> None:
    at_fault(
        one("disk", "--record", "/proc/session.mcap"), "the recording cannot be written", "chown|make room"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    config = Config(record=str(closed / "sessions/a.mcap"))
    found = as_nobody(tmp_path, lambda: machine.source(Config(input=str(closed / "a.mp4"))))
    at_fault(found, r"closed/a\.mp4 cannot be read \(Permission denied\)$", "choose another file")
    found = as_nobody(tmp_path, lambda: machine.disk(config))
    at_fault(
        found, r"the recording cannot be written in \S+/sessions \(Permission denied\)", "^make room, or"
    )


def test_a_fault_of_the_endpoint_is_told_whole_and_its_remedy_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no socket")
    found = one("endpoint", "--endpoint", f"ipc://{tmp_path}/notes")
    at_fault(found, f"ipc://{tmp_path}/notes: .* and no socket$", "^choose another --endpoint$")
    found = one("endpoint", "--endpoint", "tcp://0.0.0.0:5990")
    at_fault(found, "beyond this machine, where anybody could listen$", "^expected a loopback .*--help")


def video(tmp_path: Path, *nodes: tuple[str, str, str]) -> tuple[Path, Path]:
    """What the kernel would list, and its device files: node, name, index."""
    listed, folder = tmp_path / "sys", tmp_path / "dev"
    folder.mkdir(exist_ok=True)
    for node, name, index in nodes:
        (listed / node).mkdir(parents=True)
        (listed / node / "name").write_text(f"{name}\n")
        (listed / node / "index").write_text(f"{index}\n")
        (folder / node).write_bytes(b"")
    return listed, folder


def test_a_camera_that_does_not_exist(tmp_path: Path) -> None:
    where = video(tmp_path, ("video0", "Webcam", "0"), ("video1", "Webcam", "1"), ("video2", "Capture", "0"))
    assert [c.option for c in devices.cameras(*where)] == ["--camera 0", "--camera 2"]
    assert machine.camera(Config(camera="2"), *where).detail.startswith("Capture")
    found = machine.camera(Config(camera="7"), *where)
    assert found.level == "fault" and "there are 0: Webcam, 2: Capture" in found.detail
    assert found.remedy == "--camera 0"


def test_a_camera_by_its_lasting_name(tmp_path: Path) -> None:
    where = video(tmp_path, ("video0", "Webcam", "0"), ("video2", "Capture", "0"))
    (tmp_path / "by-id").mkdir()
    lasting = tmp_path / "by-id/usb-Acme_Capture-video-index0"
    lasting.symlink_to("../dev/video2")
    assert machine.camera(Config(camera=str(lasting)), *where).detail.startswith("Capture")
    lasting.unlink()  # it was unplugged
    assert machine.camera(Config(camera=str(lasting)), *where).level == "fault"


def as_nobody(tmp_path: Path, look: Callable[[], Finding]) -> dict[str, Any]:
    """What a user sees who is in no group."""
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)

    def become() -> Finding:
        os.setgroups([])
        os.setregid(65534, 65534)
        os.setreuid(65534, 65534)
        return look()

    return asdict(Check("as nobody", become).run())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_camera_that_may_not_be_opened(tmp_path: Path) -> None:
    where = video(tmp_path, ("video0", "Webcam", "0"))
    (where[1] / "video0").chmod(0)
    found = as_nobody(tmp_path, lambda: machine.camera(Config(), *where))
    at_fault(found, "may not be opened by you", "sudo usermod -aG video")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_microphone_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    monkeypatch.setenv("PULSE_SERVER", str(tmp_path / "nobody"))
    for node in ("controlC0", "pcmC0D0c", "pcmC0D0p"):  # ALSA's names: a control, to record, to play
        (tmp_path / node).write_bytes(b"")
    (tmp_path / "pcmC0D0p").chmod(0)  # nobody wants to play
    (tmp_path / "pcmC0D0c").chmod(0o666)
    found = as_nobody(tmp_path, lambda: machine.microphone(Config(), tmp_path))
    assert found["detail"] == "none on this machine"
    (tmp_path / "pcmC0D0c").chmod(0o660)  # root and its group, as /dev/snd's
    found = as_nobody(tmp_path, lambda: machine.microphone(Config(), tmp_path))
    at_fault(found, "pcmC0D0c may not be opened by you", "sudo usermod -aG audio")


def test_no_camera_and_no_microphone_are_warnings_and_a_session_runs(tmp_path: Path) -> None:
    found = machine.camera(Config(), tmp_path, tmp_path)
    assert found.level == "warning" and "--input" in found.remedy
    assert machine.camera(Config(camera="none"), tmp_path, tmp_path) == ok("switched off")


def test_devices_that_a_session_does_not_open_are_no_fault_and_what_it_reads_instead_is_looked_at(
    tmp_path: Path,
) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    (tmp_path / "no.mp4").write_bytes(b"no film " * 100)
    others = 'camera = "7"\nmicrophone = "nobody\'s"\n'
    for read, told, there in (
        (f'input = "{tmp_path}/a.wav"', f"input is {tmp_path}/a.wav", r"a\.wav: audio, no vision"),
        ('input = "rtsp://ada:secret@cam"', "input is rtsp://…@cam", "@cam: vision, .*, not tried here"),
        (f'replay = "{DEMO}"', f"replay is {DEMO}", r"\.mcap: 11\.\d s of demo"),
        ("demo = true", "the demo is replayed", "the bundled recording"),
    ):
        (tmp_path / "session.toml").write_text(f"{others}{read}\n")
        found = doctor(
            "--config", tmp_path / "session.toml", "--only", "input", "camera", "microphone", "speed of words"
        )
        assert all(finding["level"] == "ok" for finding in found.values()), found
        assert found["camera"]["detail"] == found["microphone"]["detail"] == f"not opened: {told}"
        assert re.search(there, found["input"]["detail"]) and "secret" not in json.dumps(found)
        assert found["speed of words"]["detail"] == "not asked for"
    at_fault(one("input", "--input", tmp_path / "none.mp4"), "none.mp4 is not a file$", "--input takes a")
    at_fault(one("input", "--input", tmp_path / "no.mp4"), "cannot be read as .*: Inv", "choose another file")
    (tmp_path / "session.toml").write_text(f'replay = "{tmp_path}/no.mp4"')
    at_fault(one("input", "--config", tmp_path / "session.toml"), "is not an MCAP file$", "give a recording")


def test_whisper_is_asked_for_where_it_would_hear_something() -> None:
    def heard(**settings: Any) -> bool:
        return machine.recognises(Config(**settings))

    assert heard() and heard(asr="whisper:tiny") and heard(input="a.mp4", asr="whisper")
    assert not heard(asr="none") and not heard(microphone="none", asr="whisper")
    assert not heard(input="a.mp4") and not heard(input="rtsp://cam", asr="whisper") and not heard(demo=True)
    deaf = engine.words_speed(Config(microphone="none", asr="whisper:base"))
    assert deaf == ok("not asked for")


# --- how it goes about it


def test_a_check_that_fails_or_never_answers_is_a_finding_and_the_others_go_on() -> None:
    def broken() -> Finding:
        raise RuntimeError("of all things")

    def stuck() -> Finding:
        time.sleep(30)
        return ok("too late")

    found = [Check("a", broken).run(), Check("b", stuck, 0.2).run(), Check("c", lambda: ok("fine")).run()]
    assert [f.level for f in found] == ["fault", "fault", "ok"]
    assert "RuntimeError: of all things" in found[0].detail and "no answer in 0.2 s" in found[1].detail


def test_a_check_that_crashes_is_a_finding() -> None:
    def crash() -> Finding:
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), signal.SIGSEGV)
        return ok("never")

    assert "crashed (exit status -11)" in Check("a", crash).run().detail


def test_a_check_that_took_too_long_computes_no_more_nor_does_what_it_started(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    program = "import sys, time\nwhile True: open(sys.argv[1], 'a').write('.'); time.sleep(0.01)"

    def busy() -> Finding:
        subprocess.Popen([sys.executable, "-c", program, str(beats)])
        while True:
            with (tmp_path / "own").open("a") as file:
                file.write(".")

    before = threading.active_count()
    assert Check("a", busy, 2).run().level == "fault" and threading.active_count() == before
    sizes = [path.stat().st_size for path in (beats, tmp_path / "own")]
    time.sleep(0.2)
    assert [path.stat().st_size for path in (beats, tmp_path / "own")] == sizes and all(sizes)


def test_ctrl_c_ends_the_check_that_runs(tmp_path: Path) -> None:
    def stuck() -> Finding:
        (tmp_path / "pid").write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(30)
        return ok("too late")

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Check("a", stuck).run()
    assert time.monotonic() - started < 10
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_every_stage_is_measured_against_real_time(shared: Path) -> None:
    found = doctor("--only", "speed of audio", "speed of the network", "speed of vision",
                   EMOTION_ASSETS=str(shared / "models"))  # fmt: skip
    for finding in found.values():
        assert finding["level"] in ("ok", "warning") and re.search(r"\d", finding["detail"])


def test_all_of_it_runs_and_changes_nothing(tmp_path: Path) -> None:
    found = doctor(XDG_CACHE_HOME=str(tmp_path), EMOTION_ENGINES=str(tmp_path / "engines"), EMOTION_ASSETS="")
    assert list(found) == [check.name for check in checks(Config())]
    assert list(tmp_path.iterdir()) == []
    assert found["packages"]["level"] == found["network"]["level"] == found["engine"]["level"] == "ok"


def test_what_is_no_check_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "camrea"]) == 2
    told = capsys.readouterr().err
    assert "there is no check 'camrea': choose from packages" in told and told.count("\n") == 1


def test_a_report_for_a_person_ends_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / assets.FACE_LANDMARKER).write_bytes(b"no")
    monkeypatch.setenv("EMOTION_ASSETS", str(tmp_path))
    assert main(["--only", "face landmarker", "clock"]) == 1
    told = capsys.readouterr().out
    assert "fault face landmarker: remove it" in told
    assert engine.landmarker().level == "fault"


def test_devices_lists_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.devices", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0 and json.loads(done.stdout).keys() == {"cameras", "microphones"}


def printed(table: Any) -> list[list[str]]:
    """The cells of a table's rows as a person sees them, without the title."""
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in "│┃"]


def test_the_tables_name_the_option_that_selects_each_device() -> None:
    cameras = [
        Camera("--camera 0", "Webcam [HD]", "/dev/video0", True),
        Camera("--camera 2", "Capture", "/dev/video2", False),
    ]
    assert printed(listing._cameras(cameras)) == [
        ["option", "name", "device", ""],
        ["--camera 0", "Webcam [HD]", "/dev/video0", ""],
        ["--camera 2", "Capture", "/dev/video2", "no permission"],
    ]
    microphones = [
        Microphone("--microphone 3", "USB [red]", 48_000, 2, False),
        Microphone("--microphone 5", "pulse", 44_100, 32, True),
    ]
    assert printed(listing._microphones(microphones)) == [
        ["option", "name", "rate", "channels", ""],
        ["--microphone 3", "USB [red]", "48000 Hz", "2", ""],
        ["--microphone 5", "pulse", "44100 Hz", "32", "default"],
    ]
    assert printed(listing._cameras([]))[1] == ["–", "none", "", ""]
    assert printed(listing._microphones([]))[1] == ["–", "none", "", "", ""]


@pytest.fixture
def virtual_microphone(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A PulseAudio server with a microphone that hears nothing."""
    pytest.importorskip("pyaudio", reason="the extra 'mic' is not installed")
    if shutil.which("pulseaudio") is None:
        pytest.skip("no pulseaudio (apt install pulseaudio libasound2-plugins)")
    folder = Path(tempfile.mkdtemp())  # a short path: that of a socket may have 107 characters
    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse")}
    server = subprocess.Popen(
        [
            *("pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disallow-exit"),
            *("-L", "module-native-protocol-unix"),
            *("-L", f"module-pipe-source file={folder / 'microphone'} format=s16le rate=16000 channels=1"),
        ],
        env=os.environ | env,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    there = (folder / "pulse/native", folder / "microphone")
    while not all(path.exists() for path in there) and time.monotonic() < deadline:
        time.sleep(0.05)
    yield env
    server.terminate()
    server.wait(5)
    shutil.rmtree(folder)


def test_a_microphone_is_listed_with_its_option_and_the_doctor_finds_it_by_that(
    virtual_microphone: dict[str, str],
) -> None:
    def devices_of(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "runtime.devices", *arguments], cwd=ROOT, capture_output=True, text=True,
            timeout=60, env=os.environ | virtual_microphone | {"COLUMNS": "120"}, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout

    found = json.loads(devices_of("--json"))["microphones"]
    if not found:
        pytest.skip("PortAudio does not see PulseAudio (apt install libasound2-plugins)")
    (default,) = [one for one in found if one["default"]]
    assert default["channels"] > 0 and default["rate_hz"] > 0
    assert re.search(rf"│ {default['option']} +│ {default['name']} .*│ default │", devices_of())
    number = default["option"].removeprefix("--microphone ")
    for asked in (number, default["name"], "default"):
        seen = one("microphone", "--microphone", asked, **virtual_microphone)
        assert seen["detail"] == f"{default['name']} ({default['rate_hz']} Hz)", seen
    nowhere = one("microphone", "--microphone", "99", **virtual_microphone)
    at_fault(nowhere, f"no microphone '99' .*{number}: {re.escape(default['name'])}", "^--microphone")
