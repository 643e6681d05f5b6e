"""Inference benchmark, PyTorch's part: one window through the network, written plainly, pruned, compiled.

``runtime.bench engine --shapes`` times what is listed here beside ONNX Runtime and the engines of the
machine; every candidate computes the same function of the same weights, and says so before it is timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.bench_plain import PlainDMD
from models.dmd import DMD
from models.dmd_config import PRESETS
from models.export import INPUTS, example_inputs, export_onnx
from models.gd_unit import gd_unit

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """One way of computing the fused answer of the window that was made for all."""

    name: str
    run: Callable[[], F32]  # (1, C)


class Bench:
    """The network of a preset with random weights, and one window with every step real.

    device: cpu or cuda. Raises KeyError for an unknown preset.
    """

    def __init__(self, shapes: str, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.device = device
        self.model = DMD(PRESETS[shapes]).to(device).eval()
        self.inputs = tuple(x.to(device) for x in example_inputs(self.model, 1))

    @property
    def feed(self) -> dict[str, F32]:
        """The window by the names of the graph's inputs, batch of one."""
        return {name: x.cpu().numpy() for name, x in zip(INPUTS, self.inputs, strict=True)}

    def export(self, path: Path) -> None:
        """Write the pruned graph."""
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names what it does without
        export_onnx(self.model.cpu(), path)
        self.model.to(self.device)

    def candidates(self) -> Sequence[Candidate]:
        """The plain network first: what all others are measured against."""
        plain = PlainDMD(self.model.config).to(self.device).copy_of(self.model).eval()
        found = [
            Candidate(
                "PyTorch, written plainly, whole graph",
                self._answer(lambda: plain(*self.inputs[:3])["output_logit"]),
            ),
            Candidate("PyTorch, whole graph", self._answer(lambda: self.model(*self.inputs).logits)),
            Candidate("PyTorch, pruned graph", self._answer(self._infer)),
        ]
        if self.device == "cuda":
            found += self._on_gpu()
        return found

    def _infer(self) -> Tensor:
        return self.model.infer(*self.inputs).logits

    def _on_gpu(self) -> list[Candidate]:
        """Compiled, and as a CUDA graph, with and without the fused GD-Unit. Untested: no GPU was at hand."""
        found = []
        for fused in (True, False):
            title = "with" if fused else "without"
            with nullcontext() if fused else gd_unit.set_kernel_enabled("cuda", False):
                compiled = torch.compile(self._infer)
                run = self._answer(compiled)
                run()  # compiles while the kernel is as it is to be
                found.append(Candidate(f"PyTorch, pruned, compiled, {title} the fused GD-Unit", run))
                graph = torch.cuda.CUDAGraph()
                self._answer(self._infer)()
                with torch.no_grad(), torch.cuda.graph(graph):
                    out = self._infer()

                def replay(graph: torch.cuda.CUDAGraph = graph, out: Tensor = out) -> F32:
                    graph.replay()
                    return _numpy(out)

                found.append(Candidate(f"PyTorch, pruned, CUDA graph, {title} the fused GD-Unit", replay))
        return found

    def _answer(self, compute: Callable[[], Tensor]) -> Callable[[], F32]:
        def run() -> F32:
            with torch.no_grad():
                return _numpy(compute())

        return run


def _numpy(x: Tensor) -> F32:
    """On the host: on a GPU, this waits until all is done."""
    return np.asarray(x.float().cpu().numpy(), np.float32)
