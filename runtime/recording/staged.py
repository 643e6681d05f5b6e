"""Staged: a file or folder that is there whole or not at all, and what only its user may read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A place beside ``out`` that becomes it at the end, or vanishes. Raises OSError."""
    half = out.with_name(f".{out.name}.half")
    _remove(half)  # of somebody who was killed
    try:
        yield half
        half.replace(out)
    finally:
        _remove(half)


def private(name: str, flags: int) -> int:
    """An opener for ``open``: what is made nobody else may read."""
    return os.open(name, flags, 0o600)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
