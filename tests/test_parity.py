"""The two notebooks define and train the same network. What runs here are their own cells."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read

BATCH_SIZE = 128
PLACES = list(itertools.product((-1, 0, 1), repeat=2))
SAME_LAYER = {
    "Conv2d": "Conv2D",
    "MaxPool2d": "MaxPooling2D",
    "BatchNorm2d": "BatchNormalization",
    "BatchNorm1d": "BatchNormalization",
    "Linear": "Dense",
}


def run(framework, names, *tags, cut=slice(None)):
    """Run a notebook's cells that have any of these tags."""
    for source in cells(read(FRAMEWORKS[framework]), *tags)[cut]:
        exec(source, names)


@pytest.fixture(scope="module")
def notebooks():
    """Return by framework the names that the notebook's cells define before `instantiate`."""
    everything = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmnist, "show", lambda figure, alt: None)
        import torch._dynamo  # noqa: F401 (first: after TensorFlow its LLVM aborts)

        for key, framework in FRAMEWORKS.items():
            names = everything[key] = {}
            for cell in read(framework).cells:
                tags = cell.metadata.get("tags", [])
                if "instantiate" in tags:
                    break
                if cell.cell_type == "code":
                    exec(cell.source, names)
                if "parameters" in tags:
                    names["DATA_DIR"] = REPOSITORY / "data"
    return everything


def instantiated(notebooks, **settings):
    """Return the names of both after `instantiate`, with other settings and the same weights."""
    both = [names | settings for names in notebooks.values()]
    both[1]["keras"].utils.set_random_seed(0)
    for framework, names in zip(notebooks, both):
        run(framework, names, "instantiate")
    pytorch, tensorflow = both
    torch = pytorch["torch"]
    with torch.no_grad():
        parameters = pytorch["model"].parameters()
        for parameter, array in zip(parameters, as_pytorch(tensorflow["model"]), strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    return both


@pytest.fixture
def float64(notebooks):
    """Make everything in float64: in float32, batch normalization lets rounding grow."""
    torch, keras = notebooks["pytorch"]["torch"], notebooks["tensorflow"]["keras"]
    torch.set_default_dtype(torch.float64)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    torch.set_default_dtype(torch.float32)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def trained(notebooks, data, steps, rate=None):
    """Train both on the same batches, without augmentation and weight decay, by their own cells.

    The rate is constant, or if it is None, it is the schedule's. Then PyTorch's velocity is made
    Keras's: a new rate acts at once on all of PyTorch's, but only on what the new gradients add to
    Keras's.
    """
    # Keras keeps momentum and rate in float32, in which these are exact. A difference in the eighth
    # digit would soon have max-pooling choose another of two numbers that are nearly the same.
    settings = {"EPOCHS": 2, "DROPOUT": 0.0, "WEIGHT_DECAY": 0.0}
    settings |= {"MOMENTUM": 0.875, "LEARNING_RATE": 0.25}
    both = instantiated(notebooks, train_batches=range(steps), **settings)
    pytorch, tensorflow = both
    torch, tf = pytorch["torch"], tensorflow["tf"]
    pytorch["before"] = as_arrays(pytorch["model"])
    pixels, labels = (array[: steps * BATCH_SIZE] for array in data.train)
    pytorch["to_float"] = pytorch["augment"] = lambda images: images.double() / 255
    tensorflow["to_float"] = lambda images: tf.cast(images, tf.float64) / 255
    tensors = torch.from_numpy(pixels[:, None]), torch.from_numpy(labels)
    pytorch["train_batches"] = list(zip(*(tensor.split(BATCH_SIZE) for tensor in tensors)))
    tensorflow["train_batches"] = (
        tf.data.Dataset.from_tensor_slices((pixels[..., None], labels))
        .batch(BATCH_SIZE)
        .map(lambda images, labels: (tensorflow["to_float"](images), labels))
    )
    optimizer, change_rate = pytorch["optimizer"], pytorch["schedule"].step

    def change_rate_and_velocity():
        before = optimizer.param_groups[0]["lr"]
        change_rate()
        for state in optimizer.state.values():
            state["momentum_buffer"] *= before / optimizer.param_groups[0]["lr"]

    pytorch["schedule"] = SimpleNamespace(step=change_rate_and_velocity)
    if rate is not None:
        optimizer.param_groups[0]["lr"] = rate
        pytorch["schedule"].step = lambda: None
        tensorflow["model"].optimizer.learning_rate = lambda: rate
    few = fmnist.Split(*(array[:300] for array in data.validation))
    tensorflow["validation_set"] = few.images[..., None] / 255, few.labels
    for framework, names in zip(notebooks, both):
        names.update(EPOCHS=1, data=data._replace(validation=few))
        run(framework, names, "train")
    return both


def as_arrays(pytorch_model):
    return [parameter.detach().clone().numpy() for parameter in pytorch_model.parameters()]


def as_pytorch(keras_model):
    """Return what the Keras model learns, array by array, in the layout of PyTorch's."""
    arrays, channels, size = [], None, None
    for layer in keras_model.layers:
        if type(layer).__name__ == "Flatten":
            _, size, _, channels = layer.input.shape
        for array in map(np.asarray, layer.trainable_weights):
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)  # h × w × in × out to out × in × h × w
            elif array.ndim == 2:
                if size:  # its inputs are flattened: h, w, c here and c, h, w in PyTorch
                    array = array.reshape(size, size, channels, -1).transpose(2, 0, 1, 3)
                    array, size = array.reshape(size * size * channels, -1), None
                array = array.T
            arrays.append(array)
    return arrays


