"""Windows are a function of arrivals: cut by capture time, whole, and never invented."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.features import audio, text, vision
from capture.features.spec import FeatureSpec, InputSpec
from capture.messages import FeatureBlock, Message, Stamp, State, Status, StreamName, Unheard, Word, Words
from runtime.windows import LATE_NS, Window, Windower

S = 1_000_000_000
SPEC = FeatureSpec(
    text=InputSpec(text.SPEC, window_s=8, steps=48, dim=384),
    audio=InputSpec(audio.SPEC, window_s=4, steps=200, dim=audio.SPEC.dim),
    vision=InputSpec(vision.SPEC, window_s=4, steps=120, dim=vision.SPEC.dim),
)
PRESENCE = vision.SPEC.names.index("presence")
SPEECH = audio.SPEC.names.index("speech")


def windower(paced: bool = True) -> Windower:
    return Windower(SPEC, hop_s=0.5, lateness_s=0.25, paced=paced)


def stamp(stream: StreamName, t_ns: int, seq: int = -1) -> Stamp:
    return Stamp("s", stream, seq, t_ns, t_ns)


def face(t_ns: int, presence: float = 1.0, seq: int = -1) -> FeatureBlock:
    row = np.full((1, vision.SPEC.dim), t_ns / S, np.float32)
    row[0, PRESENCE] = presence
    return FeatureBlock(stamp("vision", t_ns, seq), vision.SPEC.hash, t_ns, np.array([t_ns]), row)


def voice(t_ns: int, speech: float = 1.0, seq: int = -1) -> FeatureBlock:
    rows = np.zeros((2, audio.SPEC.dim), np.float32)
    rows[:, SPEECH] = speech
    times = np.array([t_ns - S // 50, t_ns])
    return FeatureBlock(stamp("audio", t_ns, seq), audio.SPEC.hash, t_ns, times, rows)


def status(stream: StreamName, state: State, reason: str | None = None) -> Status:
    return Status(stamp(stream, 0), state, reason)


def words(*spoken: Word, until_ns: int, unheard: tuple[Unheard, ...] = ()) -> Words:
    return Words(stamp("text", until_ns), text.SPEC.hash, spoken, until_ns, unheard)


def running(w: Windower, *streams: StreamName) -> Windower:
    for stream in ("text", "audio", "vision"):
        alive = stream in streams
        assert not list(w.add(status(stream, "running" if alive else "absent", None if alive else "none"), 0))
    return w


def feed(w: Windower, messages: list[tuple[int, Message]]) -> list[Window]:
    cut: list[Window] = []
    for t_arrival_ns, message in messages:
        cut += w.advance(t_arrival_ns)
        cut += w.add(message, t_arrival_ns)
    return cut


def film(seconds: float, delay_ns: int = 20_000_000) -> list[tuple[int, Message]]:
    faces = [(t, face(t)) for t in range(0, round(seconds * S), S // 25)]
    voices = [(t, voice(t)) for t in range(S // 25, round(seconds * S), S // 25)]
    return sorted(((t + delay_ns, m) for t, m in faces + voices), key=lambda pair: pair[0])


def test_a_window_is_cut_as_soon_as_every_live_stream_was_heard_to_its_end() -> None:
    w = running(windower(), "audio", "vision")
    cut = feed(w, film(2.1))
    assert [window.end_ns for window in cut] == [S // 2, S, 3 * S // 2, 2 * S]
    assert all(window.cut_ns - window.end_ns <= 60_000_000 for window in cut)


def test_the_newest_sample_is_the_last_step_and_padding_stands_in_front() -> None:
    (window, *_) = feed(running(windower(), "vision", "audio"), film(0.7))
    mask = window.vision.mask
    assert mask.sum() == 13  # frames at 0, 40, …, 480 ms
    assert mask[-13:].all() and not mask[:-13].any()
    assert window.vision.values[-1, 0] == pytest.approx(0.48)
    assert window.vision.lag_ns == 20_000_000


def test_no_sample_from_after_the_end_is_inside() -> None:
    for window in feed(running(windower(), "vision", "audio"), film(3)):
        assert window.vision.values[:, 0].max() <= window.end_ns / S


def test_a_silent_stream_delays_a_paced_window_by_the_lateness_and_no_more() -> None:
    w = running(windower(), "vision", "audio")
    messages = [
        (t, m)
        for t, m in film(2)
        if not (isinstance(m, FeatureBlock) and t > S and m.stamp.stream == "vision")
    ]
    late = [window for window in feed(w, messages) if window.end_ns > S]
    assert late and all(window.cut_ns == window.end_ns + S // 4 for window in late)


def test_an_absent_stream_is_not_waited_for_and_its_reason_is_told() -> None:
    w = windower()
    list(w.add(status("vision", "absent", "no_device"), 0))
    list(w.add(status("audio", "running"), 0))
    cut = feed(w, [(t, m) for t, m in film(1.1) if m.stamp.stream == "audio"])
    assert [window.end_ns for window in cut] == [S // 2, S]
    assert cut[0].vision.reason == "no_device" and not cut[0].vision.present
    assert cut[0].cut_ns < S // 2 + 100_000_000


def test_when_nothing_is_there_the_deadline_still_cuts_windows() -> None:
    w = running(windower())
    cut = list(w.advance(2 * S))
    assert [window.end_ns for window in cut] == [S // 2, S, 3 * S // 2]
    assert not any(sense.present for window in cut for sense in window.senses.values())


def test_a_face_that_leaves_turns_vision_absent_with_a_reason() -> None:
    w = running(windower(), "vision")
    cut = feed(w, [(t, face(t, presence=float(t < 2 * S))) for t in range(0, 8 * S, S // 25)])
    by_end = {window.end_ns // S * 2 + window.end_ns % S // (S // 2): window.vision for window in cut}
    assert by_end[4].present and by_end[4].coverage > 0.4
    assert by_end[5].present  # a glance away is no absence
    assert not by_end[7].present and by_end[7].reason == "no_face"
    assert by_end[14].coverage == 0


def test_a_room_without_speech_is_an_absent_voice() -> None:
    w = running(windower(), "audio")
    cut = feed(w, [(t, voice(t, speech=0.01)) for t in range(S // 25, 3 * S, S // 25)])
    assert cut and all(window.audio.reason == "no_speech" for window in cut)
    assert cut[-1].audio.coverage > 0.4


def test_words_belong_to_the_window_in_which_they_end_and_provisional_ones_to_none() -> None:
    w = running(windower(), "text", "audio")
    spoken = Word("ask", 0, S // 4), Word("not", S // 4, 3 * S // 4), Word("maybe", 0, S // 4, 0.5, False)
    feed(w, [(1, words(*spoken, until_ns=S))])
    first, second, *_ = feed(w, [(t, m) for t, m in film(1.1) if m.stamp.stream == "audio"])
    assert [word.text for word in first.text.words] == ["ask"]
    assert [word.text for word in second.text.words] == ["ask", "not"]
    assert second.text.lag_ns == S // 4


def test_features_of_another_spec_are_refused_and_counted() -> None:
    w = running(windower(), "vision")
    list(w.add(replace(face(S), spec="000000000000"), S))
    assert w.streams["vision"].refused == 1 and not w.streams["vision"].samples


def test_features_of_another_size_than_their_spec_says_are_refused_and_counted() -> None:
    w = running(windower(), "vision")
    list(w.add(replace(face(S), values=np.ones((1, 3), np.float32)), S))
    assert w.streams["vision"].refused == 1 and not w.streams["vision"].samples
    assert list(w.advance(3 * S))  # and the windows go on


def test_a_hole_in_the_sequence_is_published_as_dropped() -> None:
    w = running(windower(), "vision")
    feed(w, [(t * S // 25, face(t * S // 25, seq=t + (5 if t > 3 else 0))) for t in range(12)])
    (window, *_) = feed(w, [(S, face(S, seq=17))])
    assert window.dropped["vision"] == 5


def test_an_unpaced_session_waits_for_the_slowest_stream_and_asks_only_for_it() -> None:
    w = running(windower(paced=False), "audio", "vision")
    assert not feed(w, [(0, m) for _, m in film(5) if m.stamp.stream == "audio"])
    assert w.wanted() == ["vision"] and w.deadline_ns is None
    cut = feed(w, [(0, m) for _, m in film(5) if m.stamp.stream == "vision"])
    assert len(cut) == 9


def test_finishing_cuts_what_remains() -> None:
    w = running(windower(paced=False), "audio", "vision")
    cut = feed(w, [*film(2.1), (0, status("audio", "ended")), (0, status("vision", "ended"))])
    assert len(cut) + len(list(w.finish())) == 4


def test_what_is_timed_is_the_newest_sample_inside_and_nothing_in_a_window_without_one() -> None:
    w = running(windower(), "audio", "vision")
    cut = feed(w, film(2)) + list(w.advance(20 * S))  # then both are unplugged
    for window in cut:
        inside = window.newest is not None and window.newest.times_ns[-1] > window.end_ns - 4 * S
        assert inside == (window.end_ns < 6 * S), window.end_ns
        assert inside or window.newest is None
    assert cut[-1].end_ns > 19 * S and not any(sense.present for sense in cut[-1].senses.values())


def test_memory_stays_bounded_over_an_hour() -> None:
    w = running(windower(), "audio")
    feed(w, [(t, voice(t)) for t in range(S // 25, 600 * S, S // 25)])
    assert len(w.streams["audio"].samples) < 300 and len(w.streams["audio"].blocks) < 60


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_without_pacing_the_order_between_streams_does_not_matter(data: st.DataObject) -> None:
    streams = {
        name: [m for _, m in film(3) if m.stamp.stream == name] + [status(name, "ended")]
        for name in ("audio", "vision")
    }
    reference = feed(running(windower(paced=False), "audio", "vision"), [(0, m) for _, m in film(3)])
    w, cut = running(windower(paced=False), "audio", "vision"), []
    while any(streams.values()):
        open_ = [name for name in w.wanted() if streams.get(name)] or [n for n in streams if streams[n]]
        name = data.draw(st.sampled_from(open_))
        cut += w.add(streams[name].pop(0), 0)
    assert len(cut) >= len(reference)
    for ours, theirs in zip(cut, reference, strict=False):
        assert ours.end_ns == theirs.end_ns
        np.testing.assert_array_equal(ours.vision.values, theirs.vision.values)
        np.testing.assert_array_equal(ours.audio.mask, theirs.audio.mask)


def speech(seconds: float, late_s: float) -> list[tuple[int, Message]]:
    """A film whose words, one a second, are committed ``late_s`` after they were said."""
    messages = film(seconds)
    for n in range(int(seconds / 0.5)):
        heard_ns = (n + 1) * S // 2
        spoken = [Word(f"w{n}", heard_ns - S // 4, heard_ns)] if n % 2 else []
        messages.append((heard_ns + round(late_s * S), words(*spoken, until_ns=heard_ns)))
    return sorted(messages, key=lambda pair: pair[0])


def test_a_window_is_on_time_without_its_late_words_and_comes_once_more_with_them() -> None:
    cut = feed(running(windower(), "text", "audio", "vision"), speech(6, late_s=1.2))
    first = [window for window in cut if not window.revision and window.end_ns < 6 * S]
    again = {window.end_ns: window for window in cut if window.revision}
    assert len(first) == 11 and all(window.cut_ns - window.end_ns < S // 4 for window in first)
    assert not any(window.final for window in first) and all(window.final for window in again.values())
    for window in first[:6]:
        other = again[window.end_ns]
        assert other.cut_ns == window.end_ns + round(1.2 * S)
        assert other.vision is window.vision and other.audio is window.audio
        said = [f"w{n}" for n in range(1, window.end_ns * 2 // S, 2)]
        assert [word.text for word in other.text.words] == said
        known = [word for word in said if int(word[1:]) * 0.5 + 1.7 < window.end_ns / S]
        assert [word.text for word in window.text.words] == known
    assert [window.end_ns for window in cut if window.revision] == sorted(again)


def test_a_window_whose_words_are_known_in_time_is_final_at_once() -> None:
    cut = feed(running(windower(), "text", "audio", "vision"), speech(4, late_s=0.001))
    assert cut and all(window.final and not window.revision for window in cut)


def test_an_absent_recogniser_keeps_no_window_open() -> None:
    cut = feed(running(windower(), "audio", "vision"), film(3))
    assert cut and all(window.final for window in cut)


@pytest.mark.parametrize("state", ["ended", "failed", "absent"])
def test_a_recogniser_that_dies_closes_the_windows_that_waited_for_it(state: State) -> None:
    w = running(windower(), "text", "audio", "vision")
    cut = feed(w, [pair for pair in speech(3, late_s=1.2) if pair[0] < 2 * S])
    waiting = {window.end_ns for window in cut if not window.final}
    waiting -= {window.end_ns for window in cut if window.revision}
    closed = list(w.add(status("text", state), 2 * S))
    assert waiting and {window.end_ns for window in closed} == waiting
    assert all(window.final and window.revision for window in closed)


def test_words_that_never_come_are_waited_for_half_a_minute_and_no_longer() -> None:
    w = running(windower(), "text", "audio", "vision")
    cut = feed(w, film(40)) + list(w.advance(40 * S))  # not a message of the recogniser among them
    closed = [window for window in cut if window.revision]
    assert [window.end_ns for window in closed] == [n * S // 2 for n in range(1, 20)]
    assert all(window.final and window.cut_ns == window.end_ns + LATE_NS for window in closed)
    assert [window.cut_ns for window in cut] == sorted(window.cut_ns for window in cut)
    assert sum(1 for _ in w.settle()) == len(cut) - 2 * len(closed)


def test_every_window_has_exactly_one_final_message_whatever_the_delay() -> None:
    for late_s in (0.0, 0.3, 0.9, 2.7, 7.0):
        w = running(windower(), "text", "audio", "vision")
        cut = feed(w, speech(9, late_s)) + list(w.settle())
        finals = [window.end_ns for window in cut if window.final]
        assert sorted(finals) == sorted({window.end_ns for window in cut}), late_s


def test_time_in_which_nobody_listened_is_no_silence() -> None:
    w = running(windower(), "text")
    cut = []
    for n in range(1, 41):  # of 20 s, half a second each, those from 4 s to 13 s are not heard
        t_ns = n * S // 2
        unheard = (Unheard(t_ns - S // 2, t_ns, "eased"),) if 8 < n <= 26 else ()
        cut += feed(w, [(t_ns + 1, words(until_ns=t_ns, unheard=unheard))])
    by_end = {window.end_ns * 2 // S: window.text for window in [*cut, *w.advance(21 * S)]}
    assert (by_end[8].reason, by_end[16].reason) == ("no_words", "no_words")
    assert [by_end[n].reason for n in (17, 26, 33)] == ["eased"] * 3, "more than half of 8 s"
    assert by_end[35].reason == "no_words"
    assert [by_end[n].coverage for n in (8, 16, 26, 34, 40)] == pytest.approx([1.0, 0.5, 0.0, 0.5, 0.875])
    assert len(w.streams["text"].unheard) < 8


def test_provisional_words_are_in_no_window() -> None:
    w = running(windower(), "text", "audio", "vision")
    guess = Word("perhaps", S // 4, S // 3, committed=False)
    messages = sorted([*film(1.2), (S // 2, words(guess, until_ns=S // 2))], key=lambda pair: pair[0])
    assert not any(window.text.words for window in feed(w, messages))


@pytest.mark.parametrize("paced", [True, False])
def test_a_message_of_a_time_that_cannot_be_is_refused_and_counted(paced: bool) -> None:
    w = running(windower(paced), "text", "vision")
    assert not list(w.add(face(2**61), S // 2))
    assert not list(w.add(words(until_ns=2**61), S // 2))
    assert w.streams["vision"].refused == w.streams["text"].refused == 1
    assert w.streams["vision"].until_ns is None and not w.streams["vision"].samples
    list(w.add(face(S), S))
    assert w.streams["vision"].until_ns == S
