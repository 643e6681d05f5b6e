"""``python -m runtime.recording info|repair|export|rescore FILE``: what can be done with a recording."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from runtime.engine import ENGINES
from runtime.markers import MarkersError, carry_over
from runtime.recording.export import FORMATS, export
from runtime.recording.info import summarise, tables
from runtime.recording.layout import RecordingError
from runtime.recording.read import Recording
from runtime.recording.repair import repair

EPILOG = """\
What is inside:          python -m runtime.recording info session.mcap
One that broke off:      python -m runtime.recording repair session.mcap
For statistics:          python -m runtime.recording export session.mcap --to csv
For LSL's tools, MNE:    python -m runtime.recording export session.mcap --to xdf
Through another network: python -m runtime.recording rescore session.mcap --network DIR --out again.mcap
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog="python -m runtime.recording",
        description="Look into a recording, mend it, turn it into tables, put it through another network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True)
    one = commands.add_parser("info", help="streams, rates, faces, words, losses, configuration")
    one.add_argument("file", type=Path, help="a recording (.mcap)")
    one.add_argument("--json", action="store_true", help="for programs")
    one = commands.add_parser("repair", help="a whole recording from one that broke off or was damaged")
    one.add_argument("file", type=Path, help="a recording (.mcap); it stays as it is")
    one.add_argument("--out", type=Path, metavar="FILE", help="default: FILE.repaired.mcap")
    one = commands.add_parser("export", help="tables: windows, words, feature vectors")
    one.add_argument("file", type=Path, help="a recording (.mcap)")
    one.add_argument("--to", choices=FORMATS, default="csv", help="default: csv")
    one.add_argument("--out", type=Path, help="a new folder, or for xdf a new file (default: beside FILE)")
    one = commands.add_parser("rescore", help="its features through another network or engine")
    one.add_argument("file", type=Path, help="a recording (.mcap)")
    one.add_argument("--network", metavar="DIR", help="a trained network (default: the bundled one)")
    one.add_argument(
        "--engine", choices=ENGINES, metavar="NAME", help="what runs it (see runtime.live --help)"
    )
    one.add_argument("--all-windows", action="store_true", help="also those that were given up in overload")
    one.add_argument("--out", type=Path, metavar="FILE", required=True, help="the new recording")
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; of info 1 when the recording is not whole; 2 for what cannot be read or written."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: nothing half is left
    try:
        match options.command:
            case "info":
                return _info(options.file, options.json)
            case "repair":
                return _repair(options.file, options.out or _beside(options.file, ".repaired.mcap"))
            case "export":
                return _export(options)
            case _:
                return _rescore(options)
    except (RecordingError, MarkersError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a place that may not be looked at, or cannot be one
        print(f"error: {error.filename}: {error.strerror}: choose another file", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130


def _info(file: Path, json: bool) -> int:
    summary = summarise(Recording.open(file))
    if json:
        print(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    else:
        console = Console()
        for table in tables(summary):
            console.print(table)
    _warn(summary.warnings)
    return 0 if summary.complete else 1


def _repair(file: Path, out: Path) -> int:
    done = repair(file, out)
    if done is None:
        print(f"{file} is whole: nothing to do")
        return 0
    carry_over(file, out)
    lost = [f"{done.damaged} damaged stretches ({', '.join(done.gaps)})"] if done.damaged else []
    lost += [f"{done.corrupt} corrupt messages"] if done.corrupt else []
    lost += ["what came after the end"] if done.broke_off else []
    print(f"{out}: {done.kept} messages, {done.seconds:.1f} s; lost: {', '.join(lost) or 'the end record'}")
    return 0


def _export(options: argparse.Namespace) -> int:
    recording = Recording.open(options.file)
    suffix = ".xdf" if options.to == "xdf" else f".{options.to}.d"
    with Console(stderr=True).status(f"exporting {options.file}"):
        written = export(recording, options.to, options.out or _beside(options.file, suffix))
    for path in written:
        print(path)
    _warn(recording.warnings)
    return 0


def _rescore(options: argparse.Namespace) -> int:
    """A replay at full speed that nobody else hears, recorded; whole or not at all."""
    from runtime import live

    if options.out.exists():
        raise RecordingError(
            f"{options.out} exists already: a recording is never overwritten; choose another --out"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = ["--replay", str(options.file), "--fast", "--record", str(options.out)]
        command += ["--endpoint", f"ipc://{folder}/stream"]
        for name in ("network", "engine"):
            if (value := getattr(options, name)) is not None:
                command += [f"--{name}", value]
        if options.all_windows:
            command.append("--all-windows")
        status = live.main(command)
    reason = _reason(options.out)
    if status == 0 and reason == "end of input":
        carry_over(options.file, options.out)
        return 0
    stopped = status == 130 or (status == 0 and (reason == "stopped" or not options.out.exists()))
    options.out.unlink(missing_ok=True)  # ours: it was not there before
    print(f"{'stopped' if stopped else 'failed'}; nothing was written", file=sys.stderr)
    return 130 if stopped else status or 1


def _reason(path: Path) -> str | None:
    """Why a recording ended; None: it was never closed, or never begun."""
    try:
        return str((Recording.open(path).end or {}).get("reason"))
    except RecordingError:
        return None


def _beside(file: Path, suffix: str) -> Path:
    """Where the result goes, if nothing else was said."""
    if not file.name:
        raise RecordingError(f"{file} is no file: expected a recording (.mcap)")
    return file.with_suffix(suffix)


def _warn(lines: list[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
