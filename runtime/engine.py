"""Engine: window in, prediction out; which one runs depends on what the machine has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from capture.messages import StreamName
from runtime.network import Network
from runtime.windows import Window

log = logging.getLogger("runtime.engine")

BY_SPEED = ("tensorrt", "tensorrt_rtx", "onnxruntime-cuda", "onnxruntime-cpu")  # what ``auto`` tries
SEVERAL = {"auto": BY_SPEED, "onnxruntime": BY_SPEED[2:]}  # names for the first of them that runs
ENGINES = (*SEVERAL, *BY_SPEED)


class EngineError(Exception):
    """An engine that cannot run here; the message says what is missing."""


class EngineAbsent(EngineError):
    """What the engine needs is not on this machine: a library, a GPU. Nothing is broken."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network says of one window."""

    output: npt.NDArray[np.float32]  # (K,) calibrated probabilities, or (1,) sentiment
    logits: dict[StreamName, npt.NDArray[np.float32]]  # unimodal heads, (K,) each
    homo_edges: npt.NDArray[np.float32]  # (6,) distillation strengths of HomoGD, sum 1
    hetero_edges: npt.NDArray[np.float32]  # (6,) of HeteroGD

    @property
    def finite(self) -> bool:
        """Whether every number is one; a network fed with nonsense may answer with none."""
        parts = (self.output, *self.logits.values(), self.homo_edges, self.hetero_edges)
        return all(bool(np.isfinite(part).all()) for part in parts)


class Engine(Protocol):
    """Runs the network. Not thread-safe; ``infer`` is called from one loop."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def infer(self, window: Window) -> Prediction: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that runs, why those that were tried before it do not, and what runs if it fails."""

    engine: Engine
    passed_over: dict[str, str] = field(default_factory=dict)
    spare: Callable[[], Engine] | None = None  # None: nothing, or the engine was asked for by its own name


def choose(name: str, network: Network, *, threads: int = 1) -> Choice:
    """Load the engine called ``name``; ``auto`` and ``onnxruntime`` take the fastest that runs here.

    A TensorRT engine that is not there, or was built for something else, is built; this takes a while,
    and says so on the terminal.

    Raises:
        EngineError: the named engine is unknown or cannot run here; of several: none can.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    passed_over: dict[str, str] = {}
    several = SEVERAL.get(name, (name,))
    last = several[-1]
    for candidate in several:
        try:
            engine = _open(candidate, network, threads)
        except EngineError as error:
            if candidate == last:
                raise
            passed_over[candidate] = str(error)
            if not isinstance(error, EngineAbsent):
                log.warning("%s cannot run, the next engine is tried: %s", candidate, error)
        else:
            return Choice(
                engine, passed_over, None if candidate == last else lambda: _open(last, network, threads)
            )
    raise AssertionError("the last engine either runs or raises")


def _open(name: str, network: Network, threads: int) -> Engine:
    from runtime.engines.onnx import OnnxEngine
    from runtime.engines.tensorrt import open_engine

    match name:
        case "tensorrt":
            return open_engine(network, "tensorrt", threads=threads)
        case "tensorrt_rtx":
            return open_engine(network, "tensorrt_rtx", threads=threads)
        case _:
            return OnnxEngine(network, cuda=name == "onnxruntime-cuda", threads=threads)
