"""The figures, read off their axes; and what the plotting functions refuse."""

import base64
import copy
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

import fmnist_utils as fmnist

COUNT = 60
HISTORY = {
    "loss": [0.9, 0.6, 0.5],
    "accuracy": [0.7, 0.8, 0.85],
    "val_loss": [0.7, 0.55, 0.52],
    "val_accuracy": [0.75, 0.81, 0.82],
}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)


@pytest.fixture
def y_true():
    return np.arange(COUNT) % 10


@pytest.fixture
def y_pred(y_true):
    """Return predictions of which a third are wrong."""
    y_pred = y_true.copy()
    y_pred[::3] = (y_pred[::3] + 6) % 10
    return y_pred


@pytest.fixture
def probabilities(y_pred):
    """Return probabilities whose largest is that of `y_pred`, surer and surer along the rows."""
    confidence = np.linspace(0.3, 0.99, COUNT)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(COUNT), y_pred] = confidence
    return probabilities


@pytest.fixture
def figures(images, y_true, y_pred, probabilities):
    """Return every kind of figure."""
    kernels = np.linspace(-1, 1, 16 * 9).reshape(16, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            "samples": fmnist.plot_samples(images, y_true),
            "history": fmnist.plot_history(HISTORY),
            "confusion matrix": fmnist.plot_confusion_matrix(y_true, y_pred),
            "mistakes": fmnist.plot_mistakes(images, y_true, probabilities),
            "network": fmnist.plot_network([("image", (1, 28, 28)), ("Linear", (10,))]),
            "learning rate": fmnist.plot_learning_rate([0, 1, 2], [0.0, 0.1, 0.0]),
            "filters": fmnist.plot_filters(kernels, images[0], np.repeat(images[:1], 16, axis=0)),
            "class accuracy": fmnist.plot_class_accuracy(y_true, y_pred),
            "reliability": fmnist.plot_reliability(y_true, probabilities),
            "confused pairs": fmnist.plot_confused_pairs(images, y_true, y_pred),
        }


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


# What is true of all figures


def test_every_figure_has_a_title_and_text_of_at_least_nine_points(figures):
    for name, figure in figures.items():
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= 9, name
        assert titles(figure) or figure.get_suptitle(), name


def test_a_gallery_has_a_title_of_its_own(figures):
    for name in ("samples", "mistakes"):
        assert figures[name].get_suptitle(), name


def test_axes_with_data_have_named_axes(figures):
    for name in ("history", "learning rate", "confusion matrix"):
        for axes in figures[name].axes[:2]:
            assert axes.get_ylabel(), name
    for name in ("history", "learning rate", "class accuracy"):
        assert all(axes.get_xlabel() for axes in figures[name].axes), name


def test_no_figure_is_left_in_pyplot_or_warns(figures):
    assert plt.get_fignums() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures.values():
            figure.draw_without_rendering()


def test_no_plot_changes_its_input(images, y_true, y_pred, probabilities, request):
    given = (HISTORY, images, y_true, y_pred, probabilities)
    before = copy.deepcopy(given)
    request.getfixturevalue("figures")
    for old, new in zip(before, given, strict=True):
        np.testing.assert_equal(new, old)


# One by one


def test_samples_are_titled_with_their_classes(images, y_true):
    figure = fmnist.plot_samples(images, y_true, count=12)
    assert titles(figure) == [fmnist.CLASS_NAMES[label] for label in y_true[:12]]
    assert np.array_equal(drawn_images(figure), images[:12])
    assert not any(axes.axison for axes in figure.axes)


@pytest.mark.parametrize("scale", [(1, 0), (1 / 255, 0), (1 / 127.5, -1)])
def test_the_smallest_grey_value_is_black_whatever_the_range(images, y_true, scale):
    factor, offset = scale
    [picture] = fmnist.plot_samples(factor * images + offset, y_true, count=1).axes[0].images
    colours = picture.to_rgba(picture.get_array()).reshape(-1, 4)
    assert colours[images[0].argmin()].tolist() == [0, 0, 0, 1]
    assert colours[images[0].argmax()].tolist() == [1, 1, 1, 1]


def test_fewer_samples_than_asked_for(images, y_true):
    assert len(drawn_images(fmnist.plot_samples(images[:3], y_true[:3]))) == 3


