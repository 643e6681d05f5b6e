"""Engine: window in, prediction out; which one runs depends on what the machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from capture.messages import StreamName
from runtime.network import Network
from runtime.windows import Window

ENGINES = ("auto", "onnxruntime-cuda", "onnxruntime-cpu")


class EngineError(Exception):
    """An engine that cannot run here; the message says what is missing."""


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

    def infer(self, window: Window) -> Prediction: ...


def choose(name: str, network: Network, *, threads: int = 1) -> Engine:
    """Load the engine called ``name``; ``auto`` takes the fastest that this machine can run.

    Raises:
        EngineError: the named engine is unknown or cannot run here.
    """
    from runtime.engines import onnx

    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "auto":
        name = "onnxruntime-cuda" if onnx.has_cuda() else "onnxruntime-cpu"
    return onnx.OnnxEngine(network, cuda=name == "onnxruntime-cuda", threads=threads)
