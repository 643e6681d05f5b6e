"""A bundle as the live application runs it: its ONNX graphs on batches, for evaluation without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from capture.features import spec
from capture.features.spec import FeatureSpec, SpecMismatch
from models.data import SENSES, Batch, DataError

F64 = npt.NDArray[np.float64]


class Manifest(msgspec.Struct, frozen=True):
    """What an evaluation needs of ``bundle.json``."""

    name: str
    labels: tuple[str, ...]
    temperature: float = 1.0
    temperatures: dict[str, float] = {}
    abstain_below: float = 0.0


@dataclass(frozen=True)
class Answers:
    """What the network says of N windows."""

    logits: F64  # (N, C), fused
    alone: dict[str, F64]  # the heads of text, audio and vision, (N, C) each
    labels: npt.NDArray[np.int64]  # (N,)


class Served:
    """One bundle. Raises DataError where the folder holds none."""

    def __init__(self, folder: Path) -> None:
        try:
            self.manifest = msgspec.json.decode((folder / "bundle.json").read_bytes(), type=Manifest)
            self.features: FeatureSpec = spec.load(folder / "features.json")
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            self._dmd = ort.InferenceSession(folder / "network.onnx", options)
            self._encoder = ort.InferenceSession(folder / "text_encoder.onnx", options)
        except OSError as error:
            raise DataError(f"{error.filename or folder}: {error.strerror or error}") from None
        except (msgspec.DecodeError, SpecMismatch) as error:
            raise DataError(f"{folder} holds no network: {error}") from None
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise DataError(f"{folder}: {' '.join(str(error).split())[:200]}") from None
        self._lines: dict[bytes, npt.NDArray[np.float32]] = {}

    def embed(self, pieces: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Word pieces (S,) of one line -> embeddings (S, D). Alone, as live: int8 scales know their batch."""
        ids = np.asarray(pieces, np.int64)[None]
        key = ids.tobytes()
        if key not in self._lines:
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            self._lines[key] = self._encoder.run(["embeddings"], feed)[0][0]
        return self._lines[key]

    def run(self, batch: Batch) -> Answers:
        """Fused and unimodal logits of a batch whose text is word pieces."""
        text = np.zeros((*batch.text.shape, self.features.text.dim), np.float32)
        for row, mask in enumerate(batch.text_mask):
            if steps := int(mask.sum()):
                text[row, -steps:] = self.embed(batch.text[row, -steps:])
        names = ["logits", *(f"{sense}_logits" for sense in SENSES.values())]
        feed = {"text": text} | {
            name: getattr(batch, name)
            for name in ("audio", "vision", "text_mask", "audio_mask", "vision_mask")
        }
        fused, *alone = (np.asarray(x, np.float64) for x in self._dmd.run(names, feed))
        return Answers(fused, dict(zip(SENSES.values(), alone, strict=True)), batch.labels)

    def temperature(self, subset: str) -> float:
        """What divides the logits of windows with these senses, ``LAV`` and the like."""
        return self.manifest.temperatures.get(subset, self.manifest.temperature)


def joined(parts: list[Answers]) -> Answers:
    """Several batches as one."""
    return Answers(
        np.concatenate([p.logits for p in parts]),
        {s: np.concatenate([p.alone[s] for p in parts]) for s in parts[0].alone},
        np.concatenate([p.labels for p in parts]),
    )
