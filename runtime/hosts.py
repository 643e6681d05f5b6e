"""`python -m runtime.hosts`: what time it is on the machine that runs the session, seen from another one.

Times in the stream are of the capture clock of the machine that captures. A program on another machine that
joins them with what it measures itself needs to know how far the two clocks are apart; wall clocks are
seldom equal to the millisecond. The exchange with the least round trip tells (``capture.host_offset``).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zmq

from capture import host_offset
from capture.clock import HostClock
from capture.host_offset import KEPT, Filter, HostOffset, NoAnswer
from runtime.curve import guard, prove
from runtime.endpoint import EndpointError, check_bindable, check_port, in_use
from runtime.keys import KeyFileError
from runtime.stream import wall

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5564"

EPILOG = f"""\
On the machine that runs the session:
  python -m runtime.hosts answer --endpoint tcp://0.0.0.0:5564 --keys KEYS

On the other one, with its key (python -m runtime.keys --help):
  python -m runtime.hosts measure --endpoint tcp://HOST:5564 --key robot.key_secret
  python -m runtime.hosts measure … --every 60 --out offsets.jsonl      recorded beside your own data

In a program:
  from runtime.hosts import offset_to
  offset = offset_to("tcp://HOST:5564", key="robot.key_secret")
  offset.here_ns(message.time.end_ns)            # on this machine's time.monotonic_ns()

The default endpoint is {DEFAULT_ENDPOINT}.

exit status: 0; 2 an option, the endpoint or a key cannot be used; 3 nobody answered.
"""


class Measured(msgspec.Struct, frozen=True):
    """A line of the record: what was measured, of whom, and when by the wall clock here."""

    endpoint: str
    wall: str
    offset: HostOffset


def offset_to(endpoint: str, *, key: Path | str | None = None, exchanges: int = KEPT) -> HostOffset:
    """How far the capture clock of the host that answers at ``endpoint`` is ahead of ours.

    Both clocks are monotonic, nanoseconds, ``time.monotonic_ns()`` on their host; ``offset.here_ns(t)``
    puts a time of the stream on ours, wrong by at most ``offset.error_ns`` when it was measured.

    Raises:
        EndpointError: the endpoint is malformed.
        KeyFileError: the key file is none.
        NoAnswer: nobody answered.
    """
    with asking(endpoint, None if key is None else Path(key)) as socket:
        return host_offset.measure(socket, HostClock(), exchanges=exchanges)


@contextmanager
def asking(endpoint: str, key: Path | None) -> Iterator[zmq.Socket[bytes]]:
    """A socket for ``capture.host_offset.measure``. Raises EndpointError, KeyFileError."""
    socket: zmq.Socket[bytes]
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        host_offset.prepare(socket)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if key is not None:
            prove(socket, key)
        try:
            check_port(endpoint)
            socket.connect(endpoint)
        except (zmq.ZMQError, EndpointError) as error:
            raise EndpointError(
                f"{endpoint!r} is no endpoint: expected tcp://HOST:PORT or ipc://FILE"
            ) from error
        yield socket


def answer(endpoint: str, keys: Path | None, stopping: Callable[[], bool]) -> int:
    """Tell the time until ``stopping``; returns how many requests were malformed.

    Raises:
        EndpointError: the endpoint is malformed, in use, or reaches beyond this machine without keys.
        KeyFileError: the folder is none, or nobody is on its list.
    """
    check_bindable(endpoint, guarded=keys is not None)
    socket: zmq.Socket[bytes]
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        host_offset.prepare(socket)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        checks = None if keys is None else guard(context, socket, keys)
        mask = os.umask(0o177)  # an ipc file is this user's alone, wherever it lies
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if checks is not None:
                checks.stop()
            if error.errno == zmq.EADDRINUSE:
                raise in_use(endpoint) from error
            raise EndpointError(
                f"{endpoint} cannot be bound ({zmq.strerror(error.errno or 0)}): "
                f"expected an address of this machine, such as {DEFAULT_ENDPOINT}"
            ) from error
        finally:
            os.umask(mask)
        print(f"telling the time at {socket.getsockopt_string(zmq.LAST_ENDPOINT)}", flush=True)
        try:
            return host_offset.answer(socket, HostClock(), stopping)
        finally:
            socket.close()  # before nobody checks keys any more
            if checks is not None:
                checks.stop()


def told(offset: HostOffset) -> str:
    """A measurement for a person."""
    lost = f", {offset.lost} requests lost" if offset.lost else ""
    ahead = "ahead of" if offset.offset_ns >= 0 else "behind"
    return (
        f"the other clock is {abs(offset.offset_ns) / 1e6:.3f} ms {ahead} ours, "
        f"to within {offset.error_ns / 1e6:.3f} ms ({offset.exchanges} exchanges{lost})"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.hosts",
        description="How far the clocks of two machines are apart.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = p.add_subparsers(dest="command", required=True)
    one = commands.add_parser("answer", help="tell the time to others, where the session runs")
    one.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    one.add_argument("--keys", type=Path, metavar="DIR", help="only to clients on this list (runtime.keys)")
    one = commands.add_parser("measure", help="ask, and say how far the clocks are apart")
    one.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    one.add_argument("--key", type=Path, metavar="FILE", help="of this client, where one is asked for")
    one.add_argument("--every", type=_seconds, metavar="S", help="again and again, until Ctrl-C")
    one.add_argument("--out", type=Path, metavar="FILE", help="append each measurement as a line of JSON")
    one.add_argument("--json", action="store_true", help="print lines of JSON")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; what is wrong is one line and an exit status."""
    options = parser().parse_args(arguments)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        if options.command == "answer":
            malformed = answer(options.endpoint, options.keys, lambda: stopped)
            if malformed:
                print(f"{malformed} malformed requests", file=sys.stderr)
            return 0
        return _measure(options, lambda: stopped)
    except (EndpointError, KeyFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # its reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _measure(options: argparse.Namespace, stopping: Callable[[], bool]) -> int:
    best, answered = Filter(), True
    if options.out is not None:
        _append(options.out, "")  # raises before anything is measured
    with asking(options.endpoint, options.key) as socket:
        while True:
            missing = ""
            lost = best.lost
            try:
                offset = host_offset.measure(socket, HostClock(), stopping=stopping, into=best)
            except NoAnswer as error:
                missing = str(error)
            else:
                if best.lost - lost >= KEPT:
                    missing = f"no answer from {options.endpoint} to {KEPT} requests"
            if missing and not stopping():
                if options.every is None:
                    print(f"error: {missing}", file=sys.stderr)
                    return 3
                if answered:
                    print(f"{missing}; asking on", file=sys.stderr, flush=True)
                answered = False
            elif not stopping():
                answered = True
                _tell(options, offset)
            until = time.monotonic() + (options.every or 0)
            while options.every and not stopping() and time.monotonic() < until:
                time.sleep(min(0.1, options.every))
            if options.every is None or stopping():
                return 0


def _tell(options: argparse.Namespace, offset: HostOffset) -> None:
    line = msgspec.json.encode(Measured(options.endpoint, wall(time.time_ns()), offset)).decode()
    if options.out is not None:
        _append(options.out, line + "\n")
    print(line if options.json else told(offset), flush=True)


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}: --out takes a file to append to") from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0.1 to 86400")
    return value


if __name__ == "__main__":
    sys.exit(main())
