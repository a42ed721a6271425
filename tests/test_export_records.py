"""Metrics files, publishing an export, checking model files, and the tables made from them."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fmnist_utils as fmnist

HISTORY = {
    "loss": [0.9, 0.5],
    "accuracy": [0.7, 0.8],
    "val_loss": [0.8, 0.6],
    "val_accuracy": [0.7, 0.8],
    "learning_rate": [0.1, 0.0],
    "seconds": [10.0, 20.0],
}


def evaluation(right, of):
    y_true = np.arange(of) % 10
    y_pred = np.where(np.arange(of) < right, y_true, (y_true + 1) % 10)
    return fmnist.evaluate(y_true, 0.9 * np.eye(10)[y_pred] + 0.01)


def save(path, framework="PyTorch", **changes):
    arguments = {
        "validation": evaluation(18, 20),
        "history": HISTORY,
        "framework": framework,
        "framework_version": "1.2.3",
        "seed": 5,
        "batch_size": 32,
        "parameters": 1_234_567,
        "device": "cpu",
        "settings": {"momentum": 0.9, "precision": "float32"},
        "files": [],
        **changes,
    }
    fmnist.save_metrics(path, arguments.pop("evaluation", evaluation(35, 40)), **arguments)


@pytest.fixture
def exported(tmp_path):
    """Return a folder as a notebook exports it."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights" * 100)
    np.savez_compressed(folder / "predictions.npz", test=np.zeros(40, np.uint8))
    save(folder / "metrics.json", files=[folder / "model.bin"])
    return folder


# metrics.json


def test_metrics_have_all_that_was_promised(exported):
    metrics = fmnist.load_metrics(exported)
    assert metrics["framework"] == "PyTorch"
    assert metrics["framework_version"] == "1.2.3"
    assert (metrics["seed"], metrics["epochs"], metrics["batch_size"]) == (5, 2, 32)
    assert metrics["parameters"] == 1_234_567
    validation, test = evaluation(18, 20), evaluation(35, 40)
    assert metrics["validation"] == {"accuracy": 0.9, "loss": validation.loss}
    assert metrics["test"] == {**test._asdict(), "accuracy_ci95": list(test.accuracy_ci95)}
    assert metrics["training_seconds"] == 30
    assert metrics["seconds_per_epoch"] == 15
    assert metrics["device"] == "cpu"
    assert metrics["data_sha256"] == fmnist.DATA_SHA256
    assert metrics["settings"] == {"momentum": 0.9, "precision": "float32"}
    assert metrics["history"] == HISTORY
    sha256 = hashlib.sha256((exported / "model.bin").read_bytes()).hexdigest()
    assert metrics["files_sha256"] == {"model.bin": sha256}


def test_the_accuracy_of_an_absent_class_is_null(tmp_path):
    save(tmp_path / "metrics.json", evaluation=evaluation(5, 5))
    assert fmnist.load_metrics(tmp_path)["test"]["per_class_accuracy"]["Bag"] is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"history": {**HISTORY, "loss": [1.0]}}, ValueError, "history needs equally long"),
        ({"history": {"loss": [1.0]}}, ValueError, "history needs equally long"),
        ({"history": {**HISTORY, "loss": [np.nan, 1.0]}}, ValueError, "not JSON compliant"),
        ({"history": {**HISTORY, "seconds": [np.inf, 1.0]}}, ValueError, "not JSON compliant"),
        ({"evaluation": evaluation(1, 2)._replace(loss=np.nan)}, ValueError, "not JSON compliant"),
        ({"validation": evaluation(1, 2)._replace(loss=np.nan)}, ValueError, "not JSON compliant"),
        ({"settings": {"optimizer": object()}}, TypeError, "not JSON serializable"),
        ({"files": ["not-there.bin"]}, FileNotFoundError, "not-there.bin"),
        ({"history": {key: [] for key in HISTORY}}, ValueError, "history needs equally long"),
    ],
)
def test_bad_metrics_are_refused_and_the_earlier_ones_stay(exported, changes, error, message):
    before = (exported / "metrics.json").read_bytes()
    with pytest.raises(error, match=message):
        save(exported / "metrics.json", **changes)
    assert (exported / "metrics.json").read_bytes() == before
    assert not list(exported.glob(".*"))


