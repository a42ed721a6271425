"""What both Fashion-MNIST notebooks do the same way: data, plots, reports, the record of an export.

It imports neither torch nor tensorflow, so that each notebook runs without the other's framework.
"""

import base64
import contextlib
import gzip
import hashlib
import html
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pooch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from tqdm import tqdm

StrPath = str | os.PathLike[str]

# --- Data -----------------------------------------------------------------------------------------
CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGE_SIZE = 28  # pixels, in both directions
DATA_SHA256 = {  # of the four files of the data set, decompressed
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
CONNECT_AND_READ_TIMEOUT = (5, 20)  # seconds without an answer before a mirror is given up
HOW_TO_GET_THE_DATA = """{archive} is missing, and no source has it. What helps:
  - Debian, Ubuntu: sudo apt-get install dataset-fashion-mnist
  - copy the four .gz files from another computer into {archive.parent}
  - connect to the Internet; set HTTPS_PROXY behind a proxy, REQUESTS_CA_BUNDLE for a certificate
What was tried:"""


class Split(NamedTuple):
    """Images (uint8, N×28×28, 0 is the black background) and their labels (int64, N, 0–9)."""

    images: np.ndarray
    labels: np.ndarray


class FashionMNIST(NamedTuple):
    """The three parts of the data set, each a `Split`."""

    train: Split
    validation: Split
    test: Split


def load_fashion_mnist(root: StrPath = "data", validation_size: int = 5_000) -> FashionMNIST:
    """Load Fashion-MNIST, verified and split into training, validation and test images.

    Parameters
    ----------
    root : path, where the four ``.gz`` files are or, unless Debian's package is there, will be
    validation_size : int, how many training images to hold out, stratified, the same in every run

    Raises
    ------
    FileNotFoundError, OSError : no source has the data, or they cannot be written
    """
    from sklearn.model_selection import train_test_split

    wanted = "validation_size must be a whole number from 10 to 59,990"
    _require(validation_size in range(10, 59_991), f"{wanted}; it is {validation_size!r}.")
    (images, labels), test = _load_parts(Path(root).expanduser())
    rows = np.arange(len(labels))
    parts = train_test_split(rows, test_size=validation_size, stratify=labels, random_state=42)
    train, validation = (Split(images[part], labels[part]) for part in map(np.sort, parts))
    return FashionMNIST(train, validation, test)


def _load_parts(root: Path) -> tuple[Split, Split]:
    """Return the training and the test images in the order of their files."""
    files = [np.frombuffer(bytearray(_read(root, name)), np.uint8) for name in DATA_SHA256]
    images = [file[16:].reshape(-1, IMAGE_SIZE, IMAGE_SIZE) for file in files[::2]]
    labels = [file[8:].astype(np.int64) for file in files[1::2]]
    return Split(images[0], labels[0]), Split(images[1], labels[1])


def _read(root: Path, name: str) -> bytes:
    """Return the content of a file from the first source that has it undamaged."""
    problems = ""
    for source in (root, DEBIAN_FOLDER, *MIRRORS):
        path = f"{source}{name}.gz" if source in MIRRORS else source / f"{name}.gz"
        try:
            archive = _download(path, name) if source in MIRRORS else path.read_bytes()
            content = gzip.decompress(archive)
            _require(hashlib.sha256(content).hexdigest() == DATA_SHA256[name], "wrong SHA-256")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            problems += f"\n  - {path}: {error}"
            continue
        if source in MIRRORS:
            with _writing_to(root, "DATA_DIR"):
                _write_atomically(root / f"{name}.gz", archive)
        return content
    raise FileNotFoundError(HOW_TO_GET_THE_DATA.format(archive=root / f"{name}.gz") + problems)


def _download(url: str, name: str) -> bytes:
    # pooch sets the right total; without any, the bar has no truth value for pooch to test.
    with tqdm(desc=name, total=1, unit="B", unit_scale=True, file=sys.stdout, leave=False) as bar:
        download = pooch.HTTPDownloader(progressbar=bar, timeout=CONNECT_AND_READ_TIMEOUT)
        download(url, archive := io.BytesIO(), None)
    return archive.getvalue()


# --- Photos ---------------------------------------------------------------------------------------
LEAST_DARKNESS = 0.08 * 3**0.5  # a length in RGB from the background; white to black is 3**0.5


def prepare_photo(photo: StrPath | Image.Image) -> np.ndarray:
    """Turn a photo of one garment on a light background into an image as Fashion-MNIST has them.

    Parameters
    ----------
    photo : path or PIL.Image.Image, of any size and mode

    Returns
    -------
    array of uint8, shape (28, 28), light on black

    Raises
    ------
    ValueError : it is no picture, or none of a garment on a light, even background
    """
    from scipy import ndimage

    picture = _upright_rgb(photo)
    picture.thumbnail((20 * IMAGE_SIZE, 20 * IMAGE_SIZE))
    light = (np.asarray(picture) / 255 / _background(picture)).clip(0, 1)
    dark = np.float32(np.linalg.norm(1 - light, axis=2) > LEAST_DARKNESS)
    dark = ndimage.uniform_filter(dark, size=5) > 0.5  # what most neighbours are, without noise
    _require(dark.any(), "The photo shows nothing but its background.")
    regions, _ = ndimage.label(dark)
    sizes = np.bincount(regions[dark])
    # What follows is section 2 of the paper on Fashion-MNIST, arXiv 1708.07747.
    box = Image.fromarray((sizes >= sizes.max() / 10)[regions]).getbbox()  # no creases or shadows
    trimmed = Image.fromarray((255 * light).round().astype(np.uint8)).crop(box)
    resized = ImageOps.contain(trimmed, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0))
    padded = ImageOps.pad(sharpened, (IMAGE_SIZE, IMAGE_SIZE), color="white")
    return np.array(ImageOps.invert(padded).convert("L"))


