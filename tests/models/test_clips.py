"""Labelled clips as a data set: the table, the splits, and windows cut as the live application cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from capture.features import audio, vision
from capture.features.spec import FeatureSpec, InputSpec
from capture.messages import FeatureBlock, Stamp, StreamName, Word, Words
from models.clip_index import Clip, Index, Rows, TimedWord, read_rows, rows_path, write_index
from models.clip_table import SPLITS, labels_of, read_table, split_of
from models.clips import FEATURES, PRETRAINED, Clips, open_clips
from models.data import DataError
from models.word_embeddings import WordEmbeddings
from runtime.engines.ends import Ends
from runtime.network import load
from runtime.windows import Window, Windower

SECOND = 1_000_000_000
SPEECH = audio.SPEC.names.index("speech")


def made(
    folder: Path,
    *,
    seconds: float = 6.0,
    labels: Sequence[str | float] = ("sad", "happy", "sad"),
    words: tuple[TimedWord, ...] = (),
    text: str = "and so it goes",
    face: bool = True,
) -> Path:
    """One clip a split, with random features: speech that pauses, a face that is lost for a while."""
    rng = np.random.default_rng(0)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    clips = []
    for number, (split, label) in enumerate(zip(SPLITS, labels, strict=True)):
        rows = features(rng, seconds, face)
        np.savez(rows_path(folder, str(number)), made_of="", **rows)
        begin_ns, end_ns = int(rows["audio_ns"][0]), int(rows["audio_ns"][-1])
        counts = len(rows["audio"]), len(rows["vision"])
        part = Clip(
            str(number), f"{number}.mp4", label, split, text, words, begin_ns, end_ns, seconds, *counts
        )
        clips.append(part)
    write_index(folder, Index(audio.SPEC.hash, vision.SPEC.hash, tuple(clips)))
    return folder


def features(rng: np.random.Generator, seconds: float, face: bool = True) -> Rows:
    steps, pictures = int(50 * seconds), int(24 * seconds)
    sound = rng.normal(3, 2, (steps, audio.SPEC.dim)).astype(np.float32)
    sound[:, SPEECH] = np.sin(np.arange(steps) / 60) > -0.5
    film = rng.normal(1, 0.5, (pictures, vision.SPEC.dim)).astype(np.float32)
    film[:, vision.PRESENCE] = 1
    film[pictures // 3 : -8 if face else None] = 0  # back for the last third of a second
    if not face:
        film[:] = 0
    times = np.arange(steps) * 20_000_000 + 12_500_000, np.arange(pictures) * SECOND // 24
    return {"audio_ns": times[0], "audio": sound, "vision_ns": times[1], "vision": film}


def live_windows(rows: Rows, spec: FeatureSpec) -> list[Window]:
    """What the application cuts of such rows, a window every 0.1 s."""
    windower = Windower(spec, hop_s=0.1, lateness_s=0.3, paced=False)
    senses: dict[StreamName, str] = {"audio": audio.SPEC.hash, "vision": vision.SPEC.hash}
    windows: list[Window] = []
    end_ns = int(max(rows["audio_ns"][-1], rows["vision_ns"][-1])) + 3 * SECOND
    text = Words(Stamp("s", "text", 0, end_ns, 0), spec.text.stream.hash, (Word("x", 0, 1),), end_ns)
    windows += windower.add(text, 0)
    for sense, spec_hash in senses.items():
        for seq, (t_ns, row) in enumerate(zip(rows[f"{sense}_ns"], rows[sense], strict=True)):
            stamp = Stamp("s", sense, seq, int(t_ns), 0)
            block = FeatureBlock(stamp, spec_hash, 0, np.array([t_ns]), row[None])
            windows += windower.add(block, 0)
    return [*windows, *windower.finish(end_ns)]


@pytest.mark.parametrize("face", [True, False])
def test_every_window_is_the_one_that_the_live_application_cuts(tmp_path: Path, face: bool) -> None:
    data = open_clips(made(tmp_path, face=face), "pieces")
    (clip,) = data.of("test")
    windows = live_windows(data.rows(clip), data.features)
    assert len(windows) == 89
    kinds = set()
    for window in windows:
        batch = data.batch([clip], [window.end_ns])
        kinds.add((window.audio.present, window.vision.present))
        np.testing.assert_array_equal(batch.audio[0], window.audio.values)
        np.testing.assert_array_equal(batch.audio_mask[0], window.audio.mask)
        np.testing.assert_array_equal(batch.vision[0], window.vision.values)
        np.testing.assert_array_equal(batch.vision_mask[0], window.vision.mask)
    # Each sense comes and goes, so that this shows something.
    assert {there for there, _ in kinds} == {True, False}
    assert {there for _, there in kinds} == ({True, False} if face else {False})


def test_words_are_embedded_as_the_live_engine_embeds_them(tmp_path: Path) -> None:
    words = TimedWord("I", SECOND), TimedWord("won't", 2 * SECOND), TimedWord("go", 5 * SECOND)
    data = open_clips(made(tmp_path, words=words))
    (batch,) = data.batches("test", 4, 0)
    (window,) = (w for w in live_windows(data.rows(data.of("test")[0]), data.features) if w.end_ns == SECOND)
    sense = replace(window.text, present=True, words=tuple(Word(w.text, 0, w.end_ns) for w in words))
    values, mask = Ends(load(PRETRAINED)).embed(sense)
    np.testing.assert_array_equal(batch.text_mask[0], mask)
    np.testing.assert_array_equal(batch.text[0], values)
    assert batch.text.shape == (1, 48, 384) and mask.sum() == 7


def test_a_sentence_is_encoded_once_and_kept_in_the_folder(tmp_path: Path) -> None:
    first = WordEmbeddings(PRETRAINED, 48, tmp_path)
    value = first.of("what a day")
    again = WordEmbeddings(PRETRAINED, 48, tmp_path)
    again._encoder = None  # type: ignore[assignment] # it would raise if it were asked
    np.testing.assert_array_equal(again.of("what a day"), value)
    (store,) = tmp_path.glob("embeddings-*.sqlite")
    again._kept.close()
    first._kept.close()
    store.write_bytes(b"no database" * 1000)
    np.testing.assert_array_equal(WordEmbeddings(PRETRAINED, 48, tmp_path).of("what a day"), value)


def test_a_training_window_ends_anywhere_and_knows_only_words_that_were_over(tmp_path: Path) -> None:
    words = TimedWord("early", SECOND // 10), TimedWord("late", 59 * SECOND // 10)
    data = open_clips(made(tmp_path, words=words, text="early late"), "pieces")
    batches = [next(data.batches("train", 4, seed)) for seed in range(40)]
    again = [next(data.batches("train", 4, seed)) for seed in range(40)]
    assert all(
        (a.audio == b.audio).all() and (a.text == b.text).all() for a, b in zip(batches, again, strict=True)
    )
    steps = {int(batch.audio_mask.sum()) for batch in batches}
    assert len(steps) > 15 and all(step == 0 or step >= 24 for step in steps)
    assert {int(batch.text_mask.sum()) for batch in batches} == {3}  # [CLS] early [SEP]
    (whole,) = data.batches("validation", 4, 0)
    assert whole.text_mask.sum() == 4


def test_without_times_the_whole_text_is_known_and_validation_is_always_the_same(tmp_path: Path) -> None:
    data = open_clips(made(tmp_path), "pieces")
    assert all(next(data.batches("train", 4, seed)).text_mask.sum() == 6 for seed in range(5))
    (one,), (other,) = data.batches("validation", 4, 1), data.batches("validation", 4, 2)
    np.testing.assert_array_equal(one.audio, other.audio)
    assert one.text.dtype == np.int64 and one.text[0, -1] == 102 and not one.text[0, :-6].any()


def test_a_training_window_is_never_empty_where_the_clip_is_not(tmp_path: Path) -> None:
    late = (TimedWord("finally", 5 * SECOND),)
    data = open_clips(made(tmp_path, words=late, face=False), "pieces")
    rows = data.rows(data.of("train")[0])
    rows["audio"][:, SPEECH] = 0
    for seed in range(10):
        (batch,) = data.batches("train", 4, seed)
        assert batch.text_mask.sum() == 3 and not batch.audio_mask.any()


def test_normalisation_is_that_of_the_training_clips_where_a_face_was_seen(tmp_path: Path) -> None:
    data = open_clips(made(tmp_path), "pieces")
    rows = read_rows(tmp_path, data.of("train")[0])
    seen = rows["vision"][rows["vision"][:, vision.PRESENCE] > 0]
    inputs = data.inputs
    np.testing.assert_allclose(inputs["audio"].mean, rows["audio"].mean(0), atol=1e-4)
    np.testing.assert_allclose(inputs["vision"].mean, seen.mean(0), atol=1e-4)
    np.testing.assert_allclose(inputs["vision"].scale[:5], 1 / seen.std(0)[:5], rtol=1e-3)
    assert inputs["vision"].scale[vision.PRESENCE] == 0
    assert data.features.audio.mean == tuple(np.round(data.features.audio.mean, 6))


def test_a_sense_that_no_training_clip_has_is_shut_out(tmp_path: Path) -> None:
    data = open_clips(made(tmp_path, face=False), "pieces")
    assert not np.any(data.inputs["vision"].scale)


def test_classes_are_sorted_names_and_numbers_are_sentiments(tmp_path: Path) -> None:
    data = open_clips(made(tmp_path / "c"), "pieces")
    assert data.labels == ("happy", "sad")
    assert [next(data.batches(s, 4, 0)).labels.tolist() for s in ("train", "validation")] == [[1], [0]]
    data = open_clips(made(tmp_path / "r", labels=(-1.5, 3.0, 0.0)), "pieces")
    assert data.labels == ()
    (batch,) = data.batches("train", 4, 0)
    assert batch.labels.dtype == np.float32 and batch.labels.tolist() == [-1.5]


def test_other_window_lengths_are_taken_from_the_feature_spec(tmp_path: Path) -> None:
    longer = InputSpec(audio.SPEC, 5.0, 250, audio.SPEC.dim)
    data = open_clips(made(tmp_path), "pieces", msgspec.structs.replace(FEATURES, audio=longer))
    (batch,) = data.batches("test", 4, 0)
    assert batch.audio.shape == (1, 250, 42) and batch.audio_mask.all()
    other = msgspec.structs.replace(audio.SPEC, extractor="another")
    with pytest.raises(DataError, match="expects other audio features"):
        open_clips(
            tmp_path, "pieces", msgspec.structs.replace(FEATURES, audio=InputSpec(other, 4.0, 200, 42))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no index", "run build/extract_features.py LABELS.csv"),
        ("other features", "made with other vision features"),
        ("missing clip", "features of 1.mp4, is missing"),
        ("damaged clip", "features of 0.mp4, cannot be read"),
        ("no test", "no clip is for test"),
        ("one class", "expected two names or more"),
        ("damaged index", "is no index of clips"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, change: str, message: str) -> None:
    made(tmp_path)
    index = msgspec.json.decode((tmp_path / "clips.json").read_bytes(), type=Index)
    match change:
        case "no index":
            (tmp_path / "clips.json").unlink()
        case "other features":
            write_index(tmp_path, msgspec.structs.replace(index, vision="0123456789ab"))
        case "missing clip":
            rows_path(tmp_path, "1").unlink()
        case "damaged clip":
            rows_path(tmp_path, "0").write_bytes(rows_path(tmp_path, "0").read_bytes()[:5000])
        case "no test":
            write_index(tmp_path, msgspec.structs.replace(index, clips=index.clips[:2]))
        case "one class":
            write_index(
                tmp_path,
                msgspec.structs.replace(
                    index, clips=tuple(msgspec.structs.replace(c, label="sad") for c in index.clips)
                ),
            )
        case "damaged index":
            (tmp_path / "clips.json").write_bytes(b'{"audio": "x", \xff')
    with pytest.raises(DataError, match=message):
        open_clips(tmp_path, "pieces")


def test_a_text_encoder_that_is_none_is_named(tmp_path: Path) -> None:
    made(tmp_path / "f")
    for text in ("pieces", "features"):
        with pytest.raises(DataError, match=r"tokenizer|text_encoder"):
            open_clips(tmp_path / "f", text, text_encoder=tmp_path)  # type: ignore[arg-type]


def test_a_clip_data_set_is_what_the_trainer_takes(tmp_path: Path) -> None:
    from models.data import Data

    data: Data = open_clips(made(tmp_path), "pieces")
    assert isinstance(data, Clips) and len(data) == 1 and data.features is not None


def table(folder: Path, content: str | bytes, *clips: str) -> Path:
    for clip in ("a.mp4", "b.mp4", "c.mp4", *clips):
        (folder / clip).touch()
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: expected a header with path, text, label"),
        ("path,text,label\n", "no clip below the header"),
        ("path,label\na.mp4,sad\n", "line 1: no column text; found path | label"),
        ("path;text;label\na.mp4;;sad\n", "separated by commas"),
        ("path,text,label\na.mp4,hi,sad\nz.mp4,hi,sad\n", "line 3: no file .*z.mp4"),
        ("path,text,label\n,hi,sad\n", "line 2: the path is empty"),
        ("path,text,label\na.mp4,hi,\n", "line 2: the label is empty"),
        ("path,text,label\na.mp4,well, hi,sad\n", "line 2: more values than columns"),
        ("path,text,label,split\na.mp4,hi,sad,exam\n", "line 2: split is 'exam', expected train"),
        ("path,text,label,end_s\na.mp4,hi,sad,soon\n", "line 2: end_s is 'soon', expected seconds"),
        ("path,text,label,start_s\na.mp4,hi,sad,-1\n", "line 2: start_s is '-1', expected seconds"),
        ("path,text,label,start_s,end_s\na.mp4,hi,sad,2,1\n", "line 2: end_s '1' does not lie behind"),
        ("path,text,label\na.mp4,,sad\nb.mp4,,sad\na.mp4,,sad\n", "line 4: a.mp4 is there twice, .* line 2"),
        (
            "path,text,label,split,group\na.mp4,,sad,train,eva\nb.mp4,,sad,test,eva\n",
            "line 3: group 'eva' is in test, and on line 2 in train",
        ),
        ("path,text,label\na.mp4,,sad\nb.mp4,sch\xf6n,sad\n".encode("latin-1"), "line 3: not UTF-8"),
        ('path,text,label\na.mp4,"never closed,sad\n', "expected a CSV table"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_row(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read_table(table(tmp_path, content), tmp_path)
    assert "\n" not in str(raised.value) and "labels.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "task", "known", "message"),
    [
        (("sad", "Sad"), "auto", (), "line 3: label 'Sad', but 'sad' on line 2"),
        (("sad", "glad"), "auto", ("sad", "happy"), "line 3: label 'glad', expected one of sad, happy"),
        (("1.5", "4"), "auto", (), r"line 3: label '4', expected a sentiment in \[-3, 3\]"),
        (("1.5", "x"), "auto", (), "line 3: label 'x' is no number"),
        (("1.5", "nan"), "auto", (), "line 3: label 'nan', expected a sentiment"),
    ],
)
def test_a_bad_label_is_one_line_that_names_the_row(
    tmp_path: Path, labels: tuple[str, str], task: str, known: tuple[str, ...], message: str
) -> None:
    path = table(tmp_path, "path,text,label\na.mp4,,{}\nb.mp4,,{}\n".format(*labels))
    rows, _ = read_table(path, tmp_path)
    with pytest.raises(DataError, match=message):
        labels_of(rows, path, task, known)  # type: ignore[arg-type]


def test_labels_are_sentiments_where_they_are_numbers_unless_told_otherwise(tmp_path: Path) -> None:
    path = table(tmp_path, "path,text,label\na.mp4,,-3\nb.mp4,,2.4\n")
    rows, _ = read_table(path, tmp_path)
    assert labels_of(rows, path, "auto") == [-3.0, 2.4]
    assert labels_of(rows, path, "classification") == ["-3", "2.4"]


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    content = '\ufeffpath , text,label\r\na.mp4,"said ""so"",\r\ntwice",sad\r\nb.mp4,,happy\r\n'
    (first, second), how = read_table(table(tmp_path, content), tmp_path)
    assert first.text == 'said "so",\r\ntwice' and first.start_ns == 0 and first.end_ns is None
    assert (second.line, second.label, how) == (4, "happy", "split 80/10/10 by the checksum of the path")


def test_the_parts_of_a_file_are_clips_of_their_own_in_one_split(tmp_path: Path) -> None:
    content = "path,text,label,start_s,end_s\na.mp4,,sad,0,1.5\na.mp4,,sad,1.5,\n"
    (first, second), _ = read_table(table(tmp_path, content), tmp_path)
    assert first.id != second.id and first.split == second.split
    assert (first.end_ns, second.start_ns, second.end_ns) == (1_500_000_000, 1_500_000_000, None)


def test_a_group_stays_in_one_split_and_splits_have_about_their_shares(tmp_path: Path) -> None:
    splits = [split_of(f"speaker {n}") for n in range(2000)]
    assert splits == [split_of(f"speaker {n}") for n in range(2000)]
    assert 0.77 < splits.count("train") / 2000 < 0.83
    assert 0.08 < splits.count("validation") / 2000 < 0.12
    groups = "".join(f"{name}.mp4,,sad,eva\n" for name in "abc")
    rows, how = read_table(table(tmp_path, "path,text,label,group\n" + groups), tmp_path)
    assert {row.split for row in rows} == {split_of("eva")} and "checksum of the group" in how
