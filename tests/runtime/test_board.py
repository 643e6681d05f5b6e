"""Board: what the page shows of a stream, with a clock that the test moves."""

from __future__ import annotations

import msgspec
import pytest

from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import (
    Emotion,
    Face,
    Picture,
    Said,
    SessionBegin,
    SessionEnd,
    Transcript,
    decode,
)
from tests.made_stream import LATE, OVERLOADED

pytest.importorskip("nicegui", reason="pip install 'emotion-edge[dashboard]'")

from runtime.dashboard.board import SEEN_S, Board

FACE = Face(session="demo", seq=0, t_ns=0, present=True, blendshapes={"jawOpen": 0.5})
WORD = Said(text="ask", start_ns=0, end_ns=1, committed=True)
PICTURE = Picture(session="demo", t_ns=0, width=4, height=3, jpeg=b"", landmarks=())


@pytest.fixture(scope="module")
def emotion() -> Emotion:
    message = decode(next(iter(Recording.open(DEMO).emotions()))[1])
    assert isinstance(message, Emotion)
    return msgspec.structs.replace(message, revises=None)


def test_a_camera_that_is_gone_does_not_go_on_smiling() -> None:
    now_s = 100.0
    board = Board(lambda: now_s)
    board.update(FACE)
    board.update(PICTURE)
    assert board.face_now == FACE and board.picture_now == PICTURE
    now_s += SEEN_S
    assert board.face_now is None and board.picture_now is None


def test_another_session_shows_nobody_of_the_one_before(emotion: Emotion) -> None:
    board = Board(lambda: 100.0)
    board.update(FACE)
    board.update(msgspec.structs.replace(emotion, session="other"))
    assert board.face_now is None and board.session == "other"


def test_a_session_of_the_same_name_begins_with_nothing_said(begun: SessionBegin, ended: SessionEnd) -> None:
    board = Board(lambda: 100.0)
    said = Transcript(session="demo", seq=0, until_ns=1, words=(WORD,))
    for message in (begun, said, begun):  # a late joiner's repetition takes nothing away
        board.update(message)
    assert board.words == (WORD,)
    board.update(ended)
    assert board.words == (WORD,) and board.over
    board.update(begun)
    assert not board.words and not board.over


def test_a_session_that_was_killed_and_began_again_shows_nobody_of_the_one_before(
    begun: SessionBegin, emotion: Emotion
) -> None:
    board = Board(lambda: 100.0)
    said = Transcript(session="demo", seq=0, until_ns=1, words=(WORD,))
    event = msgspec.structs.replace(OVERLOADED, event="vision: degraded")
    for message in (begun, emotion, FACE, said, event, begun):  # the last: repeated, as every few seconds
        board.update(message)
    assert board.words == (WORD,) and len(board.history) == 1 and board.event and board.face_now
    again = msgspec.structs.replace(begun, started="2026-11-25T12:07:00.000Z")
    board.update(again)
    assert not board.words and not board.history and not board.event and board.face_now is None
    assert board.begin == again and board.emotion is None


def test_a_revision_does_not_turn_the_clock_back_or_forward(emotion: Emotion) -> None:
    now_s = 100.0
    board = Board(lambda: now_s)
    board.update(emotion)
    now_s += 1.5
    late_ns = emotion.time.published_ns + 1_500_000_000
    again = msgspec.structs.replace(emotion.time, published_ns=late_ns)
    board.update(msgspec.structs.replace(emotion, seq=emotion.seq + 1, revises=emotion.seq, time=again))
    assert board.now_ns() == late_ns
    assert len(board.history) == 1 and board.history[0].emotion.revises == emotion.seq


def test_a_revision_replaces_the_newest_window_of_its_number_and_time_and_no_other(emotion: Emotion) -> None:
    board = Board(lambda: 100.0)
    elsewhen = msgspec.structs.replace(emotion.time, end_ns=emotion.time.end_ns + 1)
    before = msgspec.structs.replace(emotion, final=False)  # of an earlier round, with the same numbers
    other = msgspec.structs.replace(emotion, time=elsewhen)
    for at_s, message in enumerate((before, emotion, other)):
        board.update(message, 97.0 + at_s)
    revision = msgspec.structs.replace(emotion, seq=emotion.seq + 9, revises=emotion.seq)
    board.update(revision)
    assert [moment.emotion for moment in board.history] == [before, revision, other]
    assert [moment.at_s for moment in board.history] == [97.0, 98.0, 99.0]
    assert board.emotion == other


def test_what_is_given_up_dropped_and_revised_is_the_newest_status_and_nothing_is_after_the_end(
    ended: SessionEnd, emotion: Emotion
) -> None:
    board = Board(lambda: 100.0)
    board.update(emotion)
    board.update(OVERLOADED)
    shown = board.windows, board.skipped, board.eased, board.revised
    assert shown == (12, 5, ("no provisional words",), LATE)
    board.update(msgspec.structs.replace(ended, windows=13, skipped=6))
    assert (board.windows, board.skipped, board.eased, board.revised) == (13, 6, (), None)
    board.update(msgspec.structs.replace(emotion, session="other"))
    assert (board.windows, board.skipped, board.revised) == (None, None, None)


@pytest.fixture
def begun(emotion: Emotion) -> SessionBegin:
    return SessionBegin(
        session="demo",
        started="2026-11-25T12:00:00.000Z",
        clock="media",
        config={"share_words": True},
        model=emotion.model,
        streams={},
        software="0.1.0",
    )


@pytest.fixture
def ended() -> SessionEnd:
    return SessionEnd(session="demo", reason="end of input", duration_s=1.0, windows=2, skipped=0, senses={})
