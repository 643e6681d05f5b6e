"""Address: a source as it may be told to others, who are not to have the password that it holds."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def shown(source: str) -> str:
    """The source without the name and password of a network camera; any other is as it was."""
    try:
        parts = urlsplit(source)
    except ValueError:  # no address at all
        return source
    if "://" not in source or "@" not in parts.netloc:
        return source
    return urlunsplit(parts._replace(netloc=f"…@{parts.netloc.rpartition('@')[2]}"))
