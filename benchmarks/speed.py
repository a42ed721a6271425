"""Measure how fast the notebooks train, compared with the usual tutorials, and as work grows.

Nothing else should run on the machine meanwhile. Run it by

    python benchmarks/speed.py

The results go to results/speed.json, after each part of the measurement, and at the end to
results/speed.png and results/scaling.png.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402
from benchmarks.notebook_code import (  # noqa: E402
    END_OF_TRAINING,
    EVALUATION,
    FRAMEWORKS,
    cell_number,
    code_cells,
    code_sha256,
    read_notebook,
    run,
    with_batch_size,
    with_share_of_images,
)

RESULTS = REPOSITORY / "benchmarks" / "results"
PEERS = {
    "PyTorch": REPOSITORY / "benchmarks" / "peers" / "pytorch_tutorial.py",
    "TensorFlow": REPOSITORY / "benchmarks" / "peers" / "keras_tutorial.py",
}
PEER_EPOCHS = {"PyTorch": 20, "TensorFlow": 30}
AIMS = {"PyTorch": 8, "TensorFlow": 15}  # times sooner at the accuracy that the tutorial ends with

# The last epoch of a run is timed, so that what the first one compiles is not counted. PyTorch
# compiles nothing in the tutorial, and one epoch is enough.
TIMED_EPOCHS = 2
PEER_TIMED_EPOCHS = {"PyTorch": 1, "TensorFlow": 2}
REPETITIONS = 3

EPOCHS_TO_TRY = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15)
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
BATCH_SIZES = (64, 128, 256, 512, 1024)

# What is put into a notebook's code. The peak of the memory is taken before the evaluation.
AFTER_TRAINING = """
import json
import resource
import time

