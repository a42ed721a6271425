"""The code in docs/frameworks.md runs, on the shipped models too; what surprises is tried."""

import copy
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read

DOCUMENT = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
PYTORCH_STEP, TENSORFLOW_STEP, FIT, _, EXAMPLE = BLOCKS
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", DOCUMENT, re.MULTILINE)]
NOT_IN_A_NOTEBOOK = {"LazyLinear", "use_deterministic_algorithms"}


@pytest.fixture
def both(notebooks):
    """Return what both notebooks define, and the document's functions that move weights."""
    return SimpleNamespace(**(notebooks["pytorch"] | notebooks["tensorflow"]))


def networks(both):
    """Return new networks of both; PyTorch's has random numbers in place of zeros and ones."""
    settings = both.CHANNELS, both.HIDDEN, 0.0
    ours, theirs = both.FashionCNN(*settings), both.build_model(*settings)
    for tensor in ours.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return ours, theirs


def pytorch_logits(both, model, images):
    model = copy.deepcopy(model).double().eval()
    with both.torch.inference_mode():
        pieces = both.torch.tensor(images[:, None] / 255).split(500)
        return np.concatenate([model(piece).numpy() for piece in pieces])


def keras_logits(both, layers, images):
    with both.tf.device("CPU"):
        _, model = networks(both)
        for twin, layer in zip(model.layers, layers, strict=True):
            twin.set_weights(layer.get_weights())
        return model.predict(images[..., None] / 255, batch_size=500, verbose=0)


def test_what_the_table_calls_is_in_the_notebooks():
    assert len(ROWS) > 25
    for column, framework in enumerate(FRAMEWORKS.values(), start=1):
        code = "\n".join(cell.source for cell in read(framework).cells)
        for row in ROWS:
            for name in set(re.findall(r"(\w+)\(", row[column])) - NOT_IN_A_NOTEBOOK:
                assert f"{name}(" in code, row


def test_the_shipped_models_can_be_moved(both, float64, data, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    names = dict(vars(both))
    exec(EXAMPLE, names)
    images, model = data.test.images, names["pytorch_model"]
    ours = pytorch_logits(both, model, images)
    assert ours == pytest.approx(keras_logits(both, names["network"], images), abs=1e-9)
    # The first trap: columns in PyTorch's order fit as well.
    names["network"][9].set_weights([model.layers[9].weight.detach().numpy().T])
    assert np.abs(ours - keras_logits(both, names["network"], images)).max() > 1
    network = both.keras.models.load_model("models/tensorflow/model.keras").layers[2:-1]
    theirs = keras_logits(both, network, images)
    assert np.abs(ours - theirs).max() > 1, "they are two models"
    both.keras_to_pytorch(network, model.layers)
    assert theirs == pytest.approx(pytorch_logits(both, model, images), abs=1e-9)


def test_the_step_of_pytorch_is_the_notebooks():
    steps = re.findall(r"    (.+# \d\. .+)", PYTORCH_STEP)
    assert len(steps) == 5
    in_the_loop = "\n".join(f"        {step}" for step in steps)
    assert in_the_loop in cells(read(FRAMEWORKS["pytorch"]), "train")[0]


def test_one_step_by_tape_by_fit_and_by_pytorch(both, float64, data):
    keras, torch = both.keras, both.torch
    images, labels = data.train.images[:256, ..., None] / 255, data.train.labels[:256]
    ours, theirs = networks(both)
    both.pytorch_to_keras(ours.layers, theirs.layers)
    before, after = theirs.get_weights(), []
    names = {"model": theirs, "images": images, "labels": labels}
    names["criterion"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    by_hand = "\ntrain_step(model, images, labels, criterion, optimizer)"
    for step in (TENSORFLOW_STEP + by_hand, FIT):
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
        for arrays in after[: 2 if "variance" in weights.path else 3]:  # PyTorch's has n - 1
            assert arrays[position] == pytest.approx(after[0][position], abs=1e-9)


def test_traps_of_layers(both):
    torch, nn, keras = both.torch, both.nn, both.keras
    corner, image = np.eye(1, 9).reshape(3, 3), np.ones((6, 6))  # padding on all sides gives 0
    theirs = keras.ops.conv(image[None, ..., None], corner[..., None, None], 2, "same").numpy()
    corner, image = torch.from_numpy(corner)[None, None], torch.from_numpy(image)[None, None]
    ours = nn.functional.conv2d(image, corner, stride=2, padding=1).numpy()
    assert ours.size == theirs.size
    assert (ours[0, 0, 0, 0], theirs[0, 0, 0, 0]) == (0, 1)

    ours, theirs = nn.BatchNorm1d(3).requires_grad_(False), both.layers.BatchNormalization()
    batch = np.random.default_rng(0).normal(5, 1, (8, 3)).astype("float32")
    theirs.build(batch.shape)
    theirs.trainable = False
    assert np.abs(theirs(batch, training=True) - batch).max() < 0.01
    assert ours(torch.from_numpy(batch)).mean().abs() < 0.01
    assert ours.running_mean.min() > 0.1


def test_traps_of_data(both):
    keras, layers, tf = both.keras, both.layers, both.tf
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype("uint8")
    scale = keras.Sequential([keras.Input((8, 8, 1), dtype="uint8"), layers.Rescaling(1 / 255)])
    assert not scale(0.99 * images / 255).numpy().any()
    flip = keras.Sequential([keras.Input((8, 8, 1)), layers.RandomFlip(), layers.Dropout(0.5)])
    assert 0.2 < np.mean(np.any(flip(images) != images, axis=(1, 2, 3))) < 1
    assert np.array_equal(flip(images, training=False), images)

    numbers, random = tf.data.Dataset.range(200), np.random.default_rng()
    assert len(set(numbers.map(lambda _: random.random()).as_numpy_iterator())) == 1
    assert len(set(numbers.map(lambda _: tf.random.uniform(())).as_numpy_iterator())) > 100


def test_keras_runs_on_pytorch_and_loads_the_file():
    code = """if True:
        import sys, keras, numpy, torch, fmnist_utils
        images = fmnist_utils.load_fashion_mnist("data").test.images[:1_000]
        model = keras.models.load_model("models/tensorflow/model.keras")
        assert isinstance(model, torch.nn.Module) and "tensorflow" not in sys.modules
        predicted = model.predict(images, verbose=0).argmax(axis=1)
        saved = numpy.load("models/tensorflow/predictions.npz")["test"][:1_000]
        assert numpy.array_equal(predicted, saved)"""
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, check=True)
