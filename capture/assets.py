"""Assets: finds MediaPipe's face landmarker, or downloads it once."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from capture.trouble import SourceError

FACE_LANDMARKER = "face_landmarker.task"
FACE_LANDMARKER_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
    "face_landmarker.task"
)
FACE_LANDMARKER_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
MAX_BYTES = 64 << 20  # larger than any honest answer
TIMEOUT_S = 10.0  # without a byte


def face_landmarker(
    url: str = FACE_LANDMARKER_URL, *, timeout_s: float = TIMEOUT_S, beat: Callable[[], None] = lambda: None
) -> Path:
    """Path of ``face_landmarker.task``: in ``$EMOTION_ASSETS``, else in the user's cache, else downloaded.

    Args:
        url: where to download it from.
        timeout_s: how long the server may be silent.
        beat: called while the download goes on.

    Raises:
        SourceError: ``asset_missing``, when it is nowhere and cannot be downloaded, or is another file.
    """
    if (stored := stored_landmarker()) is not None:
        return stored
    *given, cache = folders()
    remedy = f"connect to the internet once, or put {FACE_LANDMARKER_URL} into {(*given, cache)[0]}"
    try:
        content = _download(url, timeout_s, beat)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        cause = getattr(error, "reason", None) or error
        raise SourceError(
            "asset_missing", f"{FACE_LANDMARKER} could not be downloaded ({cause}): {remedy}"
        ) from error
    if difference := _difference(content):
        raise SourceError("asset_missing", f"{url} gave another file ({difference}): {remedy}")
    try:
        return _store(content, cache / FACE_LANDMARKER)
    except OSError as error:
        raise SourceError(
            "asset_missing",
            f"{FACE_LANDMARKER} cannot be stored in {cache} ({error.strerror}): "
            "set EMOTION_ASSETS to a folder that holds it",
        ) from error


def folders() -> tuple[Path, ...]:
    """Where it may lie: ``$EMOTION_ASSETS``, if that is set, and last the user's cache."""
    given = os.environ.get("EMOTION_ASSETS")
    return (*([Path(given)] if given else []), Path(platformdirs.user_cache_dir("emotion-edge")))


def stored_landmarker() -> Path | None:
    """Its path on this machine; None: it is not there yet.

    Raises:
        SourceError: ``asset_missing``, when another file lies in its place.
    """
    for folder in folders():
        path = folder / FACE_LANDMARKER
        if path.is_file():
            _check(path)
            return path
    return None


def _check(path: Path) -> None:
    try:
        difference = _difference(path.read_bytes())
    except OSError as error:
        raise SourceError("asset_missing", f"{path} cannot be read: {error.strerror}") from error
    if difference:
        raise SourceError(
            "asset_missing",
            f"{path} is another file ({difference}): remove it, and the right one will be downloaded",
        )


def _difference(content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    if digest == FACE_LANDMARKER_SHA256:
        return ""
    return f"sha256 {digest[:12]}…, expected {FACE_LANDMARKER_SHA256[:12]}…"


def _download(url: str, timeout_s: float, beat: Callable[[], None]) -> bytes:
    """Into memory, so that an interrupted download leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        urllib.request.urlopen(url, timeout=timeout_s) as answer,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        size = int(answer.headers.get("Content-Length") or 0)
        bar = progress.add_task(f"downloading {FACE_LANDMARKER}", total=size or None)
        content = bytearray()
        while part := answer.read1(1 << 16):
            content += part
            if len(content) > MAX_BYTES:
                raise OSError(f"more than {MAX_BYTES >> 20} MB came")
            progress.update(bar, completed=len(content))
            beat()
    if size and len(content) != size:
        raise OSError(f"interrupted after {len(content)} of {size} bytes")
    return bytes(content)


def _store(content: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path
