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
LAYERS_WITH_WEIGHTS = {
    "PyTorch": ("Conv2d", "BatchNorm2d", "BatchNorm1d", "Linear"),
    "TensorFlow": ("Conv2D", "BatchNormalization", "Dense"),
}


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
    exec(cell_containing("PyTorch", "def erase("), names)
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
    exec(cell_containing("TensorFlow", "def erase("), names)
    exec(cell_containing("TensorFlow", "schedule = "), names)
    names["full_schedule"] = names["schedule"]
    return names


def layers_of(model, names):
    return [layer for layer in model.layers if type(layer).__name__ in names]


def keras_layers(model):
    return layers_of(model, LAYERS_WITH_WEIGHTS["TensorFlow"])


def pytorch_layers(model):
    return layers_of(model, LAYERS_WITH_WEIGHTS["PyTorch"])


def normalizations(twins):
    """Return the layers of batch normalization, in pairs of PyTorch's and Keras's."""
    pytorch_model, keras_model = twins
    return zip(
        layers_of(pytorch_model, ["BatchNorm2d", "BatchNorm1d"]),
        layers_of(keras_model, ["BatchNormalization"]),
        strict=True,
    )


def as_pytorch(keras_model):
    """Return what the Keras model learns, layer by layer, in the layout of PyTorch's."""
    arrays = []
    channels, first_dense = None, True
    for layer in keras_layers(keras_model):
        kernel, bias = [np.asarray(weights) for weights in layer.trainable_weights]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)  # h × w × in × out to out × in × h × w
            channels = len(kernel)
        elif kernel.ndim == 2:
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
            pytorch_model.parameters(), as_pytorch(keras_model), strict=True
        ):
            parameter.copy_(torch.tensor(np.ascontiguousarray(array)))


def make_twins(torch, keras, pytorch, tensorflow):
    """Make a network of each notebook, with the same weights and without dropout."""
    keras.utils.set_random_seed(0)
    keras_model = tensorflow["build_model"]()
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
def twins(torch_and_keras, pytorch, tensorflow):
    torch, keras, _ = torch_and_keras
    return make_twins(torch, keras, pytorch, tensorflow)


@pytest.fixture
def precise_twins(torch_and_keras, pytorch, tensorflow):
    """Return twins in float64: in float32, batch normalization lets rounding grow step by step."""
    torch, keras, _ = torch_and_keras
    names = dict(tensorflow)
    model_cell = cell_tagged("TensorFlow", "model")
    assert 'dtype="float32"' in model_cell
    exec(model_cell.replace('dtype="float32"', 'dtype="float64"'), names)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    torch.set_default_dtype(torch.float64)
    yield make_twins(torch, keras, pytorch, names)
    torch.set_default_dtype(torch.float32)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def test_images(data):
    return (data.test.images / 255).astype("float32")


def test_the_layers_have_the_same_number_of_parameters(twins):
    pytorch_model, keras_model = twins
    assert [
        sum(math.prod(weights.shape) for weights in layer.trainable_weights)
        for layer in keras_layers(keras_model)
    ] == [
        sum(parameter.numel() for parameter in layer.parameters())
        for layer in pytorch_layers(pytorch_model)
    ]


def test_the_layers_come_in_the_same_order(twins):
    same = {
        "Rescaling": ["Normalize"],
        "Conv2D": ["Conv2d"],
        "MaxPooling2D": ["MaxPool2d"],
        "BatchNormalization": ["BatchNorm2d", "BatchNorm1d"],
        "Dense": ["Linear"],
    }
    for ours, theirs in zip(*(model.layers for model in twins), strict=True):
        name = type(theirs).__name__
        assert type(ours).__name__ in same.get(name, [name])


def test_the_logits_agree_on_all_test_images(torch_and_keras, twins, test_images, record_property):
    torch = torch_and_keras[0]
    pytorch_model, keras_model = twins
    random = np.random.default_rng(0)
    for ours, theirs in normalizations(twins):  # else it would change nothing, before training
        arrays = random.uniform(0.5, 1.5, (4, ours.num_features)).astype("float32")
        theirs.set_weights(list(arrays))
        state = zip(ours.state_dict(), map(torch.tensor, arrays))  # the counter of batches is left
        ours.load_state_dict(dict(state), strict=False)
    pytorch_model.eval()
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
    exec(cell_containing("TensorFlow", "optimizer = SGD("), tensorflow)
    tensorflow["model"] = keras_model
    exec(cell_containing("TensorFlow", "model.compile("), tensorflow)

    losses = []
    batch_size = pytorch["BATCH_SIZE"]
    for step, rate in enumerate(rates):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        images = data.train.images[rows] / 255
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
        losses.append((loss.item(), float(logs["loss"])))

    ours = [parameter.detach().numpy() for parameter in pytorch_model.parameters()]
    return np.array(losses), ours, as_pytorch(keras_model)


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


def test_ten_steps_change_both_alike(torch_and_keras, precise_twins, pytorch, tensorflow, data):
    torch = torch_and_keras[0]
    before = [parameter.detach().clone().numpy() for parameter in precise_twins[0].parameters()]
    losses, ours, theirs = train_both(torch, precise_twins, pytorch, tensorflow, data, [0.01] * 10)
    relative = np.abs(losses[:, 0] / losses[:, 1] - 1).max()
    print(
        f"after ten steps: losses differ by {relative:.1e} (relative), "
        f"parameters by {largest_difference(ours, theirs):.1e}"
    )
    assert losses[-1, 0] < losses[0, 0] - 0.1, "nothing was learnt"
    assert largest_difference(ours, before) > 1e-2
    assert relative < 1e-6
    assert largest_difference(ours, theirs) < 1e-6


