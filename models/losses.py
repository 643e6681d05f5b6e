"""The objective of the paper (section 3.3, eq. 11): task, decoupling and graph-distillation losses.

Regression (one output) is scored by the absolute error, classification by cross-entropy. Where masks
are given, padded steps count in no mean, and a missing sense neither teaches, nor learns, nor takes
part in the margin loss; without masks every value equals the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dmd import DMDOutput
from models.gd_unit import STUDENTS, TEACHERS, GDUnit

_ANCHOR_ELEMENTS = 1 << 22  # triplets scored at once; bounds the margin loss's memory


@dataclass(frozen=True)
class LossWeights:
    """The weights of the objective; the defaults are the authors'. A zero switches a part off."""

    decoupling: float = 0.1  # lambda_1, eq. 11
    margin_orthogonality: float = 0.1  # gamma, eq. 6
    homo: float = 0.05  # lambda_2, homogeneous GD-Unit
    hetero: float = 0.05  # lambda_2, heterogeneous GD-Unit
    logit_distance: float = 1.0
    repr_distance: float = 10.0
    edge_regulariser: float = 10.0  # pulls mean edges to the prior
    homo_repr: bool = False  # the authors compute it and leave it out
    margin: float = 0.15  # per unit of label distance
    temperature: float = 2.0  # of the distillation between class probabilities


