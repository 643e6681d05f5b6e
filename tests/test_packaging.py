"""The wheel holds what the live application needs, and nothing that only the checkout needs."""

from __future__ import annotations

import json
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