measured = {
    "trained_at": time.time(),
    "seconds": history["seconds"],
    "images": len(train_images),
    "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}
"""
AFTER_EVALUATION = """
measured["test_accuracy"] = test.accuracy
"""

# -------------------------------------------------------------------------------------------------
# Runs
# -------------------------------------------------------------------------------------------------


def notebook_program(
    framework: str, *, share: float = 1, batch_size: int | None = None, evaluate: bool = False
) -> str:
    """Return the code of a notebook, with what prints the measurements at the end.

    Parameters
    ----------
    framework : str
        ``"PyTorch"`` or ``"TensorFlow"``.
    share : float
        The share of the training images to train on.
    batch_size : int
        Default: that of the notebook.
    evaluate : bool
        Whether to go on to the test images after the training.
    """
    cells = code_cells(framework)
    last = cell_number(cells, EVALUATION if evaluate else END_OF_TRAINING)
    cells[cell_number(cells, END_OF_TRAINING)] += AFTER_TRAINING
    if evaluate:
        cells[last] += AFTER_EVALUATION
    if share < 1:
        cells = with_share_of_images(cells, framework, share)
    if batch_size is not None:
        cells = with_batch_size(cells, batch_size)
    return "\n".join([*cells[: last + 1], "print(json.dumps(measured))"])


def run_notebook(framework: str, epochs: int, **changes: Any) -> dict[str, Any]:
    """Run a notebook's code; return what it measured.

    Parameters
    ----------
    framework : str
    epochs : int
    **changes
        See `notebook_program`.

    Returns
    -------
    dict
        ``seconds`` per epoch, with the validation in them; ``seconds_to_trained``, from the start
        of the process to the end of the training; ``images`` trained on; ``peak_memory``, as the
        system gives it; and after an evaluation ``test_accuracy``.
    """
    started = time.time()
    measured = run(["-c", notebook_program(framework, **changes)], FMNIST_EPOCHS=str(epochs))
    return measured | {"seconds_to_trained": measured["trained_at"] - started}


def run_peer(framework: str, epochs: int) -> dict[str, Any]:
    """Run the tutorial; return what it measured, as `run_notebook` does, without the memory."""
    started = time.time()
    measured = run([str(PEERS[framework])], PEER_EPOCHS=str(epochs))
    return measured | {"seconds_to_trained": measured["trained_at"] - started}


def mebibytes(peak_memory: int) -> float:
    """Convert what getrusage gives: bytes on macOS, kibibytes elsewhere."""
    return peak_memory / (1024**2 if sys.platform == "darwin" else 1024)


# -------------------------------------------------------------------------------------------------
# Measurements. Each adds to what has been measured of a framework.
# -------------------------------------------------------------------------------------------------


def measure_epochs(
    framework: str, result: dict[str, Any], repetitions: int = REPETITIONS, share: float = 1
) -> None:
    """Time single epochs of the notebook and of the tutorial, in turn."""
    result["seconds_per_epoch"], result["peer_seconds_per_epoch"] = [], []
    for _ in range(repetitions):
        own = run_notebook(framework, TIMED_EPOCHS, share=share)
        peer = run_peer(framework, PEER_TIMED_EPOCHS[framework])
        result["seconds_per_epoch"].append(own["seconds"][-1])
        result["peer_seconds_per_epoch"].append(peer["seconds"][-1])
        result["images"], result["peer_images"] = own["images"], peer["images"]
        print(
            f"{framework}: {own['seconds'][-1]:.1f} s per epoch, "
            f"the tutorial {peer['seconds'][-1]:.1f} s",
            flush=True,
        )


def measure_target(
    framework: str,
    result: dict[str, Any],
    epochs_to_try: Sequence[int] = EPOCHS_TO_TRY,
    share: float = 1,
) -> None:
    """Time the tutorial to its end, and the notebook until it is as good.

    Every number of epochs is a run of its own, since the learning rate's schedule depends on it.
    The time that counts is that of the first run that is good enough.
    """
    peer = run_peer(framework, PEER_EPOCHS[framework])
    result["peer_epochs"] = len(peer["seconds"])
    result["peer_seconds_to_target"] = [peer["seconds_to_trained"]]
    result["target"] = peer["test_accuracy"]
    print(f"{framework}: the tutorial reaches {peer['test_accuracy']:.2%}", flush=True)
    result["tries"] = list(tries(framework, peer["test_accuracy"], epochs_to_try, share))
    result["seconds_to_target"] = [result["tries"][-1]["seconds"]]
    result["epochs_to_target"] = result["tries"][-1]["epochs"]


def tries(
    framework: str, target: float, epochs_to_try: Sequence[int], share: float
) -> Iterator[dict[str, Any]]:
    """Run the notebook with more and more epochs, up to the first run that reaches the target.

    Raises
    ------
    RuntimeError
        If no run reaches it.
    """
    for epochs in epochs_to_try:
        own = run_notebook(framework, epochs, share=share, evaluate=True)
        print(
            f"{framework}: {own['test_accuracy']:.2%} after {epochs_in_words(epochs)}", flush=True
        )
        yield {
            "epochs": epochs,
            "seconds": own["seconds_to_trained"],
            "test_accuracy": own["test_accuracy"],
        }
        if own["test_accuracy"] >= target:
            return
    raise RuntimeError(
        f"The {framework} notebook does not reach {target:.2%} in "
        f"{epochs_in_words(epochs_to_try[-1])}."
    )


def measure_scaling(
    framework: str,
    result: dict[str, Any],
    shares: Sequence[float] = SHARES,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    share: float = 1,
) -> None:
    """Time an epoch of the notebook with less data, and with batches of other sizes."""
    result["scaling"] = {
        "share": [{"share": part, **cost(framework, share=part)} for part in shares],
        "batch_size": [
            {"batch_size": size, **cost(framework, share=share, batch_size=size)}
            for size in batch_sizes
        ],
    }


def cost(framework: str, **changes: Any) -> dict[str, float]:
    """Measure the time and the memory that training takes with these changes."""
    own = run_notebook(framework, TIMED_EPOCHS, **changes)
    memory = mebibytes(own["peak_memory"])
    print(f"{framework}, {changes}: {own['seconds'][-1]:.1f} s, {memory:.0f} MiB", flush=True)
    return {"seconds_per_epoch": own["seconds"][-1], "peak_memory_mib": memory}


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Say how many times as long as the notebook the tutorial takes.

    Parameters
    ----------
    result : dict
        The times of one framework.

    Returns
    -------
    dict
        ``epoch`` and ``epoch_per_image``, which allows for the notebook's fewer training images:
        ``median``, ``min`` and ``max`` over the repetitions. ``to_target``: a number.
    """
    epoch = [
        peer / own
        for own, peer in zip(result["seconds_per_epoch"], result["peer_seconds_per_epoch"])
    ]
    share_of_images = result["images"] / result["peer_images"]
    return {
        "epoch": spread(epoch),
        "epoch_per_image": spread([ratio * share_of_images for ratio in epoch]),
        "to_target": result["peer_seconds_to_target"][0] / result["seconds_to_target"][0],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest of some values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """Describe the machine, its load now, and the versions that are installed."""
    return {
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "notebooks_precision": "bfloat16" if fmnist.cpu_has_bfloat16() else "float32",
        "architecture": platform.machine(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "tensorflow", "keras")},
    }


def cpu_model() -> str | None:
    """Return the processor's name, where Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


# -------------------------------------------------------------------------------------------------
# Reports
# -------------------------------------------------------------------------------------------------


def comparison_table(results: dict[str, Any]) -> str:
    """Tabulate the comparison with the tutorials."""
    of_both = [results[framework.lower()] for framework in FRAMEWORKS]
    rows = {
        "seconds per epoch: notebook; tutorial": lambda r: (
            f"{statistics.median(r['seconds_per_epoch']):.1f}; "
            f"{statistics.median(r['peer_seconds_per_epoch']):.1f}"
        ),
        "tutorial / notebook": lambda r: with_range(r["ratios"]["epoch"]),
        "the same per training image": lambda r: with_range(r["ratios"]["epoch_per_image"]),
        "test accuracy of the tutorial": lambda r: f"{r['target']:.2%} ({r['peer_epochs']} epochs)",
        "minutes until as good, notebook; until its end, tutorial": lambda r: (
            f"{r['seconds_to_target'][0] / 60:.1f} ({epochs_in_words(r['epochs_to_target'])}); "
            f"{r['peer_seconds_to_target'][0] / 60:.1f}"
        ),
        "tutorial / notebook, to that accuracy": lambda r: f"{r['ratios']['to_target']:.1f}",
    }
    aims = [
        f"{AIMS[framework]}: {reached(result['ratios']['to_target'] >= AIMS[framework])}"
        for framework, result in zip(FRAMEWORKS, of_both)
    ]
    keys = ("cpu", "cpu_cores", "notebooks_precision")
    cpu, cores, precision = (results["machine"][key] for key in keys)
    return fmnist.markdown_table(
        [f"{cpu}, {cores} cores, {precision}", *FRAMEWORKS],
        [
            *([name, *map(figure, of_both)] for name, figure in rows.items()),
            ["our aim for that", *aims],
        ],
    )


def reached(holds: bool) -> str:
    """Say in words whether an aim was reached."""
    return "reached" if holds else "not reached"


def with_range(ratio: dict[str, float]) -> str:
    """Format a ratio with the smallest and the largest that were measured."""
    return f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})"


def epochs_in_words(epochs: int) -> str:
    """Return such as "1 epoch" or "2 epochs"."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def scaling_table(results: dict[str, Any]) -> str:
    """Tabulate seconds per epoch and peak memory against share of the data and batch size."""
    of_both = [results[framework.lower()] for framework in FRAMEWORKS]
    rows = []
    names = {
        "share": lambda share: f"{100 * share:g} % of the images",
        "batch_size": lambda size: f"batches of {size}",
    }
    for key, name in names.items():
        for steps in zip(*(result["scaling"][key] for result in of_both)):
            costs = [
                f"{step['seconds_per_epoch']:.1f} ({step['peak_memory_mib']:,.0f} MiB)"
                for step in steps
            ]
            rows.append([name(steps[0][key]), *costs])
    header = ["", *(f"{name}, s per epoch (peak memory)" for name in FRAMEWORKS)]
    return fmnist.markdown_table(header, rows)


def speed_figure(results: dict[str, Any]) -> Figure:
    """Draw the times of the notebooks and of the tutorials as bars."""
    figure = fmnist.new_figure(height=3.6)
    left, right = figure.subplots(1, 2)
    of_both = {name: results[name.lower()] for name in FRAMEWORKS}
    bars(
        left,
        "minutes to the test accuracy that the tutorial ends with",
        {
            name: (result["seconds_to_target"][0] / 60, result["peer_seconds_to_target"][0] / 60)
            for name, result in of_both.items()
        },
        [result["ratios"]["to_target"] for result in of_both.values()],
    )
    bars(
        right,
        "seconds per epoch",
        {
            name: (
                statistics.median(result["seconds_per_epoch"]),
                statistics.median(result["peer_seconds_per_epoch"]),
            )
            for name, result in of_both.items()
        },
        [result["ratios"]["epoch"]["median"] for result in of_both.values()],
    )
    right.set_yticklabels([])
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=fmnist.FONT_SIZE,
    )
    return figure


