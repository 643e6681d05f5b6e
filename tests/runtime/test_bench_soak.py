"""The soak bench: its film has no seam, and a loss without a fault beside it is found."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import msgspec
import pytest

from capture import subtitles
from capture.media import probe
from runtime import proc, verdict
from runtime.bench_engine import BenchError
from runtime.bench_soak import is_well
from runtime.endless_film import endless_film
from runtime.ladder import MEANING
from runtime.mischief import EVERYTHING, STALLED, Fault
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import Emotion, Lost, Modality, SenseStatus, StatusMessage, decode
from runtime.verdict import (
    CAUGHT_UP_S,
    DEAF_S,
    LOST_S,
    Others,
    Seen,
    busy_share,
    circumstances,
    growth,
    late,
    other_work,
    overtaken,
    unsaid,
    watched,
)


def unexplained(seen: Seen, faults: list[Fault], hop_s: float) -> list[str]:
    return [str(gap) for gap in verdict.unexplained(seen, faults, hop_s)]


@pytest.fixture
def seen() -> Seen:
    """A session that lost nothing: the demo's, each window heard when it was published."""
    messages = (decode(payload) for _, payload in Recording.open(DEMO).emotions())
    windows = [m for m in messages if isinstance(m, Emotion)]
    return Seen([(window.time.published_ns / 1e9, window) for window in windows])


def change(seen: Seen, index: int, **fields: object) -> None:
    at_s, window = seen.windows[index]
    seen.windows[index] = at_s, msgspec.structs.replace(window, **fields)


