"""Run the notebooks with changed settings: the one runner of all studies.

A run executes the tagged cells of a notebook in a process of its own and leaves one file in
build/runs, named after all that decides the outcome. A study that was interrupted goes on when it
is started again: it does the runs that have no file.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, as_completed

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, Framework, cells, read, tagged
from tools.tables import markdown_table

RUNS = REPOSITORY / "build" / "runs"
RESULTS = REPOSITORY / "benchmarks" / "results"
NOT_MEASURED = "Not measured with the notebooks' present code yet."
FULL_SIZE = 55_000  # images; operations are given for a run on so many, also of one on fewer
PREPARING = ("colab", "import", "parameters")
MEASURED = ("model", "load", "instantiate", "train")  # and the first cell tagged evaluate
# By default Dask watches itself fifty times a second and samples what its threads do, which takes a
# tenth of two cores away from two runs.
dask.config.set({"distributed.admin.tick.interval": "1s"})
dask.config.set({"distributed.worker.profile.enabled": False})


class Task(NamedTuple):
    """A run that is wanted."""

    name: str  # in messages
    framework: str  # a key of FRAMEWORKS
    settings: Mapping[str, Any] = {}  # set after the notebook's own; SEED and EPOCHS among them
    after: Mapping[str, str] = {}  # code to put after the first cell with a tag
    parts: Sequence[str] = ("validation",)  # to evaluate; the others are not predicted
    report: str = ""  # code to end with; its variable `report` is kept as "reported"


def tested(name: str, key: str, settings: Mapping[str, Any], load: str = "") -> Task:
    """Return a run that ends with the test images; `load` is code to put after the loading."""
    return Task(name, key, settings, {"load": load} if load else {}, parts=("validation", "test"))


def default_settings(framework: Framework) -> dict[str, Any]:
    """Return what the notebook's `parameters` cell sets where no environment variable does."""
    (source,) = cells(read(framework), "parameters")
    names: dict[str, Any] = {"os": SimpleNamespace(environ={})}
    exec(source, names)
    no_matter = {"FULL_RUN", "DATA_DIR", "EXPORT_DIR"}
    return {name: names[name] for name in names if name.isupper() and name not in no_matter}


def code_sha256(framework: Framework) -> str:
    """Return the SHA-256 of the code that a run executes, without comments and settings."""
    notebook = read(framework)
    code = "\n".join([*cells(notebook, *MEASURED), cells(notebook, "evaluate")[0]])
    return hashlib.sha256(ast.unparse(ast.parse(code)).encode()).hexdigest()


def identity(task: Task, threads: int) -> dict[str, Any]:
    """Return all that decides what comes out of a run, as it is read back from JSON."""
    framework = FRAMEWORKS[task.framework]
    defaults = default_settings(framework)
    if unknown := sorted(task.settings.keys() - defaults):
        sys.exit(f"{framework.notebook.name} has no setting {', '.join(unknown)}.")
    decisive = {
        **task._asdict(),
        "settings": {**defaults, **task.settings},
        "code_sha256": code_sha256(framework),
        "threads": threads,  # another number adds up in another order
    }
    return json.loads(json.dumps(decisive))


def program(task: Task) -> dict[str, Any]:
    """Return what the process of a run has to know: cells by number, and what to evaluate."""
    notebook = read(FRAMEWORKS[task.framework])
    settings = "".join(f"\n{name} = {value!r}" for name, value in task.settings.items())
    tagged(notebook, "parameters")[0].source += settings
    for tag, addition in task.after.items():
        tagged(notebook, tag)[0].source += f"\n{addition}"
    wanted = [*tagged(notebook, *PREPARING, *MEASURED), tagged(notebook, "evaluate")[0]]
    wanted[-1].source += f"\n{task.report}"
    code = enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1)
    numbered = [(number, c.metadata.tags, c.source) for number, c in code if c in wanted]
    return {"cells": numbered, "parts": task.parts}