def bars(
    axes: Axes, title: str, times: dict[str, tuple[float, float]], ratios: Sequence[float]
) -> None:
    """Draw a pair of bars for each framework: the notebook's time and the tutorial's."""
    own, peer = zip(*times.values())
    rows = range(len(times))
    pairs = (
        (own, -0.2, fmnist.TRAINING_COLOUR, "this notebook"),
        (peer, 0.2, fmnist.VALIDATION_COLOUR, "tutorial"),
    )
    for values, offset, colour, label in pairs:
        drawn = axes.barh([row + offset for row in rows], values, 0.38, color=colour, label=label)
        axes.bar_label(drawn, fmt="{:.1f}", padding=4, fontsize=fmnist.FONT_SIZE)
    for row, ratio in zip(rows, ratios):
        axes.text(0, row + 0.2, f"  {ratio:.1f} times as long", va="center", size=fmnist.FONT_SIZE)
    axes.set_yticks(rows, list(times))
    axes.invert_yaxis()
    axes.margins(x=0.15)  # room for the numbers
    axes.set_title(title, fontsize=fmnist.FONT_SIZE)
    axes.tick_params(labelsize=fmnist.FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)


def scaling_figure(results: dict[str, Any]) -> Figure:
    """Draw the seconds per epoch against the share of the data and against the batch size."""
    figure = fmnist.new_figure(height=3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = (fmnist.TRAINING_COLOUR, fmnist.VALIDATION_COLOUR)
    for axes, key in ((left, "share"), (right, "batch_size")):
        for framework, colour in zip(FRAMEWORKS, colours):
            steps = results[framework.lower()]["scaling"][key]
            axes.plot(
                [step[key] for step in steps],
                [step["seconds_per_epoch"] for step in steps],
                marker="o",
                color=colour,
                label=framework,
            )
        axes.tick_params(labelsize=fmnist.FONT_SIZE, labelleft=True)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)  # and the right one, which shares the axis
    left.set_xticks(SHARES, ["⅛", "¼", "½", "all"])
    left.set_xlabel("share of the training images", fontsize=fmnist.FONT_SIZE)
    left.set_ylabel("seconds per epoch", fontsize=fmnist.FONT_SIZE)
    left.legend(loc="upper left", fontsize=fmnist.FONT_SIZE)
    right.set_xscale("log", base=2)
    right.set_xticks(BATCH_SIZES, [str(size) for size in BATCH_SIZES])
    right.set_xlabel("batch size", fontsize=fmnist.FONT_SIZE)
    return figure


def main() -> None:
    """Measure everything, from nothing, and report it."""
    results: dict[str, Any] = {
        framework.lower(): {"code_sha256": code_sha256(read_notebook(framework))}
        for framework in FRAMEWORKS
    }
    results["machine"] = machine()
    for measure in (measure_epochs, measure_target, measure_scaling):
        for framework in FRAMEWORKS:
            measure(framework, results[framework.lower()])
            fmnist.write_json(RESULTS / "speed.json", results)
    for framework in FRAMEWORKS:
        results[framework.lower()]["ratios"] = ratios(results[framework.lower()])
    fmnist.write_json(RESULTS / "speed.json", results)
    speed_figure(results).savefig(RESULTS / "speed.png")
    scaling_figure(results).savefig(RESULTS / "scaling.png")
    print(comparison_table(results), scaling_table(results), sep="\n\n")


if __name__ == "__main__":
    main()
