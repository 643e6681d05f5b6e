"""The network's small parts: how one modality enters it, and the head that every answer comes from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blockwise import drop
from models.dmd_config import InputConfig


class ResidualHead(nn.Module):
    """Two linear layers around a ReLU, added to their input, then a linear output."""

    def __init__(self, width: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.proj1, self.proj2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, w) -> logits (B, C), the hidden layer after its ReLU (B, h), what logits read (B, w)."""
        hidden = F.relu(self.proj1(x))
        features = x + self.proj2(drop(hidden, self.dropout, self.training))
        return self.out(features), hidden, features


class Decoupled(nn.Module):
    """One modality up to its two parts: normalise, mask, lift, project; the layers of its decoupling.

    Without ``decouple`` there is no private encoder and no decoder: the projection is all.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: InputConfig, width: int, decouple: bool = True) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(config.dim))
        # Features that already have the common width and need no mixing over time go in as they are.
        dim = config.lift or config.dim
        self.identity = dim == width and config.kernel == 1 and config.stride == 1
        if config.lift:
            self.lift = nn.Linear(config.dim, config.lift)
        self.project = nn.Conv1d(dim, width, config.kernel, config.stride, bias=False)
        if decouple:
            self.encode_hetero = nn.Conv1d(width, width, 1, bias=False)
            self.decode = nn.Conv1d(2 * width, width, 1, bias=False)
        self.absent = nn.Parameter(torch.randn(width) * 0.02)  # the one step of a sense that is missing

    def forward(self, x: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor | None]:
        """x (B, T, dim) raw, mask (B, T) or None -> X~_m (B, d, T'), its steps' mask (B, T') bool or None.

        A projected step is real when its newest input step is. A window without any real step becomes
        one learned step, the newest; so does one whose real steps all fall before the first stride.
        """
        c = self.config
        if x.shape[1:] != (c.steps, c.dim):
            raise ValueError(f"expected (batch, {c.steps}, {c.dim}), got {tuple(x.shape)}")
        x = (x - self.mean) * self.scale  # (B, T, dim)
        real = None if mask is None else mask > 0.5  # (B, T)
        if real is not None:
            x = torch.where(real[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        if c.offset_noise and self.training:
            offset = torch.randn(len(x), 1, c.dim, dtype=x.dtype, device=x.device)  # (B, 1, dim)
            x = x + c.offset_noise * (offset if real is None else offset * real[..., None])
        if c.lift:
            x = drop(F.relu(self.lift(x)), c.lift_dropout, self.training)  # (B, T, lift)
            x = x if real is None else x * real[..., None]
        x = drop(x, dropout, self.training).transpose(1, 2)  # (B, dim, T)
        projected = x if self.identity else self.project(x[..., c.skipped_steps :])  # (B, d, T')
        if real is None:
            return projected, None
        steps = real[:, c.skipped_steps + c.kernel - 1 :: c.stride]  # (B, T')
        newest = torch.arange(c.projected_steps, device=x.device) == c.projected_steps - 1  # (T',)
        missing = ~steps.any(dim=1, keepdim=True) & newest  # (B, T')
        projected = torch.where(steps[:, None], projected, missing[:, None] * self.absent[:, None])
        return projected, steps | missing
