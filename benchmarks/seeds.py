"""Run the notebooks with several seeds, and measure how much their results differ by chance.

Every run is a task of Dask, on a cluster of processes on this machine or on any other cluster. Run
it by

    pip install -r benchmarks/requirements.txt -c constraints.txt
    python benchmarks/seeds.py
    python benchmarks/seeds.py --seeds 0 1 --epochs 5 --set LEARNING_RATE=0.05 --results build/seeds
    python benchmarks/seeds.py --scheduler tcp://host:8786

The results go to results/seeds.json, results/seeds_predictions.npz and results/seeds.png, those of
each run as soon as it has finished. A study that was interrupted goes on when it is started again.
"""

import argparse
import ast
import contextlib
import functools
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dask
import nbformat
import numpy as np
import papermill
from dask.system import cpu_count
from dask.utils import SerializableLock
from distributed import Client, LocalCluster, as_completed, get_worker
from matplotlib.figure import Figure
from nbconvert.preprocessors import ClearOutputPreprocessor
from numpy.typing import ArrayLike
from papermill.exceptions import PapermillExecutionError

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402
from benchmarks.notebook_code import code_sha256, parameters_cell  # noqa: E402

NOTEBOOKS = {
    "pytorch": "FashionMNIST_PyTorch.ipynb",
    "tensorflow": "FashionMNIST_TensorFlow.ipynb",
}
NAMES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow"}
COLOURS = {"pytorch": fmnist.TRAINING_COLOUR, "tensorflow": fmnist.VALIDATION_COLOUR}
OWN_PARAMETERS = {"SEED", "EPOCHS", "EXPORT_DIR"}  # not for --set

# By default Dask watches itself fifty times a second and samples what its threads do, which takes a
# tenth of two cores away from two runs.
CLUSTER_SETTINGS = {
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.profile.enabled": False,
}

# papermill changes the directory of the whole process, and a worker may have several threads.
ONE_RUN_PER_PROCESS = SerializableLock("notebook")


class Run(NamedTuple):
    """The record of a finished run, and the classes that it predicted for the test images."""

    record: dict[str, Any]
    predictions: np.ndarray


Runs = dict[tuple[str, int], Run]  # by framework and seed


