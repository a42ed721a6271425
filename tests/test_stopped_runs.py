"""Runs that are repeated, begun in the middle, or interrupted, in real kernels."""

import json

import pytest
from kernels import WITHOUT_ONNX, CellFailed, Kernel, on_few_images

from benchmarks.notebook import TAGS, cells

TO_TRAINING = TAGS[: TAGS.index("evaluate")]
TO_EVALUATION = TAGS[: TAGS.index("export")]
STATE = """
import hashlib, json
digest = hashlib.sha256(test_probabilities.tobytes()).hexdigest()
print(json.dumps([getattr(history, "history", history), digest, stopwatch.seconds]))
"""
LAST_RATE = {
    "pytorch": "print(optimizer.param_groups[0]['lr'])",
    "tensorflow": "print(float(model.optimizer.learning_rate))",
}


def state_of(kernel):
    history, digest, seconds = json.loads(kernel.run(STATE))
    (epochs,) = {len(values) for values in history.values()}
    return history, digest, seconds, epochs


def test_the_same_seed_gives_the_same_bits_in_one_kernel_and_in_another(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS, SEED = 2, OTHER_SEED")
    to_evaluation = cells(notebook, *TO_EVALUATION)
    with Kernel(tmp_path) as kernel:
        kernel.run("OTHER_SEED = 1", *to_evaluation)
        of_another_seed = state_of(kernel)
        kernel.run("OTHER_SEED = 0", *to_evaluation)
        history, digest, _, epochs = state_of(kernel)
        assert epochs == 2
        assert of_another_seed[:2] != (history, digest)

        kernel.run("stopwatch.seconds = 1e6", *cells(notebook, "instantiate", "train", "evaluate"))
        again, _, seconds_again, epochs = state_of(kernel)
        assert epochs == 2
        # New weights, so it begins above where the other ended; a new schedule, so it learns.
        assert again["loss"][0] > history["loss"][1]
        assert again["loss"][1] < 0.9 * again["loss"][0]
        assert seconds_again < 1e6

    with Kernel(tmp_path) as kernel:
        for tag in ("load", "instantiate", "train", "export"):
            with pytest.raises(CellFailed, match="NameError"):
                kernel.run(*cells(notebook, tag))
        kernel.run("OTHER_SEED = 0", *to_evaluation)
        assert state_of(kernel)[:2] == (history, digest)
        assert kernel.stderr == ""


def test_an_interrupted_run_goes_on_with_the_next_epoch(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 6")
    *before, training = cells(notebook, *TO_TRAINING)
    evaluation, exporting = cells(notebook, "evaluate"), cells(notebook, "export")
    with Kernel(tmp_path) as kernel:
        kernel.run(*before, WITHOUT_ONNX)
        with pytest.raises(CellFailed, match="KeyboardInterrupt"):
            kernel.run(training, interrupt_at=r"[Ee]poch +4\b")
        kernel.run(*evaluation, *exporting)  # with what there is
        *_, trained = state_of(kernel)
        assert 3 <= trained < 6
        metrics = json.loads((tmp_path / "exported" / framework.key / "metrics.json").read_text())
        assert metrics["epochs"] == trained

        # The interrupted epoch counts for nothing; the training goes on with the next.
        kernel.run(training)
        with pytest.raises(CellFailed, match="The model has changed since its evaluation"):
            kernel.run(*exporting)
        kernel.run(*evaluation, *exporting)
        history, *_, epochs = state_of(kernel)
        assert epochs == 6
        assert float(kernel.run(LAST_RATE[framework.key])) == 0
        metrics = json.loads((tmp_path / "exported" / framework.key / "metrics.json").read_text())
        assert (metrics["history"], metrics["epochs"]) == (history, epochs)
        assert metrics["validation"]["accuracy"] == pytest.approx(history["val_accuracy"][-1])


def test_a_readers_names_and_secrets_do_not_reach_the_record(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 1\nX = object()\nWANDB_API_KEY = 'my secret'")
    with Kernel(tmp_path) as kernel:
        kernel.run(*cells(notebook, *TO_EVALUATION))
        kernel.run("import functools as F", WITHOUT_ONNX, *cells(notebook, "export"))
    (record,) = tmp_path.rglob("metrics.json")
    assert "my secret" not in record.read_text()
    settings = json.loads(record.read_text())["settings"]
    assert settings["channels"] == [24, 64]
