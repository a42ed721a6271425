"""Measure how fast the notebooks train, beside the usual tutorials. Results: results/speed.json.

Nothing else should run on the machine meanwhile.

    python -m benchmarks.speed
"""

import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import fmnist_utils as fmnist
from benchmarks import runner
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from tools.tables import markdown_table

TUTORIALS = {"pytorch": ("pytorch_tutorial", 20), "tensorflow": ("keras_tutorial", 30)}  # epochs
TIMED_EPOCHS = 2
REPETITIONS = 3
ONLY_LOADING = {  # what an epoch does besides the network
    "pytorch": "for images, labels in train_loader:\n    augment(images)",
    "tensorflow": "for images, labels in train_batches:\n    pass",
}


def task(key: str, epochs: int) -> runner.Task:
    """Return a run that times an epoch of loading alone at its end."""
    report = (
        f"import time\nstarted = time.time()\n{ONLY_LOADING[key]}\nreport = time.time() - started"
    )
    return runner.Task(f"speed, {key}", key, {"EPOCHS": epochs}, parts=("test",), report=report)


def run_notebook(key: str, epochs: int) -> dict[str, Any]:
    """Run the notebook with all cores."""
    result, _ = runner.execute(runner.program(task(key, epochs)), runner.CPU_COUNT)
    print(f"{key}: {result['training_seconds']:.1f} s for {epochs} epochs", flush=True)
    return result


def run_tutorial(key: str, epochs: int) -> dict[str, Any]:
    """Run the tutorial; its result has the seconds of each epoch and the accuracy after it."""
    started = time.time()
    command = [sys.executable, "-m", f"benchmarks.peers.{TUTORIALS[key][0]}"]
    environment = {**os.environ, "PEER_EPOCHS": f"{epochs}"}
    printed = subprocess.check_output(command, cwd=REPOSITORY, env=environment, text=True)
    result = json.loads(printed.splitlines()[-1])
    print(f"{key}, tutorial: {sum(result['seconds']):.1f} s for {epochs} epochs", flush=True)
    return result | {"seconds_to_ready": result["ready_at"] - started}


def measure(key: str) -> dict[str, Any]:
    """Measure one framework. Times to an accuracy begin with the start of the process."""
    pairs = [
        (run_notebook(key, TIMED_EPOCHS), run_tutorial(key, TIMED_EPOCHS))
        for _ in range(REPETITIONS)
    ]
    tutorial = run_tutorial(key, TUTORIALS[key][1])
    accuracies = tutorial["test_accuracies"]
    first = next(n for n, accuracy in enumerate(accuracies, 1) if accuracy >= accuracies[-1])
    tries: list[dict[str, Any]] = []
    while not tries or tries[-1]["test"]["accuracy"] < accuracies[-1]:
        tries.append(run_notebook(key, len(tries) + 1))  # anew: the rate's schedule is another
    return {
        **runner.identity(task(key, TIMED_EPOCHS), runner.CPU_COUNT),
        "processor": tries[-1]["processor"],
        "epoch": [own["training_seconds"] / TIMED_EPOCHS for own, _ in pairs],
        "tutorial_epoch": [sum(peer["seconds"]) / TIMED_EPOCHS for _, peer in pairs],
        "loading": [own["reported"] for own, _ in pairs],
        "peak_mib": [own["peak_mib"] for own, _ in pairs],
        "tutorial_accuracies": accuracies,
        "tutorial_epochs": first,
        "tutorial_seconds": tutorial["seconds_to_ready"] + sum(tutorial["seconds"][:first]),
        "accuracies": [run["test"]["accuracy"] for run in tries],
        "seconds": tries[-1]["seconds_to_trained"],
    }


def table() -> str:
    """Tabulate the comparison in Markdown."""
    wanted = [task(key, TIMED_EPOCHS) for key in FRAMEWORKS]
    if (results := runner.matching(runner.committed("speed"), wanted)) is None:
        return runner.NOT_MEASURED
    columns = []
    for own in results:
        ratios = [theirs / ours for ours, theirs in zip(own["epoch"], own["tutorial_epoch"])]
        final = own["tutorial_accuracies"][-1]
        loading = median(own["loading"]) / median(own["epoch"])
        columns.append(
            {
                "seconds per epoch: notebook": f"{median(own['epoch']):.1f}",
                "seconds per epoch: tutorial": f"{median(own['tutorial_epoch']):.1f}",
                "tutorial / notebook, of three pairs": " ".join(f"{ratio:.1f}" for ratio in ratios),
                "the tutorial's final accuracy": f"{final:.2%}",
                "tutorial reaches it after": f"{own['tutorial_seconds'] / 60:.1f} min, "
                f"in epoch {own['tutorial_epochs']} of {len(own['tutorial_accuracies'])}",
                "notebook reaches it after": f"{own['seconds'] / 60:.1f} min, "
                f"with {len(own['accuracies'])} epochs",
                "tutorial / notebook": f"{own['tutorial_seconds'] / own['seconds']:.1f}",
                "loading and augmenting alone, of an epoch": f"{loading:.1%}",
                "peak memory": f"{max(own['peak_mib']):,.0f} MiB",
            }
        )
    header = [f"{own['processor']}, {own['threads']} cores, float32"]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return markdown_table(header + [framework.name for framework in FRAMEWORKS.values()], rows)


if __name__ == "__main__":
    fmnist.write_json(runner.RESULTS / "speed.json", [measure(key) for key in FRAMEWORKS])
    print(table())
