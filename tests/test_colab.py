"""The notebooks in Colab: badges, addresses, the cell that brings the helper, the versions."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from kernels import in_colab
from packaging.requirements import Requirement

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read
from tools import set_colab_address as colab

DOCUMENTS = ("README.md", *colab.NOTEBOOKS)


@pytest.fixture
def copy(tmp_path):
    """Copy the documents that carry the address."""
    for name in DOCUMENTS:
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def contents(folder):
    return {name: (folder / name).read_text(encoding="utf-8") for name in DOCUMENTS}


def test_an_address_on_github_gives_badges_and_can_be_taken_away(copy):
    colab.set_address(copy, "", "")
    without = contents(copy)
    colab.set_address(copy, "somebody/else", "4567def")
    colab.set_address(copy, "somebody/fashion", "0123abc")
    address = "https://raw.githubusercontent.com/somebody/fashion/0123abc/fmnist_utils.py"
    for name in colab.NOTEBOOKS:
        nbformat.validate(notebook := nbformat.read(copy / name, as_version=4))
        assert f'\nhelper = "{address}"' in cells(notebook, "colab")[0]
    badges = {
        name: re.findall(r"fashion/blob/main/([\w.]+)", contents(copy)[name]) for name in DOCUMENTS
    }
    one_each = {name: [name] for name in colab.NOTEBOOKS}
    assert badges == {"README.md": list(colab.NOTEBOOKS), **one_each}
    colab.set_address(copy, "", "")
    with pytest.raises(ValueError, match="must be owner/name"):
        colab.set_address(copy, "just-a-name", "0123abc")
    assert contents(copy) == without


def run(source, folder, environment):
    return subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_without_an_address_the_dialog_asks_once_and_for_the_helper_alone(copy, tmp_path):
    folder, environment = in_colab(tmp_path)
    colab.set_address(copy, "", "")
    (source,) = cells(nbformat.read(copy / colab.NOTEBOOKS[0], as_version=4), "colab")
    for asked in ("Choose the helper\n", ""):
        finished = run(source, folder, environment)
        assert (finished.stdout, finished.stderr) == (asked, "")


def test_elsewhere_the_cell_only_says_where_the_notebook_must_run(tmp_path):
    (source,) = cells(read(FRAMEWORKS["pytorch"]), "colab")
    last_line = run(source, tmp_path, os.environ).stderr.splitlines()[-1]
    assert re.match(r"ModuleNotFoundError: .*folder.*fmnist_utils\.py", last_line)
    beside_the_helper = run(source, REPOSITORY, os.environ)
    assert (beside_the_helper.stdout, beside_the_helper.stderr) == ("", "")


def test_no_more_is_required_than_colab_has():
    required, has = (
        [
            Requirement(line)
            for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
            if not line.startswith("#")
        ]
        for name in ("requirements.txt", "tests/colab.txt")
    )
    versions = {pinned.name: next(iter(pinned.specifier)).version for pinned in has}
    lacks = {"jupyter", "onnx", "onnxruntime", "onnxscript", "tf2onnx"}
    assert {requirement.name for requirement in required} - versions.keys() == lacks
    for requirement in required:
        assert requirement.name in lacks or versions[requirement.name] in requirement.specifier