def test_a_failing_write_leaves_the_earlier_metrics(exported, monkeypatch):
    before = (exported / "metrics.json").read_bytes()

    def disk_full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(exported / "metrics.json", seed=6)
    assert (exported / "metrics.json").read_bytes() == before
    assert not list(exported.glob(".*"))


def test_missing_metrics_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the notebook that exports to this folder"):
        fmnist.load_metrics(tmp_path)


# Model files


def test_a_good_model_file_is_returned(exported):
    assert fmnist.verified_model_file(exported / "model.bin") == exported / "model.bin"


def test_other_model_files_are_refused(exported):
    content = (exported / "model.bin").read_bytes()
    for damaged in (content[:-1], b"W" + content[1:], b""):
        (exported / "model.bin").write_bytes(damaged)
        with pytest.raises(ValueError, match="truncated or altered"):
            fmnist.verified_model_file(exported / "model.bin")
    (exported / "model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.bin is not there"):
        fmnist.verified_model_file(exported / "model.bin")
    (exported / "foreign.bin").write_bytes(content)
    with pytest.raises(ValueError, match="not listed"):
        fmnist.verified_model_file(exported / "foreign.bin")


# Publishing


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_publish_copies_all_and_keeps_the_rest(exported, tmp_path):
    destination = tmp_path / "models" / "framework"
    destination.mkdir(parents=True)
    (destination / "notes.txt").write_text("mine")
    (destination / "model.bin").write_text("the earlier model")
    paths = fmnist.publish(exported, destination)
    assert sorted(paths) == sorted(destination / name for name in contents(exported))
    assert contents(destination) == {**contents(exported), "notes.txt": b"mine"}