def objective(
    output: DMDOutput,
    labels: Tensor,
    homo_gd: GDUnit,
    hetero_gd: GDUnit,
    weights: LossWeights = LossWeights(),
    class_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 11: the total and its parts.

    labels: (B, 1) or (B,) floats for regression, (B,) class indices for classification (the network
    has more than one output). class_weights: (C,) or None, for cross-entropy. Parts are unweighted
    scalars, but ``homo_total`` and ``hetero_total``, which carry their lambda as in the authors' code.
    A network without decoupling has no ``reconstruction``, ``cycle``, ``margin`` and ``orthogonality``.
    """
    classify = output.logits.shape[-1] > 1
    labels = labels.reshape(-1) if classify else labels.reshape(-1, 1).to(output.logits.dtype)
    parts = {"task": task_loss(output, labels, class_weights)}
    for name, unit, logits, reprs in (
        ("homo", homo_gd, output.homo_logits, output.homo_repr),
        ("hetero", hetero_gd, output.hetero_logits, output.hetero_repr),
    ):
        edges = unit(logits, reprs)  # (B, 6)
        parts |= {
            f"{name}_{key}": value
            for key, value in distillation(
                logits,
                reprs,
                edges,
                unit.prior,
                weights,
                cosine_repr=name == "hetero",
                present=output.present,
            ).items()
        }
    homo = parts["homo_logit"] + parts["homo_reg"]
    if weights.homo_repr:
        homo = homo + parts["homo_repr"]
    parts["homo_total"] = weights.homo * homo
    parts["hetero_total"] = weights.hetero * (
        parts["hetero_logit"] + parts["hetero_repr"] + parts["hetero_reg"]
    )
    total = parts["task"] + parts["homo_total"] + parts["hetero_total"]
    if output.homo_summary is not None:
        apart = decoupling(output, output.homo_summary, labels, weights)
        parts |= apart
        total = total + weights.decoupling * (
            apart["cycle"]
            + apart["reconstruction"]
            + weights.margin_orthogonality * (apart["margin"] + apart["orthogonality"])
        )
    return total, {**parts, "total": total}


def decoupling(output: DMDOutput, summary: Tensor, labels: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """The four parts of the decoupling loss (eq. 6), unweighted; summary (3, B, d), labels: ``objective``."""
    masks = output.step_masks
    return {
        "reconstruction": step_error(output.reconstructed, output.projected, masks),  # eq. 2
        "cycle": step_error(output.hetero, output.hetero_again, masks),  # eq. 3
        "margin": margin_loss(summary, labels, output.present, weights.margin),  # eq. 4
        "orthogonality": orthogonality(output.hetero, output.homo, masks),  # eq. 5
    }


def task_loss(output: DMDOutput, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The sum over the eight heads: fused, homogeneous fused, and three alone in each space."""
    heads = [output.logits, output.homo_fused_logits, *output.homo_logits, *output.hetero_logits]
    if output.logits.shape[-1] > 1:
        losses = [F.cross_entropy(h, labels, weight=class_weights) for h in heads]
    else:
        losses = [F.l1_loss(h, labels) for h in heads]
    return torch.stack(losses).sum()


def step_error(
    left: tuple[Tensor, ...], right: tuple[Tensor, ...], masks: tuple[Tensor, ...] | None
) -> Tensor:
    """Mean squared difference over real steps, summed over modalities; tensors are (B, T_m, d)."""
    return _sum_of_means([(a - b).square() for a, b in zip(left, right, strict=True)], masks)


def orthogonality(
    hetero: tuple[Tensor, ...], homo: tuple[Tensor, ...], masks: tuple[Tensor, ...] | None, axis: int = -1
) -> Tensor:
    """Eq. 5, soft orthogonality: the positive cosine between both parts of a step, summed over modalities.

    Tensors are (B, T_m, d). axis -1 is the paper's; 0, the batch, is what the authors' code computed
    under PyTorch 1.9, where masks have no meaning.
    """
    eps = 1e-12  # CosineEmbeddingLoss adds it to each squared norm
    cosines = []
    for s, c in zip(hetero, homo, strict=True):
        norm = ((s.square().sum(axis) + eps) * (c.square().sum(axis) + eps)).sqrt()
        cosines.append(((s * c).sum(axis) / norm).clamp(min=0).unsqueeze(-1))  # (B, T_m, 1)
    return _sum_of_means(cosines, masks)


def _sum_of_means(values: list[Tensor], masks: tuple[Tensor, ...] | None) -> Tensor:
    if masks is None:
        return torch.stack([v.mean() for v in values]).sum()
    means = [
        (v * m[..., None]).sum() / (m.sum() * v.shape[-1]).clamp(min=1)
        for v, m in zip(values, masks, strict=True)
    ]
    return torch.stack(means).sum()


def margin_loss(
    summary: Tensor, labels: Tensor, present: Tensor | None = None, margin: float = 0.15
) -> Tensor:
    """Eq. 4, over the triplet set: same label closer than others, across samples and modalities.

    summary (3, B, d), labels (B, 1) or (B,), present (3, B) bool or None. The margin grows with the
    distance of the labels, 1 between any two classes. An anchor's loss is the mean over its triplets,
    the result the mean over anchors that have any; 0 if none has.
    """
    kept = summary.flatten(0, 1)  # (3B, d)
    ids = labels.reshape(-1).repeat(summary.shape[0])  # (3B,)
    classify = not ids.is_floating_point()
    usable = torch.ones_like(ids, dtype=torch.bool) if present is None else present.flatten()  # (3B,)
    unit = kept / (kept.square().sum(1, keepdim=True) + 1e-8).sqrt()
    cosine = unit @ unit.t()  # (n, n)
    apart = (ids[:, None] != ids[None]) if classify else (ids[:, None] - ids[None]).abs()  # (n, n)
    pairs = usable[:, None] & usable[None]  # (n, n)
    itself = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    same = (ids[:, None] == ids[None]) & ~itself & pairs  # (n, n)
    other = (ids[:, None] != ids[None]) & pairs  # (n, n)
    reach = margin * apart.to(cosine.dtype) + cosine  # (n, n), the loss without the positive
    triplets = same.sum(1) * other.sum(1)  # (n,)
    chunk = max(1, _ANCHOR_ELEMENTS // len(ids) ** 2)
    sums = [
        (
            (reach[i : i + chunk, None, :] - cosine[i : i + chunk, :, None]).clamp(min=0)
            * (same[i : i + chunk, :, None] & other[i : i + chunk, None, :])
        ).sum((1, 2))
        for i in range(0, len(ids), chunk)
    ]  # (chunk, positives, negatives) summed to (chunk,) each
    mean = torch.cat(sums) / triplets.clamp(min=1)  # (n,)
    return mean.sum() / (triplets > 0).sum().clamp(min=1)


def distillation(
    logits: Tensor,
    reprs: Tensor,
    edges: Tensor,
    prior: Tensor,
    weights: LossWeights,
    *,
    cosine_repr: bool,
    present: Tensor | None = None,
) -> dict[str, Tensor]:
    """Eq. 7 and 9, the distillation loss of one GD-Unit: ``reg``, ``logit`` and ``repr``, unscaled by lambda.

    logits (3, B, C), reprs (3, B, H), edges (B, 6), prior (6,), present (3, B) bool or None.
    Teachers are constants; edges are not, and each is added to its prior. Logits are compared by their
    absolute difference for regression; for classification by the Kullback-Leibler divergence of the
    student's class probabilities from the teacher's, both at ``weights.temperature``, times its
    square, so that a logit's unknown offset and scale are not distilled. Representations: absolute
    difference, or with ``cosine_repr`` the authors' heterogeneous term, the batch's mean positive
    cosine, which pushes private representations apart.
    """
    student, teacher = list(STUDENTS), list(TEACHERS)
    to, source = logits[student], logits[teacher].detach()  # (6, B, C)
    if logits.shape[-1] > 1:
        t = weights.temperature
        target = (source / t).log_softmax(-1)
        logit = F.kl_div((to / t).log_softmax(-1), target, reduction="none", log_target=True).sum(-1) * t * t
    else:
        logit = (to - source).abs().sum(-1)  # (6, B)
    s, r = reprs[student], reprs[teacher].detach()  # (6, B, H)
    active = None if present is None else (present[student] & present[teacher]).to(edges.dtype)  # (6, B)
    if cosine_repr:
        eps = 1e-12
        norm = ((s.square().sum(-1) + eps) * (r.square().sum(-1) + eps)).sqrt()
        cosine = ((s * r).sum(-1) / norm).clamp(min=0)  # (6, B)
        if active is None:
            distance = cosine.mean(1, keepdim=True).expand_as(cosine)
        else:
            distance = (cosine * active).sum(1, keepdim=True) / active.sum(1, keepdim=True).clamp(min=1)
    else:
        distance = (s - r).abs().sum(-1)  # (6, B)
    strength = edges.t() + prior[:, None]  # (6, B)
    if active is not None:
        strength = strength * active
    return {
        "reg": weights.edge_regulariser * (edges.mean(0) - prior).square().sum(),
        "logit": weights.logit_distance * (strength * logit).mean(1).sum(),
        "repr": weights.repr_distance * (strength * distance).mean(1).sum(),
    }
