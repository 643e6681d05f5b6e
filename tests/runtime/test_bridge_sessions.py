"""What bridges know of sessions: windows in order, sessions that begin again, and several of them at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from runtime.bridge.lsl import LslBridge, channels
from runtime.bridge.osc import OscBridge
from runtime.bridge.ros2 import Ros2Bridge, expression
from runtime.bridge.sessions import GONE_S, Sessions
from runtime.stream import Emotions, Message, Model, Sentiment
from tests.made_stream import MODEL, OVERLOADED, begin, end, window, window_at

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
    for name in ("lsl", "sessions"):
        clock = SimpleNamespace(monotonic=lambda: time_s[0])
        monkeypatch.setattr(f"runtime.bridge.{name}.time", clock)
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


@pytest.fixture
def lsl() -> Iterator[LslBridge]:
    pytest.importorskip("pylsl", reason="the extra 'bridge' is not installed")
    bridge = LslBridge(f"made-{os.getpid()}")
    bridge.open()
    yield bridge
    bridge.close()


class Outlet:
    """In place of an outlet, where what is pushed matters and not who hears it."""

    made: ClassVar[list[Outlet]] = []

    def __init__(self, info: Any) -> None:
        self.name = info.name()
        self.pushed: list[tuple[list[Any], float]] = []
        self.made.append(self)

    def push_sample(self, values: list[Any], t_s: float) -> None:
        self.pushed.append((values, t_s))


@pytest.fixture
def outlets(lsl: LslBridge, monkeypatch: pytest.MonkeyPatch) -> list[Outlet]:
    """The outlets that are made; LSL's clock stands at 5000 s."""
    monkeypatch.setattr(Outlet, "made", [])
    monkeypatch.setattr(lsl._lsl, "StreamOutlet", Outlet)
    monkeypatch.setattr(lsl._lsl, "local_clock", lambda: 5000.0)
    return Outlet.made


def texts(outlet: Outlet) -> list[str]:
    return [values[0] for values, _ in outlet.pushed]


def test_another_network_under_the_same_name_has_an_outlet_of_its_own(lsl: LslBridge) -> None:
    import pylsl

    def read(message: Any) -> dict[str, float]:
        """What a program hears that looks for the outlet now."""
        lsl.send(message)
        (info,) = pylsl.resolve_byprop("name", lsl._name, timeout=10)
        inlet = pylsl.StreamInlet(info)
        inlet.open_stream(10)
        described = inlet.info(10).desc()
        assert described.child("acquisition").child_value("serial_number") == message.model.hash
        channel, names = described.child("channels").child("channel"), []
        while channel.name() == "channel":
            names.append(channel.child_value("label"))
            channel = channel.next_sibling("channel")
        lsl.send(message)
        sample, _ = inlet.pull_sample(timeout=10)
        return dict(zip(names, sample, strict=True))

    assert read(window_at(1))["p_sad"] == 0.75
    lsl.send(end())
    calm = Emotions(labels=("calm", "tense"), scores=(0.5, 0.5), top="calm")
    other = window_at(1, emotions=calm, model=msgspec.structs.replace(MODEL, hash="other"))
    assert read(other)["p_calm"] == 0.5
    same = window_at(1, model=msgspec.structs.replace(MODEL, hash="third"))
    assert read(same)["p_happy"] == 0.25


def test_an_outlet_lasts_through_a_demos_loop_and_a_window_without_an_answer(
    lsl: LslBridge, outlets: list[Outlet]
) -> None:
    silence = window_at(1.5, emotions=msgspec.UNSET, state="abstain")
    for message in (begin(), window_at(1), silence, end(), begin(), silence, window_at(1)):
        lsl.send(message)
    events, numbers = outlets
    assert texts(events) == ["session.begin lab", "session.end interrupted", "session.begin lab"]
    assert len(numbers.pushed) == 4
    lsl.send(msgspec.structs.replace(silence, model=Model(**msgspec.structs.asdict(MODEL) | {"hash": "b"})))
    assert len(numbers.pushed) == 4 and len(outlets) == 2  # which channels the other one has is not known yet
    assert channels(window_at(1)) == lsl._channels


def test_a_session_that_was_killed_and_begins_again_has_its_own_clock(
    lsl: LslBridge, outlets: list[Outlet]
) -> None:
    for message in (
        begin(),
        window_at(900),
        begin(minute=1),
        window_at(3),
        window_at(2, revises=0),
        begin(minute=1),
    ):
        lsl.send(message)
    events, numbers = outlets
    assert texts(events) == ["session.begin lab"] * 2
    assert [t_s for _, t_s in numbers.pushed] == [5000.0, 5000.0]
    for message in (begin(minute=2), *FINALS):  # each of them a window of a clock that begins again
        lsl.send(message)
    assert len(numbers.pushed) == 5


def test_lsl_stays_with_a_session_until_it_ends_or_is_silent_and_says_so_once(
    lsl: LslBridge, outlets: list[Outlet], now_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = window_at(1, session="one"), window_at(1, session="two")
    for message in (one, two, begin("two"), one, two, end("two")):
        lsl.send(message)
    assert [len(outlet.pushed) for outlet in outlets] == [0, 2]
    assert caplog.messages == ["session two is heard, too, and not carried: to choose one, --session NAME"]
    now_s[0] += 4
    lsl.send(msgspec.structs.replace(OVERLOADED, session="one"))
    now_s[0] += 4
    lsl.send(two)
    assert len(outlets) == 2
    now_s[0] += 1
    lsl.send(two)  # the first one has been silent for five seconds
    assert len(outlets) == 4 and len(outlets[3].pushed) == 1
    for message in (end("two"), one):
        lsl.send(message)
    assert len(outlets) == 6 and len(caplog.messages) == 1
