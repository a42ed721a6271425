"""Write the tables of README.md and models/README.md anew from the models and their metrics.

A table stands between the comments ``<!-- NAME -->`` and ``<!-- end of NAME -->``. Run it by

    python tools/update_tables.py
"""

import functools
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402

DOCUMENTS = ("README.md", "models/README.md")
FOLDERS = [REPOSITORY / "models" / name for name in ("pytorch", "tensorflow")]


def images_of_no_clothes() -> dict[str, np.ndarray]:
    """Return images (float32, N×28×28, 0–1) that show none of the ten classes, by what they are."""
    digits = np.kron(load_digits().images / 16, np.ones((3, 3)))
    noise = np.random.default_rng(0).uniform(size=(1_000, 28, 28))
    return {
        "1,797 handwritten digits of scikit-learn, enlarged to 24×24": np.pad(
            digits, ((0, 0), (2, 2), (2, 2))
        ).astype(np.float32),
        "1,000 images of uniform noise": noise.astype(np.float32),
        "an empty (black) image": np.zeros((1, 28, 28), np.float32),
        "a white image": np.ones((1, 28, 28), np.float32),
    }


def no_clothes_table() -> str:
    """Tabulate what the models say of images that are no clothes."""
    sessions = [onnxruntime.InferenceSession(folder / "model.onnx") for folder in FOLDERS]
    names = [fmnist.load_metrics(folder)["framework"] for folder in FOLDERS]
    headings = [f"{name}: most often | {name}: at least 90 % sure" for name in names]
    lines = [f"| shown | {' | '.join(headings)} |", f"|{'---|' * (1 + 2 * len(names))}"]
    for shown, images in images_of_no_clothes().items():
        cells = []
        for session in sessions:
            (probabilities,) = session.run(None, {"image": images})
            counts = np.bincount(probabilities.argmax(axis=1), minlength=10)
            sure = (probabilities.max(axis=1) >= 0.9).mean()
            cells += [f"{fmnist.CLASS_NAMES[counts.argmax()]}", f"{sure:.0%}"]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


@functools.cache
def tables() -> dict[str, str]:
    """Return every generated table by its name, in Markdown."""
    return {
        "results": fmnist.results_table(FOLDERS),
        "per-class accuracy": fmnist.per_class_table(FOLDERS),
        "no clothes": no_clothes_table(),
    }


def updated(text: str) -> str:
    """Return a document with its tables written anew."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        block = f"{begin}\n{table}\n{end}"
        text = re.sub(f"{begin}.*?{end}", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for name in DOCUMENTS:
        document = REPOSITORY / name
        document.write_text(updated(document.read_text(encoding="utf-8")), encoding="utf-8")
