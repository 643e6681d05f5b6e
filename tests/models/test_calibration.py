"""Temperatures, and the threshold of abstaining."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import calibration


def test_a_temperature_takes_back_what_was_too_sure() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 7)
    labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
    assert calibration.temperature(3 * logits, labels) == pytest.approx(3, rel=0.15)


def test_the_threshold_is_where_answers_begin_to_be_right_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.2, 1, 20_000)
    right = rng.random(20_000) < top  # perfectly calibrated
    probabilities = np.stack([top, 1 - top - 1e-3, np.full_like(top, 1e-3)], 1)
    probabilities[probabilities[:, 0] < probabilities[:, 1], 1] = 0
    labels = np.where(right, 0, 2)
    assert calibration.abstain_threshold(probabilities, labels, 0.5) == pytest.approx(0.5, abs=0.05)


def test_pooling_makes_a_sequence_that_never_falls_and_keeps_its_mean() -> None:
    values = np.random.default_rng(0).normal(np.linspace(0, 1, 200), 0.5)
    fitted = calibration.isotonic(values)
    assert (np.diff(fitted) >= 0).all()
    assert fitted.mean() == pytest.approx(values.mean())
