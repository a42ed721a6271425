"""Tables and sentences about the committed models, in Markdown, made from their results."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, Framework


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def records() -> list[dict[str, Any]]:
    """Return the ``metrics.json`` of every framework's committed model."""
    return [fmnist.load_metrics(framework.models) for framework in FRAMEWORKS.values()]


def hardware(record: Mapping[str, Any]) -> str:
    """Say on what a model was trained, such as ``"AMD EPYC 7B13, 2 cores"``."""
    if record["device"] != "cpu":
        return record["device"]
    return f"{record['processor']}, {record['cpu_cores']} cores"


def versions(record: Mapping[str, Any]) -> str:
    """Name the framework and its version, without the build: ``"PyTorch 2.15.0"``."""
    return f"{record['framework']} {record['framework_version'].partition('+')[0]}"


def model_size(framework: Framework) -> str:
    """Name the file of the trained model, beside ONNX's, and its size."""
    (path,) = (p for p in framework.models.glob("model.*") if p.suffix != ".onnx")
    return f"{path.stat().st_size / 1e6:.1f} MB (`{path.name}`)"


def results(above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> str:
    """Tabulate the committed runs, with more rows below their accuracy and at the end."""
    of_both = records()
    accuracy = "{accuracy:.2%} ({accuracy_ci95[0]:.2%} – {accuracy_ci95[1]:.2%})"
    rows = {
        "test accuracy, with its 95 % interval": [accuracy.format(**r["test"]) for r in of_both],
        **above,
        "parameters": [f"{r['parameters']:,}" for r in of_both],
        "epochs": [f"{r['epochs']}" for r in of_both],
        "training time": [
            f"{r['training_seconds'] / 60:.1f} minutes on {hardware(r)}" for r in of_both
        ],
        "size of the trained model": [model_size(f) for f in FRAMEWORKS.values()],
        **below,
    }
    header = ["", *map(versions, of_both)]
    return markdown_table(header, [[name, *cells] for name, cells in rows.items()])


def details() -> dict[str, list[str]]:
    """Return the rows that only the model card has."""
    of_both = records()
    return {
        "test loss (mean cross-entropy)": [f"{r['test']['loss']:.4f}" for r in of_both],
        "expected calibration error": [f"{r['test']['ece']:.2%}" for r in of_both],
        "validation accuracy": [f"{r['validation']['accuracy']:.2%}" for r in of_both],
        "validation loss": [f"{r['validation']['loss']:.4f}" for r in of_both],
    }


def per_class() -> str:
    """Tabulate the test accuracy of the committed models per class."""
    shares = [record["test"]["per_class_accuracy"] for record in records()]
    return markdown_table(
        ["class", *(framework.name for framework in FRAMEWORKS.values())],
        [[name, *(f"{share[name]:.1%}" for share in shares)] for name in fmnist.CLASS_NAMES],
    )


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
            (probabilities,) = session.run(None, {"image": images.astype(np.float32)})
            likeliest = np.bincount(probabilities.argmax(axis=1)).argmax()
            sure = (probabilities.max(axis=1) >= 0.9).mean()
            row += [fmnist.CLASS_NAMES[likeliest], f"{sure:.0%}"]
    names = [framework.name for framework in FRAMEWORKS.values()]
    header = [part for name in names for part in (f"{name}: most often", "at least 90 % sure")]
    return markdown_table(["shown", *header], rows)


def mcnemar(y_true: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Test whether two models err equally often, by the classes (N, 0–9) that they predict.

    Only images on which just one of the two is right tell them apart. If both err equally often,
    each such image is a fair coin. Returned are the number of images on which only the first is
    right, that of the second, and the p-value of the exact two-sided binomial test (Q. McNemar,
    Psychometrika 12, 1947).
    """
    first_right, second_right = np.equal(y_true, first), np.equal(y_true, second)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    disagreements = only_first + only_second
    p_value = float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0
    return only_first, only_second, p_value


def comparison() -> str:
    """Compare the committed models' predictions of the test images."""
    labels = fmnist.load_fashion_mnist(REPOSITORY / "data").test.labels
    predictions = [np.load(f.models / "predictions.npz")["test"] for f in FRAMEWORKS.values()]
    only_first, only_second, p_value = mcnemar(labels, *predictions)
    first, second = (framework.name for framework in FRAMEWORKS.values())
    explains = "does not explain" if p_value < 0.05 else "may explain"
    return (
        f"On {np.equal(*predictions).mean():.1%} of the test images both predict the same class. "
        f"Only {first} is right on {only_first:,} images, only {second} on {only_second:,}. If "
        "both erred equally often, a split at least as uneven would occur with probability "
        f"{p_value:.2g} (McNemar's exact test). So the choice of the test images {explains} the "
        "difference of these two models."
    )


def verified() -> str:
    """Say when and with which versions the committed models were made."""
    of_both = records()
    last = max(of_both, key=lambda record: record["date"])
    return (
        f"Last verified on {last['date'][:10]} with Python {last['python_version']}, "
        f"{', '.join(map(versions, of_both))} and NumPy {last['numpy_version']}."
    )


def training_time(framework: Framework) -> str:
    """Say how long a committed run trained, and on what."""
    record = fmnist.load_metrics(framework.models)
    return (
        f"The run shown here trained for {record['training_seconds'] / 60:.1f} minutes, "
        f"{record['epochs']} epochs, on {hardware(record)}, with {versions(record)}."
    )


def harder() -> str:
    """Say why the accuracy on the test images is lower than on the validation images."""
    path = REPOSITORY / "benchmarks" / "results" / "harder.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    validation, test = found["ridge"]
    return (
        "The accuracy on the test images is lower than on the validation images, and not for this "
        "model alone: a ridge regression on 1,500 random cosine features, for which nothing was "
        f"chosen, is right on {validation:.1%} of the validation images and {test:.1%} of the test "
        "images. The validation images happen to be easy: in cross-validation it is right on "
        f"{found['cross_validated'][0]:.1%} of the other training images. The test images are "
        "harder than those, too."
    )
