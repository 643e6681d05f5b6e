"""Messages that processes, hosts and subscribers send each other, over sockets and pipes."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from capture import host_offset
from capture.clock import VirtualClock
from capture.features import audio, spec, text, vision
from capture.link import Go, Link
from capture.messages import (
    STREAMS,
    CorruptMessage,
    FeatureBlock,
    Message,
    Pcm,
    Picture,
    Stamp,
    State,
    Status,
    Unheard,
    Word,
    Words,
    decode,
    encode,
    pack,
    unpack,
)  # fmt: skip
from capture.rate_cap import RateCap
from runtime import network, stream
from runtime.bridge import lsl
from runtime.bridge.osc import OscBridge
from runtime.dashboard.board import Board
from runtime.doctor.finding import Finding
from runtime.recording import Recording
from runtime.stream.row import row
from runtime.view import StreamView
from runtime.windows import AHEAD_NS, Windower
from tests.mutation import Target

SECOND = 1_000_000_000
HOP_S, LATENESS_S, ARRIVAL_NS = 0.5, 0.25, 2 * SECOND


def targets(demo: Recording) -> tuple[Target, ...]:
    json: dict[str, Any] = {"loads": msgspec.json.decode, "dumps": msgspec.json.encode}
    packed: dict[str, Any] = {"loads": loads_message, "dumps": dumps_message}
    binary: dict[str, Any] = {"loads": msgspec.msgpack.decode, "dumps": msgspec.msgpack.encode}
    published = tuple(payload for _, payload in demo.emotions())[:8] + shared()
    line = (msgspec.DecodeError, UnicodeDecodeError)
    wishes = (b"{}", b'{"rate_hz":5.0,"provisional":false,"recogniser":"simple"}')
    go = b'{"clock":{"kind":"media","origin_ns":5,"paced":true},"start_ns":1000000000}'
    finding = msgspec.json.encode(Finding("fault", "no camera", "connect one", "camera", 1.5))
    return (
        # capture.messages: what a capture process says, followed into the windows
        Target(
            "messages", tuple(pack(encode(one)) for one in captured()), _windows, (CorruptMessage,), **packed
        ),
        # runtime.stream: what is published
        Target("emotion stream", published, stream.decode, (stream.MalformedMessage,), **json),
        # the same, followed into the terminal, the page's board and the bridges
        Target("emotion stream, shown", published, _shown, (stream.MalformedMessage,), **json, tries=200),
        # capture.link: the session's two lines to a capture process
        Target("go", (b"{}", go), lambda data: msgspec.json.decode(data, type=Go), line, **json),
        Target("wish", wishes, _wish, (), **json),
        # capture.host_offset: either end of the clock protocol between two hosts
        Target(
            "another host's question", (msgspec.msgpack.encode(host_offset.Ask(0)),), _asked, (), **binary
        ),
        Target(
            "another host's clock",
            (msgspec.msgpack.encode(host_offset.Answer(0, SECOND, SECOND + 9)),),
            _measured,
            (host_offset.NoAnswer,),
            **binary,
        ),
        # runtime.doctor: what a check's own process answers
        Target("finding", (finding,), lambda data: msgspec.json.decode(data, type=Finding), line, **json),
    )


def _windows(data: bytes) -> None:
    """A message of a capture process, and what the session does with one that is well formed."""
    message = decode(unpack(data))
    windower = Windower(features(), hop_s=HOP_S, lateness_s=LATENESS_S, start_ns=0)
    for name in STREAMS:  # only its own stream is waited for
        state: State = "running" if name == message.stamp.stream else "absent"
        assert not list(windower.add(Status(Stamp("s", name, 0, 0, 0), state), 0))
    waiting = len(list(windower.advance(ARRIVAL_NS)))
    most = waiting + _ends_until(_newest_ns(message), windower.next_end_ns)
    for count, _ in enumerate(windower.add(message, ARRIVAL_NS), start=1):
        assert count <= most, f"more than {most} windows of {message!r:.200}"


def _newest_ns(message: Message) -> int:
    """Up to when it tells of, if that may be believed; 0: of no time."""
    match message:
        case FeatureBlock(times_ns=times_ns) if len(times_ns):
            newest_ns = int(times_ns.max())
        case Words(until_ns=until_ns):
            newest_ns = until_ns
        case _:
            return 0
    return newest_ns if newest_ns <= ARRIVAL_NS + AHEAD_NS else 0


def _ends_until(newest_ns: int, next_end_ns: int) -> int:
    """Windows that end up to then; each that was cut before may come once more, with its words."""
    hop_ns = round(HOP_S * SECOND)
    return max(0, (newest_ns - next_end_ns) // hop_ns + 1)


@cache
def features() -> spec.FeatureSpec:
    return network.load().features


def captured() -> tuple[Message, ...]:
    """One message of each kind that a capture process sends."""
    rng = np.random.default_rng(0)
    times = np.arange(3) * 20_000_000 + SECOND
    return (
        FeatureBlock(Stamp("s", "audio", 3, SECOND, SECOND), audio.SPEC.hash, SECOND, times,
                     rng.normal(size=(3, audio.SPEC.dim)).astype(np.float32)),
        FeatureBlock(Stamp("s", "vision", 7, SECOND, SECOND), vision.SPEC.hash, SECOND, times[:1],
                     rng.normal(size=(1, vision.SPEC.dim)).astype(np.float32)),
        FeatureBlock(Stamp("s", "vision", 8, SECOND, SECOND), vision.SPEC.hash, SECOND, times[:1],
                     np.ones((1, 3), np.float32)),
        FeatureBlock(Stamp("s", "vision", 9, SECOND, SECOND), vision.SPEC.hash, SECOND,
                     times[:1] + 9 * SECOND, np.ones((1, vision.SPEC.dim), np.float32)),
        Words(Stamp("s", "text", 1, SECOND, SECOND), text.SPEC.hash,
              (Word("And", 1, 2), Word("so", 3, 4)), 9, (Unheard(5, 8, "eased"),)),
        Pcm(Stamp("s", "audio", 2, SECOND, SECOND), 16_000, rng.integers(-9, 9, 160).astype(np.int16)),
        Picture(Stamp("s", "vision", -1, SECOND, SECOND), 64, 48, rng.bytes(300),
                rng.random((4, 2)).astype(np.float32)),
        Status(Stamp("s", "vision", 0, SECOND, SECOND), "absent", "no_device", "no camera 0", 3, 9),
    )  # fmt: skip


def shared() -> tuple[bytes, ...]:
    """Every other kind of message of the stream."""
    senses = {"audio": stream.SenseStatus(state="running", produced=9)}
    made: list[stream.Message] = [
        stream.SessionBegin(
            session="s", started=stream.wall(0), clock="media", config={"hop_s": 0.5}, software="1",
            model=stream.Model(name="n", hash="h", features="f", engine="e", precision="fp32"),
            streams={"text": "h"},
        ),
        stream.StatusMessage(
            session="s", uptime_s=1.5, senses=senses, windows=3, skipped=0, engine="e", event="news"
        ),
        stream.SessionEnd(session="s", reason="stopped", duration_s=2.0, windows=3, skipped=0, senses=senses),
        stream.Transcript(
            session="s", seq=1, until_ns=9,
            words=(stream.Said(text="so", start_ns=1, end_ns=2, committed=True),),
        ),
        stream.Face(
            session="s", seq=1, t_ns=5, present=True, blendshapes={"jawOpen": 0.5},
            head=stream.Head(pitch=0.1, yaw=0.0, roll=-0.2),
        ),
        stream.Picture(
            session="s", t_ns=5, width=4, height=3, jpeg=b"\xff\xd8", landmarks=((0.1, 0.2), (0.3, 0.4))
        ),
        stream.Sound(session="s", t_ns=5, rate_hz=16_000, pcm=b"\1\0" * 8),
    ]  # fmt: skip
    return tuple(stream.encode(message) for message in made)


def _shown(data: bytes) -> None:
    """A message of the stream, in each of the places that show it or hand it on."""
    message = stream.decode(data)
    board, view = Board(lambda: 1.0), StreamView(now_s=lambda: 1.0)
    board.update(message, 0.5)
    view.update(message)
    Console(file=io.StringIO(), width=100).print(view, board.now_ns, board.silent_s, board.face_now)
    osc = OscBridge("127.0.0.1:9000", words=True)
    if osc._sessions.news(message):
        osc._content(message)
    if isinstance(message, stream.Emotion):
        row(message)
        lsl.channels(message)
    assert stream.decode(stream.encode(message)) == message


def _wish(data: bytes) -> None:
    """A line to a process that runs: one that is no wish is said to be none, and changes nothing."""
    link = Link("vision", vision.SPEC, "s", None)
    with contextlib.redirect_stderr(io.StringIO()):
        link._obey(data)
    if link.wish.rate_hz is not None:
        RateCap(link.wish.rate_hz).passes(SECOND)


class _Socket:
    """A socket on which the other host has said this, after a microsecond."""

    def __init__(self, data: bytes) -> None:
        self.sent: list[bytes] = []
        self.clock = VirtualClock(SECOND)
        self._data = data

    def poll(self, *_: int) -> bool:
        return True

    def recv_multipart(self) -> list[bytes]:
        self.clock.wait_until_ns(SECOND + 1000)
        return [self._data]

    def send(self, data: bytes) -> None:
        self.sent.append(data)


def _asked(data: bytes) -> None:
    """A request is answered, if only with nothing: REP owes an answer to each."""
    socket: Any = _Socket(data)
    malformed = host_offset.answer(socket, socket.clock, lambda: bool(socket.sent))
    assert len(socket.sent) == 1 and malformed == (socket.sent == [b""])


def _measured(data: bytes) -> None:
    """What a host is told by another one, followed into the estimate of its clock."""
    socket: Any = _Socket(data)
    found = host_offset.measure(socket, socket.clock, exchanges=1)
    assert found.error_ns >= 0


def loads_message(data: bytes) -> Any:
    header, *buffers = unpack(data)
    return [msgspec.msgpack.decode(header), *buffers]


def dumps_message(value: Any) -> bytes:
    header, *buffers = value if isinstance(value, list) and value else [value]
    return pack([msgspec.msgpack.encode(header), *(b if isinstance(b, bytes) else b"" for b in buffers)])
