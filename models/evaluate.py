"""Evaluation: ``python -m models.evaluate --network DIR --features DIR``, on composed test windows.

Prints the results for every subset of the senses, the calibration, and for comparison a logistic
regression on each sense's mean-pooled features; ``--card`` writes them into the bundle's MODEL_CARD.md,
between its two markers. What is evaluated is the bundle's ONNX file, as it runs live.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import torch.nn.functional as F

from capture.features import spec
from capture.features.spec import FeatureSpec
from models.composed import EMOTIONS, SUBSETS, Composer, Corpus, load, normalisation
from models.data import Batch
from models.export import INPUTS

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
F64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def accuracy(predicted: Labels, labels: Labels) -> float:
    """Share of windows whose most probable emotion is the label."""
    return float((predicted == labels).mean())


def weighted_f1(predicted: Labels, labels: Labels) -> float:
    """F1 of every emotion, averaged with the emotions' shares as weights."""
    total = 0.0
    for label in range(len(EMOTIONS)):
        hits = float(((predicted == label) & (labels == label)).sum())
        scored = 2 * hits / max(float((predicted == label).sum() + (labels == label).sum()), 1.0)
        total += scored * float((labels == label).mean())
    return total


def calibration_error(probabilities: F64, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error of the top probability (Guo et al. 2017), equal-width bins."""
    top, hit = probabilities.max(1), probabilities.argmax(1) == labels
    index = np.minimum((top * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(top[index == b].mean() - hit[index == b].mean()) * (index == b).mean()
            for b in range(bins)
            if (index == b).any()
        )
    )


def confusion(predicted: Labels, labels: Labels) -> Labels:
    """Counts, (label, prediction)."""
    table = np.zeros((len(EMOTIONS), len(EMOTIONS)), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def run(session: ort.InferenceSession, batches: Sequence[Batch]) -> tuple[F64, Labels]:
    """Fused logits (N, K) and labels (N,)."""
    logits = []
    for batch in batches:
        feed = {name: getattr(batch, name) for name in INPUTS}
        logits.append(session.run(["logits"], feed)[0])
    return np.concatenate(logits).astype(np.float64), np.concatenate([batch.labels for batch in batches])


def softmax(logits: F64) -> F64:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def logistic_regression(features: Path, kind: str, sense: str) -> tuple[float, float]:
    """Accuracy and weighted F1 on test items of a regression on mean-pooled features, classes balanced."""
    mean, scale = normalisation(features)[sense]

    def pooled(corpus: Corpus) -> torch.Tensor:
        rows = np.stack([((item - mean) * scale).mean(0) for item in corpus.items])
        return torch.from_numpy(rows.astype(np.float32))

    train, test = load(features, kind, "train"), load(features, kind, "test")
    x, y = pooled(train), torch.from_numpy(train.labels)
    share = torch.bincount(y, minlength=len(EMOTIONS)).float()
    weights = torch.zeros(x.shape[1] + 1, len(EMOTIONS), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weights[:-1] + weights[-1], y, weight=share.sum() / share)
        loss = loss + 1e-3 * weights[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    # Test items in equal shares of the emotions, as the composed windows have them.
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.choice(group, 300) for group in test.by_label])
    with torch.no_grad():
        scores = pooled(test)[torch.from_numpy(chosen)] @ weights[:-1] + weights[-1]
    predicted = scores.argmax(1).numpy()
    return accuracy(predicted, test.labels[chosen]), weighted_f1(predicted, test.labels[chosen])


def evaluate(bundle: Path, features: Path, windows: int, seed: int) -> str:
    """The results as Markdown."""
    expected: FeatureSpec = spec.load(bundle / "features.json")
    manifest = json.loads((bundle / "bundle.json").read_text())
    session = ort.InferenceSession(bundle / "network.onnx")
    heat = manifest["temperature"]
    rows = [
        "| senses | accuracy | weighted F1 | ECE, T = 1 | ECE, calibrated |",
        "| --- | --- | --- | --- | --- |",
    ]
    tables = {}
    for subset in SUBSETS:
        composer = Composer.open(features, "test", expected, augment=False, seed=seed)
        even = np.arange(windows) % len(EMOTIONS)
        batches = [
            composer.batch(len(part), subset, part) for part in np.array_split(even, max(1, windows // 128))
        ]
        logits, labels = run(session, batches)
        predicted = logits.argmax(1)
        tables[subset] = confusion(predicted, labels)
        rows.append(
            f"| {subset} | {accuracy(predicted, labels):.3f} | {weighted_f1(predicted, labels):.3f} "
            f"| {calibration_error(softmax(logits), labels):.3f} "
            f"| {calibration_error(softmax(logits / heat), labels):.3f} |"
        )
    rows += [
        "",
        f"{windows} test windows for each row, emotions in equal shares (chance 0.143), seed {seed}.",
        "",
    ]
    rows += [
        "| logistic regression on mean-pooled features | accuracy | weighted F1 |",
        "| --- | --- | --- |",
    ]
    for sense, kind in (("text", "meld"), ("audio", "ravdess"), ("vision", "fer")):
        hit, f1 = logistic_regression(features, kind, sense)
        rows.append(f"| {sense} ({kind.upper()}) | {hit:.3f} | {f1:.3f} |")
    rows += ["", "Confusion with all three senses (row: label, column: answer):", ""]
    rows += ["| | " + " | ".join(EMOTIONS) + " |", "| --- |" + " --- |" * len(EMOTIONS)]
    for name, counts in zip(EMOTIONS, tables["LAV"], strict=True):
        rows.append(f"| {name} | " + " | ".join(str(count) for count in counts) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description="Evaluate a bundle on composed test windows."
    )
    parser.add_argument("--network", type=Path, default=Path("models/pretrained"), help="the bundle")
    parser.add_argument("--features", type=Path, required=True, help="folder of build/extract_corpora.py")
    parser.add_argument("--windows", type=int, default=2100, help="for each subset (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--card", action="store_true", help="write the results into MODEL_CARD.md")
    options = parser.parse_args(arguments)
    try:
        results = evaluate(options.network, options.features, options.windows, options.seed)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(results)
    if options.card:
        card = options.network / "MODEL_CARD.md"
        before, _, rest = card.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        card.write_text(f"{before}{BEGIN}\n{results}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
