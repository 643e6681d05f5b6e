"""MMSA pickles: what is in them comes out, what is wrong is named, and what is harmful is never run."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import array_pickle, mmsa
from models.data import Batch, Data, DataError
from models.mmsa import open_mmsa

PROTOCOLS = (2, 3, 4, 5)
COUNTS = {"train": 5, "valid": 3, "test": 2}
STEPS = {"text": 6, "audio": 9, "vision": 7}


def split(count: int, seed: int, aligned: bool = False) -> dict[str, Any]:
    """Real steps are 1, 2, 3, ... in column 0, counted from the first; padding is 0."""
    rng = np.random.default_rng(seed)
    steps = dict.fromkeys(STEPS, 6) if aligned else STEPS
    lengths = {sense: rng.integers(1, n + 1, count) for sense, n in steps.items()}
    if aligned:
        lengths = dict.fromkeys(steps, lengths["text"])
    made: dict[str, Any] = {
        "raw_text": np.array([f"line {i}" for i in range(count)], dtype=object),
        "id": [f"video$_${i}" for i in range(count)],
        "annotations": np.array(["Positive"] * count),
        "classification_labels": np.ones(count),
        "regression_labels": rng.uniform(-3, 3, count),
    }
    for sense, dim in (("text", 8), ("audio", 5), ("vision", 4)):
        there = np.arange(steps[sense]) < lengths[sense][:, None]
        values = rng.normal(size=(count, steps[sense], dim)).astype(np.float32)
        values[..., 0] = np.arange(1, steps[sense] + 1)
        made[sense] = values * there[..., None]
        if sense == "text":
            made["text_bert"] = np.stack([(there * (100 + values[..., 0])), there, 0 * there], 1).astype(
                float
            )
        elif not aligned:
            made[f"{sense}_lengths"] = lengths[sense].tolist()
    return made


def layout(aligned: bool = False) -> dict[str, Any]:
    return {name: split(count, seed, aligned) for seed, (name, count) in enumerate(COUNTS.items())}


def write(folder: Path, data: Any, name: str = "MOSI/Processed/unaligned_50.pkl", protocol: int = 4) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data, protocol))
    return path


def whole(data: Data, name: Any) -> Batch:
    (batch,) = data.batches(name, 100, 0)
    return batch


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_windows_come_out_as_they_were_stored(tmp_path: Path, protocol: int) -> None:
    stored = layout()
    data: Data = open_mmsa(write(tmp_path, stored, protocol=protocol))
    assert (data.name, data.labels, data.features, len(data)) == ("MOSI (unaligned)", (), None, 5)
    assert {s: (one.steps, one.dim) for s, one in data.inputs.items()} == {
        "text": (6, 8), "audio": (9, 5), "vision": (7, 4)
    }  # fmt: skip
    for name, theirs in (("validation", "valid"), ("test", "test")):
        batch = whole(data, name)
        for sense in STEPS:
            values = getattr(batch, sense)
            assert values.dtype == np.float32 and np.array_equal(values, stored[theirs][sense])
            mask = getattr(batch, f"{sense}_mask")
            assert mask.dtype == np.float32 and mask.shape == values.shape[:2] and mask.all()
        assert batch.labels.dtype == np.float32
        assert batch.labels == pytest.approx(stored[theirs]["regression_labels"], abs=1e-6)


@pytest.mark.parametrize("aligned", [True, False])
def test_masks_move_the_real_steps_to_the_end(tmp_path: Path, aligned: bool) -> None:
    stored = layout(aligned)
    data = open_mmsa(write(tmp_path, stored), masks=True)
    batch = whole(data, "validation")
    for sense in STEPS:
        values, mask = getattr(batch, sense), getattr(batch, f"{sense}_mask")
        for row, before in zip(range(len(batch)), stored["valid"][sense], strict=True):
            length = int((before[:, 0] > 0).sum())
            assert mask[row].tolist() == [0] * (len(before) - length) + [1] * length
            assert np.array_equal(values[row, len(before) - length :], before[:length])
            assert not values[row, : len(before) - length].any()


@pytest.mark.parametrize("masks", [False, True])
def test_word_pieces_are_always_masked_and_at_the_end(tmp_path: Path, masks: bool) -> None:
    stored = layout()
    for part in stored.values():
        del part["text"]  # pieces do without
    data = open_mmsa(write(tmp_path, stored), "pieces", masks)
    assert (data.inputs["text"].steps, data.inputs["text"].dim) == (6, 768)
    batch = whole(data, "test")
    assert batch.text.dtype == np.int64
    for row, (ids, real, _) in enumerate(stored["test"]["text_bert"]):
        length = int(real.sum())
        expected = [0] * (6 - length) + [101 + i for i in range(length)]
        assert batch.text[row].tolist() == expected and ids[:length].tolist() == expected[6 - length :]
        assert batch.text_mask[row].tolist() == [0] * (6 - length) + [1] * length
    assert bool(batch.audio_mask.all()) != masks


def test_training_is_shuffled_by_the_seed_and_sees_every_window_once(tmp_path: Path) -> None:
    stored = layout()
    data = open_mmsa(write(tmp_path, stored), masks=True)

    def order(seed: int) -> list[float]:
        return [label for batch in data.batches("train", 2, seed) for label in batch.labels.tolist()]

    assert order(1) == order(1) != order(2)
    assert sorted(order(2)) == pytest.approx(sorted(stored["train"]["regression_labels"]))
    for batch in data.batches("train", 2, 3):
        for row, label in enumerate(batch.labels):
            (index,) = np.flatnonzero(np.isclose(stored["train"]["regression_labels"], label))
            length = stored["train"]["audio_lengths"][index]
            assert batch.audio_mask[row].sum() == length
            assert np.array_equal(batch.audio[row, 9 - length :], stored["train"]["audio"][index, :length])


def test_what_is_no_finite_number_is_read_as_zero_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = layout()
    stored["train"]["audio"][0, 0, :3] = -np.inf, np.nan, np.inf
    stored["test"]["vision"][1, 0, 0] = np.nan
    with caplog.at_level(logging.WARNING):
        data = open_mmsa(write(tmp_path, stored, "MOSEI/aligned_50.pkl"))
    assert "3 in train audio, 1 in test vision" in caplog.text and len(caplog.records) == 1
    for _ in range(2):  # a pass leaves the data as they are
        sound = np.concatenate([batch.audio for batch in data.batches("train", 4, 0)])
        assert np.isfinite(sound).all()
        assert np.sort(sound.ravel()) == pytest.approx(
            np.sort(np.nan_to_num(stored["train"]["audio"], posinf=0, neginf=0).ravel())
        )
    caplog.clear()
    open_mmsa(write(tmp_path, layout()))
    assert not caplog.records


def test_arrays_lie_over_the_bytes_that_were_read(tmp_path: Path) -> None:
    for protocol in PROTOCOLS:
        data = open_mmsa(write(tmp_path, layout(), protocol=protocol))
        for stored in data.splits.values():
            for array in (stored.text, stored.audio, stored.vision):
                assert not array.flags.owndata
            assert stored.audio_mask.strides == (0, 0)  # ones without memory


@pytest.mark.parametrize(
    ("path", "aligned", "name"),
    [
        ("MOSEI/Processed/unaligned_50.pkl", False, "MOSEI (unaligned)"),
        ("CMU-MOSI/aligned_50.pkl", True, "MOSI (aligned)"),
        ("CH-SIMS/Processed/unaligned_39.pkl", False, "SIMS (unaligned)"),
        ("ch-simsv2s/unaligned.pkl", False, "SIMS v2 (unaligned)"),
        ("mosi/Processed/mosei_features.pkl", True, "MOSEI (aligned)"),
        ("some/where/else.pkl", False, "else (unaligned)"),
        ("some/where/aligned_50.pkl", True, "aligned_50 (aligned)"),
    ],
)
def test_the_name_is_guessed_from_the_path(tmp_path: Path, path: str, aligned: bool, name: str) -> None:
    assert open_mmsa(write(tmp_path, layout(aligned), path)).name == name


def test_stored_types_may_differ(tmp_path: Path) -> None:
    stored = layout()
    for part in stored.values():
        part["audio"] = part["audio"].astype(">f8")
        part["vision"] = np.asfortranarray(part["vision"])
        part["text_bert"] = part["text_bert"].astype(np.int64)
        part["regression_labels"] = [np.float64(one) for one in part["regression_labels"]]
        part["audio_lengths"] = np.array(part["audio_lengths"], np.int32)
    as_lists = {name: {**part, "text": list(part["text"])} for name, part in stored.items()}
    column = {
        name: {**part, "regression_labels": np.array(part["regression_labels"])[:, None]}
        for name, part in stored.items()
    }
    for protocol in PROTOCOLS:
        for version in (stored, as_lists, column, OrderedDict(stored)):
            batch = whole(open_mmsa(write(tmp_path, version, protocol=protocol), masks=True), "test")
            assert batch.labels == pytest.approx(stored["test"]["regression_labels"])
            length = stored["test"]["audio_lengths"][0]
            assert batch.audio[0, -length:] == pytest.approx(stored["test"]["audio"][0, :length])
            assert batch.vision.dtype == batch.audio.dtype == np.float32


def rename(data: bytes, before: str, after: str) -> bytes:
    """Another module in a pickle of protocol 3 (names end with a line feed there)."""
    assert f"c{before}\n".encode() in data
    return data.replace(f"c{before}\n".encode(), f"c{after}\n".encode())


def test_pickles_of_numpy_before_and_since_version_two_are_read(tmp_path: Path) -> None:
    now = pickle.dumps(layout(), 3)
    here = "numpy._core" if b"numpy._core" in now else "numpy.core"
    for there in ("numpy.core", "numpy._core"):
        path = tmp_path / "old.pkl"
        path.write_bytes(rename(now, f"{here}.multiarray", f"{there}.multiarray"))
        assert len(open_mmsa(path)) == 5


def test_strings_and_containers_of_every_plain_kind_are_read(tmp_path: Path) -> None:
    things = {
        "objects": np.array([["a", "b"], ["c", None]], dtype=object, order="F"),
        "text": np.array(["ab", "c"]),
        "bytes": np.array([b"ab", b"c"]),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
    }
    plain = {
        "set": {1, 2},
        "frozen": frozenset({3}),
        "bytes": b"",
        "number": np.float32(1.5),
        "name": np.str_("é"),
    }
    for protocol in PROTOCOLS:
        path = write(tmp_path, {"arrays": things, "plain": plain}, protocol=protocol)
        found = array_pickle.load(path)
        for key, array in things.items():
            made = array_pickle.unwrapped(found["arrays"][key])
            assert made is not None and made.dtype == array.dtype and made.tolist() == array.tolist()
        assert found["plain"] == plain


class Call:
    """Pickles as a call of a function: what an attacker writes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def named(text: str) -> bytes:
    """A pickle that asks for a name and calls it with one string."""
    module, name = text.rsplit(".", 1)
    return f"c{module}\n{name}\n(Vtouched\ntR.".encode()


