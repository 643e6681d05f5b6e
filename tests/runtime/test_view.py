"""The view in a terminal: drawn while messages come, with labels of one's own, and what is unsure."""

from __future__ import annotations

import io
from datetime import datetime

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from runtime import stream
from runtime.colours import COLOURS, HIGHEST, LOWEST, MIDDLE, leaning, palette
from runtime.stream import Emotion
from runtime.summary import Totals, line, summary
from runtime.view import StreamView

MODEL = stream.Model(name="own", hash="a", features="b", engine="onnxruntime-cpu", precision="fp32")
OWN = ("bored", "keen", "lost")
EDGES = ("vision->text", "audio->text", "text->vision", "audio->vision", "text->audio", "vision->audio")


def emotion(seq: int = 0, state: stream.State = "ok", session: str = "lab", top: str = "keen") -> Emotion:
    sense = stream.Modality(present=True, coverage=1.0)
    return Emotion(
        session=session,
        seq=seq,
        state=state,
        final=True,
        time=stream.Time(clock="media", start_ns=0, end_ns=seq * 10**9, published_ns=0, wall=stream.wall(0)),
        emotions=stream.Emotions(
            labels=OWN, scores=tuple(0.5 if label == top else 0.25 for label in OWN), top=top
        ),
        modalities=stream.Modalities(text=sense, audio=sense, vision=sense),
        distillation=stream.Distillation(order=EDGES, homo=(1 / 6,) * 6, hetero=(1 / 6,) * 6),
        latency_ms=stream.Latency(infer=1.0, publish=0.5, total=1.5),
        dropped=stream.Lost(),
        model=MODEL,
    )


def sentiment(seq: int, value: float, state: stream.State = "ok") -> Emotion:
    return msgspec.structs.replace(
        emotion(seq, state), emotions=msgspec.UNSET, sentiment=stream.Sentiment(value=value, scale=(-3, 3))
    )


def status(session: str = "lab") -> stream.StatusMessage:
    failed = stream.SenseStatus(state="failed", detail="exit -9")
    senses = {"vision": failed, "audio": failed, "text": failed}
    return stream.StatusMessage(session=session, uptime_s=1, senses=senses, windows=1, skipped=0, engine="e")


def begin(started: str = "2026-11-25T12:00:00.000Z") -> stream.SessionBegin:
    return stream.SessionBegin(
        session="lab",
        started=started,
        clock="monotonic",
        config={},
        model=MODEL,
        streams={},
        software="0.1.0",
    )


def rendered(view: object, width: int = 80, colour: bool = False) -> str:
    out = io.StringIO()
    kind = "truecolor" if colour else None
    Console(file=out, width=width, color_system=kind, force_terminal=colour).print(view)  # type: ignore[arg-type]
    return out.getvalue()


def escape(colour: str) -> str:
    """How a terminal is told a colour."""
    return ";".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))


@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from([*COLOURS])), unique=True, max_size=14))
@example(list("abcdefghijklmn"))
@example([*"abcdefghij", *COLOURS])
def test_up_to_fourteen_labels_have_colours_of_their_own_and_the_seven_keep_theirs(labels: list[str]) -> None:
    dealt = palette(labels)
    assert list(dealt) == labels and len(set(dealt.values())) == len(labels)
    assert all(dealt[label] == COLOURS[label] for label in labels if label in COLOURS)


@given(st.floats(-9, 9), st.floats(0.1, 5))
def test_a_sentiment_leans_to_its_side_and_is_grey_at_zero(value: float, bound: float) -> None:
    scale = (-bound, bound)
    assert leaning(0.0, scale) == MIDDLE
    assert leaning(value, scale)[0] == "#" and len(leaning(value, scale)) == 7
    if abs(value) >= bound:
        assert leaning(value, scale) == (HIGHEST if value > 0 else LOWEST)


def test_labels_of_ones_own_have_their_colours_in_the_bars_the_strip_and_the_summary() -> None:
    view, totals = StreamView(), Totals()
    for seq, label in enumerate(OWN):
        view.update(emotion(seq, top=label))
        totals.update(emotion(seq, top=label))
    shown, told = rendered(view, colour=True), rendered(summary(totals), colour=True)
    for colour in palette(OWN).values():
        assert shown.count(escape(colour)) >= 2 and escape(colour) in told


