"""Bridges carry a real session, read back at the other side by a library that is not ours."""

from __future__ import annotations

import asyncio
import importlib
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
from runtime.bridge.bridge import BridgeError, host_port
from runtime.bridge.lsl import SETTINGS, channels
from runtime.bridge.osc import address
from runtime.bridge.ros2 import Ros2Bridge, expression
from runtime.stream import Emotion

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
        assert told["model"]["hash"] == acquired.child_value("serial_number")
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
    absent = stream.Modality(present=False, coverage=0.0, reason="no_device")
    message = Emotion(
        session="lab", seq=1, state="degraded", final=True,
        time=stream.Time(clock="media", start_ns=0, end_ns=10**9, published_ns=10**9, wall=stream.wall(0)),
        emotions=stream.Emotions(labels=("happy", "sad"), scores=(0.25, 0.75), top="sad"),
        modalities=stream.Modalities(text=absent, audio=absent, vision=absent),
        latency_ms=stream.Latency(infer=1.0, publish=0.5, total=1.5),
        dropped=stream.Lost(),
        model=stream.Model(name="dmd", hash="a", features="b", engine="e", precision="fp32"),
    )  # fmt: skip
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


@pytest.mark.parametrize(
    ("options", "origin", "path", "status"),
    [
        ((), "https://somewhere.example", "/", 403),
        ((), "http://localhost:5173", "/", 101),
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
        kept = {topic: payload for topic, payload, _ in got}
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


@given(st.text())
def test_whatever_a_label_is_its_osc_address_is_one(label: str) -> None:
    assert len(address(label)) == len(label)
    assert re.fullmatch(r"[!-~]*", address(label)) and not set(address(label)) & set("#*,/?[]{}")


def test_a_broker_that_refuses_the_password_is_one_line_and_a_status(
    session: tuple[str, Listener], bridge: Callable[..., subprocess.Popen[str]], broker: int
) -> None:
    process = bridge("mqtt", "--broker", f"127.0.0.1:{broker}", "--user", "robot", MQTT_PASSWORD="wrong")
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 3
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


def test_what_goes_to_ros_is_an_expression_of_ros4hri_in_ros_own_encoding(
    session: tuple[str, Listener],
) -> None:
    """Without ROS: its message definition, and a second implementation of its wire format."""
    rosbags = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
    store = rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE)
    definition = (
        "std_msgs/Header header\nstring expression\nfloat32 valence\nfloat32 arousal\nfloat32 confidence\n"
    )
    store.register(rosbags.get_types_from_msg(definition, "hri_msgs/msg/Expression"))
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
            assert back.expression in ("angry", "disgusted", "scared", "happy", "neutral", "sad", "surprised")
        assert math.isnan(back.arousal)
        assert stream.wall(back.header.stamp.sec * 10**9 + back.header.stamp.nanosec) == message.time.wall


ROS = {  # as much of ROS 2 as the bridge asks for; what it does is written down
    "rclpy/__init__.py": """
done = []
class Publisher:
    def __init__(self, topic): self.topic = topic
    def publish(self, message): done.append((self.topic, message))
class Node:
    def create_publisher(self, kind, topic, depth):
        done.append((kind.__name__, topic))
        return Publisher(topic)
    def destroy_node(self): done.append("destroyed")
def init(args, signal_handler_options): done.append(f"init {signal_handler_options}")
def create_node(name): done.append(name); return Node()
def try_shutdown(): done.append("shut down")
""",
    "rclpy/signals.py": "class SignalHandlerOptions:\n    NO = 'NO'\n",
    "std_msgs/msg.py": "class String:\n    def __init__(self, data=''): self.data = data\n",
    "hri_msgs/msg.py": """
class Time: __slots__ = ("sec", "nanosec")
class Header:
    __slots__ = ("stamp", "frame_id")
    def __init__(self): self.stamp, self.frame_id = Time(), ""
class Expression:
    __slots__ = ("header", "expression", "valence", "arousal", "confidence")
    def __init__(self): self.header = Header()
""",
}


def test_the_ros_bridge_makes_a_node_publishes_both_topics_and_leaves_signals_alone(
    session: tuple[str, Listener], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in: that names, order and fields are right is shown, that ROS takes them is not."""
    for name, text in ROS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    wait_for(lambda: bool(session[1].windows()))
    message = stream.decode(msgspec.json.encode(next(iter(session[1].windows().values()))))
    bridge = Ros2Bridge()
    try:
        assert bridge.open() == "ROS 2 topics /humans/faces/anonymous/expression and /emotion_edge/message"
        bridge.send(message)
        bridge.close()
        bridge.close()
        done = importlib.import_module("rclpy").done
    finally:
        for name in list(sys.modules):
            if name.split(".")[0] in ("rclpy", "std_msgs", "hri_msgs"):
                del sys.modules[name]
    assert done[:4] == [
        "init NO",
        "emotion_edge",
        ("Expression", "/humans/faces/anonymous/expression"),
        ("String", "~/message"),
    ]
    (where, text), (face, filled) = done[4:6]
    assert where == "~/message" and stream.decode(text.data.encode()) == message
    assert face == "/humans/faces/anonymous/expression" and isinstance(message, Emotion)
    told = expression(message)
    assert (filled.expression, filled.confidence) == (told["expression"], told["confidence"])
    assert filled.header.stamp.sec == told["header"]["stamp"]["sec"]
    assert done[6:] == ["destroyed", "shut down"]


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


@pytest.mark.parametrize("text", ["", ":80", "host:0", "host:x", "a/b:80", "[::1]:70000"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BridgeError, match="expected"):
        host_port(text, 80)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h", ("h", 80)), ("h:1", ("h", 1)), ("[::1]:9", ("::1", 9)), ("[::1]", ("::1", 80))],
)
def test_an_address_is_read_with_or_without_its_port(text: str, expected: tuple[str, int]) -> None:
    assert host_port(text, 80) == expected
