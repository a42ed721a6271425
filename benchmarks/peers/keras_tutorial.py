"""The usual Keras tutorial on Fashion-MNIST, as its readers write it; speed.py compares with it.

PEER_EPOCHS=1 python -m benchmarks.peers.keras_tutorial
"""

import json
import os
import time

import keras
import numpy as np
from keras import layers

import fmnist_utils as fmnist


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


if __name__ == "__main__":
    keras.utils.set_random_seed(0)  # so that the accuracy to compare with can be had again
    # Not keras.datasets, which downloads the data a second time. The arrays are the same.
    data = fmnist.load_fashion_mnist("data")
    train_images = np.concatenate([data.train.images, data.validation.images])
    train_labels = np.concatenate([data.train.labels, data.validation.labels])
    train_images = np.expand_dims(train_images.astype("float32") / 255, -1)
    test_images = np.expand_dims(data.test.images.astype("float32") / 255, -1)
    model = build_model()
    model.compile(
        optimizer=keras.optimizers.SGD(0.001),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    record = {"ready_at": time.time(), "seconds": [], "test_accuracies": []}
    for _ in range(int(os.environ.get("PEER_EPOCHS") or 30)):
        started = time.perf_counter()
        model.fit(train_images, train_labels, batch_size=100, verbose=0)
        record["seconds"].append(time.perf_counter() - started)
        _, accuracy = model.evaluate(test_images, data.test.labels, verbose=0)
        record["test_accuracies"].append(accuracy)
    print(json.dumps(record))
