"""Both notebooks to their end on machines that this one is not, and with a reader's settings."""

import json

from kernels import WITHOUT_ONNX, Kernel, on_few_images

from benchmarks.notebook import FRAMEWORKS, TAGS, cells

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


def test_a_gpu_that_rounds_does_not_stop_the_export(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 1")
    to_export = cells(notebook, *TAGS[: TAGS.index("export")])
    position = len(cells(notebook, "import", "colab", "parameters"))
    with Kernel(tmp_path) as kernel:
        kernel.run(*to_export[:position], TF32[framework.key], *to_export[position:])
        printed = kernel.run(*cells(notebook, "export"))
        assert "ONNX Runtime predicts the same" in printed
        difference = kernel.run("print(np.abs(probabilities - validation_probabilities).max())")
        assert 1e-5 < float(difference) < 1e-2, "nothing was rounded"
    names = {path.name for path in (tmp_path / "exported" / framework.key).iterdir()}
    assert {"metrics.json", "model.onnx", "predictions.npz"} < names


def test_keras_is_not_led_astray_by_its_readers_configuration(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    wishes = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (home / "keras.json").write_text(json.dumps({**wishes, "epsilon": 1e-7}))
    notebook = on_few_images(FRAMEWORKS["tensorflow"], "EPOCHS = 1")
    to_training = cells(notebook, *TAGS[: TAGS.index("evaluate")])
    with Kernel(tmp_path, KERAS_BACKEND="torch", KERAS_HOME=str(home)) as kernel:
        kernel.run(*to_training)
        assert kernel.run("print(keras.backend.backend(), model.dtype)") == "tensorflow float32\n"
        assert kernel.run("print(model.layers[0].output.shape)") == "(None, 28, 28, 24)\n"


def test_without_onnx_no_older_file_stays_beside_the_new_model(framework, tmp_path):
    notebook = on_few_images(framework, "EPOCHS = 1")
    older = tmp_path / "exported" / framework.key / "model.onnx"
    older.parent.mkdir(parents=True)
    older.write_text("an older model")
    with Kernel(tmp_path) as kernel:
        kernel.run(WITHOUT_ONNX, *cells(notebook, *TAGS))
    assert not older.exists()
    assert (older.parent / "metrics.json").exists()
