"""The studies: one runner with a toy notebook, figures worked out by hand, the labels' judges."""

import argparse
import importlib.metadata
import os
import re
import time

import nbformat
import numpy as np
import pytest
from distributed import LocalCluster

from benchmarks import exercises, labels, neighbours, results, runner, seeds, tuning
from benchmarks.notebook import FRAMEWORKS, read

pytest.importorskip("resource", reason="studies run on Linux and Macs")
TOY = {
    "import": "import os\nimport types\nimport numpy as np\nimport fmnist_utils as fmnist",
    "parameters": "EPOCHS = 2\nSEED = 0\nLOG = ''",
    "load": "def part(size):\n"
    "    return fmnist.Split(np.zeros((size, 28, 28), np.uint8), np.zeros(size, np.int64))\n"
    "data = fmnist.FashionMNIST(part(20), part(10), part(30))",
    "instantiate": "model = types.SimpleNamespace(trainable_weights=[np.zeros((2, 3))])",
    "baselines": "1 / 0",
    "train": "history = {'accuracy': [0.5] * EPOCHS}\n"
    "stopwatch = types.SimpleNamespace(seconds=60.0)\n"
    "def predict(model, images):\n"
    "    if LOG:\n"
    "        with open(LOG, 'a') as log:\n"
    "            print(len(images), file=log)\n"
    "    return np.eye(10, dtype=np.float32)[np.arange(len(images)) % 10]\n",
    "evaluate": "1 / 0",
}


@pytest.fixture(scope="module")
def options():
    """Start one cluster for all runs."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield argparse.Namespace(workers=2, scheduler=cluster.scheduler_address)


def write_toy(path, **changes):
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})
        for tag, source in {**TOY, **changes}.items()
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Put a toy in the place of both notebooks; return its path."""
    path = tmp_path / "toy.ipynb"
    write_toy(path)
    for key, framework in FRAMEWORKS.items():
        monkeypatch.setitem(FRAMEWORKS, key, framework._replace(notebook=path))
    monkeypatch.setattr(runner, "RUNS", tmp_path / "runs")
    return path


def toy_tasks(**changes):
    return [runner.Task(f"toy, seed {s}", "pytorch", {"SEED": s}, **changes) for s in (0, 1)]


def test_a_study_goes_on_where_it_stopped_and_predicts_only_what_is_wanted(
    toy, options, tmp_path, capsys
):
    log = tmp_path / "log"
    settings = {"LOG": str(log)}
    after = {"load": "data = data._replace(train=part(3))\nreport = SEED + 5"}
    first = runner.Task("toy", "pytorch", settings, after)
    (run,) = runner.run_all([first], options)
    measured = {"parameters": 6, "images": 3, "epochs": 2, "training_accuracy": 0.5, "reported": 5}
    assert measured.items() <= run.items()
    assert (log.read_text(), run["validation"]["accuracy"], "test" in run) == ("10\n", 0.1, False)
    with np.load((runner.RUNS / run["file"]).with_suffix(".npz")) as probabilities:
        assert {part: len(array) for part, array in probabilities.items()} == {"validation": 10}
    second = runner.Task("toy", "pytorch", settings, parts=("test",))
    again, tested = runner.run_all([first, second], options)
    assert "\n1 runs to do, 1 are there already\n" in capsys.readouterr().out
    assert (again, log.read_text(), tested["test"]["accuracy"]) == (run, "10\n30\n", 0.1)


def test_a_run_is_found_by_what_decides_its_outcome(toy, monkeypatch):
    def file(threads=1, **changes):
        task = toy_tasks()[0]._replace(**changes)
        return runner.file_of(task, runner.surroundings("pytorch", threads))

    found = file()
    write_toy(toy, train=TOY["train"] + "  # a comment")
    assert file(name="another title") == found
    others = [file(threads=2), file(parts=("test",))]
    for change in (
        lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
        lambda patch: patch.setenv("ATEN_CPU_CAPABILITY", "avx2"),
        lambda patch: patch.setattr(importlib.metadata, "version", lambda package: "0.1"),
        lambda patch: patch.setattr(runner.fmnist, "processor", lambda: "Z80"),
        lambda patch: patch.setattr(runner.fmnist, "__file__", seeds.__file__),
        lambda patch: write_toy(toy, train=TOY["train"].replace("0.5", "0.75")),
    ):
        with monkeypatch.context() as patch:
            change(patch)
            others.append(file())
    assert len({found, *others}) == 9


def test_a_failing_run_is_named_and_the_others_are_kept(toy, options):
    harm = "if SEED == 0:\n    raise ValueError('not finite')\nif SEED == 1:\n    os._exit(3)"
    tasks = toy_tasks(after={"train": harm})
    with pytest.raises(SystemExit) as end:
        runner.run_all([*tasks, tasks[0]._replace(settings={"SEED": 2})], options)
    failures = ["toy, seed 0 failed: ValueError: not finite", "toy, seed 1 failed: Kernel died"]
    assert sorted(end.value.code.splitlines()) == failures
    assert len(list(runner.RUNS.glob("*.json"))) == 1
    with pytest.raises(ValueError, match=r"toy\.ipynb has no setting EPOCH\."):
        runner.run_all([runner.Task("toy", "pytorch", {"EPOCH": 1})], options)


