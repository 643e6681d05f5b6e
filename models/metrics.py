"""Metrics: sentiment as the authors (and MMSA before them) score it, and classification with its calibration.

Everything takes NumPy arrays of N windows and gives plain numbers, so that an evaluation needs no PyTorch.
Predictions and truths of different lengths raise ValueError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]


def sentiment(predictions: Numbers, truths: Numbers) -> dict[str, float]:
    """Regression on [-3, 3]; predictions and truths (N,) or (N, 1).

    Acc-7 and Acc-5: both clipped (to ±3, ±2), rounded, and equal. Acc-2 and F1 are the authors': windows
    whose truth is 0 are left out, and positive is above 0. Acc-2 (non-negative) and its F1 keep all windows,
    and 0 is positive there. F1 is weighted by the classes' shares; Corr is Pearson's, 0 for a constant.
    """
    guess, truth = _flat(predictions, truths)
    there = truth != 0
    return {
        "Acc-7": _rounded(guess, truth, 3),
        "Acc-5": _rounded(guess, truth, 2),
        "Acc-2": accuracy(guess[there] > 0, truth[there] > 0),
        "F1": weighted_f1(guess[there] > 0, truth[there] > 0),
        "Acc-2 (non-negative)": accuracy(guess >= 0, truth >= 0),
        "F1 (non-negative)": weighted_f1(guess >= 0, truth >= 0),
        "MAE": float(np.abs(guess - truth).mean()),
        "Corr": correlation(guess, truth),
    }


def sims(predictions: Numbers, truths: Numbers) -> dict[str, float]:
    """CH-SIMS's regression on [-1, 1], (N,) or (N, 1), as MMSA scores it.

    Both are clipped and cut into 2 (at 0), 3 (at ±0.1) and 5 (at ±0.1 and ±0.7) classes; a border belongs
    to the class below it. F1 is weighted, of the two classes.
    """
    guess, truth = (np.clip(one, -1, 1) for one in _flat(predictions, truths))
    two, three, five = (
        [_classes(one, borders) for one in (guess, truth)]
        for borders in ([0.0], [-0.1, 0.1], [-0.7, -0.1, 0.1, 0.7])
    )
    return {
        "Acc-2": accuracy(*two),
        "Acc-3": accuracy(*three),
        "Acc-5": accuracy(*five),
        "F1": weighted_f1(*two),
        "MAE": float(np.abs(guess - truth).mean()),
        "Corr": correlation(guess, truth),
    }


def softmax(logits: Numbers) -> Numbers:
    """Probabilities of (N, C) logits."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def classification(probabilities: Numbers, labels: Labels) -> dict[str, float]:
    """The scalars of classes from probabilities (N, C) and labels (N,)."""
    predicted = probabilities.argmax(1)
    return {
        "accuracy": accuracy(predicted, labels),
        "balanced accuracy": balanced_accuracy(predicted, labels),
        "weighted F1": weighted_f1(predicted, labels),
        "macro F1": macro_f1(predicted, labels),
        "ECE": calibration_error(probabilities, labels),
    }


def accuracy(predicted: Numbers, labels: Numbers) -> float:
    """Share of equal ones; 0 where there is none to compare."""
    _paired(predicted, labels)
    return float((predicted == labels).mean()) if len(labels) else 0.0


def balanced_accuracy(predicted: Numbers, labels: Numbers) -> float:
    """Mean recall of the classes that occur in the labels."""
    _paired(predicted, labels)
    recalls = [(predicted[labels == one] == one).mean() for one in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else 0.0


def weighted_f1(predicted: Numbers, labels: Numbers) -> float:
    """F1 of every class, averaged with the shares of the labels as weights."""
    _paired(predicted, labels)
    return float(sum(_f1(predicted, labels, one) * (labels == one).mean() for one in np.unique(labels)))


def macro_f1(predicted: Numbers, labels: Numbers) -> float:
    """Mean F1 of the classes that occur, in labels or predictions."""
    _paired(predicted, labels)
    every = np.union1d(predicted, labels)
    return float(np.mean([_f1(predicted, labels, one) for one in every])) if len(every) else 0.0


def confusion(predicted: Labels, labels: Labels, classes: int) -> Labels:
    """Counts (classes, classes): row label, column prediction. Raises ValueError for a class beyond them."""
    _paired(predicted, labels)
    both = np.concatenate([predicted, labels])
    if len(both) and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(f"classes go from {both.min()} to {both.max()}, expected 0 to {classes - 1}")
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def calibration_error(probabilities: Numbers, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error of the top probability (Guo et al. 2017), bins of equal width."""
    top, hit = _top(probabilities, labels)
    index = np.minimum((top * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(top[index == one].mean() - hit[index == one].mean()) * (index == one).mean()
            for one in np.unique(index)
        )
    )


def risk_coverage(probabilities: Numbers, labels: Labels) -> Numbers:
    """What abstaining buys, as rows: threshold (0, 0.05 to 0.95), coverage, accuracy of what is kept.

    Kept is what has a top probability of at least the threshold; NaN is the accuracy where that is nothing.
    """
    top, hit = _top(probabilities, labels)
    rows = []
    for threshold in np.arange(20) / 20:
        kept = top >= threshold
        rows.append(
            (threshold, kept.mean() if len(kept) else 0.0, hit[kept].mean() if kept.any() else np.nan)
        )
    return np.array(rows)  # (20, 3)


def correlation(left: Numbers, right: Numbers) -> float:
    """Pearson's; 0 where one of them is constant, or so nearly that nothing is left to compare."""
    _paired(left, right)
    if not np.isfinite(left).all() or not np.isfinite(right).all():
        return float("nan")
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    a, b = left - left.mean(), right - right.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # so that no square is too small, or too large
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _flat(predictions: Numbers, truths: Numbers) -> tuple[Numbers, Numbers]:
    guess = np.asarray(predictions, np.float64).reshape(-1)
    truth = np.asarray(truths, np.float64).reshape(-1)
    _paired(guess, truth)
    if not len(guess):
        raise ValueError("no predictions to score")
    return guess, truth


def _paired(predicted: Numbers, labels: Numbers) -> None:
    # Without this, (N, 1) beside (N,) would be compared N times N.
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"predictions are {predicted.shape} and truths {labels.shape}, expected one (N,)")


def _top(probabilities: Numbers, labels: Labels) -> tuple[Numbers, Numbers]:
    """The top probability of every window, and whether it is right: (N,) each."""
    predicted = probabilities.argmax(1)
    _paired(predicted, labels)
    return probabilities.max(1), predicted == labels


def _rounded(guess: Numbers, truth: Numbers, limit: int) -> float:
    return accuracy(np.round(np.clip(guess, -limit, limit)), np.round(np.clip(truth, -limit, limit)))


def _classes(values: Numbers, borders: list[float]) -> Numbers:
    # In float32, as MMSA does: a label of 0.1 in a file of float32 is above 0.1 in float64.
    return np.digitize(values.astype(np.float32), np.array(borders, np.float32), right=True)


def _f1(predicted: Numbers, labels: Numbers, one: Any) -> float:
    hits = float(((predicted == one) & (labels == one)).sum())
    return 2 * hits / max(float((predicted == one).sum() + (labels == one).sum()), 1.0)
