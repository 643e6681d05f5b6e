"""Data: features of the corpora, and windows composed from them as the live application would cut them.

No corpus at hand has all three senses of one person, so a sample is composed: a line, a voice and a face
of the same emotion and the same split. What the windows see of them:

* text: the line's word pieces, right-aligned.
* audio: two clips of the emotion one after the other, cut anywhere in the second, or one clip with padding
  before it; a random gain, a random steady noise floor.
* vision: a still face becomes a short film at a camera's rate (15 to 30 Hz): either held, or, in a third
  of the samples, rising from the mean neutral face to its apex over 0.2 to 0.8 s (smoothstep, after the
  onset-apex model of facial action), at 70 to 110 % of its intensity, with a slow random walk on top.

Any non-empty subset of the senses may be there: all three in 40 %, each other subset in 10 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture.features.spec import FeatureSpec
from models.data import F32, Batch

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
NEUTRAL = EMOTIONS.index("neutral")
SPLITS = {"train": 0, "validation": 1, "test": 2}
SUBSETS = ("LAV", "LA", "LV", "AV", "L", "A", "V")
SUBSET_ODDS = (0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)

MEL_COLUMNS = slice(0, 41)  # 40 log-mel bins and the log energy: all move with the gain
BLENDSHAPES = slice(0, 52)
ROTATION = slice(52, 55)
PRESENCE = 58


@dataclass(frozen=True)
class Corpus:
    """One corpus of one split: items by emotion."""

    items: list[F32]  # (T, D) each
    labels: npt.NDArray[np.int64]
    by_label: list[npt.NDArray[np.int64]]


def load(folder: Path, kind: str, split: str) -> Corpus:
    """Read one split of ``ravdess.npz``, ``fer.npz`` or ``meld.npz``, less the pictures without a face."""
    with np.load(folder / f"{kind}.npz") as stored:
        values, offsets = stored["values"], stored["offsets"]
        every, splits = stored["labels"], stored["splits"]
    items, labels = [], []
    for i in np.flatnonzero(splits == SPLITS[split]):
        item = values[offsets[i] : offsets[i + 1]].astype(np.float32)
        if kind == "fer" and item[0, PRESENCE] == 0:
            continue
        items.append(item)
        labels.append(int(every[i]))
    kept = np.array(labels)
    return Corpus(items, kept, [np.flatnonzero(kept == label) for label in range(len(EMOTIONS))])


@dataclass
class Composer:
    """Composes batches from one split. The same seed gives the same batches."""

    spec: FeatureSpec
    text: Corpus
    audio: Corpus
    vision: Corpus
    neutral_face: F32  # (59,) mean of the training split's neutral faces
    augment: bool
    rng: np.random.Generator

    @classmethod
    def open(cls, folder: Path, split: str, spec: FeatureSpec, *, augment: bool, seed: int) -> Composer:
        """Read one split of the three corpora."""
        text, audio, vision = (load(folder, kind, split) for kind in ("meld", "ravdess", "fer"))
        train = vision if split == "train" else load(folder, "fer", "train")
        neutral = np.stack([train.items[i][0] for i in train.by_label[NEUTRAL]]).mean(0)
        return cls(spec, text, audio, vision, neutral, augment, np.random.default_rng(seed))

    def batch(
        self, size: int, subset: str | None = None, labels: npt.NDArray[np.int64] | None = None
    ) -> Batch:
        """``size`` windows, emotions in equal shares; ``subset`` fixes which senses are there."""
        if labels is None:
            labels = self.rng.integers(len(EMOTIONS), size=size)
        shapes = [(one.steps, one.dim) for one in (self.spec.text, self.spec.audio, self.spec.vision)]
        values = [np.zeros((size, *shape), np.float32) for shape in shapes]
        masks = [np.zeros((size, steps), np.float32) for steps, _ in shapes]
        makers = (self._line, self._voice, self._film)
        for row, label in enumerate(labels):
            there = subset or self.rng.choice(SUBSETS, p=SUBSET_ODDS)
            for sense, maker, value, mask in zip("LAV", makers, values, masks, strict=True):
                if sense in there:
                    steps = maker(int(label))
                    value[row, -len(steps) :], mask[row, -len(steps) :] = steps, 1
        return Batch(values[0], values[1], values[2], masks[0], masks[1], masks[2], labels)

    def _pick(self, corpus: Corpus, label: int) -> F32:
        return corpus.items[int(self.rng.choice(corpus.by_label[label]))]

    def _line(self, label: int) -> F32:
        """(S, 384) word pieces; when augmenting, one in twenty is lost, as a recogniser would."""
        pieces = self._pick(self.text, label)[-self.spec.text.steps :]
        if not self.augment or len(pieces) < 4:
            return pieces
        kept = self.rng.random(len(pieces)) > 0.05
        return pieces[kept] if kept.any() else pieces

    def _voice(self, label: int) -> F32:
        """(T, 42) frames."""
        clip = self._pick(self.audio, label)
        end = int(self.rng.uniform(0.6, 1.0) * len(clip)) if self.augment else len(clip)
        frames = clip[:end]
        if self.rng.random() < 0.7:
            frames = np.concatenate([self._pick(self.audio, label), frames])
        frames = frames[-self.spec.audio.steps :].copy()
        if self.augment:
            frames[:, MEL_COLUMNS] += self.rng.uniform(-10, 15) * np.log(10) / 10  # gain in dB
            floor = self.rng.uniform(0, 11) + self.rng.normal(0, 0.7, 41)
            frames[:, MEL_COLUMNS] = np.logaddexp(frames[:, MEL_COLUMNS], floor)
        return np.asarray(frames, np.float32)

    def _film(self, label: int) -> F32:
        """(T, 59) frames of a still face, see the module's words."""
        face = self._pick(self.vision, label)[0]
        rate_hz = self.rng.uniform(15, 30)
        seconds = self.spec.vision.window_s if self.rng.random() < 0.7 else self.rng.uniform(0.5, 4)
        n = max(2, min(self.spec.vision.steps, int(seconds * rate_hz)))
        ramp = np.ones(n, np.float32)
        if self.augment and self.rng.random() < 1 / 3:
            onset_s, rise_s = self.rng.uniform(0, seconds * 0.5), self.rng.uniform(0.2, 0.8)
            x = np.clip((np.arange(n) / rate_hz - onset_s) / rise_s, 0, 1)
            ramp = (x * x * (3 - 2 * x)).astype(np.float32)
        intensity = self.rng.uniform(0.7, 1.1) if self.augment else 1.0
        film = np.repeat(face[None], n, 0)
        film[:, BLENDSHAPES] = self.neutral_face[BLENDSHAPES] + (ramp * intensity)[:, None] * (
            face[BLENDSHAPES] - self.neutral_face[BLENDSHAPES]
        )
        if self.augment:
            film[:, BLENDSHAPES] += _walk(self.rng, n, 52, 0.03) + self.rng.normal(0, 0.02, 52)
            film[:, ROTATION] += _walk(self.rng, n, 3, 0.05) + self.rng.normal(0, 0.1, 3)
        film[:, BLENDSHAPES] = np.clip(film[:, BLENDSHAPES], 0, 1)
        return film


def normalisation(folder: Path) -> dict[str, tuple[F32, F32]]:
    """Mean and 1/deviation of every column over the training split.

    Shut out with a scale of 0: the head's place before the camera (crops of a face know nothing of it)
    and ``presence`` (the mask says it).
    """
    found = {}
    for sense, kind in (("text", "meld"), ("audio", "ravdess"), ("vision", "fer")):
        rows = np.concatenate(load(folder, kind, "train").items)
        scale = (1 / np.maximum(rows.std(0), 0.02)).astype(np.float32)
        if sense == "vision":
            scale[ROTATION.stop :] = 0
        found[sense] = rows.mean(0).astype(np.float32), scale
    return found


def _walk(rng: np.random.Generator, steps: int, columns: int, deviation: float) -> Any:
    """A slow random walk that stays near zero: (steps, columns)."""
    kicks = rng.normal(0, deviation * 0.31, (steps, columns))
    for t in range(1, steps):
        kicks[t] += 0.95 * kicks[t - 1]
    return kicks
