"""The three corpora of the bundled network, read as they are published and turned into live features.

RAVDESS (voices), FER2013 (faces) and MELD (lines) share seven emotions and no person. Whatever reads a
corpus makes ``Item``s; ``extract`` turns items into rows with the code that runs live. Variants of a
training item are the same clip or picture in another room or light; they are made before features
are, so that the features err as they do live.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.data import DataError

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
TRAIN, VALIDATION, TEST = 0, 1, 2
Kind = Literal["ravdess", "fer", "meld"]
KINDS: tuple[Kind, ...] = ("ravdess", "fer", "meld")

# RAVDESS's third number; calm is read as neutral.
_RAVDESS = {"01": 4, "02": 4, "03": 3, "04": 5, "05": 0, "06": 2, "07": 1, "08": 6}
_SYNONYMS = {
    "anger": "angry",
    "joy": "happy",
    "happiness": "happy",
    "sadness": "sad",
    "fearful": "fear",
    "surprised": "surprise",
    "disgusted": "disgust",
}
_PARTS = {"train": TRAIN, "training": TRAIN}  # any other folder of FER2013 and any other file of MELD is TEST
RAVDESS_VALIDATION, RAVDESS_TEST = {17, 18, 19}, 20
PICTURES, SOUNDS = {".jpg", ".jpeg", ".png"}, {".flac", ".wav"}

Rows = npt.NDArray[Any]


class Item(NamedTuple):
    """One clip, picture or line."""

    name: str
    source: str  # path, or the line itself
    label: int
    split: int
    variant: int = 0  # 0: as it is; more: disturbed, by a generator seeded with name and variant


def ravdess(folder: Path) -> list[Item]:
    """Voices by actor: 1-16 train, 17-19 validate, later ones test. Raises DataError."""
    items = []
    for path in _files(folder, SOUNDS):
        numbers = path.stem.split("-")
        if len(numbers) != 7 or numbers[2] not in _RAVDESS or not numbers[6].isdigit():
            raise DataError(
                f"{path}: expected a name like 03-01-05-01-01-01-12 (modality-channel-emotion-"
                f"intensity-statement-repetition-actor)"
            )
        actor = int(numbers[6])
        split = VALIDATION if actor in RAVDESS_VALIDATION else TEST if actor >= RAVDESS_TEST else TRAIN
        items.append(Item(path.stem, str(path), _RAVDESS[numbers[2]], split))
    return _some(items, folder, "*.flac or *.wav")


def fer(folder: Path) -> list[Item]:
    """Faces: a tenth of ``train``, chosen by the name's checksum, validates; other folders are the test."""
    items = []
    for path in _files(folder, PICTURES):
        emotion, part = path.parent.name.lower(), path.parent.parent.name.lower()
        emotion = _SYNONYMS.get(emotion, emotion)
        if emotion not in EMOTIONS:
            raise DataError(f"{path}: its folder should be an emotion ({', '.join(EMOTIONS)})")
        held = zlib.crc32(path.stem.encode()) % 10 == 0
        split = VALIDATION if (s := _PARTS.get(part, TEST)) == TRAIN and held else s
        items.append(Item(f"{part}/{emotion}/{path.stem}", str(path), EMOTIONS.index(emotion), split))
    return _some(items, folder, "<emotion>/*.jpg")


def meld(path: Path) -> list[Item]:
    """Lines of one ``*_sent_emo.csv``, or of every one in a folder.

    Every tenth dialogue of ``train`` validates; other files are the test. Raises DataError.
    """
    items = []
    files = sorted(path.glob("*_sent_emo.csv")) if path.is_dir() else [path]
    for file in files:
        part = file.name.split("_")[0]
        try:
            # Some bytes of the published files are of another encoding.
            with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                rows = list(csv.DictReader(lines))
            for row in rows:
                held = int(row["Dialogue_ID"]) % 10 == 0
                split = VALIDATION if (s := _PARTS.get(part, TEST)) == TRAIN and held else s
                emotion = _SYNONYMS.get(row["Emotion"].lower(), row["Emotion"].lower())
                name = f"{part}/{row['Dialogue_ID']}/{row['Utterance_ID']}"
                line = row["Utterance"].replace("\x92", "'").replace("\u2019", "'").strip()
                items.append(Item(name, line, EMOTIONS.index(emotion), split))
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}") from None
        except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(
                f"{file}: not MELD's columns Utterance, Emotion, Dialogue_ID, Utterance_ID ({error})"
            ) from None
    return _some(items, path, "*_sent_emo.csv")


READERS: dict[Kind, Callable[[Path], list[Item]]] = {"ravdess": ravdess, "fer": fer, "meld": meld}


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def _some(items: list[Item], where: Path, expected: str) -> list[Item]:
    if not items:
        raise DataError(f"{where} holds nothing of that corpus: expected {expected}")
    return items


def variants(items: Sequence[Item], kind: Kind, count: int) -> list[Item]:
    """The items, and ``count`` disturbed ones of every training item; lines have none."""
    if kind == "meld":
        return list(items)
    training = [item for item in items if item.split == TRAIN]
    return [*items, *(item._replace(variant=v) for v in range(1, count + 1) for item in training)]