# -------------------------------------------------------------------------------------------------
# One run, on a worker. What follows finds nothing of this repository there but what it is given.
# -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables (None removes one) for the processes started meanwhile."""
    before = dict(os.environ)
    for name, value in changes.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_notebook(
    notebook: str, parameters: dict[str, Any], *, helper: str, data: str, runs_per_machine: int
) -> tuple[dict[str, Any], np.ndarray, int]:
    """Run a notebook in a folder of its own.

    Parameters
    ----------
    notebook, helper : str
        The contents of the notebook and of fmnist_utils.py.
    parameters : dict
        What to set after the notebook's `parameters` cell.
    data : str
        A folder with the data set. Where there is no such folder, the notebook fetches the data.
    runs_per_machine : int
        How many runs share the cores of the machine.

    Returns
    -------
    metrics : dict
        What the notebook wrote to metrics.json.
    predictions : array of uint8, shape (10000,)
        The predicted classes of the test images.
    threads : int
        How many threads the framework was given.
    """
    threads = max(1, cpu_count() // runs_per_machine)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it takes EPOCHS and SEED for unknown
    tempfile.gettempdir()  # from now on the same here, whatever TMPDIR is for the kernel
    # In Dask's folder, so that Dask removes what a killed worker leaves.
    with tempfile.TemporaryDirectory(dir=get_worker().local_directory) as temporary:
        changes = {
            "OMP_NUM_THREADS": f"{threads}",
            "MKL_NUM_THREADS": f"{threads}",  # PyTorch heeds it first, and Dask sets it to 1
            "TF_NUM_INTRAOP_THREADS": f"{threads}",
            "MALLOC_TRIM_THRESHOLD_": None,  # Dask's setting, which slows the training down
            "FMNIST_EPOCHS": None,
            "FMNIST_SEED": None,
            "TMPDIR": temporary,
        }
        folder = Path(temporary)
        (folder / "notebook.ipynb").write_text(notebook, encoding="utf-8")
        (folder / "fmnist_utils.py").write_text(helper, encoding="utf-8")
        if Path(data).is_dir():
            (folder / "data").symlink_to(data)
        with ONE_RUN_PER_PROCESS, environment(changes):
            papermill.execute_notebook(
                folder / "notebook.ipynb",
                None,
                parameters={**parameters, "EXPORT_DIR": "export"},
                progress_bar=False,
                log_output=False,
                cwd=folder,
                extra_arguments=["--log-level=CRITICAL"],
            )
        metrics = json.loads((folder / "export" / "metrics.json").read_text(encoding="utf-8"))
        with np.load(folder / "export" / "predictions.npz") as predictions:
            return metrics, predictions["test"], threads


# -------------------------------------------------------------------------------------------------
# All runs
# -------------------------------------------------------------------------------------------------


def without_outputs(path: Path) -> str:
    """Read a notebook, less its outputs: their figures are most of what would be sent."""
    notebook, _ = ClearOutputPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
    return nbformat.writes(notebook)


def run_all(
    wanted: list[tuple[str, int]],
    study: Mapping[str, dict[str, Any]],
    client: Client,
    runs_per_machine: int,
) -> Iterator[tuple[tuple[str, int], Run | Exception]]:
    """Run notebooks on a cluster; yield the framework and seed of each with what came of it.

    `study` is what `identity` says of each framework.
    """
    parameters = []
    for framework, seed in wanted:
        epochs = study[framework]["epochs_given"]
        given = {} if epochs is None else {"EPOCHS": epochs}
        parameters.append({**study[framework]["settings"], **given, "SEED": seed})
    run = functools.partial(
        run_notebook,
        helper=(REPOSITORY / "fmnist_utils.py").read_text("utf-8"),
        data=str(REPOSITORY / "data"),
        runs_per_machine=runs_per_machine,
    )
    sources = {name: without_outputs(REPOSITORY / NOTEBOOKS[name]) for name in NOTEBOOKS}
    notebooks = [sources[name] for name, _ in wanted]
    # Not pure: Dask must not take another study's run for this one. When a worker dies, Dask runs
    # its task again, up to three times (its setting allowed-failures), so that a run that kills
    # every worker comes to an end. Tasks mapped in one go wait in the scheduler, not with a worker.
    futures = client.map(run, notebooks, parameters, pure=False)
    which = dict(zip(futures, wanted))
    for future in as_completed(futures):
        framework, _ = which[future]
        try:
            metrics, predictions, threads = future.result()
        except Exception as error:
            yield which[future], error
        else:
            record = {**metrics, "study": {**study[framework], "threads": threads}}
            yield which[future], Run(record, predictions)


@contextlib.contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Connect to a scheduler, or to a cluster of processes that is started for this."""
    if scheduler:
        with Client(scheduler) as client:
            yield client
    else:
        with (
            dask.config.set(CLUSTER_SETTINGS),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",  # any free port
                silence_logs=logging.CRITICAL,  # a failed run is reported by the study itself
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def described(error: Exception) -> str:
    """Say in one line what made a run fail."""
    if isinstance(error, PapermillExecutionError):
        return f"in cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


# -------------------------------------------------------------------------------------------------
# Results
# -------------------------------------------------------------------------------------------------


def identity(framework: str, settings: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """Return what the runs of a framework must have in common, to be put together."""
    notebook = nbformat.read(REPOSITORY / NOTEBOOKS[framework], as_version=4)
    return {
        "settings": settings,
        "epochs_given": epochs,
        "code_sha256": code_sha256(notebook),
    }


def load_runs(results: Path) -> Runs:
    """Read the runs that have been written to a folder."""
    if not (results / "seeds.json").is_file():
        return {}
    records = json.loads((results / "seeds.json").read_text(encoding="utf-8"))
    with np.load(results / "seeds_predictions.npz") as predictions:
        return {
            (framework, record["seed"]): Run(record, predictions[name])
            for framework in NOTEBOOKS
            for record in records[framework]
            if (name := f"{framework}-{record['seed']}") in predictions
        }


def of_this_study(runs: Runs, study: Mapping[str, dict[str, Any]]) -> Runs:
    """Return the runs without those of older code.

    Raises
    ------
    ValueError
        If a run had other settings or another number of epochs.
    """
    kept = {}
    for (framework, seed), run in runs.items():
        own = study[framework]
        its = {key: run.record["study"][key] for key in own}
        if its["code_sha256"] != own["code_sha256"]:
            print(f"dropped {NAMES[framework]}, seed {seed}: the notebook's code has changed since")
        elif its != own:
            raise ValueError(
                f"The results of {NAMES[framework]}, seed {seed}, were made with settings "
                f"{its['settings']} and epochs {its['epochs_given']}. Choose another folder by "
                "--results."
            )
        else:
            kept[framework, seed] = run
    return kept


def save_runs(results: Path, runs: Runs, labels: np.ndarray) -> None:
    """Write the runs and their summary; each file appears whole or not at all."""
    results.mkdir(parents=True, exist_ok=True)
    runs = dict(sorted(runs.items()))
    predictions = io.BytesIO()
    np.savez_compressed(
        predictions,
        **{f"{framework}-{seed}": run.predictions for (framework, seed), run in runs.items()},
    )
    content: dict[str, Any] = {
        framework: [run.record for (name, _), run in runs.items() if name == framework]
        for framework in NOTEBOOKS
    }
    content["summary"] = summarise(runs, labels)
    # In this order, so that there is no record without its predictions.
    fmnist.write_atomically(results / "seeds_predictions.npz", predictions.getvalue())
    fmnist.write_json(results / "seeds.json", content)


# -------------------------------------------------------------------------------------------------
# Statistics
# -------------------------------------------------------------------------------------------------


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, resamples: int = 10_000
) -> dict[str, Any]:
    """Estimate how certain the difference between two mean accuracies is, by the bootstrap [1]_.

    The images are resampled, the same ones for both (they are paired), and so are the seeds of each
    by themselves.

    Parameters
    ----------
    first, second : array of bool, shapes (seeds, images)
        Which images each run got right. The numbers of seeds may differ.
    resamples : int
        How often to resample.

    Returns
    -------
    dict
        ``mean``, the mean accuracy of the first minus that of the second; ``ci95``, the limits of
        the 95 % percentile interval; ``resamples``.

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani, An introduction to the bootstrap, Chapman & Hall (1993),
       chapters 8 and 13.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    rng = np.random.default_rng(0)
    # Images that the same runs got right are alike: what is drawn is how many of each kind.
    kinds, counts = np.unique(np.vstack([first, second]), axis=1, return_counts=True)
    images = first.shape[1]
    drawn = rng.multinomial(images, counts / images, size=resamples) / images
    accuracies = drawn @ kinds.T  # resamples × runs
    means = []
    for of_runs in (accuracies[:, : len(first)], accuracies[:, len(first) :]):
        seeds = of_runs.shape[1]
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
        means.append((weights * of_runs).sum(axis=1))
    return {
        "mean": float(first.mean() - second.mean()),
        "ci95": np.quantile(means[0] - means[1], [0.025, 0.975]).tolist(),
        "resamples": resamples,
    }


def summarise(runs: Runs, labels: np.ndarray) -> dict[str, Any]:
    """Summarise the results on the test images.

    Parameters
    ----------
    runs : dict
        The runs by framework and seed.
    labels : array of int, shape (10000,)
        The labels of the test images.

    Returns
    -------
    dict
        By framework, None where it has no runs: ``runs``, how many; ``accuracy`` with its ``mean``,
        ``standard_deviation`` (of a sample; None for a single run), ``minimum`` and ``maximum``;
        the means ``loss`` and ``ece``. And ``difference``, what `bootstrap_difference` says of
        PyTorch's accuracy minus TensorFlow's, None where one has no runs.
    """
    summary: dict[str, Any] = {}
    correct = []
    for framework in NOTEBOOKS:
        own = [run for (name, _), run in runs.items() if name == framework]
        summary[framework] = framework_summary([run.record["test"] for run in own])
        correct.append(np.array([run.predictions == labels for run in own]))
    complete = all(len(of_framework) for of_framework in correct)
    summary["difference"] = bootstrap_difference(*correct) if complete else None
    return summary


def framework_summary(tests: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Summarise what the runs of one framework measured on the test images."""
    if not tests:
        return None
    accuracies = [test["accuracy"] for test in tests]
    return {
        "runs": len(tests),
        "accuracy": {
            "mean": float(np.mean(accuracies)),
            "standard_deviation": float(np.std(accuracies, ddof=1)) if len(tests) > 1 else None,
            "minimum": min(accuracies),
            "maximum": max(accuracies),
        },
        "loss": float(np.mean([test["loss"] for test in tests])),
        "ece": float(np.mean([test["ece"] for test in tests])),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """Tabulate a summary, in Markdown."""
    rows = []
    for framework, name in NAMES.items():
        if (own := summary[framework]) is None:
            continue
        accuracy = own["accuracy"]
        deviation = accuracy["standard_deviation"]
        spread = "" if deviation is None else f" ± {deviation:.2%}"
        rows.append(
            [
                name,
                f"{own['runs']}",
                f"{accuracy['mean']:.2%}{spread}",
                f"{accuracy['minimum']:.2%}",
                f"{own['loss']:.4f}",
                f"{own['ece']:.2%}",
            ]
        )
    header = ["", "runs", "test accuracy (mean ± standard deviation)", "lowest", "test loss", "ECE"]
    return fmnist.markdown_table(header, rows)


def plot_accuracies(runs: Runs, summary: dict[str, Any]) -> Figure:
    """Draw the test accuracy of each run as a dot, and the mean of each framework as a line."""
    figure = fmnist.new_figure(height=3)
    axes = figure.add_subplot()
    frameworks = [framework for framework in NOTEBOOKS if summary[framework]]
    for row, framework in enumerate(frameworks):
        colour = COLOURS[framework]
        percent = [
            100 * run.record["test"]["accuracy"]
            for (name, _), run in runs.items()
            if name == framework
        ]
        mean = 100 * summary[framework]["accuracy"]["mean"]
        axes.plot(percent, [row] * len(percent), "o", markersize=9, alpha=0.6, color=colour)
        axes.vlines(mean, row - 0.2, row + 0.2, color=colour, linewidth=2)
        axes.text(
            mean,
            row - 0.25,
            f"mean {mean:.2f}",
            ha="center",
            va="bottom",
            fontsize=fmnist.FONT_SIZE,
        )
    axes.set_yticks(range(len(frameworks)), [NAMES[framework] for framework in frameworks])
    axes.margins(x=0.1)  # for the number of a mean at the edge
    axes.set_ylim(len(frameworks) - 0.5, -0.7)  # the first on top, with room for its number
    axes.set_title("Each seed's accuracy on the test images", fontsize=fmnist.FONT_SIZE)
    axes.set_xlabel("test accuracy in percent; a dot is a seed", fontsize=fmnist.FONT_SIZE)
    axes.tick_params(labelsize=fmnist.FONT_SIZE)
    return figure


# -------------------------------------------------------------------------------------------------
# Command line
# -------------------------------------------------------------------------------------------------


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        # By way of JSON, as it is compared with results that were read from there.
        return name, json.loads(json.dumps(ast.literal_eval(value)))
    except (ValueError, SyntaxError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUE with a number, a text in quotes or the like"
        ) from error


def positive(text: str) -> int:
    """Read a whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def unknown_settings(settings: dict[str, Any], frameworks: list[str]) -> list[str]:
    """Return the names that the `parameters` cell of a notebook does not define."""
    unknown = set()
    for framework in frameworks:
        notebook = nbformat.read(REPOSITORY / NOTEBOOKS[framework], as_version=4)
        defined = {
            node.id
            for node in ast.walk(ast.parse(parameters_cell(notebook)))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        unknown |= settings.keys() - (defined - OWN_PARAMETERS)
    return sorted(unknown)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="SEED")
    parser.add_argument("--frameworks", nargs="+", choices=list(NOTEBOOKS), default=list(NOTEBOOKS))
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="replace a setting of the notebooks' parameters cell, such as LEARNING_RATE=0.05",
    )
    parser.add_argument("--epochs", type=positive, help="default: that of the notebooks")
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        help="how many runs share a machine's cores at a time (default: 1)",
    )
    parser.add_argument("--scheduler", help="address of a Dask scheduler, such as tcp://host:8786")
    parser.add_argument(
        "--results",
        type=Path,
        default=REPOSITORY / "benchmarks" / "results",
        metavar="FOLDER",
        help="default: benchmarks/results",
    )
    options = parser.parse_args(arguments)
    options.settings = dict(options.settings)
    if unknown := unknown_settings(options.settings, options.frameworks):
        parser.error(f"--set cannot set {', '.join(unknown)} in the notebooks' parameters cell")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing of a study, and report all of it."""
    options = parsed(arguments)
    study = {name: identity(name, options.settings, options.epochs) for name in NOTEBOOKS}
    try:
        runs = of_this_study(load_runs(options.results), study)
    except ValueError as error:
        sys.exit(str(error))
    labels = fmnist.load_fashion_mnist(REPOSITORY / "data").test.labels
    wanted = {(name, seed) for name in options.frameworks for seed in options.seeds}
    missing = sorted(wanted - runs.keys(), key=lambda run: (run[1], run[0]))
    print(f"{len(missing)} runs to do, {len(wanted) - len(missing)} are there already", flush=True)
    failures = []
    if missing:
        with connected(options.scheduler, options.workers) as client:
            for (framework, seed), outcome in run_all(missing, study, client, options.workers):
                run_name = f"{NAMES[framework]}, seed {seed}"
                if isinstance(outcome, Exception):
                    failures.append(f"{run_name}, failed {described(outcome)}")
                    continue
                runs[framework, seed] = outcome
                save_runs(options.results, runs, labels)
                accuracy = outcome.record["test"]["accuracy"]
                print(f"{run_name}: test accuracy {accuracy:.2%}", flush=True)
    if failures:
        sys.exit("\n".join(failures))
    save_runs(options.results, runs, labels)
    summary = summarise(runs, labels)
    plot_accuracies(runs, summary).savefig(options.results / "seeds.png")
    print(summary_table(summary))


if __name__ == "__main__":
    main()
