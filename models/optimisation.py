"""Optimisation: what one step of training is made of — batch, objective, optimiser, learning rate."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.config import Training
from models.data import SENSES, Batch
from models.dmd import DMDOutput
from models.emotion import EmotionNetwork
from models.losses import LossWeights, objective


class Step(nn.Module):
    """Forward and objective in one module, so that DistributedDataParallel sees all of it."""

    def __init__(self, network: EmotionNetwork, weights: LossWeights, precision: str) -> None:
        super().__init__()
        self.network, self.weights = network, weights
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def forward(self, tensors: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(labels.device.type, self.dtype) if self.dtype else nullcontext():
            output = self.network(*tensors)
        dmd = self.network.dmd
        return objective(widened(output), labels, dmd.homo_gd, dmd.hetero_gd, self.weights)


def widened(output: DMDOutput) -> DMDOutput:
    """Losses are computed in float32, whatever the forward pass was."""

    def widen(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(widen(part) for part in value)
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return DMDOutput(**{f.name: widen(getattr(output, f.name)) for f in fields(output)})


def tensors(batch: Batch, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
    """A batch as the network takes it, and its labels."""
    arrays = batch.text, batch.audio, batch.vision, batch.text_mask, batch.audio_mask, batch.vision_mask
    moved = tuple(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    return moved, torch.from_numpy(batch.labels).to(device)


def drop_senses(batch: Batch, odds: float, rng: np.random.Generator) -> Batch:
    """Take each sense away from a window with these odds, but never the last one it has."""
    if not odds:
        return batch
    there = np.stack([np.asarray(getattr(batch, f"{s}_mask")).any(1) for s in SENSES.values()], 1)  # (B, 3)
    kept = there & (rng.random(there.shape) >= odds)
    lost = ~kept.any(1)
    kept[lost] = there[lost]
    changes = {
        f"{s}_mask": getattr(batch, f"{s}_mask") * kept[:, i, None] for i, s in enumerate(SENSES.values())
    }
    return Batch(**{f.name: changes.get(f.name, getattr(batch, f.name)) for f in fields(batch)})


def optimiser(network: EmotionNetwork, config: Training) -> torch.optim.Optimizer:
    """Adam or AdamW; the text encoder has its own rate. Frozen parameters are left out."""
    how = config.optimisation
    groups = [{"params": [p for p in network.dmd.parameters() if p.requires_grad], "base": how.rate}]
    if network.encoder is not None and config.text_encoder is not None:
        trained = [p for p in network.encoder.parameters() if p.requires_grad]
        if trained:
            groups.append({"params": trained, "base": config.text_encoder.rate})
    for group in groups:
        group["lr"] = group["base"]
    kind = torch.optim.AdamW if how.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, weight_decay=how.weight_decay)


def plateau(losses: list[float], patience: int) -> float:
    """A half for each time that more than ``patience`` passes went by without progress, as the authors'."""
    factor, best, since = 1.0, math.inf, 0
    for loss in losses:
        since = 0 if loss < best else since + 1
        best = min(best, loss)
        if since > patience:
            factor, since = factor / 2, 0
    return factor