def largest_difference(ours, theirs):
    return max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True))


def difference_of_parameters(pytorch, tensorflow):
    return largest_difference(as_arrays(pytorch["model"]), as_pytorch(tensorflow["model"]))


def normalizations(pytorch, tensorflow):
    """Return the layers of batch normalization, in pairs of PyTorch's and Keras's."""
    pairs = zip(pytorch["model"].layers, tensorflow["model"].layers, strict=True)
    return [pair for pair in pairs if "BatchNorm" in type(pair[0]).__name__]


def test_the_settings_are_the_same():
    settings = [
        cells(read(framework), "parameters")[0].replace(key, "…")
        for key, framework in FRAMEWORKS.items()
    ]
    assert settings[0] == settings[1] != ""


def test_the_number_worked_out_by_hand_is_that_of_the_map(notebooks):
    pytorch, tensorflow = notebooks.values()
    by_hand = (pytorch["patch"] * pytorch["kernel"]).sum()
    assert np.array_equal(pytorch["patch"], tensorflow["patch"])
    assert by_hand > 2
    row, column = 9, 12  # the middle of the patch
    assert float(pytorch["boot_map"][0, 0, row, column]) == pytest.approx(by_hand)
    assert float(tensorflow["boot_map"][0, row, column, 0]) == pytest.approx(by_hand)


def test_the_layers_are_the_same_and_have_as_many_parameters(notebooks):
    pytorch, tensorflow = instantiated(notebooks)
    for ours, theirs in zip(pytorch["model"].layers, tensorflow["model"].layers, strict=True):
        name = type(ours).__name__
        assert SAME_LAYER.get(name, name) == type(theirs).__name__
        assert sum(parameter.numel() for parameter in ours.parameters()) == sum(
            math.prod(weights.shape) for weights in theirs.trainable_weights
        )
        if name == "Dropout":
            assert ours.p == theirs.rate == pytorch["DROPOUT"]


def test_the_logits_agree_on_all_test_images(notebooks, data):
    pytorch, tensorflow = instantiated(notebooks)
    torch = pytorch["torch"]
    random = np.random.default_rng(0)
    for ours, theirs in normalizations(pytorch, tensorflow):  # else it would change nothing
        arrays = random.uniform(0.5, 1.5, (4, ours.num_features)).astype("float32")
        theirs.set_weights(list(arrays))
        state = zip(ours.state_dict(), map(torch.tensor, arrays))  # the counter of batches is left
        ours.load_state_dict(dict(state), strict=False)
    images = (data.test.images / 255).astype("float32")
    with torch.inference_mode():
        ours = pytorch["model"].eval()(torch.tensor(images[:, None])).numpy()
    theirs = tensorflow["model"].predict(images[..., None], batch_size=1_000, verbose=0)
    print(f"largest difference of logits: {np.abs(ours - theirs).max():.1e}")
    assert np.abs(ours).max() > 0.1
    assert np.abs(ours - theirs).max() < 1e-5


def test_ten_steps_change_both_alike(notebooks, float64, data):
    pytorch, tensorflow = trained(notebooks, data, steps=10, rate=2**-6)
    difference = difference_of_parameters(pytorch, tensorflow)
    print(f"largest difference of parameters after ten steps: {difference:.1e}")
    assert difference < 1e-10
    assert largest_difference(as_arrays(pytorch["model"]), pytorch["before"]) > 1e-2
    # The running variances, which only evaluation uses, differ by a known factor; see below.
    for name, close in {"loss": 1e-6, "accuracy": 1e-6, "val_loss": 1e-3}.items():
        ours, theirs = pytorch["history"][name], tensorflow["history"].history[name]
        assert len(ours) == 1
        assert ours == pytest.approx(theirs, rel=close), name
    assert pytorch["history"]["accuracy"][0] > 0.4, "nothing was learned"
    for ours, theirs in normalizations(pytorch, tensorflow):
        ours.running_var.copy_(pytorch["torch"].tensor(np.asarray(theirs.moving_variance)))
    ours, theirs = (n["predict"](n["model"], data.test.images[:500]) for n in (pytorch, tensorflow))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours.sum(axis=1) == pytest.approx(1)


def test_a_changing_rate_does_the_same(notebooks, float64, data):
    pytorch, tensorflow = trained(notebooks, data, steps=8)  # of 16: the rates are exact, too
    rate = pytorch["optimizer"].param_groups[0]["lr"]
    assert rate == pytest.approx(pytorch["LEARNING_RATE"] / 2), "the schedule is half over"
    assert difference_of_parameters(pytorch, tensorflow) < 1e-10


