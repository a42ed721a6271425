"""What a run's kernel measures when the notebook's cells are through."""

import math
import resource
import sys
from collections.abc import Sequence
from typing import Any

import fmnist_utils as fmnist


def operations_per_image(model: Any) -> float | None:
    """Count a training step's operations with PyTorch's counter. Keras has none."""
    if not hasattr(model, "parameters"):
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(2, 1, 28, 28, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        model.train()(images).sum().backward()
    return counter.get_total_flops() / 2


def measure(names: dict[str, Any], parts: Sequence[str]) -> tuple[dict[str, Any], dict]:
    """Return figures and, by part of the data, probabilities. No other part is predicted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data, model = names["data"], names["model"]
    history = getattr(names["history"], "history", names["history"])  # Keras has an object there
    weights = model.parameters() if hasattr(model, "parameters") else model.trainable_weights
    probabilities = {part: names["predict"](model, getattr(data, part).images) for part in parts}
    figures = {
        "images": len(data.train.labels),
        "parameters": sum(math.prod(array.shape) for array in weights),
        "epochs": len(history["accuracy"]),
        "training_accuracy": history["accuracy"][-1],
        "training_seconds": names["stopwatch"].seconds,
        "peak_mib": peak / (1024**2 if sys.platform == "darwin" else 1024),  # bytes; kibibytes
        "operations_per_image": operations_per_image(model),
        "reported": names.get("report"),
    }
    for part in parts:
        evaluation = fmnist.evaluate(getattr(data, part).labels, probabilities[part])
        figures[part] = {key: getattr(evaluation, key) for key in ("accuracy", "loss", "ece")}
    return figures, probabilities
