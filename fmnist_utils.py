"""What both Fashion-MNIST notebooks do the same way: data, plots, reports, export records.

NumPy arrays go in, figures and tables come out. The module imports neither torch nor tensorflow, so
that either notebook runs without the other's framework. What a reader came to learn (the model, the
training loop, the optimizer) is not here but in the notebooks.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import platform
import shutil
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import numpy as np
import pooch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from tqdm import tqdm

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    StrPath = str | os.PathLike[str]

# -------------------------------------------------------------------------------------------------
# Data
# -------------------------------------------------------------------------------------------------

CLASS_NAMES = (
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

IMAGE_SIZE = 28  # pixels, in both directions

DATA_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The four files of the data set, decompressed, and their checksums."""

MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's and Ubuntu's package dataset-fashion-mnist installs its copy."""

CONNECT_AND_READ_TIMEOUT = (5, 20)  # seconds without an answer before a mirror is given up

SPLIT_SEED = 42  # fixed, so that every run and both notebooks validate on the same images


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
    """Make sure that the four raw files of Fashion-MNIST are there, decompressed and verified.

    They lie in ``root/FashionMNIST/raw``, where torchvision looks for them. A file that is there
    and has the right SHA-256 is kept. A damaged one is renamed, never deleted, and replaced. What
    is missing is taken from the copy of Debian's package ``dataset-fashion-mnist`` when there is
    one (installed in the system, or unpacked in `root`), else from the official mirrors. Several
    processes may call this at the same time.

    Parameters
    ----------
    root : path
        Folder for data sets; the same `root` that ``torchvision.datasets.FashionMNIST`` takes.

    Returns
    -------
    Path
        The folder with the four files.

    Raises
    ------
    NotADirectoryError
        If `root` or a folder in it is a file.
    PermissionError
        If files are missing and the folder cannot be written.
    FileNotFoundError
        If files are missing and no source has them; the message lists the ways to get them.
    """
    raw = Path(root) / "FashionMNIST" / "raw"
    if not _names_to_fetch(raw):
        return raw
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(raw / ".lock"):
            _fetch_missing(Path(root), raw)
    except (FileExistsError, NotADirectoryError) as error:
        message = (
            f"The data folder {raw} cannot be made: {error.filename} is a file. Choose another."
        )
        raise NotADirectoryError(message) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        message = f"The data folder {raw} cannot be written ({error.strerror}). Choose another."
        raise PermissionError(message) from error
    return raw


def load_fashion_mnist(root: StrPath = "data", validation_size: int = 5_000) -> FashionMNIST:
    """Load Fashion-MNIST as NumPy arrays, split into training, validation and test images.

    Parameters
    ----------
    root : path
        Folder for data sets; see `fetch_fashion_mnist`, which is called first and whose errors pass
        through.
    validation_size : int
        How many of the 60,000 training images to hold out for validation; see `split_rows`.

    Returns
    -------
    FashionMNIST
        ``train, validation, test``, each with ``images`` (uint8, N×28×28) and ``labels`` (int64,
        N).

    Raises
    ------
    ValueError
        If `validation_size` is out of range.
    """
    _check_validation_size(validation_size, 60_000)
    raw = fetch_fashion_mnist(root)
    images = _read_images(raw / "train-images-idx3-ubyte")
    labels = _read_labels(raw / "train-labels-idx1-ubyte")
    train, validation = split_rows(labels, validation_size)
    return FashionMNIST(
        train=Split(images[train], labels[train]),
        validation=Split(images[validation], labels[validation]),
        test=Split(
            _read_images(raw / "t10k-images-idx3-ubyte"),
            _read_labels(raw / "t10k-labels-idx1-ubyte"),
        ),
    )


def split_rows(labels: ArrayLike, validation_size: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to train on and the rows to validate on.

    The validation rows are a stratified sample (every class has the same share in it as in
    `labels`), and the same one in every run.

    Parameters
    ----------
    labels : array of int, shape (N,)
        The label of each row, 0–9.
    validation_size : int
        How many rows to validate on; at least 10, and at least 10 must be left to train on.

    Returns
    -------
    train, validation : array of int64, shapes (N - validation_size,) and (validation_size,)
        Row numbers, each in rising order.

    Raises
    ------
    ValueError
        If `labels` are not valid labels or `validation_size` is out of range.
    """
    from sklearn.model_selection import train_test_split

    labels = _checked_labels("labels", labels)
    _check_validation_size(validation_size, len(labels))
    train, validation = train_test_split(
        np.arange(len(labels)),
        test_size=int(validation_size),
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return np.sort(train), np.sort(validation)


def prepare_photo(photo: StrPath | PIL.Image.Image) -> np.ndarray:
    """Turn a photo of one garment on a light background into an image as Fashion-MNIST has them.

    The seven steps of section 2 of the Fashion-MNIST paper [1]_: decode, trim the background,
    resize the longer side to 28 pixels, sharpen, pad the shorter side, negate, convert to grey.
    Three deviations make it fit for photos from a telephone: large ones are reduced first, pixels
    are averaged instead of skipped, and the background is brightened to white.

    Parameters
    ----------
    photo : path or PIL.Image.Image
        The photo, in a format and mode that Pillow reads. Its orientation (EXIF) is heeded, and
        transparency becomes white.

    Returns
    -------
    array of uint8, shape (28, 28)
        The garment light on black.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a picture, is damaged or far too large, has a dark background, or shows
        nothing but background.

    References
    ----------
    .. [1] H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking
       machine learning algorithms, arXiv 1708.07747 (2017).
    """
    from PIL import Image, ImageFilter, ImageOps

    picture = _decoded_photo(photo)
    picture.thumbnail((20 * IMAGE_SIZE, 20 * IMAGE_SIZE))
    pixels = np.asarray(picture, dtype=np.float64)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    background = np.median(corners, axis=0)
    if background.mean() < 128:
        raise ValueError("The photo's background is dark; lay the garment on a light one.")
    distances = [np.linalg.norm(pixels - corner, axis=2) for corner in corners]
    garment = np.min(distances, axis=0) > 0.05 * 255
    rows, columns = np.flatnonzero(garment.any(axis=1)), np.flatnonzero(garment.any(axis=0))
    if not len(rows):
        raise ValueError("The photo shows nothing but its background.")
    brightened = np.clip(pixels * 255 / background, 0, 255).round().astype(np.uint8)
    trimmed = brightened[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = IMAGE_SIZE / max(trimmed.shape)
    size = [max(1, round(length * scale)) for length in (trimmed.shape[1], trimmed.shape[0])]
    resized = Image.fromarray(trimmed).resize(size, Image.Resampling.LANCZOS)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0))
    padded = ImageOps.pad(sharpened, (IMAGE_SIZE, IMAGE_SIZE), color="white")
    return np.array(ImageOps.invert(padded).convert("L"))