def _upright_rgb(photo: StrPath | Image.Image) -> Image.Image:
    try:
        is_file = not isinstance(photo, Image.Image)
        picture = (Image.open(Path(photo).expanduser()) if is_file else photo).copy()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        words = "JPEG, PNG and WebP work; save a HEIC picture as one of them"
        raise ValueError(f"Pillow cannot read {photo}; {words}. ({error})") from error
    with contextlib.suppress(Exception):  # broken metadata raise errors of many kinds
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode[0] in "IF":  # floats, or whole numbers of 10 to 16 bits
        values = np.asarray(picture, dtype=np.float64)
        white = next((w for w in (1, 255, 1023, 4095, 16_383) if values.max() <= w), 65_535)
        picture = Image.fromarray((255 * (values / white).clip(0, 1)).round().astype(np.uint8))
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _background(picture: Image.Image) -> np.ndarray:
    """Return what the photo would be without a garment: a smooth surface (height×width×3)."""
    cells = np.asarray(picture.resize((40, 40), Image.Resampling.BOX)) / 255
    border = np.pad(np.zeros((36, 36), dtype=bool), 2, constant_values=True)
    # A garment may touch the border. So begin with its lighter half, and go on to all as light.
    known = border & (cells.mean(axis=2) >= np.median(cells[border].mean(axis=1)))
    x, y, centres = ((2 * np.arange(length) + 1) / length - 1 for length in (*picture.size, 40))
    terms = polynomial.polyvander2d(*np.meshgrid(centres, centres, indexing="ij"), (3, 3))
    for _ in range(6):
        weights = np.linalg.lstsq(terms[known], cells[known], rcond=None)[0]
        darkness = np.linalg.norm(cells - terms @ weights, axis=2)
        known = darkness < LEAST_DARKNESS
    good = (terms @ weights).mean() > 0.5 and np.median(darkness[border]) < LEAST_DARKNESS
    _require(good, "The background is dark or uneven; lay the garment on a light, even one.")
    return np.moveaxis(polynomial.polygrid2d(y, x, weights.reshape(4, 4, 3)), 0, 2).clip(1 / 255)


# --- Checks of what plots and reports are given ---------------------------------------------------
def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _checked(name: str, values: ArrayLike, *shape: int | str) -> np.ndarray:
    """Return an array after checking it; in its shape, a letter is any length but 0."""
    array, wanted = np.asarray(values), ", ".join(map(str, shape))
    fits = [n == m if isinstance(m, int) else n > 0 for n, m in zip(array.shape, shape)]
    good = array.ndim == len(shape) and all(fits)
    _require(good, f"{name} must have the shape ({wanted}); it is {array.shape}.")
    if name == "probabilities":
        # 1e-3 lets pass what float16 rounds away, and stops logits and scores.
        good = array.min() >= 0 and np.abs(array.sum(axis=-1, dtype=float) - 1).max() <= 1e-3
        wanted = "non-negative and sum to 1, as softmax makes it; NaN means a diverged training"
        _require(good, f"Every row of {name} must be {wanted}. It is {array}.")
    elif len(shape) == 1:  # it holds classes
        good = array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 9
        _require(good, f"{name} must be whole numbers from 0 to 9; it is {array}.")
    return array


