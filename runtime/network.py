"""Network: a trained bundle on disk, checked before it is believed.

A bundle is a folder: ``network.onnx`` (DMD), ``text_encoder.onnx`` and ``tokenizer.json`` (words to
embeddings), ``features.json`` (its FeatureSpec) and ``bundle.json`` (what it is, and the sha256 of
the other files).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from capture.features import audio, spec, text, vision
from capture.features.spec import FeatureSpec, SpecMismatch, StreamSpec
from capture.messages import StreamName

BUNDLED = Path(__file__).parent.parent / "models" / "pretrained"

CAPTURED: dict[StreamName, StreamSpec] = {"text": text.SPEC, "audio": audio.SPEC, "vision": vision.SPEC}

VOUCHED = ("network.onnx", "text_encoder.onnx", "tokenizer.json")  # features.json is held against CAPTURED

Temperature = Annotated[float, Meta(gt=0, le=1000)]
Probability = Annotated[float, Meta(ge=0, le=1)]


class NetworkError(ValueError):
    """A folder that holds no usable network."""


class Manifest(msgspec.Struct, frozen=True):
    """``bundle.json``: what the network is."""

    name: str
    task: Literal["classification", "regression"]
    labels: tuple[str, ...] = ()  # of a classification, in the order of the logits
    temperature: Temperature = 1.0  # divides the logits, for calibrated probabilities
    temperatures: dict[
        str, Temperature
    ] = {}  # instead, for windows with these senses: LAV, LA, LV, AV, L, A, V
    abstain_below: Annotated[float, Meta(ge=0, le=1)] = (
        0.0  # a top probability below this is published as `abstain`
    )
    distilled: bool = True  # both GD-Units were trained, so that their edges say something
    precision: str = "fp32"
    sha256: dict[str, str] = msgspec.field(default_factory=dict)

    def temperature_of(self, present: Collection[str]) -> float:
        """What divides the logits of a window with these senses (``text``, ``audio``, ``vision``)."""
        letters = {"text": "L", "audio": "A", "vision": "V"}
        subset = "".join(letter for sense, letter in letters.items() if sense in present)
        return self.temperatures.get(subset, self.temperature)


class Network(msgspec.Struct, frozen=True):
    """A checked bundle."""

    folder: Path
    manifest: Manifest
    features: FeatureSpec
    hash: str  # twelve hex digits over the weights and the manifest

    def file(self, name: str) -> Path:
        return self.folder / name


def load(folder: Path = BUNDLED) -> Network:
    """Open a bundle and check it.

    Raises:
        NetworkError: a file is missing, damaged, not vouched for, or not of this format.
        SpecMismatch: the network expects other features than this version of ``capture`` makes.
    """
    if not folder.is_dir():
        raise NetworkError(f"{folder} is no folder: --network takes a folder with bundle.json in it")
    try:
        raw = (folder / "bundle.json").read_bytes()
        manifest = msgspec.json.decode(raw, type=Manifest)
        features = spec.load(folder / "features.json")
    except FileNotFoundError as error:
        raise NetworkError(f"{folder} holds no network: {Path(error.filename).name} is missing") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkError(f"{folder / 'bundle.json'} is damaged: {error}") from error
    except OSError as error:
        raise NetworkError(f"{error.filename} cannot be read: {error.strerror}") from error
    if unknown := [name for name in VOUCHED if name not in manifest.sha256]:
        raise NetworkError(
            f"{folder / 'bundle.json'} has no sha256 of {' and '.join(unknown)}: restore it, or write the "
            "bundle again with python -m models.train"
        )
    for name, expected in manifest.sha256.items():
        _check_file(folder / name, expected)
    features.check(CAPTURED)
    return Network(folder, manifest, features, hashlib.sha256(raw).hexdigest()[:12])


def _check_file(path: Path, expected: str) -> None:
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise NetworkError(f"{path.parent} holds no network: {path.name} is missing") from error
    except (OSError, ValueError) as error:  # the second: a name with a NUL in it
        raise NetworkError(f"{str(path)!r} cannot be read: {error}") from error
    if actual != expected:
        raise NetworkError(
            f"{path} is damaged: sha256 {actual[:12]}…, expected {expected[:12]}…; restore the file"
        )


__all__ = ["BUNDLED", "CAPTURED", "Manifest", "Network", "NetworkError", "SpecMismatch", "load"]