def example_photo(image: ArrayLike) -> PIL.Image.Image:
    """Turn an image of Fashion-MNIST back into something like a photo.

    Parameters
    ----------
    image : array of uint8, shape (28, 28)
        The garment light on black.

    Returns
    -------
    PIL.Image.Image
        Ten times as large, the garment dark on white, with a border.
    """
    from PIL import Image

    (image,) = _checked_images(np.asarray(image)[np.newaxis])
    enlarged = np.kron(image.astype(np.uint8), np.ones((10, 10), np.uint8))
    return Image.fromarray(np.pad(255 - enlarged, 40, constant_values=255)).convert("RGB")


def _decoded_photo(photo: StrPath | PIL.Image.Image) -> PIL.Image.Image:
    """Return a photo upright, in RGB, with white where it was transparent."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = photo if isinstance(photo, Image.Image) else Image.open(photo)
        picture = ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no photo {photo}.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{photo} is not a picture; JPEG, PNG and WebP work.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{photo} is too large a picture; make it smaller first.") from error
    except OSError as error:
        raise ValueError(f"{photo} is damaged and cannot be read ({error}).") from error
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _check_validation_size(validation_size: int, available: int) -> None:
    smallest, largest = len(CLASS_NAMES), available - len(CLASS_NAMES)
    is_integer = isinstance(validation_size, (int, np.integer)) and not isinstance(
        validation_size, bool
    )
    if not is_integer or not smallest <= validation_size <= largest:
        raise ValueError(
            f"validation_size must be a whole number from {smallest:,} to {largest:,}, so that "
            f"every class is trained and validated on; it is {validation_size!r}."
        )


def _read_images(path: Path) -> np.ndarray:
    return np.fromfile(path, dtype=np.uint8, offset=16).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)


def _read_labels(path: Path) -> np.ndarray:
    return np.fromfile(path, dtype=np.uint8, offset=8).astype(np.int64)


def _has_sha256(path: Path, sha256: str) -> bool:
    return path.is_file() and pooch.file_hash(str(path), alg="sha256") == sha256


def _names_to_fetch(raw: Path) -> list[str]:
    return [name for name, sha256 in DATA_SHA256.items() if not _has_sha256(raw / name, sha256)]


def _fetch_missing(root: Path, raw: Path) -> None:
    """Bring every file that is absent or damaged; the caller holds the lock of `raw`."""
    missing = _names_to_fetch(raw)
    for name in missing:
        if (raw / name).exists():
            _set_aside(raw / name)
    problems: list[str] = []
    for folder in (raw, root / DEBIAN_FOLDER.relative_to("/"), DEBIAN_FOLDER):
        missing = [name for name in missing if not _copied_from(folder, raw / name, problems)]
    for mirror in MIRRORS:
        missing = _names_left_by(mirror, missing, raw, problems)
    if missing:
        raise FileNotFoundError(_how_to_get_the_data(raw, missing, problems))


def _set_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    warnings.warn(
        f"{path} is damaged (its SHA-256 is wrong); it was renamed to {aside.name}.", stacklevel=4
    )


def _copied_from(folder: Path, target: Path, problems: list[str]) -> bool:
    archive = folder / f"{target.name}.gz"
    if not archive.is_file():
        return False
    try:
        _unpack(archive, target)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        problems.append(f"{archive}: {error}")
        return False
    return True


def _names_left_by(mirror: str, names: Sequence[str], raw: Path, problems: list[str]) -> list[str]:
    """Download `names` from one mirror until one fails; return those that are still missing."""
    for position, name in enumerate(names):
        archive = raw / f".{name}.gz.partial"
        try:
            # pooch sets the right total; without any, the bar has no truth value for pooch to test.
            with tqdm(
                desc=name, total=1, unit="B", unit_scale=True, file=sys.stdout, leave=False
            ) as bar:
                download = pooch.HTTPDownloader(
                    progressbar=bar, chunk_size=65_536, timeout=CONNECT_AND_READ_TIMEOUT
                )
                download(f"{mirror}{name}.gz", str(archive), None)
            _unpack(archive, raw / name)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            problems.append(f"{mirror}: {error}")
            return list(names[position:])
        finally:
            archive.unlink(missing_ok=True)
    return []


def _unpack(archive: Path, target: Path) -> None:
    """Decompress into a temporary file and move it into place only when its checksum fits."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with gzip.open(archive) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        if not _has_sha256(partial, DATA_SHA256[target.name]):
            raise ValueError(
                f"{archive.name} does not hold the genuine {target.name} (its SHA-256 is wrong)"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _how_to_get_the_data(raw: Path, missing: Sequence[str], problems: Sequence[str]) -> str:
    return "\n".join(
        [
            f"Fashion-MNIST is not complete in {raw} (missing: {', '.join(missing)}), "
            "and no source has it. Any one of these brings it:",
            "  - Debian, Ubuntu: sudo apt-get install dataset-fashion-mnist "
            f"(its files are then read from {DEBIAN_FOLDER})",
            f"  - copy the four files, compressed (.gz) or not, from another computer into {raw}",
            "  - connect to the Internet and run this again; the mirrors are "
            f"{' and '.join(MIRRORS)}",
            "What was tried:",
            *(f"  - {problem}" for problem in problems),
        ]
    )


# -------------------------------------------------------------------------------------------------
# Checks of what the plots and reports are given
# -------------------------------------------------------------------------------------------------


def _checked_labels(name: str, labels: ArrayLike) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"{name} must have one dimension, a class number per image; "
            f"its shape is {labels.shape}."
        )
    if not labels.size:
        raise ValueError(f"{name} is empty; give at least one label.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers; its dtype is {labels.dtype}.")
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        wrong = labels[(labels < 0) | (labels >= len(CLASS_NAMES))][0]
        raise ValueError(
            f"{name} must lie between 0 and {len(CLASS_NAMES) - 1}; {wrong} is among them."
        )
    return labels.astype(np.int64)


