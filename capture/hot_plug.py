"""Hot plug: a device that is not there, or is in use, is waited for, and that is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from capture.link import Link
from capture.trouble import SourceError

LOOK_S = 1.0  # so often is looked whether it is there now
# What plugging something in can mend. A new device's file belongs to root until udev has looked at it.
PASSING = frozenset({"no_device", "no_permission", "busy", "unsupported"})

T = TypeVar("T")


def when_there(link: Link, open_device: Callable[[], T]) -> T:
    """Open a device; while it cannot be opened, say ``absent`` with the reason, and look again.

    Raises:
        SourceError: what waiting does not mend; or the last reason, when the session ends or when
            somebody started the process by hand and wants an answer.
    """
    while True:
        try:
            return open_device()
        except SourceError as error:
            if error.reason not in PASSING or link.by_hand:
                raise
            link.status("absent", error.reason, str(error))
            if not link.pause(LOOK_S):
                raise
