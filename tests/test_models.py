"""The trained models as shipped: each loads safely and is as good as its metrics.json says."""

import functools
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, cells, read
from benchmarks.runner import default_settings

MODELS = REPOSITORY / "models"
ORIGINAL = {"pytorch": "model.pt", "tensorflow": "model.keras"}
SHIPPED = [(key, name) for key in FRAMEWORKS for name in (ORIGINAL[key], "model.onnx")]

# Each runs in a process of its own, since PyTorch and TensorFlow clash in one.
LOADERS = {
    "model.pt": """
import torch
from torch import nn
for cell in model_cells:
    exec(cell)
settings = fmnist.load_metrics(path.parent)["settings"]
model = FashionCNN(settings["channels"], settings["hidden"], settings["dropout"])
model.load_state_dict(torch.load(path, map_location="cpu"))
with torch.inference_mode():
    pieces = torch.from_numpy(images[:, None] / np.float32(255)).split(500)
    probabilities = torch.cat([model.eval()(piece) for piece in pieces]).softmax(dim=1).numpy()
""",
    "model.keras": """
with fmnist.quiet_tensorflow():
    import keras
model = keras.models.load_model(path)
probabilities = model.predict(images, batch_size=500, verbose=0)
""",
    "model.onnx": """
for name in ("torch", "tensorflow", "keras"):
    sys.modules[name] = None  # importing it fails from here on
import onnxruntime
session = onnxruntime.InferenceSession(path)
(given,), (returned,) = session.get_inputs(), session.get_outputs()
assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [28, 28])
assert (returned.name, returned.shape[1:]) == ("probabilities", [10])
try:
    session.run(None, {"image": (images[:1] / 255).astype("float32")})
except Exception as error:
    assert "expected: (tensor(uint8))" in str(error), error
else:
    raise AssertionError("values from 0 to 1 are taken for grey values")
for count in (1, 3):
    assert session.run(None, {"image": images[:count]})[0].shape == (count, 10)
(probabilities,) = session.run(["probabilities"], {"image": images})
""",
}


@pytest.fixture(scope="module")
def classify(data, tmp_path_factory):
    """Return a function that gives the probabilities of all test images, by a shipped file."""
    folder = tmp_path_factory.mktemp("classified")
    np.save(folder / "images.npy", data.test.images)

    @functools.cache
    def probabilities(key, name):
        code = (
            "import sys\nimport numpy as np\nimport fmnist_utils as fmnist\n"
            f"path = fmnist.verified_model_file({str(MODELS / key / name)!r})\n"
            f"model_cells = {cells(read(FRAMEWORKS['pytorch']), 'model')!r}\n"
            f"images = np.load({str(folder / 'images.npy')!r})\n"
            f"{LOADERS[name]}\n"
            f"np.save({str(folder / 'probabilities.npy')!r}, probabilities)\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
        return np.load(folder / "probabilities.npy")

    return probabilities


@pytest.mark.parametrize(("key", "name"), SHIPPED)
def test_a_shipped_file_has_exactly_the_recorded_accuracy(key, name, classify, data):
    recorded = fmnist.load_metrics(MODELS / key)["test"]
    evaluation = fmnist.evaluate(data.test.labels, classify(key, name))
    assert evaluation.accuracy == pytest.approx(recorded["accuracy"])
    assert evaluation.loss == pytest.approx(recorded["loss"], abs=1e-6)
    assert evaluation.ece == pytest.approx(recorded["ece"], abs=1e-4)
    assert evaluation.per_class_accuracy == pytest.approx(recorded["per_class_accuracy"])


@pytest.mark.parametrize("key", FRAMEWORKS)
def test_onnx_and_the_saved_predictions_agree_with_the_original(key, classify):
    original = classify(key, ORIGINAL[key])
    assert np.abs(original - classify(key, "model.onnx")).max() < 1e-5
    with np.load(MODELS / key / "predictions.npz", allow_pickle=False) as saved:
        assert saved["test"].dtype == np.uint8
        assert np.array_equal(saved["test"], original.argmax(axis=1))


@pytest.mark.parametrize("key", FRAMEWORKS)
def test_the_record_is_of_a_good_full_run_with_the_notebooks_settings(key):
    metrics = fmnist.load_metrics(MODELS / key)
    settings = default_settings(FRAMEWORKS[key])
    assert metrics["epochs"] == len(metrics["history"]["loss"]) == settings["EPOCHS"]
    for name in ("CHANNELS", "HIDDEN", "DROPOUT", "LEARNING_RATE", "WEIGHT_DECAY"):
        assert metrics["settings"][name.lower()] == pytest.approx(settings[name]), name
    assert metrics["test"]["accuracy"] >= 0.93
    assert metrics["parameters"] <= 1_000_000
    assert metrics["data_sha256"] == fmnist.DATA_SHA256
    files = {path.name for path in (MODELS / key).iterdir()} - {"metrics.json"}
    assert metrics["files_sha256"].keys() == files
    for name in files:
        fmnist.verified_model_file(MODELS / key / name)


def test_no_code_no_folders_of_the_machine_and_no_more_than_16_megabytes():
    with zipfile.ZipFile(MODELS / "tensorflow" / "model.keras") as archive:
        assert b"Lambda" not in archive.read("config.json")
    for key in FRAMEWORKS:  # PyTorch's exporter notes the files of the code
        assert b"-packages" not in (MODELS / key / "model.onnx").read_bytes()
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert not {path.suffix for path in files} & {".data", ".pkl", ".pt2"}
    assert sum(path.stat().st_size for path in files) <= 16_000_000