def test_history_is_solid_for_training_and_dashed_for_validation():
    loss, accuracy = fmnist.plot_history({**HISTORY, "learning_rate": [0.1]}).axes
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation = axes.lines
        assert training.get_xdata().tolist() == validation.get_xdata().tolist() == [1, 2, 3]
        assert (axes.get_xticks() % 1 == 0).all()
        assert list(training.get_ydata()) == HISTORY[key]
        assert list(validation.get_ydata()) == HISTORY[f"val_{key}"]
        assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "training",
            "validation",
        ]
    formatter = accuracy.yaxis.get_major_formatter()
    assert isinstance(formatter, PercentFormatter) and formatter.format_pct(0.5, 1) == "50%"


def test_a_single_epoch_is_visible():
    figure = fmnist.plot_history({key: values[:1] for key, values in HISTORY.items()})
    for line in (line for axes in figure.axes for line in axes.lines):
        assert (line.get_marker(), line.get_xdata().tolist()) == ("o", [1])


def test_histories_that_end_well_have_the_same_axes():
    limits = []
    for loss, accuracy in ((0.4, 0.85), (0.1, 0.97)):
        history = {"loss": [1.1, loss], "val_loss": [0.6, loss]}
        history |= {"accuracy": [0.6, accuracy], "val_accuracy": [0.8, accuracy]}
        limits.append([axes.get_ylim() for axes in fmnist.plot_history(history).axes])
    assert limits[0] == limits[1] == [(0, 0.5), (0.84, 1)]


def test_a_history_that_ends_badly_is_in_the_picture():
    history = {"loss": [2.3], "val_loss": [2.2], "accuracy": [0.1], "val_accuracy": [0.2]}
    loss, accuracy = fmnist.plot_history(history).axes
    assert loss.get_ylim()[0] < 2.2 < 2.3 < loss.get_ylim()[1]
    assert accuracy.get_ylim()[0] < 0.1 < 0.2 < accuracy.get_ylim()[1]
    assert all(tick == round(tick) for tick in loss.get_xticks())


@pytest.mark.parametrize(
    "history",
    [
        {},
        {key: [] for key in HISTORY},
        {**HISTORY, "loss": [1.0]},
        {key: values for key, values in HISTORY.items() if key != "val_loss"},
    ],
)
def test_an_incomplete_history_is_refused(history):
    with pytest.raises(ValueError, match="history needs equally long, non-empty lists"):
        fmnist.plot_history(history)


def test_confusion_matrix_shows_counts_and_shares(y_true, y_pred):
    axes = fmnist.plot_confusion_matrix(y_true, y_pred).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(fmnist.CLASS_NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    cells = np.array([text.get_text() for text in axes.texts]).reshape(10, 10)
    for true in range(10):
        for predicted in range(10):
            count = int(((y_true == true) & (y_pred == predicted)).sum())
            share = count / (y_true == true).sum()
            assert cells[true, predicted] == (f"{count}\n{share:.1%}" if count else "")


def test_confusion_matrix_is_coloured_by_the_share_of_the_true_class():
    y_true = np.repeat(np.arange(10), 1_500)
    y_pred = np.where(np.arange(15_000) % 5 == 0, 9, y_true)
    figure = fmnist.plot_confusion_matrix(y_true, y_pred)
    axes, colour_bar = figure.axes
    shares = np.asarray(axes.collections[0].get_array()).reshape(10, 10)
    assert shares.diagonal() == pytest.approx([0.8] * 9 + [1])
    assert shares.sum(axis=1) == pytest.approx([1] * 10)
    counts = [int(t.get_text().partition("\n")[0].replace(",", "") or 0) for t in axes.texts]
    assert np.reshape(counts, (10, 10)).sum(axis=1).tolist() == [1_500] * 10
    assert axes.get_title() == "Confusion matrix of 15,000 images"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert colour_bar.get_ylabel() == "share of the true class"


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_confusion_matrix_texts_stand_out_from_their_cells():
    y_true = np.repeat(np.arange(10), 20)
    y_pred = y_true.copy()
    for label in range(10):  # all shares of the diagonal, from 5 % to 95 %
        y_pred[label * 20 : label * 20 + 2 * label + 1] = (label + 1) % 10
    axes = fmnist.plot_confusion_matrix(y_true, y_pred).axes[0]
    faces = axes.collections[0].get_facecolors()
    for text, face in zip(axes.texts, faces, strict=True):
        if text.get_text():
            bright, dark = sorted((luminance(text.get_color()), luminance(face)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) > 3, text.get_text()


def test_confusion_matrix_draws_where_it_is_told(y_true, y_pred):
    figure, (left, right) = plt.subplots(1, 2)
    assert fmnist.plot_confusion_matrix(y_true, y_pred, ax=right) is figure
    assert right.texts and not left.texts
    plt.close(figure)


def test_confusion_matrix_of_absent_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = fmnist.plot_confusion_matrix([0, 1], [0, 0]).axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["1\n100.0%"] * 2


def test_the_surest_mistakes_come_first(images, y_true, y_pred, probabilities):
    figure = fmnist.plot_mistakes(images, y_true, probabilities, count=7)
    wrong = np.flatnonzero(y_pred != y_true)[::-1][:7]  # the confidence rises along the rows
    assert np.array_equal(drawn_images(figure), images[wrong])
    assert titles(figure) == [
        f"{fmnist.CLASS_NAMES[y_pred[row]]}, {probabilities[row].max():.1%}\n"
        f"label: {fmnist.CLASS_NAMES[y_true[row]]}"
        for row in wrong
    ]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (20, 20), (1_000, 20)])