@pytest.mark.parametrize("protocol", [0, 1, *PROTOCOLS])
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "touched"
    bad = layout()
    bad["train"]["raw_text"] = [Call(os.system, f"touch {victim}")]
    path = write(tmp_path, bad, protocol=protocol)
    with pytest.raises(DataError, match=r"refused: it asks for '(posix|nt)\.system', which was not run"):
        open_mmsa(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # the test's own pickle does what it says
    assert victim.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval", "builtins.exec", "__builtin__.eval", "builtins.getattr", "builtins.__import__",
        "builtins.open", "builtins.bytearray", "subprocess.Popen", "os.system", "pty.spawn",
        "runpy.run_path", "importlib.import_module", "pickle.loads", "operator.attrgetter",
        "functools.partial", "copyreg._reconstructor", "codecs.encode", "_codecs.decode", "numpy.load",
        "numpy.lib.npyio.load", "numpy.core.multiarray.fromfile", "numpy.testing._private.utils.runstring",
        "numpy.testing.rundocs", "numpy.f2py.compile", "numpy.memmap",
        "numpy.core.multiarray._reconstruct.__globals__", "numpy.distutils.exec_command.exec_command",
        "numpy.ma.core._mareconstruct", "numpy.core._internal._reconstruct", "torch.load", "joblib.load",
        "models.array_pickle._Array", "sys.exit",
    ],
)  # fmt: skip
def test_every_other_name_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(named(name))
    with pytest.raises(DataError) as caught:
        open_mmsa(path)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_with_dots_of_protocol_four_reaches_no_attribute(tmp_path: Path) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__class__.\x93.")
    with pytest.raises(DataError, match="__class__"):
        open_mmsa(path)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
