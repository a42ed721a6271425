"""What the documents and notebooks say: generated figures, links, and examples that run."""

import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read, tagged
from tools import set_colab_address, update_tables
from tools.update_tables import DOCUMENTS, NOTEBOOKS

ALL = [*DOCUMENTS, REPOSITORY / "CONTRIBUTING.md"]
EXAMPLES = [
    example
    for path in (REPOSITORY / "README.md", REPOSITORY / "models" / "README.md")
    for example in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
]
MEASURED = re.compile(r"\d\.\d+ ?(?:%|minutes|seconds|MB)")


def prose(document):
    """Return what a reader reads, without a notebook's code and outputs."""
    if document not in NOTEBOOKS:
        return document.read_text(encoding="utf-8")
    markdown = [cell for cell in read(NOTEBOOKS[document]).cells if cell.cell_type == "markdown"]
    return "\n\n".join(cell.source for cell in markdown)


NAMES = [document.relative_to(REPOSITORY).as_posix() for document in ALL]
every_document = pytest.mark.parametrize("document", ALL, ids=NAMES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES[: len(DOCUMENTS)])
def test_the_generated_blocks_are_what_the_results_say(document):
    text = document.read_text(encoding="utf-8")
    assert update_tables.updated(document) == text, "run: python -m tools.update_tables"


@every_document
def test_every_measured_number_is_generated(document):
    by_hand = update_tables.BLOCK.sub("", prose(document))
    assert not [line for line in by_hand.splitlines() if MEASURED.search(line)]


def anchors(document):
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_relative_links_arrive(document):
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", prose(document)):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(example, data):
    code = [example]
    if "import torch" in example:
        code = ["from torch import nn", *cells(read(FRAMEWORKS["pytorch"]), "model"), example]
    command = [sys.executable, "-c", "\n".join(code)]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    key = "tensorflow" if "models/tensorflow" in example else "pytorch"
    predictions = np.load(FRAMEWORKS[key].models / "predictions.npz")["test"][:5]
    assert finished.stdout == f"{[fmnist.CLASS_NAMES[label] for label in predictions]}\n"


def test_the_saved_notebook_the_record_and_the_text_are_of_one_run(framework):
    record = fmnist.load_metrics(framework.models)
    outputs = [output for cell in tagged(read(framework), "evaluate") for output in cell.outputs]
    printed = "\n".join(output.get("text", "") for output in outputs)
    assert f"test accuracy {record['test']['accuracy']:.2%}" in printed
    assert f"test loss {record['test']['loss']:.4f}" in printed
    assert record["test"]["accuracy"] < record["validation"]["accuracy"], "as the text has it"


def test_an_address_on_github_gives_links_and_can_be_taken_away(tmp_path):
    names = ("README.md", *set_colab_address.NOTEBOOKS)
    for name in names:
        shutil.copy(REPOSITORY / name, tmp_path)
    set_colab_address.set_address(tmp_path, "somebody/fashion")
    readme, *notebooks = ((tmp_path / name).read_text(encoding="utf-8") for name in names)
    assert "    git clone --depth 1 https://github.com/somebody/fashion\n" in readme
    for name, text in zip(set_colab_address.NOTEBOOKS, notebooks):
        for site in ("https://colab.research.google.com/github", "https://nbviewer.org/github"):
            assert f"({site}/somebody/fashion/blob/main/{name})" in text
            assert f"({site}/somebody/fashion/blob/main/{name})" in readme
        (cell,) = cells(nbformat.read(tmp_path / name, as_version=4), "colab")
        address = "https://raw.githubusercontent.com/somebody/fashion/main/fmnist_utils.py"
        assert f'\nhelper = "{address}"' in cell
    set_colab_address.set_address(tmp_path, "")
    assert not any("somebody" in (tmp_path / name).read_text(encoding="utf-8") for name in names)
    with pytest.raises(ValueError, match="must be owner/name"):
        set_colab_address.set_address(tmp_path, "just-a-name")
