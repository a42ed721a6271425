"""Both notebooks in Colab's versions: Run All in an empty folder, no edit, no restart.

Run it by `make colab-test`, which makes the environment.
"""

import json
import re
import shutil
import subprocess

import nbclient
import nbformat
import pytest
from kernels import Kernel, in_colab, on_few_images

from benchmarks.notebook import REPOSITORY, TAGS, cells, tagged
from tools.set_colab_address import NOTEBOOKS, set_address

PYTHON = REPOSITORY / ".venv-colab" / "bin" / "python"
AS_MADE = REPOSITORY / ".venv-colab" / ".ready"  # holds what `pip freeze` printed then
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
    (tmp_path / "content").mkdir()
    return tmp_path / "content", in_colab(tmp_path)


def test_a_notebook_runs_through_and_changes_no_package(framework, colab, tmp_path):
    folder, environment = colab
    for name in ("README.md", *NOTEBOOKS):
        shutil.copy(REPOSITORY / name, tmp_path)
    set_address(tmp_path, "", helper=(REPOSITORY / "fmnist_utils.py").as_uri())
    notebook = nbformat.read(tmp_path / framework.notebook.name, as_version=4)
    settings = f"\nEPOCHS, DATA_DIR = 1, {str(REPOSITORY / 'data')!r}"
    tagged(notebook, "parameters")[0].source += settings
    place = {"metadata": {"path": folder}}
    client = nbclient.NotebookClient(notebook, kernel_name="colab", timeout=1200, resources=place)
    client.execute(env=environment)
    outputs = [output for cell in tagged(notebook, *TAGS) for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "ONNX Runtime predicts the same" in printed, printed
    assert re.search(r"Exported to .*model\.onnx, predictions\.npz, metrics\.json", printed)
    assert added_packages() & set(EXPORTERS.values()) == {EXPORTERS[framework.key]}


def test_where_pip_fails_the_notebook_goes_on_without_onnx(framework, colab):
    folder, environment = colab
    notebook = on_few_images(framework, "EPOCHS = 1")
    no_registry = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    with Kernel(folder, "colab", **{**environment, **no_registry}) as kernel:
        printed = kernel.run(*cells(notebook, *TAGS))
    assert re.search("onnx.* cannot be installed beside what is here", printed)
    assert re.search(r"skipped.* onnx[\s\S]*Exported to ", printed)
    assert added_packages() == set()
