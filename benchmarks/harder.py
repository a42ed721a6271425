"""Ask why every model is worse on the test images than on the validation images.

Nothing is tuned here. Results: results/harder.json.

    python -m benchmarks.harder
"""

from typing import Any

import numpy as np
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import fmnist_utils as fmnist
from benchmarks import runner
from tools.tables import markdown_table


def measure() -> dict[str, Any]:
    """Return accuracies on validation and test images, and on what is said in the comments."""
    data = fmnist.load_fashion_mnist()
    pixels = [part.images.reshape(-1, 28 * 28) / np.float32(255) for part in data]
    sampler = RBFSampler(gamma="scale", n_components=1_500, random_state=0).fit(pixels[0])
    features = [sampler.transform(part) for part in pixels]
    ridge = RidgeClassifier().fit(features[0], data.train.labels)
    nearest = KNeighborsClassifier(1, algorithm="brute").fit(pixels[0], data.train.labels)
    # All 60,000 by models that have not seen them: is the validation set easier than the rest?
    labels = np.concatenate([data.train.labels, data.validation.labels])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(RidgeClassifier(), np.concatenate(features[:2]), labels, cv=folds)
    right = np.split(predicted == labels, [len(data.train.labels)])
    # Can a model tell where an image comes from? The area under the curve is 0.5 if it can't.
    both = np.concatenate([features[0][::5], features[2]])
    origin = np.repeat([0, 1], [len(features[0][::5]), len(features[2])])
    auc = cross_val_score(RidgeClassifier(), both, origin, cv=folds, scoring="roc_auc")
    said = [ridge.predict(part) == split.labels for part, split in zip(features, data)]
    classes = range(len(fmnist.CLASS_NAMES))
    return {
        "ridge": [float(said[n].mean()) for n in (1, 2)],
        "by_class": [[said[n][data[n].labels == c].mean() for n in (1, 2)] for c in classes],
        "nearest": [nearest.score(pixels[n], data[n].labels) for n in (1, 2)],
        "cross_validated": [float(part.mean()) for part in right],
        "origin_auc": float(auc.mean()),
    }


def table() -> str:
    """Tabulate the results in Markdown."""
    results = runner.committed("harder")
    names = {
        "ridge": "ridge regression on 1,500 random cosine features",
        "nearest": "the label of the nearest training image",
    }
    rows = [[names[key], *(f"{a:.2%}" for a in results[key])] for key in names]
    for name, of_class in zip(fmnist.CLASS_NAMES, results["by_class"]):
        rows.append([f"ridge regression, {name} alone", *(f"{a:.1%}" for a in of_class)])
    rest, validation = results["cross_validated"]
    explained = (validation - rest) / (results["ridge"][0] - results["ridge"][1])
    return (
        f"{markdown_table(['', 'validation images', 'test images'], rows)}\n\nRidge regression in "
        f"five folds of all 60,000 has {validation:.2%} on the validation images and {rest:.2%} on "
        "the others. The validation images, which are always the same, happen to be easier than "
        f"the images that they were drawn from. That explains {explained:.0%} of the difference. "
        "Ridge regression cannot tell test images from training images: its area under the ROC "
        f"curve is {results['origin_auc']:.3f}, and that of guessing 0.500."
    )


if __name__ == "__main__":
    fmnist.write_json(runner.RESULTS / "harder.json", measure())
    print(table())
