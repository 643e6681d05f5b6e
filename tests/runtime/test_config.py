"""Configuration: defaults, then the file, then the command line; what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import config
from runtime.config import Config, ConfigError, told
from runtime.plan import make, senses_of
from runtime.sources import LiveSource
from tests.capture.films import film


def test_the_command_line_overrides_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('hop_s = 1.0\nasr = "none"\n')
    made = config.load(file, {"asr": "whisper:tiny"})
    assert (made.hop_s, made.asr, made.lateness_s) == (1.0, "whisper:tiny", 0.25)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hop_s": 0}, "hop_s = 0"),
        ({"hop_s": "soon"}, "hop_s"),
        ({"asr": "guess"}, "guess"),
        ({"engine": "abacus"}, "abacus"),
        ({"session": "a b"}, "a b"),
        ({"duration_s": -1}, "duration_s"),
        ({"fast": True}, "fast"),
        ({"loop": True}, "loop"),
        ({"demo": True, "input": "x.mp4"}, "input and demo"),
        ({"demo": True, "record": "x.mcap"}, "record"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.load(None, settings)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("hop_s is 1")
    with pytest.raises(ConfigError, match=r"s\.toml"):
        config.load(file, {})


def test_what_is_switched_off_is_switched_off_in_a_file_and_a_network_camera_too(tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", seconds=0.5)
    off = {"input": str(clip), "asr": "none"}
    senses, absent = senses_of(config.load(None, off | {"camera": "none"}))
    assert [one.stream for one in senses] == ["audio"] and absent["vision"] == "switched_off"
    senses, absent = senses_of(config.load(None, off | {"microphone": "none", "asr": "whisper:tiny"}))
    assert [one.stream for one in senses] == ["vision"]
    assert absent == {"text": "switched_off", "audio": "switched_off"}
    nothing = {"camera": "none", "microphone": "none", "asr": "none"}
    for settings in (nothing, off | nothing, {"input": "rtsp://10.0.0.9/live", "camera": "none"}):
        with pytest.raises(ConfigError, match=r"nothing is left to look at or to listen to .*switched_off"):
            senses_of(config.load(None, settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"demo": True, "camera_delay_ms": 80}, ["camera_delay_ms = 80"]),
        (
            {"input": "rtsp://10.0.0.9/live", "camera_delay_ms": 80, "microphone_delay_ms": 2},
            ["microphone_delay_ms = 2"],
        ),
        ({"camera_delay_ms": 80, "microphone_delay_ms": 2, "asr": "none"}, []),
    ],
)
def test_a_delay_of_a_device_that_is_not_read_is_not_applied_and_that_is_said(
    settings: dict[str, object], named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    make(config.load(None, settings))
    said = [record.getMessage() for record in caplog.records if "is not applied" in record.getMessage()]
    assert len(said) == len(named) and all(one.startswith(n) for one, n in zip(said, named, strict=True))


def test_windows_wait_for_the_slowest_device_that_is_read() -> None:
    delays = {"camera_delay_ms": 80, "microphone_delay_ms": 1700, "asr": "none"}
    assert make(config.load(None, delays)).delay_s == 1.7
    assert make(config.load(None, delays | {"microphone": "none"})).delay_s == 0.08
    assert make(config.load(None, delays | {"input": "rtsp://10.0.0.9/live"})).delay_s == 0.08
    assert make(config.load(None, {"demo": True, "camera_delay_ms": 80})).delay_s == 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rtsp://me:s3cret@10.0.0.9:554/live?x=1", "rtsp://…@10.0.0.9:554/live?x=1"),
        ("http://me@cam/video", "http://…@cam/video"),
        ("rtsp://10.0.0.9/live", "rtsp://10.0.0.9/live"),
        ("films/a@b.mp4", "films/a@b.mp4"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_a_cameras_password_is_told_to_nobody(source: str, expected: str) -> None:
    assert told(Config(input=source))["input"] == expected


def test_where_a_session_gets_what_from_is_told_without_the_password() -> None:
    config = Config(input="rtsp://me:s3cret@10.0.0.9:554/live")
    senses, absent = senses_of(config)
    source = LiveSource(senses, session="s", absent=absent, media=False)
    assert source.origins() == {"vision": "rtsp://…@10.0.0.9:554/live"}
    source.close()
