"""Measure where the time of an epoch goes in both notebooks, and how near it is to the possible.

Nothing else should run on the machine meanwhile. Run it by

    python benchmarks/profile_epoch.py

The results go to results/profile.json.
"""

import ast
import sys
import textwrap
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402
from benchmarks.notebook_code import (  # noqa: E402
    END_OF_TRAINING,
    FRAMEWORKS,
    cell_number,
    code_cells,
    code_sha256,
    read_notebook,
    run,
    with_share_of_images,
)
from benchmarks.speed import machine  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
MOST_LOADING_SHARE = 0.03  # our aims
LEAST_SHARE_OF_GEMM_RATE = 0.6
EPOCHS = 4  # the first one, in which much is compiled, is not counted

# What is put after the training. Each pass over the batches ends by reading a number from the last
# one, which waits for a GPU.
PYTORCH_LOADING = """
import statistics

loading_seconds = []
for _ in range(3):
    started = time.perf_counter()
{loading}
    images.flatten()[0].item()
    loading_seconds.append(time.perf_counter() - started)
"""
TENSORFLOW_LOADING = """
import statistics

loading_seconds = []
batches = iter(train_batches)  # one for all epochs, as in `fit`
for _ in range(3):
    started = time.perf_counter()
    for _ in range(steps_per_epoch):
        images, labels = next(batches)
    float(tf.reshape(images, [-1])[0])
    loading_seconds.append(time.perf_counter() - started)
"""
# PyTorch counts the convolutions and the matrix products, forward and backward, and leaves out the
# gradient of the images, which nobody needs. `images` are those of the last batch above.
FLOPS_AND_GEMM = """
from torch.utils.flop_counter import FlopCounterMode

model.train()
with FlopCounterMode(display=False) as counter:
    criterion(model(images), labels).backward()

precision = torch.bfloat16 if has_bfloat16 else torch.float32
size = 2048
left, right = torch.randn(2, size, size, device=device, dtype=precision)
gemm_rates = []
for _ in range(100):
    started = time.perf_counter()
    (left @ right)[0, 0].item()
    gemm_rates.append(2 * size**3 / (time.perf_counter() - started))
"""
REPORT = """
import json

report = {
    "images": len(train_images),
    "seconds_per_epoch": statistics.median(history["seconds"][1:]),
    "loading_seconds": statistics.median(loading_seconds),
}
"""
PYTORCH_REPORT = """
report["flops_per_image"] = counter.get_total_flops() / len(images)
report["gemm_flops_per_second"] = statistics.median(gemm_rates)
report["precision"] = str(precision).removeprefix("torch.")
"""
PRINT = "print(json.dumps(report))"

START_PROFILER = """
import torch.profiler

profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
profiler.start()
"""
STOP_PROFILER = """
import json

profiler.stop()
operators = sorted(profiler.key_averages(), key=lambda operator: -operator.self_cpu_time_total)
total = sum(operator.self_cpu_time_total for operator in operators)
report = [
    {
        "operator": operator.key,
        "calls": operator.count,
        "self_cpu_seconds": operator.self_cpu_time_total / 1e6,
        "share": operator.self_cpu_time_total / total,
    }
    for operator in operators[:10]
]
"""

# -------------------------------------------------------------------------------------------------
# Programs
# -------------------------------------------------------------------------------------------------


def training_cells(framework: str, share: float) -> list[str]:
    """Return the code cells of a notebook up to the training, on a share of the images."""
    cells = code_cells(framework)
    cells = cells[: cell_number(cells, END_OF_TRAINING) + 1]
    return with_share_of_images(cells, framework, share)


def loading_loop(cells: list[str]) -> str:
    """Return the PyTorch notebook's loop over the batches, cut off where the network begins.

    Raises
    ------
    ValueError
        If nothing in that loop comes before a `with` block, that of autocast.
    """
    definition = ast.parse(cells[cell_number(cells, "def train_one_epoch(")])
    (function,) = [node for node in definition.body if isinstance(node, ast.FunctionDef)]
    (loop,) = [node for node in function.body if isinstance(node, ast.For)]
    network = [number for number, node in enumerate(loop.body) if isinstance(node, ast.With)]
    if not network or network[0] == 0:
        raise ValueError("The loop in train_one_epoch does not load a batch before autocast.")
    loop.body = loop.body[: network[0]]
    before = function.body[: function.body.index(loop)]
    return ast.unparse(ast.Module([*before, loop], type_ignores=[]))


