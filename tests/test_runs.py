"""Short runs of the notebooks: what they leave alone, and whether they can be repeated."""

import hashlib
import json

import numpy as np
import pytest
from notebook_code import last_code_cell, published_folder, run_notebook

from benchmarks.notebook_code import FRAMEWORKS, REPOSITORY

WEIGHT_FILES = {"PyTorch": "model.pt", "TensorFlow": "model.keras"}


def checksums(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture(scope="module")
def short_run(framework):
    """Run a notebook once; return it with the checksums of models/ before and after."""
    before = checksums(REPOSITORY / "models")
    notebook = run_notebook(framework)
    return notebook, before, checksums(REPOSITORY / "models")


def weights(framework, folder):
    path = folder / WEIGHT_FILES[framework]
    if framework == "PyTorch":
        import torch

        return [tensor.numpy() for tensor in torch.load(path, weights_only=True).values()]
    import zipfile

    import h5py

    arrays = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        with h5py.File(file) as stored:
            stored.visititems(
                lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None
            )
    return arrays


def test_a_short_run_never_writes_into_models(short_run):
    notebook, before, after = short_run
    assert before == after
    folder = published_folder(notebook)
    assert REPOSITORY not in folder.parents
    assert (folder / "metrics.json").is_file()


def test_a_run_says_nothing_on_stderr(short_run):
    notebook, _, _ = short_run
    said = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert said == []


def test_the_metrics_keep_the_contract(short_run, framework):
    metrics = json.loads((published_folder(short_run[0]) / "metrics.json").read_text())
    assert metrics["framework"] == framework
    assert metrics["epochs"] == 1
    assert metrics["test"].keys() == {
        "accuracy",
        "accuracy_ci95",
        "loss",
        "ece",
        "per_class_accuracy",
    }
    assert metrics["history"].keys() == {
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
    }
    assert {len(values) for values in metrics["history"].values()} == {1}
    assert metrics["validation"]["accuracy"] == pytest.approx(
        metrics["history"]["val_accuracy"][-1], abs=0.01
    )


def test_the_same_seed_gives_the_same_bits(short_run, framework):
    """A second process, with the same seed, versions and number of threads."""
    folders = [published_folder(short_run[0]), published_folder(run_notebook(framework))]
    histories = [json.loads((folder / "metrics.json").read_text())["history"] for folder in folders]
    for history in histories:
        del history["seconds"]
    assert histories[0] == histories[1]
    predictions = [np.load(folder / "predictions.npz")["test"] for folder in folders]
    assert np.array_equal(*predictions)
    first, second = (weights(framework, folder) for folder in folders)
    assert len(first) >= 8
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_full_run_that_learned_too_little_fails_in_words(short_run, framework, monkeypatch):
    monkeypatch.setenv("FMNIST_SEED", "1")
    before = checksums(REPOSITORY / "models")
    failed = run_notebook(framework, before_export="FULL_RUN_EPOCHS = 1", allow_errors=True)
    (error,) = last_code_cell(failed).outputs
    assert "A full run should classify at least 90 % of the validation images" in error.evalue
    assert checksums(REPOSITORY / "models") == before
    assert printed_results(failed) != printed_results(short_run[0]), "the seed changes nothing"


def printed_results(notebook):
    """Return what an executed notebook printed of its test accuracy and loss."""
    (text,) = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("text", "").startswith("test accuracy ")
    ]
    return text
