"""Calibration: from logits to probabilities that mean what they say, and when to say nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes the probabilities of these logits most likely (Guo et al. 2017).

    logits: (N, C); labels: (N,). Between 0.25 and 10.
    """
    log_t = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], lr=0.1, max_iter=50)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.detach().exp().clamp(0.25, 10))


def abstain_threshold(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], accuracy: float = 1 / 3
) -> float:
    """Below which top probability an answer is wrong two times out of three: (N, C), (N,) -> threshold.

    The lowest threshold under which the answers (at least 50 of them) are right in less than ``accuracy`` of
    the cases; an isotonic reading of the reliability curve, so that one lucky bin decides nothing.
    """
    top, hit = probabilities.max(1), probabilities.argmax(1) == labels
    order = np.argsort(top, kind="stable")
    fitted = isotonic(hit[order].astype(np.float64))
    under = np.flatnonzero(fitted < accuracy)
    return float(top[order][under[-1]]) if len(under) >= 50 else 0.0


def isotonic(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The non-decreasing sequence nearest to ``values`` (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, length = blocks.pop()
            mean, size = (mean * size + before * length) / (size + length), size + length
        blocks.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in blocks])