def _checked_pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y_true, y_pred = _checked_labels("y_true", y_true), _checked_labels("y_pred", y_pred)
    _check_lengths(y_true=y_true, y_pred=y_pred)
    return y_true, y_pred


def _checked_images(images: ArrayLike) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"images must have the shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}), without a channel axis; "
            f"it is {images.shape}."
        )
    if not len(images):
        raise ValueError("images is empty; give at least one image.")
    return images


def _checked_probabilities(probabilities: ArrayLike) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(CLASS_NAMES):
        raise ValueError(
            f"probabilities must have the shape (N, {len(CLASS_NAMES)}), a row per image; "
            f"it is {probabilities.shape}."
        )
    if not len(probabilities):
        raise ValueError("probabilities is empty; give at least one row.")
    if not np.isfinite(probabilities).all():
        row = int(np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0])
        raise ValueError(
            f"probabilities must be finite; row {row} has NaN or infinity. "
            "Did the training diverge?"
        )
    sums = probabilities.sum(axis=1)
    # 1e-3 lets pass what float16 rounds away, and stops logits and unnormalised scores.
    if probabilities.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        row = int(np.argmax((probabilities.min(axis=1) < 0) | (np.abs(sums - 1) > 1e-3)))
        raise ValueError(
            "Every row of probabilities must be non-negative and sum to 1; "
            f"row {row} sums to {sums[row]:.6g}. Logits go through softmax first."
        )
    return probabilities


def _check_lengths(**arrays: np.ndarray) -> None:
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array):,}" for name, array in arrays.items())
        raise ValueError(f"One entry per image is needed in each: {lengths}.")


# -------------------------------------------------------------------------------------------------
# Plots
# -------------------------------------------------------------------------------------------------

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
TRAINING_COLOUR = "#0072B2"
VALIDATION_COLOUR = "#D55E00"
HEAT_MAP = "Blues"
FONT_SIZE = 11  # points, on figures 10 inches wide: legible at the width of a web page
COLUMNS = 5  # images side by side in a gallery
HISTORY_LIMITS = {"loss": (0.0, 0.5), "accuracy": (0.84, 1.0)}  # the same, to compare runs by eye
HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


def plot_samples(images: ArrayLike, labels: ArrayLike, count: int = 20) -> Figure:
    """Draw the first `count` images, each titled with the name of its class.

    Parameters
    ----------
    images : array, shape (N, 28, 28)
        Grey values of any range; the smallest is drawn black.
    labels : array of int, shape (N,)
        Class numbers, 0–9.
    count : int
        How many to draw; fewer when there are not as many.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the arrays have wrong shapes, values or lengths, or `count` is below 1.
    """
    images, labels = _checked_images(images), _checked_labels("labels", labels)
    _check_lengths(images=images, labels=labels)
    shown = range(min(_checked_count(count), len(images)))
    names = [CLASS_NAMES[labels[row]] for row in shown]
    return _gallery("Images and their classes", images[: len(shown)], names, columns=2 * COLUMNS)


