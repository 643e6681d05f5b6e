"""The GD-Unit, graph distillation unit: who teaches whom, as the custom operator ``dmd::gd_unit``.

Three modalities, in the order text, vision, audio, are the vertices of a directed graph with six
edges. An edge's weight comes from the logits and the representations at both of its ends. What the
student pays for its distance to the teacher is in ``models.losses``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODALITIES = ("text", "vision", "audio")  # the order of every stacked tensor and of GD-Unit vertices
_PAIRS = tuple((student, teacher) for student in range(3) for teacher in range(3) if student != teacher)
STUDENTS = tuple(student for student, _ in _PAIRS)  # (0, 0, 1, 1, 2, 2)
TEACHERS = tuple(teacher for _, teacher in _PAIRS)  # (1, 2, 0, 2, 0, 1)
EDGE_ORDER = tuple(f"{MODALITIES[teacher]}->{MODALITIES[student]}" for student, teacher in _PAIRS)
"""Columns of every edge tensor, as ``teacher->student``."""


@torch.library.custom_op("dmd::gd_unit", mutates_args=())
def gd_unit(
    logits: Tensor,
    reprs: Tensor,
    w_logit: Tensor,
    b_logit: Tensor,
    w_repr: Tensor,
    b_repr: Tensor,
    w_edge: Tensor,
    b_edge: Tensor,
    alpha: float,
) -> Tensor:
    """Eq. 8, edge weights of the distillation graph: (B, 6) in ``EDGE_ORDER``, each row sums to 1.

    logits (3, B, C), reprs (3, B, H); w_logit (g, C), b_logit (g,), w_repr (g, H), b_repr (g,),
    w_edge (1, 4g): the student's half, then the teacher's; b_edge (1,); alpha flattens the softmax,
    which is taken in float32 or wider.
    """
    return _edges(logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge, alpha)


def _edges(
    logits: Tensor,
    reprs: Tensor,
    w_logit: Tensor,
    b_logit: Tensor,
    w_repr: Tensor,
    b_repr: Tensor,
    w_edge: Tensor,
    b_edge: Tensor,
    alpha: float,
) -> Tensor:
    z = _vertices(logits, reprs, w_logit, b_logit, w_repr, b_repr)  # (3, B, 2g)
    half = z.shape[-1]
    as_student, as_teacher = z @ w_edge[0, :half], z @ w_edge[0, half:]  # (3, B) each
    score = as_student[list(STUDENTS)] + as_teacher[list(TEACHERS)] + b_edge  # (6, B)
    wide = torch.promote_types(score.dtype, torch.float32)
    return (score.to(wide) * alpha).softmax(dim=0).to(logits.dtype).t().contiguous()


@gd_unit.register_kernel("cuda")
def _on_gpu(
    logits: Tensor,
    reprs: Tensor,
    w_logit: Tensor,
    b_logit: Tensor,
    w_repr: Tensor,
    b_repr: Tensor,
    w_edge: Tensor,
    b_edge: Tensor,
    alpha: float,
) -> Tensor:
    """The same on a GPU, in one launch where Triton is installed. Untested: no GPU was at hand."""
    inputs = logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge
    launch = _fused()
    if launch is None or logits.dtype == torch.float64:
        return _edges(*inputs, alpha)
    edges = logits.new_empty((logits.shape[1], len(_PAIRS)))
    launch(*(one.contiguous() for one in inputs), edges, alpha)
    return edges


@cache
def _fused() -> Callable[..., None] | None:
    """What launches ``models.plugins.gd_unit_kernel``; None without Triton."""
    try:
        from models.plugins.gd_unit_kernel import launch
    except ImportError:
        return None
    return launch


def _vertices(
    logits: Tensor, reprs: Tensor, w_logit: Tensor, b_logit: Tensor, w_repr: Tensor, b_repr: Tensor
) -> Tensor:
    return torch.cat([F.linear(logits, w_logit, b_logit), F.linear(reprs, w_repr, b_repr)], dim=-1)


def _shape_only(
    logits: Tensor,
    reprs: Tensor,
    w_logit: Tensor,
    b_logit: Tensor,
    w_repr: Tensor,
    b_repr: Tensor,
    w_edge: Tensor,
    b_edge: Tensor,
    alpha: float,
) -> Tensor:
    return logits.new_empty((logits.shape[1], len(_PAIRS)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.alpha = inputs
    ctx.save_for_backward(*tensors, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, _, edges = ctx.saved_tensors
    z = _vertices(logits, reprs, w_logit, b_logit, w_repr, b_repr)  # (3, B, 2g)
    half = z.shape[-1]
    g = half // 2
    d_score = (ctx.alpha * edges * (grad - (grad * edges).sum(1, keepdim=True))).t()  # (6, B)
    zero = torch.zeros_like(z[..., 0])  # (3, B)
    d_student = zero.index_add(0, torch.tensor(STUDENTS, device=z.device), d_score)  # (3, B)
    d_teacher = zero.index_add(0, torch.tensor(TEACHERS, device=z.device), d_score)  # (3, B)
    d_z = d_student[..., None] * w_edge[0, :half] + d_teacher[..., None] * w_edge[0, half:]  # (3, B, 2g)
    d_logit, d_repr = d_z[..., :g].flatten(0, 1), d_z[..., g:].flatten(0, 1)  # (3B, g) each
    d_edge = torch.cat([(d_student[..., None] * z).sum((0, 1)), (d_teacher[..., None] * z).sum((0, 1))])
    return (
        d_z[..., :g] @ w_logit,
        d_z[..., g:] @ w_repr,
        d_logit.t() @ logits.flatten(0, 1),
        d_logit.sum(0),
        d_repr.t() @ reprs.flatten(0, 1),
        d_repr.sum(0),
        d_edge[None],
        d_score.sum()[None],
        None,
    )


gd_unit.register_fake(_shape_only)
gd_unit.register_autograd(_backward, setup_context=_save)


class GDUnit(nn.Module):
    """One distillation graph: its edge network and its prior over edges.

    outputs: size of the logits; hidden: size of the representations; size: of the joint space;
    prior_logits: six numbers in ``EDGE_ORDER``, made the prior by a softmax at ``prior_temperature``.
    Raises ValueError for another number of them.
    """

    prior: Tensor

    def __init__(
        self,
        outputs: int,
        hidden: int,
        size: int,
        prior_logits: Sequence[float],
        prior_temperature: float = 0.25,
        alpha: float = 1 / 8,
    ) -> None:
        super().__init__()
        if len(prior_logits) != len(EDGE_ORDER):
            raise ValueError(
                f"a prior needs {len(EDGE_ORDER)} logits (one per edge), not {len(prior_logits)}"
            )
        self.alpha = alpha
        self.W_logit = nn.Linear(outputs, size)
        self.W_repr = nn.Linear(hidden, size)
        self.W_edge = nn.Linear(4 * size, 1)
        prior = (torch.tensor(prior_logits, dtype=torch.float64) / prior_temperature).softmax(0).float()
        self.register_buffer("prior", prior, persistent=False)  # (6,)

    def forward(self, logits: Tensor, reprs: Tensor) -> Tensor:
        """logits (3, B, C), reprs (3, B, H) -> edge weights (B, 6)."""
        logit, representation, edge = self.W_logit, self.W_repr, self.W_edge
        edges: Tensor = gd_unit(
            logits,
            reprs,
            logit.weight,
            logit.bias,
            representation.weight,
            representation.bias,
            edge.weight,
            edge.bias,
            self.alpha,
        )
        return edges
