"""The published layouts of the three corpora are read, split without a shared person, and disturbed."""

from __future__ import annotations

import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.corpora import (
    EMOTIONS,
    TEST,
    TRAIN,
    VALIDATION,
    Item,
    disturb_picture,
    disturb_sound,
    extract,
    fer,
    fingerprint,
    meld,
    ravdess,
    variants,
)
from models.data import DataError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"


def _sound(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 8000 * np.sin(2 * np.pi * 220 * np.arange(int(16000 * seconds)) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(tone.astype("<i2").tobytes())


def test_voices_are_split_by_actor_and_unknown_actors_are_a_test(tmp_path: Path) -> None:
    for actor in (1, 17, 20, 24):
        _sound(tmp_path / f"Actor_{actor:02}/03-01-06-01-02-01-{actor:02}.wav", 0.1)
    found = {item.name[-2:]: item for item in ravdess(tmp_path)}
    assert {actor: item.split for actor, item in found.items()} == {
        "01": TRAIN,
        "17": VALIDATION,
        "20": TEST,
        "24": TEST,
    }
    assert all(EMOTIONS[item.label] == "fear" for item in found.values())


def test_a_name_that_is_not_of_ravdess_is_said(tmp_path: Path) -> None:
    _sound(tmp_path / "hello.wav", 0.1)
    with pytest.raises(DataError, match=r"hello\.wav.*03-01-05"):
        ravdess(tmp_path)


def test_faces_lie_in_folders_of_emotions_at_any_depth(tmp_path: Path) -> None:
    for name in ("train/angry/1.jpg", "valid/sadness/2.png", "happy/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    found = {Path(item.source).name: item for item in fer(tmp_path)}
    assert [EMOTIONS[found[name].label] for name in ("1.jpg", "2.png", "3.jpg")] == ["angry", "sad", "happy"]
    assert found["1.jpg"].split in (TRAIN, VALIDATION)
    assert found["2.png"].split == found["3.jpg"].split == TEST
    (tmp_path / "contempt").mkdir()
    cv2.imwrite(str(tmp_path / "contempt/4.jpg"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="should be an emotion"):
        fer(tmp_path)


def test_lines_are_split_by_dialogue_whatever_bytes_they_hold(tmp_path: Path) -> None:
    rows = "1,Oh no,Ross,sadness,negative,10,0\n2,It\x92s \xe9,Joey,joy,positive,11,0\n"
    (tmp_path / "train_sent_emo.csv").write_bytes((HEADER + rows).encode("cp1252", errors="replace"))
    (tmp_path / "test_sent_emo.csv").write_text(HEADER + "1,Hi,Joey,neutral,neutral,10,0\n")
    found = {item.name: item for item in meld(tmp_path)}
    assert found["train/10/0"].split == VALIDATION and found["train/11/0"].split == TRAIN
    assert found["test/10/0"].split == TEST
    assert EMOTIONS[found["train/11/0"].label] == "happy"
    assert [item.source for item in meld(tmp_path / "test_sent_emo.csv")] == ["Hi"]


@pytest.mark.parametrize(
    "content",
    ["a,b\n1,2\n", HEADER + "1,Hi,Joey,bored,neutral,1,0\n", HEADER + "1,Hi,Joey,joy,neutral,x,0\n"],
)
def test_a_table_of_another_layout_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dev_sent_emo.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"dev_sent_emo\.csv: not MELD's columns"):
        meld(path)


@pytest.mark.parametrize("read", [ravdess, fer, meld])
def test_an_empty_folder_is_refused(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(DataError, match="holds nothing"):
        read(tmp_path)


def test_only_training_items_have_variants_and_lines_none() -> None:
    items = [Item("a", "a", 0, TRAIN), Item("b", "b", 0, TEST)]
    made = variants(items, "fer", 2)
    assert [(item.name, item.variant) for item in made] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    assert variants(items, "meld", 2) == items


def test_a_variant_of_a_voice_is_another_sound_and_always_the_same_one(tmp_path: Path) -> None:
    _sound(tmp_path / "03-01-05-01-01-01-01.wav")
    (item,) = ravdess(tmp_path)
    plain, first, again, second = extract("ravdess", [item, *(item._replace(variant=v) for v in (1, 1, 2))])
    assert plain.shape[1] == 42 and abs(len(first) - len(plain)) < 0.2 * len(plain)
    np.testing.assert_array_equal(first, again)
    assert first.shape != second.shape or not np.allclose(first, second)
    assert not np.allclose(first[:40, :40], plain[:40, :40], atol=0.5)


def test_disturbed_sound_keeps_its_range_and_about_its_length() -> None:
    loud = (30000 * np.sin(np.arange(16000) / 7)).astype(np.int16)
    for seed in range(20):
        made = disturb_sound(loud, np.random.default_rng(seed), 16000)
        assert made.dtype == np.int16 and 0.85 < len(made) / len(loud) < 1.15
        assert np.abs(made.astype(int)).max() <= 32000


def test_disturbed_pictures_are_pictures() -> None:
    face = np.tile(np.linspace(0, 255, 112, dtype=np.uint8)[None, :, None], (112, 1, 3))
    for seed in range(10):
        made = disturb_picture(face, np.random.default_rng(seed))
        assert made.dtype == np.uint8 and made.shape[0] == made.shape[1] > 150
        assert np.ptp(made) > 60


def test_a_fingerprint_knows_an_item_again_under_another_path(tmp_path: Path) -> None:
    for name in ("valid/angry/1.jpg", "other/angry/renamed.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 8), 9, np.uint8))
    one, other = fer(tmp_path)
    assert fingerprint("fer", one) == fingerprint("fer", other)
    line = Item("dev/1/1", "Hi", 0, TEST)
    assert fingerprint("meld", line) != fingerprint("meld", line._replace(source="Hello"))
