"""Run notebooks in kernels, on few images, in a temporary folder."""

import asyncio
import os
import re
import shutil

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks.notebook import REPOSITORY, read, tagged

# Code to put after the first cell tagged `load`.
FEW_IMAGES = """
data = fmnist.FashionMNIST(*(fmnist.Split(part.images[:n], part.labels[:n])
                             for part, n in zip(data, (1_000, 500, 500))))
"""
WITHOUT_ONNX = "import fmnist_utils\nfmnist_utils.installed = lambda *packages: False"


def on_few_images(framework, settings=""):
    """Return a notebook, changed to use few images, with lines added to its settings."""
    notebook = read(framework)
    tagged(notebook, "load")[0].source += FEW_IMAGES
    data_folder = f"DATA_DIR = {str(REPOSITORY / 'data')!r}"
    tagged(notebook, "parameters")[0].source += f"\n{data_folder}\n{settings}"
    return notebook


class Kernel(NotebookClient):
    """A kernel that runs in `folder`, beside a copy of the helper module."""

    def __init__(self, folder, name="python3", **environment):
        super().__init__(new_notebook(), kernel_name=name, startup_timeout=120, timeout=600)
        self.stderr, self.interrupt_at = "", None
        shutil.copy(REPOSITORY / "fmnist_utils.py", folder)
        self.running = self.setup_kernel(cwd=str(folder), env={**os.environ, **environment})

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
            self.nb.cells = [cell := new_code_cell(source)]
            try:
                self.execute_cell(cell, 0)
            except CellExecutionError as error:
                raise RuntimeError(f"{error.ename}: {error.evalue}") from None
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


def in_colab(folder):
    """Stand in for Colab, whose module is loaded there: return the environment variables."""
    package = folder / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)  # google itself has no __init__: other packages are in it, too
    (package / "__init__.py").touch()
    (folder / "stand-in" / "sitecustomize.py").write_text("import google.colab\n")
    return {**os.environ, "PYTHONPATH": str(folder / "stand-in")}
