"""The reports: classification report, confused pairs, evaluation, McNemar's test, settings."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

import fmnist_utils as fmnist


@pytest.fixture
def labels():
    """Return true and predicted labels, of which about a third differ."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 10, 500)
    return y_true, np.where(rng.random(500) < 0.35, rng.integers(0, 10, 500), y_true)


def rows(report):
    """Return the figures of a classification report by row name."""
    lines = [line.split("  ") for line in report.splitlines() if line.strip()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {line[0]: line[1:] for line in cells[1:]}


def test_class_names_in_the_order_of_the_labels():
    assert fmnist.CLASS_NAMES == (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


def test_report_has_the_figures_of_scikit_learn_by_name(labels):
    found = rows(fmnist.classification_report(*labels))
    expected = metrics.classification_report(*labels, output_dict=True)
    for label, name in enumerate(fmnist.CLASS_NAMES):
        figures = expected[str(label)]
        for column, key in enumerate(("precision", "recall", "f1-score")):
            assert found[name][column] == f"{figures[key]:.3f}"
        assert found[name][3] == f"{figures['support']:.0f}"
    assert found["accuracy"][0] == f"{expected['accuracy']:.3f}"


def test_report_is_right_when_classes_are_absent():
    y_true, y_pred = [0, 0, 9, 9], [0, 9, 9, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rows(fmnist.classification_report(y_true, y_pred))
    assert found["T-shirt/top"] == ["1.000", "0.500", "0.667", "2"]
    assert found["Ankle boot"] == ["0.667", "1.000", "0.800", "2"]
    assert found["Coat"] == ["nan", "nan", "nan", "0"]
    present_only = metrics.classification_report(y_true, y_pred, output_dict=True)
    for average in ("macro avg", "weighted avg"):
        *figures, support = present_only[average].values()
        assert found[average] == [*(f"{figure:.3f}" for figure in figures), f"{support:.0f}"]


def test_report_of_a_class_that_is_predicted_but_absent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rows(fmnist.classification_report([0, 0], [0, 2]))
    assert found["Pullover"] == ["0.000", "nan", "0.000", "0"]


def test_most_confused_pairs_come_first_and_ties_in_class_order():
    y_true = [6, 6, 6, 2, 2, 0, 4, 1]
    y_pred = [0, 0, 0, 4, 4, 6, 2, 1]
    assert fmnist.most_confused(y_true, y_pred) == [
        ("Shirt", "T-shirt/top", 3),
        ("Pullover", "Coat", 2),
        ("T-shirt/top", "Shirt", 1),
        ("Coat", "Pullover", 1),
    ]


def test_nothing_is_confused_when_all_is_right():
    assert fmnist.most_confused([3, 1], [3, 1]) == []


def test_the_confused_pairs_are_all_the_mistakes(labels):
    y_true, y_pred = labels
    assert sum(pair.count for pair in fmnist.most_confused(*labels)) == (y_true != y_pred).sum()


def certain(y_pred):
    return np.eye(10)[y_pred]


def test_accuracy_and_its_wilson_interval():
    y_true = np.zeros(263, int)
    y_pred = np.where(np.arange(263) < 81, 0, 1)
    evaluation = fmnist.evaluate(y_true, certain(y_pred))
    assert evaluation.accuracy == pytest.approx(81 / 263)
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, score method.
    assert evaluation.accuracy_ci95 == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("right", "of"), [(0, 20), (20, 20), (81, 263), (9_421, 10_000)])
def test_wilson_interval_is_that_of_the_formula(right, of):
    share, z = right / of, norm.ppf(0.975)
    centre = share + z**2 / (2 * of)
    half_width = z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    expected = np.array([centre - half_width, centre + half_width]) / (1 + z**2 / of)
    evaluation = fmnist.evaluate(np.zeros(of, int), certain((np.arange(of) >= right).astype(int)))
    assert evaluation.accuracy_ci95 == pytest.approx(expected, abs=1e-12)


def test_loss_is_the_mean_negative_log_probability():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(10), 200)
    y_true = rng.integers(0, 10, 200)
    expected = -np.log(probabilities[np.arange(200), y_true]).mean()
    assert fmnist.evaluate(y_true, probabilities).loss == pytest.approx(expected)


def test_loss_is_finite_when_the_true_class_was_ruled_out():
    # scikit-learn takes a probability of 0 for the machine epsilon.
    expected = -np.log(np.finfo(np.float64).eps)
    assert fmnist.evaluate([0], certain([1])).loss == pytest.approx(expected)


def with_confidence(confidence, count):
    probabilities = np.full((count, 10), (1 - confidence) / 9)
    probabilities[:, 0] = confidence
    return probabilities


@pytest.mark.parametrize(
    ("confidence", "right", "expected"), [(0.8, 8, 0.0), (1.0, 5, 0.5), (0.5, 10, 0.5)]
)
def test_calibration_error_of_one_bin(confidence, right, expected):
    y_true = [0] * right + [1] * (10 - right)
    evaluation = fmnist.evaluate(y_true, with_confidence(confidence, 10))
    assert evaluation.ece == pytest.approx(expected)


def test_calibration_errors_of_bins_are_weighted_and_do_not_cancel():
    probabilities = np.concatenate([with_confidence(0.6, 30), with_confidence(0.9, 10)])
    y_true = [0] * 30 + [1] * 10  # 0.6 sure and always right, 0.9 sure and always wrong
    assert fmnist.evaluate(y_true, probabilities).ece == pytest.approx(0.75 * 0.4 + 0.25 * 0.9)


def test_a_confidence_of_one_falls_in_the_last_bin():
    probabilities = np.concatenate([with_confidence(0.95, 20), with_confidence(1.0, 20)])
    y_true = [0] * 39 + [1]  # errors of +0.05 * 20 and -1, which cancel in one bin only
    assert fmnist.evaluate(y_true, probabilities).ece == pytest.approx(0)


def test_accuracy_per_class_and_of_an_absent_one():
    per_class = fmnist.evaluate([0, 0, 1], certain([0, 1, 1])).per_class_accuracy
    assert list(per_class) == list(fmnist.CLASS_NAMES)
    assert (per_class["T-shirt/top"], per_class["Trouser"], per_class["Bag"]) == (0.5, 1.0, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rounding_of_short_floats_is_accepted(dtype):
    probabilities = np.random.default_rng(2).dirichlet(np.ones(10), 50)
    rounded = probabilities.astype(dtype)
    assert np.abs(rounded.astype(float).sum(axis=1) - 1).max() > 0
    y_true = probabilities.argmax(axis=1)
    expected = fmnist.evaluate(y_true, probabilities)
    assert fmnist.evaluate(y_true, rounded).loss == pytest.approx(expected.loss, rel=1e-3)


@pytest.mark.parametrize("total", [1 - 9e-4, 1 + 9e-4])
def test_rows_that_miss_one_by_rounding_are_normalised(total):
    probabilities = np.random.default_rng(3).dirichlet(np.ones(10), 50)
    y_true = np.arange(50) % 10
    expected = fmnist.evaluate(y_true, probabilities).loss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fmnist.evaluate(y_true, total * probabilities).loss == pytest.approx(expected)


@pytest.mark.parametrize("total", [1 - 1.1e-3, 1 + 1.1e-3])
def test_rows_that_miss_one_by_more_are_refused(total):
    with pytest.raises(ValueError, match=f"row 0 sums to {total:.6g}"):
        fmnist.evaluate([0], total * certain([0]))


@pytest.mark.parametrize(
    ("y_true", "probabilities", "message"),
    [
        ([0, 1], certain([0]), "y_true has 2, probabilities has 1"),
        ([], certain([0]), "y_true is empty"),
        ([0], np.empty((0, 10)), "probabilities is empty"),
        ([10], certain([0]), "10 is among them"),
        ([0], [[np.nan] * 10], "Did the training diverge"),
        ([0], [[3.0, -2.0] + [0.0] * 8], "must be non-negative"),
        ([0], [[5.0] + [0.0] * 9], "Logits go through softmax first"),
        ([0], [0.1] * 10, "a row per image"),
    ],
)
def test_evaluate_refuses_bad_input(y_true, probabilities, message):
    with pytest.raises(ValueError, match=message):
        fmnist.evaluate(np.array(y_true, int), probabilities)


@pytest.mark.parametrize("report", [fmnist.classification_report, fmnist.most_confused])
@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([0, 1], [0], "y_true has 2, y_pred has 1"),
        ([], [], "y_true is empty"),
        ([0], [-1], "y_pred must lie between 0 and 9; -1"),
        ([0], [0.5], "y_pred must be whole numbers"),
        ([[0]], [0], "y_true must have one dimension"),
    ],
)
def test_reports_refuse_bad_input(report, y_true, y_pred, message):
    y_true = np.array(y_true, int)
    y_pred = np.array(y_pred) if y_pred else np.array([], int)
    with pytest.raises(ValueError, match=message):
        report(y_true, y_pred)


