"""Training ends in a bundle that the application loads, and whose ONNX file is the PyTorch network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from capture.features import audio, vision
from models import checkpoint, train
from models.composed import EMOTIONS, SPLITS, Composer
from models.export import INPUTS, OUTPUTS
from runtime import network


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two items of every emotion in every split; the emotion is the column that is raised."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for kind, columns, length in (("meld", 384, 6), ("ravdess", audio.SPEC.dim, 180), ("fer", 59, 1)):
        labels = np.tile(np.repeat(np.arange(len(EMOTIONS)), 2), len(SPLITS))
        values = rng.uniform(0, 0.2, (len(labels), length, columns)).astype(np.float32)
        for item, label in enumerate(labels):
            values[item, :, 3 * label] += 0.7
        if kind == "fer":
            values[..., vision.PRESENCE] = 1
        np.savez(
            folder / f"{kind}.npz",
            values=values.reshape(-1, columns),
            offsets=np.arange(len(labels) + 1) * length,
            labels=labels,
            splits=np.repeat(list(SPLITS.values()), 2 * len(EMOTIONS)),
            names=np.array([f"{kind}-{i}" for i in range(len(labels))]),
        )
    return folder


@pytest.fixture(scope="module")
def bundle(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle from the command line, after two steps."""
    out = tmp_path_factory.mktemp("bundle")
    arguments = ["--features", str(features), "--out", str(out), "--steps", "2", "--batch", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "SUBSETS", ("LAV",)
        )  # a seventh of the validation windows: this is a test of the way
        assert train.main(arguments) == 0
    return out


def test_the_application_takes_the_bundle_and_finds_its_labels(bundle: Path) -> None:
    loaded = network.load(bundle)
    assert loaded.manifest.labels == EMOTIONS
    assert loaded.manifest.task == "classification"
    assert loaded.manifest.temperature > 0
    assert loaded.features.audio.steps == 200 and loaded.features.vision.steps == 120


def test_a_bundle_that_was_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "network.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(network.NetworkError, match="damaged"):
        network.load(tmp_path)


def test_the_bundles_onnx_file_gives_its_checkpoints_numbers(bundle: Path, features: Path) -> None:
    model = checkpoint.load(bundle)
    spec = network.load(bundle).features
    batch = Composer.open(features, "test", spec, augment=False, seed=1).batch(5)
    session = ort.InferenceSession(bundle / "network.onnx", providers=["CPUExecutionProvider"])
    got = session.run(list(OUTPUTS), {name: getattr(batch, name) for name in INPUTS})
    with torch.no_grad():
        expected = model.infer(*train.inputs(batch))
    for name, values in zip(OUTPUTS, got, strict=True):
        np.testing.assert_allclose(values, getattr(expected, name).numpy(), atol=1e-4, err_msg=name)


def test_the_normalisation_of_the_spec_is_inside_the_network(bundle: Path) -> None:
    model, spec = checkpoint.load(bundle), network.load(bundle).features
    for sense in ("text", "audio", "vision"):
        one = spec.input(sense)
        torch.testing.assert_close(model.decoupled[sense].mean, torch.tensor(one.mean))
        torch.testing.assert_close(model.decoupled[sense].scale, torch.tensor(one.scale))


def test_the_manifest_vouches_for_every_file_that_is_served(bundle: Path) -> None:
    """What training can go on from (the checkpoint) is no part of a served network."""
    hashes = json.loads((bundle / "bundle.json").read_text())["sha256"]
    checkpoints = {"network.safetensors", "network.json"}
    assert set(hashes) == {file.name for file in bundle.iterdir()} - checkpoints - {"bundle.json"}


def test_a_temperature_takes_back_what_was_too_sure() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 7)
    labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
    assert train.temperature(3 * logits, labels) == pytest.approx(3, rel=0.15)


def test_missing_features_are_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(["--features", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "extract_corpora" in capsys.readouterr().err
