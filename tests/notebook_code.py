"""Run single cells, or the whole, of the notebooks as they stand."""

import os
from pathlib import Path

import nbclient

from benchmarks.notebook_code import REPOSITORY, cell_number, code_cells, read_notebook


def cell_containing(framework, text):
    """Return the source of the one code cell that contains `text`."""
    cells = code_cells(framework)
    return cells[cell_number(cells, text)]


def cell_tagged(framework, tag):
    """Return the source of the one cell with this tag."""
    cells = read_notebook(framework).cells
    (source,) = [cell.source for cell in cells if tag in cell.metadata.get("tags", [])]
    return source


def run_notebook(framework, before_export="", allow_errors=False):
    """Run a notebook for one epoch on 5,000 images, in a kernel of its own, and return it.

    `before_export` is code that is put before the last cell.
    """
    notebook = read_notebook(framework)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    loading = next(cell for cell in code if "train_images, train_labels = " in cell.source)
    loading.source += "\ntrain_images, train_labels = train_images[:5_000], train_labels[:5_000]"
    if before_export:
        code[-1].source = f"{before_export}\n{code[-1].source}"
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        allow_errors=allow_errors,
        resources={"metadata": {"path": REPOSITORY}},
    )
    client.execute(env={**os.environ, "FMNIST_EPOCHS": "1"})
    return notebook


def last_code_cell(notebook):
    """Return the cell that exports."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"][-1]


def published_folder(notebook):
    """Return the folder that the last cell of an executed notebook says it exported to."""
    return Path(last_code_cell(notebook).outputs[0].text.splitlines()[0]).parent
