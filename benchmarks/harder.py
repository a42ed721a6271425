"""Ask why every model is worse on the test images than on the validation images.

It reads what labels.py has left. Results: results/harder.json.

    python -m benchmarks.harder
"""

from statistics import mean

import numpy as np
from scipy.stats import hypergeom
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split

import fmnist_utils as fmnist
from benchmarks import results
from benchmarks.notebook import REPOSITORY


def measure() -> dict[str, float]:
    (images, labels), test = fmnist._load_parts(REPOSITORY / "data")
    # As the helper does it.
    options = {"test_size": 5_000, "stratify": labels, "random_state": 42}
    _, held_out = train_test_split(np.arange(60_000), **options)
    with np.load(results.RESULTS / "predictions.npz") as arrays:
        right = arrays["training"].argmax(axis=1) == labels
    validation, rest = right[held_out], np.delete(right, held_out)
    sampler = RBFSampler(gamma="scale", n_components=1_500, random_state=0)
    train = sampler.fit_transform(images.reshape(-1, 28 * 28) / np.float32(255))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(RidgeClassifier(), train, labels, cv=folds)
    of_test = sampler.transform(test.images.reshape(-1, 28 * 28) / np.float32(255))
    runs = [run for run in results.committed("labels")["runs"] if "changed" not in run["name"]]
    return {
        "validation": validation.mean(),
        "rest": rest.mean(),
        "as_lucky": hypergeom.sf(validation.sum() - 1, 60_000, right.sum(), 5_000),
        "networks_held_back": mean(run["validation"]["accuracy"] for run in runs),
        "networks_test": mean(run["test"]["accuracy"] for run in runs),
        "ridge_held_back": (predicted == labels).mean(),
        "ridge_test": RidgeClassifier().fit(train, labels).score(of_test, test.labels),
    }


def difference(first: float, images: int, second: float, others: int) -> str:
    """Format the difference of two accuracies in points, with its 95 % interval."""
    variance = first * (1 - first) / images + second * (1 - second) / others
    return f"{100 * (first - second):.2f} ± {196 * variance**0.5:.2f} points"


def table() -> str:
    v, rest, lucky, held, test, ridge, ridge_test = results.committed("harder").values()
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
    fmnist.write_json(results.RESULTS / "harder.json", measure())
    print(table())
