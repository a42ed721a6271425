"""The figures, read off their axes; and what the plotting functions refuse."""

import base64
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython import display
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import fmnist_utils as fmnist

COUNT = 60
HISTORY = {
    "loss": [0.9, 0.6, 0.5],
    "accuracy": [0.7, 0.8, 0.85],
    "val_loss": [0.7, 0.55, 0.52],
    "val_accuracy": [0.75, 0.81, 0.82],
}
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
Y_TRUE = np.arange(COUNT) % 10
Y_PRED = np.where(np.arange(COUNT) % 3, Y_TRUE, (Y_TRUE + 6) % 10)  # a third is wrong
CONFIDENCE = np.linspace(0.3, 0.99, COUNT)  # surer and surer along the rows
PROBABILITIES = np.repeat((1 - CONFIDENCE)[:, None] / 9, 10, axis=1)
PROBABILITIES[np.arange(COUNT), Y_PRED] = CONFIDENCE
KERNEL = np.array([[-1, 0, 1], [-2, 0.5, 2], [-1, 0, 1]])
FEATURE_MAP = np.linspace(-3, 2, 28 * 28).reshape(28, 28)


def every_figure():
    return {
        "samples": fmnist.plot_samples(IMAGES, Y_TRUE),
        "augmented": fmnist.plot_augmented(IMAGES[:20], IMAGES[20:40] / 255),
        "convolution": fmnist.plot_convolution(IMAGES[0], KERNEL, FEATURE_MAP),
        "prediction": fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0], 3),
        "history": fmnist.plot_history(HISTORY),
        "confusion matrix": fmnist.plot_confusion_matrix(Y_TRUE, Y_PRED),
        "mistakes": fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES),
    }


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_every_figure_is_wide_titled_legible_and_unknown_to_pyplot():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = every_figure()
        for name, figure in figures.items():
            figure.draw_without_rendering()
            texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
            assert min(text.get_fontsize() for text in texts if text.get_visible()) >= 11, name
            assert figure.get_figwidth() == 10, name
            assert titles(figure) or figure.get_suptitle(), name
    assert plt.get_fignums() == []


def test_samples_are_titled_with_their_classes():
    figure = fmnist.plot_samples(IMAGES, Y_TRUE, count=12)
    assert titles(figure) == [fmnist.CLASS_NAMES[label] for label in Y_TRUE[:12]]
    assert np.array_equal(drawn_images(figure), IMAGES[:12])
    assert not any(axes.axison for axes in figure.axes)


@pytest.mark.parametrize("factor, offset", [(1, 0), (1 / 255, 0), (1 / 127.5, -1)])
def test_the_smallest_grey_value_is_black_whatever_the_range(factor, offset):
    [picture] = fmnist.plot_samples(factor * IMAGES + offset, Y_TRUE, count=1).axes[0].images
    colours = picture.to_rgba(picture.get_array()).reshape(-1, 4)
    assert colours[IMAGES[0].argmin()].tolist() == [0, 0, 0, 1]
    assert colours[IMAGES[0].argmax()].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("count", [3, 20])
def test_augmented_images_stand_below_what_they_were(count):
    figure = fmnist.plot_augmented(IMAGES[:count], IMAGES[-count:])
    columns = min(count, 10)
    places = [axes.get_subplotspec().get_geometry() for axes in figure.axes]
    assert places == [(2, columns, place, place) for place in range(2 * columns)]
    shown = [*IMAGES[:count][:10], *IMAGES[-count:][:10]]
    assert np.array_equal(drawn_images(figure), shown)
    named = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    assert named == ["before", "after"]


def test_a_convolution_shows_image_weights_and_map():
    figure = fmnist.plot_convolution(IMAGES[0], KERNEL, FEATURE_MAP)
    for found, expected in zip(drawn_images(figure), (IMAGES[0], KERNEL, FEATURE_MAP)):
        assert np.array_equal(found, expected)
    cells = {text.get_position(): text.get_text() for text in figure.axes[1].texts}
    assert cells == {(x, y): f"{KERNEL[y, x]:.2g}" for x in range(3) for y in range(3)}
    for axes in figure.axes[1:3]:  # white is zero, so that the colour is the sign
        assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax


