"""The code in docs/frameworks.md runs, on the shipped models too, and its traps are real."""

import copy
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read

DOCUMENT = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
PYTORCH_STEP, TENSORFLOW_STEP, FIT, MOVE, EXAMPLE = BLOCKS
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", DOCUMENT, re.MULTILINE)]
NOT_IN_A_NOTEBOOK = {"LazyLinear", "use_deterministic_algorithms"}


@pytest.fixture(scope="module")
def both():
    """Return what both notebooks' cells define, and the document's functions that move weights."""
    import torch._dynamo  # noqa: F401 (first: after TensorFlow its LLVM aborts)

    names = {}
    for framework in FRAMEWORKS.values():
        of_notebook = {"fmnist": fmnist}  # where the functions of this notebook look names up
        for source in cells(read(framework), "import", "parameters", "model"):
            exec(source, of_notebook)
        names |= of_notebook
    exec(MOVE, names)
    return SimpleNamespace(**names)


@pytest.fixture
def float64(both):
    """Compute in float64, where rounding cannot hide or feign a difference."""
    for floats in ("float64", "float32"):
        both.torch.set_default_dtype(getattr(both.torch, floats))
        both.keras.config.set_floatx(floats)
        both.keras.config.set_dtype_policy(floats)
        if floats == "float64":
            yield


def networks(both):
    """Return new networks of both; PyTorch's has random numbers in place of zeros and ones."""
    settings = both.CHANNELS, both.HIDDEN, 0.0
    ours, theirs = both.FashionCNN(*settings), both.build_model(*settings)
    for tensor in ours.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return ours, theirs


def pytorch_logits(both, model, images):
    model = copy.deepcopy(model).to(both.torch.get_default_dtype()).eval()
    pixels = both.torch.tensor(images[:, None] / 255, dtype=both.torch.get_default_dtype())
    with both.torch.inference_mode():
        return np.concatenate([model(piece).numpy() for piece in pixels.split(500)])


def keras_logits(both, layers, images):
    with both.tf.device("CPU"):
        _, model = networks(both)
        for twin, layer in zip(model.layers, layers, strict=True):
            twin.set_weights(layer.get_weights())
        return model.predict(images[..., None] / 255, batch_size=500, verbose=0)


def assert_same_learned(ours, theirs):
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_what_the_table_calls_is_in_the_notebooks():
    assert len(ROWS) > 25
    for column, framework in enumerate(FRAMEWORKS.values(), start=1):
        code = "\n".join(cell.source for cell in read(framework).cells)
        for row in ROWS:
            for name in set(re.findall(r"(\w+)\(", row[column])) - NOT_IN_A_NOTEBOOK:
                assert f"{name}(" in code, row


def test_a_network_moves_there_and_back(both, data):
    images = data.test.images[:500]
    ours, theirs = networks(both)
    both.pytorch_to_keras(ours.layers, theirs.layers)
    logits = pytorch_logits(both, ours, images)
    assert np.ptp(logits) > 0.1
    assert logits == pytest.approx(keras_logits(both, theirs.layers, images), abs=1e-5)
    again, _ = networks(both)
    both.keras_to_pytorch(theirs.layers, again.layers)
    assert_same_learned(ours, again)
    # The first trap: columns in PyTorch's order fit as well.
    theirs.layers[9].set_weights([ours.layers[9].weight.detach().numpy().T])
    assert np.abs(logits - keras_logits(both, theirs.layers, images)).max() > 0.01


