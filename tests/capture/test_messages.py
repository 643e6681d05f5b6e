"""The wire codec: every message survives it unchanged, and nothing else gets through."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capture.messages import (
    LATEST_NS,
    MAX_BUFFER_BYTES,
    STREAMS,
    CorruptMessage,
    FeatureBlock,
    Message,
    Pcm,
    Stamp,
    Status,
    Unheard,
    Word,
    Words,
    decode,
    encode,
    pack,
    unpack,
)

TIMES = st.integers(1 - LATEST_NS, LATEST_NS - 1)
STAMPS = st.builds(
    Stamp, st.text(max_size=20), st.sampled_from(STREAMS), st.integers(-1, 2**48), TIMES, TIMES
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def blocks(draw: st.DrawFn) -> FeatureBlock:
    steps, dim = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    times = np.sort(draw(hnp.arrays(np.int64, (steps,), elements=TIMES)))
    return FeatureBlock(
        draw(STAMPS), draw(st.text(max_size=12)), draw(TIMES), times,
        draw(hnp.arrays(np.float32, (steps, dim), elements=FLOATS)),
    )  # fmt: skip


WORD = st.builds(
    lambda text, times, *rest: Word(text, *sorted(times), *rest),
    st.text(max_size=9), st.tuples(TIMES, TIMES), st.floats(0, 1), st.booleans(),
)  # fmt: skip
UNHEARD = st.builds(
    lambda times, reason: Unheard(*sorted(times), reason), st.tuples(TIMES, TIMES), st.text(max_size=9)
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    blocks(),
    st.builds(
        Words, STAMPS, st.text(max_size=12), st.lists(WORD, max_size=4).map(tuple), TIMES,
        st.lists(UNHEARD, max_size=2).map(tuple),
    ),
    st.builds(Pcm, STAMPS, st.integers(1, 192_000), hnp.arrays(np.int16, st.integers(0, 50))),
    st.builds(
        Status, STAMPS, st.sampled_from(["starting", "ready", "running", "degraded", "absent", "ended"]),
        st.none() | st.text(max_size=12), st.text(max_size=30), st.integers(0, 2**40), st.integers(0, 2**40),
    ),
)  # fmt: skip


def block(**changes: object) -> list[bytes]:
    """The frames of a good block whose header was tampered with."""
    stamp = Stamp("s", "vision", 7, 10, 12)
    frames = encode(FeatureBlock(stamp, "spec", 9, np.arange(2), np.ones((2, 3), np.float32)))
    header = msgspec.msgpack.decode(frames[0]) | changes
    return [msgspec.msgpack.encode(header), *frames[1:]]


@given(MESSAGES)
def test_every_message_survives_the_wire_and_the_recording_bit_for_bit(message: Message) -> None:
    frames = encode(message)
    again = decode(unpack(pack(frames)))
    assert type(again) is type(message)
    assert again.stamp == message.stamp
    assert encode(again) == frames
    if isinstance(message, (Words, Status)):
        assert again == message


def test_words_of_a_recording_from_before_unheard_stretches_were_told_are_read() -> None:
    whole = Words(Stamp("s", "text", 0, 0, 0), "h", (), 5)
    (frame,) = encode(whole)
    assert "unheard" not in msgspec.msgpack.decode(frame)  # and an older reader understands most that is said
    assert decode([frame]) == whole


@given(blocks())
def test_a_block_comes_back_with_its_own_types_and_shapes(message: FeatureBlock) -> None:
    again = decode(encode(message))
    assert isinstance(again, FeatureBlock)
    assert again.times_ns.dtype == np.dtype(np.int64) and again.values.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(again.times_ns, message.times_ns)
    np.testing.assert_array_equal(again.values, message.values)


def test_arrays_that_are_not_contiguous_are_sent_as_they_read() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    times = np.arange(10, dtype=np.int64)[::5]
    again = decode(encode(FeatureBlock(Stamp("s", "audio", 0, 0, 0), "h", 0, times, values)))
    assert isinstance(again, FeatureBlock)
    assert again.values.tolist() == [[0, 3], [12, 15]] and again.times_ns.tolist() == [0, 5]


SOUND = Pcm(Stamp("s", "audio", 0, 0, 0), 8000, np.zeros(1, np.int16))
BROKEN = {
    "no frames": [],
    "an empty header": [b""],
    "a header that is no map": [msgspec.msgpack.encode([1, 2])],
    "an unknown type": [msgspec.msgpack.encode({"type": "pickle"})],
    "an unknown field": block(evil=1),
    "a missing field": [msgspec.msgpack.encode({"type": "features", "spec": "h"})],
    "an unknown stream": block(stamp=["s", "smell", 1, 2, 3]),
    "a float for a time": block(t_ready_ns=1.5),
    "a text for a size": block(steps="2"),
    "more steps than sent": block(steps=3),
    "fewer columns than sent": block(dim=2),
    "negative steps": block(steps=-1),
    "negative sizes whose product fits": block(steps=-2, dim=-3),
    "no steps": [*block(steps=0)[:1], b"", b""],
    "no columns": [*block(dim=0)[:2], b""],
    "a size beyond every memory": block(steps=2**62, dim=2**62),
    "a product that overflows": block(steps=2**32, dim=2**32),
    "a buffer over the limit": [block(steps=MAX_BUFFER_BYTES // 8 + 1, dim=1)[0], b"", b""],
    "a cut buffer": [*block()[:2], block()[2][:-1]],
    "no buffers": block()[:1],
    "a buffer too many": [*block(), b""],
    "buffers of words": [*encode(Words(Stamp("s", "text", 0, 0, 0), "h", (), 0)), b"x"],
    "sound at 0 Hz": encode(Pcm(SOUND.stamp, 0, SOUND.samples)),
    "half a sample of sound": [encode(SOUND)[0], b"x"],
    "text that is not UTF-8": [b"\x82\xa4type\xa5words\xa4spec\xa2\xff\xfe"],
    "nesting without end": [b"\x91" * 100_000],
    "a pickle": [b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."],
}  # fmt: skip


@pytest.mark.parametrize("frames", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(CorruptMessage) as error:
        decode(frames)
    assert "\n" not in str(error.value)


def test_thousands_of_damaged_messages_never_raise_anything_else() -> None:
    rng = random.Random(5)
    stamp = Stamp("session", "text", 3, 4, 5)
    seeds = [
        block(),
        encode(Words(stamp, "h", (Word("so", 1, 2), Word("sad", 2, 3, 0.5, False)), 9)),
        encode(Pcm(stamp, 16_000, np.arange(8, dtype=np.int16))),
        encode(Status(stamp, "degraded", "no_face", "nobody is there", 3, 4)),
    ]
    refused = 0
    for _ in range(6000):
        data = bytearray(pack(rng.choice(seeds)))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data)) if data else 0
            match rng.randrange(4):
                case 0 if data:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place:]
                case 2:
                    data[place:place] = rng.randbytes(rng.randint(1, 9))
                case _:
                    del data[place : place + rng.randint(1, 9)]
        try:
            decode(unpack(bytes(data)))
        except CorruptMessage:
            refused += 1
    assert refused > 3000


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=400)
def test_random_bytes_are_no_message(packed: bytes, frames: list[bytes]) -> None:
    with pytest.raises(CorruptMessage):
        decode(frames)
    with pytest.raises(CorruptMessage):
        decode(unpack(packed))


STAMP = Stamp("s", "audio", 0, 0, 0)


def made(times: list[int], values: list[float]) -> FeatureBlock:
    return FeatureBlock(STAMP, "a", 0, np.array(times), np.array([values] * len(times), np.float32))


@pytest.mark.parametrize(
    "message",
    [
        made([0], [1.0, float("nan")]),
        made([0], [float("-inf")]),
        made([5, 4], [1.0]),
        made([LATEST_NS], [1.0]),
        made([-(2**63)], [1.0]),
        Status(Stamp("s", "audio", 0, LATEST_NS, 0), "ready"),
        Pcm(Stamp("s", "audio", 0, 0, -LATEST_NS), 16_000, np.zeros(4, np.int16)),
        Status(STAMP, "ready", dropped=-1),
        Status(STAMP, "ready", produced=2**63),
        Status(Stamp("s", "audio", 2**62, 0, 0), "ready"),
        Words(STAMP, "t", (), LATEST_NS),
        Words(STAMP, "t", (Word("a", 3, 2),), 9),
        Words(STAMP, "t", (), 9, (Unheard(3, 2, "eased"),)),
        Words(STAMP, "t", (), 9, (Unheard(3, LATEST_NS, "eased"),)),
        Words(STAMP, "t", (Word("a", 2, 3, float("nan")),), 9),
        Words(STAMP, "t", (Word("a", 2, 3, 1.5),), 9),
    ],
)
def test_what_is_no_number_no_time_no_count_or_not_in_order_is_no_message(message: Message) -> None:
    with pytest.raises(CorruptMessage):
        decode(encode(message))
