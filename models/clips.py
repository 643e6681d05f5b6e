"""Labelled clips of your own: the features that ``build/extract_features.py`` made, as windows.

A clip is a short video or sound file with a label. Its windows are cut from its features as the live
application cuts them (``runtime.windows``): the newest samples, right-aligned; a face that is not
there is masked, and a sense with nothing to say in the window is absent.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from capture.features import audio, text, vision
from capture.features.spec import FeatureSpec, InputSpec
from capture.features.wordpiece import WordPiece
from models.data import F32, Batch, DataError, Input, Split

INDEX = "clips.json"
PRETRAINED = Path(__file__).parent / "pretrained"
SPEECH = audio.SPEC.names.index("speech")
MIN_SPEECH_FRAMES = 15  # 0.3 s: less is a silent room, as live
MIN_WINDOW_NS = 500_000_000
LAG_NS = 1_000_000_000  # a face that was last seen longer ago has left, as live


class SpokenWord(msgspec.Struct, frozen=True):
    """A word and, where it is known, when it was over."""

    text: str
    end_ns: int | None = None


class Clip(msgspec.Struct, frozen=True):
    """One row of the index."""

    id: str  # of its file, clips/<id>.npz
    path: str
    label: str | float
    split: Split
    words: tuple[SpokenWord, ...]
    end_ns: int  # media time; where its last window ends


class Index(msgspec.Struct, frozen=True):
    """``clips.json``."""

    audio: str  # hash of the audio stream's spec
    vision: str
    clips: tuple[Clip, ...]


def split_of(group: str) -> Split:
    """Eight tenths train, by the checksum of the group's name; one validates, one tests."""
    held: dict[int, Split] = {0: "test", 1: "validation"}
    return held.get(zlib.crc32(group.encode()) % 10, "train")


