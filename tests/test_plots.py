"""The figures, read off their axes; how they are shown; and what they refuse."""

import base64
import re

import bs4
import matplotlib.pyplot as plt
import nbconvert
import numpy as np
import pytest
from IPython import display
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from nbformat import v4

import fmnist_utils as fmnist

COUNT = 60
HISTORY = {"loss": [0.9, 0.6, 0.5], "accuracy": [0.7, 0.8, 0.85]}
HISTORY |= {"val_loss": [0.7, 0.55, 0.52], "val_accuracy": [0.75, 0.81, 0.82]}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
Y_TRUE = np.arange(COUNT) % 10
Y_PRED = np.where(np.arange(COUNT) % 3, Y_TRUE, (Y_TRUE + 6) % 10)  # a third is wrong
CONFIDENCE = np.linspace(0.3, 0.99, COUNT)  # surer and surer along the rows
PROBABILITIES = np.repeat((1 - CONFIDENCE)[:, None] / 9, 10, axis=1)
PROBABILITIES[np.arange(COUNT), Y_PRED] = CONFIDENCE
KERNELS = RANDOM.normal(size=(24, 3, 3))
FEATURE_MAPS = RANDOM.normal(size=(24, 28, 28))


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def titles(figure):
    return texts(axes.title for axes in figure.axes)


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.filterwarnings("error")
def test_every_figure_is_wide_titled_legible_and_unknown_to_pyplot():
    before = dict(plt.rcParams)
    for figure in (
        fmnist.plot_samples(IMAGES, Y_TRUE),
        fmnist.plot_convolution(IMAGES[0], KERNELS[0], FEATURE_MAPS[0]),
        fmnist.plot_kernels(KERNELS, FEATURE_MAPS),
        fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0], 3),
        fmnist.plot_history(HISTORY),
        fmnist.plot_confusion_matrix(Y_TRUE, Y_PRED),
        fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES),
    ):
        figure.draw_without_rendering()
        assert (title := figure.get_suptitle() or titles(figure))
        seen = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in seen if text.get_visible()) >= 11, title
        assert figure.get_figwidth() == 10, title
    assert (plt.get_fignums(), dict(plt.rcParams)) == ([], before)


def test_samples_are_the_first_two_of_each_class_below_its_name():
    figure = fmnist.plot_samples(IMAGES / 255, Y_TRUE)
    assert titles(figure) == [*fmnist.CLASS_NAMES]
    assert np.array_equal(drawn_images(figure), IMAGES[:20] / 255)  # the classes come in turn
    assert len(drawn_images(fmnist.plot_samples(IMAGES[:5], Y_TRUE[:5]))) == 5


def test_a_convolution_shows_image_weights_and_map():
    figure = fmnist.plot_convolution(IMAGES[0], KERNELS[0], FEATURE_MAPS[0])
    for found, expected in zip(drawn_images(figure), (IMAGES[0], KERNELS[0], FEATURE_MAPS[0])):
        assert np.array_equal(found, expected)
    cells = {text.get_position(): text.get_text() for text in figure.axes[1].texts}
    assert cells == {(x, y): f"{KERNELS[0, y, x]:.2g}" for x in range(3) for y in range(3)}


