"""The engine benchmark at one of the authors' sizes: ``python -m runtime.bench engine --shapes SHAPES``.

One window, batch 1, every candidate in turns in one run: PyTorch as research code is written, PyTorch with
the pruned graph (compiled and as a CUDA graph where there is a GPU), the pruned graph in ONNX Runtime, and
every engine that this machine can build. Each lives in a process of its own, as it would be used, and has
to give the plain network's answer before it is timed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from rich.console import Console
from rich.progress import track
from rich.table import Table

from capture.features.spec import FeatureSpec
from runtime import network
from runtime.engine import EngineError
from runtime.engines import compiler
from runtime.engines.artefact import Backend, Precision
from runtime.engines.artefact import Manifest as Artefact
from runtime.engines.libraries import Library
from runtime.engines.progress import Phases
from runtime.engines.tensorrt import Runner
from runtime.network import Manifest, Network

F32 = npt.NDArray[np.float32]
Feed = dict[str, F32]
Run = Callable[[], F32]
PLAIN = 0  # the first candidate: what all are measured against
WARM_UP = 3  # windows
AT_ONCE = 3  # windows of one candidate after another
BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
NEAR = 1e-4
FAR: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2}  # of the fused answer, whose size is about one


class BenchError(Exception):
    """A benchmark cannot run; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """One way of computing the window. ``make`` is called in a process of its own, which it sets up."""

    name: str
    make: Callable[[], Run]
    allowed: float  # how far its answer may be from the plain network's


def engine_shapes(console: Console, shapes: str, threads: int, repeats: int) -> None:
    """Measure and print. Raises BenchError."""
    try:
        # The application knows no PyTorch; this benchmark loads it by name, where it is installed.
        inference: Any = importlib.import_module("models.bench_inference")
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise BenchError(f"--shapes needs PyTorch ({error}): pip install -e '.[train]'") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = inference.Bench(shapes, threads, device)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "network.onnx"
        with console.status(f"exporting the pruned graph of {shapes}"):
            bench.export(graph)
        candidates = [
            Candidate(name, partial(_torch, shapes, threads, device, name), NEAR)
            for name in inference.names(device)
        ]
        onnx = partial(_onnx, graph, bench.feed, threads)
        candidates.append(Candidate("ONNX Runtime, CPU, fp32, pruned graph", onnx, FAR["fp32"]))
        engines, passed_over = _engines(console, graph, bench)
        candidates += engines
        seconds, differences = _measure(console, candidates, threads, repeats)
    title = f"{shapes}, batch 1, {threads} thread{'s' * (threads > 1)}, {device}: one window"
    table = Table("", "median, ms", "speed", "difference", title=title)
    for candidate, took, far in zip(candidates, seconds, differences, strict=True):
        table.add_row(candidate.name, f"{took * 1e3:.1f}", f"{seconds[PLAIN] / took:.2f}x", f"{far:.1e}")
    console.print(table)
    for line in passed_over:
        console.print(line)


class Worker:
    """A candidate in a process of its own: neither the threads nor the memory of another are in its way."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = candidate.name
        self._asked, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, candidate.make, threads), daemon=True)
        self._process.start()
        there.close()

    def ask(self, windows: int) -> tuple[F32, list[float]]:
        """Run some windows: the answer, and the seconds that each took. Raises BenchError if it died."""
        try:
            self._asked.send(windows)
            answer: tuple[F32, list[float]] | str = self._asked.recv()
        except (EOFError, OSError):
            answer = "its process ended"
        if isinstance(answer, str):
            raise BenchError(f"{self._name}: {answer}")
        return answer

    def close(self) -> None:
        self._asked.close()  # its process ends at this
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _work(asked: Connection, make: Callable[[], Run], threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark closes the pipe
    try:
        run = make()
        while True:
            times = []
            for _ in range(asked.recv()):
                started = time.perf_counter()
                answer = run()
                times.append(time.perf_counter() - started)
            asked.send((answer, times))
    except EOFError:
        pass
    except Exception as error:
        asked.send(f"{type(error).__name__}: {error}")


def _measure(
    console: Console, candidates: list[Candidate], threads: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Median seconds of each, some windows in turns, and how far each answer is from the plain one."""
    with ExitStack() as stack:
        workers = []
        for candidate in candidates:
            workers.append(Worker(candidate, threads))
            stack.callback(workers[-1].close)
        with console.status("checking the answers"):
            answers = [worker.ask(WARM_UP)[0] for worker in workers]
        differences = [float(np.abs(answer - answers[PLAIN]).max()) for answer in answers]
        for candidate, far in zip(candidates, differences, strict=True):
            if not far <= candidate.allowed:
                raise BenchError(
                    f"{candidate.name} answers {far:g} apart from the plain network: "
                    f"{candidate.allowed:g} is allowed"
                )
        took: list[list[float]] = [[] for _ in candidates]
        turns = range(-(-repeats // AT_ONCE))
        for _ in track(turns, "measuring", console=console, transient=True):
            for worker, times in zip(workers, took, strict=True):
                times += worker.ask(1 + AT_ONCE)[1][1:]  # the first finds cold caches
    return [statistics.median(times) for times in took], differences


def _torch(shapes: str, threads: int, device: str, name: str) -> Run:
    run: Run = importlib.import_module("models.bench_inference").ready(shapes, threads, device, name)
    return run


def _onnx(graph: Path, feed: Feed, threads: int) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(session.run(["logits"], feed)[0], np.float32)


def _engines(console: Console, graph: Path, bench: Any) -> tuple[list[Candidate], list[str]]:
    """Every engine of TensorRT and TensorRT-RTX that runs here, and why each other one does not.

    With a GPU, untested: none was at hand.
    """
    found: list[Candidate] = []
    passed_over: list[str] = []
    scratch = _network(graph, bench)
    for backend in BACKENDS:
        try:
            for precision in PRECISIONS:
                recipe = compiler.check(scratch, backend, precision)
                if recipe.device is None:
                    passed_over.append(f"{backend} {recipe.library.version} is passed over: no GPU here")
                    break
                with console.status(f"building {backend}, {precision}"):
                    place = graph.parent / f"{backend}-{precision}"
                    place, manifest = compiler.build(recipe, Phases(), place=place)
                name = f"{backend} {manifest.version}, {precision}, CUDA graph"
                make = partial(_engine, recipe.library, place, manifest, bench.feed)
                found.append(Candidate(name, make, FAR[precision]))
        except EngineError as error:
            passed_over.append(f"{backend} is passed over: {error}")
    return found, passed_over


def _engine(library: Library, place: Path, manifest: Artefact, feed: Feed) -> Run:
    runner = Runner(library, place, manifest)
    return lambda: np.array(runner.run(feed)["logits"], np.float32)


def _network(graph: Path, bench: Any) -> Network:
    """The graph as a bundle that can be compiled: sizes of the shapes, features in name only."""
    sizes = {name: bench.feed[name].shape[1:] for name in ("text", "audio", "vision")}
    bundled = network.load().features
    features = FeatureSpec(
        **{
            name: msgspec.structs.replace(
                bundled.input(name),
                steps=steps,
                dim=dim,
                mean=(),
                scale=(),
            )
            for name, (steps, dim) in sizes.items()
        }
    )
    return Network(graph.parent, Manifest(graph.stem, "regression"), features, "unhashed")
