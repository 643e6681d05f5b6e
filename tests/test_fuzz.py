"""Every decoder meets some damaged inputs; ``python -m tests.fuzz`` goes on for longer."""

from __future__ import annotations

import io
import os
import random
import tempfile
import zipfile
from pathlib import Path

import pytest

from capture.messages import FeatureBlock
from models.data import DataError
from runtime import windows
from tests import fuzz
from tests.fuzz_targets import messages, training
from tests.fuzz_targets.everything import targets
from tests.mutation import Target, mutated

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
TARGETS = targets(Path(FOLDER.name))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_decoder_decodes_or_refuses_and_nothing_else(target: Target) -> None:
    outcomes = [fuzz.one(target, seed) for seed in range(target.tries)]
    for outcome in outcomes:
        if isinstance(outcome, fuzz.Found):
            pytest.fail(
                f"python -m tests.fuzz --target '{target.name}' --seed {outcome.seed}\n{outcome.error}"
            )
    assert "accepted" in outcomes or not target.whole
    assert "refused" in outcomes or not target.refuses


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_whole_is_taken_and_most_of_what_is_damaged_is_not_the_same(target: Target) -> None:
    if target.whole:
        for data in target.seeds:
            target.run(data)
    made = {mutated(random.Random(seed), target) for seed in range(50)}
    assert len(made) > 25 and len(made - set(target.seeds)) > 20


DEEP, LONG = b"[" * 3000, b"9" * 5000
FOUND = (  # what was once a traceback, by its target
    ("finding", b'{"x":' + DEEP),
    ("wish", b'{"rate_hz":1e-320}'),
    ("wish", b'{"recogniser":"\xed"}'),
    ("engine manifest", b'{"x":' + DEEP),
    ("tokenizer", b'{"model":{"vocab":{"[UNK]":1}}}'),
    ("tokenizer", b'{"x":' + DEEP),
    ("tokenizer", b'{"model":{"vocab":{"\xed":1}}}'),
    ("configuration", b"hop_s = " + LONG),
    ("configuration", b"hop_s = " + DEEP),
    ("training configuration", b"seed = " + LONG),
    ("training configuration", b"seed = " + DEEP),
    ("training --set", b"name.x=1"),
    ("training --set", b"seed.x.y=1"),
    ("training --set", b"name=\xff"),
    ("training --set", b"seed=" + DEEP),
    ("training --set", b"seed=" + LONG),
    ("addresses", b"a:" + LONG),
    ("addresses", b"tcp://127.0.0.1:" + LONG),
    ("addresses", b"ipc:///" + b"a" * 5000),
    ("table of clips", b"path,text,label\n" + b"a" * 5000 + b",so,joy\n"),
    ("table of clips", b"path,text,label\n~nobody-has-this-name/a.wav,so,joy\n"),
    ("index of clips", b'{"x":' + DEEP),
    ("features of a clip", training.npz(audio_ns=3, audio=3, vision_ns=3, vision=3)),
    ("features of a corpus", b"PK\3\4"),
    ("features of a corpus", training.npz(values=1, offsets=[9], labels=[], splits=0, variants=0)),
    ("what was trained on", b"PK\3\4"),
    ("what was trained on", b""),
    ("baseline", b"PK\3\4"),
    ("baseline", b""),
    ("report of a run", DEEP),
    ("text encoder description", b"[]"),
    ("text encoder description", DEEP),
    ("text encoder weights", b"no weights"),
)


@pytest.mark.parametrize(("name", "data"), FOUND, ids=lambda it: it[:30])
def test_what_was_found_is_refused_in_the_way_that_is_documented(name: str, data: bytes) -> None:
    target = next(target for target in TARGETS if target.name == name)
    if target.refuses:
        with pytest.raises(target.refuses):
            target.run(data)
    else:
        target.run(data)


def test_a_config_that_asks_for_more_than_the_weights_have_is_refused_at_once() -> None:
    target = next(target for target in TARGETS if target.name == "text encoder description")
    assert target.loads is not None and target.dumps is not None
    told = target.loads(target.seeds[0])
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        with pytest.raises(ValueError, match=name):
            target.run(target.dumps(told | {name: 2**31}))


