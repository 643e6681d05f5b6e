"""The emotion stream over real sockets: schema, delivery, endpoints, and what a terminal shows of it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from capture.delivery import PER_SUBSCRIBER, PER_SUBSCRIBER_RAW
from runtime import stream
from runtime.endpoint import EndpointError
from runtime.stream import (
    Distillation,
    Emotion,
    MalformedMessage,
    Message,
    Publisher,
    SenseStatus,
    SessionBegin,
    SessionEnd,
    StatusMessage,
    subscribe,
)
from runtime.stream.publish import BEGIN_S, GREET_S
from runtime.summary import Totals, line, summary
from runtime.view import StreamView

ROOT = Path(__file__).parents[2]
MODEL = stream.Model(name="dmd", hash="ab12", features="cd34", engine="onnxruntime-cpu", precision="fp32")
LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
EDGES = ("vision->text", "audio->text", "text->vision", "audio->vision", "text->audio", "vision->audio")


def emotion(seq: int = 0, session: str = "lab", **changes: Any) -> Emotion:
    """A message as a live session publishes it: a voice and words, no face."""
    message = Emotion(
        session=session,
        seq=seq,
        state="degraded",
        final=True,
        time=stream.Time(
            clock="monotonic", start_ns=0, end_ns=4 * 10**9, published_ns=4_025_000_000, wall=stream.wall(0)
        ),
        emotions=stream.Emotions(labels=LABELS, scores=(0.1, 0.05, 0.05, 0.1, 0.1, 0.5, 0.1), top="sad"),
        modalities=stream.Modalities(
            text=stream.Modality(present=True, coverage=0.8, lag_ms=900.0, logits=(0.0,) * 7, words=7),
            audio=stream.Modality(present=True, coverage=1.0, lag_ms=40.0, logits=(0.0,) * 6 + (1.0,)),
            vision=stream.Modality(present=False, coverage=0.0, reason="no_face"),
        ),
        distillation=Distillation(order=EDGES, homo=(0.5, *(0.1,) * 5), hetero=(*(0.1,) * 5, 0.5)),
        latency_ms=stream.Latency(capture=3.0, features=9.0, window=1.0, infer=12.0, publish=0.2, total=25.2),
        dropped=stream.Lost(vision=3),
        model=MODEL,
    )
    return msgspec.structs.replace(message, **changes)


def begin(session: str = "lab") -> SessionBegin:
    return SessionBegin(
        session=session,
        started=stream.wall(1_790_000_000_123_999_999),
        clock="monotonic",
        config={"hop_s": 0.5, "input": None},
        model=MODEL,
        streams={"vision": "01", "audio": "02", "text": "03"},
        software="0.1.0",
    )


def status(event: str | msgspec.UnsetType = msgspec.UNSET) -> StatusMessage:
    return StatusMessage(
        session="lab",
        uptime_s=4.0,
        senses={"vision": SenseStatus(state="failed", detail="exit -9", gaps=2, dropped=5, restarts=1)},
        windows=8,
        skipped=0,
        engine="onnxruntime-cpu",
        event=event,
    )


def end() -> SessionEnd:
    return SessionEnd(
        session="lab",
        reason="end of input",
        duration_s=30.0,
        windows=60,
        skipped=1,
        senses=status().senses,
        latency_ms_p50=25.0,
        latency_ms_p95=40.0,
    )


REGRESSION = emotion(
    emotions=msgspec.UNSET,
    sentiment=stream.Sentiment(value=-1.2, scale=(-3.0, 3.0)),
    latency_ms=stream.Latency(infer=12.0, publish=0.2, total=12.2),
)
NOTHING = emotion(state="abstain", emotions=msgspec.UNSET, distillation=msgspec.UNSET)
EXAMPLES: list[Message] = [
    emotion(), REGRESSION, NOTHING, emotion(revises=3), begin(), status(), status("vision: back"), end(),
]  # fmt: skip


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*", "lab") as publisher:
        yield publisher


def wait_for_subscribers(publisher: Publisher, count: int) -> None:
    """Until the publisher knows of so many subscriptions, without greeting anyone."""
    while count:
        assert publisher._socket.poll(5000), "nobody subscribed"
        count -= publisher._socket.recv().startswith(b"\x01")  # and not those who leave


def greet(publisher: Publisher) -> None:
    assert publisher._socket.poll(5000), "nobody subscribed"
    publisher.greet()


# --- schema -------------------------------------------------------------------------------------------


def test_the_schema_in_the_repository_is_the_one_the_code_generates() -> None:
    kept = (ROOT / "runtime/schema/emotion-stream-1.json").read_text()
    assert kept == stream.schema_text(), (
        "run: python -m runtime.stream --schema > runtime/schema/emotion-stream-1.json"
    )


@pytest.mark.parametrize("options", [[], ["--schema"]])
def test_the_command_prints_the_schema(options: list[str]) -> None:
    command = [sys.executable, "-m", "runtime.stream", *options]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    assert printed.stdout == stream.schema_text()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_kind_of_message_is_valid_by_the_schema(message: Message) -> None:
    jsonschema.Draft202012Validator.check_schema(stream.schema())
    jsonschema.validate(json.loads(msgspec.json.encode(message)), stream.schema())


def test_the_schema_and_the_decoder_refuse_the_same() -> None:
    good = json.loads(msgspec.json.encode(emotion()))
    for broken in (good | {"schema": 2}, good | {"state": "fine"}, good | {"seq": -1}, good | {"type": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, stream.schema())
        with pytest.raises(MalformedMessage):
            stream.decode(json.dumps(broken).encode())


def test_what_the_network_was_not_trained_for_is_absent() -> None:
    message = json.loads(msgspec.json.encode(emotion()))
    assert "sentiment" not in message and "logits" not in message["modalities"]["vision"]
    assert message["revises"] is None, "the one field that is null: nothing is revised"
    assert "emotions" not in json.loads(msgspec.json.encode(REGRESSION))
    assert set(json.loads(msgspec.json.encode(REGRESSION))["latency_ms"]) == {"infer", "publish", "total"}


def test_scores_that_do_not_fit_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores for 7 labels"):
        stream.Emotions(labels=LABELS, scores=(0.5, 0.5), top="sad")
    with pytest.raises(ValueError, match="'bored' is none of the labels"):
        stream.Emotions(labels=("sad",), scores=(1.0,), top="bored")
    with pytest.raises(ValueError, match="1 and 2 strengths for 2 edges"):
        Distillation(order=EDGES[:2], homo=(1.0,), hetero=(0.5, 0.5))


def test_dates_are_utc_with_milliseconds_that_are_never_rounded_up() -> None:
    assert stream.wall(1_790_000_000_123_999_999) == "2026-09-21T14:13:20.123Z"
    assert stream.wall(1_790_000_000_999_999_999) == "2026-09-21T14:13:20.999Z"


floats = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
counts = st.integers(0, 2**63 - 1)
modalities = st.builds(
    stream.Modality, present=st.booleans(), coverage=shares, lag_ms=floats | st.just(msgspec.UNSET),
    logits=st.lists(floats).map(tuple) | st.just(msgspec.UNSET), words=counts | st.just(msgspec.UNSET),
    reason=st.text() | st.just(msgspec.UNSET),
)  # fmt: skip
felt = st.dictionaries(st.text(), shares, min_size=1).map(
    lambda scores: stream.Emotions(
        labels=(*scores,), scores=(*scores.values(),), top=max(scores, key=scores.get)
    )  # type: ignore[arg-type]
)
scales = st.tuples(floats, floats).filter(lambda ends: ends[0] < ends[1])
emotion_messages = st.builds(
    Emotion, session=st.text(), seq=counts, state=st.sampled_from(["ok", "degraded", "abstain"]),
    time=st.builds(
        stream.Time, clock=st.sampled_from(["monotonic", "media"]), start_ns=st.integers(-(2**63), 2**63 - 1),
        end_ns=counts, published_ns=counts, wall=st.integers(0, 2**62).map(stream.wall),
    ),
    modalities=st.builds(stream.Modalities, text=modalities, audio=modalities, vision=modalities),
    latency_ms=st.builds(stream.Latency, infer=floats, publish=floats, total=floats, capture=floats),
    dropped=st.builds(stream.Lost, text=counts, vision=counts), model=st.just(MODEL),
    revises=st.none() | counts, final=st.booleans(), emotions=felt | st.just(msgspec.UNSET),
    sentiment=st.builds(stream.Sentiment, value=floats, scale=scales),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(emotion_messages)
def test_any_emotion_survives_the_wire_byte_for_byte(message: Emotion) -> None:
    payload = msgspec.json.encode(message)
    assert stream.decode(payload) == message
    assert msgspec.json.encode(stream.decode(payload)) == payload


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.binary().map(lambda junk: b'{"type": "status", "session": "' + junk + b'"}'))
def test_any_other_bytes_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        stream.decode(payload)


def test_a_deeply_nested_message_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        stream.decode(b'{"type": "session.begin", "config": ' + b'{"a":' * 100_000)


# --- delivery -----------------------------------------------------------------------------------------


def test_what_is_published_is_what_a_subscriber_gets(publisher: Publisher) -> None:
    with subscribe(publisher.endpoint, timeout_s=5) as messages:
        wait_for_subscribers(publisher, 1)
        payloads = [publisher.publish(message) for message in EXAMPLES]
        heard = [next(messages) for _ in EXAMPLES]
    assert heard == EXAMPLES
    assert [msgspec.json.encode(message) for message in heard] == payloads


def test_five_lines_of_pyzmq_and_json_read_it(publisher: Publisher) -> None:
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.connect(publisher.endpoint)
    socket.subscribe("emotion")
    wait_for_subscribers(publisher, 1)
    publisher.publish(emotion(seq=412))
    assert socket.poll(5000)
    topic, payload = socket.recv_multipart()
    socket.close(0)
    assert topic == b"emotion.lab."
    message = json.loads(payload)
    assert (message["type"], message["schema"], message["seq"]) == ("emotion", 1, 412)
    assert message["emotions"]["top"] == "sad" and message["modalities"]["vision"]["reason"] == "no_face"


def test_each_late_joiner_is_told_at_once_which_session_this_is(publisher: Publisher) -> None:
    def turn() -> bool:  # of the session's loop
        publisher.greet()
        return False

    publisher.publish(begin())
    started = time.monotonic()
    with subscribe(publisher.endpoint, stopping=turn) as first:
        assert next(first) == begin()
        with subscribe(publisher.endpoint, stopping=turn) as second:  # its topic is no news to the socket
            assert next(second) == begin()
    assert time.monotonic() - started < BEGIN_S / 2, "this was the repetition"


def test_a_crowd_of_newcomers_is_greeted_together(publisher: Publisher) -> None:
    publisher.publish(begin())
    crowd: list[zmq.Socket[bytes]] = []
    with subscribe(publisher.endpoint, timeout_s=1) as first:
        wait_for_subscribers(publisher, 1)
        began = time.monotonic()
        for _ in range(200):
            crowd.append(zmq.Context.instance().socket(zmq.SUB))
            crowd[-1].connect(publisher.endpoint)
            crowd[-1].subscribe("emotion")
            publisher.greet()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not all(one.poll(0) for one in crowd):
            publisher.greet()
        took_s = time.monotonic() - began
        assert all(one.poll(0) for one in crowd), "each was greeted"
        greetings = sum(1 for _ in first)
    for one in crowd:
        one.close(0)
    assert 1 <= greetings <= took_s / GREET_S + 2


def test_who_asks_for_an_endless_topic_is_sent_away_and_nobody_else(publisher: Publisher) -> None:
    with subscribe(publisher.endpoint, timeout_s=5) as fair:
        wait_for_subscribers(publisher, 1)
        greedy: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        events = greedy.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        greedy.setsockopt(zmq.RECONNECT_IVL, -1)
        greedy.connect(publisher.endpoint)
        greedy.subscribe(b"x" * 100_000)
        assert events.poll(5000), "it is still there"
        publisher.greet()
        publisher.publish(emotion())
        assert next(fair) == emotion()
    greedy.disable_monitor()
    greedy.close(0)


def test_pictures_are_kept_for_who_never_reads_no_longer_than_some_seconds() -> None:
    assert PER_SUBSCRIBER_RAW.holds < PER_SUBSCRIBER.holds
    slow: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    slow.setsockopt(zmq.RCVHWM, 1)
    slow.setsockopt(zmq.RCVBUF, 4096)
    slow.subscribe("emotion")
    with Publisher("tcp://127.0.0.1:*", "lab", raw=True) as publisher:
        slow.connect(publisher.endpoint)
        wait_for_subscribers(publisher, 1)
        for _ in range(2000):
            publisher.publish(status("x" * 40_000))
        reached = 0
        while slow.poll(1000):
            slow.recv_multipart()
            reached += 1
    slow.close(0)
    assert PER_SUBSCRIBER_RAW.holds <= reached < PER_SUBSCRIBER.holds


def test_nobody_is_greeted_with_a_session_that_is_over(publisher: Publisher) -> None:
    publisher.publish(begin())
    publisher.publish(end())
    with subscribe(publisher.endpoint, timeout_s=0.3) as messages:
        greet(publisher)
        assert list(messages) == []


def test_the_beginning_is_repeated(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.stream.publish.BEGIN_S", 0.0)
    with subscribe(publisher.endpoint, timeout_s=5) as messages:
        wait_for_subscribers(publisher, 1)
        publisher.publish(begin())
        publisher.greet()
        assert [next(messages), next(messages)] == [begin(), begin()]


def test_a_slow_subscriber_costs_the_fast_one_nothing(publisher: Publisher) -> None:
    big = status("x" * 20_000)  # so that what the kernel holds for the slow one is soon full
    published, rounds = 0, 40
    with (
        subscribe(publisher.endpoint, timeout_s=5) as fast,
        subscribe(publisher.endpoint, timeout_s=1) as slow,
    ):
        wait_for_subscribers(publisher, 2)
        for _ in range(rounds):
            for _ in range(100):
                publisher.publish(big)
                published += 1
            for _ in range(100):
                assert next(fast, None) is not None, "the fast one lost a message"
        publisher.publish(end())
        assert isinstance(next(fast), SessionEnd)
        reached_slow = sum(1 for _ in slow)
    assert PER_SUBSCRIBER.holds <= reached_slow < published


def test_the_end_goes_out_although_it_waits_behind_others_and_the_process_ends(endpoint: str) -> None:
    code = (
        "import sys, runtime.stream as s\n"
        "publisher, message = s.Publisher(sys.argv[1], 'lab'), s.decode(sys.argv[2].encode())\n"
        "assert publisher._socket.poll(5000)\n"
        "for _ in range(200): publisher.publish(message)\n"
        "print('closing', flush=True)\n"
        "publisher.close()\n"
    )
    long = msgspec.structs.replace(end(), reason="x" * 50_000)  # together more than the kernel holds
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVHWM, 1)
    subscriber.setsockopt(zmq.RCVBUF, 4096)
    subscriber.connect(endpoint)
    subscriber.subscribe("emotion")
    command = [sys.executable, "-c", code, endpoint, msgspec.json.encode(long).decode()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "closing\n"
        received = 0
        while subscriber.poll(1000):
            subscriber.recv_multipart()
            received += 1
    subscriber.close(0)
    assert (received, process.returncode) == (200, 0)


def test_a_session_is_not_taken_for_another_whose_name_it_begins(endpoint: str) -> None:
    with Publisher("tcp://127.0.0.1:*", "lab.2") as publisher:
        with subscribe(publisher.endpoint, session="lab", timeout_s=0.3) as other:
            wait_for_subscribers(publisher, 1)
            publisher.publish(emotion(session="lab.2"))
            assert list(other) == []
        with subscribe(publisher.endpoint, session="lab.2", timeout_s=5) as own:
            wait_for_subscribers(publisher, 1)
            publisher.publish(emotion(session="lab.2"))
            assert next(own).session == "lab.2"


def test_malformed_messages_are_skipped_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    foreign = zmq.Context.instance().socket(zmq.XPUB)
    port = foreign.bind_to_random_port("tcp://127.0.0.1")
    good = msgspec.json.encode(emotion())
    with subscribe(f"tcp://127.0.0.1:{port}", timeout_s=5) as messages:
        assert foreign.poll(5000)
        foreign.recv()
        newer = good.replace(b'"schema":1', b'"schema":2')
        for parts in ([b"{}"], [newer], [b'"\xff"'], [good, b"third part"], [good]):
            foreign.send_multipart([b"emotion.lab.", *parts])
        assert next(messages) == emotion()
        assert messages.malformed == 4
    foreign.close(0)
    assert len(caplog.records) == 4 and "schema" in caplog.text


def test_a_score_that_is_no_number_is_never_published(publisher: Publisher) -> None:
    broken = stream.Emotions(labels=("sad",), scores=(float("nan"),), top="sad")
    with pytest.raises(MalformedMessage, match="scores"):
        publisher.publish(emotion(emotions=broken))


@pytest.mark.parametrize("scale", [[1.0, 1.0], [3.0, -3.0]])
def test_a_sentiment_on_a_scale_without_length_is_malformed(scale: list[float]) -> None:
    message = msgspec.to_builtins(REGRESSION)
    assert stream.decode(json.dumps(message).encode()) == REGRESSION
    message["sentiment"]["scale"] = scale
    with pytest.raises(MalformedMessage, match="scale"):
        stream.decode(json.dumps(message).encode())


def test_iterating_ends_when_it_is_asked_to(publisher: Publisher) -> None:
    assert list(subscribe(publisher.endpoint, stopping=lambda: True)) == []
    messages = subscribe(publisher.endpoint)
    messages.close()
    assert list(messages) == []


# --- endpoints ----------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_in_one_line(publisher: Publisher) -> None:
    with pytest.raises(EndpointError) as caught:
        Publisher(publisher.endpoint, "lab")
    assert str(caught.value) == (
        f"{publisher.endpoint} is in use: stop the other program, or choose another --endpoint"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.2", "[::]", "eth0", "127.0.0.1.example.com"])
def test_nothing_is_bound_beyond_loopback(host: str) -> None:
    with pytest.raises(EndpointError, match="reaches beyond this machine"):
        Publisher(f"tcp://{host}:5599", "lab")


@pytest.mark.parametrize(
    "endpoint",
    ["", "5563", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999",
     "tcp://127.0.0.1:http", "udp://127.0.0.1:5563", "ipc://", "ipc:///no/such/folder/stream"],
)  # fmt: skip
def test_a_malformed_endpoint_is_named_with_what_was_expected(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="expected") as caught:
        Publisher(endpoint, "lab")
    assert endpoint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["", "5563", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:*"])
def test_a_subscriber_refuses_a_malformed_endpoint_at_once(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"expected tcp://HOST:PORT"):
        subscribe(endpoint)


def test_ipc_takes_over_neither_a_file_nor_another_program(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(EndpointError, match="no socket"):
        Publisher(f"ipc://{tmp_path}/notes.txt", "lab")
    assert (tmp_path / "notes.txt").read_text() == "keep me"

    with Publisher(f"ipc://{tmp_path}/stream", "lab") as first:
        with pytest.raises(EndpointError, match="in use"):
            Publisher(first.endpoint, "lab")
        with subscribe(first.endpoint, timeout_s=5) as messages:
            publish_to_the_newcomer(first)
            assert next(messages) == begin()

    with socket.socket(socket.AF_UNIX) as killed:  # what a killed program leaves behind
        killed.bind(str(tmp_path / "left"))
    Publisher(f"ipc://{tmp_path}/left", "lab").close()


def test_ipc_takes_over_no_other_users_socket() -> None:
    """It cannot be asked whether it is in use: what may not be connected to is left alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as others:
        path = Path(folder, "stream")
        others.bind(str(path))
        others.listen()
        path.chmod(0)
        Path(folder).chmod(0o777)
        user = os.geteuid()
        if user == 0:  # nothing is forbidden to root
            os.seteuid(65534)
        try:
            with pytest.raises(EndpointError, match="in use"):
                Publisher(f"ipc://{path}", "lab")
        finally:
            os.seteuid(user)
        assert path.is_socket()


