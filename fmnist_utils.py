"""What both Fashion-MNIST notebooks do the same way: data, plots, reports, the record of an export.

NumPy arrays go in, figures and tables come out. The module imports neither torch nor tensorflow, so
that either notebook runs without the other's framework. What a reader came to learn (the model, the
training loop, the optimizer) is not here but in the notebooks. A name means the same everywhere:

images : array, shape (N, 28, 28)
    Grey values of any range; the smallest is drawn black.
labels, y_true, y_pred : array of int, shape (N,)
    Class numbers, 0–9; the true and the predicted ones.
probabilities : array of float, shape (N, 10)
    The predicted probability of each class; rows sum to 1.
history : mapping
    Equally long lists ``loss, accuracy, val_loss, val_accuracy``, one entry per epoch.
"""

import contextlib
import gzip
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import pooch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter
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
HOW_TO_GET_THE_DATA = f"""Fashion-MNIST is not complete in {{raw}} (missing: {{names}}),
and no source has it. Any one of these brings it:
  - Debian, Ubuntu: sudo apt-get install dataset-fashion-mnist, which puts it in {DEBIAN_FOLDER}
  - copy the four files, compressed (.gz) or not, from another computer into {{raw}}
  - connect to the Internet and run this again; the mirrors are {" and ".join(MIRRORS)}
  - behind a proxy, or with a certificate of your own, first set the environment variables
    HTTPS_PROXY or REQUESTS_CA_BUNDLE, which are obeyed
"""


class Split(NamedTuple):
    """Images (uint8, N×28×28, 0 is the black background) and their labels (int64, N, 0–9)."""

    images: np.ndarray
    labels: np.ndarray


class FashionMNIST(NamedTuple):
    """The three parts of the data set, each a `Split`."""

    train: Split
    validation: Split
    test: Split


def fetch_fashion_mnist(root: StrPath = "data") -> Path:
    """Return the folder with the four raw files of Fashion-MNIST, decompressed and verified.

    It is ``root/FashionMNIST/raw``, where torchvision looks for them. A file that is there and has
    the right SHA-256 is kept. A damaged one is renamed, never deleted, and replaced. What is
    missing is taken from the copy of Debian's package ``dataset-fashion-mnist`` when there is one
    (installed in the system, or unpacked in `root`), else from the official mirrors. Several
    processes may call this at the same time. An error says what to do.
    """
    raw = Path(root) / "FashionMNIST" / "raw"
    if not _names_to_fetch(raw):
        return raw
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(raw / ".lock"):
            _fetch_missing(Path(root), raw)
    except OSError as error:
        if error.errno is None:  # no source has it; the message is complete
            raise
        place = next(path for path in (raw, *raw.parents) if os.path.lexists(path))
        reason = f"cannot be written ({error.strerror})" if place.is_dir() else "is a file"
        raise type(error)(
            f"The data cannot be put into {raw}: {place} {reason}. The environment variable "
            "FMNIST_DATA, or the setting DATA_DIR, chooses another folder."
        ) from error
    return raw


def load_fashion_mnist(root: StrPath = "data", validation_size: int = 5_000) -> FashionMNIST:
    """Load Fashion-MNIST as NumPy arrays, split into training, validation and test images.

    `fetch_fashion_mnist` brings the files to the folder `root`, and its errors pass through.
    `validation_size` of the 60,000 training images are held out, the same ones in every run. Every
    class has the same share in them.
    """
    from sklearn.model_selection import train_test_split

    raw = fetch_fashion_mnist(root)
    images, labels = _read(raw, "train")
    rows = np.arange(len(labels))
    parts = train_test_split(rows, test_size=validation_size, stratify=labels, random_state=42)
    train, validation = (Split(images[part], labels[part]) for part in map(np.sort, parts))
    return FashionMNIST(train, validation, test=_read(raw, "t10k"))


