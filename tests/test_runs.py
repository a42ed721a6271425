"""Both notebooks in real kernels: repeated, interrupted, and on machines that this one is not."""

import json

import pytest
from kernels import WITHOUT_ONNX, Kernel, on_few_images

from benchmarks.notebook import FRAMEWORKS, TAGS, cells

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
# On a GPU, convolutions round their inputs to the ten bits of mantissa that TF32 has. Here, so do
# those of models that were moved to the device, or in Keras, that were not made for the CPU.
TF32 = {
    "pytorch": """
def rounded(numbers):
    short = ((numbers.detach().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return numbers + (short - numbers).detach()

def move(module, *place, move=nn.Module.to, **options):
    for part in module.modules():
        part.on_gpu = True
    return move(module, *place, **options)

def convolve(layer, images, *weights, convolve=nn.Conv2d._conv_forward):
    return convolve(layer, rounded(images) if hasattr(layer, "on_gpu") else images, *weights)

nn.Module.to, nn.Conv2d._conv_forward = move, convolve
""",
    "tensorflow": """
from tensorflow.python.eager import context

def rounded(numbers):
    short = tf.bitwise.bitwise_and(tf.bitcast(numbers, tf.int32) + 0x1000, ~0x1FFF)
    return numbers + tf.stop_gradient(tf.bitcast(short, tf.float32) - numbers)

def make(layer, *settings, make=layers.Conv2D.__init__, **options):
    make(layer, *settings, **options)
    layer.on_gpu = not context.context().device_name

def convolve(layer, images, kernel, convolve=layers.Conv2D.convolution_op):
    return convolve(layer, rounded(images) if layer.on_gpu else images, kernel)

layers.Conv2D.__init__, layers.Conv2D.convolution_op = make, convolve
""",
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
        history, digest, *_ = state_of(kernel)
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
            with pytest.raises(RuntimeError, match="NameError"):
                kernel.run(*cells(notebook, tag))
        kernel.run("OTHER_SEED = 0", *to_evaluation)
        assert state_of(kernel)[:2] == (history, digest)
        assert kernel.stderr == ""


def test_an_interrupted_run_goes_on_with_the_next_epoch(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 6")
    *before, training = cells(notebook, *TO_TRAINING)
    evaluation, exporting = cells(notebook, "evaluate"), cells(notebook, "export")
    record = tmp_path / "exported" / framework.key / "metrics.json"
    with Kernel(tmp_path) as kernel:
        kernel.run(*before, WITHOUT_ONNX)
        with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
            kernel.run(training, interrupt_at=r"[Ee]poch +4\b")
        kernel.run(*evaluation, *exporting)  # with what there is
        *_, trained = state_of(kernel)
        assert 3 <= trained < 6
        assert json.loads(record.read_text())["epochs"] == trained

        # The interrupted epoch counts for nothing; the training goes on with the next.
        kernel.run(training)
        with pytest.raises(RuntimeError, match="The model has changed since its evaluation"):
            kernel.run(*exporting)
        kernel.run(*evaluation, *exporting)
        history, *_, epochs = state_of(kernel)
        assert epochs == 6
        assert float(kernel.run(LAST_RATE[framework.key])) == 0
        metrics = json.loads(record.read_text())
        assert (metrics["history"], metrics["epochs"]) == (history, epochs)
        assert metrics["validation"]["accuracy"] == pytest.approx(history["val_accuracy"][-1])


def test_no_secret_is_recorded_and_no_older_file_stays_beside_the_new_model(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 1\nX = object()\nWANDB_API_KEY = 'my secret'")
    older = tmp_path / "exported" / framework.key / "model.onnx"
    older.parent.mkdir(parents=True)
    older.write_text("an older model")
    with Kernel(tmp_path) as kernel:
        kernel.run(*cells(notebook, *TO_EVALUATION))
        kernel.run("import functools as F", WITHOUT_ONNX, *cells(notebook, "export"))
    assert not older.exists()
    record = older.with_name("metrics.json").read_text()
    assert "my secret" not in record
    assert json.loads(record)["settings"]["channels"] == [24, 64]


def test_a_gpu_that_rounds_does_not_stop_the_export(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 4")
    to_evaluation = cells(notebook, *TO_EVALUATION)
    position = len(cells(notebook, "import", "colab", "parameters"))
    with Kernel(tmp_path) as kernel:
        kernel.run(*to_evaluation[:position], TF32[framework.key], *to_evaluation[position:])
        printed = kernel.run(*cells(notebook, "export"))
        assert "ONNX Runtime predicts the same" in printed
        difference = kernel.run("print(np.abs(probabilities - expected).max())")
        assert 1e-5 < float(difference) < 1e-2, "nothing was rounded"
    exported = tmp_path / "exported" / framework.key
    assert {"metrics.json", "predictions.npz"} < {path.name for path in exported.iterdir()}
    assert b"-packages" not in (exported / "model.onnx").read_bytes(), "paths of this machine"


def test_a_readers_configuration_of_keras_changes_nothing(tmp_path):
    wishes = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(wishes))
    notebook = on_few_images(FRAMEWORKS["tensorflow"], "EPOCHS = 1")
    with Kernel(tmp_path, KERAS_BACKEND="torch", KERAS_HOME=str(tmp_path)) as kernel:
        kernel.run(*cells(notebook, *TO_TRAINING))
        assert kernel.run("print(keras.backend.backend(), model.dtype)") == "tensorflow float32\n"
        assert kernel.run("print(model.layers[0].output.shape)") == "(None, 28, 28, 24)\n"
