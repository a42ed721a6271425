"""The study of several seeds: its statistics, and that an interrupted one goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from distributed import LocalCluster

from benchmarks import seeds
from benchmarks.notebook_code import EVALUATION, REPOSITORY, cell_number

LABELS = np.zeros(10_000, np.uint8)


def predictions_with(right):
    """Return predictions of which the first `right` agree with LABELS."""
    return (np.arange(len(LABELS)) >= right).astype(np.uint8)


def finished_run(framework, seed, accuracy, loss=0.2, ece=0.01, **changes):
    study = {**seeds.identity(framework, {}, None), "threads": 2, **changes}
    test = {"accuracy": accuracy, "loss": loss, "ece": ece}
    return seeds.Run(
        {"framework": seeds.NAMES[framework], "seed": seed, "test": test, "study": study},
        predictions_with(round(accuracy * len(LABELS))),
    )


@pytest.fixture
def no_cluster(monkeypatch):
    def connected(*_):
        raise AssertionError("a run was submitted")

    monkeypatch.setattr(seeds, "connected", connected)


@pytest.fixture
def submitted(monkeypatch):
    """Return the list of the runs that were submitted; each finishes at once."""
    runs = []

    def run_all(wanted, study, client, workers):
        for framework, seed in wanted:
            runs.append((framework, seed))
            yield (framework, seed), finished_run(framework, seed, 0.95)

    monkeypatch.setattr(seeds, "connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(seeds, "run_all", run_all)
    return runs


# Bootstrap and summary


def test_the_bootstrap_is_sure_of_what_does_not_vary():
    difference = seeds.bootstrap_difference(np.ones((3, 50)), np.zeros((2, 50)))
    assert difference == {"mean": 1.0, "ci95": [1.0, 1.0], "resamples": 10_000}


def test_the_bootstrap_resamples_the_images_in_pairs():
    right = np.arange(100) < 80
    assert seeds.bootstrap_difference([right], [right])["ci95"] == [0.0, 0.0]
    # The resampled difference is a binomial share: 100 draws, probability 0.8.
    difference = seeds.bootstrap_difference([right], np.zeros((1, 100)))
    assert difference["mean"] == 0.8
    assert difference["ci95"] == pytest.approx([0.72, 0.87], abs=0.011)


def test_the_bootstrap_resamples_the_seeds_of_each_framework():
    # Of two seeds, one always right and one always wrong, a quarter of the resamples are twice the
    # one and a quarter twice the other.
    apart = np.array([np.ones(50), np.zeros(50)])
    difference = seeds.bootstrap_difference(apart, np.zeros((1, 50)))
    assert difference["mean"] == 0.5
    assert difference["ci95"] == [0.0, 1.0]
    assert seeds.bootstrap_difference(apart, apart)["ci95"] == [-1.0, 1.0]


def test_the_bootstrap_of_ten_runs_takes_seconds_at_most():
    rng = np.random.default_rng(1)
    easy = rng.random(10_000) < 0.9
    first, second = (easy | (rng.random((5, 10_000)) < 0.3) for _ in range(2))
    started = time.perf_counter()
    low, high = seeds.bootstrap_difference(first, second)["ci95"]
    assert time.perf_counter() - started < 5
    assert low < first.mean() - second.mean() < high


def test_the_summary_has_the_figures_by_hand():
    runs = {
        ("pytorch", 0): finished_run("pytorch", 0, 0.90, loss=0.3, ece=0.01),
        ("pytorch", 1): finished_run("pytorch", 1, 0.94, loss=0.2, ece=0.03),
        ("pytorch", 2): finished_run("pytorch", 2, 0.92, loss=0.1, ece=0.05),
        ("tensorflow", 7): finished_run("tensorflow", 7, 0.91),
    }
    summary = seeds.summarise(runs, LABELS)
    assert summary["pytorch"] == {
        "runs": 3,
        "accuracy": {
            "mean": pytest.approx(0.92),
            "standard_deviation": pytest.approx(0.02),
            "minimum": 0.90,
            "maximum": 0.94,
        },
        "loss": pytest.approx(0.2),
        "ece": pytest.approx(0.03),
    }
    assert summary["tensorflow"]["accuracy"]["standard_deviation"] is None
    assert summary["difference"]["mean"] == pytest.approx(0.01)
    assert seeds.summary_table(summary).splitlines()[2:] == [
        "| PyTorch | 3 | 92.00% ± 2.00% | 90.00% | 0.2000 | 3.00% |",
        "| TensorFlow | 1 | 91.00% | 91.00% | 0.2000 | 1.00% |",
    ]


def test_the_summary_of_one_framework_has_no_difference():
    summary = seeds.summarise({("pytorch", 0): finished_run("pytorch", 0, 0.9)}, LABELS)
    assert summary["tensorflow"] is None
    assert summary["difference"] is None


def test_the_plot_has_a_dot_for_each_seed_and_the_means():
    runs = {
        (framework, seed): finished_run(framework, seed, 0.9 + seed / 100)
        for framework in seeds.NOTEBOOKS
        for seed in range(3)
    }
    figure = seeds.plot_accuracies(runs, seeds.summarise(runs, LABELS))
    (axes,) = figure.axes
    assert [line.get_xdata() for line in axes.lines] == [pytest.approx([90, 91, 92])] * 2
    assert [text.get_text() for text in axes.texts] == ["mean 91.00"] * 2
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label]
    texts.append(axes.title)
    assert axes.get_title()
    assert min(text.get_fontsize() for text in texts) >= 11


# Starting a study


@pytest.mark.parametrize("setting", ["LERNING_RATE=0.1", "SEED=3", "EXPORT_DIR='here'"])
def test_a_setting_that_the_notebook_does_not_define_is_an_error(no_cluster, capsys, setting):
    with pytest.raises(SystemExit):
        seeds.main(["--set", setting])
    assert f"--set cannot set {setting.partition('=')[0]} " in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["BATCH_SIZE", "BATCH_SIZE=many", "BATCH_SIZE={1}"])
def test_a_setting_without_a_value_is_an_error(no_cluster, capsys, setting):
    with pytest.raises(SystemExit):
        seeds.main(["--set", setting])
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_runs_that_are_there_are_not_run_again(no_cluster, tmp_path):
    runs = {("pytorch", seed): finished_run("pytorch", seed, 0.9) for seed in (0, 1)}
    seeds.save_runs(tmp_path, runs, LABELS)
    before = (tmp_path / "seeds.json").read_text()
    seeds.main(["--seeds", "1", "0", "0", "--frameworks", "pytorch", "--results", str(tmp_path)])
    results = json.loads((tmp_path / "seeds.json").read_text())
    assert results["pytorch"] == json.loads(before)["pytorch"]
    assert (tmp_path / "seeds.png").is_file()


def test_a_study_goes_on_with_the_runs_that_are_missing(submitted, tmp_path):
    seeds.save_runs(tmp_path, {("pytorch", 1): finished_run("pytorch", 1, 0.9)}, LABELS)
    seeds.main(["--seeds", "2", "1", "0", "--results", str(tmp_path)])
    assert submitted == [
        ("pytorch", 0),
        ("tensorflow", 0),
        ("tensorflow", 1),
        ("pytorch", 2),
        ("tensorflow", 2),
    ]
    results = json.loads((tmp_path / "seeds.json").read_text())
    assert results.keys() == {"pytorch", "tensorflow", "summary"}
    for framework in ("pytorch", "tensorflow"):
        assert [record["seed"] for record in results[framework]] == [0, 1, 2]
    assert results["pytorch"][1]["test"]["accuracy"] == 0.9
    with np.load(tmp_path / "seeds_predictions.npz") as predictions:
        assert set(predictions) == {
            f"{name}-{seed}" for name in seeds.NOTEBOOKS for seed in range(3)
        }
        assert np.array_equal(predictions["pytorch-1"], predictions_with(9_000))


def test_results_of_older_code_are_dropped(submitted, tmp_path, capsys):
    runs = {
        ("pytorch", 0): finished_run("pytorch", 0, 0.9),
        ("pytorch", 1): finished_run("pytorch", 1, 0.8, code_sha256="that of older code"),
    }
    seeds.save_runs(tmp_path, runs, LABELS)
    seeds.main(["--seeds", "0", "1", "--frameworks", "pytorch", "--results", str(tmp_path)])
    assert "dropped PyTorch, seed 1: the notebook's code has changed" in capsys.readouterr().out
    assert submitted == [("pytorch", 1)]
    records = json.loads((tmp_path / "seeds.json").read_text())["pytorch"]
    assert [record["test"]["accuracy"] for record in records] == [0.9, 0.95]


@pytest.mark.parametrize("changed", [["--epochs", "5"], ["--set", "BATCH_SIZE=128"]])
def test_results_with_other_settings_stay(no_cluster, tmp_path, changed):
    seeds.save_runs(tmp_path, {("pytorch", 0): finished_run("pytorch", 0, 0.9)}, LABELS)
    before = (tmp_path / "seeds.json").read_bytes()
    with pytest.raises(SystemExit, match="Choose another folder by --results"):
        seeds.main([*changed, "--results", str(tmp_path)])
    assert (tmp_path / "seeds.json").read_bytes() == before


def test_the_code_that_counts_goes_from_the_settings_to_the_evaluation():
    notebook = nbformat.read(REPOSITORY / seeds.NOTEBOOKS["pytorch"], as_version=4)
    before = seeds.code_sha256(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += "\n# the address that `make colab` writes"
    notebook.cells[0].source += "\nMore words."
    code[-1].source += "\n# exported otherwise"
    assert seeds.code_sha256(notebook) == before
    evaluation = cell_number([cell.source for cell in code], EVALUATION)
    code[evaluation].source += "\npass"
    assert seeds.code_sha256(notebook) != before


# Studies on a cluster


def repository_copy(folder):
    """Copy what a study needs, and link the data."""
    (folder / "benchmarks").mkdir(parents=True)
    code = ("benchmarks/seeds.py", "benchmarks/notebook_code.py", "fmnist_utils.py")
    for name in (*code, *seeds.NOTEBOOKS.values()):
        shutil.copyfile(REPOSITORY / name, folder / name)
    (folder / "data").symlink_to(REPOSITORY / "data")
    return folder


def test_a_failing_run_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    repository = repository_copy(tmp_path / "repository")
    settings = nbformat.v4.new_code_cell("SEED = None", metadata={"tags": ["parameters"]})
    exporting = nbformat.v4.new_code_cell(
        "import json, os, pathlib\n"
        "import numpy as np\n"
        "if SEED == 1:\n"
        "    raise ValueError('the loss is not finite')\n"
        "folder = pathlib.Path(EXPORT_DIR)\n"
        "folder.mkdir()\n"
        f"# {EVALUATION}labels, probabilities)\n"
        "test = {'accuracy': 0.0, 'loss': 1.0, 'ece': 0.5}\n"
        "record = {'seed': SEED, 'test': test, 'environment': dict(os.environ)}\n"
        "(folder / 'metrics.json').write_text(json.dumps(record))\n"
        "np.savez(folder / 'predictions.npz', test=np.zeros(10_000, np.uint8))\n"
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[settings, exporting], metadata=kernel)
    nbformat.write(notebook, repository / seeds.NOTEBOOKS["pytorch"])
    monkeypatch.setattr(seeds, "REPOSITORY", repository)
    monkeypatch.setenv("FMNIST_EPOCHS", "1")
    command = ["--seeds", "0", "1", "2", "--frameworks", "pytorch", "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        seeds.main(command)
    assert (
        str(end.value) == "PyTorch, seed 1, failed in cell [3]: ValueError: the loss is not finite"
    )
    records = json.loads((tmp_path / "seeds.json").read_text())["pytorch"]
    assert [record["seed"] for record in records] == [0, 2]
    for record in records:
        assert "FMNIST_EPOCHS" not in record["environment"]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            assert record["environment"][name] == str(record["study"]["threads"])


def log_training(notebook_path, log):
    """Have a notebook note seed and worker when it has loaded the data; train on 5,000 images."""
    notebook = nbformat.read(notebook_path, as_version=4)
    (loading,) = [cell for cell in notebook.cells if "train_images, train_labels = " in cell.source]
    loading.source += (
        "\ntrain_images, train_labels = train_images[:5_000], train_labels[:5_000]"
        f"\nwith Path({str(log)!r}).open('a') as log:"
        "\n    print(SEED, os.getppid(), file=log)"
    )
    nbformat.write(notebook, notebook_path)


def logged(log):
    """Return the worker processes that each seed was trained by."""
    workers = {0: [], 1: []}
    for line in log.read_text().splitlines() if log.exists() else []:
        seed, worker = map(int, line.split())
        workers[seed].append(worker)
    return workers


def workers_in_training(study, log):
    """Wait until both seeds are trained, each by a worker of its own; return the two processes."""
    deadline = time.monotonic() + 200
    while not all(logged(log).values()):
        assert study.poll() is None, "the study ended before the training began"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (first,), (second,) = logged(log).values()
    assert first != second
    return first, second


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_own_run(tmp_path):
    repository = repository_copy(tmp_path / "repository")
    log, results = tmp_path / "log", tmp_path / "results"
    log_training(repository / seeds.NOTEBOOKS["pytorch"], log)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        command = [sys.executable, repository / "benchmarks" / "seeds.py", "--seeds", "0", "1"]
        command += ["--frameworks", "pytorch", "--epochs", "1", "--set", "BATCH_SIZE=500"]
        command += ["--workers", "2", "--scheduler", cluster.scheduler_address]
        command += ["--results", results]
        study = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            survivor, killed = workers_in_training(study, log)
            os.kill(killed, signal.SIGKILL)
            output, _ = study.communicate(timeout=300)
        finally:
            study.kill()
        assert study.returncode == 0
        assert output.startswith("2 runs to do, 0 are there already\n")

        assert logged(log)[0] == [survivor]
        assert len(logged(log)[1]) == 2
        records = json.loads((results / "seeds.json").read_text())["pytorch"]
        assert [record["seed"] for record in records] == [0, 1]
        for record in records:
            assert (record["epochs"], record["batch_size"]) == (1, 500)
            assert record["study"]["threads"] == record["settings"]["threads"]
        with np.load(results / "seeds_predictions.npz") as predictions:
            assert set(predictions) == {"pytorch-0", "pytorch-1"}

        before = (results / "seeds.json").read_bytes()
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert again.stdout.startswith("0 runs to do, 2 are there already\n")
        assert [len(workers) for workers in logged(log).values()] == [1, 2]
        assert (results / "seeds.json").read_bytes() == before
