"""Camera: real files, a real network camera, real processes; right times, newest only, clear endings."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from capture.clock import HostClock
from capture.features.vision import PRESENCE, SPEC
from capture.frames import from_file, open_camera
from capture.link import Go, Link, Wish
from capture.messages import Status
from capture.rate_cap import RateCap
from capture.track import Track
from capture.trouble import SourceError

Start = Callable[..., Any]


@pytest.fixture
def env(landmarker: Path) -> dict[str, str]:
    return {"EMOTION_ASSETS": str(landmarker.parent)}


def pts_ns(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [int(f.pts * f.time_base * 10**9) for f in container.decode(video=0) if f.pts is not None]


def write_video(path: Path, times_ms: list[int], size: tuple[int, int] = (96, 64)) -> Path:
    """A film whose left half is white, with a frame at each of the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        picture[:, : size[0] // 2] = 255
        for t_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_film_in_real_time_shows_the_face_go_and_says_so(
    start: Start, env: dict[str, str], media: Path
) -> None:
    path = media / "face_then_no_face.mov"
    camera = start("capture.camera", "--source", f"file:{path}", env=env)
    camera.read_until(lambda _: "ready" in camera.states)
    camera.go(Go(HostClock("media", time.monotonic_ns())))
    assert camera.read_to_end() == 0
    assert camera.states[:3] == ["starting", "ready", "running"]
    assert "running/no_face" in camera.states
    assert camera.states[-1] == "ended"

    times = np.concatenate([b.times_ns for b in camera.blocks])
    cap = RateCap(30)
    expected = [t for t in pts_ns(path) if cap.passes(t)]
    assert set(times.tolist()) <= set(expected)
    assert len(times) + camera.last_status.dropped == len(expected)
    assert len(times) > 0.9 * len(expected)
    presence = camera.values[:, PRESENCE]
    assert presence[camera.times_s < 1.5].all()
    assert presence[camera.times_s > 3].mean() < 0.2
    assert not camera.values[presence == 0].any()
    late_ns = [b.stamp.t_publish_ns - b.stamp.t_capture_ns for b in camera.blocks]
    assert min(late_ns) >= 0
    assert np.median(late_ns) < 80e6


def test_a_camera_that_is_asked_for_fewer_faces_gives_fewer_and_then_all_again(
    start: Start, env: dict[str, str], media: Path
) -> None:
    camera = start("capture.camera", "--source", f"file:{media / 'face_and_speech.mp4'}", env=env)
    camera.read_until(lambda _: "ready" in camera.states)
    camera.go(Go(HostClock("media", time.monotonic_ns())))
    camera.wish(Wish(rate_hz=5.0))
    camera.read_until(lambda _: bool(camera.blocks) and camera.times_s[-1] > 1)  # it has taken effect
    camera.read_until(lambda _: camera.times_s[-1] > 3)
    few = camera.times_s[camera.times_s > 1]
    assert (np.diff(few) > 0.15).all() and 3 <= len(few) <= 12  # of 48 frames
    lost = camera.last_status.dropped
    camera.wish(Wish())
    camera.read_until(lambda _: camera.times_s[-1] > 5)
    assert np.diff(camera.times_s[camera.times_s > 4]).min() < 0.05
    assert lost <= 2, "what was given up on request is not counted as lost"
    assert camera.stop()[0] == 0


def test_an_unpaced_film_loses_nothing_and_gives_the_same_twice(
    start: Start, env: dict[str, str], media: Path, unpaced: Go
) -> None:
    path = media / "no_face.mp4"
    runs = []
    for _ in range(2):
        camera = start("capture.camera", "--source", f"file:{path}", env=env)
        camera.go(unpaced)
        assert camera.read_to_end() == 0
        assert camera.last_status.dropped == 0
        assert camera.receiver.sequence.gaps == camera.receiver.corrupt == 0
        runs.append(camera)
    one, other = runs
    assert (one.times_s * 1e9).round().astype(int).tolist() == pts_ns(path)
    np.testing.assert_array_equal(one.times_s, other.times_s)
    np.testing.assert_array_equal(one.values, np.zeros((len(one.times_s), SPEC.dim)))
    assert "running/no_face" in one.states


def test_a_restarted_process_goes_on_in_the_middle(
    start: Start, env: dict[str, str], media: Path, unpaced: Go
) -> None:
    path = media / "face_and_speech.mp4"
    camera = start("capture.camera", "--source", f"file:{path}", env=env)
    camera.go(Go(unpaced.clock, start_ns=9_000_000_000))
    assert camera.read_to_end() == 0
    assert [int(t) for b in camera.blocks for t in b.times_ns] == [
        t for t in pts_ns(path) if t >= 9_000_000_000
    ]
    assert camera.values[:, PRESENCE].all()


def test_a_60_fps_film_is_halved_by_its_time_stamps_and_nothing_counts_as_dropped(
    start: Start, env: dict[str, str], tmp_path: Path, unpaced: Go
) -> None:
    path = write_video(tmp_path / "60.mkv", [i * 1000 // 60 for i in range(120)])
    camera = start("capture.camera", "--source", f"file:{path}", env=env)
    camera.go(unpaced)
    assert camera.read_to_end() == 0
    assert len(camera.times_s) == 60
    assert np.diff(camera.times_s).max() < 0.04
    assert camera.last_status.dropped == 0


def test_a_varying_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 500, 533, 1000, 1900, 1940]
    track = Track(write_video(tmp_path / "vfr.mkv", times_ms), "video")
    assert [t_ns // 10**6 for t_ns, _ in track.frames()] == times_ms
    track = Track(tmp_path / "vfr.mkv", "video")
    assert [t_ns // 10**6 for t_ns, _ in track.frames(600_000_000)] == [1000, 1900, 1940]


def test_a_file_that_begins_late_begins_at_zero(tmp_path: Path) -> None:
    track = Track(write_video(tmp_path / "late.mkv", [5000, 5040, 5080]), "video")
    assert [t_ns // 10**6 for t_ns, _ in track.frames()] == [0, 40, 80]


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_a_phone_held_sideways_gives_upright_pictures(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "turned.mp4", [0, 40, 80])
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version and flags, times, number, duration, layer, volume
    a, b, c, d = (value * 0x10000 for value in matrix)
    fields = (a, b, 0, c, d, 0, 0, 0, 0x40000000)
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in fields)
    path.write_bytes(content)
    by_opencv = cv2.VideoCapture(str(path)).read()[1]  # turns by itself
    frame = next(from_file(Track(path, "video"), Link("vision", SPEC, "s", None), 0, RateCap(30)))
    rgb = frame.rgb()
    assert rgb.shape == by_opencv.shape
    assert np.abs(rgb[..., ::-1].astype(int) - by_opencv).mean() < 8
    assert rgb.std() > 100  # half white, half black


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.mp4", None, "no_file"),
        ("text.mp4", b"not a film", "unreadable"),
        ("empty.mp4", b"", "unreadable"),
        ("sound.wav", "sound", "no_video"),
    ],
)
def test_what_is_no_film_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes | str | None, reason: str
) -> None:
    path = tmp_path / name
    if content == "sound":
        buffer = io.BytesIO()
        with av.open(buffer, "w", "wav") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux([*stream.encode(frame), *stream.encode()])
        content = buffer.getvalue()
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        Track(path, "video")
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_film_gives_what_it_holds(media: Path, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", [i * 33 for i in range(90)], size=(320, 240))
    (tmp_path / "half.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    count = len(list(Track(tmp_path / "half.mkv", "video").frames()))
    assert 10 < count < 90


# ── devices and network cameras ──────────────────────────────────────────────────────────────────


def test_no_camera_is_absent_with_a_reason_and_nothing_else_on_stderr(
    start: Start, env: dict[str, str]
) -> None:
    camera = start("capture.camera", "--source", "device:63", env=env)
    assert camera.read_to_end() == 3
    assert camera.states[-1] == "absent/no_device"
    assert "camera 63 cannot be opened" in camera.last_status.detail
    assert camera.process.stderr.read() == b""


def test_a_missing_asset_is_absent_before_any_device_is_opened(start: Start, tmp_path: Path) -> None:
    (tmp_path / "face_landmarker.task").write_bytes(b"another")
    camera = start("capture.camera", "--source", "device:63", env={"EMOTION_ASSETS": str(tmp_path)})
    assert camera.read_to_end() == 3
    assert camera.states[-1] == "absent/asset_missing"


def test_an_address_where_nobody_answers_is_no_device() -> None:
    with pytest.raises(SourceError, match="gives no picture") as caught:
        open_camera("http://me:s3cret@127.0.0.1:9/video")
    assert caught.value.reason == "no_device"
    assert "s3cret" not in str(caught.value) and "@127.0.0.1:9/video" in str(caught.value)


@pytest.fixture
def network_camera(media: Path) -> Iterator[tuple[str, threading.Event, threading.Event, list[float]]]:
    """MJPEG over HTTP at 25 frames/s; one event hangs up once, one stops sending; when it was opened."""
    hang_up, stall = threading.Event(), threading.Event()
    opened: list[float] = []
    with av.open(str(media / "face_and_speech.mp4")) as container:
        jpegs = [
            cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))[1].tobytes()
            for frame, _ in zip(container.decode(video=0), range(50), strict=False)
        ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            opened.append(time.monotonic())
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                for i in range(10_000):
                    if hang_up.is_set():
                        hang_up.clear()
                        return
                    while stall.is_set():
                        time.sleep(0.05)
                    jpeg = jpegs[i % len(jpegs)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.04)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video.mjpg", hang_up, stall, opened
    stall.clear()
    server.shutdown()


def test_a_network_camera_runs_comes_back_stalls_and_never_hangs_the_process(
    start: Start,
    env: dict[str, str],
    network_camera: tuple[str, threading.Event, threading.Event, list[float]],
) -> None:
    url, hang_up, stall, opened = network_camera
    camera = start("capture.camera", "--source", url, env=env)
    origin_ns = time.monotonic_ns()
    camera.go(Go(HostClock(origin_ns=origin_ns)))
    camera.read_until(lambda _: len(camera.blocks) >= 20)
    assert camera.values[-10:, PRESENCE].all()
    times_ns = [b.stamp.t_capture_ns for b in camera.blocks]
    assert all(0 < b.t_ready_ns - b.stamp.t_capture_ns < 10**8 for b in camera.blocks)
    assert times_ns == sorted(times_ns)
    assert abs(times_ns[-1] - (time.monotonic_ns() - origin_ns)) < 10**9

    hang_up.set()
    seen = len(camera.blocks)
    camera.read_until(
        lambda _: len(camera.blocks) >= seen + 60
    )  # what was on its way, then the new connection
    assert len(opened) == 2 and not hang_up.is_set()
    assert (np.diff(camera.times_s) > 0).all()

    stall.set()
    camera.read_until(lambda m: isinstance(m, Status) and m.reason == "no_frames", 6)
    assert camera.last_status.state == "degraded"
    status, took_s = camera.stop()
    assert status == 0
    assert took_s < 1.5
    assert camera.process.stderr.read() == b""
