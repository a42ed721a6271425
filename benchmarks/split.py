"""Ask what sets the test images apart from the others: near twins there, and how hard they are.

It reads what labels.py has left. Results: results/split.json.

    python -m benchmarks.split
"""

from collections.abc import Iterator
from statistics import mean

import numpy as np
from scipy.stats import hypergeom
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors

import fmnist_utils as fmnist
from benchmarks import results
from benchmarks.notebook import REPOSITORY

NEAR = 0.05  # root mean square of the differences of grey values, which go from 0 to 1
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def variants(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images as they are and mirrored, each in place and moved by one pixel."""
    for flipped in (images, images[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (1, 1), (1, 1)))
        for down, right in SHIFTS:
            yield padded[:, 1 + down : 29 + down, 1 + right : 29 + right].reshape(-1, 28 * 28)


def measure_twins(test: fmnist.Split, train_images: np.ndarray) -> dict[str, int]:
    """Count test images that are copies or near twins of images that are trained on."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(
        train_images.reshape(-1, 28 * 28)
    )
    found = [search.kneighbors(pixels)[0][:, 0] for pixels in variants(test.images)]
    distances = np.stack(found) / 28  # of the sum of 28 × 28 squares to the root of their mean
    nearest = distances.min(axis=0)
    found = {"copies": nearest < 1e-4, "twins": nearest <= NEAR, "in_place": distances[0] <= NEAR}
    found["trousers"] = found["twins"] & (test.labels == fmnist.CLASS_NAMES.index("Trouser"))
    return {name: int(images.sum()) for name, images in found.items()}


def measure_hardness(
    train: fmnist.Split, test: fmnist.Split, held_out: np.ndarray
) -> dict[str, float]:
    """Compare accuracies on the test images, and on training images that were held back."""
    images, labels = train
    with np.load(results.RESULTS / "predictions.npz") as arrays:
        right = arrays["training"].argmax(axis=1) == labels
    validation, rest = right[held_out], np.delete(right, held_out)
    sampler = RBFSampler(gamma="scale", n_components=1_500, random_state=0)
    features = sampler.fit_transform(images.reshape(-1, 28 * 28))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(RidgeClassifier(), features, labels, cv=folds)
    of_test = sampler.transform(test.images.reshape(-1, 28 * 28))
    runs = [run for run in results.committed("labels")["runs"] if "changed" not in run["name"]]
    return {
        "validation": validation.mean(),
        "rest": rest.mean(),
        "as_lucky": hypergeom.sf(validation.sum() - 1, 60_000, right.sum(), 5_000),
        "networks_held_back": mean(run["validation"]["accuracy"] for run in runs),
        "networks_test": mean(run["test"]["accuracy"] for run in runs),
        "ridge_held_back": (predicted == labels).mean(),
        "ridge_test": RidgeClassifier().fit(features, labels).score(of_test, test.labels),
    }


def measure() -> dict[str, dict[str, float]]:
    parts = fmnist._load_parts(REPOSITORY / "data")
    train, test = (part._replace(images=part.images / np.float32(255)) for part in parts)
    # As the helper does it.
    options = {"test_size": 5_000, "stratify": train.labels, "random_state": 42}
    _, held_out = train_test_split(np.arange(60_000), **options)
    return {
        "twins": measure_twins(test, np.delete(train.images, held_out, axis=0)),
        "hardness": measure_hardness(train, test, held_out),
    }


def table() -> str:
    copies, twins, in_place, trousers = results.committed("split")["twins"].values()
    return (
        f"Of the 10,000 test images {copies} have a copy among the 55,000 that are trained on. "
        f"{twins} have a near twin, {twins - in_place} of them only mirrored or moved by a pixel. "
        f"{trousers} of the twins are trousers: thin shapes have few pixels that could differ."
    )


def difference(first: float, images: int, second: float, others: int) -> str:
    """Format the difference of two accuracies in points, with its 95 % interval."""
    variance = first * (1 - first) / images + second * (1 - second) / others
    return f"{100 * (first - second):.2f} ± {196 * variance**0.5:.2f} points"


def hardness() -> str:
    v, rest, lucky, held, test, ridge, ridge_test = results.committed("split")["hardness"].values()
    return (
        "Networks that have not seen them are right on "
        f"{v:.2%} of the validation images, {difference(v, 5_000, rest, 55_000)} more than on the "
        f"other training images. Chosen by chance, {lucky:.1%} of such sets would be as easy. "
        f"On the test images the same networks are right on {test:.2%}, "
        f"{difference(held, 60_000, test, 10_000)} less than on images that were held back. Ridge "
        f"regression on random features, in which nothing was tuned, is right on {ridge_test:.2%}, "
        f"{difference(ridge, 60_000, ridge_test, 10_000)} less than on such images. "
        "So the test images are harder than the others, and the "
        "validation images may happen to be easy."
    )


if __name__ == "__main__":
    fmnist.write_json(results.RESULTS / "split.json", measure())
    print(table(), hardness(), sep="\n")
