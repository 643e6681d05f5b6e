"""ONNX Runtime engine: runs everywhere, on the CPU or through CUDA."""

from __future__ import annotations

from runtime.engine import Prediction
from runtime.engines.ends import OUTPUTS, Ends, session
from runtime.network import Network
from runtime.windows import Window


class OnnxEngine:
    """Two sessions: the text encoder, run only when the words change, and DMD.

    Args:
        network: a checked bundle.
        cuda: run on the GPU; raises EngineError where ONNX Runtime has no CUDA.
        threads: of each operator; one leaves the other cores to the capture processes.
    """

    def __init__(self, network: Network, *, cuda: bool = False, threads: int = 1) -> None:
        self._dmd = session(network, network.file("network.onnx"), cuda=cuda, threads=threads)
        self._ends = Ends(network, cuda=cuda, threads=threads)
        self.name = "onnxruntime-cuda" if cuda else "onnxruntime-cpu"
        self.precision = network.manifest.precision

    def infer(self, window: Window) -> Prediction:
        """Run the network on one window (batch of one)."""
        outputs = self._dmd.run(list(OUTPUTS), self._ends.feed(window))
        return self._ends.prediction(window, dict(zip(OUTPUTS, outputs, strict=True)))
