"""A recording through another network or engine: the same windows, its answers, its name on them."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from capture.features import spec
from runtime import network
from runtime.engine import BY_SPEED, ENGINES, EngineError
from runtime.engines import ends
from runtime.engines.onnx import OnnxEngine
from runtime.engines.verify import LARGEST
from runtime.network import BUNDLED
from runtime.plan import DEMO
from runtime.recording import Recorder, Recording
from runtime.recording.layout import EMOTION_TOPIC

ROOT = Path(__file__).resolve().parents[2]
CPU = "onnxruntime-cpu"  # runs everywhere, to the same bits
Json = dict[str, Any]


def rescore(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.recording", "rescore", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def rescored(path: Path, out: Path, *options: object) -> list[Json]:
    done = rescore(path, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    return emotions(out)


def refused(path: Path, out: Path, *options: object) -> str:
    """It ended with status 2, one line, and no file; that line."""
    done = rescore(path, *options, "--out", out)
    assert done.returncode == 2 and not out.exists(), done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    return line


def emotions(path: Path) -> list[Json]:
    """The published messages without what depends on how fast the machine was."""
    messages = [json.loads(payload) for _, payload in Recording.open(path).emotions()]
    for message in messages:
        del message["latency_ms"], message["time"]["published_ns"]
    return messages


def captured(path: Path) -> list[tuple[str, int, bytes]]:
    """What came from the capture processes, and when."""
    return [
        (raw.topic, raw.log_ns, raw.data) for raw in Recording.open(path).raw() if raw.topic != EMOTION_TOPIC
    ]


def windows(messages: list[Json]) -> list[Json]:
    """What was cut, and what was there, whatever the network said of it."""
    told = []
    for message in messages:
        senses = {name: {**sense} for name, sense in message["modalities"].items()}
        for sense in senses.values():
            sense.pop("logits", None)
        kept = ("seq", "revises", "final", "time", "dropped", "session")
        told.append({name: message[name] for name in kept} | {"modalities": senses})
    return told


def vouch(bundle: Path, **fields: object) -> None:
    """Write the manifest of a bundle whose files were changed."""
    manifest = json.loads((bundle / "bundle.json").read_text()) | fields
    manifest["sha256"] = {
        name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in manifest["sha256"]
    }
    (bundle / "bundle.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the bundled one's shape, with other weights."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(BUNDLED, folder)
    model = onnx.load(folder / "network.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name.endswith(("weight", "bias")):
            weights = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(weights * np.float32(0.8), tensor.name))
    onnx.save(model, folder / "network.onnx")
    vouch(folder, name="another")
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose answers are the bundled network's, on the CPU."""
    path = tmp_path_factory.mktemp("first") / "session.mcap"
    rescored(DEMO, path, "--engine", CPU)
    return path


# --- another network


def test_another_network_gives_other_answers_to_the_same_windows_and_signs_them(
    first: Path, other: Path, tmp_path: Path
) -> None:
    before, after = (
        emotions(first),
        rescored(first, tmp_path / "again.mcap", "--network", other, "--engine", CPU),
    )
    assert windows(after) == windows(before) and len(after) > 20
    ends = [message["time"]["end_ns"] for message in after]
    assert {b - a for a, b in pairwise(ends)} == {500_000_000}
    answers = [(a["emotions"]["scores"], b["emotions"]["scores"]) for a, b in zip(before, after, strict=True)]
    assert all(np.abs(np.subtract(a, b)).max() > 1e-3 for a, b in answers)
    for message in after:
        for name, sense in message["modalities"].items():
            was = before[message["seq"]]["modalities"][name]
            assert ("logits" in sense) == sense["present"]
            assert not sense["present"] or sense["logits"] != was["logits"]
    used = network.load(other)
    assert used.hash != network.load(BUNDLED).hash
    expected = {"name": "another", "hash": used.hash, "features": used.features.hash}
    assert all(m["model"] == expected | {"engine": CPU, "precision": "fp32"} for m in after)
    settings = Recording.open(tmp_path / "again.mcap").header.config
    assert (settings["network"], settings["engine"], settings["replay"]) == (str(other), CPU, str(first))


def test_what_was_captured_is_kept_so_that_the_first_network_gives_its_answers_again(
    first: Path, other: Path, tmp_path: Path
) -> None:
    rescored(first, tmp_path / "there.mcap", "--network", other, "--engine", CPU)
    assert captured(tmp_path / "there.mcap") == captured(first)
    back = rescored(tmp_path / "there.mcap", tmp_path / "back.mcap", "--engine", CPU)
    assert back == emotions(first)


def test_the_same_network_in_another_folder_gives_the_same_answers(first: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLED, tmp_path / "copy"))
    again = rescored(first, tmp_path / "again.mcap", "--network", copy, "--engine", CPU)
    assert again == emotions(first)


def test_two_runs_give_the_same_bytes(first: Path, other: Path, tmp_path: Path) -> None:
    chosen = ("--network", other, "--engine", CPU)
    runs = [rescored(first, tmp_path / name, *chosen) for name in ("a.mcap", "b.mcap")]
    assert json.dumps(runs[0]) == json.dumps(runs[1])
    assert captured(tmp_path / "a.mcap") == captured(tmp_path / "b.mcap") == captured(first)
    assert [message["time"] for message in runs[0]] == [message["time"] for message in emotions(DEMO)]


