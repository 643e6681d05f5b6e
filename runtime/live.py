"""`python -m runtime.live`: reads the command line, starts the session, ends with a summary."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from capture.features.spec import SpecMismatch
from capture.trouble import SourceError
from runtime import config, logs
from runtime import plan as plans
from runtime.config import Config, ConfigError
from runtime.dashboard.address import DEFAULT, AddressError
from runtime.dashboard.start import PageProcess, how_to_see
from runtime.endpoint import EndpointError
from runtime.engine import ENGINES, EngineError
from runtime.keys import KeyFileError
from runtime.network import NetworkError
from runtime.plan import Plan
from runtime.recording import RecordingError
from runtime.session import Session
from runtime.show import Show
from runtime.stream import Publisher

USER_ERRORS = (
    AddressError,
    ConfigError,
    EndpointError,
    EngineError,
    KeyFileError,
    NetworkError,
    RecordingError,
    SourceError,
    SpecMismatch,
)

EPILOG = """\
examples:
  python -m runtime.live                          webcam and microphone
  python -m runtime.live --demo                   a bundled recording, where there is no camera
  python -m runtime.live --input clip.mp4         a file, in real time; --fast: as fast as it goes
  python -m runtime.live --record session.mcap    and keep the features (no pictures, no sound)
  python -m runtime.live --replay session.mcap    the same windows and the same numbers again
  python -m runtime.live --demo --loop --dashboard    and a page in the browser
  python -m runtime.subscribe                     see the stream from another terminal

words (--asr): none; subtitles[:FILE], a .srt or .vtt, looked for beside the file; whisper[:SIZE], with
pip install 'emotion-edge[whisper]'. Without --asr: subtitles beside the file if there are any, whisper
for a microphone if it is installed, else none.

engines (--engine): auto takes the first that runs of tensorrt, tensorrt_rtx, onnxruntime-cuda and
onnxruntime-cpu, and publishes why the others do not; if it fails later, onnxruntime-cpu goes on. onnxruntime:
of its two. A TensorRT engine is built when there is none for this network and this GPU;
build/compile_trt.py builds one beforehand.

