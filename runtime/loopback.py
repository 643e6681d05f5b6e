"""Loopback: devices made of software that can be plugged in and out — a microphone, a network camera.

For tests and ``runtime.bench devices``. The microphone belongs to a PulseAudio of its own, in a private
folder, and is reached through ALSA and PortAudio as a real one is; the camera serves MJPEG on loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from capture.bus import private_folder
from runtime.endpoint import free_port

HOW_TO_GET = "apt-get install pulseaudio pulseaudio-utils libasound2-plugins"
NAME = "headset"
RATE_HZ = 16_000
STARTING_S = 10.0
PICTURE_S = 0.04


class LoopbackError(Exception):
    """A device of software that cannot be made, and what is missing."""


class SoundServer:
    """PulseAudio with at most one microphone, which hums. Raises LoopbackError.

    ``env`` is what a program needs in its environment to reach it.
    """

    def __init__(self) -> None:
        if shutil.which("pulseaudio") is None or shutil.which("pactl") is None:
            raise LoopbackError(f"no PulseAudio to make a microphone with: {HOW_TO_GET}")
        self._folder = private_folder()
        self.env = {
            "HOME": str(self._folder),
            "XDG_RUNTIME_DIR": str(self._folder),
            "PULSE_RUNTIME_PATH": str(self._folder / "pulse"),
        }
        self._pipe = self._folder / "microphone"
        self._stop = threading.Event()
        self._module = ""
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
        command += ["--disallow-exit", "-L", "module-native-protocol-unix"]
        self._server = subprocess.Popen(command, env=os.environ | self.env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTING_S
        while not (self._folder / "pulse" / "native").exists():
            if time.monotonic() > deadline or self._server.poll() is not None:
                self.close()
                raise LoopbackError(f"PulseAudio does not start within {STARTING_S:g} s: pulseaudio -n -vv")
            time.sleep(0.05)

    def plug_in(self) -> float:
        """Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        form = f"format=s16le rate={RATE_HZ} channels=1 source_name={NAME}"
        self._module = self._pactl("load-module", "module-pipe-source", f"file={self._pipe}", *form.split())
        self._stop = threading.Event()
        threading.Thread(target=self._hum, args=(self._stop,), daemon=True).start()
        return at

    def unplug(self) -> float:
        """Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        self._stop.set()
        self._pactl("unload-module", self._module)
        return at

    def hush(self) -> float:
        """Let the microphone be there and give nothing. Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        self._pactl("suspend-source", NAME, "1")
        return at

    def go_on(self) -> float:
        """Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        self._pactl("suspend-source", NAME, "0")
        return at

    def close(self) -> None:
        self._stop.set()
        self._server.terminate()
        self._server.wait(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pactl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["pactl", *arguments], env=os.environ | self.env, capture_output=True, text=True, timeout=10
        )
        if done.returncode != 0:
            raise LoopbackError(f"pactl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _hum(self, stop: threading.Event) -> None:
        noise = np.random.default_rng(0).normal(0, 2000, RATE_HZ).astype("<i2")
        began, n = time.monotonic(), 0
        try:
            with self._pipe.open("wb", buffering=0) as out:
                while not stop.is_set():
                    out.write(noise[n % RATE_HZ :][: RATE_HZ // 50].tobytes())
                    n += RATE_HZ // 50
                    time.sleep(max(0, began + n / RATE_HZ - time.monotonic()))
        except (BrokenPipeError, FileNotFoundError):  # it was unplugged
            return


class _Does(Enum):
    SEND = "new pictures"
    FREEZE = "the same picture"
    HUSH = "nothing"


class NetworkCamera:
    """MJPEG over HTTP; it can freeze, fall silent, go, and come back at the same address."""

    def __init__(self, pictures: Sequence[bytes]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/video.mjpg"
        self._does = _Does.SEND
        self._gone = threading.Event()
        self._pictures = pictures
        self._server: ThreadingHTTPServer | None = None

    def switch_on(self) -> float:
        """Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        gone = self._gone = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                number = 0
                try:
                    while not gone.is_set():
                        time.sleep(PICTURE_S)
                        if camera._does is _Does.HUSH:
                            continue
                        number += camera._does is _Does.SEND
                        jpeg = camera._pictures[number % len(camera._pictures)]
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return at

    def switch_off(self) -> float:
        """Returns when it began, on the monotonic clock."""
        at = time.monotonic()
        self._gone.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None
        return at

    def freeze(self) -> float:
        """Send the same picture again and again. Returns when it began, on the monotonic clock."""
        self._does = _Does.FREEZE
        return time.monotonic()

    def hush(self) -> float:
        """Send nothing and stay connected. Returns when it began, on the monotonic clock."""
        self._does = _Does.HUSH
        return time.monotonic()

    def go_on(self) -> float:
        """Send new pictures. Returns when it began, on the monotonic clock."""
        self._does = _Does.SEND
        return time.monotonic()
