"""The studies: one runner with a toy notebook, the figures by hand, and the labels' toy judges."""

import argparse
import json
import os

import nbformat
import numpy as np
import pytest
from distributed import LocalCluster

from benchmarks import exercises, frontier, labels, neighbours, runner, seeds, speed, tuning
from benchmarks.notebook import FRAMEWORKS

pytest.importorskip("resource", reason="studies run on Linux and Macs")
TOY = {
    "import": "import os\nimport types\nimport numpy as np\nimport fmnist_utils as fmnist",
    "parameters": "FULL_RUN = 2\nEPOCHS = int(os.environ.get('FMNIST_EPOCHS') or FULL_RUN)\n"
    "SEED = 0\nLOG = ''",
    "load": "def part(size):\n"
    "    return fmnist.Split(np.zeros((size, 28, 28), np.uint8), np.zeros(size, np.int64))\n"
    "data = fmnist.FashionMNIST(part(20), part(10), part(30))",
    "instantiate": "model = types.SimpleNamespace(trainable_weights=[np.zeros((2, 3))])\n"
    "stopwatch = fmnist.Stopwatch()",
    "train": "history = {'accuracy': [0.5] * EPOCHS}",
    "evaluate": "def predict(model, images):\n"
    "    if LOG:\n"
    "        with open(LOG, 'a') as log:\n"
    "            print(len(images), file=log)\n"
    "    return np.eye(10, dtype=np.float32)[np.arange(len(images)) % 10]",
}


@pytest.fixture(scope="module")
def options():
    """Start a cluster for all runs, with a variable set that none of them may heed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMNIST_EPOCHS", "7")
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            yield argparse.Namespace(workers=2, scheduler=cluster.scheduler_address)


def write_toy(path, **changes):
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})
        for tag, source in {**TOY, **changes}.items()
    ]
    cells.append(nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["evaluate"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Put a toy in the place of the PyTorch notebook; return its path."""
    path = tmp_path / "toy.ipynb"
    write_toy(path)
    for key, framework in FRAMEWORKS.items():
        monkeypatch.setitem(FRAMEWORKS, key, framework._replace(notebook=path))
    monkeypatch.setattr(runner, "RUNS", tmp_path / "runs")
    return path


def toy_tasks(**changes):
    return [runner.Task(f"toy, seed {s}", "pytorch", {"SEED": s}, **changes) for s in (0, 1)]


def test_runs_that_are_there_are_not_run_again(toy, options, capsys):
    first = runner.run_all(toy_tasks()[:1], options)
    both = runner.run_all(toy_tasks(), options)
    assert "\n1 runs to do, 1 are there already\n" in capsys.readouterr().out
    assert both[0] == first[0]
    assert [r["settings"] for r in both] == [{"EPOCHS": 2, "SEED": s, "LOG": ""} for s in (0, 1)]
    assert [run["validation"]["accuracy"] for run in both] == [0.1, 0.1]
    assert (both[0]["parameters"], both[0]["images"], both[0]["training_accuracy"]) == (6, 20, 0.5)
    with np.load((runner.RUNS / both[1]["file"]).with_suffix(".npz")) as probabilities:
        assert {part: len(array) for part, array in probabilities.items()} == {"validation": 10}


def test_the_test_images_are_predicted_only_where_they_are_wanted(toy, options, tmp_path):
    log = tmp_path / "log"
    task = runner.Task("toy", "pytorch", {"LOG": str(log)})
    (run,) = runner.run_all([task], options)
    assert (log.read_text(), "test" in run) == ("10\n", False)
    (run,) = runner.run_all([task._replace(parts=("test",))], options)
    assert (log.read_text(), run["test"]["accuracy"]) == ("10\n30\n", 0.1)


def test_code_is_put_after_the_first_cell_with_a_tag(toy, options):
    task = runner.Task("toy", "pytorch", after={"load": "data = data._replace(train=part(3))"})
    (run,) = runner.run_all([task._replace(report="report = SEED + 5")], options)
    assert (run["images"], run["reported"]) == (3, 5)


def test_results_of_older_code_are_dropped(toy, options, capsys):
    before, _ = runner.run_all(toy_tasks(), options)
    write_toy(toy, train=TOY["train"] + "  # a comment", parameters=TOY["parameters"] + "\nNEW = 1")
    assert runner.code_sha256(FRAMEWORKS["pytorch"]) == before["code_sha256"]
    write_toy(toy, train=TOY["train"].replace("0.5", "0.75"))
    capsys.readouterr()
    runs = runner.run_all(toy_tasks(), options)
    printed = capsys.readouterr().out
    assert "dropped toy, seed 0: the notebook's code has changed since\n" in printed
    assert "\n2 runs to do, 0 are there already\n" in printed
    assert [run["training_accuracy"] for run in runs] == [0.75, 0.75]
    assert len(list(runner.RUNS.iterdir())) == 4


def test_a_failing_run_is_named_and_the_others_are_kept(toy, options, capsys):
    for harm, message in (
        ("raise ValueError('not finite')", "failed in cell [5]: ValueError: not finite"),
        ("os._exit(3)", "failed with status 3: "),
    ):
        with pytest.raises(SystemExit) as end:
            runner.run_all(toy_tasks(after={"train": f"if SEED == 0:\n    {harm}"}), options)
        assert end.value.code == f"toy, seed 0, {message}"
    assert len(list(runner.RUNS.glob("*.json"))) == 2
    with pytest.raises(SystemExit, match=r"toy\.ipynb has no setting EPOCH\."):
        runner.run_all([runner.Task("toy", "pytorch", {"EPOCH": 1})], options)


def test_a_killed_worker_costs_only_its_own_run(toy, options, tmp_path):
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
        os.kill(first, 0)


