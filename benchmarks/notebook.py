"""Read the notebooks' code by the tags of its cells; hold the one table of frameworks."""

from pathlib import Path
from typing import NamedTuple

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]
TAGS = (
    "colab",
    "import",
    "parameters",
    "model",
    "load",
    "instantiate",
    "train",
    "evaluate",
    "export",
)


class Framework(NamedTuple):
    """What the programs need to know of a framework.

    Attributes
    ----------
    key : str
        Its name in paths and in JSON, ``"pytorch"``.
    name : str
        Its name in sentences, ``"PyTorch"``.
    notebook : Path
        The notebook.
    models : Path
        The folder of its trained model.
    packages : tuple of str
        The installed packages that do its arithmetic.
    """

    key: str
    name: str
    notebook: Path
    models: Path
    packages: tuple[str, ...]


FRAMEWORKS = {
    key: Framework(
        key,
        name,
        REPOSITORY / f"FashionMNIST_{name}.ipynb",
        REPOSITORY / "models" / key,
        packages,
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
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and not set(tags).isdisjoint(cell.metadata.get("tags", []))
    ]


def cells(notebook: nbformat.NotebookNode, *tags: str) -> list[str]:
    """Return the sources of the code cells that have any of these tags, in order."""
    return [cell.source for cell in tagged(notebook, *tags)]
