"""Write all measured figures in the documents and notebooks anew, from the files of results.

They stand between the comments ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    python -m tools.update_tables
"""

import base64
import importlib
import json
import re
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import numpy as np

import fmnist_utils as fmnist
from benchmarks import exercises, labels, minutes, seeds, split
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, read
from benchmarks.results import NotMeasured, accuracy, hardware, markdown_table

NOTEBOOKS = {framework.notebook: framework for framework in FRAMEWORKS.values()}
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "docs/frameworks.md", "models/README.md")),
    *sorted((REPOSITORY / "benchmarks").glob("*.md")),
    *NOTEBOOKS,
]
BLOCK = re.compile(  # Colab and clone are written by set_colab_address.py
    r"<!-- (?P<name>(?!Colab|clone)[^>]+) -->\n.*?<!-- end of (?P=name) -->", re.DOTALL
)
NAMES = [framework.name for framework in FRAMEWORKS.values()]


def records() -> list[dict[str, Any]]:
    """Return the ``metrics.json`` of every framework's committed model."""
    return [fmnist.load_metrics(framework.models) for framework in FRAMEWORKS.values()]


def version(record: dict[str, Any]) -> str:
    """Name a framework and its version, without the build: ``"PyTorch 2.15.0"``."""
    return f"{record['framework']} {record['framework_version'].partition('+')[0]}"


def training_time(record: dict[str, Any]) -> str:
    """Say how long a model was trained, and on what."""
    on_cpu = {**record, "threads": record["cpu_cores"], "limits": {}}
    place = hardware(on_cpu) if record["device"] == "cpu" else record["device"]
    return f"{record['seconds_per_epoch'] * record['epochs'] / 60:.1f} minutes on {place}"


def results(model_card: bool = False) -> str:
    """Tabulate the seeds and, below, the committed models, each of which is a single run."""
    both, place = records(), ""
    try:
        runs = seeds.runs_by_framework().values()
        over_seeds = [accuracy(group, "test") for group in runs]
        seconds = [median(run["training_seconds"] for run in group) for group in runs]
        times = [f"{s / 60:.1f} minutes" for s in seconds]
        place = f", on {hardware(next(iter(runs))[0])}"
    except NotMeasured:
        over_seeds = times = ["not measured yet"] * len(both)
    interval = "{accuracy:.2%} ({accuracy_ci95[0]:.2%} – {accuracy_ci95[1]:.2%})"
    files = [next(f.models.glob("model.[pk]*")) for f in FRAMEWORKS.values()]
    rows = {
        f"test accuracy, mean ± standard deviation of five seeds{place}": over_seeds,
        "training time, median of these runs": times,
        "test accuracy of the model in `models/`, a single run, with its 95 % interval": [
            interval.format(**record["test"]) for record in both
        ],
        "training time of that run": [f"{training_time(r)}, {r['epochs']} epochs" for r in both],
        "parameters": [f"{record['parameters']:,}" for record in both],
        "size": [f"{file.stat().st_size / 1e6:.1f} MB (`{file.name}`)" for file in files],
    }
    if model_card:
        rows |= {
            "test loss (mean cross-entropy)": [f"{r['test']['loss']:.4f}" for r in both],
            "expected calibration error": [f"{r['test']['ece']:.2%}" for r in both],
            "validation accuracy": [f"{r['validation']['accuracy']:.2%}" for r in both],
            "validation loss": [f"{r['validation']['loss']:.4f}" for r in both],
        }
    return markdown_table(["", *map(version, both)], [[name, *row] for name, row in rows.items()])


def per_class() -> str:
    """Tabulate the test accuracy of the committed models per class."""
    shares = [record["test"]["per_class_accuracy"] for record in records()]
    rows = [[name, *(f"{share[name]:.1%}" for share in shares)] for name in fmnist.CLASS_NAMES]
    return markdown_table(["class", *NAMES], rows)


