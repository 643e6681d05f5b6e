"""The message of a window: absent senses have reasons, nothing is invented, segments sum to the total."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from capture.clock import WallAnchor
from capture.features import audio, text, vision
from capture.features.spec import FeatureSpec, InputSpec
from capture.messages import FeatureBlock, Stamp
from models.gd_unit import EDGE_ORDER as TRAINED_ORDER
from runtime import compose as composing
from runtime.compose import Timing, compose
from runtime.engine import Prediction
from runtime.network import Manifest, Network
from runtime.stream import Emotion, Latency, Model
from runtime.windows import SenseWindow, Window

SPEC = FeatureSpec(
    InputSpec(text.SPEC, 8, 48, 384),
    InputSpec(audio.SPEC, 4, 200, audio.SPEC.dim),
    InputSpec(vision.SPEC, 4, 120, vision.SPEC.dim),
)
NOTHING = SenseWindow(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), False, 0.0, None, "no_face")
THERE = SenseWindow(np.ones((1, 1), np.float32), np.ones(1, np.float32), True, 1.0, 20_000_000, None)
BLOCK = FeatureBlock(
    Stamp("s", "vision", 0, 990_000_000, 1_005_000_000),
    "",
    995_000_000,
    np.array([990_000_000]),
    np.zeros((1, 59), np.float32),
)
TIMING = Timing(1_030_000_000, 1_040_000_000, 1_041_000_000, paced=True)
EDGES = np.full(6, 1 / 6, np.float32)


def network(**about: object) -> Network:
    settings = {"name": "n", "task": "classification", "labels": ("happy", "sad")} | about
    return Network(Path(), msgspec.convert(settings, Manifest), SPEC, "0" * 12)


def prediction(*scores: float) -> Prediction:
    values = np.array(scores, np.float32)
    return Prediction(values, dict.fromkeys(("text", "audio", "vision"), values), EDGES, EDGES)


def message(
    answer: Prediction | None,
    net: Network,
    *,
    block: FeatureBlock | None = BLOCK,
    timing: Timing = TIMING,
    revises: int | None = None,
    **senses: SenseWindow,
) -> Emotion:
    parts = {"text": NOTHING, "audio": NOTHING, "vision": NOTHING} | senses
    window = Window(0, 1_000_000_000, 1_020_000_000, newest=block, dropped={"vision": 2}, **parts)
    return compose(
        window,
        answer,
        network=net,
        model=Model(name="n", hash="", features="", engine="e", precision="fp32"),
        anchor=WallAnchor(0, 1_800_000_000_000_000_000),
        clock="media",
        session="s",
        seq=4,
        skipped=1,
        timing=timing,
        revises=revises,
    )


def test_nothing_to_go_by_is_an_abstention_without_emotions() -> None:
    made = message(None, network())
    assert made.state == "abstain" and made.emotions is UNSET and made.distillation is UNSET
    assert made.modalities.vision.reason == "no_face" and made.modalities.vision.logits is UNSET


def test_edges_that_nothing_has_trained_are_not_published() -> None:
    whole, ablated = (
        message(prediction(0.2, 0.8), network(distilled=trained), vision=THERE) for trained in (True, False)
    )
    assert whole.distillation is not UNSET and sum(whole.distillation.homo) == pytest.approx(1, abs=1e-3)
    assert ablated.distillation is UNSET and ablated.emotions == whole.emotions


def test_a_missing_sense_is_degraded_and_has_no_logits() -> None:
    made = message(prediction(0.2, 0.8), network(), vision=THERE)
    assert made.state == "degraded"
    assert made.emotions is not UNSET and made.emotions.top == "sad"
    assert made.modalities.vision.logits is not UNSET and made.modalities.audio.logits is UNSET


def test_all_senses_and_a_sure_network_are_ok_and_an_unsure_one_abstains() -> None:
    every = {"text": THERE, "audio": THERE, "vision": THERE}
    assert message(prediction(0.45, 0.55), network(), **every).state == "ok"
    unsure = message(prediction(0.45, 0.55), network(abstain_below=0.6), **every)
    assert unsure.state == "abstain" and unsure.emotions is not UNSET


def test_a_regressing_network_has_a_sentiment_and_no_emotions() -> None:
    made = message(prediction(-1.25), network(task="regression", labels=()), text=THERE)
    assert made.sentiment is not UNSET and made.sentiment.value == -1.25 and made.emotions is UNSET


def test_latency_segments_run_from_the_newest_sample_to_the_publication() -> None:
    latency = message(prediction(1, 0), network(), vision=THERE).latency_ms
    assert (latency.capture, latency.features, latency.window) == (5, 10, 25)
    assert (latency.infer, latency.publish) == (10, 1)
    assert latency.total == pytest.approx(51)


def test_a_session_without_real_time_tells_no_capture_latency() -> None:
    unpaced = msgspec.structs.replace(TIMING, paced=False)
    latency = message(prediction(1, 0), network(), timing=unpaced, vision=THERE).latency_ms
    assert latency.capture is UNSET and latency.total == 11


def timed(stamps: list[int]) -> tuple[FeatureBlock, Timing]:
    """The newest block and the timing of a window, from six instants in the order of its way."""
    captured, ready, sent, infer, inferred, publish = stamps
    stamp = Stamp("s", "vision", 0, captured, sent)
    block = FeatureBlock(stamp, "", ready, np.array([captured]), np.zeros((1, 59), np.float32))
    return block, Timing(infer, inferred, publish, paced=True)


INSTANTS = st.lists(st.integers(0, 2**53), min_size=6, max_size=6)


@given(
    stamps=INSTANTS,
    paced=st.booleans(),
    seen=st.booleans(),
    answer=st.sampled_from([prediction(1, 0), None]),
    revises=st.none() | st.integers(0, 2**31),
)
def test_the_segments_sum_to_the_total_whatever_the_instants(
    stamps: list[int], paced: bool, seen: bool, answer: Prediction | None, revises: int | None
) -> None:
    """In real time and not, revised or first, with an answer or none, in order or, of bad clocks, in none."""
    block, timing = timed(stamps)
    made = message(
        answer,
        network(),
        block=block if seen else None,
        timing=msgspec.structs.replace(timing, paced=paced),
        revises=revises,
        vision=THERE,
    )
    known = segments(made.latency_ms)
    assert len(known) == (5 if paced and seen else 2)
    assert round(sum(known), 3) == made.latency_ms.total


@given(stamps=st.lists(st.integers(0, 3600 * 10**9), min_size=6, max_size=6).map(sorted))
def test_the_total_is_the_time_from_the_newest_sample_to_the_stamp_of_the_message(stamps: list[int]) -> None:
    """Each segment is rounded to a microsecond, so five of them may be off by half as many."""
    block, timing = timed(stamps)
    made = message(prediction(1, 0), network(), block=block, timing=timing, vision=THERE)
    assert made.time.published_ns == stamps[-1]
    assert made.latency_ms.total == pytest.approx((stamps[-1] - stamps[0]) / 1e6, abs=0.0026)
    assert all(segment >= 0 for segment in segments(made.latency_ms))


def segments(latency: Latency) -> list[float]:
    """Those that are there."""
    known = msgspec.structs.asdict(latency)
    del known["total"]
    return [value for value in known.values() if value is not UNSET]


def test_the_published_order_of_edges_is_the_one_that_was_trained() -> None:
    assert composing.EDGE_ORDER == TRAINED_ORDER


def test_a_prediction_that_is_no_number_is_known_as_such() -> None:
    assert prediction(0.5, 0.5).finite and not prediction(float("nan"), 0.5).finite
