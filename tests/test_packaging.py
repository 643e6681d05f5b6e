"""The wheel holds what the live application needs, and nothing that only the checkout needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


def test_the_wheel_is_complete_and_holds_no_tools(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("models/pretrained/bundle.json"))
    for file in (*manifest["sha256"], "MODEL_CARD.md"):
        assert f"models/pretrained/{file}" in names
    assert "runtime/demo/face_and_speech.mcap" in names and "runtime/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"capture", "models", "runtime"}
    assert sum(archive.getinfo(name).file_size for name in names) < 40e6


def test_no_library_reports_to_its_maker(tmp_path: Path) -> None:
    """ONNX Runtime from 1.29 on does, and keeps an identifier on disk, unless it is told not to."""
    places = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    clean = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    for package in ("capture.whisper", "runtime.live", "runtime.engines.onnx", "models.served"):
        program = f"import {package}, onnxruntime"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=clean | places, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
    assert not list(tmp_path.rglob("deviceid")) and not (tmp_path / "Microsoft").exists()