@pytest.mark.parametrize("count", [3, 9])
def test_kernels_stand_above_their_maps_and_zero_is_white(count):
    maps = FEATURE_MAPS[:count] * (np.arange(count) > 0)[:, None, None]  # the first map is empty
    figure = fmnist.plot_kernels(KERNELS[:count], maps)
    grid = np.reshape(figure.axes, (2 * -(-count // 8), 8))
    for place, pair in enumerate(zip(KERNELS, maps)):
        for axes, expected in zip(grid[2 * (place // 8) :, place % 8], pair):
            [picture] = axes.images
            assert np.array_equal(picture.get_array(), expected)
            blue, white, red = picture.to_rgba(np.array([[-9, 0, 9]]))[0]
            assert blue[2] > blue[0] and red[0] > red[2] and white.min() > 0.9
            assert picture.norm.vmin == -picture.norm.vmax
    assert len(drawn_images(figure)) == 2 * count


@pytest.mark.parametrize("label", [None, 0, 1])
def test_a_prediction_has_a_bar_for_every_class_and_colours_for_two(label):
    probabilities = np.array([0.5, 0.3, 0.2] + [0.0] * 7)
    image, bars = fmnist.plot_prediction(IMAGES[0], probabilities, label).axes
    assert np.array_equal(image.images[0].get_array(), IMAGES[0])
    assert texts(bars.get_yticklabels()) == [*fmnist.CLASS_NAMES]
    assert [bar.get_width() for bar in bars.patches] == probabilities.tolist()
    assert texts(bars.texts)[:4] == ["50.0%", "30.0%", "20.0%", "0.0%"]
    assert bars.get_title() == "predicted: T-shirt/top"
    assert image.get_title() == ("" if label is None else f"label: {fmnist.CLASS_NAMES[label]}")
    true = fmnist.VALIDATION_COLOUR if label == 1 else "lightgray"
    expected = [fmnist.TRAINING_COLOUR, true, *["lightgray"] * 8]
    assert [bar.get_facecolor()[:3] for bar in bars.patches] == [*map(to_rgb, expected)]


@pytest.mark.parametrize("epochs", [1, 3])
def test_history_is_solid_for_training_and_dashed_for_validation(epochs):
    history = {key: values[:epochs] for key, values in HISTORY.items()}
    for axes, key in zip(fmnist.plot_history(history).axes, ("loss", "accuracy")):
        training, validation = axes.lines
        assert training.get_xdata().tolist() == [*range(1, epochs + 1)]
        assert (axes.get_xticks() % 1 == 0).all()
        assert [*training.get_ydata()] == history[key]
        assert [*validation.get_ydata()] == history[f"val_{key}"]
        assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
        assert texts(axes.get_legend().get_texts()) == ["training", "validation"]


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    y_true = np.repeat(np.arange(9), 1_500)  # the last class is absent
    [axes] = fmnist.plot_confusion_matrix(y_true, np.where(np.arange(13_500) % 5, y_true, 9)).axes
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == [*fmnist.CLASS_NAMES]
    assert {label.get_rotation() for label in axes.get_yticklabels()} == {0}
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    expected = {(label + 0.5, label + 0.5): "1,200\n80.0%" for label in range(9)}
    expected |= {(9.5, label + 0.5): "300\n20.0%" for label in range(9)}  # x is the prediction
    assert cells == expected
    shares = np.reshape(axes.collections[0].get_array(), (10, 10))
    assert np.diag(shares).tolist() == pytest.approx([0.8] * 9 + [0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize("count", [7, np.int64(1_000)])
def test_the_surest_mistakes_come_first(count):
    figure = fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, count)
    wrong = np.flatnonzero(Y_PRED != Y_TRUE)[::-1][:count]  # the confidence rises along the rows
    assert len(wrong) == min(count, 20)
    assert np.array_equal(drawn_images(figure), IMAGES[wrong])
    row, names = wrong[0], fmnist.CLASS_NAMES
    first = f"{names[Y_PRED[row]]}, {CONFIDENCE[row]:.1%}\nlabel: {names[Y_TRUE[row]]}"
    assert titles(figure)[0] == first
    without = fmnist.plot_mistakes(IMAGES, Y_TRUE, np.eye(10)[Y_TRUE])
    assert without.get_suptitle() == "All 60 predictions are right."


def mistakes(count):
    return lambda: fmnist.plot_mistakes(IMAGES, Y_TRUE, PROBABILITIES, count)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        *((mistakes(n), f"from 1 to 1,000; it is {n!r}") for n in (-1, 0, 2.5, "3", 1_001)),
        (lambda: fmnist.plot_prediction(IMAGES[0], PROBABILITIES[0], -1), "label must be whole"),
        (lambda: fmnist.plot_samples(IMAGES, Y_TRUE[:5]), "labels must have the shape (60)"),
        (lambda: fmnist.plot_samples(IMAGES[:, None], Y_TRUE), "it is (60, 1, 28, 28)"),
        (lambda: fmnist.plot_samples(IMAGES[:0], Y_TRUE[:0]), "images must have the shape (N, 28"),
        (lambda: fmnist.plot_kernels(KERNELS, FEATURE_MAPS[:2]), "feature_maps must have the"),
        (lambda: fmnist.plot_history({}), "run the cells of the training"),
        (lambda: fmnist.plot_history(HISTORY | {"loss": [1]}), "history needs equally long lists"),
        (lambda: fmnist.show(fmnist.new_figure(1), alt=" \n"), "alt is blank"),
    ],
)
def test_bad_input_is_refused_by_its_name(draw, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw()


def test_alternative_texts_reach_the_page_that_nbconvert_writes(monkeypatch):
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    fmnist.show(fmnist.plot_history(HISTORY), alt='Loss < 1, and "accuracy".')
    data, metadata = DisplayFormatter().format(*shown)
    output = v4.new_output("display_data", data, metadata=metadata)
    cell = v4.new_code_cell("fmnist.show(…)", outputs=[output], execution_count=1)
    page, _ = nbconvert.HTMLExporter().from_notebook_node(v4.new_notebook(cells=[cell]))
    [image] = bs4.BeautifulSoup(page, "html.parser").find_all("img")
    assert image["alt"] == 'Loss < 1, and "accuracy".'
    png = image["src"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(png).startswith(b"\x89PNG\r\n\x1a\n")
