"""Ask which labels of Fashion-MNIST may be wrong: images on which models agree against the label.

Two sets of five models learn from four fifths of the 60,000 images each, the second set half as
long and with 1 % of the labels changed by chance. labels.md explains what comes of it. Results:
results/labels.json and labels.png, and build/runs/labels.png with the 100 to be judged by eye.

    python -m benchmarks.labels [--workers 2]
"""

from collections import Counter
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.results import markdown_table

FOLD = """
from pathlib import Path
(images, labels), _ = fmnist._load_parts(Path(DATA_DIR))  # in the order of the files
chance = np.random.default_rng(0)
held_back = chance.permutation(len(labels)) % 5 == {}
changed = chance.choice(len(labels), round({} * len(labels)), replace=False)
labels[changed] = (labels[changed] + chance.integers(1, 10, len(changed))) % 10
train = fmnist.Split(images[~held_back], labels[~held_back])
data = data._replace(train=train, validation=fmnist.Split(images[held_back], labels[held_back]))
"""
SETS = {"original": (0.0, {}), "noisy": (0.01, {"EPOCHS": 10})}  # share of labels changed
TASKS = [
    runner.Task(
        f"{name} labels, fold {fold}",
        "pytorch",
        settings,
        after={"load": FOLD.format(fold, noise)},
        parts=runner.TESTED,
    )
    for name, (noise, settings) in SETS.items()
    for fold in range(5)
]


def variables(task: runner.Task) -> dict[str, Any]:
    """Return the variables of FOLD: the images, the labels, which are held back or changed."""
    names = {"np": np, "fmnist": fmnist, "DATA_DIR": "data", "data": fmnist.load_fashion_mnist()}
    exec(task.after["load"], names)
    return names


def suspects(labels: np.ndarray, judges: list[np.ndarray]) -> list[tuple[int, int, int, float]]:
    """Return row, label, prediction, surety where cleanlab and all judges, N × 10, object."""
    mean = np.mean(judges, axis=0)
    predicted, surety = mean.argmax(axis=1), mean.max(axis=1).round(4)
    objected = np.all([judge.argmax(axis=1) == predicted for judge in judges], axis=0)
    objected &= find_label_issues(labels, mean, n_jobs=1) & (predicted != labels)
    rows = sorted(np.flatnonzero(objected), key=lambda row: -surety[row])
    return [(int(r), int(labels[r]), int(predicted[r]), float(surety[r])) for r in rows]


def measure(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Pick the suspects, from the probabilities of the finished runs."""
    judges = {name: np.zeros((60_000, 10), np.float32) for name in SETS}
    of_test = {name: np.zeros((10_000, 10), np.float32) for name in SETS}
    for task, run in zip(TASKS, runs):
        with np.load((runner.RUNS / run["file"]).with_suffix(".npz")) as arrays:
            name, of_fold = task.name.split()[0], variables(task)
            judges[name][of_fold["held_back"]] = arrays["validation"]
            of_test[name] += arrays["test"] / 5
    labels = variables(TASKS[0])["labels"]
    order = {"return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    return {
        "runs": runs,
        "training": suspects(labels, list(judges.values())),
        "test": suspects(of_fold["data"].test.labels, list(of_test.values())),
        "changed": [[int(row), int(labels[row])] for row in of_fold["changed"]],
        "ranked": find_label_issues(of_fold["labels"], judges["noisy"], **order).tolist(),
    }


def table() -> str:
    found = results.committed("labels")
    try:
        runner.measured(found["runs"], TASKS)
        recipe = "the notebooks' present recipe"
    except results.NotMeasured:  # its suspects are worth reading all the same
        recipe = "an earlier recipe of the notebooks"
    names, parts = fmnist.CLASS_NAMES, {"training": 60_000, "test": 10_000}
    numbers = []
    for part, size in parts.items():
        counts = [f"{sum(s[3] >= least for s in found[part]):,}" for least in (0.0, 0.9, 0.99)]
        numbers.append([f"{size:,} {part} images", f"{len(found[part]) / size:.2%}", *counts])
    was, ranked = dict(found["changed"]), found["ranked"]
    by_class = [Counter(s[1] for s in found[part]) for part in parts]
    classes = [[name, *(f"{c[number]:,}" for c in by_class)] for number, name in enumerate(names)]
    first = ranked[: len(was)]
    caught, every = (sum(row in was for row in some) / len(was) for some in (first, ranked))
    judged = Counter(results.committed("judged").values())  # "training 45592": "wrong label"
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in judged.most_common())
    return f"""The models are of {recipe}.

![The forty surest suspects, with what the models say](results/labels.png)

{markdown_table(["", "suspects", "all", "surety ≥ 0.9", "≥ 0.99"], numbers)}

{markdown_table(["label", *parts], classes)}

Of the {judged.total()} surest, looked at by eye: {verdicts}.

Of {len(was)} changed labels, {caught:.0%} are among the first {len(was)} suspects of the second set
alone, and {every:.0%} among all its {len(ranked):,}."""


def draw(found: dict[str, Any]) -> None:
    names = variables(TASKS[0])
    images = {"training": names["images"], "test": names["data"].test.images}
    everywhere = [(part, *suspect) for part in images for suspect in found[part]]
    likeliest = sorted(everywhere, key=lambda suspect: -suspect[4])[:100]
    pictures = [images[part][row] for part, row, *_ in likeliest]
    *_, labels, predicted, surety = zip(*likeliest)
    probabilities = np.zeros((len(labels), 10))
    probabilities[range(len(labels)), predicted] = surety
    for count, folder in ((40, results.RESULTS), (100, runner.RUNS)):
        figure = fmnist.plot_mistakes(pictures, labels, probabilities, count)
        figure.savefig(folder / "labels.png")
    print(*(f"{part} {row}," for part, row, *_ in likeliest))


if __name__ == "__main__":
    finished = runner.run_all(TASKS, runner.parser(__doc__).parse_args())
    measured = measure(finished)
    fmnist.write_json(results.RESULTS / "labels.json", measured)
    draw(measured)
    print(table())
