"""What the operator shares and records beside emotions: nothing unasked, and all that was asked for."""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq

from capture.features.vision import BLENDSHAPES
from runtime.config import Config, ConfigError, load
from runtime.recording import Recording
from runtime.stream import Face, Picture, Sound, Subscription, subscribe
from tests.end_to_end.application import ROOT, Application

Start = Callable[..., Application]
Json = dict[str, Any]
SECONDS = 4
BRIEF = ("--duration", SECONDS)
CONSENT = "the speaker agreed on 3 May"


def hear_all(endpoint: str) -> zmq.Socket[bytes]:
    """Somebody who subscribes to every topic there is."""
    listener: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    listener.connect(endpoint)
    listener.subscribe(b"")
    return listener


def drained(listener: zmq.Socket[bytes]) -> list[tuple[str, Json]]:
    heard = []
    while listener.poll(200):
        topic, payload = listener.recv_multipart()
        heard.append((topic.decode(), json.loads(payload)))
    listener.close(linger=0)
    return heard


def test_who_shares_nothing_publishes_emotions_alone(start: Start, shared: Path, endpoint: str) -> None:
    listener = hear_all(endpoint)
    application = start("--input", shared / "media/face_and_speech.mp4", "--fast", "--session", "lab", *BRIEF)
    application.run_to_end()
    heard = drained(listener)
    assert {topic for topic, _ in heard} == {"emotion.lab."}
    begin = next(message for _, message in heard if message["type"] == "session.begin")
    assert begin["config"]["share_raw"] is begin["config"]["share_face"] is False
    assert begin["config"]["record_raw"] is None


def test_shared_pictures_and_sound_are_what_was_seen_and_heard_and_the_session_says_so(
    start: Start, shared: Path, endpoint: str
) -> None:
    messages: list[Any] = []
    with subscribe(endpoint, raw=True, face=True, timeout_s=20) as stream:
        application = start(
            *("--input", shared / "media/face_and_speech.mp4", "--fast", "--session", "lab"),
            *("--share-raw", "--share-face", *BRIEF),
        )
        heard = hear_until_the_end(stream, messages)
    assert application.wait() == 0
    assert heard["session.begin"].config["share_raw"] is True
    pictures = [m for m in messages if isinstance(m, Picture)]
    faces = [m for m in messages if isinstance(m, Face)]
    sounds = [m for m in messages if isinstance(m, Sound)]
    seen = cv2.VideoCapture(str(shared / "media/face_and_speech.mp4"))
    frames_hz = seen.get(cv2.CAP_PROP_FPS)
    assert len(pictures) == pytest.approx(10 * SECONDS, rel=0.25)  # at most ten a second
    one = pictures[len(pictures) // 2]
    shown = cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (one.height, one.width, 3) and max(shown.shape) <= 640
    seen.set(cv2.CAP_PROP_POS_FRAMES, round(one.t_ns / 1e9 * frames_hz))
    _, frame = seen.read()
    frame = cv2.resize(frame, (one.width, one.height), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(float) - frame).mean() < 8  # a JPEG of the same picture
    assert len(one.landmarks) == 478
    assert all(0.1 < middle < 0.9 for middle in np.median(one.landmarks, axis=0))
    assert {name for face in faces if face.present for name in face.blendshapes} == set(BLENDSHAPES)
    assert len(faces) == pytest.approx(len(pictures), abs=3)
    samples = sum(len(sound.pcm) // 2 for sound in sounds)
    assert samples / 16_000 == pytest.approx(SECONDS, abs=1.0)
    loud = np.concatenate([np.frombuffer(sound.pcm, "<i2") for sound in sounds])
    assert np.abs(loud.astype(float)).max() > 1000


def hear_until_the_end(stream: Subscription, messages: list[Any]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for message in stream:
        messages.append(message)
        last[str(message.__struct_config__.tag)] = message
        if "session.end" in last:
            return last
    pytest.fail(f"the session did not end; last were {messages[-2:]}")


def test_a_recording_holds_pictures_and_sound_only_with_the_words_of_consent(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    clip = shared / "media/face_and_speech.mp4"
    plain, raw = tmp_path / "plain.mcap", tmp_path / "raw.mcap"
    first = start("--input", clip, "--fast", "--share-raw", "--record", plain, *BRIEF)
    first.run_to_end()
    first.close()
    second = start("--input", clip, "--fast", "--record", raw, "--record-raw", CONSENT, *BRIEF)
    emotions = second.run_to_end()
    second.close()
    kinds = [{type(a.message).__name__ for a in Recording.open(path)} for path in (plain, raw)]
    assert kinds[1] - kinds[0] == {"Picture", "Pcm"}
    assert Recording.open(plain).header.raw_consent == ""
    assert Recording.open(raw).header.raw_consent == CONSENT
    info = run("info", raw, "--json")
    told = json.loads(info.stdout)
    assert told["raw_consent"] == CONSENT and told["pictures"] > 20 and told["sound_s"] > 3
    assert told["streams"]["vision"]["gaps"] == told["streams"]["audio"]["gaps"] == 0
    assert run("export", raw, "--out", tmp_path / "tables").returncode == 0
    assert len(list((tmp_path / "tables/pictures").glob("*.jpg"))) == told["pictures"]
    with wave.open(str(tmp_path / "tables/sound.wav")) as sound:
        assert sound.getframerate() == 16_000
        frames = sound.getnframes()
        assert frames / 16_000 == pytest.approx(told["sound_s"], abs=0.2)
    with (tmp_path / "tables/sound.csv").open() as lines:
        times = [(int(row["sample"]), float(row["time_s"])) for row in csv.DictReader(lines)]
    assert times[0] == (0, pytest.approx(0, abs=0.1)) and len(times) > 3 and times[-1][0] < frames
    assert all(t == pytest.approx(sample / 16_000, abs=0.05) for sample, t in times)
    again = start("--replay", raw, "--fast")
    replayed = again.run_to_end()
    assert [m["emotions"] for m in replayed] == [m["emotions"] for m in emotions]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.recording", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"record_raw": "", "record": "a.mcap"}, "who agreed"),
        ({"record_raw": "yes", "record": "a.mcap"}, "who agreed"),
        ({"record_raw": CONSENT}, "add --record FILE"),
        ({"record_raw": CONSENT, "record": "a.mcap", "replay": "b.mcap"}, "add --record FILE"),
    ],
)
def test_consent_that_is_none_is_refused(settings: Json, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(None, settings)


def test_the_json_of_a_picture_is_base64_that_any_language_reads() -> None:
    picture = Picture(session="s", t_ns=1, width=2, height=1, jpeg=b"\xff\xd8\xff")
    assert base64.b64decode(json.loads(msgspec.json.encode(picture))["jpeg"]) == b"\xff\xd8\xff"
    assert Config().raw is False
