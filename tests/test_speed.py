"""The benchmarks of speed: what they compute and change, without any training."""

import json
import subprocess
import sys

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks import profile_epoch, speed
from benchmarks.notebook_code import (
    DROP_IMAGES,
    FRAMEWORKS,
    REPOSITORY,
    cell_number,
    code_cells,
    with_batch_size,
    with_share_of_images,
)

RESULTS = REPOSITORY / "benchmarks" / "results"

# What prints the shapes of a tutorial's weights, biases and normalization left out.
PEER_SHAPES = {
    "PyTorch": """
shapes = [parameter.shape for parameter in peer["FashionCNN"]().parameters()]
""",
    "TensorFlow": """
shapes = [weight.shape for weight in peer["build_model"]().trainable_weights]
""",
}


def test_ratios_are_those_computed_by_hand():
    ratios = speed.ratios(
        {
            "seconds_per_epoch": [10.0, 8.0, 10.0],
            "peer_seconds_per_epoch": [30.0, 40.0, 20.0],
            "images": 55_000,
            "peer_images": 60_000,
            "seconds_to_target": [50.0],
            "peer_seconds_to_target": [600.0],
        }
    )
    assert ratios["epoch"] == {"median": 3.0, "min": 2.0, "max": 5.0}
    per_image = {"median": 2.75, "min": 11 / 6, "max": 55 / 12}
    assert ratios["epoch_per_image"] == pytest.approx(per_image)
    assert ratios["to_target"] == 12.0