def test_the_running_averages_are_the_same(
    torch_and_keras, precise_twins, pytorch, tensorflow, data
):
    """PyTorch averages the variance with n - 1 in place of n; beyond that, they agree."""
    torch = torch_and_keras[0]
    steps = 3
    train_both(torch, precise_twins, pytorch, tensorflow, data, [0.01] * steps)
    initial = 0.9**steps  # what is left of the variance that they started from, 1
    sides = (13, 6, 1)  # of the map of a channel
    for (ours, theirs), side in zip(normalizations(precise_twins), sides, strict=True):
        size = pytorch["BATCH_SIZE"] * side**2
        variance = initial + (ours.running_var.numpy() - initial) * (size - 1) / size
        assert np.abs(ours.running_mean.numpy()).max() > 0.01
        np.testing.assert_allclose(ours.running_mean, theirs.moving_mean, atol=1e-6)
        np.testing.assert_allclose(variance, theirs.moving_variance, rtol=1e-6)


def test_weight_decay_is_the_same(
    torch_and_keras, precise_twins, pytorch, tensorflow, data, monkeypatch
):
    """With a decay so strong that another form or factor of it would show at once."""
    torch = torch_and_keras[0]
    for names in (pytorch, tensorflow):
        monkeypatch.setitem(names, "WEIGHT_DECAY", 0.5)
    _, ours, theirs = train_both(torch, precise_twins, pytorch, tensorflow, data, [0.02] * 5)
    assert largest_difference(ours, theirs) < 1e-6


def test_what_momentum_does_when_the_rate_changes(
    torch_and_keras, precise_twins, pytorch, tensorflow, data
):
    """PyTorch applies a new rate to the old velocity too, Keras only to new gradients.

    Along the warm-up of a full run the two forms therefore differ, but by little.
    """
    torch = torch_and_keras[0]
    rates = [float(tensorflow["full_schedule"](step)) for step in range(10)]
    _, ours, theirs = train_both(torch, precise_twins, pytorch, tensorflow, data, rates)
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
        arrays = zip(drawn, as_pytorch(keras_model), strict=True)
        for position, (one, other) in enumerate(arrays):
            for samples, array in ((ours, one), (theirs, other)):
                values = array.ravel()
                samples.setdefault(position, []).append(values[:: -(-values.size // 400)])
    for position in ours:
        one, other = np.concatenate(ours[position]), np.concatenate(theirs[position])
        if drawn[position].ndim == 1:  # biases, and what batch normalization learns
            assert set(one) == set(other)
            assert set(one) in ({0.0}, {1.0})
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
    tf_result = tensorflow["flip_half"](tf.constant(images[..., None])).numpy()[..., 0]
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
        "TensorFlow": lambda: tensorflow["shift"](for_tf).numpy()[..., 0],
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


def test_the_images_of_a_batch_lose_the_same_rectangle(
    torch_and_keras, pytorch, tensorflow, monkeypatch
):
    torch, _, tf = torch_and_keras
    torch.manual_seed(0)
    tf.random.set_seed(0)
    for names in (pytorch, tensorflow):
        monkeypatch.setitem(names, "EPOCHS", 4 * names["FULL_RUN_EPOCHS"])  # no larger for that
    for_torch, for_tf = torch.ones(2, 1, 28, 28), tf.ones((2, 28, 28, 1))
    draws = {
        "PyTorch": lambda: pytorch["erase"](for_torch).numpy()[:, 0],
        "TensorFlow": lambda: tensorflow["erase"](for_tf).numpy()[..., 0],
    }
    for draw in draws.values():
        sides, touched = [], np.zeros((28, 28), bool)
        for _ in range(1_000):
            erased, other = draw() == 0
            rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
            sides.append((len(rows), len(columns)))
            touched |= erased
            if len(rows):
                assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert erased.sum() == len(rows) * len(columns), "not one rectangle"
            assert (erased == other).all()
        seen = [pair for pair in sides if all(pair)]
        assert len(seen) / len(sides) == pytest.approx((8 / 9) ** 2, abs=0.05)
        for position in range(2):
            for side in range(1, 9):
                share = sum(pair[position] == side for pair in seen) / len(seen)
                assert share == pytest.approx(1 / 8, abs=0.05)
        edges = touched[0], touched[-1], touched[:, 0], touched[:, -1]
        assert all(edge.any() for edge in edges)
    assert (for_torch == 1).all(), "the images given were changed"


def test_keras_augments_otherwise_in_every_epoch(torch_and_keras, tensorflow):
    _, keras, tf = torch_and_keras
    keras.utils.set_random_seed(0)
    seen = []

    class Recorder(keras.Model):
        """Keep the batches that it should train on."""

        def train_step(self, batch):
            seen.append(batch[0].numpy())
            return {"loss": tf.zeros(())}

        def test_step(self, batch):
            return {"loss": tf.zeros(())}

    class Monitor(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.history = {"seconds": []}

    # Batches of equal images differ by their augmentation alone.
    image = np.arange(28 * 28, dtype="float32").reshape(1, 28, 28, 1)
    names = {
        **tensorflow,
        "EPOCHS": 20,
        "steps_per_epoch": 1,
        "model": Recorder(),
        "Monitor": Monitor,
        "train_images": np.repeat(image, tensorflow["BATCH_SIZE"], axis=0),
        "train_labels": np.zeros(tensorflow["BATCH_SIZE"], "int64"),
        "validation_images": image,
        "validation_labels": np.zeros(1, "int64"),
    }
    names["model"].compile(run_eagerly=True)
    exec(cell_containing("TensorFlow", "train_batches = rows"), names)
    exec(cell_containing("TensorFlow", "model.fit("), names)
    assert len({batch.tobytes() for batch in seen}) == len(seen) == 20
