"""Whoever floods, freezes, comes and goes costs nobody else a message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zmq

from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import Emotion, Publisher, SessionBegin, decode, subscribe
from runtime.stream.publish import GREETED_AT_ONCE

came: list[str] = []  # the endpoint, for each who came and went
Trouble = Callable[[str, threading.Event], None]
PERIOD_S = 0.002
COUNT = 1600  # three seconds; more than is kept for one who never reads
FLOOD = 20_000  # libzmq keeps what is subscribed to in a tree, and stops the publisher to clear it


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*", "lab") as one:
        yield one


@pytest.fixture(scope="module")
def example() -> Emotion:
    messages = (decode(payload) for _, payload in Recording.open(DEMO).emotions())
    return next(message for message in messages if isinstance(message, Emotion))


def attend(
    publisher: Publisher, example: Emotion, trouble: Callable[[str, threading.Event], None]
) -> list[int]:
    """What a quiet subscriber hears of a session while somebody makes trouble at the same endpoint."""
    heard: list[int] = []
    over = threading.Event()

    def listen() -> None:
        with subscribe(publisher.endpoint, timeout_s=30, stopping=over.is_set) as messages:
            for message in messages:
                if isinstance(message, Emotion):
                    heard.append(message.seq)
                    if message.seq == COUNT - 1:
                        return

    listener = threading.Thread(target=listen)
    listener.start()
    publisher.wait_for_subscriber(5)
    troublemaker = threading.Thread(target=trouble, args=(publisher.endpoint, over))
    troublemaker.start()
    began = time.monotonic()
    for seq in range(COUNT):
        time.sleep(max(0, began + seq * PERIOD_S - time.monotonic()))
        publisher.greet()
        publisher.publish(msgspec.structs.replace(example, session="lab", seq=seq))
    listener.join(40)
    over.set()
    troublemaker.join(30)
    return heard


def come_and_go(endpoint: str, over: threading.Event) -> None:
    """A thousand who subscribe, are heard of, and are gone again: a closed socket had no connection yet."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for _ in range(1000):
        with context.socket(zmq.SUB) as one, one.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as shaken:
            one.setsockopt(zmq.LINGER, 0)
            one.connect(endpoint)
            one.subscribe(b"emotion")
            assert shaken.poll(5000), "no handshake"
            one.disable_monitor()
        came.append(endpoint)
    context.term()


def freeze(endpoint: str, over: threading.Event) -> None:
    """Twenty that subscribe and never read."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [context.socket(zmq.SUB) for _ in range(20)]
    for one in sockets:
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.RCVHWM, 1)
        one.connect(endpoint)
        one.subscribe(b"")
    over.wait(20)
    for one in sockets:
        one.close()
    context.term()


def flood(endpoint: str, over: threading.Event) -> None:
    """Somebody who subscribes to another topic, and another, as fast as it goes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.XSUB) as one:
        one.setsockopt(zmq.LINGER, 0)
        one.connect(endpoint)
        number = 0
        until = time.monotonic() + COUNT * PERIOD_S
        while time.monotonic() < until and number < FLOOD:
            number += 1
            one.send(b"\x01" + number.to_bytes(4, "little") + bytes(60))
    context.term()


@pytest.mark.parametrize("trouble", [come_and_go, freeze, flood])
def test_a_quiet_subscriber_misses_nothing(publisher: Publisher, example: Emotion, trouble: Trouble) -> None:
    assert attend(publisher, example, trouble) == list(range(COUNT))
    assert came.count(publisher.endpoint) == (1000 if trouble is come_and_go else 0)


def test_a_flood_of_subscriptions_is_read_a_bounded_number_at_a_time(publisher: Publisher) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.XSUB) as one:
        one.setsockopt(zmq.LINGER, 0)
        one.connect(publisher.endpoint)
        for number in range(3 * GREETED_AT_ONCE):
            one.send(b"\x01topic" + number.to_bytes(2, "little"))
        deadline = time.monotonic() + 5
        while not publisher._socket.poll(0, zmq.POLLIN) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # all of them have come
        turns = 0
        while publisher._socket.poll(0, zmq.POLLIN):
            publisher.greet()
            turns += 1
        assert turns == 3
    context.term()


def test_a_newcomer_in_the_middle_of_a_flood_is_told_what_session_this_is(
    publisher: Publisher, example: Emotion
) -> None:
    when, model = example.time.wall, example.model
    begin = SessionBegin(
        session="lab", started=when, clock="media", config={}, model=model, streams={}, software="0"
    )
    publisher.publish(begin)
    over = threading.Event()
    flooding = threading.Thread(target=flood, args=(publisher.endpoint, over))
    flooding.start()
    try:
        with subscribe(publisher.endpoint, timeout_s=10) as messages:
            found = threading.Event()

            def greet() -> None:
                while not found.is_set():
                    publisher.greet()
                    time.sleep(0.01)

            greeting = threading.Thread(target=greet)
            greeting.start()
            try:
                assert isinstance(next(messages), SessionBegin)
            finally:
                found.set()
                greeting.join()
    finally:
        flooding.join()
