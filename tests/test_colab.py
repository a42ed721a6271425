"""The notebooks in Colab: badges, addresses, and the cell that brings the helper."""

import os
import re
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest
import set_colab_address as colab
from notebook_code import cell_containing

import fmnist_utils as fmnist
from benchmarks.notebook_code import FRAMEWORKS, REPOSITORY

DOCUMENTS = ("README.md", *colab.NOTEBOOKS)


@pytest.fixture
def copy(tmp_path):
    """Copy the documents that carry the address."""
    for name in DOCUMENTS:
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def address_in(folder, name):
    text = (folder / name).read_text(encoding="utf-8")
    (found,) = re.findall(r'REPOSITORY, REVISION = \\"(.*?)\\", \\"(.*?)\\"', text)
    return found


def badges_in(folder, name):
    text = (folder / name).read_text(encoding="utf-8")
    return re.findall(
        r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/([\w.]+)", text
    )


def test_the_committed_documents_agree():
    addresses = {address_in(REPOSITORY, name)[0] for name in colab.NOTEBOOKS}
    assert len(addresses) == 1
    repositories = {
        repository for name in DOCUMENTS for repository, _ in badges_in(REPOSITORY, name)
    }
    if "" in addresses:
        assert not repositories, "a badge without an address to bring the helper from"
    else:
        assert addresses == {f"https://github.com/{repository}.git" for repository in repositories}
    for name in colab.NOTEBOOKS:
        assert {path for _, path in badges_in(REPOSITORY, name)} <= {name}


def test_an_address_on_github_gives_badges(copy):
    colab.set_address(copy, "somebody/fashion", "0123abc")
    for name in colab.NOTEBOOKS:
        assert address_in(copy, name) == ("https://github.com/somebody/fashion.git", "0123abc")
        assert badges_in(copy, name) == [("somebody/fashion", name)]
        nbformat.validate(nbformat.read(copy / name, as_version=4))
    assert badges_in(copy, "README.md") == [("somebody/fashion", name) for name in colab.NOTEBOOKS]


def test_the_address_can_be_changed_and_taken_away(copy):
    before = {name: (copy / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    colab.set_address(copy, "", "")
    empty = {name: (copy / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    colab.set_address(copy, "somebody/fashion", "0123abc")
    colab.set_address(copy, "another/place", "0123abc")
    assert badges_in(copy, "README.md")[0][0] == "another/place"
    colab.set_address(copy, "", "")
    assert {name: (copy / name).read_text(encoding="utf-8") for name in DOCUMENTS} == empty
    assert before.keys() == empty.keys()


def test_a_wrong_address_changes_nothing(copy):
    before = {name: (copy / name).read_bytes() for name in DOCUMENTS}
    with pytest.raises(ValueError, match="must be owner/name"):
        colab.set_address(copy, "just-a-name", "0123abc")
    assert {name: (copy / name).read_bytes() for name in DOCUMENTS} == before


def test_requirements_that_hold(tmp_path):
    (tmp_path / "requirements.txt").write_text("# a comment\nnumpy>=2.1\n\nnot-there-at-all>=1.0\n")
    assert fmnist.check_requirements(tmp_path / "requirements.txt") == ["not-there-at-all>=1.0"]
    assert fmnist.check_requirements(REPOSITORY / "requirements.txt") == []


def test_a_package_that_is_too_old_is_named_with_the_way_out(tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy>=99\n")
    with pytest.raises(RuntimeError, match=r"numpy>=99 \(installed: .*pip install --upgrade"):
        fmnist.check_requirements(tmp_path / "requirements.txt")


@pytest.fixture
def in_colab(tmp_path):
    """Stand in for Colab: its module is loaded in every kernel, and nothing lies beside a notebook.

    The stand-in's upload dialog brings the two files that the cell asks for.
    """
    package = tmp_path / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()  # google itself has none: other packages are in it, too
    (package / "files.py").write_text(
        "import shutil\n"
        "def upload():\n"
        "    for name in ('fmnist_utils.py', 'requirements.txt'):\n"
        f"        shutil.copy(f'{REPOSITORY}/{{name}}', name)\n"
    )
    (tmp_path / "stand-in" / "sitecustomize.py").write_text("import google.colab\n")
    folder = tmp_path / "content"
    folder.mkdir()
    return folder, {**os.environ, "PYTHONPATH": str(tmp_path / "stand-in"), "FMNIST_EPOCHS": "1"}


def git(*arguments, folder):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    finished = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return finished.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_notebook_alone_runs_through_with_a_repository(framework, in_colab, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    for name in ("fmnist_utils.py", "requirements.txt", *DOCUMENTS):
        shutil.copy(REPOSITORY / name, origin)
    git("init", "--quiet", folder=origin)
    git("add", ".", folder=origin)
    git("commit", "--quiet", "--message", "As committed", folder=origin)
    revision = git("rev-parse", "HEAD", folder=origin)
    (origin / "fmnist_utils.py").write_text("raise ImportError('a later commit')\n")
    git("commit", "--all", "--quiet", "--message", "Later", folder=origin)

    colab.set_address(origin, f"file://{origin}", revision)
    folder, environment = in_colab
    shutil.copy(origin / f"FashionMNIST_{framework}.ipynb", folder)
    (folder / "data").symlink_to(REPOSITORY / "data")
    notebook = nbformat.read(folder / f"FashionMNIST_{framework}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += f"\n{code[0].source}\nos.symlink('../data', 'data')"  # twice
    loading = next(cell for cell in code if "train_images, train_labels = " in cell.source)
    loading.source += "\ntrain_images, train_labels = train_images[:2_000], train_labels[:2_000]"
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": folder}}
    ).execute(env=environment)
    assert (folder / "repository" / "fmnist_utils.py").is_file()


@pytest.mark.parametrize("name", colab.NOTEBOOKS)
def test_without_an_address_the_cell_asks_for_the_helper(name, in_colab, copy):
    folder, environment = in_colab
    colab.set_address(copy, "", "")
    cells = nbformat.read(copy / name, as_version=4).cells
    first_cell = next(cell.source for cell in cells if cell.cell_type == "code")
    code = f"{first_cell}\nimport fmnist_utils; print(fmnist_utils.__file__)"
    for expected in ("Choose fmnist_utils.py", str(folder)):  # the second time nothing is asked
        finished = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.startswith(expected)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_elsewhere_the_cell_does_nothing(framework, tmp_path):
    first_cell = cell_containing(framework, "REPOSITORY, REVISION = ")
    finished = subprocess.run(
        [sys.executable, "-c", first_cell], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (finished.stdout, finished.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
