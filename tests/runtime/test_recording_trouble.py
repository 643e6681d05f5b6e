"""Recordings in trouble: a crash, a full disk, damage and impostors cost little and are said."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from mcap.writer import Writer
from rich.console import Console

from capture.clock import WallAnchor
from capture.features.spec import StreamSpec
from capture.messages import FeatureBlock, Message, Pcm, Stamp, Word, Words, encode, pack
from runtime.recording import Header, Recorder, Recording, RecordingError
from runtime.recording.__main__ import main
from runtime.recording.info import summarise, tables
from runtime.recording.repair import repair
from runtime.recording.write import FLUSH_S

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


def scene() -> list[tuple[int, Message]]:
    """Two seconds of vision at 25 frames/s, with a word in between."""
    arrivals: list[tuple[int, Message]] = [(i * 40 * MS, vision(i, i * 40 * MS)) for i in range(50)]
    word = Word("so", 0, 300 * MS)
    arrivals.insert(25, (arrivals[24][0], Words(stamp("text", 0, 0), "w", (word,), 300 * MS)))
    return arrivals


def write(path: Path, arrivals: list[tuple[int, Message]]) -> Path:
    """Flushed every ten messages: many chunks, so that there is something to break between."""
    with Recorder(path, BEGIN) as recorder:
        for n, (t_ns, message) in enumerate(arrivals):
            recorder.add(message, t_ns)
            if n % 10 == 0:
                recorder.flush()
    return path


def facts(arrivals: list[tuple[int, Message]]) -> list[tuple[int, list[bytes]]]:
    return [(t_ns, encode(message)) for t_ns, message in arrivals]


def read(recording: Recording) -> list[tuple[int, list[bytes]]]:
    return [(arrival.t_arrival_ns, encode(arrival.message)) for arrival in recording]


# --- trouble while writing


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"precious")
    with pytest.raises(RecordingError, match=r"a\.mcap exists already.*choose another name"):
        Recorder(path, BEGIN)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("where", ["missing/a.mcap", "file/a.mcap"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecordingError, match=r"cannot record there \(.+\): choose") as error:
        Recorder(tmp_path / where, BEGIN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("begin", [{}, {"session": "s"}, {"session": "s", "clock": "sundial"}, b"{", b"[]"])
def test_a_header_that_no_reader_would_take_is_not_recorded(tmp_path: Path, begin: Any) -> None:
    with pytest.raises(RecordingError, match="header cannot be recorded"):
        Recorder(tmp_path / "a.mcap", begin)
    assert not (tmp_path / "a.mcap").exists()


def test_a_recording_that_cannot_be_begun_leaves_no_empty_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(RecordingError, match="the recording stopped"):
            Recorder(tmp_path / "a.mcap", BEGIN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_what_was_written_stays(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap", BEGIN)
    recorder.add(vision(0, 0), 0)
    recorder.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "a.mcap").stat().st_size + 1000, hard))
    try:
        noise = Pcm(stamp("audio", 0, 0), 16_000, np.frombuffer(os.urandom(100_000), np.int16))
        with pytest.raises(RecordingError, match=r"a\.mcap: the recording stopped \(.+\).*make room"):
            for _ in range(10):
                recorder.add(noise, 1)
        with pytest.raises(RecordingError, match="the recording stopped"):
            recorder.add(vision(1, 0), 0)
        recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recording = Recording.open(tmp_path / "a.mcap")
    assert recording.truncated
    assert read(recording) == facts([(0, vision(0, 0))])


def test_a_disk_that_is_full_when_nothing_more_comes_is_told_when_it_is_closed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap", BEGIN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "a.mcap").stat().st_size + 1000, hard))
    try:
        recorder.add(Pcm(stamp("audio", 0, 0), 16_000, np.frombuffer(os.urandom(100_000), np.int16)), 1)
        recorder._flusher.join(10)  # it meets the full disk, and nobody is there to be told
        assert not recorder._flusher.is_alive()
        with pytest.raises(RecordingError, match="the recording stopped"):
            recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_recording_is_its_owners_alone_and_so_is_what_a_repair_makes_of_it(tmp_path: Path) -> None:
    path, out = tmp_path / "a.mcap", tmp_path / "b.mcap"
    with Recorder(path, BEGIN) as recorder:
        recorder.add(vision(0, 0), 0)
    path.write_bytes(path.read_bytes()[:-100])
    assert path.stat().st_mode & 0o777 == 0o600
    repair(path, out)
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_recording_of_nothing_that_broke_off_is_mended_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.mcap", tmp_path / "b.mcap"
    Recorder(path, BEGIN).close()
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"totals")])
    assert Recording.open(path).truncated
    assert main(["repair", str(path), "--out", str(out)]) == 0
    assert "0 messages" in capsys.readouterr().out and Recording.open(out).end is not None


def test_what_somebody_typed_is_shown_as_he_typed_it(tmp_path: Path) -> None:
    path = tmp_path / "[lab] a.mcap"
    header = msgspec.structs.replace(
        BEGIN, raw_consent="Ada [signed 3 May] agreed [/b]", config={"[a]": "[/x]"}
    )
    with Recorder(path, header) as recorder:
        recorder.add(Pcm(stamp("audio", -1, 0), 16_000, np.zeros(160, np.int16)), 1)
    console = Console(file=io.StringIO(), width=200)
    console.print(*tables(summarise(Recording.open(path))))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[lab] a.mcap", "Ada [signed 3 May] agreed [/b]", "[a]", "[/x]"):
        assert text in shown


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_is_no_recording_to_repair(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_closed_recording_takes_nothing_more(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap", BEGIN)
    recorder.close()
    with pytest.raises(RecordingError, match="closed"):
        recorder.add(vision(0, 0), 0)


WRITER = """
import sys, time
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from test_recording_trouble import BEGIN, vision
from runtime.recording import Recorder
recorder = Recorder(sys.argv[1], BEGIN)
seq = 0
while seq < 5000:
    recorder.add(vision(seq, seq), time.monotonic_ns())
    print(seq, time.monotonic_ns(), flush=True)
    seq += 1
    time.sleep(0.002 if seq < int(sys.argv[4]) else 600)
