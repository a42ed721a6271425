"""What the documents and notebooks say: generated figures, links, and examples that run."""

import re
import subprocess
import sys

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks import exercises
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read
from tools import update_tables
from tools.update_tables import DOCUMENTS, NOTEBOOKS

ALL = [*DOCUMENTS, REPOSITORY / "CONTRIBUTING.md"]
EXAMPLES = [
    pytest.param(example, id=f"{name}, {number}")
    for name in ("README.md", "models/README.md")
    for number, example in enumerate(
        re.findall(r"```python\n(.*?)```", (REPOSITORY / name).read_text(encoding="utf-8"), re.S)
    )
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


def test_every_block_stands_where_it_is_looked_for():
    names = {name: set(update_tables.BLOCK.findall(prose(d))) for name, d in zip(NAMES, ALL)}
    for key, framework in FRAMEWORKS.items():
        answers = exercises.tasks(key).keys() - {"unchanged"}
        blocks = {"time", "suspects", "running averages", *answers}
        assert names[framework.notebook.name] == blocks
    assert names["README.md"] == {"results", "minutes", "verified"}
    assert names["docs/frameworks.md"] == {"difference"}
    cards = {"keras version", "model card", "harder", "per-class accuracy", "no clothes"}
    assert names["models/README.md"] == cards


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


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example, data):
    model_cells = ["from torch import nn", *cells(read(FRAMEWORKS["pytorch"]), "model")]
    if "import torch" not in example:
        model_cells = []
    finished = subprocess.run(
        [sys.executable, "-c", "\n".join([*model_cells, example])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    key = "tensorflow" if "models/tensorflow" in example else "pytorch"
    predictions = np.load(FRAMEWORKS[key].models / "predictions.npz")["test"][:5]
    assert finished.stdout == f"{[fmnist.CLASS_NAMES[label] for label in predictions]}\n"


def test_there_is_an_example_for_each_format():
    for path in ("pytorch/model.pt", "tensorflow/model.keras", "tensorflow/model.onnx"):
        assert sum(f"models/{path}" in example.values[0] for example in EXAMPLES) == 1, path


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_the_saved_notebook_the_record_and_the_text_are_of_one_run(framework):
    record = fmnist.load_metrics(framework.models)
    printed = "\n".join(
        output.get("text", "")
        for cell in read(framework).cells
        for output in cell.get("outputs", [])
    )
    assert f"test accuracy {record['test']['accuracy']:.2%}" in printed
    assert f"test loss {record['test']['loss']:.4f}" in printed
    # What the notebooks say below.
    assert record["test"]["accuracy"] < record["validation"]["accuracy"]
