"""``python -m runtime.doctor``: everything a session needs, checked, each with what mends it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from runtime import config as settings
from runtime.config import Config, ConfigError
from runtime.dashboard.address import DEFAULT
from runtime.doctor import engine, machine
from runtime.doctor.finding import Check, Finding

EPILOG = """\
examples:
  python -m runtime.doctor                                 what runtime.live would use
  python -m runtime.doctor --camera 2 --asr whisper:small  what that session would use
  python -m runtime.doctor --input clip.mp4                what a session on a film would use
  python -m runtime.doctor --only camera microphone
  python -m runtime.doctor --json > report.json            for a report

It changes nothing, downloads nothing and builds nothing.

exit status: 0 nothing is at fault; 1 something is; 2 an option is malformed.
"""
REPLUG = "unplug it, plug it in again"
SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "fault": "[red]fault[/]"}
OPTIONS = ("input", "camera", "microphone", "asr", "endpoint", "keys", "record", "network", "engine")


def checks(config: Config) -> list[Check]:
    """Everything that is looked at, in the order of the report."""
    return [
        Check("packages", machine.packages),
        Check("extras", partial(machine.extras, config)),
        Check("libraries", machine.libraries, 30),
        Check("input", partial(machine.source, config)),
        Check("camera", partial(machine.camera, config), stuck=REPLUG),
        Check("microphone", partial(machine.microphone, config), stuck=REPLUG),
        Check("face landmarker", engine.landmarker),
        Check("voice activity", engine.voice_activity),
        Check("network", partial(engine.network, config)),
        Check("gpu", engine.gpu),
        Check("engine", partial(engine.engines, config), 60),
        Check("endpoint", partial(machine.endpoint, config)),
        Check("page", partial(machine.page, config)),
        Check("clock", machine.clock),
        Check("disk", partial(machine.disk, config)),
        Check("memory", machine.memory),
        Check("speed of vision", engine.vision_speed, 60),
        Check("speed of audio", engine.audio_speed, 60),
        Check("speed of words", partial(engine.words_speed, config), 60, engine.SMALLER),
        Check("speed of the network", partial(engine.network_speed, config), 60),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks."""
    options = _parser().parse_args(arguments)
    try:
        given = {name: getattr(options, name) for name in (*OPTIONS, "page")}
        given = {name: value for name, value in given.items() if value is not None}
        planned = checks(settings.load(options.config, given))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [check.name for check in planned]
    if unknown := sorted(set(options.only or ()) - set(names)):
        told = ", ".join(repr(name) for name in unknown)
        print(f"error: there is no check {told}: choose from {', '.join(names)}", file=sys.stderr)
        return 2
    planned = [check for check in planned if options.only is None or check.name in options.only]
    try:
        found = _json(planned) if options.json else _report(planned)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return int(any(finding.level == "fault" for finding in found))


def _json(planned: Sequence[Check]) -> list[Finding]:
    found = [check.run() for check in planned]
    print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    return found


def _report(planned: Sequence[Check]) -> list[Finding]:
    """A table that fills as the checks run; what is wrong is repeated below it, with what mends it."""
    found: list[Finding] = []
    console = Console()
    # Without a thread that refreshes: checks are forked from here.
    with Live(_table(found, planned[0].name), console=console, auto_refresh=False) as live:
        for number, check in enumerate(planned, start=1):
            found.append(check.run())
            live.update(_table(found, planned[number].name if number < len(planned) else ""), refresh=True)
    if not console.is_terminal:
        console.line()  # elsewhere Live ends the table's last line itself
    wrong = [finding for finding in found if finding.level != "ok" and finding.remedy]
    for finding in sorted(wrong, key=lambda finding: finding.level):
        console.print(f"{SIGNS[finding.level]} {finding.check}: {escape(finding.remedy)}", soft_wrap=True)
    if not any(finding.level == "fault" for finding in found):
        console.print("nothing keeps a session from running: python -m runtime.live")
    return found


def _table(found: Sequence[Finding], now: str) -> Table:
    table = Table("", "check", "what was seen", title="doctor", title_justify="left")
    for finding in found:
        table.add_row(SIGNS[finding.level], finding.check, escape(finding.detail))
    if now:
        table.add_row("…", now, "")
    return table


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m runtime.doctor",
        description="Check what a session needs, and say what mends each thing that is wrong.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--json", action="store_true", help="for programs")
    p.add_argument("--only", nargs="+", metavar="NAME", help="some of the checks")
    p.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file, as runtime.live")
    group = p.add_argument_group("as runtime.live")
    for name in OPTIONS:
        group.add_argument(f"--{name}")
    group.add_argument("--dashboard", dest="page", nargs="?", const=DEFAULT, metavar="HOST:PORT")
    return p


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a check that hangs in a driver would be waited for
