"""Ask which labels of Fashion-MNIST may be wrong: those that networks contradict.

Two networks that have not seen an image judge its label. The same is done once more with some
labels changed, to see how many of them come out. labels.md explains it. Results, in results/:
labels.json, labels.png, suspects.csv and predictions.npz.

    python -m benchmarks.labels [--workers 2]
    python -m benchmarks.labels --look    # pictures of a sample for two people, in build/labels
"""

import csv
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from sklearn.metrics import cohen_kappa_score

import fmnist_utils as fmnist
from benchmarks import results, runner
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from benchmarks.results import markdown_table

# What people may take for each other. Trousers and bags are hardly taken for anything.
SIMILAR = {0: 6, 2: 4, 3: 0, 4: 2, 5: 7, 6: 0, 7: 9, 9: 7}
FOLD = """
from pathlib import Path
(images, labels), _ = fmnist._load_parts(Path(DATA_DIR))  # in the order of the files
chance, similar = np.random.default_rng(0), {similar}
rows = chance.permutation(len(labels))
anyhow, alike = rows[:300], [row for row in rows[300:] if labels[row] in similar][:300]
if {changed}:
    labels[anyhow] = (labels[anyhow] + chance.integers(1, 10, 300)) % 10
    labels[alike] = [similar[label] for label in labels[alike]]
held_back = np.random.default_rng({partition}).permutation(len(labels)) % 5 == {fold}
train = fmnist.Split(images[~held_back], labels[~held_back])
data = data._replace(train=train, validation=fmnist.Split(images[held_back], labels[held_back]))
"""
TASKS = [
    runner.Task(
        f"{FRAMEWORKS[key].name}, {'some labels changed, ' if changed else ''}fold {fold}",
        key,
        {"EPOCHS": 10},
        {"load": FOLD.format(similar=SIMILAR, changed=changed, partition=partition, fold=fold)},
        parts=runner.TESTED,
    )
    for changed in (False, True)
    for partition, key in enumerate(FRAMEWORKS)
    for fold in range(5)
]
# Training rows that others call wrong.
ISSUE_166 = {16691, 28264, 33982, 40513, 42018, 45592}  # of zalandoresearch/fashion-mnist
LABELFIX = {22264, 28264, 33982, 42018, 45592}  # pictures in the repository mueller91/labelfix
STRATA = {"1 to 100": 0, "101 to 300": 100, "301 to 600": 300, "the other suspects": 600}
SUSPECTS, LOOK = results.RESULTS / "suspects.csv", REPOSITORY / "build" / "labels"


def variables(task: runner.Task) -> dict[str, Any]:
    """Return the variables of FOLD: the images, the labels, which are held back or changed."""
    folder = REPOSITORY / "data"
    names = {"np": np, "fmnist": fmnist, "DATA_DIR": folder}
    names["data"] = fmnist.load_fashion_mnist(folder)
    exec(task.after["load"], names)
    return names


