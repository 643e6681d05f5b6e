"""The page in a real browser: every panel, both themes, a phone, keys, markers, playback, and its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from capture.features.vision import BLENDSHAPES
from capture.messages import Words
from runtime import keys, proc
from runtime.dashboard.face import HEIGHT, WIDTH, draw
from runtime.dashboard.phrases import tenths
from runtime.plan import DEMO
from runtime.recording import Recorder, Recording
from runtime.stream import (
    Emotion,
    Face,
    Head,
    Message,
    Modalities,
    Modality,
    Publisher,
    Sentiment,
    SessionBegin,
    decode,
    schema,
)
from tests.conftest import ROOT
from tests.end_to_end.application import without_pytest
from tests.made_stream import OVERLOADED

pytest.importorskip("nicegui", reason="pip install 'emotion-edge[dashboard]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
PANELS = ("Emotion", "Face", "Senses", "Transcript", "Distillation", "Latency", "Markers", "Health")
LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(good: Callable[[], Any], what: str, timeout_s: float = 15) -> Any:
    """Ask again and again; fails the test when it is never good."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := good():
            return value
        time.sleep(0.1)
    pytest.fail(f"never came: {what}")


class Served:
    """A command that serves the page, in a process of its own."""

    def __init__(self, module: str, *arguments: object, folder: Path, host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.folder = folder
        self.log = folder / f"{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments), "--dashboard", f"{host}:{self.port}"],
                cwd=ROOT,
                env=without_pytest() | {"XDG_DATA_HOME": str(folder), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def ready(self) -> Served:
        """Wait for the line that says where the page is."""
        until(lambda: "dashboard: http://" in self.said, f"an address in {self.log}", 30)
        until(self.open, "a port that listens")
        return self

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def interrupt(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Serve pages; ended with the file."""
    started: list[Served] = []

    def run(module: str, *arguments: object, **options: Any) -> Served:
        started.append(Served(module, *arguments, folder=tmp_path_factory.mktemp("page"), **options))
        return started[-1]

    yield run
    for served in started:
        served.interrupt()
    for served in started:
        served.close()


@pytest.fixture(scope="module")
def starting(serve: Callable[..., Served], recording: Path) -> Served:
    return serve("runtime.dashboard", "--replay", recording)


@pytest.fixture(scope="module")
def playback(starting: Served) -> Served:
    """A recording and its page."""
    return starting.ready()


@pytest.fixture(scope="module")
def demo_and_stream(
    serve: Callable[..., Served], starting: Served
) -> Iterator[tuple[Served, zmq.Socket[bytes]]]:
    """The bundled recording, again and again, with its page; and a second subscriber to its stream."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with zmq.Context.instance().socket(zmq.SUB) as stream:
        stream.connect(endpoint)
        stream.subscribe("emotion")
        yield (
            serve("runtime.live", "--demo", "--loop", "--no-dashboard", "--endpoint", endpoint).ready(),
            stream,
        )


@pytest.fixture
def demo(demo_and_stream: tuple[Served, zmq.Socket[bytes]]) -> Served:
    return demo_and_stream[0]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled recording, with a last word that may still be taken back."""
    path = tmp_path_factory.mktemp("recording") / "session.mcap"
    demo = Recording.open(DEMO)
    arrivals = list(demo.arrivals())
    last = max(k for k, a in enumerate(arrivals) if isinstance(a.message, Words) and a.message.words)
    with Recorder(path, demo.header, emotion_schema=msgspec.json.encode(schema())) as recorder:
        for k, arrival in enumerate(arrivals):
            message = arrival.message
            if k == last:
                assert isinstance(message, Words)
                word = msgspec.structs.replace(message.words[0], committed=False)
                message = msgspec.structs.replace(message, words=(word,))
            if k <= last or not isinstance(message, Words):
                recorder.add(message, arrival.t_arrival_ns)
        for seq, (t_ns, payload) in enumerate(demo.emotions()):
            recorder.add_emotion(payload, t_ns, seq)
    return path


class Browser:
    """Chromium without a window, asked in the words of the page."""

    def __init__(self, chrome: Any) -> None:
        self.chrome = chrome

    def look(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.get_log("browser")  # forget what earlier pages said
        self.chrome.get(url)
        until(lambda: self.all(".felt-row"), "bars")

    def all(self, css: str) -> list[Any]:
        found: list[Any] = self.chrome.find_elements(By.CSS_SELECTOR, css)
        return found

    def named(self, label: str) -> Any:
        """The one element with an aria-label that begins so; what a press changes comes a moment later."""
        found = until(lambda: self.all(f'[aria-label^="{label}"]'), f"an element named {label!r}")
        (element,) = found
        return element

    def run(self, script: str) -> Any:
        return self.chrome.execute_script(script)

    def bars(self) -> list[int]:
        """The seven scores in percent, all of one moment."""
        meters = "[...document.querySelectorAll('[role=meter]')]"
        found = self.run(f"return {meters}.map(m => [m.ariaLabel, Number(m.ariaValueNow)])")
        assert [label for label, _ in found] == list(LABELS)
        return [score for _, score in found]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield Browser(chrome)
    chrome.quit()


def test_the_bars_move_every_panel_says_something_and_the_browser_has_no_complaint(
    demo: Served, browser: Browser
) -> None:
    browser.look(demo.url)
    first = until(lambda: sum(bars := browser.bars()) > 90 and bars, "scores")
    until(lambda: browser.bars() != first, "bars that move")
    assert 95 <= sum(browser.bars()) <= 105  # seven rounded shares of one
    for panel in PANELS:
        body = browser.named(panel + '"][class~="card').text
        assert len(body.splitlines()) > 1, panel
    until(lambda: browser.all(".top")[0].text in LABELS, "an answer")  # the first window is unsure
    assert browser.all(".badge")[0].text in ("ok", "degraded", "abstains")
    assert browser.all(".session")[0].text == "demo"
    assert until(lambda: browser.all(".pulse")[0].text == "live", "a stream that lives")
    until(lambda: "Americans" in browser.all(".transcript")[0].text, "what is said, for a page asks for it")
    for label in LABELS:
        drawn = browser.named(f"{label}, last 60 seconds").find_element(By.TAG_NAME, "path")
        until(lambda drawn=drawn: drawn.get_attribute("d").count("L") > 2, f"the past of {label}")
    assert browser.complaints() == []


def test_the_face_is_drawn_from_the_blendshapes_and_moves(demo: Served, browser: Browser) -> None:
    browser.look(demo.url)
    now = "return document.querySelector('.lips').getAttribute('d')"
    lips = until(lambda: browser.run(now), "lips")
    until(lambda: browser.run(now) != lips, "lips that move")
    said = browser.named("face: ").get_attribute("aria-label")
    assert re.search(r"\d%|at rest", said), said
    assert not browser.all(".seen:not(.gone)"), "no camera where pictures are not shared"


def test_the_camera_is_shown_with_its_landmarks_only_where_pictures_are_shared(
    serve: Callable[..., Served],
    browser: Browser,
    shared: Path,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMOTION_ASSETS", str(shared / "models"))
    clip = shared / "media/face_and_speech.mp4"
    live = serve(
        *("runtime.live", "--input", clip, "--asr", "none", "--share-raw", "--no-dashboard"),
        *("--endpoint", endpoint),
    ).ready()
    browser.look(live.url)
    until(lambda: browser.all(".seen:not(.gone)"), "the camera")
    size = until(lambda: browser.run("return document.querySelector('.seen img').naturalWidth"), "a picture")
    assert 100 < size <= 640
    assert browser.run("return document.querySelector('.landmarks').getAttribute('d')").count("M") == 478
    assert not browser.all(".drawn:not(.gone)")
    assert browser.complaints() == []


@given(
    shapes=st.dictionaries(st.sampled_from(BLENDSHAPES), st.floats(0, 1), max_size=52),
    turned=st.tuples(*[st.floats(-1.6, 1.6)] * 3),
)
def test_whatever_a_face_does_it_can_be_drawn_inside_its_box(
    shapes: dict[str, float], turned: tuple[float, float, float]
) -> None:
    pitch, yaw, roll = turned
    head = Head(pitch=pitch, yaw=yaw, roll=roll)
    drawing = draw(Face(session="s", seq=0, t_ns=0, present=True, blendshapes=shapes, head=head))
    for path in (*drawing.brows, *drawing.eyes, drawing.lips, drawing.mouth):
        numbers = list(map(float, re.findall(r"-?\d+\.\d|-?\d+", path)))
        assert all(0 <= x <= WIDTH for x in numbers[::2])
        assert all(0 <= y <= HEIGHT + 60 for y in numbers[1::2])  # of control points, outside the curve
    assert all(radius > 0 for *_, radius in drawing.irises)


def test_a_smile_lifts_the_corners_of_the_mouth_and_a_closed_eye_is_a_line() -> None:
    def numbers(shapes: dict[str, float], part: str) -> list[float]:
        drawing = draw(Face(session="s", seq=0, t_ns=0, present=True, blendshapes=shapes))
        found = drawing.lips if part == "lips" else drawing.eyes[1]
        return list(map(float, re.findall(r"-?\d+\.\d|-?\d+", found)))

    rest, smile = numbers({}, "lips"), numbers({"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}, "lips")
    assert smile[1] < rest[1] and smile[0] < rest[0], "higher, and wider"
    eye, closed = numbers({}, "eye"), numbers({"eyeBlinkLeft": 1.0}, "eye")
    assert closed[3] > eye[3] + 10


def test_the_latency_bar_sums_to_the_total(demo: Served, browser: Browser) -> None:
    browser.look(demo.url)
    said = until(
        lambda: (label := browser.named("latency ").get_attribute("aria-label")) != "latency" and label,
        "latency",
    )
    total, *parts = [float(number) for number in re.findall(r"\d+\.\d", said)]
    assert len(parts) == 5 and total > 0
    assert sum(parts) == pytest.approx(total, abs=1e-6)


def test_both_graphs_have_six_edges_that_thicken_and_thin(demo: Served, browser: Browser) -> None:
    browser.look(demo.url)
    widths = "return [...document.querySelectorAll('.edge')].map(e => e.style.strokeWidth)"
    first = until(lambda: all(now := browser.run(widths)) and now, "edges")
    assert len(first) == 12 and len(set(first)) > 2
    until(lambda: browser.run(widths) != first, "edges that move")
    for kind in ("homogeneous", "heterogeneous"):
        # Where the recording begins anew there is a moment without edges.
        said = until(
            lambda k=kind: (
                (now := browser.named(f"{k} edges").get_attribute("aria-label"))
                and now.count(" teaches ") == 6
                and now
            ),
            "six edges",
        )
        assert 97 <= sum(map(int, re.findall(r"(\d+)%", said))) <= 103  # six rounded shares of one


def test_dark_follows_the_system_and_the_switch_overrides_it(demo: Served, browser: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.look(demo.url)
    light = browser.run(ground)
    browser.look(demo.url, dark=True)
    dark = browser.run(ground)
    assert light != dark
    browser.named("Theme: as the system").click()
    until(lambda: browser.run(ground) == light, "light by the switch")
    browser.named("Theme: light").click()
    browser.named("Theme: dark")
    until(lambda: browser.run(ground) == dark, "dark by the switch")


def test_on_a_phone_the_panels_stand_in_one_column_and_nothing_is_cut_off(
    demo: Served, browser: Browser
) -> None:
    browser.look(demo.url, width=390, height=844)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    boxes = [browser.named(panel + '"][class~="card').rect for panel in PANELS]
    assert len({round(box["x"]) for box in boxes}) == 1
    tops = [box["y"] for box in boxes]
    assert boxes[0]["y"] == min(tops) and len(set(tops)) == len(PANELS)
    browser.look(demo.url)
    assert len({round(browser.named(panel + '"][class~="card').rect["x"]) for panel in PANELS}) == 2


def test_everything_comes_from_this_machine_and_everything_to_press_has_a_name(
    demo: Served, browser: Browser
) -> None:
    browser.look(demo.url)
    loaded = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(loaded) > 5
    assert [name for name in loaded if not name.startswith((demo.url, "data:", "blob:"))] == []
    names = "button, input, [role=meter], [role=img]:not([aria-hidden=true])"
    for element in browser.all(names):
        assert element.accessible_name, element.get_attribute("outerHTML")


def test_the_m_key_sets_a_marker_that_is_kept_with_its_time(demo: Served, browser: Browser) -> None:
    browser.look(demo.url)
    until(lambda: browser.all(".top")[0].text in LABELS, "an emotion")
    browser.chrome.switch_to.active_element.send_keys("m")
    file = demo.folder / "emotion-edge/markers/demo.markers.jsonl"
    until(file.exists, "a file of markers")
    note = browser.named("Note")
    note.send_keys("he laughs at m")  # a note is no key press
    note.send_keys(Keys.ENTER)
    until(lambda: len(file.read_text().splitlines()) == 2, "a second marker")
    markers = [json.loads(line) for line in file.read_text().splitlines()]
    assert [marker["text"] for marker in markers] == ["", "he laughs at m"]
    for marker in markers:
        assert marker["session"] == "demo" and 0 < marker["t_ns"] < 13e9
    until(lambda: "he laughs at m" in browser.named("latest markers").text, "the marker on the page")


def test_with_the_pages_of_these_tests_open_no_window_was_dropped(
    demo_and_stream: tuple[Served, zmq.Socket[bytes]], browser: Browser
) -> None:
    served, stream = demo_and_stream
    browser.look(served.url)
    emotions: list[dict[str, Any]] = []
    while len(emotions) < 10 or stream.poll(0):  # all since the beginning
        assert stream.poll(5000), "the stream has stopped"
        message = json.loads(stream.recv_multipart()[1])
        emotions += [message] if message["type"] == "emotion" else []
    assert all(sum(message["dropped"].values()) == 0 for message in emotions)
    numbers = [message["seq"] for message in emotions]
    assert all(b in (a + 1, 0) for a, b in pairwise(numbers))  # 0: the demo begins again


def test_a_recording_is_played_and_scrubbed_with_its_words_provisional_ones_grey(
    playback: Served, browser: Browser, recording: Path
) -> None:
    browser.look(f"{playback.url}?at=3")
    numbers = [cell.text for cell in browser.all(".health tbody td:nth-child(n+3)")]
    assert len(numbers) == 9 and any(numbers) and not any(numbers[2::3]), "a recording knows no restarts"
    assert "And so my fellow Americans" in browser.named('Transcript"][class~="card').text
    assert "country" not in browser.named('Transcript"][class~="card').text
    place = browser.all(".scrubber .number")[0]
    assert place.text.startswith("0:03.0 / 0:11")
    slider = browser.named("Position in seconds")
    slider.send_keys(Keys.ARROW_RIGHT)  # and P, below, while the slider has the focus
    until(lambda: place.text.startswith("0:03.1"), "a step to the right")
    browser.named("Play (P)").click()
    until(lambda: place.text >= "0:04", "a position that moves")
    slider.send_keys("p")
    browser.named("Play (P)")
    browser.named("Speed 1×").click()
    until(lambda: browser.all('[aria-label="Speed 2×"]'), "twice the speed")

    browser.chrome.get(f"{playback.url}?at=11")
    provisional = until(lambda: browser.all(".provisional"), "a provisional word")[0]
    until(lambda: provisional.text == "country", "the word that may be taken back")
    certain = browser.all(".transcript:not(.provisional)")[0]
    assert certain.text.endswith("for your")
    assert provisional.value_of_css_property("color") != certain.value_of_css_property("color")
    browser.chrome.find_element(By.TAG_NAME, "body").send_keys("m")
    file = recording.with_name("session.markers.jsonl")
    until(lambda: file.exists() and file.read_text(), "markers beside the recording")
    assert json.loads(file.read_text())["t_ns"] == pytest.approx(11e9, abs=0.2e9)
    assert until(lambda: browser.all(".tick"), "a tick on the scrubber")
    assert browser.complaints() == []


def test_an_unsure_window_does_not_look_like_an_answer_neither_now_nor_later(
    playback: Served, browser: Browser
) -> None:
    first, second, *_ = (decode(payload) for _, payload in Recording.open(DEMO).emotions())
    assert isinstance(first, Emotion) and isinstance(second, Emotion) and first.emotions
    assert (first.state, second.state) == ("abstain", "ok")
    start_ns = Recording.open(DEMO).start_ns
    between_s = ((first.time.published_ns + second.time.published_ns) / 2 - start_ns) / 1e9
    browser.look(f"{playback.url}?at={between_s}")
    top, share = browser.all(".top.unsure")[0], browser.all(".top-share.guess")[0]
    assert top.text == "unsure" and share.text.startswith(f"perhaps {first.emotions.top}, ")
    size = "return parseFloat(getComputedStyle(arguments[0]).fontSize)"
    sizes = [browser.chrome.execute_script(size, element) for element in (share, top)]
    assert sizes[0] < sizes[1] / 2
    assert browser.all(".felt-rows.unsure") and not browser.all(".felt-row .strong")
    browser.chrome.get(f"{playback.url}?at=4")
    until(lambda: browser.all(".top:not(.unsure)") and browser.all(".top")[0].text in LABELS, "an answer")
    assert not browser.all(".felt-rows.unsure") and browser.all(".felt-row .strong")
    for path, parts in ((".past :not(.guess)", 5), (".past .guess", 2)):
        drawn = browser.all(path)[3].get_attribute("d")
        assert drawn.count("L") >= parts, (path, drawn)
    pale = browser.all(".past .guess")[3].value_of_css_property("opacity")
    assert float(pale) < 0.5


def test_a_sentiment_is_a_line_an_absent_sense_says_why_and_silence_is_told(
    serve: Callable[..., Served], browser: Browser, endpoint: str
) -> None:
    recorded = decode(next(iter(Recording.open(DEMO).emotions()))[1])
    assert isinstance(recorded, Emotion)
    away = Modality(present=False, coverage=0.0, reason="no_face")
    says = Modality(present=True, coverage=1.0, logits=(1.25,), lag_ms=8.0)
    message = msgspec.structs.replace(
        recorded,
        session="made",
        state="degraded",
        emotions=msgspec.UNSET,
        distillation=msgspec.UNSET,
        sentiment=Sentiment(value=-1.5, scale=(-3.0, 3.0)),
        modalities=Modalities(text=says, audio=says, vision=away),
    )
    with Publisher(endpoint, "made") as publisher:
        served = serve("runtime.dashboard", "--endpoint", endpoint).ready()
        publisher.publish(message)
        until(lambda: publisher.publish(message) and browser_sees(browser, served.url), "a sentiment", 20)
        assert browser.all(".top")[0].text == "-1.50"
        assert "without face" in browser.all(".state")[0].text
        assert "no face in view" in browser.named('face"][role="group').text
        assert "+1.25" in browser.named('voice"][role="group').text
        assert "publishes no edges" in browser.named('Distillation"][class~="card').text
        meter = browser.named('sentiment"][role="meter')
        assert meter.get_attribute("aria-valuenow") == "-1.50"
        assert "sentiment, -3 to +3" in browser.all(".top-share")[0].text
        assert len(browser.all(".past .zero")) == 1
        assert browser.all(".past .zero")[0].get_attribute("d") == "M0 14 H240"
        assert len(browser.all(".track .zero")) == 1
        heights = re.findall(r" (\d+\.\d)", browser.all(".past .line:not(.guess)")[0].get_attribute("d"))
        assert set(heights) == {"21.0"}, "a quarter of the plot's 28 above its floor"
        fill = "return document.querySelector('.track .fill').style.marginLeft"
        assert browser.run(fill) == "25%"

        nothing = {"emotions": msgspec.UNSET, "sentiment": msgspec.UNSET, "distillation": msgspec.UNSET}
        publisher.publish(msgspec.structs.replace(message, seq=message.seq + 1, state="abstain", **nothing))
        until(lambda: browser.all(".top")[0].text == "nothing", "a window without an answer")
        absent = "return document.querySelector('[aria-label=sentiment]').hasAttribute('aria-valuenow')"
        until(lambda: not browser.run(absent), "a value that is absent, not zero")
        until(lambda: browser.run(fill) == "0%", "a bar that begins where bars begin")
        assert "nothing to go by" in browser.named('Distillation"][class~="card').text
        until(lambda: "nothing heard for" in browser.all(".pulse")[0].text, "silence")


def test_the_page_says_what_is_given_up_and_dropped_and_shows_no_face_that_is_gone(
    serve: Callable[..., Served], browser: Browser, endpoint: str
) -> None:
    emotion = decode(list(Recording.open(DEMO).emotions())[5][1])
    assert isinstance(emotion, Emotion)
    shapes = {"mouthSmileLeft": 0.9}
    face = Face(session="demo", seq=0, t_ns=0, present=True, blendshapes=shapes)
    begun = SessionBegin(
        session="demo", started="2026-11-25T12:00:00.000Z", clock="media", config={}, model=emotion.model,
        streams={}, software="0.1.0",
    )  # fmt: skip
    with Publisher(endpoint, "demo") as publisher:
        served = serve("runtime.dashboard", "--endpoint", endpoint).ready()
        browser.chrome.get(served.url)

        def told(panel: str, words: str, *messages: Message) -> None:
            """Publish until the page says so: it may not yet be listening."""

            def said() -> bool:
                for message in messages:
                    publisher.publish(message)
                return words in browser.named(panel + '"][class~="card').text

            until(said, words)

        told("Health", "dropped 5", emotion, OVERLOADED)
        told("Health", "no provisional words")
        told("Health", "7 windows published again, 2 with another answer")
        until(lambda: browser.all(".graph.homo .edge[style*=width]"), "edges")
        told("Face", "mouth smile left 90%", face)
        told("Face", "no face is seen any more")
        assert not browser.all(".drawn:not(.gone)")

        other = msgspec.structs.replace(begun, session="other")
        told("Face", "--share-face", other)
        until(lambda: browser.all(".session")[0].text == "other", "another session")
        until(lambda: not browser.all(".edge[style*=width]"), "a drawing that is reset")
        assert "dropped" not in browser.named('Health"][class~="card').text
        assert browser.named("latency").get_attribute("aria-label") == "latency"
        assert browser.bars() == [0] * 7 and not browser.all("[role=meter][aria-valuenow]")


def browser_sees(browser: Browser, url: str) -> bool:
    browser.chrome.get(url)
    time.sleep(0.5)
    return bool(browser.all('[aria-label="sentiment"]'))


def test_a_stream_that_asks_for_a_key_is_shown_to_who_has_one(
    serve: Callable[..., Served], endpoint: str, tmp_path: Path
) -> None:
    recorded = decode(next(iter(Recording.open(DEMO).emotions()))[1])
    message = msgspec.structs.replace(recorded, session="secret-session")
    keys.init(tmp_path / "keys")
    key = keys.add(tmp_path / "keys", "page")
    with_key = serve("runtime.dashboard", "--endpoint", endpoint, "--key", key)
    without = serve("runtime.dashboard", "--endpoint", endpoint)
    with Publisher(endpoint, "secret-session", tmp_path / "keys") as publisher:
        with_key.ready()
        without.ready()

        def seen(served: Served) -> bool:
            publisher.publish(message)
            return b"secret-session" in urllib.request.urlopen(served.url, timeout=10).read()

        until(lambda: seen(with_key), "the session")
        assert not seen(without)


def test_beyond_loopback_a_token_is_made_and_demanded_also_of_the_websocket(
    serve: Callable[..., Served], browser: Browser, recording: Path
) -> None:
    # 127.1 is this machine, written so that nobody can be sure of it before it is looked up.
    served = serve("runtime.dashboard", "--replay", recording, host="127.1").ready()
    shown = re.search(r"\?token=(\S+)", served.said)
    assert shown is not None and len(shown[1]) >= 20

    def status(path: str, **headers: str) -> int:
        request = urllib.request.Request(served.url + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        try:
            with opener.open(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 401
    assert status("?token=wrong") == 401
    assert status("_nicegui_ws/socket.io/?EIO=4&transport=polling") == 401
    assert status(f"?token={shown[1]}") == 200
    assert upgrade(served.port) == 403
    browser.look(f"{served.url}?token={shown[1]}&at=5")  # the cookie opens the page and its WebSocket
    assert browser.chrome.current_url == f"{served.url}?at=5"
    browser.named("Play (P)").click()
    until(lambda: browser.all('[aria-label="Pause (P)"]'), "an answer through the WebSocket")


def test_the_address_that_is_printed_opens_the_page_whatever_the_token_is(
    serve: Callable[..., Served], recording: Path
) -> None:
    given = "a+b&c%20d#e=f/?;g"
    page = serve("runtime.dashboard", "--replay", recording, "--token", given).ready()
    printed = re.search(r"http://\S+", page.said)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert printed is not None and opener.open(printed[0], timeout=10).status == 200


def test_a_link_with_the_token_that_is_clicked_on_another_site_opens_the_page(
    serve: Callable[..., Served], browser: Browser, recording: Path
) -> None:
    served = serve("runtime.dashboard", "--replay", recording, host="127.1").ready()
    token = re.search(r"\?token=\S+", served.said)
    assert token is not None
    browser.chrome.get(f"data:text/html,<a href='{served.url}{token[0]}&at=5'>a mail on the web</a>")
    browser.all("a")[0].click()
    until(lambda: browser.all(".felt-row"), "the page")
    assert browser.chrome.current_url == f"{served.url}?at=5"


def test_two_pages_with_tokens_on_one_host_do_not_log_each_other_out(
    serve: Callable[..., Served], recording: Path
) -> None:
    pages = [serve("runtime.dashboard", "--replay", recording, host="127.1") for _ in range(2)]
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    for page in pages:
        token = re.search(r"\?token=\S+", page.ready().said)
        assert token is not None and opener.open(page.url + token[0], timeout=10).status == 200
    for page in pages:
        assert opener.open(page.url, timeout=10).status == 200


def test_a_marker_of_live_devices_stands_at_the_time_of_day_and_one_of_a_film_in_the_film(
    serve: Callable[..., Served], endpoint: str
) -> None:
    served = serve("runtime.dashboard", "--endpoint", endpoint)
    file = served.folder / "emotion-edge/markers/lab.markers.jsonl"
    file.parent.mkdir(parents=True)
    noon = datetime(2026, 11, 25, 12, 0, 5).astimezone(UTC).isoformat()
    marker = {"session": "lab", "t_ns": 86_400_000_000_000, "clock": "monotonic", "wall": noon, "text": "up"}
    of_film = marker | {"t_ns": 62_500_000_000, "clock": "media", "text": "a film"}
    file.write_text("".join(json.dumps(one) + "\n" for one in (marker, of_film)))
    served.ready()
    message = msgspec.structs.replace(decode(next(iter(Recording.open(DEMO).emotions()))[1]), session="lab")

    def page() -> str:
        publisher.publish(message)
        return urllib.request.urlopen(served.url, timeout=10).read().decode()

    with Publisher(endpoint, "lab") as publisher:
        shown = until(lambda: "kept in" in (now := page()) and now, "markers")
    assert "12:00:05" in shown and "1:02.5" in shown and "1440:00" not in shown


@pytest.mark.parametrize("as_json", [False, True])
def test_a_session_prints_its_pages_address_in_one_line_and_logs_it_without_the_token(
    serve: Callable[..., Served], endpoint: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")  # narrower than the address
    options = ["--log-json"] if as_json else []
    live = serve(
        *("runtime.live", "--demo", "--loop", "--no-dashboard", "--endpoint", endpoint, *options),
        host="127.1",
    ).ready()
    line = f"dashboard: http://127.1:{live.port}/?token="
    until(lambda: "was printed, not logged" in " ".join(live.said.split()), "a log line without the token")
    (printed,) = (one for one in live.said.splitlines() if "?token=" in one)
    if as_json:
        printed = json.loads(printed)["text"]
    assert printed.startswith(line) and len(printed) > len(line) + 20
    token = printed.removeprefix(line)
    assert live.said.count(token) == 1
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert opener.open(f"{live.url}?token={token}", timeout=10).status == 200


def upgrade(port: int, **headers: str) -> int:
    """Ask for the page's WebSocket; the status of the answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    ask = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    ask["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    with contextlib.closing(link):
        link.request("GET", "/_nicegui_ws/socket.io/?EIO=4&transport=websocket", headers=ask | headers)
        return link.getresponse().status


def test_on_loopback_another_name_and_another_sites_page_are_refused(playback: Served) -> None:
    assert upgrade(playback.port) == 101
    assert upgrade(playback.port, Origin="http://evil.example") == 403
    assert upgrade(playback.port, Origin="http://[") == 403
    for host in ("evil.example", "[", "[::1", ""):
        request = urllib.request.Request(playback.url, headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)
    assert "Traceback" not in playback.said


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=5))
def test_rounded_segments_still_add_up_to_the_rounded_total(parts: list[float]) -> None:
    rounded, total = tenths(parts, sum(parts))
    assert round(sum(rounded) * 10) == round(total * 10)
    assert abs(total - sum(parts)) <= 0.051
    assert all(abs(a - b) < 0.11 for a, b in zip(rounded, parts, strict=True))


def test_ctrl_c_ends_the_session_and_its_page(demo: Served) -> None:
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(15) == 0
    until(lambda: not demo.open(), "the end of the page")
    assert "Traceback" not in demo.said


def test_the_page_ends_with_its_session_also_when_that_is_killed(
    serve: Callable[..., Served], endpoint: str
) -> None:
    served = serve("runtime.live", "--demo", "--loop", "--no-dashboard", "--endpoint", endpoint).ready()
    served.process.kill()
    until(lambda: not served.open(), "the end of the page")
    assert "Traceback" not in served.said


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_page_that_is_killed_is_served_again_under_the_same_address_and_token(
    serve: Callable[..., Served], endpoint: str, host: str
) -> None:
    command = "runtime.live", "--demo", "--loop", "--no-dashboard", "--endpoint", endpoint
    served = serve(*command, host=host).ready()
    (page,) = (pid for pid in proc.children(served.process.pid) if "runtime.dashboard" in proc.command(pid))
    lines = 1 if host == "127.0.0.1" else 2  # one with the token, and one for the log
    until(lambda: served.said.count("dashboard: http://") == lines, "all that it says of the page")
    before = re.findall(r"dashboard: (http://\S+)", served.said)
    assert "".join(before).count("token=") == lines - 1
    os.kill(page, signal.SIGKILL)
    until(lambda: served.said.count("dashboard: http://") == 2 * lines, "a second page", 30)
    assert re.findall(r"dashboard: (http://\S+)", served.said) == 2 * before
    assert "ended with status -9 and is started again" in served.said
    until(served.open, "a port that listens")
    served.process.send_signal(signal.SIGINT)
    until(lambda: served.process.poll() is not None, "the end of the session")
    until(lambda: not served.open(), "the end of the page")
    assert "Traceback" not in served.said


def test_ctrl_c_ends_the_dashboard_with_130(playback: Served) -> None:
    playback.process.send_signal(signal.SIGINT)
    assert playback.process.wait(15) == 130
    assert "Traceback" not in playback.said


def test_damage_in_a_recording_is_told_at_the_start_and_on_the_page(
    serve: Callable[..., Served], recording: Path, tmp_path: Path
) -> None:
    content = bytearray(recording.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "damaged.mcap").write_bytes(content)
    served = serve("runtime.dashboard", "--replay", tmp_path / "damaged.mcap").ready()
    assert f"warning: {tmp_path}/damaged.mcap: 1 damaged stretches left out" in served.said
    assert b"1 damaged stretches left out" in urllib.request.urlopen(served.url, timeout=10).read()


def test_what_cannot_be_used_is_one_line_and_status_2(recording: Path) -> None:
    with socket.socket() as taken, contextlib.ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack.callback(taken.close)
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        cases = {
            ("runtime.dashboard", "--dashboard", "nowhere"): "expected HOST:PORT",
            ("runtime.dashboard", "--dashboard", busy, "--replay", recording): "choose another",
            ("runtime.dashboard", "--replay", ROOT / "README.md"): "is not an MCAP file",
            ("runtime.dashboard", "--token", "abc"): "at least 8",
            ("runtime.dashboard", "--token", "pässword"): "than those of ASCII",
            ("runtime.dashboard", "--dashboard", "a..b:8563"): "no name that a host could have",
            ("runtime.dashboard", "--endpoint", "tcp://x"): "expected tcp://HOST:PORT",
            ("runtime.live", "--demo", "--dashboard", "1.2.3.4:99999"): "expected HOST:PORT",
        }
        running = {
            words: subprocess.Popen(
                [sys.executable, "-m", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            for words in cases
        }
        for words, process in running.items():
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2, words
            assert cases[words] in errors and len(errors.splitlines()) == 1, errors


def test_without_the_extra_a_session_says_in_one_line_how_to_get_the_page_and_goes_on(endpoint: str) -> None:
    script = "import sys; sys.modules['nicegui'] = None; from runtime.live import main; sys.exit(main())"
    arguments = ["--demo", "--fast", "--no-dashboard", "--endpoint", endpoint, "--dashboard", "--log-json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    said = [json.loads(line) for line in done.stderr.splitlines()]  # each of them, the settings, too
    assert [one["level"] for one in said if "emotion-edge[dashboard]" in one["text"]] == ["WARNING"]
    assert any(one["text"].split() == ["endpoint", endpoint] for one in said)
    assert "happy" in done.stdout