def test_a_window_that_abstains_says_so_and_has_no_colour() -> None:
    view = StreamView()
    view.update(emotion(0, "abstain"))
    assert "unsure, best guess keen" in rendered(view)
    assert not any(escape(colour) in rendered(view, colour=True) for colour in palette(OWN).values())
    view.update(emotion(1))
    assert "unsure" not in rendered(view)
    view.update(sentiment(2, -2.0, "abstain"))
    assert "unsure, best guess -2.00" in rendered(view)


def test_what_abstained_was_not_felt() -> None:
    totals = Totals()
    for seq, state in enumerate(("ok", "abstain", "abstain", "abstain")):
        totals.update(emotion(seq, state))  # type: ignore[arg-type]
    assert "keen 25%" in rendered(summary(totals)) and "unsure 75%" in rendered(summary(totals))


def test_a_window_of_a_film_has_its_place_in_it_and_one_of_live_devices_the_time_of_day() -> None:
    film = emotion(90)
    noon = datetime(2026, 11, 25, 12, 0, 5).astimezone()
    time = msgspec.structs.replace(
        film.time, clock="monotonic", wall=stream.wall(round(noon.timestamp() * 1e9)), end_ns=10**15
    )
    live = msgspec.structs.replace(film, time=time)
    for message, shown in ((film, "90.0 s"), (live, "12:00:05")):
        view = StreamView()
        view.update(message)
        assert f" {shown} · ok" in rendered(view) and f" {shown}  ok" in line(message)
    assert line(live).index("ok") == line(film).index("ok")
    undated = msgspec.structs.replace(live, time=msgspec.structs.replace(time, wall="some day"))
    assert "some day" in line(undated)


def test_the_past_of_a_sentiment_shows_its_sign_by_colour_too() -> None:
    view = StreamView()
    for seq, value in enumerate((-3.0, 0.0, 3.0)):
        view.update(sentiment(seq, value))
    shown = rendered(view, colour=True)
    places = [shown.index(escape(colour)) for colour in (LOWEST, MIDDLE, HIGHEST)]
    assert places == sorted(places)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_all_six_edges_of_each_kind_are_readable(width: int) -> None:
    view = StreamView()
    view.update(emotion())
    assert all(rendered(view, width).count(f"{edge.replace('->', '→')} 17%") == 2 for edge in EDGES)


def test_a_session_that_was_killed_and_began_again_shows_nobody_of_the_one_before() -> None:
    view = StreamView()
    word = stream.Said(text="ask", start_ns=0, end_ns=1, committed=True)
    said = stream.Transcript(session="lab", seq=0, until_ns=1, words=(word,))
    event = msgspec.structs.replace(status(), event="camera unplugged")
    for message in (begin(), emotion(), said, event, begin()):  # the last: repeated, as every few seconds
        view.update(message)
    assert all(shown in rendered(view) for shown in ("ask", "camera unplugged", "keen"))
    for message in (begin("2026-11-25T12:07:00.000Z"), emotion()):
        view.update(message)
    assert "ask" not in rendered(view) and "unplugged" not in rendered(view)


def test_what_is_drawn_is_of_one_moment_whatever_comes_meanwhile() -> None:
    """As in rich: another thread has asked what to draw, and draws it while messages come."""
    view = StreamView()
    for seq in range(3):
        view.update(emotion(seq))
    before, asked = rendered(view), view.__rich__()
    for message in (emotion(3, top="lost"), status(), emotion(0, session="den")):
        view.update(message)
    assert rendered(asked) == before and rendered(view) != before


def test_a_status_that_goes_between_two_looks_does_not_stop_the_drawing() -> None:
    """Another session begins right after it was asked whether there is a status."""

    class Gone(StreamView):
        looks = 0

        @property
        def _status(self) -> stream.StatusMessage | None:
            self.looks += 1
            return self.kept if self.looks % 2 else None

        @_status.setter
        def _status(self, status: stream.StatusMessage | None) -> None:
            self.kept = status

    view = Gone()
    view.update(emotion())
    view.update(status())
    for _ in range(4):
        view.looks += 1
        rendered(view)