def test_the_film_goes_on_at_the_same_pace_over_every_seam_and_so_do_its_words(
    shared: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((shared / "media/face_and_speech.mp4").read_bytes())
    clip.with_suffix(".vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nask not\n")
    film = endless_film(clip, tmp_path, 0.5)
    assert probe(film).duration_ns > 30e9
    with av.open(str(film)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert all(0.035 < b - a < 0.05 for a, b in pairwise(times))
    words = subtitles.read(film.with_suffix(".vtt"))
    again = [word.start_ns for word in words if word.text == "ask"]
    length_ns = probe(clip).duration_ns
    assert len(again) >= 3 and all(b - a == pytest.approx(length_ns, abs=2e6) for a, b in pairwise(again))


def test_what_has_no_pictures_and_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises((BenchError, av.FFmpegError)):
        endless_film(tmp_path / "nowhere.mp4", tmp_path, 1)


def test_a_session_that_lost_nothing_has_no_gap(seen: Seen) -> None:
    assert unexplained(seen, [], 0.5) == []


def test_a_missing_window_lost_samples_and_an_absent_sense_are_gaps_unless_a_fault_is_near(
    seen: Seen,
) -> None:
    gone = Modality(present=False, coverage=0.0, reason="restarting")
    change(seen, 10, modalities=msgspec.structs.replace(seen.windows[10][1].modalities, vision=gone))
    for index in range(14, len(seen.windows)):
        change(seen, index, dropped=Lost(audio=3))
    del seen.windows[18]
    found = unexplained(seen, [], 0.5)
    assert any("vision absent: restarting" in line for line in found)
    assert any("3 samples of audio lost" in line for line in found)
    assert any("1 windows missing" in line for line in found)
    assert any("1 messages lost to the subscriber" in line for line in found)
    assert len(found) == 4
    at_s = seen.windows[10][0]
    killed = Fault(at_s - 0.5, "killed", "vision", ("vision",), over_s=at_s)
    assert unexplained(seen, [killed], 0.5) == [line for line in found if "vision absent" not in line]
    stopped = Fault(at_s - 0.5, "application stopped", hits=EVERYTHING, over_s=seen.windows[17][0])
    assert unexplained(seen, [stopped], 0.5) == [line for line in found if "to the subscriber" in line]
    junk = Fault(at_s - 0.5, "junk on a pipe", over_s=seen.windows[17][0])
    assert unexplained(seen, [junk], 0.5) == found


def test_a_loss_long_after_its_fault_is_a_gap(seen: Seen) -> None:
    for index in range(20, len(seen.windows)):
        change(seen, index, dropped=Lost(audio=3))
    at_s = seen.windows[20][0]
    for before_s, gaps in ((LOST_S - 0.5, 0), (LOST_S + 0.5, 1)):
        killed = Fault(at_s - before_s, "killed", "audio", ("audio",), well_s=at_s - before_s)
        assert len(unexplained(seen, [killed], 0.5)) == gaps


def test_the_time_without_an_excuse_is_counted_once_where_faults_overlap() -> None:
    faults = [
        Fault(10, "killed", "vision", ("vision",), over_s=10, well_s=12),  # excuses 9 to 15
        Fault(13, "stalled", "vision", ("vision",), over_s=16, well_s=16),  # 12 to 19
        Fault(50, "killed", "audio", ("audio", "text"), over_s=50, well_s=52),  # 49 to 55
    ]
    shares = [watched(what, faults, 100) for what in ("vision", "audio", "text", "windows")]
    assert shares == pytest.approx([0.9, 0.94, 0.94, 1.0])


def test_what_the_film_shows_is_no_gap(seen: Seen) -> None:
    nobody = Modality(present=False, coverage=0.0, reason="no_face")
    change(seen, 5, modalities=msgspec.structs.replace(seen.windows[5][1].modalities, vision=nobody))
    assert unexplained(seen, [], 0.5) == []


def test_a_window_that_the_session_says_it_gives_up_is_no_gap_and_one_that_it_does_not_is(seen: Seen) -> None:
    gone_s = seen.windows[10][0]
    for index, (_, window) in enumerate(seen.windows[11:], 11):  # it was never made: no number is missing
        change(seen, index, seq=window.seq - 1)
    del seen.windows[10]
    assert unexplained(seen, [], 0.5) == [f"{seen.windows[10][0]:.1f} s: 1 windows missing"]
    for eased, gaps in (((MEANING["faces"],), 1), ((MEANING["hop"],), 0)):
        status = StatusMessage(
            session="s", uptime_s=1, senses={}, windows=9, skipped=0, engine="e", eased=eased
        )
        seen.statuses = [(gone_s, status)]
        assert len(unexplained(seen, [], 0.5)) == gaps


def test_a_frame_that_a_newer_one_overtook_is_no_gap_but_one_that_the_pipe_lost_is(seen: Seen) -> None:
    for index in range(10, len(seen.windows)):
        change(seen, index, dropped=Lost(vision=1))
    at_s = seen.windows[10][0]
    assert overtaken(seen) == [(at_s, 1)]
    assert unexplained(seen, [], 0.5) == []
    for gaps in (0, 1):
        camera = SenseStatus(state="running", reason=None, detail="", produced=9, dropped=1, gaps=gaps)
        status = StatusMessage(
            session="s", uptime_s=1, senses={"vision": camera}, windows=9, skipped=0, engine="e", eased=()
        )
        seen.statuses.append((at_s - 0.5 + gaps, status))
    assert unexplained(seen, [], 0.5) == [f"{at_s:.1f} s: 1 samples of vision lost"]


def test_a_frame_that_leaves_a_hole_in_its_window_is_a_gap(seen: Seen) -> None:
    thin = msgspec.structs.replace(seen.windows[10][1].modalities.vision, coverage=0.9)
    change(seen, 10, modalities=msgspec.structs.replace(seen.windows[10][1].modalities, vision=thin))
    for index in range(10, len(seen.windows)):
        change(seen, index, dropped=Lost(vision=4))
    assert unexplained(seen, [], 0.5) == [f"{seen.windows[10][0]:.1f} s: 4 samples of vision lost"]


def test_beside_a_gap_stands_what_may_have_caused_it(seen: Seen) -> None:
    at_s = seen.windows[10][0]
    eased = MEANING["faces"]
    status = StatusMessage(
        session="s", uptime_s=1, senses={}, windows=9, skipped=0, engine="e", eased=(eased,)
    )
    seen.statuses, seen.others = [(at_s + 0.2, status)], [Others(at_s - 1, at_s + 1, 0.21)]
    killed = [Fault(at_s - 7, "killed", "audio"), Fault(at_s + 1, "killed", "vision")]
    told = circumstances(seen, at_s, killed)
    for part in (
        "vision covered 100%",
        f"given up: {eased}",
        "others had 0.21 cores",
        "7 s after audio killed",
    ):
        assert part in told
    assert "vision killed" not in told
    assert circumstances(Seen(), at_s, []) == ""


def test_a_text_that_nobody_listens_for_is_a_gap_whatever_its_reason(seen: Seen) -> None:
    at_s, window = seen.windows[0]
    for coverage, gaps in ((0.4, 0), (0.0, 5)):
        silent = Modality(present=False, coverage=coverage, reason="no_words")
        modalities = msgspec.structs.replace(window.modalities, text=silent)
        seen.windows = []
        for n in range(round(DEAF_S) + 5):
            time = msgspec.structs.replace(window.time, end_ns=window.time.end_ns + n * 10**9)
            later = msgspec.structs.replace(window, seq=n, modalities=modalities, time=time)
            seen.windows.append((at_s + n, later))
        assert len(unexplained(seen, [], 1.0)) == gaps


def test_who_is_not_back_in_time_excuses_no_more_and_is_told(seen: Seen) -> None:
    at_s = seen.windows[1][0]
    assert seen.windows[-1][0] - at_s > CAUGHT_UP_S + LOST_S
    change(seen, len(seen.windows) - 1, dropped=Lost(audio=3))
    never = Fault(at_s, "killed", "audio", ("audio",), over_s=at_s)
    assert len(unexplained(seen, [never], 0.5)) == 1
    page = Fault(at_s, "page killed", over_s=at_s, well_s=at_s + 3.5)
    soon = Fault(at_s, "killed", "vision", ("vision",), over_s=at_s, well_s=at_s + 2.9)
    assert [line.partition(",")[0] for line in late(seen, [never, page, soon])] == ["audio", "the page"]


def test_words_are_back_when_somebody_listens_again_though_a_hole_is_left(seen: Seen) -> None:
    windows = [window for _, window in seen.windows][:12]
    died_ns = windows[2].time.end_ns
    back = 6  # from this window on somebody listens; three windows' worth were not heard
    for n, window in enumerate(windows):
        until_ns = window.time.end_ns if n < 3 or n >= back else died_ns
        heard_ns = until_ns - (windows[back - 1].time.end_ns - died_ns if n >= back else 0)
        span_ns = window.time.end_ns - window.time.start_ns
        text = Modality(
            present=False, coverage=(heard_ns - window.time.start_ns) / span_ns, reason="no_words"
        )
        modalities = msgspec.structs.replace(window.modalities, text=text)
        windows[n] = msgspec.structs.replace(window, modalities=modalities)
    killed = Fault(1, "killed", "text", ("text",), media_ns=died_ns, over_s=1)
    well = [is_well(killed, before, message) for before, message in pairwise(windows)]
    assert well == [n >= back for n in range(1, 12)]
    assert not is_well(killed, None, windows[-1])


def test_who_is_killed_when_others_have_dropped_the_page_cache_may_be_late_once(seen: Seen) -> None:
    killed = [
        Fault(at_s, "killed", sense, (sense,), over_s=at_s, well_s=at_s + 8)
        for at_s, sense in ((100, "vision"), (200, "vision"), (230, "vision"), (250, "audio"), (260, "audio"))
    ]
    seen.cold_s = [150]
    assert [line.partition(":")[0] for line in late(seen, killed)] == [
        f"{sense}, killed at {at_s} s" for at_s, sense in ((100, "vision"), (230, "vision"), (260, "audio"))
    ]
    stalled = Fault(160, STALLED, "audio", ("audio",), over_s=174, well_s=174)
    assert len(late(seen, [stalled, *killed])) == 4, "that one was started again, cold"


def test_a_drop_of_the_page_cache_is_counted_by_the_machine() -> None:
    drops, counters = proc.cache_drops(), Path("/proc/vmstat").read_text().splitlines()
    told = [line for line in counters if line.startswith("drop_pagecache ")]
    assert drops >= 0 and told in ([], [f"drop_pagecache {drops}"])


def test_a_loss_while_other_programs_have_the_processor_is_no_gap_and_how_long_they_do_is_told(
    seen: Seen,
) -> None:
    for index in range(20, len(seen.windows)):
        change(seen, index, dropped=Lost(audio=3))
    at_s = seen.windows[20][0]
    for begin_s, cores, gaps in ((at_s - 2, 0.3, 0), (at_s - 2, 0.2, 1), (at_s - 2 - LOST_S - 1, 0.3, 1)):
        seen.others = [Others(begin_s, begin_s + 2, cores), Others(begin_s + 2, begin_s + 8, 0.0)]
        assert len(unexplained(seen, other_work(seen), 0.5)) == gaps
        assert busy_share(seen) == pytest.approx(0.25 if cores > 0.25 else 0.0)
    seen.others = [Others(at_s, at_s + 2, 1.0)]
    page = Fault(at_s - 1, "page killed", over_s=at_s - 1, well_s=at_s + 3)
    before = Fault(at_s - 9, "page killed", over_s=at_s - 9, well_s=at_s - 4)
    assert len(late(seen, [page, before])) == 2
    assert [line.partition(" s:")[0] for line in late(seen, [page, before, *other_work(seen)])] == [
        f"the page, page killed at {at_s - 9:.0f}"
    ]


def test_what_a_child_spent_is_its_familys_also_when_it_has_ended_and_the_machines() -> None:
    family_s, machine_s = proc.family_s(os.getpid()), proc.machine_s()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.5: pass"], check=True)
    spent_s = proc.family_s(os.getpid()) - family_s
    assert spent_s >= 0.5 - 2 / proc.TICKS
    assert proc.machine_s() - machine_s >= spent_s - 5 / proc.TICKS


def test_a_kill_that_is_not_published_and_junk_that_is_not_counted_are_told(seen: Seen) -> None:
    kill = Fault(5.0, "killed", "vision", ("vision",), over_s=5.0)
    junk = Fault(6.0, "junk on a pipe", over_s=6.0)
    assert len(unsaid(seen, [kill, junk])) == 2
    back = StatusMessage(
        session="s", uptime_s=1, senses={}, windows=9, skipped=0, engine="e",
        event="vision: back after a restart, 1.2 s lost",
    )  # fmt: skip
    seen.statuses = [(6.5, back)]
    assert unsaid(seen, [kill]) == []


@pytest.mark.parametrize(("mb", "grown"), [((100.0, 104.0), 0.04), ((100.0, 106.0), 0.06)])
def test_growth_is_from_the_first_half_minute_to_the_last(mb: tuple[float, float], grown: float) -> None:
    rise = [mb[0]] * 15 + [500.0] * 40 + [mb[1]] * 15
    assert growth(rise) == pytest.approx(grown)