def processor() -> str:
    """Name the processor, and what the user has limited the frameworks' code for it to."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return fmnist._processor() + (f" limited to {limit}" if limit else "")


def execute(work: dict[str, Any], threads: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Execute a `program` in a process of its own; return its result and its probabilities.

    Raises
    ------
    RuntimeError
        If a cell fails, or the process.
    """
    environment = {**os.environ, "MPLBACKEND": "agg"}
    for name in ("FMNIST_EPOCHS", "FMNIST_SEED", "MALLOC_TRIM_THRESHOLD_"):  # the last is Dask's
        environment.pop(name, None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        environment[name] = str(threads)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        path = Path(folder)
        fmnist.write_json(path / "task.json", {**work, "started": time.time()})
        command = [sys.executable, "-m", "benchmarks.execute", folder]
        streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
        # It ends with its standard input, that is, also when this process is killed.
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **streams) as process:
            status = process.wait()
        if status:
            output.seek(0)
            last = (output.read().splitlines() or [""])[-1]
            raise RuntimeError(f"with status {status}: {last}")
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
        if "error" in result:
            raise RuntimeError(result["error"])
        with np.load(path / "probabilities.npz") as probabilities:
            return {**result, "processor": processor()}, dict(probabilities)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every study."""
    result = argparse.ArgumentParser(description=description.partition("\n")[0])
    result.add_argument("--workers", type=int, default=1, help="how many runs share the cores")
    result.add_argument("--scheduler", help="address of a Dask scheduler: tcp://host:8786")
    return result


def local_cluster(options: argparse.Namespace, stack: contextlib.ExitStack) -> LocalCluster:
    """Start processes on this machine that do one run at a time; they end with the stack."""
    settings = {"threads_per_worker": 1, "dashboard_address": ":0"}  # any free port
    settings["silence_logs"] = logging.CRITICAL  # a run that fails is reported by its study
    return stack.enter_context(LocalCluster(n_workers=options.workers, **settings))


def drop_older_runs() -> None:
    """Remove the results of code that the notebooks no longer have."""
    present = {key: code_sha256(framework) for key, framework in FRAMEWORKS.items()}
    for path in sorted(RUNS.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["code_sha256"] != present[run["framework"]]:
            print(f"dropped {run['name']}: the notebook's code has changed since")
            path.unlink()
            path.with_suffix(".npz").unlink()


def run_all(tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do the runs that have no file; return the results of all, in the order of the tasks.

    A result is what `identity` and `execute` return, with ``file``, the name of its file. A run
    that fails is reported after the others, and ends the program with status 1.
    """
    threads = max(1, CPU_COUNT // options.workers)
    drop_older_runs()
    files, missing, failures = [], {}, []
    for task in tasks:
        decisive = identity(task, threads)  # now: a notebook may be edited while its runs last
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        files.append(RUNS / f"{task.framework}-{digest[:16]}.json")
        if not files[-1].exists():
            missing[files[-1]] = decisive, program(task)
    print(f"{len(missing)} runs to do, {len(tasks) - len(missing)} are there already", flush=True)
    with contextlib.ExitStack() as stack:
        futures = {}
        if missing:
            client = stack.enter_context(Client(options.scheduler or local_cluster(options, stack)))
            # Not pure: Dask must not take another run for this one. When a worker dies, Dask does
            # its run again, three times at most.
            for path, (decisive, work) in missing.items():
                futures[client.submit(execute, work, threads, pure=False)] = path, decisive
        for future in as_completed(futures):
            path, decisive = futures[future]
            try:
                result, probabilities = future.result()
            except Exception as error:
                failures.append(f"{decisive['name']}, failed {error}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path.with_suffix(".npz"), **probabilities)
            # Last, so that there is no result without its probabilities.
            fmnist.write_json(path, {**decisive, **result, "file": path.name})
            part, minutes = decisive["parts"][-1], result["training_seconds"] / 60
            accuracy = f"{part} accuracy {result[part]['accuracy']:.2%}"
            print(f"{decisive['name']}: {accuracy}, {minutes:.1f} minutes", flush=True)
    if failures:
        sys.exit("\n".join(failures))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def study(name: str, tasks: Sequence[Task], description: str) -> None:
    """Do the runs of a study that has no options of its own; write results/NAME.json."""
    options = parser(description).parse_args()
    fmnist.write_json(RESULTS / f"{name}.json", run_all(tasks, options))


def matching(runs: Sequence[dict[str, Any]], tasks: Sequence[Task]) -> list[dict[str, Any]] | None:
    """Return the runs by task, out of `runs`; None if any is missing or of older code."""
    by_name = {run["name"]: run for run in runs}
    found = [by_name.get(task.name) for task in tasks]
    for task, run in zip(tasks, found):
        if not run or not identity(task, run["threads"]).items() <= run.items():
            return None
    return found


def committed(name: str) -> Any:
    """Return what results/NAME.json holds; nothing if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def means(runs: Sequence[Mapping[str, Any]], part: str) -> dict[str, float]:
    """Return the means of accuracy, loss and ece over runs, and the first's deviation.

    The minutes are those of the runs that had the most threads.
    """
    accuracies = [run[part]["accuracy"] for run in runs]
    most = max(run["threads"] for run in runs)
    return {
        "accuracy": mean(accuracies),
        "deviation": stdev(accuracies) if len(runs) > 1 else 0.0,
        "loss": mean(run[part]["loss"] for run in runs),
        "ece": mean(run[part]["ece"] for run in runs),
        "minutes": mean(r["training_seconds"] for r in runs if r["threads"] == most) / 60,
    }


def table(groups: Mapping[str, Sequence[Mapping[str, Any]]], part: str) -> str:
    """Tabulate runs in Markdown, a row for those that differ in the seed alone."""
    rows = []
    for label, runs in groups.items():
        own, run = means(runs, part), runs[0]
        operations = run["operations_per_image"]  # None where they are not counted
        tera = operations and operations * run["settings"]["EPOCHS"] * FULL_SIZE / 1e12
        figures = f"{own['loss']:.4f}", f"{own['ece']:.2%}", f"{run['parameters'] / 1e6:.2f} M"
        cost = f"{tera:.1f}" if tera else "", f"{own['minutes']:.1f}"
        accuracy = f"{own['accuracy']:.2%} ± {own['deviation']:.2%}"
        processors = ", ".join(sorted({r["processor"] for r in runs}))
        threads = ", ".join(sorted({f"{r['threads']}" for r in runs}))
        rows.append([label, f"{len(runs)}", accuracy, *figures, *cost, processors, threads])
    header = ["", "seeds", f"{part} accuracy", "loss", "calibration error", "parameters"]
    return markdown_table([*header, "TFLOP", "minutes", "processor", "threads"], rows)


def right_of_models() -> dict[str, np.ndarray]:
    """Return which test images the models in models/ get right, by framework's name."""
    labels = fmnist.load_fashion_mnist(REPOSITORY / "data").test.labels
    paths = {f.name: f.models / "predictions.npz" for f in FRAMEWORKS.values()}
    return {name: np.load(path)["test"] == labels for name, path in paths.items()}
