"""Assets: found, checked, downloaded once over real HTTP; refused or said missing in one line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from capture import assets
from capture.trouble import SourceError

Serve = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.delenv("EMOTION_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emotion-edge"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that announces ``size`` bytes and sends ``content``; returns its address."""
    servers = []

    def start(content: bytes, size: int | None = None, requests: list[str] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if requests is not None:
                    requests.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content) if size is None else size))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/face_landmarker.task"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(url: str = "http://127.0.0.1:9/", timeout_s: float = 2) -> str:
    with pytest.raises(SourceError) as caught:
        assets.face_landmarker(url, timeout_s=timeout_s)
    assert caught.value.reason == "asset_missing"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_downloaded_once_then_found(cache: Path, serve: Serve, landmarker: Path) -> None:
    requests: list[str] = []
    beats: list[None] = []
    url = serve(landmarker.read_bytes(), requests=requests)
    path = assets.face_landmarker(url, beat=lambda: beats.append(None))
    assert path == cache / "face_landmarker.task"
    assert path.read_bytes() == landmarker.read_bytes()
    assert assets.face_landmarker(url) == path
    assert len(requests) == 1
    assert beats
    assert [p.name for p in cache.iterdir()] == ["face_landmarker.task"]


def test_the_given_folder_goes_first(
    cache: Path, tmp_path: Path, landmarker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "face_landmarker.task").write_bytes(landmarker.read_bytes())
    monkeypatch.setenv("EMOTION_ASSETS", str(tmp_path))
    assert assets.face_landmarker("http://127.0.0.1:9/") == tmp_path / "face_landmarker.task"


def test_a_download_with_another_hash_is_refused_and_not_kept(cache: Path, serve: Serve) -> None:
    assert "gave another file" in refusal(serve(b"another file"))
    assert not cache.exists()


def test_a_file_with_another_hash_is_refused_and_named(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "face_landmarker.task").write_bytes(b"another file")
    line = refusal()
    assert str(cache / "face_landmarker.task") in line
    assert "remove it" in line


def test_an_interrupted_download_leaves_nothing_behind(cache: Path, serve: Serve, landmarker: Path) -> None:
    content = landmarker.read_bytes()
    line = refusal(serve(content[:100_000], size=len(content)))
    assert f"interrupted after 100000 of {len(content)} bytes" in line
    assert not cache.exists()


def test_a_full_disk_leaves_nothing_half_written(
    cache: Path, serve: Serve, landmarker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refusal(serve(landmarker.read_bytes()))
    assert list(cache.iterdir()) == []


def test_offline_is_said_quickly_with_what_to_do(cache: Path) -> None:
    started = time.monotonic()
    line = refusal("http://127.0.0.1:9/face_landmarker.task")
    assert time.monotonic() - started < 2
    assert "Connection refused" in line
    assert assets.FACE_LANDMARKER_URL in line


def test_a_server_that_says_nothing_is_given_up(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        line = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.3)
        assert time.monotonic() - started < 2
    assert "timed out" in line