def _read(raw: Path, part: str) -> Split:
    images = np.fromfile(raw / f"{part}-images-idx3-ubyte", dtype=np.uint8, offset=16)
    labels = np.fromfile(raw / f"{part}-labels-idx1-ubyte", dtype=np.uint8, offset=8)
    return Split(images.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), labels.astype(np.int64))


def _has_sha256(path: Path, sha256: str) -> bool:
    return path.is_file() and pooch.file_hash(str(path), alg="sha256") == sha256


def _names_to_fetch(raw: Path) -> list[str]:
    return [name for name, sha256 in DATA_SHA256.items() if not _has_sha256(raw / name, sha256)]


def _fetch_missing(root: Path, raw: Path) -> None:
    """Bring every file that is absent or damaged; the caller holds the lock of `raw`."""
    names, problems = _names_to_fetch(raw), []
    for name in names:
        if (raw / name).exists():
            _set_aside(raw / name)
    for source in (raw, root / DEBIAN_FOLDER.relative_to("/"), DEBIAN_FOLDER, *MIRRORS):
        names = _left_by(source, names, raw, problems)
    if names:
        tried = "\n  - ".join(["What was tried:", *problems])
        raise FileNotFoundError(HOW_TO_GET_THE_DATA.format(raw=raw, names=", ".join(names)) + tried)


def _set_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    warnings.warn(
        f"{path} is damaged (its SHA-256 is wrong); it was renamed to {aside.name}.", stacklevel=4
    )


def _left_by(source: Path | str, names: list[str], raw: Path, problems: list[str]) -> list[str]:
    """Take `names` from a folder or a mirror until one is bad; return those still missing."""
    absent, is_mirror = [], isinstance(source, str)
    for position, name in enumerate(names):
        archive = raw / f".{name}.gz.partial" if is_mirror else source / f"{name}.gz"
        try:
            if is_mirror:
                _download(f"{source}{name}.gz", archive)
            _unpack(archive, raw / name)
        except FileNotFoundError:
            absent.append(name)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            problems.append(f"{source}: {error}")
            return [*absent, *names[position:]]
        finally:
            if is_mirror:
                archive.unlink(missing_ok=True)
    return absent


def _download(url: str, path: Path) -> None:
    # pooch sets the right total; without any, the bar has no truth value for pooch to test.
    bar = {"total": 1, "unit": "B", "unit_scale": True, "file": sys.stdout, "leave": False}
    with tqdm(desc=url.rpartition("/")[2], **bar) as progress:
        download = pooch.HTTPDownloader(progressbar=progress, timeout=CONNECT_AND_READ_TIMEOUT)
        download(url, str(path), None)


