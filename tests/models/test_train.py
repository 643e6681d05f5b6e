"""Training from the command line: to a bundle and a report, through stops, kills and several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.numpy import load_file

from models import bundle, checkpoint, train
from models.composed import Composed, known
from models.config import ConfigError, Training, load
from models.corpora import EMOTIONS
from models.optimisation import drop_senses, plateau
from models.served import Served
from runtime import network
from tests.models import made

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "models/configs/bundled.toml"


def _arguments(material: Path, out: Path, *settings: str) -> list[str]:
    given = [*made.TINY, f'text_encoder.source="{material / "bert"}"', *settings]
    return [
        "--config", str(CONFIG), "--data", str(material / "features"), "--out", str(out), "--device", "cpu",
        *(part for setting in given for part in ("--set", setting)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    made.features(folder / "features")
    made.encoder(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def out(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two passes, on one thread as in the processes beside it: more threads round otherwise."""
    folder = tmp_path_factory.mktemp("run")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train.main(_arguments(material, folder)) == 0
    torch.set_num_threads(threads)
    return folder


def test_the_application_takes_the_bundle_and_finds_its_labels(out: Path) -> None:
    loaded = network.load(out / "bundle")
    assert loaded.manifest.labels == EMOTIONS
    assert loaded.manifest.task == "classification"
    assert loaded.manifest.temperature > 0 and loaded.manifest.distilled
    assert loaded.features.audio.steps == 200 and loaded.features.vision.steps == 120


def test_a_run_leaves_a_report_its_configuration_and_the_events(out: Path) -> None:
    numbers = json.loads((out / "report.json").read_text())
    assert numbers
    assert (out / "report.html").stat().st_size > 10_000
    assert list((out / "tensorboard").iterdir())
    again = load(out / "config.toml")
    assert again.optimisation.batch == 8 and again.optimisation.accumulate == 1


def test_a_bundle_that_was_changed_is_refused(out: Path, tmp_path: Path) -> None:
    for file in (out / "bundle").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "network.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(network.NetworkError, match="damaged"):
        network.load(tmp_path)


def test_the_bundles_graphs_give_the_numbers_of_the_network_that_was_trained(
    out: Path, material: Path
) -> None:
    """Through the int8 encoder and the graph; its checkpoint on the same embeddings is equal to 1e-4."""
    served, model = Served(out / "bundle"), checkpoint.load(out / "bundle")
    batch = next(Composed(material / "features", held=7).batches("test", 7, 0))
    answers = served.run(batch)
    text = np.zeros((7, 48, 384), np.float32)
    for row in range(7):
        text[row, -6:] = served.embed(batch.text[row, -6:])
    arrays = text, batch.audio, batch.vision, batch.text_mask, batch.audio_mask, batch.vision_mask
    with torch.no_grad():
        expected = model.infer(*(torch.from_numpy(array) for array in arrays))
    np.testing.assert_allclose(answers.logits, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(answers.alone["audio"], expected.audio_logits.numpy(), atol=1e-4)


def test_the_int8_encoder_is_near_the_one_that_was_trained(out: Path) -> None:
    session = ort.InferenceSession(out / "bundle/text_encoder.onnx", providers=["CPUExecutionProvider"])
    state = torch.load(out / "last.pt", weights_only=True)["best"]
    config = train.overridden(load(out / "config.toml"), [])
    whole, _ = train.build(config, train.open_data(config))
    whole.load_state_dict(state)
    pieces = np.array([[2, 5, 6, 8, 3]], np.int64)
    with torch.no_grad():
        expected = whole.embed(torch.from_numpy(pieces), None).numpy()
    got = session.run(None, {"input_ids": pieces, "attention_mask": np.ones_like(pieces)})[0]
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_the_normalisation_of_the_spec_is_inside_the_network(out: Path) -> None:
    model, spec = checkpoint.load(out / "bundle"), network.load(out / "bundle").features
    for sense in ("audio", "vision"):
        one = spec.input(sense)
        torch.testing.assert_close(model.decoupled[sense].mean, torch.tensor(one.mean))
        torch.testing.assert_close(model.decoupled[sense].scale, torch.tensor(one.scale))


def test_the_manifest_vouches_for_every_file_that_is_served(out: Path) -> None:
    """What training and evaluation use (checkpoint, baseline, fingerprints) is no part of what is served."""
    hashes = json.loads((out / "bundle/bundle.json").read_text())["sha256"]
    assert set(hashes) == set(bundle.SERVED)
    assert all((out / "bundle" / name).is_file() for name in hashes)


def test_a_bundle_knows_what_it_was_trained_and_chosen_on(out: Path) -> None:
    seen = known(out / "bundle")
    assert all(len(seen[kind]) == 28 for kind in ("ravdess", "fer", "meld"))  # of 42; a third is the test


def _start(*arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), "-m", "models.train", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)


