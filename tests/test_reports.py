"""The reports: classification report, confused pairs, evaluation."""

import re
import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics

import fmnist_utils as fmnist


@pytest.fixture
def labels():
    """Return true and predicted labels, of which about a third differ."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 10, 500)
    return y_true, np.where(rng.random(500) < 0.35, rng.integers(0, 10, 500), y_true)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rows(report):
    """Return the figures of a classification report by row name."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in report.splitlines()[1:]]
    return {name: figures for name, *figures in cells if name}


def test_class_names_in_the_order_of_the_labels():
    names = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    assert ", ".join(fmnist.CLASS_NAMES) == names


def test_report_has_the_figures_of_scikit_learn_by_name(labels):
    found = rows(fmnist.classification_report(*labels))
    expected = metrics.classification_report(*labels, output_dict=True)
    for label, name in enumerate(fmnist.CLASS_NAMES):
        figures = [expected[str(label)][key] for key in ("precision", "recall", "f1-score")]
        support = f"{expected[str(label)]['support']:.0f}"
        assert found[name] == [*(f"{figure:.3f}" for figure in figures), support]
    assert found["accuracy"][0] == f"{expected['accuracy']:.3f}"


def test_report_is_right_when_classes_are_absent():
    y_true, y_pred = [0, 0, 9, 9], [0, 2, 9, 9]
    found = rows(fmnist.classification_report(y_true, y_pred))
    assert found["T-shirt/top"] == ["1.000", "0.500", "0.667", "2"]
    assert found["Pullover"] == ["0.000", "nan", "0.000", "0"]
    assert found["Coat"] == ["nan", "nan", "nan", "0"]
    assert found["macro avg"] == ["0.667", "0.750", "0.556", "4"], "nan is left out"


def test_most_confused_pairs_come_first_and_ties_in_class_order():
    y_true = [4, 6, 6, 6, 2, 2, 0, 1]
    y_pred = [2, 0, 0, 0, 4, 4, 6, 1]
    assert fmnist.most_confused(y_true, y_pred) == [
        ("Shirt", "T-shirt/top", 3),
        ("Pullover", "Coat", 2),
        ("T-shirt/top", "Shirt", 1),
        ("Coat", "Pullover", 1),
    ]
    assert fmnist.most_confused([3, 1], [3, 1]) == []


def certain(y_pred):
    return np.eye(10)[y_pred]


def with_confidence(confidence, count):
    probabilities = np.full((count, 10), (1 - confidence) / 9)
    probabilities[:, 0] = confidence
    return probabilities


@pytest.mark.parametrize(("right", "of"), [(0, 20), (20, 20), (81, 263), (9_421, 10_000)])
def test_accuracy_and_its_wilson_interval(right, of):
    share, z = right / of, norm.ppf(0.975)
    centre = share + z**2 / (2 * of)
    half_width = z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    expected = np.array([centre - half_width, centre + half_width]) / (1 + z**2 / of)
    if of == 263:  # Newcombe, Statistics in Medicine 17 (1998), table I, score method
        assert expected == pytest.approx((0.2553, 0.3662), abs=5e-5)
    evaluation = fmnist.evaluate(np.zeros(of, int), certain((np.arange(of) >= right).astype(int)))
    assert evaluation.accuracy == pytest.approx(share)
    assert evaluation.accuracy_ci95 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("total", [1, 1 - 9e-4, 1 + 9e-4])
def test_loss_is_the_mean_negative_log_probability(total):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(10), 200)
    y_true = rng.integers(0, 10, 200)
    expected = -np.log(probabilities[np.arange(200), y_true]).mean()
    assert fmnist.evaluate(y_true, total * probabilities).loss == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        ([(0.8, 8, 10)], 0),
        ([(1.0, 5, 10)], 0.5),
        ([(0.6, 30, 30), (0.9, 0, 10)], 0.75 * 0.4 + 0.25 * 0.9),  # they do not cancel
        ([(0.95, 20, 20), (1.0, 19, 20)], 0),  # but they do in one bin, which is the last
    ],
)
def test_calibration_error_is_that_of_its_bins(bins, expected):
    probabilities = np.concatenate([with_confidence(sure, count) for sure, _, count in bins])
    y_true = np.concatenate([np.arange(count) >= right for _, right, count in bins]).astype(int)
    assert fmnist.evaluate(y_true, probabilities).ece == pytest.approx(expected)


def test_accuracy_per_class_and_of_an_absent_one():
    per_class = fmnist.evaluate([0, 0, 1], certain([0, 1, 1])).per_class_accuracy
    assert list(per_class) == list(fmnist.CLASS_NAMES)
    assert (per_class["T-shirt/top"], per_class["Trouser"], per_class["Bag"]) == (0.5, 1.0, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rounding_of_short_floats_is_accepted(dtype):
    probabilities = np.random.default_rng(2).dirichlet(np.ones(10), 50)
    y_true = probabilities.argmax(axis=1)
    found = fmnist.evaluate(y_true, probabilities.astype(dtype)).loss
    assert found == pytest.approx(fmnist.evaluate(y_true, probabilities).loss, rel=1e-3)


@pytest.mark.parametrize(
    ("y_true", "probabilities", "message"),
    [
        ([0, 1], certain([0]), "y_true has 2, probabilities has 1"),
        ([], certain([0]), r"y_true must have the shape \(N\); it is \(0,\)"),
        ([[0]], certain([0]), r"y_true must have the shape \(N\); it is \(1, 1\)"),
        ([10], certain([0]), r"y_true must be whole numbers from 0 to 9; it is \[10\]"),
        ([-1], certain([0]), "y_true must be whole numbers from 0 to 9"),
        ([0.5], certain([0]), "y_true must be whole numbers from 0 to 9"),
        ([0], np.empty((0, 10)), r"probabilities must have the shape \(N, 10\); it is \(0, 10\)"),
        ([0], [0.1] * 10, r"probabilities must have the shape \(N, 10\); it is \(10,\)"),
        ([0], [[np.nan] * 10], "NaN means that the training diverged"),
        ([0], [[3.0, -2.0] + [0.0] * 8], "must be non-negative"),
        ([0], [[5.0] + [0.0] * 9], "sum to 1, as softmax makes it"),
        ([0], (1 - 1.1e-3) * certain([0]), "sum to 1"),
    ],
)
def test_bad_input_is_refused(y_true, probabilities, message):
    with pytest.raises(ValueError, match=message):
        fmnist.evaluate(y_true, probabilities)