def test_a_prediction_has_a_bar_for_every_class():
    probabilities = np.array([0.5, 0.3, 0.2] + [0.0] * 7)
    image, bars = fmnist.plot_prediction(IMAGES[0], probabilities, label=1).axes
    assert np.array_equal(image.images[0].get_array(), IMAGES[0])
    assert [label.get_text() for label in bars.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    assert [bar.get_width() for bar in bars.patches] == probabilities.tolist()
    assert [text.get_text() for text in bars.texts[:4]] == ["50.0%", "30.0%", "20.0%", "0.0%"]
    assert (image.get_title(), bars.get_title()) == ("label: Trouser", "predicted: T-shirt/top")


@pytest.mark.parametrize("label", [None, 0, 1])
def test_the_bars_of_prediction_and_label_are_coloured(label):
    figure = fmnist.plot_prediction(IMAGES[0], [0.6, 0.4] + [0.0] * 8, label)
    colours = [bar.get_facecolor()[:3] for bar in figure.axes[1].patches]
    assert colours[0] == to_rgb(fmnist.TRAINING_COLOUR)
    assert (colours[1] == to_rgb(fmnist.VALIDATION_COLOUR)) == (label == 1)
    assert set(colours[2:]) == {to_rgb("lightgray")}


@pytest.mark.parametrize("epochs", [1, 3])
def test_history_is_solid_for_training_and_dashed_for_validation(epochs):
    history = {key: values[:epochs] for key, values in HISTORY.items()}
    loss, accuracy = fmnist.plot_history(history).axes
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation = axes.lines
        assert training.get_xdata().tolist() == validation.get_xdata().tolist()
        assert training.get_xdata().tolist() == [*range(1, epochs + 1)]
        assert (axes.get_xticks() % 1 == 0).all()
        assert list(training.get_ydata()) == history[key]
        assert list(validation.get_ydata()) == history[f"val_{key}"]
        assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
        assert training.get_marker() != "None", "a line alone does not show a single epoch"
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == ["training", "validation"]
        assert axes.get_xlabel() and axes.get_ylabel()
    assert accuracy.yaxis.get_major_formatter().format_pct(0.5, 1) == "50%"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [1.0]}, "history needs equally long lists"),
        ({key: [] for key in HISTORY}, "run the cells of the training first"),
    ],
)
def test_an_incomplete_history_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fmnist.plot_history(HISTORY | change)


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    y_true = np.repeat(np.arange(10), 1_500)
    y_pred = np.where(np.arange(15_000) % 5 == 0, 9, y_true)
    [axes] = fmnist.plot_confusion_matrix(y_true, y_pred).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(fmnist.CLASS_NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fmnist.CLASS_NAMES)
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    expected = {(label, label): "1,200\n80.0%" for label in range(9)}
    expected |= {(9, label): "300\n20.0%" for label in range(9)}  # x is the predicted class
    assert cells == {**expected, (9, 9): "1,500\n100.0%"}
    shares = np.asarray(axes.images[0].get_array())
    assert shares.diagonal() == pytest.approx([0.8] * 9 + [1])
    assert shares.sum(axis=1) == pytest.approx([1] * 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "Confusion matrix of 15,000 images"


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_texts_stand_out_from_their_cells():
    y_true = np.repeat(np.arange(10), 100)
    matrices = []
    for wrong in range(0, 100, 10):  # all shares from 0 to 100 %
        y_pred = np.where(np.arange(1_000) % 100 < wrong + y_true, (y_true + 1) % 10, y_true)
        matrices += fmnist.plot_confusion_matrix(y_true, y_pred).axes
    kernels = [np.linspace(low, 1, 9).reshape(3, 3) for low in (-1, -0.9, -0.5, 0)]
    kernels = [
        fmnist.plot_convolution(IMAGES[0], kernel, FEATURE_MAP).axes[1] for kernel in kernels
    ]
    for axes in (*matrices, *kernels):
        [picture] = axes.images
        for text in axes.texts:
            if text.get_text():
                x, y = text.get_position()
                cell = luminance(picture.to_rgba(picture.get_array()[y, x])[:3])
                bright, dark = sorted((luminance(text.get_color()), cell), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) > 4, text.get_text()


def test_confusion_matrix_of_absent_classes_on_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    assert fmnist.plot_confusion_matrix([0, 1], [0, 0], ax=right) is figure
    assert [text.get_text() for text in right.texts if text.get_text()] == ["1\n100.0%"] * 2
    assert not left.texts
    plt.close(figure)


@pytest.mark.parametrize("count", [1, 7, 1_000])
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


def test_no_mistakes():
    figure = fmnist.plot_mistakes(IMAGES, Y_TRUE, np.eye(10)[Y_TRUE])
    assert figure.get_suptitle() == "All 60 predictions are right."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": np.arange(5)}, "images has 60, y_true has 5, probabilities has 60"),
        ({"images": np.zeros((COUNT, 1, 28, 28))}, r"\(N, 28, 28\); it is \(60, 1, 28, 28\)"),
        ({"images": np.zeros((COUNT, 28, 28, 1))}, r"\(N, 28, 28\); it is \(60, 28, 28, 1\)"),
        ({"images": np.zeros((COUNT, 32, 32))}, r"\(N, 28, 28\); it is \(60, 32, 32\)"),
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