exit status: 0 the input ended or you pressed Ctrl-C; 1 it failed; 2 something you gave cannot be used;
130 you pressed Ctrl-C before the session began.
"""


def parser() -> argparse.ArgumentParser:
    """The command line; what is not given is left out, so that a --config file keeps its word."""
    default = Config()
    p = argparse.ArgumentParser(
        prog="python -m runtime.live",
        description="Live emotion from face, voice and words, published over ZeroMQ.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    source = p.add_argument_group("source (default: camera and microphone)")
    source.add_argument("--input", metavar="FILE|URL", help="a video or audio file, or a network camera")
    source.add_argument("--demo", action="store_true", help="replay the bundled recording once")
    source.add_argument("--loop", action="store_true", help="with --demo: again and again")
    source.add_argument("--replay", metavar="FILE", help="a recording made with --record")
    source.add_argument(
        "--all-windows",
        action="store_true",
        help="with --replay: also the windows that the recorded session gave up, for it could not keep up",
    )
    source.add_argument("--fast", action="store_true", help="do not wait for real time; lose nothing")
    source.add_argument(
        "--camera",
        metavar="N|none",
        help=f"camera to open (default: {default.camera}); none: no pictures, of a file either",
    )
    source.add_argument(
        "--microphone",
        metavar="NAME|none",
        help=f"microphone to open (default: {default.microphone}); none: no sound, of a file either",
    )
    for late in ("camera", "microphone"):
        source.add_argument(
            f"--{late}-delay-ms",
            type=float,
            metavar="MS",
            help=f"from the world to the {late}'s sample; python -m runtime.calibrate measures it",
        )
    source.add_argument("--asr", metavar="HOW", help="where words come from, see below")
    source.add_argument(
        "--language", metavar="CODE", help="language that is spoken, e.g. en (default: guessed)"
    )
    out = p.add_argument_group("output")
    out.add_argument("--endpoint", help=f"publish here (default: {default.endpoint})")
    out.add_argument("--keys", metavar="DIR", help="only to clients on this list (python -m runtime.keys)")
    out.add_argument("--record", metavar="FILE", help="write every feature and every result to an MCAP file")
    out.add_argument("--session", metavar="NAME", help="name of the session (default: from the date)")
    out.add_argument(
        "--no-dashboard", dest="dashboard", action="store_false", help="a line a window instead of the view"
    )
    out.add_argument(
        "--dashboard",
        dest="page",
        nargs="?",
        const=DEFAULT,
        metavar="HOST:PORT",
        help=f"show the stream in a browser, too (default: {DEFAULT})",
    )
    out.add_argument("--log-json", action="store_true", default=False, help="log as JSON lines, for machines")
    out.add_argument(
        "--share-words",
        action="store_true",
        help="publish what was said, too, on the topic words.<session>. (a page asks for it)",
    )
    out.add_argument(
        "--share-face",
        action="store_true",
        help="publish the face in numbers, too, on the topic face.<session>. (a page asks for it)",
    )
    out.add_argument(
        "--share-raw",
        action="store_true",
        help="publish pictures and sound, too, on the topic raw.<session>.; a page shows the camera",
    )
    out.add_argument(
        "--record-raw",
        metavar="WORDS",
        help="with --record: keep pictures and sound, too; WORDS say who agreed, and are kept with them",
    )
    net = p.add_argument_group("network")
    net.add_argument("--network", metavar="DIR", help="a trained network (default: the bundled one)")
    net.add_argument("--engine", choices=ENGINES, help=f"what runs it (default: {default.engine})")
    net.add_argument("--threads", type=int, metavar="N", help=f"of the engine (default: {default.threads})")
    net.add_argument("--hop", dest="hop_s", type=float, metavar="S", help=f"default: {default.hop_s} s")
    run = p.add_argument_group("session")
    run.add_argument("--duration", dest="duration_s", type=float, metavar="S", help="stop after so long")
    run.add_argument("--config", type=Path, metavar="FILE", default=None, help="settings from a TOML file")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a session; every error a user can cause is one line and exit status 2."""
    options: dict[str, Any] = vars(parser().parse_args(arguments))
    toml, log_json = options.pop("config"), options.pop("log_json")
    console = logs.start(as_json=log_json)
    try:
        plan = plans.make(config.load(toml, options))
        keys = None if plan.config.keys is None else Path(plan.config.keys)
        publisher = Publisher(plan.config.endpoint, plan.name, keys, raw=plan.config.share_raw)
    except USER_ERRORS as error:
        return _refuse(console, error)
    except OSError as error:  # a place that may not be looked at, or cannot be one
        return _refuse(console, ConfigError(f"{error.filename}: {error.strerror}: choose another file"))
    except KeyboardInterrupt:
        return _stopped(console)
    try:
        console.print(configuration(plan))
        return _run(plan, publisher, console)
    except EngineError as error:  # one that ran, and failed: nothing that was given is wrong
        _refuse(console, error)
        return 1
    except USER_ERRORS as error:
        return _refuse(console, error)
    except KeyboardInterrupt:  # before Ctrl-C is the session's
        return _stopped(console)
    finally:
        publisher.close()


def _run(plan: Plan, publisher: Publisher, console: Console) -> int:
    """Run the session; the demo's loop runs one after the other."""
    current: Session | None = None
    interrupted = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True  # a second Ctrl-C changes nothing: stopping is bounded in time
        if current is not None:
            current.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            PageProcess(plan.config.page, publisher.endpoint),
            Show(console, live=plan.config.dashboard) as show,
        ):
            while not interrupted:
                current = Session(
                    plan.config,
                    plan.network,
                    plan.engine,
                    publisher,
                    plan.source(),
                    name=plan.name,
                    replayed=plan.recording,
                    passed_over=plan.passed_over,
                    spare=plan.spare,
                    delay_s=plan.delay_s,
                    show=show,
                )
                if interrupted:  # while it was made
                    current.stop()
                if current.run() != "end of input" or not plan.config.loop:
                    break
        show.summary(demo=plan.config.demo)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def configuration(plan: Plan) -> Table:
    """The resolved configuration, for the start of a session."""
    table = Table(box=None, show_header=False, pad_edge=False)
    about = plan.network.manifest.name, plan.network.hash
    settings = config.told(plan.config) | {
        "session": plan.name,
        "engine": plan.engine.name,
        "network": f"{about[0]} ({about[1]})",
    }
    for name, value in settings.items():
        if value is not None:
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            table.add_row(f"[dim]{name}[/]", escape(shown))
    if plan.config.page is None:
        table.add_row("[dim]page[/]", escape(how_to_see()))
    for sense, reason in plan.absent.items():
        table.add_row(f"[dim]{sense}[/]", escape(f"absent: {reason}"))
    return table


def _refuse(console: Console, error: Exception) -> int:
    logs.refuse(console, error)
    return 2


def _stopped(console: Console) -> int:
    console.print("stopped before the session began")
    return 130


if __name__ == "__main__":
    sys.exit(main())
