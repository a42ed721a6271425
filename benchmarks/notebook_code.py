"""Take the code out of a notebook, change it, and run it in a process of its own."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("PyTorch", "TensorFlow")
END_OF_TRAINING = "trained for"  # in what the last cell of the training prints
EVALUATION = "test = fmnist.evaluate("  # in the cell that predicts the test images

# The cell after which to drop training images, and how. That early, the memory which the others
# would have taken is not taken either.
DROP_IMAGES = {
    "PyTorch": (
        "train_rows, validation_rows = ",
        "train_rows = train_rows[: round({share} * len(train_rows))]",
    ),
    "TensorFlow": (
        "data = fmnist.load_fashion_mnist(",
        "kept = round({share} * len(data.train.labels))\n"
        "data = data._replace(train=fmnist.Split(*(part[:kept] for part in data.train)))",
    ),
}


def read_notebook(framework: str) -> nbformat.NotebookNode:
    """Return a notebook, ``"PyTorch"`` or ``"TensorFlow"``."""
    return nbformat.read(REPOSITORY / f"FashionMNIST_{framework}.ipynb", as_version=4)


def code_cells(framework: str) -> list[str]:
    """Return the sources of the code cells of a notebook."""
    return [cell.source for cell in read_notebook(framework).cells if cell.cell_type == "code"]


def cell_number(cells: Sequence[str], text: str) -> int:
    """Return the position of the one cell that contains `text`.

    Raises
    ------
    ValueError
        If no cell contains it, or several do.
    """
    found = [number for number, cell in enumerate(cells) if text in cell]
    if len(found) != 1:
        raise ValueError(f"{len(found)} code cells of the notebook contain {text!r}, not one.")
    return found[0]


def code_sha256(notebook: nbformat.NotebookNode) -> str:
    """Return the SHA-256 of a notebook's code cells, from the settings to the test's evaluation.

    Nothing outside of these cells changes what the studies measure. Those before prepare Colab and
    import, and `make colab` writes an address into the first; those after draw and export.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    first = sources.index(parameters_cell(notebook))
    code = sources[first : cell_number(sources, EVALUATION) + 1]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


def parameters_cell(notebook: nbformat.NotebookNode) -> str:
    """Return the source of the cell with the settings."""
    (source,) = [
        cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    return source


def training_code(framework: str, changes: Sequence[tuple[str, str]] = ()) -> str:
    """Return the code of a notebook up to the end of the training, with texts replaced.

    Raises
    ------
    ValueError
        If the code does not contain a text that is to be replaced.
    """
    cells = code_cells(framework)
    code = "\n".join(cells[: cell_number(cells, END_OF_TRAINING) + 1])
    for old, new in changes:
        if old not in code:
            raise ValueError(f"The {framework} notebook does not contain {old!r} any more.")
        code = code.replace(old, new)
    return code


def with_share_of_images(cells: Sequence[str], framework: str, share: float) -> list[str]:
    """Return the cells of a notebook, changed to train on this share of the training images.

    Raises
    ------
    ValueError
        If the cell that loads the images is not found.
    """
    text, drop_images = DROP_IMAGES[framework]
    number = cell_number(cells, text)
    changed = f"{cells[number]}\n{drop_images.format(share=share)}"
    return [*cells[:number], changed, *cells[number + 1 :]]


def with_batch_size(cells: Sequence[str], batch_size: int) -> list[str]:
    """Return the cells of a notebook, changed to train in batches of this size.

    Raises
    ------
    ValueError
        If the setting is not found.
    """
    number = cell_number(cells, "BATCH_SIZE = ")
    changed, count = re.subn(r"(?m)^BATCH_SIZE = \d+", f"BATCH_SIZE = {batch_size}", cells[number])
    if count != 1:
        raise ValueError(f"BATCH_SIZE is set to a number {count} times in its cell, not once.")
    return [*cells[:number], changed, *cells[number + 1 :]]


def run(arguments: Sequence[str], **environment: str) -> Any:
    """Run Python in a process of its own; return what the last line of its output says, in JSON.

    Parameters
    ----------
    arguments : sequence of str
        Those of Python: ``["-c", code]``, or the path of a script.
    **environment : str
        Environment variables to set. FMNIST_SEED is unset, so that the seed is the notebook's.

    Raises
    ------
    subprocess.CalledProcessError
        If the process fails.
    """
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "FMNIST_SEED": "", "MPLBACKEND": "agg", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])
