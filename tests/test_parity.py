"""The two notebooks define and train the same network."""

import itertools
import math

import numpy as np
import pytest
from notebook_code import cell_containing, cell_tagged
from scipy import stats

import fmnist_utils as fmnist
from benchmarks.notebook_code import FRAMEWORKS

TRAINING_IMAGES = 55_000
LAYERS_WITH_WEIGHTS = ("Conv2d", "Linear")


@pytest.fixture(scope="module")
def torch_and_keras():
    """Import both; PyTorch, with its compiler, first: after TensorFlow's its LLVM aborts."""
    import torch
    import torch._dynamo

    with fmnist.native_stderr_silenced():
        import keras
        import tensorflow
    return torch, keras, tensorflow


@pytest.fixture(scope="module")
def pytorch(torch_and_keras):
    """Return the names that the PyTorch notebook's own cells define, up to the optimizer."""
    torch = torch_and_keras[0]
    names = {"fmnist": fmnist, "math": math, "torch": torch, "device": torch.device("cpu")}
    names["train_images"] = range(TRAINING_IMAGES)
    exec(cell_tagged("PyTorch", "parameters"), names)
    exec(cell_tagged("PyTorch", "model"), names)
    exec(cell_containing("PyTorch", "def flip_half"), names)
    exec(cell_containing("PyTorch", "def shift("), names)
    return names


@pytest.fixture(scope="module")
def tensorflow(torch_and_keras):
    """Return the names that the TensorFlow notebook's own cells define, up to the schedule."""
    _, keras, tf = torch_and_keras
    names = {"fmnist": fmnist, "math": math, "keras": keras, "tf": tf}
    names["train_images"] = range(TRAINING_IMAGES)
    exec(cell_tagged("TensorFlow", "parameters"), names)
    exec(cell_tagged("TensorFlow", "model"), names)
    exec(cell_containing("TensorFlow", "def flip_half"), names)
    exec(cell_containing("TensorFlow", "def shift("), names)
    exec(cell_containing("TensorFlow", "schedule = "), names)
    names["full_schedule"] = names["schedule"]
    return names


def layers_with_weights(model):
    return [layer for layer in model.layers if type(layer).__name__ in ("Conv2D", "Dense")]


def pytorch_layers(model):
    return [layer for layer in model.layers if type(layer).__name__ in LAYERS_WITH_WEIGHTS]


