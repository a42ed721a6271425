"""The figures, read off their axes; and what the plotting functions refuse."""

import base64

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython import display
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import fmnist_utils as fmnist

COUNT = 60
HISTORY = {"loss": [0.9, 0.6, 0.5], "accuracy": [0.7, 0.8, 0.85]}
HISTORY |= {"val_loss": [0.7, 0.55, 0.52], "val_accuracy": [0.75, 0.81, 0.82]}
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
Y_TRUE = np.arange(COUNT) % 10
Y_PRED = np.where(np.arange(COUNT) % 3, Y_TRUE, (Y_TRUE + 6) % 10)  # a third is wrong
CONFIDENCE = np.linspace(0.3, 0.99, COUNT)  # surer and surer along the rows
PROBABILITIES = np.repeat((1 - CONFIDENCE)[:, None] / 9, 10, axis=1)
PROBABILITIES[np.arange(COUNT), Y_PRED] = CONFIDENCE
KERNEL = np.array([[-1, 0, 1], [-2, 0.5, 2], [-1, 0, 1]])
FEATURE_MAP = np.linspace(-3, 2, 28 * 28).reshape(28, 28)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.filterwarnings("error")
def test_every_figure_is_wide_titled_legible_and_unknown_to_pyplot():
    for figure in (
        fmnist.plot_samples(IMAGES, Y_TRUE),
        fmnist.plot_augmented(IMAGES[:20], IMAGES[20:40] / 255),
        fmnist.plot_convolution(IMAGES[0], KERNEL, FEATURE_MAP),
        fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0], 3),
        fmnist.plot_history(HISTORY),
        fmnist.plot_confusion_matrix(Y_TRUE, Y_PRED),
        fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES),
    ):
        figure.draw_without_rendering()
        assert (title := figure.get_suptitle() or titles(figure))
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts if text.get_visible()) >= 11, title
        assert figure.get_figwidth() == 10, title
    assert plt.get_fignums() == []


def test_samples_are_titled_with_their_classes_and_their_smallest_value_is_black():
    images = 0.3 + 0.4 * (IMAGES / 255)
    figure = fmnist.plot_samples(images, Y_TRUE, count=12)
    assert titles(figure) == [fmnist.CLASS_NAMES[label] for label in Y_TRUE[:12]]
    assert np.array_equal(drawn_images(figure), images[:12])
    assert not any(axes.axison for axes in figure.axes)
    [picture] = figure.axes[0].images
    colours = picture.to_rgba(picture.get_array()).reshape(-1, 4)
    assert colours[images[0].argmin()].tolist() == [0, 0, 0, 1]
    assert colours[images[0].argmax()].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("count", [3, 20])
def test_augmented_images_stand_below_what_they_were(count):
    figure = fmnist.plot_augmented(IMAGES[:count], IMAGES[-count:])
    columns = min(count, 10)
    places = [axes.get_subplotspec().get_geometry() for axes in figure.axes]
    assert places == [(2, columns, place, place) for place in range(2 * columns)]
    shown = [*IMAGES[:count][:10], *IMAGES[-count:][:10]]
    assert np.array_equal(drawn_images(figure), shown)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["before", "after"]


def test_a_convolution_shows_image_weights_and_map():
    figure = fmnist.plot_convolution(IMAGES[0], KERNEL, FEATURE_MAP)
    for found, expected in zip(drawn_images(figure), (IMAGES[0], KERNEL, FEATURE_MAP)):
        assert np.array_equal(found, expected)
    cells = {text.get_position(): text.get_text() for text in figure.axes[1].texts}
    assert cells == {(x, y): f"{KERNEL[y, x]:.2g}" for x in range(3) for y in range(3)}
    for axes in figure.axes[1:3]:  # white is zero, so that the colour is the sign
        assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax


