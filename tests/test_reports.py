"""The reports: classification report and evaluation."""

import re

import numpy as np
import pytest

import fmnist_utils as fmnist

pytestmark = pytest.mark.filterwarnings("error")
SURE = np.eye(10)  # probabilities of one image of each class


def test_report_names_all_classes_and_leaves_out_what_is_not_defined():
    report = fmnist.classification_report([0, 0, 9, 9], [0, 2, 9, 9])
    assert re.findall(r"^ *([A-Z].+?) {2}", report, flags=re.MULTILINE) == [*fmnist.CLASS_NAMES]
    assert re.search(r"macro avg +0\.667 +0\.750 +0\.556 +4\n", report)


def test_accuracy_with_its_wilson_interval_and_by_class():
    y_true = np.repeat([1, 3], [100, 163])
    found = fmnist.evaluate(y_true, SURE[np.where(np.arange(263) < 81, y_true, 2)])
    assert found.accuracy == pytest.approx(81 / 263)
    # Newcombe, Statistics in Medicine 17 (1998), table I, score method
    assert found.accuracy_ci95 == pytest.approx((0.2553, 0.3662), abs=5e-5)
    by_class = dict.fromkeys(fmnist.CLASS_NAMES) | {"Trouser": 0.81, "Dress": 0.0}
    assert [*found.per_class_accuracy.items()] == [*by_class.items()]


def test_loss_is_the_mean_negative_log_probability_in_spite_of_rounding():
    rng = np.random.default_rng(1)
    probabilities, y_true = rng.dirichlet(np.ones(10), 200), rng.integers(0, 10, 200)
    expected = pytest.approx(-np.log(probabilities[np.arange(200), y_true]).mean(), rel=1e-3)
    for rounded in (probabilities * (1 - 9e-4), probabilities.astype(np.float16)):
        assert fmnist.evaluate(y_true, rounded).loss == expected


def test_calibration_error_is_that_of_its_bins():
    confidence = np.repeat([0.6, 0.9, 0.95, 1.0], [30, 10, 20, 20])
    wrong = np.repeat([0, 1, 0, 1], [30, 10, 39, 1])
    probabilities = np.column_stack([confidence, *[(1 - confidence) / 9] * 9])
    # The first two do not cancel each other, but the others do in one bin, which is the last.
    expected = (30 * 0.4 + 10 * 0.9 + 0) / 80
    assert fmnist.evaluate(wrong, probabilities).ece == pytest.approx(expected)


@pytest.mark.parametrize(
    ("y_true", "probabilities", "message"),
    [
        ([0, 1], SURE[:1], r"probabilities must have the shape \(2, 10\); it is \(1, 10\)"),
        ([10], SURE[:1], r"y_true must be whole numbers from 0 to 9; it is \[10\]"),
        ([0], [[np.nan] * 10], "NaN means a diverged training"),
        ([0], [[3.0, -2.0] + [0.0] * 8], "must be non-negative"),
        ([0], (1 - 1.1e-3) * SURE[:1], "sum to 1"),
    ],
)
def test_bad_input_is_refused(y_true, probabilities, message):
    with pytest.raises(ValueError, match=message):
        fmnist.evaluate(y_true, probabilities)