OBJECTS = b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR"
EMPTY = ARRAY + b"(" + NDARRAY + b"(I0\ntC\x01btR"


@pytest.mark.parametrize(
    "gadget",
    [
        ARRAY + b"(" + NDARRAY + b"(I1000000000000\ntC\x01btR.",  # a great deal of memory
        ARRAY + b"(" + NDARRAY + b"(I-1\ntC\x01btR.",
        ARRAY + b"(" + NDARRAY + b"(I1\ntC\x01OtR.",  # objects that are no objects
        ARRAY + b"(" + ARRAY + b"(I0\ntC\x01btR.",  # another class
        ARRAY + b"(I1\nI2\nI3\ntR.",
        ARRAY + b")R.",
        NDARRAY + b"(Vtext\ntR.",
        NDARRAY + b"((I4\nt" + OBJECTS + b"C\x20" + b"A" * 32 + b"tR.",  # an array over bytes of one's own
        EMPTY + b"(I1\n(I1\nt" + OBJECTS + b"I00\nC\x08AAAAAAAAtb.",  # bytes for pointers
        # The same with a type that denies that it has pointers.
        EMPTY + b"(I1\n(I1\nt" + OBJECTS + b"(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\nC\x08AAAAAAAAtb.",
        EMPTY + b"(I1\n(I9\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08AAAAAAAAtb.",  # more than its bytes
        EMPTY + b"(I1\n(I-1\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08AAAAAAAAtb.",
        EMPTY + b"(I1\n(I1\ntcnumpy\ndtype\n(VV8\ntRI00\nC\x08AAAAAAAAtb.",  # structures
        EMPTY + b"Vtext\nb.",
        b"cnumpy\ndtype\n(Vf8,O\ntR.",
        b"cnumpy\ndtype\n(Vf8\ntR(I3\nV<\nN(Va\nt}I8\nI1\nI16\ntb.",  # fields
        b"cnumpy.core.multiarray\nscalar\n(" + OBJECTS + b"C\x08AAAAAAAAtR.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\x08AAAAAAAA" + OBJECTS + b"(I1\ntVC\ntR.",
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
        b"cbuiltins\nbytes\n(I1000000000000\ntR.",
        ARRAY + b"(N}V__defaults__\nI1\nstb.",  # changing a function
        NDARRAY + b"}V__setstate__\nI1\nsb.",
        b"Pthing\n.",  # a persistent id
        b"\x80\x05\x97.",  # a buffer from elsewhere
    ],
)
def test_gadgets_of_allowed_names_are_refused(tmp_path: Path, gadget: bytes) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(gadget)
    with pytest.raises(DataError, match="no pickle of arrays, or it is damaged"):
        array_pickle.load(path)


