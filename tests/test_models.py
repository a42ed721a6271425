"""The trained models as shipped: each is as good as its metrics.json says, and its copy in ONNX."""

import zipfile

import numpy as np
import onnxruntime
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from benchmarks.runner import default_settings

MODELS = REPOSITORY / "models"


def probabilities_by_pytorch(names, images):
    torch, path = names["torch"], fmnist.verified_model_file(MODELS / "pytorch" / "model.pt")
    settings = fmnist.load_metrics(path.parent)["settings"]
    model = names["FashionCNN"](settings["channels"], settings["hidden"], settings["dropout"])
    model.load_state_dict(torch.load(path, map_location="cpu"))
    with torch.inference_mode():
        pieces = torch.from_numpy(images[:, None] / np.float32(255)).split(500)
        return torch.cat([model.eval()(piece) for piece in pieces]).softmax(dim=1).numpy()


def probabilities_by_keras(names, images):
    model = names["keras"].models.load_model(MODELS / "tensorflow" / "model.keras")
    return model.predict(images, batch_size=500, verbose=0)


@pytest.mark.parametrize("key", FRAMEWORKS)
def test_a_shipped_model_and_its_onnx_file_are_what_the_record_says(key, notebooks, data):
    recorded, images = fmnist.load_metrics(MODELS / key)["test"], data.test.images
    classify = {"pytorch": probabilities_by_pytorch, "tensorflow": probabilities_by_keras}[key]
    probabilities = classify(notebooks[key], images)
    evaluation = fmnist.evaluate(data.test.labels, probabilities)
    assert evaluation.accuracy == pytest.approx(recorded["accuracy"])
    assert evaluation.loss == pytest.approx(recorded["loss"], abs=1e-6)
    assert evaluation.per_class_accuracy == pytest.approx(recorded["per_class_accuracy"])
    saved = np.load(MODELS / key / "predictions.npz")["test"]
    assert np.array_equal(saved, probabilities.argmax(axis=1))

    session = onnxruntime.InferenceSession(MODELS / key / "model.onnx")
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [28, 28])
    assert (returned.name, returned.shape[1:]) == ("probabilities", [10])
    (by_onnx,) = session.run(["probabilities"], {"image": images})
    assert np.abs(probabilities - by_onnx).max() < 1e-5
    with pytest.raises(Exception, match=r"expected: \(tensor\(uint8\)\)"):
        session.run(None, {"image": np.float32(images[:1] / 255)})


@pytest.mark.parametrize("key", FRAMEWORKS)
def test_the_record_is_of_a_good_full_run_with_the_notebooks_settings(key):
    metrics = fmnist.load_metrics(MODELS / key)
    settings = default_settings(FRAMEWORKS[key])
    assert metrics["epochs"] == len(metrics["history"]["loss"]) == settings["EPOCHS"]
    for name in ("CHANNELS", "HIDDEN", "DROPOUT", "LEARNING_RATE", "WEIGHT_DECAY"):
        assert metrics["settings"][name.lower()] == pytest.approx(settings[name]), name
    assert metrics["test"]["accuracy"] >= 0.93
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
    assert sum(path.stat().st_size for path in files) <= 16_000_000
