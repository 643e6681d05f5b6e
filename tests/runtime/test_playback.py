"""Playback: what the page shows of a recording at a moment, also of a film that was read in no time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from capture.messages import Words
from runtime.dashboard.playback import Playback
from runtime.plan import DEMO
from runtime.recording import Recorder, Recording, RecordingError
from runtime.stream import Emotion, decode, encode, schema

CONSENT = "the speaker agreed on 3 May"


@pytest.fixture(scope="module")
def fast(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Playback:
    """A film of eleven seconds, read as fast as it goes, with its pictures."""
    folder = tmp_path_factory.mktemp("fast")
    command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--fast", "--asr", "none"]
    command += ["--endpoint", f"ipc://{folder}/stream", "--record", str(folder / "a.mcap")]
    command += ["--record-raw", CONSENT]
    command += ["--input", str(shared / "media/face_and_speech.mp4")]
    environment = os.environ | {"EMOTION_ASSETS": str(shared / "models")}
    subprocess.run(command, check=True, timeout=120, capture_output=True, env=environment)
    return Playback(Recording.open(folder / "a.mcap"))


def test_a_film_that_was_read_as_fast_as_it_goes_plays_at_the_pace_of_life(fast: Playback) -> None:
    assert fast.duration_s == pytest.approx(11, abs=0.6)
    early, late = fast.board(3.0), fast.board(10.0)
    assert early.windows < late.windows <= early.windows + 15
    assert late.face is not None and late.face.t_ns == pytest.approx(10e9, abs=1e9)
    assert {name: sense.state for name, sense in late.senses.items()}["vision"] == "running"


def test_before_anything_came_nothing_is_shown_and_in_the_end_every_sense_has_ended(fast: Playback) -> None:
    assert fast.board(0.0).windows == 0
    assert fast.board(fast.duration_s).windows >= 20


def test_a_session_in_real_time_is_shown_as_it_came() -> None:
    demo = Playback(Recording.open(DEMO))
    assert demo.duration_s >= demo.recording.duration_s
    assert str(demo.board(0.7).windows) == "1", "a number, as the page writes it"
    boards = [demo.board(at_s) for at_s in (1.0, demo.duration_s / 2, demo.duration_s)]
    assert boards[0].windows < boards[1].windows < boards[2].windows


def test_pictures_that_were_recorded_are_shown_at_their_time(fast: Playback) -> None:
    assert fast.board(fast.duration_s).picture is not None
    shown = [fast.board(at_s).picture for at_s in (2.0, 9.0, 2.0)]
    times_s = [picture.t_ns / 1e9 for picture in shown if picture is not None]
    assert times_s == pytest.approx([2, 9, 2], abs=0.3)
    assert shown[0] == shown[2] != shown[1]
    for picture in shown:
        assert picture is not None
        height, width, _ = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR).shape
        assert (width, height) == (picture.width, picture.height)
        assert len(picture.landmarks) > 100


def test_a_recording_without_pictures_shows_none() -> None:
    demo = Playback(Recording.open(DEMO))
    assert demo.board(demo.duration_s / 2).picture is None


def test_a_revision_is_no_window(tmp_path: Path) -> None:
    demo = Recording.open(DEMO)
    with Recorder(tmp_path / "a.mcap", demo.header, emotion_schema=msgspec.json.encode(schema())) as recorder:
        for seq, (t_ns, payload) in enumerate(demo.emotions()):
            first = decode(payload)
            assert isinstance(first, Emotion)
            late = msgspec.structs.replace(first, seq=seq + 1000, revises=first.seq)
            recorder.add_emotion(payload, t_ns, 2 * seq)
            recorder.add_emotion(encode(late), t_ns + 1000, 2 * seq + 1)
    late_too = Playback(Recording.open(tmp_path / "a.mcap"))
    end = late_too.board(late_too.duration_s + 1)
    assert end.windows == len(list(demo.emotions())) == len(end.history)
    assert all(moment.emotion.revises is not None for moment in end.history)


def rewritten(out: Path, keep: int) -> Path:
    """The bundled recording; its published windows from the number ``keep`` on are of a schema to come."""
    demo = Recording.open(DEMO)
    with Recorder(out, demo.header, emotion_schema=msgspec.json.encode(schema())) as recorder:
        for arrival in demo.arrivals():
            recorder.add(arrival.message, arrival.t_arrival_ns)
        for seq, (t_ns, payload) in enumerate(demo.emotions()):
            later = payload.replace(b'"schema":1', b'"schema":2')
            assert later != payload
            recorder.add_emotion(payload if seq < keep else later, t_ns, seq)
    return out


def test_what_of_a_recording_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert Playback(Recording.open(DEMO)).warnings == ()
    path = rewritten(tmp_path / "a.mcap", keep=5)
    unread = len(list(Recording.open(DEMO).emotions())) - 5
    (told,) = Playback(Recording.open(path)).warnings
    assert told == f"{path}: {unread} results of another schema are not shown"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    damaged = Playback(Recording.open(path))
    assert any("1 damaged stretches left out" in one for one in damaged.warnings)
    assert damaged.board(1.0).warnings == damaged.warnings


def test_a_recording_of_another_schema_says_so_and_what_it_advises_makes_one_that_is_shown(
    tmp_path: Path,
) -> None:
    path = rewritten(tmp_path / "a.mcap", keep=0)
    with pytest.raises(RecordingError, match="holds only results of another schema") as caught:
        Playback(Recording.open(path))
    command = str(caught.value).partition("python ")[2].split()
    assert command.pop() == "NEW.mcap"
    subprocess.run(
        [sys.executable, *command, str(tmp_path / "new.mcap")], check=True, timeout=120, capture_output=True
    )
    new = Playback(Recording.open(tmp_path / "new.mcap"))
    assert len(new.board(new.duration_s).history) >= 20 and new.warnings == ()


def test_words_that_were_committed_stay_in_the_order_in_which_they_were_said() -> None:
    demo = Playback(Recording.open(DEMO))
    messages = [a.message for a in demo.recording.arrivals() if isinstance(a.message, Words)]
    spoken = [word for message in messages for word in message.words if word.committed]
    assert list(demo.board(demo.duration_s).words or ()) == spoken
    heard = [demo.board(at_s).words or () for at_s in np.linspace(0, demo.duration_s, 40)]
    assert {len(words) for words in heard} > {0, len(spoken)}
    assert all([word for word in words if word.committed] == spoken[: len(words)] for words in heard)


def test_a_recording_knows_no_restarts() -> None:
    assert Playback(Recording.open(DEMO)).board(1.0).replayed