def test_a_network_of_more_layers_than_anybody_would_train_is_refused_at_once() -> None:
    target = next(target for target in TARGETS if target.name == "network description")
    assert target.loads is not None and target.dumps is not None
    told = target.loads(target.seeds[0])
    for name in ("levels", "memory_levels"):
        with pytest.raises(target.refuses, match=name):
            target.run(target.dumps(told | {"config": told["config"] | {name: 2**31}}))


def test_features_that_are_no_arrays_are_refused() -> None:
    target = next(target for target in TARGETS if target.name == "features of a clip")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("audio_ns", "audio", "vision_ns", "vision"):
            archive.writestr(f"{name}.npy", b"no array")
    with pytest.raises(DataError, match="remove it"):
        target.run(packed.getvalue())


def test_the_name_of_a_clip_that_is_too_long_for_a_file_is_refused() -> None:
    target = next(target for target in TARGETS if target.name == "index of clips")
    assert b'"id":"a"' in target.seeds[0]
    with pytest.raises(DataError, match="too long"):
        target.run(target.seeds[0].replace(b'"id":"a"', b'"id":"' + b"a" * 5000 + b'"'))


def test_no_two_targets_have_one_name() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_windows_that_a_message_cannot_justify_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    target = next(target for target in TARGETS if target.name == "messages")
    block = next(one for one in messages.captured() if isinstance(one, FeatureBlock) and one.stamp.seq == 9)
    target.run(messages.pack(messages.encode(block)))
    monkeypatch.setattr(windows.Windower, "lagging", lambda self: [])  # it waits for nothing, and cuts on
    with pytest.raises(AssertionError, match="more than"):
        target.run(messages.pack(messages.encode(block)))


def _divides(data: bytes) -> None:
    if len(data) % 3 == 0:
        raise ValueError
    1 // (len(data) - 2)


def _fuzzed(tmp_path: Path, target: Target, inputs: int) -> fuzz.Tally:
    (tally,) = fuzz.run([target], 0, inputs, 1.0, 1, tmp_path)
    assert tally.inputs == inputs
    return tally


def test_a_run_counts_what_is_refused_and_accepted_and_keeps_the_first_of_each_kind(tmp_path: Path) -> None:
    tally = _fuzzed(tmp_path, Target("bad", (b"abc",), _divides, (ValueError,)), 300)
    assert tally.refused > 0 and tally.accepted > 0 and tally.refused + tally.accepted < 300
    (found,) = tally.found.values()
    assert found.kind.startswith("ZeroDivisionError at tests/test_fuzz.py:")
    first = next(seed for seed in range(300) if isinstance(fuzz.one(_BAD, seed), fuzz.Found))
    assert found.seed == first


_BAD = Target("bad", (b"abc",), _divides, (ValueError,))


def test_a_decoder_that_takes_its_process_down_is_a_finding_and_the_next_inputs_follow(
    tmp_path: Path,
) -> None:
    def run(data: bytes) -> None:
        if len(data) == 2:
            os.abort()

    tally = _fuzzed(tmp_path, Target("fatal", (b"abc",), run, ()), 100)
    (found,) = tally.found.values()
    assert found.kind == "crashed" and "Aborted" in found.error and "exit status -6" in found.error
    assert tally.accepted > 50


def test_a_decoder_that_does_not_come_back_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "ENDLESS_S", 0.5)

    def run(data: bytes) -> None:
        while data != b"abc":
            pass

    tally = _fuzzed(tmp_path, Target("endless", (b"abc",), run, ()), 2)
    assert [found.kind for found in tally.found.values()] == ["endless"]


def test_the_command_says_what_was_fuzzed_and_its_status_whether_something_was_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fuzz.main(["--target", "addresses", "--inputs", "50", "--seed", "7", "--jobs", "1"]) == 0
    assert "50 inputs for 1 of 1 decoders, 0 kinds of findings" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["--target", "nothing"])
    assert "no target 'nothing'; there are: messages, emotion stream" in capsys.readouterr().err
