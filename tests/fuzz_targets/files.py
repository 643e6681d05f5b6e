"""Files that a session is given: media, subtitles, keys, configuration, bundles, engines' manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np

from capture import frames, media, subtitles
from capture.features import spec
from capture.features.wordpiece import WordPiece
from capture.track import Track
from capture.trouble import SourceError
from runtime import config, keys, network
from runtime.endpoint import EndpointError, check_bindable
from runtime.engines import artefact
from tests.capture.films import film
from tests.mutation import Target

SRT = b"1\n00:00:00,320 --> 00:00:02,000\nAnd so my fellow\n\n2\n00:00:02,100 --> 00:00:03,000\n<i>ask</i>\n"
ROLLING = (
    b"WEBVTT\n\n00:00:00.080 --> 00:00:02.000 align:start\n \nthe<00:00:00.400><c> first</c>\n\n"
    b"00:00:02.000 --> 00:00:02.010\nthe first\n \n\n00:00:02.010 --> 00:00:04.000\n"
    b"the first\nand<00:00:03.000> more\n"
)
MANIFEST = b"""{"format": 1, "backend": "tensorrt", "version": "10.13", "precision": "fp16", "gpu": "none"}"""
CONFIG = b"""input = "rtsp://ada:secret@camera.local/1"
endpoint = "tcp://127.0.0.1:5563"
page = "[::1]:8563"
asr = "subtitles:a.vtt"
record = "a.mcap"
record_raw = "Ada agreed on 3 May"
hop_s = 0.25
threads = 2
share_words = true
"""
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "and", "so", "##me", "my", ".")
MOST_FRAMES = 1000  # more than any input has
Writes = Callable[..., Callable[[bytes], object]]


def targets(folder: Path, captions: Path, in_file: Writes) -> tuple[Target, ...]:
    json: dict[str, Any] = {"loads": msgspec.json.decode, "dumps": msgspec.json.encode}
    toml: dict[str, Any] = {"loads": msgspec.toml.decode, "dumps": msgspec.toml.encode}
    bundled = network.BUNDLED
    films = _films(folder)
    pieces = {
        "version": "1.0",
        "model": {"type": "WordPiece", "vocab": {w: i for i, w in enumerate(VOCABULARY)}},
    }
    words = WordPiece(bundled / "tokenizer.json")
    lines = ("And so, my fellow Americans…".encode(), "Ça va? 你好 ﬁn\u0301\u200d🙂".encode())
    server, listed, client = _keys(folder)
    return (
        # av.open: what a film is, and its pictures and its sound to the end
        Target("media file", films, in_file("film", media.probe), (SourceError,), tries=40),
        Target(
            "film's pictures", films[:-1], in_file("film", lambda p: _frames(p, "video")), (SourceError,),
            tries=40,
        ),
        Target(
            "film's sound", films, in_file("film", lambda p: _frames(p, "audio")), (SourceError,), tries=40
        ),
        # OpenCV and its FFmpeg: what a network camera sends, pictures one behind the other or a film
        Target("network camera", (_mjpeg(), films[0]), in_file("camera", _seen), (), tries=40),
        # capture.subtitles
        Target(
            "WebVTT", (captions.read_bytes(), ROLLING), in_file("a.vtt", subtitles.read), (SourceError,),
            tries=200,
        ),
        Target("SubRip", (SRT,), in_file("a.srt", subtitles.read), (SourceError,), tries=200),
        # a bundle: bundle.json, features.json, tokenizer.json, and any line through its word pieces
        Target(
            "network manifest", ((bundled / "bundle.json").read_bytes(),), _network(folder / "bundle"),
            (network.NetworkError,), **json, tries=100,
        ),
        Target(
            "feature spec", ((bundled / "features.json").read_bytes(),), in_file("f.json", spec.load),
            (spec.SpecMismatch,), **json, tries=100,
        ),
        Target(
            "tokenizer", (msgspec.json.encode(pieces),),
            in_file("t.json", lambda p: WordPiece(p).encode("some")), (msgspec.DecodeError,), **json,
            tries=100,
        ),
        Target("word pieces", lines, lambda data: words.encode(data.decode(errors="replace")), (), tries=50),
        # runtime.engines: the manifest of a built engine
        Target(
            "engine manifest", (MANIFEST,), in_file("manifest.json", lambda p: artefact.read(p.parent)),
            (artefact.ArtefactError,), **json, tries=100, whole=False,
        ),
        # runtime.keys: CURVE keys of a client, of the publisher, and of those that it lets in
        Target(
            "key file", (client.read_bytes(),), in_file("k", keys.client_key), (keys.KeyFileError,), tries=100
        ),
        Target(
            "publisher's keys", (server.read_bytes(),), _over(server, lambda: keys.clients(server.parent)),
            (keys.KeyFileError,), tries=100,
        ),
        Target(
            "listed key", (listed.read_bytes(),), _over(listed, lambda: keys.clients(listed.parents[1])),
            (keys.KeyFileError,), tries=100,
        ),
        # runtime.config: the TOML file of a session
        Target(
            "configuration", (CONFIG, b"demo = true\nloop = true\n"), in_file("live.toml", _configured),
            (config.ConfigError, EndpointError), **toml, tries=100,
        ),
    )  # fmt: skip


def _films(folder: Path) -> tuple[bytes, ...]:
    """Small ones of several containers, and a sound alone."""
    made = [film(folder / f"film.{kind}", seconds=0.3, rate_hz=8000) for kind in ("mkv", "avi", "mov")]
    made.append(film(folder / "sound.wav", seconds=0.3, rate_hz=8000, pictures=False))
    return tuple(path.read_bytes() for path in made)


def _mjpeg() -> bytes:
    """Three small pictures, one behind the other."""
    rng = np.random.default_rng(0)
    encoded = (cv2.imencode(".jpg", rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))[1] for _ in range(3))
    return b"".join(one.tobytes() for one in encoded)


def _seen(path: Path) -> None:
    """Every picture that is announced, as the camera's process takes it, to the end."""
    camera = frames._open(str(path))
    for _ in range(MOST_FRAMES):
        if not camera.grab():
            break
        decoded, bgr = camera.retrieve()
        if decoded:
            assert frames._to_rgb(bgr).ndim == 3
    else:
        raise AssertionError(f"more than {MOST_FRAMES} pictures")
    camera.release()