def _unpack(archive: Path, target: Path) -> None:
    """Decompress into a temporary file and move it into place only when its checksum fits."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with gzip.open(archive) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        if not _has_sha256(partial, DATA_SHA256[target.name]):
            raise ValueError(f"{archive.name} has another SHA-256 than the genuine {target.name}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


# --- Photos ---------------------------------------------------------------------------------------
LEAST_DARKNESS = 0.08  # of a garment against its background, on which black has 1


def prepare_photo(photo: StrPath | Image.Image) -> np.ndarray:
    """Turn a photo of one garment on a light background into an image as Fashion-MNIST has them.

    The seven steps of section 2 of the Fashion-MNIST paper [1]_: decode, trim the background,
    resize the longer side to 28 pixels, sharpen, pad the shorter side, negate, convert to grey.
    Before they begin, a large photo is reduced, and uneven light is evened out. The orientation
    (EXIF) is heeded, and transparency becomes white. The result is uint8, 28×28, light on black.

    References
    ----------
    .. [1] H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking
       machine learning algorithms, arXiv 1708.07747 (2017).
    """
    picture = _decoded_photo(photo)
    picture.thumbnail((20 * IMAGE_SIZE, 20 * IMAGE_SIZE))
    light = np.asarray(picture) * (255 / _background(picture))
    even = Image.fromarray(light.clip(0, 255).round().astype(np.uint8))
    darkness = Image.fromarray((255 * _distance(np.asarray(even), 255.0)).astype(np.uint8))
    without_noise = darkness.filter(ImageFilter.MedianFilter(5))
    box = without_noise.point(lambda value: value > 255 * LEAST_DARKNESS).getbbox()
    if box is None:
        raise ValueError("The photo shows nothing but its background.")
    trimmed = even.crop(box)
    scale = IMAGE_SIZE / max(trimmed.size)
    size = [max(1, round(length * scale)) for length in trimmed.size]
    resized = trimmed.resize(size, Image.Resampling.LANCZOS)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0))
    padded = ImageOps.pad(sharpened, (IMAGE_SIZE, IMAGE_SIZE), color="white")
    return np.array(ImageOps.invert(padded).convert("L"))


def _decoded_photo(photo: StrPath | Image.Image) -> Image.Image:
    """Return a photo upright, in RGB, with white where it was transparent."""
    try:
        picture = photo if isinstance(photo, Image.Image) else Image.open(photo)
        picture = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise ValueError(f"{photo} is not a picture; JPEG, PNG and WebP work.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{photo} is too large a picture; make it smaller first.") from error
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _background(picture: Image.Image) -> np.ndarray:
    """Return what the photo would be without a garment (height×width×3): a smooth surface.

    A garment may touch the border. So a quadratic is fitted to the lighter half of the border,
    then to the half that fits it best. From there, a quartic grows inwards over all that is nearly
    as light.
    """
    cells = np.asarray(picture.resize((40, 40), Image.Resampling.BOX), dtype=np.float64)
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    border, light = np.maximum(abs(x), abs(y)) > 0.9, cells.mean(axis=2)
    known = border & (light >= np.median(light[border]))
    for step in range(14):
        degree = 2 if step < 9 else 4
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        terms = np.stack([x**i * y**j for i, j in powers], axis=2)
        surface = terms @ np.linalg.lstsq(terms[known], cells[known], rcond=None)[0]
        error = _distance(cells, surface)
        half = max(np.median(error[border]), 0.01)
        known = border & (error <= half) if step < 8 else error < LEAST_DARKNESS
    if surface.mean() < 128 or np.median(error[border]) > LEAST_DARKNESS:
        raise ValueError("The background is dark or uneven; lay the garment on a light, even one.")
    channels = [Image.fromarray(surface[..., i].astype(np.float32)) for i in range(3)]
    return np.stack([np.asarray(c.resize(picture.size)) for c in channels], axis=2).clip(1)


def _distance(pixels: np.ndarray, others: np.ndarray | float) -> np.ndarray:
    """Return how far colours are from one another; from black to white it is 1."""
    return np.sqrt(np.square(pixels - others).mean(axis=2)) / 255


# --- Checks of what plots and reports are given ---------------------------------------------------
def _checked(**arrays: ArrayLike) -> list[np.ndarray]:
    """Return the arrays after checking each by its name, and that all are equally long."""
    shapes = dict.fromkeys(("images", "before", "after"), (IMAGE_SIZE, IMAGE_SIZE))
    shapes["probabilities"] = (len(CLASS_NAMES),)
    found = {name: np.asarray(values) for name, values in arrays.items()}
    for name, values in found.items():
        shape = shapes.get(name, ())
        if values.ndim != 1 + len(shape) or values.shape[1:] != shape or not len(values):
            wanted = ", ".join(map(str, ("N", *shape)))
            raise ValueError(f"{name} must have the shape ({wanted}); it is {values.shape}.")
        if not shape and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 9):
            raise ValueError(f"{name} must be whole numbers from 0 to 9; it is {values}.")
        # 1e-3 lets pass what float16 rounds away, and stops logits and unnormalised scores.
        if name == "probabilities" and not (
            values.min() >= 0 and np.abs(values.sum(axis=1, dtype=float) - 1).max() <= 1e-3
        ):
            raise ValueError(
                "Every row of probabilities must be non-negative and sum to 1, as softmax makes "
                f"it. NaN means that the training diverged. It is {values}."
            )
    if len({len(values) for values in found.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(values):,}" for name, values in found.items())
        raise ValueError(f"One entry per image is needed in each: {lengths}.")
    return list(found.values())


def _count_epochs(history: Mapping[str, Sequence[float]]) -> int:
    lengths = [len(history.get(key, ())) for key in HISTORY_KEYS]
    if len(set(lengths)) > 1:
        raise ValueError(f"history needs equally long lists {HISTORY_KEYS}, not {lengths}.")
    if not lengths[0]:
        raise ValueError("history has no epoch yet; run the cells of the training first.")
    return lengths[0]


# --- Plots ----------------------------------------------------------------------------------------
# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
TRAINING_COLOUR = "#0072B2"
VALIDATION_COLOUR = "#D55E00"
FONT_SIZE = 11  # points, on figures 10 inches wide: legible at the width of a web page
HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")


def plot_samples(images: ArrayLike, labels: ArrayLike, count: int = 20) -> Figure:
    """Draw the first `count` images in rows of ten, each titled with the name of its class."""
    images, labels = _checked(images=images, labels=labels)
    names = [CLASS_NAMES[label] for label in labels[:count]]
    return _gallery("Images and their classes", images, names, columns=10)


def plot_augmented(before: ArrayLike, after: ArrayLike) -> Figure:
    """Draw the first ten images, and below each what the augmentation made of it."""
    before, after = (images[:10] for images in _checked(before=before, after=after))
    columns = len(before)
    images, titles = np.concatenate([before, after]), [""] * 2 * columns
    figure = _gallery("The same images before and after augmentation", images, titles, columns)
    for axes, text in zip(figure.axes[::columns], ("before", "after")):
        axes.text(-3, 14, text, rotation=90, ha="right", va="center")
    return _legible(figure)


def plot_convolution(image: ArrayLike, kernel: ArrayLike, feature_map: ArrayLike) -> Figure:
    """Draw a 28×28 image, a 3×3 kernel with its weights, and the two-dimensional map of both.

    Red is positive and blue negative, in the kernel and in the map.
    """
    [[image]], kernel = _checked(images=[image]), np.asarray(kernel)
    if kernel.shape != (3, 3):
        raise ValueError(f"kernel must have the shape (3, 3); it is {kernel.shape}.")
    figure = new_figure(height=3.6)
    left, middle, right = figure.subplots(1, 3)
    left.imshow(image, cmap="gray")
    for axes, values in ((middle, kernel), (right, feature_map)):
        largest = np.abs(values).max()
        picture = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    figure.colorbar(picture, ax=right, shrink=0.8)
    for (row, column), weight in np.ndenumerate(kernel):
        colour = "white" if abs(weight) > 0.7 * np.abs(kernel).max() else "black"
        middle.text(column, row, f"{weight:.2g}", c=colour, size=16, ha="center", va="center")
    titles = ("the image", "the kernel: nine weights", "the map: how well it fits where")
    for axes, title in zip((left, middle, right), titles):
        axes.set(title=title, xticks=[], yticks=[])
    return _legible(figure)


def plot_prediction(image: ArrayLike, probabilities: ArrayLike, label: int | None = None) -> Figure:
    """Draw an image (28×28), and its ten probabilities as bars.

    The likeliest class has one colour. The class `label`, if it is another, has the other one.
    """
    [image], [probabilities] = _checked(images=[image], probabilities=[probabilities])
    predicted = int(probabilities.argmax())
    figure = new_figure(height=4)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    left.imshow(image, cmap="gray")
    left.set_axis_off()
    colours = ["lightgray"] * len(CLASS_NAMES)
    if label is not None:
        colours[label] = TRAINING_COLOUR if label == predicted else VALIDATION_COLOUR
        left.set_title(f"label: {CLASS_NAMES[label]}", color=colours[label])
    colours[predicted] = TRAINING_COLOUR
    bars = right.barh(CLASS_NAMES, probabilities, color=colours)
    right.bar_label(bars, [f"{share:.1%}" for share in probabilities], padding=4)
    right.set_title(f"predicted: {CLASS_NAMES[predicted]}", color=TRAINING_COLOUR)
    right.set(xlabel="probability", xlim=(0, 1.12), xticks=np.linspace(0, 1, 6))
    right.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    right.invert_yaxis()
    return _legible(figure)


def plot_history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over the epochs, training solid and validation dashed."""
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
    return _legible(figure)


