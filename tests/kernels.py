"""Run notebooks in kernels of their own, on few images, in a folder where they may do harm."""

import asyncio
import hashlib
import os
import re
import shutil

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks.notebook import REPOSITORY, read, tagged

DATA = {"FMNIST_DATA": str(REPOSITORY / "data")}
# Code to put after the first cell tagged `load`.
FEW_IMAGES = """
data = fmnist.FashionMNIST(*(fmnist.Split(part.images[:n], part.labels[:n])
                             for part, n in zip(data, (1_000, 500, 500))))
"""
FIGURES = "history_figure = matrix_figure = mistakes_figure = fmnist.new_figure(1)"
WITHOUT_ONNX = "fmnist.installed = lambda *packages: False"


def project(folder, framework):
    """Copy what a notebook needs to a folder; return the folder."""
    shutil.copy(REPOSITORY / "fmnist_utils.py", folder)
    shutil.copytree(framework.models, folder / "models" / framework.key)
    return folder


def checksums(folder):
    """Return the SHA-256 of every file below a folder, by its path in there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def on_few_images(framework, settings=""):
    """Return a notebook, changed to use few images and to have some settings overridden."""
    notebook = read(framework)
    tagged(notebook, "load")[0].source += FEW_IMAGES
    tagged(notebook, "parameters")[0].source += f"\n{settings}"
    return notebook


class CellFailed(Exception):
    """A cell raised; the text has the name of its exception and the message."""


class Kernel(NotebookClient):
    """A kernel in `folder`, whose temporary files go to ``folder / "temporary"``."""

    def __init__(self, folder, name="python3", **environment):
        super().__init__(new_notebook(), kernel_name=name, startup_timeout=120, timeout=600)
        self.temporary, self.stderr, self.interrupt_at = folder / "temporary", "", None
        self.temporary.mkdir(exist_ok=True)
        environment = {**os.environ, **DATA, "TMPDIR": str(self.temporary), **environment}
        self.running = self.setup_kernel(cwd=str(folder), env=environment)

    def __enter__(self):
        self.running.__enter__()
        return self

    def __exit__(self, *raised):
        self.running.__exit__(*raised)

    def run(self, *sources, interrupt_at=None):
        """Run cells one after the other; return what they print.

        When a cell prints what the regular expression `interrupt_at` finds, it is interrupted.
        """
        self.interrupt_at = interrupt_at
        printed = []
        for source in sources:
            cell = new_code_cell(source)
            self.nb.cells = [cell]
            try:
                self.execute_cell(cell, 0)
            except CellExecutionError as error:
                raise CellFailed(f"{error.ename}: {error.evalue}") from None
            printed += [o.text for o in cell.outputs if o.get("name") == "stdout"]
        return "".join(printed)

    def output(self, outs, msg, display_id, cell_index):
        """Keep standard error; interrupt the cell when it prints what `run` waits for."""
        content = msg["content"]
        if content.get("name") == "stderr":
            self.stderr += content["text"]
        elif self.interrupt_at and re.search(self.interrupt_at, content.get("text", "")):
            self.interruption = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().output(outs, msg, display_id, cell_index)

    def left_behind(self):
        """Return the temporary files that are worth speaking of: libraries leave a tiny one."""
        files = [path for path in self.temporary.rglob("*") if path.is_file()]
        return [path for path in files if path.stat().st_size > 1_000]


def in_colab(folder):
    """Stand in for Colab; return an empty folder and the environment variables.

    Its module is loaded everywhere. Its upload dialog says that it asks, and brings the helper.
    """
    package = folder / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)  # google itself has no __init__: other packages are in it, too
    (package / "__init__.py").touch()
    (package / "files.py").write_text(
        "import shutil\n"
        "def upload():\n"
        "    print('Choose the helper')\n"
        f"    shutil.copy({str(REPOSITORY / 'fmnist_utils.py')!r}, 'fmnist_utils.py')\n"
    )
    (folder / "stand-in" / "sitecustomize.py").write_text("import google.colab\n")
    (folder / "content").mkdir()
    environment = {**os.environ, **DATA, "PYTHONPATH": str(folder / "stand-in")}
    return folder / "content", environment
