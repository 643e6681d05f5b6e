"""Late words and overload in the whole application: with a real Whisper, on a film in real time."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from runtime.endless_film import endless_film
from runtime.ladder import MEANING, STEPS
from tests.end_to_end.application import Application
from tests.end_to_end.test_live import timeless

Start = Callable[..., Application]


def test_words_that_come_late_revise_each_window_once_and_a_replay_gives_the_same(
    start: Start, shared: Path, tmp_path: Path, tiny_whisper: Path
) -> None:
    film, recording = shared / "media/face_and_speech.mp4", tmp_path / "session.mcap"
    live = start("--input", film, "--asr", f"whisper:{tiny_whisper}", "--record", recording).run_to_end()
    finals = Counter(message["time"]["end_ns"] for message in live if message["final"])
    assert set(finals.values()) == {1}, "each window has one last word"
    assert set(finals) == {message["time"]["end_ns"] for message in live}
    revisions = [message for message in live if message["revises"] is not None]
    assert len(revisions) > 5
    by_number = {message["seq"]: message for message in live}
    for message in revisions:
        first = by_number[message["revises"]]
        assert not first["final"] and first["time"]["end_ns"] == message["time"]["end_ns"]
        for sense in ("audio", "vision"):
            now, then = (m["modalities"][sense] | {"logits": None} for m in (message, first))
            assert now == then, "the same face and the same voice"
        assert message["modalities"]["text"]["words"] >= first["modalities"]["text"]["words"]
        assert message["modalities"]["text"]["coverage"] >= first["modalities"]["text"]["coverage"]
    assert any(m["modalities"]["text"]["words"] for m in revisions), "it heard something"
    assert timeless(start("--replay", recording, "--fast").run_to_end()) == timeless(live)


HURRIED = """
import sys, threading
from runtime import ladder, live

ladder.SETTLE_NS, ladder.CALM_NS, ladder.LOOKED_AT, ladder.TOO_MANY = 2 * 10**9, 2 * 10**9, 2, 1
ladder.LATE = -1.0  # every window is late

def room():
    ladder.LATE = ladder.CALM = 1e9

timer = threading.Timer(35, room)
timer.daemon = True
timer.start()
sys.exit(live.main())
"""


def test_every_step_of_the_ladder_is_published_and_done_and_taken_back(
    shared: Path, tmp_path: Path, endpoint: str, tiny_whisper: Path
) -> None:
    """The ladder is told that windows are late; what it does then, the real processes do."""
    clip = Path(shutil.copy(shared / "media/face_and_speech.mp4", tmp_path))
    environment = os.environ | {"EMOTION_ASSETS": str(shared / "models"), "XDG_CACHE_HOME": str(tmp_path)}
    arguments = ["--input", str(endless_film(clip, tmp_path, 1.5)), "--asr", f"whisper:{tiny_whisper}"]
    application = Application(endpoint, environment, *arguments, python=("-c", HURRIED))
    try:
        meant = [MEANING[step] for step in STEPS]
        for step in meant:
            told = application.read_until(lambda m, step=step: m.get("event") == f"overload: {step}")
            assert told["eased"][-1] == step
        assert told["eased"] == meant
        application.read_until(lambda m: m["type"] == "status" and "not recognised" in about(m, "text"))
        eased = faces_a_second(application)  # five seconds
        hops = ends(application)[-4:]
        assert {b - a for a, b in itertools.pairwise(hops)} == {10**9}, "every second window"
        for step in reversed(meant):
            application.read_until(lambda m, step=step: m.get("event") == f"room again: no longer {step}")
        # On a busy machine Whisper itself may still take longer chunks; it recognises again.
        application.read_until(lambda m: m["type"] == "status" and "not recognised" not in about(m, "text"))
        assert faces_a_second(application) > 1.3 * eased
        hops = ends(application)[-4:]
        assert {b - a for a, b in itertools.pairwise(hops)} == {5 * 10**8}
    finally:
        application.close()


def about(status: dict[str, object], sense: str) -> str:
    return str(status["senses"][sense]["detail"])  # type: ignore[index]


def ends(application: Application) -> list[int]:
    return [m["time"]["end_ns"] for m in application.emotions if m["revises"] is None]


def faces_a_second(application: Application) -> float:
    """From one status to one that comes five later."""
    seen = [application.read_until(lambda m: m["type"] == "status" and "event" not in m) for _ in range(6)]
    faces = [status["senses"]["vision"]["produced"] for status in seen]
    return float((faces[-1] - faces[0]) / (seen[-1]["uptime_s"] - seen[0]["uptime_s"]))
