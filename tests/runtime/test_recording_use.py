"""What can be done with a recording: mended, turned into tables."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import pyxdf
from pyarrow import parquet

from capture.messages import FeatureBlock
from runtime.markers import Markers, beside, of_recording
from runtime.recording import Recording
from runtime.recording.__main__ import main
from runtime.recording.info import summarise
from runtime.stream import Emotion, decode
from tests.end_to_end.application import Application

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "runtime/demo/face_and_speech.mcap"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return Path(shutil.copy(DEMO, tmp_path / "session.mcap"))


@pytest.fixture
def endpoint_folder() -> Iterator[str]:
    """A short path: that of a socket may have 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def emotions(path: Path) -> list[Emotion]:
    found = [decode(payload) for _, payload in Recording.open(path).emotions()]
    return [message for message in found if isinstance(message, Emotion)]


# --- mended


def test_an_application_killed_in_mid_session_loses_less_than_a_second_of_what_it_published(
    tmp_path: Path, endpoint_folder: str
) -> None:
    path = tmp_path / "session.mcap"
    arguments = ("--replay", str(DEMO), "--record", str(path))
    application = Application(f"ipc://{endpoint_folder}/s", dict(os.environ), *arguments)
    try:
        published_s: dict[int, float] = {}  # seq -> when a subscriber had it
        while len(published_s) < 8:
            message = application.read_until(lambda message: message["type"] == "emotion")
            published_s[message["seq"]] = time.monotonic()
        killed_s = time.monotonic()
        application.process.send_signal(signal.SIGKILL)
        assert application.wait() == -signal.SIGKILL
    finally:
        application.close()
    recorded = [message.seq for message in emotions(path)]
    assert recorded == list(range(len(recorded)))
    lost = published_s.keys() - recorded
    assert all(killed_s - published_s[seq] < 1 for seq in lost) and len(recorded) >= 6
    assert main(["repair", str(path)]) == 0
    mended = summarise(Recording.open(tmp_path / "session.repaired.mcap"))
    assert mended.complete and mended.emotions == len(recorded)