def publish_to_the_newcomer(publisher: Publisher) -> None:
    """Past other connections, such as the probe that asks whether the endpoint is taken."""
    publisher.publish(begin())
    greet(publisher)


# --- what a terminal shows ----------------------------------------------------------------------------


def rendered(renderable: Any, width: int, colour: bool = False) -> str:
    out = io.StringIO()
    colours = "truecolor" if colour else None
    Console(file=out, width=width, color_system=colours, force_terminal=colour).print(renderable)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 60, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_the_view_names_what_is_felt_and_why_a_sense_is_absent(width: int, colour: bool) -> None:
    view = StreamView()
    assert "waiting" in rendered(view, width)
    for seq in range(300):
        view.update(emotion(seq))
    for message in (begin(), status("vision: restarted after exit -9, 1.8 s lost"), end()):
        view.update(message)
    text = rendered(view, width, colour)
    if width >= 60 and not colour:
        for shown in ("sad", "50%", "no_face", "surprise", "vision→text 50%", "vision→audio 50%", "7 words",
                      "3 dropped", "25 ms", "onnxruntime-cpu fp32", "1.8 s lost", "failed: exit -9",
                      "ended: end of input"):  # fmt: skip
            assert shown in text
        assert max(map(len, text.splitlines())) <= width


def test_the_view_shows_past_windows_by_letters_that_tell_them_apart_without_colour() -> None:
    view = StreamView()
    scores = (0.1, 0.05, 0.05, 0.1, 0.1, 0.1, 0.5)
    surprise = stream.Emotions(labels=LABELS, scores=scores, top="surprise")
    for message in [*[emotion()] * 100, NOTHING, *[emotion(emotions=surprise)] * 3]:
        view.update(message)
    assert "ssss·uuu │" in rendered(view, 60)


