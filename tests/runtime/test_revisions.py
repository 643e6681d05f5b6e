"""Late words: the stream says how often they change an answer, and subscribers choose what they hear."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from capture.messages import Words
from runtime import bench, live
from runtime.bench_late import delay
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.revisions import Revisions, shift
from runtime.stream import Emotion, Emotions, Message, SessionEnd, Transcript, decode, subscribe


def emotions_of(path: Path) -> list[Emotion]:
    messages = (decode(payload) for _, payload in Recording.open(path).emotions())
    return [message for message in messages if isinstance(message, Emotion)]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, as if its words had been recognised from sound: each 1.3 s after it was said."""
    path = tmp_path_factory.mktemp("late") / "late.mcap"
    delay(Recording.open(DEMO), path, 1.3)
    return path


def replay(path: Path, out: Path, *options: str) -> list[Emotion]:
    ipc = f"ipc://{out.parent}/{out.stem}"
    arguments = ["--replay", str(path), "--fast", "--record", str(out), "--endpoint", ipc, "--no-dashboard"]
    assert live.main([*arguments, *options]) == 0
    return emotions_of(out)


def test_a_replay_revises_the_same_windows_with_the_same_numbers(late: Path, tmp_path: Path) -> None:
    runs = [replay(late, tmp_path / name) for name in ("a.mcap", "b.mcap")]
    for one, other in zip(*runs, strict=True):
        assert (one.seq, one.revises, one.final, one.emotions) == (
            other.seq, other.revises, other.final, other.emotions,
        )  # fmt: skip
    revised = [message for message in runs[0] if message.revises is not None]
    by_seq = {message.seq: message for message in runs[0]}
    assert len(revised) > 10
    for message in revised:
        assert message.revises is not None
        before = by_seq[message.revises]
        assert message.final and not before.final
        assert (message.time.start_ns, message.time.end_ns) == (before.time.start_ns, before.time.end_ns)
        assert (message.modalities.text.words or 0) >= (before.modalities.text.words or 0)


def test_the_final_answers_are_those_of_a_session_that_had_the_words_in_time(
    late: Path, tmp_path: Path
) -> None:
    """Late words cost time, never the answer."""
    finals = {m.time.end_ns: m for m in replay(late, tmp_path / "late.mcap") if m.final}
    intime = {m.time.end_ns: m for m in replay(DEMO, tmp_path / "demo.mcap") if m.final}
    shared = finals.keys() & intime.keys()
    assert len(shared) >= 20
    for end_ns in shared:
        assert finals[end_ns].emotions == intime[end_ns].emotions
        assert finals[end_ns].modalities.text.words == intime[end_ns].modalities.text.words


def test_the_session_says_how_often_late_words_changed_the_answer(late: Path, tmp_path: Path) -> None:
    messages = replay(late, tmp_path / "told.mcap")
    end = Recording.open(tmp_path / "told.mcap").end
    assert end is not None
    told = msgspec.convert(end, SessionEnd, strict=False).revised
    assert not isinstance(told, msgspec.UnsetType)
    by_seq = {message.seq: message for message in messages}
    pairs = [(by_seq[m.revises], m) for m in messages if m.revises is not None]
    changed = [(a, b) for a, b in pairs if a.modalities.text.words != b.modalities.text.words]
    tops = [(a.emotions.top, b.emotions.top) for a, b in pairs if a.emotions and b.emotions]
    assert told.windows == len(pairs)
    assert told.words_changed >= len(changed) > 0
    assert told.answer_changed == sum(a != b for a, b in tops)
    assert told.shift == pytest.approx(sum(shift(a, b) for a, b in pairs) / told.words_changed, abs=1e-3)


def listen(path: Path, out: Path, **options: bool) -> list[Message]:
    """What a subscriber hears of a replay."""
    heard: list[Message] = []
    ipc = f"ipc://{out}"
    with subscribe(ipc, timeout_s=20, **options) as messages:
        thread = threading.Thread(
            target=live.main,
            args=(["--replay", str(path), "--fast", "--endpoint", ipc, "--no-dashboard", "--share-words"],),
        )
        thread.start()
        for message in messages:
            heard.append(message)
            if isinstance(message, SessionEnd):
                break
    thread.join()
    return heard


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # which only a main thread may set


def test_who_asks_for_finals_hears_each_window_once_and_complete(late: Path, tmp_path: Path) -> None:
    finals = [m for m in listen(late, tmp_path / "f", finals=True) if isinstance(m, Emotion)]
    ends = [message.time.end_ns for message in finals]
    assert ends == sorted(set(ends)) and len(ends) >= 20 and all(message.final for message in finals)


def test_words_are_heard_only_by_who_asks_for_them(late: Path, tmp_path: Path) -> None:
    without = listen(late, tmp_path / "n")
    assert not any(isinstance(message, Transcript) for message in without)
    shared = [m for m in listen(late, tmp_path / "w", words=True) if isinstance(m, Transcript)]
    said = [word.text for message in shared for word in message.words]
    recorded = [
        word.text
        for arrival in Recording.open(DEMO)
        if isinstance(arrival.message, Words)
        for word in arrival.message.words
    ]
    assert said == recorded and [message.seq for message in shared] == list(range(len(shared)))


def test_a_shift_is_the_share_of_the_answer_that_moved() -> None:
    def scores(*values: float) -> Emotion:
        one = emotions_of(DEMO)[0]
        labels = tuple("abc")
        return msgspec.structs.replace(one, emotions=Emotions(labels=labels, scores=values, top="a"))

    assert shift(scores(1, 0, 0), scores(0, 1, 0)) == 1
    assert shift(scores(0.5, 0.5, 0), scores(0.5, 0.25, 0.25)) == 0.25
    assert shift(scores(0.5, 0.5, 0), msgspec.structs.replace(scores(1, 0, 0), emotions=msgspec.UNSET)) == 1
    assert Revisions().told() is None


def test_the_benchmark_tells_what_each_delay_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["late", str(DEMO)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "s late" in line]
    assert len(rows) == 3 and all("%" in row for row in rows)


def test_a_recording_that_cannot_be_replayed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["late", str(tmp_path / "none.mcap")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
