"""What the studies have found: their committed results, and tables of them in Markdown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from benchmarks.notebook import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
Run = dict[str, Any]


class NotMeasured(Exception):
    """Results are missing, or are of older code."""


def committed(name: str) -> Any:
    """Return what results/NAME.json holds; nothing if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy(runs: Sequence[Run], part: str) -> str:
    """Format the mean accuracy of runs and, of several, the standard deviation."""
    accuracies = [run[part]["accuracy"] for run in runs]
    deviation = f" ± {stdev(accuracies):.2%}" if len(runs) > 1 else ""
    return f"{mean(accuracies):.2%}{deviation}"


def hardware(run: Run) -> str:
    """Say on what a run was made: ``"2 cores of an AMD EPYC, limited to AVX2"``."""
    cores = f"{run['threads']} core{'s' if run['threads'] > 1 else ''}"
    limits = sorted({limit.upper() for limit in run["limits"].values() if limit})
    return f"{cores} of {run['processor']}" + "".join(f", limited to {x}" for x in limits)


def table(groups: Mapping[str, Sequence[Run]], part: str) -> str:
    """Tabulate runs in Markdown, a row for those that differ in the seed alone."""
    rows = []
    for label, runs in groups.items():
        run, operations = runs[0], runs[0]["operations_per_image"]  # None where it is not counted
        tera = f"{operations * run['epochs'] * 55_000 / 1e12:.1f}" if operations else ""
        loss, ece = (mean(r[part][key] for r in runs) for key in ("loss", "ece"))
        minutes = median(r["training_seconds"] for r in runs) / 60
        row = [label, f"{len(runs)}", accuracy(runs, part), f"{loss:.4f}", f"{ece:.2%}"]
        row += [f"{run['parameters'] / 1e6:.2f} M", tera, f"{minutes:.1f}", hardware(run)]
        rows.append(row)
    header = ["", "seeds", f"{part} accuracy", "loss", "calibration error", "parameters"]
    header += ["TFLOP for 55,000 images", "minutes of training", "on"]
    return markdown_table(header, rows)
