"""Read the notebooks' code by the tags of its cells; hold the one table of frameworks."""

from pathlib import Path
from typing import NamedTuple

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINING = ("colab", "import", "parameters", "model", "load", "instantiate", "train")
TAGS = (*TRAINING, "evaluate", "export")


class Framework(NamedTuple):
    key: str  # its name in paths and in JSON, "pytorch"
    name: str  # its name in sentences, "PyTorch"
    packages: tuple[str, ...]  # that do its arithmetic
    notebook: Path
    models: Path  # the folder of its trained model


FRAMEWORKS = {
    key: Framework(
        *(key, name, packages),
        notebook=REPOSITORY / f"FashionMNIST_{name}.ipynb",
        models=REPOSITORY / "models" / key,
    )
    for key, name, packages in (
        ("pytorch", "PyTorch", ("torch", "torchvision")),
        ("tensorflow", "TensorFlow", ("tensorflow", "keras")),
    )
}


def read(framework: Framework) -> nbformat.NotebookNode:
    """Return the notebook of a framework."""
    return nbformat.read(framework.notebook, as_version=4)


def tagged(notebook: nbformat.NotebookNode, *tags: str) -> list[nbformat.NotebookNode]:
    """Return the code cells that have any of these tags, in the notebook's order."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in code if set(tags) & set(cell.metadata.get("tags", []))]


def cells(notebook: nbformat.NotebookNode, *tags: str) -> list[str]:
    """Return the sources of the code cells that have any of these tags, in order."""
    return [cell.source for cell in tagged(notebook, *tags)]
