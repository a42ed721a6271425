"""What surrounds a run, and the record of its export."""

import contextlib
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

import fmnist_utils as fmnist

HISTORY = {"loss": [0.9, 0.5], "accuracy": [0.7, 0.8]}
HISTORY |= {f"val_{key}": values for key, values in HISTORY.items()}
WEIGHTS = b"weights" * 100
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
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    node.metadata_props.add(key="stack", value="/home/me/secret.py")
    graph = onnx.helper.make_graph([node], "graph", [], [])
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save(folder, **changes):
    """Do what a notebook does at its end."""
    record = {"framework": "PyTorch", "framework_version": "2.99+mine", "device": "cpu"}
    record |= {"parameters": 12, "training_seconds": 30.0, "history": HISTORY, "test": TEST}
    record |= {"validation": TEST._replace(accuracy=0.9), "test_predictions": range(10)}
    record |= {"settings": SETTINGS}
    fmnist.save_record(folder, **(record | changes))


def test_a_stopwatch_adds_up_also_what_is_interrupted():
    stopwatch = fmnist.Stopwatch()
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), stopwatch:
            time.sleep(0.01)
            raise KeyboardInterrupt
    assert 0.02 <= stopwatch.seconds < 2


@pytest.mark.parametrize("before", ["", "sys.stderr = None", "os.close(2)"])
def test_tensorflow_starts_silently_with_and_without_standard_error(repository, before):
    code = f"""if True:
        import contextlib, os, sys, fmnist_utils
        {before}
        with contextlib.suppress(KeyError), fmnist_utils.quiet_tensorflow():
            os.system("echo chatter of compiled code >&2")
            raise KeyError
        print(os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"])
        os.system("echo heard again >&2")"""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.stdout == "3 0\n"
    assert done.stderr == ("" if "close" in before else "heard again\n")


def test_what_is_missing_is_named(capsys):
    assert fmnist.installed("json", "numpy") and capsys.readouterr().out == ""
    assert not fmnist.installed("numpy", "no_such_package", "nor_this")
    assert "pip install no_such_package nor_this" in capsys.readouterr().out


def test_colab_gets_what_is_missing_and_keeps_what_it_has(monkeypatch, capsys):
    run, commands = subprocess.run, []

    def pip(command, **options):
        if "install" not in command:
            return run(command, **options)
        commands.append(command)
        constraints = Path(command[command.index("--constraint") + 1]).read_text()
        assert f"\nprotobuf=={metadata.version('protobuf')}\n" in constraints
        return types.SimpleNamespace(returncode=1, stderr="ERROR: conflict")

    monkeypatch.setattr(subprocess, "run", pip)
    fmnist.install_on_colab("no_such_package")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    fmnist.install_on_colab("numpy", "json")
    assert commands == [], "nothing is installed in vain, or elsewhere than in Colab"
    fmnist.install_on_colab("numpy", "no_such_package")
    assert commands[0][-1] == "no_such_package" and "numpy" not in commands[0]
    assert "beside what is here: ERROR: conflict\n" in capsys.readouterr().out


def test_an_export_replaces_the_earlier_one_and_is_known_by_its_checksums(
    models, capsys, monkeypatch
):
    # A process may have fewer cores than the machine.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    folder = fmnist.export_folder("~/models")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "model.pt").write_bytes(WEIGHTS)
    save("~/models")
    found = contents(models)
    assert found.pop("notes.txt") == b"the earlier notes.txt"
    assert {*found} == {"model.pt", "predictions.npz", "metrics.json"}
    assert f"Exported to {models}: model.pt, " in capsys.readouterr().out
    saved = np.load(models / "predictions.npz")["test"]
    assert (saved.tolist(), saved.dtype) == ([*range(10)], np.uint8)

    metrics = json.loads(found.pop("metrics.json"))
    expected = {
        **{"framework": "PyTorch", "framework_version": "2.99+mine", "device": "cpu"},
        **{"seed": 5, "epochs": 2, "batch_size": 32, "parameters": 12, "cpu_cores": 1},
        **{"training_seconds": 30, "seconds_per_epoch": 15, "history": HISTORY},
        **{"processor": fmnist.processor(), "numpy_version": np.__version__},
        "validation": {"accuracy": 0.9, "loss": 0.4},
        "test": {**TEST._asdict(), "accuracy_ci95": [0.739, 0.945]},
        "settings": {"momentum": 0.9, "data_dir": str(Path("my/data")), "folders": ["a", ["b"]]},
        "data_sha256": fmnist.DATA_SHA256,
        "files_sha256": {name: hashlib.sha256(found[name]).hexdigest() for name in found},
    }
    assert expected.items() <= metrics.items()
    assert metrics.keys() - expected.keys() == {"date", "system", "python_version"}

    assert fmnist.load_metrics("~/models") == metrics
    assert fmnist.verified_model_file("~/models/model.pt") == models / "model.pt"
    (models / "model.pt").write_bytes(b"W" + WEIGHTS[1:])
    for name in ("model.pt", "notes.txt", "model.onnx"):  # damaged, not recorded, missing
        with pytest.raises(ValueError, match=re.escape(f"{models / name} is not the file")):
            fmnist.verified_model_file(models / name)


def test_the_paths_of_the_machine_are_removed_from_an_onnx_file(models):
    save(models)
    assert b"secret" not in fmnist.verified_model_file(models / "model.onnx").read_bytes()


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
    before = contents(models)
    with pytest.raises(error, match=message):
        save(models, **changes)
    assert contents(models) == before


def test_an_export_that_cannot_be_written_names_folder_reason_and_way_out(models, monkeypatch):
    blocked = models / "notes.txt" / "export"
    message = f"{blocked} cannot be written ({blocked.parent} is a file). EXPORT_DIR chooses"
    with pytest.raises(OSError, match=re.escape(message)):
        fmnist.export_folder(blocked)
    before = (models / "metrics.json").read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for place, name in ((np, "savez_compressed"), (Path, "write_bytes"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, mock.Mock(side_effect=full))
            with pytest.raises(OSError, match=r"cannot be written \(No space left on device\)"):
                save(models)
        assert (models / "metrics.json").read_bytes() == before
        assert not [*models.glob("*.partial"), *models.glob(".*")]


def test_many_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "new" / "shared.json"
    with ThreadPoolExecutor(6) as pool:  # the list raises what a writer has raised
        list(pool.map(lambda number: fmnist.write_json(path, [number] * 1_000), range(300)))
    assert len({*json.loads(path.read_text())}) == 1
    assert [*path.parent.iterdir()] == [path]
