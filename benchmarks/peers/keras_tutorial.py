"""The usual Keras tutorial on Fashion-MNIST, as its readers write it; speed.py compares with it.

By itself, with the number of epochs if 30 take too long, run it by

    PEER_EPOCHS=1 python benchmarks/peers/keras_tutorial.py
"""

import json
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402

EPOCHS = int(os.environ.get("PEER_EPOCHS") or 30)
BATCH_SIZE = 100
LEARNING_RATE = 0.001


def build_model():
    return keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, kernel_size=3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(600),
            layers.Dropout(0.25),
            layers.Dense(120),
            layers.Dense(10, activation="softmax"),
        ]
    )


class EpochTimer(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.started)


def load_data():
    # The tutorial has keras.datasets.fashion_mnist.load_data(). That downloads the data a second
    # time, from one mirror only; the arrays are the same, and so is the time to train on them.
    data = fmnist.load_fashion_mnist(REPOSITORY / "data")
    train_images = np.concatenate([data.train.images, data.validation.images])
    train_labels = np.concatenate([data.train.labels, data.validation.labels])
    return (train_images, train_labels), (data.test.images, data.test.labels)


def main():
    keras.utils.set_random_seed(0)  # so that the accuracy to compare with can be had again
    (train_images, train_labels), (test_images, test_labels) = load_data()
    train_images = np.expand_dims(train_images.astype("float32") / 255, -1)
    test_images = np.expand_dims(test_images.astype("float32") / 255, -1)

    model = build_model()
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    timer = EpochTimer()
    model.fit(
        train_images,
        train_labels,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        callbacks=[timer],
        verbose=2,  # a line per epoch; a progress bar would fill the output
    )
    trained_at = time.time()

    _, test_accuracy = model.evaluate(test_images, test_labels, verbose=0)
    record = {
        "seconds": timer.seconds,
        "trained_at": trained_at,
        "images": len(train_images),
        "test_accuracy": test_accuracy,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
