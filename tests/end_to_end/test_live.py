"""The application on real files: a message every hop, senses that come and go, the same again on replay."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zmq

from runtime.endless_film import endless_film
from tests.end_to_end.application import ROOT, Application, Json

Start = Callable[..., Application]


def timeless(emotions: list[Json]) -> list[str]:
    """The messages without what depends on when they were published."""
    kept = []
    for message in emotions:
        message = {**message, "latency_ms": None, "time": {**message["time"], "published_ns": None}}
        kept.append(json.dumps(message, sort_keys=True))
    return kept


def test_a_film_in_real_time_gives_a_message_every_hop_with_face_and_voice(
    start: Start, shared: Path
) -> None:
    film, began_s = shared / "media/face_and_speech.mp4", time.time()
    application = start("--input", film, "--asr", "none")
    emotions = application.run_to_end()
    begin = next(message for message in application.messages if message["type"] == "session.begin")
    for told in (begin["started"], *(message["time"]["wall"] for message in emotions)):
        late_s = began_s - datetime.fromisoformat(told).timestamp()
        assert -120 < late_s < 30, "dates are of today, and of this minute"
    walls = [datetime.fromisoformat(message["time"]["wall"]).timestamp() for message in emotions]
    assert np.diff(walls) == pytest.approx(0.5, abs=2e-3)
    assert begin["sources"] == {"vision": f"file:{film}", "audio": f"file:{film}"}
    ends = [message["time"]["end_ns"] for message in emotions]
    assert ends == [(k + 1) * 500_000_000 for k in range(len(ends))]
    assert len(ends) >= 20  # 11 s of film
    both = [
        m for m in emotions if m["modalities"]["vision"]["present"] and m["modalities"]["audio"]["present"]
    ]
    assert len(both) > len(emotions) / 2
    assert all(m["modalities"]["text"]["reason"] == "asr_none" for m in emotions)
    assert all(sum(m["emotions"]["scores"]) == pytest.approx(1, abs=1e-3) for m in both)
    for message in emotions:
        latency = message["latency_ms"]
        segments = sum(value for name, value in latency.items() if name != "total")
        assert segments == pytest.approx(latency["total"], abs=0.01)


def test_a_crying_face_is_called_sad_by_the_vision_head_in_most_windows(start: Start, shared: Path) -> None:
    emotions = start("--input", shared / "media/face_and_speech.mp4", "--asr", "none", "--fast").run_to_end()
    tops = []
    for message in emotions:
        logits = message["modalities"]["vision"]["logits"]
        tops.append(message["emotions"]["labels"][logits.index(max(logits))])
    assert len(tops) >= 20 and sum(top in ("sad", "fear") for top in tops) > len(tops) / 2


def test_a_face_that_leaves_turns_vision_absent_and_the_stream_goes_on(start: Start, shared: Path) -> None:
    emotions = start("--input", shared / "media/face_then_no_face.mov", "--fast").run_to_end()
    seen = [message["modalities"]["vision"]["present"] for message in emotions]
    assert any(seen)
    absent = [m for m in emotions if not m["modalities"]["vision"]["present"]]
    assert absent and {m["modalities"]["vision"]["reason"] for m in absent} == {"no_face"}


def test_a_film_without_a_face_has_no_vision_in_any_window(start: Start, shared: Path) -> None:
    emotions = start("--input", shared / "media/no_face.mp4", "--fast").run_to_end()
    assert len(emotions) == 7  # 3.94 s
    assert {m["modalities"]["vision"]["reason"] for m in emotions} == {"no_face"}
    assert all(m["state"] != "ok" for m in emotions)
    for message in emotions:
        nothing = not any(sense["present"] for sense in message["modalities"].values())
        assert ("emotions" not in message) == nothing  # never an emotion out of nothing


def test_a_recording_replays_to_the_same_bytes_twice_and_to_what_was_live(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    recording = tmp_path / "session.mcap"
    arguments = "--input", shared / "media/face_and_speech.mp4", "--asr", "none", "--record", recording
    live = timeless(start(*arguments).run_to_end())
    first, second = (timeless(start("--replay", recording, "--fast").run_to_end()) for _ in range(2))
    assert first == second
    assert first == live


@pytest.mark.parametrize(
    ("stream", "module", "asr"),
    [
        ("vision", "capture.camera", "subtitles"),
        ("audio", "capture.microphone", "subtitles"),
        ("text", "capture.transcript", "subtitles"),
        ("text", "capture.transcript", "whisper"),
    ],
)
def test_a_killed_process_comes_back_and_what_was_lost_is_published(
    start: Start, shared: Path, tmp_path: Path, tiny_whisper: Path, stream: str, module: str, asr: str
) -> None:
    clip = Path(shutil.copy(shared / "media/face_and_speech.mp4", tmp_path))
    shutil.copy(ROOT / "runtime/demo/face_and_speech.vtt", tmp_path)
    clip = endless_film(clip, tmp_path, 1.0)  # a machine that is busy takes its time
    asr = f"whisper:{tiny_whisper}" if asr == "whisper" else asr
    application = start("--input", clip, "--asr", asr)
    application.read_until(
        lambda m: m["type"] == "emotion" and m["modalities"][stream]["present"], timeout_s=60
    )
    os.kill(child(application.process.pid, module), signal.SIGKILL)
    died = application.read_until(lambda m: "died" in m.get("event", ""))
    assert "signal 9" in died["event"]
    back = application.read_until(lambda m: f"{stream}: back after a restart" in m.get("event", ""))
    lost = re.search(r"(\d+\.\d) s lost", back["event"])
    assert lost is not None and float(lost[1]) > 0 and back["senses"][stream]["restarts"] == 1
    fresh_ns = application.emotions[-1]["time"]["end_ns"]
    application.read_until(
        lambda m: (
            m["type"] == "emotion"
            and m["time"]["end_ns"] > fresh_ns
            and m["modalities"][stream]["present"]
            and (stream == "text" or m["modalities"][stream]["lag_ms"] < 500)  # words are as old as they are
        )
    )
    application.process.send_signal(signal.SIGINT)
    end = application.read_until(lambda m: m["type"] == "session.end")
    assert end["reason"] == "stopped"
    assert application.wait() == 0


def test_ctrl_c_ends_cleanly_with_a_complete_recording_and_no_process_left(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    recording = tmp_path / "session.mcap"
    application = start("--input", shared / "media/face_and_speech.mp4", "--record", recording)
    application.read_until(lambda m: m["type"] == "emotion" and m["seq"] >= 3)
    children = descendants(application.process.pid)
    assert len(children) >= 2
    application.process.send_signal(signal.SIGINT)
    live = application.run_to_end(15)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    replayed = start("--replay", recording, "--fast").run_to_end()
    assert timeless(replayed) == timeless(live)


@pytest.mark.parametrize("after_s", [0.5, 1.5, 3.0])
def test_ctrl_c_in_a_terminal_reaches_everybody_and_nobody_complains(
    shared: Path, endpoint: str, after_s: float
) -> None:
    """A terminal signals the whole group, whatever its processes are doing: importing, loading, running."""
    command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", endpoint]
    command += ["--input", str(shared / "media/face_and_speech.mp4")]
    environment = os.environ | {"EMOTION_ASSETS": str(shared / "models")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()  # it has begun
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    said = line + process.communicate(timeout=20)[1]
    assert process.returncode == 0 and "Traceback" not in said and "died" not in said, said


def test_capture_processes_end_when_the_application_is_killed(start: Start, shared: Path) -> None:
    application = start("--input", shared / "media/face_and_speech.mp4")
    application.read_until(lambda m: m["type"] == "emotion")
    children = descendants(application.process.pid)
    application.process.kill()
    deadline = time.monotonic() + 8
    while (left := [pid for pid in children if running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_without_camera_and_microphone_it_says_so_and_goes_on(start: Start) -> None:
    application = start(
        "--camera", "97", "--microphone", "no such microphone", "--asr", "none", "--duration", "3"
    )
    emotions = application.run_to_end()
    assert len(emotions) >= 5
    reasons = Counter(message["modalities"]["vision"]["reason"] for message in emotions)
    # On a machine that has no landmarker either, that is found first.
    assert (reason := reasons.most_common(1)[0][0]) in {"no_device", "asset_missing"}
    assert {m["modalities"]["audio"]["reason"] for m in emotions} <= {"no_device", "no_pyaudio", "starting"}
    assert "97" in application.errors or reason == "asset_missing"


def test_without_the_landmarker_vision_says_asset_missing_and_the_rest_runs(
    start: Start, shared: Path, tmp_path: Path
) -> None:
    offline = {"EMOTION_ASSETS": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    emotions = start("--input", shared / "media/face_and_speech.mp4", "--fast", **offline).run_to_end()
    assert {m["modalities"]["vision"]["reason"] for m in emotions} == {"asset_missing"}
    assert sum(m["modalities"]["audio"]["present"] for m in emotions) > len(emotions) / 2


def test_a_language_that_whisper_does_not_know_is_said_and_the_rest_runs(
    start: Start, shared: Path, tiny_whisper: Path
) -> None:
    film = shared / "media/face_and_speech.mp4"
    application = start("--input", film, "--asr", f"whisper:{tiny_whisper}", "--language", "klingon")
    emotions = application.run_to_end()
    assert {m["modalities"]["text"]["reason"] for m in emotions} == {"bad_language"}
    assert any(m["modalities"]["vision"]["present"] for m in emotions)
    said = [m["event"] for m in application.messages if "klingon" in m.get("event", "")]
    assert len(said) == 1 and said[0].startswith("text: absent: --language 'klingon' is not known to whisper")


def test_a_corrupt_message_on_the_bus_is_dropped_counted_and_published(start: Start, shared: Path) -> None:
    application = start("--input", shared / "media/face_and_speech.mp4")
    application.read_until(lambda m: m["type"] == "emotion")
    pipe = pipe_of(application, "capture.camera")
    assert Path(pipe.removeprefix("ipc://")).parent.stat().st_mode & 0o777 == 0o700
    with zmq.Context.instance().socket(zmq.PUSH) as intruder:
        intruder.connect(pipe)
        intruder.send_multipart([b"\xc1 not msgpack", b"junk"])
        told = application.read_until(lambda m: "corrupt" in m.get("event", ""))
    assert told["senses"]["vision"]["corrupt"] == 1
    following = application.read_until(
        lambda m: m["type"] == "emotion" and m["modalities"]["vision"]["present"]
    )
    assert following["dropped"]["vision"] == 0


def test_a_flood_on_one_pipe_costs_the_other_senses_nothing(start: Start, shared: Path) -> None:
    application = start("--input", shared / "media/face_and_speech.mp4", "--asr", "none")
    application.read_until(lambda m: m["type"] == "emotion" and m["modalities"]["audio"]["present"])
    sent, until = 0, time.monotonic() + 4
    intruder: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.PUSH) as intruder:
        intruder.setsockopt(zmq.LINGER, 0)
        intruder.connect(pipe_of(application, "capture.camera"))
        while time.monotonic() < until and sent < 1_000_000:
            if intruder.poll(10, zmq.POLLOUT):
                intruder.send_multipart([b"\xc1 not msgpack", bytes(200)])
                sent += 1
    emotions = application.run_to_end()
    ends = [message["time"]["end_ns"] for message in emotions]
    assert {b - a for a, b in pairwise(ends)} == {500_000_000}, "not a window is missing"
    assert all(m["modalities"]["audio"]["coverage"] == 1 for m in emotions if m["time"]["end_ns"] >= 4e9)
    end = application.messages[-1]
    assert end["senses"]["audio"]["dropped"] == end["senses"]["audio"]["corrupt"] == 0
    assert sent > 10_000 and end["senses"]["vision"]["corrupt"] > sent / 2


def test_the_demo_runs_once_and_says_what_to_try_next(start: Start) -> None:
    application = start("--demo", "--fast")
    emotions = application.run_to_end()
    assert len(emotions) >= 20
    assert all(any(sense["present"] for sense in m["modalities"].values()) for m in emotions)
    assert any(m["state"] == "ok" for m in emotions)  # face, voice and words at once
    assert "What to try next" in application.output and "windows" in application.output
    assert application.errors.count("hop_s") == 1  # the configuration, once


def test_the_demo_loops_until_it_is_stopped(start: Start) -> None:
    application = start("--demo", "--fast", "--loop")
    for _ in range(3):
        application.read_until(lambda m: m["type"] == "session.end" and m["reason"] == "end of input")
    application.process.send_signal(signal.SIGINT)
    assert application.wait() == 0


def pipe_of(application: Application, module: str) -> str:
    """The endpoint that a capture process writes to."""
    words = Path(f"/proc/{child(application.process.pid, module)}/cmdline").read_text().split("\0")
    return words[words.index("--endpoint") + 1]


def child(pid: int, module: str) -> int:
    for candidate in descendants(pid):
        if module.encode() in Path(f"/proc/{candidate}/cmdline").read_bytes():
            return candidate
    raise AssertionError(f"{pid} runs no {module}")


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(number) for number in (task / "children").read_text().split()]
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
