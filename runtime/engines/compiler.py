"""Compiler: a network's graph becomes an engine of TensorRT, TensorRT-RTX or ONNX Runtime. No PyTorch."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort

from models.plugins import gd_unit_aot
from runtime.engine import EngineAbsent, EngineError
from runtime.engines import artefact, trt_build, worker
from runtime.engines.artefact import ENGINE, GPU_OF_NONE, MANIFEST, Backend, Manifest, Precision, Wanted
from runtime.engines.cuda import Device
from runtime.engines.libraries import (
    Library,
    capabilities,
    check_gpu,
    gpu_or_none,
    library,
)
from runtime.engines.progress import Listener, Phases
from runtime.engines.trt_build import BuildError, Built, NoMemory
from runtime.network import Network


class Impossible(EngineError):
    """Options that exclude each other."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build. ``check`` makes one, with everything that can be known beforehand known."""

    network: Network
    library: Library
    precision: Precision
    plugin: bool  # the GD-Units as our kernel's plugin layers, not as their function body
    device: Device | None  # the GPU that it is built on and for; None: there is none
    max_batch: int = 1
    embed: bool = False  # that kernel lies in the engine, and no plugin is registered where it runs

    @property
    def backend(self) -> Backend:
        return self.library.backend

    @property
    def place(self) -> Path:
        """Where the live application looks for it."""
        device = None if self.backend == "onnxruntime" else self.device
        return artefact.home(self.network.manifest.name, self.backend, self.precision, device)

    def wanted(self) -> Wanted:
        """What an engine on disk has to be, to be this one."""
        return Wanted(
            backend=self.backend,
            version=self.library.version,
            precision=self.precision,
            device=None if self.backend == "onnxruntime" else self.device,
            graph=artefact.sha256(self.network.file("network.onnx")),
            features=self.network.features.hash,
            machine=platform.machine(),
            software=_software(),
        )


def check(
    network: Network,
    backend: Backend,
    precision: Precision | None = None,
    *,
    plugin: bool | None = None,
    max_batch: int = 1,
    embed: bool = False,
) -> Recipe:
    """A recipe that this machine can build.

    precision: None: fp16 on a GPU, fp32 in ONNX Runtime. plugin: None: where the library has plugins.
    embed: the plugin's ahead-of-time form, which TensorRT has from 10.9 on.

    Raises:
        MissingLibrary, WrongVersion, EngineAbsent, WrongGPU: what this machine lacks.
        Impossible: the options exclude each other.
    """
    found = library(backend)
    if plugin and backend != "tensorrt":
        raise Impossible(f"{backend} has no plugin layers: leave --plugin out, it takes the GD-Unit's body")
    if embed and (backend != "tensorrt" or plugin is False):
        raise Impossible(
            "--embed puts the plugin's kernel into an engine of tensorrt: choose that, with --plugin"
        )
    if embed and found.number < gd_unit_aot.SINCE:
        raise Impossible(f"tensorrt {found.version} embeds no kernel, 10.9 and later do: leave --embed out")
    gpu, why = (None, "") if backend == "onnxruntime" else gpu_or_none()
    if backend == "tensorrt" and gpu is None:
        raise EngineAbsent(f"tensorrt {found.version} builds only on the GPU that it builds for: {why}")
    if gpu is not None:
        check_gpu(found, gpu)
    if max_batch < 1:
        raise Impossible(f"--max-batch {max_batch}: expected 1 or more")
    return Recipe(
        network,
        found,
        precision or ("fp32" if backend == "onnxruntime" else "fp16"),
        backend == "tensorrt" if plugin is None else plugin,
        gpu,
        max_batch,
        embed,
    )