def plot_confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw which classes are taken for which, in a new figure or on `ax`.

    The cells hold counts and shares of the true class; the colour is the share.
    """
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    y_true, y_pred = _checked(y_true=y_true, y_pred=y_pred)
    counts = confusion_matrix(y_true, y_pred, labels=range(len(CLASS_NAMES)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = ax or new_figure(height=9).subplots()
    display = ConfusionMatrixDisplay(shares, display_labels=CLASS_NAMES)
    display.plot(ax=ax, cmap="Blues", im_kw={"vmin": 0, "vmax": 1}, colorbar=False)
    for text, count, share in zip(display.text_.flat, counts.flat, shares.flat):
        text.set_text(f"{count:,}\n{share:.1%}" if count else "")
        text.set_color("white" if share > 0.7 else "black")  # what stands out more from the blue
    ax.set_title(f"Confusion matrix of {len(y_true):,} images")
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_xticklabels(CLASS_NAMES, rotation=40, ha="right", rotation_mode="anchor")
    return _legible(ax.get_figure())


def plot_mistakes(
    images: ArrayLike, y_true: ArrayLike, probabilities: ArrayLike, count: int = 15
) -> Figure:
    """Draw the `count` wrong predictions that the model was surest of, the surest first.

    Each has the predicted class, its probability, and the class that the label says.
    """
    images, y_true, probabilities = _checked(
        images=images, y_true=y_true, probabilities=probabilities
    )
    y_pred, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(y_pred != y_true)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    if not len(wrong):
        figure = new_figure(height=1)
        figure.suptitle(f"All {len(y_true):,} predictions are right.")
        return figure
    titles = [
        f"{CLASS_NAMES[y_pred[i]]}, {confidence[i]:.1%}\nlabel: {CLASS_NAMES[y_true[i]]}"
        for i in surest
    ]
    return _gallery("The surest of the wrong predictions", images[surest], titles, columns=5)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, with the text `alt` for readers who cannot see it."""
    from IPython import display

    if not alt.strip():
        raise ValueError("alt is blank; say in a sentence what the figure shows.")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    # Image(alt=...) stores the same, but IPython 7, which Colab has, does not know it.
    display.display(display.Image(picture.getvalue(), metadata={"alt": alt}))


