"""Training of the bundled network: ``python -m models.train --features DIR --out DIR``.

Composed windows (``models.composed``) in, a bundle out that ``python -m runtime.live --network DIR`` takes.
The best network on composed validation windows is kept; Ctrl-C, ``--minutes`` and early stopping all end
with it. What the network is worth is ``models.evaluate``'s to say.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from capture.features import audio, spec, text, vision
from capture.features.spec import FeatureSpec, InputSpec
from models.checkpoint import save
from models.composed import EMOTIONS, SUBSETS, Composer, normalisation
from models.data import Batch
from models.dmd import DMD, DMDConfig, InputConfig
from models.export import export_onnx
from models.losses import objective

CHECK_STEPS = 100
LIVE_FILES = (  # what the application reads; the checkpoint beside them is for training
    "network.onnx",
    "text_encoder.onnx",
    "tokenizer.json",
    "features.json",
)


def feature_spec(folder: Path) -> FeatureSpec:
    """The FeatureSpec of the bundled network: windows of 4 s (words: 8 s), statistics of training."""
    statistics = normalisation(folder)

    def one(sense: str, stream: spec.StreamSpec, window_s: float, steps: int, dim: int) -> InputSpec:
        mean, scale = (tuple(round(float(v), 6) for v in values) for values in statistics[sense])
        return InputSpec(stream, window_s, steps, dim, mean, scale)

    return FeatureSpec(
        text=one("text", text.SPEC, 8.0, 48, 384),
        audio=one("audio", audio.SPEC, 4.0, 200, audio.SPEC.dim),
        vision=one("vision", vision.SPEC, 4.0, 120, vision.SPEC.dim),
    )


def configuration(features: FeatureSpec) -> DMDConfig:
    """A small DMD: about 50 steps of each modality behind its convolution, 32 wide."""
    return DMDConfig(
        text=InputConfig(features.text.dim, features.text.steps, 3, 1),
        vision=InputConfig(features.vision.dim, features.vision.steps, 5, 3),
        audio=InputConfig(features.audio.dim, features.audio.steps, 5, 4),
        outputs=len(EMOTIONS),
        width=32,
        heads=4,
        levels=2,
        memory_levels=2,
        text_dropout=0.3,
        embedding_dropout=0.1,
        output_dropout=0.3,
    )


def build(features: FeatureSpec) -> DMD:
    """An untrained network with the normalisation inside."""
    model = DMD(configuration(features))
    for sense in ("text", "audio", "vision"):
        one = features.input(sense)
        model.set_normalisation(sense, torch.tensor(one.mean), torch.tensor(one.scale))
    return model


def inputs(batch: Batch) -> tuple[Tensor, ...]:
    """A batch as the network takes it."""
    arrays = batch.text, batch.audio, batch.vision, batch.text_mask, batch.audio_mask, batch.vision_mask
    return tuple(torch.from_numpy(array) for array in arrays)


@torch.no_grad()
def predict(model: DMD, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Fused logits (N, K) and labels (N,) of some batches."""
    model.eval()
    logits = torch.cat([model.infer(*inputs(batch)).logits for batch in batches])
    return logits, torch.from_numpy(np.concatenate([batch.labels for batch in batches]))


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes the probabilities of these logits most likely (Guo et al. 2017)."""
    log_t = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], lr=0.1, max_iter=50)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return log_t.exp().item()


def train(
    folder: Path,
    features: FeatureSpec,
    *,
    minutes: float,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    patience: int,
) -> tuple[DMD, list[Batch]]:
    """Train, and return the best network and the validation batches."""
    torch.manual_seed(seed)
    composer = Composer.open(folder, "train", features, augment=True, seed=seed)
    held = Composer.open(folder, "validation", features, augment=False, seed=seed + 1)
    validation = [held.batch(128, subset) for subset in SUBSETS for _ in range(2)]
    model = build(features)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    best, best_loss, since, checked = copy.deepcopy(model.state_dict()), math.inf, 0, 0
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    def check(step: int) -> str:
        """Validate, keep the network if it is the best so far, and say how it is doing."""
        nonlocal best, best_loss, since, checked
        logits, labels = predict(model, validation)
        loss = float(F.cross_entropy(logits, labels))
        hit = float((logits.argmax(1) == labels).float().mean())
        since, checked = 0 if loss < best_loss else since + 1, step
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss
        return f"step {step}  validation {loss:.3f}  accuracy {hit:.3f}"

    before = signal.signal(signal.SIGINT, stop)
    started = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    step = 0
    try:
        with Progress(*columns) as progress:
            bar = progress.add_task("training", total=1.0)
            while since < patience and not stopping:
                spent = max(step / steps, (time.monotonic() - started) / 60 / minutes)
                if spent >= 1:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * spent))
                made = composer.batch(batch)
                model.train()
                total, _ = objective(
                    model(*inputs(made)), torch.from_numpy(made.labels), model.homo_gd, model.hetero_gd
                )
                optimiser.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                step += 1
                if step % CHECK_STEPS == 0:
                    progress.console.print(check(step))
                progress.update(bar, completed=spent)
            if checked < step:
                progress.console.print(check(step))
    finally:
        signal.signal(signal.SIGINT, before)
    model.load_state_dict(best)
    return model.eval(), validation


def bundle(
    model: DMD, features: FeatureSpec, out: Path, *, name: str, heat: float, how: dict[str, object]
) -> None:
    """Write everything but the text encoder, which is there already, and the manifest last."""
    out.mkdir(parents=True, exist_ok=True)
    spec.save(features, out / "features.json")
    save(model, out, extra={"labels": list(EMOTIONS), "trained": how})
    export_onnx(model, out / "network.onnx")
    manifest = {
        "name": name,
        "task": "classification",
        "labels": list(EMOTIONS),
        "temperature": round(heat, 4),
        "precision": "fp32",
        "sha256": {
            file: hashlib.sha256((out / file).read_bytes()).hexdigest()
            for file in LIVE_FILES
            if (out / file).exists()
        },
    }
    (out / "bundle.json").write_text(json.dumps(manifest, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description="Train the emotion network on composed windows."
    )
    parser.add_argument("--features", type=Path, required=True, help="folder of build/extract_corpora.py")
    parser.add_argument("--out", type=Path, required=True, help="the bundle; has text_encoder.onnx already")
    parser.add_argument("--name", default="dmd-composed-emotions")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--patience", type=int, default=15, help="checks without progress; one every 100 steps"
    )
    options = parser.parse_args(arguments)
    missing = [
        kind for kind in ("ravdess", "fer", "meld") if not (options.features / f"{kind}.npz").is_file()
    ]
    if missing:
        parser.error(
            f"--features {options.features}: no {missing[0]}.npz: run build/extract_corpora.py first"
        )
    features = feature_spec(options.features)
    model, validation = train(
        options.features,
        features,
        minutes=options.minutes,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        patience=options.patience,
    )
    heat = temperature(*predict(model, validation))
    how = {k: v for k, v in vars(options).items() if k in ("minutes", "steps", "batch", "rate", "seed")}
    bundle(model, features, options.out, name=options.name, heat=heat, how=how | asdict(model.config))
    print(f"{options.out}: temperature {heat:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
