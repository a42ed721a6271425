# https://d2l.ai/chapter_convolutional-neural-networks/lenet.html
from torch import nn

from benchmarks.tutorials.loop import run

model = nn.Sequential(
    *(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)),
    *(nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()),
    *(nn.Linear(16 * 5 * 5, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid()),
    nn.Linear(84, 10),
)
for layer in model:
    if hasattr(layer, "weight"):
        nn.init.xavier_uniform_(layer.weight)
if __name__ == "__main__":  # it is imported again by the processes that load the data
    run(model, lr=0.1, epochs=10, batch_size=128, shuffle=True, num_workers=4)
