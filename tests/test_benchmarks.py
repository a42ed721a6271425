"""The studies: one runner with a toy notebook, and figures worked out by hand."""

import argparse
import importlib.metadata
import os
import re
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from distributed import LocalCluster

import fmnist_utils as fmnist
from benchmarks import exercises, labels, results, runner, seeds, tuning
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, read

pytest.importorskip("resource", reason="studies run on Linux and Macs")
TOY = {
    "import": "import os\nimport types\nimport numpy as np\nimport fmnist_utils as fmnist",
    "parameters": "EPOCHS = 2\nSEED = 0\nLOG = '/dev/null'",
    "load": """
parts = [fmnist.Split(np.zeros((n, 28, 28), np.uint8), np.zeros(n, np.int64)) for n in (20, 10, 30)]
data = fmnist.FashionMNIST(*parts)""",
    "instantiate": "model = types.SimpleNamespace(trainable_weights=[np.zeros((2, 3))])",
    "baselines": "1 / 0",
    "train": """
history = {"accuracy": [0.5] * EPOCHS}
stopwatch = types.SimpleNamespace(seconds=60.0)
def predict(model, images):
    print(len(images), file=open(LOG, "a"))
    return np.eye(10, dtype=np.float32)[np.arange(len(images)) % 10]
""",
    "evaluate": "1 / 0",
}