def test_the_first_run_that_reaches_the_target_counts(monkeypatch):
    accuracies = {1: 0.88, 2: 0.91, 3: 0.92}

    def run_notebook(framework, epochs, **changes):
        return {"seconds_to_trained": 10.0 * epochs, "test_accuracy": accuracies[epochs]}

    monkeypatch.setattr(speed, "run_notebook", run_notebook)
    monkeypatch.setattr(
        speed,
        "run_peer",
        lambda framework, epochs: {
            "seconds": [30.0] * epochs,
            "seconds_to_trained": 600.0,
            "test_accuracy": 0.91,
        },
    )
    result = {}
    speed.measure_target("PyTorch", result, epochs_to_try=(1, 2, 3))
    assert [attempt["epochs"] for attempt in result["tries"]] == [1, 2]
    assert (result["epochs_to_target"], result["seconds_to_target"]) == (2, [20.0])
    with pytest.raises(RuntimeError, match=r"does not reach 91\.00% in 1 epoch\."):
        speed.measure_target("PyTorch", result, epochs_to_try=(1,))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tutorials_have_the_network_that_they_should(framework):
    code = (
        "import json, runpy, sys\n"
        "peer = runpy.run_path(sys.argv[1])\n"
        f"{PEER_SHAPES[framework]}"
        "print(json.dumps([list(shape) for shape in shapes if len(shape) > 1]))"
    )
    # In a process of its own, since PyTorch and TensorFlow clash in one.
    printed = subprocess.run(
        [sys.executable, "-c", code, str(speed.PEERS[framework])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    convolutions = {
        "PyTorch": [[32, 1, 3, 3], [64, 32, 3, 3]],
        "TensorFlow": [[3, 3, 1, 32], [3, 3, 32, 64]],
    }
    dense = [[2304, 600], [600, 120], [120, 10]]
    if framework == "PyTorch":
        dense = [shape[::-1] for shape in dense]
    assert json.loads(printed.splitlines()[-1]) == convolutions[framework] + dense


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_batch_size_and_share_of_the_images_are_changed_and_nothing_else(framework):
    cells = code_cells(framework)
    smaller = with_batch_size(with_share_of_images(cells, framework, 0.25), 64)
    changed = [pair for pair in zip(cells, smaller, strict=True) if pair[0] != pair[1]]
    assert len(changed) == 2
    settings, loading = sorted(changed, key=lambda pair: "BATCH_SIZE = " not in pair[0])
    assert "\nBATCH_SIZE = 64" in settings[1]
    assert len(settings[0].splitlines()) == len(settings[1].splitlines())
    assert loading[1].startswith(loading[0])
    assert "0.25" in loading[1].removeprefix(loading[0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_quarter_of_the_images_is_kept(framework):
    def split(count):
        return fmnist.Split(np.zeros((count, 28, 28), np.uint8), np.zeros(count, np.int64))

    names = {
        "train_rows": np.arange(80),
        "data": fmnist.FashionMNIST(split(80), split(20), split(10)),
        "fmnist": fmnist,
    }
    exec(DROP_IMAGES[framework][1].format(share=0.25), names)
    data = names["data"]
    kept = {
        "PyTorch": [len(names["train_rows"])],
        "TensorFlow": [len(data.train.images), len(data.train.labels)],
    }
    assert set(kept[framework]) == {20}
    assert (len(data.validation.images), len(data.test.images)) == (20, 10)


def test_a_notebook_without_the_place_to_change_is_an_error():
    with pytest.raises(ValueError, match="0 code cells of the notebook contain 'BATCH_SIZE = '"):
        with_batch_size(["EPOCHS = 30"], 64)
    with pytest.raises(ValueError, match="set to a number 0 times"):
        with_batch_size(["BATCH_SIZE = make_batch_size()"], 64)
    with pytest.raises(ValueError, match="2 code cells"):
        cell_number(["trained for", "trained for"], "trained for")
    with pytest.raises(ValueError, match="0 code cells"):
        with_share_of_images(["EPOCHS = 30"], "PyTorch", 0.5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_programs_are_python_and_end_with_the_measurements(framework):
    for program in (
        speed.notebook_program(framework, share=0.5, batch_size=64),
        speed.notebook_program(framework, evaluate=True),
        profile_epoch.measuring_program(framework),
        profile_epoch.profiled_program(),
    ):
        compile(program, framework, "exec")
        assert program.splitlines()[-1].startswith("print(json.dumps(")


def test_the_loop_that_only_loads_has_batches_but_no_network():
    loop = profile_epoch.loading_loop(code_cells("PyTorch"))
    assert "train_images[rows]" in loop
    assert not any(word in loop for word in ("autocast", "criterion", "backward", "step("))


def test_reports_show_all_that_was_measured():
    result = {
        "seconds_per_epoch": [10.0, 8.0, 10.0],
        "peer_seconds_per_epoch": [30.0, 40.0, 20.0],
        "images": 55_000,
        "peer_images": 60_000,
        "seconds_to_target": [60.0],
        "peer_seconds_to_target": [600.0],
        "target": 0.9,
        "peer_epochs": 20,
        "epochs_to_target": 2,
        "scaling": {
            "share": [
                {"share": share, "seconds_per_epoch": 10 * share, "peak_memory_mib": 900.0}
                for share in speed.SHARES
            ],
            "batch_size": [
                {"batch_size": size, "seconds_per_epoch": 2000 / size, "peak_memory_mib": 900.0}
                for size in speed.BATCH_SIZES
            ],
        },
    }
    result["ratios"] = speed.ratios(result)
    machine = {"cpu": "Z80", "cpu_cores": 2, "notebooks_precision": "float32"}
    results = {"pytorch": result, "tensorflow": result, "machine": machine}

    comparison = speed.comparison_table(results)
    assert "| tutorial / notebook | 3.0 (2.0 to 5.0) |" in comparison
    assert "| Z80, 2 cores, float32 | PyTorch | TensorFlow |" in comparison
    assert "; until its end, tutorial | 1.0 (2 epochs); 10.0 |" in comparison
    assert "| our aim for that | 8: reached | 15: not reached |" in comparison
    assert "| batches of 64 | 31.2 (900 MiB) |" in speed.scaling_table(results)

    left, right = speed.speed_figure(results).axes
    assert [bar.get_width() for bar in left.patches] == [1, 1, 10, 10]
    assert [bar.get_width() for bar in right.patches] == [10, 10, 30, 30]
    for axes in speed.scaling_figure(results).axes:
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())


def test_committed_results_are_complete():
    path = RESULTS / "speed.json"
    if not path.exists():
        pytest.skip("the benchmark has not been run yet")
    results = json.loads(path.read_text(encoding="utf-8"))
    machine = {"cpu", "cpu_cores", "notebooks_precision", "architecture", "python"}
    assert machine | {"torch", "tensorflow", "keras"} <= set(results["machine"])
    for framework in FRAMEWORKS:
        result = results[framework.lower()]
        for key in ("seconds_per_epoch", "peer_seconds_per_epoch"):
            assert len(result[key]) == speed.REPETITIONS
        for key in ("seconds_to_target", "peer_seconds_to_target"):
            assert len(result[key]) == 1
        assert result["peer_epochs"] == speed.PEER_EPOCHS[framework]
        *short, reached = result["tries"]
        assert all(attempt["test_accuracy"] < result["target"] for attempt in short)
        assert reached["test_accuracy"] >= result["target"]
        assert result["epochs_to_target"] == reached["epochs"]
        assert [step["share"] for step in result["scaling"]["share"]] == list(speed.SHARES)
        sizes = [step["batch_size"] for step in result["scaling"]["batch_size"]]
        assert sizes == list(speed.BATCH_SIZES)
        assert result["ratios"] == speed.ratios(result)