@pytest.mark.parametrize("label", [None, 0, 1])
def test_a_prediction_has_a_bar_for_every_class_and_colours_for_two(label):
    probabilities = np.array([0.5, 0.3, 0.2] + [0.0] * 7)
    image, bars = fmnist.plot_prediction(IMAGES[0], probabilities, label).axes
    assert np.array_equal(image.images[0].get_array(), IMAGES[0])
    assert [label.get_text() for label in bars.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    assert [bar.get_width() for bar in bars.patches] == probabilities.tolist()
    assert [text.get_text() for text in bars.texts[:4]] == ["50.0%", "30.0%", "20.0%", "0.0%"]
    assert bars.get_title() == "predicted: T-shirt/top"
    assert image.get_title() == ("" if label is None else f"label: {fmnist.CLASS_NAMES[label]}")
    colours = [bar.get_facecolor()[:3] for bar in bars.patches]
    assert colours[0] == to_rgb(fmnist.TRAINING_COLOUR)
    assert colours[1] == to_rgb(fmnist.VALIDATION_COLOUR if label == 1 else "lightgray")
    assert set(colours[2:]) == {to_rgb("lightgray")}


@pytest.mark.parametrize("epochs", [1, 3])
def test_history_is_solid_for_training_and_dashed_for_validation(epochs):
    history = {key: values[:epochs] for key, values in HISTORY.items()}
    loss, accuracy = fmnist.plot_history(history).axes
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation = axes.lines
        for line in axes.lines:
            assert line.get_xdata().tolist() == [*range(1, epochs + 1)]
        assert (axes.get_xticks() % 1 == 0).all()
        assert list(training.get_ydata()) == history[key]
        assert list(validation.get_ydata()) == history[f"val_{key}"]
        assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
        assert training.get_marker() != "None", "a line alone does not show a single epoch"
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == ["training", "validation"]
        assert axes.get_xlabel() and axes.get_ylabel()
    assert accuracy.yaxis.get_major_formatter().format_pct(0.5, 1) == "50%"
    with pytest.raises(ValueError, match="run the cells of the training first"):
        fmnist.plot_history({key: [] for key in HISTORY})


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    y_true = np.repeat(np.arange(9), 1_500)  # the last class is absent
    y_pred = np.where(np.arange(13_500) % 5 == 0, 9, y_true)
    figure = fmnist.new_figure(height=9)
    other, axes = figure.subplots(1, 2)
    assert fmnist.plot_confusion_matrix(y_true, y_pred, ax=axes) is figure
    assert not other.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == list(fmnist.CLASS_NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    expected = {(label, label): "1,200\n80.0%" for label in range(9)}
    expected |= {(9, label): "300\n20.0%" for label in range(9)}  # x is the predicted class
    assert cells == expected
    assert np.diag(np.asarray(axes.images[0].get_array())) == pytest.approx([0.8] * 9 + [0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "Confusion matrix of 13,500 images"


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_texts_stand_out_from_their_cells():
    y_true = np.repeat(np.arange(10), 100)
    drawn = []
    for wrong in range(0, 100, 10):  # all shares from 0 to 100 %
        y_pred = np.where(np.arange(1_000) % 100 < wrong + y_true, (y_true + 1) % 10, y_true)
        drawn += fmnist.plot_confusion_matrix(y_true, y_pred).axes
    for low in (-1, -0.9, -0.5, 0):
        kernel = np.linspace(low, 1, 9).reshape(3, 3)
        drawn.append(fmnist.plot_convolution(IMAGES[0], kernel, FEATURE_MAP).axes[1])
    for axes in drawn:
        [picture] = axes.images
        for text in axes.texts:
            if text.get_text():
                x, y = text.get_position()
                cell = luminance(picture.to_rgba(picture.get_array()[y, x])[:3])
                bright, dark = sorted((luminance(text.get_color()), cell), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) > 4, text.get_text()


@pytest.mark.parametrize("count", [7, 1_000])
def test_the_surest_mistakes_come_first(count):
    figure = fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, count)
    wrong = np.flatnonzero(Y_PRED != Y_TRUE)[::-1][:count]  # the confidence rises along the rows
    assert len(wrong) == min(count, 20)
    assert np.array_equal(drawn_images(figure), IMAGES[wrong])
    assert titles(figure) == [
        f"{fmnist.CLASS_NAMES[Y_PRED[row]]}, {PROBABILITIES[row].max():.1%}\n"
        f"label: {fmnist.CLASS_NAMES[Y_TRUE[row]]}"
        for row in wrong
    ]
    without = fmnist.plot_mistakes(IMAGES, Y_TRUE, np.eye(10)[Y_TRUE])
    assert without.get_suptitle() == "All 60 predictions are right."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": np.arange(5)}, "images has 60, y_true has 5, probabilities has 60"),
        ({"images": np.zeros((COUNT, 1, 28, 28))}, r"\(N, 28, 28\); it is \(60, 1, 28, 28\)"),
        ({"count": 0}, "count must be at least 1"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"images": IMAGES, "y_true": Y_TRUE, "probabilities": PROBABILITIES, "count": 3}
    with pytest.raises(ValueError, match=message):
        fmnist.plot_mistakes(**(given | change))


def test_show_stores_picture_and_alternative_text_as_every_ipython_can(monkeypatch):
    class OldImage(display.Image):
        """IPython 7, which Colab has, knows no alt."""

        def __init__(self, data=None, metadata=None):
            super().__init__(data=data, metadata=metadata)

    shown = []
    monkeypatch.setattr(display, "Image", OldImage)
    monkeypatch.setattr(display, "display", shown.append)
    fmnist.show(fmnist.plot_history(HISTORY), alt="Loss and accuracy.")
    [picture] = shown
    assert picture.data.startswith(b"\x89PNG\r\n\x1a\n")
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.data
    assert metadata["image/png"]["alt"] == "Loss and accuracy."
    with pytest.raises(ValueError, match="alt is blank"):
        fmnist.show(fmnist.plot_history(HISTORY), alt=" \n")
