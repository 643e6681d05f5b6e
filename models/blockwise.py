"""Attention for training on a CPU: in blocks that stay in the cache, and only where a query may look.

The same function as ``models.attention.attend``, forward and backward, in another order. Written out,
attention makes several tensors of (B, heads, T_q, T_k), 157 MB each for MOSI's vision, and time goes
into moving them. Here a block of queries at a time is scored, and again in the backward pass, so none
of them exists. Keys that no query of a block may see are left out: a causal block's future, and the
padding at a window's front. Dropout draws 16 random bits a weight; PyTorch's own draw costs a CPU ten
times more than the rest of the block. Windows are shared out to as many threads as PyTorch may use, each
alone with its blocks: they are too small to be split once more, and what is drawn does not depend on it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

MASKED = -1e4  # finite, so that a query with no real key averages neutral steps instead of giving NaN;
# exp(MASKED) is exactly 0 beside any real key, in float32 and in float16
FUTURE = 2 * MASKED  # below padding: a query with no real key yet does not see those that are to come, either
_BLOCK_ELEMENTS = 160_000  # scores in one block: two such float32 tensors fit a core's cache
_LANES = 4  # draws of 16 bits in one random int64


@dataclass(frozen=True)
class Block:
    """Queries ``[q0, q1)`` of windows ``[w0, w1)``, and the keys ``[k0, k1)`` that any of them may see."""

    w0: int
    w1: int
    q0: int
    q1: int
    k0: int
    k1: int
    start: int  # of its scores among all blocks'
    size: int  # scores
    bias: Tensor | None  # (windows or 1, 1, rows or 1, n), added to the scores of the last n keys


@dataclass(frozen=True)
class Plan:
    """The blocks of an attention; all layers of an encoder share it."""

    blocks: tuple[Block, ...]
    heads: int


def usable(x: Tensor) -> bool:
    """Whether attention over ``x`` can run in blocks: on a CPU, in float32 or wider, uncompiled."""
    wide = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and wide and not torch.compiler.is_compiling()


def plan(
    windows: int, query_steps: int, key_steps: int, heads: int, key_mask: Tensor | None, causal: bool
) -> Plan:
    """Cut an attention into blocks. ``key_mask`` is (B, T_k), true for real steps, or None."""
    rows = min(query_steps, max(8, _BLOCK_ELEMENTS // (heads * key_steps)))
    together = 1 if rows < query_steps else max(1, _BLOCK_ELEMENTS // (heads * query_steps * key_steps))
    shift = abs(key_steps - query_steps)  # query t sees the keys up to t + shift
    corner = torch.full((rows, rows), FUTURE).triu()  # row i may not see column i of what lies ahead
    blocks: list[Block] = []
    start = 0
    for w0 in range(0, windows, together):
        w1 = min(w0 + together, windows)
        mask = None if key_mask is None else key_mask[w0:w1]  # (windows, T_k)
        first, latest, whole = (0, 0, True) if mask is None else _first_real(mask)
        for q0 in range(0, query_steps, rows):
            q1 = min(q0 + rows, query_steps)
            k0, k1 = first, min(key_steps, q1 + shift) if causal else key_steps
            ahead = q0 + shift + 1  # the first key that not every query of the block sees
            blind = latest == key_steps or (causal and latest >= ahead)
            if blind:  # some query here sees no real key: it averages the padding that it sees
                k0 = 0
            bias = None
            if mask is not None and (blind or not whole):
                bias = (~mask[:, None, None, k0:k1]).float() * MASKED  # (windows, 1, 1, keys)
                if causal:
                    reach = torch.arange(q0, q1)[:, None] + shift  # (rows, 1)
                    bias = bias + (torch.arange(k0, k1) > reach).float() * FUTURE
            elif causal and ahead < k1:
                bias = corner[None, None, : q1 - q0, : k1 - ahead]
            size = (w1 - w0) * heads * (q1 - q0) * (k1 - k0)
            blocks.append(Block(w0, w1, q0, q1, k0, k1, start, size, bias))
            start += size
    return Plan(tuple(blocks), heads)


def _first_real(mask: Tensor) -> tuple[int, int, bool]:
    """Of masks (windows, T_k): the earliest and the latest first real step, where a window without one
    counts as T_k; and whether every step from the earliest on is real in every window."""
    steps = mask.shape[1]
    firsts = torch.where(mask.any(1), mask.int().argmax(1), steps)  # (windows,)
    earliest, latest = int(firsts.min()), int(firsts.max())
    return earliest, latest, earliest < steps and bool(mask[:, earliest:].all())


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Plan, dropout: float) -> Tensor:
    """Scaled dot-product attention: q (B, h, e, T_q), k and v (B, h, e, T_k) -> (B, h, e, T_q).

    Time is last, unlike elsewhere: products over a narrow head are several times faster that way.
    """
    mixed: Tensor = _Attention.apply(q, k, v, blocks, dropout)  # type: ignore[no-untyped-call]
    return mixed


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout; on a CPU with 16 random bits an element, which is several times faster than PyTorch's."""
    if not training or not p:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.nn.functional.dropout(x, p, training)
    kept = torch.empty(x.numel(), dtype=torch.uint8)
    _draw(kept, p, None)
    return x * (kept.view(x.shape).to(x.dtype) / (1 - p))