def test_the_shipped_models_can_be_moved(both, float64, data, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    names = dict(vars(both))
    exec(EXAMPLE, names)
    images, model = data.test.images, names["pytorch_model"]
    ours = pytorch_logits(both, model, images)
    assert ours == pytest.approx(keras_logits(both, names["network"], images), abs=1e-9)
    network = both.keras.models.load_model("models/tensorflow/model.keras").layers[2:-1]
    theirs = keras_logits(both, network, images)
    assert np.abs(ours - theirs).max() > 1, "they are two models"
    both.keras_to_pytorch(network, model.layers)
    assert theirs == pytest.approx(pytorch_logits(both, model, images), abs=1e-9)


def test_the_step_of_pytorch_is_the_notebooks(both, data):
    torch, cells_of = both.torch, read(FRAMEWORKS["pytorch"])
    names = dict(vars(both)) | {"device": torch.device("cpu"), "train_batches": range(3)}
    names |= {"EPOCHS": 1, "augment": lambda images: images}
    for source in [*cells(cells_of, "instantiate"), cells(cells_of, "train")[0], PYTORCH_STEP]:
        exec(source, names)
    images, labels = (torch.from_numpy(array[:256]) for array in data.train)
    batches = [(images[:, None] / 255, labels)] * 3
    ours, theirs, criterion = names["model"], copy.deepcopy(names["model"]), names["criterion"]
    torch.manual_seed(0)  # of dropout
    names["train_one_epoch"](ours, batches, criterion, *names["make_optimizer"](ours, steps=3))
    torch.manual_seed(0)
    optimizer, schedule = names["make_optimizer"](theirs, steps=3)
    for batch in batches:
        names["train_step"](theirs, *batch, criterion, optimizer)
        schedule.step()
    assert ours.layers[2].num_batches_tracked == 3
    assert_same_learned(ours, theirs)


def test_one_step_by_tape_by_train_on_batch_by_fit_and_by_pytorch(both, float64, data):
    keras, torch = both.keras, both.torch
    images, labels = data.train.images[:256, ..., None] / 255, data.train.labels[:256]
    ours, theirs = networks(both)
    both.pytorch_to_keras(ours.layers, theirs.layers)
    before, after = theirs.get_weights(), []
    names = {"model": theirs, "images": images, "labels": labels}
    names["criterion"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    by_hand = "\ntrain_step(model, images, labels, criterion, optimizer)"
    for step in (TENSORFLOW_STEP + by_hand, FIT, "model.train_on_batch(images, labels)"):
        theirs.set_weights(before)
        theirs.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss=names["criterion"])
        exec(step, vars(both) | names | {"optimizer": theirs.optimizer})
        after.append(theirs.get_weights())
    names = {"model": ours, "criterion": torch.nn.CrossEntropyLoss()}
    names |= {"images": torch.tensor(images).movedim(3, 1), "labels": torch.tensor(labels)}
    names["optimizer"] = torch.optim.SGD(ours.parameters(), lr=0.02, momentum=0.9)
    exec(PYTORCH_STEP + by_hand, names)
    both.pytorch_to_keras(ours.layers, theirs.layers)
    after.append(theirs.get_weights())
    for position, weights in enumerate(theirs.weights):
        assert np.abs(after[0][position] - before[position]).max() > 1e-5
        for arrays in after[: 3 if "variance" in weights.path else 4]:  # PyTorch's has n - 1
            assert arrays[position] == pytest.approx(after[0][position], abs=1e-9)


def test_traps_of_layers(both):
    torch, nn, keras, layers = both.torch, both.nn, both.keras, both.layers
    corner, image = np.eye(1, 9).reshape(3, 3), np.ones((6, 6))  # padding on all sides gives 0
    padded = keras.ops.conv(image[None, ..., None], corner[..., None, None], 2, "same")
    assert padded.numpy()[0, 0, 0, 0] == 1
    corner, image = torch.from_numpy(corner)[None, None], torch.from_numpy(image)[None, None]
    map_ = nn.functional.conv2d(image, corner, stride=2, padding=1)
    assert (map_.shape[2:], map_[0, 0, 0, 0]) == (padded.shape[1:3], 0)
    with pytest.raises(ValueError, match="not supported for strided"):
        nn.Conv2d(1, 1, 3, stride=2, padding="same")

    ours, theirs = nn.BatchNorm1d(3), layers.BatchNormalization()
    assert (ours.momentum, ours.eps, theirs.momentum, theirs.epsilon) == (0.1, 1e-5, 0.99, 1e-3)
    batch = np.random.default_rng(0).normal(5, 1, (8, 3)).astype("float32")
    theirs.build(batch.shape)
    theirs.trainable = False
    assert np.abs(theirs(batch, training=True) - batch).max() < 0.01
    assert ours.requires_grad_(False)(torch.from_numpy(batch)).mean().abs() < 0.01
    assert ours.running_mean.min() > 0.1
    assert theirs.count_params() == 2 * sum(p.numel() for p in ours.parameters()) == 12
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(torch.ones(1, 3))
    assert layers.BatchNormalization()(batch[:1], training=True).shape == (1, 3)

    linear, dense = nn.Linear(100, 50).requires_grad_(False), layers.Dense(50)
    dense.build((None, 100))
    for array, bound in zip((*linear.parameters(), dense.kernel), (0.1, 0.1, 0.2)):
        assert 0.8 * bound < np.abs(array.numpy()).max() <= bound
    assert not dense.bias.numpy().any()
    assert nn.LazyLinear(5)(torch.zeros(2, 7)).shape == (2, 5)


def test_traps_of_data(both):
    torch, nn, keras, layers, tf = both.torch, both.nn, both.keras, both.layers, both.tf
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype("uint8")
    pixels = images / 255
    assert (pixels.dtype, (torch.from_numpy(images) / 255).dtype) == ("float64", torch.float32)
    with pytest.raises(RuntimeError, match="same dtype"):
        nn.Linear(8, 1)(torch.from_numpy(pixels[0, ..., 0]))
    scale = keras.Sequential([keras.Input((8, 8, 1), dtype="uint8"), layers.Rescaling(1 / 255)])
    assert not scale(0.99 * pixels).numpy().any()
    flip = keras.Sequential([keras.Input((8, 8, 1)), layers.RandomFlip(), layers.Dropout(0.5)])
    changed = np.abs(flip(images) - images).max(axis=(1, 2, 3)) > 0
    assert 0.2 < changed.mean() < 1
    assert np.array_equal(flip(images, training=False), images)
    crop, image = both.v2.RandomCrop(8, padding=1).eval(), torch.from_numpy(images[0]).movedim(2, 0)
    assert any(not torch.equal(crop(image), image) for _ in range(50))

    numbers = tf.data.Dataset.range(200)
    random = np.random.default_rng()
    assert len(set(numbers.map(lambda _: random.random()).as_numpy_iterator())) == 1
    assert len(set(numbers.map(lambda _: tf.random.uniform(())).as_numpy_iterator())) > 100
    mixed = np.array(list(numbers.shuffle(10).as_numpy_iterator()))
    assert 0 < (mixed - np.arange(200)).max() < 10


def test_traps_of_training(both):
    torch, nn, keras = both.torch, both.nn, both.keras
    labels, logits = np.array([0]), np.array([[2.0, -1.0, 0.5]], "float32")
    loss = nn.CrossEntropyLoss()(torch.from_numpy(logits), torch.from_numpy(labels))
    losses = keras.losses.SparseCategoricalCrossentropy
    assert float(losses(from_logits=True)(labels, logits)) == pytest.approx(float(loss))
    assert float(losses()(labels, logits)) != pytest.approx(float(loss), rel=0.5)

    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0]
    end = keras.optimizers.schedules.PolynomialDecay(0.2, decay_steps=10)(1_000)
    assert float(end) == pytest.approx(1e-4)


def test_keras_runs_on_pytorch_and_loads_the_file(both, data, tmp_path):
    path, images = REPOSITORY / "models" / "tensorflow" / "model.keras", data.test.images[:100]
    np.save(tmp_path / "images.npy", images)
    code = f"""if True:
        import sys, keras, numpy, torch
        model = keras.models.load_model({str(path)!r})
        assert isinstance(model, torch.nn.Module) and "tensorflow" not in sys.modules
        numpy.save("predicted.npy", model.predict(numpy.load("images.npy"), verbose=0))
    """
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    predicted = both.keras.models.load_model(path).predict(images, verbose=0)
    assert np.load(tmp_path / "predicted.npy") == pytest.approx(predicted, abs=1e-5)