def plot_history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over the epochs, training solid and validation dashed.

    The axes have the same limits in every run that ends within them; its first epochs may not.

    Parameters
    ----------
    history : mapping
        Equally long lists ``loss, accuracy, val_loss, val_accuracy``, one entry per epoch; others
        are not drawn.

    Returns
    -------
    Figure
        With two axes, loss and accuracy.

    Raises
    ------
    ValueError
        If a list is missing, empty or of another length.
    """
    needed = HISTORY_KEYS[:4]
    lengths = {key: len(history[key]) for key in needed if key in history}
    if len(lengths) < len(needed) or len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(
            f"history needs equally long, non-empty lists {', '.join(needed)}; "
            f"it has lengths {lengths}."
        )
    epochs = np.arange(1, lengths["loss"] + 1)
    figure = new_figure(height=4.2)
    for axes, key, title, unit in zip(
        figure.subplots(1, 2),
        ("loss", "accuracy"),
        ("Loss", "Accuracy"),
        ("mean cross-entropy", "images correct"),
    ):
        # A single epoch is a point, which a line alone would not show.
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, history[key], color=TRAINING_COLOUR, marker=marker, label="training")
        axes.plot(
            epochs,
            history[f"val_{key}"],
            "--",
            color=VALIDATION_COLOUR,
            marker=marker,
            label="validation",
        )
        axes.set(title=f"{title} per epoch", xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        low, high = HISTORY_LIMITS[key]
        if all(low <= history[name][-1] <= high for name in (key, f"val_{key}")):
            axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


def plot_confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw which classes are taken for which.

    The cells hold counts and shares of the true class; the colour is the share.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
        True and predicted class numbers, 0–9.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Figure
        The one that `ax` belongs to.

    Raises
    ------
    ValueError
        If the labels have wrong shapes, values or lengths.
    """
    import seaborn
    from sklearn.metrics import confusion_matrix

    y_true, y_pred = _checked_pair(y_true, y_pred)
    counts = confusion_matrix(y_true, y_pred, labels=range(len(CLASS_NAMES)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [
        [f"{count:,}\n{share:.1%}" if count else "" for count, share in zip(*row)]
        for row in zip(counts, shares, strict=True)
    ]
    if ax is None:
        ax = new_figure(height=8.6).subplots()
    seaborn.heatmap(
        shares,
        ax=ax,
        vmin=0,
        vmax=1,
        annot=np.array(texts),
        fmt="",
        cmap=HEAT_MAP,
        square=True,
        linewidths=0.5,
        annot_kws={"fontsize": FONT_SIZE - 1},
        cbar_kws={
            "label": "share of the true class",
            "format": PercentFormatter(xmax=1),
            "shrink": 0.8,
        },
        xticklabels=CLASS_NAMES,
        yticklabels=CLASS_NAMES,
    )
    # The relative luminance at which black and white stand out equally (WCAG 2) is 0.18; seaborn's
    # own threshold leaves white on mid-blue hard to read.
    for text, face in zip(ax.texts[-counts.size :], ax.collections[-1].get_facecolors()):
        text.set_color("white" if seaborn.utils.relative_luminance(face) < 0.18 else "black")
    ax.set(
        title=f"Confusion matrix of {len(y_true):,} images",
        xlabel="predicted class",
        ylabel="true class",
    )
    ax.tick_params(axis="x", rotation=40)
    ax.tick_params(axis="y", rotation=0)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    return ax.get_figure()


def plot_mistakes(
    images: ArrayLike, y_true: ArrayLike, probabilities: ArrayLike, count: int = 15
) -> Figure:
    """Draw the wrong predictions that the model was surest of, the surest first.

    Each image is titled with the predicted class, its probability, and the class that the label
    says.

    Parameters
    ----------
    images : array, shape (N, 28, 28)
        Grey values of any range.
    y_true : array of int, shape (N,)
        True class numbers, 0–9.
    probabilities : array of float, shape (N, 10)
        Predicted probability of each class; rows sum to 1.
    count : int
        How many to draw at most.

    Returns
    -------
    Figure
        When nothing is wrong, a figure that says so.

    Raises
    ------
    ValueError
        If the arrays have wrong shapes, values or lengths, or `count` is below 1.
    """
    images, y_true = _checked_images(images), _checked_labels("y_true", y_true)
    probabilities = _checked_probabilities(probabilities)
    _check_lengths(images=images, y_true=y_true, probabilities=probabilities)
    y_pred, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(y_pred != y_true)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][: _checked_count(count)]
    if not len(surest):
        return _all_right(len(y_true))
    captions = [
        f"{CLASS_NAMES[y_pred[i]]}, {confidence[i]:.1%}\nlabel: {CLASS_NAMES[y_true[i]]}"
        for i in surest
    ]
    return _gallery(
        "The surest of the wrong predictions", images[surest], captions, columns=COLUMNS
    )


def plot_network(layers: Sequence[tuple[str, Sequence[int]]]) -> Figure:
    """Draw a network as boxes, from the image to the logits, with the shapes on the edges.

    Parameters
    ----------
    layers : sequence of (name, shape)
        The image and the layers in order, and the shape that leaves each, without the batch.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no layer.
    """
    if not layers:
        raise ValueError("layers is empty; give at least one (name, shape).")
    per_row = 5
    rows = -(-len(layers) // per_row)
    figure = new_figure(height=1.3 * rows + 0.4)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, per_row - 0.1), ylim=(0.5 - rows, 0.6), title="The network and its shapes")
    axes.set_axis_off()
    for number, (name, shape) in enumerate(layers):
        y, x = divmod(number, per_row)
        axes.text(
            x,
            -y,
            name,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.4", "fc": "#DCE9F5", "ec": TRAINING_COLOUR},
        )
        axes.text(x + 0.5, 0.3 - y, "×".join(map(str, shape)), ha="center", va="center")
        axes.annotate("", (x + 0.58, -y), (x + 0.42, -y), arrowprops={"arrowstyle": "->"})
    return figure


def plot_learning_rate(epochs: ArrayLike, rates: ArrayLike) -> Figure:
    """Draw the learning rate over a training.

    Parameters
    ----------
    epochs : array of float, shape (N,)
        Points in time, in epochs.
    rates : array of float, shape (N,)
        The learning rate at each.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the lengths differ or are zero.
    """
    epochs, rates = np.asarray(epochs), np.asarray(rates)
    _check_lengths(epochs=epochs, rates=rates)
    if not len(rates):
        raise ValueError("rates is empty; give at least one learning rate.")
    figure = new_figure(height=2.8)
    axes = figure.subplots()
    axes.plot(epochs, rates, color=TRAINING_COLOUR)
    axes.set(title="Learning rate: warm-up and cosine", xlabel="epoch", ylabel="learning rate")
    axes.grid(alpha=0.3)
    return figure


