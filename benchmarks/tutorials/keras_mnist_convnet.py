# https://keras.io/examples/vision/mnist_convnet/
import sys

import keras
from keras import layers

keras.utils.set_random_seed(int(sys.argv[1]))
(images, labels), (test_images, test_labels) = keras.datasets.fashion_mnist.load_data()
images, test_images = (x[..., None].astype("float32") / 255 for x in (images, test_images))
labels, test_labels = (keras.utils.to_categorical(y, 10) for y in (labels, test_labels))
convolutions = [
    *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)),
    *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2)),
]
head = [layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")]
model = keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])
model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
model.fit(images, labels, batch_size=128, epochs=15, validation_split=0.1, verbose=2)
print(model.evaluate(test_images, test_labels, verbose=0)[1])
