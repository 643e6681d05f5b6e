"""The metrics: the authors' numbers, cases worked out by hand, and what must hold for any predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import metrics

CLASSES = 4
classes = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, CLASSES - 1))] * 2)
)
sentiments = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[arrays(np.float64, n, elements=st.floats(-4, 4))] * 2)
)
scored = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, CLASSES), elements=st.floats(0.001, 1)),
        arrays(np.int64, n, elements=st.integers(0, CLASSES - 1)),
    )
)


def test_the_numbers_of_the_authors_come_out_to_their_four_digits(shared: Path) -> None:
    with np.load(shared / "reference" / "metrics.npz") as stored:
        expected = json.loads(str(stored["metrics"]))
        found = metrics.sentiment(stored["pred"], stored["true"])
    ours = {
        "Acc_2": found["Acc-2"], "F1_score": found["F1"], "Acc_7": found["Acc-7"], "MAE": found["MAE"]
    }  # fmt: skip
    assert {name: round(value, 4) for name, value in ours.items()} == expected
    assert round(found["Acc-2 (non-negative)"], 4) != expected["Acc_2"]  # the variants can be told apart


def test_sentiment_is_scored_as_by_hand() -> None:
    truths = np.array([0.0, -1.0, 2.0, 3.0, -0.2])
    predictions = np.array([-0.1, -1.4, -0.5, 5.0, 0.4])
    found = metrics.sentiment(predictions[:, None], truths[:, None])
    assert found["Acc-7"] == pytest.approx(4 / 5)  # 0, -1, 3 and 0 are right; -0.5 rounds to 0, not to 2
    assert found["Acc-5"] == pytest.approx(4 / 5)
    assert found["Acc-2"] == pytest.approx(2 / 4)  # without the truth of 0
    assert found["F1"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)
    assert found["Acc-2 (non-negative)"] == pytest.approx(2 / 5)
    # negative: 1 hit, 3 guessed, 2 true; non-negative: 1 hit, 2 guessed, 3 true
    assert found["F1 (non-negative)"] == pytest.approx(2 / 5 * 2 / 5 + 3 / 5 * 2 / 5)
    assert found["MAE"] == pytest.approx((0.1 + 0.4 + 2.5 + 2.0 + 0.6) / 5)
    assert found["Corr"] == pytest.approx(np.corrcoef(predictions, truths)[0, 1])


def test_zero_is_negative_only_where_it_is_guessed_for_a_signed_truth() -> None:
    found = metrics.sentiment(np.zeros(2), np.array([1.0, 0.0]))
    assert found["Acc-2"] == 0 and found["Acc-2 (non-negative)"] == 1


def test_constant_predictions_correlate_with_nothing() -> None:
    assert metrics.sentiment(np.full(3, 0.3), np.array([1.0, 2, 3]))["Corr"] == 0
    assert metrics.sentiment(np.array([1.0]), np.array([2.0]))["Corr"] == 0


def test_predictions_that_are_no_numbers_give_no_number_instead_of_a_good_one() -> None:
    found = metrics.sentiment(np.array([np.nan, 1.0]), np.array([1.0, 1.0]))
    assert np.isnan(found["MAE"]) and np.isnan(found["Corr"]) and found["Acc-2"] == 0.5


def test_sims_cuts_its_classes_at_its_own_borders() -> None:
    borders = np.array([-0.7, -0.1, 0.0, 0.1, 0.7])
    above = np.nextafter(borders.astype(np.float32), np.float32(1))
    # A border is in the class below it, in float64 and in float32, so each pair differs where a border lies.
    for pair in (borders, borders.astype(np.float32)):
        found = metrics.sims(pair, above)
        assert found["Acc-2"] == pytest.approx(4 / 5)
        assert found["Acc-3"] == pytest.approx(3 / 5)
        assert found["Acc-5"] == pytest.approx(1 / 5)
    far = metrics.sims(np.array([2.0, -7.0]), np.array([1.0, -1.0]))
    assert far["MAE"] == 0 and far["F1"] == 1


def test_classes_are_scored_as_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 2])
    predicted = np.array([0, 0, 1, 1, 3])
    assert metrics.accuracy(predicted, labels) == pytest.approx(3 / 5)
    assert metrics.balanced_accuracy(predicted, labels) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.weighted_f1(predicted, labels) == pytest.approx((3 * 4 / 5 + 1 * 2 / 3 + 0) / 5)
    assert metrics.macro_f1(predicted, labels) == pytest.approx((4 / 5 + 2 / 3 + 0 + 0) / 4)
    expected = [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert metrics.confusion(predicted, labels, 4).tolist() == expected


def test_a_class_beyond_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        metrics.confusion(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="-1"):
        metrics.confusion(np.array([0, 1]), np.array([0, -1]), 3)


def test_calibration_is_the_gap_between_belief_and_hits() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 9 + [1] + [1] * 2 + [0] * 8)
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(0.5 * 0 + 0.5 * 0.4)
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.calibration_error(certain, np.array([0, 1])) == 0
    assert metrics.calibration_error(certain, np.array([1, 0])) == 1


def test_keeping_only_the_certain_trades_coverage_for_accuracy() -> None:
    probabilities = np.array([[0.95, 0.05], [0.7, 0.3], [0.55, 0.45], [0.15, 0.85]])
    rows = metrics.risk_coverage(probabilities, np.array([0, 0, 1, 1]))
    by_threshold = {round(t, 2): (covered, right) for t, covered, right in rows.tolist()}
    assert by_threshold[0.0] == (1.0, 0.75)
    assert by_threshold[0.6] == (0.75, 1.0)
    assert by_threshold[0.7] == (0.75, 1.0)  # at least the threshold
    assert by_threshold[0.9] == (0.25, 1.0)
    nothing = metrics.risk_coverage(np.full((3, 2), 0.5), np.zeros(3, np.int64))
    assert nothing[-1, 1] == 0 and np.isnan(nothing[-1, 2])


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.weighted_f1, metrics.macro_f1])
def test_a_column_beside_a_row_is_refused_instead_of_compared_crosswise(score: Any) -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        score(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        metrics.sentiment(np.zeros(2), np.zeros(3))


def test_nothing_to_score_is_said() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        metrics.sentiment(np.zeros(0), np.zeros(0))


@given(classes)
def test_weighted_f1_agrees_with_precision_and_recall_from_the_confusion(pair: Any) -> None:
    predicted, labels = pair
    table = metrics.confusion(predicted, labels, CLASSES).astype(float)
    total = 0.0
    for one in range(CLASSES):
        hits, guessed, true = table[one, one], table[:, one].sum(), table[one].sum()
        if hits:
            precision, recall = hits / guessed, hits / true
            total += true / table.sum() * 2 * precision * recall / (precision + recall)
    assert metrics.weighted_f1(predicted, labels) == pytest.approx(total)
    assert metrics.accuracy(predicted, labels) == pytest.approx(np.trace(table) / table.sum())


@given(classes, st.permutations(range(CLASSES)), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_what_classes_are_called_or_on_the_order(
    pair: Any, names: list[int], random: Any
) -> None:
    predicted, labels = pair
    order = list(range(len(labels)))
    random.shuffle(order)
    named = np.array(names)
    for score in (metrics.accuracy, metrics.balanced_accuracy, metrics.weighted_f1, metrics.macro_f1):
        value = score(predicted, labels)
        assert 0 <= value <= 1
        assert score(named[predicted][order], named[labels][order]) == pytest.approx(value)
        assert score(labels, labels) == pytest.approx(1)


@given(sentiments)
def test_sentiment_keeps_its_ranges_and_a_perfect_prediction_is_perfect(pair: Any) -> None:
    predictions, truths = pair
    for score in (metrics.sentiment, metrics.sims):
        found = score(predictions, truths)
        assert all(0 <= value <= 1 for name, value in found.items() if name.startswith(("Acc", "F1")))
        assert found["MAE"] >= 0 and -1 <= found["Corr"] <= 1
        perfect = score(truths, truths)
        assert perfect["MAE"] == 0
        varied = np.ptp(np.clip(truths, -1, 1) if score is metrics.sims else truths) > 0
        assert perfect["Corr"] == pytest.approx(1 if varied else 0)
    assert metrics.sentiment(truths, truths)["Acc-7"] == 1
    assert metrics.sentiment(predictions, truths)["Acc-5"] >= metrics.sentiment(predictions, truths)["Acc-7"]


@given(scored)
def test_calibration_and_coverage_stay_within_their_bounds(pair: Any) -> None:
    raw, labels = pair
    probabilities = raw / raw.sum(1, keepdims=True)
    found = metrics.classification(probabilities, labels)
    assert all(0 <= value <= 1 for value in found.values())
    # One bin: the gap of the means. More bins can only show more of it.
    whole = abs(probabilities.max(1).mean() - found["accuracy"])
    assert metrics.calibration_error(probabilities, labels, bins=1) == pytest.approx(whole)
    assert found["ECE"] >= whole - 1e-9
    rows = metrics.risk_coverage(probabilities, labels)
    assert rows[0].tolist() == pytest.approx([0, 1, found["accuracy"]])
    assert (np.diff(rows[:, 1]) <= 0).all()