def measuring_program(framework: str, share: float = 1) -> str:
    """Return the code of a notebook up to the training, with the measurements after it."""
    cells = training_cells(framework, share)
    if framework == "PyTorch":
        loading = PYTORCH_LOADING.format(loading=textwrap.indent(loading_loop(cells), "    "))
        return "\n".join([*cells, loading, FLOPS_AND_GEMM, REPORT, PYTORCH_REPORT, PRINT])
    return "\n".join([*cells, TENSORFLOW_LOADING, REPORT, PRINT])


def profiled_program(share: float = 1) -> str:
    """Return the PyTorch notebook's code up to the training, with a profiler around that."""
    *before, training = training_cells("PyTorch", share)
    return "\n".join([*before, START_PROFILER, training, STOP_PROFILER, PRINT])


# -------------------------------------------------------------------------------------------------
# Measurements
# -------------------------------------------------------------------------------------------------


def measure(share: float = 1) -> dict[str, Any]:
    """Measure both notebooks; see `shares` for what is derived."""
    measured = {
        framework: run(["-c", measuring_program(framework, share)], FMNIST_EPOCHS=str(EPOCHS))
        for framework in FRAMEWORKS
    }
    # The networks are the same (tests/test_parity.py), and so is what they have to compute.
    counted = measured["PyTorch"]
    results = {
        framework.lower(): shares(counted | of_framework)
        for framework, of_framework in measured.items()
    }
    for framework in FRAMEWORKS:
        results[framework.lower()]["code_sha256"] = code_sha256(read_notebook(framework))
    results["pytorch"]["top_operators"] = run(["-c", profiled_program(share)], FMNIST_EPOCHS="1")
    return results


def shares(measured: dict[str, Any]) -> dict[str, Any]:
    """Derive the shares from what was measured.

    An epoch's seconds include the validation after it, whose operations are not counted, so that
    the share of the GEMM rate is on the low side. The loading is timed alone; TensorFlow does it
    while the network computes, as far as there are cores.
    """
    flops_per_epoch = measured["flops_per_image"] * measured["images"]
    flops_per_second = flops_per_epoch / measured["seconds_per_epoch"]
    return {
        **measured,
        "loading_share": measured["loading_seconds"] / measured["seconds_per_epoch"],
        "flops_per_epoch": flops_per_epoch,
        "flops_per_second": flops_per_second,
        "share_of_gemm_rate": flops_per_second / measured["gemm_flops_per_second"],
    }


def summary(results: dict[str, Any]) -> str:
    """Tabulate the results, and below them the operators that take most of PyTorch's time."""
    rows = {
        "seconds per epoch": lambda r: f"{r['seconds_per_epoch']:.1f}",
        f"loading and augmenting alone (aim: under {MOST_LOADING_SHARE:.0%})": lambda r: (
            f"{r['loading_seconds']:.2f} s ({r['loading_share']:.1%})"
        ),
        "operations per epoch": lambda r: f"{r['flops_per_epoch'] / 1e12:.2f} TFLOP",
        "rate in training": lambda r: f"{r['flops_per_second'] / 1e9:.0f} GFLOP/s",
        "rate of a matrix product (GEMM)": lambda r: (
            f"{r['gemm_flops_per_second'] / 1e9:.0f} GFLOP/s ({r['precision']})"
        ),
        f"share of the GEMM rate (aim: {LEAST_SHARE_OF_GEMM_RATE:.0%})": lambda r: (
            f"{r['share_of_gemm_rate']:.0%}"
        ),
    }
    of_both = [results[framework.lower()] for framework in FRAMEWORKS]
    figures = fmnist.markdown_table(
        ["", *FRAMEWORKS], [[name, *map(figure, of_both)] for name, figure in rows.items()]
    )
    operators = fmnist.markdown_table(
        ["PyTorch operator", "calls", "self CPU time", "share"],
        [
            [
                f"`{row['operator']}`",
                f"{row['calls']:,}",
                f"{row['self_cpu_seconds']:.2f} s",
                f"{row['share']:.1%}",
            ]
            for row in results["pytorch"]["top_operators"]
        ],
    )
    return f"{figures}\n\n{operators}"


def main() -> None:
    """Measure, write the results and print them."""
    at_start = machine()  # before the load of the measurements themselves
    results = measure() | {"machine": at_start}
    fmnist.write_json(RESULTS / "profile.json", results)
    print(summary(results))


if __name__ == "__main__":
    main()
