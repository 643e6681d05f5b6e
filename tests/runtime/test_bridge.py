"""Bridges carry a real session, read back at the other side by a library that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from runtime import stream
from runtime.bridge.bridge import BridgeError, Losses, host_port
from runtime.bridge.lsl import SETTINGS, channels
from runtime.bridge.mqtt import CONNECT_S, MqttBridge
from runtime.bridge.osc import address
from runtime.bridge.ros2 import EXPRESSIONS, expression
from runtime.bridge.websocket import WebSocketBridge
from runtime.stream import Emotion
from tests.made_stream import begin, end, window

ROOT = Path(__file__).parents[2]
WINDOWS = 8  # 4 s of a session
Json = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listener(threading.Thread):
    """A plain subscriber of the session: what a bridge has to carry."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.messages: list[Json] = []
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.connect(endpoint)
        for topic in ("emotion.", "words."):
            self._socket.subscribe(topic)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            if self._socket.poll(100):
                self.messages.append(json.loads(self._socket.recv_multipart()[1]))
        self._socket.close(linger=0)

    def windows(self) -> dict[int, Json]:
        return {one["seq"]: one for one in list(self.messages) if one["type"] == "emotion"}


@pytest.fixture(scope="module")
def session() -> Iterator[tuple[str, Listener]]:
    """The bundled recording, again and again, and somebody who hears all of it."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    listener = Listener(endpoint)
    listener.start()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime.live", "--demo", "--loop", "--no-dashboard"),
            *("--share-words", "--session", "lab", "--endpoint", endpoint),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: bool(listener.windows()), 30)
        yield endpoint, listener
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
        listener.over.set()


@pytest.fixture
def bridge(session: tuple[str, Listener]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a bridge in a process of its own, and ends it with Ctrl-C, as people do."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, endpoint: str = session[0], **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.bridge", *arguments, "--endpoint", endpoint],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        process.where = process.stdout.readline()  # type: ignore[attr-defined]
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=15)
            assert (process.returncode, errors) == (0, ""), output
        else:
            process.communicate()


def wait_for(good: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_lsl_carries_the_session_with_names_units_and_the_time_of_each_window(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]]
) -> None:
    pylsl = pytest.importorskip("pylsl", reason="the extra 'bridge' is not installed")
    pylsl.set_config_content(SETTINGS.format(scope="machine"))
    listener = session[1]
    name = f"emotion-{os.getpid()}"
    bridge("lsl", "--name", name, "--words")
    found = pylsl.resolve_byprop("name", name, timeout=20) + pylsl.resolve_byprop(
        "name", f"{name}-events", timeout=20
    )
    numbers, events = (pylsl.StreamInlet(info) for info in found)
    numbers.open_stream(10)
    events.open_stream(10)
    described = numbers.info(10)
    channel, names, units = described.desc().child("channels").child("channel"), [], {}
    while channel.name() == "channel":
        names.append(channel.child_value("label"))
        units[names[-1]] = channel.child_value("unit")
        channel = channel.next_sibling("channel")
    acquired = described.desc().child("acquisition")
    assert acquired.child_value("manufacturer") == "emotion-edge"
    begin = next(one for one in listener.messages if one["type"] == "session.begin")
    assert acquired.child_value("software") == begin["software"]
    for info in (described, events.info(10)):
        assert info.desc().child_value("session") == "lab"
    samples, times = [], []
    deadline = time.monotonic() + 20
    while len(samples) < WINDOWS and time.monotonic() < deadline:
        sample, t_s = numbers.pull_sample(timeout=1)
        if sample is not None:
            samples.append(dict(zip(names, sample, strict=True)))
            times.append(t_s)
    assert len(samples) == WINDOWS
    heard = listener.windows()
    now_s = pylsl.local_clock()
    for sample, t_s in zip(samples, times, strict=True):
        told = heard[int(sample["seq"])]
        felt = told.get("emotions")
        for label in felt["labels"] if felt else ():
            assert sample[f"p_{label}"] == felt["scores"][felt["labels"].index(label)]
        for order, strength in zip(
            told["distillation"]["order"], told["distillation"]["hetero"], strict=True
        ):
            assert sample[f"hetero_{order}"] == strength
        for sense, one in told["modalities"].items():
            assert sample[f"{sense}_coverage"] == one["coverage"]
            for logit, label in zip(one.get("logits", ()), felt["labels"] if felt else (), strict=True):
                assert sample[f"{sense}_logit_{label}"] == logit
        assert now_s - 20 < t_s < now_s  # a window's end is over when it is published
        model = told["model"]
        assert acquired.child_value("serial_number") == model["hash"]
        assert acquired.child_value("model") == model["name"]
        assert acquired.child_value("engine") == f"{model['engine']}, {model['precision']}"
        lasted_s = (told["time"]["end_ns"] - told["time"]["start_ns"]) / 1e9
        assert float(described.desc().child_value("window_s")) == pytest.approx(lasted_s, abs=1e-3)
    spacing = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sorted(spacing)[len(spacing) // 2] == pytest.approx(0.5, abs=0.02)  # the hop, without jitter
    assert units["p_happy"] == "probability"
    assert units["audio_lag_ms"] == "milliseconds"
    assert units["text_logit_sad"] == "logit"
    said = []
    while len(said) < 2 and time.monotonic() < deadline + 10:
        event, _ = events.pull_sample(timeout=1)
        said += event or []
    assert len(said) >= 2
    everything = {word["text"] for m in listener.messages if m["type"] == "words" for word in m["words"]}
    assert all(text in everything or text.startswith("session.") for text in said)


def test_a_sense_that_is_absent_at_first_has_its_channels_and_is_no_number() -> None:
    message = window()
    names = channels(message)
    assert {"p_happy", "p_sad", "vision_logit_happy", "vision_logit_sad", "vision_present"} < set(names)
    assert not {"top", "wall", "state", "vision_reason"} & set(names)
    assert expression(message) | {"header": None} == {
        "header": None,
        "expression": "sad",
        "confidence": 0.75,
        "valence": pytest.approx(math.nan, nan_ok=True),
        "arousal": pytest.approx(math.nan, nan_ok=True),
    }


def test_websocket_carries_every_message_letter_by_letter_and_tells_newcomers_what_runs(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]]
) -> None:
    websockets = pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.sync.client import connect

    listener = session[1]
    port = free_port()
    process = bridge("websocket", "--serve", f"127.0.0.1:{port}", "--words")
    assert f"ws://127.0.0.1:{port}/" in process.where  # type: ignore[attr-defined]
    wait_for(lambda: any(m["type"] == "session.begin" for m in listener.messages))

    def read(count: int) -> list[Json]:
        with connect(f"ws://127.0.0.1:{port}/") as client:
            return [json.loads(client.recv(timeout=10)) for _ in range(count)]

    first = read(3)  # by now the bridge knows the session
    wait_for(lambda: first[-1] in listener.messages)
    again = read(20)
    assert again[0]["type"] == "session.begin"
    wait_for(lambda: again[-1] in listener.messages)
    assert all(message in listener.messages for message in again[1:])
    assert sum(message["type"] == "emotion" for message in again) >= 5
    kinds = [m["type"] for m in again if m["type"] != "session.begin"]
    heard = [m for m in listener.messages if m["type"] != "session.begin"]
    at = heard.index(next(m for m in again if m["type"] != "session.begin"))
    assert [m["type"] for m in heard[at : at + len(kinds)]] == kinds  # in order, none missing

    async def frozen() -> None:
        """Somebody who connects and reads nothing costs nobody else a message."""
        async with websockets.connect(f"ws://127.0.0.1:{port}/", max_queue=1):
            assert len(await asyncio.to_thread(read, 4)) == 4

    asyncio.run(frozen())


@pytest.fixture
def chrome() -> Iterator[Any]:
    """Chromium without a window, with its console."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_the_lines_of_javascript_in_the_docs_print_what_is_felt_in_a_page_of_this_machine(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], chrome: Any, tmp_path: Path
) -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    found = re.search(r"```javascript\n(.*?)```", (ROOT / "docs/how-to-web.md").read_text(), re.DOTALL)
    assert found and found[1].count("127.0.0.1:8564") == 1
    port, web_port = free_port(), free_port()
    bridge("websocket", "--serve", f"127.0.0.1:{port}")
    page = tmp_path / "page.html"
    page.write_text(f"<script>{found[1].replace('8564', str(port))}</script>")
    web = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(web_port)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listens(web_port))
        chrome.get(f"http://127.0.0.1:{web_port}/page.html")
        printed: list[str] = []
        while len(printed) < 4:
            printed += lines(chrome, "console-api")
            time.sleep(0.1)
        chrome.get(page.as_uri())  # from the disk: refused, as the page says
        wait_for(lambda: any("403" in line for line in lines(chrome, "network")))
    finally:
        web.terminate()
        web.wait(10)
    told = session[1].windows().values()
    heard = {f"{one['state']} {one['emotions']['top']}" for one in told if "emotions" in one}
    for line in printed:
        assert any(one in line.replace('"', "") for one in heard), line


