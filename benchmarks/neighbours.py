"""Find copies and near twins within and across training, validation and test images.

Results: results/neighbours.json.

    python -m benchmarks.neighbours
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import fmnist_utils as fmnist
from benchmarks import runner
from tools.tables import markdown_table

NEAR = 0.05  # root mean square of the differences of grey values, which go from 0 to 1
COMPONENTS = 48  # in which three candidates are looked for, to be compared in all pixels
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def variants(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images as they are and mirrored, each in place and moved by one pixel."""
    for flipped in (images, images[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (1, 1), (1, 1)))
        for down, right in SHIFTS:
            yield padded[:, 1 + down : 29 + down, 1 + right : 29 + right].reshape(-1, 28 * 28)


def distances(images: np.ndarray, others: np.ndarray, pca: PCA) -> np.ndarray:
    """Return how far the nearest other image is, by variant and image; no image is its own."""
    base = others.reshape(-1, 28 * 28)
    search = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(pca.transform(base))
    result = []
    for pixels in variants(images):
        candidates = search.kneighbors(pca.transform(pixels), return_distance=False).T
        squares = np.stack([((pixels - base[rows]) ** 2).mean(axis=1) for rows in candidates])
        if images is others:
            squares[candidates == np.arange(len(images))] = np.inf
        result.append(np.sqrt(squares.min(axis=0)))
    return np.stack(result)


def measure() -> dict[str, Any]:
    """Count the images of each part that have a copy or a near twin in each part."""
    started = time.time()
    data = fmnist.load_fashion_mnist()._asdict()
    parts = {name: part.images / np.float32(255) for name, part in data.items()}
    pca = PCA(COMPONENTS, random_state=0).fit(parts["train"].reshape(-1, 28 * 28))
    pairs = []
    for other, name in itertools.combinations_with_replacement(parts, 2):
        found = distances(parts[name], parts[other], pca)
        nearest = found.min(axis=0)
        rows, in_place = np.flatnonzero(nearest <= NEAR), int((found[0] <= NEAR).sum())
        numbers = [len(parts[name]), int((nearest == 0).sum()), len(rows), len(rows) - in_place]
        pairs.append([name, other, *numbers, float(np.median(nearest))])
        if (name, other) == ("test", "train"):
            twins = rows.tolist()
    return {"pairs": pairs, "test_rows_with_twin": twins, "minutes": (time.time() - started) / 60}


def table() -> str:
    """Tabulate the counts in Markdown, and say what the models do on near twins."""
    results = runner.committed("neighbours")
    rows = [
        [f"{name} images, among {other} images", *(f"{n:,}" for n in numbers), f"{median:.4f}"]
        for name, other, *numbers, median in results["pairs"]
    ]
    twin = np.isin(range(10_000), results["test_rows_with_twin"])
    accuracies = [
        f"{name} {right[twin].mean():.1%}, {right[~twin].mean():.1%}"
        for name, right in runner.right_of_models().items()
    ]
    header = ["", "images", "have a copy", "a near twin", "of these mirrored or moved"]
    header.append("median distance to the nearest")
    return (
        f"{markdown_table(header, rows)}\n\nAccuracy on test images with a near twin among the "
        f"training images, and on the others: {'; '.join(accuracies)}."
    )


if __name__ == "__main__":
    fmnist.write_json(runner.RESULTS / "neighbours.json", measure())
    print(table())