def plot_filters(kernels: ArrayLike, image: ArrayLike, maps: ArrayLike) -> Figure:
    """Draw the kernels of the first convolution, and what each makes of one image.

    Parameters
    ----------
    kernels : array of float, shape (filters, height, width)
        Blue weights are negative, red ones positive.
    image : array, shape (28, 28)
        The image shown to the network.
    maps : array of float, shape (filters, map height, map width)
        The output of each filter.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    kernels, image, maps = np.asarray(kernels), np.asarray(image), np.asarray(maps)
    if kernels.ndim != 3 or maps.ndim != 3 or len(kernels) != len(maps) or image.ndim != 2:
        raise ValueError(
            "kernels and maps must have three dimensions and be equally many, and image two; "
            f"the shapes are {kernels.shape}, {maps.shape} and {image.shape}."
        )
    columns = 8
    rows = -(-len(kernels) // columns)
    figure = new_figure(height=1.6 * rows + 1.2)
    figure.suptitle("Filters of the first convolution, and their maps of the image on the left")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 7))
    axes = left.subplots()
    axes.imshow(image, cmap="gray")
    axes.set_axis_off()
    grid = right.subplots(2 * rows, columns)
    for axes in grid.flat:
        axes.set_axis_off()
    largest = np.abs(kernels).max()
    for number, (kernel, feature_map) in enumerate(zip(kernels, maps)):
        row, column = divmod(number, columns)
        grid[2 * row, column].imshow(kernel, cmap="RdBu_r", vmin=-largest, vmax=largest)
        grid[2 * row + 1, column].imshow(feature_map, cmap="gray")
    return figure


def plot_class_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Figure:
    """Draw the accuracy of each class as a bar, with its 95 % Wilson interval.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
        True and predicted class numbers, 0–9.

    Returns
    -------
    Figure
        A class without images has no bar.

    Raises
    ------
    ValueError
        If the labels have wrong shapes, values or lengths.
    """
    y_true, y_pred = _checked_pair(y_true, y_pred)
    figure = new_figure(height=4)
    axes = figure.subplots()
    for label, name in enumerate(CLASS_NAMES):
        correct = y_pred[y_true == label] == label
        if len(correct):
            low, high = _wilson_interval(correct)
            axes.barh(name, correct.mean(), color=TRAINING_COLOUR, alpha=0.75)
            axes.plot([low, high], [name, name], color="black", marker="|")
        else:
            axes.barh(name, 0)
    axes.invert_yaxis()
    axes.set(title="Accuracy per class, with 95 % intervals", xlabel="images correct", xlim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_reliability(y_true: ArrayLike, probabilities: ArrayLike) -> Figure:
    """Draw accuracy against confidence, in the 15 bins of the expected calibration error.

    Parameters
    ----------
    y_true : array of int, shape (N,)
        True class numbers, 0–9.
    probabilities : array of float, shape (N, 10)
        Predicted probability of each class; rows sum to 1.

    Returns
    -------
    Figure
        Accuracy above, the number of images in each bin below; empty bins have no point.

    Raises
    ------
    ValueError
        If the arrays have wrong shapes, values or lengths.
    """
    y_true, probabilities = (
        _checked_labels("y_true", y_true),
        _checked_probabilities(probabilities),
    )
    _check_lengths(y_true=y_true, probabilities=probabilities)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == y_true
    bins = _confidence_bins(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = counts > 0
    accuracy = np.bincount(bins, weights=correct, minlength=CALIBRATION_BINS)[used] / counts[used]
    mean = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)[used] / counts[used]
    figure = new_figure(height=5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], "--", color="gray", label="perfectly calibrated")
    above.plot(mean, accuracy, marker="o", color=TRAINING_COLOUR, label="this model")
    intervals = [_wilson_interval(correct[bins == number]) for number in np.flatnonzero(used)]
    above.vlines(mean, *zip(*intervals), color=TRAINING_COLOUR, label="95 % interval")
    above.set(
        title="Reliability: is the model as good as it is sure?",
        ylabel="images correct",
        ylim=(0, 1.03),
    )
    above.legend()
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    below.bar(centres, counts, width=0.9 / CALIBRATION_BINS, color=TRAINING_COLOUR, alpha=0.75)
    below.set(
        xlabel="confidence (probability of the predicted class)", ylabel="images", xlim=(0, 1)
    )
    for axes in (above, below):
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(alpha=0.3)
    above.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


def plot_confused_pairs(
    images: ArrayLike, y_true: ArrayLike, y_pred: ArrayLike, count: int = 5
) -> Figure:
    """Draw the pairs of classes that are confused most often, with images.

    Each column is a pair: an image of the one class taken for the other, and above and below it
    one of each class that was recognised.

    Parameters
    ----------
    images : array, shape (N, 28, 28)
        Grey values of any range.
    y_true, y_pred : array of int, shape (N,)
        True and predicted class numbers, 0–9.
    count : int
        How many pairs to draw at most.

    Returns
    -------
    Figure
        When nothing is confused, a figure that says so.

    Raises
    ------
    ValueError
        If the arrays have wrong shapes, values or lengths, or `count` is below 1.
    """
    images, (y_true, y_pred) = _checked_images(images), _checked_pair(y_true, y_pred)
    _check_lengths(images=images, y_true=y_true)
    pairs = most_confused(y_true, y_pred)[: _checked_count(count)]
    if not pairs:
        return _all_right(len(y_true))
    figure = new_figure(height=7.2)
    figure.suptitle("The pairs of classes that are confused most often")
    grid = figure.subplots(3, len(pairs), squeeze=False)
    for column, pair in enumerate(pairs):
        true, predicted = (
            CLASS_NAMES.index(pair.true_class),
            CLASS_NAMES.index(pair.predicted_class),
        )
        cases = (
            (f"a {pair.true_class}", true, true),
            (
                f"{pair.count} × {pair.true_class}\ntaken for {pair.predicted_class}",
                true,
                predicted,
            ),
            (f"a {pair.predicted_class}", predicted, predicted),
        )
        for axes, (title, label, prediction) in zip(grid[:, column], cases):
            axes.set_axis_off()
            axes.set_title(title, fontsize=FONT_SIZE)
            examples = np.flatnonzero((y_true == label) & (y_pred == prediction))
            if len(examples):  # another one in each column, as the same class may come again
                axes.imshow(images[examples[column % len(examples)]], cmap="gray")
    return figure


def plot_photo(
    photo: StrPath | PIL.Image.Image, prepared: ArrayLike, probabilities: ArrayLike
) -> Figure:
    """Draw a photo, what the network sees of it, and the three likeliest classes.

    Parameters
    ----------
    photo : path or PIL.Image.Image
        The photo as it was taken.
    prepared : array, shape (28, 28)
        What `prepare_photo` made of it.
    probabilities : array of float, shape (10,)
        Predicted probability of each class; their sum is 1.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the arrays have wrong shapes or values.
    """
    (prepared,) = _checked_images(np.asarray(prepared)[np.newaxis])
    (probabilities,) = _checked_probabilities(np.asarray(probabilities)[np.newaxis])
    figure = new_figure(height=3.3)
    left, middle, right = figure.subplots(1, 3)
    left.imshow(np.asarray(_decoded_photo(photo)))
    left.set_title("the photo")
    middle.imshow(prepared, cmap="gray")
    middle.set_title("what the network sees")
    for axes in (left, middle):
        axes.set_axis_off()
    likeliest = np.argsort(-probabilities, kind="stable")[:3]
    right.barh(
        [CLASS_NAMES[label] for label in likeliest], probabilities[likeliest], color=TRAINING_COLOUR
    )
    right.invert_yaxis()
    right.set(title="the likeliest classes", xlabel="probability", xlim=(0, 1))
    right.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, with a text for readers who cannot see it.

    Parameters
    ----------
    figure : Figure
    alt : str
        What the figure shows, in a sentence; saved in the notebook beside the picture.

    Raises
    ------
    ValueError
        If `alt` is blank.
    """
    from IPython.display import Image, display

    if not alt.strip():
        raise ValueError("alt is blank; say in a sentence what the figure shows.")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    display(Image(picture.getvalue(), alt=alt))


def new_figure(height: float) -> Figure:
    """Return an empty figure, as wide as the page of a notebook.

    Parameters
    ----------
    height : float
        In inches; the width is 10.
    """
    # Not by pyplot, which would keep every figure and have the notebook show it a second time.
    return Figure(figsize=(10, height), dpi=90, layout="constrained")