def test_a_run_that_was_killed_goes_on_to_the_numbers_of_one_that_was_not(
    out: Path, material: Path, tmp_path: Path
) -> None:
    process = _start(*_arguments(material, tmp_path))
    _wait_for(tmp_path / "last.pt", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["epoch"]
    assert 1 <= done <= 2 and not (tmp_path / "bundle").exists()
    process = _start(*_arguments(material, tmp_path))
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    killed, whole = (load_file(folder / "network.safetensors") for folder in (tmp_path, out))
    for name, value in whole.items():
        np.testing.assert_array_equal(killed[name], value, err_msg=name)


def test_ctrl_c_ends_with_a_sentence_and_status_130(material: Path, tmp_path: Path) -> None:
    process = _start(*_arguments(material, tmp_path, "optimisation.epochs=1000", "optimisation.patience=0"))
    _wait_for(tmp_path / "last.pt", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("stopped; the same command goes on from")


def test_two_processes_train_one_network_without_a_part_of_it(material: Path, tmp_path: Path) -> None:
    settings = "optimisation.epochs=1", "ablation.hetero_gd=false"
    process = _start(*_arguments(material, tmp_path, *settings), processes=2)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    assert not network.load(tmp_path / "bundle").manifest.distilled


def test_another_configuration_does_not_go_on_with_a_run(
    out: Path, material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(_arguments(material, out, "optimisation.rate=0.5")) == 2
    assert "another configuration" in capsys.readouterr().err


def test_a_sense_is_taken_away_but_never_the_last_one(material: Path) -> None:
    batch = Composed(material / "features", held=70).subset("test", "LAV", 70, 0)
    dropped = drop_senses(next(batch), 0.7, np.random.default_rng(0))
    there = np.stack([getattr(dropped, f"{s}_mask").any(1) for s in ("text", "audio", "vision")], 1)
    assert there.any(1).all()
    assert 0.3 < there.mean() < 0.6


def test_the_rate_is_halved_when_nothing_improves() -> None:
    assert plateau([3, 2, 1], 2) == 1
    assert plateau([1, 2, 2], 2) == 1
    assert plateau([1, 2, 2, 2], 2) == 0.5
    assert plateau([1, 2, 2, 2, 2, 2, 2], 2) == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nkind='mmsa'\n", "path"),
        ("[data]\nkind='csv'\npath='x'\n", "kind"),
        ("surprise = 1\n[data]\nkind='mmsa'\npath='x'\n", "surprise"),
        ("[data]\nkind='mmsa'\npath=", "Invalid"),
    ],
)
def test_a_configuration_that_is_none_is_refused_with_the_field(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert train.main(["--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "setting", ["optimisation.batch=0", "optimisation.modality_dropout=1.5", "optimisation.rate=-1"]
)
def test_values_that_cannot_train_are_refused(
    material: Path, tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(_arguments(material, tmp_path, setting)) == 2
    assert setting.split("=")[0] in capsys.readouterr().err


def test_missing_features_are_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.encoder(tmp_path / "bert")
    assert train.main(_arguments(tmp_path, tmp_path / "out")) == 2
    assert "extract_corpora" in capsys.readouterr().err


def test_a_setting_overrides_a_field_and_says_what_it_expected() -> None:
    config = train.overridden(load(CONFIG), ["optimisation.rate=0.5", "name=other"])
    assert (config.optimisation.rate, config.name) == (0.5, "other")
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        train.overridden(config, ["optimisation.rate"])
    with pytest.raises(ConfigError, match="epochs"):
        train.overridden(config, ["optimisation.epochs=many"])
    assert isinstance(config, Training)