def test_mcnemar_agrees_with_scipy_and_statsmodels(labels):
    y_true, first = labels
    second = np.roll(first, 1)
    second[::2] = y_true[::2]
    result = fmnist.mcnemar(y_true, first, second)
    right = np.stack([first == y_true, second == y_true])
    table = [[(right[0] == a) & (right[1] == b) for b in (True, False)] for a in (True, False)]
    table = np.sum(table, axis=2)
    assert (result.only_first_right, result.only_second_right) == (table[0, 1], table[1, 0])
    assert result.p_value == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert result.p_value == pytest.approx(
        binomtest(int(table[0, 1]), int(table[0, 1] + table[1, 0])).pvalue
    )


def test_mcnemar_of_the_same_predictions(labels):
    assert fmnist.mcnemar(*labels, labels[1]) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0], [0, 1], "One entry per image is needed in each"),
        ([0, 1], [0], "One entry per image is needed in each"),
        ([0, 10], [0, 1], "must lie between 0 and 9; 10"),
        ([0, 1], [0, -1], "second must lie between 0 and 9; -1"),
        ([0, 1], [0.0, 1.0], "second must be whole numbers"),
        ([0, 1], [[0, 1]], "second must have one dimension"),
    ],
)
def test_mcnemar_refuses_bad_input(first, second, message):
    with pytest.raises(ValueError, match=message):
        fmnist.mcnemar([0, 1], first, second)


