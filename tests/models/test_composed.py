"""Composed windows keep to their split and are cut as the live application cuts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from capture.features import audio, vision
from models.composed import SPLITS, SUBSETS, Composed, Composer, load, normalisation
from models.corpora import EMOTIONS
from models.data import DataError, Split


def _mark(split: int, label: int) -> float:
    """A value that says where an item comes from; blendshapes must lie within 0..1."""
    return (1 + split * len(EMOTIONS) + label) / 32


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three items of every emotion in every split, each filled with its mark; one picture has no face."""
    folder = tmp_path_factory.mktemp("features")
    for kind, columns, lengths in (
        ("meld", 0, (3, 9, 60)),
        ("ravdess", audio.SPEC.dim, (90, 150, 260)),
        ("fer", vision.SPEC.dim, (1, 1, 1)),
    ):
        values: list[npt.NDArray[np.generic]] = []
        labels, splits, steps = [], [], []
        for split in SPLITS.values():
            for label in range(len(EMOTIONS)):
                for length in lengths:
                    if kind == "meld":
                        values.append(np.full(length, 2000 + split * len(EMOTIONS) + label, np.int32))
                    else:
                        item = np.full((length, columns), _mark(split, label), np.float32)
                        item[:, vision.PRESENCE if kind == "fer" else -1] = 1
                        values.append(item)
                    labels.append(label)
                    splits.append(split)
                    steps.append(length)
        if kind == "fer":
            values[0] = np.zeros_like(values[0])
        np.savez(
            folder / f"{kind}.npz",
            values=np.concatenate(values),
            offsets=np.concatenate([[0], np.cumsum(steps)]),
            labels=np.array(labels),
            splits=np.array(splits),
            variants=np.tile([0, 0, 1], len(labels) // 3),
            names=np.array([f"{kind}-{i}" for i in range(len(labels))]),
            fingerprints=np.arange(len(labels), dtype=np.uint32),
        )
    return folder


def _composer(features: Path, split: Split, augment: bool, seed: int) -> Composer:
    composer = Composed(features).composer(split, seed)
    composer.augment = augment
    return composer


@pytest.mark.parametrize("split", list(SPLITS))
def test_text_audio_and_face_of_a_window_share_its_emotion_and_its_split(
    features: Path, split: Split
) -> None:
    composer = _composer(features, split, False, 0)
    batch = composer.batch(70, "LAV")
    expected = np.array([_mark(SPLITS[split], int(label)) for label in batch.labels])
    np.testing.assert_array_equal(batch.text[:, -1], 2000 + SPLITS[split] * len(EMOTIONS) + batch.labels)
    for row, mark in enumerate(expected):
        heard = batch.audio[row][batch.audio_mask[row] > 0]
        np.testing.assert_allclose(heard[:, :-1], mark, rtol=1e-6)
    np.testing.assert_allclose(batch.vision[:, -1, :52], np.repeat(expected[:, None], 52, 1), atol=1e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_windows_are_right_aligned_with_zeros_in_front(features: Path, augment: bool) -> None:
    batch = _composer(features, "train", augment, 1).batch(64, "LAV")
    for sense in ("text", "audio", "vision"):
        mask, values = getattr(batch, f"{sense}_mask"), getattr(batch, sense)
        assert (mask[:, -1] == 1).all(), sense
        if not (augment and sense == "vision"):  # where the face is lost for a while
            assert (np.diff(mask, axis=1) >= 0).all(), f"{sense}: padding stands behind a sample"
        assert not values[mask == 0].any(), sense
        assert (mask == 0).any(), f"{sense}: no window is short"
        assert np.isfinite(values).all(), sense


@pytest.mark.parametrize("subset", SUBSETS)
def test_only_the_senses_of_a_subset_are_there(features: Path, subset: str) -> None:
    batch = _composer(features, "test", False, 2).batch(8, subset)
    for letter, sense in zip("LAV", ("text", "audio", "vision"), strict=True):
        there = getattr(batch, f"{sense}_mask").any(axis=1)
        assert (there == (letter in subset)).all(), sense
        assert bool(getattr(batch, sense).any()) == (letter in subset)


def test_modality_dropout_leaves_one_sense_at_least_and_makes_every_subset(features: Path) -> None:
    batch = _composer(features, "train", True, 3).batch(300)
    present = np.stack([getattr(batch, f"{s}_mask").any(axis=1) for s in ("text", "audio", "vision")], 1)
    assert present.any(axis=1).all()
    assert len(np.unique(present, axis=0)) == len(SUBSETS)


def test_blendshapes_stay_within_their_range_whatever_is_added(features: Path) -> None:
    batch = _composer(features, "train", True, 4).batch(64, "V")
    assert batch.vision[..., :52].min() >= 0
    assert batch.vision[..., :52].max() <= 1


def test_a_gain_moves_every_band_and_the_energy_alike_and_leaves_the_speech_probability(
    features: Path,
) -> None:
    batch = _composer(features, "train", True, 5).batch(64, "A")
    speech = audio.SPEC.names.index("speech")
    for row in range(len(batch)):
        heard = batch.audio[row][batch.audio_mask[row] > 0]
        np.testing.assert_array_equal(heard[:, speech], 1)
    assert np.ptp(batch.audio[:, -1, :speech]) > 1


def test_the_same_seed_gives_the_same_windows(features: Path) -> None:
    first, second = (_composer(features, "train", True, 6).batch(16) for _ in range(2))
    for name in ("text", "audio", "vision", "text_mask", "audio_mask", "vision_mask", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_pictures_without_a_face_are_left_out(features: Path) -> None:
    faces = load(features, "fer", "train")
    assert len(faces.items) == 3 * len(EMOTIONS) - 1
    assert all(item[0, vision.PRESENCE] == 1 for item in faces.items)


def test_normalisation_reads_the_training_split_alone_and_shuts_the_heads_place_out(features: Path) -> None:
    found = normalisation(features)
    columns = vision.SPEC.names
    for name in ("head_x_cm", "head_y_cm", "head_z_cm", "presence"):
        assert found["vision"][1][columns.index(name)] == 0, name
    assert found["vision"][1][0] > 0
    rows = np.concatenate(load(features, "ravdess", "train").items)
    mean, scale = found["audio"]
    varied = rows.std(0) > 0.02
    np.testing.assert_allclose(((rows - mean) * scale).mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(((rows - mean) * scale).std(0)[varied], 1, atol=1e-2)


def test_a_pass_has_its_windows_and_every_pass_is_another(features: Path) -> None:
    data = Composed(features, windows=20)
    first, again, second = (list(data.batches("train", 8, seed)) for seed in (1, 1, 2))
    assert [len(batch) for batch in first] == [8, 8, 4]
    np.testing.assert_array_equal(first[0].audio, again[0].audio)
    assert not np.array_equal(first[0].audio, second[0].audio)


def test_held_windows_are_every_subset_with_the_emotions_in_equal_shares(features: Path) -> None:
    data = Composed(features, held=14)
    batches = list(data.batches("test", 7, 0))
    assert len(batches) == 2 * len(SUBSETS)
    np.testing.assert_array_equal(np.bincount(batches[0].labels), np.ones(7))
    again = list(data.batches("test", 7, 5))
    np.testing.assert_array_equal(batches[3].audio, again[3].audio)


def test_plain_leaves_the_variants_out(features: Path) -> None:
    whole, plain = (load(features, "ravdess", "train", plain=plain) for plain in (False, True))
    assert (len(whole.items), len(plain.items)) == (21, 14)


def test_missing_features_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ravdess\.npz is missing: run build/extract_corpora\.py"):
        load(tmp_path, "ravdess", "train")


def test_a_split_without_an_emotion_is_refused_before_any_training(features: Path, tmp_path: Path) -> None:
    for path in features.iterdir():
        with np.load(path) as stored:
            arrays = dict(stored)
        if path.stem == "fer":
            arrays["splits"][(arrays["labels"] == 2) & (arrays["splits"] == SPLITS["validation"])] = 0
        np.savez(tmp_path / path.name, **arrays)
    with pytest.raises(DataError, match=f"fer.npz has no {EMOTIONS[2]} in its validation split"):
        next(Composed(tmp_path).batches("train", 4, 0))