@dataclass
class Clips:
    """Clips as a data set (``models.data.Data``)."""

    folder: Path
    index: Index
    bundle: Path  # whose tokenizer and text encoder read the words
    pieces: bool
    labels: tuple[str, ...]
    features: FeatureSpec
    _tokenizer: WordPiece = field(init=False)
    _embedded: dict[str, npt.NDArray[Any]] = field(init=False, default_factory=dict)
    _encoder: ort.InferenceSession | None = field(init=False, default=None)
    _rows: dict[str, dict[str, npt.NDArray[Any]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._tokenizer = WordPiece(self.bundle / "tokenizer.json")

    @property
    def name(self) -> str:
        return f"clips of {self.folder.name}"

    @property
    def inputs(self) -> Mapping[str, Input]:
        spec = self.features
        return {
            "text": Input(spec.text.steps, spec.text.dim),
            "audio": _input(spec.audio),
            "vision": _input(spec.vision),
        }

    def of(self, split: Split) -> list[Clip]:
        """The clips of a split."""
        return [clip for clip in self.index.clips if clip.split == split]

    def __len__(self) -> int:
        return len(self.of("train"))

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        """Training: one window of each clip, ending anywhere in it. Otherwise the one that ends with it."""
        clips = self.of(split)
        rng = np.random.default_rng(seed) if split == "train" else None
        if rng is not None:
            clips = [clips[i] for i in rng.permutation(len(clips))]
        for start in range(0, len(clips), size):
            yield self.batch(clips[start : start + size], rng)

    def batch(self, clips: list[Clip], rng: np.random.Generator | None) -> Batch:
        """One window of each clip."""
        spec, n = self.features, len(clips)
        shape = (n, spec.text.steps) if self.pieces else (n, spec.text.steps, spec.text.dim)
        words = np.zeros(shape, np.int64 if self.pieces else np.float32)
        sounds = np.zeros((n, spec.audio.steps, spec.audio.dim), np.float32)
        films = np.zeros((n, spec.vision.steps, spec.vision.dim), np.float32)
        masks = [np.zeros((n, one.steps), np.float32) for one in (spec.text, spec.audio, spec.vision)]
        for row, clip in enumerate(clips):
            stored = self.rows(clip)
            end_ns = clip.end_ns
            if rng is not None:
                times = np.concatenate([stored["audio_ns"], stored["vision_ns"]])
                begin_ns = int(times.min()) if len(times) else end_ns
                end_ns = int(rng.uniform(min(begin_ns + MIN_WINDOW_NS, end_ns), end_ns + 1))
            said = self._words(clip, end_ns)
            if len(said):
                words[row, -len(said) :], masks[0][row, -len(said) :] = said, 1
            for sense, values, mask in (("audio", sounds, masks[1]), ("vision", films, masks[2])):
                _cut(stored, sense, spec.input(sense), end_ns, values[row], mask[row])
        if self.labels:
            labels: npt.NDArray[Any] = np.array([self.labels.index(str(clip.label)) for clip in clips])
        else:
            labels = np.array([float(clip.label) for clip in clips], np.float32)
        return Batch(words, sounds, films, masks[0], masks[1], masks[2], labels)

    def rows(self, clip: Clip) -> dict[str, npt.NDArray[Any]]:
        """``audio_ns`` (T,), ``audio`` (T, 42), ``vision_ns`` (T,), ``vision`` (T, 59). Raises DataError."""
        if clip.id not in self._rows:
            path = self.folder / "clips" / f"{clip.id}.npz"
            try:
                with np.load(path) as stored:
                    names = ("audio_ns", "audio", "vision_ns", "vision")
                    self._rows[clip.id] = {name: stored[name] for name in names}
            except (OSError, KeyError, ValueError) as error:
                raise DataError(
                    f"{path}, the features of {clip.path}, cannot be read ({error}): "
                    "run build/extract_features.py again"
                ) from None
        return self._rows[clip.id]

    def _words(self, clip: Clip, end_ns: int) -> npt.NDArray[Any]:
        """Word pieces (S,) or embeddings (S, D) of what was said by ``end_ns``."""
        start_ns = end_ns - round(self.features.text.window_s * 1e9)
        heard = [w.text for w in clip.words if w.end_ns is None or start_ns < w.end_ns <= end_ns]
        if not heard:
            return np.zeros(0, np.int64)
        sentence = " ".join(heard)
        if sentence not in self._embedded:
            pieces = np.array(self._tokenizer.encode(sentence)[-self.features.text.steps :], np.int64)
            self._embedded[sentence] = pieces if self.pieces else self._embed(pieces)
        return self._embedded[sentence]

    def _embed(self, pieces: npt.NDArray[np.int64]) -> F32:
        if self._encoder is None:
            self._encoder = ort.InferenceSession(self.bundle / "text_encoder.onnx")
        feed = {"input_ids": pieces[None], "attention_mask": np.ones_like(pieces[None])}
        return np.asarray(self._encoder.run(["embeddings"], feed)[0][0], np.float32)


def open_clips(
    folder: Path, text: Literal["features", "pieces"] = "features", bundle: Path = PRETRAINED
) -> Clips:
    """Open a folder of ``build/extract_features.py``.

    text: embeddings of the bundle's encoder, or word pieces of its tokenizer (BERT's uncased vocabulary).
    Raises DataError where the folder is none, or of other features than this version makes.
    """
    path = folder / INDEX
    try:
        index = msgspec.json.decode(path.read_bytes(), type=Index)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: run build/extract_features.py first") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is no index of clips: {error}") from None
    for sense, found, ours in (
        ("audio", index.audio, audio.SPEC.hash),
        ("vision", index.vision, vision.SPEC.hash),
    ):
        if found != ours:
            raise DataError(
                f"{path}: made with other {sense} features ({found}, this version makes {ours}): "
                "run build/extract_features.py again"
            )
    for split in ("train", "validation", "test"):
        if not any(clip.split == split for clip in index.clips):
            raise DataError(f"{path}: no clip is for {split}: add clips, or name it in a split column")
    classes = {clip.label for clip in index.clips}
    named = any(isinstance(label, str) for label in classes)
    labels = tuple(sorted(str(label) for label in classes)) if named else ()
    data = Clips(folder, index, bundle, text == "pieces", labels, _spec())
    data.features = _normalised(data)
    return data


def _spec() -> FeatureSpec:
    """Windows of 4 s (words: 8 s), not yet normalised."""
    return FeatureSpec(
        text=InputSpec(text.SPEC, 8.0, 48, 384),
        audio=InputSpec(audio.SPEC, 4.0, 200, audio.SPEC.dim),
        vision=InputSpec(vision.SPEC, 4.0, 120, vision.SPEC.dim),
    )


def _normalised(data: Clips) -> FeatureSpec:
    """The spec with mean and 1/deviation of the training clips; ``presence`` is the mask's to say."""
    found = {}
    for sense in ("audio", "vision"):
        one = data.features.input(sense)
        rows = [data.rows(clip)[sense] for clip in data.of("train")]
        values = np.concatenate([r if sense == "audio" else r[r[:, vision.PRESENCE] > 0] for r in rows])
        if not len(values):
            values = np.zeros((1, one.dim), np.float32)
        scale = 1 / np.maximum(values.std(0), 0.02)
        if sense == "vision":
            scale[vision.PRESENCE] = 0
        mean, factor = (tuple(round(float(x), 6) for x in part) for part in (values.mean(0), scale))
        found[sense] = msgspec.structs.replace(one, mean=mean, scale=factor)
    return msgspec.structs.replace(data.features, **found)


def _cut(
    stored: Mapping[str, npt.NDArray[Any]],
    sense: str,
    spec: InputSpec,
    end_ns: int,
    values: F32,
    mask: F32,
) -> None:
    """Write one sense's window into ``values`` (steps, dim) and ``mask`` (steps,), both zeros before."""
    times = stored[f"{sense}_ns"]
    start_ns = end_ns - round(spec.window_s * 1e9)
    rows = stored[sense][(times > start_ns) & (times <= end_ns)][-spec.steps :]
    times = times[(times > start_ns) & (times <= end_ns)][-spec.steps :]
    valid = rows[:, vision.PRESENCE] > 0 if sense == "vision" else np.ones(len(rows), bool)
    if not valid.any() or end_ns - times[valid][-1] > LAG_NS:
        return
    if sense == "audio" and (rows[:, SPEECH] > 0.5).sum() < MIN_SPEECH_FRAMES:
        return
    values[-len(rows) :] = rows * valid[:, None]
    mask[-len(rows) :] = valid


def _input(one: InputSpec) -> Input:
    return Input(one.steps, one.dim, np.array(one.mean, np.float32), np.array(one.scale, np.float32))
