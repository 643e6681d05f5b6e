"""The crossmodal transformer (the paper's section 3.2, eq. 10): pre-norm layers, causal, padding-aware.

Queries come from one sequence; keys and values come from another one (crossmodal attention) or from
the same (self-attention). Windows are right-aligned: the newest step is the last one, and query ``t``
of ``T_q`` sees the keys up to ``t + |T_k - T_q|``, so the last query sees every key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blockwise import FUTURE, MASKED, Plan, attend_in_blocks, drop, plan, usable

BLOCK = 128  # queries that are computed at once, without gradients


@dataclass(frozen=True)
class Dropouts:
    """Probabilities inside one encoder."""

    attention: float = 0.0  # on attention weights
    relu: float = 0.0  # inside the feed-forward block
    residual: float = 0.0  # on what a block adds
    embedding: float = 0.0  # on the scaled, position-coded input


def sinusoids(steps: int, width: int) -> Tensor:
    """Sinusoidal position codes of positions ``1..steps``: (steps, width); sines first, then cosines."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    phase = torch.arange(1, steps + 1, dtype=torch.float32)[:, None] * rates  # (steps, half)
    table = torch.cat([phase.sin(), phase.cos()], dim=1)
    return F.pad(table, (0, width - 2 * half))  # an odd width ends with a zero