def finished(accuracy, **changes):
    test = {"accuracy": accuracy, "loss": 0.2, "ece": 0.01}
    run = {"test": test, "settings": {"EPOCHS": 2}, "training_seconds": 90, "parameters": 600_000}
    return {**run, "operations_per_image": 1e7, "processor": "Z80", "threads": 2, **changes}


def test_the_table_has_the_figures_by_hand():
    runs = [finished(0.92), finished(0.94, training_seconds=300, threads=1)]
    groups = {"a": runs, "b": [finished(0.9, operations_per_image=None)]}
    assert runner.table(groups, "test").splitlines()[2:] == [
        "| a | 2 | 93.00% ± 1.41% | 0.2000 | 1.00% | 0.60 M | 1.1 | 1.5 | Z80 | 1, 2 |",
        "| b | 1 | 90.00% ± 0.00% | 0.2000 | 1.00% | 0.60 M |  | 1.5 | Z80 | 2 |",
    ]


@pytest.mark.parametrize(
    "arguments",
    [[], ["EPOCHS=3", "CHANNELS=(8, 16)", "no-shift", "no-momentum"], *([c] for c in tuning.EACH)],
)
def test_a_row_of_the_tuning_names_the_command_that_repeats_it(arguments):
    (task,) = tuning.tasks("pytorch", arguments, [4])
    assert task.settings["VALIDATION_SIZE"] == 15_000
    named = tuning.arguments_of(runner.identity(task, 1))
    assert sorted(tuning.shlex.split(named)) == sorted(arguments)


def test_two_changes_of_one_cell_are_refused():
    with pytest.raises(SystemExit, match="no-decay changes a cell that another one changes"):
        tuning.tasks("pytorch", ["no-momentum", "no-decay"], [0])


def test_every_table_can_be_made_from_what_is_committed():
    for table in (seeds.table, frontier.table, tuning.table, speed.table):
        assert table() == runner.NOT_MEASURED or table().startswith("| ")
    assert labels.table() == runner.NOT_MEASURED or labels.table().startswith("![")
    assert neighbours.table().startswith("| ")
    for key in FRAMEWORKS:
        assert set(exercises.outcomes(key)) == set(exercises.tasks(key))


def test_the_time_to_an_accuracy_ends_where_the_tutorial_first_has_it(monkeypatch, tmp_path):
    def notebook(key, epochs):
        times = {"training_seconds": 10.0 * epochs, "seconds_to_trained": 10.0 * epochs + 5}
        test = {"accuracy": 0.88 + 0.01 * epochs}
        return {**times, "test": test, "processor": "Z80", "reported": 0.2, "peak_mib": 900.0}

    def tutorial(key, epochs):
        accuracies = [0.8, 0.9, 0.92, 0.89, 0.9][:epochs]
        return {"seconds": [30.0] * epochs, "test_accuracies": accuracies, "seconds_to_ready": 5.0}

    monkeypatch.setattr(speed, "run_notebook", notebook)
    monkeypatch.setattr(speed, "run_tutorial", tutorial)
    monkeypatch.setattr(speed, "TUTORIALS", {key: ("", 5) for key in FRAMEWORKS})
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    results = [speed.measure(key) for key in FRAMEWORKS]
    (tmp_path / "speed.json").write_text(json.dumps(results))
    for row in (
        "| tutorial / notebook, of three pairs | 3.0 3.0 3.0 | 3.0 3.0 3.0 |",
        "| the tutorial's final accuracy | 90.00% | 90.00% |",
        "| tutorial reaches it after | 1.1 min, in epoch 2 of 5 | 1.1 min, in epoch 2 of 5 |",
        "| notebook reaches it after | 0.4 min, with 2 epochs | 0.4 min, with 2 epochs |",
        "| loading and augmenting alone, of an epoch | 2.0% | 2.0% |",
    ):
        assert row in speed.table().splitlines()


def test_the_folds_hold_every_image_back_once_and_change_one_label_in_a_hundred(data):
    own = [labels.variables(task) for task in labels.TASKS]
    for of_set, changes in ((own[:5], 0), (own[5:], 600)):
        assert np.array_equal(sum(names["held_back"].astype(int) for names in of_set), [1] * 60_000)
        assert len(of_set[0]["changed"]) == changes
        assert len(of_set[0]["data"].train.labels) == 48_000
    original, noisy = own[0]["labels"], own[5]["labels"]
    assert np.array_equal(np.flatnonzero(original != noisy), np.sort(own[5]["changed"]))


def test_suspects_are_where_all_judges_agree_against_the_label():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 2_000)
    given = truth.copy()
    given[:20] = (truth[:20] + 1) % 10
    judge = np.full((2_000, 10), 0.01)
    judge[np.arange(2_000), truth] = 0.91
    unsure = judge.copy()
    unsure[5] = np.roll(judge[5], 3)  # it says something else about this one
    found = labels.suspects(given, [judge, unsure])
    assert {row for row, *_ in found} == set(range(20)) - {5}
    assert all(given[row] == label and truth[row] == said for row, label, said, _ in found)


def test_twins_are_found_also_mirrored_and_moved_and_no_image_is_its_own():
    images = np.random.default_rng(0).random((60, 28, 28), np.float32)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    images[1] = images[0]
    images[3] = images[2][:, ::-1]
    images[5, 1:] = images[4, :-1]
    pca = neighbours.PCA(neighbours.COMPONENTS).fit(images.reshape(-1, 784))
    own = neighbours.distances(images, images, pca)
    assert np.flatnonzero(own[0] == 0).tolist() == [0, 1]
    assert np.flatnonzero(own.min(axis=0) <= neighbours.NEAR).tolist() == list(range(6))
