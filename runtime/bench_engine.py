"""The engine benchmark at one of the authors' sizes: ``python -m runtime.bench engine --shapes SHAPES``.

One window, batch 1, every candidate in turns in one run: PyTorch as research code is written, PyTorch with
the pruned graph (compiled and as a CUDA graph where there is a GPU), the pruned graph in ONNX Runtime, and
every engine that this machine can build. Each has to give the plain network's answer before it is timed.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
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
from runtime.engines.progress import Phases
from runtime.engines.tensorrt import Runner
from runtime.network import Manifest, Network

F32 = npt.NDArray[np.float32]
Feed = dict[str, F32]
Run = Callable[[], F32]
PLAIN = 0  # the first candidate: what all are measured against
WARM_UP = 3
BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
FAR: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2}  # of the fused answer, whose size is about one


class BenchError(Exception):
    """A benchmark cannot run; the message says why."""


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
        candidates: list[tuple[str, Run, float]] = [(c.name, c.run, 1e-4) for c in bench.candidates()]
        candidates.append(("ONNX Runtime, CPU, fp32", _onnx(graph, bench.feed, threads), 1e-3))
        engines, passed_over = _engines(console, graph, bench)
        candidates += engines
        seconds, differences = _measure(console, candidates, repeats)
    title = f"{shapes}, batch 1, {threads} thread{'s' * (threads > 1)}, {device}: one window"
    table = Table("", "median, ms", "times the plain one's speed", "difference", title=title)
    for (name, _, _), took, far in zip(candidates, seconds, differences, strict=True):
        table.add_row(name, f"{took * 1e3:.1f}", f"{seconds[PLAIN] / took:.2f}", f"{far:.1e}")
    console.print(table)
    for line in passed_over:
        console.print(line)


def _measure(
    console: Console, candidates: list[tuple[str, Run, float]], repeats: int
) -> tuple[list[float], list[float]]:
    """Median seconds of each, taken in turns, and how far each answer is from the plain one."""
    expected = candidates[PLAIN][1]()
    differences = []
    for name, run, allowed in candidates:
        far = float(np.abs(run() - expected).max())
        if not far <= allowed:
            raise BenchError(f"{name} answers {far:g} apart from the plain network: {allowed:g} is allowed")
        differences.append(far)
    took: list[list[float]] = [[] for _ in candidates]
    for turn in track(range(WARM_UP + repeats), "measuring", console=console, transient=True):
        for (_, run, _), times in zip(candidates, took, strict=True):
            started = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in took], differences


def _onnx(graph: Path, feed: Feed, threads: int) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(session.run(["logits"], feed)[0], np.float32)


def _engines(console: Console, graph: Path, bench: Any) -> tuple[list[tuple[str, Run, float]], list[str]]:
    """Every engine of TensorRT and TensorRT-RTX that runs here, and why each other one does not.

    With a GPU, untested: none was at hand.
    """
    found: list[tuple[str, Run, float]] = []
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
                runner = Runner(recipe.library, place, manifest)
                name = f"{backend} {manifest.version}, {precision}, CUDA graph"
                found.append((name, _runs(runner, bench.feed), FAR[precision]))
        except EngineError as error:
            passed_over.append(f"{backend} is passed over: {error}")
    return found, passed_over


def _runs(runner: Runner, feed: Feed) -> Run:
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