def _count_epochs(history: Mapping[str, Sequence[float]]) -> int:
    sizes = [len(history.get(key, ())) for key in HISTORY_KEYS]
    _require(len(set(sizes)) == 1, f"history needs equally long lists {HISTORY_KEYS}, not {sizes}.")
    _require(sizes[0], "history has no epoch yet; run the cells of the training first.")
    return sizes[0]


# --- Plots ----------------------------------------------------------------------------------------
# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
TRAINING_COLOUR = "#0072B2"
VALIDATION_COLOUR = "#D55E00"
# Points, on figures 10 inches wide: legible at the width of a web page.
STYLE = {"font.size": 11, "xtick.labelsize": 11, "ytick.labelsize": 11, "image.cmap": "gray"}
STYLE |= {"axes.titlesize": 12, "figure.titlesize": 12}
HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")


@rc_context(STYLE)
def plot_samples(images: ArrayLike, labels: ArrayLike) -> Figure:
    """Draw the first two images of each class.

    Parameters
    ----------
    images, labels : array, shapes (N, 28, 28) and (N,)
    """
    images = _checked("images", images, "N", IMAGE_SIZE, IMAGE_SIZE)
    labels = _checked("labels", labels, len(images))
    figure, grid = _grid("Two images of each class", 2, 10, height=2.6)
    for label, column in enumerate(grid.T):
        column[0].set_title(CLASS_NAMES[label])
        for axes, image in zip(column, images[labels == label]):
            axes.imshow(image)
    return figure


@rc_context(STYLE)
def plot_convolution(image: ArrayLike, kernel: ArrayLike, feature_map: ArrayLike) -> Figure:
    """Draw an image, a kernel with its weights, and their map; red is positive, blue negative.

    Parameters
    ----------
    image, kernel, feature_map : array, shapes (28, 28), (3, 3) and (28, 28)
    """
    figure, [[left, middle, right]] = _grid("", 1, 3, height=3.6)
    left.imshow(image)
    middle.imshow(**_signed(kernel))
    picture = right.imshow(**_signed(feature_map))
    figure.colorbar(picture, ax=right, shrink=0.8)
    for (row, column), weight in np.ndenumerate(kernel):
        colour = "white" if abs(weight) > 0.7 * np.abs(kernel).max() else "black"
        middle.text(column, row, f"{weight:.2g}", c=colour, size=16, ha="center", va="center")
    titles = ("the image", "the kernel: nine weights", "the map: how well it fits where")
    for axes, title in zip((left, middle, right), titles):
        axes.set_title(title)
    return figure


