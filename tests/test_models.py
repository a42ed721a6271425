"""The trained models as shipped: each loads safely and is as good as its metrics.json says."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from notebook_code import cell_tagged

import fmnist_utils as fmnist
from benchmarks.notebook_code import REPOSITORY

MODELS = REPOSITORY / "models"
OLDEST_PYTHON = REPOSITORY / ".venv-oldest" / "bin" / "python"
SHIPPED = (
    "pytorch/model.pt",
    "pytorch/model.onnx",
    "tensorflow/model.keras",
    "tensorflow/model.onnx",
)

# Each runs in a process of its own, since PyTorch and TensorFlow clash in one, and
# leaves the probabilities of all test images in a file.
LOADERS = {
    ".pt": """
import torch
exec(model_cell)
model = FashionCNN()
model.load_state_dict(torch.load(path, weights_only=True))
with torch.inference_mode():
    probabilities = model.eval()(torch.tensor(images[:, None])).softmax(dim=1).numpy()
""",
    ".keras": """
import keras
model = keras.models.load_model(path, safe_mode=True)
logits = model.predict(images[..., None], batch_size=1_000, verbose=0)
probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
""",
    ".onnx": """
for name in ("torch", "tensorflow", "keras"):
    sys.modules[name] = None  # importing it fails from here on
import onnxruntime
session = onnxruntime.InferenceSession(path)
(given,), (returned,) = session.get_inputs(), session.get_outputs()
assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(float)", [28, 28])
assert (returned.name, returned.shape[1:]) == ("probabilities", [10])
for count in (1, 3):
    assert session.run(None, {"image": images[:count]})[0].shape == (count, 10)
(probabilities,) = session.run(["probabilities"], {"image": images})
""",
}


def run_loader(path, images, folder, python=sys.executable):
    """Classify all images by a model file in another process; return what it did."""
    np.save(folder / "images.npy", images)
    code = (
        "import sys\nimport numpy as np\n"
        f"path, model_cell = {str(path)!r}, {cell_tagged('PyTorch', 'model')!r}\n"
        "images = np.load('images.npy')\n"
        f"{LOADERS[Path(path).suffix]}\n"
        "np.save('probabilities.npy', probabilities)\n"
    )
    return subprocess.run(
        [python, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def images(data):
    return (data.test.images / 255).astype("float32")


@pytest.fixture(scope="module")
def classify(images, tmp_path_factory):
    """Return a function that gives the probabilities of all test images, by a shipped file."""
    results = {}

    def probabilities(name, python=sys.executable):
        if (name, python) not in results:
            folder = tmp_path_factory.mktemp("classified")
            path = fmnist.verified_model_file(MODELS / name)
            finished = run_loader(path, images, folder, python)
            assert finished.returncode == 0, finished.stderr
            results[name, python] = np.load(folder / "probabilities.npy")
        return results[name, python]

    return probabilities


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_reproduces_its_accuracy_exactly(name, classify, data):
    metrics = fmnist.load_metrics((MODELS / name).parent)
    evaluation = fmnist.evaluate(data.test.labels, classify(name))
    assert round(10_000 * evaluation.accuracy) == round(10_000 * metrics["test"]["accuracy"])
    assert evaluation.loss == pytest.approx(metrics["test"]["loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("original", "exported"),
    [
        ("pytorch/model.pt", "pytorch/model.onnx"),
        ("tensorflow/model.keras", "tensorflow/model.onnx"),
    ],
)
def test_onnx_agrees_with_its_original_on_all_test_images(original, exported, classify):
    difference = np.abs(classify(original) - classify(exported)).max()
    print(f"{exported}: largest difference of probabilities {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_an_onnx_file_names_no_folders_of_the_machine(framework):
    """PyTorch's exporter notes the files of the code, in site-packages or dist-packages."""
    assert b"-packages" not in (MODELS / framework / "model.onnx").read_bytes()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_the_saved_predictions_are_those_of_the_model(framework, classify):
    predictions = np.load(MODELS / framework / "predictions.npz")["test"]
    assert predictions.dtype == np.uint8
    assert np.array_equal(predictions, classify(f"{framework}/model.onnx").argmax(axis=1))


def test_keras_file_loads_in_the_oldest_keras_allowed(classify):
    if not OLDEST_PYTHON.is_file():
        pytest.skip("make test sets up the environment with the oldest versions")
    oldest = classify("tensorflow/model.keras", str(OLDEST_PYTHON))
    assert np.abs(oldest - classify("tensorflow/model.keras")).max() < 1e-5


def test_the_oldest_versions_are_those_of_the_requirements():
    allowed = {}
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition(">=")
        allowed[name] = version
    pinned = (REPOSITORY / "tests/oldest-keras.txt").read_text().splitlines()
    for line in pinned:
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version.removesuffix(".0") == allowed[name], line


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_file_is_refused(name, damage, tmp_path):
    for source in (MODELS / name, MODELS / Path(name).parent / "metrics.json"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    victim = tmp_path / Path(name).name
    content = bytearray(victim.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered"):
        fmnist.verified_model_file(victim)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_truncated_file_makes_the_framework_fail_and_not_guess(name, images, tmp_path):
    content = (MODELS / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(content[: len(content) // 2])
    finished = run_loader(path, images[:2], tmp_path)
    assert finished.returncode != 0
    assert "Error" in finished.stderr or "Fail" in finished.stderr
    assert not (tmp_path / "probabilities.npy").exists()


def test_no_pickled_objects_and_no_code():
    with zipfile.ZipFile(MODELS / "tensorflow/model.keras") as archive:
        assert "Lambda" not in archive.read("config.json").decode()
    for name in ("pytorch", "tensorflow"):
        np.load(MODELS / name / "predictions.npz", allow_pickle=False)
        folder = MODELS / name
        assert not list(folder.glob("*.data")), "an ONNX file keeps its weights elsewhere"
        assert not list(folder.glob("*.pkl")) + list(folder.glob("*.pt2"))


def test_nothing_shipped_is_over_ten_megabytes():
    for path in MODELS.rglob("*"):
        assert path.stat().st_size < 10_000_000, path


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_the_metrics_name_every_model_file(framework):
    metrics = fmnist.load_metrics(MODELS / framework)
    files = {path.name for path in (MODELS / framework).glob("model.*")} | {"predictions.npz"}
    assert metrics["files_sha256"].keys() == files
    assert metrics["data_sha256"] == fmnist.DATA_SHA256


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_the_committed_results_reach_what_was_asked(framework):
    metrics = fmnist.load_metrics(MODELS / framework)
    assert metrics["validation"]["accuracy"] >= 0.925
    assert metrics["test"]["accuracy"] >= 0.925
    if metrics["settings"]["precision"] == "bfloat16":  # float32 takes longer; the tables say so
        assert metrics["training_seconds"] <= 10 * 60
