"""The devices bench: it measures a real device, and what is noticed too late is its exit status."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from runtime import bench, bench_devices
from runtime.bench_devices import Event, Session
from runtime.bench_engine import BenchError
from runtime.loopback import NetworkCamera
from runtime.stream import Picture


@pytest.fixture
def assets(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_ASSETS", str(shared / "models"))


@pytest.mark.usefixtures("assets")
def test_what_a_camera_does_is_measured_from_its_beginning_to_what_a_subscriber_gets(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_devices, "REST_S", 0)
    camera, events = NetworkCamera(bench_devices._pictures()), dict[str, Event]()
    began = time.monotonic()
    try:
        with closing(Session(endpoint, "--input", camera.url)) as session:
            bench_devices._go_through(
                events, session, Picture, "vision",
                ("comes", camera.switch_on, True), ("goes", camera.switch_off, False),
            )  # fmt: skip
    finally:
        camera.switch_off()
    took_s = time.monotonic() - began
    assert list(events) == ["comes", "goes"]
    assert all(0 < s < took_s for event in events.values() for s in (*event.noticed_s, *event.again_s))
    assert [(len(e.noticed_s), len(e.again_s)) for e in events.values()] == [(1, 1), (1, 0)]


def test_a_session_that_ends_is_told_with_its_last_line(endpoint: str) -> None:
    session = Session(endpoint, "--input", "/nowhere.mp4")
    with closing(session), pytest.raises(BenchError, match=r"/nowhere\.mp4"):
        session.until(lambda message: False)


@pytest.mark.parametrize(("worst_s", "status"), [(1.9, 0), (2.1, 1)])
def test_what_is_noticed_after_more_than_two_seconds_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], worst_s: float, status: int
) -> None:
    def once(events: dict[str, Event], endpoint: str) -> None:
        events.setdefault("camera goes", Event()).noticed_s += [0.5, worst_s, 0.75]

    monkeypatch.setattr(bench_devices, "_camera", once)
    monkeypatch.setattr(bench_devices, "_microphone", lambda *_: None)
    assert bench.main(["devices", "--rounds", "1"]) == status
    told = capsys.readouterr().out
    assert f"median 0.75, worst {worst_s:.2f}" in told
    assert ("noticed after more than 2 s: camera goes" in told) == bool(status)


def test_without_a_sound_server_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_devices, "_camera", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench.main(["devices", "--rounds", "1"]) == 2
    assert "apt-get install pulseaudio" in capsys.readouterr().err


@pytest.mark.parametrize("rounds", ["0", "-1", "many", "101"])
def test_rounds_that_cannot_be_are_one_line(capsys: pytest.CaptureFixture[str], rounds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["devices", "--rounds", rounds])
    assert ended.value.code == 2
    assert f"{rounds!r}: expected 1 to 100 rounds" in capsys.readouterr().err


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["devices", "--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in ("noticed", "again", "examples:", "exit status:", "default: 5"))
