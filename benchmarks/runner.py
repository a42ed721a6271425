"""Run the notebooks with changed settings: the one runner of all studies.

A run executes a notebook, without the cells for readers, in a kernel and leaves two files in
build/runs, named after all that decides the outcome. A study that was interrupted goes on when it
is started again: it does the runs that have no files.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import json
import logging
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.system import CPU_COUNT
from distributed import Client, as_completed
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from traitlets.config import Config

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, TRAINING, Framework, cells, read, tagged
from benchmarks.results import NotMeasured, Run

RUNS = REPOSITORY / "build" / "runs"
TESTED = ("validation", "test")  # the parts of a run that ends with the test images
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # of the processor's instructions
# By default Dask watches itself fifty times a second and samples what its threads do, which takes a
# tenth of two cores away from two runs.
dask.config.set({"distributed.admin.tick.interval": "1s"})
dask.config.set({"distributed.worker.profile.enabled": False})


class Task(NamedTuple):
    """A run that is wanted."""

    name: str  # in messages and tables
    framework: str  # a key of FRAMEWORKS
    settings: Mapping[str, Any] = {}  # in place of the notebook's
    # Code to put after the first cell with a tag; its variable `report` is kept as "reported".
    after: Mapping[str, str] = {}
    without: Sequence[str] = ()  # regular expressions of what to take out of the code
    parts: Sequence[str] = ("validation",)  # to evaluate; the others are not predicted


def default_settings(framework: Framework) -> dict[str, Any]:
    """Return what the notebook's `parameters` cell sets."""
    names: dict[str, Any] = {}
    exec(cells(read(framework), "parameters")[0], names)
    return {name: value for name, value in names.items() if name.isupper()}


def program(task: Task) -> NotebookNode:
    """Return the notebook of a run: the cells that train, with the task's changes."""
    framework = FRAMEWORKS[task.framework]
    if unknown := sorted(task.settings.keys() - default_settings(framework)):
        raise ValueError(f"{framework.notebook.name} has no setting {', '.join(unknown)}.")
    notebook = read(framework)
    notebook.cells = tagged(notebook, *TRAINING)
    for pattern in task.without:
        if not any(re.search(pattern, cell.source) for cell in notebook.cells):
            raise ValueError(f"{framework.notebook.name} has nothing like {pattern}.")
        for cell in notebook.cells:
            cell.source = re.sub(pattern, "", cell.source)
    settings = "\n".join(f"{name} = {value!r}" for name, value in sorted(task.settings.items()))
    for tag, code in [("parameters", settings), *task.after.items()]:
        tagged(notebook, tag)[0].source += f"\n{code}"
    measure = f"from benchmarks.measure import measure\nmeasured = measure(globals(), {task.parts})"
    notebook.cells.append(new_code_cell(measure))
    return notebook


def sha256_of_code(code: str) -> str:
    """Return the SHA-256 of code, which comments do not change."""
    return hashlib.sha256(ast.unparse(ast.parse(code)).encode()).hexdigest()


def identity(task: Task) -> str:
    """Return the SHA-256 of all that a run executes after its imports."""
    notebook = program(task)
    imports = tagged(notebook, "colab", "import")
    return sha256_of_code("\n".join(c.source for c in notebook.cells if c not in imports))


def surroundings(key: str, threads: int) -> dict[str, Any]:
    """Return what else decides the outcome of a framework's run, in this process."""
    packages = (*FRAMEWORKS[key].packages, "numpy")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "helper_sha256": sha256_of_code(Path(fmnist.__file__).read_text(encoding="utf-8")),
        "processor": fmnist.processor(),
        "limits": {name: os.environ.get(name, "") for name in LIMITS},
        "threads": threads,  # another number adds up in another order
    }


def file_of(task: Task, around: Mapping[str, Any]) -> Path:
    """Return where the result of a run in some `surroundings` is kept."""
    decisive = json.dumps([identity(task), around], sort_keys=True)
    return RUNS / f"{task.framework}-{hashlib.sha256(decisive.encode()).hexdigest()[:16]}.json"


def execute(task: Task, notebook: NotebookNode, around: Mapping[str, Any]) -> tuple[Run, dict]:
    """Execute a task's `program` in a kernel, which ends when this process does, however it does.

    Returned are the result and the probabilities.
    """
    if (here := surroundings(task.framework, around["threads"])) != around:
        raise RuntimeError(f"The surroundings have changed from {around} to {here}.")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, f"{around['threads']}")}
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask's
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured"
        keep = f"import pickle\npickle.dump(measured, open({str(path)!r}, 'wb'))"
        notebook.cells.append(new_code_cell(keep))
        options = {"startup_timeout": 120, "resources": {"metadata": {"path": REPOSITORY}}}
        # Else the kernel warns that its connections are not encrypted.
        options["config"] = Config(KernelManager={"transport_encryption": "auto"})
        started = time.time()
        try:
            NotebookClient(notebook, kernel_name="python3", **options).execute(env=environment)
        except CellExecutionError as error:
            raise RuntimeError(f"{error.ename}: {error.evalue}") from None
        result, probabilities = pickle.loads(path.read_bytes())
        return {**result, "process_seconds": time.time() - started}, probabilities


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description.partition("\n")[0])
    result.add_argument("--workers", type=int, default=1, help="how many runs share the cores")
    result.add_argument("--scheduler", help="address of a Dask scheduler: tcp://host:8786")
    return result


def run_all(tasks: Sequence[Task], options: argparse.Namespace) -> list[Run]:
    """Do the runs that have no files; return the results of all, in the order of the tasks.

    A run that fails is reported after the others, and ends the program with status 1.
    """
    threads = max(1, CPU_COUNT // options.workers)
    cluster = {}
    if not options.scheduler:  # Dask starts processes here that do one run at a time
        cluster = {"n_workers": options.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
        cluster["silence_logs"] = logging.CRITICAL  # what fails is reported below
    paths, futures, failures = [], {}, []
    with Client(options.scheduler, **cluster) as client:
        # Not pure: Dask must not take another call for this one.
        around = {k: client.submit(surroundings, k, threads, pure=False) for k in FRAMEWORKS}
        around = client.gather(around)
        for task in tasks:
            paths.append(file_of(task, around[task.framework]))
            if not paths[-1].exists():
                # When a worker dies, Dask does its run again, three times at most.
                call = execute, task, program(task), around[task.framework]
                code = {"code_sha256": identity(task), "file": paths[-1].name}
                described = {**task._asdict(), **code, **around[task.framework]}
                futures[client.submit(*call, pure=False)] = paths[-1], described
        print(f"{len(futures)} runs to do, {len(tasks) - len(futures)} are there already")
        for future in as_completed(futures):
            path, described = futures[future]
            try:
                result, probabilities = future.result()
            except Exception as error:
                failures.append(f"{described['name']} failed: {error}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path.with_suffix(".npz"), **probabilities)
            # Last, so that there is no result without its probabilities.
            fmnist.write_json(path, {**described, **result})
            print(f"{described['name']}: {result['training_seconds'] / 60:.1f} minutes", flush=True)
    if failures:
        sys.exit("\n".join(failures))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [run | {"name": task.name} for run, task in zip(runs, tasks)]


def measured(runs: Sequence[Run], tasks: Sequence[Task]) -> list[Run]:
    """Return the runs of some tasks, out of `runs`, if the present code has made all of them."""
    by_code = {run.get("code_sha256"): run for run in runs}
    found = [by_code.get(identity(task)) for task in tasks]
    if None in found:
        raise NotMeasured
    return found
