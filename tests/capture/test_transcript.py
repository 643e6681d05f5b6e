"""Words: agreement without a model, utterances on virtual sound, and the real process with a real Whisper."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import ctranslate2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture import whisper
from capture.agreement import HypothesisBuffer, normalised
from capture.bus import Receiver, Sender, ipc, private_folder
from capture.clock import HostClock
from capture.delivery import LOSSLESS, ORDERED
from capture.link import Go, Wish
from capture.messages import FeatureBlock, Message, Pcm, Stamp, Status, Unheard, Word, Words
from capture.recogniser import PRE_ROLL_NS, RATE_HZ, VAD_SAMPLES, Recogniser

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000
S = 1_000_000_000


def said(text: str, start_ms: int = 0, each_ms: int = 300) -> list[Word]:
    """Words one after the other, each 300 ms long unless told otherwise."""
    return [
        Word(word, (start_ms + i * each_ms) * MS, (start_ms + (i + 1) * each_ms) * MS)
        for i, word in enumerate(text.split())
    ]


def texts(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


# --- LocalAgreement-2, scripted


def test_words_are_committed_when_two_hypotheses_agree_and_not_before() -> None:
    buffer = HypothesisBuffer()
    assert buffer.insert(said("and so my fellow")) == []
    assert texts(buffer.insert(said("and so my yellow americans"))) == "and so my"
    assert texts(buffer.pending) == "yellow americans"
    assert texts(buffer.insert(said("and so my fellow americans ask"))) == ""
    assert texts(buffer.insert(said("and so my fellow americans ask not"))) == "fellow americans ask"
    assert texts(buffer.flush()) == "not"
    assert buffer.flush() == []


def test_case_and_punctuation_do_not_stop_agreement_and_the_newer_spelling_is_kept() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(said("Ask not what"))
    assert texts(buffer.insert(said("ask not. What"))) == "ask not. What"


def test_a_committed_word_that_is_placed_a_little_later_is_not_said_twice() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(said("what a day"))
    buffer.insert(said("what a day"))
    for _ in range(2):
        assert buffer.insert(said("what a day", start_ms=90)) == []
    assert texts(buffer.flush()) == ""


def test_a_word_that_is_really_said_twice_is_committed_twice() -> None:
    buffer = HypothesisBuffer()
    assert texts(buffer.insert(said("no")) + buffer.insert(said("no"))) == "no"
    assert texts(buffer.insert(said("no no")) + buffer.insert(said("no no"))) == "no"


def test_words_in_time_that_was_promised_away_are_left_out() -> None:
    buffer = HypothesisBuffer()
    buffer.promise(1 * S)
    buffer.insert(said("ghost late", start_ms=500))
    (word,) = buffer.insert(said("ghost late", start_ms=500))
    assert (word.text, word.start_ns, word.end_ns) == ("late", 1 * S, 1100 * MS)


TEXTS = st.sampled_from(["no", "No.", "yes", "a", "-", "you"])
WORDS = st.lists(st.tuples(TEXTS, st.integers(0, 4000), st.integers(0, 900)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(WORDS, st.booleans(), st.integers(0, 4000)), max_size=8))
def test_whatever_is_heard_commits_never_change_nor_go_back_and_keep_every_promise(
    script: list[tuple[list[tuple[str, int, int]], bool, int]],
) -> None:
    buffer = HypothesisBuffer()
    before: tuple[Word, ...] = ()
    end_ns = 0
    for heard, flushed, promise_ms in script:
        hypothesis = [Word(t, a * MS, (a + d) * MS) for t, a, d in sorted(heard, key=lambda w: w[1])]
        promised_ns = buffer.frontier_ns
        new = buffer.insert(hypothesis)
        waited = iter([normalised(word.text) for word in before])
        assert all(normalised(word.text) in waited for word in new), "committed without agreement"
        if flushed:
            new += buffer.flush()
        assert all(word.end_ns >= promised_ns and word.start_ns >= promised_ns for word in new)
        for word in new:
            assert end_ns <= word.start_ns <= word.end_ns
            end_ns = word.end_ns
        assert buffer.frontier_ns >= end_ns
        if not flushed:
            buffer.promise(promise_ms * MS)
        before = buffer.pending


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_exactly_the_common_prefix_is_committed(first: list[str], second: list[str]) -> None:
    buffer = HypothesisBuffer()
    buffer.insert(said(" ".join(first)))
    committed = buffer.insert(said(" ".join(second)))
    common = [a for i, a in enumerate(first) if first[: i + 1] == second[: i + 1]]
    assert [word.text for word in committed] == common


# --- utterances, on sound whose loud parts are speech; each loud 250 ms is a word named by its time


class Room:
    """A scripted world: what is loud is speech, and Whisper hears a word for every loud 250 ms."""

    def __init__(self, start_ns: int = 0) -> None:
        self.heard: list[float] = []  # seconds of sound of every transcription
        self.words: list[Word] = []
        self.untils: list[int] = []
        self.recogniser = Recogniser(self.transcribe, self.speech, start_ns)

    def speech(self, chunk: bytes) -> float:
        return float(np.abs(np.frombuffer(chunk, "<i2")).max() > 1000)

    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        self.heard.append(len(samples) / RATE_HZ)
        borders = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
        return [
            Word(f"w{round(float(samples[a]) * 32768)}", a * S // RATE_HZ, b * S // RATE_HZ)
            for a, b in pairwise(borders)
            if b - a > RATE_HZ // 16 and samples[a] > 0.04
        ]

    def play(self, t_s: float, samples: npt.NDArray[np.int16]) -> None:
        """Feed in messages of 160 ms and work whenever something is due, as the process does."""
        for at in range(0, len(samples), 2560):
            t_ns = round(t_s * S) + at * S // RATE_HZ
            if not self.recogniser.expects(t_ns):
                self.take(self.recogniser.end_utterance())
            self.take(self.recogniser.feed(t_ns, samples[at : at + 2560]))
            if self.recogniser.silent:
                self.take(self.recogniser.fall_silent())
            elif self.recogniser.due:
                self.take(self.recogniser.step())

    def take(self, words: list[Word]) -> None:
        for word in words:
            assert word.end_ns >= (self.untils[-1] if self.untils else 0), "a promise was broken"
        self.words += words
        self.untils.append(self.recogniser.until_ns)


def sound(*parts: tuple[float, bool], first: int = 2000) -> npt.NDArray[np.int16]:
    """(seconds, loud) after each other; loud sound is one level per 250 ms, so that words differ."""
    out: list[npt.NDArray[np.int16]] = []
    level = first
    for seconds, loud in parts:
        for _ in range(round(seconds * 4)):
            out.append(np.full(RATE_HZ // 4, level if loud else 0, np.int16))
            level += 10 if loud else 0
    return np.concatenate(out)


def check_order(words: Sequence[Word]) -> None:
    assert all(a.end_ns <= b.start_ns + 1 for a, b in pairwise(words))


def test_silence_is_never_transcribed_and_listening_goes_on() -> None:
    room = Room()
    room.play(0.0, sound((20.0, False)))
    assert room.heard == [] and room.words == []
    assert room.recogniser.until_ns >= 20 * S - PRE_ROLL_NS - VAD_SAMPLES * S // RATE_HZ


def test_every_word_comes_once_with_its_time_and_silence_ends_the_utterance() -> None:
    room = Room()
    room.play(0.0, sound((1.0, False), (4.0, True), (3.0, False)))
    assert [word.text for word in room.words] == [f"w{2000 + 10 * i}" for i in range(16)]
    for i, word in enumerate(room.words):
        assert abs(word.start_ns - (1 * S + i * 250 * MS)) <= 1 * MS, word
    check_order(room.words)
    assert room.recogniser.until_ns > 7 * S


@pytest.mark.parametrize("chunk_s", [1, 2, 3])
@pytest.mark.parametrize("samples", [320, 2560])
def test_a_word_is_committed_within_two_chunks_of_its_end(samples: int, chunk_s: int) -> None:
    room = Room()
    room.recogniser.step_ns = chunk_s * S
    seen: dict[str, int] = {}
    loud = sound((20.0, True))
    for at in range(0, len(loud), samples):
        room.play(at / RATE_HZ, loud[at : at + samples])
        for word in room.words:
            seen.setdefault(word.text, (at + samples) * S // RATE_HZ - word.end_ns)
    chunk_ns = -(-chunk_s * RATE_HZ // samples) * samples * S // RATE_HZ  # in whole messages
    assert len(seen) >= 80 - 2 * 4 * chunk_s and max(seen.values()) <= 2 * chunk_ns
    assert max(seen.values()) > chunk_ns, "one hypothesis alone commits nothing"


def test_sound_is_bounded_however_long_somebody_speaks() -> None:
    room = Room()
    room.play(0.0, sound((70.0, True)))
    assert max(room.heard) <= 17.0 and len(room.words) > 250
    check_order(room.words)


def test_long_speech_is_cut_where_a_sentence_ends() -> None:
    room, starts_ns, ends_ns = Room(), list[int](), set[int]()

    def sentences(samples: npt.NDArray[np.float32]) -> list[Word]:
        start_ns = room.recogniser.end_ns - len(samples) * S // RATE_HZ
        starts_ns.append(start_ns)
        words = []
        for word in room.transcribe(samples):
            last = int(word.text[1:]) % 130 == 0  # each thirteenth word
            if last:
                ends_ns.add(start_ns + word.end_ns)
            words.append(msgspec.structs.replace(word, text=f"{word.text}." if last else word.text))
        return words

    room.recogniser = Recogniser(sentences, room.speech)
    room.play(0.0, sound((60.0, True)))
    cuts = {start_ns for start_ns in starts_ns if start_ns > S}
    assert len(cuts) > 3
    assert all(min(abs(cut - end) for end in ends_ns) <= MS for cut in cuts)
    assert max(room.heard) <= 20.0 and len(room.words) > 200


def test_a_vad_that_is_sure_of_speech_late_costs_no_word() -> None:
    room = Room()
    loud = 0

    def sure_late(chunk: bytes) -> float:
        nonlocal loud
        loud = loud + 1 if room.speech(chunk) else 0
        return float(loud * VAD_SAMPLES > 0.4 * RATE_HZ)

    room.recogniser = Recogniser(room.transcribe, sure_late)
    room.play(0.0, sound((3.0, False), (2.0, True), (3.0, False)))
    assert [word.text for word in room.words] == [f"w{2000 + 10 * i}" for i in range(8)]
    assert room.words[0].start_ns == pytest.approx(3 * S, abs=MS)


def test_what_whisper_makes_up_in_silence_is_not_said() -> None:
    room = Room()

    def polite(samples: npt.NDArray[np.float32]) -> list[Word]:
        words, length_ns = room.transcribe(samples), len(samples) * S // RATE_HZ
        quiet = not words or length_ns - words[-1].end_ns > S
        thanks = Word("Thank", length_ns - 300 * MS, length_ns - 100 * MS)
        return [*words, thanks] if quiet else words

    room.recogniser = Recogniser(polite, room.speech)
    room.play(0.0, sound((1.0, False), (2.0, True), (6.0, False), (2.0, True), (3.0, False)))
    assert len(room.words) == 16 and all(word.text != "Thank" for word in room.words)


def test_what_whisper_says_again_and_again_is_said_once_or_twice() -> None:
    room = Room()

    def stuck(samples: npt.NDArray[np.float32]) -> list[Word]:
        return said("thank you " * 8, each_ms=200)

    room.recogniser = Recogniser(stuck, room.speech)
    room.play(0.0, sound((3.0, True), (3.0, False)))
    assert 1 <= texts(room.words).count("thank you") <= 2


@pytest.mark.parametrize(("gpus", "expected"), [(0, ("cpu", "int8", 1)), (1, ("cuda", "auto", 5))])
def test_the_machine_decides_how_whisper_computes(
    monkeypatch: pytest.MonkeyPatch, gpus: int, expected: tuple[str, str, int]
) -> None:
    """No test machine has a GPU: the model is none, and what it was loaded with is looked at."""
    loaded = []
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: gpus)
    monkeypatch.setattr(whisper, "_load", lambda *how: loaded.append(how))
    one = whisper.Whisper("tiny")
    assert loaded == [("tiny", *expected[:2])]
    assert (one.device, one.compute_type, one._beam) == expected


def test_speech_that_whisper_cannot_read_is_bounded_too() -> None:
    room = Room()
    lengths: list[int] = []

    def deaf(samples: npt.NDArray[np.float32]) -> list[Word]:
        lengths.append(len(samples))
        return []

    room.recogniser = Recogniser(deaf, room.speech)
    room.play(0.0, sound((70.0, True)))
    assert max(lengths) <= 30 * RATE_HZ and room.recogniser.until_ns > 38 * S


def test_a_hole_ends_the_utterance_and_time_is_not_compressed() -> None:
    room = Room()
    room.play(0.0, sound((2.5, True)))
    room.play(12.5, sound((2.5, True), first=5000))
    room.take(room.recogniser.end_utterance())
    before = [word for word in room.words if word.text < "w5000"]
    after = [word for word in room.words if word.text >= "w5000"]
    assert len(before) == 10 and len(after) == 10
    assert before[-1].end_ns <= 2500 * MS and after[0].start_ns >= 12_500 * MS
    check_order(room.words)


def test_what_is_skipped_is_counted() -> None:
    room = Room()
    room.recogniser.feed(0, sound((25.0, True)))
    assert room.recogniser.backlog_ns == 25 * S
    room.recogniser.skip_to(20 * S)
    assert room.recogniser.skipped == 20 * RATE_HZ
    assert room.recogniser.until_ns >= 20 * S
    room.take(room.recogniser.end_utterance())
    assert len(room.words) == 20 and room.words[0].start_ns >= 20 * S


def test_what_nobody_listened_to_is_told_with_the_reason() -> None:
    room = Room()
    loud, recogniser = sound((25.0, True)), room.recogniser
    recogniser.feed(0, loud)
    recogniser.skip_to(20 * S)
    assert recogniser.missed() == (Unheard(0, 20 * S, "lagging"),) and recogniser.missed() == ()
    room.take(recogniser.end_utterance())
    for at in range(4):  # a machine that cannot keep up does without words, second by second
        recogniser.feed((25 + at) * S, loud[:RATE_HZ])
        room.take(recogniser.leave())
    recogniser.pass_over(40 * S, "no_sound")
    assert recogniser.until_ns == recogniser.end_ns == 40 * S
    assert recogniser.missed() == (Unheard(25 * S, 29 * S, "eased"), Unheard(29 * S, 40 * S, "no_sound"))
    room.play(40.0, sound((2.5, True), (3.0, False), first=5000))
    assert len(room.words) == 20 + 10 and recogniser.missed() == ()


def test_sound_that_is_cut_before_it_was_transcribed_is_told_too() -> None:
    room = Room()
    room.recogniser.feed(0, sound((31.0, True)))
    assert room.recogniser.missed() == (Unheard(0, 16 * S, "lagging"),)


# --- the real process


class Process:
    """The session's side of ``python -m capture.transcript``."""

    def __init__(self) -> None:
        self.folder = private_folder()
        self.receiver = Receiver(ipc(self.folder, "text"), session="s", stream="text")
        self.pcm = ipc(self.folder, "pcm")
        self.process: subprocess.Popen[bytes] | None = None
        self.messages: list[Message] = []

    def start(self, *options: str, python: Sequence[str] = ("-m", "capture.transcript")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *python, "--session", "s",
             "--endpoint", ipc(self.folder, "text"), *options],
            stdin=subprocess.PIPE, cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder)},
        )  # fmt: skip

    def go(self, *, paced: bool = False, start_ns: int = 0) -> None:
        assert self.process is not None and self.process.stdin is not None
        go = Go(HostClock("media", time.monotonic_ns() - start_ns, paced), start_ns)
        self.process.stdin.write(msgspec.json.encode(go) + b"\n")
        self.process.stdin.flush()

    def until(self, *states: str, within_s: float = 30.0) -> Status:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            message = self.receiver.receive()
            if message is None:
                if not self.receiver.socket.poll(20) and self.process and self.process.poll() is not None:
                    break
                continue
            self.messages.append(message)
            if isinstance(message, Status) and message.state in states:
                return message
        heard = [m.state if isinstance(m, Status) else m.stamp.seq for m in self.messages]
        raise AssertionError(f"no {states} within {within_s} s among {heard}")

    def wait(self) -> int:
        assert self.process is not None
        if self.process.stdin is not None:
            self.process.stdin.close()  # as the session does when it has read the last message
        return self.process.wait(10)

    @property
    def said(self) -> list[Words]:
        return [message for message in self.messages if isinstance(message, Words)]

    @property
    def words(self) -> list[Word]:
        return [word for message in self.said for word in message.words if word.committed]

    @property
    def guesses(self) -> list[Word]:
        """Provisional words, as often as they were said."""
        return [word for message in self.said for word in message.words if not word.committed]

    def wish(self, wish: Wish) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(wish) + b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()
        self.receiver.close()


