"""Every decoder meets some thousand damaged inputs; ``python -m tests.fuzz`` goes on for longer."""

from __future__ import annotations

import random

import pytest

from tests import fuzz

TARGETS = fuzz.targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_decoder_decodes_or_refuses_and_nothing_else(target: fuzz.Target) -> None:
    for seed in range(20 * target.turns):
        found = fuzz.one(target, seed)
        assert found is None, f"python -m tests.fuzz --only '{target.name}' --seed {seed}\n{found.error}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_whole_is_taken_and_most_of_what_is_damaged_is_not_the_same(target: fuzz.Target) -> None:
    for data in target.seeds[:5]:
        if target.name not in ("engine manifest", "recording"):  # one is not whole, one breaks off
            target.run(data)
    made = {fuzz.mutated(random.Random(seed), target) for seed in range(50)}
    assert len(made) > 25 and len(made - set(target.seeds)) > 20


def test_the_fuzzer_finds_what_a_decoder_lets_through() -> None:
    target = fuzz.Target("bad", (b"abc",), lambda data: 1 // len(data), (ValueError,))
    found = [fuzz.one(target, seed) for seed in range(200)]
    assert any(one is not None and "ZeroDivisionError" in one.error for one in found)