def test_one_that_broke_off_becomes_whole_and_stays_as_it_was(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = whole.read_bytes()[: whole.stat().st_size // 2]
    whole.write_bytes(content)
    broken = summarise(Recording.open(whole))
    assert main(["repair", str(whole)]) == 0
    told = capsys.readouterr().out
    mended = tmp_path / "session.repaired.mcap"
    info = summarise(Recording.open(mended))
    assert info.complete and info.end is not None and info.end["repaired"]["broke_off"] is True
    assert info.emotions == broken.emotions > 5 and info.words == broken.words
    assert {n: s.samples for n, s in info.streams.items()} == {
        n: s.samples for n, s in broken.streams.items()
    }
    assert whole.read_bytes() == content and "lost: what came after the end" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == [whole.name, mended.name]


def test_a_damaged_stretch_is_left_out_and_named(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 0xFF
    whole.write_bytes(content)
    assert main(["repair", str(whole), "--out", str(tmp_path / "mended.mcap")]) == 0
    told = capsys.readouterr().out
    before, after = Recording.open(whole), Recording.open(tmp_path / "mended.mcap")
    assert [a.t_arrival_ns for a in before] == [a.t_arrival_ns for a in after]
    assert before.damaged_chunks == 1 and not after.warnings
    (gap,) = before.gaps
    times_ns = [raw.log_ns for raw in after.raw()]
    assert any((gap.first_ns, gap.last_ns) == pair for pair in pairwise(times_ns))
    assert f"lost: 1 damaged stretches ({before.told(gap)})" in told
    was, now = summarise(before), summarise(after)
    assert was.damaged == [before.told(gap)] and not was.complete
    assert now.complete and now.repaired is not None and now.repaired["gaps"] == was.damaged


def test_a_whole_one_is_left_alone(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", str(whole)]) == 0
    assert "is whole: nothing to do" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [whole]


def test_nothing_is_overwritten(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.mcap"
    mine.write_text("thesis")
    whole.write_bytes(whole.read_bytes()[:100_000])
    for command in (["repair", str(whole)], ["export", str(whole), "--to", "xdf"]):
        assert main([*command, "--out", str(mine)]) == 2
        told = capsys.readouterr().err
        assert "mine.mcap exists already" in told and told.count("\n") == 1
    assert mine.read_text() == "thesis"


# --- tables


def test_csv_has_a_row_for_each_window_word_and_vector(whole: Path, tmp_path: Path) -> None:
    assert main(["export", str(whole), "--out", str(tmp_path / "t")]) == 0
    tables = {}
    for path in (tmp_path / "t").iterdir():
        with path.open(newline="") as file:
            tables[path.stem] = list(csv.DictReader(file))
    published, info = emotions(whole), summarise(Recording.open(whole))
    assert [float(row["time_s"]) for row in tables["emotions"]] == [m.time.end_ns / 1e9 for m in published]
    for row, message in zip(tables["emotions"], published, strict=True):
        assert not isinstance(message.emotions, type(None)) and row["top"] == message.emotions.top  # type: ignore[union-attr]
        shares = [float(value) for name, value in row.items() if name.startswith("p_")]
        assert len(shares) == 7 and math.isclose(sum(shares), 1, abs_tol=1e-3)
        edges = [float(value) for name, value in row.items() if name.startswith("hetero_")]
        assert len(edges) == 6 and math.isclose(sum(edges), 1, abs_tol=1e-3)
    assert " ".join(row["word"] for row in tables["words"]).startswith("And so my fellow Americans")
    assert len(tables["words"]) == info.words
    assert len(tables["vision"]) == info.streams["vision"].samples
    assert {"jawOpen", "presence"} <= tables["vision"][0].keys() and len(tables["audio"][0]) == 1 + 42


def test_columns_stand_in_the_same_order_whatever_is_missing_in_the_first_window(
    whole: Path, tmp_path: Path
) -> None:
    assert main(["export", str(whole), "--out", str(tmp_path / "t")]) == 0
    names = (tmp_path / "t/emotions.csv").read_text().split("\n", 1)[0].split(",")
    assert names[:3] == ["time_s", "start_s", "wall"]
    text, audio = names.index("text_logit_sad"), names.index("audio_logit_sad")
    assert text < names.index("audio_present") < audio < names.index("vision_present")


def test_parquet_holds_what_csv_holds(whole: Path, tmp_path: Path) -> None:
    for to in ("parquet", "csv"):
        assert main(["export", str(whole), "--to", to, "--out", str(tmp_path / to)]) == 0
    names = {path.stem for path in (tmp_path / "csv").glob("*.csv")}
    assert {"emotions", "words", "audio", "vision"} <= names
    assert {path.stem for path in (tmp_path / "parquet").glob("*.parquet")} == names
    for name in names:
        columns = parquet.read_table(tmp_path / f"parquet/{name}.parquet").to_pydict()
        with (tmp_path / f"csv/{name}.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        assert list(columns) == head and rows
        said = [
            ["" if cell is None else str(cell) for cell in row] for row in zip(*columns.values(), strict=True)
        ]
        assert said == rows, name
    table = parquet.read_table(tmp_path / "parquet/emotions.parquet").to_pydict()
    assert table["top"] == [m.emotions.top for m in emotions(whole) if hasattr(m.emotions, "top")]
    assert None in table["text_logit_sad"]  # no words yet in the first window: absent, not zero


def test_other_tools_read_the_xdf(whole: Path, tmp_path: Path) -> None:
    assert main(["export", str(whole), "--to", "xdf", "--out", str(tmp_path / "s.xdf")]) == 0
    streams, _ = pyxdf.load_xdf(tmp_path / "s.xdf")
    by_name = {stream["info"]["name"][0]: stream for stream in streams}
    published = emotions(whole)
    found = by_name["emotions"]
    labels = [c["label"][0] for c in found["info"]["desc"][0]["channels"][0]["channel"]]
    assert found["time_stamps"].tolist() == [m.time.end_ns / 1e9 for m in published]
    sad = found["time_series"][:, labels.index("p_sad")]
    expected = [
        m.emotions.scores[m.emotions.labels.index("sad")] for m in published if hasattr(m.emotions, "scores")
    ]
    assert sad.tolist() == expected
    assert by_name["words"]["time_series"][0] == ["And"]
    assert by_name["vision"]["time_series"].shape == (
        summarise(Recording.open(whole)).streams["vision"].samples,
        59,
    )
    for name in ("audio", "vision"):  # to the nanosecond as captured, with pyxdf as it is
        times_ns = [
            t_ns
            for arrival in Recording.open(whole)
            if isinstance(arrival.message, FeatureBlock) and arrival.message.stamp.stream == name
            for t_ns in arrival.message.times_ns.tolist()
        ]
        assert by_name[name]["time_stamps"].tolist() == [t_ns / 1e9 for t_ns in times_ns]


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none.mcap")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.write_bytes(whole.read_bytes()[:100_000])
    for command in ("repair", "export"):
        for folder in (whole, tmp_path / "none", tmp_path / ("x" * 300)):
            assert main([command, str(whole), "--out", str(folder / "x")]) == 2
            told = capsys.readouterr().err
            assert told.startswith("error: ") and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == [whole]


def test_markers_stand_in_info_in_exports_and_beside_what_was_rescored_or_mended(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = tmp_path / "s.mcap"
    shutil.copy(whole, session)
    markers = of_recording(Recording.open(session))
    for t_ns, text in ((1_500_000_000, "he laughs"), (2_500_000_000, "")):
        markers.add(t_ns, "media", text)
    assert stat.S_IMODE(beside(session).stat().st_mode) == 0o600
    Markers(beside(session), "last week").add(0, "media", "of a session that was moved away")
    with beside(session).open("ab") as file:
        file.write(b"no marker\n")  # a damaged line costs no more than itself
    seen = summarise(Recording.open(session))
    assert (seen.markers, seen.markers_skipped, seen.markers_others) == (2, 1, 1)
    capsys.readouterr()
    assert main(["info", str(session)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"markers +│ 2 ", said) and re.search(r"left out +│ 1 damaged, 1 of another sess", said)
    assert main(["export", str(session), "--to", "csv", "--out", str(tmp_path / "csv")]) == 0
    with (tmp_path / "csv/markers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(float(row["time_s"]), row["marker"]) for row in rows] == [(1.5, "he laughs"), (2.5, "")]
    assert main(["export", str(session), "--to", "parquet", "--out", str(tmp_path / "parquet")]) == 0
    table = parquet.read_table(tmp_path / "parquet/markers.parquet").to_pydict()
    assert table == {"time_s": [1.5, 2.5], "marker": ["he laughs", ""], "wall": [m.wall for m in markers.all]}
    assert main(["export", str(session), "--to", "xdf", "--out", str(tmp_path / "s.xdf")]) == 0
    streams, _ = pyxdf.load_xdf(tmp_path / "s.xdf")
    found = next(stream for stream in streams if stream["info"]["name"] == ["markers"])
    assert found["info"]["type"] == ["Markers"] and found["time_series"] == [["he laughs"], [""]]
    assert found["info"]["channel_format"] == ["string"] and float(found["info"]["nominal_srate"][0]) == 0
    assert found["time_stamps"].tolist() == [1.5, 2.5]  # irregular: where they were set, and nowhere else
    assert main(["rescore", str(session), "--out", str(tmp_path / "again.mcap")]) == 0
    session.write_bytes(session.read_bytes()[:200_000])
    assert main(["repair", str(session)]) == 0
    for made in ("again", "s.repaired"):
        assert of_recording(Recording.open(tmp_path / f"{made}.mcap")).all == markers.all
        assert stat.S_IMODE((tmp_path / f"{made}.markers.jsonl").stat().st_mode) == 0o600
    capsys.readouterr()
