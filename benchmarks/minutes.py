"""Ask what a minute buys: test accuracy against minutes, beside what well-known tutorials reach.

Every run has the whole machine, and its whole process is timed. A tutorial is run as its source
says, with three seeds if it takes less than five minutes. Results: results/minutes.json and
minutes.png.

    python -m benchmarks.minutes
"""

import gzip
import os
import subprocess
import sys
import time
from statistics import mean, median

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from benchmarks.results import Run

# Decided on validation images, before a test image was read.
POINTS = {
    "3 epochs": {"EPOCHS": 3},
    "10 epochs": {"EPOCHS": 10},
    "the notebook": {},
    "a wider network": {"CHANNELS": (32, 96), "DROPOUT": 0.3, "EPOCHS": 24},
}
TUTORIALS = sorted(path.stem for path in (REPOSITORY / "benchmarks" / "tutorials").glob("*_*.py"))
TASKS = [
    runner.Task(f"{framework.name}, {point}", key, {**settings, "SEED": seed}, parts=("test",))
    for key, framework in FRAMEWORKS.items()
    for point, settings in POINTS.items()
    for seed in range(3)
]
PLACE = REPOSITORY / "build" / "tutorials"
RAW, ARCHIVES = PLACE / "data/FashionMNIST/raw", PLACE / "datasets/fashion-mnist"


def run_tutorial(module: str, seed: int) -> Run:
    """Run a tutorial, and time its process; the accuracy is the last thing that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "KERAS_HOME": str(PLACE)}
    command = [sys.executable, "-m", f"benchmarks.tutorials.{module}", str(seed)]
    started = time.time()
    printed = subprocess.check_output(command, cwd=PLACE, env=environment, text=True)
    seconds, test = time.time() - started, {"accuracy": float(printed.split()[-1])}
    print(f"{module}, seed {seed}: {test}, {seconds:.0f} s", flush=True)
    return {"name": module, "process_seconds": seconds, "test": test}


def groups() -> dict[str, list[Run]]:
    """Return the committed runs by their names."""
    runs = results.committed("minutes")
    runner.measured(runs, TASKS)
    return {run["name"]: [r for r in runs if r["name"] == run["name"]] for run in runs}


def point(runs: list[Run]) -> tuple[float, float]:
    """Return the median minutes of some runs, and their mean test accuracy in percent."""
    seconds = median(run["process_seconds"] for run in runs)
    return seconds / 60, 100 * mean(run["test"]["accuracy"] for run in runs)


def table(short: bool = False) -> str:
    """Tabulate the runs; for README those of the notebooks and of the best tutorial."""
    found = groups()
    best = max(TUTORIALS, key=lambda name: point(found[name])[1])
    left_out = {n for n in found if n in TUTORIALS or "wider" in n} - {best} if short else set()
    rows = [
        [name.replace("_", " "), f"{point(runs)[0]:.1f}", results.accuracy(runs, "test")]
        for name, runs in found.items()
        if name not in left_out
    ]
    text = results.markdown_table(["", "minutes", "test accuracy"], rows)
    if not short:
        text += "\n\n![Test accuracy against minutes](results/minutes.png)"
    ours = [found[f"{framework.name}, the notebook"][0] for framework in FRAMEWORKS.values()]
    peak = f"{max(run['peak_mib'] for run in ours):,.0f} MiB"
    return f"{text}\n\nAll on {results.hardware(ours[0])}. The notebooks take {peak} of memory."


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
    measured = runner.run_all(TASKS, runner.parser(__doc__).parse_args())
    # The tutorials find the data where they would download it to.
    for folder in (RAW, ARCHIVES):
        folder.mkdir(parents=True, exist_ok=True)
    for name in fmnist.DATA_SHA256:
        content = fmnist._read(REPOSITORY / "data", name)
        (RAW / name).write_bytes(content)
        (ARCHIVES / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    for module in TUTORIALS:
        measured.append(run_tutorial(module, 0))
        if measured[-1]["process_seconds"] < 300:
            measured += [run_tutorial(module, seed) for seed in (1, 2)]
    fmnist.write_json(results.RESULTS / "minutes.json", measured)
    draw()
    print(table())