def test_weight_decay_shrinks_alike_to_first_order(notebooks):
    """Without gradients, a full schedule of 2,000 steps shrinks all weights by about two thirds."""
    steps, tensorflow = 2_000, dict(notebooks["tensorflow"])
    keras = tensorflow["keras"]
    pytorch = dict(notebooks["pytorch"])
    run("pytorch", pytorch, "instantiate")
    run("tensorflow", tensorflow, "instantiate")
    torch = pytorch["torch"]
    ours = torch.nn.Linear(1, 1, bias=False)
    ours.weight.data.fill_(1.0)
    ours.weight.grad = torch.zeros_like(ours.weight)
    optimizer, schedule = pytorch["make_optimizer"](ours, steps)
    theirs = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    tensorflow["compile_model"](theirs, steps)
    theirs.optimizer.build(theirs.trainable_weights)
    (kernel,) = theirs.trainable_weights
    kernel.assign([[1.0]])
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        theirs.optimizer.apply([tensorflow["tf"].zeros((1, 1))])
    assert ours.weight.item() == pytest.approx(kernel.numpy().item(), rel=0.01)
    assert 0.2 < ours.weight.item() < 0.5


def test_the_running_averages_are_the_same(notebooks, float64, data):
    """PyTorch averages the variance with n - 1 in place of n; beyond that, they agree."""
    steps = 3
    pytorch, tensorflow = trained(notebooks, data, steps, rate=2**-6)
    initial = 0.9**steps  # what is left of the variance that they started from, 1
    for ours, theirs in normalizations(pytorch, tensorflow):
        size = BATCH_SIZE * math.prod(theirs.input.shape[1:-1])
        variance = initial + (ours.running_var.numpy() - initial) * (size - 1) / size
        assert np.abs(ours.running_mean.numpy()).max() > 0.01
        np.testing.assert_allclose(ours.running_mean, theirs.moving_mean, atol=1e-6)
        np.testing.assert_allclose(variance, theirs.moving_variance, rtol=1e-6)


def test_the_schedules_agree_at_every_step_of_a_full_run_and_stay_at_zero(notebooks):
    pytorch, tensorflow = instantiated(notebooks)
    assert len(pytorch["train_batches"]) == len(tensorflow["train_batches"])
    ours, steps = [], pytorch["EPOCHS"] * len(pytorch["train_batches"])
    for _ in range(steps + 100):  # a training that was interrupted goes beyond the last step
        ours.append(pytorch["optimizer"].param_groups[0]["lr"])
        pytorch["optimizer"].step()  # changes nothing without gradients
        pytorch["schedule"].step()
    tf, keras = tensorflow["tf"], tensorflow["keras"]
    config = tensorflow["model"].optimizer.get_config()["learning_rate"]
    schedule = keras.optimizers.schedules.deserialize(config)
    theirs = tf.function(lambda steps: tf.map_fn(schedule, steps))(
        tf.range(len(ours), dtype=tf.float32)
    )
    print(f"largest difference of learning rates: {np.abs(ours - theirs.numpy()).max():.1e}")
    assert np.abs(ours - theirs.numpy()).max() < 1e-7
    assert ours[0] == max(ours) == pytorch["LEARNING_RATE"]
    assert set(ours[steps:]) == set(theirs.numpy()[steps:]) == {0.0}


def test_a_last_batch_of_a_single_image_is_left_out_in_both(notebooks, data):
    """Batch normalization cannot do with one."""
    for framework, names in notebooks.items():
        names = {**names, "BATCH_SIZE": 291}  # 55,000 = 189 × 291 + 1
        run(framework, names, "load", cut=slice(1, None))
        assert len(names["train_batches"]) == 189
        assert {len(labels) for _, labels in names["train_batches"]} == {291}


def movement(before, after):
    """Return how a batch was moved, down and right."""
    after = np.rint(255 * np.asarray(after)).astype(np.uint8)
    padded = np.pad(before, ((0, 0), (1, 1), (1, 1)))
    for down, right in PLACES:
        moved = padded[:, 1 - down : 29 - down, 1 - right : 29 - right]
        if np.array_equal(after, moved):
            return down, right
    raise AssertionError("the images were not moved alike by at most a pixel")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_images_are_moved_by_the_batch(notebooks, data, framework):
    """Anew for every batch of every epoch, as the notebook's own batches come."""
    names = dict(notebooks[framework])
    boots = fmnist.Split(np.repeat(data.train.images[:1], 32, axis=0), np.zeros(32, np.int64))
    names.update(data=data._replace(train=boots), BATCH_SIZE=16)
    run(framework, names, "load", cut=slice(1, None))
    batches = []
    for _ in range(150):  # epochs
        if framework == "pytorch":
            batches += [
                names["augment"](images).numpy()[:, 0] for images, _ in names["train_batches"]
            ]
        else:
            batches += [images.numpy()[..., 0] for images, _ in names["train_batches"]]
    assert len(batches) == 300
    assert batches[0].dtype == np.float32
    moves = [movement(boots.images[:16], batch) for batch in batches]
    for place in PLACES:
        assert moves.count(place) / len(moves) == pytest.approx(1 / 9, abs=0.06)
    assert moves[:30] != moves[30:60], "the moves come again"
