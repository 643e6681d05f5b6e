"""Benchmarks: ``python -m runtime.bench live|features|asr|engine|bus|page|soak|devices|size``.

They run the real application on a real file and measure from outside: messages by subscribing, memory
and processor time from /proc. Nothing here is a test; BENCHMARKS.md keeps the results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from capture import whisper
from capture.media import probe
from capture.trouble import SourceError
from runtime import proc
from runtime.bench_asr import asr
from runtime.bench_bus import hops
from runtime.bench_devices import EPILOG as DEVICES_EPILOG
from runtime.bench_devices import HELP as DEVICES_HELP
from runtime.bench_devices import devices
from runtime.bench_engine import BenchError, engine_shapes
from runtime.bench_late import late
from runtime.bench_page import page
from runtime.bench_soak import soak
from runtime.recording import RecordingError
from runtime.stream import Emotion, Message, SessionEnd, subscribe

SHAPES = ("mosi-unaligned", "mosi-aligned", "mosei-unaligned", "mosei-aligned", "tiny")
ENDPOINT = "tcp://127.0.0.1:5597"


class Run:
    """A live session in a process of its own, and everything it published."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--endpoint", ENDPOINT, *arguments]
        self.messages: list[Message] = []
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the run
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        self.cpu_s = 0.0

    def listen(self, each: Callable[[Message], None] = lambda message: None) -> None:
        """Collect messages to the end of the session."""
        for message in subscribe(ENDPOINT, stopping=lambda: self.process.poll() is not None):
            self.messages.append(message)
            each(message)
            self.cpu_s = max(self.cpu_s, sum(map(proc.cpu_s, self.pids())))
            if isinstance(message, SessionEnd):
                break
        if self.process.wait(20) != 0:
            self.log.seek(0)
            raise BenchError(self.log.read().strip().splitlines()[-1])

    def pids(self) -> list[int]:
        """The application and its capture processes."""
        return [self.process.pid, *proc.children(self.process.pid)]

    @property
    def emotions(self) -> list[Emotion]:
        return [message for message in self.messages if isinstance(message, Emotion)]


def live(console: Console, file: Path) -> None:
    """Real time on a file, no words: frames a second, and window end to publication."""
    run = Run("--input", str(file), "--asr", "none")
    run.listen()
    end = run.messages[-1]
    assert isinstance(end, SessionEnd), "the session did not end by itself"
    seconds = probe(file).duration_ns / 1e9
    late = [(m.time.published_ns - m.time.end_ns) / 1e6 for m in run.emotions]
    total = [m.latency_ms.total for m in run.emotions]
    infer = [m.latency_ms.infer for m in run.emotions]
    table = Table(
        "live, real time", "", title=f"{file.name}, {seconds:.1f} s of film, {os.cpu_count()} cores"
    )
    vision = end.senses["vision"]
    table.add_row("vision frames a second", f"{vision.produced / seconds:.1f} (dropped {vision.dropped})")
    table.add_row("windows", f"{len(late)} of {int(seconds / 0.5)} hops")
    for name, values in (("window end to publication", late), ("newest sample to publication", total)):
        table.add_row(
            f"{name}, ms", f"median {statistics.median(values):.0f}  p95 {np.percentile(values, 95):.0f}"
        )
    table.add_row("network, ms", f"median {statistics.median(infer):.1f}  p95 {np.percentile(infer, 95):.1f}")
    table.add_row("processor time for a second of film", f"{run.cpu_s / seconds:.2f} s, all processes")
    console.print(table)


def engine(console: Console, windows: int) -> None:
    """The bundled network on random full windows: the text encoder and DMD, at one and two threads."""
    from capture.messages import Word
    from runtime import network
    from runtime.engines.onnx import OnnxEngine
    from runtime.windows import SenseWindow, Window

    net = network.load()
    rng = np.random.default_rng(0)

    def sense(name: str, words: tuple[Word, ...] = ()) -> SenseWindow:
        one = net.features.input(name)
        values = rng.normal(size=(one.steps, one.dim)).astype(np.float32)
        return SenseWindow(values, np.ones(one.steps, np.float32), True, 1.0, 0, None, words)

    table = Table("threads", "new words, ms", "same words, ms", title="ONNX Runtime, CPU, one window")
    for threads in (1, 2):
        runner = OnnxEngine(net, threads=threads)
        took: dict[bool, list[float]] = {True: [], False: []}
        for i in track(range(windows), console=console, transient=True):
            spoken = tuple(
                Word(f"{word}{i}", 0, 0) for word in ["ask", "not", "what", "your", "country", "can", "do"]
            )
            window = Window(0, 0, 0, sense("text", spoken), sense("audio"), sense("vision"), None, {})
            for new in (True, False):
                started = time.perf_counter()
                runner.infer(window)
                took[new].append((time.perf_counter() - started) * 1e3)
        table.add_row(str(threads), *(f"{statistics.median(took[new][3:]):.1f}" for new in (True, False)))
    console.print(table)


