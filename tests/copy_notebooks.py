"""Copy both notebooks to a folder, where nbval runs them and they may export what they like.

A cell is added at the end: nbval compares outputs, and none of them says how much was learned.
"""

import shutil
import sys
from pathlib import Path

import nbformat

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, read

LEAST_ACCURACY = 0.9  # of the validation images, after two epochs or more

folder = Path(sys.argv[1])
shutil.rmtree(folder, ignore_errors=True)
for framework in FRAMEWORKS.values():
    notebook = read(framework)
    check = f'assert history["val_accuracy"][-1] >= {LEAST_ACCURACY}, history["val_accuracy"]'
    notebook.cells.append(nbformat.v4.new_code_cell(check, execution_count=1, id="check"))
    copy = folder / framework.key
    copy.mkdir(parents=True)
    nbformat.write(notebook, copy / framework.notebook.name)
    shutil.copy(REPOSITORY / "fmnist_utils.py", copy)
    (copy / "data").symlink_to(REPOSITORY / "data")