"""


@pytest.mark.parametrize("messages", [5000, 100], ids=["while writing", "while nothing arrives"])
def test_a_killed_writer_loses_at_most_the_last_second(tmp_path: Path, messages: int) -> None:
    path = tmp_path / "a.mcap"
    arguments = [str(path), str(ROOT), str(Path(__file__).parent), str(messages)]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [writer.stdout.readline().split() for _ in range(100)]
    time.sleep(2 * FLUSH_S)
    killed_ns = time.monotonic_ns()
    writer.send_signal(signal.SIGKILL)
    said += [line.split() for line in writer.stdout.read().splitlines()[:-1]]  # the last may be cut
    writer.wait()
    written = {int(seq): int(t_ns) for seq, t_ns in said}
    recording = Recording.open(path)
    got = [arrival.message.stamp.seq for arrival in recording]
    assert got == list(range(len(got))) and recording.truncated and recording.header == BEGIN
    lost = [seq for seq in written if seq >= len(got)]
    assert all(killed_ns - written[seq] < 1_000 * MS for seq in lost)
    assert len(got) >= 100 and (messages > 100 or not lost)


# --- trouble while reading


def test_wherever_a_file_breaks_off_what_stands_before_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", scene())
    data, whole = path.read_bytes(), read(Recording.open(path))
    rng = random.Random(2)
    places = [*range(24), *(len(data) - n for n in range(1, 60)), *rng.sample(range(len(data)), 150)]
    lengths = {}
    for place in places:
        path.write_bytes(data[:place])
        try:
            recording = Recording.open(path)
        except RecordingError as error:
            assert place < 1000 and "a.mcap" in str(error) and "\n" not in str(error)
            continue
        got = read(recording)
        assert got == whole[: len(got)], place
        assert recording.truncated and "breaks off" in recording.warnings[0]
        lengths[place] = len(got)
    ordered = [lengths[place] for place in sorted(lengths)]
    assert ordered == sorted(ordered), "a longer piece never holds less"
    assert ordered[0] == 0 and ordered[-1] == len(whole) and len(set(ordered)) > 2


def test_flipped_bits_cost_a_stretch_and_are_reported_and_never_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", scene())
    data, whole = path.read_bytes(), read(Recording.open(path))
    rng = random.Random(3)
    damaged = 0
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            recording = Recording.open(path)
            got = read(recording)
        except RecordingError:
            continue
        assert len(got) <= len(whole)
        damaged += recording.damaged_chunks > 0
        if len(got) < len(whole):
            assert recording.warnings
    assert damaged > 20


@pytest.mark.parametrize(
    "head",
    [b"\x06" + b"\xff" * 8, b"\x06" + bytes(8), b"\xee" * 9, b"\x46"],
    ids=["long", "empty", "all", "kind"],
)
def test_a_chunk_whose_length_is_lost_costs_no_more_than_itself(tmp_path: Path, head: bytes) -> None:
    path = write(tmp_path / "a.mcap", scene())
    whole = [arrival.message.stamp for arrival in Recording.open(path)]
    sound = Recording.open(path)
    offset, _ = sound._chunks[2]
    data = bytearray(path.read_bytes())
    data[offset - 9 : offset - 9 + len(head)] = head
    path.write_bytes(data)
    recording = Recording.open(path)
    got = [arrival.message.stamp for arrival in recording]
    assert len(got) == len(whole) - 10 and not recording.truncated and recording.end == sound.end
    assert recording.damaged_chunks >= 1 and len(recording.gaps) == 1 and recording.missing == 10
    (gap,) = recording.gaps
    assert 300 * MS <= gap.last_ns - gap.first_ns <= 500 * MS


def test_random_bytes_behind_the_magic_never_crash(tmp_path: Path) -> None:
    data = write(tmp_path / "a.mcap", scene()).read_bytes()
    rng = random.Random(4)
    for n in range(200):
        path = tmp_path / "b.mcap"
        path.write_bytes(data[: 8 if n % 2 else 600] + rng.randbytes(300))
        try:
            read(Recording.open(path))
        except RecordingError as error:
            assert "\n" not in str(error)


def test_a_corrupt_message_is_left_out_counted_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Recorder(path, BEGIN) as recorder:
        recorder.add(vision(0, 0), 0)
        recorder._add("vision", b"\x00 no message", 1, 1, 1)
        recorder._add("audio", b"\x91\xc4\x01x", 1, 1, 1)
        recorder.add(vision(1, 2), 2)
    recording = Recording.open(path)
    for _ in range(2):
        assert [arrival.message.stamp.seq for arrival in recording] == [0, 1]
        assert recording.corrupt == 2
    assert "2 corrupt messages" in recording.warnings[0]


def test_a_message_on_anothers_channel_is_left_out_by_a_repair_too(tmp_path: Path) -> None:
    path, out = tmp_path / "a.mcap", tmp_path / "b.mcap"
    with Recorder(path, BEGIN) as recorder:
        recorder.add(vision(0, 0), 0)
        recorder._add("audio", pack(encode(vision(1, 1))), 1, 1, 1)
    done = repair(path, out)
    assert done is not None and done.corrupt == 1
    mended = Recording.open(out)
    assert [arrival.message.stamp.seq for arrival in mended] == [0] and not mended.warnings


@pytest.mark.parametrize("told", ["yes", ["yes"], {"gaps": 3}])
def test_an_end_record_of_another_shape_tells_of_no_repair(told: Any, tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap", BEGIN) as recorder:
        recorder.close({"repaired": told})
    info = summarise(Recording.open(tmp_path / "a.mcap"))
    assert info.repaired is None and len(tables(info)) == 3


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.add_metadata("session", {"operator": "somebody"})
        channel = writer.register_channel("/chatter", "json", 0)
        writer.add_message(channel, 1, b"{}", 1)
        writer.finish()  # type: ignore[no-untyped-call]


def other_version(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.add_metadata("session", {"format": "emotion-recording/99", "begin": "{}"})
        writer.finish()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"RIFF....WAVE"), "is not an MCAP file"),
        (lambda path: path.write_bytes(b"\x89MC"), "breaks off before its header"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
        (foreign, "MCAP file of another program"),
        (other_version, "'emotion-recording/99', expected 'emotion-recording/1'"),
    ],
)
def test_what_is_no_recording_is_named_and_refused(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "a.mcap"
    make(path)
    with pytest.raises(RecordingError) as error:
        Recording.open(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
