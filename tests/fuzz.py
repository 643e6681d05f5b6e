"""Fuzz every decoder: ``python -m tests.fuzz --minutes 10`` or ``--inputs 1000000``; the suite runs a few.

Inputs are real messages and files that were cut, flipped, spliced, grown, and given wicked values in the
right places. A decoder may refuse them in the one way that it documents; anything else is a finding: its
seed is printed, and ``--seed`` makes that input again.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from capture import subtitles
from capture.features import audio, spec, vision
from capture.features.text import SPEC as TEXT
from capture.host_offset import Answer, Exchange, Filter
from capture.messages import (
    CorruptMessage,
    FeatureBlock,
    Message,
    Pcm,
    Picture,
    Stamp,
    Status,
    Word,
    Words,
    decode,
    encode,
    pack,
    unpack,
)  # fmt: skip
from capture.trouble import SourceError
from models import array_pickle
from models.data import DataError
from runtime import keys, network, stream
from runtime.engines import artefact
from runtime.markers import Markers
from runtime.recording import Recording, RecordingError
from runtime.windows import Windower

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "runtime/demo/face_and_speech.mcap"
SECOND = 1_000_000_000
SRT = b"1\n00:00:00,320 --> 00:00:02,000\nAnd so my fellow\n\n2\n00:00:02,100 --> 00:00:03,000\n<i>ask</i>\n"
ROLLING = (
    b"WEBVTT\n\n00:00:00.080 --> 00:00:02.000 align:start\n \nthe<00:00:00.400><c> first</c>\n\n"
    b"00:00:02.000 --> 00:00:02.010\nthe first\n \n\n00:00:02.010 --> 00:00:04.000\n"
    b"the first\nand<00:00:03.000> more\n"
)
MARKER = b'{"session":"s","t_ns":5,"clock":"media","wall":"2026-11-23T12:00:00.000Z","text":"he laughs"}'
MANIFEST = b'{"format": 1, "backend": "tensorrt", "version": "10.13", "precision": "fp16", "gpu": "none"}'
WICKED: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, float("nan"), float("-inf"), "", "\0",
    "é" * 300, [], {}, [[]], {"type": "emotion"},
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A decoder, what it is given in earnest, and how it may refuse."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    loads: Callable[[bytes], Any] | None = None  # the format's values, to put a wicked one among them
    dumps: Callable[[Any], bytes] | None = None
    turns: int = 100  # in a round; fewer for what is slow to read


def mutated(rng: random.Random, target: Target) -> bytes:
    """One input: now and then as it is, mostly with one to four things done to it."""
    data = rng.choice(target.seeds)
    if target.loads is not None and target.dumps is not None and rng.random() < 0.5:
        value = target.loads(data)
        for _ in range(rng.randint(1, 3)):
            value = _wicked(rng, value)
        try:
            return target.dumps(value)
        except (OverflowError, TypeError, ValueError):  # this format has no such value
            return data
    changed = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        _change(rng, changed, target.seeds)
    return bytes(changed)


def _change(rng: random.Random, data: bytearray, others: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(int(rng.expovariate(0.1)) + 1, 4096)
    match rng.randrange(7):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length] * rng.randint(1, 3)
        case 4:
            del data[at:]
        case 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        case _:
            data[at : at + 8] = rng.choice(
                (b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7)
            )


def _wicked(rng: random.Random, value: Any) -> Any:
    """The value with one of its leaves, or what holds them, replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key} | {str(rng.choice(WICKED)): value[key]}
        return value | {key: _wicked(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.05:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _wicked(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, bytes) and value and rng.random() < 0.7:
        changed = bytearray(value)
        _change(rng, changed, (value,))
        return bytes(changed)
    return rng.choice(WICKED)


# --- what is fuzzed


def _wire(data: bytes) -> None:
    """A message of a capture process, and what the session does with one that is well formed."""
    message = decode(unpack(data))
    windower = Windower(_features(), hop_s=0.5, lateness_s=0.25, start_ns=0)
    for _ in windower.advance(2 * SECOND):
        pass
    for _, _ in zip(windower.add(message, 2 * SECOND), range(8), strict=False):
        pass


@cache
def _features() -> spec.FeatureSpec:
    return network.load().features


def _messages() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    times = np.arange(3) * 20_000_000 + SECOND
    made: list[Message] = [
        FeatureBlock(Stamp("s", "audio", 3, SECOND, SECOND), audio.SPEC.hash, SECOND, times,
                     rng.normal(size=(3, audio.SPEC.dim)).astype(np.float32)),
        FeatureBlock(Stamp("s", "vision", 7, SECOND, SECOND), vision.SPEC.hash, SECOND, times[:1],
                     rng.normal(size=(1, vision.SPEC.dim)).astype(np.float32)),
        FeatureBlock(Stamp("s", "vision", 8, SECOND, SECOND), vision.SPEC.hash, SECOND, times[:1],
                     np.ones((1, 3), np.float32)),
        Words(Stamp("s", "text", 1, SECOND, SECOND), TEXT.hash, (Word("And", 1, 2), Word("so", 3, 4)), 9),
        Pcm(Stamp("s", "audio", 2, SECOND, SECOND), 16_000, rng.integers(-9, 9, 160).astype(np.int16)),
        Picture(Stamp("s", "vision", -1, SECOND, SECOND), 64, 48, rng.bytes(300),
                rng.random((4, 2)).astype(np.float32)),
        Status(Stamp("s", "vision", 0, SECOND, SECOND), "absent", "no_device", "no camera 0", 3, 9),
    ]  # fmt: skip
    return tuple(pack(encode(message)) for message in made)


def _published() -> tuple[bytes, ...]:
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


def _in_file(name: str, run: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / name

    def written(data: bytes) -> object:
        path.write_bytes(data)
        return run(path)

    return written


def _network() -> Callable[[bytes], object]:
    """A bundle whose weights are right, so that the manifest alone decides."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for name in (*network.VOUCHED, "features.json"):
        (folder / name).symlink_to(network.BUNDLED / name)

    def written(data: bytes) -> object:
        (folder / "bundle.json").write_bytes(data)
        return network.load(folder)

    return written


def _exchange(data: bytes) -> None:
    """What a host is told by another one, followed into the estimate of its clock."""
    told = msgspec.msgpack.decode(data, type=Answer)
    found = Filter()
    found.observe(Exchange(SECOND, told.t_received_ns, told.t_answered_ns, SECOND + 1000))
    found.offset()


def _recording(path: Path) -> None:
    found = Recording.open(path)
    for _ in found:
        pass
    for _, payload in found.emotions():
        len(payload)


def _unpickled(path: Path) -> None:
    array_pickle.load(path)


def targets() -> tuple[Target, ...]:
    """Every decoder that meets bytes from elsewhere."""
    logging.getLogger("runtime.markers").disabled = True  # it names each damaged line
    json: dict[str, Any] = {"loads": msgspec.json.decode, "dumps": msgspec.json.encode}
    packed: dict[str, Any] = {"loads": _loads_message, "dumps": _dumps_message}
    bundled = network.BUNDLED
    key = tempfile.mkdtemp(prefix="fuzz-")
    keys.init(Path(key) / "keys")
    client = keys.add(Path(key) / "keys", "robot")
    assert client is not None
    published = tuple(payload for _, payload in Recording.open(DEMO).emotions())[:8] + _published()
    captions = (ROOT / "runtime/demo/face_and_speech.vtt").read_bytes()
    malformed = (subtitles._Malformed, SourceError)
    return (
        Target("messages", _messages(), _wire, (CorruptMessage,), **packed),
        Target("emotion stream", published, stream.decode, (stream.MalformedMessage,), **json),
        Target(
            "recording", (DEMO.read_bytes(), DEMO.read_bytes()[:60_000]), _in_file("a.mcap", _recording),
            (RecordingError,), turns=1,
        ),
        Target("WebVTT", (captions, ROLLING), lambda data: subtitles.parse(data, vtt=True), malformed),
        Target("SubRip", (SRT,), lambda data: subtitles.parse(data, vtt=False), malformed),
        Target(
            "feature spec", ((bundled / "features.json").read_bytes(),), _in_file("f.json", spec.load),
            (spec.SpecMismatch,), **json, turns=20,
        ),
        Target(
            "engine manifest", (MANIFEST,), _in_file("manifest.json", lambda p: artefact.read(p.parent)),
            (artefact.ArtefactError,), **json, turns=20,
        ),
        Target(
            "network manifest", ((bundled / "bundle.json").read_bytes(),), _network(),
            (network.NetworkError,), **json, turns=5,
        ),
        Target(
            "key file", (client.read_bytes(),), _in_file("k", keys.client_key), (keys.KeyFileError,),
            turns=20,
        ),
        Target(
            "another host's clock", (msgspec.msgpack.encode(Answer(3, SECOND, SECOND + 9)),), _exchange,
            (msgspec.DecodeError, UnicodeDecodeError), loads=msgspec.msgpack.decode,
            dumps=msgspec.msgpack.encode,
        ),
        Target(
            "markers", (MARKER,), _in_file("s.markers.jsonl", Markers), (), **json, turns=20,
        ),
        Target("pickled arrays", _pickles(), _in_file("a.pkl", _unpickled), (DataError,), turns=1),
    )  # fmt: skip


def _loads_message(data: bytes) -> Any:
    header, *buffers = unpack(data)
    return [msgspec.msgpack.decode(header), *buffers]


def _dumps_message(value: Any) -> bytes:
    header, *buffers = value if isinstance(value, list) and value else [value]
    return pack([msgspec.msgpack.encode(header), *(b if isinstance(b, bytes) else b"" for b in buffers)])


def _pickles() -> tuple[bytes, ...]:
    import pickle  # written here, and read by the restricted reader alone

    whole = {"train": {"text": np.ones((2, 3, 4), np.float32), "id": ["a$_$1", "b$_$2"], "n": [3, 2]}}
    return tuple(pickle.dumps(whole, protocol) for protocol in (2, 4, 5))


# --- running


@dataclass
class Found:
    """A decoder that did something else than to decode or to refuse."""

    target: str
    seed: int
    data: bytes
    error: str


def one(target: Target, seed: int) -> Found | None:
    """One input, made from its seed alone."""
    data = mutated(random.Random(seed), target)
    try:
        target.run(data)
    except target.refuses:
        pass
    except Exception:
        return Found(target.name, seed, data, traceback.format_exc())
    return None


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="at most so long (default: 1)")
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--only", help="a decoder's name")
    options = parser.parse_args(arguments)
    chosen = [t for t in targets() if options.only in (None, t.name)]
    until = time.monotonic() + 60 * options.minutes
    turns = [target for target in chosen for _ in range(target.turns)]
    counts: Counter[str] = Counter()
    found: dict[str, Found] = {}
    seed = options.seed
    try:
        while seed - options.seed < options.inputs and time.monotonic() < until:
            target = turns[seed % len(turns)]
            counts[target.name] += 1
            if (finding := one(target, seed)) is not None:
                kind = finding.error.strip().splitlines()[-1][:80]
                if found.setdefault(f"{target.name}: {kind}", finding) is finding:
                    print(f"--- {target.name}, --seed {seed}, {len(finding.data)} bytes\n{finding.error}")
            seed += 1
    except KeyboardInterrupt:
        print("stopped")
    total = sum(counts.values())
    print(f"{total} inputs: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"{len(found)} kinds of findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