def _gallery(title: str, images: np.ndarray, captions: Sequence[str], columns: int) -> Figure:
    rows = -(-len(images) // columns)
    figure = new_figure(height=rows * (10 / columns + 0.2 * (1 + captions[0].count("\n"))) + 0.3)
    figure.suptitle(title)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, image, caption in zip(grid.flat, images, captions):
        axes.imshow(image, cmap="gray")
        axes.set_title(caption, fontsize=FONT_SIZE if columns == COLUMNS else FONT_SIZE - 1)
    return figure


def _all_right(count: int) -> Figure:
    figure = new_figure(height=1)
    figure.text(0.5, 0.5, f"All {count:,} predictions are right.", ha="center", va="center")
    return figure


def _checked_count(count: int) -> int:
    if count < 1:
        raise ValueError(f"count must be at least 1; it is {count}.")
    return count


# -------------------------------------------------------------------------------------------------
# Reports
# -------------------------------------------------------------------------------------------------

CALIBRATION_BINS = 15


class ConfusedPair(NamedTuple):
    """How often images of one class are taken for another."""

    true_class: str
    predicted_class: str
    count: int


class Evaluation(NamedTuple):
    """How good predicted probabilities are; see `evaluate`."""

    accuracy: float
    accuracy_ci95: tuple[float, float]
    loss: float
    ece: float
    per_class_accuracy: dict[str, float | None]


class McNemar(NamedTuple):
    """How often just one of two models is right on the same images; see `mcnemar`."""

    only_first_right: int
    only_second_right: int
    p_value: float


def classification_report(y_true: ArrayLike, y_pred: ArrayLike) -> str:
    """Tabulate precision, recall and F1 score of each class by name, with scikit-learn.

    All ten classes have their row. A figure that is not defined, because a class is absent or never
    predicted, is ``nan`` and is left out of the averages.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
        True and predicted class numbers, 0–9.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the labels have wrong shapes, values or lengths.
    """
    from sklearn import metrics

    y_true, y_pred = _checked_pair(y_true, y_pred)
    return metrics.classification_report(
        y_true,
        y_pred,
        labels=range(len(CLASS_NAMES)),
        target_names=CLASS_NAMES,
        digits=3,
        zero_division=np.nan,
    )


def most_confused(y_true: ArrayLike, y_pred: ArrayLike) -> list[ConfusedPair]:
    """List the pairs of classes that are confused, the most frequent first.

    Pairs that are equally frequent come in the order of the classes.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (N,)
        True and predicted class numbers, 0–9.

    Returns
    -------
    list of ConfusedPair
        ``true_class, predicted_class, count``, for every pair that occurs.

    Raises
    ------
    ValueError
        If the labels have wrong shapes, values or lengths.
    """
    y_true, y_pred = _checked_pair(y_true, y_pred)
    wrong = y_true != y_pred
    pairs, counts = np.unique(
        np.stack([y_true[wrong], y_pred[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return [
        ConfusedPair(CLASS_NAMES[pairs[i, 0]], CLASS_NAMES[pairs[i, 1]], int(counts[i]))
        for i in order
    ]


def evaluate(y_true: ArrayLike, probabilities: ArrayLike) -> Evaluation:
    """Measure how good predicted probabilities are.

    Parameters
    ----------
    y_true : array of int, shape (N,)
        True class numbers, 0–9.
    probabilities : array of float, shape (N, 10)
        Predicted probability of each class; rows sum to 1.

    Returns
    -------
    Evaluation
        ``accuracy``; ``accuracy_ci95``, its 95 % Wilson score interval [1]_; ``loss``, the mean of
        ``-log(probability of the true class)``; ``ece``, the expected calibration error over 15
        equally wide bins of confidence, ``sum over bins of (images in bin / N) * |accuracy in bin -
        mean confidence in bin|`` [2]_; ``per_class_accuracy`` by class name, None where a class has
        no image.

    Raises
    ------
    ValueError
        If the arrays have wrong shapes, values or lengths.

    References
    ----------
    .. [1] E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA
    22 (1927).
    .. [2] C. Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    from sklearn.metrics import log_loss

    y_true, probabilities = _checked_labels("y_true", y_true), _checked_probabilities(probabilities)
    _check_lengths(y_true=y_true, probabilities=probabilities)
    correct = probabilities.argmax(axis=1) == y_true
    per_class = {
        name: float(correct[y_true == label].mean()) if (y_true == label).any() else None
        for label, name in enumerate(CLASS_NAMES)
    }
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)
    return Evaluation(
        accuracy=float(correct.mean()),
        accuracy_ci95=_wilson_interval(correct),
        loss=float(log_loss(y_true, normalised, labels=range(len(CLASS_NAMES)))),
        ece=_expected_calibration_error(correct, probabilities.max(axis=1)),
        per_class_accuracy=per_class,
    )


def mcnemar(y_true: ArrayLike, first: ArrayLike, second: ArrayLike) -> McNemar:
    """Test whether two models err equally often, on predictions for the same images.

    Only images on which just one of the two is right tell them apart. If both err equally often,
    each such image is a fair coin; the p-value is that of the exact two-sided binomial test
    (McNemar's test [1]_, exact form).

    Parameters
    ----------
    y_true, first, second : array of int, shape (N,)
        True class numbers and those that each model predicts, 0–9.

    Returns
    -------
    McNemar
        ``only_first_right, only_second_right, p_value``.

    Raises
    ------
    ValueError
        If the labels have wrong shapes, values or lengths.

    References
    ----------
    .. [1] Q. McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages,
       Psychometrika 12 (1947).
    """
    from scipy.stats import binomtest

    y_true, first = _checked_labels("y_true", y_true), _checked_labels("first", first)
    second = _checked_labels("second", second)
    _check_lengths(y_true=y_true, first=first, second=second)
    first_right, second_right = first == y_true, second == y_true
    only_first, only_second = (
        int((first_right & ~second_right).sum()),
        int((second_right & ~first_right).sum()),
    )
    disagreements = only_first + only_second
    p_value = float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0
    return McNemar(only_first, only_second, p_value)


def epoch_line(history: Mapping[str, Sequence[float]], epochs: int) -> str:
    """Describe the last epoch of a training history in one line.

    Parameters
    ----------
    history : mapping
        Equally long lists ``loss, accuracy, val_loss, val_accuracy, learning_rate, seconds``.
    epochs : int
        How many epochs there will be.

    Returns
    -------
    str
    """
    last = {key: history[key][-1] for key in HISTORY_KEYS}
    return (
        f"epoch {len(history['loss']):>{len(str(epochs))}}/{epochs}"
        f" | loss {last['loss']:.4f} | accuracy {last['accuracy']:.2%}"
        f" | val_loss {last['val_loss']:.4f} | val_accuracy {last['val_accuracy']:.2%}"
        f" | rate {last['learning_rate']:.4f} | {last['seconds']:.1f} s"
    )


def _wilson_interval(correct: np.ndarray) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _confidence_bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def _expected_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    gaps = np.bincount(_confidence_bins(confidence), weights=correct - confidence)
    return float(np.abs(gaps).sum() / len(correct))


# -------------------------------------------------------------------------------------------------
# Settings of a run
# -------------------------------------------------------------------------------------------------


def environment_integer(name: str, default: int, minimum: int) -> int:
    """Read a setting from an environment variable.

    Parameters
    ----------
    name : str
        The variable, such as ``FMNIST_EPOCHS``.
    default : int
        What holds when the variable is unset or empty.
    minimum : int
        The smallest value that makes sense.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the variable is not a whole number or below `minimum`.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.removeprefix("-").isdecimal() or int(text) < minimum:
        raise ValueError(
            f"The environment variable {name} must be a whole number, at least {minimum}; "
            f"it is {text!r}."
        )
    return int(text)


def check_requirements(path: StrPath = "requirements.txt") -> list[str]:
    """Compare the installed packages with a requirements file.

    Parameters
    ----------
    path : path
        Lines such as ``numpy>=2.1``; empty lines and comments are passed over.

    Returns
    -------
    list of str
        The requirements whose package is not installed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RuntimeError
        If a package is older than required; the message says how to bring it up to date.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    missing, outdated = [], []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        requirement = Requirement(text)
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(text)
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            outdated.append(f"{text} (installed: {installed})")
    if outdated:
        raise RuntimeError(
            f"These packages are too old: {', '.join(outdated)}. "
            f"Run `pip install --upgrade -r {path}`, restart the kernel, and begin again."
        )
    return missing


def cpu_has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 numbers in hardware (AVX-512 BF16 or AMX).

    Read from the flags that Linux reports; False where there are none, which costs time and nothing
    else.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})


@contextlib.contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Drop what is written to the process's standard error meanwhile, by compiled code too.

    Exceptions still come through.
    TensorFlow's start-up messages come before its log level is obeyed (tensorflow issue 100442),
    so that only the stream itself can be stopped.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


# -------------------------------------------------------------------------------------------------
# Export records
# -------------------------------------------------------------------------------------------------


def save_metrics(
    path: StrPath,
    evaluation: Evaluation,
    *,
    validation: Evaluation,
    history: Mapping[str, Sequence[float]],
    framework: str,
    framework_version: str,
    seed: int,
    batch_size: int,
    parameters: int,
    device: str,
    settings: Mapping[str, Any],
    files: Iterable[StrPath] = (),
) -> None:
    """Write ``metrics.json``: what was measured, and what another person needs to measure it again.

    The file appears whole or not at all; an earlier one stays until then.

    Parameters
    ----------
    path : path
        The file to write.
    evaluation, validation : Evaluation
        Of the test and of the validation images.
    history : mapping
        Equally long lists ``loss, accuracy, val_loss, val_accuracy, learning_rate, seconds``, one
        entry per epoch.
    framework, framework_version : str
        Such as ``"PyTorch"`` and ``torch.__version__``.
    seed, batch_size : int
    parameters : int
        How many numbers the network learns.
    device : str
        What it was trained on.
    settings : mapping
        The other settings of the run, JSON values by name.
    files : paths
        The exported files, whose SHA-256 are recorded by file name; see `verified_model_file`.

    Raises
    ------
    ValueError
        If a list of `history` is missing or of another length, or a figure is NaN or infinite.
    """
    lengths = {key: len(history[key]) for key in HISTORY_KEYS if key in history}
    if (
        len(lengths) < len(HISTORY_KEYS)
        or len(set(lengths.values())) > 1
        or not min(lengths.values())
    ):
        raise ValueError(
            f"history needs equally long, non-empty lists {', '.join(HISTORY_KEYS)}; "
            f"it has lengths {lengths}."
        )
    record = {
        "framework": framework,
        "framework_version": framework_version,
        "seed": seed,
        "epochs": lengths["loss"],
        "batch_size": batch_size,
        "parameters": parameters,
        "validation": {"accuracy": validation.accuracy, "loss": validation.loss},
        "test": evaluation._asdict(),
        "training_seconds": sum(history["seconds"]),
        "seconds_per_epoch": sum(history["seconds"]) / lengths["seconds"],
        "device": device,
        "settings": dict(settings),
        "python_version": platform.python_version(),
        "numpy_version": np.__version__,
        "machine": {
            "architecture": platform.machine(),
            "system": platform.system(),
            "cpu_cores": os.cpu_count(),
        },
        "history": {key: list(history[key]) for key in HISTORY_KEYS},
        "data_sha256": DATA_SHA256,
        "files_sha256": {Path(file).name: pooch.file_hash(str(file)) for file in files},
    }
    write_json(Path(path), record)


def publish(staging: StrPath, destination: StrPath) -> list[Path]:
    """Copy the files of a finished export to where they belong.

    All files are copied beside their final names first and then renamed, so that a run that is
    interrupted, whenever, leaves each earlier file whole.

    Parameters
    ----------
    staging : path
        A folder with all files of the export.
    destination : path
        The folder to put them in; made when it is not there. Other files in it stay.

    Returns
    -------
    list of Path
        The files in their final places.

    Raises
    ------
    FileNotFoundError
        If `staging` has no files.
    PermissionError
        If `destination` cannot be written.
    """
    staging, destination = Path(staging), Path(destination)
    sources = (
        sorted(path for path in staging.iterdir() if path.is_file()) if staging.is_dir() else []
    )
    if not sources:
        raise FileNotFoundError(
            f"There is nothing to publish in {staging}; export the model into it first."
        )
    copies = []
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for source in sources:
            copies.append(destination / f".{source.name}.partial")
            shutil.copyfile(source, copies[-1])
        for copy, source in zip(copies, sources, strict=True):
            copy.replace(destination / source.name)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        message = f"{destination} cannot be written; the export is still in {staging}."
        raise PermissionError(message) from error
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)
    return [destination / source.name for source in sources]


def verified_model_file(path: StrPath) -> Path:
    """Return the path of a trained model after checking it against the ``metrics.json`` beside it.

    Parameters
    ----------
    path : path
        A model file, such as ``models/pytorch/model.pt``.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If the model or its ``metrics.json`` is not there.
    ValueError
        If the file is not listed there, or is truncated or altered.
    """
    path = Path(path)
    expected = load_metrics(path.parent)["files_sha256"].get(path.name)
    if expected is None:
        raise ValueError(
            f"{path} is not listed in {path.parent / 'metrics.json'}; its origin is unknown."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; export it with the notebook, or check it out again."
        )
    if not _has_sha256(path, expected):
        raise ValueError(
            f"{path} is truncated or altered (its SHA-256 is wrong); export or check it out again."
        )
    return path


def load_metrics(folder: StrPath) -> dict[str, Any]:
    """Read the ``metrics.json`` of an exported model.

    Raises
    ------
    FileNotFoundError
        If `folder` has none.
    """
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; run the notebook that exports to this folder first."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def trained_on(metrics: Mapping[str, Any]) -> str:
    """Say on what a model was trained, and in which precision, if its settings tell.

    Parameters
    ----------
    metrics : mapping
        The contents of a ``metrics.json``.

    Returns
    -------
    str
        Such as ``"cpu, 2 cores, bfloat16"``.
    """
    parts = [metrics["device"], f"{metrics['machine']['cpu_cores']} cores"]
    if "precision" in metrics["settings"]:
        parts.append(metrics["settings"]["precision"])
    return ", ".join(parts)


def results_table(folders: Iterable[StrPath]) -> str:
    """Tabulate the results of exported models side by side, from their ``metrics.json``.

    Parameters
    ----------
    folders : paths
        The folders of the models, such as ``models/pytorch``; a column each.

    Returns
    -------
    str
        A Markdown table.
    """
    records = [load_metrics(folder) for folder in folders]
    rows = {
        "accuracy on the 10,000 test images": lambda r: f"**{r['test']['accuracy']:.2%}**",
        "its 95 % interval (Wilson)": lambda r: "{:.2%} – {:.2%}".format(
            *r["test"]["accuracy_ci95"]
        ),
        "test loss (mean cross-entropy)": lambda r: f"{r['test']['loss']:.4f}",
        "expected calibration error": lambda r: f"{r['test']['ece']:.2%}",
        "accuracy on the 5,000 validation images": lambda r: f"{r['validation']['accuracy']:.2%}",
        "parameters": lambda r: f"{r['parameters']:,}",
        "epochs": lambda r: f"{r['epochs']}",
        "training time": lambda r: (
            f"{r['training_seconds'] / 60:.1f} min ({r['seconds_per_epoch']:.1f} s per epoch)"
        ),
        "trained on": trained_on,
    }
    return markdown_table(
        ["", *(f"{record['framework']} {record['framework_version']}" for record in records)],
        [[name, *map(figure, records)] for name, figure in rows.items()],
    )


def per_class_table(folders: Iterable[StrPath]) -> str:
    """Tabulate the test accuracy of exported models per class, from their ``metrics.json``.

    Parameters
    ----------
    folders : paths
        The folders of the models, such as ``models/pytorch``; a column each.

    Returns
    -------
    str
        A Markdown table.
    """
    records = [load_metrics(folder) for folder in folders]
    return markdown_table(
        ["class", *(record["framework"] for record in records)],
        [
            [
                name,
                *(
                    "–" if share is None else f"{share:.1%}"
                    for share in (r["test"]["per_class_accuracy"][name] for r in records)
                ),
            ]
            for name in CLASS_NAMES
        ],
    )


def comparison(y_true: ArrayLike, own_folder: StrPath, other_folder: StrPath) -> str:
    """Put this run's test results beside those of another exported model.

    Parameters
    ----------
    y_true : array of int, shape (10000,)
        The labels of the test images.
    own_folder, other_folder : path
        Folders with ``metrics.json`` and ``predictions.npz`` (the predicted classes of the test
        images, as ``test``).

    Returns
    -------
    str
        Markdown: the table of `results_table`, and what `mcnemar` says of the difference. When
        `other_folder` has no results yet, a sentence that says so.
    """
    names_needed = ("metrics.json", "predictions.npz")
    if not all((Path(other_folder) / name).is_file() for name in names_needed):
        return f"There are no results in `{other_folder}` yet; run the other notebook first."
    folders = [Path(own_folder), Path(other_folder)]
    names = [load_metrics(folder)["framework"] for folder in folders]
    predictions = [np.load(folder / "predictions.npz")["test"] for folder in folders]
    result = mcnemar(y_true, *predictions)
    verdict = (
        "so these two models differ by more than the choice of the test images explains"
        if result.p_value < 0.05
        else "so the choice of the test images may explain the difference of these two models"
    )
    return (
        f"{results_table(folders)}\n\n"
        f"On {np.mean(predictions[0] == predictions[1]):.1%} of the test images both predict the "
        f"same class. Only {names[0]} is right on {result.only_first_right:,} images, only "
        f"{names[1]} on {result.only_second_right:,}. If both erred equally often, a split at "
        f"least as uneven would occur with probability {result.p_value:.2g} (McNemar's exact "
        f"test), {verdict}. What other seeds would change, the test does not know."
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, with the folders that it lies in.

    Parameters
    ----------
    path : Path
    content : bytes
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file that appears whole or not at all, with the folders that it lies in.

    Parameters
    ----------
    path : Path
    content : dict or list

    Raises
    ------
    TypeError
        If it contains what JSON has no form for.
    ValueError
        If a number is infinite or not a number.
    """
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : sequences of str
        The cells of each row.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
