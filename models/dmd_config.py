"""What shapes the network: its sizes, its dropouts, and which of its key components it has."""

from __future__ import annotations

from dataclasses import dataclass

from models.gd_unit import MODALITIES

_DROPOUTS = ("text_dropout", "embedding_dropout", "relu_dropout", "residual_dropout", "output_dropout")


@dataclass(frozen=True)
class InputConfig:
    """One modality as the network sees it."""

    dim: int  # features per step
    steps: int  # steps per window
    kernel: int = 5  # of the projection
    stride: int = 1
    attention_dropout: float = 0.0  # where this modality is attended to
    lift: int = 0  # width of a ReLU layer on every step before the projection; 0: none, as the authors
    lift_dropout: float = 0.0  # after it
    offset_noise: float = 0.0  # training: deviation of a random offset that all steps of a window share

    @property
    def projected_steps(self) -> int:
        return (self.steps - self.kernel) // self.stride + 1

    @property
    def skipped_steps(self) -> int:
        """Oldest steps that no stride reaches, so that the newest step is always read."""
        return (self.steps - self.kernel) % self.stride


@dataclass(frozen=True)
class DMDConfig:
    """Everything that shapes the network; the defaults are the authors' for MOSI."""

    text: InputConfig = InputConfig(768, 50, attention_dropout=0.3)
    vision: InputConfig = InputConfig(20, 500, attention_dropout=0.0)
    audio: InputConfig = InputConfig(5, 375, attention_dropout=0.2)
    outputs: int = 1  # 1: regression; more: classes
    width: int = 50  # d, common to the three modalities
    heads: int = 10
    levels: int = 4  # layers of the crossmodal and homogeneous encoders
    memory_levels: int = 3  # layers of the encoders after them, if more than `levels`
    causal: bool = True
    text_dropout: float = 0.5
    embedding_dropout: float = 0.2
    relu_dropout: float = 0.0
    residual_dropout: float = 0.0
    output_dropout: float = 0.5
    homo_head_size: int = 0  # hidden layer of the homogeneous heads; 0: the common width, as the authors
    homo_gd_size: int = 64
    hetero_gd_size: int = 32
    gd_alpha: float = 1 / 8
    homo_prior: tuple[float, ...] = (0, 0, 1, 0, 1, 0)  # logits, in EDGE_ORDER
    hetero_prior: tuple[float, ...] = (0, 0, 1, 0, 1, 1)
    prior_temperature: float = 0.25
    # The paper's ablation takes these out; see models.ablation.
    decouple: bool = True  # FD; False: both spaces hold the projected features
    crossmodal: bool = True  # CA; False: each modality attends to itself, in encoders of the same size

    def __post_init__(self) -> None:
        for name in MODALITIES:
            one = self.input(name)
            small = min(one.dim, one.kernel, one.stride) < 1 or min(one.lift, one.offset_noise) < 0
            if small or one.steps < one.kernel:
                raise ValueError(
                    f"{name}: dim, kernel and stride must be positive, kernel <= steps, "
                    f"lift and offset_noise >= 0, not {one}"
                )
        if self.outputs < 1 or self.levels < 1 or self.width % self.heads:
            raise ValueError(
                f"outputs {self.outputs} and levels {self.levels} must be positive, "
                f"and width {self.width} a multiple of heads {self.heads}"
            )
        dropouts = {name: value for name in _DROPOUTS if not 0 <= (value := getattr(self, name)) < 1}
        dropouts |= {
            f"{name}.{which}": value
            for name in MODALITIES
            for which in ("attention_dropout", "lift_dropout")
            if not 0 <= (value := getattr(self.input(name), which)) < 1
        }
        if dropouts:
            raise ValueError(f"a dropout must lie in 0..1, without 1, not {dropouts}")

    @property
    def homo_hidden(self) -> int:
        """Width of what HomoGD reads of each homogeneous head."""
        return self.homo_head_size or self.width

    def input(self, modality: str) -> InputConfig:
        one: InputConfig = getattr(self, modality)
        return one


def _preset(text: tuple[int, int], audio: tuple[int, int], vision: tuple[int, int]) -> DMDConfig:
    """(features, steps) of each modality, with the authors' dropouts."""
    return DMDConfig(
        text=InputConfig(*text, attention_dropout=0.3),
        audio=InputConfig(*audio, attention_dropout=0.2),
        vision=InputConfig(*vision, attention_dropout=0.0),
    )


PRESETS = {
    "mosi-unaligned": _preset((768, 50), (5, 375), (20, 500)),
    "mosi-aligned": _preset((768, 50), (5, 50), (20, 50)),
    "mosei-unaligned": _preset((768, 50), (74, 500), (35, 500)),
    "mosei-aligned": _preset((768, 50), (74, 50), (35, 50)),
    "tiny": _preset((6, 9), (5, 14), (4, 12)),
}
"""The authors' networks for their data sets, regression; and one that is small enough for a test."""
