"""Write docs/try.json, the forty images of docs/try.html: python -m tools.try_page."""

import numpy as np
import onnxruntime

import fmnist_utils as fmnist
from benchmarks import labels as study
from benchmarks.notebook import FRAMEWORKS, REPOSITORY


def content() -> dict:
    """Choose the images; look up their labels, suspects, verdicts and the models' answers."""
    images, labels = fmnist.load_fashion_mnist(REPOSITORY / "data").test
    answers = {}
    for key, framework in FRAMEWORKS.items():
        run = onnxruntime.InferenceSession(framework.models / "model.onnx").run
        parts = [run(None, {"image": part})[0] for part in np.split(images, 20)]
        answers[key] = np.concatenate(parts).astype(float).round(4)
    listed = {int(row["row"]): row for row in study.read_suspects() if row["split"] == "test"}
    seen = {row: int(suspect["suggested"]) for row, suspect in listed.items()}
    suspects = sorted(seen, key=lambda row: not listed[row]["verdict"])  # first what was looked at
    mean = sum(answers.values()) / len(answers)
    surest = np.argsort(-mean.max(axis=1), kind="stable").tolist()
    wrong = [row for row in surest if mean[row].argmax() != labels[row] and row not in seen]
    shuffled = np.random.default_rng(0).permutation(len(labels))
    drawn = np.ravel([shuffled[labels[shuffled] == label][:2] for label in range(10)]).tolist()
    kinds = dict.fromkeys(drawn, "random")
    for kind, rows, number in (("suspect", suspects, 14), ("mistake", wrong, 6)):
        kinds |= dict.fromkeys([row for row in rows if row not in kinds][:number], kind)
    chosen = []
    for row, kind in kinds.items():
        known = {"row": row, "kind": kind, "label": int(labels[row]), "seen": seen.get(row)}
        known["verdict"] = listed.get(row, {}).get("verdict") or None
        known["stored"] = {key: p[row].tolist() for key, p in answers.items()}
        chosen.append(known | {"image": images[row].tobytes().hex()})
    return {"class_names": fmnist.CLASS_NAMES, "images": chosen}


if __name__ == "__main__":
    fmnist.write_json(REPOSITORY / "docs" / "try.json", content())