@pytest.mark.parametrize("there", [True, False])
def test_nothing_to_publish(tmp_path, there):
    staging = tmp_path / "staging"
    if there:
        staging.mkdir()
    with pytest.raises(FileNotFoundError, match="nothing to publish"):
        fmnist.publish(staging, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("files_copied", [0, 1, 2])
def test_a_killed_export_leaves_the_earlier_models_whole(exported, tmp_path, files_copied):
    destination = tmp_path / "models"
    fmnist.publish(exported, destination)
    earlier = contents(destination)
    for path in exported.iterdir():
        path.write_bytes(b"newer " + path.read_bytes())

    def publish_and_die():
        copied = []
        copyfile = shutil.copyfile

        def copy_or_die(source, target):
            if len(copied) == files_copied:
                Path(target).write_bytes(b"half of")
                os.kill(os.getpid(), signal.SIGKILL)
            copied.append(copyfile(source, target))

        shutil.copyfile = copy_or_die
        fmnist.publish(exported, destination)

    process = multiprocessing.get_context("fork").Process(target=publish_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {
        name: content for name, content in contents(destination).items() if name in earlier
    } == (earlier)

    fmnist.publish(exported, destination)
    assert contents(destination) == contents(exported)


def test_an_export_killed_between_two_files_leaves_each_of_them_whole(exported, tmp_path):
    destination = tmp_path / "models"
    fmnist.publish(exported, destination)
    earlier = contents(destination)
    for path in exported.iterdir():
        path.write_bytes(b"newer " + path.read_bytes())

    def publish_and_die():
        replace = Path.replace

        def replace_and_die(copy, target):
            replace(copy, target)
            os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = replace_and_die
        fmnist.publish(exported, destination)

    process = multiprocessing.get_context("fork").Process(target=publish_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = contents(destination)
    newer = [name for name in earlier if found[name] == b"newer " + earlier[name]]
    assert len(newer) == 1
    assert all(found[name] == earlier[name] for name in earlier if name not in newer)

    fmnist.publish(exported, destination)
    assert contents(destination) == contents(exported)


def test_a_read_only_file_system_is_reported_like_a_read_only_folder(
    exported, tmp_path, monkeypatch
):
    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(shutil, "copyfile", read_only)
    with pytest.raises(PermissionError, match="models cannot be written"):
        fmnist.publish(exported, tmp_path / "models")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_destination_is_named_and_so_is_the_export():
    root = Path(tempfile.mkdtemp())  # tmp_path may only be entered by its owner
    staging, destination = root / "staging", root / "models"
    for folder in (staging, destination):
        folder.mkdir()
    (staging / "model.bin").write_bytes(b"weights")
    destination.chmod(0o555)
    root.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # root may write everywhere
    try:
        with pytest.raises(PermissionError, match=f"models cannot be written.* still in {staging}"):
            fmnist.publish(staging, destination)
    finally:
        os.seteuid(user)
    assert contents(destination) == {}
    shutil.rmtree(root)


# Tables


@pytest.fixture
def models(tmp_path):
    """Return two folders with results, of which the second predicts better."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, framework, right in zip(folders, ("PyTorch", "TensorFlow"), (30, 36), strict=True):
        folder.mkdir()
        save(folder / "metrics.json", framework, evaluation=evaluation(right, 40))
        y_true = np.arange(40) % 10
        y_pred = np.where(np.arange(40) < right, y_true, (y_true + 1) % 10)
        np.savez_compressed(folder / "predictions.npz", test=y_pred.astype(np.uint8))
    return folders


def cells(table):
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_results_table(models):
    header, line, *rows = cells(fmnist.results_table(models))
    assert header == ["", "PyTorch 1.2.3", "TensorFlow 1.2.3"]
    assert {len(row) for row in (line, *rows)} == {3}
    figures = {row[0]: row[1:] for row in rows}
    assert figures["accuracy on the 10,000 test images"] == ["**75.00%**", "**90.00%**"]
    records = [fmnist.load_metrics(folder)["test"] for folder in models]
    for name, expected in {
        "its 95 % interval (Wilson)": [
            "{:.2%} – {:.2%}".format(*r["accuracy_ci95"]) for r in records
        ],
        "test loss (mean cross-entropy)": [f"{r['loss']:.4f}" for r in records],
        "expected calibration error": [f"{r['ece']:.2%}" for r in records],
        "accuracy on the 5,000 validation images": ["90.00%"] * 2,
        "epochs": ["2"] * 2,
        "trained on": [f"cpu, {os.cpu_count()} cores, float32"] * 2,
    }.items():
        assert figures[name] == expected
    assert figures["parameters"] == ["1,234,567"] * 2
    assert figures["training time"] == ["0.5 min (15.0 s per epoch)"] * 2


def test_per_class_table(models):
    header, line, *rows = cells(fmnist.per_class_table(models))
    assert header == ["class", "PyTorch", "TensorFlow"]
    assert {len(row) for row in (line, *rows)} == {3}
    assert [row[0] for row in rows] == list(fmnist.CLASS_NAMES)
    recorded = fmnist.load_metrics(models[0])["test"]["per_class_accuracy"]
    assert [row[1] for row in rows] == [f"{share:.1%}" for share in recorded.values()]


def test_per_class_table_without_a_class(tmp_path):
    save(tmp_path / "metrics.json", evaluation=evaluation(5, 5))
    _, _, *rows = cells(fmnist.per_class_table([tmp_path]))
    assert [row[0] for row in rows] == list(fmnist.CLASS_NAMES)


def test_comparison_with_another_framework(models):
    text = fmnist.comparison(np.arange(40) % 10, *models)
    assert fmnist.results_table(models) in text
    assert "On 85.0% of the test images both predict the same class." in text
    assert "Only PyTorch is right on 0 images, only TensorFlow on 6." in text
    assert "with probability 0.031" in text  # two sides of six fair coins: 2 / 2 ** 6
    assert "so these two models differ by more than the choice" in text


def test_comparison_of_the_same_predictions(models):
    text = fmnist.comparison(np.arange(40) % 10, models[0], models[0])
    assert "On 100.0% of the test images" in text
    assert "with probability 1 (McNemar's exact test)" in text
    assert "so the choice of the test images may explain the difference" in text


def test_comparison_has_the_figures_of_mcnemar(models):
    y_true = np.arange(40) % 10
    predictions = np.random.default_rng(0).integers(0, 10, (2, 40))
    for folder, predicted in zip(models, predictions, strict=True):
        np.savez_compressed(folder / "predictions.npz", test=predicted)
    text = fmnist.comparison(y_true, *models)
    result = fmnist.mcnemar(y_true, *predictions)
    assert f"Only PyTorch is right on {result.only_first_right} images" in text
    assert f"only TensorFlow on {result.only_second_right}." in text
    assert f"with probability {result.p_value:.2g} " in text


def test_comparison_before_the_other_notebook_has_run(models, tmp_path):
    other = tmp_path / "none"
    assert fmnist.comparison(np.arange(40) % 10, models[0], other) == (
        f"There are no results in `{other}` yet; run the other notebook first."
    )