def test_a_dead_workers_run_is_done_again_and_its_kernel_ends(toy, options, tmp_path):
    log = tmp_path / "log"
    kill_the_worker_of_the_first_run = f"""
import signal, time
with open({str(log)!r}, "a") as log:
    print(SEED, os.getpid(), file=log)
if SEED == 0 and sum(line.startswith("0 ") for line in open({str(log)!r})) == 1:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""
    write_toy(toy, train=TOY["train"] + kill_the_worker_of_the_first_run)
    runs = runner.run_all(toy_tasks(), options)
    assert [run["settings"]["SEED"] for run in runs] == [0, 1]
    began = [line.split() for line in log.read_text().splitlines()]
    assert sorted(seed for seed, _ in began) == ["0", "0", "1"]
    (first, _) = (int(process) for seed, process in began if seed == "0")
    with pytest.raises(ProcessLookupError):  # else it would go on beside the others
        for _ in range(50):
            os.kill(first, 0)
            time.sleep(0.1)


def test_only_several_runs_have_a_deviation():
    runs = [{"test": {"accuracy": accuracy}} for accuracy in (0.92, 0.94)]
    assert results.accuracy(runs, "test") == "93.00% ± 1.41%"
    assert results.accuracy(runs[:1], "test") == "92.00%"


def test_the_interval_between_the_frameworks_is_welchs(monkeypatch):
    accuracies = {"A": [9340, 9326, 9343, 9336, 9326], "B": [9343, 9346, 9339, 9364, 9356]}
    runs = {key: [{"test": {"accuracy": n / 1e4}} for n in a] for key, a in accuracies.items()}
    monkeypatch.setattr(seeds, "runs_by_framework", lambda: runs)
    assert "by -0.15 points, with a 95 % interval from -0.29 to -0.02 (" in seeds.difference()


def test_every_recipe_of_the_tuning_is_another_run_in_either_framework():
    recipes = [*tuning.RECIPES, "CHANNELS=(8,16) no-shift", "tensorflow no-batch-normalization"]
    first = [tuning.tasks(recipe)[0] for recipe in recipes]
    assert len({runner.identity(task) for task in first}) == len(recipes)
    assert all(task.settings["VALIDATION_SIZE"] == 15_000 for task in first)
    with pytest.raises(ValueError, match="has nothing like"):  # it would be the unchanged network
        runner.identity(tuning.tasks("tensorflow no-rate-decay")[0])


def test_the_code_of_the_exercises_is_what_the_notebooks_print():
    for key, framework in FRAMEWORKS.items():
        blocks = set(re.findall("<!-- end of (.*) -->", read(framework).cells[-1].source))
        programs = {name: runner.program(task) for name, task in exercises.tasks(key).items()}
        assert set(programs) == blocks | {"unchanged"}
        code = {name: "\n".join(c.source for c in p.cells) for name, p in programs.items()}
        assert "\nLEARNING_RATE = 2.0" in code["larger rate"]
        assert "permutation(28 * 28)" in code["shuffled pixels"]
        assert "BatchNorm" in code["unchanged"]
        assert "BatchNorm" not in code["no batch normalization"]


def test_the_folds_hold_every_image_back_once_and_change_one_label_in_a_hundred(data):
    folds = [labels.variables(task) for task in labels.TASKS[:6]]
    held_back = sum(fold["held_back"].astype(int) for fold in folds[:5])
    assert np.array_equal(held_back, [1] * 60_000)
    assert {len(fold["data"].train.labels) for fold in folds} == {48_000}
    assert [len(fold["changed"]) for fold in folds] == [0, 0, 0, 0, 0, 600]
    changed = np.flatnonzero(folds[0]["labels"] != folds[5]["labels"])
    assert np.array_equal(changed, np.sort(folds[5]["changed"]))


def test_suspects_are_where_all_judges_agree_against_the_label():
    truth = np.random.default_rng(0).integers(0, 10, 2_000)
    given = np.where(np.arange(2_000) < 20, (truth + 1) % 10, truth)
    judge = np.full((2_000, 10), 0.01)
    judge[np.arange(2_000), truth] = 0.91
    unsure = judge.copy()
    unsure[5] = np.roll(judge[5], 3)  # it predicts another class for this one
    found = labels.suspects(given, [judge, unsure])
    assert {row for row, *_ in found} == set(range(20)) - {5}
    assert all(given[row] == label and truth[row] == seen for row, label, seen, _ in found)


def test_twins_are_found_also_mirrored_and_moved():
    images = np.random.default_rng(0).random((8, 28, 28), np.float32)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    others = images[:4].copy()
    others[1], others[2, 1:] = images[1, :, ::-1], images[2, :-1]
    nearest = neighbours.distances(images, others).min(axis=0)
    assert np.flatnonzero(nearest < 1e-4).tolist() == [0, 1, 2, 3]
