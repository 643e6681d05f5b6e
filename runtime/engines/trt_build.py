"""TensorRT's builder, and TensorRT-RTX's: a graph in, an engine out. One code for both, and for 10.3 to 11.

Run here with TensorRT-RTX. What only TensorRT proper does (timing cache, workspace, inspector, plugin
layers) is marked with the version it was written against, and has not been run.
"""

from __future__ import annotations

import json
import logging
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.engine import EngineError
from runtime.engines import artefact
from runtime.engines.cuda import Device
from runtime.engines.libraries import Library
from runtime.engines.progress import Listener

log = logging.getLogger("runtime.engines.trt_build")

WORKSPACE_BYTES = 1 << 30  # at most; an Orin Nano shares 8 GB among everything
MEMORY_SIGNS = (
    "bad_alloc",
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "cudaerrormemoryallocation",
)


class BuildError(EngineError):
    """The library does not build this graph; the message holds its first error."""


class NoMemory(BuildError):
    """The build needs more memory than there is."""


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, not yet on disk."""

    engine: bytes
    layers: dict[str, int] = field(default_factory=dict)  # how many of which type the library was given
    plugins: tuple[str, ...] = ()  # names of the plugin layers
    engine_layers: tuple[str, ...] = ()  # what the library made of them; empty: to be seen only on a GPU


def build(
    library: Library,
    graph: bytes,
    phases: Listener,
    *,
    device: Device | None,
    max_batch: int,
    plugin: bool,
    embed: bool,
    exact: bool,
    timing: Path | None,
) -> Built:
    """Build a strongly typed engine for batches of 1 to ``max_batch``.

    embed: the plugin's kernel into the engine. exact: fp32 means fp32, no TF32. timing: the file of the
    timing cache, None for a library without.
    Raises BuildError, NoMemory.
    """
    trt = library.module
    logger, errors = _logger(trt)
    if plugin:
        from models.plugins import gd_unit_aot, gd_unit_plugin

        (gd_unit_aot if embed else gd_unit_plugin).register(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise _error(library, errors, "it makes no builder")
    # 10.x needs the flag to take types as the graph has them; 11 always does.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        told = [parser.get_error(i) for i in range(parser.num_errors)]
        what = [f"{e.node_operator()} {e.node_name()}".rstrip() + f": {e.desc()}" for e in told]
        raise _error(library, what + errors, "it cannot parse it")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        sizes = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *sizes), (1, *sizes), (max_batch, *sizes))
    config.add_optimization_profile(profile)
    if library.backend == "tensorrt_rtx" and device is not None:  # else for all from 8.0 on
        config.num_compute_capabilities = 1
        wanted = f"SM{device.capability.replace('.', '')}"
        config.set_compute_capability(trt.ComputeCapability.__members__[wanted], 0)
    if exact:
        config.clear_flag(trt.BuilderFlag.TF32)
    if library.backend == "tensorrt":
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace(device))
    if hasattr(trt, "IProgressMonitor"):
        monitor = _monitor(trt, phases)
        config.progress_monitor = monitor
    measured = None if timing is None else _timing(trt, config, timing)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise _error(library, errors, "it gives no reason")
    if timing is not None and measured is not None:
        timing.parent.mkdir(parents=True, exist_ok=True)
        artefact.replace(timing, bytes(measured.serialize()))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    engine = bytes(serialized)
    return Built(
        engine,
        dict(Counter(layer.type.name for layer in layers).most_common()),
        tuple(layer.name for layer in layers if layer.type.name.startswith("PLUGIN")),
        () if device is None else _inspect(trt, logger, engine),
    )


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger for the library, and the list that its errors are put into."""
    errors: list[str] = []
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in severe:
                errors.append(text)
            log.debug("%s: %s", severity, text)

    return Logger(), errors


def _monitor(trt: Any, phases: Listener) -> Any:
    """What the library tells its progress to."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(name, step)
            return True  # who wants it to stop, ends the process

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()


def _error(library: Library, told: list[str], otherwise: str) -> BuildError:
    """The first thing that the library said, as one line."""
    text = textwrap.shorten(told[0] if told else otherwise, 300, placeholder=" …")
    if any(sign in line.lower() for line in told for sign in MEMORY_SIGNS):
        return NoMemory(
            f"{library.backend} {library.version} ran out of memory: close other programs, "
            f"or build with a smaller --max-batch ({text})"
        )
    return BuildError(f"{library.backend} {library.version} does not build this graph: {text}")


def _workspace(device: Device | None) -> int:
    """Bytes. TensorRT proper, untested: written against 10.3 to 11."""
    return WORKSPACE_BYTES if device is None else min(WORKSPACE_BYTES, device.memory_bytes // 4)


def _timing(trt: Any, config: Any, path: Path) -> Any:
    """The timing cache, attached; a damaged or foreign one is begun anew. TensorRT proper, untested."""
    for known in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _inspect(trt: Any, logger: Any, engine: bytes) -> tuple[str, ...]:
    """The names of the layers that the library made. Needs a GPU: untested."""
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine)
    if loaded is None:
        return ()
    inspector = loaded.create_engine_inspector()
    told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return tuple(
        layer if isinstance(layer, str) else str(layer.get("Name")) for layer in told.get("Layers", [])
    )
