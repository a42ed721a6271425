# https://www.tensorflow.org/tutorials/keras/classification
import sys

import keras

keras.utils.set_random_seed(int(sys.argv[1]))
(images, labels), (test_images, test_labels) = keras.datasets.fashion_mnist.load_data()
dense_layers = [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *dense_layers])
model.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(images / 255.0, labels, epochs=10, verbose=2)
print(model.evaluate(test_images / 255.0, test_labels, verbose=2)[1])
