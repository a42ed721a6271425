"""What surrounds a run, and the record of its export."""

import errno
import gc
import hashlib
import json
import multiprocessing
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
import onnx
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS

HISTORY = {"loss": [0.9, 0.5], "accuracy": [0.7, 0.8]}
HISTORY |= {f"val_{key}": values for key, values in HISTORY.items()}
RUN = {"framework": "PyTorch", "device": "cpu", "parameters": 12, "training_seconds": 30.0}
RUN["settings"] = {"SEED": 5, "BATCH_SIZE": 32, "MOMENTUM": 0.9, "CHANNELS": (24, 64)}
WEIGHTS = b"weights" * 100


def evaluation(right, of):
    y_true = np.arange(of) % 10
    y_pred = np.where(np.arange(of) < right, y_true, (y_true + 1) % 10)
    return fmnist.evaluate(y_true, 0.9 * np.eye(10)[y_pred] + 0.01)


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


def finish(export, **changes):
    record = {"test": evaluation(35, 40), "validation": evaluation(18, 20), "history": HISTORY}
    record |= {"run": RUN, "test_predictions": np.arange(40) % 10}
    export.finish(**(record | {"figures": {"history": fmnist.new_figure(1)}} | changes))


def export(destination, epochs=2, export_dir=None, **changes):
    """Do what a notebook does at its end, after 2 of 2 epochs."""
    export = fmnist.Export(destination, epochs, 2, export_dir)
    (export.folder / "model.bin").write_bytes(WEIGHTS)
    finish(export, **changes)


# What surrounds a run


def test_the_stopwatch_adds_up_and_survives_an_interrupt(monkeypatch):
    moments = iter([10, 13, 20, 24.5])
    monkeypatch.setattr(fmnist.time, "perf_counter", lambda: next(moments))
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


# The export


def test_a_full_run_replaces_the_model_and_leaves_nothing_behind(models, temporary, capsys):
    export(models)
    found = contents(models)
    assert found.pop("notes.txt") == b"the earlier notes.txt"
    assert found["model.bin"] == WEIGHTS
    assert np.load(models / "predictions.npz")["test"].tolist() == [*range(10)] * 4
    assert f"Exported to {models}: {', '.join(sorted(found))}." in capsys.readouterr().out
    assert contents(temporary) == {}

    metrics = fmnist.load_metrics(models)
    test, validation = evaluation(35, 40), evaluation(18, 20)
    del found["metrics.json"]
    expected = {
        **{"framework": "PyTorch", "framework_version": metadata.version("torch")},
        **{"seed": 5, "epochs": 2, "batch_size": 32, "parameters": 12, "device": "cpu"},
        **{"training_seconds": 30, "seconds_per_epoch": 15, "history": HISTORY},
        "validation": {"accuracy": 0.9, "loss": validation.loss},
        "test": {**test._asdict(), "accuracy_ci95": list(test.accuracy_ci95)},
        "settings": {"momentum": 0.9, "channels": [24, 64]},
        "data_sha256": fmnist.DATA_SHA256,
        "files_sha256": {name: hashlib.sha256(found[name]).hexdigest() for name in found},
    }
    assert expected.items() <= metrics.items()
    assert {"processor", "machine", "python_version", "numpy_version"} <= metrics.keys()


def test_a_shorter_run_is_kept_only_where_one_says(models, tmp_path, temporary, capsys):
    before = contents(models)
    export(models, epochs=1, validation=evaluation(1, 20))
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
        ({"run": {**RUN, "training_seconds": np.inf}}, ValueError, "not JSON compliant"),
        ({"test": evaluation(1, 2)._replace(loss=np.nan)}, ValueError, "not JSON compliant"),
        ({"run": {**RUN, "device": object()}}, TypeError, "not JSON serializable"),
        ({"test_predictions": [10]}, ValueError, "whole numbers from 0 to 9"),
        ({"validation": evaluation(16, 20)}, RuntimeError, "80.0% of the validation images"),
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


def test_a_finished_export_says_which_cells_to_run(models):
    finished = fmnist.Export(models, 1, 2)
    finished._remove()
    with pytest.raises(RuntimeError, match="run its cells again, from the first on"):
        finished.folder  # noqa: B018