def _frames(path: Path, kind: Any) -> None:
    """Every frame; those of a damaged file are made of its bytes, and a packet holds few of them."""
    av.logging.set_level(None)
    track = Track(path, kind)
    most = 10_000 + 100 * path.stat().st_size
    try:
        for count, (t_ns, _) in enumerate(track.frames()):
            assert t_ns >= 0 and count < most, f"frame {count} at {t_ns} ns"
    finally:
        track.close()


def _network(folder: Path) -> Callable[[bytes], object]:
    """A bundle whose weights are right, so that the manifest alone decides."""
    folder.mkdir()
    for name in (*network.VOUCHED, "features.json"):
        (folder / name).symlink_to(network.BUNDLED / name)

    def written(data: bytes) -> object:
        (folder / "bundle.json").write_bytes(data)
        return network.load(folder)

    return written


def _keys(folder: Path) -> tuple[Path, Path, Path]:
    """Three key folders, so that each file is damaged alone: a publisher's file, a listed one, a client's."""
    found = []
    for name, file in (("a", "server.key_secret"), ("b", "clients/robot.key"), ("c", "robot.key_secret")):
        keys.init(folder / name)
        keys.add(folder / name, "robot")
        found.append(folder / name / file)
    server, listed, client = found
    return server, listed, client


def _over(path: Path, run: Callable[[], object]) -> Callable[[bytes], object]:
    """Write over a file, which keeps its mode, then read the folder."""

    def written(data: bytes) -> object:
        path.write_bytes(data)
        return run()

    return written


def _configured(path: Path) -> None:
    found = config.load(path, {})
    msgspec.json.encode(config.told(found))
    check_bindable(found.endpoint, guarded=True)