def no_clothes() -> str:
    """Tabulate what the models say of images that show none of the ten classes."""
    import onnxruntime
    from sklearn.datasets import load_digits

    digits = np.kron(load_digits().images / 16, np.ones((3, 3)))
    shown = {
        "1,797 handwritten digits of scikit-learn": np.pad(digits, ((0, 0), (2, 2), (2, 2))),
        "1,000 images of uniform noise": np.random.default_rng(0).uniform(size=(1_000, 28, 28)),
        "an empty (black) image": np.zeros((1, 28, 28)),
        "a white image": np.ones((1, 28, 28)),
    }
    rows = [[name] for name in shown]
    for framework in FRAMEWORKS.values():
        session = onnxruntime.InferenceSession(framework.models / "model.onnx")
        for row, images in zip(rows, shown.values()):
            image = (255 * images).round().astype(np.uint8)
            (probabilities,) = session.run(None, {"image": image})
            likeliest = np.bincount(probabilities.argmax(axis=1)).argmax()
            sure = (probabilities.max(axis=1) >= 0.9).mean()
            row += [fmnist.CLASS_NAMES[likeliest], f"{sure:.0%}"]
    header = [part for name in NAMES for part in (f"{name}: most often", "at least 90 % sure")]
    return markdown_table(["shown", *header], rows)


def verified() -> str:
    """Say when and with which versions the committed models were made."""
    both = records()
    last = max(both, key=lambda record: record["date"])
    return (
        f"Last verified on {last['date'][:10]} with Python {last['python_version']}, "
        f"{', '.join(map(version, both))} and NumPy {last['numpy_version']}."
    )


def keras_version() -> str:
    """Say which Keras wrote the Keras file."""
    with zipfile.ZipFile(FRAMEWORKS["tensorflow"].models / "model.keras") as file:
        version = json.loads(file.read("metadata.json"))["keras_version"]
    return f"Keras {version} wrote the file. Newer versions read it, and older ones may not."


def suspects() -> str:
    """Say how many of the 70,000 labels are suspect."""
    share = len(labels.read_suspects()) / 70_000
    return (
        "Look at each and ask who is right, the model or the label. Models that have not seen the "
        f"images firmly disagree with {share:.1%} of all labels: [some of these look wrong]"
        "(benchmarks/labels.md), some cannot be told at 28 pixels, and sometimes the models err."
    )


BLOCKS = {
    "results": results,
    "minutes": minutes.short_table,
    "model card": lambda: results(model_card=True),
    "keras version": keras_version,
    "verified": verified,
    "difference": seeds.difference,
    "per-class accuracy": per_class,
    "no clothes": no_clothes,
    "hardness": split.hardness,
    "suspects": suspects,
    "running averages": exercises.jumps,
}


def content(document: Path, name: str) -> str:
    """Return what belongs in a document's block; a study's document has the table of its module."""
    if document.parent.name == "benchmarks":
        return importlib.import_module(f"benchmarks.{name}").table()
    if name in BLOCKS:
        return BLOCKS[name]()
    framework = NOTEBOOKS[document]
    if name == "time":
        record = fmnist.load_metrics(framework.models)
        return f"The run shown here trained for {training_time(record)}, with {version(record)}."
    return exercises.outcomes(framework.key)[name]


def updated(document: Path) -> str:
    """Return a document or notebook with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        try:
            text = content(document, match["name"])
        except NotMeasured:
            text = "Not measured with the notebooks' present code yet."
        return f"<!-- {match['name']} -->\n{text}\n<!-- end of {match['name']} -->"

    text = document.read_text(encoding="utf-8")
    if document not in NOTEBOOKS:
        return BLOCK.sub(block, text)
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BLOCK.sub(block, cell.source)
    return nbformat.writes(notebook) + "\n"


def save_mistakes() -> None:
    """Save README's picture, which is a figure of the PyTorch notebook."""
    cells = {cell.id: cell for cell in read(FRAMEWORKS["pytorch"]).cells}
    (output,) = cells["pytorch-mistakes"].outputs
    png = re.search(r"base64,([^\"]+)", output.data["text/html"])[1]
    (REPOSITORY / "docs" / "mistakes.png").write_bytes(base64.b64decode(png))


if __name__ == "__main__":
    save_mistakes()
    for document in DOCUMENTS:
        document.write_text(updated(document), encoding="utf-8")
