"""Write the project's address on GitHub into README.md and the notebooks, with links to Colab.

make colab REPO=owner/name    # REPO= takes it away
"""

import re
import sys
from pathlib import Path

import nbformat

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, tagged

NOTEBOOKS = tuple(framework.notebook.name for framework in FRAMEWORKS.values())
LINK = (
    "[![Open {name} in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/{name}) "
    "[{name} in nbviewer](https://nbviewer.org/github/{repository}/blob/main/{name})\n"
)


def between(text: str, start: str, end: str, new: str) -> str:
    """Return `text` with `new` for what stands between `start` and `end`."""
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"There is no {start!r} with {end!r} after it.")
    return f"{before}{start}{new}{end}{after}"


def set_address(folder: Path, repository: str, helper: str = "") -> None:
    """Write "owner/name" into a folder's documents; or nothing, and the helper's address alone."""
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"REPO must be owner/name, and is {repository!r}.")
    clone, links = "", dict.fromkeys(NOTEBOOKS, "")
    if repository:
        helper = f"https://raw.githubusercontent.com/{repository}/main/fmnist_utils.py"
        clone = f"    git clone --depth 1 https://github.com/{repository}\n"
        links = {name: LINK.format(name=name, repository=repository) for name in NOTEBOOKS}
    badges, readme = ("<!-- Colab -->\n", "<!-- end of Colab -->"), folder / "README.md"
    for name, link in links.items():
        notebook = nbformat.read(folder / name, as_version=4)
        (cell,) = tagged(notebook, "colab")
        cell.source = between(cell.source, 'helper = "', '"', helper)
        notebook.cells[0].source = between(notebook.cells[0].source, *badges, link)
        nbformat.write(notebook, folder / name)
    text = between(readme.read_text(encoding="utf-8"), *badges, "".join(links.values()))
    text = between(text, "<!-- clone -->\n", "<!-- end of clone -->", clone)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    set_address(REPOSITORY, sys.argv[1])
