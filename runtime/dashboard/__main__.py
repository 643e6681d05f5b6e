"""`python -m runtime.dashboard`: the emotion stream, or a recording, as a web page."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.dashboard.address import DEFAULT, Address, AddressError
from runtime.dashboard.start import HOW_TO_GET, TOKEN, installed
from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError, token_trouble
from runtime.keys import KeyFileError
from runtime.recording import Recording, RecordingError
from runtime.stream import subscribe

EPILOG = f"""\
examples:
  python -m runtime.dashboard                              the session that runs on this machine
  python -m runtime.dashboard --replay session.mcap        a recording, with a scrubber
  python -m runtime.dashboard --dashboard 0.0.0.0:8563     also for other machines, with a token
  python -m runtime.live --demo --loop --dashboard         a session and its page in one command

keys: M sets a marker, P plays or pauses a recording, T changes between light and dark.

markers are JSON lines: session.mcap has them in session.markers.jsonl beside it; those of a session that
is not recorded lie in your data folder, and the page says where.

beyond this machine whoever opens the page must have its token; the page comes over plain HTTP, so use it
on a network that you trust, or through ssh -L 8563:{DEFAULT}. A token given with --token can be seen in
the list of processes.

exit status: 130 you pressed Ctrl-C; 2 an option, the address or the recording cannot be used.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.dashboard",
        description="Show the emotion stream, or a recording, as a web page.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="stream to show (default: %(default)s)")
    p.add_argument("--key", metavar="FILE", help="of a stream that asks for one (runtime.keys)")
    p.add_argument("--replay", type=Path, metavar="FILE", help="show a recording made with --record")
    p.add_argument(
        "--dashboard", default=DEFAULT, metavar="HOST:PORT", help="serve here (default: %(default)s)"
    )
    p.add_argument(
        "--token",
        help="what viewers must have; when the address is not loopback, one is made if you give none",
    )
    p.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page; every error a user can cause is one line and exit status 2."""
    options = parser().parse_args(arguments)
    try:
        address = Address.parse(options.dashboard)
        if trouble := token_trouble(options.token):
            raise AddressError(trouble)
        if options.replay is None:
            subscribe(options.endpoint, key=options.key).close()  # raises here, before anything is started
        if not installed():
            raise AddressError(HOW_TO_GET)
        playback = None
        if options.replay is not None:
            from runtime.dashboard.playback import Playback

            playback = Playback(Recording.open(options.replay))
            for warning in playback.warnings:
                print(f"warning: {warning}", file=sys.stderr, flush=True)
        address.check_free()
        given = os.environ.pop(TOKEN, None) if options.with_parent else None
        made = None if address.loopback else given or secrets.token_urlsafe(16)
        token = options.token or made
        from runtime.dashboard.serve import serve  # takes two seconds: only when all is well

        serve(
            address,
            token,
            endpoint=options.endpoint,
            key=options.key,
            playback=playback,
            with_parent=options.with_parent,
        )
    except (AddressError, EndpointError, KeyFileError, RecordingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
