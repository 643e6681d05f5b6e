"""The report: one file that loads nothing, tells what the recording holds, and shows in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.markers import of_recording
from runtime.recording import Recorder, Recording
from runtime.report.__main__ import main
from runtime.report.draw import Axis, area, clock, line, pieces
from runtime.report.gather import gather, own, top
from runtime.stream import Emotion, Modalities, Sentiment, decode

pytest.importorskip("jinja2", reason="pip install 'emotion-edge[report]'")

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "runtime/demo/face_and_speech.mcap"
SECTIONS = ["timeline", "transcript", "senses", "edges", "latency", "gaps"]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--window-size=900,1200",
)


class Page(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report(recording: Path, out: Path) -> str:
    assert main([str(recording), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def with_emotions(out: Path, change: Any) -> Path:
    """The bundled recording with each published window put through ``change`` (None: left out)."""
    recording = Recording.open(DEMO)
    with Recorder(out, recording.begin) as recorder:
        for raw in recording.raw():
            if raw.topic != "/emotion":
                recorder.copy(raw)
            elif isinstance(message := decode(raw.data), Emotion) and (changed := change(message)):
                recorder.add_emotion(msgspec.json.encode(changed), raw.publish_ns, changed.seq)
    return out


def test_it_holds_every_part_and_loads_nothing(tmp_path: Path) -> None:
    text = report(DEMO, tmp_path / "r.html")
    page = Page(text)
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert "script" not in {tag for tag, _ in page.elements}
    linked = [a[n] for _, a in page.elements for n in ("src", "href", "xlink:href") if n in a]
    assert linked == ["data:,"] and not re.search(r"https?://|url\(|@import", text)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")


def test_its_numbers_are_those_of_the_recording(tmp_path: Path) -> None:
    text = report(DEMO, tmp_path / "r.html")
    windows = [decode(payload) for _, payload in Recording.open(DEMO).emotions()]
    windows = [window for window in windows if isinstance(window, Emotion)]
    assert f"{len(windows)} windows" in text
    rows = {cells[0]: cells[1:] for cells in _rows(text)}
    order = windows[5].distillation.order  # type: ignore[union-attr]
    for i, edge in enumerate(order):
        for column, space in enumerate(("homo", "hetero")):
            strengths = [getattr(w.distillation, space)[i] for w in windows if hasattr(w.distillation, space)]
            mean = sum(strengths) / len(strengths)
            assert rows[edge.replace("->", " → ")][column] == f"{100 * mean:.0f} %"
    totals = sorted(window.latency_ms.total for window in windows)
    assert rows["total"][0] == f"{sum(totals) / len(totals):.1f}" and rows["total"][3] == f"{totals[-1]:.1f}"
    means = [float(rows[name][0]) for name in ("capture", "features", "window", "infer", "publish")]
    assert sum(means) == pytest.approx(float(rows["total"][0]), abs=0.3)


def _rows(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [[Page(cell).text.strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows if "<td" in row]  # fmt: skip  # noqa: E501


def test_each_word_has_the_colour_of_what_was_published_when_it_was_over() -> None:
    session = gather(Recording.open(DEMO))
    assert [word.text for word in session.words[:4]] == ["And", "so", "my", "fellow"]
    tops = dict(zip(session.times_s, map(top, session.windows), strict=True))
    for word in session.words:
        assert word.top in tops.values()
    assert len(Counter(word.top for word in session.words)) > 1


def test_a_window_published_again_counts_once_as_published_last(tmp_path: Path) -> None:
    """The window 5 is one that revises 4."""

    def change(message: Emotion) -> Emotion:
        return msgspec.structs.replace(message, revises=4) if message.seq == 5 else message

    before = gather(Recording.open(DEMO))
    after = gather(Recording.open(with_emotions(tmp_path / "a.mcap", change)))
    assert [w.seq for w in before.windows] == [w.seq for w in after.windows[:4]] + [4] + [
        w.seq for w in after.windows[4:]
    ]


def test_what_a_sense_adds_is_its_own_probability_for_the_answer() -> None:
    window = gather(Recording.open(DEMO)).windows[5]
    shares = [own(window, name) for name in ("vision", "audio", "text")]
    assert all(share is not None and 0 < share < 1 for share in shares) and len(set(shares)) == 3


def test_a_missing_stretch_is_not_drawn_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    content = bytearray(DEMO.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.mcap").write_bytes(content)
    text = report(tmp_path / "a.mcap", tmp_path / "r.html")
    assert "1 damaged stretches left out" in text and "damaged in the file, left out" in text
    assert 'class="damaged"' in text and 'class="damaged"' not in report(DEMO, tmp_path / "whole.html")
    holey = with_emotions(tmp_path / "b.mcap", lambda message: None if 5 < message.seq < 9 else message)
    paths = re.findall(r'<path d="(.*?)".*?data-label', report(holey, tmp_path / "b.html"))
    assert len(paths) == 7 and all(path.count("M") == 2 and path.count("Z") == 2 for path in paths)


def test_words_cannot_become_markup(tmp_path: Path) -> None:
    recording = Recording.open(DEMO)
    begin = recording.begin | {"session": "<script>alert(1)</script>"}
    with Recorder(tmp_path / "a.mcap", begin) as recorder:
        for raw in recording.raw():
            recorder.copy(raw)
    text = report(tmp_path / "a.mcap", tmp_path / "r.html")
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text


def test_a_session_that_published_nothing_is_a_report_too(tmp_path: Path) -> None:
    silent = with_emotions(tmp_path / "a.mcap", lambda message: None)
    page = Page(report(silent, tmp_path / "r.html"))
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert "Nothing was published" in page.text and "No window was published" in page.text


def test_the_command_refuses_in_one_line_and_overwrites_nothing(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("thesis")
    for arguments, says in (
        ((DEMO, "--out", mine), "mine.html exists already"),
        ((DEMO, "--out", tmp_path / "none/r.html"), "is no folder"),
        ((DEMO, "--out", mine / "r.html"), "is no folder"),
        ((DEMO, "--out", tmp_path / f"{'r' * 300}.html"), "cannot be written (File name too long)"),
        ((tmp_path / "none.mcap",), "No such file"),
        ((mine, "--out", tmp_path / "x.html"), "is not an MCAP file"),
    ):
        command = [sys.executable, "-m", "runtime.report", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert mine.read_text() == "thesis" and list(tmp_path.iterdir()) == [mine]


def test_nobody_else_may_read_it_for_it_holds_every_word(tmp_path: Path) -> None:
    half = tmp_path / ".r.html.half"
    half.write_text("what one that was killed left behind")
    half.chmod(0o644)
    before = os.umask(0)
    try:
        report(DEMO, tmp_path / "r.html")
    finally:
        os.umask(before)
    assert (tmp_path / "r.html").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_lines_stop_where_a_value_or_a_window_is_missing() -> None:
    times_s = [1.0, 2.0, 3.0, 6.0, 7.0]
    assert pieces(times_s, [True] * 5, 1.0) == [[0, 1, 2], [3, 4]]
    assert pieces(times_s, [True, False, True, True, True], 1.0) == [[0], [2], [3, 4]]
    axis = Axis(0.0, 10.0)
    assert line(axis, [1.0], [0.25], 1.0, 100.0) == "M0.0,75.0 L100.0,75.0"
    assert area(axis, [1.0], [0.0], [1.0], [True], 1.0, 10.0) == "M0.0,0.0 L100.0,0.0 L100.0,10.0 L0.0,10.0Z"
    long = [float(i) for i in range(100_000)]
    assert sum(map(len, pieces(long, [True] * len(long), 1.0))) < 2100


@pytest.mark.parametrize("span_s", [0.5, 11, 59, 60, 3600, 7300, 100_000])
def test_ticks_are_few_and_told_as_a_clock(span_s: float) -> None:
    ticks = Axis(-0.5, span_s).ticks
    assert 1 < len(ticks) <= 12 and len({told for _, told in ticks}) == len(ticks)
    assert (clock(0.5), clock(61), clock(3723), clock(-0.5)) == ("0:00.5", "1:01", "1:02:03", "−0:00.5")


@pytest.fixture
def chrome(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_a_browser_shows_it_in_light_and_dark_and_on_a_phone(chrome: Any, tmp_path: Path) -> None:
    report(DEMO, tmp_path / "r.html")
    grounds = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        chrome.get((tmp_path / "r.html").as_uri())
        grounds.append(chrome.execute_script("return getComputedStyle(document.body).backgroundColor"))
        areas = chrome.execute_script(
            "return [...document.querySelectorAll('[data-label]')].map(e => e.getBBox().height)"
        )
        assert len(areas) == 7 and all(0 < height <= 200 for height in areas)
        tall = chrome.execute_script(
            "return [...document.querySelectorAll('section')].map(e => e.offsetHeight)"
        )
        assert len(tall) == 6 and min(tall) > 60
    assert len(set(grounds)) == 2
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    chrome.get((tmp_path / "r.html").as_uri())
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 390
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert chrome.get_log("browser") == []


def test_markers_missing_windows_and_abstentions_are_told(tmp_path: Path) -> None:
    count = 0

    def change(message: Emotion) -> Emotion | None:
        nonlocal count
        count += 1
        if count in (5, 6):
            return None
        return msgspec.structs.replace(message, state="abstain") if count in (9, 10) else message

    recording = with_emotions(tmp_path / "s.mcap", change)
    session = gather(Recording.open(recording))
    header = Recording.open(recording).header
    of_recording(Recording.open(recording)).add(header.start_ns + 3_000_000_000, "media", "he <laughs>")
    page = Page(report(recording, tmp_path / "s.html"))
    assert "2 windows missing" in page.text and "he <laughs>" in page.text
    assert any(attrs.get("class") == "marker" for _, attrs in page.elements)
    assert [hole[2] for hole in session.missing] == [2]
    abstained = [window for window in session.windows if window.state == "abstain"]
    assert abstained and all(top(window) is None for window in abstained)


def test_windows_that_abstain_are_left_without_colour_and_say_their_best_guess(tmp_path: Path) -> None:
    def change(message: Emotion) -> Emotion:
        return msgspec.structs.replace(message, state="abstain") if message.seq == 8 else message

    before = gather(Recording.open(DEMO))
    recording = with_emotions(tmp_path / "a.mcap", change)
    page = Page(report(recording, tmp_path / "a.html"))
    (end_s,) = [t for t, w in zip(before.times_s, before.windows, strict=True) if w.seq == 8]
    axis = Axis(before.times_s[0] - before.hop_s, before.times_s[-1])
    boxes = [attrs for tag, attrs in page.elements if tag == "rect" and attrs.get("class") == "unsure"]
    assert [float(box["x"] or 0) for box in boxes] == [0.0, axis.x(end_s - before.hop_s)]  # the first, too
    for path in [attrs["d"] or "" for _, attrs in page.elements if "data-label" in attrs]:
        inside = axis.x(end_s - before.hop_s / 2)
        strokes = [[float(x) for x in re.findall(r"([\d.]+),", stroke)] for stroke in path.split("M")[1:]]
        assert not any(min(xs) < inside < max(xs) for xs in strokes)
    assert "unsure, best guess" in page.text and "within dashes: the network abstained" in page.text


def test_of_a_sentiment_it_says_what_each_sense_gave_alone_and_colours_the_words(tmp_path: Path) -> None:
    values = {"vision": 1.5, "audio": -0.5, "text": 0.25}

    def change(message: Emotion) -> Emotion:
        alone = {
            name: msgspec.structs.replace(getattr(message.modalities, name), present=True, logits=(value,))
            for name, value in values.items()
        }
        return msgspec.structs.replace(
            message,
            state="abstain" if message.seq == 4 else "ok",
            emotions=msgspec.UNSET,
            sentiment=Sentiment(value=3.0 if message.seq % 2 else -3.0, scale=(-3.0, 3.0)),
            modalities=Modalities(**alone),
        )

    recording = with_emotions(tmp_path / "s.mcap", change)
    text = report(recording, tmp_path / "s.html")
    rows = [row for row in _rows(text) if row[0] in values][:3]
    assert {row[0]: row[3] for row in rows} == {name: f"{value:+.2f}" for name, value in values.items()}
    assert all(re.fullmatch(r"\d+ %", row[4]) for row in rows)
    assert "says alone" in text and "spoke for it" not in text and "best guess -3.00" in text
    borders = re.findall(r'<span style="border-color:(.*?)" title=".*? (.*?)">', text)
    assert set(borders) >= {("#0072B2", "+3.00"), ("#D55E00", "-3.00")}
    assert {colour for colour, told in borders if told == "answer"} <= {"#8a94a3"}
