"""Media files: what is inside, before anybody starts to read one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from capture.track import is_cover
from capture.trouble import SourceError


@dataclass(frozen=True, slots=True)
class Media:
    """What a media file holds."""

    path: Path
    duration_ns: int  # of the longest track; 0 where the container does not say
    has_video: bool
    has_audio: bool


def probe(path: Path) -> Media:
    """Look into a media file.

    Raises:
        SourceError: ``no_file``, ``unreadable`` (not a media file), or ``empty`` (neither picture nor sound).
    """
    if not path.is_file():
        raise SourceError("no_file", f"{path} is not a file: --input takes a video or audio file")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            media = Media(
                path,
                int((container.duration or 0) * 1_000_000_000 / av.time_base),
                any(not is_cover(stream) for stream in container.streams.video),
                bool(container.streams.audio),
            )
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(
            "unreadable", f"{path} cannot be read as video or audio: {error.strerror}"
        ) from error
    if not (media.has_video or media.has_audio):
        raise SourceError("empty", f"{path} holds neither picture nor sound: choose another file")
    return media