@rc_context(STYLE)
def plot_kernels(kernels: ArrayLike, feature_maps: ArrayLike) -> Figure:
    """Draw kernels, each above its map; red is positive, blue negative.

    Parameters
    ----------
    kernels, feature_maps : array, shapes (N, 3, 3) and (N, H, W)
    """
    kernels = _checked("kernels", kernels, "N", 3, 3)
    feature_maps = _checked("feature_maps", feature_maps, len(kernels), "H", "W")
    count = -(-len(kernels) // 8)
    title = "Kernels, each above its map; red is positive, blue negative"
    figure, grid = _grid(title, 2 * count, 8, 2.2 * count + 0.4, height_ratios=[3, 5] * count)
    for rows, pictures in ((grid[::2], kernels), (grid[1::2], feature_maps)):
        for axes, picture in zip(rows.flat, pictures):
            axes.imshow(**_signed(picture))
    return figure


@rc_context(STYLE)
def plot_prediction(image: ArrayLike, probabilities: ArrayLike, label: int | None = None) -> Figure:
    """Draw an image and its ten probabilities; the likeliest is blue, another label orange.

    Parameters
    ----------
    image, probabilities : array, shapes (28, 28) and (10,)
    label : int, optional
    """
    probabilities = _checked("probabilities", probabilities, 10)
    predicted = int(probabilities.argmax())
    figure, [[left, right]] = _grid("", 1, 2, height=4, width_ratios=[2, 3])
    left.imshow(image)
    colours = ["lightgray"] * len(CLASS_NAMES)
    if label is not None:
        _checked("label", [label], 1)
        colours[label] = TRAINING_COLOUR if label == predicted else VALIDATION_COLOUR
        left.set_title(f"label: {CLASS_NAMES[label]}", color=colours[label])
    colours[predicted] = TRAINING_COLOUR
    bars = right.barh(CLASS_NAMES, probabilities, color=colours)
    right.bar_label(bars, fmt="{:.1%}", padding=4)
    right.set_title(f"predicted: {CLASS_NAMES[predicted]}", color=TRAINING_COLOUR)
    right.set(xlabel="probability", xlim=(0, 1.12))
    right.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    right.invert_yaxis()
    right.set_axis_on()
    return figure


@rc_context(STYLE)
def plot_history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over the epochs.

    Parameters
    ----------
    history : mapping
        Equally long lists ``loss, accuracy, val_loss, val_accuracy``.
    """
    epochs = np.arange(1, _count_epochs(history) + 1)
    figure = new_figure(height=4.2)
    units = ("mean cross-entropy", "images correct")
    for axes, key, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), units):
        axes.plot(epochs, history[key], ".-", c=TRAINING_COLOUR, label="training")
        axes.plot(epochs, history[f"val_{key}"], ".--", c=VALIDATION_COLOUR, label="validation")
        axes.set(title=f"{key.capitalize()} per epoch", xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


@rc_context(STYLE)
def plot_confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike) -> Figure:
    """Draw which classes are taken for which, as counts and as shares of the true class.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
    """
    import seaborn
    from sklearn.metrics import confusion_matrix

    y_true = _checked("y_true", y_true, "N")
    y_pred = _checked("y_pred", y_pred, len(y_true))
    counts = confusion_matrix(y_true, y_pred, labels=range(len(CLASS_NAMES)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [f"{n:,}\n{share:.1%}" if n else "" for n, share in zip(counts.flat, shares.flat)]
    options = {"annot": np.reshape(texts, counts.shape), "fmt": "", "cbar": False, "square": True}
    figure = new_figure(height=9)
    axes = seaborn.heatmap(shares, vmin=0, vmax=1, cmap="Blues", ax=figure.subplots(), **options)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"Confusion matrix of {len(y_true):,} images")
    axes.set_yticklabels(CLASS_NAMES, rotation=0)
    axes.set_xticklabels(CLASS_NAMES, rotation=40, ha="right", rotation_mode="anchor")
    return figure


@rc_context(STYLE)
def plot_mistakes(
    images: ArrayLike, y_true: ArrayLike, probabilities: ArrayLike, count: int = 15
) -> Figure:
    """Draw up to `count` wrong predictions, those first that the model was surest of.

    Parameters
    ----------
    images, y_true, probabilities : array, shapes (N, 28, 28), (N,) and (N, 10)
    count : int
    """
    images = _checked("images", images, "N", IMAGE_SIZE, IMAGE_SIZE)
    y_true = _checked("y_true", y_true, len(images))
    probabilities = _checked("probabilities", probabilities, len(images), 10)
    wanted = "count must be a whole number from 1 to 1,000"
    _require(count in range(1, 1_001), f"{wanted}; it is {count!r}.")
    y_pred, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = [i for i in np.argsort(-confidence, kind="stable") if y_pred[i] != y_true[i]][:count]
    if not wrong:
        return _grid(f"All {len(y_true):,} predictions are right.", 1, 1, height=1)[0]
    rows = -(-len(wrong) // 5)
    figure, grid = _grid("The surest of the wrong predictions", rows, 5, height=2.4 * rows + 0.3)
    for axes, i in zip(grid.flat, wrong):
        axes.imshow(images[i])
        predicted = f"{CLASS_NAMES[y_pred[i]]}, {confidence[i]:.1%}"
        axes.set_title(f"{predicted}\nlabel: {CLASS_NAMES[y_true[i]]}")
    return figure


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, with the text `alt` for readers who cannot see it."""
    from IPython import display

    _require(alt.strip(), "alt is blank; say in a sentence what the figure shows.")
    figure.savefig(png := io.BytesIO(), format="png")
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    # As HTML, since neither nbconvert nor JupyterLab reads a text that comes with an image.
    picture = f'<img alt="{html.escape(alt)}" src="{source}" style="max-width: 100%"/>'
    display.display(display.HTML(picture))


def new_figure(height: float) -> Figure:
    """Return an empty figure, 10 inches wide and `height` inches high."""
    # Not by pyplot, which would keep every figure and have the notebook show it a second time.
    return Figure(figsize=(10, height), dpi=90, layout="constrained")


def _grid(title: str, rows: int, columns: int, height: float, **ratios: list) -> tuple:
    """Return a figure and its axes (rows×columns), which have neither frame nor ticks."""
    figure = new_figure(height)
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False, **ratios)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _signed(values: np.ndarray) -> dict[str, Any]:
    """Return the arguments with which imshow draws positive values red, negative blue, 0 white."""
    largest = np.abs(values).max() or 1
    return {"X": values, "cmap": "RdBu_r", "vmin": -largest, "vmax": largest}


