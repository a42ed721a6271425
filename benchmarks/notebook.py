"""Read the notebooks' code by the tags of its cells; hold the one table of frameworks."""

import hashlib
from collections.abc import Mapping
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


def code(framework: Framework, *tags: str, after: Mapping[str, str] | None = None) -> str:
    """Return the code of the cells that have any of these tags, as one program.

    Parameters
    ----------
    framework : Framework
        Whose notebook.
    *tags : str
        Of the cells to take; the notebook decides on their order.
    after : mapping of str to str
        Code to put after the first cell with a tag.
    """
    notebook = read(framework)
    for tag, addition in (after or {}).items():
        first = tagged(notebook, tag)[0]
        first.source += f"\n{addition}"
    return "\n\n".join(cells(notebook, *tags)) + "\n"


def code_sha256(framework: Framework) -> str:
    """Return the SHA-256 of the code that decides what a run measures.

    It is that of the tagged cells from the settings to the evaluation. What comes before prepares
    Colab and imports; what comes after draws and exports.
    """
    notebook = read(framework)
    sources = cells(notebook, *TAGS[TAGS.index("import") : TAGS.index("export")])
    (settings,) = cells(notebook, "parameters")
    measured = "\n".join(sources[sources.index(settings) :])
    return hashlib.sha256(measured.encode()).hexdigest()
