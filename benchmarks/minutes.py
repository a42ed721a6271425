"""Ask what a minute buys: test accuracy against minutes, beside what well-known tutorials reach.

Every run has the whole machine, and its whole process is timed. A tutorial is run as its source
says, with three seeds if it takes less than five minutes. Results: results/minutes.json and
minutes.png.

    python -m benchmarks.minutes
"""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from dask.system import CPU_COUNT

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from benchmarks.results import Run

# Decided on validation images, before a test image was read.
POINTS = {
    "3 epochs": ({"EPOCHS": 3}, 3),  # and how many seeds
    "10 epochs": ({"EPOCHS": 10}, 3),
    "the notebook": ({}, 5),  # the runs of seeds.py
    "a wider network": ({"CHANNELS": (32, 96), "DROPOUT": 0.3, "EPOCHS": 24}, 1),
}
TASKS = [
    runner.Task(f"{f.name}, {point}", key, {**settings, "SEED": seed}, parts=runner.TESTED)
    for point, (settings, seeds) in POINTS.items()
    for key, f in FRAMEWORKS.items()
    for seed in range(seeds)
]
# One pass over the batches, before the training.
PASS = """
import time
started = time.perf_counter()
for _ in train_batches:
    pass
report = time.perf_counter() - started
"""
LOADING = [
    runner.Task(f.name, key, {"EPOCHS": 3}, {"train": PASS}) for key, f in FRAMEWORKS.items()
]
SOURCES = REPOSITORY / "benchmarks" / "tutorials"
TUTORIALS = sorted(path.stem for path in SOURCES.glob("*_*.py"))
PLACE = REPOSITORY / "build" / "tutorials"
FRAMEWORK_NAMES = [framework.name for framework in FRAMEWORKS.values()]
RAW, ARCHIVES = PLACE / "data/FashionMNIST/raw", PLACE / "datasets/fashion-mnist"


def run_tutorial(module: str, seed: int, around: Mapping[str, Any]) -> Run:
    """Run a tutorial, and time its process; the accuracy is the last thing that it prints.

    The result is kept beside the tutorial's data, so that a study that was interrupted goes on.
    """
    path = PLACE / f"{module}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "KERAS_HOME": str(PLACE)}
    command = [sys.executable, "-m", f"benchmarks.tutorials.{module}", str(seed)]
    started = time.time()
    printed = subprocess.check_output(command, cwd=PLACE, env=environment, text=True)
    seconds, test = time.time() - started, {"accuracy": float(printed.split()[-1])}
    print(f"{module}, seed {seed}: {test}, {seconds:.0f} s", flush=True)
    run = {"name": module, "process_seconds": seconds, "test": test, **around}
    fmnist.write_json(path, run)
    return run


def run_tutorials() -> list[Run]:
    """Run all tutorials, those of less than five minutes with three seeds."""
    for folder in (RAW, ARCHIVES):
        folder.mkdir(parents=True, exist_ok=True)
    # The tutorials find the data where they would download it to.
    for name in fmnist.DATA_SHA256:
        content = fmnist._read(REPOSITORY / "data", name)
        (RAW / name).write_bytes(content)
        (ARCHIVES / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    runs = []
    for module in TUTORIALS:
        key = "tensorflow" if "keras" in (SOURCES / f"{module}.py").read_text() else "pytorch"
        around = runner.surroundings(key, CPU_COUNT)
        runs.append(run_tutorial(module, 0, around))
        if runs[-1]["process_seconds"] < 300:
            runs += [run_tutorial(module, seed, around) for seed in (1, 2)]
    return runs


def groups() -> dict[str, list[Run]]:
    """Return the committed runs with test images by their names."""
    runs = [run for run in results.committed("minutes") if "test" in run]
    runner.measured(runs, TASKS)
    return {run["name"]: [r for r in runs if r["name"] == run["name"]] for run in runs}


def point(runs: list[Run]) -> tuple[float, float]:
    """Return the median minutes of some runs, and their mean test accuracy in percent."""
    seconds = median(run["process_seconds"] for run in runs)
    return seconds / 60, 100 * mean(run["test"]["accuracy"] for run in runs)


def cost() -> str:
    """Say what the notebooks take of memory, and of an epoch for loading."""
    runs = runner.measured(results.committed("minutes"), LOADING)
    shares = [run["reported"] / (run["training_seconds"] / run["epochs"]) for run in runs]
    peaks = [max(r["peak_mib"] for r in groups()[f"{run['name']}, the notebook"]) for run in runs]
    return " ".join(
        f"{run['name']} takes {peak:,.0f} MiB of memory at most, and loading and shifting the "
        f"images {share:.1%} of an epoch."
        for run, peak, share in zip(runs, peaks, shares)
    )


def table() -> str:
    """Tabulate all runs, and link their figure."""
    rows = []
    for name, runs in groups().items():
        row = [name.replace("_", " "), f"{len(runs)}", f"{point(runs)[0]:.1f}"]
        rows.append([*row, results.accuracy(runs, "test"), results.hardware(runs[0])])
    text = results.markdown_table(["", "seeds", "minutes", "test accuracy", "on"], rows)
    return f"{text}\n\n![Test accuracy against minutes](results/minutes.png)\n\n{cost()}"


def short_table() -> str:
    """Tabulate the notebooks alone, and name the best of the tutorials."""
    found = {name: (*point(runs), runs[0]) for name, runs in groups().items()}
    rows = []
    for name in ("3 epochs", "10 epochs", "the notebook"):
        both = (found[f"{framework}, {name}"] for framework in FRAMEWORK_NAMES)
        rows.append([name, *(f"{y:.1f} % in {x:.1f} minutes" for x, y, _ in both)])
    header = ["mean test accuracy, and minutes with start and test", *FRAMEWORK_NAMES]
    best = max(TUTORIALS, key=lambda name: found[name][1])
    minutes, percent, run = found[best]
    return (
        f"{results.markdown_table(header, rows)}\n\n"
        f"The best of [some well-known tutorials](benchmarks/minutes.md), "
        f"{best.replace('_', ' ')}, has {percent:.1f} % in {minutes:.1f} minutes. All on "
        f"{results.hardware(run)}."
    )


def draw() -> None:
    figure, found = fmnist.new_figure(height=4), groups()
    axes = figure.add_subplot(xlabel="minutes", ylabel="test accuracy in percent")
    axes.set_xscale("log", base=2)
    for framework in FRAMEWORKS.values():
        line = [point(found[f"{framework.name}, {name}"]) for name in POINTS]
        axes.plot(*zip(*line), "o-", label=framework.name)
    for name in TUTORIALS:
        axes.plot(*point(found[name]), "k.")
        axes.annotate(f"  {name.replace('_', ' ')}", point(found[name]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    figure.savefig(results.RESULTS / "minutes.png")


if __name__ == "__main__":
    measured = runner.run_all([*TASKS, *LOADING], runner.parser(__doc__).parse_args())
    measured += run_tutorials()
    fmnist.write_json(results.RESULTS / "minutes.json", measured)
    draw()
    print(table())
