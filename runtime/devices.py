"""Devices: ``python -m runtime.devices`` lists cameras and microphones, and the option that selects each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from capture.devices import Camera, Microphone, cameras, microphones
from capture.trouble import SourceError

EPILOG = """\
Take one of them: python -m runtime.live --camera 2 --microphone 5
A network camera has no line here: python -m runtime.live --input rtsp://…

exit status: 0, also when there is none; python -m runtime.doctor says what is wrong then.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the devices."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.devices",
        description="List cameras and microphones with the option that selects each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    pictures = cameras()
    why = ""
    try:
        sounds = microphones()
    except SourceError as error:
        sounds, why = [], str(error)
    if options.json:
        print(msgspec.json.encode({"cameras": pictures, "microphones": sounds}).decode())
    else:
        console = Console()
        console.print(_cameras(pictures))
        console.print(_microphones(sounds))
    if why:
        print(f"microphones are not listed: {why}", file=sys.stderr)
    return 0


def _cameras(found: Sequence[Camera]) -> Table:
    table = Table("option", "name", "device", "", title="cameras", title_justify="left")
    for one in found:
        table.add_row(one.option, escape(one.name), one.path, "" if one.readable else "no permission")
    if not found:
        table.add_row("–", "none", "", "")
    return table


def _microphones(found: Sequence[Microphone]) -> Table:
    table = Table("option", "name", "rate", "channels", "", title="microphones", title_justify="left")
    for one in found:
        default = "default" if one.default else ""
        table.add_row(one.option, escape(one.name), f"{one.rate_hz} Hz", str(one.channels), default)
    if not found:
        table.add_row("–", "none", "", "", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