@pytest.mark.parametrize("method", ["copyfile", "replace"])
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_an_export_killed_at_any_moment_leaves_every_file_whole(models, method, calls):
    export(models)
    earlier = contents(models)
    owner = {"copyfile": shutil, "replace": Path}[method]
    work, done = getattr(owner, method), []

    def work_or_die(source, target):
        if models in (Path(target).parent, Path(source).parent):
            if len(done) == calls:
                if method == "copyfile":
                    Path(target).write_bytes(b"half of")
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(target)
        return work(source, target)

    def export_and_die():
        setattr(owner, method, work_or_die)
        export(models, run={**RUN, "device": "another"})

    process = multiprocessing.get_context("fork").Process(target=export_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = contents(models)
    changed = [name for name in earlier if found[name] != earlier[name]]
    assert len(changed) <= (calls if method == "replace" else 0)
    assert all(len(found[name]) > 100 for name in changed), "a file is not whole"
    export(models)
    assert fmnist.load_metrics(models)["device"] == "cpu"


def test_an_onnx_file_names_no_folder_of_this_machine(models):
    node = onnx.helper.make_node("Relu", ["image"], ["probabilities"])
    onnx.helper.set_model_props(node, {"pkg.torch.onnx.stack_trace": "File /home/me/model.py"})
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, [1]) for name in (*node.input, *node.output)
    ]
    graph = onnx.helper.make_graph([node], "classifier", ends[:1], ends[1:])
    unfinished = fmnist.Export(models, 2, 2)
    onnx.save(onnx.helper.make_model(graph), unfinished.folder / "model.onnx")
    finish(unfinished)
    assert b"/home/me" not in (models / "model.onnx").read_bytes()
    assert (
        onnx.load(fmnist.verified_model_file(models / "model.onnx")).graph.node[0].op_type == "Relu"
    )


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_export_that_cannot_be_written_is_kept(models, temporary, monkeypatch, code):
    before = contents(models)

    def refused(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfile", refused)
    with pytest.raises(OSError, match=f"{models} cannot be written .*EXPORT_DIR") as caught:
        export(models)
    assert isinstance(caught.value, PermissionError) == (code == errno.EACCES)
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
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        fmnist.write_json(models / "metrics.json", {})
    assert contents(models) == before


@pytest.mark.parametrize("damaged", [WEIGHTS[:-1], b"W" + WEIGHTS[1:], None])
def test_only_the_recorded_model_file_is_good(models, damaged):
    export(models)
    path = models / "model.bin"
    assert fmnist.verified_model_file(path) == path
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    for name in ("model.bin", "notes.txt"):
        with pytest.raises(ValueError, match=f"{name} is not the file"):
            fmnist.verified_model_file(models / name)


# Keras's file


@pytest.mark.parametrize("renorm", [False, True])
def test_what_keras_3_13_does_not_know_is_removed_unless_it_is_in_use(tmp_path, renorm):
    path = tmp_path / "model.keras"
    new = {"renorm": renorm, "renorm_clipping": None, "renorm_momentum": 0.99}
    layer = {"name": "norm", **new, "init": {"seed": None, "input_axes": None, "output_axes": None}}
    parts = {"metadata.json": b'{"keras_version":   "3.15.1"}'}
    parts |= {"config.json": json.dumps([layer]).encode(), "weights.h5": bytes(range(256))}
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    before = path.read_bytes()
    if renorm:
        with pytest.raises(ValueError, match=r"uses renorm, which Keras 3.13 does not know"):
            fmnist.make_keras_file_portable(path)
        assert path.read_bytes() == before
    else:
        fmnist.make_keras_file_portable(path)
        parts["config.json"] = b'[{"name": "norm", "init": {"seed": null}}]'
        with zipfile.ZipFile(path) as file:
            assert [(name, file.read(name)) for name in file.namelist()] == [*parts.items()]


def test_the_committed_keras_file_has_only_what_keras_3_13_knows():
    with zipfile.ZipFile(FRAMEWORKS["tensorflow"].models / "model.keras") as file:
        config = file.read("config.json").decode()
    assert not [name for name in fmnist.NEW_KERAS_SETTINGS if f'"{name}"' in config]
