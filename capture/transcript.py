"""Transcript: the process that says words, from a subtitle file or from sound through Whisper.

The sound comes over its own pipe from the microphone process, in capture order, numbered on its own;
an empty ``Pcm`` message says that there is no more. While Whisper works the pipe holds what comes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from capture import subtitles
from capture.bus import SOUND, Receiver
from capture.features.text import SPEC
from capture.link import Link, arguments, run
from capture.listener import Listener, meanwhile
from capture.messages import Word
from capture.whisper import DEFAULT, Whisper, smaller_here

SUBTITLE_TICK_NS = 100_000_000  # on a grid, so that a window's end is known when it has come


def say_subtitles(link: Link, path: Path, until_ns: int) -> None:
    """Publish a file's words, each when the clock passes its end, up to ``until_ns`` (0: the last word).

    Raises:
        SourceError: the file is missing or malformed.
    """
    words = subtitles.read(path)
    go = link.wait_for_go(f"{len(words)} words in {path.name}")
    end_ns = until_ns or max((word.end_ns for word in words), default=0)
    waiting = sorted(
        (_cut(word, end_ns) for word in words if word.start_ns < end_ns and word.end_ns >= go.start_ns),
        key=lambda word: (word.end_ns, word.start_ns),
        reverse=True,
    )
    link.status("running")
    now_ns = go.start_ns
    while not link.stopping and (now_ns < end_ns or waiting):
        next_ns = min((now_ns // SUBTITLE_TICK_NS + 1) * SUBTITLE_TICK_NS, end_ns)
        if waiting:
            next_ns = max(now_ns, min(next_ns, waiting[-1].end_ns))
        link.clock.wait_until_ns(next_ns)
        now_ns = next_ns
        spoken = []
        while waiting and waiting[-1].end_ns <= now_ns:
            spoken.append(waiting.pop())
        link.words(tuple(spoken), now_ns)
        link.beat()


def recognise(link: Link, model: str, pcm: str, language: str | None) -> None:
    """Publish the words that Whisper hears in the sound on the ``pcm`` endpoint, to its end.

    Raises:
        SourceError: Whisper or its model is missing.
    """
    receiver = Receiver(pcm, session=link.session, stream="audio", carries=SOUND)
    try:
        link.status("starting", detail=f"loading whisper {model}, downloaded once where it is missing")
        whisper = meanwhile(link, lambda: Whisper(model, language))
        if whisper is None:
            return
        go = link.wait_for_go(f"whisper {model} on {whisper.device}, {whisper.compute_type}")
        link.status("running")
        Listener(link, receiver, whisper, go.start_ns, [model, *smaller_here(model)], language).listen()
    finally:
        receiver.close()


def _cut(word: Word, end_ns: int) -> Word:
    """A cue may outlast the sound; its words do not."""
    return Word(word.text, word.start_ns, min(word.end_ns, end_ns))


def main() -> int:
    parser = arguments(
        "capture.transcript", "Words with times: from a subtitle file, or from sound through Whisper."
    )
    parser.add_argument(
        "--asr", required=True, metavar="HOW", help="subtitles:FILE, or whisper[:SIZE or FOLDER]"
    )
    parser.add_argument("--pcm", metavar="ENDPOINT", help="whisper: bind here, the sound comes in")
    parser.add_argument("--language", metavar="CODE", help="whisper: what is spoken (default: detect it)")
    parser.add_argument(
        "--until-ns", type=int, default=0, metavar="NS",
        help="subtitles: length of the media in ns; the silence after the last word is said too",
    )  # fmt: skip
    options = parser.parse_args()
    kind, _, which = options.asr.partition(":")
    link = Link("text", SPEC, options.session, options.endpoint)
    if kind == "subtitles" and which:
        return run(link, lambda link: say_subtitles(link, Path(which), options.until_ns))
    if kind == "whisper":
        if options.pcm is None:
            parser.error("--asr whisper needs --pcm ENDPOINT, where the microphone process sends its sound")
        return run(link, lambda link: recognise(link, which or DEFAULT, options.pcm, options.language))
    parser.error(f"--asr {options.asr!r}: expected subtitles:FILE or whisper[:SIZE or FOLDER]")


if __name__ == "__main__":
    sys.exit(main())