def build(
    recipe: Recipe, phases: Phases, *, beat: Callable[[], None] = lambda: None, place: Path | None = None
) -> tuple[Path, Manifest]:
    """Build, and write the artefact to ``place`` (the recipe's own unless given): all of it or nothing.

    It runs in a process of its own. beat: called about ten times a second while it goes on.

    Raises:
        BuildError: the graph or the library's answer to it; NoMemory: too little of it.
        Interrupted: it was stopped with Ctrl-C.
        ArtefactError: ``place`` is something else; OSError: it cannot be written.
    """
    place = recipe.place if place is None else place
    with artefact.staged(place) as half:
        started, wanted = time.monotonic(), recipe.wanted()  # the graph as it is now, also if it changes
        built = worker.run(partial(_build, recipe), phases, beat)
        (half / ENGINE).write_bytes(built.engine)
        manifest = _manifest(recipe, wanted, built, half / ENGINE, time.monotonic() - started)
        (half / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    return place, manifest


def converted(recipe: Recipe, *, plugin: bool) -> bytes:
    """The network's graph in the recipe's precision, its GD-Units as plugin nodes or as their body.

    Raises BuildError where the graph cannot be converted, or the package ``onnx`` is missing.
    """
    graph = recipe.network.file("network.onnx").read_bytes()
    if recipe.backend == "onnxruntime" and recipe.precision == "fp32":
        return graph  # as it is: ONNX Runtime inlines functions itself
    try:
        import onnx
        from onnx import inliner
    except ImportError as error:
        raise BuildError(
            f"{recipe.precision} for {recipe.backend} needs the package onnx ({error}): "
            f"pip install 'emotion-edge[rtx]'"
        ) from error
    try:
        proto = onnx.load_model_from_string(graph)
        if recipe.precision != "fp32":
            from models.precision import to_precision

            proto = to_precision(proto, recipe.precision)
        if plugin:
            _as_plugins(onnx, proto, recipe.embed)
        else:
            proto = inliner.inline_local_functions(proto)
        return bytes(proto.SerializeToString())
    except MemoryError:
        raise
    except Exception as error:  # protobuf, onnx and the conversion share no base
        raise BuildError(
            f"{recipe.network.file('network.onnx')} does not become {recipe.precision}: {error}"
        ) from error


def _as_plugins(onnx: Any, proto: Any, embed: bool) -> None:
    """Take the function's body away, so that the parser asks the plugin registry for its nodes."""
    bodies = {(function.domain, function.name) for function in proto.functions}
    for node in proto.graph.node:
        if (node.domain, node.op_type) in bodies:
            asked = {"plugin_version": "1", "plugin_namespace": node.domain}
            if embed:
                asked = {"plugin_namespace": gd_unit_aot.NAMESPACE, "aot": 1}
            node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in asked.items())
    del proto.functions[:]


def _build(recipe: Recipe, phases: Listener) -> Built:
    graph = converted(recipe, plugin=recipe.plugin)
    if recipe.backend == "onnxruntime":
        return _optimised(recipe, graph)
    return trt_build.build(
        recipe.library,
        graph,
        phases,
        device=recipe.device,
        max_batch=recipe.max_batch,
        plugin=recipe.plugin,
        embed=recipe.embed,
        exact=recipe.precision == "fp32",
        timing=_timing_cache(recipe),
    )


def _optimised(recipe: Recipe, graph: bytes) -> Built:
    """What ONNX Runtime makes of a graph, short of what only this kind of processor could run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    with _scratch() as path:
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no public base
            if "bad_alloc" in str(error) or isinstance(error, MemoryError):
                raise NoMemory(f"onnxruntime ran out of memory: {error}") from error
            raise BuildError(
                f"onnxruntime {recipe.library.version} cannot run the {recipe.precision} graph: {error}"
            ) from error
        optimised = path.read_bytes()
    return Built(optimised, layers=_operators(optimised))


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="emotion-engine-") as folder:
        yield Path(folder) / "optimised.onnx"


def _operators(graph: bytes) -> dict[str, int]:
    try:
        import onnx
    except ImportError:
        return {}  # a live install has no package that reads graphs
    return dict(Counter(node.op_type for node in onnx.load_model_from_string(graph).graph.node).most_common())


def _manifest(recipe: Recipe, wanted: Wanted, built: Built, engine: Path, seconds: float) -> Manifest:
    gpu = "none: built for ONNX Runtime's CPU provider"
    if wanted.device is not None:
        gpu = wanted.device.name
    elif recipe.backend != "onnxruntime":
        known = [c for c in capabilities(recipe.library) if c != "7.5"]  # the library's default leaves it out
        gpu = f"{GPU_OF_NONE}compute capability {', '.join(known)} (compiled further where it runs)"
    return Manifest(
        backend=recipe.backend,
        version=recipe.library.version,
        precision=recipe.precision,
        gpu=gpu,
        compute_capability=None if wanted.device is None else wanted.device.capability,
        network=recipe.network.manifest.name,
        network_hash=recipe.network.hash,
        graph=wanted.graph,
        features=wanted.features,
        max_batch=recipe.max_batch,
        plugin=recipe.plugin,
        embedded=recipe.embed,
        plugins=built.plugins,
        layers=built.layers,
        engine_layers=built.engine_layers,
        engine_bytes=len(built.engine),
        engine_sha256=artefact.sha256(engine),
        build_s=round(seconds, 2),
        built=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine=wanted.machine,
        software=wanted.software,
    )


def _timing_cache(recipe: Recipe) -> Path | None:
    """TensorRT measures kernels; RTX does not, and would ask for a GPU if it were given a cache."""
    if recipe.backend != "tensorrt" or recipe.device is None:
        return None
    name = f"timing-{artefact.slug(recipe.device.name)}-{artefact.slug(recipe.library.version)}.cache"
    return artefact.engines_folder() / name


def _software() -> str:
    return importlib.metadata.version("emotion-edge")
