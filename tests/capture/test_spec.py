"""FeatureSpec: the same features have the same hash everywhere, any other feature another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capture.features.spec import FeatureSpec, InputSpec, SpecMismatch, StreamSpec, load, save

AUDIO = StreamSpec("kaldi fbank", ("energy", "mel0"), 100.0)
SPEC = FeatureSpec(
    text=InputSpec(StreamSpec("words", ("word",), 0.0), 6.0, 32, 64),
    audio=InputSpec(AUDIO, 4.0, 400, 2, (0.0, 1.0), (1.0, 0.5)),
    vision=InputSpec(StreamSpec("landmarker", ("presence", "jawOpen"), 30.0), 4.0, 120, 2),
)
STREAMS = {name: SPEC.input(name).stream for name in ("text", "audio", "vision")}
CHANGES: dict[str, Any] = {"extractor": "other", "names": ("energy", "mel1"), "rate_hz": 50.0}


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "import sys, msgspec; from capture.features.spec import FeatureSpec; "
        "print(msgspec.json.decode(sys.argv[1], type=FeatureSpec).hash)"
    )
    sent = msgspec.json.encode(SPEC).decode()
    there = subprocess.run([sys.executable, "-c", code, sent], capture_output=True, check=True, text=True)
    assert there.stdout.strip() == SPEC.hash
    assert len(SPEC.hash) == 12 and int(SPEC.hash, 16) >= 0


def test_the_hash_of_a_written_spec_never_changes() -> None:
    """Recordings and networks carry it: a change here makes every one of them unreadable."""
    assert AUDIO.hash == "e1dfe3e71c83"
    assert SPEC.hash == "478cf145fce4"


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(StreamSpec)])
def test_every_field_of_a_stream_is_in_its_hash(field: str) -> None:
    assert msgspec.structs.replace(AUDIO, **{field: CHANGES[field]}).hash != AUDIO.hash


@pytest.mark.parametrize(
    ("field", "value"),
    [("stream", msgspec.structs.replace(AUDIO, rate_hz=50.0)), ("window_s", 4.5), ("steps", 401), ("dim", 3),
     ("mean", (0.0, 2.0)), ("scale", (1.0, 0.25))],
)  # fmt: skip
def test_every_field_of_an_input_is_in_the_hash_of_the_whole(field: str, value: object) -> None:
    changed = msgspec.structs.replace(SPEC.audio, **{field: value})
    assert msgspec.structs.replace(SPEC, audio=changed).hash != SPEC.hash
    assert set(SPEC.audio.__struct_fields__) == {"stream", "window_s", "steps", "dim", "mean", "scale"}


def test_column_order_is_part_of_the_contract() -> None:
    assert msgspec.structs.replace(AUDIO, names=AUDIO.names[::-1]).hash != AUDIO.hash


def test_matching_features_pass() -> None:
    SPEC.check(STREAMS)
    assert SPEC.window_s == 6.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": ("energy",)}, "2 columns, captured 1"),
        ({"names": ("energy", "mel9")}, "column 1 is mel0, captured mel9"),
        ({"rate_hz": 50.0}, "100 Hz, captured 50 Hz"),
        ({"extractor": "eGeMAPS"}, "made by 'kaldi fbank', captured by 'eGeMAPS'"),
    ],
)
def test_a_mismatch_names_the_sense_the_difference_and_the_remedy(changes: dict[str, Any], says: str) -> None:
    other = msgspec.structs.replace(AUDIO, **changes)
    with pytest.raises(SpecMismatch) as error:
        SPEC.check(STREAMS | {"audio": other})
    text = str(error.value)
    assert "audio" in text and says in text and "--network" in text
    assert AUDIO.hash in text and other.hash in text and "\n" not in text


def test_the_first_sense_that_differs_is_named() -> None:
    with pytest.raises(SpecMismatch, match="other text features"):
        SPEC.check({name: StreamSpec("x", ("y",), 1.0) for name in STREAMS})


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    save(SPEC, tmp_path / "features.json")
    assert load(tmp_path / "features.json") == SPEC


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"[1]", b'{"text":1}', b"\xff\xfe"])
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "features.json"
    path.write_bytes(data)
    with pytest.raises(SpecMismatch, match=r"features\.json is not a feature spec"):
        load(path)
