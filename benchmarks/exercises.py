"""Try the notebooks' exercises: change one thing, train for two epochs, look.

Results: results/exercises.json, from which the answers in the notebooks are written.

    python -m benchmarks.exercises
"""

from benchmarks import runner
from benchmarks.notebook import FRAMEWORKS

EPOCHS = 2
NO_BATCH_NORMALIZATION = {
    "pytorch": "nn.BatchNorm1d = nn.BatchNorm2d = nn.Identity",
    "tensorflow": "layers.BatchNormalization = lambda **settings: layers.Identity()",
}
SHUFFLED_PIXELS = """
order = np.random.default_rng(0).permutation(28 * 28)
parts = [(images.reshape(-1, 28 * 28)[:, order].reshape(-1, 28, 28), y) for images, y in data]
data = fmnist.FashionMNIST(*(fmnist.Split(*part) for part in parts))
"""


def tasks(key: str) -> dict[str, runner.Task]:
    """Return a notebook's exercises by name; `key` is one of FRAMEWORKS."""
    changes = {
        "unchanged": {},
        "shuffled pixels": {"load": SHUFFLED_PIXELS},
        "no batch normalization": {"parameters": NO_BATCH_NORMALIZATION[key]},
    }
    return {
        name: runner.Task(f"{FRAMEWORKS[key].name}, {name}", key, {"EPOCHS": EPOCHS}, after)
        for name, after in changes.items()
    }


def outcomes(key: str) -> dict[str, str]:
    """Say what came out of each of a notebook's exercises, by name."""
    wanted = tasks(key)
    runs = runner.matching(runner.committed("exercises"), list(wanted.values()))
    if runs is None:
        return dict.fromkeys(wanted, runner.NOT_MEASURED)
    figures = [
        f"training accuracy {run['training_accuracy']:.2%}, validation accuracy "
        f"{run['validation']['accuracy']:.2%}, validation loss {run['validation']['loss']:.3f}"
        for run in runs
    ]
    after = f"After {EPOCHS} epochs"
    endings = [f"{after}: {own}. The unchanged notebook: {figures[0]}." for own in figures]
    return dict(zip(wanted, endings))


if __name__ == "__main__":
    runner.study("exercises", [task for key in FRAMEWORKS for task in tasks(key).values()], __doc__)
    print({key: outcomes(key) for key in FRAMEWORKS})
