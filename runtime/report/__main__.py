"""``python -m runtime.report SESSION.mcap``: a recorded session as one HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.recording import Recording, RecordingError
from runtime.recording.staged import private, staged
from runtime.report.gather import gather
from runtime.report.page import render

EPILOG = """\
One file, without scripts, that loads nothing from anywhere: open it in a browser, print it, send it.
It holds every word that was recorded: treat it as personal data.

A recording is made with: python -m runtime.live --record session.mcap
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    one = argparse.ArgumentParser(
        prog="python -m runtime.report",
        description="Timeline, transcript, senses, edges, latency and gaps of a session, in one HTML file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("file", type=Path, help="a recording (.mcap)")
    one.add_argument("--out", type=Path, metavar="FILE", help="a new file (default: FILE.html)")
    return one


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 2 for what cannot be read or written; 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    out: Path = options.out or options.file.with_suffix(".html")
    try:
        session = gather(Recording.open(options.file))
        _write(out, render(session))
    except RecordingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(out)
    for warning in session.info.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _write(out: Path, text: str) -> None:
    """All or nothing, never over another file, and only for the user to read: it holds every word."""
    try:
        if out.exists():
            raise RecordingError(f"{out} exists already: nothing is overwritten; choose another --out")
        if not out.parent.is_dir():
            raise RecordingError(f"{out}: {out.parent} is no folder: choose another --out")
        with staged(out) as half, open(half, "x", encoding="utf-8", opener=private) as file:
            file.write(text)
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written ({error.strerror}): choose another --out") from error


if __name__ == "__main__":
    sys.exit(main())