def attention_bias(
    query_steps: int, key_steps: int, key_mask: Tensor | None, causal: bool, device: torch.device
) -> Tensor | None:
    """What is added to attention scores: 0 where a query may look, ``MASKED`` for padding, ``FUTURE``.

    ``key_mask`` is (B, T_k), true for real steps. Returns (T_q, T_k), (B, 1, 1, T_k),
    (B, 1, T_q, T_k), or None when everything may be seen.
    """
    bias: Tensor | None = None
    if causal:
        reach = torch.arange(query_steps, device=device)[:, None] + abs(key_steps - query_steps)
        hidden = torch.arange(key_steps, device=device)[None, :] > reach  # (T_q, T_k)
        bias = hidden.to(torch.float32) * FUTURE
    if key_mask is not None:
        padding = (~key_mask)[:, None, None, :].to(torch.float32) * MASKED  # (B, 1, 1, T_k)
        bias = padding if bias is None else bias + padding
    return bias


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention over (B, heads, T, w/heads).

    Fused on a GPU. On a CPU it is written out in the authors' order of operations: another order rounds
    differently, and a ReLU further up that is zero but for rounding then moves gradients by 1e-4. It
    also exports to six plain nodes. Training on a CPU takes ``models.blockwise`` instead.
    """
    if q.is_cuda:
        bias = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, T_q, T_k)
    weights = (score if bias is None else score + bias).softmax(dim=-1)
    return drop(weights, dropout, True) @ v


@dataclass(frozen=True)
class Block:
    """Some queries of a long causal encoder, and the keys that any of them sees."""

    start: int
    stop: int  # of the queries
    keys: int
    bias: Tensor | None  # broadcasts to (B, heads, stop - start, keys)


def past(
    query_steps: int, key_steps: int, key_mask: Tensor | None, device: torch.device
) -> tuple[Block, ...]:
    """The causal mask as structure: keys that no query of a block sees are not computed.

    The same answer as ``attention_bias`` gives, for inference: nearly half of the scores of a long window
    lie in the future.
    """
    whole = attention_bias(query_steps, key_steps, key_mask, True, device)
    assert whole is not None  # (T_q, T_k) or (B, 1, T_q, T_k)
    reach = abs(key_steps - query_steps)
    blocks = []
    for start in range(0, query_steps, BLOCK):
        stop = min(start + BLOCK, query_steps)
        keys = min(key_steps, stop + reach)
        blocks.append(Block(start, stop, keys, whole[..., start:stop, :keys]))
    return tuple(blocks)


Seen = Tensor | Plan | tuple[Block, ...] | None


class Attention(nn.Module):
    """Multi-head attention with one packed input projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, memory: Tensor, seen: Seen) -> Tensor:
        """query (B, T_q, w), memory (B, T_k, w) -> (B, T_q, w).

        seen: a bias that broadcasts to (B, heads, T_q, T_k), or what to compute of it; None: everything.
        """
        if isinstance(seen, tuple):
            return self._infer(query, memory, seen)
        width = query.shape[-1]
        if query is memory:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            q = F.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = F.linear(memory, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        if isinstance(seen, Plan):
            q, k, v = (
                x.mT.reshape(len(x), self.heads, -1, x.shape[1]) for x in (q, k, v)
            )  # (B, heads, w/heads, T)
            mixed = attend_in_blocks(q, k, v, seen, dropout).flatten(1, 2).mT  # (B, T_q, w)
        else:
            q, k, v = (
                x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v)
            )  # (B, heads, T, w/heads)
            mixed = attend(q, k, v, seen, dropout).transpose(1, 2).flatten(2)  # (B, T_q, w)
        out: Tensor = self.out_proj(mixed)
        return out

    def _infer(self, query: Tensor, memory: Tensor, blocks: tuple[Block, ...]) -> Tensor:
        """The same for inference, time last: a projection's rows are the heads as they lie, so that nothing
        is moved, and the narrow product with the weights takes two thirds of the time."""
        width = query.shape[-1]
        size = width // self.heads

        def project(i: int, x: Tensor, scale: float = 1.0) -> Tensor:
            rows = slice(i * width, (i + 1) * width)
            weight, bias = self.in_proj_weight[rows] * scale, self.in_proj_bias[rows] * scale
            return (weight @ x.mT + bias[:, None]).view(-1, self.heads, size, x.shape[1])

        q, k, v = (
            project(0, query, size**-0.5),
            project(1, memory),
            project(2, memory),
        )  # (B, heads, w/heads, T)
        some = []
        for block in blocks:
            score = q[..., block.start : block.stop].mT @ k[..., : block.keys]  # (B, heads, rows, keys)
            weights = (score if block.bias is None else score + block.bias).softmax(dim=-1)
            some.append(v[..., : block.keys] @ weights.mT)  # (B, heads, w/heads, rows)
        mixed = torch.cat(some, dim=-1).flatten(1, 2)  # (B, w, T_q)
        out: Tensor = self.out_proj(mixed.mT)
        return out


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward block of four times the width; layer norm before each."""

    def __init__(self, width: int, heads: int, dropouts: Dropouts) -> None:
        super().__init__()
        self.dropouts = dropouts
        self.self_attn = Attention(width, heads, dropouts.attention)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, memory: Tensor | None, seen: Seen, last_only: bool) -> Tensor:
        """x (B, T_q, w), memory (B, T_k, w) or None for self-attention -> (B, T_q, w).

        With ``last_only`` the newest query alone is computed and the result is (B, 1, w).
        """
        normed = self.layer_norms[0](x)
        source = normed if memory is None else self.layer_norms[0](memory)
        if last_only:
            x, normed = x[:, -1:], normed[:, -1:]
        p = self.dropouts
        x = x + drop(self.self_attn(normed, source, seen), p.residual, self.training)
        normed = self.layer_norms[1](x).flatten(
            0, 1
        )  # (B * T_q, w): as a matrix, exports with its bias in one node
        hidden = drop(F.relu(self.fc1(normed)), p.relu, self.training)
        return x + drop(self.fc2(hidden).view(-1, *x.shape[1:]), p.residual, self.training)


class TransformerEncoder(nn.Module):
    """A stack of layers over position-coded inputs.

    ``last_only`` builds an encoder of which the newest step alone is read: its last layer computes
    that step alone, and it returns (B, w) instead of (B, T_q, w).
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        max_steps: int,
        dropouts: Dropouts,
        *,
        causal: bool = True,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"an encoder needs at least one layer, not {layers}")
        self.heads, self.causal, self.last_only, self.dropouts = heads, causal, last_only, dropouts
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList([EncoderLayer(width, heads, dropouts) for _ in range(layers)])
        self.layer_norm = nn.LayerNorm(width)
        self.register_buffer("positions", sinusoids(max_steps, width), persistent=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """x (B, T_q, w), memory (B, T_k, w) or None, key_mask (B, T_k), true for real steps.

        Returns (B, T_q, w), or (B, w) for an encoder built with ``last_only``.
        """
        steps, keys = x.shape[1], (x if memory is None else memory).shape[1]
        full: Seen
        if self.training and usable(x):
            full = plan(len(x), steps, keys, self.heads, key_mask, self.causal)
        elif self.causal and steps > BLOCK and not torch.is_grad_enabled():
            full = past(steps, keys, key_mask, x.device)
        else:
            full = attention_bias(steps, keys, key_mask, self.causal, x.device)
        newest = attention_bias(1, keys, key_mask, False, x.device)  # the last query sees every key
        x = self._embed(x)
        memory = None if memory is None else self._embed(memory)
        for depth, layer in enumerate(self.layers, start=1):
            last = self.last_only and depth == len(self.layers)
            x = layer(x, memory, newest if last else full, last)
        out: Tensor = self.layer_norm(x)
        return out[:, -1] if self.last_only else out

    def _embed(self, x: Tensor) -> Tensor:
        # A zero in channel 0 marks a padded step in the authors' code: it gets no position code.
        real = (x[..., :1] != 0).to(x.dtype)  # (B, T, 1)
        coded = x * self.scale + real * self.positions[: x.shape[1]].to(x.dtype)  # (B, T, w)
        return drop(coded, self.dropouts.embedding, self.training)
