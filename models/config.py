"""The configuration of a training: one TOML file, ``python -m models.train --config FILE.toml``.

Every field has a default but the data set's kind and path. The file that was used, with every default
spelled out, is kept in the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the field and what was expected."""


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the windows come from."""

    kind: Literal["mmsa", "clips", "composed"]
    path: str  # the pickle (mmsa), the folder of build/extract_features.py or of build/extract_corpora.py
    windows: int = 4800  # composed: windows in one training pass
    held: int = 256  # composed: validation and test windows of every subset of the senses
    text: Literal["features", "pieces"] = "features"  # pieces: token ids, for a text encoder that is trained
    masks: bool = False  # mmsa: padding is masked; False: it is read as zeros, as the authors do


class TextEncoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pretrained BERT inside the network, trained with it (the paper fine-tunes BERT-base)."""

    source: str  # folder in Hugging Face's layout, or a wheel with it
    rate: float = 2e-5
    trained_layers: int = -1  # the last ones; -1: all, and the embeddings
    trained_epochs: int = -1  # passes; then it is frozen, and every line is encoded only once; -1: all


class Ablation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The paper's key components; False takes one out."""

    fd: bool = True  # feature decoupling
    homo_gd: bool = True
    ca: bool = True  # crossmodal attention
    hetero_gd: bool = True


class Optimisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights are found; the defaults are the authors' for MOSI."""

    optimiser: Literal["adam", "adamw"] = "adam"
    batch: int = 16  # windows in one forward pass, on each GPU
    accumulate: int = 10  # passes before one update
    rate: float = 1e-4
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    warmup: int = 0  # updates
    weight_decay: float = 0.0
    clip: float = 0.6  # of every gradient's value; 0: none
    clip_norm: float = 0.0  # of the whole gradient's norm; 0: none
    epochs: int = 30  # passes at most
    patience: int = 10  # passes without progress before it stops; 0: never stops early
    plateau: int = 5  # passes without progress before the rate is halved
    average: float = 0.0  # decay of the moving average of weights that is validated and kept; 0: none
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of a GPU's forward pass
    modality_dropout: float = 0.0  # odds that a sense of a training window is taken away
    compile: bool = False  # torch.compile


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    data: DataConfig
    name: str = "dmd"
    seed: int = 1111
    network: dict[
        str, Any
    ] = {}  # fields of models.dmd.DMDConfig; text, audio, vision are tables of InputConfig
    loss: dict[str, float | bool] = {}  # fields of models.losses.LossWeights
    optimisation: Optimisation = Optimisation()
    ablation: Ablation = Ablation()
    text_encoder: TextEncoderConfig | None = None


def load(path: Path) -> Training:
    """Read a configuration. Raises ConfigError."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Training)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # a number may be too long to read
        raise ConfigError(f"{path}: {error}") from None


def check(config: Training) -> None:
    """Refuse values that cannot train. Raises ConfigError."""
    how = config.optimisation
    for name in ("batch", "accumulate", "epochs"):
        if getattr(how, name) < 1:
            raise ConfigError(f"optimisation.{name} is {getattr(how, name)}, expected at least 1")
    if not 0 <= how.modality_dropout < 1 or not 0 <= how.average < 1:
        raise ConfigError(
            f"optimisation.modality_dropout ({how.modality_dropout}) and average ({how.average}) "
            "must lie in 0..1, without 1"
        )
    if how.rate <= 0:
        raise ConfigError(f"optimisation.rate is {how.rate}, expected more than 0")
    if config.data.kind == "composed" and config.text_encoder is None:
        raise ConfigError("composed data are word pieces: give a [text_encoder] with its source")
    if config.data.text == "pieces" and config.text_encoder is None:
        raise ConfigError("data.text is 'pieces': give a [text_encoder] with its source")
