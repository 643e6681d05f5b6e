"""From raw clips, pictures and lines to features, a training, a report and an evaluation."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from models import corpora as corpora_of
from models import evaluate, train
from models.composed import SUBSETS
from models.corpora import EMOTIONS, TRAIN
from models.data import DataError
from models.served import Served
from tests.models import made

ROOT = Path(__file__).parent.parent.parent
PRETRAINED = ROOT / "models/pretrained"


@pytest.fixture(scope="module")
def raw(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few items of every emotion in every split, in the corpora's own layouts."""
    folder = tmp_path_factory.mktemp("raw")
    corpora = shared / "corpora"
    (folder / "voices").mkdir()
    for actor in ("01", "17", "20"):
        for code in ("01", "03", "04", "05", "06", "07", "08"):
            for path in sorted((corpora / "ravdess_16k").glob(f"03-01-{code}-01-*-{actor}.flac"))[:2]:
                shutil.copy(path, folder / "voices")
    for item in _few(corpora_of.fer(corpora / "fer2013_112")):
        path = Path(item.source)
        into = folder / "faces" / path.parent.parent.name / path.parent.name
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into)
    (folder / "lines").mkdir()
    for part in ("train", "dev"):
        with (corpora / f"meld/{part}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        with (folder / f"lines/{part}_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows[:900])
    return folder


def _few(items: list[corpora_of.Item]) -> list[corpora_of.Item]:
    """Some faces of every emotion in every split."""
    taken: Counter[tuple[int, int]] = Counter()
    few = []
    for item in items:
        taken[item.split, item.label] += 1
        if taken[item.split, item.label] <= (6 if item.split == TRAIN else 3):
            few.append(item)
    return few


@pytest.fixture(scope="module")
def assets(shared: Path) -> dict[str, str]:
    return os.environ | {"EMOTION_ASSETS": str(shared / "models"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def features(raw: Path, assets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What build/extract_corpora.py makes of them."""
    folder = tmp_path_factory.mktemp("features")
    command = [sys.executable, str(ROOT / "build/extract_corpora.py"), "--ravdess", str(raw / "voices")]
    command += ["--fer", str(raw / "faces"), "--meld", str(raw / "lines"), "--out", str(folder)]
    subprocess.run([*command, "--variants", "1"], check=True, env=assets, cwd=ROOT, timeout=170)
    return folder


@pytest.fixture(scope="module")
def run(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training on them."""
    out = tmp_path_factory.mktemp("run")
    bert = made.encoder(tmp_path_factory.mktemp("bert"), vocabulary=30522)
    shutil.copy(PRETRAINED / "tokenizer.json", bert)
    settings = [*made.TINY, f'text_encoder.source="{bert}"']
    arguments = ["--config", str(ROOT / "models/configs/bundled.toml"), "--data", str(features)]
    arguments += ["--out", str(out), "--device", "cpu"]
    assert train.main([*arguments, *(part for one in settings for part in ("--set", one))]) == 0
    return out


def test_raw_clips_become_a_report(run: Path) -> None:
    numbers = json.loads((run / "report.json").read_text())
    assert set(numbers["splits"]) == {"validation", "test"}
    assert numbers["labels"] == list(EMOTIONS)
    assert (run / "report.html").read_text().count("data:image/png;base64,") >= 4


def test_the_table_has_every_subset_and_leaves_out_what_was_trained_on(
    raw: Path, run: Path, assets: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("EMOTION_ASSETS", assets["EMOTION_ASSETS"])
    arguments = ["--network", str(run / "bundle"), "--windows", "28", "--jobs", "1"]
    arguments += ["--ravdess", str(raw / "voices"), "--fer", str(raw / "faces")]
    assert evaluate.main([*arguments, "--meld", str(raw / "lines/dev_sent_emo.csv")]) == 0
    printed = capsys.readouterr().out
    assert "voices: 14 items (28 that it was trained on are left out)" in printed
    assert "faces: 21 items (63 that it was trained on are left out)" in printed
    for subset in SUBSETS:
        row = next(line for line in printed.splitlines() if line.startswith(f"| {subset} |"))
        numbers = [float(cell) for cell in row.strip("| ").split(" | ")[1:] if cell != "-"]
        assert all(0 <= number <= 1 for number in numbers)
    assert "audio (RAVDESS) | 14" in printed


def test_faces_alone_can_be_evaluated(
    raw: Path, assets: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMOTION_ASSETS", assets["EMOTION_ASSETS"])
    assert evaluate.main(["--fer", str(raw / "faces/valid"), "--windows", "14", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| V |" in printed and "| LAV |" not in printed


def test_an_evaluation_of_nothing_new_says_so(
    raw: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (raw / "voices").glob("*-01.flac"):
        shutil.copy(path, tmp_path)
    assert evaluate.main(["--network", str(run / "bundle"), "--ravdess", str(tmp_path)]) == 2
    assert "trained on each of its 14 items" in capsys.readouterr().err


def test_what_cannot_be_evaluated_is_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([])
    assert evaluate.main(["--fer", str(tmp_path / "none")]) == 2
    assert evaluate.main(["--network", str(tmp_path), "--fer", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-2].endswith("is no folder") and "bundle.json" in lines[-1]


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("bundle.json", "features.json", "text_encoder.onnx"):
        shutil.copy(PRETRAINED / name, tmp_path)
    (tmp_path / "network.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError, match=str(tmp_path)):
        Served(tmp_path)
