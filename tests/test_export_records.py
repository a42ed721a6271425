"""What surrounds a run, and the record of its export."""

import errno
import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import types
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS

HISTORY = {"loss": [0.9, 0.5], "accuracy": [0.7, 0.8]}
HISTORY |= {f"val_{key}": values for key, values in HISTORY.items()}
RUN = {"framework": "PyTorch", "device": "cpu", "parameters": 12, "training_seconds": 30.0}
RUN["settings"] = {"SEED": 5, "BATCH_SIZE": 32, "MOMENTUM": 0.9, "CHANNELS": (24, 64)}
WEIGHTS = b"weights" * 100
TEST = fmnist.Evaluation(0.875, (0.739, 0.945), 0.4, 0.02, {"Coat": 0.875, "Bag": None})
VALIDATION, POOR = TEST._replace(accuracy=0.9), TEST._replace(accuracy=0.8)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Return the folder for temporary files, in which nothing may stay behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def models(tmp_path):
    """Return the folder of an earlier model, which has a file that the export lacks, too."""
    folder = tmp_path / "models" / "pytorch"
    folder.mkdir(parents=True)
    for name in ("model.bin", "metrics.json", "notes.txt"):
        (folder / name).write_text(f"the earlier {name}")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def export(destination, epochs=2, export_dir=None, model="model.bin", content=WEIGHTS, **changes):
    """Do what a notebook does at its end, after 2 of 2 epochs."""
    export = fmnist.Export(destination, epochs, 2, export_dir)
    (export.folder / model).write_bytes(content)
    record = {"test": TEST, "validation": VALIDATION, "history": HISTORY, "run": RUN}
    record |= {"test_predictions": range(10), "figures": {"history": fmnist.new_figure(1)}}
    export.finish(**(record | changes))
    return export


def test_the_stopwatch_adds_up_and_survives_an_interrupt(monkeypatch):
    monkeypatch.setattr(fmnist.time, "perf_counter", iter([10, 13, 20, 24.5]).__next__)
    stopwatch = fmnist.Stopwatch()
    with stopwatch:
        pass
    with pytest.raises(KeyboardInterrupt), stopwatch:
        raise KeyboardInterrupt
    assert stopwatch.seconds == 7.5


@pytest.mark.parametrize("before", ["", "sys.stderr = None", "os.close(2)"])
def test_tensorflow_starts_silently_with_and_without_standard_error(repository, before):
    code = f"""if True:
        import contextlib, os, sys, fmnist_utils
        {before}
        with contextlib.suppress(KeyError), fmnist_utils.quiet_tensorflow():
            os.system("echo chatter of compiled code >&2")
            if not {before!r}: sys.stderr.write("no newline")
            raise KeyError
        print(os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"])
        os.system("echo heard again >&2")"""
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.stdout == "3 0\n"
    assert done.stderr == ("" if "close" in before else "heard again\n")


def test_what_is_missing_is_named(capsys):
    assert fmnist.installed("json", "numpy")
    assert capsys.readouterr().out == ""
    assert not fmnist.installed("numpy", "no_such_package", "nor_this")
    assert "pip install no_such_package nor_this" in capsys.readouterr().out


@pytest.mark.parametrize("error", ["", "ERROR: conflict"])
def test_colab_gets_what_is_missing_and_keeps_what_it_has(monkeypatch, capsys, error):
    run, commands = subprocess.run, []

    def pip(command, **options):
        if "install" not in command:
            return run(command, **options)
        commands.append(command)
        constraints = Path(command[command.index("--constraint") + 1]).read_text()
        for name in ("numpy", "protobuf", "torch"):
            assert f"{name}=={metadata.version(name)}\n" in constraints
        return types.SimpleNamespace(returncode=len(error), stderr=error)

    monkeypatch.setattr(subprocess, "run", pip)
    fmnist.install_on_colab("no_such_package")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    fmnist.install_on_colab("numpy", "json")
    assert commands == [], "nothing is installed in vain, or elsewhere than in Colab"
    fmnist.install_on_colab("numpy", "no_such_package")
    [command] = commands
    assert "no_such_package" in command and "numpy" not in command
    said = f"no_such_package cannot be installed beside what is here: {error}\n"
    assert capsys.readouterr().out == (said if error else "")


def test_a_full_run_replaces_the_model_and_leaves_nothing_behind(models, temporary, capsys):
    finished = export(models)
    found = contents(models)
    assert found.pop("notes.txt") == b"the earlier notes.txt"
    assert found["model.bin"] == WEIGHTS
    assert np.load(models / "predictions.npz")["test"].tolist() == [*range(10)]
    assert f"Exported to {models}: {', '.join(sorted(found))}." in capsys.readouterr().out
    assert contents(temporary) == {}
    with pytest.raises(RuntimeError, match="run its cells again, from the first on"):
        finished.folder  # noqa: B018

    metrics = json.loads(found.pop("metrics.json"))
    expected = {
        **{"framework": "PyTorch", "framework_version": metadata.version("torch")},
        **{"seed": 5, "epochs": 2, "batch_size": 32, "parameters": 12, "device": "cpu"},
        **{"training_seconds": 30, "seconds_per_epoch": 15, "history": HISTORY},
        **{"cpu_cores": os.cpu_count(), "numpy_version": np.__version__},
        "validation": {"accuracy": 0.9, "loss": 0.4},
        "test": {**TEST._asdict(), "accuracy_ci95": [0.739, 0.945]},
        "settings": {"momentum": 0.9, "channels": [24, 64]},
        "data_sha256": fmnist.DATA_SHA256,
        "files_sha256": {name: hashlib.sha256(found[name]).hexdigest() for name in found},
    }
    assert expected.items() <= metrics.items()
    assert metrics.keys() - expected.keys() == {"date", "processor", "system", "python_version"}


