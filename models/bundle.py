"""The bundle: what a training leaves for the live application, ``python -m runtime.live --network DIR``.

Two ONNX graphs (the text encoder with int8 weights), the FeatureSpec, and ``bundle.json``: what the network
is, how its logits become probabilities, when it had better say nothing, and the sha256 of the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capture.features import spec
from models import text_encoder
from models.checkpoint import round_to_half, save
from models.data import Data
from models.emotion import EmotionNetwork
from models.export import export_onnx

SERVED = (  # what the application reads; the checkpoint beside them is for training
    "network.onnx",
    "text_encoder.onnx",
    "tokenizer.json",
    "features.json",
)


def write(
    network: EmotionNetwork, data: Data, out: Path, *, name: str, tokenizer: Path | None,
    temperatures: Mapping[str, float], abstain_below: float, distilled: bool, how: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the bundle, its manifest last.

    temperatures: by subset of the senses (``LAV``, ``LA``…), and ``""`` for any other. tokenizer: the
    ``tokenizer.json`` of the network's text encoder; None leaves the encoder that lies in ``out``.
    distilled: both GD-Units were trained; otherwise their edges are as they were drawn, and not published.
    """
    assert data.features is not None
    out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    (out / "bundle.json").unlink(missing_ok=True)  # half a bundle must not look like one
    spec.save(data.features, out / "features.json")
    round_to_half(network.dmd)
    save(network.dmd, out, extra={"labels": list(data.labels), "trained": dict(how)}, half=True)
    export_onnx(network.dmd, out / "network.onnx")
    if network.encoder is not None:
        text_encoder.export(network.encoder, out / "text_encoder.onnx")
    if tokenizer is not None:
        text_encoder.write_tokenizer(tokenizer, out)
    manifest = {
        "name": name,
        "task": "classification" if data.labels else "regression",
        "labels": list(data.labels),
        "temperature": round(temperatures[""], 4),
        "temperatures": {subset: round(t, 4) for subset, t in temperatures.items() if subset},
        "abstain_below": round(abstain_below, 4),
        "distilled": distilled,
        "precision": "fp32",
        "sha256": {
            file: hashlib.sha256((out / file).read_bytes()).hexdigest()
            for file in SERVED
            if (out / file).exists()
        },
    }
    half = out / "bundle.json.half"
    half.write_text(json.dumps(manifest, indent=1) + "\n")
    half.replace(out / "bundle.json")
