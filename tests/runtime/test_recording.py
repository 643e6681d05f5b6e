"""Recordings: what was recorded comes back exactly, in order, and can be looked into."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mcap.reader import make_reader

from capture.clock import WallAnchor
from capture.features import vision as vision_features
from capture.features.spec import FeatureSpec, InputSpec, StreamSpec
from capture.messages import FeatureBlock, Message, Pcm, Stamp, Status, Word, Words, encode
from runtime.recording import Header, Recorder, Recording, RecordingError
from runtime.recording.info import summarise

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000
VISION = StreamSpec("landmarker", ("presence", "smile"), 30.0)
WALL = WallAnchor(0, 1_790_000_000_000_000_000)
BEGIN = Header("s", "media", streams={"vision": VISION}, wall=WALL, config={"hop_s": 0.5, "asr": "none"})


def stamp(stream: Any, seq: int, t_ns: int) -> Stamp:
    return Stamp("s", stream, seq, t_ns, t_ns + MS)


def vision(seq: int, t_ns: int, face: float = 1.0) -> FeatureBlock:
    values = np.array([[face, seq / 7]], np.float32)
    return FeatureBlock(stamp("vision", seq, t_ns), VISION.hash, t_ns, np.array([t_ns]), values)


def scene(seconds: float = 2.0) -> list[tuple[int, Message]]:
    """Vision at 25 frames/s, audio in blocks of ten, words, states; arrivals with equal times."""
    arrivals: list[tuple[int, Message]] = []
    for i in range(int(seconds * 25)):
        t_ns = i * 40 * MS
        arrivals.append((t_ns, vision(i, t_ns, face=float(i % 4 > 0))))
        if i % 3 == 0:
            times = t_ns + np.arange(10) * 10 * MS
            values = np.random.default_rng(i).normal(size=(10, 5)).astype(np.float32)
            arrivals.append((t_ns, FeatureBlock(stamp("audio", i // 3, t_ns), "a", t_ns, times, values)))
        if i % 25 == 0:
            word = Word(f"word{i}", t_ns, t_ns + 300 * MS)
            arrivals.append((t_ns, Words(stamp("text", i // 25, t_ns), "w", (word,), t_ns)))
    arrivals.append((arrivals[-1][0], Status(stamp("vision", 999, 0), "ended", None, "end of file", 3, 50)))
    return arrivals


def write(path: Path, arrivals: list[tuple[int, Message]]) -> Path:
    with Recorder(path, BEGIN) as recorder:
        for n, (t_ns, message) in enumerate(arrivals):
            recorder.add(message, t_ns)
            if n % 40 == 0:
                recorder.add_emotion(json.dumps({"seq": n, "top": "…"}).encode(), t_ns, n)
                recorder.flush()  # many chunks, so that there is something to break between
    return path


def facts(arrivals: list[tuple[int, Message]]) -> list[tuple[int, list[bytes]]]:
    return [(t_ns, encode(message)) for t_ns, message in arrivals]


def read(recording: Recording) -> list[tuple[int, list[bytes]]]:
    return [(arrival.t_arrival_ns, encode(arrival.message)) for arrival in recording]


# --- what goes in comes out


def test_a_session_comes_back_exactly_and_as_often_as_you_like(tmp_path: Path) -> None:
    arrivals = scene()
    recording = Recording.open(write(tmp_path / "a.mcap", arrivals))
    assert read(recording) == facts(arrivals)
    assert read(recording) == facts(arrivals)
    assert recording.header == BEGIN
    assert recording.warnings == [] and recording.end == {}
    assert recording.duration_s == pytest.approx(arrivals[-1][0] / 1e9)
    emotions = list(recording.emotions())
    assert [json.loads(data)["seq"] for _, data in emotions] == list(range(0, len(arrivals), 40))


TIMES = st.integers(1 - 2**62, 2**62 - 1)
STAMPS = st.builds(
    Stamp, st.text(max_size=5), st.sampled_from(["audio", "vision"]), st.integers(0, 2**48), TIMES, TIMES
)


@st.composite
def anything(draw: st.DrawFn) -> Message:
    """A block or a piece of sound with any stamp and any numbers inside."""
    if draw(st.booleans()):
        return Pcm(draw(STAMPS), 16_000, draw(hnp.arrays(np.int16, st.integers(0, 20))))
    steps, dim = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(hnp.arrays(np.float32, (steps, dim), elements=numbers))
    times = np.sort(draw(hnp.arrays(np.int64, (steps,), elements=TIMES)))
    return FeatureBlock(draw(STAMPS), draw(st.text(max_size=5)), 0, times, values)


@given(st.lists(st.tuples(st.integers(0, 5), anything()), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_messages_come_back_bit_for_bit_in_the_order_they_came(
    arrivals: list[tuple[int, Message]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mcap"
        with Recorder(path, BEGIN) as recorder:
            for t_ns, message in arrivals:
                recorder.add(message, t_ns)
        assert read(Recording.open(path)) == facts(arrivals)


def test_times_before_zero_are_kept_as_zero_and_their_stamps_as_they_are(tmp_path: Path) -> None:
    ready = Status(stamp("vision", 0, -5 * MS), "ready")
    with Recorder(tmp_path / "a.mcap", BEGIN) as recorder:
        recorder.add(ready, -3 * MS)
        recorder.add(Status(Stamp("s", "vision", -1, 0, 0), "starting", "restarting"), 0)
    first, second = Recording.open(tmp_path / "a.mcap")
    assert (first.t_arrival_ns, first.message) == (0, ready)
    assert second.message.stamp.seq == -1


def test_other_mcap_readers_find_the_channels_the_times_and_the_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", scene())
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        topics = {c.topic: c.message_encoding for c in summary.channels.values()}
        assert topics == {
            "/capture/text": "msgpack",
            "/capture/audio": "msgpack",
            "/capture/vision": "msgpack",
            "/emotion": "json",
        }
        assert [record.name for record in reader.iter_metadata()] == ["session", "end"]
        for _, channel, message in reader.iter_messages(topics="/capture/vision"):
            assert channel.topic == "/capture/vision"
            if message.sequence < 999:
                assert message.log_time == message.sequence * 40 * MS
                assert message.publish_time == message.log_time + MS


def test_a_session_without_messages_is_a_recording(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap", BEGIN) as recorder:
        recorder.close({"windows": 0})
        recorder.close()
    recording = Recording.open(tmp_path / "a.mcap")
    assert list(recording) == [] and recording.duration_s == 0 and recording.end == {"windows": 0}


def test_threads_may_record_together(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap", BEGIN) as recorder:

        def add(offset: int) -> None:
            for seq in range(200):
                recorder.add(vision(offset + seq, 0), 0)

        threads = [threading.Thread(target=add, args=(n * 1000,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({a.message.stamp.seq for a in Recording.open(tmp_path / "a.mcap")}) == 600


def test_a_network_for_other_features_is_refused(tmp_path: Path) -> None:
    recording = Recording.open(write(tmp_path / "a.mcap", scene(0.2)))
    size = InputSpec(VISION, 4.0, 120, 2)
    recording.check(FeatureSpec(size, size, size))
    other = InputSpec(StreamSpec("landmarker", ("presence", "frown"), 30.0), 4.0, 120, 2)
    with pytest.raises(RecordingError, match=r"other vision features .*--network"):
        recording.check(FeatureSpec(size, size, other))


# --- the command


def info(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.recording", "info", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


def test_info_counts_what_is_inside(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", scene(4.0))
    done = info(path, "--json")
    assert done.returncode == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert found["session"] == "s" and found["complete"] and found["words"] == 4
    assert found["started"].startswith("2026-09-21T")
    assert found["faces"] == 0.75
    seen = found["streams"]["vision"]
    assert (seen["messages"], seen["samples"], seen["dropped"], seen["state"]) == (101, 100, 3, "ended")
    assert seen["gaps"] == 999 - 100 and seen["rate_hz"] == pytest.approx(25)
    assert found["begin"]["config"] == {"hop_s": 0.5, "asr": "none"}
    table = info(path)
    assert table.returncode == 0
    for word in ("75%", "25.0 Hz", "hop_s", "closed properly", "4.0 s on the media clock"):
        assert word in table.stdout


def test_info_tells_how_long_a_film_is_that_was_read_as_fast_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Recorder(path, msgspec.structs.replace(BEGIN, paced=False)) as recorder:
        for _, message in scene(2.0):
            recorder.add(message, 5 * MS)  # all of it at once
    assert summarise(Recording.open(path)).duration_s == pytest.approx(1.96, abs=0.2)


def test_info_knows_the_faces_of_todays_features_by_their_hash(tmp_path: Path) -> None:
    spec = vision_features.SPEC
    header = Header("s", "media", streams={"vision": spec.hash})
    with Recorder(tmp_path / "a.mcap", header) as recorder:
        for seq in range(4):
            values = np.zeros((1, spec.dim), np.float32)
            values[0, spec.names.index("presence")] = seq == 0
            recorder.add(FeatureBlock(stamp("vision", seq, 0), spec.hash, 0, np.array([seq]), values), seq)
    assert summarise(Recording.open(tmp_path / "a.mcap")).faces == 0.25


def test_info_warns_of_a_broken_file_and_fails_on_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", scene())
    path.write_bytes(path.read_bytes()[:-200])
    broken = info(path)
    assert broken.returncode == 1 and "breaks off" in broken.stderr and "vision" in broken.stdout
    missing = info(tmp_path / "b.mcap")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
    assert missing.stderr.startswith("error: ") and "b.mcap" in missing.stderr