def judgements(runs: list[results.Run], changed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of both judges for the training and for the test images."""
    training, test = np.zeros((2, 60_000, 10)), np.zeros((2, 10_000, 10))
    for number, (task, run) in enumerate(zip(TASKS, runs)):
        if (number >= 10) == changed:
            judge, held_back = number // 5 % 2, variables(task)["held_back"]
            with np.load((runner.RUNS / run["file"]).with_suffix(".npz")) as arrays:
                training[judge, held_back] = arrays["validation"]
                test[judge] += arrays["test"] / 5
    return training, test


def suspects(labels: np.ndarray, judges: np.ndarray) -> np.ndarray:
    """Return rows that cleanlab lists and on which all judges (J×N×10) see the same other class.

    Those come first whose label has the lowest mean probability.
    """
    mean = judges.mean(axis=0)
    seen = mean.argmax(axis=1)
    agreed = (judges.argmax(axis=2) == seen).all(axis=0) & (seen != labels)
    rows = find_label_issues(labels, mean, return_indices_ranked_by="self_confidence", n_jobs=1)
    return rows[agreed[rows]]


def listed(part: str, labels: np.ndarray, judges: np.ndarray) -> list[dict[str, Any]]:
    """Return the suspects of a part of the data as rows of suspects.csv."""
    mean, found = judges.mean(axis=0), []
    for row in suspects(labels, judges):
        label, seen = int(labels[row]), int(mean[row].argmax())
        figures = {"p_label": f"{mean[row, label]:.4f}", "p_suggested": f"{mean[row, seen]:.4f}"}
        found.append({"split": part, "row": int(row), "label": label, "suggested": seen, **figures})
    return found


def read_suspects() -> list[dict[str, str]]:
    with SUSPECTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verdicts() -> dict[tuple[str, int], str]:
    """Return what was found when an image was looked at: one verdict, or both, by its place."""
    looked = results.committed("judged")["images"]
    return {
        (i["split"], i["row"]): " / ".join(dict.fromkeys(i["verdicts"]))
        for i in looked
        if i["stratum"] != "decoy"
    }


def write_results(runs: list[results.Run]) -> None:
    originals, changes = (variables(TASKS[number]) for number in (0, 10))
    training, test = judgements(runs, changed=False)
    data = originals["data"]
    rows = listed("training", originals["labels"], training)
    rows += listed("test", data.test.labels, test)
    rows.sort(key=lambda row: float(row["p_label"]))
    known = verdicts()
    with SUSPECTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "verdict"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(r | {"verdict": known.get((r["split"], r["row"]), "")} for r in rows)
    means = {"training": training.mean(axis=0), "test": test.mean(axis=0)}
    arrays = {name: mean.astype(np.float16) for name, mean in means.items()}
    np.savez_compressed(results.RESULTS / "predictions.npz", **arrays)
    again = suspects(changes["labels"], judgements(runs, changed=True)[0]).tolist()
    kinds = {"any other class": changes["anyhow"], "a similar class": changes["alike"]}
    caught = {
        kind: [sum(row in again[:size] for row in changed) for size in (600, len(again))]
        for kind, changed in kinds.items()
    }
    content = {"runs": runs, "suspects_after_changes": len(again), "caught": caught}
    fmnist.write_json(results.RESULTS / "labels.json", content)
    draw(rows[:40], {"training": originals["images"], "test": data.test.images})


def draw(rows: list[dict[str, Any]], images: dict[str, np.ndarray]) -> None:
    """Draw the first suspects, each with its label and, below, the class that the judges see."""
    figure = fmnist.new_figure(height=9)
    for axes, row in zip(figure.subplots(5, 8).flat, rows):
        axes.imshow(images[row["split"]][row["row"]], cmap="gray")
        names = (fmnist.CLASS_NAMES[row[key]] for key in ("label", "suggested"))
        axes.set_title("label: {}\nseen: {}".format(*names), size=9)
        axes.set_axis_off()
    figure.savefig(results.RESULTS / "labels.png")


def sample() -> list[dict[str, Any]]:
    """Draw 60 images of each stratum and 60 decoys, and shuffle them."""
    chance, data = np.random.default_rng(0), variables(TASKS[0])
    labels = {"training": data["labels"], "test": data["data"].test.labels}
    ranked = [(row["split"], int(row["row"])) for row in read_suspects()]
    everything = [(part, row) for part in labels for row in range(len(labels[part]))]
    others = sorted(set(everything) - set(ranked))
    starts = [*STRATA.values(), len(ranked)]
    strata = {name: ranked[a:b] for name, a, b in zip(STRATA, starts, starts[1:])}
    chosen = []
    for stratum, places in {**strata, "non-suspects": others, "decoy": others}.items():
        if stratum == "decoy":  # their labels are about to be changed
            places = [place for place in others if labels[place[0]][place[1]] in SIMILAR]
        for number in chance.choice(len(places), 60, replace=False):
            part, row = places[number]
            label = int(labels[part][row])
            shown = SIMILAR[label] if stratum == "decoy" else label
            chosen.append({"split": part, "row": row, "shown": shown, "stratum": stratum})
    return [chosen[number] for number in chance.permutation(len(chosen))]


def look() -> None:
    """Write sheets of 30 images of the sample, each with its number and label."""
    names, chosen = variables(TASKS[0]), sample()
    images = {"training": names["images"], "test": names["data"].test.images}
    LOOK.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(chosen), 30):
        figure = fmnist.new_figure(height=9.5)
        for number, axes in enumerate(figure.subplots(5, 6).flat, start):
            image = chosen[number]
            axes.imshow(images[image["split"]][image["row"]], cmap="gray")
            axes.set_title(f"{number}: {fmnist.CLASS_NAMES[image['shown']]}", size=12)
            axes.set_axis_off()
        figure.savefig(LOOK / f"{start // 30}.png")
    fmnist.write_json(LOOK / "sample.json", chosen)


def rates() -> str:
    """Tabulate what two saw, by rank, and estimate how many labels are wrong in all."""
    judged = results.committed("judged")
    sizes, rows, draws = judged["sizes"], [], 0.0
    for stratum in [*sizes, "decoy"]:
        seen = [i["verdicts"] for i in judged["images"] if i["stratum"] == stratum]
        both, one = (sum(f(v == "wrong label" for v in pair) for pair in seen) for f in (all, any))
        unsure = sum(all(v == "cannot be told" for v in pair) for pair in seen)
        size = f"{sizes[stratum]:,}" if stratum in sizes else ""
        rows.append([stratum, size, *map(str, (len(seen), both, one - both, unsure))])
        if stratum in sizes:  # Jeffreys' interval for each, and their sum by simulation
            chance = np.random.default_rng(len(rows))
            shares = chance.beta(both + 0.5, len(seen) - both + 0.5, 100_000)
            draws = draws + np.outer([stratum != "non-suspects", 1], sizes[stratum] * shares)
    (low, middle, high), (all_low, _, all_high) = np.percentile(draws, (2.5, 50, 97.5), axis=1).T
    pairs = [i["verdicts"] for i in judged["images"] if i["stratum"] != "decoy"]
    agreed = sum(first == second for first, second in pairs)
    kappa = cohen_kappa_score(*zip(*pairs))
    header = ["rank", "images", "looked at", "both: wrong", "one: wrong", "both: cannot be told"]
    return (
        f"{markdown_table(header, rows)}\n\nWhere both must say so, about {middle:,.0f} of the "
        f"suspects have a wrong label, with a 95 % interval from {low:,.0f} to {high:,.0f}. It may "
        "be more, since the two missed some decoys. With the non-suspects, of which only 60 were "
        f"looked at, the interval for all 70,000 images is {all_low:,.0f} to {all_high:,.0f}. "
        f"The rows' intervals are Jeffreys', added up by simulation. The two agreed on {agreed} of "
        f"{len(pairs)} images, and Cohen's κ is {kappa:.2f}."
    )


def table() -> str:
    found = results.committed("labels")
    runner.measured(found["runs"], TASKS)
    rows = read_suspects()
    sizes = {"training": 60_000, "test": 10_000}
    counts = {part: sum(row["split"] == part for row in rows) for part in sizes}
    parts = " and ".join(
        f"{count:,} of the {sizes[part]:,} {part} images ({count / sizes[part]:.2%})"
        for part, count in counts.items()
    )
    of_training = {int(row["row"]) for row in rows if row["split"] == "training"}
    theirs = [f"{len(x & of_training)} of {len(x)}" for x in (ISSUE_166, LABELFIX)]
    caught = [[f"to {kind}", "300", *map(str, n)] for kind, n in found["caught"].items()]
    last = f"among all {found['suspects_after_changes']:,} of that round"
    header = ["changed", "labels", "among the first 600 suspects", last]
    alt = "The first forty suspects, each with its label and the class that the networks see"
    picture = f"![{alt}](results/labels.png)"
    tables = [f"{parts} are suspects.", rates(), picture, markdown_table(header, caught)]
    others = "Suspects are {} rows that issue 166 calls wrong, and {} that labelfix shows.".format(
        *theirs
    )
    return "\n\n".join([*tables, others])


if __name__ == "__main__":
    parser = runner.parser(__doc__)
    parser.add_argument("--look", action="store_true", help="only draw a sample to look at")
    options = parser.parse_args()
    if options.look:
        look()
    else:
        write_results(runner.run_all(TASKS, options))
        print(table())
