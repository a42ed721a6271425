# https://github.com/mrdbourke/pytorch-deep-learning/blob/main/03_pytorch_computer_vision.ipynb
from torch import nn

from benchmarks.tutorials.loop import run


def block(inputs):
    first, second = nn.Conv2d(inputs, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
    return [first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)]


model = nn.Sequential(*block(1), *block(10), nn.Flatten(), nn.Linear(10 * 7 * 7, 10))
run(model, lr=0.1, epochs=3, batch_size=32, shuffle=True)