def test_epoch_line_names_every_figure():
    history = {
        "loss": [1.0, 0.12345],
        "accuracy": [0.5, 0.9],
        "val_loss": [1.0, 0.2],
        "val_accuracy": [0.5, 0.91],
        "learning_rate": [0.1, 0.05],
        "seconds": [1.0, 2.34],
    }
    assert fmnist.epoch_line(history, 10) == (
        "epoch  2/10 | loss 0.1235 | accuracy 90.00% | val_loss 0.2000 | val_accuracy 91.00% "
        "| rate 0.0500 | 2.3 s"
    )


@pytest.mark.parametrize(
    ("text", "expected"), [(None, 7), ("", 7), ("  ", 7), (" 3 ", 3), ("1", 1)]
)
def test_a_setting_from_the_environment(monkeypatch, text, expected):
    monkeypatch.delenv("FMNIST_EPOCHS", raising=False)
    if text is not None:
        monkeypatch.setenv("FMNIST_EPOCHS", text)
    assert fmnist.environment_integer("FMNIST_EPOCHS", 7, minimum=1) == expected


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1e3", "²"])
def test_a_wrong_setting_is_named(monkeypatch, text):
    monkeypatch.setenv("FMNIST_EPOCHS", text)
    with pytest.raises(ValueError, match=f"FMNIST_EPOCHS must be .* at least 1; it is '{text}'"):
        fmnist.environment_integer("FMNIST_EPOCHS", 7, minimum=1)


def test_stderr_is_silenced_and_comes_back(capfd):
    with pytest.raises(KeyError), fmnist.native_stderr_silenced():
        os.write(2, b"chatter of compiled code")
        raise KeyError
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_an_unfinished_line_is_silenced_too(repository):
    code = (
        "import sys, fmnist_utils\n"
        "with fmnist_utils.native_stderr_silenced():\n"
        "    sys.stderr.write('no newline')"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stderr == ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags : fpu avx512_bf16", True), ("flags : amx_bf16", True), ("flags : avx512f", False)],
)
def test_bfloat16_is_read_from_the_processor_flags(monkeypatch, flags, expected):
    monkeypatch.setattr(Path, "read_text", lambda _: flags)
    assert fmnist.cpu_has_bfloat16() is expected


def test_without_processor_flags_there_is_no_bfloat16(monkeypatch):
    def missing(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert fmnist.cpu_has_bfloat16() is False
