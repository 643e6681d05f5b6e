"""What a running session lets out: one stream of numbers; no picture and no sound, to nobody."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.end_to_end.application import Application

Start = Callable[..., Application]
LISTENING = "0A"  # a TCP state in /proc/net/tcp
MESSAGE_BYTES = 20_000  # a picture of 96 x 96 pixels has more, and so has a second of sound

pytestmark = pytest.mark.skipif(
    not Path("/proc/net/unix").exists(), reason="sockets are read from Linux's /proc"
)


def family(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for started in (task / "children").read_text().split():
            yield from family(int(started))


def inodes(pid: int) -> set[str]:
    """The sockets that a process holds."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def internet(pid: int) -> list[tuple[str, str, bool]]:
    """(protocol, local address in hex, listening) of every internet socket of a process."""
    mine, found = inodes(pid), []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        path = Path(f"/proc/{pid}/net/{protocol}")
        for row in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = row.split()
            if fields[9] in mine:
                found.append((protocol, fields[1], fields[3] == LISTENING))
    return found


def paths(pid: int) -> set[Path]:
    """The files that a process has bound Unix sockets to."""
    mine = inodes(pid)
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {Path(row[7]) for row in rows if len(row) > 7 and row[6] in mine and row[7].startswith("/")}


def readers_and_writers(path: Path) -> int:
    """How many are connected to a Unix socket that somebody has bound: it has a row for each, and its own."""
    rows = Path("/proc/net/unix").read_text().splitlines()[1:]
    return sum(row.split()[-1] == str(path) for row in rows) - 1


def module(pid: int) -> str:
    words = command(pid)
    return words[words.index("-m") + 1] if "-m" in words else words[0]


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


@pytest.mark.parametrize("asr", ["none", "whisper"])
def test_a_session_listens_at_one_address_and_in_one_private_folder(
    start: Start, shared: Path, endpoint: str, tiny_whisper: Path, asr: str
) -> None:
    how = f"whisper:{tiny_whisper}" if asr == "whisper" else asr
    application = start("--input", shared / "media/face_and_speech.mp4", "--asr", how)
    application.read_until(lambda m: m["type"] == "emotion" and m["modalities"]["vision"]["present"])
    pids = {module(pid): pid for pid in family(application.process.pid)}
    assert {"runtime.live", "capture.camera", "capture.microphone"} <= set(pids)
    port = int(endpoint.rpartition(":")[2])
    for name, pid in pids.items():
        listening = [address for _, address, listens in internet(pid) if listens]
        assert listening == ([f"0100007F:{port:04X}"] if name == "runtime.live" else []), name
        assert not any(protocol.startswith("udp") for protocol, *_ in internet(pid)), name
    for sense in ("capture.camera", "capture.microphone"):
        assert internet(pids[sense]) == [], f"{sense} speaks to nobody over the network"
        assert paths(pids[sense]) == set(), f"{sense} waits for nobody"
    bound = paths(pids["runtime.live"])
    assert {path.name for path in bound} == {"text", "audio", "vision"}, "no pipe for pictures or sound"
    if asr == "whisper":  # the one pipe for sound: from the microphone's process to the recogniser's
        (pipe,) = paths(pids["capture.transcript"])
        assert pipe.name == "pcm" and internet(pids["capture.transcript"]) == []
        assert readers_and_writers(pipe) == 1
        assert f"ipc://{pipe}" in command(pids["capture.microphone"]), "and that one is the microphone's"
        bound |= {pipe}
    (folder,) = {path.parent for path in bound}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_who_listens_to_everything_gets_numbers_and_never_a_picture_or_a_sound(
    start: Start, shared: Path, endpoint: str
) -> None:
    """Every topic of the stream, and a reader that tries each private pipe."""
    listener: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    listener.connect(endpoint)
    listener.subscribe(b"")
    application = start("--input", shared / "media/face_and_speech.mp4")
    application.read_until(lambda m: m["type"] == "emotion" and m["modalities"]["vision"]["present"])
    thieves = []
    for path in paths(application.process.pid):
        for kind in (zmq.PULL, zmq.SUB):  # the pipe's own kind of reader, and another
            thief: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
            if kind == zmq.SUB:
                thief.subscribe(b"")
            thief.connect(f"ipc://{path}")
            thieves.append(thief)
    heard: list[list[bytes]] = []
    until = time.monotonic() + 4
    while time.monotonic() < until:
        if listener.poll(100):
            heard.append(listener.recv_multipart())
    try:
        assert not any(thief.poll(0) for thief in thieves), "a pipe gave what it holds to a stranger"
        assert len(heard) >= 5 and all(len(frames) == 2 for frames in heard)
        assert max(len(frame) for frames in heard for frame in frames) < MESSAGE_BYTES
        for _, payload in heard:
            assert json.loads(payload)["schema"] == 1
    finally:
        for socket in (listener, *thieves):
            socket.close(linger=0)