@pytest.fixture(scope="module")
def options():
    """Start one cluster for all runs."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield argparse.Namespace(workers=2, scheduler=cluster.scheduler_address)


def write_toy(path, train=TOY["train"]):
    notebook = nbformat.v4.new_notebook()
    for tag, source in {**TOY, "train": train}.items():
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}))
    nbformat.write(notebook, path)


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
    settings, after = {"LOG": str(log)}, {"load": "report = SEED + 5"}
    first = runner.Task("toy", "pytorch", settings, after)
    (run,) = runner.run_all([first], options)
    measured = {"parameters": 6, "images": 20, "epochs": 2, "training_accuracy": 0.5, "reported": 5}
    assert measured.items() <= run.items()
    assert (log.read_text(), run["validation"]["accuracy"], "test" in run) == ("10\n", 0.1, False)
    second = runner.Task("toy", "pytorch", settings, parts=("test",))
    again, tested = runner.run_all([first, second], options)
    assert "\n1 runs to do, 1 are there already\n" in capsys.readouterr().out
    assert (again, log.read_text(), tested["test"]["accuracy"]) == (run, "10\n30\n", 0.1)


def test_a_run_is_found_by_what_decides_its_outcome(toy, monkeypatch):
    def file(threads=1, **changes):
        task = toy_tasks()[0]._replace(**changes)
        return runner.file_of(task, runner.surroundings("pytorch", threads))

    found = file()
    write_toy(toy, TOY["train"] + "# a comment")
    assert file(name="another title") == found
    others = [file(threads=2), file(parts=("test",))]
    for change in (
        lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
        lambda patch: patch.setattr(importlib.metadata, "version", lambda package: "0.1"),
        lambda patch: patch.setattr(runner.fmnist, "processor", lambda: "Z80"),
        lambda patch: patch.setattr(runner.fmnist, "__file__", seeds.__file__),
        lambda patch: write_toy(toy, TOY["train"].replace("0.5", "0.75")),
    ):
        with monkeypatch.context() as patch:
            change(patch)
            others.append(file())
    assert len({found, *others}) == 8


def test_a_failing_run_is_named_and_the_others_are_kept(toy, options):
    code = "if SEED == 0:\n    raise ValueError('not finite')\nif SEED == 1:\n    os._exit(3)"
    tasks = toy_tasks(after={"train": code})
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
print(SEED, os.getpid(), file=open({str(log)!r}, "a"))
if SEED == 0 and open({str(log)!r}).read().count("0 ") == 1:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""
    write_toy(toy, TOY["train"] + kill_the_worker_of_the_first_run)
    runs = runner.run_all(toy_tasks(), options)
    assert [run["settings"]["SEED"] for run in runs] == [0, 1]
    began = [line.split() for line in log.read_text().splitlines()]
    assert sorted(seed for seed, _ in began) == ["0", "0", "1"]
    first = next(int(process) for seed, process in began if seed == "0")
    with pytest.raises(ProcessLookupError):  # else it would go on beside the others
        for _ in range(50):
            os.kill(first, 0)
            time.sleep(0.1)


def test_every_recipe_of_the_tuning_is_another_run():
    first = [tuning.tasks(recipe)[0] for recipe in tuning.RECIPES]
    assert len({runner.identity(task) for task in first}) == len(first)
    with pytest.raises(ValueError, match="has nothing like"):  # it would be the unchanged network
        runner.identity(tuning.tasks("tensorflow no-rate-decay")[0])


def test_the_code_of_the_exercises_is_what_the_notebooks_print():
    for key, framework in FRAMEWORKS.items():
        blocks = set(re.findall("<!-- end of (.*) -->", read(framework).cells[-1].source))
        programs = {name: runner.program(task) for name, task in exercises.tasks(key).items()}
        assert set(programs) == blocks | {"unchanged"}
    shuffled, plain = (
        programs[name].cells for name in ("shuffled pixels", "no batch normalization")
    )
    assert any("permutation(28 * 28)" in cell.source for cell in shuffled)
    assert not any("BatchNorm" in cell.source for cell in plain)


def test_the_folds_hold_every_image_back_once_and_change_one_label_in_a_hundred(data):
    folds = [labels.variables(task) for task in (*labels.TASKS[:5], labels.TASKS[10])]
    held_back = sum(fold["held_back"].astype(int) for fold in folds[:5])
    assert np.array_equal(held_back, [1] * 60_000)
    assert {len(fold["data"].train.labels) for fold in folds} == {48_000}
    before, after = folds[0]["labels"], folds[-1]["labels"]
    changed, alike = np.flatnonzero(before != after), folds[-1]["alike"]
    assert np.array_equal(changed, np.sort([*folds[-1]["anyhow"], *alike]))
    assert len(changed) == 600
    assert all(labels.SIMILAR[before[row]] == after[row] for row in alike)


def test_suspects_are_where_all_judges_agree_against_the_label():
    truth = np.arange(2_000) % 10
    given = np.where(np.arange(2_000) < 20, (truth + 1) % 10, truth)
    judge = 0.01 + 0.9 * np.eye(10)[truth]
    unsure = judge.copy()
    unsure[5] = np.roll(judge[5], 3)  # it predicts another class for this one
    judge[7, given[7]] = 0
    found = labels.suspects(given, np.array([judge, unsure]))
    assert set(found) == set(range(20)) - {5}
    assert found[0] == 7, "the least probable label comes first"


def test_the_published_suspects_fit_the_published_probabilities_and_can_be_left_out(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (example,) = re.findall(r"```python\n(.*?)```", Path("benchmarks/labels.md").read_text(), re.S)
    exec(example, names := {})
    listed = names["pd"].read_csv(labels.SUSPECTS)
    assert names["keep"].sum() == 60_000 - (listed["split"] == "training").sum()
    assert listed["p_label"].is_monotonic_increasing
    (_, given), test = fmnist._load_parts(REPOSITORY / "data")
    with np.load(results.RESULTS / "predictions.npz") as arrays:
        for part, of_part in (("training", given), ("test", test.labels)):
            rows = listed[listed["split"] == part]
            means = arrays[part][rows["row"]].astype(float)
            assert np.array_equal(means.argmax(axis=1), rows["suggested"])
            assert np.array_equal(of_part[rows["row"]], rows["label"])
            of_label = means[range(len(rows)), rows["label"]]
            np.testing.assert_allclose(of_label, rows["p_label"], atol=1e-3)


def test_the_rate_weighs_what_two_saw_by_the_size_of_each_stratum(monkeypatch):
    right, wrong = ["label is right"] * 2, ["wrong label"] * 2
    seen = {
        "first": [wrong] * 60,
        "last": [wrong] * 30 + [right] * 30,
        "non-suspects": [right] * 60,
    }
    images = [{"stratum": name, "verdicts": v} for name, pairs in seen.items() for v in pairs]
    judged = {"sizes": {"first": 1_000, "last": 2_000, "non-suspects": 0}, "images": images}
    monkeypatch.setattr(results, "committed", {"judged": judged}.get)
    text = labels.rates()
    assert "| last | 2,000 | 60 | 30 | 0 | 0 |" in text
    middle, low, high = (int(n.replace(",", "")) for n in re.findall(r"\d,\d{3}", text)[2:5])
    assert middle == pytest.approx(1_992, abs=10)  # chance is 1.96 × 2,000 × √(0.25 / 61)
    assert (high - low) / 2 == pytest.approx(251, abs=15)
    assert "agreed on 180 of 180 images, and Cohen's κ is 1.00" in text
