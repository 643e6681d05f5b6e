"""Trouble: what goes wrong with a camera, a microphone, a file or a model, in words for a person."""

from __future__ import annotations

import os


class SourceError(Exception):
    """A source that cannot be opened or read. ``reason`` is short and stable, the text is for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives the way out of another process
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def may_not(path: str | os.PathLike[str], group: str) -> str:
    """That a device's file is forbidden to this user, and what mends it."""
    user = os.environ.get("USER", "$USER")
    return f"{path} may not be opened by you: sudo usermod -aG {group} {user}; log in again"
