"""The figures, read off their axes; how they are shown; and what they refuse."""

import html
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython import display
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import fmnist_utils as fmnist

HISTORY = {"loss": [0.9, 0.6, 0.5], "accuracy": [0.7, 0.8, 0.85]}
HISTORY |= {"val_loss": [0.7, 0.55, 0.52], "val_accuracy": [0.75, 0.81, 0.82]}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 28, 28), dtype=np.uint8)
Y_TRUE = np.arange(60) % 10
Y_PRED = np.where(np.arange(60) % 3, Y_TRUE, (Y_TRUE + 6) % 10)  # a third is wrong
CONFIDENCE = np.linspace(0.3, 0.99, 60)  # surer and surer along the rows
PROBABILITIES = np.repeat((1 - CONFIDENCE)[:, None] / 9, 10, axis=1)
PROBABILITIES[np.arange(60), Y_PRED] = CONFIDENCE
KERNELS = RANDOM.normal(size=(24, 3, 3))
FEATURE_MAPS = RANDOM.normal(size=(24, 28, 28))


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.filterwarnings("error")
def test_every_figure_is_wide_titled_legible_and_unknown_to_pyplot():
    before = dict(plt.rcParams)
    for figure in (
        fmnist.plot_samples(IMAGES, Y_TRUE),
        fmnist.plot_convolution(IMAGES[0], KERNELS[0], FEATURE_MAPS[0]),
        fmnist.plot_kernels(KERNELS, FEATURE_MAPS),
        fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0]),
        fmnist.plot_history(HISTORY),
        fmnist.plot_confusion_matrix(Y_TRUE, Y_PRED),
        fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES),
        fmnist.plot_mistakes(IMAGES, Y_TRUE, np.eye(10)[Y_TRUE]),  # none is wrong
    ):
        figure.draw_without_rendering()
        title = figure.get_suptitle() or figure.axes[-1].get_title() or figure.axes[0].get_title()
        seen = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in seen if text.get_visible()) >= 11, title
        assert title and figure.get_figwidth() == 10
    assert (plt.get_fignums(), dict(plt.rcParams)) == ([], before)


def test_samples_are_the_first_two_of_each_class_below_its_name():
    figure = fmnist.plot_samples(IMAGES, Y_TRUE)
    assert texts(axes.title for axes in figure.axes) == [*fmnist.CLASS_NAMES]
    assert np.array_equal(drawn_images(figure), IMAGES[:20])  # the classes come in turn


def test_a_convolution_shows_image_weights_and_map():
    figure = fmnist.plot_convolution(IMAGES[0], KERNELS[0], FEATURE_MAPS[0])
    for found, expected in zip(drawn_images(figure), (IMAGES[0], KERNELS[0], FEATURE_MAPS[0])):
        assert np.array_equal(found, expected)
    assert texts(figure.axes[1].texts) == [f"{weight:.2g}" for weight in KERNELS[0].flat]


def test_kernels_stand_above_their_maps_and_zero_is_white():
    maps = FEATURE_MAPS[:9] * (np.arange(9) > 0)[:, None, None]  # the first map is empty
    grid = np.reshape(fmnist.plot_kernels(KERNELS[:9], maps).axes, (4, 8))
    for place, pair in enumerate(zip(KERNELS, maps)):
        for axes, expected in zip(grid[2 * (place // 8) :, place % 8], pair):
            [picture] = axes.images
            assert np.array_equal(picture.get_array(), expected)
            blue, white, red = picture.to_rgba(np.array([[-9, 0, 9]]))[0]
            assert blue[2] > blue[0] and red[0] > red[2] and white.min() > 0.9


def test_a_prediction_has_a_bar_for_every_class_and_colours_for_two():
    probabilities = np.array([0.5, 0.3, 0.2] + [0.0] * 7)
    image, bars = fmnist.plot_prediction(IMAGES[0], probabilities, label=1).axes
    assert np.array_equal(image.images[0].get_array(), IMAGES[0])
    assert texts(bars.get_yticklabels()) == [*fmnist.CLASS_NAMES]
    assert [bar.get_width() for bar in bars.patches] == probabilities.tolist()
    assert bars.get_title() == "predicted: T-shirt/top"
    assert image.get_title() == "label: Trouser"
    expected = [fmnist.TRAINING_COLOUR, fmnist.VALIDATION_COLOUR, *["lightgray"] * 8]
    assert [bar.get_facecolor()[:3] for bar in bars.patches] == [*map(to_rgb, expected)]


def test_history_is_solid_for_training_and_dashed_for_validation():
    for axes, key in zip(fmnist.plot_history(HISTORY).axes, ("loss", "accuracy")):
        training, validation = axes.lines
        assert training.get_xdata().tolist() == [1, 2, 3]
        assert [*training.get_ydata()] == HISTORY[key]
        assert [*validation.get_ydata()] == HISTORY[f"val_{key}"]
        assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
        assert texts(axes.get_legend().get_texts()) == ["training", "validation"]


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    y_true = np.repeat(np.arange(9), 1_500)  # the last class is absent
    [axes] = fmnist.plot_confusion_matrix(y_true, np.where(np.arange(13_500) % 5, y_true, 9)).axes
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == [*fmnist.CLASS_NAMES]
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    expected = {(label + 0.5, label + 0.5): "1,200\n80.0%" for label in range(9)}
    expected |= {(9.5, label + 0.5): "300\n20.0%" for label in range(9)}  # x is the prediction
    assert cells == expected
    assert axes.get_xlabel() == "predicted class"


@pytest.mark.parametrize("count", [7, 1_000])
def test_the_surest_mistakes_come_first(count):
    figure = fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, count)
    wrong = np.flatnonzero(Y_PRED != Y_TRUE)[::-1][:count]  # the confidence rises along the rows
    assert np.array_equal(drawn_images(figure), IMAGES[wrong])
    predicted, label = (fmnist.CLASS_NAMES[labels[wrong[0]]] for labels in (Y_PRED, Y_TRUE))
    title = f"{predicted}, {CONFIDENCE[wrong[0]]:.1%}\nlabel: {label}"
    assert figure.axes[0].get_title() == title


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, -1), "1 to 1,000; it is -1"),
        (lambda: fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, 2.5), "1,000; it is 2.5"),
        (lambda: fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0], -1), "label must be whole"),
        (lambda: fmnist.plot_samples(IMAGES[:0], Y_TRUE[:0]), "images must have the shape (N, 28"),
        (lambda: fmnist.plot_history({}), "run the cells of the training"),
        (lambda: fmnist.plot_history(HISTORY | {"loss": [1]}), "history needs equally long lists"),
        (lambda: fmnist.show(fmnist.new_figure(1), alt=" \n"), "alt is blank"),
    ],
)
def test_bad_input_is_refused_by_its_name(draw, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw()


def test_a_figure_is_shown_as_a_picture_with_its_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    fmnist.show(fmnist.plot_history(HISTORY), alt='Loss < 1, and "accuracy".')
    picture = re.fullmatch('<img alt="([^"]+)" src="data:image/png;base64,[^"]+".*>', shown[0].data)
    assert html.unescape(picture[1]) == 'Loss < 1, and "accuracy".'
