"""Try the notebooks' exercises: change one thing, train for two epochs, look.

What is run is the code that is printed in the notebooks. Results: results/exercises.json, from
which the answers there are written.

    python -m benchmarks.exercises
"""

import re
import textwrap

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.notebook import FRAMEWORKS, read

PRINTED = ("larger rate", "smaller rate", "more channels", "shuffled pixels")  # in their order
NO_BATCH_NORMALIZATION = (r" *(nn|layers)\.BatchNorm.*\n", r", (use_)?bias=False")
# Why the validation curve jumps: after each epoch, take batch normalization's averages afresh.
AVERAGES = """
import copy
from torch.optim.swa_utils import update_bn
afresh, train_as_printed = [], train_one_epoch
report = history["val_accuracy"], afresh

def train_one_epoch(model, batches, *components):
    figures = train_as_printed(model, batches, *components)
    twin = copy.deepcopy(model)
    update_bn((images for (images, _), _ in zip(batches, range(40))), twin)
    predictions = predict(twin, data.validation.images).argmax(axis=1)
    afresh.append(float((predictions == data.validation.labels).mean()))
    return figures
"""
JUMPS = runner.Task("PyTorch, running averages", "pytorch", after={"train": AVERAGES})


def tasks(key: str) -> dict[str, runner.Task]:
    """Return a notebook's exercises by name; `key` is one of FRAMEWORKS."""
    cells = read(FRAMEWORKS[key]).cells
    (text,) = (cell.source for cell in cells if cell.source.startswith("## Now you"))
    printed = re.findall(r"(?:^ {7}.+\n)+", text, re.MULTILINE)  # the indented code
    changes = {"unchanged": {}, "no batch normalization": {"without": NO_BATCH_NORMALIZATION}}
    for name, code in zip(PRINTED, printed):
        place = "load" if name == "shuffled pixels" else "parameters"
        changes[name] = {"after": {place: textwrap.dedent(code)}}
    return {
        name: runner.Task(f"{FRAMEWORKS[key].name}, {name}", key, {"EPOCHS": 2}, **change)
        for name, change in changes.items()
    }


def outcomes(key: str) -> dict[str, str]:
    """Say what came out of each of a notebook's exercises, by name."""
    wanted = tasks(key)
    runs = runner.measured(results.committed("exercises"), list(wanted.values()))
    figures = [
        f"{run['validation']['accuracy']:.1%} right, loss {run['validation']['loss']:.3f}"
        for run in runs
    ]
    return {name: f"{found}. Unchanged: {figures[0]}." for name, found in zip(wanted, figures)}


def jumps() -> str:
    """Say how the validation accuracy jumps in the first epochs, and without lagging averages."""
    (run,) = runner.measured(results.committed("exercises"), [JUMPS])
    lagging, afresh = (", ".join(f"{100 * a:.1f}" for a in row[:5]) for row in run["reported"])
    return (
        f"In a separate run with PyTorch, the validation accuracy was {lagging} % after the first "
        f"epochs. With averages taken afresh, over 40 batches, the same weights had {afresh} %."
    )


if __name__ == "__main__":
    wanted = [task for key in FRAMEWORKS for task in tasks(key).values()]
    runs = runner.run_all([*wanted, JUMPS], runner.parser(__doc__).parse_args())
    fmnist.write_json(results.RESULTS / "exercises.json", runs)
    print({key: outcomes(key) for key in FRAMEWORKS}, jumps())
