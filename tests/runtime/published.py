"""What a session has published, for tests that compare one with its replay."""

from __future__ import annotations

import json
from pathlib import Path

from runtime.recording import Recording


def timeless(path: Path) -> list[str]:
    """The published messages without what depends on how fast the machine was."""
    told = []
    for _, payload in Recording.open(path).emotions():
        message = json.loads(payload)
        del message["latency_ms"], message["time"]["published_ns"]
        told.append(json.dumps(message))
    return told