def new_figure(height: float) -> Figure:
    """Return an empty figure, 10 inches wide and `height` inches high."""
    # Not by pyplot, which would keep every figure and have the notebook show it a second time.
    return Figure(figsize=(10, height), dpi=90, layout="constrained")


def _gallery(title: str, images: np.ndarray, titles: Sequence[str], columns: int) -> Figure:
    if not titles:
        raise ValueError("count must be at least 1.")
    rows = -(-len(titles) // columns)
    lines = len(titles[0].splitlines())
    figure = new_figure(height=rows * (10 / columns + 0.2 * lines) + 0.3)
    figure.suptitle(title)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, image, text in zip(grid.flat, images, titles):
        axes.imshow(image, cmap="gray")
        axes.set_title(text)
    return _legible(figure)


def _legible(figure: Figure) -> Figure:
    """Raise small texts to a size that is legible."""
    for axes in figure.axes:
        axes.tick_params(labelsize=FONT_SIZE)
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), FONT_SIZE))
    return figure


# --- Reports --------------------------------------------------------------------------------------
CALIBRATION_BINS = 15


class Evaluation(NamedTuple):
    """How good predicted probabilities are; see `evaluate`."""

    accuracy: float
    accuracy_ci95: tuple[float, float]
    loss: float
    ece: float
    per_class_accuracy: dict[str, float | None]


