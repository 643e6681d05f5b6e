"""The pictures of the page, made by the command that makes those of the README."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from runtime.colours import COLOURS
from tests.end_to_end.application import without_pytest

ROOT = Path(__file__).parents[2]
UNSURE = 0.4  # opacity of the bars while the network abstains

pytest.importorskip("nicegui", reason="pip install 'emotion-edge[dashboard]'")
pytest.importorskip("selenium", reason="pip install selenium")


def pictures(out: Path, *arguments: str, **variables: str) -> dict[str, npt.NDArray[np.uint8]]:
    command = [sys.executable, "build/screenshots.py", "--out", str(out), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=without_pytest() | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {path.stem: cv2.imread(str(path)) for path in out.iterdir()}


def has_bars_in(picture: npt.NDArray[np.uint8], colour: str, opacity: float = 1.0) -> bool:
    """Whether an emotion's colour, on white, covers a bar's worth of the picture."""
    red, green, blue = (255 + opacity * (part - 255) for part in bytes.fromhex(colour.removeprefix("#")))
    near = (np.abs(picture.astype(int) - (blue, green, red)) < 12).all(2)
    return int(near.sum()) > 2000


def test_the_recording_is_pictured_light_dark_and_on_a_phone(tmp_path: Path) -> None:
    made = pictures(tmp_path)
    assert {name: picture.shape[1] for name, picture in made.items()} == {
        "dashboard": 2560, "dashboard-dark": 2560, "dashboard-phone": 780,
    }  # fmt: skip
    assert made["dashboard"].mean() > 200 > 60 > made["dashboard-dark"].mean()
    assert all(has_bars_in(picture, COLOURS["happy"]) for picture in made.values())


def test_a_film_is_pictured_while_it_plays(tmp_path: Path, shared: Path) -> None:
    made = pictures(
        tmp_path,
        "--film",
        str(shared / "media/face_and_speech.mp4"),
        EMOTION_ASSETS=str(shared / "models"),
    )
    assert list(made) == ["dashboard-film"]
    # Which emotion, and how sure, depends on how much of the film the machine could look at.
    emotions = [colour for name, colour in COLOURS.items() if name != "neutral"]  # letters are grey, too
    assert any(has_bars_in(made["dashboard-film"], c, opacity) for c in emotions for opacity in (1.0, UNSURE))
