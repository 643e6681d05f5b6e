"""Bad input: one clear line that names the value, and the right exit status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import zmq

from tests.end_to_end.application import Application

Start = Callable[..., Application]
ROOT = Path(__file__).parent.parent.parent


def refused(application: Application, *named: str) -> None:
    """It ended with status 2 and one line that names what was wrong; it published nothing."""
    assert application.wait(60) == 2, application.errors
    lines = [line for line in application.errors.splitlines() if "error:" in line]
    assert len(lines) == 1, application.errors
    for name in named:
        assert name in lines[0]
    assert "Traceback" not in application.errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--input", "nowhere.mp4"], ["nowhere.mp4", "not a file"]),
        (["--replay", "nowhere.mcap"], ["nowhere.mcap"]),
        (["--input", "x" * 300], ["xxx", "choose another file"]),
        (["--input", "rtsp://10.0.0.9/live", "--record", "x" * 300], ["xxx", "choose another file"]),
        (["--input", "README.md"], ["README.md", "cannot be read"]),
        (["--replay", "README.md"], ["README.md", "MCAP"]),
        (["--demo", "--hop", "0"], ["hop_s", "0"]),
        (["--demo", "--endpoint", "nonsense"], ["nonsense"]),
        (["--demo", "--endpoint", "tcp://0.0.0.0:5563"], ["0.0.0.0"]),
        (["--demo", "--network", "tests"], ["tests", "bundle.json"]),
        (["--demo", "--asr", "telepathy"], ["telepathy"]),
        (["--demo", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["--fast"], ["fast"]),
        (["--demo", "--replay", "x.mcap"], ["replay", "demo"]),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(
    start: Start, arguments: list[str], named: list[str]
) -> None:
    refused(start(*arguments), *named)


def test_an_unknown_option_is_named_with_a_hint_to_the_usage(start: Start) -> None:
    application = start("--sped", "2")
    assert application.wait() == 2
    assert "--sped" in application.errors and "usage:" in application.errors


def test_a_port_in_use_is_named(start: Start, endpoint: str) -> None:
    with zmq.Context.instance().socket(zmq.PUB) as squatter:
        squatter.bind(endpoint)
        refused(start("--demo"), endpoint, "in use")


def test_a_misspelt_setting_in_a_configuration_file_is_named(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "session.toml"
    file.write_text("hops = 0.5\n")
    refused(start("--demo", "--config", file), "hops")


def test_a_network_of_other_features_is_refused(start: Start, tmp_path: Path) -> None:
    network = tmp_path / "network"
    shutil.copytree(ROOT / "models/pretrained", network)
    features = json.loads((network / "features.json").read_text())
    features["vision"]["stream"]["names"][3] = "third_eye"
    (network / "features.json").write_text(json.dumps(features))
    manifest = json.loads((network / "bundle.json").read_text())
    manifest["sha256"].pop("features.json", None)
    (network / "bundle.json").write_text(json.dumps(manifest))
    refused(start("--demo", "--network", network), "third_eye", "vision")


def test_a_damaged_network_is_refused(start: Start, tmp_path: Path) -> None:
    network = tmp_path / "network"
    shutil.copytree(ROOT / "models/pretrained", network)
    graph = network / "network.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])
    refused(start("--demo", "--network", network), "network.onnx", "damaged")


def test_a_recording_is_never_overwritten(start: Start, tmp_path: Path, shared: Path) -> None:
    kept = tmp_path / "kept.mcap"
    kept.write_bytes(b"precious")
    refused(start("--input", shared / "media/no_face.mp4", "--record", kept), "kept.mcap", "exists")
    assert kept.read_bytes() == b"precious"


def test_a_truncated_recording_replays_up_to_the_break_and_says_so(start: Start, tmp_path: Path) -> None:
    whole = ROOT / "runtime/demo/face_and_speech.mcap"
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    application = start("--replay", broken, "--fast")
    emotions = application.run_to_end()
    assert 3 <= len(emotions) < 22
    assert "breaks off" in application.errors


def test_a_film_without_sound_and_sound_without_film_run_with_the_sense_absent(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    film = without_sound(shared / "media/face_and_speech.mp4", tmp_path / "silent.mp4")
    silent = start("--input", film, "--fast").run_to_end()
    assert {m["modalities"]["audio"]["reason"] for m in silent} == {"no_audio"}
    assert sum(m["modalities"]["vision"]["present"] for m in silent) > len(silent) / 2
    blind = start("--input", shared / "media/jfk.flac", "--fast").run_to_end()
    assert {m["modalities"]["vision"]["reason"] for m in blind} == {"no_video"}
    assert sum(m["modalities"]["audio"]["present"] for m in blind) > len(blind) / 2


def without_sound(film: Path, silent: Path) -> Path:
    """Copy the picture of a film, packet by packet."""
    with av.open(str(film)) as source, av.open(str(silent), "w") as target:
        picture = source.streams.video[0]
        copy = target.add_stream_from_template(picture)
        for packet in source.demux(picture):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return silent
