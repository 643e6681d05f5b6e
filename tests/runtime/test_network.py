"""A bundle: what it says of itself is checked, and so is every file that it serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime import network
from runtime.network import BUNDLED, Manifest, NetworkError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in (*network.VOUCHED, "features.json", "bundle.json"):
        shutil.copy(BUNDLED / name, tmp_path)
    return tmp_path


def manifest_with(bundle: Path, **fields: Any) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(manifest | fields))


@pytest.mark.parametrize("name", network.VOUCHED)
def test_one_changed_byte_in_a_file_that_is_served_is_found(bundle: Path, name: str) -> None:
    assert network.load(bundle).manifest.labels
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(NetworkError, match=f"{name} is damaged: sha256 .*; restore the file"):
        network.load(bundle)


@pytest.mark.parametrize("name", network.VOUCHED)
def test_a_file_that_the_manifest_does_not_vouch_for_is_refused(bundle: Path, name: str) -> None:
    hashes = json.loads((bundle / "bundle.json").read_text())["sha256"]
    manifest_with(bundle, sha256={file: value for file, value in hashes.items() if file != name})
    with pytest.raises(NetworkError, match=f"has no sha256 of {name}"):
        network.load(bundle)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {"temperature": -1}, {"temperatures": {"LAV": 0}}, {"abstain_below": 7}],
)
def test_a_temperature_that_nothing_can_be_divided_by_is_refused(
    bundle: Path, fields: dict[str, Any]
) -> None:
    manifest_with(bundle, **fields)
    with pytest.raises(NetworkError, match=r"bundle\.json is damaged: "):
        network.load(bundle)


def test_a_folder_in_the_place_of_a_file_is_one_line(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").mkdir()
    with pytest.raises(NetworkError, match=r"tokenizer\.json' cannot be read"):
        network.load(bundle)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("text", "audio", "vision"), 2.0),
        (("vision", "text"), 3.0),
        (("audio",), 1.5),  # not measured: that of all windows
        ((), 1.5),
    ],
)
def test_the_temperature_is_that_of_the_senses_that_are_there(
    present: tuple[str, ...], expected: float
) -> None:
    manifest = Manifest("n", "classification", temperature=1.5, temperatures={"LAV": 2.0, "LV": 3.0})
    assert manifest.temperature_of(present) == expected