def lines(chrome: Any, source: str) -> list[str]:
    """What the browser's console says that it has not said before."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["source"] == source]


@pytest.mark.parametrize(
    ("options", "origin", "path", "status"),
    [
        ((), "https://somewhere.example", "/", 403),
        ((), "null", "/", 403),  # a file opened from the disk
        ((), "http://[", "/", 403),  # no address at all
        ((), "http://localhost:5173", "/", 101),
        ((), None, "//[?x", 101),
        (("--allow-origin", "https://somewhere.example"), "https://somewhere.example", "/", 101),
        (("--token", "a-long-token"), None, "/", 401),
        (("--token", "a-long-token"), None, "/?token=wrong", 401),
        (("--token", "a-long-token"), None, "/?token=a-long-token", 101),
    ],
)
def test_a_page_from_elsewhere_or_without_the_token_hears_nothing(
    options: tuple[str, ...], origin: str | None, path: str, status: int
) -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    from runtime.bridge.__main__ import make, parser

    port = free_port()
    served = make(parser().parse_args(["websocket", "--serve", f"127.0.0.1:{port}", *options]))
    served.open()
    try:
        with connect(f"ws://127.0.0.1:{port}{path}", origin=origin):  # type: ignore[arg-type]
            assert status == 101
    except InvalidStatus as error:
        assert error.response.status_code == status
    finally:
        served.close()


def test_the_address_that_is_printed_works_whatever_the_token_is() -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.sync.client import connect

    served = WebSocketBridge(f"127.0.0.1:{free_port()}", token="a+b&c%20d#e=f/?")
    address = served.open().removeprefix("WebSocket at ")
    try:
        with connect(address):
            pass
    finally:
        served.close()


def test_a_newcomer_hears_of_every_session_that_runs_and_of_none_that_has_ended() -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.sync.client import connect

    served = WebSocketBridge(f"127.0.0.1:{free_port()}")
    served.open()
    try:
        for message in (begin("one"), begin("two"), begin("three"), end("two")):
            served.send(message)
        with connect(f"ws://127.0.0.1:{served._port}/") as client:
            heard = [json.loads(client.recv(timeout=10)) for _ in range(2)]
            served.send(window(session="one"))
            heard.append(json.loads(client.recv(timeout=10)))
    finally:
        served.close()
    assert [(one["type"], one["session"]) for one in heard] == [
        ("session.begin", "one"),
        ("session.begin", "three"),
        ("emotion", "one"),
    ]


@pytest.mark.parametrize(("second", "status"), [("http://localhost:1", 400), ("https://a.example", 403)])
def test_a_request_of_several_origins_is_refused(second: str, status: int) -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    served = WebSocketBridge(f"127.0.0.1:{free_port()}")
    served.open()
    origins = [("Origin", "http://localhost:1"), ("Origin", second)]
    try:
        with (
            pytest.raises(InvalidStatus, match=str(status)),
            connect(f"ws://127.0.0.1:{served._port}/", additional_headers=origins),
        ):
            pass
    finally:
        served.close()


@pytest.fixture
def broker(mosquitto: tuple[int, subprocess.Popen[bytes]]) -> int:
    """The port of a broker."""
    return mosquitto[0]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Debian's mosquitto on a free port of loopback, with one user."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("no mosquitto (apt install mosquitto)")
    pytest.importorskip("paho.mqtt", reason="the extra 'bridge' is not installed")
    port = free_port()
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "robot", "secret"], check=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\npassword_file {passwords}\nuser root\n")
    process = subprocess.Popen(
        [program, "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: listens(port), 10)
        yield port, process
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_mqtt_carries_the_session_through_a_real_broker_which_says_when_the_bridge_is_gone(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], broker: int
) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    listener = session[1]
    process = bridge("mqtt", "--broker", f"127.0.0.1:{broker}", "--user", "robot", MQTT_PASSWORD="secret")
    wait_for(lambda: any(m["type"] == "session.begin" for m in listener.messages))
    got: list[tuple[str, bytes, bool]] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("robot", "secret")
    client.on_message = lambda _client, _data, m: got.append((m.topic, m.payload, m.retain))
    client.on_connect = lambda client, *_: client.subscribe("emotion/#", qos=1)
    client.connect("127.0.0.1", broker)
    client.loop_start()

    def windows() -> list[Json]:
        return [json.loads(payload) for topic, payload, _ in got if topic == "emotion/lab/emotion"]

    try:
        wait_for(lambda: len(windows()) >= WINDOWS)
        wait_for(lambda: windows()[-1] in listener.messages)
        assert all(window in listener.messages for window in windows())
        client.subscribe("emotion/#", qos=1)  # as a newcomer now: what is retained comes to it
        lasting = {"emotion/bridge", "emotion/lab/session.begin"}
        wait_for(lambda: lasting <= {topic for topic, _, retained in got if retained})
        kept = {topic: payload for topic, payload, retained in got if retained}
        assert kept["emotion/bridge"] == b"online"
        assert json.loads(kept["emotion/lab/session.begin"])["type"] == "session.begin"
        process.kill()
        process.wait(5)
        wait_for(lambda: ("emotion/bridge", b"offline", False) in got)
    finally:
        client.loop_stop()
        client.disconnect()


def test_after_ctrl_c_a_broker_keeps_nothing_of_the_session(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], broker: int
) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    process = bridge("mqtt", "--broker", f"127.0.0.1:{broker}", "--user", "robot", MQTT_PASSWORD="secret")
    retained: dict[str, bytes] = {}
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("robot", "secret")
    client.on_message = lambda _client, _data, m: retained.update({m.topic: m.payload} if m.retain else {})
    client.on_connect = lambda client, *_: client.subscribe("emotion/#", qos=1)

    def look() -> None:
        retained.clear()
        client.connect("127.0.0.1", broker)
        client.loop_start()
        wait_for(lambda: "emotion/bridge" in retained)
        time.sleep(0.3)  # what else is retained comes at the same time
        client.disconnect()
        client.loop_stop()

    begun = "emotion/lab/session.begin"
    wait_for(lambda: look() is None and begun in retained)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    look()
    assert retained == {"emotion/bridge": b"offline"}


def test_messages_that_a_broker_does_not_take_are_counted(
    session: tuple[str, Listener],
    bridge: Callable[..., subprocess.Popen[str]],
    mosquitto: tuple[int, subprocess.Popen[bytes]],
) -> None:
    port, server = mosquitto
    process = bridge("mqtt", "--broker", f"127.0.0.1:{port}", "--user", "robot", MQTT_PASSWORD="secret")
    wait_for(lambda: any(m["type"] == "session.begin" for m in session[1].messages))
    server.terminate()
    server.wait(10)
    time.sleep(2.5)  # a status a second; each is worth no second try
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0
    assert f"messages lost: 127.0.0.1:{port} does not take them" in errors


def test_windows_beyond_the_queue_for_a_broker_and_those_left_in_it_are_counted(
    mosquitto: tuple[int, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, server = mosquitto
    monkeypatch.setattr("runtime.bridge.mqtt.QUEUED", 4)
    monkeypatch.setattr("runtime.bridge.bridge.TELL_S", 1000.0)  # however slow this machine is
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    bridge = MqttBridge(f"127.0.0.1:{port}", user="robot")
    bridge.open()
    bridge.send(window())  # this one arrives
    wait_for(lambda: not bridge._under_way)
    server.terminate()
    server.wait(10)
    wait_for(lambda: "the broker is gone" in caplog.text)
    for seq in range(10):
        bridge.send(window(seq))
    assert said(caplog) == ["1 messages lost"]  # at once, and not again so soon
    bridge.close()
    assert said(caplog) == ["1 messages lost", "10 messages lost"]  # 6 had no place, 4 waited in vain


def test_a_bridge_whose_queue_is_full_says_that_it_is_online_when_the_broker_is_back(
    mosquitto: tuple[int, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, server = mosquitto
    monkeypatch.setattr("runtime.bridge.mqtt.QUEUED", 4)
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    bridge = MqttBridge(f"127.0.0.1:{port}", user="robot")
    bridge.open()
    server.terminate()
    server.wait(10)
    wait_for(lambda: "the broker is gone" in caplog.text)
    for seq in range(10):
        bridge.send(window(seq))
    with restarted(server, port):
        wait_for(lambda: retained(port).get("emotion/bridge") == b"online")
        wait_for(lambda: not bridge._under_way)
        bridge.close()
    assert said(caplog)[-1] == "6 messages lost"


def test_a_broker_that_no_longer_knows_the_password_ends_the_bridge(
    mosquitto: tuple[int, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port, server = mosquitto
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    bridge = MqttBridge(f"127.0.0.1:{port}", user="robot")
    bridge.open()
    bridge.send(window())
    server.terminate()
    server.wait(10)
    subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwords", "robot", "another"], check=True)
    with restarted(server, port):
        wait_for(lambda: bool(bridge._refused))
        with pytest.raises(BridgeError, match="MQTT_PASSWORD"):
            bridge.send(window())
        bridge.close()


@contextlib.contextmanager
def restarted(server: subprocess.Popen[bytes], port: int) -> Iterator[None]:
    """The broker once more, which remembers nothing."""
    again = subprocess.Popen(server.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port), 10)
        yield
    finally:
        again.terminate()
        again.wait(10)


def retained(port: int) -> dict[str, bytes]:
    """What a newcomer finds at the broker."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    found: dict[str, bytes] = {}
    fresh: list[str] = []

    def take(_client: Client, _data: Any, message: Any) -> None:
        if message.retain:
            found[message.topic] = message.payload
        else:
            fresh.append(message.topic)

    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("robot", "secret")
    client.on_message = take
    client.on_connect = lambda client, *_: client.subscribe("emotion/#", qos=1)
    # What is retained comes with the answer, and this behind it.
    client.on_subscribe = lambda client, *_: client.publish("emotion/asked", qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    wait_for(lambda: "emotion/asked" in fresh)
    client.disconnect()
    client.loop_stop()
    return found


def test_each_of_several_sessions_is_retained_at_the_broker_until_it_ends(
    broker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    bridge = MqttBridge(f"127.0.0.1:{broker}", user="robot")
    bridge.open()
    try:
        for message in (begin("one"), begin("two"), window(session="one"), begin("one")):
            bridge.send(message)
        wait_for(lambda: not bridge._under_way)
        assert {"emotion/one/session.begin", "emotion/two/session.begin"} < retained(broker).keys()
        bridge.send(end("one"))
        wait_for(lambda: not bridge._under_way)
        assert retained(broker).keys() == {"emotion/bridge", "emotion/two/session.begin"}
        monkeypatch.setattr("runtime.bridge.sessions.GONE_S", 0.0)
        bridge.send(window(session="three"))  # and nothing of the second any more, which was killed
        wait_for(lambda: not bridge._under_way)
        assert retained(broker).keys() == {"emotion/bridge"}
    finally:
        bridge.close()


@pytest.fixture
def silent() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a broker that takes a connection and confirms no message; and what lets it hang."""
    hang = threading.Event()
    server, held = socket.create_server(("127.0.0.1", 0), backlog=0), contextlib.ExitStack()

    def greet() -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(b"\x20\x02\x00\x00")  # CONNACK
            hang.wait(60)

    greeting = threading.Thread(target=greet, daemon=True)
    greeting.start()

    def let_hang() -> None:
        """Close the connection; the kernel has no place for another one, so that a connect waits."""
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        hang.set()
        greeting.join(10)

    with server, held:
        yield f"127.0.0.1:{server.getsockname()[1]}", let_hang
        hang.set()


def test_only_what_is_the_streams_counts_as_lost(
    silent: tuple[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("paho.mqtt", reason="the extra 'bridge' is not installed")
    monkeypatch.setattr("runtime.bridge.mqtt.CLOSE_S", 0.2)
    bridge = MqttBridge(silent[0])
    bridge.open()
    bridge.send(begin())
    bridge.close()  # takes the begin back and says offline, which nobody confirms
    assert said(caplog) == ["1 messages lost"]


def test_the_end_does_not_wait_for_a_connection_that_hangs(
    silent: tuple[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("paho.mqtt", reason="the extra 'bridge' is not installed")
    monkeypatch.setattr("runtime.bridge.mqtt.CLOSE_S", 0.2)
    address, let_hang = silent
    bridge = MqttBridge(address)
    bridge.open()
    connects = threading.Event()
    client = bridge._client
    client.on_pre_connect = lambda *_: connects.set()
    let_hang()
    assert connects.wait(20)
    began_s = time.monotonic()
    bridge.close()
    assert time.monotonic() - began_s < CONNECT_S / 2
    assert client._thread.is_alive()  # it does hang


def test_something_that_is_no_broker_is_an_error_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("paho.mqtt", reason="the extra 'bridge' is not installed")
    monkeypatch.setattr("runtime.bridge.mqtt.CONNECT_S", 0.5)
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as mute:
        bridge = MqttBridge(f"127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(BridgeError, match="no MQTT broker answers: check --broker"):
            bridge.open()
    assert set(threading.enumerate()) <= before
    bridge.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says about losses, without the reasons."""
    lines = (record.getMessage() for record in caplog.records)
    return [line.partition(":")[0] for line in lines if "messages lost" in line]


def test_losses_are_told_at_once_then_now_and_then_and_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 0.0
    monkeypatch.setattr("runtime.bridge.bridge.time.monotonic", lambda: now_s)
    losses = Losses("why")
    for _ in range(25):
        losses.add()
        now_s += 1
    losses.tell()
    losses.tell()
    assert said(caplog) == [f"{count} messages lost" for count in (1, 11, 21, 25)]
    Losses("nothing was").tell()
    assert len(said(caplog)) == 4


def test_what_a_slow_browser_loses_is_counted_and_a_fast_one_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    from websockets.sync.client import connect

    monkeypatch.setattr("runtime.bridge.websocket.QUEUED", 4)
    monkeypatch.setattr("runtime.bridge.bridge.TELL_S", 1000.0)  # however slow this machine is
    port, sent = free_port(), 400
    bridge = WebSocketBridge(f"127.0.0.1:{port}")
    bridge.open()
    # 64 kB each: what the kernel and the client buffer is soon full.
    long = stream.Model(name="x" * 2**16, hash="a", features="b", engine="e", precision="fp32")
    with connect(f"ws://127.0.0.1:{port}/") as fast, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert slow.recv(12) == b"HTTP/1.1 101"  # and nothing any more
        wait_for(lambda: len(bridge._clients) == 2)
        for seq in range(sent):
            bridge.send(window(seq, model=long))
            assert json.loads(fast.recv(timeout=10))["seq"] == seq
        assert said(caplog) == ["1 messages lost"]
        bridge.close()
    lost = int(said(caplog)[-1].split()[0])
    assert 100 < lost < sent and len(said(caplog)) == 2


def test_messages_that_are_still_queued_for_a_browser_at_the_end_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    monkeypatch.setattr("runtime.bridge.bridge.TELL_S", 1000.0)
    bridge = WebSocketBridge(f"127.0.0.1:{free_port()}")
    bridge.open()
    bridge._clients.add(asyncio.Queue(4))  # of somebody who takes nothing from it
    for seq in range(10):
        bridge.send(window(seq))
    bridge.close()
    assert said(caplog) == ["1 messages lost", "10 messages lost"]


def test_a_server_that_has_ended_is_an_error_with_what_to_do() -> None:
    pytest.importorskip("websockets", reason="the extra 'bridge' is not installed")
    bridge = WebSocketBridge(f"127.0.0.1:{free_port()}")
    bridge.open()
    assert bridge._loop is not None and bridge._thread is not None
    bridge._loop.call_soon_threadsafe(bridge._stop.set)
    bridge._thread.join(10)
    with pytest.raises(BridgeError, match="start the bridge again"):
        bridge.send(window())
    bridge.close()


@given(st.text())
def test_whatever_a_label_is_its_osc_address_is_one(label: str) -> None:
    assert len(address(label)) == max(len(label), 1)
    assert re.fullmatch(r"[!-~]+", address(label)) and not set(address(label)) & set("#*,/?[]{}")


def test_a_broker_that_refuses_the_password_is_one_line_and_a_status(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], broker: int
) -> None:
    process = bridge("mqtt", "--broker", f"127.0.0.1:{broker}", "--user", "robot", MQTT_PASSWORD="wrong")
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert "MQTT_PASSWORD" in errors


def test_osc_carries_each_window_as_a_bundle_of_numbers(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("pythonosc", reason="the extra 'bridge' is not installed")
    from pythonosc.osc_packet import OscPacket

    listener = session[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(20)
        bridge("osc", "--to", f"127.0.0.1:{ear.getsockname()[1]}", "--words")
        seen = 0
        while seen < WINDOWS:
            packet = OscPacket(ear.recv(65536))
            content = {timed.message.address: timed.message.params for timed in packet.messages}
            if "/emotion/window" not in content:
                assert content.keys() <= {"/emotion/session", "/emotion/word"}
                continue
            seen += 1
            seq, state, top, _ = content["/emotion/window"]
            wait_for(lambda seq=seq: seq in listener.windows())  # type: ignore[misc]
            told = listener.windows()[seq]
            assert state == told["state"]
            felt = told.get("emotions")
            assert top == (felt["top"] if felt else "")
            for label in felt["labels"] if felt else ():
                assert content[f"/emotion/p/{label}"] == [
                    pytest.approx(felt["scores"][felt["labels"].index(label)], abs=1e-6)
                ]
            assert content["/emotion/homo"] == pytest.approx(told["distillation"]["homo"], abs=1e-6)


EXPRESSION_MSG = """\
std_msgs/Header header
string NEUTRAL="neutral"
string ANGRY="angry"
string SAD="sad"
string HAPPY="happy"
string SURPRISED="surprised"
string DISGUSTED="disgusted"
string SCARED="scared"
string expression
float32 valence
float32 arousal
float32 confidence
"""  # msg/Expression.msg of hri_msgs 2, github.com/ros4hri/hri_msgs, with the constants that we use


def ros_types(rosbags: Any) -> Any:
    """The message types of a ROS 2 that has hri_msgs."""
    store = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)
    store.register(rosbags.get_types_from_msg(EXPRESSION_MSG, "hri_msgs/msg/Expression"))
    return store


def test_what_goes_to_ros_is_an_expression_of_ros4hri_in_ros_own_encoding(
    session: tuple[str, Listener],
) -> None:
    """Without ROS: its message definition, and a second implementation of its wire format."""
    rosbags = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
    store = ros_types(rosbags)
    constants = {value for _, _, value in store.fielddefs["hri_msgs/msg/Expression"][0]}
    assert set(EXPRESSIONS.values()) == constants
    types = store.types
    wait_for(lambda: len(session[1].windows()) >= 4)
    for told in session[1].windows().values():
        message = stream.decode(msgspec.json.encode(told))
        assert isinstance(message, Emotion)
        fields = expression(message)
        stamp = types["builtin_interfaces/msg/Time"](**fields["header"]["stamp"])
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
        filled = types["hri_msgs/msg/Expression"](**(fields | {"header": header}))
        back = store.deserialize_cdr(
            store.serialize_cdr(filled, "hri_msgs/msg/Expression"), "hri_msgs/msg/Expression"
        )
        if message.state == "abstain":
            assert (back.expression, back.confidence) == ("", 0.0)
        else:
            assert message.emotions is not msgspec.UNSET
            assert back.confidence == pytest.approx(max(message.emotions.scores), abs=1e-6)
            assert back.expression in constants
        assert math.isnan(back.arousal)
        assert stream.wall(back.header.stamp.sec * 10**9 + back.header.stamp.nanosec) == message.time.wall


ROS = {  # as much of ROS 2 as the bridge asks for: messages as strict as ROS's, and a log of what is done
    "ros_messages.py": f"""
from rosbags import typesys
store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
store.register(typesys.get_types_from_msg('''{EXPRESSION_MSG}''', "hri_msgs/msg/Expression"))
PLAIN = {{"string": str, "float32": float, "int32": int, "uint32": int}}
def made(name):
    kinds = {{}}
    for field, (_, kind) in store.fielddefs[name][1]:
        kinds[field] = PLAIN[kind[0]] if isinstance(kind, tuple) else made(kind)
    class Message:
        __slots__ = tuple(kinds)
        __msgtype__ = name
        def __init__(self, **values):
            for field, kind in kinds.items():
                setattr(self, field, values.pop(field, kind()))
            assert not values, values
        def __setattr__(self, field, value):
            assert field not in kinds or type(value) is kinds[field], (field, value)
            object.__setattr__(self, field, value)
    return Message
""",
    "hri_msgs/msg.py": "from ros_messages import made\nExpression = made('hri_msgs/msg/Expression')\n",
    "std_msgs/msg.py": "from ros_messages import made\nString = made('std_msgs/msg/String')\n",
    "rclpy/signals.py": "import enum\nSignalHandlerOptions = enum.Enum('SignalHandlerOptions', 'NO ALL')\n",
    "rclpy/__init__.py": """
import json, os, signal
from ros_messages import store
from rclpy.signals import SignalHandlerOptions
alive = False
def log(what, **more):
    with open(os.environ["ROS_DONE"], "a") as file:
        print(json.dumps({"what": what} | more), file=file)
def init(*, args=None, context=None, domain_id=None, signal_handler_options=None):
    global alive
    alive = True
    if signal_handler_options is not SignalHandlerOptions.NO:
        signal.signal(signal.SIGINT, lambda *_: try_shutdown())  # as rclpy does unless it is told not to
    log("init")
def try_shutdown(*, context=None):
    global alive
    if alive:
        log("shutdown")
    alive = False
class Publisher:
    def __init__(self, kind, topic, depth):
        self.kind, self.topic = kind, topic
        log("publisher", kind=kind.__msgtype__, topic=topic, depth=depth)
    def publish(self, message):
        assert alive and type(message) is self.kind
        content = bytes(store.serialize_cdr(message, message.__msgtype__))
        log("publish", topic=self.topic, content=content.hex())
class Node:
    def create_publisher(self, msg_type, topic, qos_profile): return Publisher(msg_type, topic, qos_profile)
    def destroy_node(self):
        assert alive
        log("destroy")
def create_node(node_name):
    assert alive
    log("node", name=node_name)
    return Node()
""",
}  # fmt: skip


def test_the_ros_bridge_publishes_both_topics_until_ctrl_c_and_shuts_down_once(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Against a stand-in: that names, types and order are right is shown, that ROS takes them is not."""
    rosbags = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
    for name, text in ROS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done_file, listener = tmp_path / "done", session[1]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = bridge("ros2", PYTHONPATH=path, ROS_DONE=str(done_file))
    face = "/humans/faces/anonymous/expression"
    assert process.where.endswith(f"ROS 2 topics {face} and /emotion_edge/message\n")  # type: ignore[attr-defined]
    wait_for(lambda: done_file.read_text().count(face) > 3)  # its publisher, and three windows
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (0, "")
    done = [json.loads(line) for line in done_file.read_text().splitlines()]
    assert done[:4] == [
        {"what": "init"},
        {"what": "node", "name": "emotion_edge"},
        {"what": "publisher", "kind": "hri_msgs/msg/Expression", "topic": face, "depth": 10},
        {"what": "publisher", "kind": "std_msgs/msg/String", "topic": "~/message", "depth": 10},
    ]
    assert done[-2:] == [{"what": "destroy"}, {"what": "shutdown"}]
    assert {one["what"] for one in done[4:-2]} == {"publish"}
    store, told, faces = ros_types(rosbags), [], []
    for one in done[4:-2]:
        content, is_face = bytes.fromhex(one["content"]), one["topic"] == face
        kind = "hri_msgs/msg/Expression" if is_face else "std_msgs/msg/String"
        (faces if is_face else told).append(store.deserialize_cdr(content, kind))
    messages = [json.loads(one.data) for one in told]
    wait_for(lambda: all(one in listener.messages for one in messages if one["type"] == "emotion"))
    windows = [one for one in messages if one["type"] == "emotion"]
    assert len(windows) == len(faces) >= 3
    for message, filled in zip(windows, faces, strict=True):
        fields = expression(msgspec.convert(message, Emotion))
        assert (filled.expression, filled.header.frame_id) == (fields["expression"], "")
        assert filled.confidence == pytest.approx(fields["confidence"], abs=1e-6)
        assert filled.valence == pytest.approx(fields["valence"], nan_ok=True)
        stamp = filled.header.stamp
        assert {"sec": stamp.sec, "nanosec": stamp.nanosec} == fields["header"]["stamp"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.bridge", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_what_cannot_be_bridged_is_one_line_and_status_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            ("websocket", "--serve", f"127.0.0.1:{port}"): "choose another --serve",
            ("websocket", "--token", "short"): "at least 8",
            ("websocket", "--token", "pässword"): "than those of ASCII",
            ("websocket", "--serve", f"a..b:{free_port()}"): "no name that a host could have",
            ("osc", "--to", "a..b:9000"): "check --to",
            ("mqtt", "--broker", "a..b"): "no MQTT broker answers",
            ("mqtt", "--broker", f"127.0.0.1:{free_port()}"): "no MQTT broker answers",
            ("mqtt", "--prefix", "a/#"): "without +, #",
            ("osc", "--to", "127.0.0.1:99999"): "a port from 1 to 65535",
            ("ros2",): "source /opt/ros",
            ("lsl", "--endpoint", "nowhere"): "is no endpoint",
        }
        for arguments, expected in cases.items():
            done = run(*arguments)
            assert done.returncode == 2, (arguments, done)
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
            assert expected in done.stderr


@pytest.mark.parametrize(
    "text", ["", ":80", "host:0", "host:x", "a/b:80", "[::1]:70000", "host:" + "9" * 5000]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BridgeError, match="expected"):
        host_port(text, 80)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h", ("h", 80)), ("h:1", ("h", 1)), ("[::1]:9", ("::1", 9)), ("[::1]", ("::1", 80))],
)
def test_an_address_is_read_with_or_without_its_port(text: str, expected: tuple[str, int]) -> None:
    assert host_port(text, 80) == expected