def _draw(kept: Tensor, p: float, generator: torch.Generator | None) -> None:
    """Fill ``kept``, one-dimensional, with 1 at odds of ``1 - p`` (to 16 bits), else 0."""
    bits = torch.empty(-(-len(kept) // _LANES), dtype=torch.int64)
    bits.random_(-(2**63), None, generator=generator)
    drawn = bits.view(torch.int16)[: len(kept)]  # uniform over -2^15..2^15 - 1
    torch.ge(drawn, min(round(p * 65536), 65535) - 32768, out=kept)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Plan, dropout: float) -> Tensor:
        shape = q.shape
        q = (q * shape[2] ** -0.5).reshape(-1, *shape[2:])  # (B * h, e, T_q)
        k, v = k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:])  # (B * h, e, T_k)
        out = torch.empty_like(q)
        last = blocks.blocks[-1]
        kept = torch.empty(last.start + last.size if dropout else 0, dtype=torch.uint8)
        seeds = torch.empty(len(blocks.blocks), dtype=torch.int64).random_().tolist() if dropout else None

        def work(share: range) -> None:
            scored, weighed = _buffers(q, blocks, share)
            generator = torch.Generator()
            for i in share:
                block = blocks.blocks[i]
                weights = _weights(q, k, blocks, block, scored, weighed)  # (n, rows, keys)
                if seeds is not None:
                    here = kept[block.start : block.start + block.size]
                    _draw(here, dropout, generator.manual_seed(seeds[i]))
                    weights.mul_(here.view(weights.shape))
                queries, keys = _slices(blocks, block)
                out[queries] = torch.bmm(v[keys], weights.mT)

        _in_threads(work, blocks)
        if dropout:
            out.div_(1 - dropout)
        ctx.save_for_backward(q, k, v, out, kept)
        ctx.blocks, ctx.dropout, ctx.shape = blocks, dropout, shape
        return out.view(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, kept = ctx.saved_tensors
        blocks: Plan = ctx.blocks
        grad = grad.reshape(q.shape)
        # What a softmax's row has in common: sum_j w_j dw_j, the output's product with its gradient.
        common = (grad * out).sum(1)[..., None]  # (B * h, T_q, 1)
        if ctx.dropout:
            grad = grad / (1 - ctx.dropout)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)

        def work(share: range) -> None:
            scored, weighed = _buffers(q, blocks, share)
            for i in share:
                block = blocks.blocks[i]
                queries, keys = _slices(blocks, block)
                weights = _weights(q, k, blocks, block, scored, weighed)  # (n, rows, keys)
                given = grad[queries]  # (n, e, rows)
                d_scores = torch.bmm(given.mT, v[keys], out=scored[: block.size].view(weights.shape))
                mask = None
                if ctx.dropout:
                    mask = kept[block.start : block.start + block.size].view(weights.shape)
                    d_scores.mul_(mask)
                d_scores.sub_(common[queries[0], queries[2]]).mul_(weights)
                d_q[queries] = torch.bmm(k[keys], d_scores.mT)
                d_k[keys].add_(torch.bmm(q[queries], d_scores))
                if mask is not None:
                    weights.mul_(mask)
                d_v[keys].add_(torch.bmm(given, weights))

        _in_threads(work, blocks)
        e, whole = ctx.shape[2], (*ctx.shape[:3], -1)
        return d_q.mul_(e**-0.5).view(whole), d_k.view(whole), d_v.view(whole), None, None


def _buffers(q: Tensor, blocks: Plan, share: range) -> tuple[Tensor, Tensor]:
    """Memory for scores and for weights, enough for every block of a share."""
    largest = max(blocks.blocks[i].size for i in share)
    return q.new_empty(largest), q.new_empty(largest)


def _slices(blocks: Plan, block: Block) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """Where a block's queries and keys lie in (B * h, e, T)."""
    rows, every = slice(block.w0 * blocks.heads, block.w1 * blocks.heads), slice(None)
    return (rows, every, slice(block.q0, block.q1)), (rows, every, slice(block.k0, block.k1))


def _weights(q: Tensor, k: Tensor, blocks: Plan, block: Block, scored: Tensor, weighed: Tensor) -> Tensor:
    """A block's attention weights (windows * h, rows, keys), in the memory of ``weighed``."""
    queries, keys = _slices(blocks, block)
    shape = ((block.w1 - block.w0) * blocks.heads, block.q1 - block.q0, block.k1 - block.k0)
    scores = torch.bmm(q[queries].mT, k[keys], out=scored[: block.size].view(shape))
    if block.bias is not None:
        apart = scores.view(-1, blocks.heads, *shape[1:])  # (windows, h, rows, keys)
        apart[..., shape[2] - block.bias.shape[-1] :].add_(block.bias)
    return torch.softmax(scores, -1, out=weighed[: block.size].view(shape))


def _in_threads(work: Callable[[range], None], blocks: Plan) -> None:
    """Call ``work`` with the blocks' numbers, shared out so that a window belongs to one thread."""
    firsts = [i for i, b in enumerate(blocks.blocks) if i == 0 or b.w0 != blocks.blocks[i - 1].w0]
    threads = min(torch.get_num_threads(), len(firsts))
    if threads == 1:
        work(range(len(blocks.blocks)))
        return
    cuts = [firsts[len(firsts) * i // threads] for i in range(threads)] + [len(blocks.blocks)]
    pool = _pool(threads, os.getpid())
    list(pool.map(work, (range(a, b) for a, b in pairwise(cuts))))


@functools.lru_cache
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    """Threads of this process in which PyTorch splits nothing further."""
    ready = Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the process's number at its first question
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        ready.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "attention", initializer=alone)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool
