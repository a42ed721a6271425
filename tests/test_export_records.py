"""What surrounds a run, and the record of its export."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import REPOSITORY

HISTORY = {"loss": [0.9, 0.5], "accuracy": [0.7, 0.8]}
HISTORY |= {f"val_{key}": values for key, values in HISTORY.items()}
TEST = fmnist.Evaluation(0.875, (0.739, 0.945), 0.4, 0.02, {"Coat": 0.875, "Bag": None})
SETTINGS = {"seed": 5, "batch_size": 32, "momentum": 0.9}
SETTINGS |= {"data_dir": Path("my/data"), "folders": (Path("a"), ["b"])}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Return the folder of an earlier export below home, with a file that is not of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (folder := tmp_path / "models").mkdir()
    for name in ("model.pt", "model.keras", "metrics.json", "notes.txt"):
        (folder / name).write_text(f"the earlier {name}")
    return folder


def save(folder, **changes):
    """Do what a notebook does at its end."""
    record = {"framework": "PyTorch", "framework_version": "2.99+mine", "device": "cpu"}
    record |= {"parameters": 12, "training_seconds": 30.0, "history": HISTORY, "test": TEST}
    record |= {"validation": TEST._replace(accuracy=0.9), "test_predictions": range(10)}
    record |= {"settings": SETTINGS}
    fmnist.save_record(folder, **(record | changes))


@pytest.mark.parametrize("before", ["", "os.close(2)"])
def test_tensorflow_starts_silently_with_and_without_standard_error(before):
    code = f"""if True:
        import contextlib, os, sys, fmnist_utils
        {before}
        with contextlib.suppress(KeyError), fmnist_utils.quiet_tensorflow():
            os.system("echo chatter of compiled code >&2")
            raise KeyError
        print(os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"])
        os.system("echo heard again >&2")"""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    options = {"cwd": REPOSITORY, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    heard = "heard again\n" if before == "" else ""
    assert (done.stdout, done.stderr) == ("3 0\n", heard)


def test_an_export_replaces_the_earlier_one_and_is_known_by_its_checksums(models, monkeypatch):
    # A process may have fewer cores than the machine.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    folder = fmnist.export_folder("~/models")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "model.pt").write_bytes(b"weights")
    save("~/models")
    assert np.load(models / "predictions.npz")["test"].tolist() == [*range(10)]
    metrics = fmnist.load_metrics("~/models")
    expected = {
        **{"framework": "PyTorch", "framework_version": "2.99+mine", "device": "cpu"},
        **{"seed": 5, "epochs": 2, "batch_size": 32, "parameters": 12, "cpu_cores": 1},
        **{"training_seconds": 30, "seconds_per_epoch": 15, "history": HISTORY},
        "validation": {"accuracy": 0.9, "loss": 0.4},
        "test": {**TEST._asdict(), "accuracy_ci95": [0.739, 0.945]},
        "settings": {"momentum": 0.9, "data_dir": str(Path("my/data")), "folders": ["a", ["b"]]},
    }
    assert expected.items() <= metrics.items()
    assert metrics["files_sha256"]["model.pt"] == hashlib.sha256(b"weights").hexdigest()
    assert fmnist.verified_model_file("~/models/model.pt") == models / "model.pt"
    (models / "model.pt").write_bytes(b"damaged")
    for name in ("model.pt", "notes.txt", "model.onnx"):  # damaged, not recorded, missing
        with pytest.raises(ValueError, match=re.escape(f"{models / name} is not the file")):
            fmnist.verified_model_file(models / name)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"history": {key: [] for key in HISTORY}}, ValueError, "run the cells of the training"),
        ({"history": {**HISTORY, "loss": [np.nan, 1.0]}}, ValueError, "not JSON compliant"),
        ({"test_predictions": [10]}, ValueError, "whole numbers from 0 to 9"),
        ({"settings": {"seed": 1}}, KeyError, "batch_size"),
        ({"settings": {**SETTINGS, "F": json}}, TypeError, "not module"),
    ],
)
def test_a_bad_record_is_refused_and_nothing_written(models, changes, error, message):
    with pytest.raises(error, match=message):
        save(models, **changes)
    assert (models / "metrics.json").read_text() == "the earlier metrics.json"
    assert not (models / "predictions.npz").exists()


def test_a_full_disk_is_named_and_leaves_the_earlier_record(models, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for place, name in ((np, "savez_compressed"), (Path, "write_bytes"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, mock.Mock(side_effect=full))
            with pytest.raises(OSError, match=r"\(No space left on device\)\. EXPORT_DIR chooses"):
                save(models)
        assert (models / "metrics.json").read_text() == "the earlier metrics.json"
        assert not [*models.glob("*.partial"), *models.glob(".*")]
