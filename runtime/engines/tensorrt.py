"""TensorRT engine, and TensorRT-RTX's: a built engine runs as one CUDA graph per batch size. No PyTorch.

Everything from ``Runner`` on needs a GPU and has not been run: see docs/tensorrt.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from runtime.engine import EngineError, Prediction
from runtime.engines import artefact, compiler
from runtime.engines.artefact import ENGINE, RUNTIME_CACHE, Backend, Manifest, Precision
from runtime.engines.compiler import Recipe
from runtime.engines.cuda import Pair, Stream, device
from runtime.engines.ends import OUTPUTS, Ends, Tensors
from runtime.engines.libraries import Library
from runtime.engines.progress import Phases, Shown
from runtime.engines.worker import Interrupted
from runtime.network import Network
from runtime.windows import Window

log = logging.getLogger("runtime.engines.tensorrt")


class Refused(EngineError):
    """The library does not take an engine."""


def open_engine(
    network: Network, backend: Backend, *, precision: Precision | None = None, threads: int = 1
) -> TensorRTEngine:
    """The engine for this network and this GPU, from disk, or built now.

    Raises:
        EngineAbsent: the library is not installed, or there is no GPU.
        EngineError: the engine can neither be loaded nor built.
    """
    recipe, console = compiler.check(network, backend, precision), Console(stderr=True)
    device()  # TensorRT-RTX builds without a GPU; running is another matter
    folder = up_to_date(recipe, console)
    try:
        return TensorRTEngine(network, recipe.library, folder, threads=threads)
    except Refused as error:  # by its manifest it fits: something that no manifest knows has changed
        folder = _build(recipe, str(error), console)
        return TensorRTEngine(network, recipe.library, folder, threads=threads)


def up_to_date(recipe: Recipe, console: Console) -> Path:
    """The folder of an engine that fits; one that is stale, damaged or not there is built, with progress.

    Raises EngineError where it cannot be built, KeyboardInterrupt when Ctrl-C is pressed meanwhile.
    """
    folder, why = find(recipe)
    return _build(recipe, why, console) if folder is None else folder


def _build(recipe: Recipe, why: str, console: Console) -> Path:
    title = f"building the {recipe.backend} engine ({recipe.precision}): {why}"
    phases = Phases()
    try:
        with Shown(console, title, phases) as shown:
            place, manifest = compiler.build(recipe, phases, beat=shown.beat)
    except Interrupted:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise EngineError(
            f"{error.filename or recipe.place}: {error.strerror}: no engine can be kept there; "
            f"free the space, or set EMOTION_ENGINES to another folder"
        ) from error
    log.info("%s engine built in %.1f s: %s", recipe.backend, manifest.build_s, place)
    return place


def find(recipe: Recipe) -> tuple[Path | None, str]:
    """Where an engine lies that fits, and else why none does.

    An engine of TensorRT-RTX that was built without a GPU fits any GPU that the library knows.
    """
    places = [recipe.place]
    if recipe.backend == "tensorrt_rtx" and recipe.device is not None:
        places.append(artefact.home(recipe.network.manifest.name, recipe.backend, recipe.precision, None))
    wanted, reasons = recipe.wanted(), []
    for place in places:
        if not place.exists():
            continue
        try:
            manifest = artefact.read(place)
        except artefact.ArtefactError as error:
            reasons.append(str(error))
            continue
        wrong = artefact.differences(manifest, wanted)
        damaged = artefact.damage(place, manifest)
        if not wrong and damaged is None:
            return place, ""
        reasons.append("the one on disk is stale: " + "; ".join(wrong) if wrong else str(damaged))
    return None, reasons[0] if reasons else "there is none yet"


class TensorRTEngine:
    """Runs windows through a built engine; the words' embeddings come from ONNX Runtime on the CPU.

    folder: of the artefact; it is believed to fit (``find``). Raises EngineError where it does not load
    or its first answer is no number.
    """

    def __init__(self, network: Network, library: Library, folder: Path, *, threads: int = 1) -> None:
        manifest = artefact.read(folder)
        self.name: str = library.backend
        self.precision: str = manifest.precision
        self._ends = Ends(network, threads=threads)
        try:
            self._runner = Runner(library, folder, manifest)
            self._try()
        except EngineError:
            raise
        except Exception as error:  # of the library, its bindings or the plugin, which share no base
            raise EngineError(
                f"{self.name} {library.version} fails with {folder}: {type(error).__name__}: {error}"
            ) from error

    def infer(self, window: Window) -> Prediction:
        """Run the network on one window (batch of one)."""
        return self._ends.prediction(window, self._runner.run(self._ends.feed(window)))

    def _try(self) -> None:
        """One pass over nothing: it compiles, warms up and captures before the session starts."""
        feed = {name: np.zeros((1, *shape), np.float32) for name, shape in self._runner.inputs.items()}
        answer = self._runner.run(feed)
        if not all(np.isfinite(answer[name]).all() for name in OUTPUTS):
            raise EngineError(f"{self.name}: the engine's first answer holds no number: build it anew")


@dataclass(frozen=True, slots=True)
class _Lane:
    """What one batch size needs: a context of its own, its tensors, and the launch of its CUDA graph."""

    context: Any  # a captured graph points into it
    inputs: dict[str, Pair]
    outputs: dict[str, Pair]
    launch: Callable[[], None]


class Runner:
    """A deserialised engine. ``run`` takes and gives arrays; for each batch size it has a captured graph.

    Raises EngineError where the engine is refused.
    """

    def __init__(self, library: Library, folder: Path, manifest: Manifest) -> None:
        self._library, self._trt = library, library.module
        self._manifest, self._folder = manifest, folder
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        if manifest.plugin and not manifest.embedded:
            from models.plugins import gd_unit_plugin

            gd_unit_plugin.register(self._trt)  # before the engine is read: it holds the plugin's fields
        self._stream = Stream()
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes())
        if self._engine is None:
            raise Refused(f"{library.backend} {library.version} does not take {folder / ENGINE}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = self._trt.TensorIOMode.INPUT
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == given]
        self._outputs = [name for name in names if name not in self._inputs]
        self.inputs = {name: tuple(self._engine.get_tensor_shape(name))[1:] for name in self._inputs}
        self._lanes: dict[int, _Lane] = {}

    def run(self, feed: Tensors) -> dict[str, npt.NDArray[Any]]:
        """One pass: inputs (B, …) -> outputs (B, …), valid until the next pass of this batch size.

        Raises EngineError for a batch that the engine was not built for, or when CUDA fails.
        """
        batch = len(feed[self._inputs[0]])
        if batch > self._manifest.max_batch:
            raise EngineError(
                f"a batch of {batch}: this engine was built for up to {self._manifest.max_batch}; "
                f"build it with --max-batch {batch}"
            )
        lane = self._lanes.get(batch)
        if lane is None:
            lane = self._lanes[batch] = self._lane(batch)
        for name, pair in lane.inputs.items():
            np.copyto(pair.host, feed[name])
        lane.launch()
        self._stream.wait()
        return {name: pair.host for name, pair in lane.outputs.items()}

    def _lane(self, batch: int) -> _Lane:
        context, save = self._context()
        for name in self._inputs:
            context.set_input_shape(name, (batch, *self.inputs[name]))
        inputs = {name: self._pair(context, name) for name in self._inputs}
        outputs = {name: self._pair(context, name) for name in self._outputs}

        def once() -> None:
            for pair in inputs.values():
                self._stream.upload(pair)
            if not context.execute_async_v3(self._stream.handle):
                raise EngineError(f"{self._library.backend}: the engine does not run on this GPU")
            for pair in outputs.values():
                self._stream.download(pair)

        once()  # the first pass allocates and compiles, which no capture may
        self._stream.wait()
        save()
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX knows when it is not
        if capturable is not None and not capturable(self._stream.handle):
            log.info("%s: no CUDA graph for a batch of %d", self._library.backend, batch)
            return _Lane(context, inputs, outputs, once)
        launch = self._stream.capture(once)
        return _Lane(context, inputs, outputs, launch)

    def _pair(self, context: Any, name: str) -> Pair:
        shape = tuple(context.get_tensor_shape(name))
        pair = Pair(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))
        context.set_tensor_address(name, pair.address)
        return pair

    def _context(self) -> tuple[Any, Callable[[], None]]:
        """An execution context, and what keeps the kernels that were compiled for it."""
        if self._library.backend != "tensorrt_rtx":
            return self._checked(self._engine.create_execution_context()), lambda: None
        trt, path = self._trt, self._folder / RUNTIME_CACHE
        config = self._engine.create_runtime_config()
        # We capture the copies, too; and what is captured must be the final kernels.
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        cache = config.create_runtime_cache()
        known = path.read_bytes() if path.is_file() else b""
        if known:
            cache.deserialize(known)  # refuses what another GPU or driver wrote
        config.set_runtime_cache(cache)

        def save() -> None:
            content = bytes(cache.serialize())
            if content != known:
                try:
                    artefact.replace(path, content)
                except OSError as error:  # a read-only folder: compiled again next time
                    log.info("%s: %s", path, error.strerror)

        return self._checked(self._engine.create_execution_context(config)), save

    def _checked(self, context: Any) -> Any:
        if context is None:
            raise EngineError(f"{self._library.backend}: too little GPU memory to run {self._folder}")
        return context