def test_as_many_mistakes_as_asked_for_and_there_are(
    images, y_true, probabilities, count, expected
):
    assert len(drawn_images(fmnist.plot_mistakes(images, y_true, probabilities, count))) == expected


def test_no_mistakes(images, y_true):
    for figure in (
        fmnist.plot_mistakes(images, y_true, np.eye(10)[y_true]),
        fmnist.plot_confused_pairs(images, y_true, y_true),
    ):
        assert figure.texts[0].get_text() == "All 60 predictions are right."
        assert figure.texts[0].get_fontsize() >= 9


def test_network_names_layers_and_shapes():
    figure = fmnist.plot_network([("image", (1, 28, 28)), ("Conv2d", (32, 28, 28))])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text] == ["image", "1×28×28", "Conv2d", "32×28×28"]


def test_class_accuracy_bars_and_intervals(y_true, y_pred):
    axes = fmnist.plot_class_accuracy(y_true, y_pred).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    evaluation = fmnist.evaluate(y_true, np.eye(10)[y_pred])
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx(list(evaluation.per_class_accuracy.values()))
    for line, width in zip(axes.lines, widths, strict=True):
        low, high = line.get_xdata()
        assert low < width < high or (width in (0, 1) and low <= width <= high)


def test_class_accuracy_without_a_class():
    axes = fmnist.plot_class_accuracy([0, 1], [0, 1]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fmnist.CLASS_NAMES)


def test_reliability_points_are_the_bins_of_the_calibration_error(y_true, probabilities):
    above, below = fmnist.plot_reliability(y_true, probabilities).axes
    confidence, accuracy = above.lines[1].get_data()
    counts = np.array([bar.get_height() for bar in below.patches])
    weights = counts[counts > 0] / COUNT
    assert counts.sum() == COUNT
    assert np.dot(weights, np.abs(accuracy - confidence)) == pytest.approx(
        fmnist.evaluate(y_true, probabilities).ece
    )


