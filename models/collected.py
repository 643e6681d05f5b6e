"""What the network says of a whole split, gathered for the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.data import F32, Batch
from models.dmd import DMDOutput
from models.gd_unit import STUDENTS, TEACHERS, GDUnit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collected:
    """What the network says of the N windows of a split. Stacked arrays are in MODALITIES' order."""

    labels: F64 | I64  # (N,)
    logits: F32  # (N, C), the answer
    homo_fused_logits: F32  # (N, C)
    homo_logits: F32  # (3, N, C)
    hetero_logits: F32  # (3, N, C)
    homo_edges: F32  # (N, 6) in EDGE_ORDER
    hetero_edges: F32  # (N, 6)
    homo_features: F32  # (3, N, d), mean over a window's real steps
    hetero_features: F32  # (3, N, d)
    present: npt.NDArray[np.bool_]  # (3, N), senses with at least one real step

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def collect(predictions: Iterable[tuple[Batch, DMDOutput]], homo_gd: GDUnit, hetero_gd: GDUnit) -> Collected:
    """Gather a split: each batch with what the network, in evaluation mode, makes of it.

    Raises ValueError for a split without a window.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for batch, output in predictions:
        present = output.present
        found = {
            "logits": output.logits,
            "homo_fused_logits": output.homo_fused_logits,
            "homo_logits": output.homo_logits,
            "hetero_logits": output.hetero_logits,
            "homo_edges": homo_gd(output.homo_logits, output.homo_repr),
            "hetero_edges": hetero_gd(output.hetero_logits, output.hetero_repr),
            "homo_features": _pooled(output.homo, output.step_masks),
            "hetero_features": _pooled(output.hetero, output.step_masks),
            "present": torch.ones(3, len(batch), dtype=torch.bool) if present is None else present,
        }
        parts.setdefault("labels", []).append(np.asarray(batch.labels).reshape(-1))
        for name, value in found.items():
            wide = value.float() if value.is_floating_point() else value
            parts.setdefault(name, []).append(wide.cpu().numpy())
    if not parts:
        raise ValueError("a split without a window has no report")
    stacked = {"homo_logits", "hetero_logits", "homo_features", "hetero_features", "present"}
    return Collected(
        **{name: np.concatenate(arrays, axis=int(name in stacked)) for name, arrays in parts.items()}
    )


def _pooled(features: tuple[Tensor, ...], masks: tuple[Tensor, ...] | None) -> Tensor:
    """(B, T_m, d) of each modality -> means over real steps (3, B, d)."""
    if masks is None:
        return torch.stack([x.mean(1) for x in features])
    return torch.stack(
        [
            (x * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1)
            for x, m in zip(features, masks, strict=True)
        ]
    )


def edge_strengths(collected: Collected, space: str) -> tuple[F64, ...]:
    """Six arrays in EDGE_ORDER: an edge's strength in the windows that have its teacher and its student."""
    edges = collected.homo_edges if space == "homo" else collected.hetero_edges
    there = collected.present
    return tuple(
        edges[there[student] & there[teacher], i].astype(np.float64)
        for i, (student, teacher) in enumerate(zip(STUDENTS, TEACHERS, strict=True))
    )
