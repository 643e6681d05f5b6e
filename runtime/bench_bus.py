"""Bus: how long a message takes from one process to the next, beside a bare socket in the same run.

Two hops: a capture process's pipe (stamped, encoded, ``ipc``, decoded and checked), and the emotion stream
(JSON, ``tcp`` on loopback, decoded and checked). The bare one is the same bytes over a Unix socket.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import track
from rich.table import Table

from capture.bus import Receiver, Sender, ipc
from capture.delivery import LOSSLESS
from capture.features.vision import SPEC
from capture.messages import FeatureBlock, Stamp, encode
from runtime.endpoint import free_port
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import Emotion, Publisher, decode, subscribe

PERIOD_S = 0.005  # 200 messages a second, more than all senses together
WANTED_MS = 1.0  # of the p99 of a hop
WARM = 50  # of the first messages, not counted: the sockets connect


def hops(console: Console, count: int) -> bool:
    """Measure and print median, p95, p99 and worst, in milliseconds; False where a p99 is not below 1 ms."""
    table = Table("hop", "median, ms", "p95", "p99", "worst", title=f"{count} messages, one each 5 ms")
    soon = True
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in (("capture pipe", _pipe), ("emotion stream", _stream), ("bare socket", _bare)):
            taken_ms = np.array(measure(Path(folder), count + WARM, console))[WARM:] / 1e6
            figures = [np.percentile(taken_ms, share) for share in (50, 95, 99, 100)]
            table.add_row(name, *(f"{figure:.3f}" for figure in figures))
            soon = soon and (name == "bare socket" or bool(figures[2] < WANTED_MS))
    console.print(table)
    return soon


def _block() -> FeatureBlock:
    now_ns = time.monotonic_ns()
    values = np.zeros((1, SPEC.dim), np.float32)
    stamp = Stamp("bench", "vision", 0, now_ns, now_ns)
    return FeatureBlock(stamp, SPEC.hash, now_ns, np.array([now_ns]), values)


def _paced(count: int, send: Callable[[], object]) -> None:
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number * PERIOD_S - time.monotonic()))
        send()


def _send_blocks(endpoint: str, count: int) -> None:
    with Sender(endpoint, delivery=LOSSLESS) as sender:
        _paced(count, lambda: sender.send(_block()))


def _pipe(folder: Path, count: int, console: Console) -> list[int]:
    receiver = Receiver(endpoint := ipc(folder, "pipe"), session="bench", stream="vision")
    process = multiprocessing.get_context("spawn").Process(target=_send_blocks, args=(endpoint, count))
    process.start()
    taken = []
    for _ in track(range(count), "capture pipe", console=console, transient=True):
        receiver.socket.poll(10_000)
        message = receiver.receive()
        assert message is not None, "the sender is silent"
        taken.append(time.monotonic_ns() - message.stamp.t_publish_ns)
    process.join()
    receiver.close()
    return taken


def _publish(endpoint: str, count: int) -> None:
    messages = (decode(payload) for _, payload in Recording.open(DEMO).emotions())
    one = next(message for message in messages if isinstance(message, Emotion))
    with Publisher(endpoint, "bench") as publisher:
        publisher.wait_for_subscriber(10)
        time.sleep(0.2)

        def send() -> None:
            now = replace(one.time, published_ns=time.monotonic_ns())
            publisher.publish(replace(one, time=now))

        _paced(count, send)


def _stream(folder: Path, count: int, console: Console) -> list[int]:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    process = multiprocessing.get_context("spawn").Process(target=_publish, args=(endpoint, count))
    process.start()
    taken: list[int] = []
    with subscribe(endpoint, timeout_s=20) as messages:
        for message in track(messages, "emotion stream", count, console=console, transient=True):
            if isinstance(message, Emotion):
                taken.append(time.monotonic_ns() - message.time.published_ns)
            if len(taken) == count:
                break
    process.join()
    return taken


def _bare(folder: Path, count: int, console: Console) -> list[int]:
    """The capture pipe's bytes between two threads over a socket pair, with nothing around them."""
    ours, theirs = socket.socketpair()
    size = sum(map(len, encode(_block())))

    def send() -> None:
        theirs.sendall(time.monotonic_ns().to_bytes(8, "little") + bytes(size - 8))

    thread = threading.Thread(target=_paced, args=(count, send))
    thread.start()
    taken = []
    for _ in track(range(count), "bare socket", console=console, transient=True):
        data = ours.recv(size, socket.MSG_WAITALL)
        taken.append(time.monotonic_ns() - int.from_bytes(data[:8], "little"))
    thread.join()
    ours.close()
    theirs.close()
    return taken
