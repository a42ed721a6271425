"""Run both notebooks in full with five seeds: what differs between the runs is chance.

The test images are read at the end of each run. Results: results/seeds.json.

    python -m benchmarks.seeds [--workers 2] [--scheduler tcp://host:8786]
"""

from statistics import mean

from scipy.stats import ttest_ind

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.notebook import FRAMEWORKS
from benchmarks.results import Run

TASKS = [
    runner.Task(f"{framework.name}, seed {seed}", key, {"SEED": seed}, parts=runner.TESTED)
    for seed in range(5)
    for key, framework in FRAMEWORKS.items()
]


def runs_by_framework() -> dict[str, list[Run]]:
    """Return the committed runs by framework's name."""
    runs = runner.measured(results.committed("seeds"), TASKS)
    return {f.name: [run for run in runs if run["framework"] == k] for k, f in FRAMEWORKS.items()}


def difference() -> str:
    runs = runs_by_framework()
    first, second = ([run["test"]["accuracy"] for run in group] for group in runs.values())
    interval = ttest_ind(first, second, equal_var=False).confidence_interval()  # Welch's
    low, middle, high = (
        f"{100 * x:+.2f}" for x in (interval.low, mean(first) - mean(second), interval.high)
    )
    return (
        f"{' minus '.join(runs)}: the means of the test accuracy differ by {middle} points, with a "
        f"95 % interval from {low} to {high} (Welch's t, {len(first)} seeds each)."
    )


def table() -> str:
    return f"{results.table(runs_by_framework(), 'test')}\n\n{difference()}"


if __name__ == "__main__":
    runs = runner.run_all(TASKS, runner.parser(__doc__).parse_args())
    fmnist.write_json(results.RESULTS / "seeds.json", runs)
    print(table())
