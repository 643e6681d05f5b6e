"""The GD-Unit as one fused Triton kernel, and its way ahead of time to machine code.

Projections of logits and representations, the scores of all edges and the softmax over them (eq. 8) happen
in one launch without a tensor in between: one program a window. Sizes are arguments, not constants, so one
compiled kernel of a type serves every network and batch. It reads float32, float16 or bfloat16, sums in
float32 and takes the softmax in float32. ``models.gd_unit.gd_unit`` is the definition it is held to.

``python -m models.plugins.gd_unit_kernel`` writes the PTX that lies in ``models/plugins/ptx`` again. It is
made for compute capability 8.0, and the driver turns it into code of any later GPU when it is loaded; so
neither Triton nor PyTorch is needed where an engine runs (``models.plugins.kernel_file``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.plugins.kernel_file import ENTRY, PTX, WARPS, CompiledKernel, ElementType, bits, ptx_path, write

ELEMENT: dict[ElementType, str] = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16"}
INPUTS = ("logits", "reprs", "w_logit", "b_logit", "w_repr", "b_repr", "w_edge", "b_edge")
INTEGERS = ("batch", "outputs", "hidden", "size", "alpha_bits")
OPTIONS = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": True}
BLOCK_JOINT, BLOCK_IN = 16, 64  # how much of a weight matrix a program holds at once
PORTABLE = 80  # compute capability of the shipped PTX: the first with bfloat16
PTX_ISA = 80  # of CUDA 12.0, older than any driver that TensorRT 10 runs on


@triton.jit
def _ends(x, step, w, b, edge, teacher, n_in, n_joint, JOINT: tl.constexpr, IN: tl.constexpr):
    """One projection of all three vertices, scored: each one's share as student, and as teacher.

    x: the first vertex's row (n_in,), the others ``step`` further; w (n_joint, n_in), b (n_joint,);
    edge, teacher: this projection's part of w_edge for a student and for a teacher, (n_joint,) each.
    Edge and projection are multiplied first, so that a weight is read once for three vertices.
    """
    s = 0.0
    t = 0.0
    for first in range(0, n_joint, JOINT):
        rows = first + tl.arange(0, JOINT)
        bias = tl.load(b + rows, rows < n_joint, 0.0).to(tl.float32)  # (JOINT,)
        s += tl.sum(bias * tl.load(edge + rows, rows < n_joint, 0.0).to(tl.float32), 0)
        t += tl.sum(bias * tl.load(teacher + rows, rows < n_joint, 0.0).to(tl.float32), 0)
    s0, s1, s2, t0, t1, t2 = s, s, s, t, t, t
    for start in range(0, n_in, IN):
        columns = start + tl.arange(0, IN)
        as_student = tl.zeros((IN,), tl.float32)
        as_teacher = tl.zeros((IN,), tl.float32)
        for first in range(0, n_joint, JOINT):
            rows = first + tl.arange(0, JOINT)
            inside = (rows < n_joint)[:, None] & (columns < n_in)[None, :]
            tile = tl.load(w + rows[:, None] * n_in + columns[None, :], inside, 0.0).to(tl.float32)
            from_edge = tl.load(edge + rows, rows < n_joint, 0.0).to(tl.float32)
            from_teacher = tl.load(teacher + rows, rows < n_joint, 0.0).to(tl.float32)
            as_student += tl.sum(tile * from_edge[:, None], 0)
            as_teacher += tl.sum(tile * from_teacher[:, None], 0)
        x0 = tl.load(x + columns, columns < n_in, 0.0).to(tl.float32)  # (IN,)
        x1 = tl.load(x + step + columns, columns < n_in, 0.0).to(tl.float32)
        x2 = tl.load(x + 2 * step + columns, columns < n_in, 0.0).to(tl.float32)
        s0 += tl.sum(x0 * as_student, 0)
        s1 += tl.sum(x1 * as_student, 0)
        s2 += tl.sum(x2 * as_student, 0)
        t0 += tl.sum(x0 * as_teacher, 0)
        t1 += tl.sum(x1 * as_teacher, 0)
        t2 += tl.sum(x2 * as_teacher, 0)
    return s0, s1, s2, t0, t1, t2


@triton.jit(do_not_specialize=["batch", "outputs", "hidden", "size", "alpha_bits"])
def gd_unit_kernel(logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge,
                   batch, outputs, hidden, size, alpha_bits, edges,
                   JOINT: tl.constexpr, IN: tl.constexpr):  # fmt: skip
    """Edges (B, 6) in ``EDGE_ORDER`` from logits (3, B, C) and representations (3, B, H), all contiguous.

    Weights as in ``models.gd_unit.gd_unit``: w_logit (g, C), w_repr (g, H), w_edge (1, 4g). outputs is C,
    hidden is H, size is g; alpha_bits are those of the float32 alpha: inputs, then integers, then the output
    is the order in which TensorRT launches a kernel that lies in an engine. Grid: (batch,).
    """
    alpha = alpha_bits.to(tl.float32, bitcast=True)
    window = tl.program_id(0).to(tl.int64)
    many = batch.to(tl.int64)
    s0, s1, s2, t0, t1, t2 = _ends(logits + window * outputs, many * outputs, w_logit, b_logit,
                                   w_edge, w_edge + 2 * size, outputs, size, JOINT, IN)  # fmt: skip
    r0, r1, r2, u0, u1, u2 = _ends(reprs + window * hidden, many * hidden, w_repr, b_repr,
                                   w_edge + size, w_edge + 3 * size, hidden, size, JOINT, IN)  # fmt: skip
    s0, s1, s2, t0, t1, t2 = s0 + r0, s1 + r1, s2 + r2, t0 + u0, t1 + u1, t2 + u2
    bias = tl.load(b_edge).to(tl.float32)
    e0 = (s0 + t1 + bias) * alpha  # student text: from vision, from audio
    e1 = (s0 + t2 + bias) * alpha
    e2 = (s1 + t0 + bias) * alpha  # student vision: from text, from audio
    e3 = (s1 + t2 + bias) * alpha
    e4 = (s2 + t0 + bias) * alpha  # student audio: from text, from vision
    e5 = (s2 + t1 + bias) * alpha
    top = tl.maximum(tl.maximum(tl.maximum(e0, e1), tl.maximum(e2, e3)), tl.maximum(e4, e5))
    e0, e1, e2 = tl.exp(e0 - top), tl.exp(e1 - top), tl.exp(e2 - top)
    e3, e4, e5 = tl.exp(e3 - top), tl.exp(e4 - top), tl.exp(e5 - top)
    total = e0 + e1 + e2 + e3 + e4 + e5
    out = edges + window * 6
    kind = edges.dtype.element_ty
    tl.store(out, (e0 / total).to(kind))
    tl.store(out + 1, (e1 / total).to(kind))
    tl.store(out + 2, (e2 / total).to(kind))
    tl.store(out + 3, (e3 / total).to(kind))
    tl.store(out + 4, (e4 / total).to(kind))
    tl.store(out + 5, (e5 / total).to(kind))


def launch(
    logits: Any, reprs: Any, w_logit: Any, b_logit: Any, w_repr: Any, b_repr: Any, w_edge: Any, b_edge: Any,
    edges: Any, alpha: float,
) -> None:  # fmt: skip
    """Run the kernel on contiguous PyTorch tensors of one type; ``edges`` (B, 6) is written."""
    batch, outputs = logits.shape[1:]
    gd_unit_kernel[(batch,)](
        logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge,
        batch, outputs, reprs.shape[2], w_logit.shape[0], bits(alpha), edges,
        JOINT=BLOCK_JOINT, IN=BLOCK_IN, **OPTIONS,
    )  # fmt: skip


def compile_kernel(
    capability: int, element: ElementType = "fp32", *, ptx_isa: int | None = None
) -> CompiledKernel:
    """Compile for a compute capability (87 for 8.7) on any machine, with or without a GPU.

    ptx_isa: version of the PTX language, 80 for 8.0; None: the newest that Triton knows.
    Raises RuntimeError (Triton's) for a capability that Triton does not know.
    """
    pointer = dict.fromkeys(INPUTS, ELEMENT[element])
    signature = {
        **pointer,
        **dict.fromkeys(INTEGERS, "i32"),
        "edges": ELEMENT[element],
        "JOINT": "constexpr",
        "IN": "constexpr",
    }
    source = ASTSource(gd_unit_kernel, signature, constexprs={"JOINT": BLOCK_JOINT, "IN": BLOCK_IN})
    options: dict[str, Any] = dict(OPTIONS)
    if ptx_isa is not None:
        options["ptx_version"] = ptx_isa
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = without_scratch(made.asm["ptx"], len(INPUTS) + len(INTEGERS) + 1)
    return CompiledKernel(capability, element, ptx, made.asm["cubin"], made.metadata.shared)


def without_scratch(ptx: str, arguments: int) -> str:
    """PTX whose entry takes the first ``arguments`` parameters only.

    Triton adds pointers to scratch memory, which this kernel does not use; who launches it as plain PTX
    (TensorRT does) knows nothing of them. Raises ValueError where one of them is read.
    """
    head, opened, rest = ptx.partition(f".entry {ENTRY}(")
    listed, closed, body = rest.partition(")")
    extra = [f"{ENTRY}_param_{i}" for i in range(arguments, listed.count(".param"))]
    if read := [name for name in extra if f"[{name}" in body]:
        raise ValueError(f"the kernel reads its scratch memory ({', '.join(read)}): it cannot run without")
    kept = ",".join(listed.split(",")[:arguments])
    return f"{head}{opened}{kept}\n{closed}{body}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.plugins.gd_unit_kernel",
        description="Write the GD-Unit's PTX anew, for float32, float16 and bfloat16. Needs Triton, no GPU.",
    )
    parser.parse_args(arguments)
    PTX.mkdir(exist_ok=True)
    for element in ELEMENT:
        made = compile_kernel(PORTABLE, element, ptx_isa=PTX_ISA)
        write(made)
        print(ptx_path(element))
    return 0


if __name__ == "__main__":
    sys.exit(main())
