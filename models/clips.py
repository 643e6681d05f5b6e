"""Labelled clips of your own as a data set: the features of ``build/extract_features.py``, cut into windows.

Windows are cut as the live application cuts them (``runtime.windows``, a test holds both to each other): the
newest samples, right-aligned; pictures without a face are masked, and a sense that has nothing to say in the
window is absent. Of a clip, training sees a window that ends anywhere in it; validation and test the one that
ends with it. Words are those that were over by the window's end where their times are known, else the whole
text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from capture.features import audio, text, vision
from capture.features.coverage import coverage
from capture.features.spec import FeatureSpec, InputSpec, SpecMismatch
from capture.features.wordpiece import WordPiece
from models.clip_index import AGAIN, INDEX, Clip, Index, Rows, read_index, read_rows
from models.clip_table import SPLITS
from models.data import F32, Batch, DataError, Input, Split, inputs_of
from models.word_embeddings import TOKENIZER, WordEmbeddings

PRETRAINED = Path(__file__).parent / "pretrained"
WIDTH = 384  # of the bundled text encoder

MIN_SIGNAL_NS = 500_000_000  # of a training window
KEPT_BYTES = 2 << 30  # of features in memory; more are read again

# As runtime.windows, which this package may not import.
MIN_COVERAGE = 0.1
MAX_LAG_NS = 1_000_000_000
MIN_SPEECH_S = 0.3
SPEECH = 0.5
_SPEECH_COLUMN = audio.SPEC.names.index("speech")

FEATURES = FeatureSpec(
    text=InputSpec(text.SPEC, 8.0, 48, WIDTH),
    audio=InputSpec(audio.SPEC, 4.0, 200, audio.SPEC.dim),
    vision=InputSpec(vision.SPEC, 4.0, 120, vision.SPEC.dim),
)


@dataclass
class Clips:
    """Clips as ``models.data.Data``; ``open_clips`` makes it."""

    folder: Path
    index: Index
    labels: tuple[str, ...]
    features: FeatureSpec
    words: WordPiece | WordEmbeddings
    _kept: dict[str, Rows] = field(default_factory=dict, repr=False)
    _kept_bytes: int = 0

    @property
    def name(self) -> str:
        return f"clips of {self.folder.resolve().name}"

    @property
    def inputs(self) -> Mapping[str, Input]:
        return inputs_of(self.features)

    def __len__(self) -> int:
        return len(self.of("train"))

    def of(self, split: Split) -> list[Clip]:
        """The clips of a split."""
        return [clip for clip in self.index.clips if clip.split == split]

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        """One pass, one window of each clip, see ``models.data.Data``."""
        clips = self.of(split)
        rng = np.random.default_rng(seed) if split == "train" else None
        if rng is not None:
            clips = [clips[i] for i in rng.permutation(len(clips))]
        for start in range(0, len(clips), size):
            part = clips[start : start + size]
            yield self.batch(part, [clip.end_ns if rng is None else _anywhere(clip, rng) for clip in part])

    def batch(self, clips: Sequence[Clip], ends_ns: Sequence[int]) -> Batch:
        """The windows of ``clips`` that end at ``ends_ns``; where nothing is in one, the clip's last.

        Raises DataError where a clip's features cannot be read.
        """
        spec, n = self.features, len(clips)
        pieces = isinstance(self.words, WordPiece)
        lines = np.zeros((n, spec.text.steps), np.int64) if pieces else _zeros(n, spec.text)
        sounds, films = _zeros(n, spec.audio), _zeros(n, spec.vision)
        masks = [np.zeros((n, one.steps), np.float32) for one in (spec.text, spec.audio, spec.vision)]
        for i, (clip, end_ns) in enumerate(zip(clips, ends_ns, strict=True)):
            rows = self.rows(clip)
            for end in (end_ns, clip.end_ns):
                said = self._said(clip, end)  # (S,) or (S, D)
                if len(said):
                    lines[i, -len(said) :], masks[0][i, -len(said) :] = said, 1
                _cut(rows, "audio", spec.audio, end, sounds[i], masks[1][i])
                _cut(rows, "vision", spec.vision, end, films[i], masks[2][i])
                if any(mask[i].any() for mask in masks):
                    break
        if self.labels:
            labels: npt.NDArray[Any] = np.array(
                [self.labels.index(str(clip.label)) for clip in clips], np.int64
            )
        else:
            labels = np.array([clip.label for clip in clips], np.float32)
        return Batch(lines, sounds, films, masks[0], masks[1], masks[2], labels)

    def rows(self, clip: Clip) -> Rows:
        """A clip's features, see ``models.clip_index``. Raises DataError."""
        if clip.id in self._kept:
            return self._kept[clip.id]
        rows = read_rows(self.folder, clip)
        if self._kept_bytes < KEPT_BYTES:
            self._kept[clip.id] = rows
            self._kept_bytes += sum(array.nbytes for array in rows.values())
        return rows

    def _said(self, clip: Clip, end_ns: int) -> npt.NDArray[Any]:
        """Word pieces (S,) or embeddings (S, D) of the words in the window that ends at ``end_ns``."""
        sentence = clip.text
        if clip.words:
            start_ns = end_ns - round(self.features.text.window_s * 1e9)
            sentence = " ".join(word.text for word in clip.words if start_ns < word.end_ns <= end_ns)
        if not sentence:
            return np.zeros(0, np.int64)
        if isinstance(self.words, WordPiece):
            return np.array(self.words.encode(sentence)[-self.features.text.steps :], np.int64)
        return self.words.of(sentence)