def fingerprint(kind: Kind, item: Item) -> int:
    """32 bits that tell an item again wherever it lies, so that an evaluation knows what training saw.

    A picture is known by its bytes, a voice by its name, a line by its name and words.
    """
    if kind == "fer":
        return zlib.crc32(Path(item.source).read_bytes())
    return zlib.crc32((item.name if kind == "ravdess" else f"{item.name} {item.source}").encode())


def extract(kind: Kind, items: Sequence[Item], tokenizer: Path | None = None) -> list[Rows]:
    """Rows of every item by the live feature code.

    ravdess: (T, 42) float32, 50 frames a second; fer: (1, 59) float32, zeros without a face; meld:
    (S,) int32 word pieces of ``tokenizer``.
    """
    if kind == "ravdess":
        return _voices(items)
    if kind == "fer":
        return _faces(items)
    assert tokenizer is not None
    from capture.features.wordpiece import WordPiece

    pieces = WordPiece(tokenizer)
    return [np.array(pieces.encode(item.source), np.int32) for item in items]


def _voices(items: Sequence[Item]) -> list[Rows]:
    """Half a second of silence after each clip lets the last frame out."""
    import av

    from capture.features.audio import SAMPLE_RATE_HZ, AudioFeatures

    features = AudioFeatures()
    found = []
    for item in items:
        with av.open(item.source, metadata_errors="replace") as container:
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
            chunks = [
                out.to_ndarray().reshape(-1)
                for frame in container.decode(audio=0)
                for out in resampler.resample(frame)
            ]
        samples = np.concatenate(chunks).astype(np.int16)
        if item.variant:
            samples = disturb_sound(samples, _generator(item), SAMPLE_RATE_HZ)
        features.reset()
        _, values = features.accept(np.concatenate([samples, np.zeros(1024, np.int16)]))
        found.append(values)
    return found


def _faces(items: Sequence[Item]) -> list[Rows]:
    """Pictures are enlarged and given a border so that a face is found in them."""
    import cv2

    from capture.assets import face_landmarker
    from capture.features.vision import FaceFeatures

    found = []
    with FaceFeatures(face_landmarker(), video=False) as features:
        for item in items:
            picture: npt.NDArray[Any] | None = cv2.imread(item.source)
            if picture is None:
                raise DataError(f"{item.source}: no picture")
            if item.variant:
                picture = disturb_picture(picture, _generator(item))
            else:
                picture = cv2.resize(picture, (192, 192), interpolation=cv2.INTER_CUBIC)
                picture = cv2.copyMakeBorder(picture, 64, 64, 64, 64, cv2.BORDER_REPLICATE)
            colours: npt.NDArray[np.uint8] = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            found.append(features.extract(colours, 0)[None])
    return found


def _generator(item: Item) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(item.name.encode()), item.variant])


def disturb_sound(
    samples: npt.NDArray[np.int16], rng: np.random.Generator, rate_hz: int
) -> npt.NDArray[np.int16]:
    """The same words by a similar voice, in another room, over noise.

    Pitch, formants and tempo move together by up to 12 %; in half of the cases a room (noise that decays
    by 60 dB within 0.15 to 0.7 s, 0 to 12 dB under the voice); noise with a random tilt, 3 to 35 dB under it.
    """
    factor = rng.uniform(0.89, 1.12)
    x = np.interp(np.arange(0, len(samples) - 1, factor), np.arange(len(samples)), samples)
    loud = max(1.0, float(np.sqrt(np.mean(x**2))))
    if rng.random() < 0.5:
        length = int(rng.uniform(0.15, 0.7) * rate_hz)
        tail = rng.normal(0, 1, length) * 10 ** (-3 * np.arange(length) / length)
        size = len(x) + length
        wet = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(tail, size), size)[: len(x)]
        x = x + wet * (loud / max(1.0, float(wet.std())) * 10 ** (-rng.uniform(0, 12) / 20))
    spectrum = np.fft.rfft(rng.normal(0, 1, len(x)))
    noise = np.fft.irfft(spectrum * np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 1), len(x))
    x = x + noise * (loud / float(noise.std()) * 10 ** (-rng.uniform(3, 35) / 20))
    x *= min(1.0, 32000 / max(1.0, float(np.abs(x).max())))
    return np.asarray(x, np.int16)


def disturb_picture(picture: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """The same face seen by another camera: mirrored in half of the cases, 0.8 to 1.3 times as large, turned
    by up to 8 degrees, darker or brighter, with less or more contrast, blurred or noisy."""
    import cv2

    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    side = int(192 * rng.uniform(0.8, 1.3))
    picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    border = int(side * rng.uniform(0.2, 0.5))
    picture = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE)
    whole = side + 2 * border
    turn = cv2.getRotationMatrix2D((whole / 2, whole / 2), rng.uniform(-8, 8), 1)
    picture = cv2.warpAffine(picture, turn, (whole, whole), borderMode=cv2.BORDER_REPLICATE)
    light = (picture / 255.0) ** np.exp(rng.uniform(-0.5, 0.5)) * rng.uniform(0.6, 1.15)
    light = light + rng.normal(0, rng.uniform(0, 0.03), picture.shape)
    picture = (np.clip(light, 0, 1) * 255).astype(np.uint8)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 1.5)) if rng.random() < 0.3 else picture
