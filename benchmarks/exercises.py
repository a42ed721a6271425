"""Try the exercises at the end of the notebooks: change one thing, train for five epochs, look.

The outcomes go to results/exercises.json, from which tools/update_tables.py writes the answers in
the notebooks. Run it by

    python benchmarks/exercises.py
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402
from benchmarks.notebook_code import FRAMEWORKS, run, training_code  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "exercises.json"
EPOCHS = 5

# What to replace in the code of each notebook, by exercise.
CHANGES = {
    "unchanged": {"PyTorch": [], "TensorFlow": []},
    "no augmentation": {
        "PyTorch": [("erase(shift(flip_half(train_images[rows])))", "train_images[rows]")],
        "TensorFlow": [
            (
                "erase(shift(flip_half(tf.gather(image_tensor, rows))))",
                "tf.gather(image_tensor, rows)",
            )
        ],
    },
    "no dropout": {
        "PyTorch": [("nn.Dropout(0.4)", "nn.Dropout(0.0)")],
        "TensorFlow": [("layers.Dropout(0.4)", "layers.Dropout(0.0)")],
    },
    "a tenth of the learning rate": {
        "PyTorch": [("LEARNING_RATE = 0.1 ", "LEARNING_RATE = 0.01 ")],
        "TensorFlow": [("LEARNING_RATE = 0.1 ", "LEARNING_RATE = 0.01 ")],
    },
    "average-pooling": {
        "PyTorch": [("nn.MaxPool2d(3, stride=2)", "nn.AvgPool2d(3, stride=2)")],
        "TensorFlow": [
            ("layers.MaxPooling2D(3, strides=2)", "layers.AveragePooling2D(3, strides=2)")
        ],
    },
}


def outcome(framework: str, changes: list[tuple[str, str]]) -> dict[str, float]:
    """Train with these changes, in a process of its own; return the figures of the last epoch."""
    code = f"{training_code(framework, changes)}\nimport json\nprint(json.dumps(history))"
    history = run(["-c", code], FMNIST_EPOCHS=str(EPOCHS))
    return {key: values[-1] for key, values in history.items() if key != "seconds"}


if __name__ == "__main__":
    results = {"epochs": EPOCHS}
    for framework in FRAMEWORKS:
        results[framework] = {}
        for name, changes in CHANGES.items():
            results[framework][name] = outcome(framework, changes[framework])
            print(framework, name, results[framework][name], flush=True)
            fmnist.write_json(RESULTS, results)
