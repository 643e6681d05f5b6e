#!/usr/bin/env python3
"""Make the pictures of the page in docs: on a recording, light, dark and on a phone; or on a film, live."""

from __future__ import annotations

import argparse
import base64
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from runtime.plan import DEMO

ROOT = Path(__file__).parent.parent
Shots = dict[str, tuple[int, int | None, bool, bool]]
SHOTS: Shots = {  # name -> width, height (None: the whole page), dark, phone
    "dashboard": (1280, None, False, False),
    "dashboard-dark": (1280, None, True, False),
    "dashboard-phone": (390, None, False, True),
}
LIVE_SHOTS: Shots = {"dashboard-film": (1280, None, False, False)}
LIVE_S = 6.0  # of a film that plays, before it is taken: there is a past to see


DRAWN = "return document.querySelectorAll('.felt-row .past path').length > 0 && document.fonts.status"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")


class ScreenshotError(Exception):
    """What is missing, and how to get it."""


@contextlib.contextmanager
def served(*command: str) -> Iterator[str]:
    """A command that serves the page until its parent is gone, or else until Ctrl-C; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    page = subprocess.Popen(
        [sys.executable, "-m", *command, "--dashboard", address], cwd=ROOT, stdin=subprocess.PIPE
    )
    assert page.stdin is not None
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://{address}/", timeout=5).close()
                break
            if page.poll() is not None or time.monotonic() > deadline:
                raise ScreenshotError("the dashboard did not start; see above")
            time.sleep(0.2)
        yield f"http://{address}/"
    finally:
        page.stdin.close()
        if "--with-parent" not in command:
            page.send_signal(signal.SIGINT)
        page.wait(10)


def shoot(url: str, out: Path, shots: Shots = SHOTS, rest_s: float = 1.0) -> None:
    """Take screenshots of the page at ``url`` into ``out``, when it has had so long to come to rest."""
    try:
        from selenium import webdriver
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait
    except ImportError as error:
        raise ScreenshotError("pip install selenium") from error
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise ScreenshotError("apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        for name, (width, height, dark, phone) in shots.items():
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            metrics = {"width": width, "height": height or 800, "deviceScaleFactor": 2, "mobile": phone}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            chrome.get(url)
            WebDriverWait(chrome, 20).until(lambda c: c.execute_script(DRAWN) == "loaded")
            time.sleep(rest_s)
            page = chrome.find_element(By.CSS_SELECTOR, ".page").rect
            whole = {"width": width, "height": height or round(page["height"]), "deviceScaleFactor": 2}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**whole, "mobile": phone})
            time.sleep(0.3)
            png = chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
            (out / f"{name}.png").write_bytes(base64.b64decode(png))
            print(out / f"{name}.png")
    finally:
        chrome.quit()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="needs: pip install 'emotion-edge[dashboard]' selenium; Debian's chromium and chromium-driver",
        allow_abbrev=False,
    )
    parser.add_argument("--recording", type=Path, default=DEMO, help="default: the bundled one")
    parser.add_argument("--film", type=Path, help="a clip to play live instead, for dashboard-film.png")
    parser.add_argument("--at", type=float, default=10.6, help="second of it (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder (default: docs)")
    options = parser.parse_args()
    if not options.recording.is_file():
        parser.error(f"--recording {options.recording}: expected a recording made with --record FILE")
    try:
        options.out.mkdir(exist_ok=True)
        if options.film is not None:
            if not options.film.is_file():
                parser.error(f"--film {options.film}: expected a clip with a face and a voice")
            with tempfile.TemporaryDirectory() as folder:
                endpoint = f"ipc://{folder}/stream"
                live = ("runtime.live", "--no-dashboard", "--endpoint", endpoint, "--session", "film")
                with served(*live, "--input", str(options.film)) as url:
                    shoot(url, options.out, LIVE_SHOTS, LIVE_S)
            return 0
        # A copy, so that nobody's markers are in the picture.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(options.recording, folder))
            replay = ("runtime.dashboard", "--with-parent", "--replay", str(copy))
            with served(*replay) as url:
                shoot(f"{url}?at={options.at}", options.out)
    except ScreenshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
