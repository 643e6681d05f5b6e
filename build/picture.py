#!/usr/bin/env python3
"""Make docs/demo.svg: the live view of a recording, as a terminal would show it at one moment."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console

from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import decode
from runtime.view import StreamView


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recording", type=Path, default=DEMO)
    parser.add_argument(
        "--at", type=float, default=8.0, help="second of the recording (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/demo.svg"))
    options = parser.parse_args()
    view = StreamView()
    for _, payload in Recording.open(options.recording).emotions():
        message = decode(payload)
        view.update(message)
        if getattr(message, "time", None) is not None and message.time.end_ns >= options.at * 1e9:
            break
    console = Console(width=92, record=True, file=io.StringIO(), force_terminal=True)
    console.print(view)
    options.out.parent.mkdir(exist_ok=True)
    console.save_svg(str(options.out), title="python -m runtime.live --demo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
