"""Labelled clips become features, a training and a report; stops, changes and broken clips are survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from models import train
from models.clips import Clip, Index, SpokenWord, open_clips, split_of
from models.data import DataError
from runtime import network
from tests.models import made

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "build/extract_features.py"
WORDS = {"low": "it is all so sad", "high": "what a wonderful day"}


def _sound(path: Path, hz: float, seconds: float = 1.5) -> None:
    """A harsh tone, so that bands differ; loud enough to be heard."""
    t = np.arange(int(16000 * seconds)) / 16000
    samples = (12000 * np.sign(np.sin(2 * np.pi * hz * t)) * (np.sin(2 * np.pi * 3 * t) > 0)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two classes, a few clips each, in every split."""
    lines = ["path,text,label,split"]
    for number in range(8):
        for label, hz in (("low", 150 + 5 * number), ("high", 900 + 20 * number)):
            name = f"{label}{number}.wav"
            _sound(tmp_path / name, hz)
            split = "train" if number < 4 else "validation" if number < 6 else "test"
            lines.append(f"{name},{WORDS[label]},{label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


def _extract(table: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), str(table), "--out", str(out), "--no-faces", "--jobs", "1", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_labelled_clips_become_a_report_and_a_bundle_that_runs(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    done = _extract(table, out)
    assert done.returncode == 0, done.stderr
    assert "8 train, 4 validation, 4 test" in done.stdout
    settings = [s for s in made.TINY if not s.startswith("data.")]
    arguments = ["--config", str(ROOT / "models/configs/clips.toml"), "--data", str(out)]
    arguments += ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert train.main([*arguments, *(part for one in settings for part in ("--set", one))]) == 0
    numbers = json.loads((tmp_path / "run/report.json").read_text())
    assert numbers["labels"] == ["high", "low"]
    assert numbers["splits"]["test"]["windows"] == 4
    assert network.load(tmp_path / "run/bundle").manifest.labels == ("high", "low")


def test_a_run_that_was_stopped_goes_on_and_changed_clips_are_done_again(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    command = [sys.executable, str(TOOL), str(table), "--out", str(out), "--no-faces", "--jobs", "1"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    end = time.monotonic() + 60
    while not list(out.glob("clips/*.npz")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    finished = process.returncode == 0
    assert finished or (process.returncode == 130 and "goes on from here" in errors)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("clips/????????.npz")}
    _sound(tmp_path / "low3.wav", 333)
    assert _extract(table, out).returncode == 0
    again = {path: path.stat().st_mtime_ns for path in out.glob("clips/????????.npz")}
    assert len(again) == 16
    redone = {path for path, at in kept.items() if again[path] != at}
    assert len(redone) <= 1


def test_a_broken_clip_is_named_and_the_others_go_on(table: Path, tmp_path: Path) -> None:
    (tmp_path / "low0.wav").write_bytes(b"no sound")
    done = _extract(table, tmp_path / "features")
    assert done.returncode == 1
    assert "low0.wav" in done.stdout.replace("\n", "") and "1 left out" in done.stdout
    assert len(open_clips(tmp_path / "features")) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\nlow0.wav,low\n", "no column text"),
        ("path,text,label\nnone.wav,hi,low\n", "line 2: path 'none.wav' is no file"),
        ("path,text,label\nlow0.wav,hi,\n", "line 2: the label is empty"),
        ("path,text,label,split\nlow0.wav,hi,low,exam\n", "line 2: split 'exam'"),
        ("path,text,label,end_s\nlow0.wav,hi,low,x\n", "must be seconds"),
        ("path,text,label\nlow0.wav,hi,low\nlow0.wav,hi,low\n", "line 3: low0.wav is there twice"),
        ("path,text,label\n", "no clip in it"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_row(
    table: Path, tmp_path: Path, content: str, message: str
) -> None:
    table.write_text(content)
    done = _extract(table, tmp_path / "features")
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "features").exists()


def test_numbers_are_a_sentiment_and_must_lie_in_its_range(table: Path, tmp_path: Path) -> None:
    table.write_text("path,text,label\nlow0.wav,hi,-2.5\nlow1.wav,hi,3.5\n")
    done = _extract(table, tmp_path / "features")
    assert done.returncode == 2 and "'3.5', expected a number in [-3, 3]" in done.stderr


def test_a_group_stays_in_one_split_and_splits_have_about_their_shares() -> None:
    splits = [split_of(f"speaker {n}") for n in range(2000)]
    assert splits == [split_of(f"speaker {n}") for n in range(2000)]
    assert 0.75 < splits.count("train") / 2000 < 0.85
    assert 0.07 < splits.count("test") / 2000 < 0.13


def _index(folder: Path, words: tuple[SpokenWord, ...], **change: str) -> Path:
    """Three clips with 100 audio frames of speech and 30 pictures, of which the face is lost in ten."""
    from capture.features import audio, vision

    (folder / "clips").mkdir(parents=True)
    rng = np.random.default_rng(0)
    clips = []
    for number, split in enumerate(("train", "validation", "test")):
        sound = rng.normal(size=(100, audio.SPEC.dim)).astype(np.float32)
        sound[:, audio.SPEC.names.index("speech")] = 1
        film = rng.normal(size=(30, vision.SPEC.dim)).astype(np.float32)
        film[:, vision.PRESENCE] = 1
        film[5:15] = 0
        np.savez(
            folder / f"clips/{number}.npz",
            made_of="",
            audio_ns=np.arange(1, 101) * 20_000_000,
            audio=sound,
            vision_ns=np.arange(1, 31) * 66_000_000,
            vision=film,
        )
        clips.append(Clip(str(number), "x", "a", split, words, 2_000_000_000))  # type: ignore[arg-type]
    hashes = {"audio": audio.SPEC.hash, "vision": vision.SPEC.hash} | change
    import msgspec

    index = Index(clips=tuple(clips), **hashes)
    (folder / "clips.json").write_bytes(msgspec.json.encode(index))
    return folder


def test_windows_are_right_aligned_and_a_lost_face_is_masked(tmp_path: Path) -> None:
    words = SpokenWord("early", 500_000_000), SpokenWord("late", 1_900_000_000)
    data = open_clips(_index(tmp_path / "f", words), "pieces")
    (batch,) = data.batches("test", 8, 0)
    assert batch.audio_mask[0, -100:].all() and not batch.audio_mask[0, :-100].any()
    assert batch.vision_mask[0].sum() == 20
    assert not batch.vision[0][batch.vision_mask[0] == 0].any()
    assert batch.text_mask[0].sum() == 4  # two words between the first and the last piece
    early = data.batch(data.of("test")[:1], None)
    np.testing.assert_array_equal(early.text, batch.text)


def test_a_training_window_ends_anywhere_and_knows_only_words_that_were_over(tmp_path: Path) -> None:
    words = SpokenWord("early", 100_000_000), SpokenWord("late", 1_990_000_000)
    data = open_clips(_index(tmp_path / "f", words), "pieces")
    lengths, said = set(), set()
    for seed in range(12):
        (batch,) = data.batches("train", 8, seed)
        lengths.add(int(batch.audio_mask.sum()))
        said.add(int(batch.text_mask.sum()))
    assert len(lengths) > 6 and min(lengths) >= 25
    assert said == {3}


@pytest.mark.parametrize("sense", ["audio", "vision"])
def test_features_of_another_version_are_refused(tmp_path: Path, sense: str) -> None:
    with pytest.raises(DataError, match=f"other {sense} features"):
        open_clips(_index(tmp_path / "f", (), **{sense: "0123456789ab"}))


def test_a_folder_without_an_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run build/extract_features"):
        open_clips(tmp_path)