def open_clips(
    folder: Path,
    text: Literal["features", "pieces"] = "features",
    features: FeatureSpec | None = None,
    text_encoder: Path | None = None,
) -> Clips:
    """Open a folder of ``build/extract_features.py``.

    Args:
        folder: with ``clips.json``.
        text: ``features``: embeddings of the text encoder; ``pieces``: word pieces of its tokenizer.
        features: the windows' lengths and steps; None: 4 s, and 8 s of words. Its normalisation is not
            taken: that is always the training clips'.
        text_encoder: folder of ``tokenizer.json`` and, for ``features``, ``text_encoder.onnx``; None: the
            bundled network's.

    Raises:
        DataError: the folder is none of these, is incomplete, or is of other features than this version's.
    """
    index = read_index(folder)
    spec = features or FEATURES
    try:
        spec.check({"text": FEATURES.text.stream, "audio": audio.SPEC, "vision": vision.SPEC})
    except SpecMismatch as error:
        raise DataError(f"{folder}: {error}") from None
    counts = Counter(clip.split for clip in index.clips)
    for split in SPLITS:
        if not counts[split]:
            raise DataError(
                f"{folder / INDEX}: no clip is for {split}: name some in a column split, and {AGAIN}"
            )
    bundle = text_encoder or PRETRAINED
    words = _tokenizer(bundle) if text == "pieces" else WordEmbeddings(bundle, spec.text.steps, folder)
    width = words.dim if isinstance(words, WordEmbeddings) else _width(bundle)
    spec = msgspec.structs.replace(spec, text=msgspec.structs.replace(spec.text, dim=width))
    data = Clips(folder, index, _classes(folder, index), spec, words)
    data.features = _normalised(data)
    return data


def _classes(folder: Path, index: Index) -> tuple[str, ...]:
    """Names in order; () where labels are numbers."""
    labels = {clip.label for clip in index.clips}
    if all(isinstance(label, float | int) for label in labels):
        return ()
    names = tuple(sorted(label for label in labels if isinstance(label, str)))
    if len(names) < max(2, len(labels)):
        raise DataError(
            f"{folder / INDEX}: labels are {sorted(map(str, labels))}, expected two names or more"
        )
    return names


def _tokenizer(bundle: Path) -> WordPiece:
    path = bundle / TOKENIZER
    try:
        return WordPiece(path)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is no tokenizer ({error}): expected that of a BERT, uncased") from None


def _width(bundle: Path) -> int:
    """Columns of a text encoder in Hugging Face's layout; of any other, the bundled one's."""
    path = bundle / "config.json"
    return int(msgspec.json.decode(path.read_bytes())["hidden_size"]) if path.is_file() else WIDTH


def _normalised(data: Clips) -> FeatureSpec:
    """The spec with mean and 1/deviation of the training clips.

    Shut out with a scale of 0: ``presence``, which the mask says, and a sense that no training clip has.
    """
    sums = {name: np.zeros((3, data.features.input(name).dim)) for name in ("audio", "vision")}  # n, x, x^2
    for clip in data.of("train"):
        rows = data.rows(clip)
        seen = rows["vision"][rows["vision"][:, vision.PRESENCE] > 0]
        for name, values in (("audio", rows["audio"].astype(float)), ("vision", seen.astype(float))):
            sums[name] += np.full(values.shape[1], len(values)), values.sum(0), (values**2).sum(0)
    found = {}
    for name, (count, total, squares) in sums.items():
        mean = total / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        scale = np.where(count > 0, 1 / np.maximum(deviation, 0.02), 0)
        if name == "vision":
            scale[vision.PRESENCE] = 0
        found[name] = msgspec.structs.replace(
            data.features.input(name),
            mean=tuple(round(float(x), 6) for x in mean),
            scale=tuple(round(float(x), 6) for x in scale),
        )
    return msgspec.structs.replace(data.features, **found)


def _anywhere(clip: Clip, rng: np.random.Generator) -> int:
    """A window's end inside the clip, with half a second of signal before it, or all that there is."""
    first_ns = min(clip.begin_ns + MIN_SIGNAL_NS, clip.end_ns)
    return int(rng.integers(first_ns, clip.end_ns, endpoint=True))


def _cut(rows: Rows, sense: str, spec: InputSpec, end_ns: int, values: F32, mask: F32) -> None:
    """Write one sense's window into ``values`` (steps, dim) and ``mask`` (steps,), both zeros before."""
    start_ns = end_ns - round(spec.window_s * 1e9)
    times = rows[f"{sense}_ns"]
    inside = slice(*np.searchsorted(times, (start_ns, end_ns), side="right"))
    times, newest = times[inside][-spec.steps :], rows[sense][inside][-spec.steps :]
    if not len(times) or end_ns - times[-1] > MAX_LAG_NS:
        return
    valid = np.ones(len(times), bool)
    if sense == "vision":
        valid = newest[:, vision.PRESENCE] > 0
        if coverage(times[valid], start_ns, end_ns) < MIN_COVERAGE or end_ns - times[valid][-1] > MAX_LAG_NS:
            return
    elif (newest[:, _SPEECH_COLUMN] > SPEECH).sum() / spec.stream.rate_hz < MIN_SPEECH_S:
        return
    values[-len(times) :] = newest * valid[:, None]
    mask[-len(times) :] = valid


def _zeros(n: int, spec: InputSpec) -> F32:
    return np.zeros((n, spec.steps, spec.dim), np.float32)
