"""The extractor as a command: labelled clips become features and a network, through every trouble."""

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
from models.clip_index import Index, read_index, read_rows
from models.clips import open_clips
from runtime import network
from tests.capture.films import film
from tests.models import made

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "build/extract_features.py"
WORDS = {"low": "it is all so sad", "high": "what a wonderful day"}


def sound(path: Path, hz: float, seconds: float = 1.5) -> None:
    """A harsh tone that comes and goes, so that bands differ."""
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
            sound(tmp_path / f"{label}{number}.wav", hz)
            split = "train" if number < 4 else "validation" if number < 6 else "test"
            lines.append(f"{label}{number}.wav,{WORDS[label]},{label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


def command(table: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(TOOL), str(table), "--out", str(out), "--no-faces", "--jobs", "1", *more]


def extract(table: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(table, out, *more), capture_output=True, text=True, timeout=120)


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("clips/*.npz")}


def test_labelled_clips_become_a_report_and_a_bundle_that_runs(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    done = extract(table, out, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "8 train, 4 validation, 4 test (split by the table)" in done.stdout
    settings = [s for s in made.TINY if not s.startswith("data.")]
    arguments = ["--config", str(ROOT / "models/configs/clips.toml"), "--data", str(out)]
    arguments += ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert train.main([*arguments, *(part for one in settings for part in ("--set", one))]) == 0
    numbers = json.loads((tmp_path / "run/report.json").read_text())
    assert numbers["labels"] == ["high", "low"]
    assert numbers["splits"]["test"]["windows"] == 4
    assert network.load(tmp_path / "run/bundle").manifest.labels == ("high", "low")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on_and_only_changed_clips_are_done_again(
    table: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "features"
    for number in range(8):  # long enough to be stopped in the middle
        sound(tmp_path / f"high{number}.wav", 900, seconds=8)
    process = subprocess.Popen(
        command(table, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    while len(stamps(out)) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: to every process
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=20)  # ends when the last worker has closed its standard error
    if process.returncode == 0 and len(stamps(out)) == 16:
        pytest.skip("a fast machine: every clip was done before the signal came")
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert ("the same command goes on" in errors) == (how == signal.SIGINT)
    assert "Traceback" not in errors
    kept = stamps(out)
    assert 2 <= len(kept) < 16 and not (out / "clips.json").exists()
    sound(tmp_path / "low0.wav", 333)
    assert extract(table, out).returncode == 0
    again = stamps(out)
    assert len(again) == 16 and not list(out.glob("clips/*.half"))
    index = read_index(out)
    (changed,) = (clip.id for clip in index.clips if clip.path == "low0.wav")
    assert {name for name in kept if again[name] != kept[name]} == {f"{changed}.npz"}
    assert extract(table, out).returncode == 0 and stamps(out) == again


def test_the_index_says_what_there_is_of_every_clip_in_the_tables_order(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    table.write_text("path,text,label,start_s,end_s\nlow0.wav,so so,low,,\nhigh0.wav,yes,high,0.5,1\n")
    done = extract(table, out)
    assert done.returncode == 0, done.stderr
    index: Index = read_index(out)
    whole, part = index.clips
    assert (whole.path, whole.label, whole.text, whole.words) == ("low0.wav", "low", "so so", ())
    assert (whole.audio_rows, whole.vision_rows) == (73, 0)
    assert 0.5e9 <= part.begin_ns < part.end_ns <= 1e9 and part.audio_rows == 25 and part.seconds < 0.5
    rows = read_rows(out, part)
    assert rows["audio"].shape == (25, 42) and rows["vision"].shape == (0, 59)


def test_words_come_with_their_times_from_subtitles_where_the_text_is_empty(
    table: Path, tmp_path: Path
) -> None:
    cue = "WEBVTT\n\n00:00:00.000 --> 00:00:00.600\nnot now\n\n00:00:01.000 --> 00:00:01.600\nmaybe later\n"
    (tmp_path / "low0.vtt").write_text(cue)
    (tmp_path / "low1.vtt").write_text("no subtitles")
    table.write_text(
        "path,text,label,start_s\nlow0.wav,,low,\nlow0.wav,,low,0.8\nlow0.wav,given,low,0.1\nlow1.wav,,low,\n"
    )
    done = extract(table, tmp_path / "features")
    assert done.returncode == 1
    assert "left out:" in done.stderr and "low1.vtt, line 1: expected WEBVTT" in done.stderr
    whole, part, given = read_index(tmp_path / "features").clips
    assert [w.text for w in whole.words] == ["not", "now", "maybe", "later"]
    assert whole.words[-1].end_ns == whole.end_ns  # a cue may outlast the sound; its words do not
    assert [w.text for w in part.words] == ["maybe", "later"] and part.text == "maybe later"
    assert given.words == () and given.text == "given"


def test_a_broken_clip_is_one_line_and_the_others_go_on(table: Path, tmp_path: Path) -> None:
    (tmp_path / "low0.wav").write_bytes(b"no sound")
    (tmp_path / "low1.wav").write_bytes((tmp_path / "low1.wav").read_bytes()[:60])
    done = extract(table, tmp_path / "features")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "left out: " in line]
    assert len(lines) == 2 and sum("low0.wav" in line for line in lines) == 1
    assert "2 of 16 clips are broken and left out" in done.stderr and "Traceback" not in done.stderr
    assert len(open_clips(tmp_path / "features", "pieces")) == 6


def test_a_clip_that_kills_its_process_is_named_and_the_others_go_on(table: Path, tmp_path: Path) -> None:
    """A stand-in for a decoder that crashes: the sound of one clip ends the process that hears it."""
    crash = "import os, capture.offline as o; hear = o.hear\n"
    crash += "o.hear = lambda path, *a: os._exit(9) if path.name == 'high2.wav' else hear(path, *a)\n"
    (tmp_path / "crashing").mkdir()
    (tmp_path / "crashing/sitecustomize.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{crash}"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "crashing")}
    done = subprocess.run(
        command(table, tmp_path / "features", "--jobs", "2"),
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "high2.wav: the process that read it died" in done.stderr and "1 of 16 clips" in done.stderr
    assert len(read_index(tmp_path / "features").clips) == 15


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("path,text,label\nnone.wav,hi,low\n", (), "line 2: no file"),
        ("path,text,label\nlow0.wav,hi,3.5\n", (), "line 2: label '3.5'"),
        (
            "path,text,label\nlow0.wav,hi,low\n",
            ("--network", "models/pretrained"),
            "label 'low', expected one",
        ),
        ("path,text,label\nlow0.wav,hi,low\n", ("--network", "nowhere"), "nowhere is no folder"),
        ("path,text,label\nlow0.wav,hi,low\n", ("--clips", "nowhere"), "nowhere/low0.wav"),
        ("path,text,label\nlow0.wav,hi,low\n", ("--jobs", "0"), "'0', expected a number of processes"),
    ],
)
def test_bad_usage_is_one_line_before_anything_is_written(
    table: Path, tmp_path: Path, content: str, more: tuple[str, ...], message: str
) -> None:
    table.write_text(content)
    done = extract(table, tmp_path / "features", *more)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "features").exists()


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = extract(tmp_path / "labels.csv", tmp_path / "features")
    assert done.returncode == 2 and "labels.csv: No such file" in done.stderr


def test_sound_alone_needs_no_landmarker_and_pictures_say_where_to_put_it(
    table: Path, tmp_path: Path
) -> None:
    offline = {"EMOTION_ASSETS": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "no_proxy": ""}
    offline["https_proxy"] = "http://127.0.0.1:9"
    faces = [part for part in command(table, tmp_path / "f") if part != "--no-faces"]
    table.write_text("path,text,label\nlow0.wav,hi,low\n")
    settings = {"env": os.environ | offline, "capture_output": True, "text": True, "timeout": 60}
    assert subprocess.run(faces, **settings).returncode == 0  # type: ignore[call-overload]
    film(tmp_path / "film.mkv", seconds=0.5)
    table.write_text("path,text,label\nlow0.wav,hi,low\nfilm.mkv,hi,low\n")
    done = subprocess.run(faces, **settings)  # type: ignore[call-overload]
    assert done.returncode == 2 and "face_landmarker.task could not be downloaded" in done.stderr


def test_the_help_teaches() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for part in (
        "path,text,label",
        "--jobs",
        "models.train",
        "runtime.live --network",
        "goes on after a stop",
    ):
        assert part in done.stdout
