"""The bus over real ipc sockets: order, bounded loss that is counted, waiting, and bad company."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from capture.bus import PORTION, Receiver, Sender, Sequence, ipc, private_folder
from capture.delivery import LOSSLESS, ORDERED
from capture.messages import FeatureBlock, Message, Pcm, Picture, Stamp, Words, encode


@pytest.fixture
def endpoint() -> Iterator[str]:
    folder = private_folder()
    yield ipc(folder, "vision")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def receiver(endpoint: str) -> Iterator[Receiver]:
    receiver = Receiver(endpoint, session="s", stream="vision")
    yield receiver
    receiver.close()


def block(seq: int, session: str = "s", columns: int = 59) -> FeatureBlock:
    values = np.full((1, columns), seq, np.float32)
    return FeatureBlock(Stamp(session, "vision", seq, seq, seq), "h", seq, np.array([seq]), values)


def drain(receiver: Receiver, until: Callable[[list[Message]], bool], within_s: float = 5.0) -> list[Message]:
    messages: list[Message] = []
    deadline = time.monotonic() + within_s
    while not until(messages) and time.monotonic() < deadline:
        message = receiver.receive()
        if message is None:
            receiver.socket.poll(20)
        else:
            messages.append(message)
    return messages


def seqs(messages: list[Message]) -> list[int]:
    return [message.stamp.seq for message in messages]


def test_the_folder_is_for_this_user_only_and_its_paths_fit_a_socket() -> None:
    folder = private_folder()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
        assert len(os.fsencode(folder / "transcript")) < 100
    finally:
        folder.rmdir()


def test_a_runtime_folder_that_cannot_be_used_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    too_long = tmp_path / ("x" * 90)
    too_long.mkdir()
    for base in (tmp_path / "not there", too_long):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        folder = private_folder()
        folder.rmdir()
        assert base not in folder.parents


def test_messages_arrive_in_order_and_whole(endpoint: str, receiver: Receiver) -> None:
    with Sender(endpoint) as sender:
        assert all(sender.send(block(seq)) for seq in range(100))
        messages = drain(receiver, lambda got: len(got) == 100)
    assert seqs(messages) == list(range(100))
    assert all(isinstance(m, FeatureBlock) and m.values[0, 0] == m.stamp.seq for m in messages)
    assert (receiver.sequence.gaps, receiver.corrupt) == (0, 0)


def test_what_was_sent_before_the_receiver_came_is_not_lost(endpoint: str) -> None:
    with Sender(endpoint) as sender:
        assert sender.send(block(0))
        receiver = Receiver(endpoint, session="s", stream="vision")
        try:
            assert seqs(drain(receiver, lambda got: len(got) == 1)) == [0]
        finally:
            receiver.close()


def test_a_live_sender_drops_when_the_pipe_is_full_and_every_drop_is_a_gap(
    endpoint: str, receiver: Receiver
) -> None:
    with Sender(endpoint) as sender:
        began = time.monotonic()
        sent = [sender.send(block(seq, columns=2000)) for seq in range(3000)]
        assert time.monotonic() - began < 5, "a live sender must not wait"
        assert sender.dropped == sent.count(False) > 0
        messages = drain(receiver, lambda got: len(got) == sent.count(True))
        assert sender.send(block(3000))
        messages += drain(receiver, lambda got: len(got) == 1)
    assert seqs(messages) == [seq for seq, ok in enumerate(sent) if ok] + [3000]
    assert receiver.sequence.gaps == sender.dropped


@pytest.mark.parametrize("lossless", [True, False])
def test_a_patient_sender_waits_for_a_slow_receiver_and_loses_nothing(
    endpoint: str, receiver: Receiver, lossless: bool
) -> None:
    count = 1500
    results: list[bool] = []

    def send() -> None:
        with Sender(endpoint, delivery=LOSSLESS if lossless else ORDERED) as sender:
            results.extend(sender.send(block(seq, columns=2000), wait=not lossless) for seq in range(count))

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.3)
    assert len(results) < count, "the pipe should be full by now"
    messages = drain(receiver, lambda got: len(got) == count, within_s=10)
    thread.join(5)
    assert seqs(messages) == list(range(count)) and all(results)
    assert receiver.sequence.gaps == 0


def test_a_waiting_sender_gives_up_when_the_process_stops(endpoint: str, receiver: Receiver) -> None:
    stopping = threading.Event()
    sender = Sender(endpoint, delivery=LOSSLESS, stopping=stopping.is_set)
    sender._socket.setsockopt(zmq.LINGER, 0)
    threading.Timer(0.3, stopping.set).start()
    began = time.monotonic()
    seq = 0
    while sender.send(block(seq, columns=2000)):
        seq += 1
    sender.close()
    assert stopping.is_set() and time.monotonic() - began < 3
    assert sender.dropped == 1


def test_another_session_or_stream_is_refused_and_counted(endpoint: str, receiver: Receiver) -> None:
    with Sender(endpoint) as sender:
        sender.send(block(900, session="somebody else's"))
        sender.send(Words(Stamp("s", "text", 901, 0, 0), "h", (), 0))
        sender.send(block(0))
        messages = drain(receiver, lambda got: len(got) == 1)
    assert seqs(messages) == [0]
    assert receiver.corrupt == 2 and "'somebody else" not in receiver.last_error
    assert "text of session 's'" in receiver.last_error
    assert receiver.sequence.gaps == 0, "foreign numbers are not ours to count"


def test_words_and_sound_on_the_pipe_of_the_camera_are_refused_and_counted(
    endpoint: str, receiver: Receiver
) -> None:
    with Sender(endpoint) as sender:
        sender.send(Words(Stamp("s", "vision", 900, 0, 0), "h", (), 0))
        sender.send(Pcm(Stamp("s", "vision", 901, 0, 0), 16_000, np.zeros(4, np.int16)))
        sender.send(Picture(Stamp("s", "vision", 902, 0, 0), 4, 3, b"jpeg", np.zeros((0, 2), np.float32)))
        sender.send(block(0))
        messages = drain(receiver, lambda got: len(got) == 1)
    assert seqs(messages) == [0] and receiver.corrupt == 3 and receiver.sequence.gaps == 0
    assert receiver.last_error == "Picture on the pipe of vision", "nobody asked for pictures"


def test_garbage_on_the_pipe_is_counted_and_the_receiver_goes_on(endpoint: str, receiver: Receiver) -> None:
    good = encode(block(1))
    garbage = [[b""], [b"\xff" * 50], [b"{}", b"{}"], good[:1], good[:2], [*good, b"more"], good[::-1]]
    garbage.append([os.urandom(1000) for _ in range(20)])
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(endpoint)
    for frames in garbage:
        socket.send_multipart(frames)
    socket.send_multipart(encode(block(0)))
    messages = drain(receiver, lambda got: len(got) == 1)
    assert seqs(messages) == [0] and receiver.corrupt == len(garbage)
    assert receiver.last_error
    socket.close(0)


def test_a_message_beyond_any_size_costs_its_sender_the_connection_and_nobody_else(
    endpoint: str, receiver: Receiver
) -> None:
    bully: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    bully.setsockopt(zmq.RECONNECT_IVL, -1)
    gone = bully.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    bully.connect(endpoint)
    bully.send(bytes(20 << 20))
    assert gone.poll(5000), "it is still connected"
    with Sender(endpoint) as sender:
        sender.send(block(0))
        assert seqs(drain(receiver, lambda got: len(got) == 1)) == [0]
    assert receiver.corrupt == 0, "it never came as far as to be counted"
    bully.disable_monitor()
    bully.close(0)


def test_no_message_is_none_at_once(receiver: Receiver) -> None:
    began = time.monotonic()
    assert receiver.receive() is None
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("numbers", "gaps"),
    [([], 0), ([5], 0), ([0, 1, 2], 0), ([0, 3], 2), ([0, 2, 4], 2), ([9, 0, 1], 0), ([9, 0, 2], 1),
     ([0, 1, -1, 2], 0), ([50, -1, 0, 1], 0), ([-1, 7], 0)],
)  # fmt: skip
def test_missing_numbers_are_counted_and_a_new_process_is_none(numbers: list[int], gaps: int) -> None:
    """A number that goes back is a new process; -1 is said by the session and counts for nothing."""
    sequence = Sequence()
    for seq in numbers:
        sequence.observe(seq)
    assert sequence.gaps == gaps


def test_a_flood_of_junk_holds_nobody_up(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/pipe"
    receiver = Receiver(endpoint, session="s", stream="vision")
    with zmq.Context.instance().socket(zmq.PUSH) as intruder:
        intruder.setsockopt(zmq.LINGER, 0)
        intruder.connect(endpoint)
        for _ in range(200):
            intruder.send(b"junk")
        deadline = time.monotonic() + 5
        while receiver.corrupt < PORTION and time.monotonic() < deadline:
            assert receiver.receive() is None
        assert PORTION <= receiver.corrupt < 200, "in portions"
        while receiver.corrupt < 200 and time.monotonic() < deadline:
            assert receiver.receive() is None
    assert receiver.corrupt == 200
    receiver.close()
