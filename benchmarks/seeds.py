"""Run both notebooks in full with five seeds: what differs between the runs is chance.

The test images are read at the end of each run. Results: results/seeds.json.

    python -m benchmarks.seeds [--workers 2] [--scheduler tcp://host:8786]
"""

from typing import Any

import numpy as np
from scipy.stats import bootstrap

from benchmarks import runner
from benchmarks.notebook import FRAMEWORKS

TASKS = [
    runner.tested(f"{framework.name}, seed {seed}", key, {"SEED": seed})
    for seed in range(5)
    for key, framework in FRAMEWORKS.items()
]


def runs_by_framework() -> dict[str, list[dict[str, Any]]] | None:
    """Return the committed runs by framework's name; None if some lack or are of older code."""
    if (runs := runner.matching(runner.committed("seeds"), TASKS)) is None:
        return None
    return {
        framework.name: [run for run in runs if run["framework"] == key]
        for key, framework in FRAMEWORKS.items()
    }


def difference(runs: dict[str, list[dict[str, Any]]]) -> tuple[float, float, float]:
    """Return the first framework's mean test accuracy minus the second's, and a 95 % interval.

    The interval is that of SciPy's percentile bootstrap, which resamples the runs of each.
    """
    accuracies = [[run["test"]["accuracy"] for run in of_one] for of_one in runs.values()]
    interval = bootstrap(
        accuracies,
        lambda first, second, axis: np.mean(first, axis) - np.mean(second, axis),
        method="percentile",
        rng=0,
    ).confidence_interval
    return np.mean(accuracies[0]) - np.mean(accuracies[1]), interval.low, interval.high


def table() -> str:
    """Tabulate the study in Markdown, with the difference between the frameworks below."""
    if (runs := runs_by_framework()) is None:
        return runner.NOT_MEASURED
    (first, second), (middle, low, high) = runs, difference(runs)
    return (
        f"{runner.table(runs, 'test')}\n\n{first}'s mean accuracy minus {second}'s is {middle:+.2%}"
        f", with a 95 % interval from {low:+.2%} to {high:+.2%} (bootstrap over the runs of each)."
    )


if __name__ == "__main__":
    runner.study("seeds", TASKS, __doc__)
    print(table())
