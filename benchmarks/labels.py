"""Ask which labels of Fashion-MNIST may be wrong: images on which models agree against the label.

Two sets of five models learn from four fifths of the 60,000 images each, the second set half as
long and with 1 % of the labels changed by chance. labels.md explains what comes of it. Results:
results/labels.json and labels.png, and build/runs/labels.png with the 100 to be judged by eye.

    python -m benchmarks.labels [--workers 2]
"""

import json
from collections import Counter
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues

import fmnist_utils as fmnist
from benchmarks import runner
from benchmarks.notebook import FRAMEWORKS
from tools.tables import markdown_table

FOLD = """
images, labels = fmnist._read(fmnist.fetch_fashion_mnist(DATA_DIR), "train")  # as in the files
chance = np.random.default_rng(0)
held_back = chance.permutation(len(labels)) % 5 == {}
changed = chance.choice(len(labels), round({} * len(labels)), replace=False)
labels[changed] = (labels[changed] + chance.integers(1, 10, len(changed))) % 10
train = fmnist.Split(images[~held_back], labels[~held_back])
data = data._replace(train=train, validation=fmnist.Split(images[held_back], labels[held_back]))
"""
HALF = {"EPOCHS": runner.default_settings(FRAMEWORKS["pytorch"])["EPOCHS"] // 2}
SETS = {"original": (0.0, {}), "noisy": (0.01, HALF)}
TASKS = [
    runner.tested(f"{name} labels, fold {fold}", "pytorch", settings, FOLD.format(fold, noise))
    for name, (noise, settings) in SETS.items()
    for fold in range(5)
]
# Rows that others call wrong, in issue 166 of zalandoresearch/fashion-mnist and mueller91/labelfix.
KNOWN = {1600, 3415, 9059, 16691, 18188, 22264, 22750, 28264, 29599, 33982}
KNOWN |= {34381, 36049, 37286, 38208, 39620, 40513, 42018, 45592, 50494, 53257}


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
            name, own = task.name.split()[0], variables(task)
            judges[name][own["held_back"]] = arrays["validation"]
            of_test[name] += arrays["test"] / 5
    labels = variables(TASKS[0])["labels"]
    order = {"return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    return {
        "runs": runs,
        "training": suspects(labels, list(judges.values())),
        "test": suspects(own["data"].test.labels, list(of_test.values())),
        "changed": [[int(row), int(labels[row])] for row in own["changed"]],
        "ranked": find_label_issues(own["labels"], judges["noisy"], **order).tolist(),
    }


def table() -> str:
    """Return the tables of labels.md in Markdown, with a sentence before each."""
    found = {"runs": [], **dict(runner.committed("labels"))}
    if runner.matching(found["runs"], TASKS) is None:
        return runner.NOT_MEASURED
    names, parts = fmnist.CLASS_NAMES, {"training": 60_000, "test": 10_000}
    numbers = []
    for part, size in parts.items():
        counts = [sum(s[3] >= least for s in found[part]) for least in (0.0, 0.9, 0.99)]
        share = f"{counts[0] / size:.2%}"
        numbers.append([f"{size:,} {part} images", share, *(f"{count:,}" for count in counts)])
    was, ranked = dict(found["changed"]), found["ranked"]
    by_class = [Counter(s[1] for s in found[part]) for part in parts]
    by_class += [Counter(was[row] for row in ranked if row in was), Counter(was.values())]
    classes = [[name, *(f"{c[number]:,}" for c in by_class)] for number, name in enumerate(names)]
    pairs = Counter((s[1], s[2]) for part in parts for s in found[part]).most_common(10)
    pairs = [[names[label], names[said], f"{number}"] for (label, said), number in pairs]
    suspect = np.isin(range(10_000), [s[0] for s in found["test"]])
    header = ["test images", "mistakes", "of these on suspects", "accuracy", "without suspects"]
    mistakes = []
    for name, right in runner.right_of_models().items():
        shares = (suspect[~right].mean(), right.mean(), right[~suspect].mean())
        mistakes.append([name, f"{(~right).sum()}", *(f"{s:.2%}" for s in shares)])
    first, rows = ranked[: len(was)], {s[0] for s in found["training"]}
    caught, every = (sum(row in was for row in some) / len(was) for some in (first, ranked))
    others = [row in rows for row in first if row not in was]
    judged = Counter(dict(runner.committed("judged")).values())  # "training 45592": "wrong label"
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in judged.most_common())
    of_first = found["runs"][:5]
    held_back, test = ([r[p]["accuracy"] for r in of_first] for p in ("validation", "test"))
    return "\n\n".join(
        [
            "![The forty surest suspects, with what the models say](results/labels.png)",
            markdown_table(["", "suspects", "all", "surety ≥ 0.9", "≥ 0.99"], numbers),
            markdown_table(["label", *parts, "changed and found", "changed"], classes),
            markdown_table(["label", "models say", "suspects in both parts"], pairs),
            f"Of the {judged.total()} surest, looked at by eye: {verdicts}.",
            markdown_table(header, mistakes),
            f"Of {len(was)} changed labels, {caught:.0%} are among the first {len(was)} suspects "
            f"of the second set alone, and {every:.0%} among all its {len(ranked):,}. Of the "
            f"{len(others)} others among the first, {sum(others)} are suspects of both sets. Of "
            f"{len(KNOWN)} rows that others call wrong, {len(rows & KNOWN)} are suspects.",
            f"A model of the first set is right on {min(held_back):.2%} to {max(held_back):.2%} of "
            f"the images held back from it, and {min(test):.2%} to {max(test):.2%} of test images.",
        ]
    )


def draw(found: dict[str, Any]) -> None:
    """Draw the likeliest suspects, and print their rows in the order of the picture."""
    names = variables(TASKS[0])
    images = {"training": names["images"], "test": names["data"].test.images}
    everywhere = [(part, *suspect) for part in images for suspect in found[part]]
    likeliest = sorted(everywhere, key=lambda suspect: -suspect[4])[:100]
    pictures = [images[part][row] for part, row, *_ in likeliest]
    *_, labels, predicted, surety = zip(*likeliest)
    probabilities = np.repeat((1 - np.array(surety))[:, None] / 9, 10, axis=1)
    probabilities[range(len(labels)), predicted] = surety
    for count, folder in ((40, runner.RESULTS), (100, runner.RUNS)):
        figure = fmnist.plot_mistakes(pictures, labels, probabilities, count)
        figure.suptitle("The surest suspects: what the models say, and the label")
        figure.savefig(folder / "labels.png")
    print(*(f"{part} {row}," for part, row, *_ in likeliest))


if __name__ == "__main__":
    finished = runner.run_all(TASKS, runner.parser(__doc__).parse_args())
    measured = measure(finished)
    fmnist.write_atomically(runner.RESULTS / "labels.json", json.dumps(measured).encode())
    draw(measured)
    print(table())
