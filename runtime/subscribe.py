"""`python -m runtime.subscribe`: the emotion stream in a terminal, or as JSON lines for a pipe."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.live import Live

from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError
from runtime.keys import KeyFileError
from runtime.stream import Message, subscribe
from runtime.summary import line
from runtime.view import StreamView

EPILOG = """\
examples:
  python -m runtime.subscribe                                  a live view of the session that runs
  python -m runtime.subscribe --json | jq .emotions.top        the stream in a pipe
  python -m runtime.subscribe --json --count 20 > some.jsonl   the next twenty messages
  python -m runtime.subscribe --session lab-3                  one session of several
  python -m runtime.subscribe --json --finals                  complete windows only, with all their words
  python -m runtime.subscribe --timeout 5 || echo "no session runs"

Start the stream with: python -m runtime.live --demo

exit status: 0 it ended or you pressed Ctrl-C; 2 an option or the endpoint is malformed;
3 nothing was heard in time.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.subscribe",
        description="Subscribe to the emotion stream.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    parser.add_argument("--session", help="only this session (default: all)")
    parser.add_argument("--key", metavar="FILE", help="of a stream that asks for one (runtime.keys)")
    parser.add_argument("--finals", action="store_true", help="each window once, with all its words")
    parser.add_argument(
        "--words", action="store_true", help="with --json: what was said, too, where it is shared"
    )
    parser.add_argument("--face", action="store_true", help="the same of the face in numbers")
    parser.add_argument("--raw", action="store_true", help="the same of pictures and sound (base64)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--count", type=_count, metavar="N", help="end after N messages")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="end after S seconds of silence")
    options = parser.parse_args(arguments)

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    heard = 0
    try:
        messages = subscribe(
            options.endpoint,
            session=options.session,
            timeout_s=options.timeout,
            key=options.key,
            finals=options.finals,
            words=options.words or not options.json,
            face=options.face or not options.json,
            raw=options.raw,
            stopping=lambda: stopping,
        )
        waiting = f"waiting on {options.endpoint}: start one with python -m runtime.live"
        with messages, _Out(as_json=options.json, waiting=waiting) as out:
            for message in messages:
                out.show(message)
                heard += 1
                if heard == options.count:
                    break
    except (EndpointError, KeyFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if not heard and not stopping:
        malformed = f" but {messages.malformed} malformed messages" if messages.malformed else ""
        asked = "is the stream one that asks for a --key" if options.key is None else "is the key on its list"
        print(
            f"error: nothing{malformed} was heard on {options.endpoint} for {options.timeout:g} s: "
            f"is python -m runtime.live running, with the same --endpoint, and {asked}?",
            file=sys.stderr,
        )
        return 3
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0")
    return seconds


class _Out:
    """Shows messages as the place they go to wants them: JSON, a live view, or lines."""

    def __init__(self, *, as_json: bool, waiting: str) -> None:
        self._json = as_json
        self._console = Console()
        self._view = StreamView(waiting)
        self._live = None
        if not as_json and self._console.is_terminal:
            self._live = Live(self._view, console=self._console, refresh_per_second=10)

    def show(self, message: Message) -> None:
        self._view.update(message)
        if self._json:
            print(msgspec.json.encode(message).decode(), flush=True)
        elif self._live is None and (text := line(message)):
            print(text, flush=True)

    def __enter__(self) -> _Out:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


if __name__ == "__main__":
    sys.exit(main())
