"""Runs that are repeated, begun in the middle, or interrupted, in real kernels."""

import json

import pytest
from kernels import FIGURES, WITHOUT_ONNX, CellFailed, Kernel, checksums, on_few_images, project

from benchmarks.notebook import TAGS, cells

TO_TRAINING = TAGS[: TAGS.index("evaluate")]
TO_EVALUATION = TAGS[: TAGS.index("export")]
STATE = """
import hashlib, json
digest = hashlib.sha256(test_probabilities.tobytes()).hexdigest()
print(json.dumps([history, digest, stopwatch.seconds]))
"""


@pytest.fixture
def folder(framework, tmp_path):
    return project(tmp_path, framework)


def state_of(kernel):
    history, digest, seconds = json.loads(kernel.run(STATE))
    (epochs,) = {len(values) for values in history.values()}
    return history, digest, seconds, epochs


def test_the_same_seed_gives_the_same_bits_in_one_kernel_and_in_another(framework, folder):
    shipped = checksums(folder / "models")
    notebook = on_few_images(framework)
    to_evaluation = cells(notebook, *TO_EVALUATION)
    with Kernel(folder, FMNIST_EPOCHS="2", FMNIST_SEED="1") as kernel:
        kernel.run(*to_evaluation)
        of_another_seed = state_of(kernel)
        kernel.run('os.environ["FMNIST_SEED"] = "0"', *to_evaluation)
        history, digest, _, epochs = state_of(kernel)
        assert epochs == 2
        assert of_another_seed[:2] != (history, digest)

        kernel.run("stopwatch.seconds = 1e6", *cells(notebook, "instantiate", "train", "evaluate"))
        again, _, seconds_again, epochs = state_of(kernel)
        assert epochs == 2
        # New weights, so it begins above where the other ended; a new schedule, so it learns.
        assert again["loss"][0] > history["loss"][1]
        assert again["loss"][1] < 0.8 * again["loss"][0]
        assert seconds_again < 1e6

    with Kernel(folder, FMNIST_EPOCHS="2", FMNIST_SEED="0") as kernel:
        for tag in ("load", "instantiate", "train", "export"):
            with pytest.raises(CellFailed, match="NameError"):
                kernel.run(*cells(notebook, tag))
        kernel.run(*to_evaluation)
        assert state_of(kernel)[:2] == (history, digest)

        said = kernel.run(WITHOUT_ONNX, FIGURES, *cells(notebook, "export"))
        assert f"Trained for 2 of {kernel.run('print(FULL_RUN)').strip()} epochs" in said
        assert kernel.stderr == ""
        assert kernel.left_behind() == []
    assert checksums(folder / "models") == shipped


def test_an_interrupted_run_goes_on_and_a_poor_one_is_not_kept(framework, folder):
    shipped = checksums(folder / "models")
    notebook = on_few_images(framework, "FULL_RUN = EPOCHS")
    *before, training = cells(notebook, *TO_TRAINING)
    evaluation, (*exporting, publishing) = cells(notebook, "evaluate"), cells(notebook, "export")
    with Kernel(folder, FMNIST_EPOCHS="40") as kernel:
        kernel.run(*before, WITHOUT_ONNX, FIGURES)
        with pytest.raises(CellFailed, match="KeyboardInterrupt"):
            kernel.run(training, interrupt_at=r"[Ee]poch +4\b")
        said = kernel.run(*evaluation, *exporting, publishing)
        *_, trained = state_of(kernel)
        assert 3 <= trained < 40
        assert f"Trained for {trained} of 40 epochs: models" in said
        assert checksums(folder / "models") == shipped

        # The interrupted epoch counts for nothing; the training goes on with the next.
        kernel.run(f"EPOCHS = {trained + 2}", training, "EXPORT_DIR = 'kept'")
        with pytest.raises(CellFailed, match="The model has changed since its evaluation"):
            kernel.run(*exporting)
        kernel.run(*evaluation, *exporting, publishing)
        history, *_, epochs = state_of(kernel)
        assert epochs == trained + 2
        metrics = json.loads((folder / "kept" / "metrics.json").read_text())
        assert (metrics["history"], metrics["epochs"]) == (history, epochs)
        assert metrics["validation"]["accuracy"] == pytest.approx(history["val_accuracy"][-1])
        assert kernel.left_behind() == []

        # As a full run it has learned too little.
        kernel.run("EXPORT_DIR, FULL_RUN = None, EPOCHS", "fmnist.LEAST_ACCURACY = 1.1")
        with pytest.raises(CellFailed, match=r"After a full run, .* Nothing is kept"):
            kernel.run(*exporting, publishing)
    assert checksums(folder / "models") == shipped
