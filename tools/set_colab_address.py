"""Write into the notebooks and README.md where the project lives, for Colab.

Colab opens a notebook without the files beside it. The notebooks' first code cell brings the helper
module from the address that this writes, at the present commit. Run it by

    make colab REPO=owner/name
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, tagged

NOTEBOOKS = tuple(framework.notebook.name for framework in FRAMEWORKS.values())
ASSIGNMENT = re.compile(r'^helper = ".*"', flags=re.MULTILINE)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def badge(repository: str, notebook: str) -> str:
    """Return the Markdown that opens a notebook of a GitHub repository ("owner/name") in Colab."""
    address = f"https://colab.research.google.com/github/{repository}/blob/main/{notebook}"
    return f"[![Open {notebook} in Colab]({BADGE})]({address})"


def with_badges(text: str, badges: list[str]) -> str:
    """Return a document with these badges, and no others, at its place for them."""
    block = "\n".join(["<!-- Colab -->", *badges, "<!-- end of Colab -->"])
    changed, count = re.subn("<!-- Colab -->.*?<!-- end of Colab -->", block, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"The document has {count} places for badges, and must have one.")
    return changed


def set_address(folder: Path, repository: str, revision: str) -> None:
    """Write address and badges into the notebooks and README.md of a folder.

    Parameters
    ----------
    folder : Path
        Of the project.
    repository : str
        "owner/name" on GitHub; or the whole address of ``fmnist_utils.py`` elsewhere, for which
        there is no badge; or nothing, which takes the address away.
    revision : str
        The commit to bring the helper from, on GitHub.

    Raises
    ------
    ValueError
        If `repository` is none of the three, or a document has no place for what is written.
    """
    on_github = re.fullmatch(r"[\w.-]+/[\w.-]+", repository)
    if repository and not on_github and "://" not in repository:
        raise ValueError(f"REPO must be owner/name or an address with ://; it is {repository!r}.")
    helper = repository
    if on_github:
        helper = f"https://raw.githubusercontent.com/{repository}/{revision}/fmnist_utils.py"
    badges = {name: badge(repository, name) for name in NOTEBOOKS} if on_github else {}
    for name in NOTEBOOKS:
        notebook = nbformat.read(folder / name, as_version=4)
        (cell,) = tagged(notebook, "colab")
        cell.source, count = ASSIGNMENT.subn(f'helper = "{helper}"', cell.source)
        if count != 1:
            raise ValueError(f"The first code cell of {name} has no place for the address.")
        title = notebook.cells[0]
        title.source = with_badges(title.source, [badges[name]] if badges else [])
        nbformat.write(notebook, folder / name)
    readme = folder / "README.md"
    text = with_badges(readme.read_text(encoding="utf-8"), list(badges.values()))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    set_address(REPOSITORY, sys.argv[1], head.stdout.strip())
