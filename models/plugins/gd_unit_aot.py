"""The GD-Unit as TensorRT's ahead-of-time quickly deployable plugin: the kernel lies in the engine.

An engine built with it runs where there is no Python (trtexec, C++), and no plugin has to be registered to
read it. TensorRT 10.9 and later have the form; it takes PTX, up to 48 KiB of shared memory, and arguments in
the order inputs, int32 numbers, outputs, which is the kernel's. ``dmd_aot::GDUnit`` beside the plugin's own
``dmd::GDUnit``, because both register a creator.

Source: TensorRT's Python plugin guide, "Providing an Ahead-of-Time (AOT) implementation". Untested with
TensorRT: no machine with it was at hand, and TensorRT-RTX has no such module.
"""

from __future__ import annotations

import importlib
from typing import Any

from models.plugins.kernel_file import ENTRY, THREADS, ElementType, bits, shipped

NAMESPACE = "dmd_aot"
ID = f"{NAMESPACE}::GDUnit"
SINCE = (10, 9)  # of TensorRT
TENSORS = ("logits", "reprs", "w_logit", "b_logit", "w_repr", "b_repr", "w_edge", "b_edge")
EDGES = 6


def register(trt: Any) -> None:
    """Make ``dmd_aot::GDUnit`` known to ``tensorrt``; a second call changes nothing.

    Raises ImportError for a TensorRT without quickly deployable plugins.
    """
    if trt not in _done:
        define(trt, importlib.import_module(f"{trt.__name__}.plugin"))
        _done.append(trt)


_done: list[Any] = []


def define(trt: Any, trtp: Any) -> None:
    """Register the plugin's description and its implementation; trtp: the module ``tensorrt.plugin``."""
    elements: dict[Any, ElementType] = {
        trt.DataType.FLOAT: "fp32",
        trt.DataType.HALF: "fp16",
        trt.DataType.BF16: "bf16",
    }

    def describe(  # type: ignore[no-untyped-def]
        logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge, alpha
    ):
        """Edges (B, 6), of the logits' type."""
        return trtp.from_shape_expr((logits.shape_expr[1], EDGES), dtype=logits.dtype)

    def implement(  # type: ignore[no-untyped-def]
        logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge, alpha, outputs, tactic
    ):
        """The kernel's name and PTX, how to launch it, and its numbers as expressions of the shapes."""
        kernel = shipped(elements[logits.dtype])
        launch = trtp.KernelLaunchParams()
        launch.grid_x = logits.shape_expr[1]  # a program a window
        launch.block_x = THREADS
        launch.shared_mem = kernel.shared_bytes
        numbers = (*_sizes(logits, reprs, w_logit), bits(float(alpha)))
        extra = trtp.SymIntExprs.from_tuple([trtp.SymInt32(one) for one in numbers])
        return ENTRY.encode(), kernel.ptx.encode(), launch, extra

    # The decorators read types from the signature, as values: these exist only now.
    inputs = dict.fromkeys(TENSORS, trtp.TensorDesc)
    describe.__annotations__ = {**inputs, "alpha": float, "return": trtp.TensorDesc}
    answer = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]
    implement.__annotations__ = {
        **inputs,
        "alpha": float,
        "outputs": tuple[trtp.TensorDesc],
        "tactic": int,
        "return": answer,
    }
    trtp.register(ID)(describe)
    trtp.aot_impl(ID)(implement)


def _sizes(logits: Any, reprs: Any, w_logit: Any) -> tuple[Any, ...]:
    """Of one launch, in the kernel's order: batch, C, H, g (``models.plugins.launch.Sizes``)."""
    return logits.shape_expr[1], logits.shape_expr[2], reprs.shape_expr[2], w_logit.shape_expr[0]