def test_confused_pairs_show_both_classes(images, y_true, y_pred):
    figure = fmnist.plot_confused_pairs(images, y_true, y_pred, count=2)
    pairs = fmnist.most_confused(y_true, y_pred)[:2]
    expected = [f"a {pair.true_class}" for pair in pairs]
    expected += [f"{p.count} × {p.true_class}\ntaken for {p.predicted_class}" for p in pairs]
    expected += [f"a {pair.predicted_class}" for pair in pairs]
    assert titles(figure) == expected


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": np.arange(5)}, "One entry per image is needed in each"),
        ({"images": np.zeros((COUNT, 1, 28, 28))}, "without a channel axis"),
        ({"images": np.zeros((COUNT, 28, 28, 1))}, "without a channel axis"),
        ({"images": np.zeros((COUNT, 32, 32))}, r"must have the shape \(N, 28, 28\)"),
        ({"images": np.zeros((0, 28, 28))}, "images is empty"),
        ({"y_true": np.full(COUNT, 10)}, "between 0 and 9; 10 is among them"),
        ({"y_true": np.full(COUNT, -1)}, "between 0 and 9; -1 is among them"),
        ({"y_true": np.zeros(COUNT)}, "must be whole numbers; its dtype is float64"),
        ({"y_true": np.zeros((COUNT, 1), int)}, "must have one dimension"),
        ({"y_true": np.array([], int)}, "is empty"),
        ({"probabilities": np.full((COUNT, 10), np.nan)}, "row 0 has NaN or infinity"),
        ({"probabilities": np.r_[np.eye(10)[[0] * 59], [[np.inf] * 10]]}, "row 59 has"),
        ({"probabilities": np.full((COUNT, 10), 0.2)}, "row 0 sums to 2"),
        ({"probabilities": np.full((COUNT, 9), 1 / 9)}, r"must have the shape \(N, 10\)"),
        ({"probabilities": np.empty((0, 10))}, "probabilities is empty"),
        ({"count": 0}, "count must be at least 1; it is 0"),
        ({"count": -1}, "count must be at least 1; it is -1"),
    ],
)
def test_bad_input_is_refused(images, y_true, y_pred, probabilities, change, message):
    given = {"images": images, "y_true": y_true, "probabilities": probabilities, "count": 3}
    given.update(change)
    with pytest.raises(ValueError, match=message):
        fmnist.plot_mistakes(**given)
    if "probabilities" in change:
        with pytest.raises(ValueError, match=message):
            fmnist.plot_reliability(y_true, given["probabilities"])
        return
    with pytest.raises(ValueError, match=message.replace("y_true", "labels")):
        fmnist.plot_samples(given["images"], given["y_true"], given["count"])
    with pytest.raises(ValueError, match=message):
        fmnist.plot_confused_pairs(given["images"], given["y_true"], y_pred, given["count"])
    if "y_true" in change:
        for plot in (fmnist.plot_confusion_matrix, fmnist.plot_class_accuracy):
            with pytest.raises(ValueError, match=message):
                plot(given["y_true"], y_pred)


@pytest.mark.parametrize(
    ("y_pred", "message"),
    [
        (np.arange(5), "y_true has 60, y_pred has 5"),
        (np.full(COUNT, 10), "y_pred must lie between 0 and 9; 10 is among them"),
        (np.zeros(COUNT), "y_pred must be whole numbers; its dtype is float64"),
        (np.zeros((COUNT, 1), int), "y_pred must have one dimension"),
        (np.array([], int), "y_pred is empty"),
    ],
)
def test_bad_predictions_are_refused(images, y_true, y_pred, message):
    for plot in (fmnist.plot_confusion_matrix, fmnist.plot_class_accuracy):
        with pytest.raises(ValueError, match=message):
            plot(y_true, y_pred)
    with pytest.raises(ValueError, match=message):
        fmnist.plot_confused_pairs(images, y_true, y_pred)


def test_figures_of_nothing_are_refused():
    with pytest.raises(ValueError, match="layers is empty"):
        fmnist.plot_network([])
    with pytest.raises(ValueError, match="rates is empty"):
        fmnist.plot_learning_rate([], [])
    with pytest.raises(ValueError, match="equally many"):
        fmnist.plot_filters(np.zeros((2, 3, 3)), np.zeros((28, 28)), np.zeros((3, 28, 28)))


# Showing them


@pytest.fixture
def shown(monkeypatch):
    """Return the list of what is displayed from now on."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def test_show_stores_picture_and_alternative_text(shown):
    fmnist.show(fmnist.plot_history(HISTORY), alt="Loss and accuracy.")
    [picture] = shown
    assert picture.data.startswith(b"\x89PNG\r\n\x1a\n")
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.data
    assert metadata["image/png"]["alt"] == "Loss and accuracy."
    assert plt.get_fignums() == []


@pytest.mark.parametrize("alt", ["", " ", "\n\t"])
def test_show_refuses_a_figure_without_alternative_text(shown, alt):
    with pytest.raises(ValueError, match="alt is blank"):
        fmnist.show(fmnist.plot_history(HISTORY), alt=alt)
    assert shown == []
