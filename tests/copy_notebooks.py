"""Copy both notebooks to a folder, where nbval runs them and they may export what they like.

A cell is added at the end: nbval compares outputs, and none of them says how much was learned.

    python -m tests.copy_notebooks FOLDER [NAME=VALUE ...]
"""

import shutil
import sys
from pathlib import Path

import nbformat

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, read, tagged

CHECK = """accuracies = getattr(history, "history", history)["val_accuracy"]
assert accuracies[-1] >= 0.9, accuracies  # after two epochs or more"""

folder, settings = Path(sys.argv[1]), sys.argv[2:]
shutil.rmtree(folder, ignore_errors=True)
for framework in FRAMEWORKS.values():
    notebook = read(framework)
    (parameters,) = tagged(notebook, "parameters")
    parameters.source = "\n".join([parameters.source, *settings])
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK, execution_count=1, id="check"))
    copy = folder / framework.key
    copy.mkdir(parents=True)
    nbformat.write(notebook, copy / framework.notebook.name)
    shutil.copy(REPOSITORY / "fmnist_utils.py", copy)
    (copy / "data").symlink_to(REPOSITORY / "data")
