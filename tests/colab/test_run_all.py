"""Both notebooks in Colab's versions: Run All in an empty folder, no edit, no restart.

Run it by `make colab-test`, which makes the environment.
"""

import json
import re
import shutil
import subprocess

import nbclient
import nbformat
import numpy as np
import pytest
from kernels import FIGURES, Kernel, in_colab, on_few_images

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, TAGS, cells, tagged
from tools.set_colab_address import NOTEBOOKS, set_address

PYTHON = REPOSITORY / ".venv-colab" / "bin" / "python"
AS_MADE = REPOSITORY / ".venv-colab" / ".ready"  # what `pip freeze` said then
EXPORTERS = {"pytorch": "onnxscript", "tensorflow": "tf2onnx"}

pytestmark = pytest.mark.skipif(not AS_MADE.is_file(), reason="make colab-test makes what it needs")


def pip(*arguments):
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def added_packages():
    """Return the names of the packages that came after the environment was made.

    Those that were there must still be there, in the same versions.
    """
    before, now = set(AS_MADE.read_text().splitlines()), set(pip("freeze").splitlines())
    assert before <= now, f"changed: {before - now}"
    return {line.partition("==")[0] for line in now - before}


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Stand in for Colab, in its versions; return an empty folder and environment variables."""
    if added := added_packages():
        pip("uninstall", "--yes", *added)
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    command = [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Colab"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    folder, environment = in_colab(tmp_path)
    return folder, {**environment, "FMNIST_EPOCHS": "1"}


def test_a_notebook_runs_through_and_changes_no_package(framework, colab, tmp_path):
    folder, environment = colab
    for name in ("README.md", *NOTEBOOKS):
        shutil.copy(REPOSITORY / name, tmp_path)
    set_address(tmp_path, (REPOSITORY / "fmnist_utils.py").as_uri(), "")
    notebook = nbformat.read(tmp_path / framework.notebook.name, as_version=4)
    place = {"metadata": {"path": folder}}
    client = nbclient.NotebookClient(notebook, kernel_name="colab", timeout=1200, resources=place)
    client.execute(env=environment)
    printed = "".join(
        output.get("text", "") for cell in tagged(notebook, *TAGS) for output in cell.outputs
    )
    assert "ONNX Runtime predicts the same" in printed, printed
    assert re.search(r"Trained for 1 of \d+ epochs", printed)
    assert added_packages() & set(EXPORTERS.values()) == {EXPORTERS[framework.key]}


def test_where_pip_fails_the_notebook_goes_on_without_onnx(framework, colab):
    folder, environment = colab
    shutil.copy(REPOSITORY / "fmnist_utils.py", folder)
    notebook = on_few_images(framework)
    tagged(notebook, "export")[0].source += f"\n{FIGURES}"
    no_registry = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    with Kernel(folder, "colab", **{**environment, **no_registry}) as kernel:
        printed = kernel.run(*cells(notebook, *TAGS))
    assert re.search("onnx.* cannot be installed beside what is here", printed)
    assert re.search(r"skipped.* onnx[\s\S]*Trained for 1 of \d+ epochs", printed)
    assert added_packages() == set()


def test_the_shipped_keras_file_predicts_there_what_its_record_says(tmp_path):
    models = FRAMEWORKS["tensorflow"].models
    images = fmnist.load_fashion_mnist(REPOSITORY / "data").test.images
    np.save(tmp_path / "images.npy", images[..., np.newaxis].astype(np.float32) / 255)
    source = (
        "import keras, numpy as np\n"
        f"model = keras.models.load_model({str(models / 'model.keras')!r}, safe_mode=True)\n"
        "logits = model.predict(np.load('images.npy'), batch_size=500, verbose=0)\n"
        "np.save('predictions.npy', logits.argmax(axis=1))\n"
    )
    subprocess.run([PYTHON, "-c", source], cwd=tmp_path, check=True)
    recorded = np.load(models / "predictions.npz")["test"]
    assert np.array_equal(np.load(tmp_path / "predictions.npy"), recorded)
