"""The doctor: each of ten staged faults is named, with what mends it, and the mending mends."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict

from capture import assets, devices
from runtime import keys
from runtime.config import Config
from runtime.doctor import engine, machine
from runtime.doctor.__main__ import checks, main
from runtime.doctor.finding import Check, Finding, ok
from runtime.network import BUNDLED

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
        at_fault(asdict(machine.page(Config(page=address))), "cannot be served on", "--dashboard HOST:PORT")
    assert machine.page(Config(page=address)).level == "ok"


def test_a_library_of_the_system_that_opencv_does_not_find(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    at_fault(one("libraries", PYTHONPATH=str(tmp_path)), r"libGL\.so\.1", "apt-get install -y .*libgl1")
    assert one("libraries")["level"] == "ok"


def test_a_whisper_that_is_damaged_and_one_that_is_measured(tiny_whisper: Path, tmp_path: Path) -> None:
    heard = one("speed of words", "--asr", f"whisper:{tiny_whisper}")
    assert re.search(r"on cpu: [\d.]+ times real time", heard["detail"]), heard
    damaged = Path(shutil.copytree(tiny_whisper, tmp_path / "whisper"))
    (damaged / "model.bin").unlink()
    at_fault(one("speed of words", "--asr", f"whisper:{damaged}"), "has no model.bin", "CTranslate2")
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
    at_fault(one("endpoint", *asked), "", r"nobody is on the list.*runtime\.keys add")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_camera_that_may_not_be_opened(tmp_path: Path) -> None:
    where = video(tmp_path, ("video0", "Webcam", "0"))
    (where[1] / "video0").chmod(0)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    child = os.fork()
    if child == 0:
        os.seteuid(65534)
        os.setreuid(65534, 65534)
        found = machine.camera(Config(), *where)
        os._exit(0 if found.level == "fault" and "usermod -aG video" in found.remedy else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_camera_and_no_microphone_are_warnings_and_a_session_runs(tmp_path: Path) -> None:
    found = machine.camera(Config(), tmp_path, tmp_path)
    assert found.level == "warning" and "--input" in found.remedy
    assert machine.camera(Config(camera="none"), tmp_path, tmp_path) == ok("switched off")


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
