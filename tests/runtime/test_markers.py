"""Markers: where they lie, who may read them, and what a damaged file costs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from capture.clock import WallAnchor
from runtime.markers import Marker, Markers, beside, carry_over, of_recording, place
from runtime.recording import Header, Recorder, Recording
from runtime.stream import Model, SessionBegin


@pytest.mark.parametrize("session", ["../../home/x", "/etc/cron.d/x", "..", "a b", "é", ""])
def test_a_sessions_name_names_a_file_and_no_way_to_one(
    session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert place(session, None).parent == tmp_path / "emotion-edge" / "markers"


def read(recording: Path, session: str) -> tuple[Marker, ...]:
    return tuple(Markers(beside(recording), session).all)


def test_a_recording_without_markers_has_none(tmp_path: Path) -> None:
    assert read(tmp_path / "session.mcap", "s") == ()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[" * 10_000,
        b'{"x": ' + b"[" * 10_000,
        b'{"session": "s", "t_ns": 1, "clock": "sundial", "wall": ""}',
        b'{"session": "s", "t_ns": 1%s, "clock": "media", "wall": ""}' % (b"0" * 400),
        b'{"session": "s", "t_ns": 1, "clock": "media", "wall": "", "text": "\xff"}',
        b'{"session": "s", "t_ns": 1, "clock": "media", "wa',  # the disk was full
    ],
)
def test_a_damaged_line_is_left_out_and_counted_and_the_others_are_read(line: bytes, tmp_path: Path) -> None:
    recording = tmp_path / "session.mcap"
    marker = Markers(beside(recording), "s").add(1, "media", "before")
    with beside(recording).open("ab") as file:
        file.write(line + b"\n")
    after = Markers(beside(recording), "s")
    again = after.add(2, "media", "after")
    assert after.skipped == 1 and read(recording, "s") == (marker, again)


def test_a_line_that_broke_off_takes_no_other_with_it(tmp_path: Path) -> None:
    recording = tmp_path / "session.mcap"
    markers = Markers(beside(recording), "s")
    markers.add(1, "media", "whole")
    with beside(recording).open("ab") as file:
        file.write(b'{"session": "s", "t_')  # the power went
    markers.add(2, "media", "after it")
    assert [marker.text for marker in read(recording, "s")] == ["whole", "after it"]


def test_only_the_user_may_read_them_also_where_an_earlier_version_let_others(tmp_path: Path) -> None:
    path = beside(tmp_path / "session.mcap")
    path.touch(0o644)
    Markers(path, "s").add(1, "media", "")
    carry_over(tmp_path / "session.mcap", tmp_path / "out.mcap")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_markers_that_a_recording_has_are_not_replaced_by_those_of_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Markers(tmp_path / f"{name}.markers.jsonl", "s").add(1, "media", name)
    carry_over(tmp_path / "one.mcap", tmp_path / "two.mcap")
    assert [marker.text for marker in read(tmp_path / "two.mcap", "s")] == ["two"]


def test_those_of_a_session_whose_recordings_name_is_used_again_are_left_out(tmp_path: Path) -> None:
    path = beside(tmp_path / "session.mcap")
    for session, text in (("monday", "he laughs"), ("tuesday", "she laughs")):
        Markers(path, session).add(1, "monotonic", text)
    assert [marker.text for marker in read(tmp_path / "session.mcap", "monday")] == ["he laughs"]
    later = Markers(path, "tuesday")
    assert [marker.text for marker in later.all] == ["she laughs"] and (later.others, later.skipped) == (1, 0)


def recorded(path: Path, session: str, began: datetime) -> Recording:
    anchor = WallAnchor(1_000_000_000, round(began.timestamp()) * 10**9)
    Recorder(path, Header(session, "monotonic", start_ns=1_000_000_000, wall=anchor)).close()
    return Recording.open(path)


def test_those_of_a_session_of_the_same_name_and_an_earlier_day_are_left_out(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    recording = recorded(tmp_path / "session.mcap", "robot", began)
    yesterday = (began - timedelta(days=1)).isoformat()
    old = Marker(session="robot", t_ns=1, clock="monotonic", wall=yesterday, text="yesterday")
    undated = Marker(session="robot", t_ns=2, clock="monotonic", wall="?", text="whenever")
    beside(recording.path).write_bytes(b"\n".join(map(msgspec.json.encode, (old, undated))))
    of_recording(recording).add(3, "monotonic", "today")
    now = of_recording(recording)
    assert [marker.text for marker in now.all] == ["whenever", "today"] and now.others == 1


@pytest.mark.parametrize(
    ("session", "named", "beside_it"),
    [("robot", "absolute", True), ("another", "absolute", False), ("robot", "relative", False)],
)
def test_markers_lie_beside_the_recording_of_their_session_and_of_no_other(
    session: str, named: str, beside_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    recording = recorded(tmp_path / "session.mcap", "robot", datetime.now(UTC))
    record = str(recording.path) if named == "absolute" else recording.path.name
    path = place(session, begin(session, record))
    assert (path == beside(recording.path)) is beside_it
    assert beside_it or path.is_relative_to(tmp_path / "data")


def test_a_recording_that_this_user_may_not_see_has_its_markers_in_the_users_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        recorded(Path(folder, "session.mcap"), "robot", datetime.now(UTC))
        user = os.geteuid()
        Path(folder).chmod(0)
        if user == 0:  # who may enter everything
            os.seteuid(65534)
        try:
            for record in (f"{folder}/session.mcap", f"{folder}/{'x' * 5000}", f"{folder}/\0"):
                assert place("robot", begin("robot", record)).is_relative_to(tmp_path)
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o700)


def begin(session: str, record: str) -> SessionBegin:
    model = Model(name="n", hash="h", features="f", engine="onnxruntime-cpu", precision="fp32")
    return SessionBegin(
        session=session,
        started=datetime.now(UTC).isoformat(),
        clock="monotonic",
        config={"record": record},
        model=model,
        streams={},
        software="0",
    )


def test_they_are_read_without_the_page() -> None:
    program = "import sys, runtime.markers; sys.exit('nicegui' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