def classification_report(y_true: ArrayLike, y_pred: ArrayLike) -> str:
    """Tabulate precision, recall and F1 score of each class by name, with scikit-learn.

    All ten classes have their row. A figure that is not defined, because a class is absent or never
    predicted, is ``nan`` and is left out of the averages.
    """
    from sklearn import metrics

    y_true, y_pred = _checked(y_true=y_true, y_pred=y_pred)
    rows = {"labels": range(len(CLASS_NAMES)), "target_names": CLASS_NAMES}
    return metrics.classification_report(y_true, y_pred, **rows, digits=3, zero_division=np.nan)


def most_confused(y_true: ArrayLike, y_pred: ArrayLike) -> list[tuple[str, str, int]]:
    """List true class, predicted class and count of the confusions, the most frequent first."""
    y_true, y_pred = _checked(y_true=y_true, y_pred=y_pred)
    wrong = y_true != y_pred
    pairs = Counter(zip(y_true[wrong].tolist(), y_pred[wrong].tolist()))
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(CLASS_NAMES[a], CLASS_NAMES[b], count) for (a, b), count in ranked]


def evaluate(y_true: ArrayLike, probabilities: ArrayLike) -> Evaluation:
    """Measure how good predicted probabilities are.

    Returns
    -------
    Evaluation
        ``accuracy``; ``accuracy_ci95``, its 95 % Wilson score interval [1]_; ``loss``, the mean of
        ``-log(probability of the true class)``; ``ece``, the expected calibration error over 15
        equally wide bins of confidence, ``sum over bins of (images in bin / N) * |accuracy in bin -
        mean confidence in bin|`` [2]_; ``per_class_accuracy`` by class name, None where a class has
        no image.

    References
    ----------
    .. [1] E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA
       22 (1927).
    .. [2] C. Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import log_loss

    y_true, probabilities = _checked(y_true=y_true, probabilities=probabilities)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    correct, confidence = (probabilities.argmax(axis=1) == y_true, probabilities.max(axis=1))
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence)
    return Evaluation(
        accuracy=float(correct.mean()),
        accuracy_ci95=(float(interval.low), float(interval.high)),
        loss=float(log_loss(y_true, probabilities, labels=range(len(CLASS_NAMES)))),
        ece=float(np.abs(gaps).sum() / len(correct)),
        per_class_accuracy={
            name: float(correct[y_true == label].mean()) if label in y_true else None
            for label, name in enumerate(CLASS_NAMES)
        },
    )


# --- What surrounds a run -------------------------------------------------------------------------
class Stopwatch:
    """Add up the seconds spent in ``with`` blocks, also in one that is interrupted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Set TensorFlow up for speed and silence around ``import keras, tensorflow``.

    Its start-up messages come before its log level is obeyed (tensorflow issue 100442), so that
    only dropping the process's standard error stops them. Exceptions still come through.
    """
    # Intel's oneDNN makes the training faster; TensorFlow uses it by itself on newer processors.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with contextlib.suppress(OSError):  # a service may have no standard error to silence
            saved = os.dup(2)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, 2)
            if sys.stderr is not None:
                sys.stderr.flush()
                stack.callback(sys.stderr.flush)
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield


def installed(*packages: str) -> bool:
    """Tell whether all `packages` can be imported; if not, print which are missing."""
    if missing := " ".join(_missing(packages)):
        print(f"This step is skipped. `pip install {missing}` brings what it needs.")
    return not missing


def install_on_colab(*packages: str) -> None:
    """Install those of `packages` that are missing in Colab, and change nothing else.

    All that is installed is given to pip as constraints. If that leaves no way, a sentence says so.
    """
    missing = _missing(packages)
    if not missing or "google.colab" not in sys.modules:
        return
    pip = [sys.executable, "-m", "pip"]
    frozen = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_bytes(frozen)
        command = [*pip, "install", "--quiet", "--constraint", str(constraints), *missing]
        done = subprocess.run(command, capture_output=True, text=True)
    importlib.invalidate_caches()
    if done.returncode:
        print(f"{' '.join(missing)} cannot be installed beside what is here: {done.stderr.strip()}")


def _missing(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


# --- The record of an export ----------------------------------------------------------------------
LEAST_ACCURACY = 0.85  # of a full run on the validation images; less means that something is wrong
# What Keras 3.15 writes and Keras 3.13 does not know, with the values that mean "as before".
NEW_KERAS_SETTINGS = {
    **{"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99},  # batch normalization
    **{"input_axes": None, "output_axes": None},  # Glorot's initializer
}


class Export:
    """Collect the files of a run in a temporary folder, and publish all of them at once.

    A full run goes to `destination`, such as ``models/pytorch``, and a shorter one nowhere;
    `export_dir`, where given, takes either. `epochs` is how many were trained.
    """

    def __init__(
        self, destination: StrPath, epochs: int, full_run: int, export_dir: StrPath | None = None
    ) -> None:
        self.epochs, self.full_run = epochs, full_run
        self.destination, self.export_dir = destination, export_dir
        self._folder = Path(tempfile.mkdtemp(prefix="fmnist-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """The folder to export into; it is removed by `finish`, at the latest when Python ends."""
        if not self._remove.alive:
            raise RuntimeError("This export is finished; run its cells again, from the first on.")
        return self._folder

    def finish(
        self,
        *,
        test: Evaluation,
        validation: Evaluation,
        history: Mapping[str, Sequence[float]],
        run: Mapping[str, Any],
        test_predictions: ArrayLike,
        figures: Mapping[str, Figure],
    ) -> None:
        """Add predictions, figures and ``metrics.json`` to the folder, and publish it.

        `run` has ``framework`` ("PyTorch" or "TensorFlow"), ``device``, ``parameters`` (how many),
        ``training_seconds`` and ``settings``, a mapping with ``SEED`` and ``BATCH_SIZE``. The keys
        of `figures` are the names of their files.
        """
        is_full = self.epochs >= self.full_run
        if is_full and validation.accuracy < LEAST_ACCURACY:
            raise RuntimeError(
                f"After a full run, {validation.accuracy:.1%} of the validation images are right; "
                "something is wrong with the data, the settings or the versions. Nothing is kept."
            )
        (labels,) = _checked(test_predictions=test_predictions)
        np.savez_compressed(self.folder / "predictions.npz", test=labels.astype(np.uint8))
        for name, figure in figures.items():
            figure.savefig(self.folder / f"{name}.png")
        for path in self.folder.glob("*.onnx"):
            _remove_folders(path)
        path = self.folder / "metrics.json"
        save_metrics(path, test, validation=validation, history=history, run=run)
        if self.export_dir or is_full:
            self._publish(Path(self.export_dir or self.destination))
        else:
            kept = "stays as it was; EXPORT_DIR keeps shorter runs, too."
            print(f"Trained for {self.epochs} of {self.full_run} epochs: {self.destination} {kept}")
        self._remove()

    def _publish(self, destination: Path) -> None:
        """Copy all files beside their final names, then rename them.

        A run that is killed, whenever, leaves each earlier file whole.
        """
        copies = {}
        try:
            destination.mkdir(parents=True, exist_ok=True)
            for source in sorted(self.folder.iterdir()):
                copies[source.name] = destination / f".{source.name}.partial"
                shutil.copyfile(source, copies[source.name])
            for name, copy in copies.items():
                copy.replace(destination / name)
        except OSError as error:
            self._remove.detach()
            raise type(error)(
                f"{destination} cannot be written ({error.strerror}); the export is kept in "
                f"{self._folder}. Copy it from there, or name another folder in EXPORT_DIR."
            ) from error
        finally:
            for copy in copies.values():
                copy.unlink(missing_ok=True)
        print(f"Exported to {destination}: {', '.join(copies)}.")


def _remove_folders(path: Path) -> None:
    """Remove from an ONNX file the lines of code its operators come from, which name folders."""
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        node.ClearField("metadata_props")
    onnx.save(model, path)


def save_metrics(
    path: StrPath,
    evaluation: Evaluation,
    *,
    validation: Evaluation,
    history: Mapping[str, Sequence[float]],
    run: Mapping[str, Any],
) -> None:
    """Write ``metrics.json``: what was measured, and what another person needs to measure it again.

    The file appears whole or not at all; an earlier one stays until then. It has the SHA-256 of the
    other files in its folder. `evaluation` is that of the test images; the rest is as for
    `Export.finish`.
    """
    path, epochs = Path(path), _count_epochs(history)
    settings = {name.lower(): value for name, value in run["settings"].items()}
    package = {"PyTorch": "torch"}.get(run["framework"], run["framework"].lower())
    files = sorted(file for file in path.parent.glob("[!.]*") if file.is_file() and file != path)
    record = {
        **{key: run[key] for key in ("framework", "device", "parameters", "training_seconds")},
        "framework_version": importlib.metadata.version(package),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": settings.pop("seed"),
        "epochs": epochs,
        "batch_size": settings.pop("batch_size"),
        "validation": {"accuracy": validation.accuracy, "loss": validation.loss},
        "test": evaluation._asdict(),
        "seconds_per_epoch": run["training_seconds"] / epochs,
        "settings": settings,
        "processor": _processor(),
        "cpu_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python_version": platform.python_version(),
        "numpy_version": np.__version__,
        "history": {key: list(history[key]) for key in HISTORY_KEYS},
        "data_sha256": DATA_SHA256,
        "files_sha256": {file.name: pooch.file_hash(str(file)) for file in files},
    }
    write_json(path, record)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, which has not every processor's model name there
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return model[1] if model else platform.processor()


def make_keras_file_portable(path: StrPath) -> None:
    """Remove from a ``.keras`` file the settings that Keras 3.13 does not know.

    An error says so if one of them is in use, that is, has another value than the usual one.
    """

    def older(config: dict[str, Any]) -> dict[str, Any]:
        for name, usual in NEW_KERAS_SETTINGS.items():
            if config.pop(name, usual) != usual:
                raise ValueError(f"{path} uses {name}, which Keras 3.13 does not know.")
        return config

    content = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(content, "w") as sink:
        for member in source.infolist():
            part = source.read(member)
            if member.filename == "config.json":
                part = json.dumps(json.loads(part, object_hook=older)).encode()
            sink.writestr(member, part)
    write_atomically(Path(path), content.getvalue())


def verified_model_file(path: StrPath) -> Path:
    """Return a model file's path after checking it against the ``metrics.json`` beside it."""
    path = Path(path)
    expected = load_metrics(path.parent)["files_sha256"].get(path.name, "")
    if not _has_sha256(path, expected):
        raise ValueError(f"{path} is not the file of which metrics.json has the SHA-256.")
    return path


def load_metrics(folder: StrPath) -> dict[str, Any]:
    """Read the ``metrics.json`` of an exported model."""
    return json.loads(Path(folder, "metrics.json").read_text(encoding="utf-8"))


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file that appears whole or not at all; NaN and infinity are refused."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, with the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