def test_the_gadgets_would_work_but_for_what_makes_them_gadgets(tmp_path: Path) -> None:
    path = tmp_path / "good.pkl"
    path.write_bytes(
        EMPTY + b"(I1\n(I1\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08" + np.float64(2).tobytes() + b"tb."
    )
    made = array_pickle.unwrapped(array_pickle.load(path))
    assert made is not None and made.tolist() == [2.0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, data: Any) -> None:
    complete = pickle.dumps(layout(), data.draw(st.sampled_from(PROTOCOLS)))
    path = tmp_path / "cut.pkl"
    path.write_bytes(complete[: data.draw(st.integers(0, len(complete) - 1))])
    with pytest.raises(DataError, match=r"cut\.pkl"):
        open_mmsa(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip", b"\x89HDF\r\n\x1a\n", b"a,b\n1,2\n", b"\x80\x09K\x01."]
)
def test_what_is_no_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pkl is no pickle"):
        open_mmsa(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pkl: No such file"):
        open_mmsa(tmp_path / "none.pkl")
    with pytest.raises(DataError, match="directory"):
        open_mmsa(tmp_path)


def without(*keys: str) -> Any:
    def change(data: dict[str, Any]) -> None:
        for key in keys:
            del data["valid"][key]

    return change


def instead(key: str, value: Any, name: str = "valid") -> Any:
    def change(data: dict[str, Any]) -> None:
        data[name][key] = value(data[name][key]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        (lambda data: data.pop("test"), {}, "no split 'test'; it has train, valid. Expected"),
        (lambda data: data.update(valid=[1]), {}, "no split 'valid'"),
        (without("audio"), {}, "'valid' has no 'audio'; it has raw_text"),
        (without("text"), {}, "'valid' has no 'text'"),
        (without("text_bert"), {"text": "pieces"}, "'valid' has no 'text_bert'"),
        (without("text_bert"), {"masks": True}, "'valid' has no 'text_bert'"),
        (without("regression_labels"), {}, "'valid' has no 'regression_labels'"),
        (without("audio_lengths"), {"masks": True}, r"'audio' has \(3, 9\) .* \(3, 6\); .* 'audio_lengths'"),
        (instead("audio", np.array(["a", "b"])), {}, r"'audio' is <U1 \(2,\), expected numbers with 3 axes"),
        (instead("audio", "sound"), {}, "'audio' is str, expected numbers"),
        (instead("audio", [[1], [2, 3]]), {}, "'audio' is list, expected numbers"),
        (instead("vision", lambda x: x[0]), {}, r"'vision' is float32 \(7, 4\), expected numbers with 3"),
        (instead("vision", lambda x: x[:2]), {}, r"'vision' is \(2, 7, 4\) beside 3 'regression_labels'"),
        (instead("vision", lambda x: x[:, :0]), {}, r"'vision' is \(3, 0, 4\)"),
        (
            instead("vision", lambda x: x[:, :5]),
            {},
            r"'vision' has windows of \(5, 4\) in 'valid' and of \(7, 4\)",
        ),
        (instead("text", lambda x: x[..., :7]), {}, r"'text' has windows of \(6, 7\) in 'valid'"),
        (instead("text_bert", lambda x: x[:, :2]), {"text": "pieces"}, r"'text_bert' is \(3, 2, 6\)"),
        (instead("text_bert", lambda x: x + 0.5), {"text": "pieces"}, "no whole numbers"),
        (instead("text_bert", lambda x: x - 1), {"text": "pieces"}, "no whole numbers"),
        (instead("audio_lengths", lambda x: x[:2]), {"masks": True}, "'audio_lengths' must be 3 numbers"),
        (instead("audio_lengths", lambda x: [-1, *x[1:]]), {"masks": True}, "'audio_lengths' must be"),
        (instead("regression_labels", lambda x: x * np.nan), {}, "'regression_labels' .* finite"),
        (instead("regression_labels", lambda x: np.stack([x, x], 1)), {}, r"'regression_labels' is \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, how: Any, said: str) -> None:
    data = layout()
    change(data)
    with pytest.raises(DataError, match=rf"unaligned_50\.pkl.*{said}") as caught:
        open_mmsa(write(tmp_path, data), **how)
    assert "\n" not in str(caught.value)


def test_a_list_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds a list, expected a dictionary"):
        open_mmsa(write(tmp_path, [1, 2]))


def test_lengths_beyond_the_window_are_those_of_clips_that_were_cut(tmp_path: Path) -> None:
    stored = layout()
    stored["test"]["audio_lengths"] = [0, 900]
    batch = whole(open_mmsa(write(tmp_path, stored), masks=True), "test")
    assert batch.audio_mask.sum(1).tolist() == [0, 9]
    assert not batch.audio[0].any()


def test_the_command_says_what_is_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = layout()
    stored["valid"]["vision_lengths"] = [7, 0, 0]
    stored["valid"]["regression_labels"] = np.array([-1.25, 0, 2])
    assert mmsa.main([str(write(tmp_path, stored))]) == 0
    said = capsys.readouterr().out
    assert said.startswith("MOSI (unaligned)\ntrain: 5 windows")
    assert "valid: 3 windows, labels -1.25 to 2.00" in said
    assert "vision (3, 7, 4) float32, padding 66.7%" in said
    assert "also raw_text, id" in said


def test_the_command_fails_with_one_line_and_status_two(tmp_path: Path) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(named("os.system"))
    ran = subprocess.run(
        [sys.executable, "-m", "models.mmsa", path], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2 and not ran.stdout
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1 and "os.system" in ran.stderr


def test_a_large_file_shows_a_bar_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_pickle, "BAR_FROM", 0)
    stored = layout()
    for protocol in PROTOCOLS:
        batch = whole(open_mmsa(write(tmp_path, stored, protocol=protocol)), "test")
        assert np.array_equal(batch.audio, stored["test"]["audio"])


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\x7f.",  # remember this under number two thousand million
        b"\x96\x00\x00\x00\x00\x02\x00\x00\x00.",  # a bytearray of 8 GiB follows
        b"\x8e\x00\x00\x00\x00\x02\x00\x00\x00.",  # so many bytes follow
        b"\x8d\x00\x00\x00\x00\x02\x00\x00\x00.",  # so much text follows
    ],
)
def test_a_few_bytes_cannot_ask_for_gigabytes(tmp_path: Path, program: bytes) -> None:
    """What a process touches of its memory, measured in a process of its own."""
    path = tmp_path / "small.pkl"
    path.write_bytes(b"\x80\x05" + program)
    code = (
        "import resource, sys, pathlib\n"
        "from models import array_pickle\n"
        "from models.data import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    array_pickle.load(pathlib.Path(sys.argv[1]))\n"
        "except DataError as error:\n    assert 'damaged' in str(error), error\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 100_000, grown\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-500:]