def features(console: Console, file: Path) -> None:
    """The feature code by itself, without processes: how much faster than real time is it?"""
    import av

    from capture.assets import face_landmarker
    from capture.features.audio import SAMPLE_RATE_HZ, AudioFeatures
    from capture.features.vision import FaceFeatures

    with av.open(str(file)) as container:
        frames = [
            (frame.to_ndarray(format="rgb24").astype(np.uint8), frame.time or 0.0)
            for frame in container.decode(video=0)
        ]
    with av.open(str(file)) as container:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
        chunks = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        sound = np.concatenate([chunk.to_ndarray().reshape(-1) for chunk in chunks])
    table = Table("features", "took", "of real time", title=f"{file.name}, {len(frames)} frames")
    seconds = len(sound) / SAMPLE_RATE_HZ
    with FaceFeatures(face_landmarker()) as vision:
        started = time.perf_counter()
        for rgb, at in frames:
            vision.extract(rgb, round(at * 1000))
        took = time.perf_counter() - started
    table.add_row("vision", f"{took:.2f} s, {len(frames) / took:.0f} frames/s", f"{took / seconds:.2f}")
    audio = AudioFeatures()
    started = time.perf_counter()
    for start in range(0, len(sound), 640):
        audio.accept(sound[start : start + 640])
    took = time.perf_counter() - started
    table.add_row("audio", f"{took:.2f} s for {seconds:.1f} s of sound", f"{took / seconds:.3f}")
    console.print(table)


def size(console: Console) -> None:
    """What the live install (no extras) puts on disk, by distribution."""
    megabytes: dict[str, float] = {}
    for name in _requirements("emotion-edge"):
        distribution = importlib.metadata.distribution(name)
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
        megabytes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    table = Table(
        "distribution", "MB", title=f"live install: {sum(megabytes.values()):.0f} MB without extras"
    )
    for name, mb in sorted(megabytes.items(), key=lambda item: -item[1])[:12]:
        table.add_row(name, f"{mb:.0f}")
    console.print(table)


def _requirements(root: str) -> Iterable[str]:
    """A distribution and what it requires, extras left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, None] = {}
    waiting = [root]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = None
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 to 100 rounds")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runtime.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("live", help="the application on a file in real time")
    one.add_argument("file", type=Path)
    one = commands.add_parser("soak", help="the whole application for long, with faults on purpose")
    one.add_argument("file", type=Path, help="a clip with a face and a voice; it is played again and again")
    one.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    one.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    one.add_argument(
        "--asr", metavar="HOW", help="as of runtime.live, e.g. whisper:base (default: subtitles)"
    )
    one = commands.add_parser("engine", help="one window through the network")
    one.add_argument("--windows", type=int, default=60, help="how many to measure (default: 60)")
    one.add_argument("--shapes", choices=SHAPES, help="the authors' sizes, against PyTorch, instead")
    one.add_argument("--threads", type=int, default=1, help="with --shapes, of the processor (default: 1)")
    one = commands.add_parser("features", help="the feature code by itself")
    one.add_argument("file", type=Path)
    one = commands.add_parser("asr", help="words: how right, how late, how costly")
    one.add_argument("file", type=Path, help="a clip with speech")
    one.add_argument(
        "--reference", required=True, metavar="TEXT", help="what is said in it, or a file with it"
    )
    one.add_argument("--model", default=whisper.DEFAULT, help="size or folder (default: %(default)s)")
    one.add_argument(
        "--chunk", type=float, default=1.0, metavar="S", help="new sound a hypothesis (default: 1)"
    )
    one.add_argument("--language", metavar="CODE", help="what is spoken (default: detect it)")
    one.add_argument("--json", action="store_true", help="one JSON object")
    one = commands.add_parser("bus", help="from one process to the next")
    one.add_argument("--messages", type=int, default=4000, help="of each kind (default: %(default)s)")
    one = commands.add_parser("late", help="what late words change")
    one.add_argument("file", type=Path, help="a recording with words")
    one = commands.add_parser("page", help="what the dashboard costs the session, looked at by a browser")
    one.add_argument("file", type=Path, help="a clip with a face and a voice; it is played again and again")
    one.add_argument("--seconds", type=float, default=60, help="of each session (default: %(default)s)")
    one = commands.add_parser(
        "devices",
        help="how soon a device that comes, goes or freezes is noticed",
        description=DEVICES_HELP,
        epilog=DEVICES_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("--rounds", type=_rounds, default=5, help="how often (default: %(default)s)")
    commands.add_parser("size", help="what the live install puts on disk")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        return int(not _run(options, console))
    except (BenchError, RecordingError, SourceError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, console: Console) -> bool:
    """Measure; False when what was measured must not be."""
    match options.command:
        case "live":
            live(console, options.file)
        case "features":
            features(console, options.file)
        case "soak":
            probe(options.file)
            return soak(console, options.file, options.minutes, options.seed, ENDPOINT, options.asr)
        case "engine":
            if options.shapes is None:
                engine(console, options.windows)
            else:
                engine_shapes(console, options.shapes, options.threads, options.windows)
        case "asr":
            model, language = options.model, options.language
            asr(console, options.file, options.reference, model, options.chunk, language, options.json)
        case "bus":
            return hops(console, options.messages)
        case "late":
            late(console, options.file)
        case "page":
            probe(options.file)
            page(console, options.file, options.seconds, ENDPOINT)
        case "devices":
            return devices(console, options.rounds)
        case "size":
            size(console)
    return True


if __name__ == "__main__":
    sys.exit(main())