# --- Reports --------------------------------------------------------------------------------------
class Evaluation(NamedTuple):
    """How good predicted probabilities are; see `evaluate`."""

    accuracy: float
    accuracy_ci95: tuple[float, float]  # E. B. Wilson's interval, JASA 22 (1927)
    loss: float  # mean cross-entropy
    ece: float  # expected calibration error over 15 bins of confidence, C. Guo et al., ICML 2017
    per_class_accuracy: dict[str, float | None]  # None where a class has no image


def classification_report(y_true: ArrayLike, y_pred: ArrayLike) -> str:
    """Tabulate precision, recall and F1 score of each class; ``nan`` where one is not defined.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
    """
    from sklearn import metrics

    y_true = _checked("y_true", y_true, "N")
    y_pred = _checked("y_pred", y_pred, len(y_true))
    rows = {"labels": range(len(CLASS_NAMES)), "target_names": CLASS_NAMES}
    return metrics.classification_report(y_true, y_pred, **rows, digits=3, zero_division=np.nan)


def evaluate(y_true: ArrayLike, probabilities: ArrayLike) -> Evaluation:
    """Measure how good predicted probabilities are.

    Parameters
    ----------
    y_true, probabilities : array, shapes (N,) and (N, 10)

    Raises
    ------
    ValueError
        They have other shapes, or a row of probabilities does not sum to 1.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import log_loss

    y_true = _checked("y_true", y_true, "N")
    probabilities = _checked("probabilities", probabilities, len(y_true), 10)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    correct, confidence = probabilities.argmax(axis=1) == y_true, probabilities.max(axis=1)
    low, high = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    loss = log_loss(y_true, probabilities, labels=range(len(CLASS_NAMES)))
    gaps = np.bincount(np.minimum(confidence * 15, 14).astype(int), weights=correct - confidence)
    ece = np.abs(gaps).sum() / len(correct)
    by_class = [correct[y_true == label] for label in range(len(CLASS_NAMES))]
    shares = [float(part.mean()) if len(part) else None for part in by_class]
    figures = float(correct.mean()), (float(low), float(high)), float(loss), float(ece)
    return Evaluation(*figures, dict(zip(CLASS_NAMES, shares)))


# --- What surrounds a run -------------------------------------------------------------------------
class Stopwatch:
    """Add up the seconds spent in ``with`` blocks, also in one that is interrupted."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Set TensorFlow up for speed and silence around ``import keras, tensorflow``."""
    # Intel's oneDNN makes the training faster; TensorFlow uses it by itself on newer processors.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It writes its first messages before it reads that level (tensorflow issue 100442).
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with contextlib.suppress(OSError):  # a service may have no standard error to silence
            stack.callback(os.close, stderr := os.dup(2))
            stack.callback(os.dup2, stderr, 2)
            os.dup2(stack.enter_context(Path(os.devnull).open("wb")).fileno(), 2)
        yield


def installed(*packages: str) -> bool:
    """Tell whether all `packages` can be imported; if not, print which are missing.

    In Colab they are installed first, and all that is there keeps its version.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and "google.colab" in sys.modules:
        pip = [sys.executable, "-m", "pip"]
        constraints = Path(tempfile.mkdtemp(), "constraints.txt")
        constraints.write_bytes(subprocess.check_output([*pip, "list", "--format=freeze"]))
        command = [*pip, "install", "--quiet", "--constraint", str(constraints), *missing]
        done = subprocess.run(command, capture_output=True, text=True)
        importlib.invalidate_caches()
        if done.returncode == 0:
            return True
        print(f"{' '.join(missing)} cannot be installed beside what is here: {done.stderr.strip()}")
    if missing:
        print(f"This step is skipped. `pip install {' '.join(missing)}` brings what it needs.")
    return not missing


def processor() -> str:
    """Return the name of the processor's model."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, where not every processor's model is named
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return model[1] if model else platform.processor()