def as_pytorch(keras_model, pytorch_model):
    """Return Keras's weights and biases, in turn, in the layout of the PyTorch model."""
    arrays = []
    layers = zip(layers_with_weights(keras_model), pytorch_layers(pytorch_model), strict=True)
    channels, first_dense = None, True
    for keras_layer, _ in layers:
        kernel, bias = keras_layer.get_weights()
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)  # h × w × in × out to out × in × h × w
            channels = len(kernel)
        else:
            if first_dense:  # its inputs are flattened: h, w, c here and c, h, w in PyTorch
                size = math.isqrt(len(kernel) // channels)
                kernel = kernel.reshape(size, size, channels, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(size * size * channels, -1)
                first_dense = False
            kernel = kernel.T
        arrays += [kernel, bias]
    return arrays


def copy_weights(torch, keras_model, pytorch_model):
    with torch.no_grad():
        for parameter, array in zip(
            pytorch_model.parameters(), as_pytorch(keras_model, pytorch_model), strict=True
        ):
            parameter.copy_(torch.tensor(np.ascontiguousarray(array)))


@pytest.fixture
def twins(torch_and_keras, pytorch, tensorflow):
    """Return a network of each notebook, with the same weights and without dropout."""
    torch, keras, _ = torch_and_keras
    keras.utils.set_random_seed(0)
    keras_model = tensorflow["build_model"](tensorflow["WEIGHT_DECAY"])
    exec(cell_containing("PyTorch", "model = FashionCNN()"), pytorch)
    copy_weights(torch, keras_model, pytorch["model"])
    for layer in keras_model.layers:
        if type(layer).__name__ == "Dropout":
            layer.rate = 0.0
    for layer in pytorch["model"].layers:
        if type(layer).__name__ == "Dropout":
            layer.p = 0.0
    return pytorch["model"], keras_model


@pytest.fixture
def test_images(data):
    return (data.test.images / 255).astype("float32")


def test_the_layers_have_the_same_number_of_parameters(twins):
    pytorch_model, keras_model = twins
    assert [layer.count_params() for layer in layers_with_weights(keras_model)] == [
        sum(parameter.numel() for parameter in layer.parameters())
        for layer in pytorch_layers(pytorch_model)
    ]


def test_the_layers_come_in_the_same_order(twins):
    same = {
        "Rescaling": "Normalize",
        "Conv2D": "Conv2d",
        "MaxPooling2D": "MaxPool2d",
        "Dense": "Linear",
    }
    pytorch_model, keras_model = twins
    names = [type(layer).__name__ for layer in keras_model.layers]
    assert [same.get(name, name) for name in names] == [
        type(layer).__name__ for layer in pytorch_model.layers
    ]


def test_the_logits_agree_on_all_test_images(torch_and_keras, twins, test_images, record_property):
    torch = torch_and_keras[0]
    pytorch_model, keras_model = twins
    with torch.inference_mode():
        ours = pytorch_model(torch.tensor(test_images[:, None])).numpy()
    theirs = keras_model.predict(test_images[..., None], batch_size=1_000, verbose=0)
    difference = np.abs(ours - theirs).max()
    record_property("largest difference of logits", float(difference))
    print(f"largest difference of logits: {difference:.1e}")
    assert np.abs(ours).max() > 0.1
    assert difference < 1e-5


def train_both(torch, twins, pytorch, tensorflow, data, rates):
    """Take a step with each learning rate on the same batches; return losses and parameters."""
    pytorch_model, keras_model = twins
    exec(cell_containing("PyTorch", "optimizer = torch.optim.SGD("), pytorch)
    tensorflow["schedule"] = rates[0]
    exec(cell_containing("TensorFlow", "keras.optimizers.SGD("), tensorflow)
    tensorflow["model"] = keras_model
    exec(cell_containing("TensorFlow", "model.compile("), tensorflow)

    losses = []
    batch_size = pytorch["BATCH_SIZE"]
    for step, rate in enumerate(rates):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        images = (data.train.images[rows] / 255).astype("float32")
        labels = data.train.labels[rows]

        for group in pytorch["optimizer"].param_groups:
            group["lr"] = rate
        loss = pytorch["criterion"](
            pytorch_model(torch.tensor(images[:, None])), torch.tensor(labels)
        )
        pytorch["optimizer"].zero_grad()
        loss.backward()
        pytorch["optimizer"].step()

        tensorflow["optimizer"].learning_rate = rate
        keras_model.reset_metrics()
        logs = keras_model.train_on_batch(images[..., None], labels, return_dict=True)
        losses.append((loss.item(), float(logs["crossentropy"])))

    ours = [parameter.detach().numpy() for parameter in pytorch_model.parameters()]
    return np.array(losses), ours, as_pytorch(keras_model, pytorch_model)


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


def test_ten_steps_change_both_alike(torch_and_keras, twins, pytorch, tensorflow, data):
    torch = torch_and_keras[0]
    before = [parameter.detach().clone().numpy() for parameter in twins[0].parameters()]
    losses, ours, theirs = train_both(torch, twins, pytorch, tensorflow, data, [0.01] * 10)
    relative = np.abs(losses[:, 0] / losses[:, 1] - 1).max()
    print(
        f"after ten steps: losses differ by {relative:.1e} (relative), "
        f"parameters by {largest_difference(ours, theirs):.1e}"
    )
    assert losses[-1, 0] < losses[0, 0] - 0.1, "nothing was learnt"
    assert largest_difference(ours, before) > 1e-2
    assert relative < 1e-4
    assert largest_difference(ours, theirs) < 1e-4


def test_weight_decay_is_the_same(torch_and_keras, twins, pytorch, tensorflow, data, monkeypatch):
    """With a decay so strong that another form or factor of it would show at once."""
    torch = torch_and_keras[0]
    monkeypatch.setitem(pytorch, "WEIGHT_DECAY", 0.5)
    for layer in layers_with_weights(twins[1]):
        layer.kernel_regularizer.l2 = 0.25
    _, ours, theirs = train_both(torch, twins, pytorch, tensorflow, data, [0.02] * 5)
    assert largest_difference(ours, theirs) < 1e-4


def test_what_momentum_does_when_the_rate_changes(
    torch_and_keras, twins, pytorch, tensorflow, data
):
    """PyTorch applies a new rate to the old velocity too, Keras only to new gradients.

    Along the warm-up of a full run the two forms therefore differ, but by little.
    """
    torch = torch_and_keras[0]
    rates = [float(tensorflow["full_schedule"](step)) for step in range(10)]
    _, ours, theirs = train_both(torch, twins, pytorch, tensorflow, data, rates)
    difference = largest_difference(ours, theirs)
    print(f"after ten steps of the warm-up parameters differ by {difference:.1e}")
    assert 1e-6 < difference < 1e-2


def test_the_schedules_agree_at_every_step_of_a_full_run(torch_and_keras, pytorch, tensorflow):
    torch = torch_and_keras[0]
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    names = {**pytorch, "optimizer": torch.optim.SGD(parameters, lr=pytorch["LEARNING_RATE"])}
    exec(cell_containing("PyTorch", "SequentialLR("), names)
    assert names["total_steps"] == tensorflow["total_steps"]
    largest = 0.0
    rates = []
    for step in range(names["total_steps"]):
        rates.append(names["optimizer"].param_groups[0]["lr"])
        largest = max(largest, abs(rates[-1] - float(tensorflow["full_schedule"](step))))
        names["optimizer"].step()
        names["scheduler"].step()
    print(f"largest difference of learning rates: {largest:.1e}")
    assert max(rates) == pytest.approx(pytorch["LEARNING_RATE"])
    assert rates[-1] < 1e-3 * max(rates)
    assert largest < 1e-7


def test_initial_weights_have_the_same_distribution(torch_and_keras, pytorch, tensorflow):
    """Two-sample Kolmogorov-Smirnov tests on 400 weights a layer of each of 50 networks."""
    torch, keras, _ = torch_and_keras
    ours, theirs = {}, {}
    for seed in range(50):
        torch.manual_seed(seed)
        keras.utils.set_random_seed(seed)
        pytorch_model = pytorch["FashionCNN"]()
        keras_model = tensorflow["build_model"]()
        drawn = [parameter.detach().numpy() for parameter in pytorch_model.parameters()]
        arrays = zip(drawn, as_pytorch(keras_model, pytorch_model), strict=True)
        for position, (one, other) in enumerate(arrays):
            for samples, array in ((ours, one), (theirs, other)):
                values = array.ravel()
                samples.setdefault(position, []).append(values[:: -(-values.size // 400)])
    for position in ours:
        one, other = np.concatenate(ours[position]), np.concatenate(theirs[position])
        if position % 2:
            assert not one.any() and not other.any(), "biases start from zero"
        else:
            assert stats.ks_2samp(one, other).pvalue > 0.01
            # A test that could not tell PyTorch's default from Glorot's would prove nothing.
            assert stats.ks_2samp(one, 1.1 * other).pvalue < 0.01


def test_dropout_rates(torch_and_keras, pytorch, tensorflow):
    torch, keras, _ = torch_and_keras
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    dropped = {framework: [] for framework in FRAMEWORKS}
    for layer in pytorch["FashionCNN"]().train().layers:
        if type(layer).__name__ == "Dropout":
            result = layer(torch.ones(1_000, 512)).numpy()
            dropped["PyTorch"].append((layer.p, result))
    for layer in tensorflow["build_model"]().layers:
        if type(layer).__name__ == "Dropout":
            result = np.asarray(layer(np.ones((1_000, 512)), training=True))
            dropped["TensorFlow"].append((layer.rate, result))
    for results in dropped.values():
        ((rate, result),) = results
        assert rate == 0.4
        zero = result == 0
        assert zero.mean() == pytest.approx(rate, abs=0.005)
        assert result[~zero] == pytest.approx(1 / (1 - rate))


def test_half_of_the_images_are_flipped(torch_and_keras, pytorch, tensorflow, data):
    torch, _, tf = torch_and_keras
    torch.manual_seed(0)
    tf.random.set_seed(0)
    images = (data.test.images / 255).astype("float32")
    mirrored = images[:, :, ::-1]
    lopsided = (images != mirrored).any(axis=(1, 2))
    torch_result = pytorch["flip_half"](torch.tensor(images[:, None])).numpy()[:, 0]
    tf_result = tensorflow["flip_half"](tf.constant(images[..., None]), None)[0].numpy()[..., 0]
    for result in (torch_result, tf_result):
        flipped = (result == mirrored).all(axis=(1, 2))
        assert ((result == images).all(axis=(1, 2)) | flipped).all()
        assert flipped[lopsided].mean() == pytest.approx(0.5, abs=0.02)


def test_the_images_of_a_batch_are_shifted_alike(torch_and_keras, pytorch, tensorflow, data):
    torch, _, tf = torch_and_keras
    torch.manual_seed(0)
    tf.random.set_seed(0)
    images = (data.test.images[:2] / 255).astype("float32")
    for_torch, for_tf = torch.tensor(images[:, None]), tf.constant(images[..., None])
    draws = {
        "PyTorch": lambda: pytorch["shift"](for_torch).numpy()[:, 0],
        "TensorFlow": lambda: tensorflow["shift"](for_tf, None)[0].numpy()[..., 0],
    }
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifted = {
        padded[:, down : down + 28, right : right + 28].tobytes(): (down, right)
        for down, right in itertools.product(range(3), repeat=2)
    }
    assert len(shifted) == 9
    for draw in draws.values():
        drawn = [shifted[draw().tobytes()] for _ in range(1_000)]
        for distances in shifted.values():
            assert drawn.count(distances) / len(drawn) == pytest.approx(1 / 9, abs=0.04)
