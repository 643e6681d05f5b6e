"""Mutation: a decoder to fuzz, and damaged inputs for it, each made from its seed alone."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WICKED: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, 1e-320, float("nan"), float("-inf"), "",
    "\0", "é" * 300, [], {}, [[]], {"type": "emotion"},
)  # fmt: skip
WORDS = (
    b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7,
    b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"\xed\xa0\x80", b"\r\n", b"//[", b"..", b"%00", b'"', b"=",
)  # fmt: skip
NONE_SUCH = (OverflowError, TypeError, ValueError, LookupError, AttributeError, struct.error)  # of a format


@dataclass(frozen=True)
class Target:
    """A decoder, what it is given in earnest, and how it may refuse."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...]
    loads: Callable[[bytes], Any] | None = None  # the format's values, to put a wicked one among them
    dumps: Callable[[Any], bytes] | None = None
    tries: int = 1000  # of the suite; fewer for what is slow to read
    whole: bool = True  # every seed is taken


def mutated(rng: random.Random, target: Target) -> bytes:
    """One input: now and then as it is, mostly with one to four things done to it."""
    data = rng.choice(target.seeds)
    if target.loads is not None and target.dumps is not None and rng.random() < 0.5:
        value = target.loads(data)
        for _ in range(rng.randint(1, 3)):
            value = _wicked(rng, value)
        with contextlib.suppress(*NONE_SUCH):
            return target.dumps(value)
    changed = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        _change(rng, changed, target.seeds)
    return bytes(changed)


def _change(rng: random.Random, data: bytearray, others: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(int(rng.expovariate(0.1)) + 1, 4096)
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length] * rng.randint(1, 3)
        case 4:
            del data[at:]
        case 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        case 6:
            data[at:at] = rng.choice(WORDS)
        case _:
            word = rng.choice(WORDS)
            data[at : at + len(word)] = word


def _wicked(rng: random.Random, value: Any) -> Any:
    """The value with one of its leaves, or what holds them, replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key} | {str(rng.choice(WICKED)): value[key]}
        return value | {key: _wicked(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.05:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _wicked(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, bytes) and value and rng.random() < 0.7:
        changed = bytearray(value)
        _change(rng, changed, (value,))
        return bytes(changed)
    return rng.choice(WICKED)