@pytest.fixture
def transcript() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.fixture
def subtitles(tmp_path: Path) -> Path:
    path = tmp_path / "clip.vtt"
    path.write_text(
        "WEBVTT\n\n00:00.200 --> 00:00.800\nask<00:00.500> not\n\n00:01.000 --> 00:03.000\nwhat\n"
    )
    return path


def check_steps(said: Sequence[Words], start_ns: int, end_ns: int) -> None:
    """``until_ns`` starts, steps by at most 250 ms, ends, and every word came with its message."""
    untils = [start_ns, *(message.until_ns for message in said)]
    assert all(0 <= b - a <= 250 * MS for a, b in pairwise(untils)), untils
    assert untils[-1] == end_ns
    for message, before in zip(said, untils, strict=False):
        assert all(before <= word.end_ns <= message.until_ns for word in message.words)


def test_subtitles_unpaced_come_at_once_and_silence_is_said_to_the_end_of_the_media(
    transcript: Process, subtitles: Path
) -> None:
    transcript.start("--asr", f"subtitles:{subtitles}", "--until-ns", str(2 * S))
    assert transcript.until("ready").detail == "3 words in clip.vtt"
    transcript.go()
    began = time.monotonic()
    transcript.until("ended")
    assert time.monotonic() - began < 1.0 and transcript.wait() == 0
    check_steps(transcript.said, 0, 2 * S)
    assert [(w.text, w.start_ns // MS, w.end_ns // MS) for w in transcript.words] == [
        ("ask", 200, 500), ("not", 500, 800), ("what", 1000, 2000),
    ]  # fmt: skip


def test_subtitles_paced_are_said_when_the_clock_passes_them_and_seek(
    transcript: Process, subtitles: Path
) -> None:
    transcript.start("--asr", f"subtitles:{subtitles}", "--until-ns", str(1200 * MS))
    transcript.until("ready")
    transcript.go(paced=True, start_ns=600 * MS)
    transcript.until("ended")
    check_steps(transcript.said, 600 * MS, 1200 * MS)
    assert texts(transcript.words) == "not what"
    for message in transcript.said:
        assert 0 <= message.stamp.t_publish_ns - message.until_ns < 150 * MS


def test_a_malformed_subtitle_file_is_absent_with_one_line(transcript: Process, tmp_path: Path) -> None:
    path = tmp_path / "bad.srt"
    path.write_text("1\n00:00:01,000 -> 00:00:02,000\nno\n")
    transcript.start("--asr", f"subtitles:{path}")
    status = transcript.until("absent")
    assert status.reason == "unreadable" and f"{path}, line 2: expected" in status.detail
    assert transcript.wait() == 3


@pytest.mark.parametrize("model", ["gigantic", "tiny", "{folder}"])
def test_a_whisper_that_is_not_there_is_asset_missing(transcript: Process, model: str) -> None:
    model = model.format(folder=transcript.folder)
    transcript.start("--asr", f"whisper:{model}", "--pcm", transcript.pcm)
    status = transcript.until("absent")
    assert status.reason == "asset_missing" and model in status.detail and "\n" not in status.detail
    assert transcript.wait() == 3


@pytest.mark.parametrize("damaged", ["", "model.bin", "config.json"])
def test_a_whisper_of_the_hub_is_checked_by_the_hashes_that_its_files_lie_under(
    transcript: Process, tiny_whisper: Path, damaged: str
) -> None:
    repository = transcript.folder / "hub" / "models--Systran--faster-whisper-tiny"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    for file in tiny_whisper.iterdir():
        content = file.read_bytes()
        if file.name == "config.json":  # a small file: Git's hash
            name = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        else:
            name = hashlib.sha256(content).hexdigest()
        if file.name == damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        (blobs / name).write_bytes(content)
        (snapshot / file.name).symlink_to(Path("../../blobs") / name)
    transcript.start("--asr", "whisper:tiny", "--pcm", transcript.pcm)
    if not damaged:
        assert "whisper tiny on" in transcript.until("ready").detail
        return
    status = transcript.until("absent")
    assert status.reason == "asset_missing" and f"{damaged} of whisper is damaged" in status.detail
    assert "remove" in status.detail and str(blobs) in status.detail
    assert transcript.wait() == 3


def speech(path: Path) -> npt.NDArray[np.int16]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def send(endpoint: str, parts: Sequence[tuple[int, npt.NDArray[np.int16]]], rate_hz: int = RATE_HZ) -> None:
    """What the microphone process does: numbered messages, an empty one at the end."""
    seq = 0
    with Sender(endpoint, delivery=LOSSLESS) as sender:
        for t_ns, samples in [*parts, (0, np.empty(0, np.int16))]:
            seq = speak(sender, t_ns, samples, seq, rate_hz)


def speak(sender: Sender, t_ns: int, samples: npt.NDArray[np.int16], seq: int, rate_hz: int = RATE_HZ) -> int:
    """Sound, 160 ms a message; returns the number of the next."""
    for at in range(0, max(1, len(samples)), 2560):
        at_ns = t_ns + at * S // RATE_HZ
        sender.send(Pcm(Stamp("s", "audio", seq, at_ns, at_ns), rate_hz, samples[at : at + 2560]))
        seq += 1
    return seq


def test_a_real_whisper_hears_real_speech_and_says_well_formed_words(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples = speech(media / "jfk.flac")
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    assert "int8" in transcript.until("ready").detail or ctranslate2.get_cuda_device_count()
    transcript.go()
    end_ns = 20 * S + len(samples) * S // RATE_HZ
    send(transcript.pcm, [(0, samples), (20 * S, samples)])  # with a hole of nine seconds between
    ended = transcript.until("ended", within_s=60)
    assert transcript.wait() == 0
    assert ended.dropped == 0 and ended.produced == len(transcript.words) > 10
    untils = [message.until_ns for message in transcript.said]
    assert untils == sorted(untils) and untils[-1] == pytest.approx(end_ns, abs=S // RATE_HZ * 2)
    check_order(transcript.words)
    for message, promised_ns in zip(transcript.said, [0, *untils], strict=False):
        committed = [word for word in message.words if word.committed]
        assert all(promised_ns <= word.end_ns <= message.until_ns for word in committed)
        assert message.words[: len(committed)] == (*committed,), "committed words stand first"
        assert all(word.end_ns >= message.until_ns for word in message.words[len(committed) :])
    assert transcript.guesses and all(not word.committed for word in transcript.guesses)
    for word in transcript.words:
        assert word.committed and word.text.startswith("word") and 0.0 <= word.probability <= 1.0
        assert not 12 * S < word.start_ns < 20 * S, "a word in the hole"
    assert {word.start_ns >= 20 * S for word in transcript.words} == {True, False}


def test_without_provisional_words_only_what_is_committed_is_said(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    transcript.until("ready")
    transcript.go()
    transcript.wish(Wish(provisional=False))
    time.sleep(0.5)  # the wish has no answer
    send(transcript.pcm, [(0, speech(media / "jfk.flac"))])
    transcript.until("ended", within_s=60)
    assert transcript.guesses == [] and len(transcript.words) > 5


def test_a_session_may_do_without_words_for_a_while(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples = speech(media / "jfk.flac")
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    transcript.until("ready")
    transcript.go()
    transcript.until("running")
    transcript.wish(Wish(recogniser="off"))
    eased = transcript.until("degraded")
    assert eased.reason == "eased" and "not recognised" in eased.detail
    with Sender(transcript.pcm, delivery=LOSSLESS) as sender:
        seq = speak(sender, 0, samples, 0)
        deadline = time.monotonic() + 20
        while not (transcript.said and transcript.said[-1].until_ns > 10 * S):
            assert time.monotonic() < deadline, "listening does not go on"
            message = transcript.receiver.receive()
            if message is None:
                transcript.receiver.socket.poll(20)
            else:
                transcript.messages.append(message)
        assert transcript.words == [] and transcript.guesses == []
        unheard = [one for message in transcript.said for one in message.unheard]
        assert {one.reason for one in unheard} == {"eased"}
        assert sum(one.end_ns - one.start_ns for one in unheard) > 9 * S
        transcript.wish(Wish())
        transcript.until("running")
        seq = speak(sender, 11 * S, samples, seq)
        speak(sender, 0, np.empty(0, np.int16), seq)
    ended = transcript.until("ended", within_s=60)
    assert ended.dropped == 0, "what nobody wanted to hear is not lost"
    assert transcript.words and all(word.start_ns >= 10 * S for word in transcript.words)


def test_a_simpler_recognition_makes_a_third_of_the_hypotheses_and_loses_no_sound(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples, told = speech(media / "jfk.flac"), {}
    for wish in (Wish(), Wish(recogniser="simple")):
        one = Process()
        one.start("--asr", f"whisper:{tiny_whisper}", "--pcm", one.pcm, "--language", "en")
        one.until("ready")
        one.go()
        one.until("running")
        one.wish(wish)
        if wish != Wish():
            assert "every 3 s" in one.until("degraded").detail
        send(one.pcm, [(0, samples)])
        ended = one.until("ended", within_s=60)
        assert ended.dropped == 0 and one.words and one.said[-1].until_ns >= 10 * S
        told[wish.recogniser] = sum(bool(message.words) for message in one.said)
        one.close()
    assert 1 < told["simple"] <= told["full"] / 2, told


def test_sound_that_finds_the_pipe_full_is_a_gap_and_its_time_stays_empty(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples = np.tile(speech(media / "jfk.flac"), 11)
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    transcript.until("ready")
    transcript.go()
    transcript.until("running")
    assert transcript.process is not None
    with Sender(transcript.pcm, delivery=ORDERED) as live:  # as of a microphone: nobody waits for Whisper
        transcript.process.send_signal(signal.SIGSTOP)
        seq = speak(live, 0, samples, 0)
        lost = live.dropped
        transcript.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 20
        while not transcript.said and time.monotonic() < deadline:  # there is room again
            if (message := transcript.receiver.receive()) is not None:
                transcript.messages.append(message)
        assert lost > 20 and live.dropped == lost
        while not live.send(last := Pcm(Stamp("s", "audio", seq, at_ns := seq * 160 * MS, at_ns), RATE_HZ,
                                        samples[:2560])):  # fmt: skip
            lost, seq = lost + 1, seq + 1
        live.send(Pcm(Stamp("s", "audio", seq + 1, 0, 0), RATE_HZ, np.empty(0, np.int16)), wait=True)
        ended = transcript.until("ended", within_s=60)
    assert ended.dropped == lost * 2560
    gone_ns = last.stamp.t_capture_ns - lost * 160 * MS
    assert transcript.words[-1].end_ns <= gone_ns + 160 * MS or transcript.words[-1].start_ns >= gone_ns
    assert any("not heard" in m.detail for m in transcript.messages if isinstance(m, Status))


def test_a_silent_room_ends_without_a_word(transcript: Process, tiny_whisper: Path) -> None:
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm)
    transcript.until("ready")
    transcript.go()
    send(transcript.pcm, [(0, np.zeros(5 * RATE_HZ, np.int16))])
    transcript.until("ended")
    assert transcript.words == [] and transcript.said[-1].until_ns == 5 * S
    assert len(transcript.said) >= 10


def test_sound_that_whisper_cannot_keep_up_with_is_counted_and_said(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples = speech(media / "jfk.flac")
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm)
    transcript.until("ready")
    send(transcript.pcm, [(0, np.tile(samples, 3))])  # half a minute, there before the session goes
    transcript.go(paced=True)
    status = transcript.until("degraded")
    assert status.reason == "lagging" and 5 * RATE_HZ < status.dropped < 33 * RATE_HZ
    ended = transcript.until("ended")
    assert ended.dropped == status.dropped
    assert transcript.words and transcript.said[-1].until_ns == pytest.approx(33 * S, abs=S // 100)
    assert all(word.end_ns * RATE_HZ // S >= status.dropped for word in transcript.words)


@pytest.mark.parametrize("seq", [0, 40])
@pytest.mark.parametrize("seconds", [0, 3])
def test_sound_that_went_to_a_process_before_is_counted_and_said(
    transcript: Process, tiny_whisper: Path, seq: int, seconds: int
) -> None:
    """Sound that begins late is a file's matter; sound whose first number is not 0 had another listener."""
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm)
    transcript.until("ready")
    transcript.go(start_ns=2 * S)
    with Sender(transcript.pcm, delivery=LOSSLESS) as sender:
        silence = np.zeros(seconds * RATE_HZ, np.int16)
        seq_end = speak(sender, 5 * S, silence, seq) if seconds else seq
        speak(sender, (5 + seconds) * S, np.empty(0, np.int16), seq_end)
    ended = transcript.until("ended")
    assert ended.dropped == (3 * RATE_HZ if seq else 0)
    told = [m.detail for m in transcript.messages if isinstance(m, Status) and m.reason == "restarting"]
    assert told == (["3.0 s not heard: the process before died"] if seq else [])


def test_a_microphone_that_leaves_ends_the_utterance_and_listening_goes_on_unheard(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    samples = speech(media / "jfk.flac")[: 2 * RATE_HZ]
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    transcript.until("ready")
    transcript.go(paced=True)
    began_ns = time.monotonic_ns()
    transcript.until("running")
    with Sender(transcript.pcm, delivery=LOSSLESS) as sender:
        seq = speak(sender, 0, samples, 0)  # and it is unplugged in the middle of a sentence
        gone = transcript.until("degraded", within_s=20)
        assert gone.reason == "no_sound"
        assert transcript.words and transcript.words[-1].end_ns <= 2 * S
        while transcript.said[-1].until_ns < 4 * S:
            transcript.until("degraded", within_s=10)
        said = len(transcript.words)
        back_ns = time.monotonic_ns() - began_ns
        seq = speak(sender, back_ns, samples, seq)
        transcript.until("running")
        speak(sender, 0, np.empty(0, np.int16), seq)
    ended = transcript.until("ended")
    assert ended.dropped == 0 and len(transcript.words) > said
    unheard = [one for message in transcript.said for one in message.unheard]
    assert {one.reason for one in unheard} == {"no_sound"}
    assert sum(one.end_ns - one.start_ns for one in unheard) == pytest.approx(back_ns - 2 * S, abs=S // 10)
    untils = [message.until_ns for message in transcript.said]
    assert untils == sorted(untils)


def test_a_session_that_ends_is_not_kept_waiting(transcript: Process, tiny_whisper: Path) -> None:
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm)
    transcript.until("ready")
    transcript.go(paced=True)
    transcript.until("running")
    assert transcript.process is not None and transcript.process.stdin is not None
    transcript.process.stdin.close()
    transcript.process.stdin = None
    transcript.until("ended", within_s=2)
    assert transcript.wait() == 0


def test_sound_of_another_rate_and_what_is_no_sound_is_refused_counted_and_harms_nothing(
    transcript: Process, tiny_whisper: Path, media: Path
) -> None:
    transcript.start("--asr", f"whisper:{tiny_whisper}", "--pcm", transcript.pcm, "--language", "en")
    transcript.until("ready")
    transcript.go()
    transcript.until("running")
    with Sender(transcript.pcm, delivery=LOSSLESS) as sender:
        seq = speak(sender, 0, np.zeros(8000, np.int16), 0, rate_hz=8000)  # four messages
        status = transcript.until("degraded")
        assert status.reason == "unsupported" and "8000 Hz" in status.detail
        stamp = Stamp("s", "audio", seq, 0, 0)
        sender.send(Status(stamp, "running"))
        sender.send(FeatureBlock(stamp, "x", 0, np.zeros(1, np.int64), np.zeros((1, 2), np.float32)))
        sender.send(Pcm(Stamp("another", "audio", seq, 0, 0), RATE_HZ, np.zeros(2560, np.int16)))
        seq = speak(sender, 0, speech(media / "jfk.flac"), seq)
        transcript.until("running")
        speak(sender, 0, np.empty(0, np.int16), seq)
    ended = transcript.until("ended", within_s=60)
    assert (ended.corrupt, ended.dropped) == (4 + 3, 0) and len(transcript.words) > 5


@pytest.fixture
def sizes(transcript: Process, tiny_whisper: Path) -> Callable[..., None]:
    """Starts Whisper "base" with "tiny" beside it, both in the hub's cache; every step takes too long."""

    def start(*, broken: bool) -> None:
        for size in ("base", "tiny"):
            model = transcript.folder / "hub" / f"models--Systran--faster-whisper-{size}"
            snapshot = model / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
            shutil.copytree(tiny_whisper, snapshot)
            (model / "refs").mkdir()
            (model / "refs" / "main").write_text(snapshot.name)
        if broken:
            (snapshot / "model.bin").write_bytes(b"no model")
        busy = "import runpy, capture.governor as g; g.BUSY, g.STEPS_LOOKED_AT = 0.0, 2"
        run = "runpy.run_module('capture.transcript', run_name='__main__', alter_sys=True)"
        transcript.start("--asr", "whisper:base", "--pcm", transcript.pcm, "--language", "en",
                         python=("-c", f"{busy}; {run}"))  # fmt: skip
        transcript.until("ready")
        transcript.go(paced=True)
        transcript.until("running")

    return start


@pytest.mark.parametrize("broken", [False, True])
def test_a_recogniser_that_falls_behind_takes_the_smaller_model_unless_that_is_broken(
    transcript: Process, sizes: Callable[..., None], media: Path, broken: bool
) -> None:
    sizes(broken=broken)
    samples, seq, told = speech(media / "jfk.flac"), 0, list[str]()
    wanted = "; not by tiny: " if broken else "by tiny"
    with Sender(transcript.pcm, delivery=LOSSLESS) as sender:
        for at_ns in range(0, 180 * S, S // 2):
            part = np.roll(samples, -(at_ns * RATE_HZ // S))[: RATE_HZ // 2]
            seq = speak(sender, at_ns, part, seq)
            time.sleep(0.05)  # ten times as fast as somebody speaks
            while (message := transcript.receiver.receive()) is not None:
                transcript.messages.append(message)
                if isinstance(message, Status) and message.reason == "eased":
                    told.append(message.detail)
            if told and wanted in told[-1]:
                break
        speak(sender, 0, np.empty(0, np.int16), seq)
    ended = transcript.until("ended", within_s=60)
    assert wanted in told[-1] and (("s by base" in told[-1]) == broken), told
    assert ended.corrupt == 0 and transcript.wait() == 0
    assert transcript.words, "the stream of words goes on"
