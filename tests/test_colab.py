"""The address that `make colab` writes for Colab, and the notebooks' cell that uses it."""

import re
import shutil

import nbformat
import pytest

from benchmarks.notebook import REPOSITORY, cells
from tools.set_colab_address import NOTEBOOKS, set_address

DOCUMENTS = ("README.md", *NOTEBOOKS)


def contents(folder):
    return {name: (folder / name).read_text(encoding="utf-8") for name in DOCUMENTS}


def test_an_address_gives_links_and_can_be_taken_away(tmp_path):
    for name in DOCUMENTS:
        shutil.copy(REPOSITORY / name, tmp_path)
    set_address(tmp_path, "")
    without = contents(tmp_path)
    set_address(tmp_path, "somebody/else")
    set_address(tmp_path, "somebody/fashion")
    link = re.compile(r"(colab\.research|nbviewer)[\w./]+/somebody/fashion/blob/main/([\w.]+)")
    for name, text in contents(tmp_path).items():
        linked = [name] if name in NOTEBOOKS else NOTEBOOKS
        sites = ("colab.research", "nbviewer")
        assert link.findall(text) == [(site, notebook) for notebook in linked for site in sites]
        assert "somebody/else" not in text
    assert (
        "    git clone --depth 1 https://github.com/somebody/fashion\n"
        in contents(tmp_path)["README.md"]
    )
    for name in NOTEBOOKS:
        nbformat.validate(notebook := nbformat.read(tmp_path / name, as_version=4))
        address = "https://raw.githubusercontent.com/somebody/fashion/main/fmnist_utils.py"
        assert f'\nhelper = "{address}"' in cells(notebook, "colab")[0]
    set_address(tmp_path, "")
    with pytest.raises(ValueError, match="must be owner/name"):
        set_address(tmp_path, "just-a-name")
    assert contents(tmp_path) == without
    (tmp_path / "README.md").write_text("# No place for links")
    with pytest.raises(ValueError, match="There is no '<!-- Colab -->"):
        set_address(tmp_path, "")
