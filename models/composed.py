"""Composed windows: a line, a voice and a face of one emotion, cut as the live application would cut them.

No corpus at hand has all three senses of one person, so a sample is composed of items of the same
emotion and the same split. What a window sees of them (augmentation in training only):

* text: the line's word pieces, right-aligned. Augmented: punctuation lost in a third of the lines, one piece
  in twenty lost, as a recogniser would; in a tenth, a neutral line was said before.
* audio: the clip's newest 4 s, before it another clip of the emotion, its own silence, or nothing.
  Augmented: cut anywhere in its last 40 %, a random gain, a random steady noise floor.
* vision: a still face becomes a short film at a camera's rate (15 to 30 Hz): held or, in a third of the
  training samples, rising from the mean neutral face to its apex over 0.2 to 0.8 s (smoothstep, after the
  onset-apex model of facial action), at 80 to 110 % of its intensity, with a slow random walk on top, before
  a camera that stands anywhere (the head turned by some 9 degrees); in a fifth, the face is lost a while.

Any non-empty subset of the senses may be there: all three in 40 %, each other subset in 10 %. Variants of an
item (another room, another light) count as items of the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from capture.features import audio, text, vision
from capture.features.spec import FeatureSpec, InputSpec
from models import arrays, baseline
from models.corpora import EMOTIONS, KINDS, TEST, TRAIN, VALIDATION, Kind
from models.data import F32, Batch, DataError, Input, Split, inputs_of

NEUTRAL = EMOTIONS.index("neutral")
SPLITS: dict[Split, int] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SUBSETS = ("LAV", "LA", "LV", "AV", "L", "A", "V")
SUBSET_ODDS = (0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
SENSE_OF: dict[Kind, str] = {"meld": "text", "ravdess": "audio", "fer": "vision"}

LINE_VARIANTS = 2
CAMERA_TURN_RAD = 0.15
JITTER = 0.15  # of each blendshape's deviation over the training faces
MEL_COLUMNS = slice(0, 41)  # 40 log-mel bins and the log energy: all move with the gain
ENERGY = 40
BLENDSHAPES = slice(0, 52)
ROTATION = slice(52, 55)
PRESENCE = vision.PRESENCE
TRAINED_ON = "trained_on.npz"
EMBEDDING = 384  # columns of the bundled text encoder
PUNCTUATION = frozenset(
    {999, 1000, 1010, 1011, 1012, 1024, 1025, 1029}
)  # ! " , - . : ; ? in BERT's vocabulary


@dataclass(frozen=True)
class Corpus:
    """One corpus of one split: items by emotion."""

    items: list[npt.NDArray[Any]]  # (T, D) each, or (S,) word pieces
    labels: npt.NDArray[np.int64]
    by_label: list[npt.NDArray[np.int64]]

    @classmethod
    def of(cls, items: list[npt.NDArray[Any]], labels: npt.NDArray[np.int64], kind: Kind) -> Corpus:
        """Items and their labels, less the pictures without a face."""
        kept = [i for i in range(len(items)) if kind != "fer" or items[i][0, PRESENCE] > 0]
        chosen = labels[kept]
        return cls(
            [items[i] for i in kept], chosen, [np.flatnonzero(chosen == n) for n in range(len(EMOTIONS))]
        )


def load(folder: Path, kind: Kind, split: Split, *, plain: bool = False) -> Corpus:
    """Read one split of ``ravdess.npz``, ``fer.npz`` or ``meld.npz``; ``plain``: without variants.

    Raises DataError where the file is missing or of another layout.
    """
    path = folder / f"{kind}.npz"
    try:
        stored = arrays.read(path)
        values, offsets, every = stored["values"], stored["offsets"], stored["labels"]
        chosen = stored["splits"] == SPLITS[split]
        if plain:
            chosen &= stored["variants"] == 0
        index = np.flatnonzero(chosen)
        return Corpus.of([values[offsets[i] : offsets[i + 1]] for i in index], every[index], kind)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run build/extract_corpora.py first") from None
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{path} is not of build/extract_corpora.py: {error}") from None


@dataclass
class Composer:
    """Composes batches from one split. The same generator state gives the same batches."""

    spec: FeatureSpec
    text: Corpus
    audio: Corpus
    vision: Corpus
    neutral_face: F32  # (59,) mean of the training split's neutral faces
    augment: bool
    rng: np.random.Generator

    def batch(
        self, size: int, subset: str | None = None, labels: npt.NDArray[np.int64] | None = None
    ) -> Batch:
        """``size`` windows, emotions in equal shares; ``subset`` fixes which senses are there."""
        if labels is None:
            labels = self.rng.integers(len(EMOTIONS), size=size)
        spec = self.spec
        pieces = np.zeros((size, spec.text.steps), np.int64)
        sounds = np.zeros((size, spec.audio.steps, spec.audio.dim), np.float32)
        films = np.zeros((size, spec.vision.steps, spec.vision.dim), np.float32)
        masks = [np.zeros((size, one.steps), np.float32) for one in (spec.text, spec.audio, spec.vision)]
        for row, label in enumerate(labels):
            there = self.rng.choice(SUBSETS, p=SUBSET_ODDS) if subset is None else subset
            if "L" in there:
                line = self._line(int(label))
                pieces[row, -len(line) :], masks[0][row, -len(line) :] = line, 1
            if "A" in there:
                sound = self._voice(int(label))
                sounds[row, -len(sound) :], masks[1][row, -len(sound) :] = sound, 1
            if "V" in there:
                film = self._film(int(label))
                seen = self._seen(len(film))
                films[row, -len(film) :], masks[2][row, -len(film) :] = film * seen[:, None], seen
        return Batch(pieces, sounds, films, masks[0], masks[1], masks[2], labels)

    def _pick(self, corpus: Corpus, label: int) -> npt.NDArray[Any]:
        return corpus.items[int(self.rng.choice(corpus.by_label[label]))]

    def _line(self, label: int) -> npt.NDArray[np.int64]:
        """(S,) word pieces between their first and last, which BERT expects."""
        number = int(self.rng.choice(self.text.by_label[label]))
        first, *inner, last = self.text.items[number]
        if self.augment:
            # A line has few ways of being disturbed, so that a frozen encoder sees each only once.
            rng = np.random.default_rng([number, int(self.rng.integers(LINE_VARIANTS))])
            if rng.random() < 1 / 3:
                inner = [piece for piece in inner if piece not in PUNCTUATION]
            if len(inner) > 3:
                inner = [piece for piece in inner if rng.random() > 0.05]
            if rng.random() < 0.1:
                before = self.text.items[int(rng.choice(self.text.by_label[NEUTRAL]))]
                inner = [*before[1:-1], *inner]
        return np.array([first, *inner, last], np.int64)[-self.spec.text.steps :]

    def _voice(self, label: int) -> F32:
        """(T, 42) frames."""
        clip = self._pick(self.audio, label)
        end = int(self.rng.uniform(0.6, 1.0) * len(clip)) if self.augment else len(clip)
        frames = clip[:end]
        if self.augment and (before := self.rng.random()) < 0.8:
            if before < 0.5:
                frames = np.concatenate([self._pick(self.audio, label), frames])
            elif (missing := self.spec.audio.steps - len(frames)) > 0:
                quiet = clip[np.argsort(clip[:, ENERGY])[: max(8, len(clip) // 10)]]
                frames = np.concatenate([quiet[self.rng.integers(len(quiet), size=missing)], frames])
        frames = frames[-self.spec.audio.steps :].copy()
        if self.augment:
            frames[:, MEL_COLUMNS] += self.rng.uniform(-8, 12) * np.log(10) / 10  # gain in dB
            if self.rng.random() < 0.4:
                floor = self.rng.uniform(0, 9) + self.rng.normal(0, 0.7, 41)
                frames[:, MEL_COLUMNS] = np.logaddexp(frames[:, MEL_COLUMNS], floor)
        return np.asarray(frames, np.float32)

    def _film(self, label: int) -> F32:
        """(T, 59) frames of a still face, see the module's words."""
        face = self._pick(self.vision, label)[0]
        rate_hz = self.rng.uniform(15, 30)
        seconds = self.spec.vision.window_s if self.rng.random() < 0.7 else self.rng.uniform(0.5, 4)
        n = max(2, min(self.spec.vision.steps, int(seconds * rate_hz)))
        film = np.repeat(face[None], n, 0).astype(np.float32)
        if not self.augment:
            return film
        ramp = np.ones(n, np.float32)
        if self.rng.random() < 1 / 3:
            onset_s, rise_s = self.rng.uniform(0, seconds * 0.5), self.rng.uniform(0.2, 0.8)
            x = np.clip((np.arange(n) / rate_hz - onset_s) / rise_s, 0, 1)
            ramp = (x * x * (3 - 2 * x)).astype(np.float32)
        neutral = self.neutral_face[BLENDSHAPES]
        change = (ramp * self.rng.uniform(0.8, 1.1))[:, None] * (face[BLENDSHAPES] - neutral)
        film[:, BLENDSHAPES] = neutral + change + _walk(self.rng, n, 52, self._jitter)
        film[:, ROTATION] += _walk(self.rng, n, 3, 0.04) + self.rng.normal(0, CAMERA_TURN_RAD, 3)
        film[:, BLENDSHAPES] = np.clip(film[:, BLENDSHAPES], 0, 1)
        return film

    @cached_property
    def _jitter(self) -> F32:
        """How far each blendshape wanders in a film: (52,)."""
        return np.asarray(JITTER / np.array(self.spec.vision.scale[BLENDSHAPES]), np.float32)

    def _seen(self, steps: int) -> F32:
        """Which frames of a film show the face."""
        seen = np.ones(steps, np.float32)
        if self.augment and self.rng.random() < 0.2:
            start, length = self.rng.integers(steps), self.rng.integers(1, max(2, steps // 2))
            seen[start : min(start + length, steps - 1)] = 0
        return seen


@dataclass
class Composed:
    """The three corpora as one data set (``models.data.Data``), with word pieces for a text encoder."""

    folder: Path
    windows: int = 4800  # in a training pass
    held: int = 256  # validation and test windows of every subset
    name: str = "composed emotions"
    labels: tuple[str, ...] = EMOTIONS

    def __len__(self) -> int:
        return self.windows

    @cached_property
    def features(self) -> FeatureSpec:
        """Windows of 4 s (words: 8 s) with the training split's statistics."""
        return feature_spec(self.folder)

    @property
    def inputs(self) -> Mapping[str, Input]:
        return inputs_of(self.features)

    @cached_property
    def _neutral_face(self) -> F32:
        faces = load(self.folder, "fer", "train", plain=True)
        return np.asarray(np.stack([faces.items[i][0] for i in faces.by_label[NEUTRAL]]).mean(0), np.float32)

    @cached_property
    def _corpora(self) -> dict[Split, tuple[Corpus, Corpus, Corpus]]:
        """Words, voices and faces by split. Raises DataError where one has no example of an emotion."""
        return {split: self._load(split) for split in SPLITS}

    def _load(self, split: Split) -> tuple[Corpus, Corpus, Corpus]:
        corpora = {kind: load(self.folder, kind, split) for kind in KINDS}
        for kind, corpus in corpora.items():
            missing = [name for name, there in zip(EMOTIONS, corpus.by_label, strict=True) if not len(there)]
            if missing:
                raise DataError(
                    f"{self.folder / f'{kind}.npz'} has no {', '.join(missing)} in its {split} split, "
                    "expected some of every emotion: extract more of the corpus"
                )
        return corpora["meld"], corpora["ravdess"], corpora["fer"]

    def composer(self, split: Split, seed: int | list[int]) -> Composer:
        """A composer of one split; only training is augmented."""
        generator = np.random.default_rng(seed)
        return Composer(self.features, *self._corpora[split], self._neutral_face, split == "train", generator)

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        """Training: any subsets, by ``seed``. Otherwise ``held`` windows of every subset, always the same."""
        if split == "train":
            composer = self.composer(split, seed)
            for start in range(0, self.windows, size):
                yield composer.batch(min(size, self.windows - start))
            return
        for number, subset in enumerate(SUBSETS):
            yield from self.subset(split, subset, size, number)

    def attach(self, bundle: Path, embed: Callable[[npt.NDArray[Any]], F32]) -> None:
        """Lay beside a network what evaluations need: which items it was trained on, and the baseline.

        embed: word pieces (S,) -> the bundle's embeddings (S, D).
        """
        seen, regressions = {}, {}
        for kind in KINDS:
            with np.load(self.folder / f"{kind}.npz") as stored:
                seen[kind] = np.unique(stored["fingerprints"][stored["splits"] != TEST])
            corpus = load(self.folder, kind, "train", plain=True)
            items = [embed(item) for item in corpus.items] if kind == "meld" else corpus.items
            regressions[SENSE_OF[kind]] = baseline.fit(items, corpus.labels)
        np.savez_compressed(bundle / TRAINED_ON, **seen)  # type: ignore[arg-type]
        baseline.save(regressions, bundle)

    def subset(self, split: Split, subset: str, size: int, seed: int) -> Iterator[Batch]:
        """``held`` windows of one subset of the senses, emotions in equal shares."""
        composer = self.composer(split, [seed, SPLITS[split]])
        even = np.arange(self.held) % len(EMOTIONS)
        for start in range(0, self.held, size):
            part = even[start : start + size]
            yield composer.batch(len(part), subset, part)


def known(bundle: Path) -> dict[str, npt.NDArray[np.uint32]]:
    """Fingerprints of what a network was trained or chosen on, by corpus; empty where it does not say.

    Raises DataError where the file is damaged.
    """
    return arrays.read(bundle / TRAINED_ON) if (bundle / TRAINED_ON).exists() else {}


def feature_spec(folder: Path) -> FeatureSpec:
    """The FeatureSpec of networks for these corpora: windows of 4 s (words: 8 s)."""
    statistics = normalisation(folder)

    def one(sense: str, stream: Any, window_s: float, steps: int, dim: int) -> InputSpec:
        mean, scale = (tuple(round(float(v), 6) for v in values) for values in statistics[sense])
        return InputSpec(stream, window_s, steps, dim, mean, scale)

    return FeatureSpec(
        text=InputSpec(text.SPEC, 8.0, 48, EMBEDDING),
        audio=one("audio", audio.SPEC, 4.0, 200, audio.SPEC.dim),
        vision=one("vision", vision.SPEC, 4.0, 120, vision.SPEC.dim),
    )


def normalisation(folder: Path) -> dict[str, tuple[F32, F32]]:
    """Mean and 1/deviation of every audio and vision column over the training split.

    Shut out with a scale of 0: the head's place before the camera (crops of a face know nothing of it)
    and ``presence`` (the mask says it). Embeddings go in as they are: their encoder is trained.
    """
    found = {}
    for kind in KINDS:
        if kind == "meld":
            continue
        rows = np.concatenate(load(folder, kind, "train").items)
        scale = (1 / np.maximum(rows.std(0), 0.02)).astype(np.float32)
        if kind == "fer":
            scale[ROTATION.stop :] = 0
        found[SENSE_OF[kind]] = rows.mean(0).astype(np.float32), scale
    return found


def _walk(rng: np.random.Generator, steps: int, columns: int, deviation: float | F32) -> Any:
    """A slow random walk near zero, about ``deviation`` wide (one, or one a column): (steps, columns)."""
    kicks = rng.normal(0, deviation * 0.31, (steps, columns))
    kicks[0] /= 0.31
    return lfilter([1.0], [1.0, -0.95], kicks, axis=0)
