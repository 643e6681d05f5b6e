"""Inference benchmark, PyTorch's part: one window through the network, written plainly, pruned, compiled.

``runtime.bench engine --shapes`` times what is listed here beside ONNX Runtime and the engines of the
machine; every candidate computes the same function of the same weights, and says so before it is timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
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
Run = Callable[[], F32]  # computes the fused answer of the window that was made for all, (1, C)
PLAIN, WHOLE, PRUNED = "PyTorch, written plainly", "PyTorch, whole graph", "PyTorch, pruned graph"
FUSED, UNFUSED = "with the Triton GD-Unit", "without it"


def names(device: str) -> tuple[str, ...]:
    """What there is to time on a device (cpu or cuda): first what all others are measured against."""
    ways = (
        f"PyTorch, pruned, {how}, {unit}" for how in ("compiled", "CUDA graph") for unit in (FUSED, UNFUSED)
    )
    return (PLAIN, WHOLE, PRUNED, *(ways if device == "cuda" else ()))


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

    def runner(self, name: str) -> Run:
        """One of ``names``, ready to run. Raises KeyError for another."""
        if name == PLAIN:
            plain = PlainDMD(self.model.config).to(self.device).copy_of(self.model).eval()
            return _answer(lambda: plain(*self.inputs[:3])["output_logit"])
        if name == WHOLE:
            return _answer(lambda: self.model(*self.inputs).logits)
        if name == PRUNED:
            return _answer(self._infer)
        if name not in names(self.device):
            raise KeyError(name)
        with nullcontext() if name.endswith(FUSED) else gd_unit.set_kernel_enabled("cuda", False):
            return self._compiled() if ", compiled, " in name else self._captured()

    def _infer(self) -> Tensor:
        return self.model.infer(*self.inputs).logits

    def _compiled(self) -> Run:
        """Untested: no GPU was at hand."""
        run = _answer(torch.compile(self._infer))
        run()  # compiles now, while the kernel is as it is to be
        return run

    def _captured(self) -> Run:
        """As a CUDA graph. Untested: no GPU was at hand."""
        _answer(self._infer)()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            out = self._infer()

        def replay() -> F32:
            graph.replay()
            return _numpy(out)

        return replay


def ready(shapes: str, threads: int, device: str, name: str) -> Run:
    """A candidate from nothing, as a process of its own makes it: the same weights and window in all."""
    return Bench(shapes, threads, device).runner(name)


def _answer(compute: Callable[[], Tensor]) -> Run:
    def run() -> F32:
        with torch.no_grad():
            return _numpy(compute())

    return run


def _numpy(x: Tensor) -> F32:
    """On the host: on a GPU, this waits until all is done."""
    return np.asarray(x.float().cpu().numpy(), np.float32)
