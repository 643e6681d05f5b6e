"""A hook of mkdocs: links from a page to a file that is in the repository and not on the site.

On GitHub such a link, ``../BENCHMARKS.md``, opens the file. On the site it would lead nowhere: there it
becomes a link
to ``repo_url`` where mkdocs.yml has one, and the path in plain text where it has none.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, config: Any, **_: object) -> str:
    """Called by mkdocs for each page, before its Markdown is read."""
    repository = (config["repo_url"] or "").rstrip("/")

    def rewritten(link: re.Match[str]) -> str:
        text, path = link["text"], str(PurePosixPath(link["path"]))
        if repository:
            return f"[{text}]({repository}/blob/main/{path})"
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}` in the repository)"

    return _LINK.sub(rewritten, markdown)
