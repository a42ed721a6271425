"""The two notebooks define and train the same network. What runs here are their cells."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, cells, read

BATCH_SIZE = 128
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


def instantiated(notebooks, **settings):
    """Return the names of both after `instantiate`, with other settings and the same weights."""
    both = [names | settings for names in notebooks.values()]
    both[1]["keras"].utils.set_random_seed(0)
    for framework, names in zip(notebooks, both):
        run(framework, names, "instantiate")
    pytorch, tensorflow = both
    pytorch["keras_to_pytorch"](tensorflow["model"].layers, pytorch["model"].layers)
    return both


def trained(notebooks, data, steps, **settings):
    """Train both on the same batches, without augmentation and weight decay, by their cells.

    PyTorch's velocity is made Keras's: a new rate acts at once on all of PyTorch's, but only on
    what the new gradients add to Keras's.
    """
    # Keras keeps momentum and rate in float32, in which these are exact. A difference in the eighth
    # digit would soon have max-pooling choose another of two numbers that are nearly the same.
    settings |= {"MOMENTUM": 0.875, "DROPOUT": 0.0, "WEIGHT_DECAY": 0.0}
    both = instantiated(notebooks, train_batches=range(steps), **settings)
    pytorch, tensorflow = both
    tf, pixels, labels = tensorflow["tf"], *(array[: steps * BATCH_SIZE] for array in data.train)
    tensors = map(pytorch["torch"].from_numpy, (pixels[:, None] / 255, labels))
    pytorch["train_batches"] = list(zip(*(tensor.split(BATCH_SIZE) for tensor in tensors)))
    dataset = tf.data.Dataset.from_tensor_slices((pixels[..., None] / 255, labels))
    tensorflow["train_batches"] = dataset.batch(BATCH_SIZE)
    optimizer, change_rate = pytorch["optimizer"], pytorch["schedule"].step

    def change_rate_and_velocity():
        before = optimizer.param_groups[0]["lr"]
        change_rate()
        for state in optimizer.state.values():
            state["momentum_buffer"] *= before / optimizer.param_groups[0]["lr"]

    pytorch["schedule"] = SimpleNamespace(step=change_rate_and_velocity)
    few = fmnist.Split(*(array[:300] for array in data.validation))
    tensorflow["validation_set"] = few.images[..., None] / 255, few.labels
    for framework, names in zip(notebooks, both):
        names.update(EPOCHS=1, data=data._replace(validation=few))
        run(framework, names, "train")
    return both


def difference_between(pytorch, tensorflow):
    """Return the largest difference of what both models have learned."""
    moved = copy.deepcopy(pytorch["model"])
    pytorch["keras_to_pytorch"](tensorflow["model"].layers, moved.layers)
    pairs = zip(pytorch["model"].parameters(), moved.parameters())
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


def normalizations(pytorch, tensorflow):
    """Return the layers of batch normalization, in pairs of PyTorch's and Keras's."""
    pairs = zip(pytorch["model"].layers, tensorflow["model"].layers, strict=True)
    return [pair for pair in pairs if "BatchNorm" in type(pair[0]).__name__]


def test_the_settings_are_the_same():
    ours, theirs = (cells(read(framework), "parameters")[0] for framework in FRAMEWORKS.values())
    assert ours.replace("pytorch", "tensorflow") == theirs


def test_the_number_worked_out_by_hand_is_that_of_the_map(notebooks):
    pytorch, tensorflow = notebooks.values()
    by_hand = (pytorch["patch"] * pytorch["kernel"]).sum()
    assert np.array_equal(pytorch["patch"], tensorflow["patch"])
    assert by_hand > 2
    # Row 9, column 12 is the middle of the patch.
    assert float(pytorch["boot_map"][0, 0, 9, 12]) == pytest.approx(by_hand)
    assert float(tensorflow["boot_map"][0, 9, 12, 0]) == pytest.approx(by_hand)


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
    random = np.random.default_rng(0)
    for _, layer in normalizations(pytorch, tensorflow):  # else it would change nothing
        layer.set_weights(list(random.uniform(0.5, 1.5, (4, layer.gamma.shape[0]))))
    pytorch["keras_to_pytorch"](tensorflow["model"].layers, pytorch["model"].layers)
    images = (data.test.images / 255).astype("float32")
    with pytorch["torch"].inference_mode():
        ours = pytorch["model"].eval()(pytorch["torch"].tensor(images[:, None])).numpy()
    theirs = tensorflow["model"].predict(images[..., None], batch_size=1_000, verbose=0)
    print(f"largest difference of logits: {np.abs(ours - theirs).max():.1e}")
    assert np.abs(ours).max() > 0.1
    assert np.abs(ours - theirs).max() < 1e-5


def test_ten_steps_change_both_alike(notebooks, float64, data):
    steps = 10  # of so many that the rate hardly changes
    pytorch, tensorflow = trained(notebooks, data, steps, EPOCHS=2**40, LEARNING_RATE=2**-6)
    difference = difference_between(pytorch, tensorflow)
    print(f"largest difference of parameters after ten steps: {difference:.1e}")
    assert difference < 1e-10
    for name, close in {"loss": 1e-6, "accuracy": 1e-6, "val_loss": 1e-3}.items():
        ours, theirs = pytorch["history"][name], tensorflow["history"].history[name]
        assert len(ours) == 1
        assert ours == pytest.approx(theirs, rel=close), name
    assert pytorch["history"]["accuracy"][0] > 0.4, "nothing was learned"
    # PyTorch averages the variance with n - 1 in place of n; beyond that, the averages agree.
    initial = 0.9**steps  # what is left of the variance that they started from, 1
    for ours, theirs in normalizations(pytorch, tensorflow):
        size = BATCH_SIZE * math.prod(theirs.input.shape[1:-1])
        variance = initial + (ours.running_var.numpy() - initial) * (size - 1) / size
        np.testing.assert_allclose(ours.running_mean, theirs.moving_mean, atol=1e-6)
        np.testing.assert_allclose(variance, theirs.moving_variance, rtol=1e-6)
    pytorch["keras_to_pytorch"](tensorflow["model"].layers, pytorch["model"].layers)
    ours, theirs = (n["predict"](n["model"], data.test.images[:500]) for n in (pytorch, tensorflow))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours.sum(axis=1) == pytest.approx(1)


def test_a_changing_rate_does_the_same(notebooks, float64, data):
    # Eight steps of 16: the rates are exact, too.
    pytorch, tensorflow = trained(notebooks, data, steps=8, EPOCHS=2, LEARNING_RATE=0.25)
    assert pytorch["optimizer"].param_groups[0]["lr"] == pytest.approx(0.125)
    assert difference_between(pytorch, tensorflow) < 1e-10


def test_weight_decay_shrinks_alike_to_first_order(notebooks):
    """Without gradients, a full schedule of 2,000 steps shrinks all weights by about two thirds."""
    steps, (pytorch, tensorflow) = 2_000, instantiated(notebooks)
    torch, keras = pytorch["torch"], tensorflow["keras"]
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


def test_the_schedules_agree_at_every_step_of_a_full_run_and_stay_at_zero(notebooks):
    pytorch, tensorflow = instantiated(notebooks)
    assert len(pytorch["train_batches"]) == len(tensorflow["train_batches"])
    ours, steps = [], pytorch["steps"]
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


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("settings", [{"EPOCHS": 0}, {"EPOCHS": -1}, {"train_batches": []}])
def test_a_training_without_a_step_is_refused(notebooks, framework, settings):
    with pytest.raises(AssertionError, match="EPOCHS is less than 1, or no batch is full"):
        run(framework, notebooks[framework] | settings, "instantiate")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_images_are_moved_by_the_batch(notebooks, data, framework):
    """Anew for every batch of every epoch, as the notebook's own batches come."""
    names = dict(notebooks[framework])
    boots = fmnist.Split(np.repeat(data.train.images[:1], 32, axis=0), np.zeros(32, np.int64))
    names.update(data=data._replace(train=boots), BATCH_SIZE=16)
    run(framework, names, "load", cut=slice(1, None))
    batches = []
    for _ in range(150):  # epochs
        batches += [np.asarray(images) for images, _ in names["train_batches"]]
    batches = np.reshape(batches, (300, 16, 28, 28))
    assert batches.dtype == np.float32
    padded = np.pad(data.train.images[0] / np.float32(255), 1)
    places = [padded[row : row + 28, column : column + 28] for row, column in np.ndindex(3, 3)]
    moves = [[np.abs(batch - place).max() < 1e-6 for place in places] for batch in batches]
    assert np.sum(moves, axis=1).tolist() == [1] * 300, "all are moved alike by at most a pixel"
    assert np.mean(moves, axis=0) == pytest.approx(1 / 9, abs=0.06)
    assert moves[:30] != moves[30:60], "the moves come again"
