"""A report's page from its sections: Markdown, and one HTML file with its pictures inside.

Every picture is drawn for light and for dark paper; the reader's browser chooses. Files are replaced
whole, so a reader never sees half of one.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from models.figures import DARK, LIGHT, Theme, png


@dataclass(frozen=True)
class Grid:
    """A table of text; the first column names its rows."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn in each theme; ``name`` is the light one's file beside the Markdown."""

    name: str
    caption: str
    draw: Callable[[Theme], Figure]


Block = str | Grid | Picture
Section = tuple[str, list[Block]]

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #d0d7de; --row: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e6e8eb; --faint: #3a414a; --row: #1b2027; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--faint); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(odd) { background: var(--row); }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { opacity: .8; }
pre { overflow-x: auto; background: var(--row); padding: 1rem; }
"""


def render(title: str, sections: Sequence[Section], details: str) -> tuple[str, str, dict[str, bytes]]:
    """Markdown, HTML, and the pictures (PNG, by name) that the Markdown shows.

    details: the whole configuration, folded away at the end of the page.
    """
    lines, body = [f"# {title}", ""], [f"<h1>{html.escape(title)}</h1>"]
    pictures: dict[str, bytes] = {}
    for heading, blocks in sections:
        lines += [f"## {heading}", ""]
        body.append(f"<h2>{html.escape(heading)}</h2>")
        for block in blocks:
            if isinstance(block, Picture):
                pictures[block.name] = png(block.draw(LIGHT))
                lines += [f"![{block.caption}]({block.name})", "", f"*{block.caption}*", ""]
                body.append(_figure(block, pictures[block.name], png(block.draw(DARK))))
            elif isinstance(block, Grid):
                lines += [*markdown_table(block), ""]
                body.append(_table(block))
            else:
                lines += [block, ""]
                body.append(f"<p>{html.escape(block)}</p>")
    lines += ["## Configuration", "", "```json", details, "```", ""]
    body.append(
        "<h2>Configuration</h2><details><summary>every field</summary>"
        f"<pre>{html.escape(details)}</pre></details>"
    )
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    return "\n".join(lines), "\n".join([head, *body, "</body></html>", ""]), pictures


def markdown_table(grid: Grid) -> list[str]:
    """Its lines, numbers to the right."""
    marks = [":---", *["---:"] * (len(grid.header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (grid.header, marks, *grid.rows)]


def replace(path: Path, content: bytes) -> None:
    """Write the whole file under another name first, then give it its own."""
    half = path.with_name(f".{path.name}.half")
    half.write_bytes(content)
    half.replace(path)


def _table(grid: Grid) -> str:
    def row(kind: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    body = "\n".join(row("td", cells) for cells in grid.rows)
    head = row("th", grid.header)
    return f'<div class="wide"><table><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def _figure(picture: Picture, light: bytes, dark: bytes) -> str:
    caption = html.escape(picture.caption)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_inline(dark)}">'
        f'<img src="{_inline(light)}" alt="{caption}"></picture><figcaption>{caption}</figcaption></figure>'
    )


def _inline(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