def test_the_view_shows_sentiment_and_a_window_with_nothing_in_it() -> None:
    view = StreamView()
    view.update(REGRESSION)
    assert "-1.20 of -3..+3" in rendered(view, 60)
    view.update(NOTHING)
    assert "nothing to go by" in rendered(view, 60)


def test_the_view_shows_the_past_of_a_sentiment_from_low_to_high() -> None:
    view = StreamView()
    for value in (-3.0, -1.2, 0.2, 3.0):
        view.update(
            msgspec.structs.replace(REGRESSION, sentiment=stream.Sentiment(value=value, scale=(-3, 3)))
        )
    assert "past     ▁▃▅█" in rendered(view, 60)


def test_the_view_forgets_the_person_before_when_another_session_begins_or_the_same_one_anew() -> None:
    now_s = 0.0
    view = StreamView(now_s=lambda: now_s)
    said = stream.Said(text="ask", start_ns=0, end_ns=1, committed=True)
    words = stream.Transcript(session="lab", seq=0, until_ns=1, words=(said,))
    face = stream.Face(session="lab", seq=0, t_ns=0, present=True, blendshapes={"jawOpen": 0.5})
    for message in (emotion(), words, face):
        view.update(message)
    assert "jaw open 50%" in rendered(view, 80) and "ask" in rendered(view, 80)
    now_s = 3.0
    assert "jaw open" not in rendered(view, 80), "an old face is none of now"
    for following in ((end(), begin(), emotion()), (msgspec.structs.replace(emotion(), session="den"),)):
        for message in (words, *following):
            view.update(message)
        assert "ask" not in rendered(view, 80)