def test_a_shorter_run_is_kept_only_where_one_says(models, tmp_path, temporary, capsys):
    before = contents(models)
    export(models, epochs=1, validation=POOR)
    assert f"Trained for 1 of 2 epochs: {models} stays as it was" in capsys.readouterr().out
    export(models, epochs=1, export_dir=tmp_path / "mine")
    assert contents(tmp_path / "mine")["model.bin"] == WEIGHTS
    assert contents(models) == before
    assert contents(temporary) == {}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"history": {**HISTORY, "loss": [1.0]}}, ValueError, "history needs equally long"),
        ({"history": {key: [] for key in HISTORY}}, ValueError, "run the cells of the training"),
        ({"history": {**HISTORY, "loss": [np.nan, 1.0]}}, ValueError, "not JSON compliant"),
        ({"test_predictions": [10]}, ValueError, "whole numbers from 0 to 9"),
        ({"validation": POOR}, RuntimeError, "80.0% of the validation images"),
    ],
)
def test_a_bad_run_is_refused_and_leaves_nothing(models, temporary, changes, error, message):
    before = contents(models)
    with pytest.raises(error, match=message) as caught:
        export(models, **changes)
    assert contents(models) == before
    del caught
    gc.collect()
    assert contents(temporary) == {}


@pytest.mark.parametrize("moment", [0, 1, 3, 4, 5, 7])  # four files are copied, then renamed
def test_an_export_killed_at_any_moment_leaves_every_file_whole(models, moment, fork):
    export(models)
    earlier = contents(models)
    copy, rename, done = shutil.copyfile, Path.replace, []

    def work_or_die(work, source, target):
        if Path(target).parent == models:
            if len(done) == moment:
                if work is copy:
                    Path(target).write_bytes(b"half of")
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(target)
        return work(source, target)

    def export_and_die():
        shutil.copyfile = lambda *paths: work_or_die(copy, *paths)
        Path.replace = lambda *paths: work_or_die(rename, *paths)
        export(models, run={**RUN, "device": "another"})

    process = fork.Process(target=export_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = contents(models)
    changed = [name for name in earlier if found[name] != earlier[name]]
    assert len(changed) <= max(0, moment - 4)
    assert all(len(found[name]) > 100 for name in changed), "a file is not whole"
    export(models)
    assert fmnist.load_metrics(models)["device"] == "cpu"


def test_an_onnx_file_names_no_folder_of_this_machine(models):
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[1] x) => (float[1] y) {y = Relu(x)}'
    model = onnx.parser.parse_model(text)
    onnx.helper.set_model_props(model.graph.node[0], {"stack_trace": "File /home/me/model.py"})
    export(models, model="model.onnx", content=model.SerializeToString())
    path = fmnist.verified_model_file(models / "model.onnx")
    assert b"/home/me" not in path.read_bytes()
    assert onnx.load(path).graph.node[0].op_type == "Relu"


def test_an_export_that_cannot_be_written_is_kept(models, temporary, monkeypatch):
    before = contents(models)

    def refused(source, target):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shutil, "copyfile", refused)
    message = f"{models} cannot be written .Permission denied.*EXPORT_DIR"
    with pytest.raises(PermissionError, match=message) as caught:
        export(models)
    [kept] = temporary.iterdir()
    assert str(kept) in str(caught.value)
    del caught
    gc.collect()
    assert contents(kept)["model.bin"] == WEIGHTS
    assert fmnist.load_metrics(kept)["parameters"] == 12
    assert contents(models) == before


def test_a_failing_write_leaves_the_earlier_file(models, monkeypatch):
    before = contents(models)

    def disk_full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        fmnist.write_json(models / "metrics.json", {})
    assert contents(models) == before


def test_only_the_recorded_model_file_is_good(models):
    export(models)
    path = models / "model.bin"
    assert fmnist.verified_model_file(path) == path
    path.write_bytes(b"W" + WEIGHTS[1:])
    (models / "history.png").unlink()
    for name in ("model.bin", "notes.txt", "history.png"):
        with pytest.raises(ValueError, match=f"{name} is not the file"):
            fmnist.verified_model_file(models / name)


def test_what_keras_3_13_does_not_know_is_removed_unless_it_is_in_use(tmp_path):
    path = tmp_path / "model.keras"
    new = {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}
    layer = {"name": "norm", **new, "init": {"seed": None, "input_axes": None, "output_axes": None}}
    parts = {"metadata.json": b'{"keras_version":   "3.15.1"}'}
    parts |= {"config.json": json.dumps([layer]).encode(), "weights.h5": bytes(range(256))}
    with zipfile.ZipFile(path, "w") as file:
        for part in parts.items():
            file.writestr(*part)
    fmnist.make_keras_file_portable(path)
    parts["config.json"] = b'[{"name": "norm", "init": {"seed": null}}]'
    with zipfile.ZipFile(path) as file:
        assert [(name, file.read(name)) for name in file.namelist()] == [*parts.items()]

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps([layer | {"renorm": True}]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"uses renorm, which Keras 3.13 does not know"):
        fmnist.make_keras_file_portable(path)
    assert path.read_bytes() == before


def test_the_committed_keras_file_has_only_what_keras_3_13_knows():
    with zipfile.ZipFile(FRAMEWORKS["tensorflow"].models / "model.keras") as file:
        config = file.read("config.json").decode()
    assert not [name for name in fmnist.NEW_KERAS_SETTINGS if f'"{name}"' in config]
