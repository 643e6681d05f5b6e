"""The baseline that the network has to beat: logistic regression on the mean of a sense's features.

One regression for each sense, classes balanced, fitted on the training split without variants. Their weights
lie beside the network as ``baseline.npz``, so that any evaluation can print both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models import arrays

F32 = npt.NDArray[np.float32]
FILE = "baseline.npz"


def pooled(items: Sequence[npt.NDArray[Any]]) -> F32:
    """The mean over time of each item (T, D): (N, D)."""
    return np.stack([np.asarray(item, np.float32).mean(0) for item in items])


def fit(items: Sequence[npt.NDArray[Any]], labels: npt.NDArray[np.int64]) -> dict[str, F32]:
    """Weights of one regression; the strength of its regulariser is chosen by five-fold cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    x = pooled(items)
    scaler = StandardScaler().fit(x)
    plain = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    folds = min(5, int(np.unique(labels, return_counts=True)[1].min()))
    if folds > 1:
        search = GridSearchCV(
            plain,
            {"C": (0.001, 0.01, 0.1, 1.0)},
            scoring="balanced_accuracy",
            cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        )
        model = search.fit(scaler.transform(x), labels).best_estimator_
    else:
        model = plain.fit(scaler.transform(x), labels)
    weights = np.asarray(model.coef_ / scaler.scale_, np.float32)  # (C, D)
    bias = np.asarray(model.intercept_ - weights @ scaler.mean_, np.float32)  # (C,)
    return {"weights": weights, "bias": bias}


def predict(model: Mapping[str, F32], items: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Classes (N,) of items (T, D)."""
    scores = pooled(items) @ model["weights"].T + model["bias"]
    return np.asarray(scores.argmax(1), np.int64)


def save(models: Mapping[str, Mapping[str, F32]], folder: Path) -> None:
    """Write the regressions of some senses."""
    made: dict[str, Any] = {f"{s}/{name}": v for s, m in models.items() for name, v in m.items()}
    np.savez(folder / FILE, **made)


def load(folder: Path) -> dict[str, dict[str, F32]]:
    """The regressions by sense; empty where a network has none. Raises DataError for a damaged file."""
    if not (folder / FILE).exists():
        return {}
    found: dict[str, dict[str, F32]] = {}
    for key, values in arrays.read(folder / FILE).items():
        sense, _, name = key.partition("/")
        found.setdefault(sense, {})[name] = values
    return found