def test_the_view_counts_and_says_what_is_given_up_and_what_is_not_shared() -> None:
    view = StreamView()
    passed_over = {"tensorrt": "tensorrt is not installed"}
    easing = msgspec.structs.replace(status(), eased=("fewer faces a second",))
    for message in (emotion(), msgspec.structs.replace(begin(), passed_over=passed_over), easing):
        view.update(message)
    text = rendered(view, 100)
    assert f"{easing.windows} windows" in text
    assert "given up to keep up: fewer faces a second" in text
    assert (
        "do not run here: tensorrt" in text
        and "not shared: words and face (--share-words --share-face)" in text
    )


def test_a_stalled_stream_is_not_shown_as_a_live_one() -> None:
    now_s = 0.0
    view = StreamView(now_s=lambda: now_s)
    view.update(emotion())
    assert "nothing heard" not in rendered(view, 60)
    now_s = 12.0
    assert "nothing heard for 12 s" in rendered(view, 60)


def test_names_from_the_stream_are_no_markup() -> None:
    view, totals = StreamView(), Totals()
    for message in (emotion(), status("[/y]"), msgspec.structs.replace(end(), reason="[/z]")):
        named = msgspec.structs.replace(message, session="[/x]")
        view.update(named)
        totals.update(named)
    assert all(name in rendered(view, 80) for name in ("[/x]", "[/y]", "[/z]"))
    assert "[/z]" in rendered(summary(totals), 80)


