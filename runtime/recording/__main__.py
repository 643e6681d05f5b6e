"""``python -m runtime.recording info FILE``: look into a recording."""

from __future__ import annotations

import argparse
import sys

import msgspec
from rich.console import Console

from runtime.recording.info import summarise, tables
from runtime.recording.layout import RecordingError
from runtime.recording.read import Recording


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 when the recording is not whole, 2 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m runtime.recording", description="Look into a recording.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="streams, rates, faces, words, losses, configuration")
    info.add_argument("file", help="a recording (.mcap)")
    info.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        summary = summarise(Recording.open(options.file))
    except RecordingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    else:
        console = Console()
        for table in tables(summary):
            console.print(table)
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if summary.complete else 1


if __name__ == "__main__":
    sys.exit(main())
