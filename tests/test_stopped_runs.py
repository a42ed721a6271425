"""Runs that are repeated, interrupted, killed or begun in the middle, in a real kernel."""

import json

import pytest
from kernels import FIGURES, WITHOUT_ONNX, CellFailed, Kernel, checksums, on_few_images, project

from benchmarks.notebook import TAGS, cells

TO_TRAINING = TAGS[: TAGS.index("evaluate")]
TO_EVALUATION = TAGS[: TAGS.index("export")]
FULL_LENGTH = "FULL_RUN = EPOCHS\n"  # however few are asked for
ANY_ACCURACY = "fmnist.LEAST_ACCURACY = 0\n"  # a full run on few images learns too little
KILL_WHILE_COPYING = """
import shutil

def copy_half_and_die(source, target):
    Path(target).write_bytes(b"half of")
    os._exit(9)

shutil.copyfile = copy_half_and_die
"""
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


def test_all_cells_twice_and_then_again_from_step_4(framework, folder):
    shipped = checksums(folder / "models")
    notebook = on_few_images(framework)
    all_cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    with Kernel(folder, FMNIST_EPOCHS="2") as kernel:
        said = kernel.run(*all_cells)
        assert f"Trained for 2 of {kernel.run('print(FULL_RUN)').strip()} epochs" in said
        assert kernel.stderr == ""
        history, digest, seconds, epochs = state_of(kernel)
        assert epochs == 2

        kernel.run(WITHOUT_ONNX, *all_cells)
        assert state_of(kernel)[:2] == (history, digest)

        kernel.run(*cells(notebook, "instantiate", "train", "evaluate"))
        again, _, seconds_again, epochs = state_of(kernel)
        assert epochs == 2
        # New weights, and the schedule at its start: it learns as the first one did.
        assert again["loss"] == pytest.approx(history["loss"], rel=0.3)
        assert again["loss"][0] > history["loss"][1]
        assert seconds_again < 2 * seconds
        assert kernel.left_behind() == []
    assert checksums(folder / "models") == shipped


def test_an_interrupted_training_can_be_evaluated_exported_and_continued(framework, folder):
    shipped = checksums(folder / "models")
    notebook = on_few_images(framework, FULL_LENGTH)
    *before, training = cells(notebook, *TO_TRAINING)
    evaluation, exporting = cells(notebook, "evaluate"), cells(notebook, "export")
    with Kernel(folder, FMNIST_EPOCHS="40") as kernel:
        kernel.run(*before, WITHOUT_ONNX, FIGURES)
        with pytest.raises(CellFailed, match="KeyboardInterrupt"):
            kernel.run(training, interrupt_at=r"[Ee]poch +4\b")
        said = kernel.run(*evaluation, *exporting)
        *_, trained = state_of(kernel)
        assert 3 <= trained < 40
        assert f"Trained for {trained} of 40 epochs: models" in said
        assert checksums(folder / "models") == shipped

        # The interrupted epoch counts for nothing; the training goes on with the next.
        kernel.run(f"EPOCHS = {trained + 2}", training, "EXPORT_DIR = 'kept'")
        with pytest.raises(CellFailed, match="evaluate it again first"):
            kernel.run(*exporting)
        kernel.run(*evaluation, *exporting)
        history, *_, epochs = state_of(kernel)
        assert epochs == trained + 2
        metrics = json.loads((folder / "kept" / "metrics.json").read_text())
        assert (metrics["history"], metrics["epochs"]) == (history, epochs)
        assert metrics["validation"]["accuracy"] == pytest.approx(history["val_accuracy"][-1])
        assert kernel.left_behind() == []
    assert checksums(folder / "models") == shipped


def test_a_killed_export_and_a_start_in_the_middle_leave_the_models_whole(framework, folder):
    shipped = checksums(folder / "models")
    notebook = on_few_images(framework, FULL_LENGTH)
    *exporting, publishing = cells(notebook, "export")
    to_evaluation = [*cells(notebook, *TO_EVALUATION), WITHOUT_ONNX, FIGURES]
    with Kernel(folder, FMNIST_EPOCHS="1") as kernel:
        with pytest.raises(CellFailed, match=r"After a full run, .* Nothing is kept"):
            kernel.run(*to_evaluation, *exporting, publishing)
        kernel.run(ANY_ACCURACY, *exporting, KILL_WHILE_COPYING)
        kernel.run_until_it_dies(publishing)
    left = checksums(folder / "models")
    assert left.items() >= shipped.items()

    with Kernel(folder, FMNIST_EPOCHS="1") as kernel:
        for tag in ("load", "instantiate", "train", "export"):
            with pytest.raises(CellFailed, match="NameError"):
                kernel.run(*cells(notebook, tag))
        assert checksums(folder / "models") == left
        kernel.run(*to_evaluation, ANY_ACCURACY, *exporting, publishing)
    exported = checksums(folder / "models")
    assert exported.keys() == shipped.keys(), "a partial file stayed behind, or a file is missing"
    changed = {name for name in shipped if exported[name] != shipped[name]}
    assert changed >= {f"{framework.key}/{name}" for name in ("metrics.json", "predictions.npz")}
