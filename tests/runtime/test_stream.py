"""The emotion stream on real sockets: any language reads it, a late joiner learns all, nobody pays for a slow one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from runtime import stream
from runtime.stream import (
    Distillation,
    Emotion,
    Emotions,
    EndpointError,
    Latency,
    Lost,
    Message,
    Modalities,
    Modality,
    Model,
    Publisher,
    SenseStatus,
    SessionBegin,
    SessionEnd,
    StatusMessage,
    Time,
)
from runtime.view import StreamView, Totals, line, summary

ROOT = Path(__file__).parent.parent.parent
MODEL = Model(name="m", hash="0" * 12, features="1" * 12, engine="onnxruntime-cpu", precision="fp32")
ORDER = ("vision->text", "audio->text", "text->vision", "audio->vision", "text->audio", "vision->audio")


def emotion(seq: int = 0, top: str = "sad") -> Emotion:
    return Emotion(
        session="s",
        seq=seq,
        state="degraded",
        final=True,
        time=Time(
            clock="media", start_ns=-1, end_ns=500_000_000, published_ns=2, wall="2026-11-23T12:00:00.000Z"
        ),
        modalities=Modalities(
            text=Modality(present=False, coverage=0.0, words=0, reason="asr_none"),
            audio=Modality(present=True, coverage=0.5, lag_ms=40.0, logits=(0.1, 2.0)),
            vision=Modality(present=True, coverage=1.0, lag_ms=12.0, logits=(3.0, 2.0)),
        ),
        latency_ms=Latency(capture=1.0, features=2.0, window=3.0, infer=4.0, publish=0.5, total=10.5),
        dropped=Lost(vision=3),
        model=MODEL,
        emotions=Emotions(labels=("happy", "sad"), scores=(0.25, 0.75), top=top),
        distillation=Distillation(order=ORDER, homo=(0.5, 0.1, 0.1, 0.1, 0.1, 0.1), hetero=(1 / 6,) * 6),
    )


BEGIN = SessionBegin(
    session="s",
    started="2026-11-23T12:00:00.000Z",
    clock="media",
    config={"hop_s": 0.5},
    model=MODEL,
    streams={},
    software="0",
)
SENSES = {"vision": SenseStatus(state="running", dropped=2)}
STATUS = StatusMessage(
    session="s", uptime_s=1.0, senses=SENSES, windows=2, skipped=0, engine="e", event="vision: died"
)
END = SessionEnd(
    session="s",
    reason="stopped",
    duration_s=1.0,
    windows=2,
    skipped=0,
    senses=SENSES,
    latency_ms_p50=1.0,
    latency_ms_p95=2.0,
)
EVERY: tuple[Message, ...] = (emotion(), BEGIN, STATUS, END)


@pytest.fixture
def publisher(endpoint: str) -> Iterator[Publisher]:
    made = Publisher(endpoint, "s")
    yield made
    made.close()


def subscriber(endpoint: str, **options: int) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.SUB)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(endpoint)
    socket.subscribe("emotion")
    return socket


def until_subscribed(publisher: Publisher, count: int = 1) -> None:
    for _ in range(count):
        publisher.wait_for_subscriber(5)


def test_five_lines_of_pyzmq_read_it(publisher: Publisher, endpoint: str) -> None:
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.connect(endpoint)
    socket.subscribe("emotion")
    until_subscribed(publisher)
    publisher.publish(emotion())
    topic, payload = socket.recv_multipart()
    assert topic == b"emotion.s." and json.loads(payload)["emotions"]["top"] == "sad"
    socket.close()


def test_a_field_that_does_not_apply_is_absent_and_revises_is_null() -> None:
    message = json.loads(msgspec.json.encode(emotion()))
    assert "sentiment" not in message and "logits" not in message["modalities"]["text"]
    assert message["revises"] is None and message["schema"] == 1 and message["type"] == "emotion"


def test_a_late_joiner_gets_the_begin_at_once(publisher: Publisher, endpoint: str) -> None:
    publisher.publish(BEGIN)
    socket = subscriber(endpoint)
    deadline = time.monotonic() + 3
    while not socket.poll(20) and time.monotonic() < deadline:
        publisher.greet()
    assert json.loads(socket.recv_multipart(zmq.NOBLOCK)[1])["type"] == "session.begin"
    assert time.monotonic() < deadline
    socket.close()


def test_a_frozen_subscriber_costs_the_others_nothing(publisher: Publisher, endpoint: str) -> None:
    frozen, alive = subscriber(endpoint, RCVHWM=1), subscriber(endpoint, RCVHWM=0)
    until_subscribed(publisher, 2)
    time.sleep(0.2)
    count = 20_000
    started, received = time.monotonic(), 0
    for seq in range(count):
        publisher.publish(emotion(seq))
        while alive.poll(0):
            alive.recv_multipart()
            received += 1
    while received < count and alive.poll(2000):
        alive.recv_multipart()
        received += 1
    assert received == count
    assert time.monotonic() - started < 60
    frozen.close(linger=0)
    alive.close(linger=0)


def test_the_helper_iterates_over_checked_messages(publisher: Publisher, endpoint: str) -> None:
    messages = stream.subscribe(endpoint, session="s", timeout_s=5)
    first = subscriber(endpoint)  # the generator connects at its first step, so publish until it hears
    heard: list[Message] = []
    import threading

    thread = threading.Thread(target=lambda: heard.append(next(messages)), daemon=True)
    thread.start()
    deadline = time.monotonic() + 5
    while thread.is_alive() and time.monotonic() < deadline:
        publisher._socket.send_multipart([publisher.topic, b'{"type":"emotion","schema":99}'])  # skipped
        publisher.publish(emotion())
        time.sleep(0.02)
    thread.join(1)
    assert heard == [emotion()]
    messages.close()  # type: ignore[attr-defined]
    first.close(linger=0)


@pytest.mark.parametrize(
    ("endpoint_", "named"),
    [
        ("nonsense", "expected"),
        ("tcp://0.0.0.0:5563", "beyond"),
        ("tcp://*:5563", "beyond"),
        ("tcp://127.0.0.1:x", "x"),
    ],
)
def test_an_endpoint_that_cannot_be_is_named(endpoint_: str, named: str) -> None:
    with pytest.raises(EndpointError, match=named):
        Publisher(endpoint_, "s")


def test_a_port_in_use_is_named(publisher: Publisher, endpoint: str) -> None:
    with pytest.raises(EndpointError, match="in use"):
        Publisher(endpoint, "other")


def test_the_schema_in_the_repository_is_the_one_of_the_code() -> None:
    kept = json.loads((ROOT / "runtime/schema/emotion-stream-1.json").read_text())
    assert kept == stream.schema(), "run: python -m runtime.stream > runtime/schema/emotion-stream-1.json"


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_every_message_fits_the_schema_and_comes_back(message: Message) -> None:
    payload = msgspec.json.encode(message)
    jsonschema.validate(json.loads(payload), stream.schema())
    assert stream.decode(payload) == message


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode)
)
def test_whatever_arrives_is_a_message_or_a_decode_error(payload: bytes) -> None:
    with pytest.raises(stream.MalformedMessage):
        stream.decode(payload)


@pytest.mark.parametrize("width", [60, 120])
def test_the_view_names_the_top_emotion_at_any_width(width: int) -> None:
    view, console = StreamView(), Console(width=width, record=True, file=open("/dev/null", "w"))
    for message in EVERY:
        view.update(message)
    console.print(view)
    shown = console.export_text()
    assert "sad" in shown and "asr_none" in shown and "vision: died" in shown


def test_lines_and_summary_say_what_happened() -> None:
    totals = Totals()
    for message in EVERY:
        totals.update(message)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(summary(totals))
    assert "sad 100%" in console.export_text()
    assert "sad" in line(emotion()) and "asr_none" in line(emotion())
    assert "died" in line(STATUS)


def test_subscribe_as_a_process_prints_json_lines(publisher: Publisher, endpoint: str) -> None:
    command = [sys.executable, "-m", "runtime.subscribe", "--json", "--count", "3", "--endpoint", endpoint]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        publisher.publish(emotion())
        time.sleep(0.02)
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    assert [json.loads(text)["emotions"]["top"] for text in output.splitlines()] == ["sad"] * 3


def test_subscribe_says_when_nothing_is_heard(endpoint: str) -> None:
    command = [sys.executable, "-m", "runtime.subscribe", "--timeout", "0.3", "--endpoint", endpoint]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 3 and endpoint in done.stderr


def test_a_pipe_that_closes_ends_subscribe_quietly(publisher: Publisher, endpoint: str) -> None:
    command = f"{sys.executable} -m runtime.subscribe --json --endpoint {endpoint} | head -n 1"
    process = subprocess.Popen(
        ["bash", "-c", command + '; echo "status ${PIPESTATUS[0]}"'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        publisher.publish(emotion())
        time.sleep(0.02)
    output, errors = process.communicate(timeout=5)
    assert "status 0" in output and "Traceback" not in errors