@pytest.mark.parametrize("width", [60, 120])
def test_the_summary_says_what_was_felt_there_late_and_lost(width: int) -> None:
    totals = Totals()
    assert "nothing to go by" in rendered(summary(totals), width)
    for message in [*[emotion()] * 3, NOTHING, end()]:
        totals.update(message)
    text = rendered(summary(totals), width)
    for shown in ("4 in 30.0 s", "sad 75%", "vision 0%", "audio 100%", "median 25 ms", "p95 25 ms",
                  "vision 5", "windows 1", "restarts"):  # fmt: skip
        assert shown in text


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_has_at_most_one_line(message: Message) -> None:
    assert "\n" not in line(message)


def test_the_view_shows_the_last_words_and_provisional_ones_only_until_they_are_replaced() -> None:
    def said(text: str, committed: bool) -> stream.Said:
        return stream.Said(text=text, start_ns=0, end_ns=1, committed=committed)

    def heard(seq: int, *words: stream.Said) -> stream.Transcript:
        return stream.Transcript(session="lab", seq=seq, until_ns=1, words=words)

    view = StreamView()
    view.update(emotion())
    view.update(heard(0, said("ask", True), said("knot", False)))
    assert "ask knot" in rendered(view, 80)
    view.update(heard(1, said("not", True)))
    assert "ask not" in rendered(view, 80) and "knot" not in rendered(view, 80)
