"""Is it worth waiting? Train both notebooks for shorter, and a wider network for longer.

Results: results/frontier.json and frontier.png. The first seed of each point has the machine to
itself, so that its minutes are those of all cores.

    python -m benchmarks.frontier --workers 2
"""

from typing import Any

from matplotlib.figure import Figure

import fmnist_utils as fmnist
from benchmarks import runner, seeds
from benchmarks.notebook import FRAMEWORKS

# Decided on validation images, before a test image was read.
POINTS = {
    "a first look": {"EPOCHS": 3},
    "half as long": {"EPOCHS": 10},
    "**the notebook**": {},
    "wider": {"CHANNELS": (32, 96), "DROPOUT": 0.3, "EPOCHS": 24},
}


def tasks(key: str, settings: dict[str, Any]) -> list[runner.Task]:
    """Return the runs of a point in a framework; the notebook's own are those of the seeds."""
    title = FRAMEWORKS[key].name + "".join(f" {name}={value}" for name, value in settings.items())
    return [runner.tested(f"{title}, seed {s}", key, {**settings, "SEED": s}) for s in range(3)]


def points() -> dict[str, list[dict[str, Any]] | None]:
    """Return the runs of every point; None for one with runs that lack or are of older code."""
    runs = runner.committed("seeds") + runner.committed("frontier")
    return {
        f"{name}, {framework.name}": runner.matching(runs, tasks(key, settings))
        for name, settings in POINTS.items()
        for key, framework in FRAMEWORKS.items()
    }


def earlier() -> dict[str, list[dict[str, Any]]]:
    """Return the runs of the larger recipe that the notebooks had in commit be448a1."""
    runs = runner.committed("earlier_recipe")
    return {
        f"the earlier recipe, {framework.name}": [run for run in runs if run["framework"] == key]
        for key, framework in FRAMEWORKS.items()
    }


def table() -> str:
    """Tabulate the points in Markdown."""
    found = points()
    if None in found.values():
        return runner.NOT_MEASURED
    picture = "![Test accuracy against minutes of training](results/frontier.png)"
    return f"{runner.table(found | earlier(), 'test')}\n\n{picture}"


def figure() -> Figure:
    """Draw test accuracy against minutes, a line for each framework."""
    drawing = fmnist.new_figure(height=4)
    axes = drawing.add_subplot()
    own = [runner.means(runs, "test") for runs in points().values()]
    for number, framework in enumerate(FRAMEWORKS.values()):
        of_one = own[number :: len(FRAMEWORKS)]
        accuracies = [100 * point["accuracy"] for point in of_one]
        axes.plot([point["minutes"] for point in of_one], accuracies, "o-", label=framework.name)
    axes.set(xlabel="minutes of training", ylabel="test accuracy in percent")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    return drawing


if __name__ == "__main__":
    options = runner.parser(__doc__).parse_args()
    wanted = [t for point in POINTS.values() for key in FRAMEWORKS for t in tasks(key, point)]
    alone = [task for task in wanted if task.settings["SEED"] == 0]
    others = [task for task in wanted if task not in [*alone, *seeds.TASKS]]
    runs = runner.run_all(others, options)
    options.workers = 1
    runs += runner.run_all(alone, options)
    fmnist.write_json(runner.RESULTS / "frontier.json", runs)
    figure().savefig(runner.RESULTS / "frontier.png")
    print(table())
