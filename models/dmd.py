"""DMD, Decoupled Multimodal Distilling (Li, Wang, Cui; CVPR 2023): the whole network, beside its paper.

Each modality is projected to a common width and decoupled (section 3.1) into a homogeneous part, by a
shared encoder, and a heterogeneous part, by an encoder of its own. Homogeneous parts predict alone and
together; heterogeneous parts first reinforce each other by crossmodal attention. One GD-Unit watches each
space (section 3.2). Equations have the numbers of arXiv 2303.13802. Tensors are batch-first; stacked ones
are in the order text, vision, audio. Masks are 1 for real steps; windows are right-aligned, their newest
step is the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.attention import Dropouts, TransformerEncoder
from models.dmd_config import DMDConfig, InputConfig
from models.gd_unit import EDGE_ORDER, MODALITIES, GDUnit
from models.parts import Decoupled, ResidualHead

__all__ = ["DMD", "EDGE_ORDER", "MODALITIES", "DMDConfig", "DMDOutput", "Inference", "InputConfig"]


@dataclass(frozen=True)
class DMDOutput:
    """What the losses need. Per-modality tuples and stacked tensors: text, vision, audio.

    Each modality's answers alone are ``homo_logits`` and ``hetero_logits``. Without decoupling
    ``homo`` and ``hetero`` are ``projected``, and what only its losses read is empty or None.
    """

    projected: tuple[Tensor, ...]  # X~_m (B, T_m, d)
    homo: tuple[Tensor, ...]  # X_com (B, T_m, d)
    hetero: tuple[Tensor, ...]  # X_prt (B, T_m, d)
    reconstructed: tuple[Tensor, ...]  # D_m([X_com, X_prt]) (B, T_m, d)
    hetero_again: tuple[Tensor, ...]  # X_prt encoded once more, from the reconstruction (B, T_m, d)
    homo_summary: Tensor | None  # (3, B, d), for the margin loss
    hetero_summary: Tensor | None  # (3, B, d), in no loss of the authors'
    homo_logits: Tensor  # (3, B, C)
    homo_repr: Tensor  # (3, B, h), the heads' hidden layers; h is d in the paper
    hetero_logits: Tensor  # (3, B, C)
    hetero_repr: Tensor  # (3, B, 2d)
    last_hidden: Tensor  # (3, B, 2d), newest step after crossmodal attention
    homo_fused_logits: Tensor  # (B, C), from the three homogeneous parts
    logits: Tensor  # (B, C), the answer
    step_masks: tuple[Tensor, ...] | None = None  # (B, T_m) bool, projected steps
    present: Tensor | None = None  # (3, B) bool, senses with at least one real step


@dataclass(frozen=True)
class Inference:
    """What inference publishes. Edges are (B, 6) in ``EDGE_ORDER``.

    A modality's own logits are its homogeneous head's: it has seen nothing else, while crossmodal attention
    has told the heterogeneous heads what the others think.
    """

    logits: Tensor  # (B, C)
    text_logits: Tensor  # (B, C)
    audio_logits: Tensor  # (B, C)
    vision_logits: Tensor  # (B, C)
    homo_edges: Tensor  # (B, 6)
    hetero_edges: Tensor  # (B, 6)


class DMD(nn.Module):
    """The network and its two GD-Units. Raises ValueError where inputs do not fit the configuration."""

    def __init__(self, config: DMDConfig) -> None:
        super().__init__()
        self.config = config
        d, out, drop = config.width, config.outputs, config.output_dropout
        steps = {m: config.input(m).projected_steps for m in MODALITIES}

        def encoder(attended: str, width: int, layers: int, max_steps: int, last: bool) -> TransformerEncoder:
            dropouts = Dropouts(
                config.input(attended).attention_dropout,
                config.relu_dropout,
                config.residual_dropout,
                config.embedding_dropout,
            )
            return TransformerEncoder(
                width, config.heads, layers, max_steps, dropouts, causal=config.causal, last_only=last
            )

        self.decoupled = nn.ModuleDict(
            {m: Decoupled(config.input(m), d, config.decouple) for m in MODALITIES}
        )
        if config.decouple:
            self.encode_homo = nn.Conv1d(d, d, 1, bias=False)  # shared by the three modalities
            self.homo_summary = nn.ModuleDict({m: nn.Linear(d * steps[m], d) for m in MODALITIES})
            self.hetero_summary = nn.ModuleDict({m: nn.Linear(d * steps[m], d) for m in MODALITIES})
        self.homo_encoder = nn.ModuleDict(
            {m: encoder(m, d, config.levels, steps[m], True) for m in MODALITIES}
        )
        hidden = config.homo_hidden
        self.homo_head = nn.ModuleDict({m: ResidualHead(d * steps[m], hidden, out, drop) for m in MODALITIES})
        self.homo_fused_head = ResidualHead(3 * d, 3 * d, out, drop)
        if config.crossmodal:
            self.crossmodal = nn.ModuleDict(
                {
                    f"{m}_from_{n}": encoder(n, d, config.levels, max(steps[m], steps[n]), False)
                    for m in MODALITIES
                    for n in others(m)
                }
            )
        else:  # two views of itself, so that what follows is the same and the size too
            self.unimodal = nn.ModuleDict(
                {
                    m: nn.ModuleList(encoder(m, d, config.levels, steps[m], False) for _ in others(m))
                    for m in MODALITIES
                }
            )
        # The authors use the text's attention dropout in all three.
        memory_levels = max(config.levels, config.memory_levels)
        self.memory = nn.ModuleDict(
            {m: encoder("text", 2 * d, memory_levels, steps[m], True) for m in MODALITIES}
        )
        self.hetero_head = nn.ModuleDict({m: ResidualHead(2 * d, 2 * d, out, drop) for m in MODALITIES})
        self.gate = nn.ModuleDict({m: nn.Linear(2 * d, 2 * d) for m in MODALITIES})
        self.homo_gate = nn.Linear(3 * d, 3 * d)
        self.fusion_head = ResidualHead(9 * d, 9 * d, out, drop)
        prior = config.prior_temperature, config.gd_alpha
        self.homo_gd = GDUnit(out, hidden, config.homo_gd_size, config.homo_prior, *prior)
        self.hetero_gd = GDUnit(out, 2 * d, config.hetero_gd_size, config.hetero_prior, *prior)

    def _part(self, modality: str) -> Decoupled:
        return cast(Decoupled, self.decoupled[modality])

    def set_normalisation(self, modality: str, mean: Tensor, scale: Tensor) -> None:
        """Bake ``(x - mean) * scale`` per feature into the network; mean and scale are (dim,)."""
        part = self._part(modality)
        part.mean.copy_(mean)
        part.scale.copy_(scale)

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        text_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
    ) -> DMDOutput:
        """Everything that training needs.

        text, audio, vision: (B, steps, dim) of the configuration; masks: (B, steps), 1 real and
        0 padding; None means that every step of that modality is real.
        """
        inputs = {"text": text, "vision": vision, "audio": audio}
        given = {"text": text_mask, "vision": vision_mask, "audio": audio_mask}
        if any(mask is not None for mask in given.values()):
            given = {m: torch.ones_like(inputs[m][..., 0]) if v is None else v for m, v in given.items()}
        projected, homo, hetero, masks = self._decouple(inputs, given)
        real = [given_mask for m in MODALITIES if (given_mask := given[m]) is not None]  # none or all three
        steps = [mask for m in MODALITIES if (mask := masks[m]) is not None]
        homo_logits, homo_repr = self._homo_heads(homo)
        fused = self._homo_fusion(homo, masks)  # (B, 3d)
        last = self._reinforce(hetero, masks)  # {m: (B, 2d)}
        hetero_logits, hetero_repr = self._hetero_heads(last)

        decoded = self._reconstruct(homo, hetero)  # {m: (B, d, T_m)}
        again = {m: self._part(m).encode_hetero(x) for m, x in decoded.items()}  # {m: (B, d, T_m)}
        homo_summary, hetero_summary = self._summaries(homo, hetero)

        return DMDOutput(
            projected=_by_time(projected),
            homo=_by_time(homo),
            hetero=_by_time(hetero),
            reconstructed=_by_time(decoded),
            hetero_again=_by_time(again),
            homo_summary=homo_summary,
            hetero_summary=hetero_summary,
            homo_logits=homo_logits,
            homo_repr=homo_repr,
            hetero_logits=hetero_logits,
            hetero_repr=hetero_repr,
            last_hidden=torch.stack([last[m] for m in MODALITIES]),
            homo_fused_logits=self.homo_fused_head(fused)[0],
            logits=self._fuse(last, fused),
            step_masks=tuple(steps) if steps else None,
            present=torch.stack([mask.gt(0.5).any(1) for mask in real]) if real else None,
        )

    def infer(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        audio_mask: Tensor,
        vision_mask: Tensor,
    ) -> Inference:
        """What a live window needs, and no more: no decoders, no summaries. Shapes as in ``forward``."""
        inputs = {"text": text, "vision": vision, "audio": audio}
        _, homo, hetero, masks = self._decouple(
            inputs, {"text": text_mask, "vision": vision_mask, "audio": audio_mask}
        )
        homo_logits, homo_repr = self._homo_heads(homo)
        last = self._reinforce(hetero, masks)
        hetero_logits, hetero_repr = self._hetero_heads(last)
        alone = dict(zip(MODALITIES, homo_logits.unbind(0), strict=True))
        return Inference(
            logits=self._fuse(last, self._homo_fusion(homo, masks)),
            text_logits=alone["text"],
            audio_logits=alone["audio"],
            vision_logits=alone["vision"],
            homo_edges=self.homo_gd(homo_logits, homo_repr),
            hetero_edges=self.hetero_gd(hetero_logits, hetero_repr),
        )

    def _decouple(
        self, inputs: dict[str, Tensor], given: dict[str, Tensor | None]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor | None]]:
        """Eq. 1: projected, homogeneous and heterogeneous parts, (B, d, T_m) each, and step masks."""
        projected: dict[str, Tensor] = {}
        masks: dict[str, Tensor | None] = {}
        for m in MODALITIES:
            dropout = self.config.text_dropout if m == "text" else 0.0
            try:
                projected[m], masks[m] = self.decoupled[m](inputs[m], given[m], dropout)
            except ValueError as error:
                raise ValueError(f"{m}: {error}") from None
        if not self.config.decouple:
            return projected, projected, projected, masks
        homo = {m: self.encode_homo(projected[m]) for m in MODALITIES}
        hetero = {m: self._part(m).encode_hetero(projected[m]) for m in MODALITIES}
        return projected, homo, hetero, masks

    def _reconstruct(self, homo: dict[str, Tensor], hetero: dict[str, Tensor]) -> dict[str, Tensor]:
        """Self-regression (eq. 2): both parts decoded, (B, d, T_m) each; empty without decoupling."""
        if not self.config.decouple:
            return {}
        return {m: self._part(m).decode(torch.cat([hetero[m], homo[m]], dim=1)) for m in MODALITIES}

    def _summaries(
        self, homo: dict[str, Tensor], hetero: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """One vector for each part of each modality, (3, B, d), over all of its steps."""
        if not self.config.decouple:
            return None, None
        # The authors flatten channel-first here and time-first there, as in the heads below.
        first = [self.homo_summary[m](homo[m].flatten(1)) for m in MODALITIES]
        second = [self.hetero_summary[m](hetero[m].transpose(1, 2).flatten(1)) for m in MODALITIES]
        return torch.stack(first), torch.stack(second)

    def _homo_heads(self, homo: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each homogeneous part alone: logits (3, B, C) and representations (3, B, h)."""
        heads = [self.homo_head[m](homo[m].transpose(1, 2).flatten(1)) for m in MODALITIES]
        return torch.stack([h[0] for h in heads]), torch.stack([h[1] for h in heads])

    def _homo_fusion(self, homo: dict[str, Tensor], masks: dict[str, Tensor | None]) -> Tensor:
        """The newest step of each homogeneous part after self-attention, side by side: (B, 3d)."""
        newest = [self.homo_encoder[m](homo[m].transpose(1, 2), key_mask=masks[m]) for m in MODALITIES]
        return torch.cat(newest, dim=1)

    def _reinforce(self, hetero: dict[str, Tensor], masks: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Crossmodal attention (eq. 10), every modality to the two others; its newest step, (B, 2d) each."""
        by_time = {m: x.transpose(1, 2) for m, x in hetero.items()}  # (B, T_m, d) each
        last: dict[str, Tensor] = {}
        for m in MODALITIES:
            if self.config.crossmodal:
                views = [
                    self.crossmodal[f"{m}_from_{n}"](by_time[m], by_time[n], masks[n]) for n in others(m)
                ]
            else:
                own = cast(nn.ModuleList, self.unimodal[m])
                views = [encoder(by_time[m], key_mask=masks[m]) for encoder in own]
            last[m] = self.memory[m](torch.cat(views, dim=2), key_mask=masks[m])
        return last

    def _hetero_heads(self, last: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each reinforced part alone: logits (3, B, C) and representations (3, B, 2d)."""
        heads = [self.hetero_head[m](last[m]) for m in MODALITIES]
        return torch.stack([h[0] for h in heads]), torch.stack([h[2] for h in heads])

    def _fuse(self, last: dict[str, Tensor], homo_fused: Tensor) -> Tensor:
        """Adaptive fusion: the answer, (B, C), from gates; the authors' code reads the gates themselves."""
        gates = [torch.sigmoid(self.gate[m](last[m])) for m in MODALITIES]  # (B, 2d) each
        gates.append(torch.sigmoid(self.homo_gate(homo_fused)))  # (B, 3d)
        logits: Tensor = self.fusion_head(torch.cat(gates, dim=1))[0]
        return logits


def others(modality: str) -> tuple[str, str]:
    """The two other modalities, in the order in which the authors put their views side by side."""
    order = {"text": ("audio", "vision"), "vision": ("text", "audio"), "audio": ("text", "vision")}
    return order[modality]


def _by_time(x: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(one.transpose(1, 2) for one in x.values())  # (B, T_m, d) each, in the order of MODALITIES