# --- The record of an export ----------------------------------------------------------------------
EXPORTED = ("model.pt", "model.keras", "model.onnx", "predictions.npz")  # and metrics.json


def export_folder(path: StrPath) -> Path:
    """Return a folder for an export, created if need be, without the files of an earlier export."""
    folder = Path(path).expanduser()
    with _writing_to(folder, "EXPORT_DIR"):
        for name in ("metrics.json", *EXPORTED):
            (folder / name).unlink(missing_ok=True)
    return folder


def save_record(
    folder: StrPath,
    *,
    framework: str,
    framework_version: str,
    device: str,
    parameters: int,
    training_seconds: float,
    history: Mapping[str, Sequence[float]],
    validation: Evaluation,
    test: Evaluation,
    test_predictions: ArrayLike,
    settings: Mapping[str, Any],
) -> None:
    """Add predictions and ``metrics.json`` to the model files of an export.

    Parameters
    ----------
    folder : path, as `export_folder` has returned it
    history : mapping, as for `plot_history`
    settings : mapping of numbers, texts, paths and lists; ``seed`` and ``batch_size`` are a must

    Raises
    ------
    KeyError, TypeError, ValueError : something is missing or makes no sense; nothing is written
    """
    folder, settings, epochs = Path(folder).expanduser(), dict(settings), _count_epochs(history)
    labels = _checked("test_predictions", test_predictions, "N")
    # A process may have fewer cores than the machine.
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    record: dict[str, Any] = {"framework": framework, "framework_version": framework_version}
    record |= {"device": device, "parameters": parameters, "training_seconds": training_seconds}
    record |= {"seconds_per_epoch": training_seconds / epochs, "epochs": epochs}
    record |= {key: settings.pop(key) for key in ("seed", "batch_size")} | {"settings": settings}
    record |= {"validation": {"accuracy": validation.accuracy, "loss": validation.loss}}
    record |= {"test": test._asdict(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    record |= {"processor": processor(), "cpu_cores": len(affinity(0))}
    record |= {"system": f"{platform.system()} {platform.machine()}", "data_sha256": DATA_SHA256}
    record |= {"python_version": platform.python_version(), "numpy_version": np.__version__}
    record |= {"history": {key: [*map(float, history[key])] for key in HISTORY_KEYS}}
    json.dumps(record, allow_nan=False, default=os.fspath)  # fails before anything is written
    with _writing_to(folder, "EXPORT_DIR"):
        np.savez_compressed(folder / "predictions.npz", test=labels.astype(np.uint8))
        files = [folder / name for name in EXPORTED if (folder / name).exists()]
        if (onnx_file := folder / "model.onnx") in files:
            import onnx

            model = onnx.load(onnx_file)
            for node in model.graph.node:  # PyTorch notes paths of this machine there
                node.ClearField("metadata_props")
            onnx.save(model, onnx_file)
        record["files_sha256"] = {file.name: pooch.file_hash(str(file)) for file in files}
        write_json(folder / "metrics.json", record)
    print(f"Exported to {folder}: {', '.join([*record['files_sha256'], 'metrics.json'])}.")


def load_metrics(folder: StrPath) -> dict[str, Any]:
    """Read the ``metrics.json`` of an exported model."""
    return json.loads((Path(folder).expanduser() / "metrics.json").read_text(encoding="utf-8"))


def verified_model_file(path: StrPath) -> Path:
    """Return a model file's path; ValueError unless ``metrics.json`` beside it has its SHA-256."""
    path = Path(path).expanduser()
    sha256 = load_metrics(path.parent)["files_sha256"].get(path.name)
    good = path.is_file() and pooch.file_hash(str(path)) == sha256
    _require(good, f"{path} is not the file of which metrics.json has the SHA-256.")
    return path


def write_json(path: StrPath, content: dict | list) -> None:
    """Write a JSON file that appears whole or not at all; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, allow_nan=False, default=os.fspath) + "\n"
    _write_atomically(Path(path).expanduser(), text.encode())


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing_to(folder: Path, setting: str) -> Iterator[None]:
    """Create a folder, and give errors of writing to it their reason and the way out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # fails if it is there, but read-only
        yield
    except OSError as error:
        file = next((p for p in (folder, *folder.parents) if os.path.isfile(p)), None)  # noqa: PTH113
        reason = f"{file} is a file" if file else error.strerror or error
        message = f"{folder} cannot be written ({reason}). {setting} chooses another folder."
        raise OSError(error.errno, message) from error
