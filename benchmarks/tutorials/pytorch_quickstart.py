# https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html
from torch import nn

from benchmarks.tutorials.loop import run

hidden_layers = [nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
model = nn.Sequential(nn.Flatten(), *hidden_layers, nn.Linear(512, 10))
run(model, lr=1e-3, epochs=5, batch_size=64, shuffle=False)
