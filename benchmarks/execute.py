"""The process of one run: execute a notebook's cells, and write down what came of them.

The runner starts ``python -m benchmarks.execute FOLDER``. The folder holds task.json; result.json
and probabilities.npz are added to it.
"""

import json
import math
import os
import resource
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import fmnist_utils as fmnist


def leave_with_the_parent(folder: Path) -> None:
    """End this process as soon as the one that started it has ended, however it did."""
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def operations_per_image(model: Any) -> float | None:
    """Count a training step's operations with PyTorch's counter. Keras has none."""
    if not hasattr(model, "parameters"):
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(2, 1, 28, 28, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        model.train()(images).sum().backward()
    return counter.get_total_flops() / len(images)


def run(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Execute the cells of a task; return what was measured, or which cell failed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, tags, source in task["cells"]:
        try:
            exec(compile(source, f"cell {number}", "exec"), names)
        except Exception as error:
            return {"error": f"in cell [{number}]: {type(error).__name__}: {error}"}
        if "train" in tags:
            trained_at = time.time()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = names["model"]
    weights = model.parameters() if hasattr(model, "parameters") else model.trainable_weights
    result = {
        "images": len(names["data"].train.labels),
        "parameters": sum(math.prod(array.shape) for array in weights),
        "training_accuracy": names["history"]["accuracy"][-1],
        "training_seconds": names["stopwatch"].seconds,
        "seconds_to_trained": trained_at - task["started"],
        "peak_mib": peak / (1024**2 if sys.platform == "darwin" else 1024),  # bytes; kibibytes
        "reported": names.get("report"),
    }
    probabilities = {}
    for part in task["parts"]:
        split = getattr(names["data"], part)
        probabilities[part] = names["predict"](model, split.images)
        evaluation = fmnist.evaluate(split.labels, probabilities[part])
        result[part] = {key: getattr(evaluation, key) for key in ("accuracy", "loss", "ece")}
    np.savez(folder / "probabilities.npz", **probabilities)
    return result | {"operations_per_image": operations_per_image(model)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    threading.Thread(target=leave_with_the_parent, args=[folder], daemon=True).start()
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    fmnist.write_json(folder / "result.json", run(task, folder))