# --- another engine


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_the_same_answers_and_signs_them_or_says_what_it_lacks(
    engine: str, first: Path, tmp_path: Path
) -> None:
    """What every machine has must run; the others run where their GPU is."""
    out = tmp_path / "again.mcap"
    everywhere = engine in ("auto", "onnxruntime", CPU)
    done = rescore(first, "--engine", engine, "--out", out, timeout_s=600)
    if done.returncode != 0 and not everywhere:
        (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
        lacks = {
            "tensorrt": ("tensorrt is not installed", "no NVIDIA GPU"),
            "tensorrt_rtx": ("tensorrt_rtx is not installed", "no NVIDIA GPU"),
            "onnxruntime-cuda": ("this ONNX Runtime has no CUDA", "CUDA does not start here"),
        }
        assert done.returncode == 2 and any(what in line for what in lacks[engine]), line
        assert "Traceback" not in done.stderr and not out.exists()
        return
    assert done.returncode == 0, done.stderr
    before, after = emotions(first), emotions(out)
    assert windows(after) == windows(before)
    for was, now in zip(before, after, strict=True):
        assert now["emotions"]["scores"] == pytest.approx(was["emotions"]["scores"], abs=LARGEST["fp32"])
    used = {message["model"]["engine"] for message in after}
    assert used == {engine} or (engine not in BY_SPEED and used < set(BY_SPEED))
    if used == {CPU}:
        assert after == before
    assert Recording.open(out).header.config["engine"] == engine


@pytest.mark.skipif(ends.has_cuda(), reason="ONNX Runtime can use CUDA here")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_an_engine_that_fell_back_to_the_cpu_does_not_sign_as_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where ONNX Runtime was built with CUDA, and the machine has no GPU."""
    monkeypatch.setattr(ends, "has_cuda", lambda: True)
    with pytest.raises(EngineError, match="onnxruntime-cuda: CUDA does not start here"):
        OnnxEngine(network.load(), cuda=True)


def test_a_rescore_that_is_stopped_leaves_nothing_and_says_so(first: Path, tmp_path: Path) -> None:
    long, out = tmp_path / "long.mcap", tmp_path / "again.mcap"
    recording = Recording.open(first)
    with Recorder(long, recording.begin) as recorder:
        for n in range(200):  # half an hour
            for arrival in recording:
                recorder.add(arrival.message, arrival.t_arrival_ns + n)
    command = [sys.executable, "-m", "runtime.recording", "rescore", str(long), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.rstrip().endswith("stopped; nothing was written")
    assert not out.exists() and not out.with_suffix(".markers.jsonl").exists()


def test_an_export_that_is_told_to_end_leaves_nothing(first: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mcap"
    recording = Recording.open(first)
    with Recorder(long, recording.begin) as recorder:
        for n in range(40):  # some minutes
            for arrival in recording:
                recorder.add(arrival.message, arrival.t_arrival_ns + n)
    command = [sys.executable, "-m", "runtime.recording", "export", str(long), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    half, deadline = tmp_path / ".out.half", time.monotonic() + 60
    while not half.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.rstrip().endswith("stopped; nothing was written")
    assert list(tmp_path.iterdir()) == [long]


def test_a_rescore_never_writes_over_a_file(first: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.mcap").write_text("mine")
    done = rescore(first, "--out", tmp_path / "precious.mcap")
    assert done.returncode == 2 and "never overwritten" in done.stderr
    assert (tmp_path / "precious.mcap").read_text() == "mine"


# --- what cannot be used


def test_an_engine_of_no_such_name_is_one_line_with_those_that_there_are(first: Path, tmp_path: Path) -> None:
    line = refused(first, tmp_path / "x.mcap", "--engine", "abacus")
    assert "runtime.recording rescore" in line and "'abacus'" in line
    assert all(engine in line for engine in ENGINES)


def test_a_network_that_is_none_is_one_line(first: Path, tmp_path: Path) -> None:
    assert "nowhere is no folder" in refused(
        first, tmp_path / "x.mcap", "--network", tmp_path / "nowhere"
    )  # fmt: skip
    assert "bundle.json is missing" in refused(first, tmp_path / "x.mcap", "--network", tmp_path)


@pytest.mark.parametrize("stream", ["text", "audio", "vision"])
def test_a_network_for_another_feature_extractor_is_one_line(
    first: Path, tmp_path: Path, stream: str
) -> None:
    bundle = Path(shutil.copytree(BUNDLED, tmp_path / "bundle"))
    features = spec.load(bundle / "features.json")
    reads = features.input(stream)
    theirs = msgspec.structs.replace(reads.stream, extractor="a face on Mars")
    features = msgspec.structs.replace(features, **{stream: msgspec.structs.replace(reads, stream=theirs)})
    spec.save(features, bundle / "features.json")
    vouch(bundle)
    line = refused(first, tmp_path / "x.mcap", "--network", bundle)
    assert f"the network expects other {stream} features" in line and "made by 'a face on Mars'" in line


def test_a_recording_of_other_features_than_the_network_reads_is_one_line(
    first: Path, tmp_path: Path
) -> None:
    recording = Recording.open(first)
    begin = recording.begin | {"streams": {"vision": "0123456789ab"}}
    with Recorder(tmp_path / "other.mcap", begin) as recorder:
        for raw in recording.raw():
            recorder.copy(raw)
    line = refused(tmp_path / "other.mcap", tmp_path / "x.mcap")
    assert "other.mcap holds other vision features than the network expects" in line
