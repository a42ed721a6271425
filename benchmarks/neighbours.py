"""Find test images that are copies or near twins of training images.

Results: results/neighbours.json.

    python -m benchmarks.neighbours
"""

from collections.abc import Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors

import fmnist_utils as fmnist
from benchmarks import results

NEAR = 0.05  # root mean square of the differences of grey values, which go from 0 to 1
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def variants(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images as they are and mirrored, each in place and moved by one pixel."""
    for flipped in (images, images[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (1, 1), (1, 1)))
        for down, right in SHIFTS:
            yield padded[:, 1 + down : 29 + down, 1 + right : 29 + right].reshape(-1, 28 * 28)


def distances(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how far the nearest of the others is, by variant and image."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others.reshape(-1, 28 * 28))
    found = [search.kneighbors(pixels)[0][:, 0] for pixels in variants(images)]
    return np.stack(found) / 28  # of the sum of 28 × 28 squares to the root of their mean


def measure() -> dict[str, int]:
    data = fmnist.load_fashion_mnist()
    found = distances(*(part.images / np.float32(255) for part in (data.test, data.train)))
    nearest = found.min(axis=0)
    found = {"copies": nearest < 1e-4, "twins": nearest <= NEAR, "in_place": found[0] <= NEAR}
    found["trousers"] = found["twins"] & (data.test.labels == fmnist.CLASS_NAMES.index("Trouser"))
    return {name: int(images.sum()) for name, images in found.items()}


def table() -> str:
    copies, twins, in_place, trousers = results.committed("neighbours").values()
    return (
        f"Of the 10,000 test images {copies} have a copy among the 55,000 that are trained on. "
        f"{twins} have a near twin, {twins - in_place} of them only mirrored or moved by a pixel. "
        f"{trousers} of the twins are trousers: thin shapes have few pixels that could differ."
    )


if __name__ == "__main__":
    fmnist.write_json(results.RESULTS / "neighbours.json", measure())
    print(table())
