"""What bridges know of sessions: windows in order, sessions that begin again, and several of them at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from runtime.bridge.osc import OscBridge
from runtime.bridge.ros2 import Ros2Bridge, expression
from runtime.bridge.sessions import GONE_S, Sessions
from runtime.stream import Message, Sentiment
from tests.made_stream import begin, end, window, window_at

REVISED = [  # as they come: the words of a window a second after it
    window_at(1.0, seq=0, final=False),
    window_at(1.5, seq=1, final=False),
    window_at(2.0, seq=2, final=False),
    window_at(1.0, seq=3, revises=0),
    window_at(2.5, seq=4, final=False),
    window_at(2.5, seq=5, revises=4),
    window_at(2.0, seq=6, revises=2),
]
FINALS = [window_at(1.0, seq=3, revises=0), window_at(1.5, seq=6, revises=1), window_at(2.0, seq=7)]
Carry = Callable[..., list[list[Any]]]


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Virtual time; a test sets what is in it."""
    time_s = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: time_s[0])
    monkeypatch.setattr("runtime.bridge.sessions.time", clock)
    return time_s


@pytest.fixture
def osc() -> Iterator[Carry]:
    """Sends messages through the bridge, and says what came: the values of each window and session."""
    pytest.importorskip("pythonosc", reason="the extra 'bridge' is not installed")
    from pythonosc.osc_packet import OscPacket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(10)
        bridge = OscBridge(f"127.0.0.1:{ear.getsockname()[1]}")
        bridge.open()

        def carry(*messages: Message) -> list[list[Any]]:
            for message in (*messages, begin("over")):
                bridge.send(message)
            heard: list[list[Any]] = []
            while ["begin", "over"] not in heard:
                first = OscPacket(ear.recv(65536)).messages[0].message
                heard.append(list(first.params))
            bridge.send(end("over"))
            ear.recv(65536)
            return heard[:-1]

        yield carry
        bridge.close()


def test_osc_sends_no_revision_of_a_window_behind_a_newer_one(osc: Carry) -> None:
    assert [seq for seq, *_ in osc(*REVISED)] == [0, 1, 2, 4]


def test_osc_sends_final_windows_in_order_though_all_of_them_are_revisions(osc: Carry) -> None:
    assert [seq for seq, *_ in osc(*FINALS)] == [3, 6, 7]


def test_osc_says_begin_again_for_a_session_that_was_killed_and_counts_its_seconds_anew(osc: Carry) -> None:
    heard = osc(
        begin(), window_at(500), window_at(500.5), begin(), begin(minute=1), window_at(3), begin(minute=1)
    )
    assert heard == [
        ["begin", "lab"],
        [1, "degraded", "sad", 0.0],
        [1, "degraded", "sad", 0.5],
        ["begin", "lab"],
        [1, "degraded", "sad", 0.0],
    ]


def test_osc_keeps_two_sessions_apart(osc: Carry) -> None:
    one, two = begin("one"), begin("two")
    heard = osc(one, two, window_at(9, session="one"), window_at(700, session="two"), one, two)
    heard += osc(window_at(9.5, session="one"), end("two"), two)
    assert [values[-1] for values in heard] == ["one", "two", 0.0, 0.0, 0.5, "two", "two"]


def test_ros_keeps_its_expression_at_the_newest_window_and_tells_revisions_as_json() -> None:
    bridge = Ros2Bridge()
    faces: list[Any] = []
    told: list[Any] = []
    bridge._expression = lambda: SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace()))
    bridge._string = SimpleNamespace
    bridge._expressions = SimpleNamespace(publish=faces.append)
    bridge._messages = SimpleNamespace(publish=told.append)

    def ends() -> list[float]:
        seconds = [one.header.stamp.sec + one.header.stamp.nanosec / 1e9 for one in faces]
        faces.clear()
        return seconds

    for message in REVISED:
        bridge.send(message)
    assert ends() == [1.0, 1.5, 2.0, 2.5]
    assert [msgspec.json.decode(one.data)["seq"] for one in told] == list(range(7))
    for message in (end(), *FINALS):
        bridge.send(message)
    assert ends() == [1.0, 1.5, 2.0]


@pytest.mark.parametrize(("value", "valence"), [(-3.4, -1.0), (-1.5, -0.5), (0.0, 0.0), (3.2, 1.0)])
def test_valence_stays_on_its_scale(value: float, valence: float) -> None:
    assert expression(window(sentiment=Sentiment(value=value, scale=(-3, 3))))["valence"] == valence


def test_a_session_that_was_killed_is_forgotten_after_a_minute_of_others(now_s: list[float]) -> None:
    sessions = Sessions()
    assert sessions.news(begin("killed")) and sessions.news(begin("runs"))
    now_s[0] += GONE_S
    assert not sessions.news(begin("runs")) and set(sessions) == {"killed", "runs"}
    now_s[0] += 1
    sessions.news(window(session="runs"))
    assert set(sessions) == {"runs"}
    now_s[0] += 10 * GONE_S
    assert not sessions.news(begin("runs"))  # a machine that slept: still the same
    sessions.news(end("runs"))
    assert not set(sessions)
